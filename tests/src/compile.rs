//! The compiler: the device's outputs stay within the stated bound of the network's.

use std::ops::ControlFlow;

use kan_train_host::compile::{self, CompileError, Compiled, Kind, Options, Tables, compile};
use kan_train_host::dataset::{Dataset, Schema, Target, TargetSchema};
use kan_train_host::evaluator::Evaluator;
use kan_train_host::network::{Base, Network};
use kan_train_host::predictor::{FORMAT, Predictor, Range, Scale, Score};
use kan_train_host::spline::Grid;
use kan_train_host::train::{Settings, train};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

const KINDS: [Kind; 10] = Kind::ALL;
const CUBIC: Kind = Kind {
    tables: Tables::Cubic,
    bits: 32,
};

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

fn options(kind: Kind) -> Options {
    Options {
        kind,
        tolerance: None,
        max_bytes: None,
        max_instructions: None,
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
fn margin(kind: Kind) -> f64 {
    match kind.tables {
        Tables::Step => 0.0,
        _ if kind.is_integer() => 0.02,
        Tables::Cubic | Tables::Linear => 0.1,
        Tables::Exact => 1.0,
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
    let x = inputs(predictor, margin(options.kind), rows);
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
                for kind in KINDS {
                    keeps_its_bound(&predictor, &options(kind), 2000);
                }
            }
        }
    }
}

/// Where tables are fine, rounding is all there is: most of it in the margins, where a cubic
/// table's weights are large and cancel each other.
#[test]
fn the_stated_bound_holds_where_rounding_rules() {
    let shapes: [&[usize]; 3] = [&[1, 1], &[2, 1], &[2, 2, 1]];
    for seed in 0..6 {
        for shape in shapes {
            for degree in [2, 3, 5] {
                let predictor = predictor(seed, shape, degree, seed % 2 == 1, Base::Silu);
                for kind in KINDS {
                    let tolerance = match kind.tables {
                        Tables::Cubic | Tables::Exact => 3e-7,
                        Tables::Linear => 3e-6,
                        Tables::Step => 1e-3,
                    };
                    let options = Options {
                        tolerance: Some(tolerance),
                        ..options(kind)
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
        for kind in KINDS {
            let compiled = compile(&predictor, "test", &options(kind), &[]).unwrap();
            let evaluator = Evaluator::load(&compiled.bytes).unwrap();
            let inside = |x: f32| evaluator.in_domain(&[f64::from(x)])[0];
            for (mut x, outwards) in [(lo as f32, -1.0), (hi as f32, 1.0)] {
                assert!(
                    inside(x),
                    "{kind}: the end of the range is not in the domain"
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
                // Integers may begin and end at a knot a little beyond.
                let beyond = part - margin(kind);
                let most = if kind.is_integer() { 0.05 } else { 1e-4 };
                assert!((-1e-4..most).contains(&beyond), "{kind}: {part}");
                let x = f64::from(x);
                let distance = (f64::from(evaluator.eval(&[x])[0]) - predictor.eval(&[x])[0]).abs();
                let bound = compiled.error_bound[0];
                assert!(distance <= bound, "{kind}: {distance:e} above {bound:e}");
            }
        }
    }
}

/// Pascals around the pressure of the air, or seconds since 1970: ranges that are narrow where they
/// are.
#[test]
fn inputs_far_from_zero_are_told_apart() {
    for lo in [300.0_f64, -101_300.0, 1.7e9] {
        let mut predictor = predictor(4, &[2, 2, 1], 3, false, Base::Silu);
        for range in &mut predictor.inputs {
            // A thousand numbers of f32.
            let width = lo.abs() * 1000.0 * f64::from(f32::EPSILON);
            *range = Range { lo, hi: lo + width };
        }
        for kind in KINDS {
            let compiled = keeps_its_bound(&predictor, &options(kind), 2000);
            let rough = match (kind.tables, kind.bits) {
                (Tables::Step, _) | (_, 8) => 5e-2,
                _ => 5e-3,
            };
            assert!(compiled.deviation < rough, "{kind}: {}", compiled.deviation);
        }
    }
}

/// Rare classes: biases that are large beside what the edges say.
#[test]
fn the_stated_bound_holds_for_logits() {
    for (seed, rare) in [(0, 0.0), (1, -3.0), (2, -40.0), (3, 400.0)] {
        let mut predictor = predictor(seed, &[2, 3, 3], 3, false, Base::Silu);
        predictor.schema.target = TargetSchema::Classification {
            name: "class".into(),
            labels: ["a", "b", "c"].map(String::from).to_vec(),
        };
        for output in &mut predictor.outputs {
            *output = Scale {
                offset: 0.0,
                scale: 1.0,
            };
        }
        predictor.network.layers[1].bias[1] = rare;
        for kind in KINDS {
            keeps_its_bound(&predictor, &options(kind), 1000);
        }
    }
}

/// Nothing but biases: then they alone are the units of the logits.
#[test]
fn logits_without_edges_are_their_biases() {
    for bias in [0.123, 1.386, 6.37, -0.7, -2.1] {
        let mut predictor = predictor(1, &[2, 1], 3, false, Base::Silu);
        predictor.schema.target = TargetSchema::Classification {
            name: "class".into(),
            labels: ["a", "b"].map(String::from).to_vec(),
        };
        predictor.outputs[0] = Scale {
            offset: 0.0,
            scale: 1.0,
        };
        predictor.network.layers[0].edges.fill(None);
        predictor.network.layers[0].bias[0] = bias;
        for kind in KINDS {
            let compiled = keeps_its_bound(&predictor, &options(kind), 100);
            let bound = compiled.error_bound[0];
            assert!(bound < 1e-6 * bias.abs(), "{kind}: {bound:e}");
        }
    }
}

/// More rows lie before the only nodes of an output than the format can say.
#[test]
fn outputs_of_late_nodes_compile() {
    let mut predictor = predictor(9, &[80, 2], 3, false, Base::Silu);
    for (at, edge) in predictor.network.layers[0].edges.iter_mut().enumerate() {
        if at % 2 == 1 && at < 2 * 78 {
            *edge = None;
        }
    }
    let options = Options {
        tolerance: Some(1e-6),
        ..options(Kind {
            tables: Tables::Step,
            bits: 16,
        })
    };
    let compiled = compile(&predictor, "test", &options, &[]).unwrap();
    let rows: usize = compiled.intervals[0][..78].iter().sum();
    assert!(rows > 0xffff, "{rows} rows");
    let middle = |range: &Range| 0.5 * (range.lo + range.hi);
    let row: Vec<f64> = predictor.inputs.iter().map(middle).collect();
    let worst = distances(&predictor, &compiled, &row);
    assert!(worst[1] <= compiled.error_bound[1]);
}

/// A bound that is always true could also be useless.
#[test]
fn the_bound_of_fine_tables_is_near_the_rounding_of_f32() {
    let predictor = predictor(3, &[2, 2, 1], 3, false, Base::Silu);
    let fine = Options {
        tolerance: Some(1e-6),
        ..options(CUBIC)
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
            ..options(CUBIC)
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
fn a_limit_of_flash_is_used_up_or_refused() {
    for irregular in [false, true] {
        let predictor = predictor(6, &[2, 2, 1], 3, irregular, Base::Silu);
        for kind in KINDS {
            let limited = |bytes: usize| {
                let options = Options {
                    max_bytes: Some(bytes),
                    ..options(kind)
                };
                compile(&predictor, "test", &options, &[])
            };
            let Err(CompileError::TooLarge {
                limit: 100, least, ..
            }) = limited(100)
            else {
                panic!("a blob in 100 bytes");
            };
            // One interval a node, 16 bytes a node, 6 a coefficient's row and target of 5 edges.
            let smallest = limited(least).unwrap();
            assert!(smallest.intervals.iter().flatten().all(|&n| n == 1));
            let free = compile(&predictor, "test", &options(kind), &[]).unwrap();
            let (from, to) = (smallest.bytes.len(), free.bytes.len());
            assert_eq!(from, least);
            assert!(from < to, "{kind}: no room for limits");
            let mut last = f64::INFINITY;
            for part in [0.3, 0.6, 0.9] {
                let limit = from + (part * (to - from) as f64) as usize;
                let found = limited(limit).unwrap();
                let (bytes, error) = (found.bytes.len(), found.rms_deviation[0]);
                assert!(bytes <= limit);
                if kind.is_integer() {
                    continue;
                }
                assert!(
                    bytes as f64 > 0.8 * limit as f64,
                    "{kind}: {bytes} bytes of {limit}"
                );
                assert!(error <= 1.2 * last, "{kind}: {error:e} after {last:e}");
                last = error;
            }
        }
    }
}

/// The network's own grid is one candidate for its tables, not the least.
#[test]
fn a_fine_network_that_is_smooth_has_coarse_tables() {
    let mut predictor = predictor(8, &[1, 1], 3, false, Base::Silu);
    let coarse = predictor.network.layers[0].grids[0].clone();
    let fine = coarse.with_intervals(160);
    let refit = coarse.refit(&fine);
    let layer = &mut predictor.network.layers[0];
    for edge in layer.edges.iter_mut().flatten() {
        edge.coef = refit.apply(&edge.coef);
    }
    layer.grids[0] = fine.clone();
    let compiled = keeps_its_bound(&predictor, &options(CUBIC), 2000);
    assert!(compiled.intervals[0][0] <= 20, "{:?}", compiled.intervals);
    assert!(compiled.within_tolerance);

    // Where only exactness is enough, its own grid is there (SiLU is smooth, and 160 intervals
    // plenty).
    for edge in predictor.network.layers[0].edges.iter_mut().flatten() {
        for (k, c) in edge.coef.iter_mut().enumerate() {
            *c += 0.1 * f64::from(k as u32 % 2);
        }
    }
    predictor.error = 1e-5;
    let compiled = keeps_its_bound(&predictor, &options(CUBIC), 2000);
    assert_eq!(compiled.intervals[0][0], 160);
}

/// Knots that follow skewed samples are narrow where those are many, and edges steep there: an
/// error of a hidden node counts for as much as the layers behind it make of it.
#[test]
fn tables_of_deep_networks_are_as_good_as_the_network() {
    let mut rng = Pcg64Mcg::seed_from_u64(4);
    let mut table = |spread: f64| {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for _ in 0..600 {
            let normal: f64 = (0..12).map(|_| rng.random_range(-0.5..0.5)).sum();
            let row = [(spread * normal).exp(), rng.random_range(-1.0..1.0_f64)];
            y.push(row[0].ln() * row[1]);
            x.extend(row);
        }
        Dataset {
            source: "table".into(),
            input_names: vec!["x".into(), "z".into()],
            rows: y.len(),
            x,
            target: Target::Regression {
                names: vec!["y".into()],
                y,
            },
        }
    };
    for spread in [1.0, 2.0] {
        let data = table(spread);
        for seed in 0..2 {
            let settings = Settings {
                width: Some(vec![2, 2, 1]),
                grid: Some(vec![8]),
                grid_eps: Some(0.02),
                steps: Some(60),
                no_prune: true,
                seed,
                ..Settings::default()
            };
            let predictor = train(&data, None, &settings, None, &mut |_| {
                ControlFlow::Continue(())
            })
            .unwrap()
            .predictor;
            let compiled = compile(&predictor, "test", &options(CUBIC), &data.x).unwrap();
            let network = Score::of(&predictor.eval(&data.x), &data).error();
            let outputs = Evaluator::load(&compiled.bytes).unwrap().eval(&data.x);
            let outputs: Vec<f64> = outputs.into_iter().map(f64::from).collect();
            let device = Score::of(&outputs, &data).error();
            assert!(
                device <= 1.01 * network,
                "{device:e} after {network:e}: {compiled:?}"
            );
            assert!(compiled.within_tolerance);
        }
    }
}

#[test]
fn tables_that_cannot_be_as_good_say_so() {
    let predictor = Predictor {
        error: 1e-9,
        ..predictor(3, &[2, 2, 1], 3, false, Base::Silu)
    };
    for kind in KINDS {
        let compiled = compile(&predictor, "test", &options(kind), &[]).unwrap();
        assert!(!compiled.within_tolerance, "{kind}");
        // They are as good as their kind allows all the same.
        assert!(compiled.rms_deviation[0] < 0.05 * 7.0);
    }
}

/// What `f32` cannot hold is refused by the column's name, as soon as it is known.
#[test]
fn numbers_beyond_f32_are_named() {
    let good = || predictor(3, &[2, 1], 3, false, Base::Silu);
    let refused = |predictor: &Predictor| {
        let fault = compile(predictor, "test", &options(CUBIC), &[]);
        fault.expect_err("it cannot be compiled").to_string()
    };
    let mut far = good();
    far.outputs[0].scale = 1e38;
    assert!(refused(&far).starts_with("column 'y0': its predictions can reach"));
    for (lo, hi) in [(0.0, 1e-40), (0.0, 1e39), (1e9, 1e9 + 1e-3)] {
        let mut range = good();
        range.inputs[1] = Range { lo, hi };
        assert!(refused(&range).starts_with("column 'x1': f32 on the device cannot count from"));
    }
    let data = |x: f64, y: f64| Dataset {
        source: "table".into(),
        input_names: vec!["x".into()],
        x: vec![0.0, x],
        rows: 2,
        target: Target::Regression {
            names: vec!["y".into()],
            y: vec![0.0, y],
        },
    };
    assert_eq!(compile::check(&data(1.0, 1.0)), Ok(()));
    assert_eq!(
        compile::check(&data(0.0, 0.0)),
        Ok(()),
        "constants are not used"
    );
    for (x, y, column) in [(1e-40, 1.0, "'x'"), (1.0, 3e38, "'y'"), (1e300, 1.0, "'x'")] {
        let fault = compile::check(&data(x, y)).expect_err("it is refused");
        assert!(fault.to_string().contains(column), "{fault}");
    }
}

#[test]
fn a_network_with_every_edge_pruned_is_its_biases() {
    let mut predictor = predictor(7, &[2, 1], 3, false, Base::Silu);
    predictor.network.layers[0].edges.fill(None);
    predictor.network.layers[0].bias[0] = 0.5;
    for kind in KINDS {
        let compiled = compile(&predictor, "test", &options(kind), &[]).unwrap();
        let outputs = Evaluator::load(&compiled.bytes)
            .unwrap()
            .eval(&[0.0, 120.0]);
        assert_eq!(outputs, [20.0 + 0.5 * 7.0]);
    }
}

/// Kinds of tables on the same network: more bits and higher degrees are nearer to it.
#[test]
fn sixteen_bits_are_nearer_than_eight() {
    for seed in 0..4 {
        let predictor = predictor(seed, &[2, 3, 1], 3, false, Base::Silu);
        let x = inputs(&predictor, 0.0, 1000);
        let deviation = |tables, bits| {
            let kind = Kind { tables, bits };
            compile(&predictor, "test", &options(kind), &x)
                .unwrap()
                .rms_deviation[0]
        };
        for tables in [Tables::Cubic, Tables::Linear] {
            assert!(
                deviation(tables, 16) < 0.2 * deviation(tables, 8),
                "{tables}"
            );
        }
        // The network's own error is 1e-3: 16 bits add no more than a hundredth to it.
        assert!(deviation(Tables::Cubic, 16) < 0.14e-3 * 7.0);
    }
}

/// Inputs and outputs as integers are worth what the blob says.
#[test]
fn integers_stand_for_numbers() {
    let predictor = predictor(2, &[2, 2], 3, false, Base::Silu);
    for tables in [Tables::Cubic, Tables::Linear, Tables::Step] {
        for bits in [16, 8] {
            let kind = Kind { tables, bits };
            let compiled = compile(&predictor, "test", &options(kind), &[]).unwrap();
            let evaluator = Evaluator::load(&compiled.bytes).unwrap();
            assert_eq!(
                (evaluator.tables(), evaluator.bits()),
                (tables.to_string().as_str(), bits)
            );
            let model = evaluator.model();
            for x in inputs(&predictor, 0.0, 200).chunks(2) {
                let raw: Vec<i32> = (x.iter().enumerate())
                    .map(|(i, x)| {
                        let (scale, zero) = model.input_scale(i).unwrap();
                        // A power of two, so that firmware can shift.
                        assert_eq!((scale.log2().fract(), zero), (0.0, 0.0));
                        (x * f64::from(scale)).round() as i32
                    })
                    .collect();
                let mut sums = [0; 2];
                model.eval_q_into(&raw, &mut sums);
                let truth = predictor.eval(x);
                for (j, sum) in sums.into_iter().enumerate() {
                    let (scale, zero) = model.output_scale(j).unwrap();
                    let y = f64::from(sum) * f64::from(scale) + f64::from(zero);
                    let bound = compiled.error_bound[j];
                    assert!(
                        (y - truth[j]).abs() <= bound,
                        "{kind}: {y} for {}",
                        truth[j]
                    );
                }
            }
        }
    }
}
