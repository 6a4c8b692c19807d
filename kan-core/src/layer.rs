//! One layer of a model: its tables, their checks, and the three steps of evaluation.

use core::slice;

use crate::base::{SILU_SLOPE, silu};
use crate::blob::{LoadError, Node, Reader, Scalar};

/// No sum of table entries may be able to exceed this. It is a quarter of what `f32` can hold, so
/// that neither the rounding of the sums nor that of their bound matters.
const LARGEST_SUM: f32 = f32::MAX / 4.0;

/// Widest grid with its margins, in intervals: `f32` still tells eighths of an interval apart.
const WIDEST_GRID: f32 = (1 << 20) as f32;

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
        if nodes.len() != inputs || bias.len() != outputs {
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
        let mut walk = layer.walk(coefficients);
        let mut bound = largest(layer.bias)?;
        for tables in walk.by_ref() {
            bound += tables.bound(layer.bias.len())?;
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

    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    pub fn inputs(&self) -> usize {
        self.nodes.len()
    }

    pub fn edges(&self) -> usize {
        self.targets.len()
    }

    pub fn degree(&self) -> u8 {
        self.degree as u8
    }

    pub fn scalar(&self) -> Scalar {
        match self.coefficients {
            Coefficients::F32(_) => Scalar::F32,
        }
    }

    pub fn residual(&self) -> bool {
        self.base.is_some()
    }

    /// Whether no input that an edge reads lies outside its grid and margin.
    pub fn covers(&self, input: &[f32]) -> bool {
        self.nodes.iter().enumerate().all(|(k, &words)| {
            let node = Node::unpack(words);
            node.edges == 0 || node.covers(input.get(k).copied().unwrap_or(0.0))
        })
    }

    /// Writes the layer's outputs to the start of `output`. Inputs that are missing count as 0.
    pub fn eval(&self, input: &[f32], output: &mut [f32]) {
        let Some(sums) = output.get_mut(..self.bias.len()) else {
            return;
        };
        for (sum, &bias) in sums.iter_mut().zip(self.bias) {
            *sum = bias;
        }
        let Coefficients::F32(coefficients) = self.coefficients;
        for (k, tables) in self.walk(coefficients).enumerate() {
            let x = input.get(k).copied().unwrap_or(0.0);
            let place = tables.node.locate(x);
            let first = place.interval * tables.targets.len();
            let Some(rows) = tables.rows.get(first..) else {
                return;
            };
            match self.degree {
                Degree::Cubic => Cubic::at(&place).add(rows, tables.targets, sums),
                Degree::Linear => Linear::at(&place).add(rows, tables.targets, sums),
                Degree::Step => Step::at(&place).add(rows, tables.targets, sums),
            }
            if let Some(base) = tables.base {
                let value = tables.node.base(&place);
                add(sums, tables.targets, base.iter(), |sum, factor| {
                    sum + value * factor
                });
            }
        }
    }

    fn walk<'a, T>(&self, coefficients: &'a [T]) -> Walk<'a, T>
    where
        'm: 'a,
    {
        Walk {
            degree: self.degree as usize,
            nodes: self.nodes.iter(),
            targets: self.targets,
            coefficients,
            base: self.base,
        }
    }
}

/// The tables of one input node: its grid, and those of the edges that leave it.
struct NodeTables<'m, T> {
    node: Node,
    targets: &'m [u16],
    rows: &'m [T],
    base: Option<&'m [f32]>,
}

/// Cuts a layer's tables into those of its nodes; ends early where they do not suffice.
struct Walk<'m, T> {
    degree: usize,
    nodes: slice::Iter<'m, [u32; 4]>,
    targets: &'m [u16],
    coefficients: &'m [T],
    base: Option<&'m [f32]>,
}

impl<'m, T> Iterator for Walk<'m, T> {
    type Item = NodeTables<'m, T>;

    fn next(&mut self) -> Option<Self::Item> {
        let node = Node::unpack(*self.nodes.next()?);
        let edges = usize::from(node.edges);
        let coefficients = (usize::from(node.intervals) + self.degree).checked_mul(edges)?;
        Some(NodeTables {
            node,
            targets: self.targets.split_off(..edges)?,
            rows: self.coefficients.split_off(..coefficients)?,
            base: match &mut self.base {
                Some(base) => Some(base.split_off(..edges)?),
                None => None,
            },
        })
    }
}

impl<T> Walk<'_, T> {
    /// Whether every table was used up exactly.
    fn is_finished(&self) -> bool {
        self.nodes.as_slice().is_empty()
            && self.targets.is_empty()
            && self.coefficients.is_empty()
            && self.base.is_none_or(<[f32]>::is_empty)
    }
}

impl NodeTables<'_, f32> {
    /// Checks the node's tables, and bounds what any of its edges can add to a sum.
    fn bound(&self, outputs: usize) -> Result<f32, LoadError> {
        let mut lowest = 0;
        for &target in self.targets {
            let target = usize::from(target);
            if target < lowest || target >= outputs {
                return Err(LoadError::Malformed);
            }
            lowest = target + 1;
        }
        let reach = self.node.reach()?;
        // The weights of a spline sum to 1; each interval of extension adds at most 2 to the sum
        // of their magnitudes.
        let spline = largest(self.rows)? * (1.0 + 2.0 * self.node.margin);
        // |silu(x)| <= |x|, and the extension is no longer than the reach.
        let base = largest(self.base.unwrap_or(&[]))? * (1.0 + SILU_SLOPE) * reach;
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
    excess: f32,
}

impl Node {
    /// Checks the grid, and returns the largest |x| that it covers.
    fn reach(&self) -> Result<f32, LoadError> {
        largest(&[self.lo, self.inv_step, self.margin])?;
        let regular = self.inv_step >= f32::MIN_POSITIVE && self.margin >= 0.0;
        if !regular || self.intervals == 0 {
            return Err(LoadError::Malformed);
        }
        let width = f32::from(self.intervals) + self.margin;
        let reach = self.lo.abs() + width / self.inv_step;
        if width <= WIDEST_GRID && reach <= LARGEST_SUM {
            Ok(reach)
        } else {
            Err(LoadError::Overflow)
        }
    }

    /// `x` in intervals from the grid's left end.
    fn scale(&self, x: f32) -> f32 {
        (x - self.lo) * self.inv_step
    }

    fn covers(&self, x: f32) -> bool {
        let t = self.scale(x);
        t >= -self.margin && t <= f32::from(self.intervals) + self.margin
    }

    /// Step 1: finds `x` on the grid. Beyond the margins it saturates, NaN at the left one.
    fn locate(&self, x: f32) -> Place {
        let intervals = f32::from(self.intervals);
        let (low, high) = (-self.margin, intervals + self.margin);
        let t = self.scale(x);
        let t = if t > low { t } else { low };
        let t = if t < high { t } else { high };
        let inside = if t > 0.0 { t } else { 0.0 };
        let inside = if inside < intervals {
            inside
        } else {
            intervals
        };
        let interval = (inside as u32).min(u32::from(self.intervals) - 1);
        Place {
            interval: interval as usize,
            u: inside - interval as f32,
            excess: t - inside,
        }
    }

    /// The base function at a place: SiLU on the grid, its tangents beyond.
    fn base(&self, place: &Place) -> f32 {
        let step = 1.0 / self.inv_step;
        let x = self.lo + (place.interval as f32 + place.u) * step;
        silu(x, place.excess * step)
    }
}

/// The `DEGREE` + 1 B-splines that are not zero on an interval, as weights of their coefficients.
trait Basis {
    /// Their values at position `u` of the interval, continued linearly by `excess` intervals.
    fn at(place: &Place) -> Self;

    /// Step 2: adds a node's edges to the sums, given its rows from the interval's first one on.
    fn add(&self, rows: &[f32], targets: &[u16], sums: &mut [f32]);
}

struct Cubic([f32; 4]);

impl Basis for Cubic {
    fn at(&Place { u, excess, .. }: &Place) -> Self {
        let v = 1.0 - u;
        let (u2, v2) = (u * u, v * v);
        let left = 0.5 * if excess < 0.0 { excess } else { 0.0 };
        let right = 0.5 * if excess > 0.0 { excess } else { 0.0 };
        Self([
            v2 * v * (1.0 / 6.0) - left,
            u2 * (0.5 * u - 1.0) + 2.0 / 3.0 - right,
            v2 * (0.5 * v - 1.0) + 2.0 / 3.0 + left,
            u2 * u * (1.0 / 6.0) + right,
        ])
    }

    fn add(&self, mut rows: &[f32], targets: &[u16], sums: &mut [f32]) {
        let [w0, w1, w2, w3] = self.0;
        let mut row = || rows.split_off(..targets.len());
        let (Some(r0), Some(r1), Some(r2), Some(r3)) = (row(), row(), row(), row()) else {
            return;
        };
        let edges = r0.iter().zip(r1).zip(r2).zip(r3);
        add(sums, targets, edges, |sum, (((c0, c1), c2), c3)| {
            sum + w0 * c0 + w1 * c1 + w2 * c2 + w3 * c3
        });
    }
}

struct Linear([f32; 2]);

impl Basis for Linear {
    fn at(&Place { u, excess, .. }: &Place) -> Self {
        let u = u + excess;
        Self([1.0 - u, u])
    }

    fn add(&self, mut rows: &[f32], targets: &[u16], sums: &mut [f32]) {
        let [w0, w1] = self.0;
        let mut row = || rows.split_off(..targets.len());
        let (Some(r0), Some(r1)) = (row(), row()) else {
            return;
        };
        add(sums, targets, r0.iter().zip(r1), |sum, (c0, c1)| {
            sum + w0 * c0 + w1 * c1
        });
    }
}

struct Step;

impl Basis for Step {
    fn at(_: &Place) -> Self {
        Self
    }

    fn add(&self, rows: &[f32], targets: &[u16], sums: &mut [f32]) {
        add(sums, targets, rows.iter(), |sum, c| sum + c);
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
