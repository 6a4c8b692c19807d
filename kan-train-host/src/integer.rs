//! Tables of integers: fitted, rounded and written down, and how far they can be from the network.
//!
//! **Units.** An input is a fixed-point number: its unit is the power of two that tells some millions
//! of values apart on its range. The sum of an output node has the smallest unit in which the
//! coefficients of its edges fit their bits, no sum can overflow, and the grid of the node that it
//! becomes fits 32 bits. As B-splines sum to 1, every edge is shifted to where its coefficients use
//! both signs alike; what was taken away is in what a sum of 0 stands for.
//!
//! **Grids** cover the domain of an input, margin included; of a hidden node its own grid and all that
//! samples from the whole domain reach. Beyond, inputs saturate, and the bound has what that can cost.

use kan_core::blob::{ALL_NODES, Aligned, IntegerNode, LayerMessage};
use rayon::prelude::*;

use crate::functions::{Extent, Functions, ROUNDING, input_unit, sorted, within};
use crate::kinds::Kind;
use crate::network::Edge;
use crate::spline::{Fit, Grid};

/// The positions in an interval that a device tells apart.
pub(crate) const POSITIONS: f64 = 32_768.0;
/// Rows of coefficients that a layer may have.
const MOST_ROWS: usize = 131_071;
/// The largest sum that is aimed at: some rounding below what 32 bits hold.
const LARGEST: f64 = 2_147_352_576.0; // 2^31 − 2^17
/// Coefficients of an output that are chosen together at most.
const MOST_REFINED: usize = 1500;
/// Times that each of them is looked at, at most.
const SWEEPS: usize = 20;
/// Smaller units that are tried, with coefficients that saturate.
const FINER: [f64; 3] = [1.0, 0.5, 0.25];
/// Outputs that share a group at most, so that the search for groups ends.
const WIDEST_GROUP: usize = 64;

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

    /// Chooses the integers anew, so that the sums of all edges together have the least mean square
    /// error on rows of inputs: where the bits are few, the roundings of neighbours and of other
    /// edges can make up for each other, and a coarser table with finer steps is better if it
    /// saturates only where no rows are.
    ///
    /// Coordinate descent from the rounded coefficients; a thousandth of the weight is on these.
    fn refine(&mut self, raw: &[i64], wanted: &[f64], logits: bool) {
        let (inputs, outputs) = (self.nodes.len(), self.bias.len());
        let arithmetic = Arithmetic::of(self.kind);
        let order = arithmetic.degree + 1;
        let starts: Vec<usize> = self
            .nodes
            .iter()
            .map(|n| (n.first >> 15) as usize)
            .collect();
        let rows_of: Vec<usize> = self
            .grids
            .iter()
            .map(|grid| grid.intervals + arithmetic.degree)
            .collect();
        let size = rows_of.iter().sum::<usize>();
        if size > MOST_REFINED {
            return;
        }
        let count = (raw.len() / inputs).max(1) as f64;
        // The weights of every row, and the mean of their products.
        let weights: Vec<Vec<(usize, f64)>> = (raw.par_chunks(inputs))
            .map(|row| {
                let nodes = row.iter().enumerate().flat_map(|(i, &x)| {
                    let (first, weights) = self.basis(i, x);
                    let at = starts[i] + first;
                    (0..order).map(move |r| (at + r, weights[r]))
                });
                nodes.collect()
            })
            .collect();
        let mut gram = vec![0.0; size * size];
        for row in &weights {
            for &(a, wa) in row {
                for &(b, wb) in row {
                    gram[a * size + b] += wa * wb / count;
                }
            }
        }
        const PRIOR: f64 = 1e-3;
        let of_output = |j: usize, factor: f64| -> (f64, Vec<f64>, i32) {
            let unit = self.sums[j].unit * factor;
            let quantum = unit * arithmetic.one;
            let members: Vec<usize> = (0..inputs)
                .filter(|i| self.coefficients[i * outputs + j].is_some())
                .collect();
            let bias = ((self.starts[j] - self.sums[j].zero) / unit).round();
            let constant = self.sums[j].zero + unit * bias;
            let mut right = vec![0.0; size];
            let mut square = 0.0;
            for (row, wanted) in weights.iter().zip(wanted.iter().skip(j).step_by(outputs)) {
                let rest = wanted - constant;
                square += rest * rest / count;
                for &(a, w) in row {
                    right[a] += w * rest / count;
                }
            }
            // Coefficients stay as large as they were, or as all together may be.
            let half = |i: &usize| {
                let largest = self.fitted[i * outputs + j]
                    .as_deref()
                    .map_or(0.0, |c| middle(c).1);
                (largest / quantum).ceil().min(arithmetic.most)
            };
            let room = match unit < self.finest[j] {
                true => 0.0,
                false => (LARGEST - bias.abs()) / arithmetic.weight,
            };
            let room = room.clamp(0.0, arithmetic.most_together);
            let part = (room / members.iter().map(half).sum::<f64>().max(1.0)).min(1.0);
            let mut largest = vec![0.0; size];
            for i in &members {
                largest[starts[*i]..][..rows_of[*i]].fill((part * half(i)).floor());
            }
            // What each coefficient would be without rounding, and is.
            let mut free = vec![0.0; size];
            let mut c = vec![0.0; size];
            for &i in &members {
                let k = i * outputs + j;
                let fitted = self.fitted[k].iter().flatten().map(|c| c - self.shifted[k]);
                for (r, fitted) in fitted.enumerate() {
                    let (at, fitted) = (starts[i] + r, fitted / quantum);
                    free[at] = fitted;
                    c[at] = fitted.round().clamp(-largest[at], largest[at]);
                }
            }
            let used: Vec<usize> = members
                .iter()
                .flat_map(|&i| starts[i]..starts[i] + rows_of[i])
                .collect();
            // Half the gradient over quantum².
            let mut slope: Vec<f64> = vec![0.0; size];
            for &a in &used {
                let sum: f64 = used.iter().map(|&b| gram[a * size + b] * c[b]).sum();
                slope[a] = sum - right[a] / quantum + PRIOR * (c[a] - free[a]);
            }
            for _ in 0..SWEEPS {
                let mut moved = false;
                for &a in &used {
                    let bend = gram[a * size + a] + PRIOR;
                    let to = (c[a] - slope[a] / bend).round();
                    let by = to.clamp(-largest[a], largest[a]) - c[a];
                    if by != 0.0 {
                        c[a] += by;
                        slope[a] += PRIOR * by;
                        for &b in &used {
                            slope[b] += gram[a * size + b] * by;
                        }
                        moved = true;
                    }
                }
                if !moved {
                    break;
                }
            }
            let mut error = square;
            for &a in &used {
                let sum: f64 = used.iter().map(|&b| gram[a * size + b] * c[b]).sum();
                error += quantum * quantum * c[a] * sum - 2.0 * quantum * c[a] * right[a];
                error += PRIOR * (quantum * (c[a] - free[a])).powi(2);
            }
            (error, c, bias as i32)
        };
        let tried: Vec<Vec<(f64, Vec<f64>, i32)>> = FINER
            .iter()
            .map(|&factor| {
                (0..outputs)
                    .into_par_iter()
                    .map(|j| of_output(j, factor))
                    .collect()
            })
            .collect();
        // Logits have one unit; nodes and values each their own.
        let total = |k: usize| tried[k].iter().map(|(error, ..)| error).sum::<f64>();
        let least = |errors: &dyn Fn(usize) -> f64| {
            (0..FINER.len())
                .min_by(|&a, &b| errors(a).total_cmp(&errors(b)))
                .unwrap_or(0)
        };
        let common = least(&total);
        let chosen: Vec<usize> = (0..outputs)
            .map(|j| match logits {
                true => common,
                false => least(&|k| tried[k][j].0),
            })
            .collect();
        for (j, &best) in chosen.iter().enumerate() {
            let (_, c, bias) = &tried[best][j];
            for i in 0..inputs {
                if let Some(edge) = &mut self.coefficients[i * outputs + j] {
                    let of_edge = &c[starts[i]..starts[i] + rows_of[i]];
                    *edge = of_edge.iter().map(|&c| c as i32).collect();
                }
            }
            // Powers of two: the unit is still an f32.
            self.sums[j].unit *= FINER[best];
            self.bias[j] = *bias;
        }
        if self.scales.len() >= outputs && self.is_last {
            let at = self.scales.len() - outputs;
            for (scale, sum) in self.scales[at..].iter_mut().zip(&self.sums) {
                scale[0] = sum.unit as f32;
            }
        }
    }

    /// The number of intervals of each node's table; 0 where no edge leaves.
    pub(crate) fn intervals(&self, functions: &Functions) -> Vec<usize> {
        let nodes = self.grids.iter().enumerate();
        nodes
            .map(|(i, grid)| grid.intervals * usize::from(functions.layer.is_used(i)))
            .collect()
    }

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
        let mut bound: Vec<f64> = (self.bias.iter().zip(&self.sums))
            .map(|(&bias, sum)| if bias == 0 { 0.0 } else { 0.5 * sum.unit })
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

    /// The table as it goes into a blob.
    pub(crate) fn pack(&self) -> Packed {
        let outputs = self.bias.len();
        let groups = self.groups();
        let (mut targets, mut entries): (Vec<u16>, Vec<i32>) = (Vec::new(), Vec::new());
        let rows_of = |i: usize| self.grids[i].intervals + self.kind.tables.degree();
        let mut output = 0;
        for (size, members) in groups {
            let all = members.len() == self.nodes.len();
            let rows: usize = members.iter().map(|&i| rows_of(i)).sum();
            let count = if all { ALL_NODES } else { members.len() as u16 };
            targets.extend([size as u16, count, rows as u16, (rows >> 16) as u16]);
            if !all {
                for (&i, skipped) in members.iter().zip(self.skipped(&members)) {
                    targets.extend([i as u16, skipped as u16]);
                }
            }
            let end = output + size;
            while output < end {
                let width = block(end - output);
                for &i in &members {
                    for row in 0..rows_of(i) {
                        entries.extend((output..output + width).map(|j| {
                            let edge = self.coefficients[i * outputs + j].as_ref();
                            edge.map_or(0, |edge| edge[row])
                        }));
                    }
                }
                output += width;
            }
            let per_word = if self.kind.bits == 8 { 4 } else { 2 };
            entries.resize(entries.len().next_multiple_of(per_word), 0);
        }
        let coefficients = match self.kind.bits {
            8 => entries.iter().map(|&c| c as i8 as u8).collect(),
            _ => (entries.iter())
                .flat_map(|&c| (c as i16).to_le_bytes())
                .collect(),
        };
        let scales = self.scales.iter().flatten().map(|number| number.to_bits());
        Packed {
            kind: self.kind,
            nodes: self.nodes.iter().map(|node| node.pack()).collect(),
            bias: self.bias.clone(),
            targets,
            coefficients,
            base: std::iter::once(self.shift).chain(scales).collect(),
        }
    }

    /// Rows of the nodes before each member that are no members.
    fn skipped(&self, members: &[usize]) -> Vec<usize> {
        let mut before = 0;
        let of_member = |&i: &usize| {
            let skipped = (self.nodes[i].first >> 15) as usize - before;
            before += self.grids[i].intervals + self.kind.tables.degree();
            skipped
        };
        members.iter().map(of_member).collect()
    }

    /// Groups of outputs with the nodes that feed them, such that the kernels have least to do: a
    /// group costs something, each of its members, and for each block of outputs each member again.
    /// A group may hold edges that are not there, as columns of zeros.
    fn groups(&self) -> Vec<(usize, Vec<usize>)> {
        let outputs = self.bias.len();
        let nodes = self.nodes.len();
        let feeds: Vec<Vec<bool>> = (0..outputs)
            .map(|j| {
                (0..nodes)
                    .map(|i| self.coefficients[i * outputs + j].is_some())
                    .collect()
            })
            .collect();
        let order = self.kind.tables.degree() + 1;
        // The least cost of the outputs up to each, and the start of the last group.
        let mut best: Vec<(usize, usize)> = vec![(0, 0)];
        for end in 1..=outputs {
            let mut fed = vec![false; nodes];
            let mut least = (usize::MAX, 0);
            for start in (end.saturating_sub(WIDEST_GROUP)..end).rev() {
                for (fed, now) in fed.iter_mut().zip(&feeds[start]) {
                    *fed |= now;
                }
                let members = fed.iter().filter(|fed| **fed).count();
                let gathered = if members == nodes { 0 } else { 8 * members };
                let mut blocks = 0;
                let mut left = end - start;
                while left > 0 {
                    blocks += 4 + order * block(left) / 2;
                    left -= block(left);
                }
                let cost = best[start].0 + 40 + gathered + members * blocks;
                if cost < least.0 {
                    least = (cost, start);
                }
            }
            best.push(least);
        }
        let mut groups = Vec::new();
        let mut end = outputs;
        while end > 0 {
            let start = best[end].1;
            let is_fed = |i: &usize| feeds[start..end].iter().any(|output| output[*i]);
            let mut members: Vec<usize> = (0..nodes).filter(is_fed).collect();
            // The format has 16 bits for the rows that a member skips: so others are members, too.
            let is_used = |i: &usize| feeds.iter().any(|output| output[*i]);
            let mut others = (0..nodes).filter(|i| !is_fed(i) && is_used(i));
            while self.skipped(&members).last() > Some(&0xffff) {
                members.extend(others.next());
                members.sort_unstable();
            }
            groups.push((end - start, members));
            end = start;
        }
        groups.reverse();
        groups
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

/// The smallest unit in which 32 bits hold the width of a grid, and its ends' distances from `zero`.
fn finest_unit(lo: f64, hi: f64, zero: f64) -> f64 {
    (hi - zero).abs().max((zero - lo).abs()).max(hi - lo) / LARGEST
}

/// The middle of some numbers, and their largest distance from it.
fn middle(numbers: &[f64]) -> (f64, f64) {
    let lo = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let hi = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (0.5 * (lo + hi), 0.5 * (hi - lo))
}

/// The outputs that a kernel computes together where `left` are left.
fn block(left: usize) -> usize {
    match left {
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
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

/// The arrays of a layer as they stand in a blob.
pub(crate) struct Packed {
    kind: Kind,
    nodes: Vec<[u32; 4]>,
    bias: Vec<i32>,
    targets: Vec<u16>,
    coefficients: Vec<u8>,
    base: Vec<u32>,
}

impl Packed {
    pub(crate) fn message(&self) -> LayerMessage<'_> {
        LayerMessage {
            degree: self.kind.tables.degree() as u8,
            scalar: self.kind.scalar(),
            residual: false,
            outputs: self.bias.len() as u16,
            nodes: Aligned::of(&self.nodes),
            bias: Aligned::of(&self.bias),
            targets: Aligned::of(&self.targets),
            coefficients: Aligned::of(&self.coefficients),
            base: Aligned::of(&self.base),
        }
    }
}
