//! A network with the names and units of its data: what `network.json` holds.

use serde::{Deserialize, Serialize};

use crate::dataset::{self, Dataset, Schema, TargetSchema, Task};
use crate::network::Network;
use crate::objective::{Samples, Target, most_probable, softmax};

/// The version of `network.json`.
pub const FORMAT: u32 = 1;

/// The range of an input in its own unit, which the network sees as −1 … 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// The lower end.
    pub lo: f64,
    /// The upper end, above `lo`.
    pub hi: f64,
}

impl Range {
    /// The affine map to the network's unit, as (factor, offset).
    pub fn to_unit(self) -> (f64, f64) {
        let factor = 2.0 / (self.hi - self.lo);
        (factor, -0.5 * (self.lo + self.hi) * factor)
    }
}

/// An output in its own unit: `offset + scale · network output`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// What the network sees as 0.
    pub offset: f64,
    /// The unit's size, not zero.
    pub scale: f64,
}

/// A network that reads raw columns and gives targets in their own units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Predictor {
    /// [`FORMAT`].
    pub format: u32,
    /// Names of columns and classes.
    pub schema: Schema,
    /// One range for each input.
    pub inputs: Vec<Range>,
    /// One scale for each network output; 0 and 1 for logits.
    pub outputs: Vec<Scale>,
    /// The network's own error on its training rows, in units of the outputs' scales: root mean
    /// square; for logits a fixed 0.02, which moves no probability by more than half a per cent.
    pub error: f64,
    /// The network, in units of −1 … 1 for the inputs and of standard deviations for the outputs.
    pub network: Network,
}

/// How many network outputs a target takes: one for each number or class, but one for two classes.
pub fn network_outputs(schema: &TargetSchema) -> usize {
    match schema {
        TargetSchema::Regression { names } => names.len(),
        TargetSchema::Classification { labels, .. } if labels.len() == 2 => 1,
        TargetSchema::Classification { labels, .. } => labels.len(),
    }
}

/// The data in the units of a network.
pub fn samples(data: &Dataset, inputs: &[Range], outputs: &[Scale]) -> Samples {
    let maps: Vec<(f64, f64)> = inputs.iter().map(|range| range.to_unit()).collect();
    let x = data
        .x
        .iter()
        .zip(maps.iter().cycle())
        .map(|(x, (a, b))| a * x + b)
        .collect();
    let target = match &data.target {
        dataset::Target::Regression { y, .. } => Target::Values(
            y.iter()
                .zip(outputs.iter().cycle())
                .map(|(y, s)| (y - s.offset) / s.scale)
                .collect(),
        ),
        dataset::Target::Classification { class, .. } => Target::Classes(class.clone()),
    };
    Samples {
        inputs: inputs.len(),
        outputs: outputs.len(),
        x,
        target,
    }
}

impl Predictor {
    /// What the network learnt.
    pub fn task(&self) -> Task {
        match self.schema.target {
            TargetSchema::Regression { .. } => Task::Regression,
            TargetSchema::Classification { .. } => Task::Classification,
        }
    }

    /// Class labels; empty for a regression.
    pub fn labels(&self) -> &[String] {
        match &self.schema.target {
            TargetSchema::Regression { .. } => &[],
            TargetSchema::Classification { labels, .. } => labels,
        }
    }

    /// The raw outputs for every row of `x`, row-major `[rows, inputs]` in the columns' units:
    /// values in the targets' units, or logits. Row-major `[rows, network outputs]`.
    pub fn eval(&self, x: &[f64]) -> Vec<f64> {
        let maps: Vec<(f64, f64)> = self.inputs.iter().map(|range| range.to_unit()).collect();
        let unit: Vec<f64> = x
            .iter()
            .zip(maps.iter().cycle())
            .map(|(x, (a, b))| a * x + b)
            .collect();
        let mut outputs = self.network.eval_rows(&unit);
        for (z, s) in outputs.iter_mut().zip(self.outputs.iter().cycle()) {
            *z = s.offset + s.scale * *z;
        }
        outputs
    }
}

/// How good outputs are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Score {
    /// Of a regression.
    Regression {
        /// Root mean squared error over all rows and targets, in the targets' unit.
        rmse: f64,
        /// 1 − squared error / variance, averaged over the targets; `None` where one of them does
        /// not vary, so that there is nothing to compare the error with.
        r2: Option<f64>,
        /// The same for each target, if there are several.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        targets: Vec<TargetScore>,
    },
    /// Of a classification.
    Classification {
        /// The share of rows whose most probable class is theirs.
        accuracy: f64,
        /// Mean −ln of the probability of the row's class, natural logarithm.
        log_loss: f64,
    },
}

/// How good one target of several is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetScore {
    /// The column.
    pub name: String,
    /// Root mean squared error in its unit.
    pub rmse: f64,
    /// 1 − squared error / variance; `None` if the target does not vary.
    pub r2: Option<f64>,
}

impl Score {
    /// Compares raw outputs (values or logits, row-major) with the targets of `data`.
    pub fn of(outputs: &[f64], data: &Dataset) -> Self {
        match &data.target {
            dataset::Target::Regression { names, y } => Self::of_values(outputs, y, names),
            dataset::Target::Classification { class, .. } => Self::of_logits(outputs, class),
        }
    }

    fn of_values(outputs: &[f64], y: &[f64], names: &[String]) -> Self {
        let columns = names.len();
        let targets: Vec<TargetScore> = (0..columns)
            .map(|k| {
                let column = || y.iter().skip(k).step_by(columns);
                let rows = column().count() as f64;
                let varies = column().zip(column().skip(1)).any(|(y, next)| y != next);
                let mean = column().sum::<f64>() / rows;
                let variance = column().map(|y| (y - mean).powi(2)).sum::<f64>() / rows;
                let given = outputs.iter().skip(k).step_by(columns);
                let error = column()
                    .zip(given)
                    .map(|(y, z)| (y - z).powi(2))
                    .sum::<f64>()
                    / rows;
                TargetScore {
                    name: names[k].clone(),
                    rmse: error.sqrt(),
                    // Equal values can have a variance: that of the rounding of their mean.
                    r2: Some(1.0 - error / variance).filter(|r2| varies && r2.is_finite()),
                }
            })
            .collect();
        let n = columns as f64;
        let r2: Option<f64> = targets.iter().map(|target| target.r2).sum();
        Self::Regression {
            rmse: (targets.iter().map(|t| t.rmse * t.rmse).sum::<f64>() / n).sqrt(),
            r2: r2.map(|sum| sum / n),
            targets: if columns > 1 { targets } else { Vec::new() },
        }
    }

    fn of_logits(outputs: &[f64], class: &[usize]) -> Self {
        let n = outputs.len() / class.len();
        let mut hits = 0;
        let mut log_loss = 0.0;
        let mut p = vec![0.0; n];
        for (z, &class) in outputs.chunks(n).zip(class) {
            softmax(z, &mut p);
            let probability = match p[..] {
                [p] if class == 0 => 1.0 - p,
                [p] => p,
                _ => p[class],
            };
            // Not `max`, which would make a number of NaN.
            log_loss -= if probability < 1e-15 {
                f64::ln(1e-15)
            } else {
                probability.ln()
            };
            hits += usize::from(most_probable(z) == class);
        }
        let rows = class.len() as f64;
        Self::Classification {
            accuracy: hits as f64 / rows,
            log_loss: log_loss / rows,
        }
    }

    /// The error that training lowers: RMSE, or log-loss.
    pub fn error(&self) -> f64 {
        match self {
            Self::Regression { rmse, .. } => *rmse,
            Self::Classification { log_loss, .. } => *log_loss,
        }
    }
}
