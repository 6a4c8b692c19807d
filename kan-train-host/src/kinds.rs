//! The kinds of tables that a network can be compiled to.

use std::fmt;

use kan_core::Scalar;
use serde::{Deserialize, Serialize};

/// The kinds of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Tables {
    /// Cubic splines, SiLU folded in.
    Cubic,
    /// Piecewise linear functions.
    Linear,
    /// Piecewise constant functions.
    Step,
    /// Cubic splines with the SiLU residual as trained.
    Exact,
}

impl Tables {
    /// Degree of the splines.
    pub fn degree(self) -> usize {
        match self {
            Self::Cubic | Self::Exact => 3,
            Self::Linear => 1,
            Self::Step => 0,
        }
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cubic => "cubic",
            Self::Linear => "linear",
            Self::Step => "step",
            Self::Exact => "exact",
        })
    }
}

/// Tables and the number format of their entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// What an entry is a coefficient of.
    pub tables: Tables,
    /// Bits of an entry: 32 (`f32`), 16 or 8 (integers).
    pub bits: u8,
}

impl Kind {
    /// All kinds there are, the exact ones last.
    pub const ALL: [Self; 10] = {
        const fn of(tables: Tables, bits: u8) -> Kind {
            Kind { tables, bits }
        }
        [
            of(Tables::Cubic, 32),
            of(Tables::Cubic, 16),
            of(Tables::Cubic, 8),
            of(Tables::Linear, 32),
            of(Tables::Linear, 16),
            of(Tables::Linear, 8),
            of(Tables::Step, 32),
            of(Tables::Step, 16),
            of(Tables::Step, 8),
            of(Tables::Exact, 32),
        ]
    };

    /// These tables in `f32`.
    pub fn float(tables: Tables) -> Self {
        Self { tables, bits: 32 }
    }

    /// Whether there is such a kind.
    pub fn exists(self) -> bool {
        Self::ALL.contains(&self)
    }

    /// Whether entries are integers.
    pub fn is_integer(self) -> bool {
        self.bits < 32
    }

    /// How far beyond its range an input may go, as a part of it, before it saturates.
    pub(crate) fn input_margin(self) -> f64 {
        match self.tables {
            // Steps cannot go on linearly.
            Tables::Step => 0.0,
            // Where hidden edges are steep, a wide margin takes most of what the bits can tell
            // apart.
            _ if self.is_integer() => 0.02,
            Tables::Cubic | Tables::Linear => 0.1,
            // It stands for the network itself, outside its grids too.
            Tables::Exact => 1.0,
        }
    }

    pub(crate) fn scalar(self) -> Scalar {
        match self.bits {
            8 => Scalar::I8,
            16 => Scalar::I16,
            _ => Scalar::F32,
        }
    }

    /// The part of the network's own error that tables are to add: the fewer bits there are, the
    /// more it costs to go below.
    pub(crate) fn wanted(self) -> f64 {
        match self.bits {
            8 => 1.0 / 6.0,
            16 => 1.0 / 12.0,
            _ => 1.0 / 20.0,
        }
    }

    /// Where no tables are near enough to the network, those so many times as far as the nearest
    /// are taken for being smaller.
    pub(crate) fn nearly(self) -> f64 {
        match self.bits {
            8 => 1.5,
            _ => 1.2,
        }
    }

    /// The smallest tolerance to aim at when the user does not say: the coarser the tables, the
    /// more a smaller one would cost.
    pub(crate) fn least_tolerance(self) -> f64 {
        let of_degree = match self.tables {
            Tables::Cubic | Tables::Exact => 3e-7,
            Tables::Linear => 1e-4,
            Tables::Step => 1e-2,
        };
        let of_bits = match self.bits {
            8 => 4e-3,
            16 => 1e-5,
            _ => 0.0,
        };
        f64::max(of_degree, of_bits)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits {
            32 => write!(f, "{}", self.tables),
            bits => write!(f, "{} i{bits}", self.tables),
        }
    }
}
