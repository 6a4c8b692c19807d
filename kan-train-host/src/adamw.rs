//! AdamW on mini-batches in `f32`, for networks and tables too large for Gauss–Newton steps.
//!
//! # Speed
//!
//! `cargo bench -p kan-train-host --bench peak` compares an epoch of \[784, 64, 10\] with
//! multiply-adds in registers. With AVX-512, on one of two otherwise idle cores: 9 % of the peak
//! where all inputs differ, 3 % where four of five are background (whose rows cost nothing and are
//! not counted). What keeps it from more are the parts that are not
//! multiply-adds: a basis and a SiLU for every input of every row, one number at a time, and the
//! update, which reads and writes 24 bytes a parameter and step, and takes a square root and a
//! division. `kan bench paper --only mnist --data DIR` times an epoch of MNIST: 1.45 s on one such
//! core, 1.04 s on two (2026-11-22).
//!
//! # Hidden grids
//!
//! Before every epoch, hidden nodes are looked at on some thousand rows. A grid that its node's
//! values have left or no longer fill is moved to mean ± 3 standard deviations (within the values
//! that occur, and a margin), by least squares, so that the function stays; beyond it edges are
//! straight lines. The moments stay with the numbers of the coefficients, since the same part of
//! the values falls to each as before.

use pulp::Arch;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

use crate::grid::{self, HIDDEN_MARGIN};
use crate::network::{Base, Network};
use crate::objective::Samples;
use crate::spline::Grid;

use layer::{Chunk, LANES, Layer, Node, Wide};

mod layer;

/// How a run of epochs goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Passes over all rows.
    pub epochs: usize,
    /// Learning rate of the first epoch.
    pub rate: f32,
    /// What the learning rate is multiplied by after every epoch.
    pub decay: f32,
    /// What every parameter loses in a step, times the learning rate.
    pub weight_decay: f32,
    /// Rows of a step.
    pub batch: usize,
    /// Determines the order of the rows.
    pub seed: u64,
}

impl Options {
    /// Rate 1e-3, a tenth of it after the last of `epochs` (a factor of 0.8 for ten of them),
    /// weight decay 1e-4, batches of 64 rows.
    pub fn over(epochs: usize, seed: u64) -> Self {
        Self {
            epochs,
            rate: 1e-3,
            decay: 0.8_f32.powf(10.0 / epochs.max(1) as f32),
            weight_decay: WEIGHT_DECAY,
            batch: BATCH,
            seed,
        }
    }
}

/// What a run has to remember, besides the network, to go on as if it had not stopped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Finished epochs.
    pub epoch: usize,
    /// Finished steps.
    pub steps: u64,
    /// First moments of the gradient, in the order of [`Network::to_vector`]; empty at the start.
    pub m: Vec<f32>,
    /// Second moments.
    pub v: Vec<f32>,
}

/// Rows of a step.
pub(crate) const BATCH: usize = 64;
/// What every parameter loses in a step, times the learning rate, where nothing else is asked for.
pub const WEIGHT_DECAY: f32 = 1e-4;
const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;
/// Rows that the ranges of hidden nodes are taken from.
const SURVEYED: usize = 4096;
/// Standard deviations of a hidden node's values that its grid covers on each side.
const COVERED: f64 = 3.0;

/// Trains `network` in place from where `state` left off to the last epoch. `watch` is called after
/// every epoch with the mean loss over its steps; network and state are then all that a later call
/// needs to give, bit for bit, what an uninterrupted one gives. Parameters are rounded to `f32`.
///
/// An epoch costs `2·rows·edges·(k + 2)` multiply-adds (half in the first layer, and less where
/// inputs have a value that most rows share) and `parameters·rows/batch` updates. Memory: twelve
/// bytes a parameter.
///
/// # Panics
/// If `state` belongs to a network with another number of parameters, or there are no rows.
pub fn train(
    network: &mut Network,
    samples: &Samples,
    options: &Options,
    state: &mut State,
    watch: &mut dyn FnMut(&Network, &State, f64),
) {
    let arch = Arch::new();
    let common = common_values(samples);
    if state.m.is_empty() {
        state.m = vec![0.0; network.parameters()];
        state.v = vec![0.0; network.parameters()];
    }
    while state.epoch < options.epochs {
        let mut packed = Packed::of(network, &common);
        if packed.follow(network, samples, arch) {
            packed = Packed::of(network, &common);
        }
        packed.set_moments(network, state);
        let mut order: Vec<usize> = (0..samples.rows()).collect();
        let epoch = state.epoch as u64;
        let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(epoch);
        order.shuffle(&mut Pcg64Mcg::seed_from_u64(seed));
        let rate = options.rate * options.decay.powi(state.epoch as i32);
        let mut loss = 0.0;
        for rows in order.chunks(options.batch.max(1)) {
            state.steps += 1;
            loss += packed.loss(samples, rows, arch);
            packed.descend(&Step::new(options, rate, state.steps), arch);
        }
        state.epoch += 1;
        packed.unpack(network, state);
        watch(network, state, loss / samples.rows() as f64);
    }
}

/// Loss and gradient of a batch by the `f32` kernels, in the order of [`Network::to_vector`].
pub fn gradient(network: &Network, samples: &Samples) -> (f64, Vec<f32>) {
    let arch = Arch::new();
    let rows: Vec<usize> = (0..samples.rows()).collect();
    let mut packed = Packed::of(network, &common_values(samples));
    let loss = packed.loss(samples, &rows, arch) / rows.len() as f64;
    // A step that keeps nothing of the past leaves the gradient as first moment.
    let step = Step {
        beta: [0.0, 0.0],
        ..Step::default()
    };
    packed.descend(&step, arch);
    let mut state = State::default();
    packed.unpack(&mut network.clone(), &mut state);
    (loss, state.m)
}

/// One AdamW step on parameter, first and second moment.
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    beta: [f32; 2],
    /// Learning rate over the bias correction 1 − β1ᵗ.
    rate: f32,
    /// 1/√(1 − β2ᵗ).
    correction: f32,
    /// What decay leaves of a parameter.
    keep: f32,
}

impl Step {
    fn new(options: &Options, rate: f32, t: u64) -> Self {
        let t = t as f64;
        let left = |beta: f32| 1.0 - f64::from(beta).powf(t);
        Self {
            beta: [BETA_1, BETA_2],
            rate: (f64::from(rate) / left(BETA_1)) as f32,
            correction: left(BETA_2).sqrt().recip() as f32,
            keep: 1.0 - rate * options.weight_decay,
        }
    }

    /// Plain arithmetic, vectorised where it is inlined.
    #[inline(always)]
    fn apply(&self, c: &mut Wide, m: &mut Wide, v: &mut Wide, g: &Wide) {
        let [beta_1, beta_2] = self.beta;
        for k in 0..LANES {
            let g = g.0[k];
            m.0[k] = beta_1 * m.0[k] + (1.0 - beta_1) * g;
            v.0[k] = beta_2 * v.0[k] + (1.0 - beta_2) * g * g;
            let root = v.0[k].sqrt() * self.correction + EPSILON;
            c.0[k] = self.keep * c.0[k] - self.rate * m.0[k] / root;
        }
    }
}

/// For each input the value that more than half of the rows have, if there is one (Boyer and
/// Moore's vote, then a count).
fn common_values(samples: &Samples) -> Vec<Option<f64>> {
    let rows = samples.x.chunks_exact(samples.inputs);
    let mut vote = vec![(0.0, 0_usize); samples.inputs];
    for row in rows.clone() {
        for ((value, lead), &x) in vote.iter_mut().zip(row) {
            if *lead == 0 {
                (*value, *lead) = (x, 1);
            } else if *value == x {
                *lead += 1;
            } else {
                *lead -= 1;
            }
        }
    }
    let mut count = vec![0; samples.inputs];
    for row in rows {
        for ((count, (value, _)), x) in count.iter_mut().zip(&vote).zip(row) {
            *count += usize::from(value == x);
        }
    }
    let vote = vote.into_iter().zip(count);
    vote.map(|((value, _), count)| (2 * count > samples.rows()).then_some(value))
        .collect()
}

/// A network laid out for the kernels.
struct Packed {
    layers: Vec<Layer>,
    /// Basis functions that are not zero at a point, k + 1.
    order: usize,
    with_base: bool,
}

impl Packed {
    fn of(network: &Network, common: &[Option<f64>]) -> Self {
        let layers = network.layers.iter().enumerate();
        Self {
            layers: layers
                .map(|(l, layer)| {
                    let common = |i: usize| (l == 0).then(|| common[i]).flatten().map(|x| x as f32);
                    Layer::of(layer, network.base, common)
                })
                .collect(),
            order: network.degree() + 1,
            with_base: network.base != Base::Zero,
        }
    }

    /// Runs a batch through all layers.
    fn forward(&mut self, samples: &Samples, rows: &[usize], arch: Arch) {
        let n = rows.len();
        for l in 0..self.layers.len() {
            let (before, after) = self.layers.split_at_mut(l);
            let fill = |first: usize, chunk: &mut Chunk| {
                let nodes = chunk.nodes.len();
                for (b, &row) in rows.iter().enumerate() {
                    match before.last() {
                        None => {
                            let x = &samples.row(row)[first..first + nodes];
                            for (i, &x) in x.iter().enumerate() {
                                chunk.values[i * n + b] = x as f32;
                            }
                        }
                        Some(layer) => {
                            for i in 0..nodes {
                                chunk.values[i * n + b] = layer.sum(b, first + i);
                            }
                        }
                    }
                }
            };
            after[0].forward(arch, self.order, n, fill);
        }
    }

    /// The sum of the losses of a batch, whose mean's derivatives by the outputs become the
    /// sensitivity of the last layer.
    fn loss(&mut self, samples: &Samples, rows: &[usize], arch: Arch) -> f64 {
        self.forward(samples, rows, arch);
        let outputs = samples.outputs;
        let layer = self.layers.last_mut().expect("a network has layers");
        let mut output = vec![0.0; outputs];
        let mut residual = vec![0.0; outputs];
        layer.sensitivity.clear();
        layer
            .sensitivity
            .resize(rows.len() * layer.stride, Wide::default());
        let mut loss = 0.0;
        for (b, &row) in rows.iter().enumerate() {
            for (j, output) in output.iter_mut().enumerate() {
                *output = f64::from(layer.sum(b, j));
            }
            loss += samples.row_loss(row, &output, &mut residual);
            for (j, r) in residual.iter().enumerate() {
                let slot = &mut layer.sensitivity[b * layer.stride + j / LANES];
                slot.0[j % LANES] = (r / rows.len() as f64) as f32;
            }
        }
        loss
    }

    /// One step of every parameter, after [`Packed::loss`].
    fn descend(&mut self, step: &Step, arch: Arch) {
        for l in (0..self.layers.len()).rev() {
            let (before, after) = self.layers.split_at_mut(l);
            let layer = &mut after[0];
            let rows = layer.sums.len() / layer.stride;
            layer.backward(arch, self.order, rows, step, l > 0);
            let Some(below) = before.last_mut() else {
                continue;
            };
            below.sensitivity.clear();
            below
                .sensitivity
                .resize(rows * below.stride, Wide::default());
            let back = layer
                .chunks
                .iter()
                .flat_map(|chunk| chunk.back.chunks_exact(rows));
            for (i, back) in back.enumerate() {
                for (b, s) in back.iter().enumerate() {
                    below.sensitivity[b * below.stride + i / LANES].0[i % LANES] = *s;
                }
            }
        }
    }

    /// Moves the grids of hidden nodes in `network` after their values; whether any moved.
    fn follow(&mut self, network: &mut Network, samples: &Samples, arch: Arch) -> bool {
        let rows = samples.rows();
        let surveyed = rows.min(SURVEYED);
        let rows: Vec<usize> = (0..surveyed).map(|k| k * rows / surveyed).collect();
        let mut values: Vec<Vec<Vec<f32>>> = self.layers[1..]
            .iter()
            .map(|layer| vec![Vec::with_capacity(surveyed); layer.nodes().count()])
            .collect();
        for rows in rows.chunks(64) {
            self.forward(samples, rows, arch);
            for (values, layer) in values.iter_mut().zip(&self.layers) {
                for (i, values) in values.iter_mut().enumerate() {
                    values.extend((0..rows.len()).map(|b| layer.sum(b, i)));
                }
            }
        }
        let mut moved = false;
        for (layer, values) in network.layers[1..].iter_mut().zip(&values) {
            for (i, values) in values.iter().enumerate() {
                let Some((lo, hi)) = covered(values) else {
                    continue;
                };
                let grid = &layer.grids[i];
                let slack = 0.1 * (hi - lo);
                let outside = lo < grid.lo() - slack || hi > grid.hi() + slack;
                let loose = grid.hi() - grid.lo() > 1.5 * (hi - lo);
                if layer.is_used(i) && (outside || loose) {
                    let grid = Grid::uniform(grid.degree(), lo, hi, grid.intervals());
                    grid::regrid(layer, network.base, i, grid);
                    moved = true;
                }
            }
        }
        moved
    }

    /// For every parameter, in the order of [`Network::to_vector`], calls `visit` with the node,
    /// the place in its block, and the lane.
    fn for_each_parameter(
        &mut self,
        network: &Network,
        mut visit: impl FnMut(&mut Node, usize, usize),
    ) {
        for (packed, layer) in self.layers.iter_mut().zip(&network.layers) {
            let stride = packed.stride;
            for (i, node) in packed.nodes_mut().enumerate() {
                let rows = layer.grids[i].functions() + usize::from(self.with_base);
                for (j, _) in layer.edges_from(i) {
                    for row in 0..rows {
                        visit(node, row * stride + j / LANES, j % LANES);
                    }
                }
            }
        }
    }

    fn set_moments(&mut self, network: &Network, state: &State) {
        assert_eq!(
            (state.m.len(), state.v.len()),
            (network.parameters(), network.parameters()),
            "moments of another network"
        );
        let mut at = 0;
        self.for_each_parameter(network, |node, place, lane| {
            node.m[place].0[lane] = state.m[at];
            node.v[place].0[lane] = state.v[at];
            at += 1;
        });
    }

    /// Writes parameters and moments back.
    fn unpack(&mut self, network: &mut Network, state: &mut State) {
        let mut c = Vec::with_capacity(state.m.len());
        state.m.clear();
        state.v.clear();
        self.for_each_parameter(network, |node, place, lane| {
            c.push(f64::from(node.c[place].0[lane]));
            state.m.push(node.m[place].0[lane]);
            state.v.push(node.v[place].0[lane]);
        });
        network.set_vector(&c);
    }
}

/// The range that the grid of a node with these values should cover, if they vary.
fn covered(values: &[f32]) -> Option<(f64, f64)> {
    let values = || values.iter().copied().map(f64::from);
    let n = values().count() as f64;
    let mean = values().sum::<f64>() / n;
    let deviation = (values().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    let lo = values()
        .fold(f64::INFINITY, f64::min)
        .max(mean - COVERED * deviation);
    let hi = values()
        .fold(f64::NEG_INFINITY, f64::max)
        .min(mean + COVERED * deviation);
    let margin = HIDDEN_MARGIN * (hi - lo);
    grid::is_proper(lo, hi).then_some((lo - margin, hi + margin))
}
