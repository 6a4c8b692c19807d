//! Levenberg and Marquardt's steps end where closed forms, linear and logistic regression say, and
//! nothing makes them give numbers that are none.

use kan_train_host::levenberg::{self, Options};
use kan_train_host::network::{Base, Network};
use kan_train_host::objective::{self, Samples, Target};
use kan_train_host::penalty::Penalty;
use kan_train_host::spline::{Grid, MAX_DEGREE};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use crate::network::random_network;
use crate::train::random_table;

pub fn values(x: Vec<f64>, inputs: usize, y: Vec<f64>) -> Samples {
    let outputs = y.len() / (x.len() / inputs);
    Samples {
        inputs,
        outputs,
        x,
        target: Target::Values(y),
    }
}

/// A network with all inputs on −1 … 1.
pub fn start(seed: u64, width: &[usize], degree: usize, intervals: usize, base: Base) -> Network {
    let inputs = vec![Grid::uniform(degree, -1.0, 1.0, intervals); width[0]];
    Network::random(width, &inputs, base, &mut Pcg64Mcg::seed_from_u64(seed))
}

const PATIENT: Options = Options {
    steps: 200,
    damping: 1e-3,
    tolerance: 1e-12,
};

pub fn fit(network: &mut Network, samples: &Samples, penalty: &Penalty) -> f64 {
    levenberg::train(network, samples, penalty, &PATIENT, &mut |_, _| {}).loss
}

#[test]
fn what_a_network_can_represent_is_recovered() {
    for degree in 1..=MAX_DEGREE {
        for base in [Base::Silu, Base::Zero] {
            for width in [&[1, 1][..], &[2, 3]] {
                let teacher = start(1, width, degree, 8, base);
                let x = random_table(2, 600, width[0]);
                let y = x.chunks(width[0]).flat_map(|x| teacher.eval(x)).collect();
                let samples = values(x, width[0], y);
                let mut network = start(3, width, degree, 8, base);
                let loss = fit(&mut network, &samples, &Penalty::default());
                let rmse = (2.0 * loss).sqrt();
                // Splines of high degree are the base function but for 1e-8: what of it they lack
                // has a curvature below the least damping, 1e-14, and is learnt slowly or not at
                // all.
                let bound = if base == Base::Zero { 1e-12 } else { 1e-7 };
                assert!(
                    rmse <= bound,
                    "degree {degree}, {base:?}, {width:?}: {rmse}"
                );
                // And between the samples: 600 on 8 intervals leave no room.
                let probe = random_table(4, 100, width[0]);
                for x in probe.chunks(width[0]) {
                    for (a, b) in network.eval(x).iter().zip(teacher.eval(x)) {
                        let error = (a - b).abs();
                        assert!(
                            error <= 100.0 * bound,
                            "degree {degree}, {base:?}, {width:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_hidden_layer_recovers_a_product() {
    // xy = ((x + y)² − (x − y)²)/4: squares of sums, exactly representable by [2, 2, 1].
    let x = random_table(5, 500, 2);
    let y = x.chunks(2).map(|x| x[0] * x[1]).collect();
    let samples = values(x, 2, y);
    let mut losses: Vec<f64> = (0..5)
        .map(|seed| {
            let mut network = start(seed, &[2, 2, 1], 3, 3, Base::Silu);
            fit(&mut network, &samples, &Penalty::default())
        })
        .collect();
    // A single start may end in another minimum; most get there.
    losses.sort_by(f64::total_cmp);
    assert!((2.0 * losses[0]).sqrt() <= 1e-10, "{losses:?}");
    assert!((2.0 * losses[2]).sqrt() <= 1e-8, "{losses:?}");
}

/// Least squares on 1, x_0, x_1, ….
fn linear_regression(x: &[f64], inputs: usize, y: &[f64]) -> Vec<f64> {
    let with_one = |x: &[f64]| [&[1.0], x].concat();
    let rows: Vec<Vec<f64>> = x.chunks(inputs).map(with_one).collect();
    least_squares(&rows, y)
}

/// The solution of the normal equations by Gauss–Jordan elimination.
pub fn least_squares(rows: &[Vec<f64>], y: &[f64]) -> Vec<f64> {
    let n = rows[0].len();
    let mut a = vec![vec![0.0; n + 1]; n];
    for (row, y) in rows.iter().zip(y) {
        for i in 0..n {
            for j in 0..n {
                a[i][j] += row[i] * row[j];
            }
            a[i][n] += row[i] * y;
        }
    }
    for i in 0..n {
        let pivot = a[i].clone();
        for (k, row) in a.iter_mut().enumerate() {
            let factor = if k == i {
                1.0 - 1.0 / pivot[i]
            } else {
                row[i] / pivot[i]
            };
            for (to, from) in row.iter_mut().zip(&pivot) {
                *to -= factor * from;
            }
        }
    }
    a.iter().map(|row| row[n]).collect()
}

#[test]
fn strong_roughness_gives_the_straight_line_of_least_squares() {
    for degree in 2..=MAX_DEGREE {
        for base in [Base::Silu, Base::Zero] {
            let x = random_table(6, 80, 2);
            let y: Vec<f64> = x
                .chunks(2)
                .map(|x| 0.3 + x[0] - 2.0 * x[1] + (4.0 * x[0] * x[1]).sin())
                .collect();
            let line = linear_regression(&x, 2, &y);
            let mut network = start(7, &[2, 1], degree, 6, base);
            let penalty = Penalty {
                roughness: 1e4,
                ..Penalty::default()
            };
            fit(&mut network, &values(x.clone(), 2, y), &penalty);
            for x in x.chunks(2).chain([&[3.0, -5.0][..]]) {
                let exact = line[0] + line[1] * x[0] + line[2] * x[1];
                let found = network.eval(x)[0];
                // An edge bends as a beam of stiffness 1e4·2³ under loads that sum to the mean
                // residual, below one: φ″ ≤ 2/8e4 and, over the range of 2, φ is off a line by
                // 2²/8 of that; at the far point by the slopes' change over the distance.
                let bound = if x[0] > 1.0 { 1e-3 } else { 1e-4 };
                assert!(
                    (found - exact).abs() <= bound,
                    "{degree} {base:?}: {found}, not {exact}"
                );
            }
        }
    }
}

#[test]
fn a_linear_classifier_is_that_of_logistic_regression() {
    let x = random_table(8, 120, 1);
    let noise = random_table(9, 120, 1);
    let class: Vec<usize> = x
        .iter()
        .zip(&noise)
        .map(|(x, n)| usize::from(x + 0.7 * n > 0.1))
        .collect();
    let ridge = 1e-3;
    // ½·slope·range·∫φ′² = ½·ridge·2·2·a² for φ = a·x on −1 … 1; Newton's method on (a, b).
    let (mut a, mut b) = (0.0, 0.0);
    for _ in 0..50 {
        let mut g = [4.0 * ridge * a, 0.0];
        let mut h = [4.0 * ridge, 0.0, 0.0];
        for (x, &class) in x.iter().zip(&class) {
            let p: f64 = 1.0 / (1.0 + f64::exp(-(a * x + b)));
            let (r, w) = ((p - class as f64) / 120.0, p * (1.0 - p) / 120.0);
            g = [g[0] + r * x, g[1] + r];
            h = [h[0] + w * x * x, h[1] + w * x, h[2] + w];
        }
        let determinant = h[0] * h[2] - h[1] * h[1];
        a -= (h[2] * g[0] - h[1] * g[1]) / determinant;
        b -= (h[0] * g[1] - h[1] * g[0]) / determinant;
    }
    let samples = Samples {
        inputs: 1,
        outputs: 1,
        x: x.clone(),
        target: Target::Classes(class),
    };
    let mut network = start(10, &[1, 1], 3, 5, Base::Silu);
    let penalty = Penalty {
        roughness: 1e6,
        slope: ridge,
        lamb: 0.0,
    };
    fit(&mut network, &samples, &penalty);
    for x in x {
        let (found, exact) = (network.eval(&[x])[0], a * x + b);
        assert!(
            (found - exact).abs() <= 1e-4,
            "at {x}: {found}, not {exact}"
        );
    }
}

#[test]
fn separable_classes_are_separated_and_the_weights_stay_finite() {
    for classes in [2, 3] {
        let outputs = if classes == 2 { 1 } else { classes };
        let table = random_table(11, 400, 2);
        let rank = |x: &[f64]| (1.5 * (x[0] + x[1] * x[1] + 1.0)) / 4.5 * classes as f64;
        // A gap between the classes.
        let rows: Vec<&[f64]> = table
            .chunks(2)
            .filter(|x| (rank(x) - rank(x).round()).abs() > 0.1 || rank(x) < 0.5)
            .collect();
        let class: Vec<usize> = rows
            .iter()
            .map(|x| (rank(x) as usize).min(classes - 1))
            .collect();
        let x: Vec<f64> = rows.concat();
        let samples = Samples {
            inputs: 2,
            outputs,
            x,
            target: Target::Classes(class.clone()),
        };
        for slope in [1e-4, 0.0] {
            let mut network = start(12, &[2, outputs], 3, 4, Base::Silu);
            let penalty = Penalty {
                slope,
                ..Penalty::default()
            };
            let loss = fit(&mut network, &samples, &penalty);
            assert!(loss.is_finite() && network.to_vector().iter().all(|c| c.is_finite()));
            let right = (0..class.len())
                .filter(|&n| {
                    let z = network.eval(samples.row(n));
                    match z[..] {
                        [z] => usize::from(z > 0.0) == class[n],
                        _ => (0..classes).all(|k| k == class[n] || z[k] < z[class[n]]),
                    }
                })
                .count();
            // The penalty weighs a few rows next to the gap less than gentle slopes.
            let least = if slope > 0.0 {
                class.len() * 97 / 100
            } else {
                class.len()
            };
            assert!(
                right >= least,
                "{classes} classes, slope {slope}: {right} of {}",
                class.len()
            );
            if slope > 0.0 {
                // Converged: more steps change nothing to speak of.
                let before = network.clone();
                let again = fit(&mut network, &samples, &penalty);
                assert!((again - loss).abs() <= 1e-6 * loss, "{loss}, then {again}");
                for n in 0..samples.rows() {
                    let (a, b) = (network.eval(samples.row(n)), before.eval(samples.row(n)));
                    assert!(
                        a.iter()
                            .zip(&b)
                            .all(|(a, b)| (a - b).abs() <= 1e-2 * (1.0 + b.abs()))
                    );
                }
            } else {
                assert!(loss <= 1e-3, "nothing holds the logits back: {loss}");
            }
        }
    }
}

#[test]
fn networks_too_large_to_factorise_are_trained_by_conjugate_gradients() {
    let x = random_table(22, 64, 20);
    let y = x
        .chunks(20)
        .map(|x| (x[0] - x[7]).sin() + x[3] * x[3])
        .collect();
    let samples = values(x, 20, y);
    let mut network = start(23, &[20, 20, 1], 3, 5, Base::Silu);
    assert!(!levenberg::is_factorable(&network, &samples));
    assert!(levenberg::is_factorable(
        &start(23, &[20, 2, 1], 3, 5, Base::Silu),
        &samples
    ));
    let before = objective::loss(&network, &samples);
    let options = Options {
        steps: 25,
        damping: 1e-3,
        tolerance: 1e-6,
    };
    let penalty = Penalty {
        roughness: 1e-6,
        ..Penalty::default()
    };
    let mut told = Vec::new();
    let outcome = levenberg::train(
        &mut network,
        &samples,
        &penalty,
        &options,
        &mut |n, loss| {
            told.push((n, loss));
        },
    );
    // 64 rows against thousands of parameters: it can be fitted.
    assert!(
        outcome.loss <= 1e-3 * before,
        "{before} to {}",
        outcome.loss
    );
    assert!(
        told.contains(&(outcome.steps, outcome.loss)),
        "the best of the steps told of"
    );
    assert!(told.iter().enumerate().all(|(at, (n, _))| *n == at + 1));
    assert_eq!(outcome.loss, objective::loss(&network, &samples));
}

#[test]
fn no_steps_change_nothing_and_nothing_to_gain_ends_at_once() {
    let teacher = start(24, &[2, 1], 3, 4, Base::Silu);
    let x = random_table(25, 50, 2);
    let y = x.chunks(2).flat_map(|x| teacher.eval(x)).collect();
    let samples = values(x, 2, y);
    let zero = Penalty::default();
    let none = Options {
        steps: 0,
        damping: 1e-3,
        tolerance: 1e-3,
    };
    let mut network = start(26, &[2, 1], 3, 4, Base::Silu);
    let before = network.clone();
    let outcome = levenberg::train(&mut network, &samples, &zero, &none, &mut |_, _| {
        panic!("there is no step to tell of")
    });
    assert_eq!(
        (outcome.steps, outcome.loss),
        (0, objective::loss(&before, &samples))
    );
    assert_eq!(network, before);
    let mut perfect = teacher.clone();
    let outcome = levenberg::train(&mut perfect, &samples, &zero, &PATIENT, &mut |_, _| {});
    assert_eq!((outcome.steps, outcome.loss, &perfect), (0, 0.0, &teacher));
}

#[test]
fn samples_or_networks_with_nan_end_training_and_harm_nothing() {
    let mut rng = Pcg64Mcg::seed_from_u64(27);
    for width in [&[2, 1][..], &[2, 3, 2]] {
        let network = random_network(&mut rng, width, 3, Base::Silu, 1.0);
        let outputs = width[width.len() - 1];
        for bad in [f64::NAN, f64::INFINITY, 1e308] {
            let mut x = random_table(28, 20, 2);
            let mut y = random_table(29, 20, outputs);
            let good = values(x.clone(), 2, y.clone());
            x[7] = bad;
            let bad_x = values(x, 2, y.clone());
            y[3] = bad;
            let bad_y = values(random_table(28, 20, 2), 2, y);
            for samples in [bad_x, bad_y] {
                let mut trained = network.clone();
                fit(&mut trained, &samples, &Penalty::default());
                assert!(
                    trained.to_vector().iter().all(|c| c.is_finite()),
                    "{width:?}, {bad}"
                );
            }
            let mut spoilt = network.clone();
            spoilt.layers[0].edges[0].as_mut().unwrap().coef[2] = bad;
            let penalty = Penalty {
                roughness: 1e-3,
                slope: 1e-3,
                lamb: 1e-3,
            };
            let loss = fit(&mut spoilt, &good, &penalty);
            assert!(!loss.is_nan(), "{width:?}, {bad}");
        }
    }
}
