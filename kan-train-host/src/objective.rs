//! What training minimises, penalties apart: half the mean squared error or the mean cross-entropy
//! of a network on samples.
//!
//! Both losses have a Gauss–Newton form: gradient Jᵀr/N and curvature JᵀWJ/N with W = 1 for squared
//! error and W = diag(p) − ppᵀ for cross-entropy (the Fisher information).
//!
//! # Speed
//!
//! The Gauss–Newton matrix is nearly all of a step. `cargo bench -p kan-train-host --bench peak`
//! compares it, passes through the network included, with multiply-adds in registers; of both
//! only what is not zero in a row of the Jacobian counts as work. On one core with AVX-512, of the
//! peak in `f64`: 9 % and 16 % on 3 intervals (\[4, 8, 1\] and \[8, 16, 1\]), by dense blocks that
//! multiply zeros too; 1 % on 24, by 4 × 4 updates all over a matrix larger than the caches
//! (2026-11-22).

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::network::{Base, Network, Run, Tape};
use crate::penalty::PenaltyCurvature;

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

    /// `count` rows, evenly spaced; `None` if there are no more than that.
    pub fn evenly(&self, count: usize) -> Option<Self> {
        let rows = self.rows();
        (rows > count).then(|| {
            let chosen: Vec<usize> = (0..count).map(|k| k * rows / count).collect();
            self.subset(&chosen)
        })
    }

    /// The loss of one row, and its derivative by the outputs in `residual`.
    pub(crate) fn row_loss(&self, n: usize, output: &[f64], residual: &mut [f64]) -> f64 {
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
    let outputs = network.eval_rows(&samples.x);
    let sums: Vec<f64> = chunks(samples.rows())
        .into_iter()
        .map(|rows| {
            let mut residual = vec![0.0; samples.outputs];
            let row = |n: usize| &outputs[n * samples.outputs..(n + 1) * samples.outputs];
            rows.map(|n| samples.row_loss(n, row(n), &mut residual))
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
/// Of each edge only the `k + 1` basis functions that are not zero take part in a row of J:
/// `rows·outputs·(edges·(k + 2))²/2` multiply-adds, whatever the grid. While the grid is coarse,
/// dense blocks of J are faster all the same.
pub fn expand(
    network: &Network,
    samples: &Samples,
    penalty: &PenaltyCurvature<'_>,
) -> (Expansion, Vec<f64>) {
    let n = network.parameters();
    let active = network.edges() * (network.degree() + 2);
    let with_base = network.base != Base::Zero;
    let (expansion, mut matrix) = if (n as f64) < DENSE * active as f64 {
        sum_rows(network, samples, || Dense::new(n, network))
    } else {
        let add_outer = match network.degree() {
            1 => add_outer::<2>,
            2 => add_outer::<3>,
            3 => add_outer::<4>,
            4 => add_outer::<5>,
            _ => add_outer::<6>,
        };
        sum_rows(network, samples, || Sparse {
            matrix: vec![0.0; n * n],
            add: |row: &[Run], matrix: &mut [f64]| add_outer(row, with_base, n, matrix),
        })
    };
    penalty.add_to(n, &mut matrix);
    (expansion, matrix)
}

/// The same without the matrix: the expansion, and the diagonal of JᵀWJ/N + Q. For networks whose
/// matrix would be too large.
pub fn expand_diagonal(
    network: &Network,
    samples: &Samples,
    penalty: &PenaltyCurvature<'_>,
) -> (Expansion, Vec<f64>) {
    let order = network.degree() + 1;
    let with_base = network.base != Base::Zero;
    let (expansion, mut diagonal) = sum_rows(network, samples, || Sparse {
        matrix: vec![0.0; network.parameters()],
        add: |row: &[Run], diagonal: &mut [f64]| {
            for run in row {
                let slots = &mut diagonal[run.coef..run.coef + order];
                for (slot, v) in slots.iter_mut().zip(&run.value) {
                    *slot += v * v;
                }
                if with_base {
                    diagonal[run.base] += run.base_value * run.base_value;
                }
            }
        },
    });
    penalty.add_diagonal_to(&mut diagonal);
    (expansion, diagonal)
}

/// What is made of the rows of √W·J.
trait Curvature {
    /// Takes in one row.
    fn add(&mut self, row: &[Run]);
    /// The sum over all rows.
    fn sum(self) -> Vec<f64>;
}

/// Each row is added where it is not zero.
struct Sparse<F> {
    matrix: Vec<f64>,
    add: F,
}

impl<F: Fn(&[Run], &mut [f64])> Curvature for Sparse<F> {
    fn add(&mut self, row: &[Run]) {
        (self.add)(row, &mut self.matrix);
    }

    fn sum(self) -> Vec<f64> {
        self.matrix
    }
}

/// Rows are written out, and their products taken a block at a time.
struct Dense {
    n: usize,
    order: usize,
    with_base: bool,
    /// Row-major `[n, n]`, the lower triangle.
    matrix: Vec<f64>,
    /// Row-major `[BLOCK, n]`.
    block: Vec<f64>,
    rows: usize,
}

/// Rows of J in a dense block.
const BLOCK: usize = 128;
/// Dense blocks are faster while a row of J has at most so many times as many numbers as are not
/// zero: they do the square of that in work, at the speed of matrix products.
const DENSE: f64 = 3.0;

impl Dense {
    fn new(n: usize, network: &Network) -> Self {
        Self {
            n,
            order: network.degree() + 1,
            with_base: network.base != Base::Zero,
            matrix: vec![0.0; n * n],
            block: vec![0.0; BLOCK * n],
            rows: 0,
        }
    }

    fn flush(&mut self) {
        let block =
            MatRef::from_row_major_slice(&self.block[..self.rows * self.n], self.rows, self.n);
        let sum = MatMut::from_row_major_slice_mut(&mut self.matrix, self.n, self.n);
        triangular::matmul(
            sum,
            BlockStructure::TriangularLower,
            Accum::Add,
            block.transpose(),
            BlockStructure::Rectangular,
            block,
            BlockStructure::Rectangular,
            1.0,
            Par::Seq,
        );
        self.block[..self.rows * self.n].fill(0.0);
        self.rows = 0;
    }
}

impl Curvature for Dense {
    fn add(&mut self, row: &[Run]) {
        let slots = &mut self.block[self.rows * self.n..][..self.n];
        for run in row {
            slots[run.coef..run.coef + self.order].copy_from_slice(&run.value[..self.order]);
            if self.with_base {
                slots[run.base] = run.base_value;
            }
        }
        self.rows += 1;
        if self.rows == BLOCK {
            self.flush();
        }
    }

    fn sum(mut self) -> Vec<f64> {
        self.flush();
        self.matrix
    }
}

/// Loss and gradient, and the mean over the samples of what is made of the rows of √W·J.
fn sum_rows<C: Curvature>(
    network: &Network,
    samples: &Samples,
    curvature: impl Fn() -> C + Sync,
) -> (Expansion, Vec<f64>) {
    let (offsets, n) = network.offsets();
    let parts: Vec<(f64, Vec<f64>, Vec<f64>)> = chunks(samples.rows())
        .into_par_iter()
        .map(|rows| {
            let mut tape = network.tape();
            let mut gradient = vec![0.0; n];
            let mut curvature = curvature();
            let mut residual = vec![0.0; samples.outputs];
            let mut seed = vec![vec![0.0; samples.outputs]; samples.outputs];
            let mut list = Vec::new();
            let mut loss = 0.0;
            for row in rows {
                network.forward(samples.row(row), &mut tape);
                let output = tape.values.last().expect("a network has outputs");
                loss += samples.row_loss(row, output, &mut residual);
                seeds(samples, output, &mut seed);
                add_gradient(network, &mut tape, &offsets, &residual, &mut gradient);
                for seed in &seed {
                    set_seed(&mut tape, seed);
                    network.backward(&mut tape);
                    network.runs(&tape, &offsets, &mut list);
                    curvature.add(&list);
                }
            }
            (loss, gradient, curvature.sum())
        })
        .collect();
    let mut parts = parts.into_iter();
    let (mut loss, mut gradient, mut curvature) = parts.next().expect("samples have rows");
    for (more, more_gradient, more_curvature) in parts {
        loss += more;
        add_to(&mut gradient, &more_gradient);
        add_to(&mut curvature, &more_curvature);
    }
    let scale = 1.0 / samples.rows() as f64;
    gradient.iter_mut().for_each(|g| *g *= scale);
    curvature.iter_mut().for_each(|h| *h *= scale);
    let loss = loss * scale;
    (Expansion { loss, gradient }, curvature)
}

/// The mean loss and its gradient, in the order of [`Network::to_vector`].
pub fn gradient(network: &Network, samples: &Samples) -> (f64, Vec<f64>) {
    let (offsets, n) = network.offsets();
    let parts: Vec<(f64, Vec<f64>)> = chunks(samples.rows())
        .into_par_iter()
        .map(|rows| {
            let mut tape = network.tape();
            let mut gradient = vec![0.0; n];
            let mut residual = vec![0.0; samples.outputs];
            let mut loss = 0.0;
            for row in rows {
                network.forward(samples.row(row), &mut tape);
                let output = tape.values.last().expect("a network has outputs");
                loss += samples.row_loss(row, output, &mut residual);
                add_gradient(network, &mut tape, &offsets, &residual, &mut gradient);
            }
            (loss, gradient)
        })
        .collect();
    let mut sum = (0.0, vec![0.0; n]);
    for (loss, gradient) in parts {
        sum.0 += loss;
        add_to(&mut sum.1, &gradient);
    }
    let scale = 1.0 / samples.rows() as f64;
    sum.1.iter_mut().for_each(|g| *g *= scale);
    (sum.0 * scale, sum.1)
}

fn add_to(sum: &mut [f64], more: &[f64]) {
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
        add_to(&mut product, &more);
    }
    for (slot, q) in product.iter_mut().zip(penalty.times(v)) {
        *slot = *slot * scale + q;
    }
    product
}

/// The scalar product.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
