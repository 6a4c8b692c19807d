//! Choosing shape, grid, penalty and number of members on held-out rows.
//!
//! First every shape is tried with a small penalty, then the best shapes with weaker and stronger
//! ones, each on finer and finer grids until the held-out rows stop gaining. The cheapest candidate
//! for what it achieves wins. With few rows, folds take turns in being held out.
//!
//! Two networks from different starts are trained on each fold. How much better their mean is than
//! either tells what a network owes to chance, its start and its noise, and so what the mean of more
//! would achieve: with v the variance and b all other error, one network has the loss b + v, the
//! mean of M has b + v/M.
//!
//! Classifications with hidden layers are trained with AdamW, for more and more epochs: Gauss–Newton
//! steps find minima of the log-loss that say less of other rows, and cost the square of the classes.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::adamw;
use crate::grid;
use crate::levenberg;
use crate::network::Network;
use crate::objective::{self, Samples, Target};
use crate::penalty::Penalty;
use crate::train::{Descent, Event, Frame, GRIDS, Method, Recipe, STARTS, Settings, WIDE_GRID};

/// Below so many rows several parts of them are held out in turns: (rows, parts, turns).
const TURNS: [(usize, usize, usize); 2] = [(800, 5, 5), (1500, 4, 2)];
/// One row in so many is held out, when there are many.
const HOLDOUT: usize = 5;
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
/// The mean of so many networks at most.
const MOST_MEMBERS: usize = 4;
/// Where held-out rows are hardly worse than training rows, error is not chance, and a finer grid or
/// another shape is better than a mean.
const CHANCE: f64 = 1.3;
/// A loss below this, an error of a hundredth of the target's deviation, is not noise either.
const NOISE: f64 = 0.5e-4;
/// A loss below this, an error of a thousandth of the target's deviation, shows that there is no
/// noise: then only shape and grid matter.
const CLEAN: f64 = 0.5e-6;
/// Roughness penalties that are tried all the same.
const WEAK: [f64; 2] = [1e-7, 1e-8];
/// A grid that lowers the loss so much shows that the shape can do more: halving the intervals of a
/// cubic spline divides the loss of a smooth function by 256.
const FALLING: f64 = 0.1;

/// Hidden nodes of a classification.
const HIDDEN_FOR_CLASSES: [usize; 4] = [8, 16, 32, 64];
/// Steps of AdamW that its epochs should add up to; each time the better half goes on to more.
const FIRST_ORDER_STEPS: [usize; 3] = [1000, 4000, 16_000];
/// No more passes over the rows than this: few rows are learnt by heart long before.
const MOST_EPOCHS: usize = 1000;
/// Weight decays that compete with AdamW's own: on few rows strong ones keep probabilities honest.
const DECAYS: [f32; 2] = [0.5, 2.0];
/// Multiply-adds of such a training at most.
const AFFORDABLE_EPOCHS: f64 = 1e10;

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
    let most = if settings.width.is_some() {
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

/// Whether AdamW competes for a classification: for hidden layers, unless the user asks for another
/// optimiser or for penalties that it does not know.
fn takes_first_order(settings: &Settings) -> bool {
    let hidden = settings.width.as_ref().is_none_or(|width| width.len() > 2);
    let penalised = settings.roughness.is_some() || settings.lamb.is_some_and(|lamb| lamb > 0.0);
    hidden && !penalised && settings.optimizer.is_none()
}

/// The penalty of a network before any is chosen.
fn start_penalty(classes: bool, roughness: f64) -> Penalty {
    Penalty {
        roughness,
        slope: if classes { 1e-5 } else { 0.0 },
        lamb: 0.0,
    }
}

/// The grids that the inputs of a network of this shape have values for.
fn supported(frame: &Frame, grids: &[usize], width: &[usize]) -> Vec<usize> {
    let finest = frame.finest(width);
    let mut grids: Vec<usize> = grids.iter().map(|&g| g.min(finest)).collect();
    grids.dedup();
    grids
}

/// The additive network, a convex problem, where its steps are quick.
fn additive_for_classes(frame: &Frame, samples: &Samples) -> Option<Vec<usize>> {
    let used = frame.constant.iter().filter(|constant| !**constant).count();
    let active = used * samples.outputs * (frame.inputs[0].degree() + 2);
    let cost = 0.5 * (samples.rows() * samples.outputs) as f64 * (active as f64).powi(2);
    (cost <= 10.0 * AFFORDABLE).then(|| vec![samples.inputs, samples.outputs])
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
        members: winner.members,
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

/// Shapes from additive to two hidden layers, as large as the rows can carry; the additive one always.
fn shapes(frame: &Frame, samples: &Samples) -> Vec<Vec<usize>> {
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

/// Pairs of training rows and held-out rows, of `enough` rows at most.
fn folds(samples: &Samples, seed: u64, enough: usize) -> Vec<(Samples, Samples)> {
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

/// What all candidates are measured with.
struct Trial<'a> {
    frame: &'a Frame,
    /// Pairs of training rows and held-out rows.
    folds: &'a [(Samples, Samples)],
    /// Most members of a mean.
    most: usize,
}

impl Trial<'_> {
    /// Shapes by second order: each with a small penalty, then the best with weaker and stronger ones.
    /// The candidates, best first, and the penalty for the first of them.
    fn by_penalties(
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

    /// Networks with a hidden layer, or of the width that is asked for, trained with AdamW; the better
    /// half goes on to more epochs while that helps, then the best to more weight decay. Best first.
    fn by_epochs(&self, settings: &Settings, watch: &mut dyn FnMut(Event<'_>)) -> Vec<Candidate> {
        let train = &self.folds[0].0;
        let grids = settings.grid.clone().unwrap_or_else(|| vec![WIDE_GRID]);
        let mut shapes = match &settings.width {
            Some(width) => vec![width.clone()],
            None => HIDDEN_FOR_CLASSES
                .map(|hidden| vec![train.inputs, hidden, train.outputs])
                .to_vec(),
        };
        let of = 2 * shapes.len() + DECAYS.len();
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut evaluate = |shapes: &[Vec<usize>], descent: Descent, done: usize| {
            let frame = Frame {
                descent,
                ..self.frame.clone()
            };
            let tasks: Vec<Task> = shapes
                .iter()
                .map(|width| Task {
                    width: width.clone(),
                    starts: Vec::new(),
                    grids: grids.clone(),
                    penalties: vec![Penalty::default()],
                })
                .collect();
            let trial = Trial {
                frame: &frame,
                ..*self
            };
            let mut found = trial.evaluate(&tasks, done, of.max(done + tasks.len()), watch);
            // The final training begins anew, with all rows from the first epoch on.
            for candidate in &mut found {
                candidate.starts.clear();
            }
            sort(&mut found);
            found
        };
        for steps in FIRST_ORDER_STEPS {
            let each = (steps * adamw::BATCH).div_ceil(train.rows());
            let epochs = settings.steps.unwrap_or(each.min(MOST_EPOCHS));
            let is_affordable = |width: &Vec<usize>| {
                let edges: usize = width.windows(2).map(|pair| pair[0] * pair[1]).sum();
                let active = edges * (self.frame.inputs[0].degree() + 2);
                2.0 * (train.rows() * epochs) as f64 * active as f64 <= AFFORDABLE_EPOCHS
            };
            // Something is tried, whatever it costs.
            let first = candidates.is_empty().then(|| shapes[0].clone());
            shapes.retain(is_affordable);
            if shapes.is_empty() {
                shapes.extend(first);
            }
            if shapes.is_empty() {
                break;
            }
            let descent = Descent::by(Method::AdamW, Some(epochs));
            let longer = evaluate(&shapes, descent, candidates.len());
            shapes = longer
                .iter()
                .take(longer.len().div_ceil(2))
                .map(|candidate| candidate.tried.width.clone())
                .collect();
            let before = candidates.first().map(|best| best.tried.loss);
            candidates.extend(longer);
            sort(&mut candidates);
            let gained =
                before.is_none_or(|before| candidates[0].tried.loss <= before * (1.0 - WORTHWHILE));
            if !gained || epochs == MOST_EPOCHS || settings.steps.is_some() {
                break;
            }
        }
        prefer_simple(&mut candidates);
        let best = &candidates[0].tried;
        let (width, epochs) = (best.width.clone(), best.epochs);
        for weight_decay in DECAYS {
            let descent = Descent {
                weight_decay,
                ..Descent::by(Method::AdamW, epochs)
            };
            let decayed = evaluate(std::slice::from_ref(&width), descent, candidates.len());
            let better = decayed[0].tried.loss < candidates[0].tried.loss;
            let at = if better { 0 } else { candidates.len() };
            candidates.splice(at..at, decayed);
        }
        candidates
    }

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
        // An additive network has one optimum, whatever its start; and where there will be one member,
        // that of AdamW is not chosen from several.
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
        let variance = 2.0 * (one - two).max(0.0);
        let several = (1..usize::BITS)
            .map(|k| 1 << k)
            .take_while(|&members| members <= most)
            .map(|members| Tried {
                members,
                parameters: members * single.parameters,
                loss: (one - variance).max(0.0) + variance / members as f64,
                ..single.clone()
            });
        std::iter::once(single.clone())
            .chain(several)
            .min_by(|a, b| a.price().total_cmp(&b.price()))
            .unwrap_or(single)
    }

    /// Shapes that were trained on the first grid go on to finer ones, one network each and without a
    /// penalty, while the loss falls and they are among the better half, or while it falls as that of
    /// a smooth function does. Then the best of them with weak penalties. Best first.
    fn race(
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

/// What the held-out rows of one fold say of the networks trained on the others.
struct Held {
    /// The loss of each row by the network that fits its training rows better: which one that is can
    /// be known without the held-out rows.
    better: Vec<f64>,
    /// The share of rows that network gets wrong.
    wrong: Option<f64>,
    /// The loss of one network, on average.
    one: f64,
    /// The loss of the mean of all.
    both: f64,
}

impl Held {
    fn of(networks: &[Network], trained: &[f64], held: &Samples) -> Self {
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
