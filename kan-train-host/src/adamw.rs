//! AdamW on mini-batches in `f32`, for networks and tables too large for Gauss–Newton steps.
//!
//! # Layout
//!
//! The edges that leave one input node are one block of rows, `[G + k + 1][outputs]`: a row for each
//! basis function, then one for the base function; rows are padded to 16 numbers. What one sample
//! adds to the node sums is then `k + 2` multiples of rows, of which `k + 1` are neighbours, and a
//! block of a few KiB stays in the first cache while a whole batch goes over it. The gradient of a
//! block lives only while its node is at work: it is summed, and spent on the block's step, at once.
//! Threads share the nodes in a fixed number of chunks, whose sums are added in order: the result
//! does not depend on the number of threads.
//!
//! An input that most rows have the same value of (the background of an image) costs nothing in
//! those rows: its part in the sums is a constant of the batch, and every other row adds the
//! difference.
//!
//! # Speed
//!
//! `cargo bench -p kan-train-host --bench peak` compares an epoch of
//! \[784, 64, 10\] with multiply-adds in registers. With AVX-512, on one of two cores that were busy
//! with other work too: 6 % of the peak where all inputs differ, 2 % where four of five are
//! background (whose rows cost nothing and are not counted). What keeps it from more are the parts
//! that are not multiply-adds: a basis and a SiLU for every input of every row, one number at a time,
//! and the update, which reads and writes 24 bytes a parameter and step, and takes a square root and
//! a division. `kan bench paper --only mnist --data DIR` times an epoch of MNIST: 1.7 to 8.7 s on one
//! such core, by how busy it was (2026-11-22).
//!
//! # Hidden grids
//!
//! Before every epoch, hidden nodes are looked at on some thousand rows. A grid that its node's
//! values have left or no longer fill is moved to mean ± 3 standard deviations (within the values
//! that occur, and a margin), by least squares, so that the function stays; beyond it edges are
//! straight lines. The moments stay with the numbers of the coefficients, since the same part of the
//! values falls to each as before.

use pulp::{Arch, Simd, WithSimd};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::grid::{self, HIDDEN_MARGIN};
use crate::network::{self, Base, Network};
use crate::objective::Samples;
use crate::spline::{Grid, MAX_ORDER};

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
    /// Rate 1e-3, a tenth of it after the last of `epochs` (a factor of 0.8 for ten of them), weight
    /// decay 1e-4, batches of 64 rows.
    pub fn over(epochs: usize, seed: u64) -> Self {
        Self {
            epochs,
            rate: 1e-3,
            decay: 0.8_f32.powf(10.0 / epochs.max(1) as f32),
            weight_decay: 1e-4,
            batch: 64,
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

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;
/// The nodes of a layer are shared out in so many chunks, each with its own sums.
const CHUNKS: usize = 8;
/// A layer with fewer numbers than this is not worth waking another thread.
const WORTH_SHARING: usize = 1 << 14;
/// Rows that the ranges of hidden nodes are taken from.
const SURVEYED: usize = 4096;
/// Standard deviations of a hidden node's values that its grid covers on each side.
const COVERED: f64 = 3.0;
/// Numbers side by side.
const LANES: usize = 16;

/// Part of a row, as wide as the widest registers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(align(64))]
struct Wide([f32; LANES]);

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

/// What the basis of a node gives in one row.
#[derive(Clone, Copy, Default)]
struct Active {
    /// Of the batch.
    row: u32,
    /// The first basis function that is not zero.
    first: u32,
    base: f32,
    base_slope: f32,
    value: [f32; MAX_ORDER],
    slope: [f32; MAX_ORDER],
}

/// A node's grid in `f32`.
struct Basis {
    grid: Grid,
    base: Base,
    lo: f32,
    hi: f32,
    /// 1/h if the grid is uniform.
    inv_step: Option<f32>,
    last: usize,
}

impl Basis {
    fn new(grid: &Grid, base: Base) -> Self {
        let inv_step = grid.intervals() as f64 / (grid.hi() - grid.lo());
        Self {
            grid: grid.clone(),
            base,
            lo: grid.lo() as f32,
            hi: grid.hi() as f32,
            inv_step: grid.is_uniform().then_some(inv_step as f32),
            last: grid.intervals() - 1,
        }
    }

    /// As [`Grid::local`] and [`Base::at`], linear beyond the grid. Written number by number to where
    /// it stays: a copy would wait for the numbers to reach the cache.
    #[inline(always)]
    fn at<const ORDER: usize>(&self, row: usize, x: f32, active: &mut Active) {
        active.row = row as u32;
        let Some(inv_step) = self.inv_step else {
            return self.exactly(x, active);
        };
        // The lower end for NaN.
        let clamped = x.max(self.lo).min(self.hi);
        let place = (clamped - self.lo) * inv_step;
        let first = (place as usize).min(self.last);
        let u = place - first as f32;
        let (mut value, mut slope) = ([0.0; ORDER], [0.0; ORDER]);
        value[0] = 1.0;
        for d in 1..ORDER {
            let (mut saved, mut slope_saved) = (0.0, 0.0);
            for r in 0..d {
                let term = value[r] * (1.0 / d as f32);
                if d + 1 == ORDER {
                    let q = d as f32 * inv_step * term;
                    slope[r] = slope_saved - q;
                    slope_saved = q;
                }
                value[r] = saved + ((r + 1) as f32 - u) * term;
                saved = (u + (d - r - 1) as f32) * term;
            }
            value[d] = saved;
            if d + 1 == ORDER {
                slope[d] = slope_saved;
            }
        }
        let beyond = x - clamped;
        active.first = first as u32;
        for r in 0..ORDER {
            active.value[r] = value[r] + beyond * slope[r];
            active.slope[r] = slope[r];
        }
        if self.base == Base::Silu {
            let factor = 2.0 / (self.hi - self.lo);
            let z = (clamped - self.lo) * factor - 1.0;
            let s = 1.0 / (1.0 + (-z).exp());
            active.base_slope = factor * s * (1.0 + z * (1.0 - s));
            active.base = z * s + beyond * active.base_slope;
        }
    }

    #[cold]
    fn exactly(&self, x: f32, active: &mut Active) {
        let local = self.grid.local(f64::from(x));
        let (base, base_slope) = self.base.at(&self.grid, f64::from(x));
        active.first = local.first as u32;
        active.value = local.value.map(|b| b as f32);
        active.slope = local.slope.map(|b| b as f32);
        active.base = base as f32;
        active.base_slope = base_slope as f32;
    }
}

/// An input node with the edges that leave it.
struct Node {
    basis: Basis,
    /// The value that most rows have.
    common: Option<f32>,
    /// Rows of parameters, `[G + k + 1][stride]`.
    c: Vec<Wide>,
    m: Vec<Wide>,
    v: Vec<Wide>,
    /// 1 where there is an edge, 0 where it is pruned, `[stride]`; `None` if all are there. (Padding
    /// needs none: its gradient is zero.)
    mask: Option<Vec<Wide>>,
    /// The rows of the batch that do not have the common value.
    active: Vec<Active>,
    is_used: bool,
}

/// Some input nodes of a layer, and what they add to its sums.
struct Chunk {
    nodes: Vec<Node>,
    /// Values of the nodes, `[nodes][batch]`.
    values: Vec<f32>,
    /// Sums over the nodes, `[batch][stride]`.
    sums: Vec<Wide>,
    /// Derivatives of the loss by the nodes' values, `[nodes][batch]`.
    back: Vec<f32>,
    /// Room for the gradient of one node.
    gradient: Vec<Wide>,
}

/// A layer.
struct Layer {
    chunks: Vec<Chunk>,
    per_chunk: usize,
    /// Wides in a row.
    stride: usize,
    bias: Vec<Wide>,
    /// Node sums, `[batch][stride]`.
    sums: Vec<Wide>,
    /// Derivatives of the loss by them.
    sensitivity: Vec<Wide>,
    /// Whether threads share the chunks.
    shared: bool,
}

/// A network laid out for the kernels.
struct Packed {
    layers: Vec<Layer>,
    /// Basis functions that are not zero at a point, k + 1.
    order: usize,
    with_base: bool,
}

impl Layer {
    fn of(layer: &network::Layer, base: Base, common: impl Fn(usize) -> Option<f32>) -> Self {
        let outputs = layer.outputs;
        let stride = outputs.div_ceil(LANES);
        let node = |i: usize| {
            let grid = &layer.grids[i];
            let size = (grid.functions() + 1) * stride;
            let mut mask = vec![Wide::default(); stride];
            let mut c = vec![Wide::default(); size];
            for (j, edge) in layer.edges_from(i) {
                let (at, lane) = (j / LANES, j % LANES);
                mask[at].0[lane] = 1.0;
                let parameters = edge.coef.iter().chain([&edge.scale_base]);
                for (row, &parameter) in c.chunks_exact_mut(stride).zip(parameters) {
                    row[at].0[lane] = parameter as f32;
                }
            }
            Node {
                basis: Basis::new(grid, base),
                common: common(i),
                m: vec![Wide::default(); size],
                v: vec![Wide::default(); size],
                c,
                mask: layer.edges_from(i).count().lt(&outputs).then_some(mask),
                active: Vec::new(),
                is_used: layer.is_used(i),
            }
        };
        let nodes: Vec<usize> = (0..layer.inputs()).collect();
        let per_chunk = nodes.len().div_ceil(CHUNKS);
        let chunk = |nodes: &[usize]| Chunk {
            nodes: nodes.iter().map(|&i| node(i)).collect(),
            values: Vec::new(),
            sums: Vec::new(),
            back: Vec::new(),
            gradient: Vec::new(),
        };
        let mut bias = vec![Wide::default(); stride];
        for (j, &b) in layer.bias.iter().enumerate() {
            bias[j / LANES].0[j % LANES] = b as f32;
        }
        Self {
            chunks: nodes.chunks(per_chunk).map(chunk).collect(),
            per_chunk,
            stride,
            bias,
            sums: Vec::new(),
            sensitivity: Vec::new(),
            shared: layer.edges.len() * layer.grids[0].functions() >= WORTH_SHARING,
        }
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.chunks.iter().flat_map(|chunk| &chunk.nodes)
    }

    fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.chunks.iter_mut().flat_map(|chunk| &mut chunk.nodes)
    }

    fn sum(&self, row: usize, j: usize) -> f32 {
        self.sums[row * self.stride + j / LANES].0[j % LANES]
    }

    /// Does `work` on every chunk, told the number of its first node.
    fn for_each_chunk(
        chunks: &mut [Chunk],
        per_chunk: usize,
        shared: bool,
        work: impl Fn(usize, &mut Chunk) + Sync,
    ) {
        let work = |(k, chunk)| work(k * per_chunk, chunk);
        if shared {
            chunks.par_iter_mut().enumerate().for_each(work);
        } else {
            chunks.iter_mut().enumerate().for_each(work);
        }
    }

    /// Node sums of a batch of `rows`; `value` gives what input node i has in row b.
    fn forward(
        &mut self,
        arch: Arch,
        order: usize,
        rows: usize,
        fill: impl Fn(usize, &mut Chunk) + Sync,
    ) {
        let stride = self.stride;
        Self::for_each_chunk(
            &mut self.chunks,
            self.per_chunk,
            self.shared,
            |first, chunk| {
                chunk.values.resize(chunk.nodes.len() * rows, 0.0);
                fill(first, chunk);
                match order {
                    2 => arch.dispatch(Forward::<2> {
                        chunk,
                        rows,
                        stride,
                    }),
                    3 => arch.dispatch(Forward::<3> {
                        chunk,
                        rows,
                        stride,
                    }),
                    4 => arch.dispatch(Forward::<4> {
                        chunk,
                        rows,
                        stride,
                    }),
                    5 => arch.dispatch(Forward::<5> {
                        chunk,
                        rows,
                        stride,
                    }),
                    _ => arch.dispatch(Forward::<6> {
                        chunk,
                        rows,
                        stride,
                    }),
                }
            },
        );
        self.sums.clear();
        for _ in 0..rows {
            self.sums.extend_from_slice(&self.bias);
        }
        for chunk in &self.chunks {
            for (sum, part) in self.sums.iter_mut().zip(&chunk.sums) {
                for (sum, part) in sum.0.iter_mut().zip(&part.0) {
                    *sum += part;
                }
            }
        }
    }

    /// Steps all parameters down the gradient of the sums' sensitivities, and leaves in every
    /// chunk those of its nodes, if they are asked for.
    fn backward(&mut self, arch: Arch, order: usize, rows: usize, step: &Step, deeper: bool) {
        let (stride, sensitivity) = (self.stride, &self.sensitivity[..]);
        let mut total = vec![Wide::default(); stride];
        for row in sensitivity.chunks_exact(stride) {
            for (total, s) in total.iter_mut().zip(row) {
                for (total, s) in total.0.iter_mut().zip(&s.0) {
                    *total += s;
                }
            }
        }
        let total = &total[..];
        Self::for_each_chunk(&mut self.chunks, self.per_chunk, self.shared, |_, chunk| {
            let rest = Sums {
                rows,
                stride,
                sensitivity,
                total,
                step,
                deeper,
            };
            match order {
                2 => arch.dispatch(Backward::<2> { chunk, rest }),
                3 => arch.dispatch(Backward::<3> { chunk, rest }),
                4 => arch.dispatch(Backward::<4> { chunk, rest }),
                5 => arch.dispatch(Backward::<5> { chunk, rest }),
                _ => arch.dispatch(Backward::<6> { chunk, rest }),
            }
        });
    }
}

/// What a chunk adds to the node sums of a batch.
struct Forward<'a, const ORDER: usize> {
    chunk: &'a mut Chunk,
    rows: usize,
    stride: usize,
}

/// The rows of a block that a value touches: its basis functions, and the base.
#[inline(always)]
fn touched<const ORDER: usize>(block: &[Wide], stride: usize, first: u32) -> [&[Wide]; ORDER] {
    let rows = &block[first as usize * stride..][..ORDER * stride];
    std::array::from_fn(|r| &rows[r * stride..(r + 1) * stride])
}

/// Part `p` of a wide in the machine's registers.
#[inline(always)]
fn part<S: Simd>(wide: &Wide, p: usize) -> S::f32s {
    S::as_simd_f32s(&wide.0).0[p]
}

#[inline(always)]
fn part_mut<S: Simd>(wide: &mut Wide, p: usize) -> &mut S::f32s {
    &mut S::as_mut_simd_f32s(&mut wide.0).0[p]
}

impl<const ORDER: usize> WithSimd for Forward<'_, ORDER> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            chunk,
            rows,
            stride,
        } = self;
        chunk.sums.clear();
        chunk.sums.resize(rows * stride, Wide::default());
        // What the common values add in every row.
        let mut constant = vec![Wide::default(); stride];
        let mut own = vec![Wide::default(); stride];
        for (node, values) in chunk.nodes.iter_mut().zip(chunk.values.chunks_exact(rows)) {
            if !node.is_used {
                continue;
            }
            let basis = &node.basis;
            node.active.resize(rows, Active::default());
            let mut actives = 0;
            for (row, &x) in values.iter().enumerate() {
                if node.common != Some(x) {
                    basis.at::<ORDER>(row, x, &mut node.active[actives]);
                    actives += 1;
                }
            }
            node.active.truncate(actives);
            let base_row = &node.c[node.c.len() - stride..];
            if let Some(x) = node.common {
                let mut active = Active::default();
                basis.at::<ORDER>(0, x, &mut active);
                let touched = touched::<ORDER>(&node.c, stride, active.first);
                own.fill(Wide::default());
                let rows = touched.into_iter().zip(&active.value);
                for (row, weight) in rows.chain([(base_row, &active.base)]) {
                    for (own, c) in own.iter_mut().zip(row) {
                        for (own, c) in own.0.iter_mut().zip(&c.0) {
                            *own += weight * c;
                        }
                    }
                }
                for (constant, own) in constant.iter_mut().zip(&own) {
                    for (constant, own) in constant.0.iter_mut().zip(&own.0) {
                        *constant += own;
                    }
                }
            }
            for active in &node.active {
                let touched = touched::<ORDER>(&node.c, stride, active.first);
                let sums = &mut chunk.sums[active.row as usize * stride..][..stride];
                let weight: [S::f32s; ORDER] =
                    std::array::from_fn(|r| simd.splat_f32s(active.value[r]));
                let base = simd.splat_f32s(active.base);
                for l in 0..stride {
                    for p in 0..LANES / S::F32_LANES {
                        let sum = part_mut::<S>(&mut sums[l], p);
                        // Two chains: the additions wait for each other.
                        let mut even = simd.sub_f32s(*sum, part::<S>(&own[l], p));
                        let mut odd = simd.mul_f32s(base, part::<S>(&base_row[l], p));
                        for r in 0..ORDER {
                            let to = if r % 2 == 0 { &mut even } else { &mut odd };
                            *to = simd.mul_add_e_f32s(weight[r], part::<S>(&touched[r][l], p), *to);
                        }
                        *sum = simd.add_f32s(even, odd);
                    }
                }
            }
            if node.common.is_some() {
                own.fill(Wide::default());
            }
        }
        for sums in chunk.sums.chunks_exact_mut(stride) {
            for (sum, constant) in sums.iter_mut().zip(&constant) {
                for (sum, constant) in sum.0.iter_mut().zip(&constant.0) {
                    *sum += constant;
                }
            }
        }
    }
}

/// What a chunk needs to know for its step.
#[derive(Clone, Copy)]
struct Sums<'a> {
    rows: usize,
    stride: usize,
    /// Derivatives of the loss by the node sums, `[rows][stride]`.
    sensitivity: &'a [Wide],
    /// The sum of them over the rows.
    total: &'a [Wide],
    step: &'a Step,
    /// Whether the derivatives by the inputs are wanted.
    deeper: bool,
}

struct Backward<'a, const ORDER: usize> {
    chunk: &'a mut Chunk,
    rest: Sums<'a>,
}

impl<const ORDER: usize> WithSimd for Backward<'_, ORDER> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { chunk, rest } = self;
        let Sums {
            rows,
            stride,
            sensitivity,
            total,
            step,
            deeper,
        } = rest;
        let parts = LANES / S::F32_LANES;
        if deeper {
            chunk.back.clear();
            chunk.back.resize(chunk.nodes.len() * rows, 0.0);
        }
        let mut others = vec![Wide::default(); stride];
        for (i, node) in chunk.nodes.iter_mut().enumerate() {
            if !node.is_used {
                continue;
            }
            if deeper {
                let base_row = &node.c[node.c.len() - stride..];
                for active in &node.active {
                    let touched = touched::<ORDER>(&node.c, stride, active.first);
                    let s = &sensitivity[active.row as usize * stride..][..stride];
                    let slope: [S::f32s; ORDER] =
                        std::array::from_fn(|r| simd.splat_f32s(active.slope[r]));
                    let base = simd.splat_f32s(active.base_slope);
                    let mut sum = simd.splat_f32s(0.0);
                    for l in 0..stride {
                        for p in 0..parts {
                            let mut rise = simd.mul_f32s(base, part::<S>(&base_row[l], p));
                            for r in 0..ORDER {
                                let row = part::<S>(&touched[r][l], p);
                                rise = simd.mul_add_e_f32s(slope[r], row, rise);
                            }
                            sum = simd.mul_add_e_f32s(part::<S>(&s[l], p), rise, sum);
                        }
                    }
                    chunk.back[i * rows + active.row as usize] = simd.reduce_sum_f32s(sum);
                }
            }
            let gradient = &mut chunk.gradient;
            gradient.clear();
            gradient.resize(node.c.len(), Wide::default());
            let (splines, base_row) = gradient.split_at_mut(node.c.len() - stride);
            others.fill(Wide::default());
            let mut add = |active: &Active, s: &[Wide], counts: f32| {
                let touched = &mut splines[active.first as usize * stride..][..ORDER * stride];
                let weight: [S::f32s; ORDER] =
                    std::array::from_fn(|r| simd.splat_f32s(active.value[r]));
                let base = simd.splat_f32s(active.base);
                let counts = simd.splat_f32s(counts);
                for l in 0..stride {
                    for p in 0..parts {
                        let s = part::<S>(&s[l], p);
                        for r in 0..ORDER {
                            let slot = part_mut::<S>(&mut touched[r * stride + l], p);
                            *slot = simd.mul_add_e_f32s(weight[r], s, *slot);
                        }
                        let slot = part_mut::<S>(&mut base_row[l], p);
                        *slot = simd.mul_add_e_f32s(base, s, *slot);
                        let slot = part_mut::<S>(&mut others[l], p);
                        *slot = simd.mul_add_e_f32s(counts, s, *slot);
                    }
                }
            };
            for active in &node.active {
                let s = &sensitivity[active.row as usize * stride..][..stride];
                add(active, s, 1.0);
            }
            if let Some(x) = node.common {
                let mut active = Active::default();
                node.basis.at::<ORDER>(0, x, &mut active);
                for (other, total) in others.iter_mut().zip(total) {
                    for (other, total) in other.0.iter_mut().zip(&total.0) {
                        *other = total - *other;
                    }
                }
                let touched = &mut splines[active.first as usize * stride..][..ORDER * stride];
                let rows = touched.chunks_exact_mut(stride).zip(&active.value);
                for (row, weight) in rows.chain([(&mut *base_row, &active.base)]) {
                    for (slot, s) in row.iter_mut().zip(&others) {
                        for (slot, s) in slot.0.iter_mut().zip(&s.0) {
                            *slot += weight * s;
                        }
                    }
                }
            }
            let parameters = node.c.chunks_exact_mut(stride);
            let moments = node
                .m
                .chunks_exact_mut(stride)
                .zip(node.v.chunks_exact_mut(stride));
            let gradients = chunk.gradient.chunks_exact_mut(stride);
            for ((c, (m, v)), g) in parameters.zip(moments).zip(gradients) {
                for (g, mask) in g.iter_mut().zip(node.mask.iter().flatten()) {
                    for (g, mask) in g.0.iter_mut().zip(&mask.0) {
                        *g *= mask;
                    }
                }
                for l in 0..stride {
                    step.apply(&mut c[l], &mut m[l], &mut v[l], &g[l]);
                }
            }
        }
    }
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

    /// For every parameter, in the order of [`Network::to_vector`], calls `visit` with the node, the
    /// place in its block, and the lane.
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
