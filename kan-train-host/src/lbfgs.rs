//! L-BFGS on all rows: quasi-Newton steps from the last ten gradients, by the crate `argmin`.
//!
//! For networks whose Gauss–Newton matrix is too large. An iteration costs one or two passes over
//! the rows, forward and back. The steps come in rounds: before each, hidden grids follow their
//! nodes' values and the penalties take the form that they have there; within a round the objective
//! stays the same function, as the method needs.

use std::sync::atomic::{AtomicUsize, Ordering};

use argmin::core::{CostFunction, Error, Executor, Gradient, State as _};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;

use crate::grid;
use crate::levenberg::{Outcome, RELATIVE_ROUGHNESS};
use crate::network::Network;
use crate::objective::{self, Samples};
use crate::penalty::{Penalty, PenaltyForm};

/// Gradients that are remembered.
const MEMORY: usize = 10;
/// Most iterations of a round.
const ROUND: usize = 50;
/// A line search that needs more evaluations than this has lost its way.
const EVALUATIONS: usize = 20;

/// Trains `network` in place for at most `steps` iterations, or until a round lowers the objective
/// by less than the part `tolerance`. `watch` is called after every round with the number of
/// iterations done and the loss.
pub fn train(
    network: &mut Network,
    samples: &Samples,
    penalty: &Penalty,
    steps: usize,
    tolerance: f64,
    watch: &mut dyn FnMut(usize, f64),
) -> Outcome {
    let mut done = 0;
    let mut best: Option<(f64, Network, Outcome)> = None;
    loop {
        grid::follow(network, samples, objective::loss(network, samples));
        let loss = objective::loss(network, samples);
        let start = network.to_vector();
        let mut form = PenaltyForm::at(network, samples, penalty);
        form.roughen(RELATIVE_ROUGHNESS * loss / form.bending(&start).max(1.0));
        let before = loss + form.value(&start);
        // As in Levenberg–Marquardt: grids and penalties move, and the best counts.
        let gain = best
            .as_ref()
            .map_or(f64::INFINITY, |(least, ..)| least - before);
        if gain > 0.0 {
            best = Some((before, network.clone(), Outcome { loss, steps: done }));
        }
        let enough = gain.is_nan() || gain < tolerance * before.abs();
        if done >= steps || enough || !before.is_finite() {
            break;
        }
        let round = ROUND.min(steps - done);
        let objective = Objective {
            network,
            samples,
            form: &form,
            left: AtomicUsize::new(round * EVALUATIONS),
        };
        let (taken, found) = minimise(objective, start, round, before);
        done += taken.max(1);
        network.set_vector(&found);
        watch(done, objective::loss(network, samples));
    }
    let Some((_, found, outcome)) = best else {
        let loss = f64::INFINITY;
        return Outcome { loss, steps: done };
    };
    *network = found;
    outcome
}

/// Iterations, and the best point.
fn minimise(
    objective: Objective<'_>,
    start: Vec<f64>,
    iterations: usize,
    before: f64,
) -> (usize, Vec<f64>) {
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), MEMORY)
        .with_tolerance_grad(1e-12)
        .and_then(|solver| solver.with_tolerance_cost(1e-15 * before))
        .expect("the tolerances are not negative");
    let run = Executor::new(objective, solver)
        .configure(|state| state.param(start.clone()).max_iters(iterations as u64))
        .timer(false)
        .run();
    match run {
        Ok(result) => {
            let iterations = result.state.get_iter() as usize;
            let best = result.state.get_best_param().cloned();
            (iterations, best.unwrap_or(start))
        }
        // Out of evaluations, or beyond the finite: the start is the best that is known.
        Err(_) => (iterations, start),
    }
}

/// Loss and penalty as `argmin` wants them.
struct Objective<'a> {
    network: &'a Network,
    samples: &'a Samples,
    form: &'a PenaltyForm,
    /// Evaluations that may still be made.
    left: AtomicUsize,
}

impl Objective<'_> {
    fn at(&self, parameters: &[f64]) -> Network {
        let mut network = self.network.clone();
        network.set_vector(parameters);
        network
    }
}

impl CostFunction for Objective<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, parameters: &Vec<f64>) -> Result<f64, Error> {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        let cost =
            objective::loss(&self.at(parameters), self.samples) + self.form.value(parameters);
        if left == 0 || !cost.is_finite() {
            return Err(Error::msg(
                "no finite objective within the evaluations allowed",
            ));
        }
        Ok(cost)
    }
}

impl Gradient for Objective<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, parameters: &Vec<f64>) -> Result<Vec<f64>, Error> {
        let (_, mut gradient) = objective::gradient(&self.at(parameters), self.samples);
        for (g, q) in gradient.iter_mut().zip(self.form.gradient(parameters)) {
            *g += q;
        }
        Ok(gradient)
    }
}
