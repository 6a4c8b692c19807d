//! L-BFGS finds what Levenberg–Marquardt finds where there is only one optimum, and stops in order.

use kan_train_host::network::{Base, Network};
use kan_train_host::objective::{self, Samples, Target};
use kan_train_host::penalty::Penalty;
use kan_train_host::spline::Grid;
use kan_train_host::{lbfgs, levenberg};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

fn additive(classes: bool) -> (Network, Samples) {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let x: Vec<f64> = (0..400).map(|_| rng.random_range(-1.0..1.0)).collect();
    let f = |x: &[f64]| (3.0 * x[0]).sin() + x[1] * x[1];
    let target = if classes {
        let noise = 0.5;
        let class = |x: &[f64]| usize::from(f(x) + rng.random_range(-noise..noise) > 0.4);
        Target::Classes(x.chunks(2).map(class).collect())
    } else {
        Target::Values(x.chunks(2).map(f).collect())
    };
    let grids = vec![Grid::uniform(3, -1.0, 1.0, 5); 2];
    let network = Network::random(&[2, 1], &grids, Base::Silu, &mut rng);
    (
        network,
        Samples {
            inputs: 2,
            outputs: 1,
            x,
            target,
        },
    )
}

#[test]
fn a_convex_problem_has_one_optimum() {
    for classes in [false, true] {
        let (start, samples) = additive(classes);
        let penalty = Penalty {
            roughness: 1e-4,
            slope: 1e-4,
            lamb: 0.0,
        };
        let options = levenberg::Options {
            steps: 200,
            damping: 1e-3,
            tolerance: 1e-14,
        };
        let mut second = start.clone();
        let by_lm = levenberg::train(&mut second, &samples, &penalty, &options, &mut |_, _| {});
        let mut first = start.clone();
        let mut steps = Vec::new();
        let by_lbfgs = lbfgs::train(
            &mut first,
            &samples,
            &penalty,
            3000,
            1e-12,
            &mut |step, _| {
                steps.push(step);
            },
        );
        let before = objective::loss(&start, &samples);
        assert!(by_lm.loss < 0.8 * before);
        // At an optimum the objective is flat: a gradient of 1e-8 leaves 1e-16/curvature, and the
        // least curvature is that of the penalties, above 1e-6.
        let gap = (by_lbfgs.loss - by_lm.loss).abs();
        assert!(gap < 1e-5 * by_lm.loss, "{} {}", by_lbfgs.loss, by_lm.loss);
        assert!((objective::loss(&first, &samples) - by_lbfgs.loss).abs() < 1e-15);
        assert!(steps.is_sorted() && steps.len() > 1);
    }
}

#[test]
fn steps_are_limited_and_lower_the_loss_of_deep_networks() {
    let (_, samples) = additive(false);
    let mut rng = Pcg64Mcg::seed_from_u64(2);
    let grids = vec![Grid::uniform(3, -1.0, 1.0, 5); 2];
    let mut network = Network::random(&[2, 3, 1], &grids, Base::Silu, &mut rng);
    let before = objective::loss(&network, &samples);
    let mut last = 0;
    let penalty = Penalty::default();
    let outcome = lbfgs::train(
        &mut network,
        &samples,
        &penalty,
        120,
        1e-3,
        &mut |step, _| last = step,
    );
    assert!(last <= 120 && outcome.steps <= 120);
    assert!(outcome.loss < 0.01 * before, "{} of {before}", outcome.loss);
}

#[test]
fn what_is_not_finite_ends_at_once() {
    let (mut network, mut samples) = additive(false);
    samples.x[7] = f64::NAN;
    let outcome = lbfgs::train(
        &mut network,
        &samples,
        &Penalty::default(),
        50,
        1e-3,
        &mut |_, _| {},
    );
    assert!(outcome.loss.is_infinite() || outcome.loss.is_nan());
}
