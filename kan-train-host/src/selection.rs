//! Choosing shape, grid and penalty on held-out rows.
//!
//! First every shape is tried with a small penalty, then the best shapes with weaker and stronger
//! ones, each on finer and finer grids until the held-out rows stop gaining. The simplest candidate
//! within a few per cent of the best wins. With few rows, folds take turns in being held out.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::grid;
use crate::levenberg;
use crate::network::Network;
use crate::objective::{self, Samples, Target};
use crate::penalty::Penalty;
use crate::train::{Event, Frame, GRIDS, Recipe, Settings};

/// Below so many rows all of them are held out in turns, so many turns: the fewer rows, the more.
const TURNS: [(usize, usize); 2] = [(800, 5), (1500, 3)];
/// One row in so many is held out, when there are many.
const HOLDOUT: usize = 5;
/// No more rows than this take part in the selection.
const ENOUGH_ROWS: usize = 2000;
/// No more steps than these for a grid.
const STEPS: usize = 50;
/// A loss that stands for an error of 1e-5 standard deviations: no sensor is better.
const NEGLIGIBLE: f64 = 0.5e-10;
/// A grid takes part in the selection if a step on it costs at most so many multiply-adds.
const AFFORDABLE: f64 = 3e8;
/// The mean of so many networks at most.
const MOST_MEMBERS: usize = 8;
/// Twice as many networks must lower the held-out loss by this part.
const WORTHWHILE_MEMBERS: f64 = 0.08;
/// A finer grid must lower the held-out loss by this part.
const WORTHWHILE: f64 = 0.03;

/// A candidate and how it did on the held-out rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Node counts.
    pub width: Vec<usize>,
    /// Intervals of the best grid.
    pub grid: usize,
    /// Roughness penalty.
    pub roughness: f64,
    /// Slope penalty.
    pub slope: f64,
    /// Parameters on that grid.
    pub parameters: usize,
    /// Held-out loss: half the mean squared error in standard deviations, or the log-loss.
    pub loss: f64,
    /// Its standard error, from the spread over the folds, or over the rows of a single one.
    pub standard_error: f64,
    /// The share of held-out rows that a classification gets wrong.
    pub wrong: Option<f64>,
}

impl Tried {
    fn penalty(&self) -> Penalty {
        Penalty {
            roughness: self.roughness,
            slope: self.slope,
            lamb: 0.0,
        }
    }
}

/// What the final training does.
pub struct Choice {
    /// Shape, grids and penalty.
    pub recipe: Recipe,
    /// The network to go on from: the winner as the selection trained it, on its first grid.
    pub start: Option<Network>,
    /// The candidates, best first.
    pub tried: Vec<Tried>,
}

/// A candidate, the network to go on from, and the grids it still has to go through.
struct Candidate {
    tried: Tried,
    start: Network,
    grids: Vec<usize>,
}

/// Chooses what the settings leave open.
pub fn choose(
    frame: &Frame,
    samples: &Samples,
    settings: &Settings,
    watch: &mut dyn FnMut(Event<'_>),
) -> Choice {
    let classes = matches!(samples.target, Target::Classes(_));
    let fixed_penalty = |roughness: f64| Penalty {
        roughness,
        slope: if classes { 1e-5 } else { 0.0 },
        lamb: 0.0,
    };
    let supported = |grids: &[usize], width: &[usize]| -> Vec<usize> {
        let finest = frame.finest(width);
        let mut grids: Vec<usize> = grids.iter().map(|&g| g.min(finest)).collect();
        grids.dedup();
        grids
    };
    if let (Some(width), Some(grids)) = (&settings.width, &settings.grid) {
        let penalty = fixed_penalty(settings.roughness.unwrap_or(0.0));
        let recipe = Recipe {
            width: width.clone(),
            grids: supported(grids, width),
            penalty,
            members: 1,
        };
        return Choice {
            recipe,
            start: None,
            tried: Vec::new(),
        };
    }
    let folds = folds(samples, settings.seed);
    let frame = &Frame {
        steps: frame.steps.min(STEPS),
        ..frame.clone()
    };
    let grids = settings.grid.clone().unwrap_or_else(|| GRIDS.to_vec());
    let quick = fixed_penalty(
        settings
            .roughness
            .unwrap_or(if classes { 1e-2 } else { 1e-6 }),
    );
    let shapes = match &settings.width {
        Some(width) => vec![width.clone()],
        None => shapes(frame, samples),
    };
    let few = if shapes.len() > 1 {
        &grids[..grids.len().min(2)]
    } else {
        &grids
    };
    let first: Vec<Task<'_>> = shapes
        .iter()
        .map(|width| Task {
            width,
            grids: few,
            penalties: vec![quick],
            along: Along::Grids,
        })
        .collect();
    let penalties = penalties(classes, settings);
    let of = first.len()
        + 2 * if classes {
            penalties.len()
        } else {
            penalties.concat().len()
        };
    let mut candidates = evaluate(frame, &folds, &first, 0, of, watch);
    sort(&mut candidates);

    let mut best_shapes: Vec<(Vec<usize>, usize)> = Vec::new();
    for Candidate { tried, .. } in &candidates {
        if best_shapes.len() < 2 {
            best_shapes.push((tried.width.clone(), tried.grid));
        }
    }
    let second: Vec<Task<'_>> = best_shapes
        .iter()
        .flat_map(|(width, grid)| {
            let up_to = &grids[..=grids.iter().position(|g| g == grid).unwrap_or(0)];
            let grids = &grids;
            penalties.iter().flat_map(move |row| {
                if classes {
                    // Convex or nearly so: one penalty's network is a good start for the next.
                    let penalties = row.clone();
                    vec![Task {
                        width,
                        grids: up_to,
                        penalties,
                        along: Along::Penalties,
                    }]
                } else {
                    row.iter()
                        .map(|&p| Task {
                            width,
                            grids,
                            penalties: vec![p],
                            along: Along::Grids,
                        })
                        .collect()
                }
            })
        })
        .collect();
    candidates.extend(evaluate(frame, &folds, &second, first.len(), of, watch));
    sort(&mut candidates);
    if classes {
        prefer_simple(&mut candidates);
    }

    let winner = &candidates[0].tried;
    let penalty = if classes {
        plateau(&candidates)
    } else {
        winner.penalty()
    };
    // A mean loss over more rows bears less penalty: as much for each row as in the folds.
    let share = folds[0].0.rows() as f64 / (folds[0].0.rows() + folds[0].1.rows()) as f64;
    let recipe = Recipe {
        width: winner.width.clone(),
        grids: supported(&candidates[0].grids, &winner.width),
        penalty: Penalty {
            roughness: share * penalty.roughness,
            slope: share * penalty.slope,
            lamb: 0.0,
        },
        members: 1,
    };
    let members = if settings.width.is_some() {
        1
    } else {
        members(frame, &folds[0], &recipe)
    };
    let recipe = Recipe { members, ..recipe };
    let start = Some(candidates[0].start.clone());
    let tried = candidates
        .into_iter()
        .map(|candidate| candidate.tried)
        .collect();
    Choice {
        recipe,
        start,
        tried,
    }
}

/// How many networks it takes until the mean of twice as many is no longer worth its size. The mean
/// of networks from different starts has lost a part of what each owes to chance: where samples are
/// few or noisy that is most of its error, where they are many and exact there is nothing to lose.
fn members(frame: &Frame, (train, held): &(Samples, Samples), recipe: &Recipe) -> usize {
    if recipe.width.len() == 2 {
        return 1;
    }
    let mut networks: Vec<Network> = Vec::new();
    let mut count = 1;
    let mut least = f64::INFINITY;
    while count <= MOST_MEMBERS {
        let more: Vec<Network> = (networks.len()..count)
            .into_par_iter()
            .map(|member| {
                let mut network = frame.start(train, recipe, member);
                for &intervals in &recipe.grids {
                    frame.stage(
                        &mut network,
                        train,
                        intervals,
                        &recipe.penalty,
                        &mut |_, _| {},
                    );
                }
                network
            })
            .collect();
        networks.extend(more);
        let loss = objective::loss(&Network::mean(&networks), held);
        if loss + NEGLIGIBLE > least * (1.0 - WORTHWHILE_MEMBERS) {
            break;
        }
        // Half the networks have the error of one: nothing is left to chance.
        least = loss + NEGLIGIBLE;
        count *= 2;
    }
    count / 2
}

/// Breiman's rule: of the candidates within one standard error of the best, the simplest comes
/// first: the fewest parameters, then the smoothest edges. On few rows, log-losses that differ by
/// less say nothing.
fn prefer_simple(candidates: &mut [Candidate]) {
    let best = &candidates[0].tried;
    let limit = best.loss + best.standard_error;
    let simplest = candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| candidate.tried.loss <= limit)
        .min_by(|(_, a), (_, b)| {
            let (a, b) = (&a.tried, &b.tried);
            let smoother = b.roughness.total_cmp(&a.roughness);
            a.parameters.cmp(&b.parameters).then(smoother)
        })
        .map_or(0, |(at, _)| at);
    candidates[..=simplest].rotate_right(1);
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

/// What one thread does: a shape, trained on finer and finer grids with one penalty, or with one
/// penalty after the other on the last grid.
struct Task<'a> {
    width: &'a [usize],
    grids: &'a [usize],
    penalties: Vec<Penalty>,
    along: Along,
}

#[derive(Clone, Copy, PartialEq)]
enum Along {
    Grids,
    Penalties,
}

/// Best first. Twice the parameters must pay by 7 % less loss, and an error below
/// [`NEGLIGIBLE`] is as good as none.
fn sort(candidates: &mut [Candidate]) {
    let price = |c: &Candidate| (c.tried.loss + NEGLIGIBLE) * (c.tried.parameters as f64).powf(0.1);
    candidates.sort_by(|a, b| price(a).total_cmp(&price(b)));
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
    let all = [1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 0.0];
    let roughness = settings.roughness.map_or(all.to_vec(), |r| vec![r]);
    vec![roughness.into_iter().map(|r| penalty(r, 0.0)).collect()]
}

/// Shapes from additive to two hidden layers, as large as the rows can carry.
fn shapes(frame: &Frame, samples: &Samples) -> Vec<Vec<usize>> {
    let (n_in, n_out) = (samples.inputs, samples.outputs);
    let used = frame.constant.iter().filter(|constant| !**constant).count();
    let mut shapes = vec![vec![n_in, n_out]];
    for hidden in [1, 2, 3, 5, 8] {
        shapes.push(vec![n_in, hidden, n_out]);
    }
    if let Target::Values(_) = samples.target {
        for hidden in [2, 4, 6] {
            shapes.push(vec![n_in, hidden, 2.max(n_out), n_out]);
        }
    }
    // Eight parameters an edge and at least two samples a parameter, and steps that are quick;
    // the additive shape always.
    let rows = (samples.rows().min(ENOUGH_ROWS) * n_out) as f64;
    shapes.retain(|width| {
        let edges = used * width[1] + width[1..].windows(2).map(|w| w[0] * w[1]).sum::<usize>();
        let (parameters, active) = (8.0 * edges as f64, 5.0 * edges as f64);
        let cost = 0.5 * rows * active * active;
        let small = parameters <= rows / 2.0 || width[1] == 1;
        width.len() == 2 || (small && cost <= AFFORDABLE)
    });
    shapes
}

/// Pairs of training rows and held-out rows.
fn folds(samples: &Samples, seed: u64) -> Vec<(Samples, Samples)> {
    let rows = samples.rows();
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut Pcg64Mcg::seed_from_u64(seed ^ 0x5EED));
    if let Target::Classes(class) = &samples.target {
        // Stable: the classes take turns, so that every fold has its share of each.
        order.sort_by_key(|&row| class[row]);
    }
    if rows > ENOUGH_ROWS {
        order = (0..ENOUGH_ROWS)
            .map(|k| order[k * rows / ENOUGH_ROWS])
            .collect();
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
    match TURNS.iter().find(|(most, _)| rows < *most) {
        Some(&(_, turns)) => (0..turns).map(|k| part(k, turns)).collect(),
        None => vec![part(0, HOLDOUT)],
    }
}

/// Does all tasks on all folds; in parallel, with results in the order of the tasks.
fn evaluate(
    frame: &Frame,
    folds: &[(Samples, Samples)],
    tasks: &[Task<'_>],
    before: usize,
    of: usize,
    watch: &mut dyn FnMut(Event<'_>),
) -> Vec<Candidate> {
    let (sender, receiver) = mpsc::channel();
    let done = AtomicUsize::new(before);
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            tasks
                .par_iter()
                .map_with(sender, |sender, task| {
                    let candidates = match task.along {
                        Along::Grids => vec![along_grids(frame, folds, task)],
                        Along::Penalties => along_penalties(frame, folds, task),
                    };
                    // Nobody listens any more only if the caller is gone.
                    let finished = done.fetch_add(candidates.len(), Ordering::Relaxed);
                    let _ = sender.send(finished + candidates.len());
                    candidates
                })
                .collect::<Vec<_>>()
        });
        for done in receiver {
            watch(Event::Candidate { done, of });
        }
        work.join()
            .expect("no candidate panics")
            .into_iter()
            .flatten()
            .collect()
    })
}

fn starts(frame: &Frame, folds: &[(Samples, Samples)], task: &Task<'_>) -> Vec<Network> {
    let recipe = Recipe {
        width: task.width.to_vec(),
        grids: task.grids.to_vec(),
        penalty: task.penalties[0],
        members: 1,
    };
    folds
        .par_iter()
        .map(|(train, _)| frame.start(train, &recipe, 0))
        .collect()
}

/// Trains the network of every fold, and measures it on the held-out rows.
fn train_and_measure(
    frame: &Frame,
    folds: &[(Samples, Samples)],
    networks: &mut [Network],
    intervals: usize,
    penalty: &Penalty,
) -> Tried {
    let measured: Vec<(Vec<f64>, Option<f64>)> = networks
        .par_iter_mut()
        .zip(folds)
        .map(|(network, (train, held))| {
            frame.stage(network, train, intervals, penalty, &mut |_, _| {});
            (
                objective::losses(network, held),
                objective::wrong(network, held),
            )
        })
        .collect();
    let (losses, wrong): (Vec<Vec<f64>>, Vec<Option<f64>>) = measured.into_iter().unzip();
    let means: Vec<f64> = losses.iter().map(|rows| mean(rows)).collect();
    let (loss, standard_error) = match &losses[..] {
        [rows] => (means[0], standard_error(rows)),
        _ => (mean(&means), standard_error(&means)),
    };
    let folds = wrong.len() as f64;
    Tried {
        width: networks[0].width(),
        grid: intervals,
        roughness: penalty.roughness,
        slope: penalty.slope,
        parameters: networks[0].parameters(),
        loss,
        standard_error,
        wrong: wrong
            .into_iter()
            .sum::<Option<f64>>()
            .map(|sum| sum / folds),
    }
}

fn mean(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    if mean.is_finite() {
        mean
    } else {
        f64::INFINITY
    }
}

/// Standard error of the mean of `values`.
fn standard_error(values: &[f64]) -> f64 {
    let (count, mean) = (values.len() as f64, mean(values));
    let spread: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let error = (spread / (count * (count - 1.0).max(1.0))).sqrt();
    if error.is_finite() { error } else { 0.0 }
}

/// Refines the grid while the held-out loss falls.
fn along_grids(frame: &Frame, folds: &[(Samples, Samples)], task: &Task<'_>) -> Candidate {
    let mut networks = starts(frame, folds, task);
    let penalty = &task.penalties[0];
    let mut best = train_and_measure(frame, folds, &mut networks, task.grids[0], penalty);
    let start = networks[0].clone();
    for &intervals in &task.grids[1..] {
        if best.loss < NEGLIGIBLE || step_cost(&networks[0], &folds[0].0, intervals) > AFFORDABLE {
            break;
        }
        let finer = train_and_measure(frame, folds, &mut networks, intervals, penalty);
        if finer.loss > best.loss * (1.0 - WORTHWHILE) {
            break;
        }
        best = finer;
    }
    let grids = task
        .grids
        .iter()
        .copied()
        .filter(|&g| g <= best.grid)
        .collect();
    Candidate {
        tried: best,
        start,
        grids,
    }
}

/// Weakens the penalty step by step, on the last grid.
fn along_penalties(frame: &Frame, folds: &[(Samples, Samples)], task: &Task<'_>) -> Vec<Candidate> {
    let mut networks = starts(frame, folds, task);
    let (last, earlier) = task.grids.split_last().expect("a task has grids");
    for &intervals in earlier {
        train_and_measure(frame, folds, &mut networks, intervals, &task.penalties[0]);
    }
    let penalties = task.penalties.iter();
    penalties
        .map(|penalty| {
            let tried = train_and_measure(frame, folds, &mut networks, *last, penalty);
            Candidate {
                tried,
                start: networks[0].clone(),
                grids: vec![*last],
            }
        })
        .collect()
}

/// Multiply-adds of a step once the grids have `intervals`.
fn step_cost(network: &Network, samples: &Samples, intervals: usize) -> f64 {
    let mut extended = network.clone();
    grid::extend(&mut extended, intervals, &vec![usize::MAX; samples.inputs]);
    levenberg::factor_cost(&extended, samples)
}
