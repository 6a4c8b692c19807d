//! Penalties on the shapes of edges: bending, tilting and number.
//!
//! Each is quadratic in the parameters of an edge, or is replaced by a quadratic near the network at
//! hand, so that Gauss–Newton steps take it in exactly.

use crate::network::{Base, Network};
use crate::objective::{Samples, dot};
use crate::statistics::statistics;

/// Strengths of the penalties.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Penalty {
    /// Times range³·∫(φ″)² of each edge over its grid: a dimensionless measure of bending.
    pub roughness: f64,
    /// Times range·∫(φ′)² of each edge: the ridge of a linear model.
    pub slope: f64,
    /// λ of (2.20): L1 of the edges' magnitudes (μ1 = 1) and entropy of a layer's (μ2 = 1).
    pub lamb: f64,
}

impl Penalty {
    /// Whether anything is penalised.
    pub fn is_zero(&self) -> bool {
        self.roughness == 0.0 && self.slope == 0.0 && self.lamb == 0.0
    }
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
pub struct PenaltyForm {
    edges: Vec<EdgeForm>,
    nodes: Vec<NodeForm>,
    /// The number of groups: the nodes that edges lead to.
    groups: usize,
}

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

struct NodeForm {
    size: usize,
    /// The bending and tilting common to the edges, row-major `[size, size]`.
    shape: Vec<f64>,
    /// Centred second moments of the basis functions, row-major `[size, size]`; empty if not used.
    moments: Vec<f64>,
}

impl NodeForm {
    fn times(&self, c: &[f64], sparsity: f64) -> (Vec<f64>, Vec<f64>) {
        let n = self.size;
        let product = |matrix: &[f64]| -> Vec<f64> {
            matrix
                .chunks(n)
                .map(|row| row.iter().zip(c).map(|(q, c)| q * c).sum())
                .collect()
        };
        let mut q = product(&self.shape);
        let m = if self.moments.is_empty() {
            vec![0.0; n]
        } else {
            product(&self.moments)
        };
        for (q, m) in q.iter_mut().zip(&m) {
            *q += sparsity * m;
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
            edges: Vec::new(),
            nodes: Vec::new(),
            groups: 0,
        };
        if penalty.is_zero() {
            return form;
        }
        let (offsets, _) = network.offsets();
        let last = network.layers.len() - 1;
        let statistics = (penalty.lamb > 0.0 || last > 0).then(|| statistics(network, samples));
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
                let (bending, tilting) = (penalty.roughness * range.powi(3), penalty.slope * range);
                let shape = (0..size * size)
                    .map(|at| {
                        let at = at / size * (m + 1) + at % size;
                        bending * bend[at] + tilting * tilt[at]
                    })
                    .collect();
                let moments = statistics
                    .as_ref()
                    .map_or_else(Vec::new, |s| s.moments[l][i].clone());
                let node = form.nodes.len();
                form.nodes.push(NodeForm {
                    size,
                    shape,
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

    fn ratios(&self, c: &[f64]) -> Ratios {
        let mut ratios = Ratios {
            numerator: vec![0.0; self.groups],
            denominator: vec![0.0; self.groups],
        };
        for edge in &self.edges {
            let node = &self.nodes[edge.node];
            let c = &c[edge.offset..edge.offset + node.size];
            let (q, m) = node.times(c, edge.sparsity);
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
            let (q, m) = node.times(&c[slots.clone()], edge.sparsity);
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
            let (q, _) = node.times(&v[slots.clone()], edge.sparsity);
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
                    visit(
                        edge.offset,
                        a,
                        b,
                        (node.shape[at] + edge.sparsity * moment) / d,
                    );
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
