//! One layer of a model: what all kinds of tables share, and the way to the code of each.

use crate::blob::{Head, LoadError, Reader, Scalar};
use crate::float;
use crate::integer::{self, Entry};
use crate::kernel::{Plan, Slot};
use crate::kinds;

/// No sum of table entries may be able to exceed this. It is a quarter of what `f32` can hold, so
/// that neither the rounding of the sums nor that of their bound matters.
pub(crate) const LARGEST_SUM: f32 = f32::MAX / 4.0;

/// The tables of one layer, borrowed from the blob.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'m> {
    degree: Degree,
    targets: &'m [u16],
    coefficients: Coefficients<'m>,
    base: &'m [f32],
    /// Nodes and biases, and a kernel if there is one.
    plan: Plan<'m>,
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
    /// Reads a layer, which [`check`](Self::check) has to see before it is evaluated.
    ///
    /// `KINDS` are the [kinds] that are supported.
    pub fn read<const KINDS: u16>(
        reader: &mut Reader<'m>,
        inputs: usize,
    ) -> Result<Self, LoadError> {
        let malformed = LoadError::Malformed;
        let (degree, scalar) = (reader.number(), reader.number());
        let (residual, outputs) = (reader.number(), reader.number());
        if !reader.is_good() {
            return Err(malformed);
        }
        let (degree, kind) = match degree {
            0 => (Degree::Step, kinds::STEP_F32),
            1 => (Degree::Linear, kinds::LINEAR_F32),
            3 => (Degree::Cubic, kinds::CUBIC_F32),
            _ => return Err(LoadError::Unsupported),
        };
        if scalar > 2 || residual > 1 {
            return Err(malformed);
        }
        let residual = residual == 1;
        let kind = kind << (3 * scalar) | if residual { kinds::RESIDUAL } else { 0 };
        if kind & !KINDS != 0 {
            return Err(LoadError::Unsupported);
        }
        let (nodes, bias) = (reader.array(), reader.array());
        let targets: &[u16] = reader.array();
        let coefficients = match scalar {
            0 if KINDS & kinds::F32 != 0 => Coefficients::F32(reader.array()),
            1 if KINDS & kinds::I16 != 0 => Coefficients::I16(reader.array()),
            2 if KINDS & kinds::I8 != 0 => Coefficients::I8(reader.array()),
            _ => return Err(LoadError::Unsupported),
        };
        let base: &[f32] = reader.array();
        let fits = match scalar {
            0 => base.len() == if residual { targets.len() } else { 0 },
            _ => !residual && targets.len().is_multiple_of(2),
        };
        if nodes.len() != inputs
            || bias.len() != outputs
            || outputs == 0
            || !fits
            || !reader.is_good()
        {
            return Err(malformed);
        }
        Ok(Self {
            degree,
            targets,
            coefficients,
            base,
            plan: Plan::new(nodes, bias).ok_or(malformed)?,
        })
    }

    /// Checks the tables, and plans their evaluation: afterwards it is total, and its sums are
    /// finite.
    ///
    /// `of_inputs` says whether the layer is the first, and `of_outputs` is what the outputs mean
    /// if it is the last.
    pub fn check<const KINDS: u16>(
        &mut self,
        of_inputs: bool,
        of_outputs: Option<Head>,
    ) -> Result<(), LoadError> {
        match self.coefficients {
            Coefficients::F32(_) if KINDS & kinds::F32 != 0 => {
                let tables = self.floats();
                tables.check()?;
                #[cfg(kan_vfp)]
                tables.plan::<KINDS>(&mut self.plan);
            }
            Coefficients::I16(table) if KINDS & kinds::I16 != 0 => {
                self.check_scales(of_inputs, of_outputs)?;
                let tables = self.integers(table);
                tables.check()?;
                #[cfg(kan_integers)]
                tables.plan::<KINDS>(&mut self.plan);
            }
            Coefficients::I8(table) if KINDS & kinds::I8 != 0 => {
                self.check_scales(of_inputs, of_outputs)?;
                let tables = self.integers(table);
                tables.check()?;
                #[cfg(kan_integers)]
                tables.plan::<KINDS>(&mut self.plan);
            }
            _ => return Err(LoadError::Unsupported),
        }
        Ok(())
    }

    fn nodes(&self) -> &'m [[u32; 4]] {
        self.plan.nodes()
    }

    fn bias(&self) -> &'m [f32] {
        self.plan.bias()
    }

    /// Checks what numbers a layer of integers has beside its tables: the shift, and the scales and
    /// zeros of inputs and outputs.
    fn check_scales(&self, of_inputs: bool, of_outputs: Option<Head>) -> Result<(), LoadError> {
        let inputs = if of_inputs { self.nodes().len() } else { 0 };
        let outputs = of_outputs.map_or(0, |_| self.bias().len());
        let (shift, numbers) = self.base.split_first().ok_or(LoadError::Malformed)?;
        if shift.to_bits() > 30 || numbers.len() != 2 * (inputs + outputs) {
            return Err(LoadError::Malformed);
        }
        largest(numbers)?;
        let scales = numbers.get(2 * inputs..).unwrap_or(&[]).as_chunks().0;
        for scale in scales {
            let [factor, zero] = *scale;
            if factor.abs() * -(i32::MIN as f32) + zero.abs() > LARGEST_SUM {
                return Err(LoadError::Overflow);
            }
            // Logits are compared as integers.
            let of_first = scales.first().map_or(factor, |first| first[0]);
            let is_of_logits = factor > 0.0 && factor == of_first && zero == 0.0;
            if of_outputs != Some(Head::Identity) && !is_of_logits {
                return Err(LoadError::Malformed);
            }
        }
        Ok(())
    }

    /// Whether the tables are integers.
    pub fn is_integer(&self) -> bool {
        !matches!(self.coefficients, Coefficients::F32(_))
    }

    /// The tables of a layer of `f32`.
    fn floats(&self) -> float::Tables<'m> {
        float::Tables {
            degree: self.degree as usize,
            nodes: self.nodes(),
            bias: self.bias(),
            targets: self.targets,
            coefficients: match self.coefficients {
                Coefficients::F32(coefficients) => coefficients,
                _ => &[],
            },
            base: self.base,
        }
    }

    /// The tables of a layer of integers.
    fn integers<T: Entry>(&self, coefficients: &'m [T]) -> integer::Tables<'m, T> {
        integer::Tables {
            degree: self.degree as usize,
            nodes: self.nodes(),
            bias: bytemuck::must_cast_slice(self.bias()),
            groups: self.targets.as_chunks().0,
            coefficients,
            shift: self.base.first().map_or(0, |shift| shift.to_bits() & 31),
        }
    }

    /// The scales and zeros of the inputs of a model of integers (in its first layer).
    pub fn input_scales(&self) -> &'m [[f32; 2]] {
        let end = 1 + 2 * self.nodes().len();
        self.base.get(1..end).unwrap_or(&[]).as_chunks().0
    }

    /// The scales and zeros of its outputs (in its last layer).
    pub fn output_scales(&self) -> &'m [[f32; 2]] {
        let start = self.base.len().saturating_sub(2 * self.bias().len());
        self.base.get(start..).unwrap_or(&[]).as_chunks().0
    }

    pub fn tables(&self) -> LayerTables {
        let (scalar, residual) = match self.coefficients {
            Coefficients::F32(_) => (Scalar::F32, !self.base.is_empty()),
            Coefficients::I16(_) => (Scalar::I16, false),
            Coefficients::I8(_) => (Scalar::I8, false),
        };
        LayerTables {
            degree: self.degree as u8,
            scalar,
            residual,
            inputs: self.nodes().len(),
            outputs: self.outputs(),
            edges: self.edges(),
        }
    }

    /// Number of edges.
    pub fn edges(&self) -> usize {
        match self.coefficients {
            Coefficients::F32(_) => self.targets.len(),
            // Not a matter of the coefficients.
            _ => self.integers::<i8>(&[]).edges(),
        }
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.nodes().len()
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.bias().len()
    }

    /// Whether every input that an edge reads lies within its grid.
    pub fn covers_raw(&self, input: &[i32]) -> bool {
        self.is_integer() && self.integers::<i8>(&[]).covers(input)
    }

    /// [`eval`](Self::eval) of a layer of integers; without `input` on what is in `sums`. No input
    /// may be missing.
    // Not inlined: a model calls it for its first, last and other layers.
    #[inline(never)]
    pub fn eval_raw<const KINDS: u16>(
        &self,
        input: Option<&[i32]>,
        sums: &mut [i32],
        places: &mut [Slot],
    ) -> Option<()> {
        #[cfg(kan_integers)]
        if self.plan.is_of_groups() {
            self.eval_groups::<KINDS>(input, sums, places)
        } else {
            self.plan.run_integers(input, sums, places).map(|_| ())
        }
        #[cfg(not(kan_integers))]
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

    #[cfg(kan_integers)]
    #[inline(never)]
    fn eval_groups<const KINDS: u16>(
        &self,
        input: Option<&[i32]>,
        sums: &mut [i32],
        places: &mut [Slot],
    ) -> Option<()> {
        let (plan, groups) = (&self.plan, self.targets.as_chunks().0);
        let places = plan.locate(input, sums, places)?;
        match self.coefficients {
            Coefficients::I16(table) if KINDS & kinds::I16 != 0 => {
                plan.add_groups(groups, table, places, sums)
            }
            Coefficients::I8(table) if KINDS & kinds::I8 != 0 => {
                plan.add_groups(groups, table, places, sums)
            }
            _ => None,
        }
    }

    /// Whether every input that an edge reads lies within its grid and margin.
    pub fn covers(&self, input: &[f32]) -> bool {
        self.floats().covers(input)
    }

    /// Writes the outputs of a layer of `f32` to the start of `output`. No input may be missing.
    // Not inlined: a model calls it for its first, last and other layers.
    #[inline(never)]
    pub fn eval<const KINDS: u16>(&self, input: &[f32], output: &mut [f32]) -> Option<()> {
        #[cfg(kan_vfp)]
        self.plan.run_floats(input, output)?;
        #[cfg(not(kan_vfp))]
        self.floats().eval::<KINDS>(input, output)?;
        if KINDS & kinds::RESIDUAL == 0 || self.base.is_empty() {
            return Some(());
        }
        self.floats().add_base(input, output)
    }
}

/// The largest magnitude among `values`, 0 for none.
// Not inlined: the loader calls it for every kind of numbers.
#[inline(never)]
pub(crate) fn largest(values: &[f32]) -> Result<f32, LoadError> {
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
