//! What samples say of every edge and node of a network: magnitudes, means, ranges, moments.

use crate::network::{Base, Layer, Network};
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
}

/// Measures every edge and node of a network on samples.
pub fn statistics(network: &Network, samples: &Samples) -> Statistics {
    let order = network.degree() + 1;
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
    }
}

/// Centred second moments of the basis functions and, last, the base function, by layer and input
/// node: row-major `[G + k + 1, G + k + 1]`, without the last row and column if there is no base
/// function.
pub fn moments(network: &Network, samples: &Samples) -> Vec<Vec<Vec<f64>>> {
    let order = network.degree() + 1;
    let with_base = usize::from(network.base != Base::Zero);
    let share = (samples.rows() as f64).recip();
    let size = |layer: &Layer, i: usize| layer.grids[i].functions() + with_base;
    let zeros = |of: fn(usize) -> usize| -> Vec<Vec<Vec<f64>>> {
        let layers = network.layers.iter();
        layers
            .map(|layer| {
                (0..layer.inputs())
                    .map(|i| vec![0.0; of(size(layer, i))])
                    .collect()
            })
            .collect()
    };
    let (mut first, mut second) = (zeros(|size| size), zeros(|size| size * size));
    let mut tape = network.tape();
    for n in 0..samples.rows() {
        network.forward(samples.row(n), &mut tape);
        for (l, layer) in network.layers.iter().enumerate() {
            for (i, node) in tape.nodes[l].iter().enumerate() {
                let size = size(layer, i);
                let values = &node.local.value[..order];
                let (first, second) = (&mut first[l][i], &mut second[l][i]);
                for (a, va) in values.iter().enumerate() {
                    let at = node.local.first + a;
                    first[at] += va;
                    let row = &mut second[at * size + node.local.first..][..order];
                    for (slot, vb) in row.iter_mut().zip(values) {
                        *slot += va * vb;
                    }
                    if with_base == 1 {
                        second[(size - 1) * size + at] += va * node.base;
                    }
                }
                if with_base == 1 {
                    first[size - 1] += node.base;
                    second[size * size - 1] += node.base * node.base;
                }
            }
        }
    }
    for (first, second) in first.iter().flatten().zip(second.iter_mut().flatten()) {
        let size = first.len();
        for a in 0..size {
            for b in 0..=a {
                let moment = share * (second[a * size + b] - share * first[a] * first[b]);
                second[a * size + b] = moment;
                second[b * size + a] = moment;
            }
        }
    }
    second
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
