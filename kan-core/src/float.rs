//! Layers of tables of `f32`: their checks, and their evaluation.

use crate::base::silu;
use crate::blob::{LoadError, Node};
#[cfg(kan_vfp)]
use crate::kernel::{self, Plan};
use crate::kinds;
use crate::layer::{LARGEST_SUM, largest};

/// Most intervals of a grid: the number of a node's coefficients then fits 32 bits.
const MOST_INTERVALS: u16 = u16::MAX - 3;

/// Widest grid with a margin, in intervals: `f32` still tells eighths of an interval apart.
const WIDEST_COVER: f32 = (1 << 20) as f32;

/// The tables of one layer.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'m> {
    /// 3, 1 or 0.
    pub degree: usize,
    pub nodes: &'m [[u32; 4]],
    pub bias: &'m [f32],
    pub targets: &'m [u16],
    pub coefficients: &'m [f32],
    /// Factors of the base function, one for each edge if the layer is residual.
    pub base: &'m [f32],
}

impl<'m> Tables<'m> {
    /// Checks the tables: afterwards evaluation is total, and its sums are finite.
    pub fn check(&self) -> Result<(), LoadError> {
        let malformed = LoadError::Malformed;
        let mut bound = largest(self.bias)?;
        let factor = largest(self.base)?;
        let (mut targets, mut rows) = (self.targets, self.coefficients);
        for &words in self.nodes {
            let node = Node::unpack(words);
            let edges = usize::from(node.edges);
            // Wraps only where `Node::check` refuses the node.
            let count = (usize::from(node.intervals) + self.degree).wrapping_mul(edges);
            let targets = targets.split_off(..edges).ok_or(malformed)?;
            let rows = rows.split_off(..count).ok_or(malformed)?;
            bound += bound_of(&node, targets, rows, self.bias.len(), factor)?;
        }
        if !targets.is_empty() || !rows.is_empty() {
            return Err(malformed);
        }
        if bound <= LARGEST_SUM {
            Ok(())
        } else {
            Err(LoadError::Overflow)
        }
    }

    /// Whether every input that an edge reads lies within its grid and margin.
    pub fn covers(&self, mut input: &[f32]) -> bool {
        self.nodes.iter().all(|&words| {
            let node = Node::unpack(words);
            let (_, beyond) = node.nearest(next(&mut input));
            node.edges == 0 || beyond.abs() <= node.margin
        })
    }

    /// Writes biases and splines to the start of `output`.
    ///
    /// Here and below, `None` would be an access out of bounds, or an input that is missing: there
    /// is none after [`check`](Self::check) where inputs are as many as nodes. That the compiler
    /// sees it too keeps the code free of panics.
    #[cfg(not(kan_vfp))]
    #[inline(always)]
    pub fn eval<const KINDS: u16>(&self, input: &[f32], output: &mut [f32]) -> Option<()> {
        let sums = output.get_mut(..self.bias.len())?;
        sums.copy_from_slice(self.bias);
        match self.degree {
            3 if KINDS & kinds::CUBIC_F32 != 0 => self.add_splines::<Cubic>(input, sums),
            1 if KINDS & kinds::LINEAR_F32 != 0 => self.add_splines::<Linear>(input, sums),
            0 if KINDS & kinds::STEP_F32 != 0 => self.add_splines::<Step>(input, sums),
            _ => None,
        }
    }

    /// How a kernel evaluates the layer.
    #[cfg(kan_vfp)]
    pub fn plan<const KINDS: u16>(&self, plan: &mut Plan<'m>) {
        let kernel: kernel::Kernel = match self.degree {
            3 if KINDS & kinds::CUBIC_F32 != 0 => kernel::cubic_f32,
            1 if KINDS & kinds::LINEAR_F32 != 0 => kernel::linear_f32,
            0 if KINDS & kinds::STEP_F32 != 0 => kernel::step_f32,
            _ => return,
        };
        plan.of_floats(kernel, self.coefficients, self.targets);
    }

    // Not inlined: in one function the loops of all degrees compete for registers.
    #[cfg(not(kan_vfp))]
    #[inline(never)]
    fn add_splines<B: Basis>(&self, input: &[f32], sums: &mut [f32]) -> Option<()> {
        let (mut first, mut coefficients) = (0, self.coefficients);
        let input = input.get(..self.nodes.len())?;
        for (&words, &x) in self.nodes.iter().zip(input) {
            let node = Node::unpack(words);
            let edges = usize::from(node.edges);
            let count = (usize::from(node.intervals) + B::DEGREE) * edges;
            let rows = coefficients.split_off(..count)?;
            let t = node.position(x);
            // The conversion saturates; NaN becomes 0.
            let interval = (t as u32).min(u32::from(node.intervals) - 1);
            let rows = rows.get(interval as usize * edges..)?;
            let basis = B::at(&node, t, interval as f32);
            basis.add(rows, &self.fan(first, &node), sums)?;
            first += edges;
        }
        Some(())
    }

    /// Adds the base functions of a residual layer to its splines.
    #[inline(never)]
    pub fn add_base(&self, input: &[f32], output: &mut [f32]) -> Option<()> {
        let sums = output.get_mut(..self.bias.len())?;
        let (mut first, mut factors) = (0, self.base);
        for (&words, &x) in self.nodes.iter().zip(input) {
            let node = Node::unpack(words);
            let factors = factors.split_off(..usize::from(node.edges))?;
            let base = node.base(x);
            let fan = self.fan(first, &node);
            fan.add(sums, factors, |sum, factor| sum + base * factor)?;
            first += usize::from(node.edges);
        }
        Some(())
    }

    /// The edges that leave a node, of which `first` is the first.
    fn fan(&self, first: usize, node: &Node) -> Fan<'_> {
        Fan {
            targets: self.targets,
            first,
            edges: node.edges,
        }
    }
}

/// Takes the next input, 0 if there is none.
fn next(input: &mut &[f32]) -> f32 {
    input.split_off_first().copied().unwrap_or(0.0)
}

impl Node {
    /// Checks the grid: wherever it covers x, x − lo is far from overflowing.
    fn check(&self) -> Result<(), LoadError> {
        largest(&[self.lo, self.inv_step, self.margin])?;
        let regular = (1..=MOST_INTERVALS).contains(&self.intervals)
            && self.inv_step >= f32::MIN_POSITIVE
            && self.margin >= 0.0;
        if !regular {
            return Err(LoadError::Malformed);
        }
        let width = f32::from(self.intervals) + self.margin;
        let reach = self.lo.abs() + width / self.inv_step;
        if width <= WIDEST_COVER && reach <= LARGEST_SUM {
            Ok(())
        } else {
            Err(LoadError::Overflow)
        }
    }

    /// Where `x` is, in intervals from the grid's left end.
    fn position(&self, x: f32) -> f32 {
        (x - self.lo) * self.inv_step
    }

    /// The nearest point on the grid to a position. NaN is nearest to the left end.
    fn clamp(&self, t: f32) -> f32 {
        within(t, 0.0, f32::from(self.intervals))
    }

    /// The nearest point to `x` on the grid, as a position, and how far beyond it `x` is; NaN for
    /// NaN.
    fn nearest(&self, x: f32) -> (f32, f32) {
        let t = self.position(x);
        let nearest = self.clamp(t);
        (nearest, t - nearest)
    }

    /// The base function at `x`: SiLU, which sees the grid as −1 to 1, and its tangents beyond.
    fn base(&self, x: f32) -> f32 {
        let (nearest, beyond) = self.nearest(x);
        let beyond = within(beyond, -self.margin, self.margin);
        let factor = 2.0 / f32::from(self.intervals);
        silu(nearest * factor - 1.0, beyond * factor)
    }
}

/// `x` if it is less than `high`, else `high`. (The minimum of `f32` has its own view of NaN.)
fn smaller(x: f32, high: f32) -> f32 {
    if x < high { x } else { high }
}

/// `x` if it is greater than `low`, else `low`.
fn larger(x: f32, low: f32) -> f32 {
    if x > low { x } else { low }
}

/// `x` or the nearer end of `low` to `high`; `low` for NaN.
fn within(x: f32, low: f32, high: f32) -> f32 {
    smaller(larger(x, low), high)
}

/// The `DEGREE` + 1 B-splines that are not zero on an interval, as weights of their coefficients.
#[cfg(not(kan_vfp))]
trait Basis {
    const DEGREE: usize;

    /// Their values at a position in an interval, or beyond the grid those of their tangents at its
    /// end.
    fn at(node: &Node, t: f32, interval: f32) -> Self;

    /// Adds the edges of a node to the sums, given its rows from the interval's first on.
    fn add(&self, rows: &[f32], fan: &Fan, sums: &mut [f32]) -> Option<()>;
}

#[cfg(not(kan_vfp))]
struct Cubic([f32; 4]);

#[cfg(not(kan_vfp))]
impl Basis for Cubic {
    const DEGREE: usize = 3;

    fn at(node: &Node, t: f32, interval: f32) -> Self {
        let nearest = node.clamp(t);
        let u = nearest - interval;
        let v = 1.0 - u;
        let (u2, v2) = (0.5 * u * u, 0.5 * v * v);
        // Times the slope: 1/2 at the end that is passed, where v or u is 1, and 0 at the other.
        let beyond = smaller((t - nearest).abs(), node.margin);
        let (left, right) = (beyond * v2, beyond * u2);
        Self([
            v2 * v * (1.0 / 3.0) + left,
            (u - 2.0) * u2 + 2.0 / 3.0 - right,
            (v - 2.0) * v2 + 2.0 / 3.0 - left,
            u2 * u * (1.0 / 3.0) + right,
        ])
    }

    fn add(&self, rows: &[f32], fan: &Fan, sums: &mut [f32]) -> Option<()> {
        let [w0, w1, w2, w3] = self.0;
        let n = usize::from(fan.edges);
        // The only check: the compiler sees that no u16 makes the others fail.
        let rows = rows.get(..4 * n)?;
        let (r0, r1) = (rows.get(..n)?, rows.get(n..2 * n)?);
        let (r2, r3) = (rows.get(2 * n..3 * n)?, rows.get(3 * n..)?);
        let edges = r0.iter().zip(r1).zip(r2).zip(r3);
        fan.add(sums, edges, |sum, (((c0, c1), c2), c3)| {
            sum + w0 * c0 + w1 * c1 + w2 * c2 + w3 * c3
        })
    }
}

#[cfg(not(kan_vfp))]
struct Linear([f32; 2]);

#[cfg(not(kan_vfp))]
impl Basis for Linear {
    const DEGREE: usize = 1;

    fn at(node: &Node, t: f32, interval: f32) -> Self {
        let u = within(t - interval, -node.margin, 1.0 + node.margin);
        Self([1.0 - u, u])
    }

    fn add(&self, rows: &[f32], fan: &Fan, sums: &mut [f32]) -> Option<()> {
        let [w0, w1] = self.0;
        let n = usize::from(fan.edges);
        let rows = rows.get(..2 * n)?;
        let (r0, r1) = (rows.get(..n)?, rows.get(n..)?);
        fan.add(sums, r0.iter().zip(r1), |sum, (c0, c1)| {
            sum + w0 * c0 + w1 * c1
        })
    }
}

#[cfg(not(kan_vfp))]
struct Step;

#[cfg(not(kan_vfp))]
impl Basis for Step {
    const DEGREE: usize = 0;

    fn at(_: &Node, _: f32, _: f32) -> Self {
        Self
    }

    fn add(&self, rows: &[f32], fan: &Fan, sums: &mut [f32]) -> Option<()> {
        fan.add(sums, rows.get(..usize::from(fan.edges))?, |sum, c| sum + c)
    }
}

/// The edges that leave one node.
struct Fan<'m> {
    /// The targets of all edges of the layer.
    targets: &'m [u16],
    /// The node's first one among them.
    first: usize,
    /// Number of edges.
    edges: u16,
}

impl Fan<'_> {
    /// Adds one edge after the other to the sum of its target. Where there are as many edges as
    /// sums, the targets are 0, 1, 2, … and need no look.
    fn add<T>(
        &self,
        sums: &mut [f32],
        edges: impl IntoIterator<Item = T>,
        plus: impl Fn(f32, T) -> f32,
    ) -> Option<()> {
        let count = usize::from(self.edges);
        if count == sums.len() {
            for (sum, edge) in sums.iter_mut().zip(edges) {
                *sum = plus(*sum, edge);
            }
            return Some(());
        }
        let targets = self.targets.get(self.first..)?.get(..count)?;
        for (&target, edge) in targets.iter().zip(edges) {
            let sum = sums.get_mut(usize::from(target))?;
            *sum = plus(*sum, edge);
        }
        Some(())
    }
}

/// Checks the tables of a node, and bounds what any of its edges can add to a sum.
fn bound_of(
    node: &Node,
    targets: &[u16],
    rows: &[f32],
    outputs: usize,
    factor: f32,
) -> Result<f32, LoadError> {
    let mut lowest = 0;
    for &target in targets {
        let target = usize::from(target);
        if target < lowest || target >= outputs {
            return Err(LoadError::Malformed);
        }
        lowest = target + 1;
    }
    node.check()?;
    // The weights of a spline sum to 1; each interval of extension adds at most 2 to the sum
    // of their magnitudes.
    let spline = largest(rows)? * (1.0 + 2.0 * node.margin);
    // Neither SiLU nor its slope exceeds 1 on the grid, which it sees 2 wide.
    let base = factor * (1.0 + 2.0 * node.margin / f32::from(node.intervals));
    Ok(spline + base)
}
