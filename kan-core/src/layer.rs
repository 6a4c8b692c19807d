//! One layer of a model: its tables, their checks, and the three steps of evaluation.

use crate::base::silu;
use crate::blob::{LoadError, Node, Reader, Scalar};
use crate::integer::{Entry, Tables};
use crate::kernel::Slot;
use crate::kinds;

/// No sum of table entries may be able to exceed this. It is a quarter of what `f32` can hold, so
/// that neither the rounding of the sums nor that of their bound matters.
const LARGEST_SUM: f32 = f32::MAX / 4.0;

/// Most intervals of a grid: the number of a node's coefficients then fits 32 bits.
const MOST_INTERVALS: u16 = u16::MAX - 3;

/// Widest grid with a margin, in intervals: `f32` still tells eighths of an interval apart.
const WIDEST_COVER: f32 = (1 << 20) as f32;

/// The tables of one layer, borrowed from the blob.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'m> {
    degree: Degree,
    nodes: &'m [[u32; 4]],
    bias: &'m [f32],
    targets: &'m [u16],
    coefficients: Coefficients<'m>,
    base: &'m [f32],
}

/// What the tables of one layer are; see [`Model::tables`](crate::Model::tables).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LayerTables {
    /// Degree of the splines: 3, 1 or 0.
    pub degree: u8,
    /// Number format of the coefficients.
    pub scalar: Scalar,
    /// Whether every edge has a SiLU base function beside its spline.
    pub residual: bool,
    /// Number of input nodes.
    pub inputs: usize,
    /// Number of output nodes.
    pub outputs: usize,
    /// Number of edges, at most `inputs`·`outputs`.
    pub edges: usize,
}

#[derive(Clone, Copy)]
enum Degree {
    Step = 0,
    Linear = 1,
    Cubic = 3,
}

/// The coefficients in their number format: an arm for each that can be evaluated.
#[derive(Clone, Copy)]
enum Coefficients<'m> {
    F32(&'m [f32]),
    I16(&'m [i16]),
    I8(&'m [i8]),
}

impl<'m> Layer<'m> {
    /// Reads a layer and checks it: afterwards evaluation is total, and its sums are finite.
    ///
    /// `KINDS` are the [kinds] that are supported; `of_inputs` and `of_outputs` say whether the layer
    /// is the first and the last.
    pub fn read<const KINDS: u16>(
        reader: &mut Reader<'m>,
        inputs: usize,
        of_inputs: bool,
        of_outputs: bool,
    ) -> Result<Self, LoadError> {
        let malformed = LoadError::Malformed;
        let (degree, kind) = match reader.number().ok_or(malformed)? {
            0 => (Degree::Step, kinds::STEP_F32),
            1 => (Degree::Linear, kinds::LINEAR_F32),
            3 => (Degree::Cubic, kinds::CUBIC_F32),
            _ => return Err(LoadError::Unsupported),
        };
        let scalar = reader.number().ok_or(malformed)?;
        let residual = reader.number().ok_or(malformed)?;
        let outputs = reader.number().ok_or(malformed)?;
        let kind = match scalar {
            0..3 => kind << (3 * scalar),
            _ => return Err(malformed),
        };
        let kind = match residual {
            0 => kind,
            1 => kind | kinds::RESIDUAL,
            _ => return Err(malformed),
        };
        if kind & !KINDS != 0 {
            return Err(LoadError::Unsupported);
        }
        let nodes = reader.array().ok_or(malformed)?;
        let bias: &[f32] = reader.array().ok_or(malformed)?;
        let targets = reader.array().ok_or(malformed)?;
        let coefficients = match scalar {
            1 if KINDS & kinds::I16 != 0 => Coefficients::I16(reader.array().ok_or(malformed)?),
            2 if KINDS & kinds::I8 != 0 => Coefficients::I8(reader.array().ok_or(malformed)?),
            _ => Coefficients::F32(reader.array().ok_or(malformed)?),
        };
        let base = reader.array().ok_or(malformed)?;
        if nodes.len() != inputs || bias.len() != outputs || outputs == 0 {
            return Err(malformed);
        }
        let layer = Self {
            degree,
            nodes,
            bias,
            targets,
            coefficients,
            base,
        };
        if scalar == 0 && KINDS & kinds::F32 != 0 {
            layer.check_f32(residual == 1)?;
        } else if residual == 0 {
            layer.check_integer::<KINDS>(of_inputs, of_outputs)?;
        } else {
            return Err(malformed);
        }
        Ok(layer)
    }

    /// Checks tables of `f32`.
    fn check_f32(&self, residual: bool) -> Result<(), LoadError> {
        let malformed = LoadError::Malformed;
        let Self {
            degree,
            nodes,
            bias,
            targets,
            base,
            ..
        } = *self;
        let outputs = bias.len();
        let factors = if residual { targets.len() } else { 0 };
        if base.len() != factors {
            return Err(malformed);
        }
        let mut bound = largest(bias)?;
        let factor = largest(base)?;
        let mut rows = self.f32();
        let mut rest = targets;
        for &words in nodes {
            let node = Node::unpack(words);
            let edges = usize::from(node.edges);
            // Wraps only where `Node::check` refuses the node.
            let count = (usize::from(node.intervals) + degree as usize).wrapping_mul(edges);
            let targets = rest.split_off(..edges).ok_or(malformed)?;
            let rows = rows.split_off(..count).ok_or(malformed)?;
            bound += bound_of(&node, targets, rows, outputs, factor)?;
        }
        if !rest.is_empty() || !rows.is_empty() {
            return Err(malformed);
        }
        if bound <= LARGEST_SUM {
            Ok(())
        } else {
            Err(LoadError::Overflow)
        }
    }

    /// Checks tables of integers.
    fn check_integer<const KINDS: u16>(
        &self,
        of_inputs: bool,
        of_outputs: bool,
    ) -> Result<(), LoadError> {
        let inputs = if of_inputs { self.nodes.len() } else { 0 };
        let outputs = if of_outputs { self.bias.len() } else { 0 };
        let (shift, numbers) = self.base.split_first().ok_or(LoadError::Malformed)?;
        if shift.to_bits() > 30 || numbers.len() != 2 * (inputs + outputs) {
            return Err(LoadError::Malformed);
        }
        largest(numbers)?;
        let (_, of_outputs) = numbers.split_at_checked(2 * inputs).unwrap_or_default();
        for [scale, zero] in of_outputs.as_chunks().0 {
            let reach = scale.abs() * -(i32::MIN as f32) + zero.abs();
            if reach > LARGEST_SUM || reach.is_nan() {
                return Err(LoadError::Overflow);
            }
        }
        match self.coefficients {
            Coefficients::I16(table) if KINDS & kinds::I16 != 0 => self.integers(table).check(),
            Coefficients::I8(table) if KINDS & kinds::I8 != 0 => self.integers(table).check(),
            _ => Err(LoadError::Unsupported),
        }
    }

    /// Whether the tables are integers.
    pub fn is_integer(&self) -> bool {
        !matches!(self.coefficients, Coefficients::F32(_))
    }

    /// The coefficients of a layer of `f32`.
    fn f32(&self) -> &'m [f32] {
        match self.coefficients {
            Coefficients::F32(coefficients) => coefficients,
            _ => &[],
        }
    }

    /// The tables of a layer of integers.
    fn integers<T: Entry>(&self, coefficients: &'m [T]) -> Tables<'m, T> {
        Tables {
            degree: self.degree as usize,
            nodes: self.nodes,
            bias: bytemuck::must_cast_slice(self.bias),
            groups: self.targets.as_chunks().0,
            coefficients,
            shift: self.base.first().map_or(0, |shift| shift.to_bits() & 31),
        }
    }

    /// The scales and zeros of the inputs of a model of integers (in its first layer).
    pub fn input_scales(&self) -> &'m [[f32; 2]] {
        self.base.get(1..).unwrap_or(&[]).as_chunks().0
    }

    /// The scales and zeros of its outputs (in its last layer).
    pub fn output_scales(&self) -> &'m [[f32; 2]] {
        let start = self.base.len().saturating_sub(2 * self.bias.len());
        self.base.get(start..).unwrap_or(&[]).as_chunks().0
    }

    pub fn tables(&self) -> LayerTables {
        let integers = |scalar, edges| (scalar, false, edges);
        let (scalar, residual, edges) = match self.coefficients {
            Coefficients::F32(_) => (Scalar::F32, !self.base.is_empty(), self.targets.len()),
            Coefficients::I16(table) => integers(Scalar::I16, self.integers(table).edges()),
            Coefficients::I8(table) => integers(Scalar::I8, self.integers(table).edges()),
        };
        LayerTables {
            degree: self.degree as u8,
            scalar,
            residual,
            inputs: self.nodes.len(),
            outputs: self.bias.len(),
            edges,
        }
    }

    /// Whether the outputs can be compared as logits: integers must have one scale, and zero 0.
    pub fn is_of_logits(&self) -> bool {
        let scales = self.output_scales();
        let is_common =
            |scale: &[f32; 2]| scale[0] > 0.0 && scale[1] == 0.0 && scales.first() == Some(scale);
        !self.is_integer() || scales.iter().all(is_common)
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Whether every input that an edge reads lies within its grid.
    pub fn covers_raw(&self, input: &[i32]) -> bool {
        match self.coefficients {
            Coefficients::F32(_) => false,
            Coefficients::I16(table) => self.integers(table).covers(input),
            Coefficients::I8(table) => self.integers(table).covers(input),
        }
    }

    /// [`eval`](Self::eval) of a layer of integers; without `input` on what is in `sums`. No input may
    /// be missing.
    // Not inlined: a model calls it for its first, last and other layers.
    #[inline(never)]
    pub fn eval_raw<const KINDS: u16>(
        &self,
        input: Option<&[i32]>,
        sums: &mut [i32],
        places: &mut [Slot],
    ) -> Option<()> {
        match self.coefficients {
            Coefficients::I16(table) if KINDS & kinds::I16 != 0 => {
                self.integers(table).eval::<KINDS>(input, sums, places)
            }
            Coefficients::I8(table) if KINDS & kinds::I8 != 0 => {
                self.integers(table).eval::<KINDS>(input, sums, places)
            }
            _ => None,
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

    /// Writes the layer's outputs to the start of `output`. Inputs that are missing count as 0.
    ///
    /// Here and below, `None` would be an access out of bounds. [`read`](Self::read) has made sure
    /// that there is none; that the compiler sees it too keeps the code free of panics.
    pub fn eval<const KINDS: u16>(&self, input: &[f32], output: &mut [f32]) -> Option<()> {
        let sums = output.get_mut(..self.bias.len())?;
        for (sum, bias) in sums.iter_mut().zip(self.bias) {
            *sum = *bias;
        }
        let coefficients = self.f32();
        match self.degree {
            Degree::Cubic if KINDS & kinds::CUBIC_F32 != 0 => {
                self.add_splines::<Cubic>(coefficients, input, sums)?;
            }
            Degree::Linear if KINDS & kinds::LINEAR_F32 != 0 => {
                self.add_splines::<Linear>(coefficients, input, sums)?;
            }
            Degree::Step if KINDS & kinds::STEP_F32 != 0 => {
                self.add_splines::<Step>(coefficients, input, sums)?;
            }
            _ => {}
        }
        match self.base {
            [] => Some(()),
            _ if KINDS & kinds::RESIDUAL == 0 => Some(()),
            factors => self.add_base(factors, input, sums),
        }
    }

    // Not inlined: in one function the loops of all degrees compete for registers.
    #[inline(never)]
    fn add_splines<B: Basis>(
        &self,
        mut coefficients: &[f32],
        mut input: &[f32],
        sums: &mut [f32],
    ) -> Option<()> {
        let mut first = 0;
        for &words in self.nodes {
            let node = Node::unpack(words);
            let edges = usize::from(node.edges);
            let count = (usize::from(node.intervals) + B::DEGREE) * edges;
            let rows = coefficients.split_off(..count)?;
            let place = node.locate(next(&mut input));
            let rows = rows.get(place.interval * edges..)?;
            let fan = Fan {
                targets: self.targets,
                first,
                edges: node.edges,
            };
            B::at(&place).add(rows, &fan, sums)?;
            first += edges;
        }
        Some(())
    }

    #[inline(never)]
    fn add_base(&self, mut factors: &[f32], mut input: &[f32], sums: &mut [f32]) -> Option<()> {
        let mut first = 0;
        for &words in self.nodes {
            let node = Node::unpack(words);
            let edges = usize::from(node.edges);
            let factors = factors.split_off(..edges)?;
            let base = node.base(next(&mut input));
            let fan = Fan {
                targets: self.targets,
                first,
                edges: node.edges,
            };
            fan.add(sums, factors, |sum, factor| sum + base * factor)?;
            first += edges;
        }
        Some(())
    }
}

/// Takes the next input, 0 if there is none.
fn next(input: &mut &[f32]) -> f32 {
    input.split_off_first().copied().unwrap_or(0.0)
}

/// Where an input lies on a node's grid of `f32`.
struct Spot {
    /// The interval, from 0; beyond the grid its first or last.
    interval: usize,
    /// Intervals from the interval's left end: on the grid 0 to 1, beyond it less or more, or NaN.
    offset: f32,
    /// The node's margin.
    margin: f32,
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

    /// The nearest point to `x` on the grid, as a position, and how far beyond it `x` is. NaN is
    /// nearest to the left end, and NaN beyond.
    fn nearest(&self, x: f32) -> (f32, f32) {
        let t = self.position(x);
        let nearest = within(t, 0.0, f32::from(self.intervals));
        (nearest, t - nearest)
    }

    /// Step 1: finds `x` on the grid.
    fn locate(&self, x: f32) -> Spot {
        let t = self.position(x);
        // The conversion saturates; NaN becomes 0.
        let interval = (t as u32).min(u32::from(self.intervals) - 1);
        Spot {
            interval: interval as usize,
            offset: t - interval as f32,
            margin: self.margin,
        }
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
trait Basis {
    const DEGREE: usize;

    /// Their values at a place, beyond the grid those of their tangents at its end.
    fn at(place: &Spot) -> Self;

    /// Step 2: adds the edges of a node to the sums, given its rows from the interval's first on.
    fn add(&self, rows: &[f32], fan: &Fan, sums: &mut [f32]) -> Option<()>;
}

struct Cubic([f32; 4]);

impl Basis for Cubic {
    const DEGREE: usize = 3;

    fn at(&Spot { offset, margin, .. }: &Spot) -> Self {
        let u = within(offset, 0.0, 1.0);
        // Half the way beyond the grid: to its left (negative) or right, the other is 0.
        let half = 0.5 * within(offset - u, -margin, margin);
        let left = smaller(half, 0.0);
        let right = half - left;
        let v = 1.0 - u;
        let (u2, v2) = (u * u, v * v);
        Self([
            v2 * v * (1.0 / 6.0) - left,
            u2 * (0.5 * u - 1.0) + 2.0 / 3.0 - right,
            v2 * (0.5 * v - 1.0) + 2.0 / 3.0 + left,
            u2 * u * (1.0 / 6.0) + right,
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

struct Linear([f32; 2]);

impl Basis for Linear {
    const DEGREE: usize = 1;

    fn at(&Spot { offset, margin, .. }: &Spot) -> Self {
        let u = within(offset, -margin, 1.0 + margin);
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

struct Step;

impl Basis for Step {
    const DEGREE: usize = 0;

    fn at(_: &Spot) -> Self {
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

/// The largest magnitude among `values`, 0 for none.
fn largest(values: &[f32]) -> Result<f32, LoadError> {
    // As integers the magnitudes keep their order, with the infinities and NaNs at its end.
    let bits = values
        .iter()
        .map(|value| value.abs().to_bits())
        .max()
        .unwrap_or(0);
    let largest = f32::from_bits(bits);
    if largest.is_finite() {
        Ok(largest)
    } else {
        Err(LoadError::NotFinite)
    }
}
