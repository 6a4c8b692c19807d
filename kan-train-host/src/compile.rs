//! From a network to tables: the arrow between the rich representation and the poor one.
//!
//! Every input node gets a uniform grid of its own, with as few intervals as the wanted error lets
//! it have. SiLU, adaptive knots, any degree, the ranges of the inputs and the scales of the
//! outputs disappear in the tables; only the *exact* kind keeps SiLU.
//!
//! # The error that is aimed at
//!
//! The root mean square of device − network over given rows, as measured by running `kan-core`. An
//! edge's share of it is carried back from the outputs by the derivatives of the network on those
//! rows; then all shares are scaled together until the measured error is as wanted.
//!
//! # The error bound
//!
//! For every output a bound of |device − network| is stated that holds for all inputs that
//! [`kan_core::Model::in_domain`] accepts (with the `exp` of `libm`). It is computed from the
//! records and coefficients as they stand in the blob, and adds up, from the inputs to the outputs:
//! - for each edge, its table's distance from its function: as sampled at every break of both and
//!   between, plus what samples a distance δ apart can miss, δ²/8·max|e″|, with the maximum taken
//!   from the Bernstein coefficients of e″; beyond the grid both are straight lines;
//! - the error of the node's value times the largest slope of the edge, bounded likewise;
//! - the rounding of `f32`: of inputs, position, weights, products and sums. Beyond the grid the
//!   weights of a cubic table grow with the distance and cancel each other, so that their rounding
//!   does not: it is what rules the bound in the margin of a fine grid.
//!
//! Tables of integers have the roundings of their inputs, positions, weights and coefficients in
//! place of those of `f32`, and saturate where their margins end: `integer.rs` tells how.
//!
//! Only the rounding of the host's own `f64` is left out, a hundred-millionth of that of `f32`.
//!
//! Hidden nodes get as much margin as the sums that feed them can reach, so that none saturates;
//! where the format does not allow so much, the bound has what saturation can cost.

use std::collections::BTreeMap;

use kan_core::blob::{Aligned, LayerMessage, Message};
use kan_core::{Head, LoadError, Scalar};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;

use crate::dataset::{Dataset, Target};
use crate::estimate::{Core, Instructions};
use crate::evaluator::{Evaluator, EvaluatorError};
use crate::float::{Fitted, Table};
use crate::functions::{Functions, MEASURABLE, ROUNDING, is_measurable};
use crate::integer;
pub use crate::kinds::{Kind, Tables};
use crate::predictor::Predictor;

/// What is wanted of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The kind.
    pub kind: Kind,
    /// The root mean square of device − network that is wanted on the rows, as a part of each
    /// output's scale; `None` for a twentieth of the network's own error, within what suits the
    /// kind.
    pub tolerance: Option<f64>,
    /// The blob may not be longer.
    pub max_bytes: Option<usize>,
    /// One inference may not take more instructions, by estimate, on this core; of tables of
    /// integers one from integers to integers.
    pub max_instructions: Option<(u64, Core)>,
}

/// A blob and what is known about it.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The blob. It has been loaded and run.
    pub bytes: Vec<u8>,
    /// The kind of its tables.
    pub kind: Kind,
    /// Estimates of the instructions of an inference.
    pub instructions: Instructions,
    /// From integers to integers, for tables of integers.
    pub instructions_q: Option<Instructions>,
    /// For each network output, in its own unit, a bound of |device − network| for every input in
    /// the domain.
    pub error_bound: Vec<f64>,
    /// For each network output, in its own unit, the root mean square of device − network on the
    /// rows.
    pub rms_deviation: Vec<f64>,
    /// The largest of them as a part of its output's scale.
    pub deviation: f64,
    /// Whether that is within the stated tolerance or, where none was stated, a tenth of the
    /// network's own error (with 8 bits a sixth).
    pub within_tolerance: bool,
    /// Table intervals by layer and input node; 0 where no edge leaves.
    pub intervals: Vec<Vec<usize>>,
}

impl Compiled {
    /// Estimates of the call that suits the tables: of integers `eval_q`, of floats `eval`.
    pub fn least_instructions(&self) -> Instructions {
        self.instructions_q.unwrap_or(self.instructions)
    }
}

/// Why a network cannot be compiled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompileError {
    /// Even the coarsest tables are larger.
    #[error("--max-flash {limit}: the smallest {tables} tables of this network need {least} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
        /// The kind of tables.
        tables: Kind,
        /// What they need.
        least: usize,
    },
    /// No grid makes tables faster.
    #[error(
        "--max-instructions {limit}@{core}: {tables} tables of this network need about {needed}"
    )]
    TooSlow {
        /// The limit.
        limit: u64,
        /// The core it is for.
        core: Core,
        /// The kind of tables.
        tables: Kind,
        /// What they need.
        needed: u64,
    },
    /// A shape that the format cannot express.
    #[error("the network is too wide or too deep for a blob: {0}")]
    Shape(String),
    /// A range in which `f32` cannot count intervals.
    #[error(
        "{what}: f32 on the device cannot count from {lo:e} to {hi:e}: another unit or origin can help"
    )]
    Range {
        /// An input column, or which hidden node.
        what: String,
        /// The lower end.
        lo: f64,
        /// The upper end.
        hi: f64,
    },
    /// An output that can leave the range of `f32`.
    #[error(
        "column '{column}': its predictions can reach {reach:e}, too much for the device's f32"
    )]
    Overflow {
        /// The column or class.
        column: String,
        /// The largest magnitude.
        reach: f64,
    },
    /// The blob does not load.
    #[error("the compiled tables do not load: {0}")]
    Rejected(EvaluatorError),
}

/// So many rows tell how far tables are from their network.
const ENOUGH_ROWS: usize = 1000;
/// The part of the network's error beyond which a deviation is worth a warning: it makes the error
/// larger by half a per cent (a sixth, which tables of 8 bits aim at, by 1.4).
const NOTICEABLE: f64 = 1.0 / 10.0;

/// Compiles a network to a blob that is as small as it can be for the tolerance.
///
/// `rows` are inputs to measure on, row-major `[rows, inputs]` in the columns' units: those that
/// the network was trained on. Without any, points all over the ranges of the inputs take their
/// place.
///
/// # Errors
/// [`CompileError`] if no tables are small enough, or none express the network.
pub fn compile(
    predictor: &Predictor,
    name: &str,
    options: &Options,
    rows: &[f64],
) -> Result<Compiled, CompileError> {
    let own = predictor.error;
    let wanted = options
        .tolerance
        .unwrap_or((own * options.kind.wanted()).max(options.kind.least_tolerance()));
    let noticeable = own * options.kind.wanted().max(NOTICEABLE);
    let noticeable = options.tolerance.unwrap_or(noticeable);
    let mut compiler = Compiler::new(predictor, name, options.kind, rows)?;
    let nearly = match options.tolerance {
        Some(_) => 1.0,
        None => options.kind.nearly(),
    };
    let mut scale = compiler.coarsest_within(wanted, nearly)?;
    let mut draft = compiler.draft(scale)?;
    if let Some(limit) = options.max_bytes
        && draft.bytes.len() > limit
    {
        // The finest that fit: twice as coarse until they do, then between the last two.
        let mut fine = scale;
        while draft.bytes.len() > limit {
            if draft.is_coarsest() {
                return Err(CompileError::TooLarge {
                    limit,
                    tables: options.kind,
                    least: draft.bytes.len(),
                });
            }
            fine = scale;
            scale *= 2.0;
            draft = compiler.draft(scale)?;
        }
        for _ in 0..8 {
            let between = (fine * scale).sqrt();
            let next = compiler.draft(between)?;
            if next.bytes.len() > limit {
                fine = between;
            } else {
                (scale, draft) = (between, next);
            }
        }
    }
    let evaluator = Evaluator::load(&draft.bytes).map_err(CompileError::Rejected)?;
    let (instructions, instructions_q) = (evaluator.instructions(), evaluator.instructions_q());
    let needed = |core: Core| instructions_q.unwrap_or(instructions).on(core);
    if let Some((limit, core)) = options.max_instructions
        && needed(core) > limit
    {
        return Err(CompileError::TooSlow {
            limit,
            core,
            tables: options.kind,
            needed: needed(core),
        });
    }
    let error_bound = compiler.bound(&draft);
    let rms_deviation: Vec<f64> = (draft.deviation.iter().zip(&predictor.outputs))
        .map(|(part, output)| part * output.scale.abs())
        .collect();
    Ok(Compiled {
        deviation: draft.worst(),
        within_tolerance: draft.worst() <= noticeable,
        bytes: draft.bytes,
        kind: options.kind,
        instructions,
        instructions_q,
        error_bound,
        rms_deviation,
        intervals: draft.intervals,
    })
}

/// The best of several tables: of those that are near enough to the network the one of fewest
/// instructions on `core`, then of fewest bytes; if none is near enough, the nearest.
pub fn best<'c>(tables: impl Iterator<Item = &'c Compiled>, core: Core) -> Option<&'c Compiled> {
    let worth = |tables: &Compiled| {
        let far = if tables.within_tolerance {
            0.0
        } else {
            tables.deviation
        };
        (
            far,
            tables.least_instructions().on(core),
            tables.bytes.len(),
        )
    };
    tables.min_by(|a, b| {
        let (a, b) = (worth(a), worth(b));
        a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2)))
    })
}

/// A network on its way to tables of one kind.
struct Compiler<'a> {
    predictor: &'a Predictor,
    name: &'a str,
    kind: Kind,
    layers: Vec<Functions<'a>>,
    /// For each layer and output node, how much an error there counts in the network's outputs:
    /// root mean square over the rows, in the outputs' scales.
    gain: Vec<Vec<f64>>,
    /// Inputs to measure on, and the network's outputs for them.
    rows: Vec<f64>,
    truth: Vec<f64>,
    /// What all nodes are on the rows, and with bits to spare all over the domain: where tables of
    /// integers are to be nearest to the network.
    values: Option<integer::Rows>,
    /// The tables tried so far, by layer, input node and number of intervals.
    tried: Vec<Vec<BTreeMap<usize, Fitted>>>,
}

/// Tables that might do.
struct Draft {
    bytes: Vec<u8>,
    intervals: Vec<Vec<usize>>,
    /// The tables, if they are integers.
    integers: Vec<integer::Table>,
    /// Root mean square of device − network on the rows by output, as a part of its scale.
    deviation: Vec<f64>,
}

impl Draft {
    fn worst(&self) -> f64 {
        self.deviation.iter().copied().fold(0.0, f64::max)
    }

    fn is_coarsest(&self) -> bool {
        self.intervals.iter().flatten().all(|&n| n <= 1)
    }
}

impl<'a> Compiler<'a> {
    fn new(
        predictor: &'a Predictor,
        name: &'a str,
        kind: Kind,
        rows: &[f64],
    ) -> Result<Self, CompileError> {
        let given = !rows.is_empty();
        let rows = sample(predictor, rows);
        let seen = match kind.is_integer() {
            true => ranges_of_nodes(predictor, kind, &rows),
            false => Vec::new(),
        };
        let layers = Functions::of_layers(predictor, kind, &seen)?;
        let tried = layers
            .iter()
            .map(|functions| vec![BTreeMap::new(); functions.layer.inputs()])
            .collect();
        Ok(Self {
            predictor,
            name,
            kind,
            gain: gains(predictor, &rows),
            truth: predictor.eval(&rows),
            values: kind.is_integer().then(|| {
                let mut rows = rows.clone();
                if kind.bits == 16 && given {
                    // Bits enough for what happens anywhere in the domain, too.
                    rows.extend(sample(predictor, &[]));
                }
                values_of_nodes(predictor, &rows)
            }),
            layers,
            rows,
            tried,
        })
    }

    /// The scale of the edges' shares, as a part of the outputs' scales, that gives the coarsest
    /// tables within `wanted` of the network; if none are, the coarsest that are at most `nearly`
    /// times as far as the nearest.
    fn coarsest_within(&mut self, wanted: f64, nearly: f64) -> Result<f64, CompileError> {
        // The shares are bounds of errors that on the rows are less: so begin above.
        let mut scale = 16.0 * wanted;
        let mut worst = self.draft(scale)?.worst();
        let mut coarse = None;
        let mut missed: Vec<(f64, f64)> = Vec::new();
        let mut best = (worst, scale);
        while worst > wanted {
            if scale < best.1 / 16.0 {
                let is_near = |(worst, _): &&(f64, f64)| *worst <= nearly * best.0;
                return Ok(missed.iter().find(is_near).map_or(best.1, |found| found.1));
            }
            missed.push((worst, scale));
            coarse = Some(scale);
            scale *= 0.5;
            worst = self.draft(scale)?.worst();
            if worst < 0.9 * best.0 {
                best = (worst, scale);
            }
        }
        let Some(mut coarse) = coarse else {
            return Ok(scale);
        };
        for _ in 0..4 {
            let between = (scale * coarse).sqrt();
            if self.draft(between)?.worst() <= wanted {
                scale = between;
            } else {
                coarse = between;
            }
        }
        Ok(scale)
    }

    /// The coarsest tables that keep every edge within its share of `scale`.
    fn draft(&mut self, scale: f64) -> Result<Draft, CompileError> {
        let allowance = self.allowances(scale);
        let (layers, kind) = (&self.layers, self.kind);
        let mut intervals: Vec<Vec<usize>> = (self.tried.par_iter_mut())
            .zip(layers)
            .zip(&allowance)
            .map(|((nodes, functions), allowance)| {
                let nodes = nodes.par_iter_mut().enumerate();
                nodes
                    .map(|(i, tried)| functions.fewest_intervals(i, kind, allowance, tried))
                    .collect()
            })
            .collect();
        let mut integers = Vec::new();
        let bytes = if kind.is_integer() {
            let logits = !self.predictor.labels().is_empty();
            integers = integer::tables(layers, kind, &intervals, logits, self.values.as_ref());
            // Positions that are too few can have made them fewer.
            intervals = (integers.iter().zip(layers))
                .map(|(table, functions)| table.intervals(functions))
                .collect();
            let packed: Vec<integer::Packed> = integers.iter().map(integer::Table::pack).collect();
            let messages: Vec<LayerMessage<'_>> =
                packed.iter().map(integer::Packed::message).collect();
            self.encode(&messages)?
        } else {
            self.encode_floats(&intervals)?
        };
        let deviation = self.deviation(&bytes)?;
        Ok(Draft {
            bytes,
            intervals,
            integers,
            deviation,
        })
    }

    /// How much error each edge into each output node may have: with as many independent errors as
    /// there are edges, together `scale` of the outputs' scales.
    fn allowances(&self, scale: f64) -> Vec<Vec<f64>> {
        let share = scale / (self.predictor.network.edges().max(1) as f64).sqrt();
        let last = self.layers.len() - 1;
        let of_layer = |(l, gain): (usize, &Vec<f64>)| {
            let nodes = gain.iter().enumerate();
            nodes
                .map(|(j, gain)| match l == last {
                    true => share * self.predictor.outputs[j].scale.abs(),
                    false => share / gain,
                })
                .collect()
        };
        self.gain.iter().enumerate().map(of_layer).collect()
    }

    fn encode_floats(&self, intervals: &[Vec<usize>]) -> Result<Vec<u8>, CompileError> {
        let tables = self.kind.tables;
        let layers: Vec<Table> = (0..self.layers.len())
            .map(|l| self.layers[l].table(tables, &self.fitted(l, &intervals[l])))
            .collect();
        let messages: Vec<LayerMessage<'_>> = layers
            .iter()
            .map(|table| LayerMessage {
                degree: tables.degree() as u8,
                scalar: Scalar::F32,
                residual: tables == Tables::Exact,
                outputs: table.bias.len() as u16,
                nodes: Aligned::of(&table.nodes),
                bias: Aligned::of(&table.bias),
                targets: Aligned::of(&table.targets),
                coefficients: Aligned::of(&table.coefficients),
                base: Aligned::of(&table.base),
            })
            .collect();
        self.encode(&messages)
    }

    /// The blob of these layers.
    fn encode(&self, layers: &[LayerMessage<'_>]) -> Result<Vec<u8>, CompileError> {
        let width = self.predictor.network.width();
        let shape = || CompileError::Shape(format!("{width:?}"));
        if width.iter().any(|&nodes| nodes >= usize::from(u16::MAX)) {
            return Err(shape());
        }
        let head = match self.predictor.labels().len() {
            0 => Head::Identity,
            2 => Head::Sigmoid,
            _ => Head::Softmax,
        };
        let output_names = match self.predictor.labels() {
            [] => self.predictor.schema.target.names(),
            labels => labels,
        };
        let message = Message {
            name: self.name,
            head,
            input_names: &self.predictor.schema.inputs.join("\n"),
            output_names: &output_names.join("\n"),
            layers,
        };
        let mut bytes = vec![0; message.encoded_len()];
        message.encode(&mut bytes).ok_or_else(shape)?;
        Ok(bytes)
    }

    /// The tables of a layer's nodes; `None` where no edge leaves.
    fn fitted(&self, l: usize, intervals: &[usize]) -> Vec<Option<&Fitted>> {
        let nodes = self.tried[l].iter().zip(intervals);
        nodes.map(|(tried, n)| tried.get(n)).collect()
    }

    /// Runs kan-core on the rows.
    fn deviation(&self, bytes: &[u8]) -> Result<Vec<f64>, CompileError> {
        let evaluator = Evaluator::load(bytes).map_err(|fault| match fault {
            EvaluatorError::Refused(LoadError::Overflow | LoadError::NotFinite) => {
                self.overflow().unwrap_or(CompileError::Rejected(fault))
            }
            fault => CompileError::Rejected(fault),
        })?;
        let outputs = self.predictor.outputs.len();
        let device = evaluator.eval(&self.rows);
        let (mut squares, mut rows) = (vec![0.0; outputs], 0_usize);
        let values = device.chunks(outputs).zip(self.truth.chunks(outputs));
        for ((device, truth), inside) in values.zip(evaluator.in_domain(&self.rows)) {
            if !inside {
                continue;
            }
            rows += 1;
            for (j, output) in self.predictor.outputs.iter().enumerate() {
                squares[j] += ((f64::from(device[j]) - truth[j]) / output.scale).powi(2);
            }
        }
        // Without a row in the domain nothing speaks for the tables.
        let mean = |square: f64| match rows {
            0 => f64::INFINITY,
            _ => (square / rows as f64).sqrt(),
        };
        Ok(squares.into_iter().map(mean).collect())
    }

    /// The output that is too large for the device.
    fn overflow(&self) -> Option<CompileError> {
        let reach = self.layers.last()?.sums();
        let sizes = reach.iter().map(|(low, high)| low.abs().max(high.abs()));
        let (j, reach) = sizes.enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let names = match self.predictor.labels() {
            [] => self.predictor.schema.target.names(),
            labels => labels,
        };
        let column = names.get(j)?.clone();
        (reach > 1e35).then_some(CompileError::Overflow { column, reach })
    }

    /// For each output, in its own unit, a bound of |device − network|.
    fn bound(&self, draft: &Draft) -> Vec<f64> {
        if let (Some(first), Some(last)) = (draft.integers.first(), draft.integers.last()) {
            let mut error = first.input_errors(&self.layers[0]);
            for (table, functions) in draft.integers.iter().zip(&self.layers) {
                error = table.errors(functions, &error);
            }
            let conversion = last.output_errors();
            return error.iter().zip(conversion).map(|(a, b)| a + b).collect();
        }
        let reach = &self.layers[0].reach;
        // The device gets the inputs rounded.
        let mut error: Vec<f64> = reach
            .iter()
            .map(|(low, high)| ROUNDING * low.abs().max(high.abs()))
            .collect();
        for (l, functions) in self.layers.iter().enumerate() {
            let fitted = self.fitted(l, &draft.intervals[l]);
            error = functions.errors(self.kind.tables, &fitted, &error);
        }
        error
    }
}

/// Whether what is learnt from these data can be compiled, as far as their ranges tell: to be asked
/// before hours of training.
///
/// # Errors
/// [`CompileError::Range`] with the column at fault.
pub fn check(data: &Dataset) -> Result<(), CompileError> {
    let refuse = |column: &str, (lo, hi): (f64, f64)| {
        // A constant column is not used at all.
        let constant = hi - lo <= 1e-12 * lo.abs().max(hi.abs());
        let what = format!("column '{column}'");
        match is_measurable(lo, hi) || constant && hi.abs() <= MEASURABLE.1 {
            true => Ok(()),
            false => Err(CompileError::Range { what, lo, hi }),
        }
    };
    for (i, name) in data.input_names.iter().enumerate() {
        refuse(name, data.range(i))?;
    }
    if let Target::Regression { names, y } = &data.target {
        for (j, name) in names.iter().enumerate() {
            let column = y.iter().skip(j).step_by(names.len());
            let ends = (f64::INFINITY, f64::NEG_INFINITY);
            refuse(
                name,
                column.fold(ends, |(lo, hi), &y| (lo.min(y), hi.max(y))),
            )?;
        }
    }
    Ok(())
}

/// Rows to measure on: some of those given, or points all over the ranges.
fn sample(predictor: &Predictor, rows: &[f64]) -> Vec<f64> {
    let inputs = predictor.inputs.len();
    let given = rows.len() / inputs;
    if given == 0 {
        let mut rng = Pcg64Mcg::seed_from_u64(0);
        return (0..ENOUGH_ROWS)
            .flat_map(|_| predictor.inputs.iter())
            .map(|range| range.lo + rng.random_range(0.0..1.0) * (range.hi - range.lo))
            .collect();
    }
    let step = given.div_ceil(ENOUGH_ROWS);
    let rows = rows.chunks_exact(inputs).step_by(step);
    rows.flatten().copied().collect()
}

/// What the network computes on rows, in the units of the device.
fn values_of_nodes(predictor: &Predictor, rows: &[f64]) -> integer::Rows {
    let network = &predictor.network;
    let maps: Vec<(f64, f64)> = predictor.inputs.iter().map(|r| r.to_unit()).collect();
    let mut tape = network.tape();
    let mut sums: Vec<Vec<f64>> = vec![Vec::new(); network.layers.len()];
    for row in rows.chunks_exact(maps.len()) {
        let x: Vec<f64> = row.iter().zip(&maps).map(|(x, (a, b))| a * x + b).collect();
        network.forward(&x, &mut tape);
        for (sums, values) in sums.iter_mut().zip(&tape.values[1..]) {
            sums.extend(values);
        }
    }
    if let Some(last) = sums.last_mut() {
        for (value, output) in last.iter_mut().zip(predictor.outputs.iter().cycle()) {
            *value = output.offset + output.scale * *value;
        }
    }
    let x = rows.to_vec();
    integer::Rows { x, sums }
}

/// For each layer and input node the range of its values on the rows and on points all over the
/// domain, and a little more.
fn ranges_of_nodes(predictor: &Predictor, kind: Kind, rows: &[f64]) -> Vec<Vec<(f64, f64)>> {
    let network = &predictor.network;
    let maps: Vec<(f64, f64)> = predictor.inputs.iter().map(|r| r.to_unit()).collect();
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let end = 1.0 + 2.0 * kind.input_margin();
    let given = rows.chunks_exact(maps.len()).map(|row| {
        let scaled = row.iter().zip(&maps).map(|(x, (a, b))| a * x + b);
        scaled.collect::<Vec<f64>>()
    });
    // Where bits are few, they are not spent on what hardly happens.
    let anywhere = if kind.bits == 8 { 0 } else { ENOUGH_ROWS };
    let spread = (0..anywhere).map(|_| {
        let part = |_: &(f64, f64)| rng.random_range(-end..=end);
        maps.iter().map(part).collect::<Vec<f64>>()
    });
    let mut tape = network.tape();
    let mut seen: Vec<Vec<(f64, f64)>> = (network.layers.iter())
        .map(|layer| vec![(f64::INFINITY, f64::NEG_INFINITY); layer.inputs()])
        .collect();
    for row in given.chain(spread) {
        network.forward(&row, &mut tape);
        for ((lo, hi), &value) in seen.iter_mut().flatten().zip(tape.values.iter().flatten()) {
            (*lo, *hi) = (lo.min(value), hi.max(value));
        }
    }
    for (lo, hi) in seen.iter_mut().flatten() {
        let more = 0.05 * (*hi - *lo);
        (*lo, *hi) = (*lo - more, *hi + more);
    }
    seen
}

/// Root mean square, over rows, of the derivatives of the network's outputs by the nodes that each
/// layer leads to; of several outputs the largest counts.
fn gains(predictor: &Predictor, rows: &[f64]) -> Vec<Vec<f64>> {
    let network = &predictor.network;
    let maps: Vec<(f64, f64)> = predictor.inputs.iter().map(|r| r.to_unit()).collect();
    let mut tape = network.tape();
    let mut gain: Vec<Vec<f64>> = (network.layers.iter())
        .map(|layer| vec![0.0; layer.outputs])
        .collect();
    let mut most = gain.clone();
    for row in rows.chunks_exact(maps.len()) {
        let x: Vec<f64> = row.iter().zip(&maps).map(|(x, (a, b))| a * x + b).collect();
        network.forward(&x, &mut tape);
        most.iter_mut().for_each(|layer| layer.fill(0.0));
        for output in 0..predictor.outputs.len() {
            if let Some(last) = tape.sensitivity.last_mut() {
                last.fill(0.0);
                last[output] = 1.0;
            }
            network.backward(&mut tape);
            for (most, by) in most
                .iter_mut()
                .flatten()
                .zip(tape.sensitivity[1..].iter().flatten())
            {
                *most = most.max(by.abs());
            }
        }
        for (gain, most) in gain.iter_mut().flatten().zip(most.iter().flatten()) {
            *gain += most * most;
        }
    }
    let rows = (rows.len() / maps.len()).max(1) as f64;
    let roots = |layer: &mut Vec<f64>| layer.iter_mut().for_each(|g| *g = (*g / rows).sqrt());
    gain.iter_mut().for_each(roots);
    gain
}
