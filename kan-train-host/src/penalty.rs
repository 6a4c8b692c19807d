//! Penalties on the shapes of edges: bending, tilting and number.
//!
//! Each is quadratic in the parameters of an edge, or is replaced by a quadratic near the network
//! at hand, so that Gauss–Newton steps take it in exactly.

use std::mem;

use serde::{Deserialize, Serialize};

use crate::network::{Base, Network};
use crate::objective::{Samples, dot};
use crate::statistics::{moments, statistics};

/// Strengths of the penalties.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Penalty {
    /// Times range³·∫(φ″)² of each edge over its grid: a dimensionless measure of bending.
    pub roughness: f64,
    /// Times range·∫(φ′)² of each edge: the ridge of a linear model.
    pub slope: f64,
    /// λ of (2.20): L1 of the edges' magnitudes (μ1 = 1) and entropy of a layer's (μ2 = 1).
    pub lamb: f64,
}

/// The penalties near one network: for the edges e into each node, ½ Σ_e c_eᵀ Q_e c_e, which for a
/// hidden node is divided by the variance Σ_e c_eᵀ M_e c_e that its edges have together.
///
/// The division makes the penalty blind to the scale of a hidden node, which can move to the next
/// layer without changing the network: else training would escape every penalty that way.
///
/// The sparsity penalty is majorised: the magnitude a = mean|φ − mean φ| of an edge is replaced by
/// the quadratic E(φ − mean φ)²/(2a) that touches it, with the input samples of the edge and the
/// entropy's slope as they are now. (Centred, because a constant can move between the edges of a
/// node.) Repeated, this is iteratively reweighted least squares on (2.20).
#[derive(Clone)]
pub struct PenaltyForm {
    roughness: f64,
    edges: Vec<EdgeForm>,
    nodes: Vec<NodeForm>,
    /// The number of groups: the nodes that edges lead to.
    groups: usize,
}

#[derive(Clone, Copy)]
struct EdgeForm {
    /// First parameter.
    offset: usize,
    /// The weight of the moments in Q.
    sparsity: f64,
    /// Which input node's matrices.
    node: usize,
    /// Which target node.
    group: usize,
    /// Whether the group is divided by its variance.
    relative: bool,
}

#[derive(Clone)]
struct NodeForm {
    size: usize,
    /// Bending, row-major `[size, size]`.
    bend: Vec<f64>,
    /// Tilting, times its strength, row-major `[size, size]`.
    tilt: Vec<f64>,
    /// Centred second moments of the basis functions, row-major `[size, size]`; empty if not used.
    moments: Vec<f64>,
}

impl NodeForm {
    /// Q·c and M·c.
    fn times(&self, c: &[f64], roughness: f64, sparsity: f64) -> (Vec<f64>, Vec<f64>) {
        let product = |matrix: &[f64]| -> Vec<f64> {
            matrix.chunks(self.size).map(|row| dot(row, c)).collect()
        };
        let m = if self.moments.is_empty() {
            vec![0.0; self.size]
        } else {
            product(&self.moments)
        };
        let mut q = product(&self.tilt);
        for ((q, b), m) in q.iter_mut().zip(product(&self.bend)).zip(&m) {
            *q += roughness * b + sparsity * m;
        }
        (q, m)
    }
}

/// Numerators and denominators of a penalty at one parameter vector.
struct Ratios {
    numerator: Vec<f64>,
    denominator: Vec<f64>,
}

impl PenaltyForm {
    /// The form of `penalty` at `network`; `samples` give the magnitudes.
    pub fn at(network: &Network, samples: &Samples, penalty: &Penalty) -> Self {
        let mut form = Self {
            roughness: penalty.roughness,
            edges: Vec::new(),
            nodes: Vec::new(),
            groups: 0,
        };
        let (offsets, _) = network.offsets();
        let last = network.layers.len() - 1;
        let statistics = (penalty.lamb > 0.0).then(|| statistics(network, samples));
        let mut moments = (penalty.lamb > 0.0 || last > 0).then(|| moments(network, samples));
        let base = network.base;
        let with_base = usize::from(base != Base::Zero);
        for (l, layer) in network.layers.iter().enumerate() {
            let weights = statistics
                .as_ref()
                .map(|s| s.weights(network, l, penalty.lamb));
            for (i, grid) in layer.grids.iter().enumerate() {
                if !layer.is_used(i) {
                    continue;
                }
                let m = grid.functions();
                let size = m + with_base;
                let range = grid.hi() - grid.lo();
                let bend = grid.gram(2, |x| base.curvature_at(grid, x));
                let tilt = grid.gram(1, |x| base.at(grid, x).1);
                let (bending, tilting) = (range.powi(3), penalty.slope * range);
                // Without the row and column of the base function where there is none.
                let places = (0..size * size).map(|at| at / size * (m + 1) + at % size);
                let tilt = places.clone().map(|at| tilting * tilt[at]).collect();
                let bend = places.map(|at| bending * bend[at]).collect();
                let moments = moments
                    .as_mut()
                    .map_or_else(Vec::new, |m| mem::take(&mut m[l][i]));
                let node = form.nodes.len();
                form.nodes.push(NodeForm {
                    size,
                    bend,
                    tilt,
                    moments,
                });
                for (j, _) in layer.edges_from(i) {
                    let e = i * layer.outputs + j;
                    form.edges.push(EdgeForm {
                        offset: offsets[l][e].expect("an edge that is there has parameters"),
                        sparsity: weights.as_ref().map_or(0.0, |w| w[e]),
                        node,
                        group: form.groups + j,
                        relative: l < last,
                    });
                }
            }
            form.groups += layer.outputs;
        }
        form
    }

    /// The value at `c` of the roughness penalty alone, of strength 1.
    pub fn bending(&self, c: &[f64]) -> f64 {
        let denominator = self.ratios(c).denominator;
        let bent = self.edges.iter().map(|edge| {
            let node = &self.nodes[edge.node];
            let c = &c[edge.offset..edge.offset + node.size];
            let rows = node.bend.chunks(node.size).zip(c);
            let bent: f64 = rows.map(|(row, &c_row)| c_row * dot(row, c)).sum();
            0.5 * bent / denominator[edge.group]
        });
        bent.sum()
    }

    /// Adds to the strength of the roughness penalty.
    pub fn roughen(&mut self, more: f64) {
        self.roughness += more;
    }

    /// Whether it weighs the magnitudes of edges.
    pub fn is_sparse(&self) -> bool {
        self.edges.iter().any(|edge| edge.sparsity > 0.0)
    }

    /// The part of the last layer, for a network that is nothing else.
    pub fn last_layer(&self) -> Self {
        let of_last = || self.edges.iter().filter(|edge| !edge.relative);
        let first = of_last().map(|edge| edge.offset).min().unwrap_or(0);
        let edges = of_last().map(|edge| EdgeForm {
            offset: edge.offset - first,
            ..*edge
        });
        Self {
            edges: edges.collect(),
            ..self.clone()
        }
    }

    fn ratios(&self, c: &[f64]) -> Ratios {
        let mut ratios = Ratios {
            numerator: vec![0.0; self.groups],
            denominator: vec![0.0; self.groups],
        };
        for edge in &self.edges {
            let node = &self.nodes[edge.node];
            let c = &c[edge.offset..edge.offset + node.size];
            let (q, m) = node.times(c, self.roughness, edge.sparsity);
            ratios.numerator[edge.group] += dot(&q, c);
            if edge.relative {
                ratios.denominator[edge.group] += dot(&m, c);
            }
        }
        for edge in self.edges.iter().filter(|edge| !edge.relative) {
            ratios.denominator[edge.group] = 1.0;
        }
        for d in &mut ratios.denominator {
            *d = d.max(1e-12);
        }
        ratios
    }

    /// The penalty at the parameters `c`.
    pub fn value(&self, c: &[f64]) -> f64 {
        let ratios = self.ratios(c);
        ratios
            .numerator
            .iter()
            .zip(&ratios.denominator)
            .map(|(n, d)| 0.5 * n / d)
            .sum()
    }

    /// Its gradient at `c`.
    pub fn gradient(&self, c: &[f64]) -> Vec<f64> {
        let ratios = self.ratios(c);
        let mut gradient = vec![0.0; c.len()];
        for edge in &self.edges {
            let node = &self.nodes[edge.node];
            let slots = edge.offset..edge.offset + node.size;
            let (q, m) = node.times(&c[slots.clone()], self.roughness, edge.sparsity);
            let d = ratios.denominator[edge.group];
            let pull = if edge.relative {
                ratios.numerator[edge.group] / d
            } else {
                0.0
            };
            for ((g, q), m) in gradient[slots].iter_mut().zip(&q).zip(&m) {
                *g = (q - pull * m) / d;
            }
        }
        gradient
    }

    /// The part of its curvature at `c` that is never negative: Q divided by the variances.
    pub fn curvature(&self, c: &[f64]) -> PenaltyCurvature<'_> {
        PenaltyCurvature {
            form: self,
            denominator: self.ratios(c).denominator,
        }
    }
}

/// The curvature of a penalty, block-diagonal over the edges.
pub struct PenaltyCurvature<'a> {
    form: &'a PenaltyForm,
    denominator: Vec<f64>,
}

impl PenaltyCurvature<'_> {
    /// The product with `v`.
    pub fn times(&self, v: &[f64]) -> Vec<f64> {
        let mut product = vec![0.0; v.len()];
        for edge in &self.form.edges {
            let node = &self.form.nodes[edge.node];
            let slots = edge.offset..edge.offset + node.size;
            let (q, _) = node.times(&v[slots.clone()], self.form.roughness, edge.sparsity);
            for (slot, q) in product[slots].iter_mut().zip(q) {
                *slot = q / self.denominator[edge.group];
            }
        }
        product
    }

    fn for_each_block(&self, mut visit: impl FnMut(usize, usize, usize, f64)) {
        for edge in &self.form.edges {
            let node = &self.form.nodes[edge.node];
            let d = self.denominator[edge.group];
            for a in 0..node.size {
                for b in 0..=a {
                    let at = a * node.size + b;
                    let moment = node.moments.get(at).copied().unwrap_or(0.0);
                    let q = self.form.roughness * node.bend[at]
                        + node.tilt[at]
                        + edge.sparsity * moment;
                    visit(edge.offset, a, b, q / d);
                }
            }
        }
    }

    /// Adds it to the lower triangle of a row-major matrix of `n` columns.
    pub(crate) fn add_to(&self, n: usize, matrix: &mut [f64]) {
        self.for_each_block(|offset, a, b, q| matrix[(offset + a) * n + offset + b] += q);
    }

    /// Adds its diagonal.
    pub(crate) fn add_diagonal_to(&self, diagonal: &mut [f64]) {
        self.for_each_block(|offset, a, b, q| {
            if a == b {
                diagonal[offset + a] += q;
            }
        });
    }
}
