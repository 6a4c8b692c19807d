//! Tables of `f32`: fitted, written down, and how far they can be from the network.

use std::collections::BTreeMap;

use kan_core::blob::Node;

use crate::functions::{Extent, Functions, ROUNDING, sorted, within};
use crate::integer;
use crate::kinds::{Kind, Tables};
use crate::network::Edge;
use crate::spline::{Fit, Grid};

/// The most intervals of a table.
pub(crate) const MOST_INTERVALS: usize = 4096;
/// A product that underflows loses less.
const UNDERFLOW: f64 = 1e-45;
/// Intervals of margin that a blob may state, beside [`MOST_INTERVALS`].
const WIDEST_MARGIN: f64 = 1e6;

impl Functions<'_> {
    /// The fewest intervals that keep all edges of node `i` within their allowances; if none do,
    /// the fewest that no more intervals improve on. Their tables are then among those `tried`.
    pub(crate) fn fewest_intervals(
        &self,
        i: usize,
        kind: Kind,
        allowance: &[f64],
        tried: &mut BTreeMap<usize, Fitted>,
    ) -> usize {
        let edges: Vec<(usize, &Edge)> = self.layer.edges_from(i).collect();
        if edges.is_empty() {
            return 0;
        }
        let tables = kind.tables;
        let most = match kind.bits {
            32 => MOST_INTERVALS,
            _ => integer::most_intervals(self.layer.inputs()),
        };
        let mut excess = |intervals: usize| {
            let fitted = tried.entry(intervals).or_insert_with(|| {
                let (lo, hi) = match kind.is_integer() {
                    true => self.range(i, kind, intervals),
                    false => self.domain[i],
                };
                self.fit(i, &edges, kind, TableGrid::new(lo, hi, intervals))
            });
            let each = edges.iter().zip(&fitted.distance);
            each.map(|((j, _), distance)| distance / allowance[*j])
                .fold(0.0, f64::max)
        };
        // On the network's own breaks a cubic table is exact but for SiLU and rounding.
        let own = &self.layer.grids[i];
        let keeps =
            !kind.is_integer() && own.is_uniform() && own.degree() == 3 && tables.degree() == 3;
        let doubled = |first: usize| (0..).map(move |k| first << k);
        let up_to_most = |n: &usize| *n <= most;
        let mut ladder: Vec<usize> = doubled(1).take_while(up_to_most).collect();
        if keeps {
            ladder.extend(doubled(own.intervals()).take_while(up_to_most));
            ladder.sort_unstable();
            ladder.dedup();
        }
        if kind.is_integer() {
            ladder.extend(self.nested(i, kind).map(|(n, _)| n).filter(up_to_most));
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
            // Once they show the narrowest interval, finer tables stop helping only where the
            // rounding of the coefficients rules.
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
        // Its own breaks are worth some intervals more: there the slopes at the ends are right too,
        // and with them all of the margins.
        let own = own.intervals();
        if keeps && (fine..=fine + fine / 4).contains(&own) && excess(own) <= 1.0 {
            fine = own;
        }
        fine
    }

    /// Fits the edges of node `i` on one grid.
    fn fit(&self, i: usize, edges: &[(usize, &Edge)], kind: Kind, grid: TableGrid) -> Fitted {
        let tables = kind.tables;
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
        let fit = Fit::weighted(&spline, |x| match kind.is_integer() {
            true => self.weight(i, x),
            false => 1.0,
        });
        let ends = (spline.lo(), spline.hi());
        let breaks = sorted(self.breaks(i).chain(grid.breaks()), ends);
        for &(j, edge) in edges {
            let rounded: Vec<f32> = (fit.fit(|x| function(j, edge, x)).iter())
                .map(|&c| c as f32)
                .collect();
            let coef = wide(&rounded);
            let samples = breaks.windows(2).flat_map(|pair| within(pair[0], pair[1]));
            fitted.distance.push(if kind.is_integer() {
                // Position and weights are rounded, which blurs the input.
                let blur = (grid.at(1.0) - grid.at(0.0)) / integer::POSITIONS;
                let (sum, count) = samples
                    .filter(|x| self.weight(i, *x) == 1.0)
                    .map(|x| {
                        let (value, slope) = self.edge(i, j, edge, x, with_base);
                        (value - spline.eval(&coef, x)).powi(2) + (slope * blur).powi(2)
                    })
                    .fold((0.0, 0.0), |(sum, count), square| {
                        (sum + square, count + 1.0)
                    });
                f64::sqrt(sum / f64::max(count, 1.0))
            } else {
                samples
                    .map(|x| (function(j, edge, x) - spline.eval(&coef, x)).abs())
                    .fold(0.0, f64::max)
            });
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
    pub(crate) fn table(&self, tables: Tables, fitted: &[Option<&Fitted>]) -> Table {
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
    pub(crate) fn errors(
        &self,
        tables: Tables,
        fitted: &[Option<&Fitted>],
        error: &[f64],
    ) -> Vec<f64> {
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
                // grid, and beyond it where the weights are up to `margin`/2 (cubic; each of two,
                // and rounded when it is added) or 1 + `margin` (linear).
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

    /// The most by which z on the device's grid differs from z on the network's, which SiLU turns
    /// into no more, anywhere in the reach.
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
pub(crate) struct TableGrid {
    lo: f32,
    inv_step: f32,
    intervals: usize,
}

impl TableGrid {
    pub(crate) fn new(lo: f64, hi: f64, intervals: usize) -> Self {
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
pub(crate) struct Fitted {
    pub(crate) grid: TableGrid,
    /// By edge and row.
    pub(crate) coefficients: Vec<Vec<f32>>,
    /// By edge, the sampled distance from its function on the grid: the largest; of tables that
    /// will be integers the root mean square on the network's grid.
    pub(crate) distance: Vec<f64>,
}

/// The tables of one layer as they go into the blob.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) nodes: Vec<[u32; 4]>,
    pub(crate) bias: Vec<f32>,
    pub(crate) targets: Vec<u16>,
    pub(crate) coefficients: Vec<f32>,
    pub(crate) base: Vec<f32>,
}
