//! Without noise shapes race to finer grids: there penalties, folds and pairs of starts have
//! nothing to do.

use rayon::prelude::*;

use super::{AFFORDABLE, Candidate, NEGLIGIBLE, PAIR, Task, Trial, WORTHWHILE, sort, step_cost};
use crate::network::Network;
use crate::objective;
use crate::penalty::Penalty;
use crate::train::Settings;

/// Roughness penalties that are tried all the same.
const WEAK: [f64; 2] = [1e-7, 1e-8];
/// A grid that lowers the loss so much shows that the shape can do more: halving the intervals of a
/// cubic spline divides the loss of a smooth function by 256.
const FALLING: f64 = 0.1;

impl Trial<'_> {
    /// Shapes that were trained on the first grid go on to finer ones, one network each and without
    /// a penalty, while the loss falls and they are among the better half, or while it falls as
    /// that of a smooth function does. Then the best of them with weak penalties. Best first.
    pub(super) fn race(
        &self,
        candidates: &[Candidate],
        grids: &[usize],
        settings: &Settings,
        watch: &mut dyn FnMut(usize),
    ) -> Vec<Candidate> {
        let quick = &candidates[0].tried.penalty();
        let penalty = Penalty {
            roughness: settings.roughness.unwrap_or(0.0),
            ..*quick
        };
        let (train, _) = &self.folds[0];
        let mut runners: Vec<(Candidate, Vec<Network>, bool)> = candidates
            .iter()
            .map(|candidate| {
                let pair = if candidate.tried.width.len() == 2 {
                    1
                } else {
                    PAIR
                };
                let rivals = candidate.starts[..pair].iter();
                let better = rivals
                    .min_by(|a, b| objective::loss(a, train).total_cmp(&objective::loss(b, train)));
                let networks: Vec<Network> = better.into_iter().cloned().collect();
                let begun = Candidate {
                    tried: candidate.tried.clone(),
                    starts: networks.clone(),
                    grids: candidate.grids.clone(),
                };
                (begun, networks, true)
            })
            .collect();
        for (level, &intervals) in grids.iter().enumerate().skip(1) {
            let falling: Vec<bool> = runners
                .par_iter_mut()
                .map(|(candidate, networks, running)| {
                    *running &= candidate.tried.loss > NEGLIGIBLE
                        && step_cost(&networks[0], train, intervals) <= AFFORDABLE;
                    if !*running {
                        return false;
                    }
                    let finer = self.measure(networks, intervals, &penalty);
                    let fall = finer.loss / candidate.tried.loss;
                    *running = fall <= 1.0 - WORTHWHILE;
                    if *running {
                        candidate.tried = finer;
                        candidate.grids = grids[..=level].to_vec();
                    }
                    fall <= FALLING
                })
                .collect();
            let mut prices: Vec<f64> = runners
                .iter()
                .filter(|(.., running)| *running)
                .map(|(candidate, ..)| candidate.tried.price())
                .collect();
            if prices.is_empty() {
                break;
            }
            prices.sort_by(f64::total_cmp);
            let limit = prices[(prices.len() - 1) / 2];
            for ((candidate, _, running), falling) in runners.iter_mut().zip(falling) {
                *running &= falling || candidate.tried.price() <= limit;
            }
            watch(level);
        }
        let mut raced: Vec<Candidate> = runners.into_iter().map(|(c, ..)| c).collect();
        sort(&mut raced);
        if settings.roughness.is_none() && raced[0].tried.loss > NEGLIGIBLE {
            let best = &raced[0];
            let tasks: Vec<Task> = WEAK
                .iter()
                .map(|&roughness| Task {
                    width: best.tried.width.clone(),
                    starts: best.starts.clone(),
                    grids: grids.to_vec(),
                    penalties: vec![Penalty {
                        roughness,
                        ..penalty
                    }],
                })
                .collect();
            let penalised: Vec<Candidate> = tasks
                .par_iter()
                .map(|task| self.along_grids(task, &task.penalties[0]))
                .collect();
            raced.extend(penalised);
            sort(&mut raced);
        }
        raced
    }
}
