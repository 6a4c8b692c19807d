//! One layer of a model: what all kinds of tables share, and the way to the code of each.

use crate::blob::{LoadError, Reader, Scalar};
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
            targets,
            coefficients,
            base,
            plan: Plan::new(nodes, bias).ok_or(malformed)?,
        };
        if scalar == 0 && KINDS & kinds::F32 != 0 {
            layer.floats().check(residual == 1)?;
        } else if residual == 0 && KINDS & !kinds::F32 != 0 {
            layer.check_integer::<KINDS>(of_inputs, of_outputs)?;
        } else {
            return Err(malformed);
        }
        let plan = match layer.coefficients {
            #[cfg(kan_vfp)]
            Coefficients::F32(_) if KINDS & kinds::F32 != 0 => {
                layer.floats().plan::<KINDS>(layer.plan)
            }
            #[cfg(kan_integers)]
            Coefficients::I16(table) if KINDS & kinds::I16 != 0 => {
                layer.integers(table).plan::<KINDS>(layer.plan)
            }
            #[cfg(kan_integers)]
            Coefficients::I8(table) if KINDS & kinds::I8 != 0 => {
                layer.integers(table).plan::<KINDS>(layer.plan)
            }
            _ => layer.plan,
        };
        Ok(Self { plan, ..layer })
    }

    fn nodes(&self) -> &'m [[u32; 4]] {
        self.plan.nodes()
    }

    fn bias(&self) -> &'m [f32] {
        self.plan.bias()
    }

    /// Checks tables of integers.
    fn check_integer<const KINDS: u16>(
        &self,
        of_inputs: bool,
        of_outputs: bool,
    ) -> Result<(), LoadError> {
        let inputs = if of_inputs { self.nodes().len() } else { 0 };
        let outputs = if of_outputs { self.bias().len() } else { 0 };
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
        self.base.get(1..).unwrap_or(&[]).as_chunks().0
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

    /// Whether the outputs can be compared as logits: integers must have one scale, and zero 0.
    pub fn is_of_logits(&self) -> bool {
        let scales = self.output_scales();
        let is_common =
            |scale: &[f32; 2]| scale[0] > 0.0 && scale[1] == 0.0 && scales.first() == Some(scale);
        !self.is_integer() || scales.iter().all(is_common)
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.bias().len()
    }

    /// Whether every input that an edge reads lies within its grid.
    pub fn covers_raw(&self, input: &[i32]) -> bool {
        self.is_integer() && self.integers::<i8>(&[]).covers(input)
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
