//! What an edge does where no sample of its node lies: between samples, and between the last one
//! and the end of its grid.
//!
//! There the loss says nothing, and what training leaves is a matter of its path. A test row in
//! such a gap can then cost more than all others together. The smoothest continuation is better.

use crate::grid;
use crate::network::{Base, Network};
use crate::objective::{self, Samples, Target};
use crate::spline::{Grid, MAX_ORDER};

/// What the edges may change by where samples are, as a part of the network's own error.
pub const TOLERANCE: f64 = 0.2;
/// A course that moves a coefficient by more than this part of their range is not taken.
const LARGEST_CHANGE: f64 = 0.3;
/// Over a gap narrower than this part of the grid an edge goes on as the polynomial it is, over a
/// wider one rather as a straight line.
const NARROW: f64 = 0.3;

/// Gives every edge the smoothest course that keeps its values at the samples of its node: of all
/// splines c′ that minimises E(φ′ − φ)² + ε·(range^(2k+1)·Σ(jump of φ⁽ᵏ⁾)²/w +
/// range³·∫(φ″)²/`NARROW`^(2k−2)), ε so small that E(φ′ − φ)² stays below `TOLERANCE`² of the loss.
/// The network stays as it was if its loss would grow by more, and where its error is noise.
pub fn bridge(network: &mut Network, samples: &Samples) {
    let loss = objective::loss(network, samples);
    let noisy = loss > grid::NOISE || matches!(samples.target, Target::Classes(_));
    if noisy {
        return;
    }
    let before = network.clone();
    let values = node_values(network, samples);
    let allowed = TOLERANCE * TOLERANCE * loss;
    let base = network.base;
    for (layer, values) in network.layers.iter_mut().zip(&values) {
        for (i, values) in values.iter().enumerate() {
            if !layer.is_used(i) {
                continue;
            }
            let outputs = layer.outputs;
            let course = Course::of(&layer.grids[i], base, values);
            let edges = layer.edges[i * outputs..(i + 1) * outputs].iter_mut();
            for edge in edges.flatten() {
                if let Some(coef) = course.smoothest(&edge.coef, edge.scale_base, allowed) {
                    edge.coef = coef;
                }
            }
        }
    }
    if objective::loss(network, samples) > (1.0 + TOLERANCE) * loss {
        *network = before;
    }
}

/// The values of every node that edges leave, by layer and node.
fn node_values(network: &Network, samples: &Samples) -> Vec<Vec<Vec<f64>>> {
    let mut tape = network.tape();
    let mut values: Vec<Vec<Vec<f64>>> = network
        .layers
        .iter()
        .map(|layer| vec![Vec::with_capacity(samples.rows()); layer.inputs()])
        .collect();
    for n in 0..samples.rows() {
        network.forward(samples.row(n), &mut tape);
        for (layer, row) in values.iter_mut().zip(&tape.values) {
            for (node, &x) in layer.iter_mut().zip(row) {
                node.push(x);
            }
        }
    }
    values
}

/// What the edges of one node are fitted to.
struct Course {
    /// The samples, their B-splines over √rows.
    samples: Triangle,
    /// Jumps and bends, the latter with the base function's: first B-spline, values, base function.
    roughness: Vec<(usize, [f64; WIDTH], f64)>,
}

impl Course {
    fn of(grid: &Grid, base: Base, values: &[f64]) -> Self {
        let k = grid.degree();
        let mut samples = Triangle::new(grid.functions());
        let share = (values.len() as f64).sqrt().recip();
        for &x in values {
            let local = grid.local(x);
            let mut row = [0.0; WIDTH];
            for (slot, value) in row.iter_mut().zip(&local.value[..=k]) {
                *slot = share * value;
            }
            samples.add(local.first, row, 0.0);
        }
        let range = grid.hi() - grid.lo();
        let sharp = range.powi(2 * k as i32 + 1).sqrt();
        let jumps = grid
            .jumps()
            .map(|(first, jumps)| (first, jumps.map(|j| sharp * j), 0.0));
        let wide = (range.powi(3) / NARROW.powi(2 * k as i32 - 2)).sqrt();
        let bends = grid.bends(|x| base.curvature_at(grid, x));
        let bends = bends.map(|(first, bends, extra)| {
            let mut row = [0.0; WIDTH];
            for (slot, bend) in row.iter_mut().zip(bends) {
                *slot = wide * bend;
            }
            (first, row, wide * extra)
        });
        Self {
            samples,
            roughness: jumps.chain(bends).collect(),
        }
    }

    /// The spline of least roughness among those near `coef`; `None` if there is no such.
    fn smoothest(&self, coef: &[f64], scale_base: f64, allowed: f64) -> Option<Vec<f64>> {
        let rough: Vec<f64> = self
            .roughness
            .iter()
            .map(|(first, row, extra)| {
                let spline: f64 = coef[*first..].iter().zip(row).map(|(c, r)| c * r).sum();
                spline + scale_base * extra
            })
            .collect();
        // Where φ′ = φ the sum is ε times this, so that its least value cannot be more.
        let most: f64 = rough.iter().map(|r| r * r).sum();
        let root = (allowed / most).sqrt();
        let mut triangle = self.samples.clone();
        for ((first, row, _), rough) in self.roughness.iter().zip(&rough) {
            triangle.add(*first, row.map(|r| root * r), -root * rough);
        }
        let change = triangle.solve()?;
        let extremes = |values: &[f64]| {
            let wider = |(lo, hi): (f64, f64), &v: &f64| (lo.min(v), hi.max(v));
            values
                .iter()
                .fold((f64::INFINITY, f64::NEG_INFINITY), wider)
        };
        let ((lo, hi), (least, most)) = (extremes(coef), extremes(&change));
        let small = most.max(-least) <= LARGEST_CHANGE * (hi - lo);
        small.then(|| coef.iter().zip(&change).map(|(c, d)| c + d).collect())
    }
}

/// The most B-splines in a row.
const WIDTH: usize = MAX_ORDER + 1;

/// A least-squares problem whose rows have few numbers side by side, reduced to a triangle by
/// rotations, row after row. It is exact to rounding where normal equations of rows as different in
/// size as samples and roughness would not be.
#[derive(Clone)]
struct Triangle {
    /// From the diagonal on.
    rows: Vec<[f64; WIDTH]>,
    right: Vec<f64>,
}

impl Triangle {
    fn new(size: usize) -> Self {
        Self {
            rows: vec![[0.0; WIDTH]; size],
            right: vec![0.0; size],
        }
    }

    /// Adds the row whose first number belongs to the unknown `first`.
    fn add(&mut self, first: usize, mut row: [f64; WIDTH], mut right: f64) {
        for (own, own_right) in self.rows[first..].iter_mut().zip(&mut self.right[first..]) {
            if row[0] != 0.0 {
                let length = own[0].hypot(row[0]);
                let (cos, sin) = (own[0] / length, row[0] / length);
                let turn = |a: &mut f64, b: &mut f64| {
                    (*a, *b) = (cos * *a + sin * *b, cos * *b - sin * *a);
                };
                for (a, b) in own.iter_mut().zip(&mut row) {
                    turn(a, b);
                }
                turn(own_right, &mut right);
            }
            row.rotate_left(1);
            row[WIDTH - 1] = 0.0;
            if row == [0.0; WIDTH] {
                break;
            }
        }
    }

    /// The unknowns; `None` if the rows do not determine them.
    fn solve(&self) -> Option<Vec<f64>> {
        let mut x = vec![0.0; self.rows.len()];
        for (at, (row, right)) in self.rows.iter().zip(&self.right).enumerate().rev() {
            let known: f64 = row[1..].iter().zip(&x[at + 1..]).map(|(r, x)| r * x).sum();
            x[at] = (right - known) / row[0];
        }
        x.iter().all(|x| x.is_finite()).then_some(x)
    }
}
