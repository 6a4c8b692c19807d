//! Rows held out in turns, and what they say of networks trained on the others.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;

use super::mean;
use crate::network::Network;
use crate::objective::{self, Samples, Target};

/// Below so many rows several parts of them are held out in turns: (rows, parts, turns).
const TURNS: [(usize, usize, usize); 2] = [(800, 5, 5), (1500, 4, 2)];
/// One row in so many is held out, when there are many.
const HOLDOUT: usize = 5;

/// Pairs of training rows and held-out rows, of `enough` rows at most.
pub(super) fn folds(samples: &Samples, seed: u64, enough: usize) -> Vec<(Samples, Samples)> {
    let rows = samples.rows();
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut Pcg64Mcg::seed_from_u64(seed ^ 0x5EED));
    if let Target::Classes(class) = &samples.target {
        // Stable: the classes take turns, so that every fold has its share of each.
        order.sort_by_key(|&row| class[row]);
    }
    if rows > enough {
        order = (0..enough).map(|k| order[k * rows / enough]).collect();
    }
    let part = |k: usize, of: usize| {
        let held = |at: usize| at % of == k;
        let chosen = |want: bool| -> Vec<usize> {
            order
                .iter()
                .enumerate()
                .filter(|(at, _)| held(*at) == want)
                .map(|(_, &r)| r)
                .collect()
        };
        (
            samples.subset(&chosen(false)),
            samples.subset(&chosen(true)),
        )
    };
    match TURNS.iter().find(|(most, ..)| rows < *most) {
        Some(&(_, parts, turns)) => (0..turns).map(|k| part(k, parts)).collect(),
        None => vec![part(0, HOLDOUT)],
    }
}

/// What the held-out rows of one fold say of the networks trained on the others.
pub(super) struct Held {
    /// The loss of each row by the network that fits its training rows better: which one that is
    /// can be known without the held-out rows.
    pub(super) better: Vec<f64>,
    /// The share of rows that network gets wrong.
    pub(super) wrong: Option<f64>,
    /// The loss of one network, on average.
    pub(super) one: f64,
    /// The loss of the mean of all.
    pub(super) both: f64,
}

impl Held {
    pub(super) fn of(networks: &[Network], trained: &[f64], held: &Samples) -> Self {
        let losses: Vec<Vec<f64>> = networks
            .iter()
            .map(|network| objective::losses(network, held))
            .collect();
        let better = (0..trained.len())
            .min_by(|&a, &b| trained[a].total_cmp(&trained[b]))
            .unwrap_or(0);
        Self {
            wrong: objective::wrong(&networks[better], held),
            one: mean(&losses.concat()),
            both: mean(&objective::losses(&Network::mean(networks), held)),
            better: losses[better].clone(),
        }
    }
}
