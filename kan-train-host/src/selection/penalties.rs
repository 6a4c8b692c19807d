//! Shapes by second order: each with a small penalty, then the best with weaker and stronger ones.

use super::{
    AFFORDABLE, CLEAN, Candidate, ENOUGH_ROWS, NOISE, Task, Trial, Tried, prefer_simple, sort,
};
use crate::objective::{Samples, Target};
use crate::penalty::Penalty;
use crate::train::{Event, Frame, GRIDS, Settings};

/// The penalty of a network before any is chosen.
pub(super) fn start_penalty(classes: bool, roughness: f64) -> Penalty {
    Penalty {
        roughness,
        slope: if classes { 1e-5 } else { 0.0 },
        lamb: 0.0,
    }
}

/// The additive network, a convex problem, where its steps are quick.
pub(super) fn additive_for_classes(frame: &Frame, samples: &Samples) -> Option<Vec<usize>> {
    let used = frame.constant.iter().filter(|constant| !**constant).count();
    let active = used * samples.outputs * (frame.inputs[0].degree() + 2);
    let cost = 0.5 * (samples.rows() * samples.outputs) as f64 * (active as f64).powi(2);
    (cost <= 10.0 * AFFORDABLE).then(|| vec![samples.inputs, samples.outputs])
}

/// The middle of the slope penalties that are as good as the winner's for its shape, grid and
/// roughness: held-out loss is flat and noisy there, and its lowest point is chance.
fn plateau(candidates: &[Candidate]) -> Penalty {
    let winner = &candidates[0].tried;
    let alike = |t: &&Tried| {
        let same = t.width == winner.width && t.grid == winner.grid;
        same && t.roughness == winner.roughness && t.loss <= 1.05 * winner.loss
    };
    let tried = candidates.iter().map(|candidate| &candidate.tried);
    let slopes: Vec<f64> = tried.filter(alike).map(|t| t.slope.ln()).collect();
    let mean = slopes.iter().sum::<f64>() / slopes.len() as f64;
    Penalty {
        slope: mean.exp(),
        ..winner.penalty()
    }
}

/// The penalties that compete, in rows of one roughness, strongest first.
fn penalties(classes: bool, settings: &Settings) -> Vec<Vec<Penalty>> {
    let penalty = |roughness, slope| Penalty {
        roughness,
        slope,
        lamb: 0.0,
    };
    if classes {
        let roughness = settings
            .roughness
            .map_or(vec![1e-3, 1e-4, 1e-5, 1e-6], |r| vec![r]);
        let row = |r: f64| [3e-4, 1e-4, 3e-5, 1e-5].map(|s| penalty(r, s)).to_vec();
        return roughness.into_iter().map(row).collect();
    }
    let all = [1e-5, 1e-6, 1e-7, 1e-8, 0.0];
    let roughness = settings.roughness.map_or(all.to_vec(), |r| vec![r]);
    vec![roughness.into_iter().map(|r| penalty(r, 0.0)).collect()]
}

/// Shapes from additive to two hidden layers, as large as the rows can carry; the additive one
/// always.
pub(super) fn shapes(frame: &Frame, samples: &Samples) -> Vec<Vec<usize>> {
    let (n_in, n_out) = (samples.inputs, samples.outputs);
    let mut shapes = vec![vec![n_in, n_out]];
    for hidden in [1, 2, 3, 5, 8] {
        shapes.push(vec![n_in, hidden, n_out]);
    }
    if let Target::Values(_) = samples.target {
        for hidden in [2, 4, 6] {
            shapes.push(vec![n_in, hidden, 2.max(n_out), n_out]);
        }
        shapes.push(vec![n_in, 4, 4.max(n_out), n_out]);
    }
    shapes.retain(|width| width.len() == 2 || is_affordable(width, frame, samples));
    shapes
}

/// Eight parameters an edge and at least two samples a parameter, and steps that are quick.
fn is_affordable(width: &[usize], frame: &Frame, samples: &Samples) -> bool {
    let used = frame.constant.iter().filter(|constant| !**constant).count();
    let rows = (samples.rows().min(ENOUGH_ROWS) * samples.outputs) as f64;
    let edges = used * width[1] + width[1..].windows(2).map(|w| w[0] * w[1]).sum::<usize>();
    let (parameters, active) = (8.0 * edges as f64, 5.0 * edges as f64);
    let cost = 0.5 * rows * active * active;
    let small = parameters <= rows / 2.0 || width[1] == 1;
    small && cost <= AFFORDABLE
}

impl Trial<'_> {
    /// Shapes by second order: each with a small penalty, then the best with weaker and stronger
    /// ones. The candidates, best first, and the penalty for the first of them.
    pub(super) fn by_penalties(
        &self,
        shapes: Vec<Vec<usize>>,
        settings: &Settings,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> (Vec<Candidate>, Penalty) {
        let grids = settings.grid.clone().unwrap_or_else(|| GRIDS.to_vec());
        let classes = matches!(self.folds[0].0.target, Target::Classes(_));
        let roughness = if classes { 1e-2 } else { 1e-7 };
        let quick = start_penalty(classes, settings.roughness.unwrap_or(roughness));
        let few = if shapes.len() > 1 { 1 } else { grids.len() };
        let first: Vec<Task> = shapes
            .into_iter()
            .map(|width| Task {
                width,
                starts: Vec::new(),
                grids: grids[..few].to_vec(),
                penalties: vec![quick],
            })
            .collect();
        let halves = first.len().div_ceil(2);
        let penalties = penalties(classes, settings);
        let of = first.len() + halves + halves.min(2) * penalties.concat().len();
        let mut candidates = self.evaluate(&first, 0, of, watch);
        sort(&mut candidates);
        if !classes && few < grids.len() && candidates[0].tried.loss < NOISE {
            let clean = Trial {
                folds: &self.folds[..1],
                most: 1,
                ..*self
            };
            let raced = clean.race(&candidates, &grids, settings, &mut |done| {
                watch(Event::Candidate {
                    done: first.len() + done,
                    of,
                });
            });
            if raced[0].tried.loss < CLEAN {
                let penalty = raced[0].tried.penalty();
                return (raced, penalty);
            }
        }
        if few < grids.len() {
            // The better half on a finer grid.
            candidates.truncate(halves);
            let finer: Vec<Task> = candidates
                .iter()
                .map(|candidate| Task {
                    width: candidate.tried.width.clone(),
                    starts: candidate.starts.clone(),
                    grids: grids[..few + 1].to_vec(),
                    penalties: vec![quick],
                })
                .collect();
            candidates = self.evaluate(&finer, first.len(), of, watch);
            sort(&mut candidates);
        }

        let second: Vec<Task> = candidates
            .iter()
            .take(2)
            .flat_map(|Candidate { tried, starts, .. }| {
                let up_to = grids.iter().position(|&g| g == tried.grid).unwrap_or(0);
                let task = |grids: &[usize], penalties: Vec<Penalty>| Task {
                    width: tried.width.clone(),
                    starts: starts.clone(),
                    grids: grids.to_vec(),
                    penalties,
                };
                let tasks: Vec<Task> = if classes {
                    // Convex or nearly so: one penalty's network is a good start for the next.
                    let rows = penalties.iter();
                    rows.map(|row| task(&grids[..=up_to], row.clone()))
                        .collect()
                } else {
                    let all = penalties.iter().flatten();
                    all.map(|&penalty| task(&grids, vec![penalty])).collect()
                };
                tasks
            })
            .collect();
        let done = first.len() + halves;
        candidates.extend(self.evaluate(&second, done, of, watch));
        sort(&mut candidates);
        if classes {
            prefer_simple(&mut candidates);
        }

        let penalty = if classes {
            plateau(&candidates)
        } else {
            candidates[0].tried.penalty()
        };
        (candidates, penalty)
    }
}
