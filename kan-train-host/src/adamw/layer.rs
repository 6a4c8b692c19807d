//! A layer in `f32`, laid out for batches of rows: node sums forward, derivatives and steps
//! backward.
//!
//! The edges that leave one input node are one block of rows, `[G + k + 1][outputs]`: a row for
//! each basis function, then one for the base function; rows are padded to 16 numbers. What one
//! sample adds to the node sums is then `k + 2` multiples of rows, of which `k + 1` are neighbours,
//! and a block of a few KiB stays in the first cache while a whole batch goes over it. The gradient
//! of a block lives only while its node is at work: it is summed, and spent on the block's step, at
//! once. Threads share the nodes in a fixed number of chunks, whose sums are added in order: the
//! result does not depend on the number of threads.
//!
//! An input that most rows have the same value of (the background of an image) costs nothing in
//! those rows: its part in the sums is a constant of the batch, and every other row adds the
//! difference.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::Step;
use crate::network::{self, Base};
use crate::spline::{Grid, MAX_ORDER};

/// The nodes of a layer are shared out in so many chunks, each with its own sums.
const CHUNKS: usize = 8;
/// A layer with fewer numbers than this is not worth waking another thread.
const WORTH_SHARING: usize = 1 << 14;
/// Numbers side by side.
pub(super) const LANES: usize = 16;

/// Part of a row, as wide as the widest registers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(align(64))]
pub(super) struct Wide(pub(super) [f32; LANES]);

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

    /// As [`Grid::local`] and [`Base::at`], linear beyond the grid. Written number by number to
    /// where it stays: a copy would wait for the numbers to reach the cache.
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
pub(super) struct Node {
    basis: Basis,
    /// The value that most rows have.
    common: Option<f32>,
    /// Rows of parameters, `[G + k + 1][stride]`.
    pub(super) c: Vec<Wide>,
    pub(super) m: Vec<Wide>,
    pub(super) v: Vec<Wide>,
    /// 1 where there is an edge, 0 where it is pruned, `[stride]`; `None` if all are there.
    /// (Padding needs none: its gradient is zero.)
    mask: Option<Vec<Wide>>,
    /// The rows of the batch that do not have the common value.
    active: Vec<Active>,
    is_used: bool,
}

/// Some input nodes of a layer, and what they add to its sums.
pub(super) struct Chunk {
    pub(super) nodes: Vec<Node>,
    /// Values of the nodes, `[nodes][batch]`.
    pub(super) values: Vec<f32>,
    /// Sums over the nodes, `[batch][stride]`.
    sums: Vec<Wide>,
    /// Derivatives of the loss by the nodes' values, `[nodes][batch]`.
    pub(super) back: Vec<f32>,
    /// Room for the gradient of one node.
    gradient: Vec<Wide>,
}

/// A layer.
pub(super) struct Layer {
    pub(super) chunks: Vec<Chunk>,
    per_chunk: usize,
    /// Wides in a row.
    pub(super) stride: usize,
    bias: Vec<Wide>,
    /// Node sums, `[batch][stride]`.
    pub(super) sums: Vec<Wide>,
    /// Derivatives of the loss by them.
    pub(super) sensitivity: Vec<Wide>,
    /// Whether threads share the chunks.
    shared: bool,
}

impl Layer {
    pub(super) fn of(
        layer: &network::Layer,
        base: Base,
        common: impl Fn(usize) -> Option<f32>,
    ) -> Self {
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

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.chunks.iter().flat_map(|chunk| &chunk.nodes)
    }

    pub(super) fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.chunks.iter_mut().flat_map(|chunk| &mut chunk.nodes)
    }

    pub(super) fn sum(&self, row: usize, j: usize) -> f32 {
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
    pub(super) fn forward(
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
    pub(super) fn backward(
        &mut self,
        arch: Arch,
        order: usize,
        rows: usize,
        step: &Step,
        deeper: bool,
    ) {
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
