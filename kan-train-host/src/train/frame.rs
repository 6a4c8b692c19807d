//! Networks of one data set on their way: starts at random, stages on one grid, pruning.

use std::sync::mpsc;

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;

use super::{Descent, Event, Method, Recipe, STARTS, Settings};
use crate::adamw;
use crate::gaps;
use crate::grid;
use crate::lbfgs;
use crate::levenberg::{self, Options};
use crate::network::{Base, Network};
use crate::objective::{self, Samples};
use crate::penalty::Penalty;
use crate::prune::{self, Removed};
use crate::selection::Choice;
use crate::spline::Grid;
use crate::statistics;

/// Rows for each parameter that the first steps of random starts see at most.
const START_ROWS: usize = 8;
/// Those first steps; after them the better half goes on, and so forth.
const START_STEPS: usize = 5;
/// Edges times rows that statistics for pruning a network of AdamW are taken from.
const MOST_STATISTICS: usize = 50_000_000;

/// What stays the same for all recipes.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Input grids with one interval: their domain and degree.
    pub inputs: Vec<Grid>,
    /// The most intervals of each input.
    pub limits: Vec<usize>,
    /// Inputs that do not vary: they get no edges.
    pub constant: Vec<bool>,
    /// Blend of the grids, if one is fixed for all.
    pub grid_eps: Option<f64>,
    /// How a stage is trained.
    pub descent: Descent,
    /// Random starts of each network.
    pub starts: usize,
    /// The seed.
    pub seed: u64,
}

impl Frame {
    /// The most intervals that any node of a network of these widths can have.
    pub fn finest(&self, width: &[usize]) -> usize {
        let inputs = self.limits.iter().copied().max();
        inputs.filter(|_| width.len() == 2).unwrap_or(usize::MAX)
    }

    /// The frame for what was chosen.
    pub(super) fn to_train(&self, recipe: &Recipe) -> Self {
        Self {
            descent: recipe.descent,
            ..self.clone()
        }
    }

    /// A network at random on `intervals` intervals.
    fn random(&self, samples: &Samples, width: &[usize], intervals: usize, seed: u64) -> Network {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let grids: Vec<Grid> = self
            .inputs
            .iter()
            .enumerate()
            .map(|(i, grid)| self.input_grid(samples, i, grid, intervals))
            .collect();
        let mut network = Network::random(width, &grids, Base::Silu, &mut rng);
        let layer = &mut network.layers[0];
        for (i, _) in self
            .constant
            .iter()
            .enumerate()
            .filter(|(_, constant)| **constant)
        {
            layer.edges[i * layer.outputs..(i + 1) * layer.outputs].fill(None);
        }
        network
    }

    /// An input's grid on its domain, its knots following the samples as far as `grid_eps` says.
    fn input_grid(&self, samples: &Samples, i: usize, domain: &Grid, intervals: usize) -> Grid {
        let intervals = intervals.min(self.limits[i]);
        let (degree, lo, hi) = (domain.degree(), domain.lo(), domain.hi());
        let column = samples.x.iter().skip(i).step_by(samples.inputs);
        let column: Vec<f64> = column.copied().chain([lo, hi]).collect();
        let blend = self.grid_eps.unwrap_or_else(|| grid::blend(&column));
        if blend >= 1.0 {
            return Grid::uniform(degree, lo, hi, intervals);
        }
        Grid::from_samples(degree, &column, intervals, blend, 0.0)
    }

    /// The best of several random starts after their first steps on the first grid; `member` tells
    /// the starts of one network from those of another. For AdamW a random start is enough.
    pub fn start(&self, samples: &Samples, recipe: &Recipe, member: usize) -> Network {
        let first = recipe.grids[0];
        let random = |start: usize| {
            let start = (start + self.starts * member) as u64;
            let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(start);
            self.random(samples, &recipe.width, first, seed)
        };
        if self.descent.method == Method::AdamW {
            return random(0);
        }
        let starts = if recipe.width.len() > 2 {
            self.starts
        } else {
            1
        };
        let mut rivals: Vec<(f64, Network)> =
            (0..starts).map(|start| (0.0, random(start))).collect();
        let enough = START_ROWS * rivals[0].1.parameters();
        let some = (starts > 1).then(|| samples.evenly(enough)).flatten();
        let samples = some.as_ref().unwrap_or(samples);
        let options = Options {
            steps: START_STEPS,
            damping: 0.1,
            tolerance: 1e-3,
        };
        loop {
            rivals.par_iter_mut().for_each(|(loss, network)| {
                let penalty = &recipe.penalty;
                *loss = levenberg::train(network, samples, penalty, &options, &mut |_, _| {}).loss;
            });
            rivals.sort_by(|a, b| a.0.total_cmp(&b.0));
            if rivals.len() == 1 {
                return rivals.swap_remove(0).1;
            }
            rivals.truncate(rivals.len() / 2);
        }
    }

    /// The start that ends lowest on (2.20) after training with the sparsity penalty, pruning and
    /// training without it: which edges survive depends on the start, and the penalised objective
    /// tells the better structure.
    fn sparse_start(&self, samples: &Samples, recipe: &Recipe, lamb: f64, prune: bool) -> Network {
        let penalty = Penalty {
            lamb,
            ..recipe.penalty
        };
        let first = recipe.grids[0];
        let candidates: Vec<(f64, Network)> = (0..2 * STARTS as u64)
            .into_par_iter()
            .map(|start| {
                let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(start);
                let mut network = self.random(samples, &recipe.width, first, seed);
                let mut loss = self.stage(&mut network, samples, first, &penalty, &mut |_, _| {});
                if prune {
                    prune::edges(&mut network, samples, prune::THRESHOLD);
                    loss = self.stage(
                        &mut network,
                        samples,
                        first,
                        &recipe.penalty,
                        &mut |_, _| {},
                    );
                }
                (
                    loss + lamb * statistics::sparsity(&network, samples),
                    network,
                )
            })
            .collect();
        let best = candidates.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
        best.map(|(_, network)| network)
            .expect("there is at least one start")
    }

    /// The networks that training begins with.
    pub(super) fn starts(
        &self,
        samples: &Samples,
        choice: &Choice,
        settings: &Settings,
    ) -> Vec<Network> {
        let recipe = &choice.recipe;
        if let Some(lamb) = settings.lamb.filter(|lamb| *lamb > 0.0) {
            return vec![self.sparse_start(samples, recipe, lamb, !settings.no_prune)];
        }
        (0..recipe.members)
            .into_par_iter()
            .map(|member| match choice.starts.get(member) {
                Some(network) => self.on_input_grids(samples, network),
                None => self.start(samples, recipe, member),
            })
            .collect()
    }

    /// The network with the input grids that these samples ask for: the part of them that it was
    /// trained on may have asked for others, and networks with different ones have no mean.
    fn on_input_grids(&self, samples: &Samples, network: &Network) -> Network {
        let mut network = network.clone();
        let base = network.base;
        let layer = &mut network.layers[0];
        for (i, domain) in self.inputs.iter().enumerate() {
            let grid = self.input_grid(samples, i, domain, layer.grids[i].intervals());
            if grid != layer.grids[i] {
                grid::regrid(layer, base, i, grid);
            }
        }
        network
    }

    /// One stage of several networks side by side; if `prune`, each is simplified at its end.
    pub fn stage_of_all(
        &self,
        networks: &mut [Network],
        samples: &Samples,
        intervals: usize,
        penalty: &Penalty,
        prune: bool,
        watch: &mut dyn FnMut(Event<'_>),
    ) {
        let mut show = |(step, loss)| {
            watch(Event::Step {
                grid: intervals,
                step,
                of: self.descent.steps,
                loss,
            });
        };
        let train = |network: &mut Network, tell: &mut dyn FnMut(usize, f64)| {
            self.stage(network, samples, intervals, penalty, tell);
            if prune {
                simplify(network, self, samples, intervals, penalty, tell);
            }
        };
        if let [network] = networks {
            // On this thread, so that the threads are those of the caller's pool.
            return train(network, &mut |step, loss| show((step, loss)));
        }
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let members = networks.par_iter_mut();
                members.for_each_with(sender, |sender, network| {
                    train(network, &mut |step, loss| {
                        // Nobody listens any more only if the caller is gone.
                        let _ = sender.send((step, loss));
                    });
                });
            });
            receiver.into_iter().for_each(&mut show);
        });
    }

    /// One stage: brings the grids to `intervals` and trains.
    pub fn stage(
        &self,
        network: &mut Network,
        samples: &Samples,
        intervals: usize,
        penalty: &Penalty,
        watch: &mut dyn FnMut(usize, f64),
    ) -> f64 {
        if intervals != network.intervals() {
            grid::extend(network, intervals, &self.limits);
        }
        if let Some(blend) = self.grid_eps.filter(|blend| *blend < 1.0) {
            grid::update(network, samples, blend);
        }
        let steps = self.descent.steps;
        match self.descent.method {
            Method::Lm => {
                let options = Options {
                    steps,
                    damping: 1e-4,
                    tolerance: 1e-3,
                };
                levenberg::train(network, samples, penalty, &options, watch);
                gaps::bridge(network, samples);
                objective::loss(network, samples)
            }
            Method::Lbfgs => lbfgs::train(network, samples, penalty, steps, 1e-3, watch).loss,
            Method::AdamW => {
                let options = adamw::Options {
                    weight_decay: self.descent.weight_decay,
                    ..adamw::Options::over(steps, self.seed)
                };
                let mut state = adamw::State::default();
                adamw::train(
                    network,
                    samples,
                    &options,
                    &mut state,
                    &mut |_, state, loss| {
                        watch(state.epoch, loss);
                    },
                );
                objective::loss(network, samples)
            }
        }
    }
}

/// Prunes as much as the loss does not notice: from the paper's threshold down, the edges below it
/// are removed and the rest trained again; that stays if the objective grew by less than 2 %.
/// `watch` gets the steps of that training and their losses.
fn simplify(
    network: &mut Network,
    frame: &Frame,
    samples: &Samples,
    intervals: usize,
    penalty: &Penalty,
    watch: &mut dyn FnMut(usize, f64),
) {
    let before = objective::loss(network, samples);
    let mut threshold = prune::THRESHOLD;
    let some = statistics_rows(network, samples, frame.descent.method);
    let frame = Frame {
        descent: frame.descent.after_pruning(),
        ..frame.clone()
    };
    for _ in 0..4 {
        let mut candidate = network.clone();
        let removed = prune::edges(&mut candidate, some.as_ref().unwrap_or(samples), threshold);
        if removed == Removed::default() {
            return;
        }
        let after = frame.stage(&mut candidate, samples, intervals, penalty, watch);
        if after <= 1.02 * before + 1e-12 {
            *network = candidate;
            return;
        }
        threshold *= 0.1;
    }
}

/// Some of the rows, where all would take minutes: statistics visit every edge in every row.
fn statistics_rows(network: &Network, samples: &Samples, method: Method) -> Option<Samples> {
    let enough = (MOST_STATISTICS / network.edges().max(1)).max(1);
    samples.evenly(enough).filter(|_| method == Method::AdamW)
}
