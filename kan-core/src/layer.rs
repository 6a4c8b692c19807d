//! One layer of a model: its tables, their checks, and the three steps of evaluation.

use core::slice;

use crate::base::silu;
use crate::blob::{LoadError, Node, Reader, Scalar};

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
    base: Option<&'m [f32]>,
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
}

impl<'m> Layer<'m> {
    /// Reads a layer and checks it: afterwards evaluation is total, and its sums are finite.
    pub fn read(reader: &mut Reader<'m>, inputs: usize) -> Result<Self, LoadError> {
        let malformed = LoadError::Malformed;
        let degree = match reader.number().ok_or(malformed)? {
            0 => Degree::Step,
            1 => Degree::Linear,
            3 => Degree::Cubic,
            _ => return Err(LoadError::Unsupported),
        };
        let scalar = reader.number().ok_or(malformed)?;
        let residual = reader.number().ok_or(malformed)?;
        let outputs = reader.number().ok_or(malformed)?;
        let nodes = reader.array().ok_or(malformed)?;
        let bias = reader.array().ok_or(malformed)?;
        let targets = reader.array().ok_or(malformed)?;
        let coefficients = match scalar {
            0 => Coefficients::F32(reader.array().ok_or(malformed)?),
            1 | 2 => return Err(LoadError::Unsupported),
            _ => return Err(malformed),
        };
        let base = reader.array().ok_or(malformed)?;
        let base = match residual {
            0 if base.is_empty() => None,
            1 => Some(base),
            _ => return Err(malformed),
        };
        let factors = base.map_or(targets.len(), <[f32]>::len);
        if nodes.len() != inputs || bias.len() != outputs || targets.len() != factors {
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
        let Coefficients::F32(coefficients) = coefficients;
        let mut walk = layer.walk(degree as usize, coefficients);
        let mut bound = largest(layer.bias)?;
        let factor = largest(base.unwrap_or(&[]))?;
        for tables in walk.by_ref() {
            bound += tables.bound(outputs, factor)?;
        }
        if !walk.is_finished() {
            return Err(LoadError::Malformed);
        }
        if bound <= LARGEST_SUM {
            Ok(layer)
        } else {
            Err(LoadError::Overflow)
        }
    }

    pub fn tables(&self) -> LayerTables {
        LayerTables {
            degree: self.degree as u8,
            scalar: match self.coefficients {
                Coefficients::F32(_) => Scalar::F32,
            },
            residual: self.base.is_some(),
            inputs: self.nodes.len(),
            outputs: self.bias.len(),
            edges: self.targets.len(),
        }
    }

    /// Whether every input that an edge reads lies within its grid and margin.
    pub fn covers(&self, mut input: &[f32]) -> bool {
        self.nodes.iter().all(|&words| {
            let node = Node::unpack(words);
            let (_, beyond) = node.scale(next(&mut input));
            node.edges == 0 || beyond.abs() <= node.margin
        })
    }

    /// Writes the layer's outputs to the start of `output`. Inputs that are missing count as 0.
    ///
    /// Here and below, `None` would be an access out of bounds. [`read`](Self::read) has made sure
    /// that there is none; that the compiler sees it too keeps the code free of panics.
    pub fn eval(&self, input: &[f32], output: &mut [f32]) -> Option<()> {
        let sums = output.get_mut(..self.bias.len())?;
        for (sum, bias) in sums.iter_mut().zip(self.bias) {
            *sum = *bias;
        }
        let Coefficients::F32(coefficients) = self.coefficients;
        match self.degree {
            Degree::Cubic => self.add_splines::<Cubic>(coefficients, input, sums)?,
            Degree::Linear => self.add_splines::<Linear>(coefficients, input, sums)?,
            Degree::Step => self.add_splines::<Step>(coefficients, input, sums)?,
        }
        match self.base {
            Some(factors) => self.add_base(factors, input, sums),
            None => Some(()),
        }
    }

    fn add_splines<B: Basis>(
        &self,
        coefficients: &[f32],
        mut input: &[f32],
        sums: &mut [f32],
    ) -> Option<()> {
        for tables in self.walk(B::DEGREE, coefficients) {
            let place = tables.node.locate(next(&mut input));
            let rows = tables.rows.get(place.interval * tables.targets.len()..)?;
            B::at(&place).add(rows, tables.targets, sums)?;
        }
        Some(())
    }

    fn add_base(&self, mut factors: &[f32], mut input: &[f32], sums: &mut [f32]) -> Option<()> {
        let mut targets = self.targets;
        for &words in self.nodes {
            let node = Node::unpack(words);
            let targets = targets.split_off(..usize::from(node.edges))?;
            let factors = factors.split_off(..usize::from(node.edges))?;
            let base = node.base(next(&mut input));
            add(sums, targets, factors.iter(), |sum, factor| {
                sum + base * factor
            });
        }
        Some(())
    }

    fn walk<'a, T>(&self, degree: usize, coefficients: &'a [T]) -> Walk<'a, T>
    where
        'm: 'a,
    {
        Walk {
            degree,
            nodes: self.nodes.iter(),
            targets: self.targets,
            coefficients,
        }
    }
}

/// Takes the next input, 0 if there is none.
fn next(input: &mut &[f32]) -> f32 {
    input.split_off_first().copied().unwrap_or(0.0)
}

/// The tables of one input node: its grid, and those of the edges that leave it.
struct NodeTables<'m, T> {
    node: Node,
    targets: &'m [u16],
    rows: &'m [T],
}

/// Cuts a layer's tables into those of its nodes; ends early where they do not suffice.
struct Walk<'m, T> {
    degree: usize,
    nodes: slice::Iter<'m, [u32; 4]>,
    targets: &'m [u16],
    coefficients: &'m [T],
}

impl<'m, T> Iterator for Walk<'m, T> {
    type Item = NodeTables<'m, T>;

    fn next(&mut self) -> Option<Self::Item> {
        let node = Node::unpack(*self.nodes.next()?);
        let edges = usize::from(node.edges);
        // Wraps only where `Node::check` refuses the node.
        let coefficients = (usize::from(node.intervals) + self.degree).wrapping_mul(edges);
        Some(NodeTables {
            node,
            targets: self.targets.split_off(..edges)?,
            rows: self.coefficients.split_off(..coefficients)?,
        })
    }
}

impl<T> Walk<'_, T> {
    /// Whether every table was used up exactly.
    fn is_finished(&self) -> bool {
        self.nodes.as_slice().is_empty() && self.targets.is_empty() && self.coefficients.is_empty()
    }
}

impl NodeTables<'_, f32> {
    /// Checks the node's tables, and bounds what any of its edges can add to a sum.
    fn bound(&self, outputs: usize, factor: f32) -> Result<f32, LoadError> {
        let mut lowest = 0;
        for &target in self.targets {
            let target = usize::from(target);
            if target < lowest || target >= outputs {
                return Err(LoadError::Malformed);
            }
            lowest = target + 1;
        }
        self.node.check()?;
        // The weights of a spline sum to 1; each interval of extension adds at most 2 to the sum
        // of their magnitudes.
        let spline = largest(self.rows)? * (1.0 + 2.0 * self.node.margin);
        // Neither SiLU nor its slope exceeds 1 on the grid, which it sees 2 wide.
        let base = factor * (1.0 + 2.0 * self.node.margin / f32::from(self.node.intervals));
        Ok(spline + base)
    }
}

/// Where an input lies on a node's grid.
struct Place {
    /// The interval, from 0.
    interval: usize,
    /// Position in the interval, 0 to 1.
    u: f32,
    /// Intervals beyond the grid: negative to its left, positive to its right.
    beyond: f32,
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

    /// `x` in intervals from the grid's left end: its nearest point on the grid, and how far it
    /// lies beyond. NaN is nearest to the left end, and NaN beyond.
    fn scale(&self, x: f32) -> (f32, f32) {
        let right = f32::from(self.intervals);
        let t = (x - self.lo) * self.inv_step;
        let nearest = if t > 0.0 { t } else { 0.0 };
        let nearest = if nearest < right { nearest } else { right };
        (nearest, t - nearest)
    }

    /// The same, but saturated beyond the margins, NaN at the left one.
    fn saturate(&self, x: f32) -> (f32, f32) {
        let (nearest, beyond) = self.scale(x);
        let (low, high) = (-self.margin, self.margin);
        let beyond = if beyond > low { beyond } else { low };
        let beyond = if beyond < high { beyond } else { high };
        (nearest, beyond)
    }

    /// Step 1: finds `x` on the grid.
    fn locate(&self, x: f32) -> Place {
        let (nearest, beyond) = self.saturate(x);
        let interval = (nearest as u32).min(u32::from(self.intervals) - 1);
        Place {
            interval: interval as usize,
            u: nearest - interval as f32,
            beyond,
        }
    }

    /// The base function at `x`: SiLU, which sees the grid as −1 to 1, and its tangents beyond.
    fn base(&self, x: f32) -> f32 {
        let (nearest, beyond) = self.saturate(x);
        let factor = 2.0 / f32::from(self.intervals);
        silu(nearest * factor - 1.0, beyond * factor)
    }
}

/// The `DEGREE` + 1 B-splines that are not zero on an interval, as weights of their coefficients.
trait Basis {
    const DEGREE: usize;

    /// Their values at a place, beyond the grid those of their tangents at its end.
    fn at(place: &Place) -> Self;

    /// Step 2: adds a node's edges to the sums, given its rows from the interval's first one on.
    fn add(&self, rows: &[f32], targets: &[u16], sums: &mut [f32]) -> Option<()>;
}

struct Cubic([f32; 4]);

impl Basis for Cubic {
    const DEGREE: usize = 3;

    fn at(&Place { u, beyond, .. }: &Place) -> Self {
        let v = 1.0 - u;
        let (u2, v2) = (u * u, v * v);
        let left = 0.5 * if beyond < 0.0 { beyond } else { 0.0 };
        let right = 0.5 * beyond - left;
        Self([
            v2 * v * (1.0 / 6.0) - left,
            u2 * (0.5 * u - 1.0) + 2.0 / 3.0 - right,
            v2 * (0.5 * v - 1.0) + 2.0 / 3.0 + left,
            u2 * u * (1.0 / 6.0) + right,
        ])
    }

    fn add(&self, mut rows: &[f32], targets: &[u16], sums: &mut [f32]) -> Option<()> {
        let [w0, w1, w2, w3] = self.0;
        let r0 = rows.split_off(..targets.len())?;
        let r1 = rows.split_off(..targets.len())?;
        let r2 = rows.split_off(..targets.len())?;
        let r3 = rows.split_off(..targets.len())?;
        let edges = r0.iter().zip(r1).zip(r2).zip(r3);
        add(sums, targets, edges, |sum, (((c0, c1), c2), c3)| {
            sum + w0 * c0 + w1 * c1 + w2 * c2 + w3 * c3
        });
        Some(())
    }
}

struct Linear([f32; 2]);

impl Basis for Linear {
    const DEGREE: usize = 1;

    fn at(&Place { u, beyond, .. }: &Place) -> Self {
        let u = u + beyond;
        Self([1.0 - u, u])
    }

    fn add(&self, mut rows: &[f32], targets: &[u16], sums: &mut [f32]) -> Option<()> {
        let [w0, w1] = self.0;
        let r0 = rows.split_off(..targets.len())?;
        let r1 = rows.split_off(..targets.len())?;
        add(sums, targets, r0.iter().zip(r1), |sum, (c0, c1)| {
            sum + w0 * c0 + w1 * c1
        });
        Some(())
    }
}

struct Step;

impl Basis for Step {
    const DEGREE: usize = 0;

    fn at(_: &Place) -> Self {
        Self
    }

    fn add(&self, rows: &[f32], targets: &[u16], sums: &mut [f32]) -> Option<()> {
        add(sums, targets, rows.iter(), |sum, c| sum + c);
        Some(())
    }
}

/// Adds one edge after the other to the sum of its target; `targets` of all sums are 0, 1, 2, ….
fn add<T>(
    sums: &mut [f32],
    targets: &[u16],
    edges: impl Iterator<Item = T>,
    plus: impl Fn(f32, T) -> f32,
) {
    if targets.len() == sums.len() {
        for (sum, edge) in sums.iter_mut().zip(edges) {
            *sum = plus(*sum, edge);
        }
    } else {
        for (&target, edge) in targets.iter().zip(edges) {
            if let Some(sum) = sums.get_mut(usize::from(target)) {
                *sum = plus(*sum, edge);
            }
        }
    }
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
