//! Problems that trainers are compared on, with the error and the time to reach: toy functions,
//! physical equations and special functions of the KAN paper (arXiv 2404.19756), and data sets.
//!
//! A problem of a function draws its samples from a seed, uniformly in the stated ranges; both are
//! the same on every machine up to the rounding of the functions themselves.

pub mod feynman;
pub mod special;
pub mod table;
pub mod toy;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;

use crate::dataset::{Dataset, Target};
use crate::predictor::Range;
use crate::train::Settings;

/// What a problem belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// The paper's toy functions, shapes given.
    Toy,
    /// The paper's physical equations, in dimensionless form; shapes free.
    Feynman,
    /// Special functions of two variables; shapes free.
    Special,
    /// Data sets, with no options at all.
    Table,
}

impl Group {
    /// The group's name as it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Toy => "toy",
            Self::Feynman => "feynman",
            Self::Special => "special",
            Self::Table => "table",
        }
    }
}

/// What is measured on the test rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Root mean squared error in the target's unit: the goal is an upper bound.
    Rmse,
    /// Coefficient of determination: the goal is a lower bound.
    R2,
    /// Share of right classes: the goal is a lower bound.
    Accuracy,
    /// Slope of ln RMSE against ln G: the goal is to be reached to within ±0.3.
    Slope,
}

/// Reference values of [`Measure::R2`] and [`Measure::Accuracy`] are known to four digits.
const ROUNDING: f64 = 0.5e-4;

impl Measure {
    /// Whether `value` is as good as `goal`.
    pub fn reaches(self, value: f64, goal: f64) -> bool {
        match self {
            Self::Rmse => value <= goal,
            Self::R2 | Self::Accuracy => value >= goal - ROUNDING,
            Self::Slope => (value - goal).abs() <= 0.3,
        }
    }

    /// What is smaller the better `value` is.
    pub fn badness(self, value: f64, goal: f64) -> f64 {
        match self {
            Self::Rmse => value,
            Self::R2 | Self::Accuracy => -value,
            Self::Slope => (value - goal).abs(),
        }
    }
}

/// A value to reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bound {
    /// Of what.
    pub measure: Measure,
    /// The value.
    pub value: f64,
}

impl Bound {
    /// At most this error.
    pub const fn rmse(value: f64) -> Self {
        let measure = Measure::Rmse;
        Self { measure, value }
    }

    /// At least this R².
    pub const fn r2(value: f64) -> Self {
        let measure = Measure::R2;
        Self { measure, value }
    }

    /// At least this share of right classes.
    pub const fn accuracy(value: f64) -> Self {
        let measure = Measure::Accuracy;
        Self { measure, value }
    }

    /// Whether `value` reaches it.
    pub fn is_met(&self, value: f64) -> bool {
        self.measure.reaches(value, self.value)
    }
}

/// A function to learn, how, and how well.
#[derive(Debug, Clone, Copy)]
pub struct Problem {
    /// How `kan bench paper --only` finds it.
    pub name: &'static str,
    /// Where it belongs.
    pub group: Group,
    /// The function in words of mathematics, in the variables of `inputs`.
    pub formula: &'static str,
    /// Name, lower and upper end of each input.
    pub inputs: &'static [(&'static str, f64, f64)],
    /// The function.
    pub value: fn(&[f64]) -> f64,
    /// Training rows; there are as many test rows.
    pub rows: usize,
    /// Node counts; `None` leaves them to training.
    pub width: Option<&'static [usize]>,
    /// Grid intervals, one stage each; `None` leaves them to training.
    pub grids: Option<&'static [usize]>,
    /// Spline degree.
    pub degree: usize,
    /// Whether training is told the ranges.
    pub domain: bool,
    /// λ of the sparsity penalty.
    pub lamb: Option<f64>,
    /// The error to reach.
    pub goal: Bound,
    /// The seconds to reach it in.
    pub seconds: Option<f64>,
    /// The node counts that have to be left after pruning.
    pub pruned: Option<&'static [usize]>,
}

impl Problem {
    /// A problem whose shape and grids are left to training: 1000 rows, cubic, domain stated.
    const fn free(
        name: &'static str,
        group: Group,
        formula: &'static str,
        inputs: &'static [(&'static str, f64, f64)],
        value: fn(&[f64]) -> f64,
        goal: Bound,
    ) -> Self {
        Self {
            name,
            group,
            formula,
            inputs,
            value,
            rows: 1000,
            width: None,
            grids: None,
            degree: 3,
            domain: true,
            lamb: None,
            goal,
            seconds: None,
            pruned: None,
        }
    }

    /// Training rows and as many test rows, uniform in the ranges. The inputs are named `x1`, `x2`,
    /// …, the target `y`.
    pub fn data(&self, seed: u64) -> (Dataset, Dataset) {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut draw = || {
            let mut x = Vec::with_capacity(self.rows * self.inputs.len());
            for _ in 0..self.rows {
                x.extend(
                    self.inputs
                        .iter()
                        .map(|&(_, lo, hi)| rng.random_range(lo..=hi)),
                );
            }
            let y = x.chunks(self.inputs.len()).map(self.value).collect();
            Dataset {
                source: self.name.to_string(),
                input_names: (1..=self.inputs.len()).map(|i| format!("x{i}")).collect(),
                rows: self.rows,
                x,
                target: Target::Regression {
                    names: vec!["y".into()],
                    y,
                },
            }
        };
        (draw(), draw())
    }

    /// What training is told.
    pub fn settings(&self, seed: u64) -> Settings {
        let ranges = self.inputs.iter().enumerate();
        let domain = ranges.map(|(i, &(_, lo, hi))| (i, Range { lo, hi }));
        Settings {
            width: self.width.map(<[usize]>::to_vec),
            grid: self.grids.map(<[usize]>::to_vec),
            degree: Some(self.degree),
            domain: if self.domain {
                domain.collect()
            } else {
                Vec::new()
            },
            lamb: self.lamb,
            seed,
            ..Settings::default()
        }
    }

    /// The ranges in words: `a −1 … 1, b 0 … 2`.
    pub fn ranges(&self) -> String {
        let alike = self.inputs.chunk_by(|a, b| a == b);
        let words: Vec<String> = alike
            .map(|run| {
                let (name, lo, hi) = run[0];
                let name = match run.len() {
                    1 => name.to_string(),
                    n => format!("{name}1 … {name}{n}"),
                };
                format!("{name} in {} … {}", number(lo), number(hi))
            })
            .collect();
        words.join(", ")
    }
}

/// A number of a range, multiples of π as such.
fn number(value: f64) -> String {
    let turns = value / std::f64::consts::PI;
    let tenths = (10.0 * turns).round();
    if value != 0.0 && (10.0 * turns - tenths).abs() < 1e-12 {
        return match tenths / 10.0 {
            1.0 => "π".to_string(),
            -1.0 => "−π".to_string(),
            factor => format!("{factor}π"),
        };
    }
    value.to_string().replace('-', "−")
}

/// All problems of functions, in the order of a report.
pub fn all() -> impl Iterator<Item = &'static Problem> {
    toy::PROBLEMS
        .iter()
        .chain(&feynman::PROBLEMS)
        .chain(&special::PROBLEMS)
}
