//! Integers chosen for the least error on rows of inputs, not each for its own coefficient.

use std::ops::Range;

use rayon::prelude::*;

use super::{Arithmetic, LARGEST, Table, middle};

/// Coefficients of an output that are chosen together at most.
const MOST_REFINED: usize = 1500;
/// Times that each of them is looked at, at most.
const SWEEPS: usize = 20;
/// Smaller units that are tried, with coefficients that saturate.
const FINER: [f64; 3] = [1.0, 0.5, 0.25];
/// How much of the weight is on the coefficients before rounding, for where no rows are.
const PRIOR: f64 = 1e-3;

impl Table {
    /// Chooses the integers anew, so that the sums of all edges together have the least mean square
    /// error on rows of inputs: the roundings of neighbours and of other edges can make up for each
    /// other, and where bits are few a table with finer steps is better if it saturates only where
    /// no rows are.
    ///
    /// Coordinate descent from the rounded coefficients.
    pub(super) fn refine(&mut self, raw: &[i64], wanted: &[f64], logits: bool) {
        let Some(system) = System::of(self, raw) else {
            return;
        };
        let outputs = self.bias.len();
        let tried: Vec<Vec<Choice>> = (FINER.iter())
            .map(|&factor| {
                let outputs = (0..outputs).into_par_iter();
                outputs
                    .map(|j| system.choose(self, j, factor, wanted))
                    .collect()
            })
            .collect();
        let least = |error: &dyn Fn(usize) -> f64| {
            (0..FINER.len())
                .min_by(|&a, &b| error(a).total_cmp(&error(b)))
                .unwrap_or(0)
        };
        // Logits have one unit; nodes and values each their own.
        let common = least(&|k| tried[k].iter().map(|choice| choice.error).sum());
        for (j, (sum, bias)) in self.sums.iter_mut().zip(&mut self.bias).enumerate() {
            let best = match logits {
                true => common,
                false => least(&|k| tried[k][j].error),
            };
            let choice = &tried[best][j];
            for (i, unknowns) in system.nodes.iter().enumerate() {
                if let Some(edge) = &mut self.coefficients[i * outputs + j] {
                    let of_edge = &choice.coefficients[unknowns.clone()];
                    *edge = of_edge.iter().map(|&c| c as i32).collect();
                }
            }
            // Powers of two: the unit is still an f32.
            sum.unit *= FINER[best];
            *bias = choice.bias;
        }
        if self.is_last {
            let at = self.scales.len() - outputs;
            for (scale, sum) in self.scales[at..].iter_mut().zip(&self.sums) {
                scale[0] = sum.unit as f32;
            }
        }
    }
}

/// The integers of an output.
struct Choice {
    /// The mean square error on the rows, and what the prior adds.
    error: f64,
    /// For all nodes; 0 where there is no edge.
    coefficients: Vec<f64>,
    bias: i32,
}

/// The rows as a least-squares problem, whose unknowns are the coefficients of one output.
struct System {
    /// The unknowns of each node.
    nodes: Vec<Range<usize>>,
    /// By row: unknowns and their weights.
    weights: Vec<Vec<(usize, f64)>>,
    /// The mean over rows of products of weights, `[unknowns, unknowns]`.
    gram: Vec<f64>,
}

impl System {
    /// That of a layer; `None` if it is too large.
    fn of(table: &Table, raw: &[i64]) -> Option<Self> {
        let degree = table.kind.tables.degree();
        let nodes: Vec<Range<usize>> = (table.nodes.iter().zip(&table.grids))
            .map(|(node, grid)| {
                let first = (node.first >> 15) as usize;
                first..first + grid.intervals + degree
            })
            .collect();
        let size = nodes.last()?.end;
        if size > MOST_REFINED {
            return None;
        }
        let weights: Vec<Vec<(usize, f64)>> = (raw.par_chunks(nodes.len()))
            .map(|row| {
                let of_nodes = row.iter().enumerate().flat_map(|(i, &x)| {
                    let (first, weights) = table.basis(i, x);
                    let at = nodes[i].start + first;
                    (0..=degree).map(move |r| (at + r, weights[r]))
                });
                of_nodes.collect()
            })
            .collect();
        let mut gram = vec![0.0; size * size];
        for row in &weights {
            // Unknowns ascend within a row.
            for (k, &(a, of_a)) in row.iter().enumerate() {
                for &(b, of_b) in &row[k..] {
                    gram[a * size + b] += of_a * of_b;
                }
            }
        }
        let share = (weights.len() as f64).recip();
        for a in 0..size {
            for b in a..size {
                gram[a * size + b] *= share;
                gram[b * size + a] = gram[a * size + b];
            }
        }
        Some(Self {
            nodes,
            weights,
            gram,
        })
    }

    /// The best integers for output `j`, in a unit `factor` times what it is.
    fn choose(&self, table: &Table, j: usize, factor: f64, wanted: &[f64]) -> Choice {
        let arithmetic = Arithmetic::of(table.kind);
        let outputs = table.bias.len();
        let (unit, zero) = (table.sums[j].unit * factor, table.sums[j].zero);
        let quantum = unit * arithmetic.one;
        let bias = ((table.starts[j] - zero) / unit).round();
        // What the edges have to add up to, in quanta.
        let rest = wanted.iter().skip(j).step_by(outputs);
        let rest = rest.map(|wanted| (wanted - zero - unit * bias) / quantum);
        let size = self.nodes.last().map_or(0, |node| node.end);
        let (mut right, mut square) = (vec![0.0; size], 0.0);
        let count = self.weights.len() as f64;
        for (row, rest) in self.weights.iter().zip(rest) {
            square += rest * rest / count;
            for &(a, weight) in row {
                right[a] += weight * rest / count;
            }
        }

        // Coefficients stay as large as they were, or as all together may be.
        let fitted = |i: usize| table.fitted[i * outputs + j].as_deref();
        let half = |i: usize| {
            let largest = fitted(i).map_or(0.0, |c| middle(c).1);
            (largest / quantum).ceil().min(arithmetic.most)
        };
        let room = (LARGEST - bias.abs()) / arithmetic.weight;
        let room = room.clamp(0.0, arithmetic.most_together);
        let together: f64 = (0..self.nodes.len()).map(half).sum();
        let part = (room / together.max(1.0)).min(1.0);
        let mut problem = Descent {
            gram: &self.gram,
            right,
            used: Vec::new(),
            free: vec![0.0; size],
            largest: vec![0.0; size],
        };
        for (i, unknowns) in self.nodes.iter().enumerate() {
            let Some(fitted) = fitted(i) else {
                continue;
            };
            problem.used.extend(unknowns.clone());
            problem.largest[unknowns.clone()].fill((part * half(i)).floor());
            let shifted = table.shifted[i * outputs + j];
            for (free, c) in problem.free[unknowns.clone()].iter_mut().zip(fitted) {
                *free = (c - shifted) / quantum;
            }
        }
        let (coefficients, change) = problem.solve();
        // The unit as it was always fits.
        let fits = factor == 1.0 || unit >= table.finest[j] && bias.abs() <= LARGEST;
        Choice {
            error: match fits {
                true => quantum * quantum * (square + change),
                false => f64::INFINITY,
            },
            coefficients,
            bias: bias as i32,
        }
    }
}

/// Least squares in integers: of ½cᵀGc − rᵀc + ½`PRIOR`·|c − f|², in quanta.
struct Descent<'a> {
    gram: &'a [f64],
    right: Vec<f64>,
    /// The unknowns that there are.
    used: Vec<usize>,
    /// What they would be without rounding.
    free: Vec<f64>,
    /// The largest that they may be.
    largest: Vec<f64>,
}

impl Descent<'_> {
    /// Integers that none alone improves on, or nearly, and twice what they make of the sum.
    fn solve(&self) -> (Vec<f64>, f64) {
        let size = self.free.len();
        let clamp = |a: usize, c: f64| c.round().clamp(-self.largest[a], self.largest[a]);
        let mut c: Vec<f64> = (0..size).map(|a| clamp(a, self.free[a])).collect();
        let product = |c: &[f64], a: usize| -> f64 {
            let row = &self.gram[a * size..];
            self.used.iter().map(|&b| row[b] * c[b]).sum()
        };
        let mut slope = vec![0.0; size];
        for &a in &self.used {
            slope[a] = product(&c, a) - self.right[a] + PRIOR * (c[a] - self.free[a]);
        }
        for _ in 0..SWEEPS {
            let mut moved = false;
            for &a in &self.used {
                let row = &self.gram[a * size..];
                let by = clamp(a, c[a] - slope[a] / (row[a] + PRIOR)) - c[a];
                if by != 0.0 {
                    c[a] += by;
                    slope[a] += PRIOR * by;
                    for &b in &self.used {
                        slope[b] += row[b] * by;
                    }
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        let of_unknown = |&a: &usize| {
            c[a] * (product(&c, a) - 2.0 * self.right[a]) + PRIOR * (c[a] - self.free[a]).powi(2)
        };
        let change = self.used.iter().map(of_unknown).sum();
        (c, change)
    }
}
