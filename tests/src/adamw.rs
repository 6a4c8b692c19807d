//! AdamW: the `f32` gradient against the `f64` one, the update against one written by hand, and
//! runs that are the same whether they are interrupted or shared among threads.

use kan_train_host::adamw::{self, Options, State};
use kan_train_host::network::{Base, Network};
use kan_train_host::objective::{self, Samples, Target};
use kan_train_host::spline::{Grid, MAX_DEGREE};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::levenberg::start;
use crate::network::{clear_points, random_network, random_points, targets};

/// Lets two thirds of the rows have the same value of the first input.
fn with_background(x: &mut [f64], inputs: usize, value: f64) {
    for (n, row) in x.chunks_mut(inputs).enumerate() {
        if n % 3 != 0 {
            row[0] = value;
        }
    }
}

#[test]
fn gradients_in_single_precision_are_those_in_double() {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    // Outputs below, at and above the width of a register.
    let shapes: [&[usize]; 5] = [&[3, 1], &[2, 16], &[3, 17], &[3, 4, 2], &[2, 18, 3, 2]];
    for degree in 1..=MAX_DEGREE {
        for base in [Base::Silu, Base::Zero] {
            for (width, density) in shapes.iter().flat_map(|width| [(width, 1.0), (width, 0.6)]) {
                let network = random_network(&mut rng, width, degree, base, density);
                // Slopes of degree 1 jump at the knots: there rounding may not carry a value over
                // one.
                let mut x = match degree {
                    1 if width.contains(&18) => continue,
                    1 => clear_points(&mut rng, &network, 12),
                    _ => random_points(&mut rng, 12, width[0]),
                };
                if degree > 1 {
                    with_background(&mut x, width[0], 0.25);
                }
                // As the kernels see them.
                x.iter_mut().for_each(|x| *x = f64::from(*x as f32));
                for samples in targets(&mut rng, &network, &x) {
                    let (loss, expected) = objective::gradient(&network, &samples);
                    let (found_loss, found) = adamw::gradient(&network, &samples);
                    // A value goes through at most 30 roundings of ε/2 in each of three layers, and
                    // each layer enlarges the error before it by its slopes: their sum over a
                    // node's edges is below 2·(k + 1)/h·√inputs·max|c| < 100, but they fall on one
                    // edge in `inputs` at a time: 10 on average for these grids. A wrong term would
                    // show in the first digit.
                    let depth = width.len() as i32 - 2;
                    let bound = 30.0 * 10_f64.powi(depth) * f64::from(f32::EPSILON);
                    let scale = expected.iter().fold(1.0_f64, |most, g| most.max(g.abs()));
                    assert!(
                        (loss - found_loss).abs() <= bound * (1.0 + loss),
                        "{loss} {found_loss}"
                    );
                    assert_eq!(found.len(), expected.len());
                    for (k, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        let error = (f64::from(*found) - expected).abs();
                        assert!(
                            error <= bound * scale,
                            "{width:?}, degree {degree}, parameter {k}: {found} for {expected}"
                        );
                    }
                }
            }
        }
    }
}

/// Rows of an additive problem, and a network for it with pruned edges.
fn additive(seed: u64) -> (Network, Samples) {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut network = random_network(&mut rng, &[3, 2], 3, Base::Silu, 1.0);
    network.layers[0].edges[2] = None;
    let mut x: Vec<f64> = (0..90)
        .map(|_| f64::from(rng.random_range(-1.0_f32..1.0)))
        .collect();
    with_background(&mut x, 3, -0.5);
    let y = x
        .chunks(3)
        .flat_map(|x| [x[0] * x[1], x[2].sin()])
        .collect();
    let target = Target::Values(y);
    (
        network,
        Samples {
            inputs: 3,
            outputs: 2,
            x,
            target,
        },
    )
}

/// Trains and watches nothing.
fn train(network: &mut Network, samples: &Samples, options: &Options, state: &mut State) {
    adamw::train(network, samples, options, state, &mut |_, _, _| {});
}

#[test]
fn updates_follow_the_definition() {
    let (mut network, samples) = additive(2);
    let rounded: Vec<f64> = network
        .to_vector()
        .iter()
        .map(|&c| f64::from(c as f32))
        .collect();
    network.set_vector(&rounded);
    let (rate, decay, weight_decay) = (1e-2_f64, 0.5_f64, 0.1_f64);
    let options = Options {
        epochs: 6,
        rate: rate as f32,
        decay: decay as f32,
        weight_decay: weight_decay as f32,
        batch: 1000,
        seed: 0,
    };

    // Loshchilov and Hutter, algorithm 2, one batch an epoch.
    let mut reference = network.clone();
    let mut c = reference.to_vector();
    let (mut m, mut v) = (vec![0.0; c.len()], vec![0.0; c.len()]);
    for t in 1..=options.epochs as i32 {
        let (_, g) = objective::gradient(&reference, &samples);
        let rate = rate * decay.powi(t - 1);
        for k in 0..c.len() {
            m[k] = 0.9 * m[k] + 0.1 * g[k];
            v[k] = 0.999 * v[k] + 0.001 * g[k] * g[k];
            let (m, v) = (
                m[k] / (1.0 - 0.9_f64.powi(t)),
                v[k] / (1.0 - 0.999_f64.powi(t)),
            );
            c[k] -= rate * (m / (v.sqrt() + 1e-8) + weight_decay * c[k]);
        }
        reference.set_vector(&c);
    }

    let mut state = State::default();
    let before = network.to_vector();
    train(&mut network, &samples, &options, &mut state);
    assert_eq!((state.epoch, state.steps), (6, 6));
    assert_eq!(network.edges(), 5, "a pruned edge stays pruned");
    let mut moved = 0;
    for (k, (found, expected)) in network.to_vector().iter().zip(&c).enumerate() {
        // m/√v has the relative error of the gradient, 30 roundings of its terms, which sum to at
        // most 1: that is 2e-6/|g| of a step, and |g| > 1e-4 wherever a row is. Six steps of at
        // most 0.01 each.
        assert!(
            (found - expected).abs() <= 2e-3 * 0.02,
            "parameter {k}: {found} for {expected}"
        );
        moved += usize::from((found - before[k]).abs() > 5e-3);
    }
    assert!(
        moved > c.len() / 2,
        "most parameters take whole steps: {moved}"
    );
}

/// Points in the square and on which side of a curve they are.
fn sides(rows: usize) -> Samples {
    let mut rng = Pcg64Mcg::seed_from_u64(3);
    let x: Vec<f64> = (0..2 * rows).map(|_| rng.random_range(-1.0..1.0)).collect();
    let class = |x: &[f64]| usize::from(x[1] > (3.0 * x[0]).sin()) + usize::from(x[0] > 0.2);
    let target = Target::Classes(x.chunks(2).map(class).collect());
    Samples {
        inputs: 2,
        outputs: 3,
        x,
        target,
    }
}

#[test]
fn a_run_that_stops_and_goes_on_ends_as_one_that_does_not() {
    let samples = sides(500);
    let options = Options {
        rate: 5e-3,
        ..Options::over(6, 4)
    };
    let mut whole = start(5, &[2, 6, 3], 3, 5, Base::Silu);
    let mut checkpoints = Vec::new();
    let first = start(5, &[2, 6, 3], 3, 5, Base::Silu);
    let mut watch = |network: &Network, state: &State, _: f64| {
        checkpoints.push(serde_json::to_string(&(network, state)).unwrap());
    };
    let mut end = State::default();
    adamw::train(&mut whole, &samples, &options, &mut end, &mut watch);
    assert_eq!(checkpoints.len(), 6);
    assert!(
        whole.layers[1].grids != first.layers[1].grids,
        "hidden grids follow"
    );
    for text in &checkpoints {
        let (mut network, mut state): (Network, State) = serde_json::from_str(text).unwrap();
        train(&mut network, &samples, &options, &mut state);
        assert_eq!(network, whole);
        assert_eq!(state, end);
    }
    let [before, after] = [&first, &whole].map(|network| objective::loss(network, &samples));
    assert!(after < 0.8 * before, "{after} after {before}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let mut rng = Pcg64Mcg::seed_from_u64(6);
    let x: Vec<f64> = (0..40 * 100).map(|_| rng.random_range(-1.0..1.0)).collect();
    let class = x
        .chunks(40)
        .map(|x| usize::from(x[3] * x[7] > 0.0))
        .collect();
    let target = Target::Classes(class);
    let samples = Samples {
        inputs: 40,
        outputs: 2,
        x,
        target,
    };
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let mut network = start(7, &[40, 64, 2], 3, 5, Base::Silu);
        let mut state = State::default();
        pool.install(|| {
            let options = Options::over(2, 0);
            train(&mut network, &samples, &options, &mut state);
        });
        (network, state)
    };
    let one = on(1);
    assert!(one == on(2) && one == on(3));
}

#[test]
fn hidden_grids_fit_their_values_and_moving_them_keeps_the_function() {
    // Hidden grids a hundred times too wide: an epoch at rate zero moves them.
    let samples = sides(400);
    let mut wide = start(8, &[2, 5, 3], 3, 5, Base::Silu);
    for i in 0..5 {
        let grid = Grid::uniform(3, -100.0, 100.0, 400);
        kan_train_host::grid::regrid(&mut wide.layers[1], Base::Silu, i, grid);
    }
    let mut followed = wide.clone();
    let options = Options {
        rate: 0.0,
        ..Options::over(1, 0)
    };
    train(&mut followed, &samples, &options, &mut State::default());
    for (grid, wide) in followed.layers[1].grids.iter().zip(&wide.layers[1].grids) {
        assert!(grid.hi() - grid.lo() < 0.1 * (wide.hi() - wide.lo()));
        assert_eq!(grid.intervals(), wide.intervals());
    }
    for x in samples.x.chunks(2) {
        for (found, expected) in followed.eval(x).iter().zip(wide.eval(x)) {
            // The new grid is far finer than the old one, whose pieces are cubics: what it cannot
            // follow are the kinks of third derivatives and the few values beyond it.
            assert!((found - expected).abs() < 0.05, "{found} for {expected}");
        }
    }
}
