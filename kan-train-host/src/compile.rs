//! From a network to tables: the arrow between the rich representation and the poor one.
//!
//! Every input node gets a uniform grid of its own, with as few intervals as the wanted error lets it
//! have. SiLU, adaptive knots, any degree, the ranges of the inputs and the scales of the outputs
//! disappear in the tables; only the *exact* kind keeps SiLU.
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
//! [`kan_core::Model::in_domain`] accepts (with the `exp` of `libm`). It is computed from the records
//! and coefficients as they stand in the blob, and adds up, from the inputs to the outputs:
//! - for each edge, its table's distance from its function: as sampled at every break of both and
//!   between, plus what samples a distance δ apart can miss, δ²/8·max|e″|, with the maximum taken from
//!   the Bernstein coefficients of e″; beyond the grid both are straight lines;
//! - the error of the node's value times the largest slope of the edge, bounded likewise;
//! - the rounding of `f32`: of inputs, position, weights, products and sums. Beyond the grid the
//!   weights of a cubic table grow with the distance and cancel each other, so that their rounding
//!   does not: it is what rules the bound in the margin of a fine grid.
//!
//! Only the rounding of the host's own `f64` is left out, a hundred-millionth of that of `f32`.
//!
//! Hidden nodes get as much margin as the sums that feed them can reach, so that none saturates; where
//! the format does not allow so much, the bound has what saturation can cost.

use std::collections::BTreeMap;
use std::fmt;

use kan_core::blob::{Aligned, LayerMessage, Message, Node};
use kan_core::{Head, LoadError, Scalar};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, Target};
use crate::evaluator::{Evaluator, EvaluatorError};
use crate::network::{Base, Edge, Layer};
use crate::predictor::Predictor;
use crate::spline::{Fit, Grid};

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
    fn degree(self) -> usize {
        match self {
            Self::Cubic | Self::Exact => 3,
            Self::Linear => 1,
            Self::Step => 0,
        }
    }

    /// How far beyond its range an input may go, as a part of it, before it saturates.
    fn input_margin(self) -> f64 {
        match self {
            Self::Cubic | Self::Linear => 0.1,
            // It stands for the network itself, outside its grids too.
            Self::Exact => 1.0,
            // Steps cannot go on linearly.
            Self::Step => 0.0,
        }
    }

    /// The smallest tolerance to aim at when the user does not say: the coarser the tables, the
    /// more a smaller one would cost.
    fn least_tolerance(self) -> f64 {
        match self {
            Self::Cubic | Self::Exact => 3e-7,
            Self::Linear => 1e-4,
            Self::Step => 1e-2,
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

/// What is wanted of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The kind.
    pub tables: Tables,
    /// The root mean square of device − network that is wanted on the rows, as a part of each
    /// output's scale; `None` for a twentieth of the network's own error, within what suits the kind.
    pub tolerance: Option<f64>,
    /// The blob may not be longer.
    pub max_bytes: Option<usize>,
}

/// A blob and what is known about it.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The blob. It has been loaded and run.
    pub bytes: Vec<u8>,
    /// The kind of its tables.
    pub tables: Tables,
    /// Bits of a coefficient.
    pub bits: u8,
    /// For each network output, in its own unit, a bound of |device − network| for every input in
    /// the domain.
    pub error_bound: Vec<f64>,
    /// For each network output, in its own unit, the root mean square of device − network on the
    /// rows.
    pub rms_deviation: Vec<f64>,
    /// Whether that is within the stated tolerance or, where none was stated, a tenth of the
    /// network's own error.
    pub within_tolerance: bool,
    /// Table intervals by layer and input node; 0 where no edge leaves.
    pub intervals: Vec<Vec<usize>>,
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
        tables: Tables,
        /// What they need.
        least: usize,
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

/// The most intervals of a table.
const MOST_INTERVALS: usize = 4096;
/// Half the distance from 1 to the next `f32`: the relative error of one rounding.
const ROUNDING: f64 = 0.5 * f32::EPSILON as f64;
/// A product that underflows loses less.
const UNDERFLOW: f64 = 1e-45;
/// Intervals of margin that a blob may state, beside [`MOST_INTERVALS`].
const WIDEST_MARGIN: f64 = 1e6;
/// The least width of a range, the largest distance from 0, and their least ratio, for grids of
/// [`MOST_INTERVALS`] in `f32` and `f64`.
const MEASURABLE: (f64, f64, f64) = (1e-30, 1e30, 1e-9);
/// So many rows tell how far tables are from their network.
const ENOUGH_ROWS: usize = 1000;
/// The part of the network's own error that tables are to add.
const WANTED: f64 = 1.0 / 20.0;
/// The part beyond which that is worth a warning: it makes an error larger by half a per cent.
const NOTICEABLE: f64 = 1.0 / 10.0;

/// Compiles a network to a blob that is as small as it can be for the tolerance.
///
/// `rows` are inputs to measure on, row-major `[rows, inputs]` in the columns' units: those that the
/// network was trained on. Without any, points all over the ranges of the inputs take their place.
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
    let least = options.tables.least_tolerance();
    let wanted = options.tolerance.unwrap_or((own * WANTED).max(least));
    let noticeable = options.tolerance.unwrap_or(own * NOTICEABLE);
    let mut compiler = Compiler::new(predictor, name, options.tables, rows)?;
    let mut scale = compiler.coarsest_within(wanted)?;
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
                    tables: options.tables,
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
    let error_bound = compiler.bound(&draft);
    let rms_deviation: Vec<f64> = (draft.deviation.iter().zip(&predictor.outputs))
        .map(|(part, output)| part * output.scale.abs())
        .collect();
    Ok(Compiled {
        within_tolerance: draft.worst() <= noticeable,
        bytes: draft.bytes,
        tables: options.tables,
        bits: 32,
        error_bound,
        rms_deviation,
        intervals: draft.intervals,
    })
}

/// A network on its way to tables of one kind.
struct Compiler<'a> {
    predictor: &'a Predictor,
    name: &'a str,
    tables: Tables,
    layers: Vec<Functions<'a>>,
    /// For each layer and output node, how much an error there counts in the network's outputs: root
    /// mean square over the rows, in the outputs' scales.
    gain: Vec<Vec<f64>>,
    /// Inputs to measure on, and the network's outputs for them.
    rows: Vec<f64>,
    truth: Vec<f64>,
    /// The tables tried so far, by layer, input node and number of intervals.
    tried: Vec<Vec<BTreeMap<usize, Fitted>>>,
}

/// Tables that might do.
struct Draft {
    bytes: Vec<u8>,
    intervals: Vec<Vec<usize>>,
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
        tables: Tables,
        rows: &[f64],
    ) -> Result<Self, CompileError> {
        let layers = Functions::of_layers(predictor, tables)?;
        let rows = sample(predictor, rows);
        let tried = layers
            .iter()
            .map(|functions| vec![BTreeMap::new(); functions.layer.inputs()])
            .collect();
        Ok(Self {
            predictor,
            name,
            tables,
            gain: gains(predictor, &rows),
            truth: predictor.eval(&rows),
            layers,
            rows,
            tried,
        })
    }

    /// The scale of the edges' shares, as a part of the outputs' scales, that gives the coarsest
    /// tables within `wanted` of the network; the finest that are of use, if none are.
    fn coarsest_within(&mut self, wanted: f64) -> Result<f64, CompileError> {
        // The shares are bounds of errors that on the rows are less: so begin above.
        let mut scale = 16.0 * wanted;
        let mut worst = self.draft(scale)?.worst();
        let mut coarse = None;
        let mut best = (worst, scale);
        while worst > wanted {
            if scale < best.1 / 16.0 {
                return Ok(best.1);
            }
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
        let (layers, tables) = (&self.layers, self.tables);
        let intervals: Vec<Vec<usize>> = (self.tried.par_iter_mut().zip(layers).zip(&allowance))
            .map(|((nodes, functions), allowance)| {
                let nodes = nodes.par_iter_mut().enumerate();
                nodes
                    .map(|(i, tried)| functions.fewest_intervals(i, tables, allowance, tried))
                    .collect()
            })
            .collect();
        let bytes = self.encode(&intervals)?;
        let deviation = self.deviation(&bytes)?;
        Ok(Draft {
            bytes,
            intervals,
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

    fn encode(&self, intervals: &[Vec<usize>]) -> Result<Vec<u8>, CompileError> {
        let narrow = |what: &str, n: usize| {
            u16::try_from(n).map_err(|_| CompileError::Shape(format!("{n} {what}")))
        };
        let layers: Vec<Table> = (0..self.layers.len())
            .map(|l| self.layers[l].table(self.tables, &self.fitted(l, &intervals[l])))
            .collect();
        let messages: Vec<LayerMessage<'_>> = layers
            .iter()
            .map(|table| {
                Ok(LayerMessage {
                    degree: self.tables.degree() as u8,
                    scalar: Scalar::F32,
                    residual: self.tables == Tables::Exact,
                    outputs: narrow("nodes in a layer", table.bias.len())?,
                    nodes: Aligned::of(&table.nodes),
                    bias: Aligned::of(&table.bias),
                    targets: Aligned::of(&table.targets),
                    coefficients: Aligned::of(&table.coefficients),
                    base: Aligned::of(&table.base),
                })
            })
            .collect::<Result<_, CompileError>>()?;
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
            layers: &messages,
        };
        let mut bytes = vec![0; message.encoded_len()];
        message
            .encode(&mut bytes)
            .ok_or_else(|| CompileError::Shape(format!("{:?}", self.predictor.network.width())))?;
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
        let mean = |square: f64| (square / rows.max(1) as f64).sqrt();
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
        let reach = &self.layers[0].reach;
        // The device gets the inputs rounded.
        let mut error: Vec<f64> = reach
            .iter()
            .map(|(low, high)| ROUNDING * low.abs().max(high.abs()))
            .collect();
        for (l, functions) in self.layers.iter().enumerate() {
            let fitted = self.fitted(l, &draft.intervals[l]);
            error = functions.errors(self.tables, &fitted, &error);
        }
        error
    }
}

/// Whether `f32` can count intervals between `lo` and `hi`.
fn is_measurable(lo: f64, hi: f64) -> bool {
    let size = lo.abs().max(hi.abs());
    let (least, most, part) = MEASURABLE;
    hi - lo >= least.max(part * size) && size <= most
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

/// The edge functions of one layer in the units of the device, with what is known about them.
struct Functions<'a> {
    layer: &'a Layer,
    base: Base,
    /// For each input node the map from its unit on the device to the network's.
    to_network: Vec<(f64, f64)>,
    /// For each output node what the network's sums are multiplied by, and what is added.
    scale: Vec<(f64, f64)>,
    /// For each input node the range of its table.
    domain: Vec<(f64, f64)>,
    /// For each input node what it can reach: of an input, all that `in_domain` may accept.
    reach: Vec<(f64, f64)>,
    /// Whether the nodes are the inputs.
    is_first: bool,
    /// By edge: smallest and largest value and largest slope over the reach.
    extent: Vec<Option<Extent>>,
}

/// Bounds of a function.
#[derive(Clone, Copy)]
struct Extent {
    low: f64,
    high: f64,
    slope: f64,
}

impl Extent {
    fn magnitude(&self) -> f64 {
        self.low.abs().max(self.high.abs())
    }

    /// Bounds of the function with these values and slopes that between `breaks` has a second
    /// derivative of at most `bend(a, b)` on a..b.
    fn of(breaks: &[f64], at: impl Fn(f64) -> (f64, f64), bend: impl Fn(f64, f64) -> f64) -> Self {
        let mut extent = Self {
            low: f64::INFINITY,
            high: f64::NEG_INFINITY,
            slope: 0.0,
        };
        for pair in breaks.windows(2) {
            let bend = bend(pair[0], pair[1]);
            let gap = (pair[1] - pair[0]) / SAMPLES;
            let (missed, steeper) = (gap * gap / 8.0 * bend, gap / 2.0 * bend);
            for x in within(pair[0], pair[1]) {
                let (value, slope) = at(x);
                extent.low = extent.low.min(value - missed);
                extent.high = extent.high.max(value + missed);
                extent.slope = extent.slope.max(slope.abs() + steeper);
            }
        }
        extent
    }
}

/// Between two breaks a function is sampled at the ends of so many gaps.
const SAMPLES: f64 = 8.0;

/// The ends of the gaps.
fn within(a: f64, b: f64) -> impl Iterator<Item = f64> {
    (0..=SAMPLES as u32).map(move |k| a + (b - a) * f64::from(k) / SAMPLES)
}

/// All `breaks` inside `reach`, and its ends, in increasing order.
fn sorted(breaks: impl Iterator<Item = f64>, reach: (f64, f64)) -> Vec<f64> {
    let inside = breaks.filter(|&x| reach.0 < x && x < reach.1);
    let mut sorted: Vec<f64> = inside.chain([reach.0, reach.1]).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.dedup();
    if sorted.len() == 1 {
        sorted.push(reach.1);
    }
    sorted
}

impl<'a> Functions<'a> {
    fn of_layers(predictor: &'a Predictor, tables: Tables) -> Result<Vec<Self>, CompileError> {
        let network = &predictor.network;
        let last = network.layers.len() - 1;
        let mut reach = Vec::new();
        let mut layers: Vec<Self> = Vec::with_capacity(last + 1);
        for (l, layer) in network.layers.iter().enumerate() {
            let to_network: Vec<(f64, f64)> = match l {
                0 => predictor.inputs.iter().map(|r| r.to_unit()).collect(),
                _ => vec![(1.0, 0.0); layer.inputs()],
            };
            let scale = (0..layer.outputs)
                .map(|j| {
                    let output = (l == last).then(|| predictor.outputs[j]);
                    let (offset, scale) = output.map_or((0.0, 1.0), |s| (s.offset, s.scale));
                    (scale, offset + scale * layer.bias[j])
                })
                .collect();
            let grids = layer.grids.iter().zip(&to_network);
            let mut domain: Vec<(f64, f64)> = grids
                .map(|(grid, (a, b))| ((grid.lo() - b) / a, (grid.hi() - b) / a))
                .collect();
            if l == 0 {
                reach = domain
                    .iter()
                    .enumerate()
                    .map(|(i, &(lo, hi))| {
                        let range = predictor.inputs[i];
                        let beyond = tables.input_margin() * (range.hi - range.lo);
                        // A margin is as wide on both sides. What f32 makes of the ends lies inside.
                        let beyond = (lo - range.lo).max(range.hi - hi).max(0.0) + beyond;
                        let slack = 16.0 * ROUNDING * (lo.abs() + hi.abs());
                        (lo - beyond - slack, hi + beyond + slack)
                    })
                    .collect();
            }
            if tables == Tables::Step {
                // Steps do not go on linearly. Their grid must not leave the reach by rounding.
                domain.clone_from(&reach);
                for (lo, hi) in &mut domain {
                    let slack = 8.0 * ROUNDING * (lo.abs() + hi.abs()) * f64::from(l == 0);
                    (*lo, *hi) = (*lo + slack, *hi - slack);
                }
            }
            for (i, &(lo, hi)) in domain.iter().enumerate() {
                if layer.is_used(i) && !is_measurable(lo, hi) {
                    let what = match l {
                        0 => format!("column '{}'", predictor.schema.inputs[i]),
                        _ => format!("hidden node {l}:{i}"),
                    };
                    return Err(CompileError::Range { what, lo, hi });
                }
            }
            let mut functions = Self {
                layer,
                base: network.base,
                to_network,
                scale,
                domain,
                reach,
                is_first: l == 0,
                extent: Vec::new(),
            };
            functions.extent = functions.extents();
            reach = functions.sums();
            layers.push(functions);
        }
        Ok(layers)
    }

    /// Value and slope of an edge at `x`, on the device's scale; `with_base` says whether SiLU
    /// takes part.
    fn edge(&self, i: usize, j: usize, edge: &Edge, x: f64, with_base: bool) -> (f64, f64) {
        let (a, b) = self.to_network[i];
        let grid = &self.layer.grids[i];
        let z = a * x + b;
        let local = grid.local(z);
        let coef = &edge.coef[local.first..=local.first + grid.degree()];
        let mut value: f64 = coef.iter().zip(&local.value).map(|(c, v)| c * v).sum();
        let mut slope: f64 = coef.iter().zip(&local.slope).map(|(c, s)| c * s).sum();
        if with_base {
            let (base, base_slope) = self.base.at(grid, z);
            value += edge.scale_base * base;
            slope += edge.scale_base * base_slope;
        }
        let (scale, _) = self.scale[j];
        (scale * value, scale * a * slope)
    }

    /// Second derivative of an edge at `x` inside its grid.
    fn curvature(&self, i: usize, j: usize, edge: &Edge, x: f64, with_base: bool) -> f64 {
        let (a, b) = self.to_network[i];
        let grid = &self.layer.grids[i];
        let z = a * x + b;
        let (first, basis) = grid.curvature(z);
        let mut curvature: f64 = edge.coef[first..=first + grid.degree()]
            .iter()
            .zip(&basis)
            .map(|(c, d)| c * d)
            .sum();
        if with_base {
            curvature += edge.scale_base * self.base.curvature_at(grid, z);
        }
        self.scale[j].0 * a * a * curvature
    }

    /// A bound of the second derivative, between the neighbouring breaks `a` and `b`, of an edge or,
    /// with `table`, of the edge less its table.
    ///
    /// It is a polynomial of degree at most 3 (networks have degree 5 at most) and a multiple of
    /// silu″, which differs from its cubic interpolant through four even places by at most
    /// |silu⁗″|/4!/81·δ⁴ < 8e-4·δ⁴. The Bernstein coefficients of a cubic bound it.
    fn bend(
        &self,
        (i, j, edge): (usize, usize, &Edge),
        table: Option<(&Grid, &[f64])>,
        with_base: bool,
        (a, b): (f64, f64),
    ) -> f64 {
        // Not at the breaks, where it may jump; that changes a cubic by less than 2 %.
        let at = |part: f64| {
            let x = a + part * (b - a);
            let table = table.map_or(0.0, |(grid, coef)| {
                let (first, basis) = grid.curvature(x);
                let coef = &coef[first..=first + grid.degree()];
                coef.iter().zip(&basis).map(|(c, d)| c * d).sum()
            });
            self.curvature(i, j, edge, x, with_base) - table
        };
        let [p, q, r, s] = [1e-3, 1.0 / 3.0, 2.0 / 3.0, 1.0 - 1e-3].map(at);
        let inner = [
            (-5.0 * p + 18.0 * q - 9.0 * r + 2.0 * s) / 6.0,
            (2.0 * p - 9.0 * q + 18.0 * r - 5.0 * s) / 6.0,
        ];
        let cubic = [p, inner[0], inner[1], s]
            .iter()
            .map(|c| c.abs())
            .fold(0.0, f64::max);
        let (factor, offset) = self.to_network[i];
        let grid = &self.layer.grids[i];
        let middle = factor * 0.5 * (a + b) + offset;
        let silu = if with_base && self.base == Base::Silu && grid.clamp(middle) == middle {
            let unit = 2.0 * factor / (grid.hi() - grid.lo());
            let delta = unit * (b - a);
            (self.scale[j].0 * edge.scale_base).abs() * unit * unit * 8e-4 * delta.powi(4)
        } else {
            0.0
        };
        1.02 * cubic + silu
    }

    /// The breaks of node `i`'s own grid, in the unit of the device.
    fn breaks(&self, i: usize) -> impl Iterator<Item = f64> {
        let (a, b) = self.to_network[i];
        self.layer.grids[i]
            .breaks()
            .iter()
            .map(move |z| (z - b) / a)
    }

    fn extents(&self) -> Vec<Option<Extent>> {
        let mut extents = vec![None; self.layer.edges.len()];
        for i in 0..self.layer.inputs() {
            let breaks = sorted(self.breaks(i), self.reach[i]);
            for (j, edge) in self.layer.edges_from(i) {
                extents[i * self.layer.outputs + j] = Some(Extent::of(
                    &breaks,
                    |x| self.edge(i, j, edge, x, true),
                    |a, b| self.bend((i, j, edge), None, true, (a, b)),
                ));
            }
        }
        extents
    }

    /// What the sums of the layer can reach.
    fn sums(&self) -> Vec<(f64, f64)> {
        let outputs = self.layer.outputs;
        (0..outputs)
            .map(|j| {
                let edges = self.extent.iter().skip(j).step_by(outputs).flatten();
                edges.fold((self.scale[j].1, self.scale[j].1), |(low, high), e| {
                    (low + e.low, high + e.high)
                })
            })
            .collect()
    }

    /// The fewest intervals that keep all edges of node `i` within their allowances; if none do, the
    /// fewest that no more intervals improve on. Their tables are then among those `tried`.
    fn fewest_intervals(
        &self,
        i: usize,
        tables: Tables,
        allowance: &[f64],
        tried: &mut BTreeMap<usize, Fitted>,
    ) -> usize {
        let edges: Vec<(usize, &Edge)> = self.layer.edges_from(i).collect();
        if edges.is_empty() {
            return 0;
        }
        let (lo, hi) = self.domain[i];
        let mut excess = |intervals: usize| {
            let fitted = tried
                .entry(intervals)
                .or_insert_with(|| self.fit(i, &edges, tables, TableGrid::new(lo, hi, intervals)));
            let each = edges.iter().zip(&fitted.distance);
            each.map(|((j, _), distance)| distance / allowance[*j])
                .fold(0.0, f64::max)
        };
        // On the network's own breaks a cubic table is exact but for SiLU and rounding.
        let own = &self.layer.grids[i];
        let keeps = own.is_uniform() && own.degree() == 3 && tables.degree() == 3;
        let doubled = |first: usize| (0..).map(move |k| first << k);
        let up_to_most = |n: &usize| *n <= MOST_INTERVALS;
        let mut ladder: Vec<usize> = doubled(1).take_while(up_to_most).collect();
        if keeps {
            ladder.extend(doubled(own.intervals()).take_while(up_to_most));
            ladder.sort_unstable();
            ladder.dedup();
        }
        let narrowest = own.breaks().windows(2).map(|p| p[1] - p[0]);
        let resolved = (own.hi() - own.lo()) / narrowest.fold(f64::INFINITY, f64::min);
        let (mut coarse, mut fine) = (0, None);
        let mut best = (f64::INFINITY, 1);
        for n in ladder {
            let now = excess(n);
            if now <= 1.0 {
                fine = Some(n);
                break;
            }
            // Once they show the narrowest interval, finer tables stop helping only where the rounding
            // of the coefficients rules.
            if now < 0.9 * best.0 {
                best = (now, n);
            } else if n >= 4 * best.1 && n as f64 > f64::max(64.0, 2.0 * resolved) {
                break;
            }
            coarse = n;
        }
        let Some(mut fine) = fine else {
            return best.1;
        };
        while fine - coarse > 1 + fine / 16 {
            let between = (coarse + fine) / 2;
            if excess(between) <= 1.0 {
                fine = between;
            } else {
                coarse = between;
            }
        }
        // Its own breaks are worth some intervals more: there the slopes at the ends are right too, and
        // with them all of the margins.
        let own = own.intervals();
        if keeps && (fine..=fine + fine / 4).contains(&own) && excess(own) <= 1.0 {
            fine = own;
        }
        fine
    }

    /// Fits the edges of node `i` on one grid.
    fn fit(&self, i: usize, edges: &[(usize, &Edge)], tables: Tables, grid: TableGrid) -> Fitted {
        let with_base = tables != Tables::Exact;
        let function = |j: usize, edge: &Edge, x: f64| self.edge(i, j, edge, x, with_base).0;
        let mut fitted = Fitted {
            grid,
            coefficients: Vec::with_capacity(edges.len()),
            distance: Vec::with_capacity(edges.len()),
        };
        if tables == Tables::Step {
            for &(j, edge) in edges {
                let (steps, distance): (Vec<f32>, Vec<f64>) = (0..grid.intervals)
                    .map(|k| {
                        let (least, most) = within(grid.at(k as f64), grid.at((k + 1) as f64))
                            .map(|x| function(j, edge, x))
                            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), y| {
                                (a.min(y), b.max(y))
                            });
                        ((0.5 * (least + most)) as f32, 0.5 * (most - least))
                    })
                    .unzip();
                fitted.coefficients.push(steps);
                fitted
                    .distance
                    .push(distance.into_iter().fold(0.0, f64::max));
            }
            return fitted;
        }
        let spline = grid.spline(tables.degree());
        let fit = Fit::new(&spline);
        let ends = (spline.lo(), spline.hi());
        let breaks = sorted(self.breaks(i).chain(grid.breaks()), ends);
        for &(j, edge) in edges {
            let rounded: Vec<f32> = (fit.fit(|x| function(j, edge, x)).iter())
                .map(|&c| c as f32)
                .collect();
            let coef = wide(&rounded);
            let distance = breaks
                .windows(2)
                .flat_map(|pair| within(pair[0], pair[1]))
                .map(|x| (function(j, edge, x) - spline.eval(&coef, x)).abs());
            fitted.distance.push(distance.fold(0.0, f64::max));
            fitted.coefficients.push(rounded);
        }
        fitted
    }

    /// The node's grid as it stands in the blob.
    fn record(&self, i: usize, grid: &TableGrid) -> Node {
        let (low, high) = self.reach[i];
        let step = f64::from(grid.inv_step);
        let (left, right) = (grid.at(0.0) - low, high - grid.at(grid.intervals as f64));
        let margin = if self.is_first {
            // Nothing outside the reach may be accepted, rounding included.
            let most = (left.min(right) * step).min(WIDEST_MARGIN);
            let size = grid.intervals as f64 + most;
            ((most - 8.0 * ROUNDING * size).max(0.0) as f32).next_down()
        } else {
            let most = left.max(right) * step;
            let size = grid.intervals as f64 + most.max(0.0);
            ((most + 8.0 * ROUNDING * size).min(WIDEST_MARGIN) as f32).next_up()
        };
        Node {
            lo: grid.lo,
            inv_step: grid.inv_step,
            margin: margin.max(0.0),
            intervals: grid.intervals as u16,
            edges: self.layer.edges_from(i).count() as u16,
        }
    }

    /// The tables of the layer, given those of its nodes.
    fn table(&self, tables: Tables, fitted: &[Option<&Fitted>]) -> Table {
        let mut table = Table {
            bias: self.scale.iter().map(|&(_, bias)| bias as f32).collect(),
            ..Table::default()
        };
        for (i, fitted) in fitted.iter().enumerate() {
            let Some(fitted) = fitted else {
                // An input that nothing reads; its record still has to be valid.
                let node = Node {
                    lo: 0.0,
                    inv_step: 1.0,
                    margin: 0.0,
                    intervals: 1,
                    edges: 0,
                };
                table.nodes.push(node.pack());
                continue;
            };
            table.nodes.push(self.record(i, &fitted.grid).pack());
            for row in 0..fitted.coefficients[0].len() {
                let of_edges = fitted.coefficients.iter().map(|c| c[row]);
                table.coefficients.extend(of_edges);
            }
            for (j, edge) in self.layer.edges_from(i) {
                table.targets.push(j as u16);
                if tables == Tables::Exact {
                    table.base.push((self.scale[j].0 * edge.scale_base) as f32);
                }
            }
        }
        table
    }

    /// Bounds of the errors of the layer's sums, given those of its inputs.
    fn errors(&self, tables: Tables, fitted: &[Option<&Fitted>], error: &[f64]) -> Vec<f64> {
        let outputs = self.layer.outputs;
        let residual = tables == Tables::Exact;
        // Largest magnitude of each sum on its way, the parts of an edge one by one.
        let mut size: Vec<f64> = self.scale.iter().map(|(_, bias)| bias.abs()).collect();
        let mut bound: Vec<f64> = size.iter().map(|bias| ROUNDING * bias).collect();
        let mut additions = vec![0.0; outputs];
        for (i, fitted) in fitted.iter().enumerate() {
            let Some(fitted) = fitted else { continue };
            let grid = &fitted.grid;
            let record = self.record(i, grid);
            let (n, margin) = (f64::from(record.intervals), f64::from(record.margin));
            let step = f64::from(grid.inv_step);
            // How far beyond the end of its table a value can be.
            let (low, high) = self.reach[i];
            let covered = match tables {
                Tables::Step => 0.0,
                _ if self.is_first => f64::INFINITY, // the margin is the end of the domain
                _ => margin * (1.0 - 8.0 * ROUNDING),
            };
            let beyond = (grid.at(-covered) - low)
                .max(high - grid.at(n + covered))
                .max(0.0);
            let spline = (tables != Tables::Step).then(|| grid.spline(tables.degree()));
            let seen = (low.max(grid.at(-margin)), high.min(grid.at(n + margin)));
            let breaks = sorted(self.breaks(i).chain(grid.breaks()), seen);
            for (k, (j, edge)) in self.layer.edges_from(i).enumerate() {
                let Some(extent) = self.extent[i * outputs + j] else {
                    continue;
                };
                let coef = wide(&fitted.coefficients[k]);
                let largest = coef.iter().map(|c| c.abs()).fold(0.0, f64::max);
                // In intervals, the largest slope of a spline is the largest difference of
                // neighbouring coefficients.
                let steepest = match tables {
                    Tables::Step => extent.slope / step,
                    _ => coef
                        .windows(2)
                        .map(|c| (c[1] - c[0]).abs())
                        .fold(0.0, f64::max),
                };
                let slope = extent.slope.max(steepest * step);
                let distance = match &spline {
                    Some(spline) => Extent::of(
                        &breaks,
                        |x| {
                            let (value, slope) = self.edge(i, j, edge, x, !residual);
                            (value - spline.eval(&coef, x), slope)
                        },
                        |a, b| {
                            let table = Some((spline, &coef[..]));
                            self.bend((i, j, edge), table, !residual, (a, b))
                        },
                    )
                    .magnitude(),
                    None => (0..grid.intervals)
                        .map(|cell| {
                            let ends = (grid.at(cell as f64), grid.at((cell + 1) as f64));
                            let breaks = sorted(self.breaks(i), ends);
                            Extent::of(
                                &breaks,
                                |x| {
                                    let (value, slope) = self.edge(i, j, edge, x, true);
                                    (value - coef[cell], slope)
                                },
                                |a, b| self.bend((i, j, edge), None, true, (a, b)),
                            )
                            .magnitude()
                        })
                        .fold(0.0, f64::max),
                };
                // Two roundings of the position, one of its offset from the last interval.
                let position = 4.0 * ROUNDING * (n + margin) * steepest;
                let ends = |rows: usize| {
                    let ends = coef.iter().take(rows).chain(coef.iter().rev().take(rows));
                    ends.map(|c| c.abs()).fold(0.0, f64::max)
                };
                // Weights, their products with coefficients, and the partial sums of those; on the
                // grid, and beyond it where the weights are up to `margin`/2 (cubic; each of two, and
                // rounded when it is added) or 1 + `margin` (linear).
                let terms = match tables {
                    Tables::Cubic | Tables::Exact => {
                        14.0 * largest + (2.0 + 3.0 * margin) * ends(3)
                    }
                    Tables::Linear => 3.0 * largest + 4.0 * margin * ends(2),
                    Tables::Step => 0.0,
                };
                let mut rounding = ROUNDING * terms + 16.0 * UNDERFLOW;
                additions[j] += (tables.degree() + 1) as f64;
                size[j] += extent.magnitude();
                if residual {
                    let factor = (self.scale[j].0 * edge.scale_base).abs();
                    let reach = 2.0 * margin / n;
                    // silu(z), its slope and its tangent, each rounded operation of `Node::base`,
                    // the factor and the product.
                    rounding += ROUNDING * factor * (18.0 + 22.0 * reach);
                    // The device's −1 … 1 is its own grid, whose ends are rounded.
                    rounding += factor * self.shift(i, grid);
                    additions[j] += 1.0;
                    // The spline comes first, without the base function, which is at most that.
                    size[j] += factor * (1.0 + reach);
                }
                bound[j] += distance + slope * (error[i] + beyond) + position + rounding;
            }
        }
        for ((bound, size), additions) in bound.iter_mut().zip(&size).zip(&additions) {
            // The last factor is for products of roundings and for the errors in the sums.
            *bound = (*bound + additions * ROUNDING * size) * (1.0 + 1e-4);
        }
        bound
    }

    /// The most by which z on the device's grid differs from z on the network's, which SiLU turns into
    /// no more, anywhere in the reach.
    fn shift(&self, i: usize, table: &TableGrid) -> f64 {
        let (a, b) = self.to_network[i];
        let own = &self.layer.grids[i];
        let on = |x: f64, lo: f64, hi: f64| 2.0 * (x - lo) / (hi - lo) - 1.0;
        let (lo, hi) = (table.at(0.0), table.at(table.intervals as f64));
        let (low, high) = self.reach[i];
        [low, high]
            .map(|x| (on(a * x + b, own.lo(), own.hi()) - on(x, lo, hi)).abs())
            .into_iter()
            .fold(0.0, f64::max)
    }
}

fn wide(coefficients: &[f32]) -> Vec<f64> {
    coefficients.iter().map(|&c| f64::from(c)).collect()
}

/// A table's grid, exactly as the device will have it.
#[derive(Clone, Copy)]
struct TableGrid {
    lo: f32,
    inv_step: f32,
    intervals: usize,
}

impl TableGrid {
    fn new(lo: f64, hi: f64, intervals: usize) -> Self {
        Self {
            lo: lo as f32,
            inv_step: (intervals as f64 / (hi - lo)) as f32,
            intervals,
        }
    }

    /// The place `t` intervals from the left end.
    fn at(&self, t: f64) -> f64 {
        f64::from(self.lo) + t / f64::from(self.inv_step)
    }

    fn breaks(&self) -> impl Iterator<Item = f64> {
        (0..=self.intervals).map(|k| self.at(k as f64))
    }

    /// The same grid for splines in `f64`.
    fn spline(&self, degree: usize) -> Grid {
        let (lo, hi) = (self.at(0.0), self.at(self.intervals as f64));
        Grid::uniform(degree, lo, hi, self.intervals)
    }
}

/// The tables of one node.
#[derive(Clone)]
struct Fitted {
    grid: TableGrid,
    /// By edge and row.
    coefficients: Vec<Vec<f32>>,
    /// By edge, the sampled distance from its function on the grid.
    distance: Vec<f64>,
}

/// The tables of one layer as they go into the blob.
#[derive(Default)]
struct Table {
    nodes: Vec<[u32; 4]>,
    bias: Vec<f32>,
    targets: Vec<u16>,
    coefficients: Vec<f32>,
    base: Vec<f32>,
}
