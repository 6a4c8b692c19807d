//! `kan-core` on the host: the bytes that go to the device, evaluated as the device does.

use std::fmt;

use kan_core::blob::{HEADER_LEN, IntegerNode, LayerMessage, Node, VERSION};
use kan_core::{Head, LoadError, Model, Scalar, blob_len};
use rayon::prelude::*;
use serde::Serialize;

/// The most nodes of any layer of a model that the host evaluates: more than training allows.
pub const CAPACITY: usize = 4096;
/// The most layers.
pub const LAYERS: usize = 16;

/// A model of any shape that training can give.
pub type HostModel<'m> = Model<'m, CAPACITY, CAPACITY, CAPACITY, LAYERS>;

/// Why bytes are no model. Each prints as one line, to be preceded by the file's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluatorError {
    /// Any other file.
    #[error("not a KAN model: a blob begins with other bytes")]
    NotABlob,
    /// Written by another version.
    #[error("a blob of format version {0}, but this kan reads version {VERSION}: update kan")]
    Version(u16),
    /// The end is missing.
    #[error("the blob is cut short: {found} bytes of {expected}")]
    Truncated {
        /// The bytes there are.
        found: usize,
        /// The bytes there should be, or those of the smallest header.
        expected: usize,
    },
    /// Larger than anything this crate makes.
    #[error("the model has more than {CAPACITY} nodes in a layer or more than {LAYERS} layers")]
    TooLarge,
    /// Whatever else `kan-core` objects to.
    #[error("{0}")]
    Refused(LoadError),
}

/// A checked model that owns its bytes.
#[derive(Clone, Debug)]
pub struct Evaluator {
    /// Words, so that the bytes are aligned.
    words: Vec<u32>,
    len: usize,
}

impl Evaluator {
    /// Checks the bytes of a blob.
    ///
    /// # Errors
    /// [`EvaluatorError`] for bytes that [`Model::load`] refuses.
    pub fn load(bytes: &[u8]) -> Result<Self, EvaluatorError> {
        let mut words = vec![0; bytes.len().div_ceil(4)];
        bytemuck::cast_slice_mut::<u32, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        let evaluator = Self {
            words,
            len: bytes.len(),
        };
        let fault = HostModel::load(evaluator.bytes()).err();
        match fault {
            None => Ok(evaluator),
            Some(LoadError::NotABlob) => Err(EvaluatorError::NotABlob),
            Some(LoadError::Version(version)) => Err(EvaluatorError::Version(version)),
            Some(LoadError::Truncated) => Err(EvaluatorError::Truncated {
                found: bytes.len(),
                expected: blob_len(bytes).unwrap_or(HEADER_LEN),
            }),
            Some(LoadError::CapacityExceeded) => Err(EvaluatorError::TooLarge),
            Some(other) => Err(EvaluatorError::Refused(other)),
        }
    }

    /// The blob.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    /// The model. Loading it anew takes a pass over the bytes: keep it while it is in use.
    pub fn model(&self) -> HostModel<'_> {
        HostModel::load(self.bytes()).expect("the bytes are those that were checked")
    }

    /// The raw outputs (values, or logits) for every row of `x`, row-major `[rows, inputs]`, each
    /// input rounded to `f32` as a device gets it. Row-major `[rows, outputs]`.
    pub fn eval(&self, x: &[f64]) -> Vec<f32> {
        let model = self.model();
        let (inputs, outputs) = (model.inputs(), model.outputs());
        let mut all = vec![0.0; x.len() / inputs * outputs];
        let blocks = all
            .par_chunks_mut(64 * outputs)
            .zip(x.par_chunks(64 * inputs));
        blocks.for_each_init(
            || vec![0.0; inputs],
            |input, (block, x)| {
                let rows = x.chunks_exact(inputs);
                for (row, output) in rows.zip(block.chunks_exact_mut(outputs)) {
                    for (to, from) in input.iter_mut().zip(row) {
                        *to = *from as f32;
                    }
                    model.eval_into(input, output);
                }
            },
        );
        all
    }

    /// For every row of `x` whether none of its inputs saturates.
    pub fn in_domain(&self, x: &[f64]) -> Vec<bool> {
        let model = self.model();
        let single: Vec<f32> = x.iter().map(|&value| value as f32).collect();
        single
            .chunks_exact(model.inputs())
            .map(|row| model.in_domain_of(row))
            .collect()
    }

    /// The middle of each input's grid, in the unit of the input.
    pub fn centre(&self) -> Vec<f64> {
        type Title<'a> = (&'a str, Head, &'a str, &'a str, u32);
        let layers = postcard::take_from_bytes::<Title<'_>>(&self.bytes()[HEADER_LEN..]);
        let first = layers.and_then(|(_, layers)| postcard::take_from_bytes(layers));
        let (first, _): (LayerMessage<'_>, _) = first.expect("the bytes were checked");
        let model = self.model();
        let nodes = first.nodes.data.as_chunks::<16>().0.iter().enumerate();
        let centre = |(input, node): (usize, &[u8; 16])| match model.input_scale(input) {
            None => {
                let node = Node::unpack(bytemuck::cast(*node));
                f64::from(node.lo + 0.5 * f32::from(node.intervals) / node.inv_step)
            }
            Some((scale, zero)) => {
                let node = IntegerNode::unpack(bytemuck::cast(*node));
                let raw = f64::from(node.hi) - 0.5 * f64::from(node.width);
                (raw - f64::from(zero)) / f64::from(scale)
            }
        };
        nodes.map(centre).collect()
    }

    /// The number of nodes from the inputs to the outputs.
    pub fn width(&self) -> Vec<usize> {
        let model = self.model();
        std::iter::once(model.inputs())
            .chain(model.tables().map(|layer| layer.outputs))
            .collect()
    }

    /// The kind of all tables: `cubic`, `linear`, `step`, `exact`, or `mixed`.
    pub fn tables(&self) -> &'static str {
        let model = self.model();
        let mut kinds = model
            .tables()
            .map(|layer| match (layer.degree, layer.residual) {
                (3, false) => "cubic",
                (1, false) => "linear",
                (0, false) => "step",
                (3, true) => "exact",
                _ => "mixed",
            });
        let first = kinds.next().unwrap_or("mixed");
        if kinds.all(|kind| kind == first) {
            first
        } else {
            "mixed"
        }
    }

    /// Bits of a coefficient; the most of any layer.
    pub fn bits(&self) -> u8 {
        let model = self.model();
        let bits = model.tables().map(|layer| match layer.scalar {
            Scalar::F32 => 32,
            Scalar::I16 => 16,
            Scalar::I8 => 8,
        });
        bits.max().unwrap_or(32)
    }

    /// The type that firmware made for this model alone loads it with.
    pub fn rust_type(&self) -> String {
        let model = self.model();
        let (inputs, outputs) = (model.inputs(), model.outputs());
        let (width, layers) = (model.width(), model.layers());
        format!("kan_core::Model<'static, {inputs}, {outputs}, {width}, {layers}>")
    }

    /// Estimates of the instructions of one inference by the firmware that [`crate::device`] runs:
    /// what it costs to call, then what each layer, node and edge costs.
    ///
    /// They are least-squares fits to the exact counts in QEMU that `cargo firmware-cost` prints, with
    /// the estimates beside them, which a test keeps within 6 % (rustc 1.95, profile `firmware`:
    /// opt-level `s`, fat LTO). The call clears sums of 64 nodes: firmware
    /// for one small model needs some 200 instructions fewer.
    pub fn instructions(&self) -> Instructions {
        let model = self.model();
        let on = |costs: &Costs| {
            let integers = match self.bits() {
                32 => None,
                16 => Some(&costs.integers[0]),
                _ => Some(&costs.integers[1]),
            };
            if let Some(costs) = integers {
                let layers = model.tables().map(|tables| {
                    let (node, edge) = match tables.degree {
                        3 => costs.tables[0],
                        1 => costs.tables[1],
                        _ => costs.tables[2],
                    };
                    costs.layer + node * tables.inputs as f64 + edge * tables.edges as f64
                });
                let (call, input, output) = costs.call;
                let ends = input * model.inputs() as f64 + output * model.outputs() as f64;
                return (call + ends + layers.sum::<f64>()).round() as u64;
            }
            let layers = model.tables().map(|tables| {
                let (mut node, mut edge) = match tables.degree {
                    3 => costs.cubic,
                    1 => costs.linear,
                    _ => costs.step,
                };
                let mut layer = costs.layer;
                if tables.residual {
                    layer += costs.residual.0;
                    node += costs.residual.1;
                    edge += costs.residual.2;
                }
                // A node without all edges looks up where each of the others leads; how many nodes
                // that are is not known, but they are no more than the edges that were pruned.
                let (inputs, edges) = (tables.inputs as f64, tables.edges as f64);
                let pruned = inputs * tables.outputs as f64 - edges;
                let looked_up = costs.look_up * edges * (pruned / inputs).min(1.0);
                layer + node * inputs + edge * edges + looked_up
            });
            (costs.call + layers.sum::<f64>()).round() as u64
        };
        Instructions {
            cortex_m4f: on(&CORTEX_M4F),
            cortex_m3: on(&CORTEX_M3),
            cortex_m0: on(&CORTEX_M0),
        }
    }
}

/// Estimated instructions of one inference by class of processor. A Cortex-M33 or M7 with an FPU is
/// like an M4F, without one like an M3; an M0+ is like an M0. There the floating-point routines rule,
/// whose cost depends on the input: it is that of inputs all over the grids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Instructions {
    /// With a single-precision FPU.
    #[serde(rename = "cortex-m4f")]
    pub cortex_m4f: u64,
    /// Without an FPU.
    #[serde(rename = "cortex-m3")]
    pub cortex_m3: u64,
    /// Without an FPU, and with the smallest instruction set.
    #[serde(rename = "cortex-m0")]
    pub cortex_m0: u64,
}

impl Instructions {
    /// Those of one class.
    pub fn on(&self, core: Core) -> u64 {
        match core {
            Core::M0 => self.cortex_m0,
            Core::M3 => self.cortex_m3,
            Core::M4f => self.cortex_m4f,
        }
    }
}

/// Classes of processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Core {
    /// Cortex-M0 and M0+.
    M0,
    /// Cortex-M3, and others without an FPU.
    M3,
    /// Cortex-M4F, and others with an FPU.
    M4f,
}

impl fmt::Display for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::M0 => "m0",
            Self::M3 => "m3",
            Self::M4f => "m4f",
        })
    }
}

/// What makes up the instructions of an inference.
struct Costs {
    call: f64,
    layer: f64,
    /// Of a node and of an edge, by kind of table.
    cubic: (f64, f64),
    linear: (f64, f64),
    step: (f64, f64),
    /// More for a layer, a node and an edge.
    residual: (f64, f64, f64),
    /// More for an edge of a node without all edges.
    look_up: f64,
    /// The same of integers, of 16 and of 8 bits.
    integers: [IntegerCosts; 2],
}

/// What makes up the instructions of an inference in integers, conversions from and to floats
/// included: by degree of the tables (3, 1, 0). Fits to counts in QEMU of models of 7 to 520 edges,
/// within 10 %; but those of the M0 are only the M3's, with the ratio that tables of `f32` have.
struct IntegerCosts {
    /// Of the call and, beside that, of an input's conversion and an output's.
    call: (f64, f64, f64),
    layer: f64,
    /// Of a node and of an edge.
    tables: [(f64, f64); 3],
}

const CORTEX_M4F: Costs = Costs {
    call: 310.7,
    layer: 108.4,
    cubic: (95.8, 13.5),
    linear: (56.0, 9.4),
    step: (33.3, 7.5),
    residual: (34.3, 116.5, 5.8),
    look_up: 8.0,
    integers: [
        IntegerCosts {
            call: (740.0, 50.0, 14.8),
            layer: 60.0,
            tables: [(26.7, 5.4), (18.8, 2.7), (17.9, 1.7)],
        },
        IntegerCosts {
            call: (740.0, 50.0, 14.8),
            layer: 60.0,
            tables: [(27.4, 7.1), (19.2, 3.7), (18.2, 2.3)],
        },
    ],
};

const CORTEX_M3: Costs = Costs {
    call: 362.0,
    layer: 81.5,
    cubic: (1645.0, 525.0),
    linear: (568.0, 266.0),
    step: (345.0, 83.6),
    residual: (8.1, 2325.0, 118.0),
    look_up: 7.3,
    integers: [
        IntegerCosts {
            call: (951.5, 328.2, 129.7),
            layer: 60.0,
            tables: [(72.2, 40.3), (35.5, 33.9), (28.1, 16.4)],
        },
        IntegerCosts {
            call: (951.5, 328.2, 129.7),
            layer: 60.0,
            tables: [(70.6, 40.7), (36.4, 33.8), (30.1, 16.0)],
        },
    ],
};

const CORTEX_M0: Costs = Costs {
    call: 514.0,
    layer: 21.3,
    cubic: (2787.0, 896.0),
    linear: (883.0, 458.0),
    step: (553.0, 117.0),
    residual: (5.7, 3974.0, 198.0),
    look_up: 15.0,
    integers: [
        IntegerCosts {
            call: (1100.0, 560.0, 200.0),
            layer: 60.0,
            tables: [(80.0, 45.0), (45.0, 24.0), (34.0, 14.0)],
        },
        IntegerCosts {
            call: (1100.0, 560.0, 200.0),
            layer: 60.0,
            tables: [(80.0, 45.0), (45.0, 24.0), (34.0, 14.0)],
        },
    ],
};
