//! Statistics of nodes and edges over samples against their definitions.

use kan_train_host::network::{Base, Edge, Layer, Network};
use kan_train_host::objective::{Samples, Target};
use kan_train_host::spline::Grid;
use kan_train_host::statistics::{moments, sparsity, statistics};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use crate::network::{
    EPSILON, base, edge, networks, random_network, random_points, reference, samples, targets,
};

#[test]
fn sparsity_is_magnitude_and_entropy() {
    // Magnitudes mean|φ − mean φ| of lines over samples −1 and 1 are their slopes. Relative to the
    // node: 3/√(9 + 1) and 1/√10 for uncorrelated inputs.
    let line = |slope: f64| Edge {
        coef: vec![-slope, slope],
        scale_base: 0.0,
    };
    let layer = Layer {
        outputs: 1,
        grids: vec![Grid::uniform(1, -1.0, 1.0, 1); 2],
        edges: vec![Some(line(3.0)), Some(line(1.0))],
        bias: vec![0.0],
    };
    let network = Network {
        base: Base::Zero,
        layers: vec![layer],
    };
    let samples = Samples {
        inputs: 2,
        outputs: 1,
        x: vec![-1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0],
        target: Target::Values(vec![0.0; 4]),
    };
    let entropy = -(0.75 * 0.75_f64.ln() + 0.25 * 0.25_f64.ln());
    let exact = 4.0 / 10.0_f64.sqrt() + entropy;
    let found = sparsity(&network, &samples);
    assert!(
        (found - exact).abs() <= 16.0 * EPSILON,
        "{found}, not {exact}"
    );
}

#[test]
fn statistics_are_means_deviations_and_ranges() {
    let mut rng = Pcg64Mcg::seed_from_u64(19);
    let network = random_network(&mut rng, &[2, 3, 2], 3, Base::Silu, 0.8);
    let x = random_points(&mut rng, 40, 2);
    let samples = targets(&mut rng, &network, &x).swap_remove(0);
    let found = statistics(&network, &samples);
    let nodes: Vec<_> = x.chunks(2).map(|x| reference(&network, x)).collect();
    let bound = nodes
        .iter()
        .flatten()
        .flatten()
        .map(|(_, e)| *e)
        .fold(1e-14, f64::max)
        * 4.0;
    let check = |a: f64, b: f64| assert!((a - b).abs() <= bound, "{a}, not {b}");
    for l in 0..3 {
        for i in 0..network.width()[l] {
            let values: Vec<f64> = nodes.iter().map(|node| node[l][i].0).collect();
            let mean = values.iter().sum::<f64>() / 40.0;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 40.0;
            check(found.deviation[l][i], variance.sqrt());
            check(
                found.range[l][i].0,
                values.iter().copied().fold(f64::INFINITY, f64::min),
            );
            check(
                found.range[l][i].1,
                values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            );
        }
    }
    for (l, layer) in network.layers.iter().enumerate() {
        for e in 0..layer.edges.len() {
            let (i, j) = (e / layer.outputs, e % layer.outputs);
            let (mut mean, mut magnitude) = (0.0, 0.0);
            if let Some(at) = layer.edge(i, j) {
                let value = |node: &[Vec<(f64, f64)>]| {
                    edge(network.base, &layer.grids[i], at, node[l][i].0).0
                };
                mean = nodes.iter().map(|node| value(node)).sum::<f64>() / 40.0;
                magnitude = nodes
                    .iter()
                    .map(|node| (value(node) - mean).abs())
                    .sum::<f64>()
                    / 40.0;
            }
            check(found.mean[l][e], mean);
            check(found.magnitude[l][e], magnitude);
        }
    }
}

#[test]
fn moments_are_the_covariances_of_the_functions_of_a_node() {
    let mut rng = Pcg64Mcg::seed_from_u64(21);
    let rows = 40;
    for network in networks() {
        let x = random_points(&mut rng, rows, network.width()[0]);
        let samples = samples(&network, x);
        let found = moments(&network, &samples);
        let mut tape = network.tape();
        let nodes: Vec<Vec<Vec<f64>>> = (0..rows)
            .map(|n| {
                network.forward(samples.row(n), &mut tape);
                tape.values.clone()
            })
            .collect();
        for (l, layer) in network.layers.iter().enumerate() {
            for (i, grid) in layer.grids.iter().enumerate() {
                let mut size = grid.functions();
                let functions: Vec<Vec<f64>> = nodes
                    .iter()
                    .map(|node| {
                        let local = grid.local(node[l][i]);
                        let mut row = vec![0.0; size];
                        row[local.first..=local.first + network.degree()]
                            .copy_from_slice(&local.value[..=network.degree()]);
                        row.push(base(network.base, grid, node[l][i])[0]);
                        row
                    })
                    .collect();
                size += usize::from(network.base != Base::Zero);
                assert_eq!(found[l][i].len(), size * size);
                let count = rows as f64;
                let largest = functions
                    .iter()
                    .flatten()
                    .fold(0.0, |m, v| f64::max(m, v.abs()));
                // Sums of so many products, each with two roundings, and their difference; the
                // textbook's base function differs by a few more.
                let bound = 4.0 * (count + 10.0) * EPSILON * largest * largest;
                let mean = |a: usize| functions.iter().map(|row| row[a]).sum::<f64>() / count;
                for a in 0..size {
                    for b in 0..size {
                        let (mean_a, mean_b) = (mean(a), mean(b));
                        let products = functions.iter().map(|r| (r[a] - mean_a) * (r[b] - mean_b));
                        let exact = products.sum::<f64>() / count;
                        let moment = found[l][i][a * size + b];
                        assert!(
                            (moment - exact).abs() <= bound,
                            "{:?}, layer {l}, node {i} ({a}, {b}): {moment}, not {exact}",
                            network.width()
                        );
                    }
                }
            }
        }
    }
}
