//! Where no sample is, edges go on smoothly; where samples are, they stay.

use kan_train_host::gaps;
use kan_train_host::network::{Base, Edge, Layer, Network};
use kan_train_host::objective::{self, Samples, Target};
use kan_train_host::spline::{Fit, Grid, MAX_DEGREE};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// One edge without a base function.
fn edge(grid: Grid, coef: Vec<f64>) -> Network {
    Network {
        base: Base::Zero,
        layers: vec![Layer {
            outputs: 1,
            grids: vec![grid],
            edges: vec![Some(Edge {
                coef,
                scale_base: 0.0,
            })],
            bias: vec![0.0],
        }],
    }
}

/// Samples at `x` of what `network` gives there, off by `error` to alternate sides.
fn around(network: &Network, x: &[f64], error: f64) -> Samples {
    let off = |n: usize| if n.is_multiple_of(2) { error } else { -error };
    let y = x.iter().enumerate();
    let y = y.map(|(n, &x)| network.eval(&[x])[0] + off(n)).collect();
    Samples {
        inputs: 1,
        outputs: 1,
        x: x.to_vec(),
        target: Target::Values(y),
    }
}

/// Even points of `lo` to `hi`.
fn even(lo: f64, hi: f64, count: usize) -> Vec<f64> {
    let step = (hi - lo) / (count - 1) as f64;
    (0..count).map(|n| lo + step * n as f64).collect()
}

#[test]
fn a_line_goes_on_as_a_line() {
    // Neither kind of roughness sees a line, so it is the only minimum.
    for degree in 2..=MAX_DEGREE {
        for gap in [0.1, 0.5] {
            let grid = Grid::uniform(degree, -1.0, 1.0, 40);
            let line = |x: f64| 0.3 - 0.7 * x;
            let mut coef = Fit::new(&grid).fit(line);
            let x = even(-1.0, 1.0 - 2.0 * gap, 400);
            // The functions that are zero at every sample.
            let first = grid.local(1.0 - 2.0 * gap).first + degree + 1;
            assert!(first < coef.len());
            for (n, c) in coef[first..].iter_mut().enumerate() {
                *c += if n % 2 == 0 { 0.1 } else { -0.1 };
            }
            let mut network = edge(grid, coef);
            let samples = around(&network, &x, 1e-4);
            gaps::bridge(&mut network, &samples);
            for x in even(-1.0, 1.0, 1001) {
                let off = network.eval(&[x])[0] - line(x);
                // What the samples let it change by, 0.2 of 1e-4, tilts it at most; twice the
                // line's length beyond them that is a few times as much.
                assert!(
                    off.abs() <= 2e-4,
                    "degree {degree}, gap {gap}: {off} at {x}"
                );
            }
        }
    }
}

#[test]
fn a_curve_goes_on_over_a_narrow_gap_as_the_polynomial_it_is() {
    let grid = Grid::uniform(3, -1.0, 1.0, 50);
    let curve = |x: f64| x * x * x - 0.5 * x * x;
    let mut coef = Fit::new(&grid).fit(curve);
    let last = 0.9;
    let first = grid.local(last).first + 4;
    coef[first..].fill(0.4);
    let mut network = edge(grid, coef);
    let samples = around(&network, &even(-1.0, last, 1000), 1e-8);
    gaps::bridge(&mut network, &samples);
    for x in even(last, 1.0, 100) {
        let off = (network.eval(&[x])[0] - curve(x)).abs();
        let (d, slope) = (x - last, 3.0 * last * last - last);
        let line = (curve(last) + slope * d - curve(x)).abs();
        assert!(off <= 0.1 * line + 1e-6, "{off} at {x}, the tangent {line}");
    }
}

#[test]
fn values_at_samples_stay() {
    let mut rng = Pcg64Mcg::seed_from_u64(90);
    for degree in 1..=MAX_DEGREE {
        for base in [Base::Zero, Base::Silu] {
            for intervals in [1, 2, 7, 60] {
                let grids = vec![Grid::uniform(degree, -1.0, 1.0, intervals); 2];
                let mut network = Network::random(&[2, 3, 1], &grids, base, &mut rng);
                let x: Vec<f64> = (0..400).map(|_| rng.random_range(-1.0..0.8)).collect();
                let y = x.chunks(2).map(|x| network.eval(x)[0]);
                let y: Vec<f64> = y.map(|y| y + rng.random_range(-1e-4..1e-4)).collect();
                let samples = Samples {
                    inputs: 2,
                    outputs: 1,
                    x,
                    target: Target::Values(y),
                };
                let before = objective::loss(&network, &samples);
                gaps::bridge(&mut network, &samples);
                let after = objective::loss(&network, &samples);
                assert!(
                    after <= (1.0 + gaps::TOLERANCE) * before,
                    "{before} to {after}"
                );
            }
        }
    }
}

#[test]
fn nothing_happens_without_an_error_to_spend_or_with_numbers_that_are_none() {
    let grid = Grid::uniform(3, -1.0, 1.0, 9);
    let coef = Fit::new(&grid).fit(|x| (3.0 * x).sin());
    let network = edge(grid, coef);
    let exact = around(&network, &even(-1.0, 0.5, 50), 0.0);
    let mut same = network.clone();
    gaps::bridge(&mut same, &exact);
    assert_eq!(same, network);
    for value in [f64::NAN, f64::INFINITY, 1e300] {
        let mut spoilt = network.clone();
        spoilt.layers[0].edges[0].as_mut().unwrap().coef[4] = value;
        let before = format!("{spoilt:?}");
        gaps::bridge(&mut spoilt, &exact);
        assert_eq!(format!("{spoilt:?}"), before);
    }
}

#[test]
fn jumps_are_the_differences_of_the_highest_derivative() {
    let mut rng = Pcg64Mcg::seed_from_u64(91);
    for degree in 1..=MAX_DEGREE {
        let breaks = [-1.0, -0.6, 0.1, 0.3, 1.0, 1.2];
        let grid = Grid::new(degree, &breaks).unwrap();
        let coef: Vec<f64> = (0..grid.functions())
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        // The k-th derivative on an interval, from finite differences of the polynomial there:
        // exact.
        let highest = |lo: f64, hi: f64| {
            let h = (hi - lo) / degree as f64;
            let mut values: Vec<f64> = (0..=degree)
                // Away from the ends, so that all points lie in the interval.
                .map(|n| grid.eval(&coef, lo + 1e-9 + (h - 2e-9 / degree as f64) * n as f64))
                .collect();
            for _ in 0..degree {
                values = values.windows(2).map(|pair| pair[1] - pair[0]).collect();
            }
            values[0] / (h - 2e-9 / degree as f64).powi(degree as i32)
        };
        let found: Vec<(usize, f64)> = grid
            .jumps()
            .map(|(first, jumps)| {
                (
                    first,
                    coef[first..].iter().zip(jumps).map(|(c, j)| c * j).sum(),
                )
            })
            .collect();
        assert_eq!(found.len(), breaks.len() - 2);
        for (n, (three, (first, jump))) in breaks.windows(3).zip(found).enumerate() {
            assert_eq!(first, n);
            let exact = highest(three[1], three[2]) - highest(three[0], three[1]);
            let exact = exact / (0.5 * (three[2] - three[0])).sqrt();
            // Differences of order k of numbers below 1 over a step of 0.2/k.
            let rounding = 1e-14 * (2.0 * degree as f64 / 0.2).powi(degree as i32);
            assert!(
                (jump - exact).abs() <= rounding,
                "degree {degree}: {jump}, not {exact}"
            );
        }
    }
}

#[test]
fn bends_are_the_second_derivative_at_points_of_a_quadrature() {
    for degree in 2..=MAX_DEGREE {
        let grid = Grid::new(degree, &[-1.0, -0.7, 0.2, 0.5, 3.0]).unwrap();
        let parabola = Fit::new(&grid).fit(|x| x * x);
        let bent: f64 = grid
            .bends(|_| 3.0)
            .map(|(first, bends, extra)| {
                let spline: f64 = parabola[first..]
                    .iter()
                    .zip(bends)
                    .map(|(c, b)| c * b)
                    .sum();
                (spline + extra).powi(2)
            })
            .sum();
        // ∫ (2 + 3)² over a range of 4.
        assert!((bent - 100.0).abs() <= 1e-9, "{bent}");
    }
}
