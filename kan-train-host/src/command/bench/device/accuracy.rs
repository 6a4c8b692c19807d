//! What tables of integers add to the test error.

use std::ops::ControlFlow;
use std::path::Path;

use kan_train_host::compile::{Kind, Tables};
use kan_train_host::dataset::{Dataset, Target};
use kan_train_host::evaluator::Evaluator;
use kan_train_host::predictor::Predictor;
use kan_train_host::problem::table::TABLES;
use kan_train_host::train::{self, Event, Settings};
use serde::Serialize;

use super::sets::{SETS, Set, error, measure};
use super::{ACCURACY, Bench, Goal, compiled};
use crate::command::Failure;
use crate::command::console::figures;

/// What tables of integers add to the test error of a network.
#[derive(Serialize)]
pub(super) struct Accuracy {
    data: String,
    tables: Tables,
    bits: u8,
    test_rows: usize,
    measure: &'static str,
    /// Of the network in `f64`, and of kan-core on the blob.
    network: f64,
    device: f64,
    blob_bytes: usize,
    pub(super) goal: Option<Goal>,
}

impl Bench<'_> {
    pub(super) fn accuracy(
        &self,
        data: Option<&Path>,
        seed: u64,
    ) -> Result<Vec<Accuracy>, Failure> {
        if !self.chosen.has(ACCURACY) {
            return Ok(Vec::new());
        }
        self.head(
            "What integers add to the test error (wrong classes as a part of the rows)",
            &[
                "data set", "tables", "rows", "measure", "network", "device", "goal", "met", "blob",
            ],
        );
        let mut rows = Vec::new();
        for (name, targets, task, _) in SETS {
            let set = Set::open(name, targets, task)?;
            rows.extend(self.integers(name, &set.predictor, &set.train, &set.test)?);
        }
        for table in data.into_iter().flat_map(|_| &TABLES) {
            let is_inside = SETS.iter().any(|(name, ..)| *name == table.name);
            if is_inside || table.images.is_some() {
                continue;
            }
            let Some((train, test)) = table.read(data)? else {
                continue;
            };
            let settings = Settings {
                seed,
                ..Settings::default()
            };
            let mut show = |event: Event<'_>| {
                if let Event::Candidate { done, of } | Event::Step { step: done, of, .. } = event {
                    let what = format!("{}: training", table.name);
                    self.console.progress(&what, done, of);
                }
                ControlFlow::Continue(())
            };
            let trained = train::train(&train, Some(&test), &settings, None, &mut show)?;
            rows.extend(self.integers(table.name, &trained.predictor, &train, &test)?);
        }
        Ok(rows)
    }

    /// Cubic tables of 16 and 8 bits of one network.
    fn integers(
        &self,
        name: &str,
        predictor: &Predictor,
        train: &Dataset,
        test: &Dataset,
    ) -> Result<Vec<Accuracy>, Failure> {
        let mut rows = Vec::new();
        let network = error(&predictor.eval(&test.x), test);
        for bits in [16, 8] {
            let kind = Kind {
                tables: Tables::Cubic,
                bits,
            };
            let compiled = compiled(predictor, name, kind, &train.x)?;
            let device = error(&outputs(&compiled.bytes, test)?, test);
            let row = Accuracy {
                data: name.to_owned(),
                tables: kind.tables,
                bits,
                test_rows: test.rows,
                measure: measure(test),
                network,
                device,
                blob_bytes: compiled.bytes.len(),
                goal: limit(name, bits, network, train)
                    .map(|at_most| Goal::new("device", at_most, device)),
            };
            self.say(format_args!(
                "| {name} | {kind} | {} | {} | {} | {} | {} | {} |",
                row.test_rows,
                row.measure,
                figures(network),
                figures(device),
                Goal::cells(row.goal),
                row.blob_bytes
            ));
            rows.push(row);
        }
        Ok(rows)
    }
}

/// What kan-core makes of the rows of `data`.
fn outputs(blob: &[u8], data: &Dataset) -> Result<Vec<f64>, Failure> {
    let outputs = Evaluator::load(blob)?.eval(&data.x);
    Ok(outputs.into_iter().map(f64::from).collect())
}

/// The error that integers may have, if there is a goal for them.
fn limit(name: &str, bits: u8, network: f64, train: &Dataset) -> Option<f64> {
    let range = match &train.target {
        Target::Regression { y, .. } => {
            let ends = |(lo, hi): (f64, f64), y: &f64| (lo.min(*y), hi.max(*y));
            let (lo, hi) = y.iter().fold((f64::INFINITY, f64::NEG_INFINITY), ends);
            Some(hi - lo)
        }
        Target::Classification { .. } => None,
    };
    match (bits, range) {
        (16, _) if name == "thermocouple_k" => Some(0.02),
        (16, Some(range)) => (network > 3e-4 * range).then_some(1.01 * network),
        (16, None) => Some(1.01 * network),
        (_, Some(range)) => (network > 1e-2 * range).then_some(1.05 * network),
        (_, None) => Some(network + 0.005),
    }
}
