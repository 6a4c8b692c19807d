//! Changes of grid keep the function of a network, and no values a node takes can spoil one.

use kan_train_host::grid::{self, HIDDEN_MARGIN};
use kan_train_host::network::{Base, Edge, Layer, Network};
use kan_train_host::objective::{Samples, Target};
use kan_train_host::spline::{Fit, Grid, MAX_DEGREE};
use kan_train_host::statistics::statistics;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::network::{random_network, random_points, samples};

/// The largest difference of the outputs of two networks at `x`, and the largest output.
fn difference(a: &Network, b: &Network, x: &[f64]) -> (f64, f64) {
    let (mut difference, mut largest) = (0.0, 0.0);
    for x in x.chunks(a.width()[0]) {
        for (a, b) in a.eval(x).iter().zip(b.eval(x)) {
            difference = f64::max(difference, (a - b).abs());
            largest = f64::max(largest, a.abs());
            assert!(a.is_finite() && b.is_finite());
        }
    }
    (difference, largest)
}

#[test]
fn extension_to_nested_grids_keeps_the_function() {
    let mut rng = Pcg64Mcg::seed_from_u64(30);
    for degree in 1..=MAX_DEGREE {
        for width in [
            &[1, 1][..],
            &[3, 2],
            &[2, 3, 1],
            &[3, 4, 3, 2],
            &[2, 2, 2, 2, 2, 1],
        ] {
            for (times, base) in [(2, Base::Silu), (3, Base::Silu), (8, Base::Zero)] {
                let network = random_network(&mut rng, width, degree, base, 0.8);
                let mut extended = network.clone();
                // All grids by the same factor: one after the other, each limited to its own.
                for layer in &mut extended.layers {
                    for i in 0..layer.inputs() {
                        let grid =
                            layer.grids[i].with_intervals(times * layer.grids[i].intervals());
                        grid::regrid(layer, base, i, grid);
                    }
                }
                let x = random_points(&mut rng, 200, width[0]);
                let (difference, largest) = difference(&network, &extended, &x);
                assert!(
                    difference <= 1e-12 * (1.0 + largest),
                    "{degree} {width:?}: {difference}"
                );
                assert_eq!(extended.intervals(), times * network.intervals());
            }
        }
    }
}

#[test]
fn extension_brings_every_grid_to_the_number_asked_for_within_the_limits() {
    let mut rng = Pcg64Mcg::seed_from_u64(31);
    let inputs = vec![Grid::uniform(3, -1.0, 1.0, 3); 3];
    let network = Network::random(&[3, 2, 1], &inputs, Base::Silu, &mut rng);
    let mut extended = network.clone();
    grid::extend(&mut extended, 12, &[usize::MAX, 6, 3]);
    let intervals: Vec<usize> = extended.layers[0]
        .grids
        .iter()
        .map(Grid::intervals)
        .collect();
    assert_eq!(intervals, [12, 6, 3]);
    assert!(
        extended.layers[1]
            .grids
            .iter()
            .all(|grid| grid.intervals() == 12)
    );
    let x: Vec<f64> = (0..300).map(|_| rng.random_range(-1.3..1.3)).collect();
    let (difference, largest) = difference(&network, &extended, &x);
    assert!(difference <= 1e-12 * (1.0 + largest), "{difference}");

    let column = |values: &[f64]| {
        let network = Network::random(&[1, 1], &inputs[..1], Base::Zero, &mut rng.clone());
        grid::limits(&samples(&network, values.to_vec()))
    };
    assert_eq!(column(&[0.0, 1.0, 0.0, 2.0, 1.0]), [2]);
    assert_eq!(column(&[5.0, 5.0]), [1]);
    assert_eq!(column(&[5.0]), [1]);
    let two = Samples {
        inputs: 2,
        outputs: 1,
        x: vec![0.0, 1.0, 0.0, 2.0, 1.0, 3.0],
        target: Target::Values(vec![0.0; 3]),
    };
    assert_eq!(grid::limits(&two), [1, 2]);
}

#[test]
fn extension_to_other_grids_errs_as_a_fit_does() {
    let smooth = |x: f64| (2.0 * x).sin() + 0.3 * x;
    for degree in 2..=MAX_DEGREE {
        let error = |intervals: usize| {
            let grid = Grid::uniform(degree, -1.0, 1.0, intervals);
            let coef = Fit::new(&grid).fit(smooth);
            let at = |k: i32| f64::from(k) / 500.0;
            (-500..=500)
                .map(at)
                .map(|x| (grid.eval(&coef, x) - smooth(x)).abs())
                .fold(0.0, f64::max)
        };
        let old = Grid::uniform(degree, -1.0, 1.0, 20);
        let coef = Fit::new(&old).fit(smooth);
        let edge = Some(Edge {
            coef,
            scale_base: 0.7,
        });
        let layer = Layer {
            outputs: 1,
            grids: vec![old],
            edges: vec![edge],
            bias: vec![0.1],
        };
        let network = Network {
            base: Base::Silu,
            layers: vec![layer],
        };
        let mut extended = network.clone();
        grid::extend(&mut extended, 33, &[usize::MAX]);
        let x: Vec<f64> = (-500..=500).map(|k| f64::from(k) / 500.0).collect();
        let (difference, _) = difference(&network, &extended, &x);
        // The old spline is the function but for its own error, which least squares magnifies by
        // less than three.
        let bound = error(33) + 4.0 * error(20) + 1e-13;
        assert!(
            difference <= bound,
            "degree {degree}: {difference}, more than {bound}"
        );
    }
}

/// x ↦ `curve`(`factor`·x + `offset`) as [1, 1, 1]: the first edge is a line, exactly; the second
/// has the curve on −1 … 1.
fn composed(
    degree: usize,
    intervals: usize,
    base: Base,
    factor: f64,
    offset: f64,
    curve: impl Fn(f64) -> f64,
) -> Network {
    let grid = Grid::uniform(degree, -1.0, 1.0, intervals);
    let fit = Fit::new(&grid);
    let layer = |coef: Vec<f64>, scale_base: f64, bias: f64| Layer {
        outputs: 1,
        grids: vec![grid.clone()],
        edges: vec![Some(Edge { coef, scale_base })],
        bias: vec![bias],
    };
    let first = layer(fit.fit(|x| factor * x), 0.0, offset);
    let scale_base = if base == Base::Silu { 1.0 } else { 0.0 };
    let second = layer(fit.fit(curve), scale_base, 0.0);
    Network {
        base,
        layers: vec![first, second],
    }
}

#[test]
fn hidden_grids_follow_their_values_and_the_function_stays() {
    // The values of the hidden node, and whether its grid −1 … 1 has to change for them.
    for (factor, offset, moves) in [
        (0.97, 0.0, false),
        (0.8, 0.1, false),
        (0.8, 0.3, true),
        (0.8, -0.3, true),
        (1.2, 0.0, true),
        (0.5, 1.0, true),
        (0.1, -0.8, true),
        (40.0, 3.0, true),
        (1e6, 0.0, true),
        (1e-5, 0.5, true),
    ] {
        for base in [Base::Silu, Base::Zero] {
            let (degree, intervals) = (3, 30);
            let before = composed(degree, intervals, base, factor, offset, |z| {
                0.5 * (2.0 * z).cos()
            });
            let x: Vec<f64> = (-500..=500).map(|k| f64::from(k) / 500.0).collect();
            let seen = samples(&before, x.clone());
            let mut after = before.clone();
            grid::follow(&mut after, &seen, f64::INFINITY);
            assert_eq!(after != before, moves, "{factor} {offset}");
            // Values in their grid, which is not much wider, and of ordinary size.
            let (lo, hi) = statistics(&after, &seen).range[1][0];
            let grid = &after.layers[1].grids[0];
            let range = hi - lo;
            assert!(
                grid.lo() <= lo && hi <= grid.hi(),
                "{factor} {offset}: {lo} … {hi}"
            );
            assert!(
                grid.hi() - grid.lo() <= 1.4 * range,
                "{factor} {offset}: {lo} … {hi}"
            );
            assert!(
                (0.4..8.1).contains(&range),
                "{factor} {offset}: {lo} … {hi}"
            );
            assert_eq!(grid.intervals(), intervals);
            // The error of the new fit: the function has curvature up to 2 (spline) and ½ (base
            // function) in the old unit, and none beyond the old grid, so that its slope changes by
            // less than 3 in all. A line through its values is off by h²/8·curvature on an
            // interval h, or h/8·change of slope; least squares is at most four times worse.
            let h = 2.0 * factor * (1.0 + 2.0 * HIDDEN_MARGIN) / intervals as f64;
            let bend = f64::min(2.5 * h * h, 3.0 * h);
            // The base function comes in the unit of the new grid; the cubic splines that make up
            // for it err by (2/30)⁴/384 of its fourth derivative, below ½.
            let base_error = 4.0 * (2.0 / intervals as f64).powi(4) / 384.0 * 0.5;
            let bound = if moves {
                4.0 * bend / 8.0 + base_error
            } else {
                0.0
            };
            let (difference, _) = difference(&before, &after, &x);
            assert!(
                difference <= bound,
                "{factor} {offset} {base:?}: {difference} > {bound}"
            );
        }
    }
}

#[test]
fn a_fine_change_of_hidden_grids_keeps_the_function_and_settles() {
    let mut rng = Pcg64Mcg::seed_from_u64(32);
    for base in [Base::Silu, Base::Zero] {
        for width in [&[2, 3, 1][..], &[3, 4, 3, 2]] {
            let mut network = random_network(&mut rng, width, 3, base, 0.8);
            grid::extend(&mut network, 60, &[usize::MAX; 3]);
            let x = random_points(&mut rng, 300, width[0]);
            let seen = samples(&network, x.clone());
            let mut followed = network.clone();
            grid::follow(&mut followed, &seen, f64::INFINITY);
            let (change, largest) = difference(&network, &followed, &x);
            // Kinks of the third derivative where old knots are no longer: h³ of 60 intervals
            // against the second derivatives of splines on 1 to 8 of them.
            assert!(change <= 1e-2 * (1.0 + largest), "{width:?}: {change}");
            let mut again = followed.clone();
            grid::follow(&mut again, &seen, f64::INFINITY);
            // Followed grids fit; only values that moved with the change may ask for another.
            let (change, _) = difference(&followed, &again, &x);
            assert!(change <= 1e-2 * (1.0 + largest), "{width:?}: {change}");
        }
    }
}

#[test]
fn a_hidden_nodes_unit_does_not_matter() {
    // The same function with the node in units of 10^p: after following, the same network.
    let x: Vec<f64> = (-50..=50).map(|k| f64::from(k) / 50.0).collect();
    for power in [-3, 3, 7] {
        let factor = 10_f64.powi(power);
        let base = Base::Silu;
        let one = composed(3, 5, base, 1.0, 0.2, |z| z * z);
        let mut other = one.clone();
        let first = other.layers[0].edges[0].as_mut().unwrap();
        first.coef.iter_mut().for_each(|c| *c *= factor);
        other.layers[0].bias[0] *= factor;
        let breaks: Vec<f64> = one.layers[1].grids[0]
            .breaks()
            .iter()
            .map(|t| t * factor)
            .collect();
        other.layers[1].grids[0] = Grid::new(3, &breaks).unwrap();
        let (change, _) = difference(&one, &other, &x);
        assert!(
            change <= 1e-12,
            "the base function is in the unit of its grid: {change}"
        );
        for network in [&one, &other] {
            let mut followed = network.clone();
            grid::follow(&mut followed, &samples(network, x.clone()), f64::INFINITY);
            let range = statistics(&followed, &samples(network, x.clone())).range[1][0];
            assert!(
                (0.5..=8.0).contains(&(range.1 - range.0)),
                "10^{power}: {range:?}"
            );
        }
    }
}

#[test]
fn updated_grids_follow_the_quantiles_of_hidden_values() {
    // x evenly in −1 … 1 and a line before the node: its values are even in offset ± factor.
    let mut network = composed(3, 40, Base::Silu, 0.9, 0.05, |z| 0.5 * (2.0 * z).cos());
    let before = network.clone();
    let x: Vec<f64> = (-400..=400).map(|k| f64::from(k) / 400.0).collect();
    grid::update(&mut network, &samples(&before, x.clone()), 0.02);
    let margin = HIDDEN_MARGIN * 1.8;
    let breaks = network.layers[1].grids[0].breaks();
    assert!((breaks[0] - (-0.85 - margin)).abs() <= 1e-12);
    assert!((breaks[40] - (0.95 + margin)).abs() <= 1e-12);
    for (k, knot) in breaks.iter().enumerate().take(40).skip(1) {
        let part = k as f64 / 40.0;
        let quantile = -0.85 + 1.8 * part;
        let even = -0.85 - margin + (1.8 + 2.0 * margin) * part;
        assert!(
            (knot - (0.02 * even + 0.98 * quantile)).abs() <= 1e-12,
            "break {k}: {knot}"
        );
    }
    assert_eq!(
        network.layers[0].grids, before.layers[0].grids,
        "input grids stay"
    );
    // Errors of cubic fits on intervals of a twentieth: h⁴·16/384 of the cosine, and less.
    let (difference, _) = difference(&before, &network, &x);
    assert!(difference <= 1e-5, "{difference}");
}

#[test]
fn no_values_spoil_a_grid() {
    let mut rng = Pcg64Mcg::seed_from_u64(33);
    for case in 0..300 {
        let degree = rng.random_range(1..=MAX_DEGREE);
        let base = [Base::Silu, Base::Zero][rng.random_range(0..2)];
        let width = [&[2, 2, 1][..], &[1, 3, 2, 1]][rng.random_range(0..2)];
        let mut network = random_network(&mut rng, width, degree, base, 0.8);
        let scale = [0.0, 1e-12, 1.0, 1e12, 1e100][rng.random_range(0..5)];
        let offset = [0.0, 1.0, 1e12, 1e17][rng.random_range(0..4)];
        for bias in &mut network.layers[0].bias {
            *bias += offset;
        }
        for edge in network.layers[0].edges.iter_mut().flatten() {
            edge.coef.iter_mut().for_each(|c| *c *= scale);
        }
        let distinct = [1, 2, 30][rng.random_range(0..3)];
        let pool = random_points(&mut rng, distinct, width[0]);
        let x: Vec<f64> = (0..20)
            .flat_map(|_| {
                let row = rng.random_range(0..distinct);
                pool[row * width[0]..(row + 1) * width[0]].to_vec()
            })
            .collect();
        let seen = samples(&network, x);
        for step in 0..3 {
            match step {
                0 => {
                    grid::follow(&mut network, &seen, f64::INFINITY);
                }
                1 => grid::update(&mut network, &seen, 0.02),
                _ => grid::extend(&mut network, 15, &[4, 7]),
            }
            let numbers = network.to_vector();
            let told = format!("case {case}, step {step}: {scale} {offset} {distinct}");
            assert!(numbers.iter().all(|c| c.is_finite()), "{told}");
            for layer in &network.layers {
                for (i, grid) in layer.grids.iter().enumerate() {
                    assert!(
                        grid.knots().windows(2).all(|pair| pair[0] < pair[1]),
                        "{told}"
                    );
                    for (_, edge) in layer.edges_from(i) {
                        assert_eq!(edge.coef.len(), grid.functions(), "{told}");
                    }
                }
            }
            for n in 0..seen.rows() {
                assert!(
                    network.eval(seen.row(n)).iter().all(|y| y.is_finite()),
                    "{told}"
                );
            }
        }
    }
}

#[test]
fn values_that_are_no_numbers_leave_grids_as_they_are() {
    let mut rng = Pcg64Mcg::seed_from_u64(34);
    let network = random_network(&mut rng, &[2, 3, 1], 3, Base::Silu, 1.0);
    let mut after = network.clone();
    grid::follow(
        &mut after,
        &samples(&network, vec![f64::NAN; 8]),
        f64::INFINITY,
    );
    assert_eq!(after, network);
    grid::update(&mut after, &samples(&network, vec![f64::NAN; 8]), 0.02);
    assert!(after.to_vector().iter().all(|c| c.is_finite()));
}

#[test]
fn a_stretched_grid_keeps_its_spacing() {
    let mut rng = Pcg64Mcg::seed_from_u64(35);
    for degree in 1..=MAX_DEGREE {
        for grid in [
            Grid::uniform(degree, -1.0, 1.0, 7),
            Grid::new(degree, &[-2.0, -1.5, 0.0, 0.25, 3.0]).unwrap(),
        ] {
            let lo = rng.random_range(-9.0..9.0);
            let hi = lo + rng.random_range(1e-3..1e3);
            let stretched = grid.stretched(lo, hi).unwrap();
            assert_eq!((stretched.lo(), stretched.hi()), (lo, hi));
            assert_eq!(stretched.degree(), degree);
            assert_eq!(stretched.intervals(), grid.intervals());
            assert_eq!(stretched.is_uniform(), grid.is_uniform());
            let part = |grid: &Grid, x: f64| (x - grid.lo()) / (grid.hi() - grid.lo());
            for (x, old) in stretched.breaks().iter().zip(grid.breaks()) {
                // A few roundings of numbers up to |lo| + |hi|, on a range of hi − lo.
                let bound = 8.0 * f64::EPSILON * (1.0 + (lo.abs() + hi.abs()) / (hi - lo));
                let (new, old) = (part(&stretched, *x), part(&grid, *old));
                assert!((new - old).abs() <= bound, "{lo} … {hi}: {new}, not {old}");
            }
        }
    }
    let grid = Grid::uniform(3, -1.0, 1.0, 4);
    for (lo, hi) in [
        (1.0, 1.0),
        (2.0, 1.0),
        (f64::NAN, 1.0),
        (0.0, f64::INFINITY),
        (1.0, 1.0 + f64::EPSILON),
        (0.0, 1e-310),
    ] {
        assert!(grid.stretched(lo, hi).is_err(), "{lo} … {hi}");
    }
}

#[test]
fn grids_without_room_for_more_intervals_stay_as_they_are() {
    let close = 1.0 + 8.0 * f64::EPSILON;
    for breaks in [&[1.0, close][..], &[0.0, 1.0, close, 2.0], &[0.0, 1e-307]] {
        let grid = Grid::new(2, breaks).unwrap();
        assert_eq!(
            grid.with_intervals(60 * grid.intervals()),
            grid,
            "{breaks:?}"
        );
    }
}

#[test]
fn knots_are_blended_with_quantiles_where_values_crowd() {
    let mut rng = Pcg64Mcg::seed_from_u64(36);
    let even = |count: i32| (0..count).map(f64::from).collect::<Vec<_>>();
    let mut draw = |f: &dyn Fn(f64) -> f64| -> Vec<f64> {
        (0..2000).map(|_| f(rng.random_range(0.0..1.0))).collect()
    };
    // Of 2000 even draws, a tenth is off by 0.15 with less than any chance.
    let spread = [
        even(2),
        even(3),
        even(4),
        even(7),
        even(1000),
        draw(&|u| 5e6 - 3e5 * u),
        // How often a value occurs does not count.
        [vec![0.0; 500], even(20)].concat(),
        // Nothing to space.
        Vec::new(),
        vec![7.0],
        vec![-3.0; 40],
    ];
    for column in spread {
        assert_eq!(
            grid::blend(&column),
            1.0,
            "{:?}…",
            &column[..column.len().min(9)]
        );
    }
    let crowded = [
        draw(&|u| -(1.0 - u).ln()),
        draw(&|u| ((2.0 * u - 1.0) * 3.0).exp()),
        draw(&|u| 1e-9 * u.powi(3)),
        draw(&|u| -u.powi(3)),
        // Two heaps far apart.
        draw(&|u| if u < 0.5 { u } else { 100.0 + u }),
        // One outlier.
        [even(100), vec![1e4]].concat(),
    ];
    for mut column in crowded {
        let blend = grid::blend(&column);
        assert!((0.0..1.0).contains(&blend), "{blend}: {:?}…", &column[..9]);
        column.reverse();
        assert_eq!(grid::blend(&column), blend, "in any order");
        let other: Vec<f64> = column.iter().map(|x| 1e3 * x - 7.0).collect();
        assert_eq!(grid::blend(&other), blend, "in any unit");
    }
}
