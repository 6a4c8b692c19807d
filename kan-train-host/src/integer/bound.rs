//! How far tables of integers can be from the network.

use rayon::prelude::*;

use super::{Arithmetic, Scale, Table};
use crate::functions::{Extent, Functions, ROUNDING, sorted};

impl Table {
    /// Bounds of the errors of the layer's sums, given those of its inputs, in the network's units.
    pub(crate) fn errors(&self, functions: &Functions, error: &[f64]) -> Vec<f64> {
        let arithmetic = Arithmetic::of(self.kind);
        let outputs = self.sums.len();
        let of_node = |i: usize| -> Vec<(usize, f64)> {
            let grid = &self.grids[i];
            let (low, high) = functions.reach[i];
            let beyond = match functions.is_first {
                true => 0.0, // the end of the table is the end of the domain
                false => (grid.cover.0 - low).max(high - grid.cover.1).max(0.0),
            };
            let spline = (arithmetic.degree > 0).then(|| grid.spline(arithmetic.degree));
            let breaks = sorted(
                functions.breaks(i).chain(grid.breaks()),
                (grid.lo, grid.hi()),
            );
            let edges = functions.layer.edges_from(i);
            edges
                .filter_map(|(j, edge)| {
                    let k = i * outputs + j;
                    let extent = functions.extent[k]?;
                    let integers = self.coefficients[k].as_ref()?;
                    let quantum = self.sums[j].unit * arithmetic.one;
                    let coef: Vec<f64> = (integers.iter())
                        .map(|&c| f64::from(c) * quantum + self.shifted[k])
                        .collect();
                    let distance = match &spline {
                        Some(spline) => Extent::of(
                            &breaks,
                            |x| {
                                let (value, slope) = functions.edge(i, j, edge, x, true);
                                (value - spline.eval(&coef, x), slope)
                            },
                            |a, b| {
                                let table = Some((spline, &coef[..]));
                                functions.bend((i, j, edge), table, true, (a, b))
                            },
                        )
                        .magnitude(),
                        None => (0..grid.intervals)
                            .map(|cell| {
                                let at = |k: usize| grid.lo + grid.step * k as f64;
                                let breaks = sorted(functions.breaks(i), (at(cell), at(cell + 1)));
                                Extent::of(
                                    &breaks,
                                    |x| {
                                        let (value, slope) = functions.edge(i, j, edge, x, true);
                                        (value - coef[cell], slope)
                                    },
                                    |a, b| functions.bend((i, j, edge), None, true, (a, b)),
                                )
                                .magnitude()
                            })
                            .fold(0.0, f64::max),
                    };
                    // As the errors of the weights cancel, only differences count.
                    let spread = integers.windows(arithmetic.degree + 1).map(|c| {
                        let ends = (c.iter().min()?, c.iter().max()?);
                        Some(f64::from(ends.1 - ends.0))
                    });
                    let spread = spread.flatten().fold(0.0, f64::max);
                    let weights = 0.5 * arithmetic.off * spread * self.sums[j].unit;
                    let moved = extent.slope * (error[i] + grid.slack + beyond);
                    Some((j, distance + weights + moved))
                })
                .collect()
        };
        // What rounding made of the biases.
        let mut bound: Vec<f64> = (self.bias.iter().zip(&self.sums).zip(&self.starts))
            .map(|((&bias, sum), start)| (start - sum.zero - sum.unit * f64::from(bias)).abs())
            .collect();
        let nodes: Vec<Vec<(usize, f64)>> =
            (0..self.nodes.len()).into_par_iter().map(of_node).collect();
        for (j, of_edge) in nodes.into_iter().flatten() {
            bound[j] += of_edge;
        }
        // The host's own rounding.
        bound.iter_mut().for_each(|bound| *bound *= 1.0 + 1e-6);
        bound
    }

    /// What an input of the first layer can be off by when the layer gets it as a float.
    pub(crate) fn input_errors(&self, functions: &Functions) -> Vec<f64> {
        let inputs = self.scales.iter().zip(&functions.reach);
        inputs
            .map(|([scale, _], (low, high))| {
                // It is rounded to f32, and so is its sum with a half.
                0.5 / f64::from(*scale) + 2.0 * ROUNDING * low.abs().max(high.abs())
            })
            .collect()
    }

    /// What the conversion of the last layer's sums to floats adds.
    pub(crate) fn output_errors(&self) -> Vec<f64> {
        let outputs = self.sums.len();
        let of_output = |(j, sum): (usize, &Scale)| {
            let edges = self.coefficients.iter().skip(j).step_by(outputs).flatten();
            let largest: u32 = edges
                .map(|edge| edge.iter().map(|c| c.unsigned_abs()).max().unwrap_or(0))
                .sum();
            let weight = Arithmetic::of(self.kind).weight;
            let value = sum.unit * (f64::from(self.bias[j]).abs() + weight * f64::from(largest));
            // The sum as f32, the product, the zero, and their sum.
            4.0 * ROUNDING * (value + sum.zero.abs())
        };
        self.sums.iter().enumerate().map(of_output).collect()
    }
}
