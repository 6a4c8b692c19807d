//! From a network to tables: the arrow between the rich representation and the poor one.
//!
//! Every input node gets a uniform grid of its own, with as many intervals as its edges need to stay
//! within their share of the wanted error. SiLU, adaptive knots, any degree, the ranges of the
//! inputs and the scales of the outputs disappear in the tables; only the *exact* kind keeps SiLU.
//!
//! # The error bound
//!
//! For every output a bound of |device − network| is stated that holds for all inputs that
//! [`kan_core::Model::in_domain`] accepts. It adds up, from the inputs to the outputs:
//! - for each edge, its table's distance from its function, as sampled at every knot of both and
//!   between, plus what the sampling can miss: δ²/8·max|e″| over a gap δ;
//! - beyond the grid, where both are straight lines, the difference of their slopes;
//! - the error of the node's value times the largest slope of the edge;
//! - the rounding of `f32`: of inputs, coefficients, position, weights and sums.
//!
//! Hidden nodes get as much margin as the sums that feed them can reach, so that none saturates.

use std::fmt;

use kan_core::blob::{Aligned, LayerMessage, Message, Node};
use kan_core::{Head, Scalar};
use serde::{Deserialize, Serialize};

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
    /// How much the edges into a node may err together, as a part of what its sum covers or of the
    /// output's scale; `None` for a fiftieth of the network's own error, within what suits the kind.
    pub tolerance: Option<f64>,
    /// The blob may not be longer.
    pub max_bytes: Option<usize>,
}

/// A blob and what is known about it.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The blob.
    pub bytes: Vec<u8>,
    /// The kind of its tables.
    pub tables: Tables,
    /// Bits of a coefficient.
    pub bits: u8,
    /// For each network output, in its own unit, a bound of |device − network| for every input in
    /// the domain.
    pub error_bound: Vec<f64>,
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
    /// The blob does not load: a number is beyond `f32`, or a sum could be.
    #[error("the compiled tables do not load: {0}")]
    Rejected(kan_core::LoadError),
}

/// The most intervals of a table.
const MOST_INTERVALS: usize = 4096;
/// Half the distance from 1 to the next `f32`: the relative error of one rounding.
const ROUNDING: f64 = 0.5 * f32::EPSILON as f64;
/// What the roundings of the four weights and of their products can add up to, in units of
/// [`ROUNDING`] and the largest coefficient: at most 2·3/6 for the outer weights, 2·5·2/3 for the inner
/// ones, and 1 for the products.
const WEIGHT_ROUNDINGS: f64 = 9.0;
/// Intervals of margin that a blob may state.
const WIDEST_MARGIN: f64 = 65_536.0;

/// Compiles a network to a blob.
pub fn compile(
    predictor: &Predictor,
    name: &str,
    options: &Options,
) -> Result<Compiled, CompileError> {
    let mut tolerance = options
        .tolerance
        .unwrap_or((predictor.error / 50.0).clamp(options.tables.least_tolerance(), 0.05));
    let mut compiled = compile_within(predictor, name, options.tables, tolerance)?;
    let Some(limit) = options.max_bytes else {
        return Ok(compiled);
    };
    while compiled.bytes.len() > limit {
        tolerance *= 2.0;
        let next = compile_within(predictor, name, options.tables, tolerance)?;
        let coarsest = next.intervals.iter().flatten().all(|&n| n <= 1);
        if next.bytes.len() > limit && (coarsest || tolerance > 1e6) {
            let (tables, least) = (options.tables, next.bytes.len());
            return Err(CompileError::TooLarge {
                limit,
                tables,
                least,
            });
        }
        compiled = next;
    }
    Ok(compiled)
}

fn compile_within(
    predictor: &Predictor,
    name: &str,
    tables: Tables,
    tolerance: f64,
) -> Result<Compiled, CompileError> {
    let layers = Functions::of_layers(predictor, tables);
    let allowance = allowances(&layers, predictor, tolerance);
    let mut error: Vec<f64> = predictor
        .inputs
        .iter()
        .map(|range| ROUNDING * range.lo.abs().max(range.hi.abs()))
        .collect();
    let mut compiled = Vec::with_capacity(layers.len());
    for (layer, allowance) in layers.iter().zip(&allowance) {
        let (table, next) = layer.compile(tables, allowance, &error);
        error = next;
        compiled.push(table);
    }
    let narrow = |what: &str, n: usize| {
        u16::try_from(n).map_err(|_| CompileError::Shape(format!("{n} {what}")))
    };
    let messages: Vec<LayerMessage<'_>> = compiled
        .iter()
        .map(|table| {
            Ok(LayerMessage {
                degree: tables.degree() as u8,
                scalar: Scalar::F32,
                residual: tables == Tables::Exact,
                outputs: narrow("nodes in a layer", table.bias.len())?,
                nodes: Aligned::of(&table.nodes),
                bias: Aligned::of(&table.bias),
                targets: Aligned::of(&table.targets),
                coefficients: Aligned::of(&table.coefficients),
                base: Aligned::of(&table.base),
            })
        })
        .collect::<Result<_, CompileError>>()?;
    let head = match predictor.labels().len() {
        0 => Head::Identity,
        2 => Head::Sigmoid,
        _ => Head::Softmax,
    };
    let output_names = match predictor.labels() {
        [] => predictor.schema.target.names(),
        labels => labels,
    };
    let message = Message {
        name,
        head,
        input_names: &predictor.schema.inputs.join("\n"),
        output_names: &output_names.join("\n"),
        layers: &messages,
    };
    let mut bytes = vec![0; message.encoded_len()];
    message
        .encode(&mut bytes)
        .ok_or_else(|| CompileError::Shape(format!("{:?}", predictor.network.width())))?;
    Ok(Compiled {
        bytes,
        tables,
        bits: 32,
        error_bound: error,
        intervals: compiled
            .iter()
            .map(|table| table.intervals.clone())
            .collect(),
    })
}

/// The edge functions of one layer in the units of the device, with what is known about them.
struct Functions<'a> {
    layer: &'a Layer,
    base: Base,
    /// For each input node the map from its unit on the device to the network's.
    to_network: Vec<(f64, f64)>,
    /// For each output node what the network's sums are multiplied by, and what is added.
    scale: Vec<(f64, f64)>,
    /// For each input node its range on the device: the grid, and the part that can be reached.
    domain: Vec<Domain>,
    /// By edge: smallest and largest value and largest slope where the node can be.
    extent: Vec<Option<Extent>>,
}

#[derive(Clone, Copy)]
struct Domain {
    lo: f64,
    hi: f64,
    /// Lowest and highest value that can be reached.
    reach: (f64, f64),
}

#[derive(Clone, Copy)]
struct Extent {
    low: f64,
    high: f64,
    slope: f64,
}

impl<'a> Functions<'a> {
    fn of_layers(predictor: &'a Predictor, tables: Tables) -> Vec<Self> {
        let network = &predictor.network;
        let last = network.layers.len() - 1;
        let margin = tables.input_margin();
        let mut reach: Vec<(f64, f64)> = predictor
            .inputs
            .iter()
            .map(|range| {
                let beyond = margin * (range.hi - range.lo);
                (range.lo - beyond, range.hi + beyond)
            })
            .collect();
        let mut layers: Vec<Self> = Vec::with_capacity(last + 1);
        for (l, layer) in network.layers.iter().enumerate() {
            let to_network: Vec<(f64, f64)> = match l {
                0 => predictor
                    .inputs
                    .iter()
                    .map(|range| range.to_unit())
                    .collect(),
                _ => vec![(1.0, 0.0); layer.inputs()],
            };
            let scale = (0..layer.outputs)
                .map(|j| {
                    let output = (l == last).then(|| predictor.outputs[j]);
                    let (offset, scale) = output.map_or((0.0, 1.0), |s| (s.offset, s.scale));
                    (scale, offset + scale * layer.bias[j])
                })
                .collect();
            let domain = layer
                .grids
                .iter()
                .zip(&to_network)
                .zip(&reach)
                .map(|((grid, (a, b)), &reach)| match tables {
                    Tables::Step => Domain {
                        lo: reach.0,
                        hi: reach.1,
                        reach,
                    },
                    _ => Domain {
                        lo: (grid.lo() - b) / a,
                        hi: (grid.hi() - b) / a,
                        reach,
                    },
                })
                .collect();
            let mut functions = Self {
                layer,
                base: network.base,
                to_network,
                scale,
                domain,
                extent: Vec::new(),
            };
            functions.extent = functions.extents();
            reach = functions.reach();
            layers.push(functions);
        }
        layers
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

    /// Points over the grid of node `i`: its breaks, those of a table with `intervals` on `table`,
    /// and seven between any two.
    fn points(&self, i: usize, table: &[f64]) -> Vec<f64> {
        let (a, b) = self.to_network[i];
        let Domain { lo, hi, .. } = self.domain[i];
        let own = self.layer.grids[i].breaks().iter().map(|z| (z - b) / a);
        let mut breaks: Vec<f64> = own
            .chain(table.iter().copied())
            .filter(|x| (lo..=hi).contains(x))
            .collect();
        breaks.extend([lo, hi]);
        breaks.sort_by(f64::total_cmp);
        breaks.dedup();
        let mut points = Vec::with_capacity(8 * breaks.len());
        for pair in breaks.windows(2) {
            points.extend((0..8).map(|k| pair[0] + (pair[1] - pair[0]) * f64::from(k) / 8.0));
        }
        points.push(hi);
        points
    }

    fn extents(&self) -> Vec<Option<Extent>> {
        let mut extents = vec![None; self.layer.edges.len()];
        for i in 0..self.layer.inputs() {
            if !self.layer.is_used(i) {
                continue;
            }
            let (low, high) = self.domain[i].reach;
            let points = self.points(i, &[]);
            for (j, edge) in self.layer.edges_from(i) {
                let mut extent = Extent {
                    low: f64::INFINITY,
                    high: f64::NEG_INFINITY,
                    slope: 0.0,
                };
                let mut bend = 0.0_f64;
                for &x in points.iter().chain(&[low, high]) {
                    let (value, slope) = self.edge(i, j, edge, x, true);
                    extent.low = extent.low.min(value);
                    extent.high = extent.high.max(value);
                    extent.slope = extent.slope.max(slope.abs());
                    bend = bend.max(self.curvature(i, j, edge, x, true).abs());
                }
                let gap = points.windows(2).map(|p| p[1] - p[0]).fold(0.0, f64::max);
                let missed = gap * gap / 8.0 * bend;
                extent.low -= missed;
                extent.high += missed;
                extent.slope += gap / 2.0 * bend;
                extents[i * self.layer.outputs + j] = Some(extent);
            }
        }
        extents
    }

    /// What the sums of the layer can reach.
    fn reach(&self) -> Vec<(f64, f64)> {
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

    /// Makes the tables; `error` bounds the errors of the inputs. Gives the bounds of the outputs.
    fn compile(&self, tables: Tables, allowance: &[f64], error: &[f64]) -> (Table, Vec<f64>) {
        let outputs = self.layer.outputs;
        let with_base = tables != Tables::Exact;
        let mut table = Table {
            bias: self.scale.iter().map(|&(_, bias)| bias as f32).collect(),
            ..Table::default()
        };
        let mut bound: Vec<f64> = self
            .scale
            .iter()
            .map(|&(_, bias)| ROUNDING * bias.abs())
            .collect();
        for (i, &error) in error.iter().enumerate() {
            let edges: Vec<(usize, &Edge)> = self.layer.edges_from(i).collect();
            if edges.is_empty() {
                // An input that nothing reads; its record still has to be valid.
                let node = Node {
                    lo: 0.0,
                    inv_step: 1.0,
                    margin: 0.0,
                    intervals: 1,
                    edges: 0,
                };
                table.nodes.push(node.pack());
                table.intervals.push(0);
                continue;
            }
            let fitted = self.fit_node(i, &edges, tables, allowance);
            table.intervals.push(fitted.grid.intervals);
            table
                .nodes
                .push(fitted.grid.record(self.domain[i].reach, edges.len()).pack());
            for row in 0..fitted.coefficients[0].len() {
                table
                    .coefficients
                    .extend(fitted.coefficients.iter().map(|c| c[row]));
            }
            if !with_base {
                table.base.extend(
                    edges
                        .iter()
                        .map(|(j, edge)| (self.scale[*j].0 * edge.scale_base) as f32),
                );
            }
            for (k, &(j, edge)) in edges.iter().enumerate() {
                table.targets.push(j as u16);
                let extent = self.extent[i * outputs + j].expect("the edge is there");
                let largest = fitted.coefficients[k]
                    .iter()
                    .map(|c| c.abs())
                    .fold(0.0, f32::max);
                let mut terms = WEIGHT_ROUNDINGS * f64::from(largest);
                if !with_base {
                    let Domain {
                        lo,
                        hi,
                        reach: (low, high),
                    } = self.domain[i];
                    // silu(z), its slope and its tangent, each rounded operation of `Node::base`,
                    // the factor and the product.
                    let beyond = 2.0 * (lo - low).max(high - hi) / (hi - lo);
                    terms += (self.scale[j].0 * edge.scale_base).abs() * (12.0 + 19.0 * beyond);
                }
                let Domain {
                    reach: (low, high), ..
                } = self.domain[i];
                let position = 3.0 * ROUNDING * (high - low + low.abs().max(high.abs()));
                bound[j] += fitted.error[k] + extent.slope * (error + position) + ROUNDING * terms;
            }
        }
        // Each addition to a sum rounds it once: four for a cubic edge.
        for (j, bound) in bound.iter_mut().enumerate() {
            let into = self.extent.iter().skip(j).step_by(outputs).flatten();
            let (count, size) = into.fold((0.0, self.scale[j].1.abs()), |(n, size), e| {
                (n + 5.0, size + e.low.abs().max(e.high.abs()))
            });
            *bound += count * ROUNDING * size;
        }
        (table, bound)
    }

    /// Finds the number of intervals that all edges of node `i` need, and their coefficients.
    fn fit_node(
        &self,
        i: usize,
        edges: &[(usize, &Edge)],
        tables: Tables,
        allowance: &[f64],
    ) -> Fitted {
        let own = &self.layer.grids[i];
        let Domain { lo, hi, .. } = self.domain[i];
        // On the network's own breaks a cubic table is exact but for SiLU and rounding.
        let keeps = own.is_uniform() && own.degree() == 3 && tables.degree() == 3;
        let mut intervals = if keeps { own.intervals() } else { 1 };
        let mut coarser: Option<Fitted> = None;
        loop {
            let fitted = self.fit(i, edges, tables, TableGrid::new(lo, hi, intervals));
            let excess = |fitted: &Fitted| {
                let worst = edges.iter().zip(&fitted.inside);
                worst
                    .map(|((j, _), error)| error / allowance[*j])
                    .fold(0.0, f64::max)
            };
            let now = excess(&fitted);
            // Finer tables stop helping where the rounding of the coefficients rules.
            let stuck = coarser.as_ref().is_some_and(|c| now > 0.9 * excess(c)) && intervals > 64;
            if now <= 1.0 {
                return fitted;
            }
            if stuck {
                return coarser.unwrap_or(fitted);
            }
            let next = if keeps {
                intervals * 2
            } else {
                intervals + intervals.div_ceil(3)
            };
            if next > MOST_INTERVALS {
                return fitted;
            }
            coarser = Some(fitted);
            intervals = next;
        }
    }

    /// Fits the edges of node `i` on one grid and bounds their errors.
    fn fit(&self, i: usize, edges: &[(usize, &Edge)], tables: Tables, grid: TableGrid) -> Fitted {
        let with_base = tables != Tables::Exact;
        let (low, high) = self.domain[i].reach;
        let function = |j: usize, edge: &Edge, x: f64| self.edge(i, j, edge, x, with_base).0;
        let breaks: Vec<f64> = (0..=grid.intervals).map(|k| grid.at(k as f64)).collect();
        let points = self.points(i, &breaks);
        let spline = (tables != Tables::Step).then(|| {
            Grid::uniform(
                tables.degree(),
                grid.at(0.0),
                grid.at(grid.intervals as f64),
                grid.intervals,
            )
        });
        let fit = spline.as_ref().map(Fit::new);
        let mut fitted = Fitted {
            grid,
            coefficients: Vec::new(),
            inside: Vec::new(),
            error: Vec::new(),
        };
        for &(j, edge) in edges {
            let (coefficients, inside, error) = match (&spline, &fit) {
                (Some(spline), Some(fit)) => {
                    let rounded: Vec<f32> = fit
                        .fit(|x| function(j, edge, x))
                        .iter()
                        .map(|&c| c as f32)
                        .collect();
                    let coef: Vec<f64> = rounded.iter().map(|&c| f64::from(c)).collect();
                    let distance = |x: f64| (function(j, edge, x) - spline.eval(&coef, x)).abs();
                    let sampled = points.iter().map(|&x| distance(x)).fold(0.0, f64::max);
                    // Beyond the grid the distance is a straight line.
                    let outside = distance(low).max(distance(high));
                    let bend = |x: f64| {
                        let (first, basis) = spline.curvature(x);
                        let table: f64 = coef[first..=first + spline.degree()]
                            .iter()
                            .zip(&basis)
                            .map(|(c, d)| c * d)
                            .sum();
                        (self.curvature(i, j, edge, x, with_base) - table).abs()
                    };
                    // Inside each gap, next to its two ends: what the samples can miss.
                    let missed = points
                        .windows(2)
                        .map(|p| {
                            let gap = p[1] - p[0];
                            let bent = bend(p[0] + 1e-3 * gap).max(bend(p[1] - 1e-3 * gap));
                            2.0 * gap * gap / 8.0 * bent
                        })
                        .fold(0.0, f64::max);
                    let inside = sampled + missed;
                    (rounded, inside, outside.max(inside))
                }
                _ => {
                    let extent =
                        self.extent[i * self.layer.outputs + j].expect("the edge is there");
                    let values: Vec<f32> = (0..grid.intervals)
                        .map(|k| {
                            let inside = (0..=8).map(|s| grid.at(k as f64 + f64::from(s) / 8.0));
                            let (least, most) = inside
                                .map(|x| function(j, edge, x))
                                .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), y| {
                                    (a.min(y), b.max(y))
                                });
                            (0.5 * (least + most)) as f32
                        })
                        .collect();
                    let distance = |x: f64| {
                        let place = (x - grid.at(0.0)) * f64::from(grid.inv_step);
                        let at = |p: f64| (p.max(0.0) as usize).min(grid.intervals - 1);
                        // A point on a step counts for both sides.
                        let sides = [at(place - 1e-6), at(place + 1e-6)];
                        let y = function(j, edge, x);
                        sides
                            .map(|k| (y - f64::from(values[k])).abs())
                            .into_iter()
                            .fold(0.0, f64::max)
                    };
                    let all = points.iter().copied().chain([low, high]);
                    let sampled = all.map(distance).fold(0.0, f64::max);
                    let gap = points.windows(2).map(|p| p[1] - p[0]).fold(0.0, f64::max);
                    let error = sampled + extent.slope * gap / 2.0;
                    (values, error, error)
                }
            };
            fitted.coefficients.push(coefficients);
            fitted.inside.push(inside);
            fitted.error.push(error);
        }
        fitted
    }
}

/// How much error the edges into each output node may have by themselves: together, `tolerance` of
/// what the node's sum can cover, or of the output's scale.
fn allowances(layers: &[Functions<'_>], predictor: &Predictor, tolerance: f64) -> Vec<Vec<f64>> {
    let last = layers.len() - 1;
    layers
        .iter()
        .enumerate()
        .map(|(l, functions)| {
            let outputs = functions.layer.outputs;
            let spans = functions.reach().into_iter().enumerate();
            spans
                .map(|(j, (low, high))| {
                    let edges = functions
                        .extent
                        .iter()
                        .skip(j)
                        .step_by(outputs)
                        .flatten()
                        .count();
                    let scale = if l == last {
                        predictor.outputs[j].scale.abs()
                    } else {
                        high - low
                    };
                    tolerance * scale / (edges.max(1) as f64)
                })
                .collect()
        })
        .collect()
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

    fn record(&self, reach: (f64, f64), edges: usize) -> Node {
        let beyond = (self.at(0.0) - reach.0).max(reach.1 - self.at(self.intervals as f64));
        let margin = (beyond * f64::from(self.inv_step) * 1.001 + 0.01).min(WIDEST_MARGIN);
        Node {
            lo: self.lo,
            inv_step: self.inv_step,
            margin: margin.max(0.0) as f32,
            intervals: self.intervals as u16,
            edges: edges as u16,
        }
    }
}

/// The tables of one node.
struct Fitted {
    grid: TableGrid,
    /// By edge and row.
    coefficients: Vec<Vec<f32>>,
    /// Bounds of the errors on the grid, by edge, without rounding in the evaluation.
    inside: Vec<f64>,
    /// The same wherever the node can be.
    error: Vec<f64>,
}

/// The tables of one layer as they go into the blob.
#[derive(Default)]
struct Table {
    nodes: Vec<[u32; 4]>,
    bias: Vec<f32>,
    targets: Vec<u16>,
    coefficients: Vec<f32>,
    base: Vec<f32>,
    intervals: Vec<usize>,
}
