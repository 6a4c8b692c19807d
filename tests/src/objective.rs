//! What training minimises: losses against closed forms, gradients against difference quotients,
//! curvatures against their definitions.

use kan_train_host::grid;
use kan_train_host::levenberg;
use kan_train_host::network::{Base, Layer, Network};
use kan_train_host::objective::{self, Samples, Tapes, Target, softmax};
use kan_train_host::penalty::{Penalty, PenaltyForm};
use kan_train_host::spline::{Grid, MAX_DEGREE};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::network::{
    BASES, EPSILON, clear_points, moved, networks, quotient, random_network, random_points,
    reference, targets,
};

/// A network without edges: its outputs are its biases.
fn constant(outputs: &[f64]) -> Network {
    let layer = Layer {
        outputs: outputs.len(),
        grids: vec![Grid::uniform(3, -1.0, 1.0, 2)],
        edges: vec![None; outputs.len()],
        bias: outputs.to_vec(),
    };
    Network {
        base: Base::Silu,
        layers: vec![layer],
    }
}

#[test]
fn losses_have_their_closed_forms() {
    let loss = |outputs: &[f64], target: Target| {
        let x = match &target {
            Target::Values(y) => vec![0.0; y.len() / outputs.len()],
            Target::Classes(class) => vec![0.0; class.len()],
        };
        let samples = Samples {
            inputs: 1,
            outputs: outputs.len(),
            x,
            target,
        };
        objective::loss(&constant(outputs), &samples)
    };
    let near = |a: f64, b: f64| assert!((a - b).abs() <= 8.0 * EPSILON * b.abs(), "{a}, not {b}");
    // ½ mean of the squared distances: ½·(0.25 + 4 + 1 + 0)/2.
    near(
        loss(&[0.5, -1.0], Target::Values(vec![0.0, 1.0, 1.5, -1.0])),
        1.3125,
    );
    // −ln of one of three equal probabilities, of a logit of odds 3 to 1, of a softmax.
    near(
        loss(&[7.0, 7.0, 7.0], Target::Classes(vec![0, 1, 2])),
        3.0_f64.ln(),
    );
    near(
        loss(&[3.0_f64.ln()], Target::Classes(vec![1])),
        (4.0_f64 / 3.0).ln(),
    );
    near(
        loss(&[3.0_f64.ln()], Target::Classes(vec![0])),
        4.0_f64.ln(),
    );
    near(
        loss(&[2.0_f64.ln(), 0.0, 5.0_f64.ln()], Target::Classes(vec![0])),
        4.0_f64.ln(),
    );
    // No overflow where the logits are large, and no zero where the loss is small.
    near(loss(&[1000.0], Target::Classes(vec![0])), 1000.0);
    near(loss(&[-1000.0], Target::Classes(vec![1])), 1000.0);
    near(loss(&[-1000.0, 1000.0], Target::Classes(vec![0])), 2000.0);
    near(loss(&[-40.0], Target::Classes(vec![0])), (-40.0_f64).exp());
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(loss(&[bad], Target::Values(vec![0.0])), f64::INFINITY);
        assert_eq!(loss(&[0.0, bad], Target::Classes(vec![1])), f64::INFINITY);
        assert_eq!(loss(&[1.0], Target::Values(vec![bad])), f64::INFINITY);
    }
    assert_eq!(loss(&[f64::NAN], Target::Classes(vec![0])), f64::INFINITY);
    assert_eq!(
        loss(&[f64::INFINITY], Target::Classes(vec![0])),
        f64::INFINITY
    );
    let network = random_network(
        &mut Pcg64Mcg::seed_from_u64(14),
        &[1, 2, 1],
        3,
        Base::Silu,
        1.0,
    );
    for x in [f64::NAN, f64::INFINITY] {
        let samples = Samples {
            inputs: 1,
            outputs: 1,
            x: vec![x],
            target: Target::Values(vec![0.0]),
        };
        assert_eq!(objective::loss(&network, &samples), f64::INFINITY);
    }
}

#[test]
fn softmax_gives_probabilities() {
    let mut p = [0.0; 3];
    softmax(&[1f64.ln(), 2f64.ln(), 5f64.ln()], &mut p);
    for (p, exact) in p.iter().zip([0.125, 0.25, 0.625]) {
        assert!((p - exact).abs() <= 4.0 * EPSILON);
    }
    softmax(&[-1e300, 0.0, 1e300], &mut p);
    assert_eq!(p, [0.0, 0.0, 1.0]);
    for (z, exact) in [(0.0, 0.5), (3.0_f64.ln(), 0.75), (1e4, 1.0), (-1e4, 0.0)] {
        let mut p = [0.0];
        softmax(&[z], &mut p);
        assert!((p[0] - exact).abs() <= 4.0 * EPSILON);
    }
}

#[test]
fn gradients_of_the_loss_are_the_limits_of_difference_quotients() {
    let mut rng = Pcg64Mcg::seed_from_u64(15);
    for mut network in networks() {
        if rng.random_bool(0.5) {
            // One output: the logit of class 1 of two.
            let last = network.layers.last_mut().unwrap();
            let outputs = last.outputs;
            last.edges = last.edges.iter().step_by(outputs).cloned().collect();
            last.bias.truncate(1);
            last.outputs = 1;
        }
        let x = clear_points(&mut rng, &network, 9);
        for samples in targets(&mut rng, &network, &x) {
            let zero = Penalty::default();
            let vector = network.to_vector();
            let form = PenaltyForm::at(&network, &samples, &zero);
            let (expansion, _) = objective::expand(&network, &samples, &form.curvature(&vector));
            let loss = objective::loss(&network, &samples);
            assert!((expansion.loss - loss).abs() <= 16.0 * EPSILON * loss);
            // |∂loss/∂output| is at most 1 for classes and the residual for values.
            let error = (0..samples.rows())
                .map(|n| {
                    let outputs = reference(&network, samples.row(n)).pop().unwrap();
                    outputs
                        .iter()
                        .map(|(z, e)| (z.abs() + 1.0) * e)
                        .sum::<f64>()
                })
                .fold(16.0 * EPSILON * (1.0 + loss), f64::max);
            for (p, &derivative) in expansion.gradient.iter().enumerate() {
                let f = |by: f64| objective::loss(&moved(&network, p, by), &samples);
                let (exact, bound) = quotient(f, error);
                assert!(bound < 1e-4, "the bound says something: {bound}");
                assert!(
                    (derivative - exact).abs() <= bound,
                    "{:?}, parameter {p}: {derivative}, not {exact} ± {bound}",
                    network.width()
                );
            }
        }
    }
}

/// JᵀWJ/N by definition, row-major.
fn gauss_newton(network: &Network, samples: &Samples) -> Vec<f64> {
    let n = network.parameters();
    let outputs = samples.outputs;
    let mut matrix = vec![0.0; n * n];
    let mut tape = network.tape();
    for row in 0..samples.rows() {
        let z = network.eval(samples.row(row));
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|z| (z - top).exp()).sum();
        let p: Vec<f64> = z.iter().map(|z| (z - top).exp() / sum).collect();
        let jacobian: Vec<Vec<f64>> = (0..outputs)
            .map(|output| {
                network.forward(samples.row(row), &mut tape);
                network.jacobian_row(&mut tape, output)
            })
            .collect();
        for a in 0..outputs {
            for b in 0..outputs {
                let diagonal = f64::from(u8::from(a == b));
                let w = match samples.target {
                    Target::Values(_) => diagonal,
                    Target::Classes(_) if outputs == 1 => {
                        let p = 1.0 / (1.0 + (-z[0]).exp());
                        p * (1.0 - p)
                    }
                    Target::Classes(_) => diagonal * p[a] - p[a] * p[b],
                };
                for i in 0..n {
                    for j in 0..n {
                        matrix[i * n + j] +=
                            w * jacobian[a][i] * jacobian[b][j] / samples.rows() as f64;
                    }
                }
            }
        }
    }
    matrix
}

#[test]
fn the_gauss_newton_matrix_is_what_its_definition_says_in_every_form() {
    let mut rng = Pcg64Mcg::seed_from_u64(16);
    for degree in 1..=MAX_DEGREE {
        for base in BASES {
            for width in [&[2, 1][..], &[2, 3], &[2, 3, 1], &[3, 2, 2, 3]] {
                let network = random_network(&mut rng, width, degree, base, 0.8);
                // Few of many basis functions are not zero on a fine grid, most on a coarse one:
                // the matrix is made in another way.
                let mut fine = network.clone();
                grid::extend(&mut fine, 20, &[usize::MAX; 3]);
                let mut coarse = network.clone();
                grid::extend(&mut coarse, 2, &[usize::MAX; 3]);
                assert!(density(&fine) < 1.0 / 3.0 && density(&coarse) > 1.0 / 3.0);
                let x = random_points(&mut rng, 7, width[0]);
                for samples in targets(&mut rng, &network, &x) {
                    for (network, strength) in [
                        (&network, 0.0),
                        (&network, 1.0),
                        (&coarse, 1.0),
                        (&fine, 1.0),
                    ] {
                        let penalty = Penalty {
                            roughness: 1e-3 * strength,
                            slope: 0.1 * strength,
                            lamb: 0.01 * strength,
                        };
                        check_curvature(&mut rng, network, &samples, &penalty);
                    }
                }
            }
        }
    }
    // More rows than a block of them has, and no multiple of it.
    let network = random_network(&mut rng, &[2, 1], 3, Base::Silu, 1.0);
    let x = random_points(&mut rng, 1100, 2);
    for samples in targets(&mut rng, &network, &x) {
        check_curvature(&mut rng, &network, &samples, &Penalty::default());
    }
}

/// The share of a row of J that is not zero, as `objective::DENSE` counts it.
fn density(network: &Network) -> f64 {
    (network.edges() * (network.degree() + 2)) as f64 / network.parameters() as f64
}

fn check_curvature(rng: &mut Pcg64Mcg, network: &Network, samples: &Samples, penalty: &Penalty) {
    let n = network.parameters();
    let vector = network.to_vector();
    let form = PenaltyForm::at(network, samples, penalty);
    let curvature = form.curvature(&vector);
    let (expansion, lower) = objective::expand(network, samples, &curvature);
    // The penalty's part, column by column.
    let mut exact = gauss_newton(network, samples);
    for column in 0..n {
        let mut unit = vec![0.0; n];
        unit[column] = 1.0;
        for (row, q) in curvature.times(&unit).into_iter().enumerate() {
            exact[row * n + column] += q;
        }
    }
    let largest = (0..n).map(|i| exact[i * n + i]).fold(0.0, f64::max);
    // Products of Jacobian entries that carry a few dozen roundings each.
    let bound = 1e3 * EPSILON * largest;
    for i in 0..n {
        for j in 0..=i {
            let (a, b) = (lower[i * n + j], exact[i * n + j]);
            assert!(
                (a - b).abs() <= bound,
                "{:?} ({i}, {j}): {a}, not {b}",
                network.width()
            );
        }
    }
    let (same, diagonal) = objective::expand_diagonal(network, samples, &curvature);
    assert_eq!(same.loss, expansion.loss);
    assert_eq!(same.gradient, expansion.gradient);
    for i in 0..n {
        assert!(
            (diagonal[i] - exact[i * n + i]).abs() <= bound,
            "diagonal {i}"
        );
    }
    let v: Vec<f64> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut tapes = Tapes::of(network, samples);
    // Twice: a product leaves the tapes fit for the next.
    let product = objective::curvature_times(network, samples, &mut tapes, &curvature, &v);
    let again = objective::curvature_times(network, samples, &mut tapes, &curvature, &v);
    assert_eq!(product, again);
    for i in 0..n {
        let sum: f64 = (0..n).map(|j| exact[i * n + j] * v[j]).sum();
        assert!(
            (product[i] - sum).abs() <= n as f64 * bound,
            "row {i}: {}, not {sum}",
            product[i]
        );
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut rng = Pcg64Mcg::seed_from_u64(20);
    for rows in [1, 2, 3, 5, 50] {
        let network = random_network(&mut rng, &[3, 4, 2], 3, Base::Silu, 0.9);
        let x = random_points(&mut rng, rows, 3);
        for samples in targets(&mut rng, &network, &x) {
            let penalty = Penalty {
                roughness: 1e-4,
                slope: 1e-4,
                lamb: 1e-3,
            };
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| {
                    let vector = network.to_vector();
                    let form = PenaltyForm::at(&network, &samples, &penalty);
                    let curvature = form.curvature(&vector);
                    let (expansion, matrix) = objective::expand(&network, &samples, &curvature);
                    let (_, diagonal) = objective::expand_diagonal(&network, &samples, &curvature);
                    let mut tapes = Tapes::of(&network, &samples);
                    let product = objective::curvature_times(
                        &network, &samples, &mut tapes, &curvature, &vector,
                    );
                    let options = levenberg::Options {
                        steps: 5,
                        damping: 1e-2,
                        tolerance: 0.0,
                    };
                    let mut trained = network.clone();
                    levenberg::train(&mut trained, &samples, &penalty, &options, &mut |_, _| {});
                    let numbers = [matrix, diagonal, product, expansion.gradient].concat();
                    let trained = trained.to_vector();
                    let all = numbers
                        .into_iter()
                        .chain(trained)
                        .chain([expansion.loss, objective::loss(&network, &samples)]);
                    all.map(f64::to_bits).collect::<Vec<u64>>()
                })
            };
            assert!(on(1) == on(2), "{rows} rows");
        }
    }
}

#[test]
fn subsets_keep_rows_and_targets_together() {
    let samples = Samples {
        inputs: 2,
        outputs: 2,
        x: (0..8).map(f64::from).collect(),
        target: Target::Values((10..18).map(f64::from).collect()),
    };
    assert_eq!((samples.rows(), samples.row(2)), (4, &[4.0, 5.0][..]));
    let part = samples.subset(&[3, 0, 3]);
    assert_eq!(part.x, [6.0, 7.0, 0.0, 1.0, 6.0, 7.0]);
    assert_eq!(part.rows(), 3);
    assert!(matches!(part.target, Target::Values(y) if y == [16., 17., 10., 11., 16., 17.]));
    let classes = Samples {
        target: Target::Classes(vec![0, 1, 2, 3]),
        ..samples
    };
    assert!(matches!(classes.subset(&[2, 1]).target, Target::Classes(c) if c == [2, 1]));
}
