//! Estimates of the instructions of an inference, before there is firmware to count them.
//!
//! They are what a call costs, and then each layer, node and edge, by least-squares fits to exact
//! counts in QEMU (rustc 1.95, profile `firmware`: opt-level `s`, fat LTO). `cargo firmware-cost`
//! prints the counts, how far the estimates are from them, and the fitted constants. A test keeps
//! them within 7 %, of tables of integers within 15 %, and where those are pruned within 25 % (what
//! that costs depends on how many lists of nodes it leaves), without conversions within 30 %.
//!
//! The firmware is that which [`crate::device`] runs. Its hidden layers clear sums of 64 nodes:
//! firmware for one small model needs some 200 instructions fewer.

use std::fmt;

use kan_core::LayerTables;
use serde::Serialize;

use crate::evaluator::{Evaluator, HostModel};

impl Evaluator {
    /// Estimates of the instructions of [`kan_core::Model::eval_into`].
    pub fn instructions(&self) -> Instructions {
        let (model, bits) = (self.model(), self.bits());
        Instructions::by(|costs| match costs.of_bits(bits) {
            None => costs.of_floats(&model),
            Some(costs) => {
                let (call, input, output) = costs.conversion;
                let ends = input * model.inputs() as f64 + output * model.outputs() as f64;
                costs.of_integers(&model) + call + ends
            }
        })
    }

    /// Estimates of the instructions of [`kan_core::Model::eval_q_into`]; `None` for tables of `f32`.
    pub fn instructions_q(&self) -> Option<Instructions> {
        let (model, bits) = (self.model(), self.bits());
        CORTEX_M0.of_bits(bits)?;
        Some(Instructions::by(|costs| {
            let costs = costs.of_bits(bits);
            costs.map_or(0.0, |costs| costs.of_integers(&model))
        }))
    }
}

impl Costs {
    /// Those of integers of so many bits.
    fn of_bits(&self, bits: u8) -> Option<&IntegerCosts> {
        match bits {
            32 => None,
            16 => Some(&self.integers[0]),
            _ => Some(&self.integers[1]),
        }
    }

    fn of_floats(&self, model: &HostModel<'_>) -> f64 {
        let layers = model.tables().map(|tables| {
            let (mut node, mut edge) = match tables.degree {
                _ if self.has_fpu => (0.0, 0.0),
                3 => self.cubic,
                1 => self.linear,
                _ => self.step,
            };
            let mut layer = self.layer;
            if tables.residual {
                layer += self.residual.0;
                node += self.residual.1;
                edge += self.residual.2;
            }
            // A node without all edges looks up where each of the others leads; how many nodes
            // that are is not known, but they are no more than the edges that were pruned.
            let (inputs, edges) = (tables.inputs as f64, tables.edges as f64);
            let pruned = inputs * tables.outputs as f64 - edges;
            let mut looked_up = self.look_up * edges * (pruned / inputs).min(1.0);
            if self.has_fpu {
                layer += of_fpu(&tables) as f64;
                // The kernel counts its own.
                looked_up *= f64::from(u8::from(tables.residual));
            }
            layer + node * inputs + edge * edges + looked_up
        });
        let hidden = if model.layers() > 1 { self.hidden } else { 0.0 };
        self.call + hidden + self.output * model.outputs() as f64 + layers.sum::<f64>()
    }
}

impl IntegerCosts {
    fn of_integers(&self, model: &HostModel<'_>) -> f64 {
        let layers = model.tables().map(|tables| {
            let (node, visit, edge) = match tables.degree {
                3 => self.tables[0],
                1 => self.tables[1],
                _ => self.tables[2],
            };
            let (inputs, edges) = (tables.inputs as f64, tables.edges as f64);
            // Which groups pruning has left is not known: as if they were one.
            let visits = edges * blocks(tables.outputs) / tables.outputs as f64;
            let (layer, listed) = match tables.inputs * tables.outputs > tables.edges {
                true => self.pruned,
                false => (0.0, 0.0),
            };
            self.layer + layer + node * inputs + visit * visits + (edge + listed) * edges
        });
        let (call, output) = self.call;
        call + output * model.outputs() as f64 + layers.sum::<f64>()
    }
}

/// Blocks that so many outputs are cut into: of four, two and one.
fn blocks(outputs: usize) -> f64 {
    (outputs / 4 + outputs % 4 / 2 + outputs % 2) as f64
}

/// Estimated instructions of one inference by class of processor. A Cortex-M7 with an FPU is like
/// an M4F, an M33 without one like an M3; an M0+ is like an M0. Where there is no FPU the
/// floating-point routines rule, whose cost depends on the input: it is that of inputs all over the
/// grids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Instructions {
    /// With a single-precision FPU.
    #[serde(rename = "cortex-m4f")]
    pub cortex_m4f: u64,
    /// A Cortex-M33 with an FPU, as rustc builds for it without flags: as if it had no DSP
    /// extension. With `-C target-cpu=cortex-m33` integers take what they take on an M4F.
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
    fn by(of: impl Fn(&Costs) -> f64) -> Self {
        let on = |costs: &Costs| of(costs).round() as u64;
        Self {
            cortex_m4f: on(&CORTEX_M4F),
            cortex_m33: on(&CORTEX_M33),
            cortex_m3: on(&CORTEX_M3),
            cortex_m0: on(&CORTEX_M0),
        }
    }

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
    #[value(alias = "m7")]
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

/// What makes up the instructions of an inference in integers, by degree of the tables (3, 1, 0).
struct IntegerCosts {
    /// From integers to integers, and of each output.
    call: (f64, f64),
    /// What floats cost besides: of the call, and of each input and output.
    conversion: (f64, f64, f64),
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
            call: (17.6, 17.5),
            conversion: (292.3, 529.5, 236.5),
            layer: 221.3,
            tables: [(80.0, 21.5, 10.0), (45.3, 17.3, 4.1), (40.7, 15.3, 0.0)],
            pruned: (881.6, 2.1),
        },
        IntegerCosts {
            call: (28.1, 16.1),
            conversion: (290.5, 530.2, 234.9),
            layer: 209.4,
            tables: [(79.8, 20.1, 12.8), (45.2, 17.1, 5.4), (40.6, 15.7, 1.7)],
            pruned: (871.6, 1.8),
        },
    ],
};

const CORTEX_M3: Costs = Costs {
    has_fpu: false,
    call: 139.3,
    hidden: 296.7,
    output: 10.8,
    layer: 93.9,
    cubic: (1619.8, 517.5),
    linear: (551.0, 265.8),
    step: (242.0, 83.9),
    residual: (59.6, 2278.3, 124.8),
    look_up: 6.3,
    integers: [
        IntegerCosts {
            call: (37.1, 11.9),
            conversion: (229.1, 369.8, 115.8),
            layer: 130.6,
            tables: [(28.7, 15.3, 6.3), (15.1, 12.1, 2.6), (12.3, 11.1, 0.0)],
            pruned: (609.2, 1.3),
        },
        IntegerCosts {
            call: (43.8, 10.9),
            conversion: (229.2, 369.7, 115.9),
            layer: 123.9,
            tables: [(28.5, 15.8, 6.4), (15.0, 12.7, 2.6), (12.5, 11.1, 0.5)],
            pruned: (600.6, 1.4),
        },
    ],
};

const CORTEX_M4F: Costs = Costs {
    has_fpu: true,
    call: 95.2,
    hidden: 218.4,
    output: 13.8,
    layer: 84.2,
    cubic: (0.0, 0.0),
    linear: (0.0, 0.0),
    step: (0.0, 0.0),
    residual: (84.5, 107.2, 6.1),
    look_up: 4.7,
    integers: [
        IntegerCosts {
            call: (39.4, 10.9),
            conversion: (223.9, 26.0, 16.0),
            layer: 131.7,
            tables: [(23.8, 10.3, 3.2), (12.6, 10.0, 1.0), (10.8, 8.9, 0.0)],
            pruned: (623.0, 1.2),
        },
        IntegerCosts {
            call: (40.0, 10.9),
            conversion: (224.2, 26.0, 16.0),
            layer: 132.1,
            tables: [(23.7, 10.9, 4.8), (12.3, 10.4, 1.9), (10.7, 8.9, 0.0)],
            pruned: (618.3, 1.2),
        },
    ],
};

const CORTEX_M33: Costs = Costs {
    has_fpu: true,
    call: 95.9,
    hidden: 219.4,
    output: 13.8,
    layer: 83.8,
    cubic: (0.0, 0.0),
    linear: (0.0, 0.0),
    step: (0.0, 0.0),
    residual: (84.5, 100.2, 6.1),
    look_up: 4.7,
    integers: [
        IntegerCosts {
            call: (37.2, 11.9),
            conversion: (224.3, 26.0, 16.0),
            layer: 131.5,
            tables: [(28.6, 15.2, 6.3), (15.0, 12.3, 2.6), (12.3, 11.1, 0.0)],
            pruned: (610.6, 1.3),
        },
        IntegerCosts {
            call: (43.5, 10.9),
            conversion: (224.1, 26.0, 16.0),
            layer: 125.1,
            tables: [(28.4, 15.7, 6.4), (14.9, 12.8, 2.6), (12.5, 11.1, 0.5)],
            pruned: (602.2, 1.4),
        },
    ],
};
