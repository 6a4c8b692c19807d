//! Tables of integers: fitted, rounded and written down, and how far they can be from the network.
//!
//! **Units.** An input is a fixed-point number: its unit is the power of two that tells some
//! millions of values apart on its range. The sum of an output node has the smallest unit in which
//! the coefficients of its edges fit their bits, no sum can overflow, and the grid of the node that
//! it becomes fits 32 bits. As B-splines sum to 1, every edge is shifted to where its coefficients
//! use both signs alike; what was taken away is in what a sum of 0 stands for.
//!
//! **Grids** cover the domain of an input, margin included; of a hidden node its own grid and all
//! that samples from the whole domain reach. Beyond, inputs saturate, and the bound has what that
//! can cost.

mod bound;
mod groups;
mod refine;

use kan_core::blob::IntegerNode;
use rayon::prelude::*;

pub(crate) use self::groups::Packed;

use crate::functions::{Functions, input_unit, within};
use crate::kinds::Kind;
use crate::network::Edge;
use crate::spline::{Fit, Grid};

/// The positions in an interval that a device tells apart.
pub(crate) const POSITIONS: f64 = 32_768.0;
/// Rows of coefficients that a layer may have.
const MOST_ROWS: usize = 131_071;
/// The largest sum that is aimed at: some rounding below what 32 bits hold.
const LARGEST: f64 = 2_147_352_576.0; // 2^31 − 2^17

/// The most intervals of a node's table in a layer of so many.
pub(crate) fn most_intervals(nodes: usize) -> usize {
    (MOST_ROWS / nodes.max(1)).saturating_sub(3).clamp(1, 1024)
}

/// Properties of a kind.
#[derive(Clone, Copy)]
struct Arithmetic {
    degree: usize,
    /// The largest coefficient.
    most: f64,
    /// The largest sum of the edges' largest coefficients.
    most_together: f64,
    /// The weights' sum: 1.
    one: f64,
    /// The largest sum of their magnitudes.
    weight: f64,
    /// How far behind the middle of what it stands for a position is.
    lag: f64,
    /// The most by which weights differ from B-splines, magnitudes added up.
    off: f64,
}

impl Arithmetic {
    fn of(kind: Kind) -> Self {
        let most = if kind.bits == 8 { 127.0 } else { 32_767.0 };
        let cubic = kind.tables.degree() == 3;
        Self {
            degree: kind.tables.degree(),
            most,
            most_together: if cubic { 65_527.0 } else { 32_767.0 },
            one: if cubic { 32_768.0 } else { 16_384.0 },
            weight: if cubic { 32_770.0 } else { 16_384.0 },
            lag: match kind.tables.degree() {
                3 => 0.5,
                // The last of 15 bits is dropped, too.
                1 => 1.0,
                _ => 0.0,
            },
            // Each of four within 2, as FORMAT.md states.
            off: if cubic { 8.0 } else { 0.0 },
        }
    }
}

/// What integers stand for: `unit·integer + zero`.
#[derive(Clone, Copy)]
struct Scale {
    unit: f64,
    zero: f64,
}

/// A node's grid in the units of the network's edges.
#[derive(Clone, Copy)]
struct Placed {
    /// Where the first interval begins, as far as the weights are concerned.
    lo: f64,
    step: f64,
    intervals: usize,
    /// The most by which a position misses its input.
    slack: f64,
    /// What the device tells apart.
    cover: (f64, f64),
}

impl Placed {
    fn hi(&self) -> f64 {
        self.lo + self.step * self.intervals as f64
    }

    fn spline(&self, degree: usize) -> Grid {
        Grid::uniform(degree, self.lo, self.hi(), self.intervals)
    }

    fn breaks(&self) -> impl Iterator<Item = f64> {
        (0..=self.intervals).map(|k| self.lo + self.step * k as f64)
    }
}

/// The tables of one layer.
pub(crate) struct Table {
    kind: Kind,
    shift: u32,
    nodes: Vec<IntegerNode>,
    bias: Vec<i32>,
    /// By input and output node, one for each row; `None` where there is no edge.
    coefficients: Vec<Option<Vec<i32>>>,
    /// Scales of inputs and outputs as the blob has them.
    scales: Vec<[f32; 2]>,
    /// What the sums stand for.
    sums: Vec<Scale>,
    /// Where the nodes' grids are.
    grids: Vec<Placed>,
    /// What was taken from every edge.
    shifted: Vec<f64>,
    /// Coefficients before any rounding, in the network's units.
    fitted: Vec<Option<Vec<f64>>>,
    /// What the sums start with, before any rounding, in the network's units.
    starts: Vec<f64>,
    /// The smallest units that the grids of the nodes that they become can have; of outputs 0.
    finest: Vec<f64>,
    /// Whether the sums are outputs.
    is_last: bool,
}

/// What a network computes on some rows.
pub(crate) struct Rows {
    /// The inputs in their units, `[rows, inputs]`.
    pub(crate) x: Vec<f64>,
    /// By layer the sums in the units of the device, `[rows, outputs]`.
    pub(crate) sums: Vec<Vec<f64>>,
}

/// The tables of all layers, for grids of `intervals`. `logits` says that outputs are compared.
///
/// With `rows`, coefficients are chosen for the smallest error there.
pub(crate) fn tables(
    layers: &[Functions],
    kind: Kind,
    intervals: &[Vec<usize>],
    logits: bool,
    rows: Option<&Rows>,
) -> Vec<Table> {
    let mut raw: Vec<i64> = Vec::new();
    let mut tables: Vec<Table> = Vec::with_capacity(layers.len());
    for (l, functions) in layers.iter().enumerate() {
        let inputs = match tables.last() {
            None => functions
                .domain
                .iter()
                .map(|&range| Scale {
                    unit: input_unit(range),
                    zero: 0.0,
                })
                .collect(),
            Some(before) => before.sums.clone(),
        };
        let next: Vec<(f64, f64)> = layers.get(l + 1).map_or(Vec::new(), |next| {
            let nodes = intervals[l + 1].iter().enumerate();
            nodes.map(|(i, &n)| next.range(i, kind, n)).collect()
        });
        let to = match layers.get(l + 1) {
            Some(_) => To::Nodes(&next),
            None if logits => To::Logits,
            None => To::Values,
        };
        let mut table = Table::new(functions, kind, &inputs, &intervals[l], &to);
        if let Some(rows) = rows {
            if l == 0 {
                let scaled = rows.x.iter().zip(inputs.iter().cycle());
                raw = scaled
                    .map(|(x, scale)| (x / scale.unit).round() as i64)
                    .collect();
            }
            table.refine(&raw, &rows.sums[l], logits && l + 1 == layers.len());
            raw = table.sums_of(&raw);
        }
        tables.push(table);
    }
    tables
}

/// What the outputs of a layer are.
enum To<'a> {
    /// Nodes of a layer, with the ranges of their tables.
    Nodes(&'a [(f64, f64)]),
    Values,
    Logits,
}

impl Table {
    fn new(
        functions: &Functions,
        kind: Kind,
        inputs: &[Scale],
        intervals: &[usize],
        to: &To<'_>,
    ) -> Self {
        let arithmetic = Arithmetic::of(kind);
        let outputs = functions.layer.outputs;
        let (shift, mut nodes, grids) = place(functions, kind, &arithmetic, inputs, intervals);
        let mut first = 0;
        for (node, grid) in nodes.iter_mut().zip(&grids) {
            node.first = first << 15;
            first += (grid.intervals + arithmetic.degree) as u32;
        }
        let fitted: Vec<Option<Vec<f64>>> = (0..nodes.len())
            .into_par_iter()
            .flat_map_iter(|i| fit(functions, i, &arithmetic, &grids[i]))
            .collect();
        let middle = |c: &Option<Vec<f64>>| c.as_ref().map_or((0.0, 0.0), |c| middle(c));
        let (shifted, half): (Vec<f64>, Vec<f64>) = fitted.iter().map(middle).unzip();

        let starts: Vec<f64> = (0..outputs)
            .map(|j| functions.scale[j].1 + shifted.iter().skip(j).step_by(outputs).sum::<f64>())
            .collect();
        let least = |j: usize| {
            let halves = || half.iter().skip(j).step_by(outputs);
            arithmetic.least_unit(halves().copied())
        };
        let mut sums: Vec<Scale> = match to {
            To::Nodes(domains) => (domains.iter().zip(&starts).enumerate())
                .map(|(j, (&(lo, hi), &zero))| Scale {
                    unit: least(j).max(finest_unit(lo, hi, zero)),
                    zero,
                })
                .collect(),
            To::Values => (starts.iter().enumerate())
                .map(|(j, &zero)| Scale {
                    unit: least(j),
                    zero,
                })
                .collect(),
            To::Logits => {
                let unit = (starts.iter().enumerate()).map(|(j, start)| {
                    let halves = half.iter().skip(j).step_by(outputs);
                    let reach = start.abs() + halves.sum::<f64>() * 1.001;
                    let rounding = arithmetic.weight * functions.layer.inputs() as f64;
                    least(j).max(reach / (LARGEST - rounding).max(1.0))
                });
                let unit = unit.fold(0.0, f64::max);
                vec![Scale { unit, zero: 0.0 }; outputs]
            }
        };
        let finest = match to {
            To::Nodes(domains) => (domains.iter().zip(&starts))
                .map(|(&(lo, hi), &zero)| finest_unit(lo, hi, zero))
                .collect(),
            _ => vec![0.0; outputs],
        };
        if !matches!(to, To::Nodes(_)) {
            // As the device has it.
            for sum in &mut sums {
                sum.unit = f64::from((sum.unit as f32).max(1e-36).next_up());
            }
        }
        let bias = (starts.iter().zip(&sums))
            .map(|(start, sum)| ((start - sum.zero) / sum.unit).round() as i32)
            .collect();
        let coefficients = (fitted.iter().enumerate())
            .map(|(k, c)| {
                let quantum = sums[k % outputs].unit * arithmetic.one;
                let most = arithmetic.most;
                let rounded = |c: &f64| ((c - shifted[k]) / quantum).round().clamp(-most, most);
                Some(c.as_ref()?.iter().map(|c| rounded(c) as i32).collect())
            })
            .collect();
        let mut scales: Vec<[f32; 2]> = Vec::new();
        if functions.is_first {
            scales.extend(inputs.iter().map(|x| [x.unit.recip() as f32, 0.0]));
        }
        if !matches!(to, To::Nodes(_)) {
            scales.extend(sums.iter().map(|y| [y.unit as f32, y.zero as f32]));
        }
        Self {
            kind,
            shift,
            nodes,
            bias,
            coefficients,
            scales,
            sums,
            grids,
            shifted,
            fitted,
            starts,
            finest,
            is_last: !matches!(to, To::Nodes(_)),
        }
    }

    /// The first row that an input of node `i` reads, and the B-splines there.
    fn basis(&self, i: usize, x: i64) -> (usize, [f64; 4]) {
        let node = &self.nodes[i];
        let lo = i64::from(node.hi) - i64::from(node.width);
        let d = (x - lo).clamp(0, node.width.into()) as u128;
        let position = ((d << self.shift) * (u128::from(node.scale) + 1)) >> 32;
        let t = (position & 0x7fff) as f64 / POSITIONS;
        let s = 1.0 - t;
        let middle = |t: f64| (4.0 + t * t * (3.0 * t - 6.0)) / 6.0;
        let weights = match self.kind.tables.degree() {
            3 => [s * s * s / 6.0, middle(t), middle(s), t * t * t / 6.0],
            1 => [s, t, 0.0, 0.0],
            _ => [1.0, 0.0, 0.0, 0.0],
        };
        ((position >> 15) as usize, weights)
    }

    /// The layer's sums for rows of inputs, but for the rounding of weights.
    fn sums_of(&self, raw: &[i64]) -> Vec<i64> {
        let (inputs, outputs) = (self.nodes.len(), self.bias.len());
        let one = Arithmetic::of(self.kind).one;
        let of_row = |row: &[i64]| -> Vec<i64> {
            let mut sums: Vec<f64> = self.bias.iter().map(|&bias| bias.into()).collect();
            for (i, &x) in row.iter().enumerate() {
                let (first, weights) = self.basis(i, x);
                for (j, sum) in sums.iter_mut().enumerate() {
                    let Some(edge) = &self.coefficients[i * outputs + j] else {
                        continue;
                    };
                    let terms = edge[first..].iter().zip(weights);
                    *sum += one * terms.map(|(&c, w)| f64::from(c) * w).sum::<f64>();
                }
            }
            sums.into_iter().map(|sum| sum.round() as i64).collect()
        };
        raw.par_chunks(inputs).flat_map_iter(of_row).collect()
    }

    /// The number of intervals of each node's table; 0 where no edge leaves.
    pub(crate) fn intervals(&self, functions: &Functions) -> Vec<usize> {
        let nodes = self.grids.iter().enumerate();
        nodes
            .map(|(i, grid)| grid.intervals * usize::from(functions.layer.is_used(i)))
            .collect()
    }
}

impl Arithmetic {
    /// The smallest unit of a sum of edges whose coefficients are so large.
    fn least_unit(&self, halves: impl Iterator<Item = f64> + Clone) -> f64 {
        let edges = halves.clone().filter(|&half| half > 0.0).count() as f64;
        let largest = halves.clone().fold(0.0, f64::max);
        // Each may be rounded up.
        let together = halves.sum::<f64>() / (self.most_together - 0.5 * edges).max(1.0);
        f64::max(largest / self.most, together) / self.one
    }
}

/// The smallest unit in which 32 bits hold the width of a grid, and its ends' distances from
/// `zero`.
fn finest_unit(lo: f64, hi: f64, zero: f64) -> f64 {
    (hi - zero).abs().max((zero - lo).abs()).max(hi - lo) / LARGEST
}

/// The middle of some numbers, and their largest distance from it.
fn middle(numbers: &[f64]) -> (f64, f64) {
    let lo = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let hi = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (0.5 * (lo + hi), 0.5 * (hi - lo))
}

/// The grids of a layer: how far differences are shifted, the records, and where they are.
fn place(
    functions: &Functions,
    kind: Kind,
    arithmetic: &Arithmetic,
    inputs: &[Scale],
    intervals: &[usize],
) -> (u32, Vec<IntegerNode>, Vec<Placed>) {
    const MOST: f64 = (i32::MAX - 1) as f64;
    let ends: Vec<(i64, i64)> = (inputs.iter().enumerate())
        .map(|(i, scale)| {
            let (lo, hi) = functions.range(i, kind, intervals[i]);
            if !functions.layer.is_used(i) {
                return (0, 0);
            }
            let raw = |x: f64| (x - scale.zero) / scale.unit;
            let lo = raw(lo).floor().clamp(-MOST, MOST - 1.0);
            (lo as i64, raw(hi).ceil().clamp(lo + 1.0, MOST) as i64)
        })
        .collect();
    let width = |(lo, hi): (i64, i64)| (hi - lo).clamp(0, i32::MAX.into()) as u64;
    // Positions as fine as the weights can tell apart, if the widest node lets them.
    let wanted = ends.iter().zip(intervals).map(|(&ends, &n)| {
        let (width, positions) = (width(ends), (n as u64) << 15);
        (0..30)
            .find(|shift| width << shift >= positions || width == 0)
            .unwrap_or(30)
    });
    let widest = ends
        .iter()
        .map(|&ends| width(ends))
        .max()
        .unwrap_or(0)
        .max(1);
    let allowed = (i32::MAX as u64 / widest).ilog2();
    let shift = wanted.max().unwrap_or(0).min(allowed);

    let place = |(i, &(lo, hi)): (usize, &(i64, i64))| {
        let width = width((lo, hi));
        let positions = width << shift;
        let intervals = (intervals[i].max(1) as u64).min((positions >> 15).max(1));
        let scale = match positions {
            0 => 1,
            _ => ((((intervals as u128) << 47) - 1) / u128::from(positions)).min(1 << 32) as u64,
        };
        let node = IntegerNode {
            hi: (lo + width as i64) as i32,
            width: width as u32,
            scale: (scale - 1) as u32,
            first: 0,
        };
        let Scale { unit, zero } = inputs[i];
        let step = unit * (47.0 - f64::from(shift)).exp2() / scale as f64;
        let slack = arithmetic.lag * step / POSITIONS;
        let at = |raw: i64| zero + unit * raw as f64;
        let placed = Placed {
            lo: at(lo) + slack,
            step,
            intervals: intervals as usize,
            slack,
            cover: (at(lo), at(lo + width as i64)),
        };
        (node, placed)
    };
    let (nodes, grids) = ends.iter().enumerate().map(place).unzip();
    (shift, nodes, grids)
}

/// The coefficients of all edges that leave node `i`, by output.
fn fit(
    functions: &Functions,
    i: usize,
    arithmetic: &Arithmetic,
    grid: &Placed,
) -> Vec<Option<Vec<f64>>> {
    let outputs = functions.layer.outputs;
    let edges: Vec<Option<&Edge>> = (0..outputs).map(|j| functions.layer.edge(i, j)).collect();
    if !functions.layer.is_used(i) {
        return vec![None; outputs];
    }
    let value = |j: usize, edge: &Edge, x: f64| functions.edge(i, j, edge, x, true).0;
    if arithmetic.degree == 0 {
        let of_edge = |(j, edge): (usize, &Option<&Edge>)| {
            let edge = (*edge)?;
            let cell = |k: usize| {
                let at = |k: usize| grid.lo + grid.step * k as f64;
                let values: Vec<f64> = within(at(k), at(k + 1))
                    .map(|x| value(j, edge, x))
                    .collect();
                middle(&values).0
            };
            Some((0..grid.intervals).map(cell).collect())
        };
        return edges.iter().enumerate().map(of_edge).collect();
    }
    let spline = grid.spline(arithmetic.degree);
    let fit = Fit::weighted(&spline, |x| functions.weight(i, x));
    let of_edge =
        |(j, edge): (usize, &Option<&Edge>)| edge.map(|edge| fit.fit(|x| value(j, edge, x)));
    edges.iter().enumerate().map(of_edge).collect()
}
