//! Choosing shape, grid, penalty and number of members on held-out rows.
//!
//! First every shape is tried with a small penalty, then the best shapes with weaker and stronger
//! ones, each on finer and finer grids until the held-out rows stop gaining. The cheapest candidate
//! for what it achieves wins. With few rows, folds take turns in being held out.
//!
//! Two networks from different starts are trained on each fold. How much better their mean is than
//! either tells what a network owes to chance, its start and its noise, and so what the mean of
//! more would achieve: with v the variance and b all other error, one network has the loss b + v,
//! the mean of M has b + v/M. A pair tells too little of v to compare candidates by more than four;
//! where four won a regression, eight are trained if that pays.
//!
//! Classifications with hidden layers are trained with AdamW, for more and more epochs:
//! Gauss–Newton steps find minima of the log-loss that say less of other rows, and cost the square
//! of the classes.

mod epochs;
mod folds;
mod penalties;
mod race;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::epochs::takes_first_order;
use self::folds::{Held, folds};
use self::penalties::{additive_for_classes, shapes, start_penalty};
use crate::grid;
use crate::levenberg;
use crate::network::Network;
use crate::objective::{self, Samples, Target};
use crate::penalty::Penalty;
use crate::train::{Descent, Event, Frame, Method, Recipe, STARTS, Settings};

/// No more rows than this take part in the selection by second order.
const ENOUGH_ROWS: usize = 5000;
/// No more steps than these for a grid.
const STEPS: usize = 50;
/// A loss that stands for an error of 1e-5 standard deviations: no sensor is better.
const NEGLIGIBLE: f64 = 0.5e-10;
/// A grid takes part in the selection if a step on it costs at most so many multiply-adds.
const AFFORDABLE: f64 = 3e8;
/// A finer grid must lower the held-out loss by this part.
const WORTHWHILE: f64 = 0.03;
/// Networks from different starts on each fold.
const PAIR: usize = 2;
/// Candidates are means of so many networks at most. A winning regression may get twice as many; a
/// classification not, its hidden layers are several times as large.
const MOST_MEMBERS: usize = 4;
/// Where held-out rows are hardly worse than training rows, error is not chance, and a finer grid
/// or another shape is better than a mean.
const CHANCE: f64 = 1.3;
/// A loss below this, an error of a hundredth of the target's deviation, is not noise either.
const NOISE: f64 = 0.5e-4;
/// A loss below this, an error of a thousandth of the target's deviation, shows that there is no
/// noise: then only shape and grid matter.
const CLEAN: f64 = 0.5e-6;

/// A candidate and how it did on the held-out rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Node counts of one member.
    pub width: Vec<usize>,
    /// Intervals of the best grid.
    pub grid: usize,
    /// Roughness penalty.
    pub roughness: f64,
    /// Slope penalty.
    pub slope: f64,
    /// The network is the mean of so many.
    pub members: usize,
    /// Parameters of all members on that grid.
    pub parameters: usize,
    /// Held-out loss, half the mean squared error in standard deviations or the log-loss: measured
    /// for one member, extrapolated for several.
    pub loss: f64,
    /// What of the loss of one member its start and its noise make: the mean of M has an M-th of it.
    #[serde(default)]
    pub variance: f64,
    /// The standard error for one member, from the spread over the folds, or over the rows of a
    /// single one.
    pub standard_error: f64,
    /// The share of held-out rows that one member of a classification gets wrong.
    pub wrong: Option<f64>,
    /// Passes over the rows, where it is trained with AdamW.
    pub epochs: Option<usize>,
    /// The weight decay of AdamW.
    pub weight_decay: f32,
}

impl Tried {
    fn penalty(&self) -> Penalty {
        Penalty {
            roughness: self.roughness,
            slope: self.slope,
            lamb: 0.0,
        }
    }

    /// A mean of several as the mean of twice as many.
    fn doubled(&self) -> Self {
        let members = 2 * self.members;
        Self {
            members,
            parameters: 2 * self.parameters,
            loss: self.loss - self.variance / members as f64,
            ..self.clone()
        }
    }

    /// What candidates are compared by: twice the parameters must pay by 2 % less loss, and an
    /// error below [`NEGLIGIBLE`] is as good as none.
    fn price(&self) -> f64 {
        self.loss.max(NEGLIGIBLE) * (self.parameters as f64).powf(0.03)
    }
}

/// What the final training does.
pub struct Choice {
    /// Shape, grids, penalty and members.
    pub recipe: Recipe,
    /// Networks to go on from: the winner as the selection trained it, on its first grid.
    pub starts: Vec<Network>,
    /// The candidates, best first.
    pub tried: Vec<Tried>,
}

/// A candidate, the networks to go on from, and the grids they still have to go through.
struct Candidate {
    tried: Tried,
    starts: Vec<Network>,
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
    let first_order = classes && takes_first_order(settings);
    if let (Some(width), Some(grids)) = (&settings.width, &settings.grid)
        && (!first_order || settings.steps.is_some())
    {
        let recipe = Recipe {
            width: width.clone(),
            grids: supported(frame, grids, width),
            penalty: if first_order {
                Penalty::default()
            } else {
                start_penalty(classes, settings.roughness.unwrap_or(0.0))
            },
            members: 1,
            descent: if first_order {
                Descent::by(Method::AdamW, settings.steps)
            } else {
                frame.descent
            },
        };
        return Choice {
            recipe,
            starts: Vec::new(),
            tried: Vec::new(),
        };
    }
    let few_rows = folds(samples, settings.seed, ENOUGH_ROWS);
    // A sparse network begins from one start.
    let sparse = settings.lamb.is_some_and(|lamb| lamb > 0.0);
    let most = if settings.width.is_some() || sparse {
        1
    } else {
        MOST_MEMBERS
    };
    // On some of the rows, where second order is affordable.
    let steps = settings.steps.unwrap_or(Method::Lm.steps()).min(STEPS);
    let second_order = Frame {
        descent: Descent::by(Method::Lm, Some(steps)),
        starts: STARTS,
        ..frame.clone()
    };
    let trial = Trial {
        frame: &second_order,
        folds: &few_rows,
        most,
    };
    if !first_order {
        let shapes = match &settings.width {
            Some(width) => vec![width.clone()],
            None => shapes(&second_order, samples),
        };
        let (candidates, penalty) = trial.by_penalties(shapes, settings, watch);
        return decide(candidates, penalty, &few_rows, samples, frame);
    }
    // Steps on batches cost the same however many rows there are.
    let all_rows = folds(samples, settings.seed, usize::MAX);
    let on_all = Trial {
        folds: &all_rows,
        ..trial
    };
    let mut candidates = on_all.by_epochs(settings, watch);
    let additive = additive_for_classes(&second_order, &few_rows[0].0)
        .filter(|_| settings.width.is_none())
        .map(|shape| trial.by_penalties(vec![shape], settings, watch));
    let hidden = &candidates[0].tried;
    if let Some((newton, penalty)) = additive {
        // A hidden layer has to be better by more than chance.
        let simple = newton[0].tried.loss <= hidden.loss + hidden.standard_error;
        let winner = if simple { 0 } else { newton.len() };
        candidates.splice(..0, newton);
        candidates[..=winner].rotate_right(1);
        sort(&mut candidates[1..]);
        if simple {
            return decide(candidates, penalty, &few_rows, samples, frame);
        }
    }
    let mut choice = decide(candidates, Penalty::default(), &all_rows, samples, frame);
    if let (Some(_), Some(grids)) = (&settings.width, &settings.grid) {
        choice.recipe.grids = supported(frame, grids, &choice.recipe.width);
    }
    choice
}

/// The grids that the inputs of a network of this shape have values for.
fn supported(frame: &Frame, grids: &[usize], width: &[usize]) -> Vec<usize> {
    let finest = frame.finest(width);
    let mut grids: Vec<usize> = grids.iter().map(|&g| g.min(finest)).collect();
    grids.dedup();
    grids
}

/// The final training that the first of the candidates asks for.
fn decide(
    mut candidates: Vec<Candidate>,
    penalty: Penalty,
    folds: &[(Samples, Samples)],
    samples: &Samples,
    frame: &Frame,
) -> Choice {
    let winner = &candidates[0].tried;
    let regression = matches!(samples.target, Target::Values(_));
    let more_pay =
        regression && winner.members == MOST_MEMBERS && winner.doubled().price() < winner.price();
    // A mean loss over more rows bears less penalty: as much for each row as in the folds.
    let share = folds[0].0.rows() as f64 / (folds[0].0.rows() + folds[0].1.rows()) as f64;
    let recipe = Recipe {
        width: winner.width.clone(),
        grids: supported(frame, &candidates[0].grids, &winner.width),
        penalty: Penalty {
            roughness: share * penalty.roughness,
            slope: share * penalty.slope,
            lamb: 0.0,
        },
        members: winner.members * if more_pay { 2 } else { 1 },
        descent: match winner.epochs {
            Some(epochs) => Descent {
                method: Method::AdamW,
                steps: epochs,
                weight_decay: winner.weight_decay,
            },
            None => frame.descent,
        },
    };
    // The first counts most: it is the only one where there is one member.
    let mut starts: Vec<(f64, Network)> = std::mem::take(&mut candidates[0].starts)
        .into_iter()
        .map(|network| (objective::loss(&network, samples), network))
        .collect();
    starts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let starts = starts.into_iter().map(|(_, network)| network).collect();
    let tried = candidates
        .into_iter()
        .map(|candidate| candidate.tried)
        .collect();
    Choice {
        recipe,
        starts,
        tried,
    }
}

/// Breiman's rule: of the candidates within one standard error of the best, the simplest comes
/// first: the fewest parameters, then the fewest epochs or the smoothest edges. On few rows,
/// log-losses that differ by less say nothing.
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
            let sooner = a.epochs.cmp(&b.epochs);
            a.parameters.cmp(&b.parameters).then(sooner).then(smoother)
        })
        .map_or(0, |(at, _)| at);
    candidates[..=simplest].rotate_right(1);
}

/// What one thread does: a shape, trained on finer and finer grids with one penalty, or with one
/// penalty after the other on the last grid.
struct Task {
    width: Vec<usize>,
    /// The networks of all folds on the first grid; none, to begin at random.
    starts: Vec<Network>,
    grids: Vec<usize>,
    penalties: Vec<Penalty>,
}

/// Best first.
fn sort(candidates: &mut [Candidate]) {
    candidates.sort_by(|a, b| a.tried.price().total_cmp(&b.tried.price()));
}

/// What all candidates are measured with.
struct Trial<'a> {
    frame: &'a Frame,
    /// Pairs of training rows and held-out rows.
    folds: &'a [(Samples, Samples)],
    /// Most members of a mean.
    most: usize,
}

impl Trial<'_> {
    /// Does all tasks; in parallel, with results in the order of the tasks.
    fn evaluate(
        &self,
        tasks: &[Task],
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
                        let candidates = match task.penalties[..] {
                            [penalty] => vec![self.along_grids(task, &penalty)],
                            _ => self.along_penalties(task),
                        };
                        let finished = done.fetch_add(candidates.len(), Ordering::Relaxed);
                        // Nobody listens any more only if the caller is gone.
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

    /// The networks of a task before its first grid: a pair for each fold.
    fn starts(&self, task: &Task) -> Vec<Network> {
        if !task.starts.is_empty() {
            return task.starts.clone();
        }
        let recipe = Recipe {
            width: task.width.clone(),
            grids: task.grids.clone(),
            penalty: task.penalties[0],
            members: 1,
            descent: self.frame.descent,
        };
        // An additive network has one optimum, whatever its start; and where there will be one
        // member, that of AdamW is not chosen from several.
        let alone = self.most == 1 && self.frame.descent.method == Method::AdamW;
        let pair = if task.width.len() == 2 || alone {
            1
        } else {
            PAIR
        };
        (0..pair * self.folds.len())
            .into_par_iter()
            .map(|at| self.frame.start(&self.folds[at / pair].0, &recipe, at))
            .collect()
    }

    /// Trains the networks of every fold on one grid, and measures them on the held-out rows.
    fn measure(&self, networks: &mut [Network], intervals: usize, penalty: &Penalty) -> Tried {
        let pair = networks.len() / self.folds.len();
        let trained: Vec<f64> = networks
            .par_iter_mut()
            .enumerate()
            .map(|(at, network)| {
                let train = &self.folds[at / pair].0;
                self.frame
                    .stage(network, train, intervals, penalty, &mut |_, _| {})
            })
            .collect();
        let folds: Vec<Held> = networks
            .par_chunks(pair)
            .zip(trained.par_chunks(pair))
            .zip(self.folds)
            .map(|((networks, trained), (_, held))| Held::of(networks, trained, held))
            .collect();
        let count = folds.len() as f64;
        let average = |of: fn(&Held) -> f64| folds.iter().map(of).sum::<f64>() / count;
        let (one, two) = (average(|fold| fold.one), average(|fold| fold.both));
        let better: Vec<f64> = folds.iter().map(|fold| mean(&fold.better)).collect();
        let descent = self.frame.descent;
        let single = Tried {
            width: networks[0].width(),
            grid: intervals,
            roughness: penalty.roughness,
            slope: penalty.slope,
            members: 1,
            parameters: networks[0].parameters(),
            loss: mean(&better),
            variance: 2.0 * (one - two).max(0.0),
            standard_error: match &folds[..] {
                [fold] => standard_error(&fold.better),
                _ => standard_error(&better),
            },
            wrong: folds
                .iter()
                .map(|fold| fold.wrong)
                .sum::<Option<f64>>()
                .map(|sum| sum / count),
            epochs: (descent.method == Method::AdamW).then_some(descent.steps),
            weight_decay: descent.weight_decay,
        };
        let noisy = one > NOISE && one > CHANCE * mean(&trained);
        let most = if noisy { self.most } else { 1 };
        let bias = (one - single.variance).max(0.0);
        let several = (1..usize::BITS)
            .map(|k| 1 << k)
            .take_while(|&members| members <= most)
            .map(|members| Tried {
                members,
                parameters: members * single.parameters,
                loss: bias + single.variance / members as f64,
                ..single.clone()
            });
        std::iter::once(single.clone())
            .chain(several)
            .min_by(|a, b| a.price().total_cmp(&b.price()))
            .unwrap_or(single)
    }

    /// Refines the grid while the held-out loss falls.
    fn along_grids(&self, task: &Task, penalty: &Penalty) -> Candidate {
        let mut networks = self.starts(task);
        let mut best = self.measure(&mut networks, task.grids[0], penalty);
        let starts = networks.clone();
        for &intervals in &task.grids[1..] {
            let slow = self.frame.descent.method == Method::Lm
                && step_cost(&networks[0], &self.folds[0].0, intervals) > AFFORDABLE;
            if best.loss < NEGLIGIBLE || slow {
                break;
            }
            let finer = self.measure(&mut networks, intervals, penalty);
            if finer.loss > best.loss * (1.0 - WORTHWHILE) {
                break;
            }
            best = finer;
        }
        let grids = task.grids.iter().copied();
        let grids = grids.filter(|&g| g <= best.grid).collect();
        Candidate {
            tried: best,
            starts,
            grids,
        }
    }

    /// Weakens the penalty step by step, on the last grid.
    fn along_penalties(&self, task: &Task) -> Vec<Candidate> {
        let mut networks = self.starts(task);
        let (last, earlier) = task.grids.split_last().expect("a task has grids");
        for &intervals in earlier {
            self.measure(&mut networks, intervals, &task.penalties[0]);
        }
        let penalties = task.penalties.iter();
        penalties
            .map(|penalty| Candidate {
                tried: self.measure(&mut networks, *last, penalty),
                starts: networks.clone(),
                grids: vec![*last],
            })
            .collect()
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

/// Multiply-adds of a step once the grids have `intervals`.
fn step_cost(network: &Network, samples: &Samples, intervals: usize) -> f64 {
    let mut extended = network.clone();
    grid::extend(&mut extended, intervals, &vec![usize::MAX; samples.inputs]);
    levenberg::factor_cost(&extended, samples)
}
