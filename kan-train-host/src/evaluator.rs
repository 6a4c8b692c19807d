//! `kan-core` on the host: the bytes that go to the device, evaluated as the device does.

use std::fmt;

use kan_core::blob::{HEADER_LEN, IntegerNode, LayerMessage, Node, VERSION};
use kan_core::{Head, LayerTables, LoadError, Model, Scalar, blob_len};
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
    /// They are least-squares fits to exact counts in QEMU (rustc 1.95, profile `firmware`: opt-level `s`,
    /// fat LTO). `cargo firmware-cost` prints the counts, how far the estimates are from them, and the
    /// fitted constants. A test keeps them within 7 %, of tables of integers within 15 %, and within 25 %
    /// of those where they are pruned (what that costs depends on how many lists of nodes it leaves).
    /// Hidden layers clear sums of 64 nodes: firmware for one small model needs some 200 instructions
    /// fewer.
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
                    let (node, visit, edge) = match tables.degree {
                        3 => costs.tables[0],
                        1 => costs.tables[1],
                        _ => costs.tables[2],
                    };
                    let (inputs, edges) = (tables.inputs as f64, tables.edges as f64);
                    // Which groups pruning has left is not known: as if they were one.
                    let visits = edges * blocks(tables.outputs) / tables.outputs as f64;
                    let (layer, listed) = match tables.inputs * tables.outputs > tables.edges {
                        true => costs.pruned,
                        false => (0.0, 0.0),
                    };
                    costs.layer + layer + node * inputs + visit * visits + (edge + listed) * edges
                });
                let (call, input, output) = costs.call;
                let ends = input * model.inputs() as f64 + output * model.outputs() as f64;
                return (call + ends + layers.sum::<f64>()).round() as u64;
            }
            let layers = model.tables().map(|tables| {
                let (mut node, mut edge) = match tables.degree {
                    _ if costs.has_fpu => (0.0, 0.0),
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
                let mut looked_up = costs.look_up * edges * (pruned / inputs).min(1.0);
                if costs.has_fpu {
                    layer += of_fpu(&tables) as f64;
                    // The kernel counts its own.
                    looked_up *= f64::from(u8::from(tables.residual));
                }
                layer + node * inputs + edge * edges + looked_up
            });
            let hidden = if model.layers() > 1 {
                costs.hidden
            } else {
                0.0
            };
            let outputs = costs.output * model.outputs() as f64;
            (costs.call + hidden + outputs + layers.sum::<f64>()).round() as u64
        };
        Instructions {
            cortex_m4f: on(&CORTEX_M4F),
            cortex_m33: on(&CORTEX_M33),
            cortex_m3: on(&CORTEX_M3),
            cortex_m0: on(&CORTEX_M0),
        }
    }
}

/// Blocks that so many outputs are cut into: of four, two and one.
fn blocks(outputs: usize) -> f64 {
    (outputs / 4 + outputs % 4 / 2 + outputs % 2) as f64
}

/// Estimated instructions of one inference by class of processor. A Cortex-M7 with an FPU is like an M4F,
/// an M33 without one like an M3; an M0+ is like an M0. Where there is no FPU the floating-point routines
/// rule, whose cost depends on the input: it is that of inputs all over the grids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Instructions {
    /// With a single-precision FPU.
    #[serde(rename = "cortex-m4f")]
    pub cortex_m4f: u64,
    /// A Cortex-M33 with an FPU, as rustc builds for it without flags: as if it had no DSP extension. With
    /// `-C target-cpu=cortex-m33` integers take what they take on an M4F.
    #[serde(rename = "cortex-m33")]
    pub cortex_m33: u64,
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
            Core::M33 => self.cortex_m33,
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
    /// Cortex-M4F, and M7 with an FPU.
    M4f,
    /// Cortex-M33 with an FPU, built without its DSP extension.
    M33,
}

impl fmt::Display for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::M0 => "m0",
            Self::M3 => "m3",
            Self::M4f => "m4f",
            Self::M33 => "m33",
        })
    }
}

/// What the kernel for floats executes for all nodes of a layer: its instructions, counted by hand.
pub fn of_fpu(tables: &LayerTables) -> usize {
    let (inputs, outputs) = (tables.inputs, tables.outputs);
    // Coefficients that count, instructions for their weights, and for their rows after the first.
    let (taps, weights, rows) = match tables.degree {
        3 => (4, 40, 3),
        1 => (2, 19, 1),
        _ => (1, 5, 0),
    };
    let (biases, node) = (4 * outputs, 11 + weights + rows);
    if tables.edges < inputs * outputs {
        return biases + inputs * (node + 7) + tables.edges * (6 + 2 * taps);
    }
    let eights = outputs / 8 * (4 + 9 * taps);
    let four = outputs % 8 / 4 * (2 + 5 * taps);
    let ones = outputs % 4 * (4 + 2 * taps);
    let rest = if outputs.is_multiple_of(8) { 2 } else { 4 };
    biases + inputs * (node + rest + eights + four + ones)
}

/// What makes up the instructions of an inference.
struct Costs {
    /// Then those of a node and of an edge are counted, not fitted.
    has_fpu: bool,
    call: f64,
    /// More for hidden nodes, whose sums are cleared, and for an output.
    hidden: f64,
    output: f64,
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
/// included: by degree of the tables (3, 1, 0).
struct IntegerCosts {
    /// Of the call and, beside that, of an input's conversion and an output's.
    call: (f64, f64, f64),
    layer: f64,
    /// Of a node, of a block of outputs for each node that it reads, and of an edge.
    tables: [(f64, f64, f64); 3],
    /// More for a layer without all edges, and for an edge of it.
    pruned: (f64, f64),
}

const CORTEX_M0: Costs = Costs {
    has_fpu: false,
    call: 162.1,
    hidden: 337.7,
    output: 15.8,
    layer: 107.2,
    cubic: (2824.3, 885.9),
    linear: (858.7, 456.8),
    step: (371.4, 118.4),
    residual: (51.2, 3910.5, 210.5),
    look_up: 13.9,
    integers: [
        IntegerCosts {
            call: (404.7, 527.5, 236.5),
            layer: 214.5,
            tables: [(65.5, 16.5, 14.5), (32.9, 12.5, 8.1), (29.2, 14.7, 2.4)],
            pruned: (856.8, 2.4),
        },
        IntegerCosts {
            call: (401.4, 528.2, 234.9),
            layer: 207.9,
            tables: [(66.3, 15.1, 17.0), (33.8, 12.2, 9.2), (30.0, 10.8, 5.3)],
            pruned: (856.6, 1.8),
        },
    ],
};

const CORTEX_M3: Costs = Costs {
    has_fpu: false,
    call: 142.3,
    hidden: 296.5,
    output: 10.8,
    layer: 93.0,
    cubic: (1620.5, 517.4),
    linear: (551.9, 265.7),
    step: (242.3, 83.9),
    residual: (60.7, 2277.4, 124.9),
    look_up: 6.3,
    integers: [
        IntegerCosts {
            call: (338.2, 369.9, 113.8),
            layer: 133.5,
            tables: [(16.7, 11.4, 9.7), (4.6, 8.8, 5.5), (2.9, 9.1, 2.2)],
            pruned: (601.0, 1.4),
        },
        IntegerCosts {
            call: (338.4, 369.8, 113.9),
            layer: 129.0,
            tables: [(17.4, 11.9, 9.5), (5.2, 9.3, 5.3), (3.4, 7.7, 3.0)],
            pruned: (596.9, 1.3),
        },
    ],
};

const CORTEX_M4F: Costs = Costs {
    has_fpu: true,
    call: 99.1,
    hidden: 219.0,
    output: 13.8,
    layer: 84.0,
    cubic: (0.0, 0.0),
    linear: (0.0, 0.0),
    step: (0.0, 0.0),
    residual: (84.7, 107.3, 6.1),
    look_up: 4.7,
    integers: [
        IntegerCosts {
            call: (337.0, 26.0, 14.0),
            layer: 129.7,
            tables: [(14.2, 7.2, 5.9), (3.8, 7.0, 3.5), (1.7, 9.6, 1.4)],
            pruned: (606.3, 1.4),
        },
        IntegerCosts {
            call: (337.2, 26.0, 14.0),
            layer: 129.5,
            tables: [(13.7, 7.7, 7.6), (3.4, 7.5, 4.4), (1.7, 10.0, 1.3)],
            pruned: (602.2, 1.4),
        },
    ],
};

const CORTEX_M33: Costs = Costs {
    has_fpu: true,
    call: 100.3,
    hidden: 219.2,
    output: 13.8,
    layer: 83.7,
    cubic: (0.0, 0.0),
    linear: (0.0, 0.0),
    step: (0.0, 0.0),
    residual: (84.9, 100.2, 6.1),
    look_up: 4.7,
    integers: [
        IntegerCosts {
            call: (334.6, 26.0, 14.0),
            layer: 133.4,
            tables: [(16.7, 11.5, 9.6), (4.6, 8.9, 5.5), (2.9, 9.1, 2.2)],
            pruned: (602.8, 1.4),
        },
        IntegerCosts {
            call: (334.6, 26.0, 14.0),
            layer: 129.0,
            tables: [(17.4, 12.0, 9.5), (5.2, 9.4, 5.3), (3.4, 7.6, 3.1)],
            pruned: (598.4, 1.3),
        },
    ],
};
