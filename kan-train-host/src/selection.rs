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
use crate::objective::{self, Penalty, Samples, Target};
use crate::train::{Event, Frame, GRIDS, Recipe, Settings};

/// Below this many rows, all of them are held out in turns.
const FEW_ROWS: usize = 1000;
/// The number of turns.
const FOLDS: usize = 5;
/// One row in so many is held out, when there are many.
const HOLDOUT: usize = 5;
/// No more rows than this take part in the selection.
const ENOUGH_ROWS: usize = 3000;
/// A loss that stands for an error of 1e-5 standard deviations: no sensor is better.
const NEGLIGIBLE: f64 = 0.5e-10;
/// A grid takes part in the selection if a step on it costs at most so many multiply-adds.
const AFFORDABLE: f64 = 2e8;
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
}

/// What the final training does.
pub struct Choice {
    /// Shape, grids and penalty.
    pub recipe: Recipe,
    /// The network to go on from: the winner as it was after its first grid.
    pub start: Option<Network>,
    /// The candidates, best first.
    pub tried: Vec<Tried>,
}

/// A candidate with its network after the first grid.
struct Candidate {
    tried: Tried,
    start: Network,
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
    if let (Some(width), Some(grids)) = (&settings.width, &settings.grid) {
        let penalty = fixed_penalty(settings.roughness.unwrap_or(0.0));
        let recipe = Recipe { width: width.clone(), grids: grids.clone(), penalty };
        return Choice { recipe, start: None, tried: Vec::new() };
    }
    let folds = folds(samples, settings.seed);
    let grids = settings.grid.clone().unwrap_or_else(|| GRIDS.to_vec());
    let quick = fixed_penalty(settings.roughness.unwrap_or(if classes { 1e-2 } else { 1e-6 }));

    let shapes = match &settings.width {
        Some(width) => vec![width.clone()],
        None => shapes(frame, samples),
    };
    let first: Vec<Recipe> = shapes
        .iter()
        .map(|width| Recipe {
            width: width.clone(),
            grids: if shapes.len() > 1 { grids[..grids.len().min(3)].to_vec() } else { grids.clone() },
            penalty: quick,
        })
        .collect();
    let total = first.len() + 2 * penalties(classes, settings).len();
    let mut candidates = evaluate(frame, &folds, &first, 0, total, watch);
    sort(&mut candidates);

    let mut best_shapes: Vec<Vec<usize>> = Vec::new();
    for Candidate { tried, .. } in &candidates {
        if best_shapes.len() < 2 && !best_shapes.contains(&tried.width) {
            best_shapes.push(tried.width.clone());
        }
    }
    let second: Vec<Recipe> = best_shapes
        .iter()
        .flat_map(|width| {
            penalties(classes, settings).into_iter().map(|penalty| Recipe {
                width: width.clone(),
                grids: grids.clone(),
                penalty,
            })
        })
        .collect();
    candidates.extend(evaluate(frame, &folds, &second, first.len(), total, watch));
    sort(&mut candidates);

    let winner = &candidates[0].tried;
    // A mean loss over more rows bears less penalty: as much for each row as in the folds.
    let share = folds[0].0.rows() as f64 / (folds[0].0.rows() + folds[0].1.rows()) as f64;
    let recipe = Recipe {
        width: winner.width.clone(),
        grids: grids.iter().copied().filter(|&g| g <= winner.grid).collect(),
        penalty: Penalty {
            roughness: share * winner.roughness,
            slope: share * winner.slope,
            lamb: 0.0,
        },
    };
    let start = Some(candidates[0].start.clone());
    let tried = candidates.into_iter().map(|candidate| candidate.tried).collect();
    Choice { recipe, start, tried }
}

/// Best first. Twice the parameters must pay by 7 % less loss, and an error below
/// [`NEGLIGIBLE`] is as good as none.
fn sort(candidates: &mut [Candidate]) {
    let price =
        |c: &Candidate| (c.tried.loss + NEGLIGIBLE) * (c.tried.parameters as f64).powf(0.1);
    candidates.sort_by(|a, b| price(a).total_cmp(&price(b)));
}

/// The penalties that compete.
fn penalties(classes: bool, settings: &Settings) -> Vec<Penalty> {
    let penalty = |roughness, slope| Penalty { roughness, slope, lamb: 0.0 };
    let all = if classes {
        let strengths = [3e-4, 1e-4, 3e-5, 1e-5];
        [1e-3, 1e-1].iter().flat_map(|&r| strengths.map(|s| penalty(r, s))).collect()
    } else {
        [0.0, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4].map(|r| penalty(r, 0.0)).to_vec()
    };
    match settings.roughness {
        Some(roughness) => {
            let mut all: Vec<Penalty> =
                all.into_iter().map(|p| Penalty { roughness, ..p }).collect();
            all.dedup();
            all
        }
        None => all,
    }
}

/// Shapes from additive to two hidden layers, as large as the rows can carry.
fn shapes(frame: &Frame, samples: &Samples) -> Vec<Vec<usize>> {
    let (n_in, n_out) = (samples.inputs, samples.outputs);
    let used = frame.constant.iter().filter(|constant| !**constant).count();
    let mut shapes = vec![vec![n_in, n_out]];
    for hidden in [1, 2, 3, 5, 8] {
        shapes.push(vec![n_in, hidden, n_out]);
    }
    for hidden in [2, 4, 6] {
        shapes.push(vec![n_in, hidden, 2.max(n_out), n_out]);
    }
    // Eight parameters an edge, at least three samples a parameter; the additive shape and a small
    // one always.
    let room = samples.rows() * n_out / 3;
    let cost = |width: &[usize]| {
        8 * width.windows(2).enumerate().map(|(l, w)| if l == 0 { used * w[1] } else { w[0] * w[1] }).sum::<usize>()
    };
    let small = shapes[1].clone();
    shapes.retain(|width| width.len() == 2 || *width == small || cost(width) <= room);
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
        order = (0..ENOUGH_ROWS).map(|k| order[k * rows / ENOUGH_ROWS]).collect();
    }
    let part = |k: usize, of: usize| {
        let held = |at: usize| at % of == k;
        let chosen = |want: bool| -> Vec<usize> {
            order.iter().enumerate().filter(|(at, _)| held(*at) == want).map(|(_, &r)| r).collect()
        };
        (samples.subset(&chosen(false)), samples.subset(&chosen(true)))
    };
    if rows < FEW_ROWS {
        (0..FOLDS).map(|k| part(k, FOLDS)).collect()
    } else {
        vec![part(0, HOLDOUT)]
    }
}

/// Trains every recipe on every fold; in parallel, with results in the order of the recipes.
fn evaluate(
    frame: &Frame,
    folds: &[(Samples, Samples)],
    recipes: &[Recipe],
    before: usize,
    of: usize,
    watch: &mut dyn FnMut(Event<'_>),
) -> Vec<Candidate> {
    let (sender, receiver) = mpsc::channel();
    let done = AtomicUsize::new(before);
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            recipes
                .par_iter()
                .map_with(sender, |sender, recipe| {
                    let tried = held_out(frame, folds, recipe);
                    // Nobody listens any more only if the caller is gone.
                    let _ = sender.send(done.fetch_add(1, Ordering::Relaxed) + 1);
                    tried
                })
                .collect()
        });
        for done in receiver {
            watch(Event::Candidate { done, of });
        }
        work.join().expect("no candidate panics")
    })
}

/// Trains one recipe on every fold, grid after grid, while the held-out loss falls.
fn held_out(frame: &Frame, folds: &[(Samples, Samples)], recipe: &Recipe) -> Candidate {
    let mut networks: Vec<_> = folds.iter().map(|(train, _)| frame.start(train, recipe)).collect();
    let mut best: Option<Tried> = None;
    let mut start = networks[0].clone();
    for &intervals in &recipe.grids {
        if best.is_some() && step_cost(&networks[0], &folds[0].0, intervals) > AFFORDABLE {
            break;
        }
        let mut loss = 0.0;
        for (network, (train, held)) in networks.iter_mut().zip(folds) {
            frame.stage(network, train, intervals, &recipe.penalty, &mut |_, _| {});
            loss += objective::loss(network, held) / folds.len() as f64;
        }
        if best.is_none() {
            start = networks[0].clone();
        }
        let tried = Tried {
            width: recipe.width.clone(),
            grid: intervals,
            roughness: recipe.penalty.roughness,
            slope: recipe.penalty.slope,
            parameters: networks[0].parameters(),
            loss,
        };
        match &best {
            Some(best) if loss > best.loss * (1.0 - WORTHWHILE) => break,
            _ => best = Some(tried),
        }
        if loss < NEGLIGIBLE {
            break;
        }
    }
    Candidate { tried: best.expect("a recipe has grids"), start }
}

/// Multiply-adds of a step once the grids have `intervals`.
fn step_cost(network: &Network, samples: &Samples, intervals: usize) -> f64 {
    let mut extended = network.clone();
    grid::extend(&mut extended, intervals, &vec![usize::MAX; samples.inputs]);
    levenberg::factor_cost(&extended, samples)
}
