//! Training reaches what can be reached, is reproducible, and no data make it panic or give numbers
//! that are none.

use std::ops::ControlFlow;

use std::f64::consts::PI;

use kan_train_host::dataset::{Dataset, Target as Column};
use kan_train_host::levenberg::{self, Options};
use kan_train_host::network::{Base, Network};
use kan_train_host::objective::{self, Samples, Target};
use kan_train_host::penalty::Penalty;
use kan_train_host::predictor::{self, Predictor, Range, Scale, Score};
use kan_train_host::prune::{THRESHOLD, importance};
use kan_train_host::spline::{Grid, MAX_DEGREE};
use kan_train_host::statistics::statistics;
use kan_train_host::train::{Event, Method, Settings, TrainError, Trained, choose_method, train};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::network::random_network;

fn random_table(seed: u64, rows: usize, columns: usize) -> Vec<f64> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    (0..rows * columns)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect()
}

fn with_target(x: Vec<f64>, inputs: usize, target: Column) -> Dataset {
    let input_names = (0..inputs).map(|i| format!("x{i}")).collect();
    Dataset {
        source: "table".into(),
        input_names,
        rows: x.len() / inputs,
        x,
        target,
    }
}

/// Rows of `inputs` numbers and a function of each.
fn regression(x: Vec<f64>, inputs: usize, f: impl Fn(&[f64]) -> f64) -> Dataset {
    let y = x.chunks(inputs).map(f).collect();
    with_target(
        x,
        inputs,
        Column::Regression {
            names: vec!["y".into()],
            y,
        },
    )
}

fn classification(
    x: Vec<f64>,
    inputs: usize,
    classes: usize,
    f: impl Fn(&[f64]) -> usize,
) -> Dataset {
    let class = x.chunks(inputs).map(f).collect();
    let labels = (0..classes).map(|k| format!("c{k}")).collect();
    with_target(
        x,
        inputs,
        Column::Classification {
            name: "class".into(),
            labels,
            class,
        },
    )
}

fn fixed(width: &[usize], grid: &[usize]) -> Settings {
    Settings {
        width: Some(width.to_vec()),
        grid: Some(grid.to_vec()),
        ..Settings::default()
    }
}

fn train_quietly(data: &Dataset, settings: &Settings) -> Result<Trained, TrainError> {
    train(data, None, settings, None, &mut |_| {
        ControlFlow::Continue(())
    })
}

fn values(x: Vec<f64>, inputs: usize, y: Vec<f64>) -> Samples {
    let outputs = y.len() / (x.len() / inputs);
    Samples {
        inputs,
        outputs,
        x,
        target: Target::Values(y),
    }
}

/// A network with all inputs on −1 … 1.
fn start(seed: u64, width: &[usize], degree: usize, intervals: usize, base: Base) -> Network {
    let inputs = vec![Grid::uniform(degree, -1.0, 1.0, intervals); width[0]];
    Network::random(width, &inputs, base, &mut Pcg64Mcg::seed_from_u64(seed))
}

const PATIENT: Options = Options {
    steps: 200,
    damping: 1e-3,
    tolerance: 1e-12,
};

fn fit(network: &mut Network, samples: &Samples, penalty: &Penalty) -> f64 {
    levenberg::train(network, samples, penalty, &PATIENT, &mut |_, _| {}).loss
}

#[test]
fn the_papers_first_example_is_learnt_to_a_ten_millionth() {
    let f = |x: &[f64]| ((PI * x[0]).sin() + x[1] * x[1]).exp();
    let domain = Range { lo: -1.0, hi: 1.0 };
    let mut errors: Vec<f64> = (0..9)
        .map(|seed| {
            let data = regression(random_table(100 + seed, 1000, 2), 2, f);
            let test = regression(random_table(200 + seed, 1000, 2), 2, f);
            let settings = Settings {
                domain: vec![(0, domain), (1, domain)],
                seed,
                ..fixed(&[2, 1, 1], &[3, 6, 12, 24, 48, 96])
            };
            let trained = train(&data, Some(&test), &settings, None, &mut |_| {
                ControlFlow::Continue(())
            })
            .unwrap();
            assert_eq!(trained.predictor.network.width(), [2, 1, 1]);
            let errors: Vec<f64> = trained.stages.iter().map(|s| s.test.unwrap()).collect();
            // Order four, as Theorem 2.1 of the paper has it, once the grid resolves the function:
            // 16 for each halving, less what the data leave open.
            assert!(errors[1] / errors[3] >= 100.0, "seed {seed}: {errors:?}");
            errors[5]
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    // The paper has 1.3e-6 at best. A test row may lie beyond all training rows in the hidden node's
    // value, where nothing is known but the tangent: not every seed gets below 1e-6.
    assert!(errors[4] <= 1e-7 && errors[6] <= 1e-6, "{errors:?}");
}

#[test]
fn narrow_peaks_are_learnt_as_well_as_the_paper_learns_them() {
    // Five peaks of width 0.04, G = 200: RMSE 4e-6 in the paper. Almost all of the curve is bending.
    let f = |x: &[f64]| -> f64 {
        [-0.8, -0.4, 0.0, 0.4, 0.8]
            .iter()
            .map(|c| (-300.0 * (x[0] - c).powi(2)).exp())
            .sum()
    };
    let x = (0..500).map(|n| f64::from(n) / 249.5 - 1.0).collect();
    let data = regression(x, 1, f);
    for grid in [&[200][..], &[5, 10, 20, 50, 100, 200]] {
        let trained = train_quietly(&data, &fixed(&[1, 1], grid)).unwrap();
        let error = trained.stages.last().unwrap().train;
        assert!(error <= 1e-5, "{grid:?}: {error}");
    }
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
                // has a curvature below the least damping, 1e-14, and is learnt slowly or not at all.
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
    let losses: Vec<f64> = (0..5)
        .map(|seed| {
            let mut network = start(seed, &[2, 2, 1], 3, 3, Base::Silu);
            fit(&mut network, &samples, &Penalty::default())
        })
        .collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!((2.0 * best).sqrt() <= 1e-6, "{losses:?}");
}

/// Least squares on 1, x_0, x_1, …: the normal equations by Gauss–Jordan elimination.
fn linear_regression(x: &[f64], inputs: usize, y: &[f64]) -> Vec<f64> {
    let n = inputs + 1;
    let mut a = vec![vec![0.0; n + 1]; n];
    for (x, y) in x.chunks(inputs).zip(y) {
        let row: Vec<f64> = std::iter::once(1.0).chain(x.iter().copied()).collect();
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
fn the_sparsity_penalty_empties_edges_that_only_fit_noise() {
    let x = random_table(13, 200, 3);
    let noise = random_table(14, 200, 1);
    let y: Vec<f64> = x
        .chunks(3)
        .zip(&noise)
        .map(|(x, noise)| (2.0 * x[0]).sin() - x[1] + 0.2 * noise)
        .collect();
    let samples = values(x.clone(), 3, y.clone());
    let scores = |lamb: f64| {
        let mut network = start(15, &[3, 1], 3, 5, Base::Silu);
        fit(
            &mut network,
            &samples,
            &Penalty {
                lamb,
                ..Penalty::default()
            },
        );
        importance(&network, &statistics(&network, &samples)).swap_remove(0)
    };
    let (free, sparse) = (scores(0.0), scores(0.01));
    assert!(
        free[2] >= THRESHOLD,
        "noise is fitted without the penalty: {free:?}"
    );
    assert!(sparse[2] < THRESHOLD, "and not with it: {sparse:?}");
    assert!(sparse[0] > 0.2 && sparse[1] > 0.2, "{sparse:?}");

    // End to end, with a hidden layer.
    let column = Column::Regression {
        names: vec!["y".into()],
        y,
    };
    let data = with_target(x, 3, column);
    let settings = Settings {
        lamb: Some(0.01),
        ..fixed(&[3, 2, 1], &[4])
    };
    let trained = train_quietly(&data, &settings).unwrap();
    let first = &trained.predictor.network.layers[0];
    assert!(
        first.is_used(0) && first.is_used(1) && !first.is_used(2),
        "{trained:?}"
    );
    // The noise is uniform with deviation 0.2/√3.
    assert!(trained.stages[0].train <= 0.15, "{:?}", trained.stages);
}

#[test]
fn inputs_without_influence_are_pruned_at_the_end() {
    let f = |x: &[f64]| (3.0 * x[1]).sin();
    // So many rows that the two useless edges' 26 parameters fit none of the approximation error.
    let data = regression(random_table(18, 3000, 3), 3, f);
    let settings = fixed(&[3, 1], &[5, 10]);
    let trained = train_quietly(&data, &settings).unwrap();
    let layer = &trained.predictor.network.layers[0];
    let left: Vec<bool> = (0..3).map(|i| layer.is_used(i)).collect();
    assert_eq!(left, [false, true, false]);
    assert_eq!(
        (trained.edges_before, &trained.width_before[..]),
        (3, &[3, 1][..])
    );
    let complete = train_quietly(
        &data,
        &Settings {
            no_prune: true,
            ..settings
        },
    )
    .unwrap();
    assert_eq!(complete.predictor.network.edges(), 3);
    // Pruning noticed nothing: at most two per cent of the squared error.
    let [pruned, full] = [trained, complete].map(|t| t.stages[1].train);
    assert!(pruned <= full * 1.02_f64.sqrt() + 2e-6, "{pruned}, {full}");
}

#[test]
fn constant_and_duplicate_columns_do_no_harm() {
    let table = random_table(19, 150, 1);
    let x: Vec<f64> = table
        .iter()
        .flat_map(|&x| [x, 5.0, x, 0.0, 1e6 + x])
        .collect();
    let f = |x: &[f64]| x[0].powi(3) + x[0];
    let data = regression(x, 5, f);
    for width in [&[5, 1][..], &[5, 2, 1]] {
        let settings = fixed(width, &[3, 6, 12]);
        for settings in [
            Settings {
                no_prune: true,
                ..settings.clone()
            },
            settings,
        ] {
            let trained = train_quietly(&data, &settings).unwrap();
            let layer = &trained.predictor.network.layers[0];
            assert!(
                !layer.is_used(1) && !layer.is_used(3),
                "constant columns get no edges"
            );
            assert!(
                trained
                    .predictor
                    .eval(&data.x)
                    .iter()
                    .all(|y| y.is_finite())
            );
            let error = trained.stages.last().unwrap().train;
            assert!(error <= 1e-4, "{width:?}: {error}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_network_on_any_number_of_threads() {
    let f = |x: &[f64]| (x[0] * x[1]).exp();
    let data = regression(random_table(20, 60, 2), 2, f);
    let classes = classification(random_table(21, 60, 2), 2, 3, |x| {
        (1.5 * (x[0] + 1.0)) as usize
    });
    let on = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let free = Settings {
                seed,
                steps: Some(5),
                ..Settings::default()
            };
            let sparse = Settings {
                seed,
                lamb: Some(1e-2),
                ..fixed(&[2, 3, 1], &[3, 6])
            };
            let blend = Settings {
                seed,
                grid_eps: Some(0.1),
                ..fixed(&[2, 2, 1], &[3, 5])
            };
            let three = Settings {
                seed,
                ..fixed(&[2, 2, 3], &[3, 5])
            };
            let chosen = Settings {
                width: Some(vec![2, 2, 1]),
                ..free
            };
            [
                (&data, sparse),
                (&data, blend),
                (&classes, three),
                (&data, chosen),
            ]
            .map(|(data, settings)| {
                let network = train_quietly(data, &settings).unwrap().predictor.network;
                (
                    network.width(),
                    network.to_vector().into_iter().map(f64::to_bits).collect(),
                )
            })
        })
    };
    let one: [(Vec<usize>, Vec<u64>); 4] = on(1, 0);
    assert!(one == on(1, 0), "again");
    assert!(one == on(2, 0), "two threads");
    assert!(one[0] != on(1, 1)[0], "another seed");
}

#[test]
fn adaptive_grids_learn_too() {
    // Everything happens in a corner of the domain, as with a sensor of logarithmic response.
    let x: Vec<f64> = (0..400)
        .map(|n| 1e-3 * 1e4_f64.powf(f64::from(n) / 399.0))
        .collect();
    let data = regression(x, 1, |x| x[0].ln());
    let error = |grid_eps: f64| {
        let settings = Settings {
            grid_eps: Some(grid_eps),
            ..fixed(&[1, 1], &[5, 10, 20])
        };
        train_quietly(&data, &settings).unwrap().stages[2].train
    };
    let (even, adaptive) = (error(1.0), error(0.02));
    assert!(adaptive <= 0.2 * even, "{adaptive} against {even}");
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

#[test]
fn no_table_makes_training_panic_or_predict_nonsense() {
    let mut rng = Pcg64Mcg::seed_from_u64(30);
    let mut fates = [0, 0];
    for case in 0..150 {
        let rows = [10, 11, 40][rng.random_range(0..3)];
        let inputs = rng.random_range(1..4);
        let scales = [1.0, 1e-300, 1e-12, 1e12, 1e150, 1e300, f64::MAX];
        let scale = |rng: &mut Pcg64Mcg| match rng.random_range(0..3) {
            0 => scales[rng.random_range(0..scales.len())],
            _ => 1.0,
        };
        let columns: Vec<(f64, f64, bool)> = (0..=inputs)
            .map(|_| {
                let offset = [0.0, 0.0, 1.0, 1e9][rng.random_range(0..4)];
                (scale(&mut rng), offset, rng.random_bool(0.2))
            })
            .collect();
        let mut cell = |(scale, offset, coarse): (f64, f64, bool)| {
            let u: f64 = rng.random_range(-1.0..1.0);
            offset + scale * if coarse { u.round() } else { u }
        };
        let mut x: Vec<f64> = (0..rows)
            .flat_map(|_| {
                columns[..inputs]
                    .iter()
                    .map(|&c| cell(c))
                    .collect::<Vec<_>>()
            })
            .collect();
        let mut y: Vec<f64> = (0..rows).map(|_| cell(columns[inputs])).collect();
        if rng.random_bool(0.2) {
            x[0] *= 1e6;
            y[0] *= 1e6;
        }
        if x.iter().chain(&y).any(|cell| !cell.is_finite()) {
            continue; // A data set is finite.
        }
        let data = if rng.random_bool(0.3) {
            classification(x, inputs, 3, |x| (x[0].abs().to_bits() % 3) as usize)
        } else {
            with_target(
                x,
                inputs,
                Column::Regression {
                    names: vec!["y".into()],
                    y,
                },
            )
        };
        let outputs = predictor::network_outputs(&data.schema().target);
        let width = match rng.random_range(0..3) {
            0 => vec![inputs, outputs],
            1 => vec![inputs, 2, outputs],
            _ => vec![inputs, 1, 2, outputs],
        };
        let settings = Settings {
            degree: Some(rng.random_range(1..=MAX_DEGREE)),
            grid_eps: [None, Some(0.0), Some(0.5)][rng.random_range(0..3)],
            lamb: [None, Some(1e-3), Some(1e3)][rng.random_range(0..3)],
            roughness: [None, Some(1e-6), Some(1e9)][rng.random_range(0..3)],
            steps: Some(10),
            seed: case,
            ..fixed(&width, [&[3, 7][..], &[1], &[40]][rng.random_range(0..3)])
        };
        match train_quietly(&data, &settings) {
            Ok(trained) => {
                fates[0] += 1;
                let outputs = trained.predictor.eval(&data.x);
                assert!(
                    outputs.iter().all(|y| y.is_finite()),
                    "case {case}: {settings:?}"
                );
                assert!(
                    trained.stages.iter().all(|s| s.train.is_finite()),
                    "case {case}"
                );
                let numbers = trained.predictor.network.to_vector();
                assert!(
                    numbers.iter().all(|c| c.is_finite()),
                    "case {case}: {settings:?}"
                );
                let json = serde_json::to_string(&trained.predictor).unwrap();
                let again: Predictor = serde_json::from_str(&json).unwrap();
                assert_eq!(again, trained.predictor, "case {case}");
            }
            Err(error) => {
                fates[1] += 1;
                assert!(!error.to_string().contains('\n'), "case {case}: {error}");
            }
        }
    }
    assert!(fates[0] > 50 && fates[1] > 0, "{fates:?}");
}

#[test]
fn settings_that_do_not_fit_the_data_are_named() {
    let f = |x: &[f64]| x[0] + x[1];
    let data = regression(random_table(31, 20, 2), 2, f);
    let range = |lo, hi| Settings {
        domain: vec![(1, Range { lo, hi })],
        ..Settings::default()
    };
    let option = |settings: Settings| train_quietly(&data, &settings).unwrap_err().to_string();
    let nan = f64::NAN;
    for (settings, parts) in [
        (
            fixed(&[3, 1], &[3]),
            &["--width 3,1", "2 inputs", "1 network output"][..],
        ),
        (fixed(&[2, 2], &[3]), &["--width 2,2"]),
        (fixed(&[2], &[3]), &["--width 2"]),
        (fixed(&[], &[3]), &["--width"]),
        (fixed(&[2, 0, 1], &[3]), &["--width", "1 to 4096"]),
        (fixed(&[2, 1], &[]), &["--grid"]),
        (fixed(&[2, 1], &[0]), &["--grid", "1 to 2000"]),
        (fixed(&[2, 1], &[2001]), &["--grid", "1 to 2000"]),
        (fixed(&[2, 1], &[5, 5]), &["--grid", "increase"]),
        (
            Settings {
                degree: Some(0),
                ..Settings::default()
            },
            &["--degree", "1 to 5"],
        ),
        (
            Settings {
                degree: Some(6),
                ..Settings::default()
            },
            &["--degree", "1 to 5"],
        ),
        (
            Settings {
                lamb: Some(-1.0),
                ..Settings::default()
            },
            &["--lamb", "negative"],
        ),
        (
            Settings {
                lamb: Some(nan),
                ..Settings::default()
            },
            &["--lamb"],
        ),
        (
            Settings {
                roughness: Some(f64::INFINITY),
                ..Settings::default()
            },
            &["roughness"],
        ),
        (
            Settings {
                grid_eps: Some(-0.1),
                ..Settings::default()
            },
            &["grid_eps"],
        ),
        (range(-0.1, 2.0), &["--domain", "`x1`", "-0.1:2"]),
        (range(-2.0, 0.1), &["--domain", "`x1`"]),
        (range(nan, 2.0), &["--domain"]),
        (range(-2.0, nan), &["--domain"]),
        (range(-2.0, f64::INFINITY), &["--domain"]),
    ] {
        let error = option(settings);
        for part in parts {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
    let flat = regression(random_table(31, 20, 2), 2, |_| 4.0);
    let error = train_quietly(&flat, &fixed(&[2, 1], &[3]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("table") && error.contains("`y`"), "{error}");
    // Values whose mean is beyond f64 are not the same in every row.
    let huge = regression(random_table(31, 20, 2), 2, |x| f64::MAX * x[0].signum());
    let error = train_quietly(&huge, &fixed(&[2, 1], &[3]))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`y`") && !error.contains("the same in every row"),
        "{error}"
    );
    let still = regression([[1.0, 2.0]; 20].concat(), 2, f);
    let error = train_quietly(&still, &fixed(&[2, 1], &[3])).unwrap_err();
    assert!(
        matches!(error, TrainError::ConstantInputs { .. }),
        "{error}"
    );
    // A constant column on a stated domain of no width is a division by zero.
    let x = random_table(31, 20, 1)
        .into_iter()
        .flat_map(|x| [x, 3.0])
        .collect();
    let half = regression(x, 2, |x| x[0]);
    let settings = Settings {
        domain: vec![(1, Range { lo: 3.0, hi: 3.0 })],
        ..fixed(&[2, 1], &[3])
    };
    match train_quietly(&half, &settings) {
        Ok(trained) => {
            assert!(
                trained
                    .predictor
                    .eval(&half.x)
                    .iter()
                    .all(|y| y.is_finite())
            );
        }
        Err(error) => assert!(error.to_string().contains("--domain"), "{error}"),
    }
}

#[test]
fn training_tells_its_steps_and_stages_in_order() {
    let data = regression(random_table(32, 100, 2), 2, |x| x[0].sin() + x[1]);
    let test = regression(random_table(33, 50, 2), 2, |x| x[0].sin() + x[1]);
    let mut told = Vec::new();
    let settings = fixed(&[2, 1], &[3, 6]);
    let trained = train(&data, Some(&test), &settings, None, &mut |event| {
        match event {
            Event::Step {
                grid,
                step,
                of,
                loss,
            } => {
                assert!(step >= 1 && step <= of && loss.is_finite());
                told.push((grid, "step"));
            }
            Event::Stage(stage) => told.push((stage.grid, "stage")),
            Event::Checkpoint(progress, predictor) => {
                // What the predictor gives is what the last stage says.
                if let Some(stage) = progress.stages.last() {
                    let score = Score::of(&predictor.eval(&data.x), &data).error();
                    assert_eq!(score, stage.train);
                    let score = Score::of(&predictor.eval(&test.x), &test).error();
                    assert_eq!(Some(score), stage.test);
                }
            }
            Event::Candidate { .. } => {}
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    told.dedup();
    // The starts' steps may have left nothing to do on the first grid.
    let expected = [(3, "step"), (3, "stage"), (6, "step"), (6, "stage")];
    assert!(told == expected || told == expected[1..], "{told:?}");
    assert_eq!(trained.stages.len(), 2);
    assert!(trained.tried.is_empty(), "nothing was left open");
    let rmse = Score::of(&trained.predictor.eval(&data.x), &data).error();
    assert_eq!(rmse, trained.stages[1].train);
}

#[test]
fn predictors_speak_the_units_of_the_data() {
    // The network sees −1 … 1 and gives deviations: on one interval of degree 1 it is a line.
    let mut network = start(34, &[2, 1], 1, 1, Base::Zero);
    network.layers[0].edges[0].as_mut().unwrap().coef = vec![-1.0, 1.0];
    network.layers[0].edges[1].as_mut().unwrap().coef = vec![-2.0, 2.0];
    let f = |x: &[f64]| 7.0 + 10.0 * ((x[0] - 5.0) / 5.0 + 2.0 * (x[1] - 150.0) / 50.0);
    let x = vec![0.0, 100.0, 10.0, 200.0, 5.0, 150.0, 2.5, 190.0];
    let data = regression(x.clone(), 2, f);
    let inputs = vec![
        Range { lo: 0.0, hi: 10.0 },
        Range {
            lo: 100.0,
            hi: 200.0,
        },
    ];
    let outputs = vec![Scale {
        offset: 7.0,
        scale: 10.0,
    }];
    let samples = predictor::samples(&data, &inputs, &outputs);
    let unit = [-1.0, -1.0, 1.0, 1.0, 0.0, 0.0, -0.5, 0.8];
    assert!(
        samples
            .x
            .iter()
            .zip(unit)
            .all(|(a, b)| (a - b).abs() <= 1e-14)
    );
    assert!(objective::loss(&network, &samples) <= 1e-27);
    let predictor = Predictor {
        format: predictor::FORMAT,
        schema: data.schema(),
        inputs,
        outputs,
        error: 0.0,
        network,
    };
    let found = predictor.eval(&x);
    assert_eq!(found.len(), 4);
    for (found, x) in found.iter().zip(x.chunks(2)) {
        assert!((found - f(x)).abs() <= 1e-12, "{found}, not {}", f(x));
    }
}

#[test]
fn scores_have_their_closed_forms() {
    let near = |a: f64, b: f64| assert!((a - b).abs() <= 1e-14, "{a}, not {b}");
    // Two targets: errors 1, 1 and 0, 2; variances 1 and 4.
    let names = vec!["a".into(), "b".into()];
    let column = Column::Regression {
        names,
        y: vec![0.0, -2.0, 2.0, 2.0],
    };
    let data = with_target(vec![0.0, 1.0], 1, column);
    let Score::Regression { rmse, r2, targets } = Score::of(&[1.0, -2.0, 1.0, 4.0], &data) else {
        panic!("a regression");
    };
    near(rmse, 1.5_f64.sqrt()); // (1 + 1 + 0 + 4)/4
    near(r2.unwrap(), 0.25); // the mean of 1 − 1/1 and 1 − 2/4
    near(targets[0].rmse, 1.0);
    near(targets[1].r2.unwrap(), 0.5);
    assert_eq!(targets[1].name, "b");

    let classes = |count, class: &[usize]| {
        let labels = (0..count).map(|k| k.to_string()).collect();
        let column = Column::Classification {
            name: "c".into(),
            labels,
            class: class.to_vec(),
        };
        with_target(vec![0.0; class.len()], 1, column)
    };
    // One logit: odds 3 to 1 for class 1, twice, and for class 0 once.
    let logit = 3.0_f64.ln();
    let score = Score::of(&[logit, logit, -logit], &classes(2, &[1, 0, 0]));
    let Score::Classification { accuracy, log_loss } = score else {
        panic!("a classification")
    };
    near(accuracy, 2.0 / 3.0);
    near(log_loss, -(0.75_f64.ln() * 2.0 + 0.25_f64.ln()) / 3.0);
    let score = Score::of(
        &[0.0, 2.0_f64.ln(), 0.0, 9.0, 9.0, 9.0],
        &classes(3, &[1, 0]),
    );
    let Score::Classification { accuracy, log_loss } = score else {
        panic!("a classification")
    };
    near(accuracy, 1.0); // the first of equal logits wins
    near(log_loss, -(0.5_f64.ln() + (1.0_f64 / 3.0).ln()) / 2.0);
    // A probability of zero costs ln 1e15; what is no number is not made one.
    let score = Score::of(&[-1e6, 1e6], &classes(2, &[1, 1])).error();
    near(score / 15.0, 10.0_f64.ln() / 2.0);
    for (logits, count) in [(&[f64::NAN][..], 2), (&[0.0, f64::NAN, 0.0][..], 3)] {
        assert!(
            !Score::of(logits, &classes(count, &[1])).error().is_finite(),
            "{logits:?}"
        );
    }
    let one = with_target(
        vec![0.0],
        1,
        Column::Regression {
            names: vec!["y".into()],
            y: vec![1.0],
        },
    );
    assert!(!Score::of(&[f64::NAN], &one).error().is_finite());
}

#[test]
fn whoever_watches_can_end_a_training_at_a_stage() {
    let data = regression(random_table(34, 60, 1), 1, |x| x[0].sin());
    let mut stages = 0;
    let result = train(
        &data,
        None,
        &fixed(&[1, 1], &[3, 6, 12]),
        None,
        &mut |event| {
            stages += usize::from(matches!(event, Event::Checkpoint(..)));
            match stages {
                2 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        },
    );
    assert!(matches!(result, Err(TrainError::Stopped)));
    assert_eq!(stages, 2);
}

#[test]
fn without_variance_there_is_no_r2() {
    let score = |outputs: &[f64], y: &[f64], names: &[&str]| {
        let column = Column::Regression {
            names: names.iter().map(ToString::to_string).collect(),
            y: y.to_vec(),
        };
        let data = with_target(vec![0.0; y.len() / names.len()], 1, column);
        match Score::of(outputs, &data) {
            Score::Regression { r2, targets, .. } => (r2, targets),
            Score::Classification { .. } => panic!("a regression"),
        }
    };
    assert_eq!(score(&[2.0], &[1.0], &["y"]).0, None, "one row");
    // The mean of three times 0.1 is not 0.1.
    assert_eq!(score(&[2.0, 0.1, 1.0], &[0.1; 3], &["y"]).0, None);
    assert_eq!(score(&[0.1; 3], &[0.1; 3], &["y"]).0, None, "a perfect fit");
    // Values whose squares vanish.
    assert_eq!(score(&[1.0, 1.0], &[0.0, 1e-200], &["y"]).0, None);
    // One of two targets varies: its own is known, their mean is not.
    let (both, each) = score(&[1.0, 5.0, 2.0, 5.0], &[1.0, 5.0, 2.0, 5.0], &["a", "b"]);
    assert_eq!((both, each[0].r2, each[1].r2), (None, Some(1.0), None));
}

#[test]
fn the_method_follows_from_the_cost_and_says_why() {
    let data = regression(random_table(1, 100, 2), 2, |x| x[0]);
    let with = |width: &[usize], optimizer| Settings {
        width: Some(width.to_vec()),
        optimizer,
        ..Settings::default()
    };
    assert_eq!(
        choose_method(&data, &Settings::default()),
        (Method::Lm, None)
    );
    assert_eq!(
        choose_method(&data, &with(&[2, 5, 1], None)),
        (Method::Lm, None)
    );
    // 100 rows × 5 × 203,000 edges.
    let large = [2, 1000, 200, 1];
    let (method, why) = choose_method(&data, &with(&large, None));
    assert_eq!(method, Method::AdamW);
    let why = why.expect("a reason");
    assert!(why.contains("100 rows") && why.contains("1011000"), "{why}");
    let asked = Some(Method::Lbfgs);
    assert_eq!(
        choose_method(&data, &with(&large, asked)),
        (Method::Lbfgs, None)
    );
}

#[test]
fn a_blend_of_quantiles_is_honoured_by_every_grid() {
    // x = u³: most values lie near 0.
    let x: Vec<f64> = random_table(36, 200, 2).iter().map(|u| u.powi(3)).collect();
    let data = regression(x, 2, |x| (3.0 * x[0]).sin() + x[1] * x[1]);
    let trained = |grid_eps| {
        let settings = Settings {
            grid_eps,
            no_prune: true,
            ..fixed(&[2, 2, 1], &[8])
        };
        train_quietly(&data, &settings).unwrap().predictor
    };
    for blend in [0.02, 0.5] {
        let predictor = trained(Some(blend));
        let samples = predictor::samples(&data, &predictor.inputs, &predictor.outputs);
        for (i, grid) in predictor.network.layers[0].grids.iter().enumerate() {
            let column = samples.x.iter().skip(i).step_by(2).copied();
            let column: Vec<f64> = column.chain([-1.0, 1.0]).collect();
            assert_eq!(*grid, Grid::from_samples(3, &column, 8, blend, 0.0));
            assert!(!grid.is_uniform());
        }
        for grid in &predictor.network.layers[1].grids {
            assert!(!grid.is_uniform() && grid.intervals() == 8);
        }
    }
    let is_even = |predictor: &Predictor| {
        let layers = predictor.network.layers.iter();
        layers
            .map(|layer| layer.grids.iter().all(Grid::is_uniform))
            .collect::<Vec<_>>()
    };
    assert_eq!(is_even(&trained(Some(1.0))), [true, true]);
    // If nothing is said, inputs whose values crowd have quantiles, hidden nodes do not.
    assert_eq!(is_even(&trained(None)), [false, true]);
}
