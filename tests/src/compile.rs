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

/// Inputs over the whole domain, margins included: its ends, those of the grids, and the inside.
fn inputs(predictor: &Predictor, margin: f64, rows: usize) -> Vec<f64> {
    let mut rng = Pcg64Mcg::seed_from_u64(99);
    (0..rows)
        .flat_map(|_| {
            predictor
                .inputs
                .iter()
                .map(|range| {
                    let part = match rng.random_range(0..12) {
                        0 => 0.0,
                        1 => 1.0,
                        2 => -margin,
                        3 => 1.0 + margin,
                        4 => rng.random_range(-margin..=0.0),
                        5 => rng.random_range(1.0..=1.0 + margin),
                        _ => rng.random_range(0.0..1.0),
                    };
                    range.lo + part * (range.hi - range.lo)
                })
                .collect::<Vec<f64>>()
        })
        .collect()
}

/// As far as the domain of such tables goes, as a part of an input's range.
fn margin(tables: Tables) -> f64 {
    match tables {
        Tables::Cubic | Tables::Linear => 0.1,
        Tables::Exact => 1.0,
        Tables::Step => 0.0,
    }
}

/// The largest distance of device and network on each output.
fn distances(predictor: &Predictor, compiled: &Compiled, x: &[f64]) -> Vec<f64> {
    let outputs = predictor.outputs.len();
    let evaluator = Evaluator::load(&compiled.bytes).unwrap();
    let (device, host) = (evaluator.eval(x), predictor.eval(x));
    let inside = evaluator.in_domain(x);
    let mut worst = vec![0.0_f64; outputs];
    for (k, (d, h)) in device.iter().zip(&host).enumerate() {
        if inside[k / outputs] {
            worst[k % outputs] = worst[k % outputs].max((f64::from(*d) - h).abs());
        }
    }
    let accepted = inside.iter().filter(|inside| **inside).count();
    assert!(2 * accepted > inside.len(), "the domain is too small");
    worst
}

/// Compiles, and holds the blob to its bound on `rows` inputs.
#[track_caller]
fn keeps_its_bound(predictor: &Predictor, options: &Options, rows: usize) -> Compiled {
    let x = inputs(predictor, margin(options.tables), rows);
    let compiled = compile(predictor, "test", options, &[]).unwrap();
    assert_eq!(compiled.error_bound.len(), predictor.outputs.len());
    let worst = distances(predictor, &compiled, &x);
    for (worst, bound) in worst.iter().zip(&compiled.error_bound) {
        assert!(worst <= bound, "{options:?}: {worst:e} above {bound:e}");
    }
    compiled
}

#[test]
fn the_stated_bound_holds_for_every_kind_shape_and_degree() {
    let shapes: [&[usize]; 4] = [&[1, 1], &[3, 2], &[2, 3, 2], &[2, 2, 2, 1]];
    for (seed, shape) in shapes.into_iter().enumerate() {
        for degree in 1..=5 {
            for (irregular, base) in [(false, Base::Silu), (true, Base::Silu), (false, Base::Zero)]
            {
                let predictor = predictor(seed as u64, shape, degree, irregular, base);
                for tables in KINDS {
                    keeps_its_bound(&predictor, &options(tables), 2000);
                }
            }
        }
    }
}

/// Where tables are fine, rounding is all there is: most of it in the margins, where a cubic table's
/// weights are large and cancel each other.
#[test]
fn the_stated_bound_holds_where_rounding_rules() {
    let shapes: [&[usize]; 3] = [&[1, 1], &[2, 1], &[2, 2, 1]];
    for seed in 0..6 {
        for shape in shapes {
            for degree in [2, 3, 5] {
                let predictor = predictor(seed, shape, degree, seed % 2 == 1, Base::Silu);
                for tables in KINDS {
                    let tolerance = match tables {
                        Tables::Cubic | Tables::Exact => 3e-7,
                        Tables::Linear => 3e-6,
                        Tables::Step => 1e-3,
                    };
                    let options = Options {
                        tolerance: Some(tolerance),
                        ..options(tables)
                    };
                    keeps_its_bound(&predictor, &options, 3000);
                }
            }
        }
    }
}

/// What `in_domain` accepts just past the range that the tables were made for.
#[test]
fn the_stated_bound_holds_at_the_very_ends_of_the_domain() {
    for seed in 0..20 {
        let predictor = predictor(seed, &[1, 1], 3, false, Base::Silu);
        let Range { lo, hi } = predictor.inputs[0];
        for tables in KINDS {
            let compiled = compile(&predictor, "test", &options(tables), &[]).unwrap();
            let evaluator = Evaluator::load(&compiled.bytes).unwrap();
            let inside = |x: f32| evaluator.in_domain(&[f64::from(x)])[0];
            for (mut x, outwards) in [(lo as f32, -1.0), (hi as f32, 1.0)] {
                assert!(
                    inside(x),
                    "{tables}: the end of the range is not in the domain"
                );
                let mut step = 100.0_f32;
                while x + outwards * step != x {
                    if inside(x + outwards * step) {
                        x += outwards * step;
                    } else {
                        step *= 0.5;
                    }
                }
                let part = (f64::from(x) - if outwards < 0.0 { lo } else { hi }).abs() / (hi - lo);
                assert!((part - margin(tables)).abs() < 1e-4, "{tables}: {part}");
                let x = f64::from(x);
                let distance = (f64::from(evaluator.eval(&[x])[0]) - predictor.eval(&[x])[0]).abs();
                let bound = compiled.error_bound[0];
                assert!(distance <= bound, "{tables}: {distance:e} above {bound:e}");
            }
        }
    }
}

/// A bound that is always true could also be useless.
#[test]
fn the_bound_of_fine_tables_is_near_the_rounding_of_f32() {
    let predictor = predictor(3, &[2, 2, 1], 3, false, Base::Silu);
    let fine = Options {
        tolerance: Some(1e-6),
        ..options(Tables::Cubic)
    };
    let compiled = keeps_its_bound(&predictor, &fine, 100);
    // Some hundred roundings of numbers of the size of the output, 27 at most.
    assert!(
        compiled.error_bound[0] < 27.0 * 1000.0 * f64::from(f32::EPSILON),
        "{compiled:?}"
    );
}

#[test]
fn a_smaller_tolerance_gives_a_smaller_error() {
    let predictor = predictor(5, &[2, 2, 1], 3, true, Base::Silu);
    let x = inputs(&predictor, 0.0, 2000);
    let error = |tolerance: f64| {
        let options = Options {
            tolerance: Some(tolerance),
            ..options(Tables::Cubic)
        };
        let compiled = compile(&predictor, "test", &options, &[]).unwrap();
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
    let free = compile(&predictor, "test", &options(Tables::Cubic), &[]).unwrap();
    let limited = |bytes: usize| {
        let options = Options {
            max_bytes: Some(bytes),
            ..options(Tables::Cubic)
        };
        compile(&predictor, "test", &options, &[])
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
        let compiled = compile(&predictor, "test", &options(tables), &[]).unwrap();
        let outputs = Evaluator::load(&compiled.bytes)
            .unwrap()
            .eval(&[0.0, 120.0]);
        assert_eq!(outputs, [20.0 + 0.5 * 7.0]);
    }
}
