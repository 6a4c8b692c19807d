//! The compiler: the device's outputs stay within the stated bound of the network's.

use kan_train_host::compile::{CompileError, Compiled, Options, Tables, compile};
use kan_train_host::dataset::{Schema, TargetSchema};
use kan_train_host::evaluator::Evaluator;
use kan_train_host::network::{Base, Network};
use kan_train_host::predictor::{FORMAT, Predictor, Range, Scale};
use kan_train_host::spline::Grid;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

const KINDS: [Tables; 4] = [Tables::Cubic, Tables::Linear, Tables::Step, Tables::Exact];

/// A random network with ranges far from −1 … 1, adaptive input knots where `irregular`, and a
/// pruned edge.
fn predictor(seed: u64, width: &[usize], degree: usize, irregular: bool, base: Base) -> Predictor {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let grids: Vec<Grid> = (0..width[0])
        .map(|_| {
            if irregular {
                Grid::new(degree, &[-1.0, -0.8, -0.1, 0.05, 0.6, 1.0]).unwrap()
            } else {
                Grid::uniform(degree, -1.0, 1.0, 5)
            }
        })
        .collect();
    let mut network = Network::random(width, &grids, base, &mut rng);
    if width[0] > 1 {
        network.layers[0].edges[0] = None;
    }
    let outputs = *width.last().unwrap();
    let names = |stem: &str, n: usize| (0..n).map(|k| format!("{stem}{k}")).collect::<Vec<_>>();
    Predictor {
        format: FORMAT,
        schema: Schema {
            inputs: names("x", width[0]),
            target: TargetSchema::Regression {
                names: names("y", outputs),
            },
        },
        inputs: (0..width[0])
            .map(|k| Range {
                lo: -3.0 + 100.0 * k as f64,
                hi: 4.0 + 150.0 * k as f64,
            })
            .collect(),
        outputs: (0..outputs)
            .map(|k| Scale {
                offset: 20.0 - k as f64,
                scale: 7.0 + k as f64,
            })
            .collect(),
        error: 1e-3,
        network,
    }
}

fn options(tables: Tables) -> Options {
    Options {
        tables,
        tolerance: None,
        max_bytes: None,
    }
}

/// Inputs over the whole domain: corners, edges and the inside.
fn inputs(predictor: &Predictor, rows: usize) -> Vec<f64> {
    let mut rng = Pcg64Mcg::seed_from_u64(99);
    (0..rows)
        .flat_map(|_| {
            predictor
                .inputs
                .iter()
                .map(|range| {
                    let part = match rng.random_range(0..8) {
                        0 => 0.0,
                        1 => 1.0,
                        _ => rng.random_range(0.0..1.0),
                    };
                    range.lo + part * (range.hi - range.lo)
                })
                .collect::<Vec<f64>>()
        })
        .collect()
}

/// The largest distance of device and network on each output.
fn distances(predictor: &Predictor, compiled: &Compiled, x: &[f64]) -> Vec<f64> {
    let outputs = predictor.outputs.len();
    let device = Evaluator::load(&compiled.bytes).unwrap().eval(x);
    let host = predictor.eval(x);
    let mut worst = vec![0.0_f64; outputs];
    for (k, (d, h)) in device.iter().zip(&host).enumerate() {
        worst[k % outputs] = worst[k % outputs].max((f64::from(*d) - h).abs());
    }
    worst
}

#[test]
fn the_stated_bound_holds_for_every_kind_shape_and_degree() {
    let shapes: [&[usize]; 4] = [&[1, 1], &[3, 2], &[2, 3, 2], &[2, 2, 2, 1]];
    for (seed, shape) in shapes.into_iter().enumerate() {
        for degree in 1..=5 {
            for (irregular, base) in [(false, Base::Silu), (true, Base::Silu), (false, Base::Zero)]
            {
                let predictor = predictor(seed as u64, shape, degree, irregular, base);
                let x = inputs(&predictor, 2000);
                for tables in KINDS {
                    let compiled = compile(&predictor, "test", &options(tables)).unwrap();
                    assert_eq!(compiled.error_bound.len(), predictor.outputs.len());
                    let worst = distances(&predictor, &compiled, &x);
                    for (worst, bound) in worst.iter().zip(&compiled.error_bound) {
                        assert!(
                            worst <= bound,
                            "{tables} of {shape:?}, degree {degree}: {worst:e} above {bound:e}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_smaller_tolerance_gives_a_smaller_error() {
    let predictor = predictor(5, &[2, 2, 1], 3, true, Base::Silu);
    let x = inputs(&predictor, 2000);
    let error = |tolerance: f64| {
        let options = Options {
            tolerance: Some(tolerance),
            ..options(Tables::Cubic)
        };
        let compiled = compile(&predictor, "test", &options).unwrap();
        (
            distances(&predictor, &compiled, &x)[0],
            compiled.bytes.len(),
        )
    };
    let ((coarse, short), (fine, long)) = (error(1e-2), error(1e-5));
    assert!(fine < 0.1 * coarse, "{fine:e} against {coarse:e}");
    assert!(short < long);
}

#[test]
fn a_limit_of_flash_is_kept_or_refused() {
    let predictor = predictor(6, &[2, 2, 1], 3, true, Base::Silu);
    let free = compile(&predictor, "test", &options(Tables::Cubic)).unwrap();
    let limited = |bytes: usize| {
        let options = Options {
            max_bytes: Some(bytes),
            ..options(Tables::Cubic)
        };
        compile(&predictor, "test", &options)
    };
    let limit = free.bytes.len() * 2 / 3;
    assert!(limited(limit).unwrap().bytes.len() <= limit);
    assert!(matches!(
        limited(100),
        Err(CompileError::TooLarge { limit: 100, .. })
    ));
}

#[test]
fn a_network_with_every_edge_pruned_is_its_biases() {
    let mut predictor = predictor(7, &[2, 1], 3, false, Base::Silu);
    predictor.network.layers[0].edges.fill(None);
    predictor.network.layers[0].bias[0] = 0.5;
    for tables in KINDS {
        let compiled = compile(&predictor, "test", &options(tables)).unwrap();
        let outputs = Evaluator::load(&compiled.bytes)
            .unwrap()
            .eval(&[0.0, 120.0]);
        assert_eq!(outputs, [20.0 + 0.5 * 7.0]);
    }
}
