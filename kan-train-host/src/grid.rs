//! Changing the grids of a network without changing its function: extension to more intervals, and
//! updates that follow the values its nodes take.

use crate::network::{Base, Layer, Network};
use crate::objective::Samples;
use crate::spline::{Fit, Grid};

/// The share of a hidden node's range that its grid has to spare at each end: training moves the
/// values about, and a test row may lie a little further out than any training row.
pub const HIDDEN_MARGIN: f64 = 0.02;
/// The same where there is no noise: beyond its grid an edge is a line, which costs nothing where
/// the error is larger, and most of the error where it is smaller.
pub const SMOOTH_MARGIN: f64 = 0.06;
/// Above this loss, an error of a thousandth of the target's deviation, edges follow noise.
pub const NOISE: f64 = 0.5e-6;
/// Values crowd if a tenth part of them lies this part of the range away from where it would lie if
/// they were spread evenly.
const CROWDED: f64 = 0.15;
/// The blend for such values: mostly quantiles, and yet no interval without end.
const QUANTILES: f64 = 0.3;

/// Grid extension (2.16): every grid gets `intervals` intervals on its range, but no more than
/// `limit` allows for its input (see [`limits`]). Exact where the old knots are among the new.
pub fn extend(network: &mut Network, intervals: usize, limits: &[usize]) {
    let base = network.base;
    for (l, layer) in network.layers.iter_mut().enumerate() {
        let first = l == 0;
        for i in 0..layer.inputs() {
            let limit = limits
                .get(i)
                .copied()
                .filter(|_| first)
                .unwrap_or(usize::MAX);
            let grid = layer.grids[i].with_intervals(intervals.min(limit));
            if grid != layer.grids[i] {
                regrid(layer, base, i, grid);
            }
        }
    }
}

/// The most intervals that are of use for each input: one fewer than the distinct values it has.
pub fn limits(samples: &Samples) -> Vec<usize> {
    (0..samples.inputs)
        .map(|i| {
            let mut column: Vec<f64> = samples
                .x
                .iter()
                .skip(i)
                .step_by(samples.inputs)
                .copied()
                .collect();
            column.sort_by(f64::total_cmp);
            column.dedup();
            column.len().saturating_sub(1).max(1)
        })
        .collect()
}

/// How the knots of an input are best spaced: evenly (1), unless its values crowd in a part of
/// their range, so that even intervals would be empty elsewhere; then rather by quantiles.
pub fn blend(column: &[f64]) -> f64 {
    let mut sorted = column.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.dedup();
    let (Some(&lo), Some(&hi)) = (sorted.first(), sorted.last()) else {
        return 1.0;
    };
    let last = sorted.len() - 1;
    let crowded = (1..10).any(|tenth| {
        // Between two values on the line between them, as in `Grid::from_samples`.
        let (below, part) = (tenth * last / 10, (tenth * last % 10) as f64 / 10.0);
        let value = sorted[below] + part * (sorted[(below + 1).min(last)] - sorted[below]);
        ((value - lo) / (hi - lo) - tenth as f64 / 10.0).abs() > CROWDED
    });
    if crowded { QUANTILES } else { 1.0 }
}

/// Lets the grid of every hidden node that has outgrown its values, or spares less than half its
/// margin beside them (which depends on the loss), follow their range, and brings nodes whose range
/// is far from 2 back to it. Input grids stay. Whether anything changed.
pub fn follow(network: &mut Network, samples: &Samples, loss: f64) -> bool {
    if network.layers.len() < 2 {
        return false;
    }
    let share = if loss > NOISE {
        HIDDEN_MARGIN
    } else {
        SMOOTH_MARGIN
    };
    let mut changed = false;
    let base = network.base;
    let ranges = hidden_ranges(network, samples);
    for (l, ranges) in ranges.iter().enumerate() {
        for (i, &(lo, hi)) in ranges.iter().enumerate() {
            if !is_proper(lo, hi) {
                continue;
            }
            let layer = &mut network.layers[l + 1];
            let grid = &layer.grids[i];
            let margin = share * (hi - lo);
            let loose = grid.hi() - grid.lo() > 1.3 * (hi - lo + 2.0 * margin);
            let spare = 0.5 * margin;
            let outside = lo - spare < grid.lo() || hi + spare > grid.hi();
            if (loose || outside)
                && layer.is_used(i)
                && let Ok(grid) = grid.stretched(lo - margin, hi + margin)
            {
                regrid(layer, base, i, grid);
                changed = true;
            }
            if !(0.5..8.0).contains(&(hi - lo)) {
                rescale(network, l, i, 2.0 / (hi - lo));
                changed = true;
            }
        }
    }
    changed
}

/// Multiplies hidden node `i` between layers `l` and `l + 1` by `factor`. The network's function
/// stays, exactly: the edges into the node take the factor, the grid behind it stretches.
fn rescale(network: &mut Network, l: usize, i: usize, factor: f64) {
    let grid = &network.layers[l + 1].grids[i];
    let breaks: Vec<f64> = grid.breaks().iter().map(|x| x * factor).collect();
    let Ok(grid) = Grid::new(grid.degree(), &breaks) else {
        return;
    };
    network.layers[l + 1].grids[i] = grid;
    let feeding = &mut network.layers[l];
    feeding.bias[i] *= factor;
    let into = feeding.edges.iter_mut().skip(i).step_by(feeding.outputs);
    for edge in into.flatten() {
        edge.coef.iter_mut().for_each(|c| *c *= factor);
        edge.scale_base *= factor;
    }
}

/// Grid update (paper, section 2.2): the knots of every hidden grid follow the samples of its
/// node, quantiles blended with even spacing by `grid_eps`.
pub fn update(network: &mut Network, samples: &Samples, grid_eps: f64) {
    let base = network.base;
    let mut tape = network.tape();
    let mut values: Vec<Vec<Vec<f64>>> = network
        .layers
        .iter()
        .map(|layer| vec![Vec::new(); layer.inputs()])
        .collect();
    for n in 0..samples.rows() {
        network.forward(samples.row(n), &mut tape);
        for (layer, row) in values.iter_mut().zip(&tape.values) {
            for (node, &x) in layer.iter_mut().zip(row) {
                node.push(x);
            }
        }
    }
    for (layer, values) in network.layers.iter_mut().zip(&values).skip(1) {
        for (i, values) in values.iter().enumerate() {
            let (degree, intervals) = (layer.grids[i].degree(), layer.grids[i].intervals());
            let grid = Grid::from_samples(degree, values, intervals, grid_eps, HIDDEN_MARGIN);
            regrid(layer, base, i, grid);
        }
    }
}

/// Gives input node `i` a new grid, and all its edges the coefficients that keep their functions.
pub fn regrid(layer: &mut Layer, base: Base, i: usize, grid: Grid) {
    let outputs = layer.outputs;
    let old = layer.grids[i].clone();
    let edges = layer.edges[i * outputs..(i + 1) * outputs]
        .iter_mut()
        .flatten();
    if old.nested_in(&grid) {
        let refit = old.refit(&grid);
        for edge in edges {
            edge.coef = refit.apply(&edge.coef);
        }
    } else {
        let fit = Fit::new(&grid);
        for edge in edges {
            // The base function changes with the grid; the spline makes up for it.
            let change = |x: f64| base.at(&old, x).0 - base.at(&grid, x).0;
            let function = |x: f64| old.eval(&edge.coef, x) + edge.scale_base * change(x);
            edge.coef = fit.fit(function);
        }
    }
    layer.grids[i] = grid;
}

/// Whether there is room for a grid between `lo` and `hi`.
pub(crate) fn is_proper(lo: f64, hi: f64) -> bool {
    lo.is_finite() && hi.is_finite() && hi - lo > 1e-9 * (1.0 + lo.abs().max(hi.abs()))
}

/// Smallest and largest value of every hidden node, by layer.
fn hidden_ranges(network: &Network, samples: &Samples) -> Vec<Vec<(f64, f64)>> {
    let mut tape = network.tape();
    let hidden = &network.layers[1..];
    let mut ranges: Vec<Vec<(f64, f64)>> = hidden
        .iter()
        .map(|l| vec![(f64::INFINITY, f64::NEG_INFINITY); l.inputs()])
        .collect();
    for n in 0..samples.rows() {
        network.forward(samples.row(n), &mut tape);
        for (layer, values) in ranges.iter_mut().zip(&tape.values[1..]) {
            for ((lo, hi), &x) in layer.iter_mut().zip(values) {
                *lo = lo.min(x);
                *hi = hi.max(x);
            }
        }
    }
    ranges
}
