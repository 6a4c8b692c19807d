//! Penalties against their definitions by quadrature, their gradients against difference quotients.

use kan_train_host::grid;
use kan_train_host::network::Network;
use kan_train_host::objective::Samples;
use kan_train_host::penalty::{Penalty, PenaltyForm};
use kan_train_host::spline::{Grid, MAX_DEGREE};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::network::{
    BASES, EPSILON, base, edge, networks, quotient, random_network, random_points, reference,
    samples, targets,
};
use crate::spline::{Textbook, romberg};

#[test]
fn the_penalty_of_the_last_layer_is_what_its_parameters_add() {
    let mut rng = Pcg64Mcg::seed_from_u64(19);
    let mut deep = 0;
    for network in networks() {
        let x = random_points(&mut rng, 30, network.width()[0]);
        let samples = targets(&mut rng, &network, &x).swap_remove(0);
        let penalty = Penalty {
            roughness: 1e-3,
            slope: 0.1,
            lamb: 0.01,
        };
        let form = PenaltyForm::at(&network, &samples, &penalty);
        let vector = network.to_vector();
        let last = Network {
            base: network.base,
            layers: network.layers[network.layers.len() - 1..].to_vec(),
        };
        let of_last = last.to_vector();
        let mut without = vector.clone();
        without[vector.len() - of_last.len()..].fill(0.0);
        let (all, rest) = (form.value(&vector), form.value(&without));
        let own = form.last_layer().value(&of_last);
        deep += usize::from(rest > 0.0 && own > 0.0);
        // Sums of at most a hundred terms that are not negative.
        let bound = 100.0 * EPSILON * all;
        let error = (all - rest - own).abs();
        assert!(error <= bound, "{all} - {rest} is not {own}");
    }
    assert!(deep > 10, "networks of several layers take part");
}

#[test]
fn penalty_gradients_are_the_limits_of_difference_quotients() {
    let mut rng = Pcg64Mcg::seed_from_u64(17);
    for (k, network) in networks().into_iter().enumerate() {
        let x = random_points(&mut rng, 30, network.width()[0]);
        let samples = targets(&mut rng, &network, &x).swap_remove(0);
        let penalty = match k % 4 {
            0 => Penalty {
                roughness: 1e-3,
                ..Penalty::default()
            },
            1 => Penalty {
                slope: 0.1,
                ..Penalty::default()
            },
            2 => Penalty {
                lamb: 0.01,
                ..Penalty::default()
            },
            _ => Penalty {
                roughness: 1e-3,
                slope: 0.1,
                lamb: 0.01,
            },
        };
        let form = PenaltyForm::at(&network, &samples, &penalty);
        let vector = network.to_vector();
        let value = form.value(&vector);
        assert!(value >= 0.0);
        let gradient = form.gradient(&vector);
        for p in 0..vector.len() {
            let f = |by: f64| {
                let mut moved = vector.clone();
                moved[p] += by;
                form.value(&moved)
            };
            let (exact, bound) = quotient(f, 1e3 * EPSILON * value);
            assert!(
                bound < 1e-4 * (1.0 + value),
                "the bound says something: {bound}"
            );
            assert!(
                (gradient[p] - exact).abs() <= bound,
                "{:?}, {penalty:?}, parameter {p}: {}, not {exact} ± {bound}",
                network.width(),
                gradient[p]
            );
        }
    }
}

/// Σ over the intervals of a grid of the integral of f, which may jump at its breaks.
fn integral(grid: &Grid, f: impl Fn(f64) -> f64) -> f64 {
    let pieces = grid.breaks().windows(2).map(|pair| {
        let (a, b) = (pair[0], pair[1]);
        romberg(6, a, b, |x| f(x.clamp(a, b - 1e-14)))
    });
    pieces.sum()
}

#[test]
fn penalties_measure_bending_tilt_and_magnitude() {
    let mut rng = Pcg64Mcg::seed_from_u64(18);
    for degree in 1..=MAX_DEGREE {
        for kind in BASES {
            for width in [&[2, 2][..], &[2, 3, 1]] {
                let mut network = random_network(&mut rng, width, degree, kind, 0.9);
                // Narrow intervals: the quadrature is exact for splines, not for the base function.
                grid::extend(&mut network, 12, &[usize::MAX; 2]);
                let x = random_points(&mut rng, 50, 2);
                let samples = targets(&mut rng, &network, &x).swap_remove(0);
                let penalty = Penalty {
                    roughness: rng.random_range(0.0..0.1),
                    slope: rng.random_range(0.0..1.0),
                    lamb: rng.random_range(0.0..0.5),
                };
                let exact = penalty_by_definition(&network, &samples, &penalty);
                let form = PenaltyForm::at(&network, &samples, &penalty);
                let value = form.value(&network.to_vector());
                // Four Gauss points on an interval of width w: error w⁹(4!)⁴/(9·8!³), 5e-9·w⁹,
                // times the eighth derivative, with w below a third of the base function's unit.
                assert!(
                    (value - exact).abs() <= 1e-9 * exact,
                    "degree {degree}, {kind:?}, {width:?}: {value}, not {exact}"
                );
            }
        }
    }
}

/// ½ Σ over the nodes that edges lead to; see [`PenaltyForm`].
fn penalty_by_definition(network: &Network, samples: &Samples, penalty: &Penalty) -> f64 {
    let last = network.layers.len() - 1;
    let nodes: Vec<Vec<Vec<(f64, f64)>>> = (0..samples.rows())
        .map(|n| reference(network, samples.row(n)))
        .collect();
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let variance = |v: &[f64]| {
        let m = mean(v);
        v.iter().map(|x| (x - m).powi(2)).sum::<f64>() / v.len() as f64
    };
    let mut total = 0.0;
    for (l, layer) in network.layers.iter().enumerate() {
        let mut found = Vec::new();
        for j in 0..layer.outputs {
            let target: Vec<f64> = nodes.iter().map(|node| node[l + 1][j].0).collect();
            for i in 0..layer.inputs() {
                let Some(e) = layer.edge(i, j) else { continue };
                let grid = &layer.grids[i];
                let values: Vec<f64> = nodes
                    .iter()
                    .map(|node| edge(network.base, grid, e, node[l][i].0).0)
                    .collect();
                let m = mean(&values);
                let absolute: Vec<f64> = values.iter().map(|v| (v - m).abs()).collect();
                let magnitude = mean(&absolute) / variance(&target).sqrt();
                found.push((i, j, variance(&values), magnitude));
            }
        }
        let entropy = |found: &[f64]| {
            let sum: f64 = found.iter().sum();
            found.iter().map(|a| -a / sum * (a / sum).ln()).sum::<f64>()
        };
        let magnitudes: Vec<f64> = found.iter().map(|f| f.3).collect();
        for j in 0..layer.outputs {
            let (mut numerator, mut spread) = (0.0, 0.0);
            for (at, &(i, to, variance, magnitude)) in found.iter().enumerate() {
                if to != j {
                    continue;
                }
                let (grid, e) = (&layer.grids[i], layer.edge(i, j).unwrap());
                let textbook = Textbook::new(grid);
                let range = grid.hi() - grid.lo();
                let curvature = |x: f64| {
                    let spline: f64 = match grid.degree() {
                        1 => 0.0,
                        _ => e
                            .coef
                            .iter()
                            .enumerate()
                            .map(|(m, c)| c * textbook.curvature(m, x))
                            .sum(),
                    };
                    spline + e.scale_base * base(network.base, grid, x)[2]
                };
                let bending = integral(grid, |x| curvature(x).powi(2)) + corners(grid, &e.coef);
                let tilt = integral(grid, |x| edge(network.base, grid, e, x).1.powi(2));
                let (pull, _) = quotient(
                    |by| {
                        let mut moved = magnitudes.clone();
                        moved[at] *= 1.0 + by;
                        entropy(&moved)
                    },
                    0.0,
                );
                let weight = penalty.lamb * (1.0 + (pull / magnitude).max(0.0)) / magnitude;
                numerator += penalty.roughness * range.powi(3) * bending
                    + penalty.slope * range * tilt
                    + weight * variance;
                spread += variance;
            }
            if numerator > 0.0 {
                total += 0.5 * numerator / if l < last { spread } else { 1.0 };
            }
        }
    }
    total
}

/// The bending of a polygon: its slope's jumps, squared, each over the width it is spread on.
fn corners(grid: &Grid, coef: &[f64]) -> f64 {
    if grid.degree() != 1 {
        return 0.0;
    }
    let breaks = grid.breaks();
    (1..breaks.len() - 1)
        .map(|m| {
            let slope = |a: usize| (coef[a + 1] - coef[a]) / (breaks[a + 1] - breaks[a]);
            (slope(m) - slope(m - 1)).powi(2) / (0.5 * (breaks[m + 1] - breaks[m - 1]))
        })
        .sum()
}

#[test]
fn bending_is_the_roughness_penalty_of_strength_one() {
    let mut rng = Pcg64Mcg::seed_from_u64(22);
    for network in networks() {
        let x = random_points(&mut rng, 30, network.width()[0]);
        let samples = samples(&network, x);
        let of = |penalty| PenaltyForm::at(&network, &samples, &penalty);
        let vector = network.to_vector();
        let exact = of(Penalty {
            roughness: 1.0,
            ..Penalty::default()
        })
        .value(&vector);
        let mut form = of(Penalty {
            roughness: 0.7,
            slope: 0.1,
            lamb: 0.01,
        });
        let bending = form.bending(&vector);
        // Sums of terms that are not negative, in another order.
        let bound = 1e3 * EPSILON * exact;
        assert!((bending - exact).abs() <= bound, "{bending}, not {exact}");
        let before = form.value(&vector);
        form.roughen(0.25);
        let (more, least) = (form.value(&vector) - before, 1e3 * EPSILON * before);
        assert!((more - 0.25 * exact).abs() <= bound + least, "{more}");
    }
}
