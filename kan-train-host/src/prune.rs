//! Pruning: edges and nodes that do (almost) nothing are removed, their mean goes to the bias.

use serde::{Deserialize, Serialize};

use crate::network::{Layer, Network};
use crate::objective::Samples;
use crate::statistics::{Statistics, statistics};

/// θ of the paper: what contributes less than this part is pruned.
pub const THRESHOLD: f64 = 1e-2;

/// What pruning removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Removed {
    /// The number of edges.
    pub edges: usize,
    /// The number of hidden nodes.
    pub nodes: usize,
}

/// The importance of every edge by layer, `[inputs · outputs]`: the share of its target node's
/// magnitudes that is the edge's, times the importance of that node; an output node has 1, a hidden
/// node the largest importance of the edges that leave it.
///
/// This is the score of (2.21) made relative and carried back from the outputs, because a hidden
/// node's scale and the constant parts of its edges can be chosen at will.
pub fn importance(network: &Network, statistics: &Statistics) -> Vec<Vec<f64>> {
    let mut scores: Vec<Vec<f64>> = Vec::with_capacity(network.layers.len());
    let mut nodes = vec![1.0; network.layers.last().map_or(0, |layer| layer.outputs)];
    for (l, layer) in network.layers.iter().enumerate().rev() {
        let n = layer.outputs;
        let magnitude = &statistics.magnitude[l];
        let total: Vec<f64> = (0..n)
            .map(|j| magnitude.iter().skip(j).step_by(n).sum::<f64>())
            .collect();
        let edges: Vec<f64> = magnitude
            .iter()
            .enumerate()
            .map(|(e, &a)| {
                let j = e % n;
                if total[j] > 0.0 {
                    a / total[j] * nodes[j]
                } else {
                    0.0
                }
            })
            .collect();
        nodes = (0..layer.inputs())
            .map(|i| {
                edges[i * n..(i + 1) * n]
                    .iter()
                    .copied()
                    .fold(0.0, f64::max)
            })
            .collect();
        scores.push(edges);
    }
    scores.reverse();
    scores
}

/// Removes every edge whose importance on the samples is below `threshold`; then nodes.
pub fn edges(network: &mut Network, samples: &Samples, threshold: f64) -> Removed {
    let statistics = statistics(network, samples);
    let scores = importance(network, &statistics);
    let mut removed = Removed::default();
    for (l, layer) in network.layers.iter_mut().enumerate() {
        for (e, edge) in layer.edges.iter_mut().enumerate() {
            if edge.is_some() && scores[l][e] < threshold {
                *edge = None;
                layer.bias[e % layer.outputs] += statistics.mean[l][e];
                removed.edges += 1;
            }
        }
    }
    let dead = nodes(network, samples);
    Removed {
        edges: removed.edges + dead.edges,
        nodes: dead.nodes,
    }
}

/// Removes one edge, its mean going to the bias of its target; whether it was there.
pub fn edge(
    network: &mut Network,
    samples: &Samples,
    layer: usize,
    input: usize,
    output: usize,
) -> bool {
    let mean = statistics(network, samples).mean;
    let layer_ref = &mut network.layers[layer];
    let e = input * layer_ref.outputs + output;
    let was = layer_ref.edges[e].take().is_some();
    if was {
        layer_ref.bias[output] += mean[layer][e];
        nodes(network, samples);
    }
    was
}

/// Removes hidden node `node` of layer `layer`'s outputs with all its edges.
pub fn node(network: &mut Network, samples: &Samples, layer: usize, node: usize) {
    let mean = statistics(network, samples).mean;
    let next = &mut network.layers[layer + 1];
    for j in 0..next.outputs {
        let e = node * next.outputs + j;
        if next.edges[e].take().is_some() {
            next.bias[j] += mean[layer + 1][e];
        }
    }
    nodes(network, samples);
}

/// Removes the hidden nodes that nothing leaves or nothing feeds. The edges of an unfed node are
/// constant and go to the biases of their targets: the function stays. A layer keeps one node, if
/// without edges, so that the shape stays one of a network.
fn nodes(network: &mut Network, samples: &Samples) -> Removed {
    let mut removed = Removed::default();
    while let Some((l, i)) = dead_node(network) {
        let mean = &statistics(network, samples).mean[l];
        let (before, after) = network.layers.split_at_mut(l);
        let (feeding, fed) = (&mut before[l - 1], &mut after[0]);
        for j in 0..fed.outputs {
            let e = i * fed.outputs + j;
            if fed.edges[e].take().is_some() {
                fed.bias[j] += mean[e];
                removed.edges += 1;
            }
        }
        let incoming = feeding.edges.iter_mut().skip(i).step_by(feeding.outputs);
        removed.edges += incoming.filter_map(Option::take).count();
        if fed.inputs() > 1 {
            remove_node(feeding, fed, i);
            removed.nodes += 1;
        }
    }
    removed
}

/// A hidden node, as (layer it is an input of, number), that can go.
fn dead_node(network: &Network) -> Option<(usize, usize)> {
    (1..network.layers.len()).find_map(|l| {
        let (feeding, fed) = (&network.layers[l - 1], &network.layers[l]);
        let dead = |i: usize| match (feeding.is_fed(i), fed.is_used(i)) {
            (true, true) => false,
            (false, false) => fed.inputs() > 1,
            _ => true,
        };
        (0..fed.inputs()).find(|&i| dead(i)).map(|i| (l, i))
    })
}

/// Takes node `i` between two layers out of both.
fn remove_node(feeding: &mut Layer, fed: &mut Layer, i: usize) {
    let outputs = feeding.outputs;
    let mut at = 0;
    feeding.edges.retain(|_| {
        let keep = at % outputs != i;
        at += 1;
        keep
    });
    feeding.bias.remove(i);
    feeding.outputs -= 1;
    fed.grids.remove(i);
    fed.edges.drain(i * fed.outputs..(i + 1) * fed.outputs);
}
