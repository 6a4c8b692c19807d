//! What training minimises: half the mean squared error or the mean cross-entropy of a network on
//! samples, plus penalties that are quadratic in the parameters of each edge.
//!
//! Both losses have a Gauss–Newton form: gradient Jᵀr/N and curvature JᵀWJ/N with W = 1 for squared
//! error and W = diag(p) − ppᵀ for cross-entropy (the Fisher information).

use rayon::prelude::*;

use crate::network::{Base, Network, Run, Tape};

/// What the samples should give.
#[derive(Debug, Clone)]
pub enum Target {
    /// Regression: row-major `[rows, outputs]`.
    Values(Vec<f64>),
    /// Classification: the class of each row. A network with one output gives the logit of class 1
    /// of two; otherwise one logit a class.
    Classes(Vec<usize>),
}

/// Samples in the network's own units.
#[derive(Debug, Clone)]
pub struct Samples {
    /// The number of inputs.
    pub inputs: usize,
    /// The number of network outputs.
    pub outputs: usize,
    /// Row-major `[rows, inputs]`.
    pub x: Vec<f64>,
    /// What the network should give.
    pub target: Target,
}

impl Samples {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        match &self.target {
            Target::Values(y) => y.len() / self.outputs,
            Target::Classes(class) => class.len(),
        }
    }

    /// The inputs of row `n`.
    pub fn row(&self, n: usize) -> &[f64] {
        &self.x[n * self.inputs..(n + 1) * self.inputs]
    }

    /// The rows with these numbers.
    pub fn subset(&self, rows: &[usize]) -> Self {
        let outputs = self.outputs;
        Self {
            inputs: self.inputs,
            outputs,
            x: rows
                .iter()
                .flat_map(|&n| self.row(n).iter().copied())
                .collect(),
            target: match &self.target {
                Target::Values(y) => Target::Values(
                    rows.iter()
                        .flat_map(|&n| y[n * outputs..(n + 1) * outputs].to_vec())
                        .collect(),
                ),
                Target::Classes(class) => Target::Classes(rows.iter().map(|&n| class[n]).collect()),
            },
        }
    }

    /// The loss of one row, and its derivative by the outputs in `residual`.
    fn row_loss(&self, n: usize, output: &[f64], residual: &mut [f64]) -> f64 {
        match &self.target {
            Target::Values(y) => {
                let y = &y[n * self.outputs..(n + 1) * self.outputs];
                let mut loss = 0.0;
                for ((r, z), y) in residual.iter_mut().zip(output).zip(y) {
                    *r = z - y;
                    loss += 0.5 * *r * *r;
                }
                loss
            }
            Target::Classes(class) => {
                softmax(output, residual);
                let class = class[n];
                match output {
                    [z] => {
                        residual[0] -= class as f64;
                        // ln(1 + e^∓z) without overflow.
                        let z = if class == 1 { -z } else { *z };
                        z.max(0.0) + (-z.abs()).exp().ln_1p()
                    }
                    _ => {
                        let top = output.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                        let sum: f64 = output.iter().map(|z| (z - top).exp()).sum();
                        residual[class] -= 1.0;
                        top + sum.ln() - output[class]
                    }
                }
            }
        }
    }
}

/// Probabilities of the logits `z`; a single logit gives the probability of class 1.
pub fn softmax(z: &[f64], p: &mut [f64]) {
    if let ([z], [p]) = (z, &mut *p) {
        *p = 1.0 / (1.0 + (-z).exp());
        return;
    }
    let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for (p, z) in p.iter_mut().zip(z) {
        *p = (z - top).exp();
        sum += *p;
    }
    for p in p {
        *p /= sum;
    }
}

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
    fn add_to(&self, n: usize, matrix: &mut [f64]) {
        self.for_each_block(|offset, a, b, q| matrix[(offset + a) * n + offset + b] += q);
    }

    /// Adds its diagonal.
    fn add_diagonal_to(&self, diagonal: &mut [f64]) {
        self.for_each_block(|offset, a, b, q| {
            if a == b {
                diagonal[offset + a] += q;
            }
        });
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What the samples say of every edge.
pub struct Statistics {
    /// Centred magnitudes mean|φ − mean φ| by layer and edge (2.17); 0 where pruned.
    pub magnitude: Vec<Vec<f64>>,
    /// Means of φ by layer and edge.
    pub mean: Vec<Vec<f64>>,
    /// Standard deviations of the node values by layer, outputs last.
    pub deviation: Vec<Vec<f64>>,
    /// Smallest and largest node values by layer, outputs last.
    pub range: Vec<Vec<(f64, f64)>>,
    /// Centred second moments of the basis functions and the base function by layer and node.
    moments: Vec<Vec<Vec<f64>>>,
}

/// Measures every edge and node of a network on samples.
pub fn statistics(network: &Network, samples: &Samples) -> Statistics {
    let order = network.degree() + 1;
    let with_base = usize::from(network.base != Base::Zero);
    let rows = samples.rows();
    let count = rows as f64;
    let mut tape = network.tape();
    let layers = &network.layers;
    let mut mean: Vec<Vec<f64>> = layers.iter().map(|l| vec![0.0; l.edges.len()]).collect();
    let mut magnitude = mean.clone();
    let widths = network.width();
    let mut range: Vec<Vec<(f64, f64)>> = widths
        .iter()
        .map(|&n| vec![(f64::INFINITY, f64::NEG_INFINITY); n])
        .collect();
    let mut node_mean: Vec<Vec<f64>> = widths.iter().map(|&n| vec![0.0; n]).collect();
    let mut deviation = node_mean.clone();
    let sizes = |l: usize, i: usize| layers[l].grids[i].functions() + with_base;
    let mut first_moments: Vec<Vec<Vec<f64>>> = (0..layers.len())
        .map(|l| {
            (0..layers[l].inputs())
                .map(|i| vec![0.0; sizes(l, i)])
                .collect()
        })
        .collect();
    let mut moments: Vec<Vec<Vec<f64>>> = (0..layers.len())
        .map(|l| {
            (0..layers[l].inputs())
                .map(|i| vec![0.0; sizes(l, i) * sizes(l, i)])
                .collect()
        })
        .collect();
    for pass in 0..2 {
        for n in 0..rows {
            network.forward(samples.row(n), &mut tape);
            for (l, values) in tape.values.iter().enumerate() {
                for (i, &x) in values.iter().enumerate() {
                    if pass == 0 {
                        node_mean[l][i] += x / count;
                        let (lo, hi) = &mut range[l][i];
                        *lo = lo.min(x);
                        *hi = hi.max(x);
                    } else {
                        deviation[l][i] += (x - node_mean[l][i]).powi(2) / count;
                    }
                }
            }
            for (l, layer) in layers.iter().enumerate() {
                for (i, node) in tape.nodes[l].iter().enumerate() {
                    for (j, edge) in layer.edges_from(i) {
                        let e = i * layer.outputs + j;
                        let value = edge.value(node, order);
                        if pass == 0 {
                            mean[l][e] += value / count;
                        } else {
                            magnitude[l][e] += (value - mean[l][e]).abs() / count;
                        }
                    }
                    if pass == 0 {
                        let size = sizes(l, i);
                        let base = (with_base == 1).then_some((size - 1, node.base));
                        let entries: Vec<(usize, f64)> = (node.local.first..)
                            .zip(node.local.value[..order].iter().copied())
                            .chain(base)
                            .collect();
                        for &(a, va) in &entries {
                            first_moments[l][i][a] += va / count;
                            for &(b, vb) in &entries {
                                moments[l][i][a * size + b] += va * vb / count;
                            }
                        }
                    }
                }
            }
        }
    }
    for (l, layer) in layers.iter().enumerate() {
        for i in 0..layer.inputs() {
            let size = sizes(l, i);
            for a in 0..size {
                for b in 0..size {
                    moments[l][i][a * size + b] -= first_moments[l][i][a] * first_moments[l][i][b];
                }
            }
        }
    }
    for variance in deviation.iter_mut().flatten() {
        *variance = variance.sqrt();
    }
    Statistics {
        magnitude,
        mean,
        deviation,
        range,
        moments,
    }
}

impl Statistics {
    /// Weights of the moments in the majorised sparsity penalty of layer `l`, by edge.
    fn weights(&self, network: &Network, l: usize, lamb: f64) -> Vec<f64> {
        let outputs = network.layers[l].outputs;
        let relative = self.relative_magnitude(l, outputs);
        let total: f64 = relative.iter().sum::<f64>().max(1e-12);
        let share = |a: f64| (a / total).max(1e-9);
        let entropy: f64 = relative.iter().map(|&a| -share(a) * share(a).ln()).sum();
        relative
            .iter()
            .map(|&a| {
                // ∂S/∂a of (2.19); where it would reward an edge for growing, nothing.
                let slope = (-(share(a).ln() + entropy) / total).max(0.0);
                lamb * (1.0 + slope) / a.max(1e-6)
            })
            .collect()
    }

    /// The magnitudes of the edges of layer `l` in units of the deviation of their target nodes.
    pub fn relative_magnitude(&self, l: usize, outputs: usize) -> Vec<f64> {
        let scale = |e: usize| self.deviation[l + 1][e % outputs].max(1e-9);
        self.magnitude[l]
            .iter()
            .enumerate()
            .map(|(e, a)| a / scale(e))
            .collect()
    }
}

/// The sparsity of (2.20) without its λ: Σ over the layers of the edges' magnitudes, relative to
/// their target nodes, and of the entropy of their shares.
pub fn sparsity(network: &Network, samples: &Samples) -> f64 {
    let statistics = statistics(network, samples);
    let layers = network.layers.iter().enumerate();
    layers
        .map(|(l, layer)| {
            let relative = statistics.relative_magnitude(l, layer.outputs);
            let total: f64 = relative.iter().sum::<f64>().max(1e-12);
            let shares = relative.iter().map(|a| a / total).filter(|p| *p > 0.0);
            total + shares.map(|p| -p * p.ln()).sum::<f64>()
        })
        .sum()
}

/// Everything a Newton step needs, at one network.
pub struct Expansion {
    /// The loss without penalties.
    pub loss: f64,
    /// Its gradient.
    pub gradient: Vec<f64>,
}

/// Sums over samples run over a fixed number of chunks, added in order: the result does not depend
/// on the number of threads.
const CHUNKS: usize = 4;

fn chunks(rows: usize) -> Vec<std::ops::Range<usize>> {
    let size = rows.div_ceil(CHUNKS).max(1);
    (0..rows)
        .step_by(size)
        .map(|at| at..(at + size).min(rows))
        .collect()
}

/// The mean loss of `network` on `samples`; infinite if any output is not finite.
pub fn loss(network: &Network, samples: &Samples) -> f64 {
    let sums: Vec<f64> = chunks(samples.rows())
        .into_par_iter()
        .map(|rows| {
            let mut tape = network.tape();
            let mut residual = vec![0.0; samples.outputs];
            rows.map(|n| {
                network.forward(samples.row(n), &mut tape);
                let output = tape.values.last().expect("a network has outputs");
                samples.row_loss(n, output, &mut residual)
            })
            .sum()
        })
        .collect();
    let mean = sums.iter().sum::<f64>() / samples.rows() as f64;
    if mean.is_finite() {
        mean
    } else {
        f64::INFINITY
    }
}

/// The loss of each row.
pub fn losses(network: &Network, samples: &Samples) -> Vec<f64> {
    let mut tape = network.tape();
    let mut residual = vec![0.0; samples.outputs];
    (0..samples.rows())
        .map(|n| {
            network.forward(samples.row(n), &mut tape);
            let output = tape.values.last().expect("a network has outputs");
            samples.row_loss(n, output, &mut residual)
        })
        .collect()
}

/// The share of rows whose class is not the most probable one; `None` for a regression.
pub fn wrong(network: &Network, samples: &Samples) -> Option<f64> {
    let Target::Classes(class) = &samples.target else {
        return None;
    };
    let mut tape = network.tape();
    let mut missed = 0;
    for (n, &class) in class.iter().enumerate() {
        network.forward(samples.row(n), &mut tape);
        let output = tape.values.last().expect("a network has outputs");
        missed += usize::from(most_probable(output) != class);
    }
    Some(missed as f64 / class.len() as f64)
}

/// The class that logits give: the sign of a single one, else the first of the largest.
pub fn most_probable(logits: &[f64]) -> usize {
    match logits {
        [z] => usize::from(*z > 0.0),
        _ => {
            let mut best = 0;
            for (k, z) in logits.iter().enumerate() {
                if *z > logits[best] {
                    best = k;
                }
            }
            best
        }
    }
}

/// The rows of √W·J of one sample as seeds of backward passes: `seeds[r][o]` is what row r puts on
/// output o. For cross-entropy W = Σ_k p_k (e_k − p)(e_k − p)ᵀ.
fn seeds(samples: &Samples, output: &[f64], seeds: &mut [Vec<f64>]) {
    match &samples.target {
        Target::Values(_) => {
            for (r, seed) in seeds.iter_mut().enumerate() {
                seed.fill(0.0);
                seed[r] = 1.0;
            }
        }
        Target::Classes(_) => {
            let mut p = vec![0.0; output.len()];
            softmax(output, &mut p);
            if let [p] = p[..] {
                seeds[0][0] = (p * (1.0 - p)).sqrt();
                return;
            }
            for (k, seed) in seeds.iter_mut().enumerate() {
                for (s, q) in seed.iter_mut().zip(&p) {
                    *s = -p[k].sqrt() * q;
                }
                seed[k] += p[k].sqrt();
            }
        }
    }
}

/// The expansion of the loss at `network` and, row-major in its lower triangle, the Gauss–Newton
/// matrix JᵀWJ/N plus the penalty's Q.
///
/// Costs `rows·outputs·(edges·(k + 2))²/2` multiply-adds: of each edge only the `k + 1` basis
/// functions that are not zero take part, whatever the grid.
pub fn expand(
    network: &Network,
    samples: &Samples,
    penalty: &PenaltyCurvature<'_>,
) -> (Expansion, Vec<f64>) {
    let with_base = network.base != Base::Zero;
    let (offsets, n) = network.offsets();
    let scale = 1.0 / samples.rows() as f64;
    let parts: Vec<(f64, Vec<f64>, Vec<f64>)> = chunks(samples.rows())
        .into_par_iter()
        .map(|rows| {
            let mut tape = network.tape();
            let mut gradient = vec![0.0; n];
            let mut matrix = vec![0.0; n * n];
            let mut residual = vec![0.0; samples.outputs];
            let mut seed = vec![vec![0.0; samples.outputs]; samples.outputs];
            let mut list = Vec::new();
            let mut sum = 0.0;
            for row in rows {
                network.forward(samples.row(row), &mut tape);
                let output = tape.values.last().expect("a network has outputs");
                sum += samples.row_loss(row, output, &mut residual);
                seeds(samples, output, &mut seed);
                add_gradient(network, &mut tape, &offsets, &residual, &mut gradient);
                for seed in &seed {
                    set_seed(&mut tape, seed);
                    network.backward(&mut tape);
                    network.runs(&tape, &offsets, &mut list);
                    match network.degree() {
                        1 => add_outer::<2>(&list, with_base, n, &mut matrix),
                        2 => add_outer::<3>(&list, with_base, n, &mut matrix),
                        3 => add_outer::<4>(&list, with_base, n, &mut matrix),
                        4 => add_outer::<5>(&list, with_base, n, &mut matrix),
                        _ => add_outer::<6>(&list, with_base, n, &mut matrix),
                    }
                }
            }
            (sum, gradient, matrix)
        })
        .collect();
    let mut parts = parts.into_iter();
    let (mut loss, mut gradient, mut matrix) = parts.next().expect("samples have rows");
    for (more, more_gradient, more_matrix) in parts {
        loss += more;
        add(&mut gradient, &more_gradient);
        add(&mut matrix, &more_matrix);
    }
    gradient.iter_mut().for_each(|g| *g *= scale);
    matrix.iter_mut().for_each(|h| *h *= scale);
    penalty.add_to(n, &mut matrix);
    (
        Expansion {
            loss: loss * scale,
            gradient,
        },
        matrix,
    )
}

fn add(sum: &mut [f64], more: &[f64]) {
    for (s, m) in sum.iter_mut().zip(more) {
        *s += m;
    }
}

fn set_seed(tape: &mut Tape, seed: &[f64]) {
    tape.sensitivity
        .last_mut()
        .expect("a tape has outputs")
        .copy_from_slice(seed);
}

/// Adds Jᵀ·seed of one sample.
fn add_gradient(
    network: &Network,
    tape: &mut Tape,
    offsets: &[Vec<Option<usize>>],
    seed: &[f64],
    gradient: &mut [f64],
) {
    let order = network.degree() + 1;
    let with_base = network.base != Base::Zero;
    set_seed(tape, seed);
    network.backward(tape);
    for (l, layer) in network.layers.iter().enumerate() {
        for (i, node) in tape.nodes[l].iter().enumerate() {
            let functions = layer.grids[i].functions();
            let row = &offsets[l][i * layer.outputs..(i + 1) * layer.outputs];
            for (&offset, &s) in row.iter().zip(&tape.sensitivity[l + 1]) {
                let Some(offset) = offset else { continue };
                let slots = &mut gradient[offset + node.local.first..][..order];
                for (slot, value) in slots.iter_mut().zip(&node.local.value) {
                    *slot += s * value;
                }
                if with_base {
                    gradient[offset + functions] += s * node.base;
                }
            }
        }
    }
}

/// Adds the outer product of one Jacobian row to the lower triangle. The runs are in the order of
/// their offsets, so that pairs up to the diagonal suffice.
fn add_outer<const ORDER: usize>(list: &[Run], with_base: bool, n: usize, matrix: &mut [f64]) {
    for (q, a) in list.iter().enumerate() {
        for b in &list[..=q] {
            for r in 0..ORDER {
                let row = (a.coef + r) * n + b.coef;
                let slots = &mut matrix[row..row + ORDER];
                for (slot, v) in slots.iter_mut().zip(&b.value[..ORDER]) {
                    *slot += a.value[r] * v;
                }
            }
            if !with_base {
                continue;
            }
            let row = a.base * n;
            for (slot, v) in matrix[row + b.coef..row + b.coef + ORDER]
                .iter_mut()
                .zip(&b.value)
            {
                *slot += a.base_value * v;
            }
            matrix[row + b.base] += a.base_value * b.base_value;
            if !std::ptr::eq(a, b) {
                for r in 0..ORDER {
                    matrix[(a.coef + r) * n + b.base] += a.value[r] * b.base_value;
                }
            }
        }
    }
}

/// The same without the matrix: the expansion, and the diagonal of JᵀWJ/N + Q. For networks whose
/// matrix would be too large.
pub fn expand_diagonal(
    network: &Network,
    samples: &Samples,
    penalty: &PenaltyCurvature<'_>,
) -> (Expansion, Vec<f64>) {
    let order = network.degree() + 1;
    let (offsets, n) = network.offsets();
    let scale = 1.0 / samples.rows() as f64;
    let parts: Vec<(f64, Vec<f64>, Vec<f64>)> = chunks(samples.rows())
        .into_par_iter()
        .map(|rows| {
            let mut tape = network.tape();
            let mut gradient = vec![0.0; n];
            let mut diagonal = vec![0.0; n];
            let mut residual = vec![0.0; samples.outputs];
            let mut seed = vec![vec![0.0; samples.outputs]; samples.outputs];
            let mut list = Vec::new();
            let mut sum = 0.0;
            for row in rows {
                network.forward(samples.row(row), &mut tape);
                let output = tape.values.last().expect("a network has outputs");
                sum += samples.row_loss(row, output, &mut residual);
                seeds(samples, output, &mut seed);
                add_gradient(network, &mut tape, &offsets, &residual, &mut gradient);
                for seed in &seed {
                    set_seed(&mut tape, seed);
                    network.backward(&mut tape);
                    network.runs(&tape, &offsets, &mut list);
                    for run in &list {
                        let slots = &mut diagonal[run.coef..run.coef + order];
                        for (slot, v) in slots.iter_mut().zip(&run.value) {
                            *slot += v * v;
                        }
                        if network.base != Base::Zero {
                            diagonal[run.base] += run.base_value * run.base_value;
                        }
                    }
                }
            }
            (sum, gradient, diagonal)
        })
        .collect();
    let mut parts = parts.into_iter();
    let (mut loss, mut gradient, mut diagonal) = parts.next().expect("samples have rows");
    for (more, more_gradient, more_diagonal) in parts {
        loss += more;
        add(&mut gradient, &more_gradient);
        add(&mut diagonal, &more_diagonal);
    }
    gradient.iter_mut().for_each(|g| *g *= scale);
    diagonal.iter_mut().for_each(|d| *d *= scale);
    penalty.add_diagonal_to(&mut diagonal);
    (
        Expansion {
            loss: loss * scale,
            gradient,
        },
        diagonal,
    )
}

/// Forward passes of all samples, kept for many products at one network.
pub struct Tapes(Vec<Tape>);

impl Tapes {
    /// Runs all samples through the network.
    pub fn of(network: &Network, samples: &Samples) -> Self {
        let tapes = (0..samples.rows()).into_par_iter().map(|n| {
            let mut tape = network.tape();
            network.forward(samples.row(n), &mut tape);
            tape
        });
        Self(tapes.collect())
    }
}

/// (JᵀWJ/N + Q)·v without the matrix: forward and reverse differentiation of every sample.
pub fn curvature_times(
    network: &Network,
    samples: &Samples,
    tapes: &mut Tapes,
    penalty: &PenaltyCurvature<'_>,
    v: &[f64],
) -> Vec<f64> {
    let order = network.degree() + 1;
    let with_base = network.base != Base::Zero;
    let (offsets, n) = network.offsets();
    let scale = 1.0 / samples.rows() as f64;
    let size = samples.rows().div_ceil(CHUNKS).max(1);
    let parts: Vec<Vec<f64>> = tapes
        .0
        .par_chunks_mut(size)
        .map(|tapes| {
            let mut tangent: Vec<Vec<f64>> =
                network.width().iter().map(|&n| vec![0.0; n]).collect();
            let mut product = vec![0.0; n];
            let mut p = vec![0.0; samples.outputs];
            for tape in tapes {
                for (l, layer) in network.layers.iter().enumerate() {
                    let (before, after) = tangent.split_at_mut(l + 1);
                    after[0].fill(0.0);
                    for (i, node) in tape.nodes[l].iter().enumerate() {
                        let base_at = layer.grids[i].functions();
                        let row = &offsets[l][i * layer.outputs..(i + 1) * layer.outputs];
                        for (j, (&offset, sum)) in row.iter().zip(&mut after[0]).enumerate() {
                            let Some(offset) = offset else { continue };
                            let coef = &v[offset + node.local.first..][..order];
                            *sum += dot(coef, &node.local.value[..order]);
                            if with_base {
                                *sum += v[offset + base_at] * node.base;
                            }
                            if l > 0 {
                                let slope = layer.edge(i, j).map_or(0.0, |e| e.slope(node, order));
                                *sum += before[l][i] * slope;
                            }
                        }
                    }
                }
                let output = tape.values.last().expect("a network has outputs");
                let jv = tangent.last_mut().expect("a network has outputs");
                if let Target::Classes(_) = samples.target {
                    softmax(output, &mut p);
                    if let ([p], [jv]) = (&p[..], &mut jv[..]) {
                        *jv *= p * (1.0 - p);
                    } else {
                        let mean = dot(jv, &p);
                        for (t, p) in jv.iter_mut().zip(&p) {
                            *t = p * (*t - mean);
                        }
                    }
                }
                add_gradient(network, tape, &offsets, jv, &mut product);
            }
            product
        })
        .collect();
    let mut parts = parts.into_iter();
    let mut product = parts.next().expect("samples have rows");
    for more in parts {
        add(&mut product, &more);
    }
    for (slot, q) in product.iter_mut().zip(penalty.times(v)) {
        *slot = *slot * scale + q;
    }
    product
}
