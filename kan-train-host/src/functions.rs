//! The edge functions of a network in the units of the device, and bounds of what they do.

use crate::compile::CompileError;
use crate::kinds::{Kind, Tables};
use crate::network::{Base, Edge, Layer};
use crate::predictor::Predictor;
use crate::spline::Grid;

/// Half the distance from 1 to the next `f32`: the relative error of one rounding.
pub(crate) const ROUNDING: f64 = 0.5 * f32::EPSILON as f64;
/// The part of an input's domain that its table may begin before and end behind it.
const OVERHANG: f64 = 0.03;
/// How many times what samples reach is still worth a table of all that bounds allow.
const WORTH_COVERING: f64 = 2.0;
/// The least width of a range, the largest distance from 0, and their least ratio, for grids of
/// 4096 intervals in `f32` and `f64`.
pub(crate) const MEASURABLE: (f64, f64, f64) = (1e-30, 1e30, 1e-9);

/// Whether `f32` can count intervals between `lo` and `hi`.
pub(crate) fn is_measurable(lo: f64, hi: f64) -> bool {
    let size = lo.abs().max(hi.abs());
    let (least, most, part) = MEASURABLE;
    hi - lo >= least.max(part * size) && size <= most
}

/// The power of two in which integers count an input: it tells 2²² to 2²³ numbers in its range
/// apart, or fewer where the range is so far from 0 that they would not fit 30 bits. A device that
/// gets the input as `f32` does not tell more apart there either.
pub(crate) fn input_unit((lo, hi): (f64, f64)) -> f64 {
    let width = (hi - lo).clamp(1e-30, 1e31);
    let size = lo.abs().max(hi.abs());
    let (fine, coarse) = (width.log2().floor() - 22.0, size.log2().ceil() - 29.0);
    fine.max(coarse).exp2()
}

/// The edge functions of one layer in the units of the device, with what is known about them.
pub(crate) struct Functions<'a> {
    pub(crate) layer: &'a Layer,
    pub(crate) base: Base,
    /// For each input node the map from its unit on the device to the network's.
    pub(crate) to_network: Vec<(f64, f64)>,
    /// For each output node what the network's sums are multiplied by, and what is added.
    pub(crate) scale: Vec<(f64, f64)>,
    /// For each input node the range of its table.
    pub(crate) domain: Vec<(f64, f64)>,
    /// For each input node what it can reach: of an input, all that `in_domain` may accept.
    pub(crate) reach: Vec<(f64, f64)>,
    /// Whether the nodes are the inputs.
    pub(crate) is_first: bool,
    /// By edge: smallest and largest value and largest slope over the reach.
    pub(crate) extent: Vec<Option<Extent>>,
}

/// Bounds of a function.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) slope: f64,
}

impl Extent {
    pub(crate) fn magnitude(&self) -> f64 {
        self.low.abs().max(self.high.abs())
    }

    /// Bounds of the function with these values and slopes that between `breaks` has a second
    /// derivative of at most `bend(a, b)` on a..b.
    pub(crate) fn of(
        breaks: &[f64],
        at: impl Fn(f64) -> (f64, f64),
        bend: impl Fn(f64, f64) -> f64,
    ) -> Self {
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
pub(crate) fn within(a: f64, b: f64) -> impl Iterator<Item = f64> {
    (0..=SAMPLES as u32).map(move |k| a + (b - a) * f64::from(k) / SAMPLES)
}

/// All `breaks` inside `reach`, and its ends, in increasing order.
pub(crate) fn sorted(breaks: impl Iterator<Item = f64>, reach: (f64, f64)) -> Vec<f64> {
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
    /// The functions of every layer. `seen` is, for each layer and input node, the range of its
    /// values all over the domain of the inputs, as far as samples tell.
    pub(crate) fn of_layers(
        predictor: &'a Predictor,
        kind: Kind,
        seen: &[Vec<(f64, f64)>],
    ) -> Result<Vec<Self>, CompileError> {
        let tables = kind.tables;
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
                        let beyond = kind.input_margin() * (range.hi - range.lo);
                        // A margin is as wide on both sides. What f32 makes of the ends lies
                        // inside.
                        let beyond = (lo - range.lo).max(range.hi - hi).max(0.0) + beyond;
                        let slack = 16.0 * ROUNDING * (lo.abs() + hi.abs());
                        (lo - beyond - slack, hi + beyond + slack)
                    })
                    .collect();
            }
            if kind.is_integer() {
                // Integers saturate at the ends of their tables, which hold the margin.
                for (i, domain) in domain.iter_mut().enumerate() {
                    if l == 0 {
                        *domain = reach[i];
                        // A table may begin and end at a knot a little beyond.
                        let slack = OVERHANG * (domain.1 - domain.0) + 2.0 * input_unit(*domain);
                        reach[i] = (domain.0 - slack, domain.1 + slack);
                        continue;
                    }
                    let seen = seen[l][i];
                    let hull = (domain.0.min(seen.0), domain.1.max(seen.1));
                    let inside = (hull.0.max(reach[i].0), hull.1.min(reach[i].1));
                    // All that can be reached, unless that is much more than what is.
                    let all = reach[i].1 - reach[i].0 <= WORTH_COVERING * (inside.1 - inside.0);
                    *domain = if kind.bits == 16 && all && is_measurable(reach[i].0, reach[i].1) {
                        reach[i]
                    } else if is_measurable(inside.0, inside.1) {
                        inside
                    } else {
                        hull
                    };
                }
            } else if tables == Tables::Step {
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

    /// The range of a table of integers of `intervals` for node `i`. One that is cubic and fine
    /// enough has the knots of the network's own grid among its own: there it is exact but for SiLU
    /// and rounding.
    pub(crate) fn range(&self, i: usize, kind: Kind, intervals: usize) -> (f64, f64) {
        let (lo, hi) = self.domain[i];
        self.nested(i, kind)
            .find(|&(n, _)| n >= intervals)
            .filter(|&(n, _)| n == intervals)
            .map_or((lo, hi), |(_, range)| range)
    }

    /// The tables of integers that have the knots of node `i` among their own: intervals and range,
    /// the coarsest first.
    pub(crate) fn nested(
        &self,
        i: usize,
        kind: Kind,
    ) -> impl Iterator<Item = (usize, (f64, f64))> + use<'_> {
        let own = &self.layer.grids[i];
        let (lo, hi) = self.domain[i];
        let (a, b) = self.to_network[i];
        let ends = ((own.lo() - b) / a, (own.hi() - b) / a);
        let keeps = own.is_uniform() && own.degree() == 3 && kind.tables.degree() == 3;
        let most = if self.is_first { OVERHANG } else { 0.5 };
        let tables = (1..=if keeps { 64 } else { 0 }).map(move |parts| {
            let within = own.intervals() * parts;
            let step = (ends.1 - ends.0) / within as f64;
            let beyond = |width: f64| (width / step - 1e-6).ceil();
            let (left, right) = (beyond(ends.0 - lo), beyond(hi - ends.1));
            let range = (ends.0 - left * step, ends.1 + right * step);
            ((within as f64 + left + right) as usize, range)
        });
        tables.filter(move |(_, range)| (lo - range.0).max(range.1 - hi) <= most * (hi - lo))
    }

    /// How much the distance of a table of integers from its edges counts at `x`: less in the
    /// margins, where few inputs are. A cubic table cannot bend at the ends of the network's grid
    /// as sharply as the network does; what it cannot follow belongs outside.
    pub(crate) fn weight(&self, i: usize, x: f64) -> f64 {
        let (a, b) = self.to_network[i];
        let z = a * x + b;
        if self.layer.grids[i].clamp(z) == z {
            1.0
        } else {
            1e-3
        }
    }

    /// Value and slope of an edge at `x`, on the device's scale; `with_base` says whether SiLU
    /// takes part.
    pub(crate) fn edge(
        &self,
        i: usize,
        j: usize,
        edge: &Edge,
        x: f64,
        with_base: bool,
    ) -> (f64, f64) {
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
    pub(crate) fn curvature(
        &self,
        i: usize,
        j: usize,
        edge: &Edge,
        x: f64,
        with_base: bool,
    ) -> f64 {
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

    /// A bound of the second derivative, between the neighbouring breaks `a` and `b`, of an edge
    /// or, with `table`, of the edge less its table.
    ///
    /// It is a polynomial of degree at most 3 (networks have degree 5 at most) and a multiple of
    /// silu″, which differs from its cubic interpolant through four even places by at most
    /// |silu⁗″|/4!/81·δ⁴ < 8e-4·δ⁴. The Bernstein coefficients of a cubic bound it.
    pub(crate) fn bend(
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
    pub(crate) fn breaks(&self, i: usize) -> impl Iterator<Item = f64> {
        let (a, b) = self.to_network[i];
        self.layer.grids[i]
            .breaks()
            .iter()
            .map(move |z| (z - b) / a)
    }

    pub(crate) fn extents(&self) -> Vec<Option<Extent>> {
        let mut extents = vec![None; self.layer.edges.len()];
        for i in 0..self.layer.inputs() {
            let (reach, domain) = (self.reach[i], self.domain[i]);
            let slack = 1e-3 * (domain.1 - domain.0);
            let hull = (reach.0.min(domain.0 - slack), reach.1.max(domain.1 + slack));
            let breaks = sorted(self.breaks(i), hull);
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
    pub(crate) fn sums(&self) -> Vec<(f64, f64)> {
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
}
