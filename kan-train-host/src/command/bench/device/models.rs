//! Models with tables of every kind on every core, and how instructions grow with edges and
//! intervals.

use kan_train_host::benchmark::{self, Build, SPEED};
use kan_train_host::compile::{Compiled, Kind, Tables};
use kan_train_host::device::Cost;
use kan_train_host::evaluator::Evaluator;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;

use super::{Bench, GROWTH, Goal, compiled, in_cell, room};
use crate::command::Failure;
use crate::command::console::figures;

/// Intervals of the networks' grids; their tables have as many as they need.
const INTERVALS: usize = 8;

/// The models, and the part of their edges that is there.
pub(super) const MODELS: [(&str, &[usize], f64); 4] = [
    ("8-8", &[8, 8], 1.0),
    ("64-10", &[64, 10], 1.0),
    ("4-8-3", &[4, 8, 3], 1.0),
    ("9-11-7-2 pruned", &[9, 11, 7, 2], 0.5),
];

/// A model on a machine.
#[derive(Serialize)]
pub(super) struct Row {
    machine: &'static str,
    core: &'static str,
    model: &'static str,
    width: Vec<usize>,
    edges: usize,
    /// Of the tables: the most of any node.
    intervals: usize,
    tables: Tables,
    bits: u8,
    /// The function that was called.
    call: &'static str,
    instructions: Cost,
    /// The median by edge.
    per_edge: f64,
    blob_bytes: usize,
    text_bytes: u64,
    stack_bytes: u32,
    /// Largest |device − network|; the network's outputs are of order one.
    max_abs_error: f64,
    /// Whether all outputs are the host's, bit for bit.
    equal_to_host: bool,
    flags: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) goal: Option<Goal>,
}

/// A model that a machine has no room for.
#[derive(Serialize)]
pub(super) struct Missing {
    machine: &'static str,
    model: &'static str,
    tables: Tables,
    bits: u8,
    reason: String,
}

/// A layer of some edges, on tables of some intervals.
#[derive(Serialize)]
pub(super) struct Growth {
    machine: &'static str,
    core: &'static str,
    edges: usize,
    /// The most of any input.
    intervals: usize,
    tables: Tables,
    bits: u8,
    instructions: Cost,
}

impl Bench<'_> {
    pub(super) fn rows(&self) -> Result<(Vec<Row>, Vec<Missing>), Failure> {
        let models = MODELS.iter().filter(|(name, ..)| self.chosen.has(name));
        let mut subjects = Vec::new();
        for &(model, width, density) in models {
            let predictor = benchmark::network(width, INTERVALS, density);
            let points = points(width[0]);
            for kind in Kind::ALL {
                let compiled = compiled(&predictor, model, kind, &[])?;
                let evaluator = Evaluator::load(&compiled.bytes)?;
                let error = benchmark::largest_error(&predictor, &evaluator, &points);
                // Not those of the blob, whose pruned integer layers count whole groups of outputs.
                let edges = predictor.network.edges();
                subjects.push((model, kind, compiled, evaluator, error, edges));
            }
        }
        let (mut rows, mut not_measured) = (Vec::new(), Vec::new());
        if subjects.is_empty() {
            return Ok((rows, not_measured));
        }
        let blobs: Vec<(String, Vec<u8>)> = (subjects.iter())
            .map(|(model, kind, compiled, ..)| (format!("{model}, {kind}"), compiled.bytes.clone()))
            .collect();
        self.head(
            "Models",
            &[
                "machine",
                "core",
                "model",
                "tables",
                "edges",
                "intervals",
                "instructions",
                "an edge",
                "goal",
                "met",
                "blob",
                "text",
                "stack",
                "largest error",
                "host's bits",
            ],
        );
        for &build in &self.chosen.builds {
            let Build { machine, core, .. } = build;
            let measured = self.measure(build, &blobs)?;
            let kinds: Vec<Kind> = subjects.iter().map(|subject| subject.1).collect();
            let texts = self.texts(build, SPEED, &kinds)?;
            let results = measured.into_iter().zip(texts);
            for ((model, kind, compiled, evaluator, error, edges), (measured, text_bytes)) in
                subjects.iter().zip(results)
            {
                let bytes = evaluator.bytes().len();
                let Some(measured) = measured else {
                    let reason = format!("{bytes} bytes, and there is room for {}", room(machine));
                    self.say(format_args!(
                        "| {machine} | {core} | {model} | {kind} |{} not measured: {reason} |",
                        " |".repeat(10)
                    ));
                    not_measured.push(Missing {
                        machine: machine.name(),
                        model,
                        tables: kind.tables,
                        bits: kind.bits,
                        reason,
                    });
                    continue;
                };
                let (floats, integers) =
                    benchmark::digests(evaluator).map_err(|e| Failure::new(e.to_string()))?;
                let (call, of) = match measured.eval_q {
                    Some(of) => ("eval_q", of),
                    None => ("eval", measured.eval),
                };
                let edges = *edges;
                let mut row = Row {
                    machine: machine.name(),
                    core,
                    model,
                    width: evaluator.width(),
                    edges,
                    intervals: most_intervals(compiled),
                    tables: kind.tables,
                    bits: kind.bits,
                    call,
                    instructions: of.instructions,
                    per_edge: f64::from(of.instructions.median) / edges as f64,
                    blob_bytes: bytes,
                    text_bytes,
                    stack_bytes: of.stack,
                    max_abs_error: *error,
                    equal_to_host: measured.eval.digest == floats
                        && measured.eval_q.map(|call| call.digest) == integers,
                    flags: build.flags(),
                    goal: None,
                };
                row.goal = row.judge();
                self.say(row.markdown());
                rows.push(row);
            }
        }
        Ok((rows, not_measured))
    }

    /// Layers of more and more edges, then one on finer and finer tables.
    pub(super) fn growth(&self) -> Result<Vec<Growth>, Failure> {
        if !self.chosen.has(GROWTH) {
            return Ok(Vec::new());
        }
        let mut subjects = Vec::new();
        for tables in [Tables::Cubic, Tables::Linear] {
            let kind = Kind { tables, bits: 16 };
            let layers = [16, 32, 64].map(|inputs| (inputs, INTERVALS));
            let finer = [2, 16, 32].map(|intervals| (16, intervals));
            for (inputs, intervals) in layers.into_iter().chain(finer) {
                let predictor = benchmark::network(&[inputs, 8], intervals, 1.0);
                let compiled = compiled(&predictor, GROWTH, kind, &[])?;
                subjects.push((8 * inputs, kind, compiled));
            }
        }
        let blobs: Vec<(String, Vec<u8>)> = (subjects.iter())
            .map(|(edges, kind, compiled)| {
                (format!("{edges} edges, {kind}"), compiled.bytes.clone())
            })
            .collect();
        self.head(
            "Instructions against edges, and against intervals",
            &[
                "machine",
                "core",
                "tables",
                "edges",
                "intervals",
                "instructions",
            ],
        );
        let mut rows = Vec::new();
        for &build in &self.chosen.builds {
            let Build { machine, core, .. } = build;
            for ((edges, kind, compiled), measured) in
                subjects.iter().zip(self.measure(build, &blobs)?)
            {
                let Some(measured) = measured else {
                    continue;
                };
                let instructions = measured.eval_q.unwrap_or(measured.eval).instructions;
                let row = Growth {
                    machine: machine.name(),
                    core,
                    edges: *edges,
                    intervals: most_intervals(compiled),
                    tables: kind.tables,
                    bits: kind.bits,
                    instructions,
                };
                let (intervals, cost) = (row.intervals, in_cell(instructions));
                self.say(format_args!(
                    "| {machine} | {core} | {kind} | {edges} | {intervals} | {cost} |"
                ));
                rows.push(row);
            }
        }
        Ok(rows)
    }
}

impl Row {
    /// The goal for this row, if there is one.
    fn judge(&self) -> Option<Goal> {
        use Tables::{Cubic, Linear, Step};
        let per_edge = |m4f, m0| match self.core {
            "M4F" => m4f,
            "M0" => m0,
            _ => None,
        };
        let (of, limit) = match (self.model, self.tables, self.bits) {
            ("8-8", Cubic, 16) => ("per_edge", per_edge(Some(9.0), Some(25.0))),
            ("8-8", Linear, 16) => ("per_edge", per_edge(Some(6.0), Some(12.0))),
            ("8-8", Step, 16 | 8) => ("per_edge", per_edge(Some(4.0), Some(8.0))),
            ("8-8", Cubic, 32) => ("per_edge", per_edge(Some(13.0), None)),
            ("4-8-3", Cubic, 16) => ("instructions", per_edge(Some(700.0), Some(1600.0))),
            _ => return None,
        };
        let value = match of {
            "per_edge" => self.per_edge,
            _ => f64::from(self.instructions.max),
        };
        Some(Goal::new(of, limit?, value))
    }

    fn markdown(&self) -> String {
        let kind = Kind {
            tables: self.tables,
            bits: self.bits,
        };
        format!(
            "| {} | {} | {} | {kind} | {} | {} | {} | {:.2} | {} | {} | {} | {} | {} | {} |",
            self.machine,
            self.core,
            self.model,
            self.edges,
            self.intervals,
            in_cell(self.instructions),
            self.per_edge,
            Goal::cells(self.goal),
            self.blob_bytes,
            self.text_bytes,
            self.stack_bytes,
            figures(self.max_abs_error),
            if self.equal_to_host { "yes" } else { "no" },
        )
    }
}

/// Points of −1 … 1 to measure an error at.
fn points(inputs: usize) -> Vec<f64> {
    let mut random = Pcg64Mcg::seed_from_u64(1);
    (0..1000 * inputs)
        .map(|_| random.random_range(-1.0..1.0))
        .collect()
}

/// The most intervals of any table.
fn most_intervals(compiled: &Compiled) -> usize {
    let intervals = compiled.intervals.iter().flatten();
    intervals.copied().max().unwrap_or(0)
}
