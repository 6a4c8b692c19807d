//! What samples say of every edge and node of a network: magnitudes, means, ranges, moments.

use crate::network::{Base, Network};
use crate::objective::Samples;

/// What the samples say of every edge.
pub struct Statistics {
    /// Centred magnitudes mean|φ − mean φ| by layer and edge (2.17); 0 where pruned.
    pub magnitude: Vec<Vec<f64>>,
    /// Means of φ by layer and edge.
    pub mean: Vec<Vec<f64>>,
    /// Standard deviations of the node values by layer, outputs last.
    pub deviation: Vec<Vec<f64>>,
    /// Smallest and largest node values by layer, outputs last.
    pub range: Vec<Vec<(f64, f64)>>,
    /// Centred second moments of the basis functions and the base function by layer and node.
    pub(crate) moments: Vec<Vec<Vec<f64>>>,
}

/// Measures every edge and node of a network on samples.
pub fn statistics(network: &Network, samples: &Samples) -> Statistics {
    let order = network.degree() + 1;
    let with_base = usize::from(network.base != Base::Zero);
    let rows = samples.rows();
    let count = rows as f64;
    let mut tape = network.tape();
    let layers = &network.layers;
    let mut mean: Vec<Vec<f64>> = layers.iter().map(|l| vec![0.0; l.edges.len()]).collect();
    let mut magnitude = mean.clone();
    let widths = network.width();
    let mut range: Vec<Vec<(f64, f64)>> = widths
        .iter()
        .map(|&n| vec![(f64::INFINITY, f64::NEG_INFINITY); n])
        .collect();
    let mut node_mean: Vec<Vec<f64>> = widths.iter().map(|&n| vec![0.0; n]).collect();
    let mut deviation = node_mean.clone();
    let sizes = |l: usize, i: usize| layers[l].grids[i].functions() + with_base;
    let mut first_moments: Vec<Vec<Vec<f64>>> = (0..layers.len())
        .map(|l| {
            (0..layers[l].inputs())
                .map(|i| vec![0.0; sizes(l, i)])
                .collect()
        })
        .collect();
    let mut moments: Vec<Vec<Vec<f64>>> = (0..layers.len())
        .map(|l| {
            (0..layers[l].inputs())
                .map(|i| vec![0.0; sizes(l, i) * sizes(l, i)])
                .collect()
        })
        .collect();
    for pass in 0..2 {
        for n in 0..rows {
            network.forward(samples.row(n), &mut tape);
            for (l, values) in tape.values.iter().enumerate() {
                for (i, &x) in values.iter().enumerate() {
                    if pass == 0 {
                        node_mean[l][i] += x / count;
                        let (lo, hi) = &mut range[l][i];
                        *lo = lo.min(x);
                        *hi = hi.max(x);
                    } else {
                        deviation[l][i] += (x - node_mean[l][i]).powi(2) / count;
                    }
                }
            }
            for (l, layer) in layers.iter().enumerate() {
                for (i, node) in tape.nodes[l].iter().enumerate() {
                    for (j, edge) in layer.edges_from(i) {
                        let e = i * layer.outputs + j;
                        let value = edge.value(node, order);
                        if pass == 0 {
                            mean[l][e] += value / count;
                        } else {
                            magnitude[l][e] += (value - mean[l][e]).abs() / count;
                        }
                    }
                    if pass == 0 {
                        let size = sizes(l, i);
                        let base = (with_base == 1).then_some((size - 1, node.base));
                        let entries: Vec<(usize, f64)> = (node.local.first..)
                            .zip(node.local.value[..order].iter().copied())
                            .chain(base)
                            .collect();
                        for &(a, va) in &entries {
                            first_moments[l][i][a] += va / count;
                            for &(b, vb) in &entries {
                                moments[l][i][a * size + b] += va * vb / count;
                            }
                        }
                    }
                }
            }
        }
    }
    for (l, layer) in layers.iter().enumerate() {
        for i in 0..layer.inputs() {
            let size = sizes(l, i);
            for a in 0..size {
                for b in 0..size {
                    moments[l][i][a * size + b] -= first_moments[l][i][a] * first_moments[l][i][b];
                }
            }
        }
    }
    for variance in deviation.iter_mut().flatten() {
        *variance = variance.sqrt();
    }
    Statistics {
        magnitude,
        mean,
        deviation,
        range,
        moments,
    }
}

impl Statistics {
    /// Weights of the moments in the majorised sparsity penalty of layer `l`, by edge.
    pub(crate) fn weights(&self, network: &Network, l: usize, lamb: f64) -> Vec<f64> {
        let outputs = network.layers[l].outputs;
        let relative = self.relative_magnitude(l, outputs);
        let total: f64 = relative.iter().sum::<f64>().max(1e-12);
        let share = |a: f64| (a / total).max(1e-9);
        let entropy: f64 = relative.iter().map(|&a| -share(a) * share(a).ln()).sum();
        relative
            .iter()
            .map(|&a| {
                // ∂S/∂a of (2.19); where it would reward an edge for growing, nothing.
                let slope = (-(share(a).ln() + entropy) / total).max(0.0);
                lamb * (1.0 + slope) / a.max(1e-6)
            })
            .collect()
    }

    /// The magnitudes of the edges of layer `l` in units of the deviation of their target nodes.
    pub fn relative_magnitude(&self, l: usize, outputs: usize) -> Vec<f64> {
        let scale = |e: usize| self.deviation[l + 1][e % outputs].max(1e-9);
        self.magnitude[l]
            .iter()
            .enumerate()
            .map(|(e, a)| a / scale(e))
            .collect()
    }
}

/// The sparsity of (2.20) without its λ: Σ over the layers of the edges' magnitudes, relative to
/// their target nodes, and of the entropy of their shares.
pub fn sparsity(network: &Network, samples: &Samples) -> f64 {
    let statistics = statistics(network, samples);
    let layers = network.layers.iter().enumerate();
    layers
        .map(|(l, layer)| {
            let relative = statistics.relative_magnitude(l, layer.outputs);
            let total: f64 = relative.iter().sum::<f64>().max(1e-12);
            let shares = relative.iter().map(|a| a / total).filter(|p| *p > 0.0);
            total + shares.map(|p| -p * p.ln()).sum::<f64>()
        })
        .sum()
}
