//! Levenberg–Marquardt: damped Gauss–Newton steps with the analytic Jacobian.
//!
//! Each step solves (JᵀWJ/N + Q + μI)·δ = −(gradient + Q·c), by Cholesky factorisation while that
//! is affordable, else by conjugate gradients on products with the matrix, which is then never
//! formed. A step counts only if it lowers the objective; μ follows the ratio of actual to
//! predicted decrease (Nielsen's rule; the actual one after the projection that follows, so that
//! steps that it helps are trusted more).
//!
//! A squared error is quadratic in the parameters of the last layer. Each step is therefore judged
//! after variable projection: the last layer first takes the parameters that are best for the
//! values its nodes have after the step (Golub and Pereyra; with steps for all parameters,
//! algorithm 2 of Ruhe and Wedin). The layers before it then move along the valley of those best
//! parameters, which the steps alone follow slowly.

use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef, Side};

use crate::grid;
use crate::network::Network;
use crate::objective::{self, Samples, Tapes, Target, dot};
use crate::penalty::{Penalty, PenaltyCurvature, PenaltyForm};

/// How a run of steps goes.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// At most this many steps.
    pub steps: usize,
    /// The damping μ of the first step.
    pub damping: f64,
    /// Stops after four steps in a row that lower the objective by less than this part.
    pub tolerance: f64,
}

/// What a run of steps did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// The loss without penalties at the end.
    pub loss: f64,
    /// The number of steps that counted.
    pub steps: usize,
}

/// A roughness penalty in units of the loss itself, on top of what is asked for: the bending of the
/// network as it is, or one unit of it if that is more, is worth this part of the loss, however
/// small that is. Relative to the bending too, because a curve with narrow peaks has a million
/// units of it, which must not outweigh the loss.
pub(crate) const RELATIVE_ROUGHNESS: f64 = 1e-5;
/// So many steps in a row without a new best end the run.
const PATIENCE: usize = 8;
const LEAST_DAMPING: f64 = 1e-14;
/// Above this many multiply-adds for one matrix and its factor, conjugate gradients take over.
const LARGEST_FACTOR: f64 = 3e9;

/// Trains `network` in place. Hidden grids follow their nodes' values. `watch` is called with the
/// number of steps done and the loss.
pub fn train(
    network: &mut Network,
    samples: &Samples,
    penalty: &Penalty,
    options: &Options,
    watch: &mut dyn FnMut(usize, f64),
) -> Outcome {
    let mut damping = options.damping;
    let mut loss = objective::loss(network, samples);
    if grid::follow(network, samples, loss) {
        loss = objective::loss(network, samples);
    }
    let mut best: Option<(f64, Network, Outcome)> = None;
    let mut done = 0;
    let mut flat = 0;
    let mut since_best = 0;
    loop {
        let start = network.to_vector();
        let mut form = PenaltyForm::at(network, samples, penalty);
        // Where no sample is, nothing but this keeps an edge from running wild.
        form.roughen(RELATIVE_ROUGHNESS * loss / form.bending(&start).max(1.0));
        let before = loss + form.value(&start);
        // Grids and magnitudes move between steps, and the penalty with them: a step that lowered
        // the objective as it was may have raised it.
        if best.as_ref().is_none_or(|(least, ..)| before < *least) {
            best = Some((before, network.clone(), Outcome { loss, steps: done }));
            since_best = 0;
        } else {
            since_best += 1;
        }
        if done >= options.steps || flat >= 4 || since_best >= PATIENCE {
            break;
        }
        let model = Model::at(network, samples, &form, &start);
        let Some((lower, ratio)) = model.descend(network, samples, &start, before, &mut damping)
        else {
            break;
        };
        let after = lower + form.value(&network.to_vector());
        done += 1;
        damping = (damping * (1.0 - (2.0 * ratio - 1.0).powi(3)).max(0.1)).max(LEAST_DAMPING);
        loss = if grid::follow(network, samples, lower) {
            objective::loss(network, samples)
        } else {
            lower
        };
        flat = if before - after < options.tolerance * before {
            flat + 1
        } else {
            0
        };
        watch(done, loss);
    }
    let (_, found, outcome) = best.expect("the start is a candidate");
    *network = found;
    outcome
}

/// The quadratic model of the objective at one network.
struct Model<'a> {
    form: &'a PenaltyForm,
    penalty: PenaltyCurvature<'a>,
    /// Gradient of loss and penalty.
    gradient: Vec<f64>,
    curvature: Curvature,
    /// The penalty on the last layer, if that is projected.
    last: Option<PenaltyForm>,
}

enum Curvature {
    /// Row-major lower triangle.
    Matrix(Vec<f64>),
    /// The diagonal, as preconditioner.
    Products(Vec<f64>),
}

impl<'a> Model<'a> {
    fn at(network: &Network, samples: &Samples, form: &'a PenaltyForm, start: &[f64]) -> Self {
        let penalty = form.curvature(start);
        let (expansion, curvature) = if is_factorable(network, samples) {
            let (expansion, matrix) = objective::expand(network, samples, &penalty);
            (expansion, Curvature::Matrix(matrix))
        } else {
            let (expansion, diagonal) = objective::expand_diagonal(network, samples, &penalty);
            (expansion, Curvature::Products(diagonal))
        };
        let mut gradient = expansion.gradient;
        for (g, q) in gradient.iter_mut().zip(form.gradient(start)) {
            *g += q;
        }
        // Under a sparsity penalty the last layer would settle, at every step, on the edges that
        // are large so far.
        let projected = network.layers.len() > 1
            && matches!(samples.target, Target::Values(_))
            && !form.is_sparse();
        Self {
            form,
            penalty,
            gradient,
            curvature,
            last: projected.then(|| form.last_layer()),
        }
    }

    /// Raises the damping until a step lowers the objective; gives the loss after it and the
    /// ratio of actual to predicted decrease, or `None`, with the network as it was.
    fn descend(
        &self,
        network: &mut Network,
        samples: &Samples,
        start: &[f64],
        before: f64,
        damping: &mut f64,
    ) -> Option<(f64, f64)> {
        let mut growth = 2.0;
        for _ in 0..10 {
            if let Some(step) = self.solve(network, samples, *damping) {
                let moved: Vec<f64> = start.iter().zip(&step).map(|(c, d)| c + d).collect();
                network.set_vector(&moved);
                let loss = self.project(network, samples, *damping);
                let after = loss + self.form.value(&network.to_vector());
                if after < before {
                    let predicted =
                        0.5 * (*damping * dot(&step, &step) - dot(&step, &self.gradient));
                    return Some((loss, (before - after) / predicted.max(f64::MIN_POSITIVE)));
                }
                network.set_vector(start);
            } else {
                *damping = damping.max(LEAST_DAMPING);
            }
            *damping *= growth;
            growth *= 2.0;
        }
        None
    }

    /// Gives the last layer its best parameters for the values that its nodes have, as far as the
    /// damping lets it: where only a few samples are, it must not follow what the layers before it
    /// still have wrong. The loss after that.
    fn project(&self, network: &mut Network, samples: &Samples, damping: f64) -> f64 {
        let Some(form) = &self.last else {
            return objective::loss(network, samples);
        };
        let layer = network.layers.pop().expect("a network has layers");
        let nodes = Samples {
            inputs: layer.inputs(),
            outputs: samples.outputs,
            x: network.eval_rows(&samples.x),
            target: samples.target.clone(),
        };
        let mut last = Network {
            base: network.base,
            layers: vec![layer],
        };
        if is_factorable(&last, &nodes) {
            let start = last.to_vector();
            let model = Model::at(&last, &nodes, form, &start);
            if let Some(step) = model.solve(&last, &nodes, damping) {
                let best: Vec<f64> = start.iter().zip(&step).map(|(c, d)| c + d).collect();
                last.set_vector(&best);
            }
        }
        let loss = objective::loss(&last, &nodes);
        network.layers.append(&mut last.layers);
        loss
    }

    fn solve(&self, network: &Network, samples: &Samples, damping: f64) -> Option<Vec<f64>> {
        match &self.curvature {
            Curvature::Matrix(lower) => {
                let n = self.gradient.len();
                let mut matrix = MatRef::from_row_major_slice(lower, n, n).to_owned();
                for i in 0..n {
                    matrix[(i, i)] += damping;
                }
                let factor = matrix.llt(Side::Lower).ok()?;
                let mut step = Mat::from_fn(n, 1, |i, _| -self.gradient[i]);
                factor.solve_in_place(step.as_mut());
                let step = step.col_as_slice(0).to_vec();
                step.iter().all(|s| s.is_finite()).then_some(step)
            }
            Curvature::Products(diagonal) => {
                let mut tapes = Tapes::of(network, samples);
                let product = |v: &[f64]| {
                    let mut p =
                        objective::curvature_times(network, samples, &mut tapes, &self.penalty, v);
                    for (p, v) in p.iter_mut().zip(v) {
                        *p += damping * v;
                    }
                    p
                };
                Some(conjugate_gradients(
                    product,
                    diagonal,
                    damping,
                    &self.gradient,
                ))
            }
        }
    }
}

/// Whether the Gauss–Newton matrix of the network is small enough to form and factorise.
pub fn is_factorable(network: &Network, samples: &Samples) -> bool {
    factor_cost(network, samples) <= LARGEST_FACTOR
}

/// Multiply-adds for one Gauss–Newton matrix and its factor.
pub fn factor_cost(network: &Network, samples: &Samples) -> f64 {
    let n = network.parameters() as f64;
    let active = (network.edges() * (network.degree() + 2)) as f64;
    let rows = (samples.rows() * samples.outputs) as f64;
    0.5 * rows * active * active + n * n * n / 3.0
}

/// Approximates A⁻¹·(−gradient), A given by its products, preconditioned by its diagonal, until the
/// residual is a hundredth or the iterations are spent: a truncated Newton step needs no more.
fn conjugate_gradients(
    mut product: impl FnMut(&[f64]) -> Vec<f64>,
    diagonal: &[f64],
    damping: f64,
    gradient: &[f64],
) -> Vec<f64> {
    let mut x = vec![0.0; gradient.len()];
    let mut r: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let precondition = |r: &[f64]| -> Vec<f64> {
        r.iter()
            .zip(diagonal)
            .map(|(r, d)| r / (d + damping))
            .collect()
    };
    let mut z = precondition(&r);
    let mut p = z.clone();
    let mut rz = dot(&r, &z);
    let enough = 1e-4 * rz;
    for _ in 0..40 {
        if rz <= enough {
            break;
        }
        let ap = product(&p);
        let alpha = rz / dot(&p, &ap).max(f64::MIN_POSITIVE);
        for k in 0..x.len() {
            x[k] += alpha * p[k];
            r[k] -= alpha * ap[k];
        }
        z = precondition(&r);
        let next = dot(&r, &z);
        let beta = next / rz;
        rz = next;
        for (p, z) in p.iter_mut().zip(&z) {
            *p = z + beta * *p;
        }
    }
    x
}
