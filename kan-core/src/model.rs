//! A loaded model and what can be asked of it.

use core::{array, fmt, mem};

use heapless::{Vec, VecView};

use crate::base::{logistic, softmax};
use crate::blob::{Head, Header, LoadError, Reader, Title, VERSION};
use crate::kernel::Slot;
use crate::kinds;
use crate::layer::{Layer, LayerTables};

/// A Kolmogorov-Arnold network, its tables borrowed from a blob.
///
/// The parameters are capacities, not the shape itself: the most inputs (`IN`), outputs (`OUT`),
/// nodes in any layer but the inputs (`WIDTH`), and layers (`LAYERS`) that a blob may have to be
/// loaded as this type. `kan inspect` prints the type that fits a blob exactly; a larger one lets
/// the model grow without a change of the firmware.
///
/// No method panics, allocates or fails. Each evaluation keeps its sums on the stack; how much RAM
/// that is, [`ram_bytes`] tells.
///
/// # What is computed
///
/// A layer maps x to y by y_j = bias_j + Σ_i φ_{j,i}(x_i) (arXiv 2404.19756, equation 2.5), with φ
/// a spline of degree 3, 1 or 0 on a uniform grid, plus a multiple of silu(z) where the layer is
/// residual (2.10); z is x on a scale that runs from −1 to 1 over the grid. Outside its grid an
/// edge goes on as a straight line for the node's margin; past the margin the input saturates. NaN
/// counts as −∞: it saturates at the left end. `FORMAT.md` gives the arithmetic operation by
/// operation: every target computes the same bits.
///
/// # Cost
///
/// An input node costs the same whatever its number of intervals, and then each of its edges
/// degree + 1 multiply-adds; a residual layer adds one exponential and two divisions a node and one
/// multiply-add an edge. The number of instructions does not depend on the input, except within
/// `exp` and in the floating-point routines of targets without an FPU.
#[derive(Clone)]
pub struct Model<
    'm,
    const IN: usize,
    const OUT: usize,
    const WIDTH: usize,
    const LAYERS: usize,
    const KINDS: u16 = { kinds::ALL },
> {
    blob: &'m [u8],
    header: Header<'m>,
    head: Head,
    layers: Vec<Layer<'m>, LAYERS>,
}

impl<
    'm,
    const IN: usize,
    const OUT: usize,
    const WIDTH: usize,
    const LAYERS: usize,
    const KINDS: u16,
> Model<'m, IN, OUT, WIDTH, LAYERS, KINDS>
{
    /// Checks a blob and borrows its tables, which stay where they are.
    ///
    /// `blob` is exactly one blob and starts at a multiple of four: see
    /// [`include_model!`](crate::include_model), [`ModelBytes`](crate::ModelBytes) and
    /// [`blob_len`](crate::blob_len). Takes one pass over the bytes for the checksum and one for
    /// the tables.
    ///
    /// # Errors
    ///
    /// Of the header, the first fault in this order: [`NotABlob`](LoadError::NotABlob),
    /// [`Truncated`](LoadError::Truncated) (below twelve bytes), [`Version`](LoadError::Version),
    /// [`Malformed`](LoadError::Malformed) (a length below a header's), `Truncated` or
    /// [`TrailingBytes`](LoadError::TrailingBytes), [`Misaligned`](LoadError::Misaligned),
    /// [`Checksum`](LoadError::Checksum), `Malformed` (reserved fields),
    /// [`CapacityExceeded`](LoadError::CapacityExceeded). Of the message, whichever comes first in
    /// it: `Malformed`, [`Unsupported`](LoadError::Unsupported),
    /// [`NotFinite`](LoadError::NotFinite), [`Overflow`](LoadError::Overflow). The checksum only
    /// finds accidents; the rest is checked as if the blob's author meant harm. What loads gives
    /// finite outputs for every input.
    pub fn load(blob: &'m [u8]) -> Result<Self, LoadError> {
        let mut model = Self::empty();
        model.reload(blob)?;
        Ok(model)
    }

    /// A model without a layer, to be [loaded](Self::reload) where it stands: it has no inputs and
    /// no outputs.
    pub const fn empty() -> Self {
        Self {
            blob: &[],
            header: Header::EMPTY,
            head: Head::Identity,
            layers: Vec::new(),
        }
    }

    /// [`load`](Self::load) in place of the model that was there: for one in a `static`, and where
    /// two of them would be too many on the stack, as what `load` returns is copied.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load). The model is [empty](Self::empty) then.
    pub fn reload(&mut self, blob: &'m [u8]) -> Result<(), LoadError> {
        (self.blob, self.header, self.head) = (&[], Header::EMPTY, Head::Identity);
        self.layers.clear();
        match read::<KINDS>(blob, [IN, OUT, WIDTH], &mut self.layers) {
            Ok((header, head)) => {
                (self.blob, self.header, self.head) = (blob, header, head);
                Ok(())
            }
            Err(error) => {
                self.layers.clear();
                Err(error)
            }
        }
    }

    /// The outputs for one input vector, both in the units of the training data.
    ///
    /// With a [`Softmax`](Head::Softmax) or [`Sigmoid`](Head::Sigmoid) head these are the logits.
    /// Inputs beyond those the model has are ignored, outputs beyond are 0. Always finite.
    pub fn eval(&self, input: &[f32; IN]) -> [f32; OUT] {
        let mut output = [0.0; OUT];
        self.forward(input, &mut output);
        output
    }

    /// [`eval`](Self::eval) on slices of any length, for firmware that serves any model within its
    /// capacity: missing inputs count as 0, outputs that do not fit are dropped.
    pub fn eval_into(&self, input: &[f32], output: &mut [f32]) {
        self.outputs_of(input, |values| copy(values, output));
    }

    /// The outputs for one input vector, both as integers in the units of the tables.
    ///
    /// With tables of integers not one float instruction is executed. An input is what the blob
    /// says it is, raw counts of a converter for example: [`input_scale`](Self::input_scale) tells,
    /// and [`output_scale`](Self::output_scale) what an output is worth. Any `i32` may come in;
    /// inputs beyond those the model has are ignored, outputs beyond are 0. The number of
    /// instructions does not depend on the input.
    ///
    /// With tables of `f32` numbers stand for themselves: inputs are converted to `f32`, and
    /// outputs rounded to the nearest integer, with half a unit away from 0.
    pub fn eval_q(&self, input: &[i32; IN]) -> [i32; OUT] {
        let mut output = [0; OUT];
        self.forward_q(input, &mut output);
        output
    }

    /// [`eval_q`](Self::eval_q) on slices of any length: missing inputs count as 0, outputs that do
    /// not fit are dropped.
    pub fn eval_q_into(&self, input: &[i32], output: &mut [i32]) {
        let padded: [i32; IN];
        let input = if input.len() < self.inputs() {
            padded = array::from_fn(|k| nth(input, k));
            &padded
        } else {
            input
        };
        let mut sums = [0; OUT];
        self.forward_q(input, &mut sums);
        copy(&sums, output);
    }

    /// What `read` makes of the outputs.
    fn outputs_of<R>(&self, input: &[f32], read: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut output = [0.0; OUT];
        self.forward(input, &mut output);
        read(output.get_mut(..self.outputs()).unwrap_or(&mut []))
    }

    /// Runs the layers.
    fn forward(&self, input: &[f32], output: &mut [f32; OUT]) -> Option<()> {
        if self.is_integer() {
            let (mut raw, mut sums) = ([0; IN], [0; OUT]);
            self.quantise(input, &mut raw);
            self.forward_raw(&raw, &mut sums)?;
            self.dequantise(&sums, output);
            return Some(());
        }
        if input.len() < self.layers.first()?.inputs() {
            return self.forward_padded(input, output);
        }
        let (last, before) = self.layers.split_last()?;
        let Some((first, others)) = before.split_first() else {
            return last.eval::<KINDS>(input, output);
        };
        let [mut a, mut b] = [[0.0; WIDTH]; 2];
        let (mut from, mut to) = (&mut a, &mut b);
        first.eval::<KINDS>(input, from)?;
        for layer in others {
            layer.eval::<KINDS>(from, to)?;
            mem::swap(&mut from, &mut to);
        }
        last.eval::<KINDS>(from, output)
    }

    /// Runs the layers on integers, at least as many as the model has inputs.
    fn forward_q(&self, input: &[i32], output: &mut [i32; OUT]) {
        if self.is_integer() {
            self.forward_raw(input, output);
            return;
        }
        let values: [f32; IN] = array::from_fn(|k| nth(input, k) as f32);
        let mut sums = [0.0; OUT];
        self.forward(&values, &mut sums);
        *output = sums.map(nearest);
    }

    /// Runs the layers of integers.
    fn forward_raw(&self, input: &[i32], output: &mut [i32; OUT]) -> Option<()> {
        let (last, before) = self.layers.split_last()?;
        let mut places = [const { Slot::uninit() }; IN];
        let Some((first, others)) = before.split_first() else {
            return last.eval_raw::<KINDS>(Some(input), output, &mut places);
        };
        let mut sums = [0; WIDTH];
        first.eval_raw::<KINDS>(Some(input), &mut sums, &mut places)?;
        let mut places = [const { Slot::uninit() }; WIDTH];
        for layer in others {
            layer.eval_raw::<KINDS>(None, &mut sums, &mut places)?;
        }
        last.eval_raw::<KINDS>(Some(&sums), output, &mut places)
    }

    /// [`forward`](Self::forward) with 0 for the inputs that are missing.
    // Not inlined: its stack is only for those who do without inputs.
    #[cold]
    #[inline(never)]
    fn forward_padded(&self, input: &[f32], output: &mut [f32; OUT]) -> Option<()> {
        let mut padded = [0.0; IN];
        copy(input, &mut padded);
        self.forward(&padded, output)
    }

    /// Inputs as the integers that the tables take.
    fn quantise(&self, input: &[f32], raw: &mut [i32; IN]) {
        let scales = self.layers.first().map_or(&[][..], Layer::input_scales);
        for (k, (raw, [scale, zero])) in raw.iter_mut().zip(scales).enumerate() {
            let x = input.get(k).copied().unwrap_or(0.0);
            *raw = nearest(x * scale + zero);
        }
    }

    /// Outputs in their own units.
    fn dequantise(&self, raw: &[i32], output: &mut [f32]) {
        let scales = self.layers.last().map_or(&[][..], Layer::output_scales);
        for ((y, &raw), [scale, zero]) in output.iter_mut().zip(raw).zip(scales) {
            *y = raw as f32 * scale + zero;
        }
    }

    /// The class of one input vector: the first of the largest logits.
    ///
    /// With a [`Sigmoid`](Head::Sigmoid) head 1 where the logit is positive, else 0. With
    /// [`Identity`](Head::Identity) the position of the largest output.
    pub fn classify(&self, input: &[f32; IN]) -> usize {
        self.classify_from(input)
    }

    /// [`classify`](Self::classify) on a slice of any length; missing inputs count as 0.
    pub fn classify_from(&self, input: &[f32]) -> usize {
        if self.is_integer() {
            let mut raw = [0; IN];
            self.quantise(input, &mut raw);
            return self.classify_q(&raw);
        }
        self.outputs_of(input, |values| self.class_of(values))
    }

    /// The class of one input vector of integers, as [`eval_q`](Self::eval_q) takes them.
    ///
    /// With tables of integers and a [`Softmax`](Head::Softmax) or [`Sigmoid`](Head::Sigmoid) head
    /// not one float instruction is executed.
    pub fn classify_q(&self, input: &[i32; IN]) -> usize {
        let output = self.eval_q(input);
        let raw = output.get(..self.outputs()).unwrap_or(&[]);
        match self.head {
            Head::Identity if self.is_integer() => {
                let mut output = [0.0; OUT];
                self.dequantise(raw, &mut output);
                position_of_largest(output.get(..self.outputs()).unwrap_or(&[]))
            }
            _ => self.class_of(raw),
        }
    }

    /// [`classify_q`](Self::classify_q) on a slice of any length; missing inputs count as 0.
    pub fn classify_q_from(&self, input: &[i32]) -> usize {
        let mut padded = [0; IN];
        copy(input, &mut padded);
        self.classify_q(&padded)
    }

    /// The class with these logits.
    fn class_of<T: PartialOrd + Default + Copy>(&self, logits: &[T]) -> usize {
        match (self.head, logits) {
            (Head::Sigmoid, [logit, ..]) => usize::from(*logit > T::default()),
            (_, logits) => position_of_largest(logits),
        }
    }

    /// The probabilities of the classes for one input vector.
    ///
    /// With a [`Softmax`](Head::Softmax) head one for each class, in [0, 1] and with sum 1 but for
    /// rounding; with [`Sigmoid`](Head::Sigmoid) the first output is that of class 1, and there is
    /// no other. With [`Identity`](Head::Identity) the same as [`eval`](Self::eval).
    pub fn probabilities(&self, input: &[f32; IN]) -> [f32; OUT] {
        let mut output = [0.0; OUT];
        self.probabilities_into(input, &mut output);
        output
    }

    /// [`probabilities`](Self::probabilities) on slices of any length, as
    /// [`eval_into`](Self::eval_into).
    pub fn probabilities_into(&self, input: &[f32], output: &mut [f32]) {
        self.outputs_of(input, |values| {
            match self.head {
                Head::Identity => {}
                Head::Softmax => softmax(values),
                Head::Sigmoid => values
                    .iter_mut()
                    .for_each(|value| *value = logistic(*value)),
            }
            copy(values, output);
        });
    }

    /// Whether every input lies within its grid and margin, so that none saturates. NaN does not.
    ///
    /// Inputs that no edge reads are not looked at.
    pub fn in_domain(&self, input: &[f32; IN]) -> bool {
        self.in_domain_of(input)
    }

    /// [`in_domain`](Self::in_domain) on a slice of any length; missing inputs count as 0.
    pub fn in_domain_of(&self, input: &[f32]) -> bool {
        if self.is_integer() {
            let mut raw = [0; IN];
            self.quantise(input, &mut raw);
            return self.in_domain_q_of(&raw);
        }
        self.layers.first().is_some_and(|layer| layer.covers(input))
    }

    /// [`in_domain`](Self::in_domain) of integers, as [`eval_q`](Self::eval_q) takes them.
    pub fn in_domain_q(&self, input: &[i32; IN]) -> bool {
        self.in_domain_q_of(input)
    }

    /// [`in_domain_q`](Self::in_domain_q) on a slice of any length; missing inputs count as 0.
    pub fn in_domain_q_of(&self, input: &[i32]) -> bool {
        if self.is_integer() {
            let first = self.layers.first();
            return first.is_some_and(|layer| layer.covers_raw(input));
        }
        let values: [f32; IN] = array::from_fn(|k| nth(input, k) as f32);
        self.in_domain_of(&values)
    }

    /// Whether the tables are integers: then an inference needs no float.
    pub fn is_integer(&self) -> bool {
        // Models of f32 and of integers are linked without the code of the other.
        KINDS & kinds::F32 == 0
            || (KINDS & !kinds::F32 != 0 && self.layers.first().is_some_and(Layer::is_integer))
    }

    /// For tables of integers, the scale and zero of an input: x in its own unit stands for the
    /// integer nearest to `x·scale + zero`, with half a unit away from 0, saturating; NaN for the
    /// least. `None` for `f32`, or if there is no such input.
    pub fn input_scale(&self, input: usize) -> Option<(f32, f32)> {
        let first = self.layers.first().filter(|layer| layer.is_integer())?;
        let scale = first.input_scales().get(input);
        scale.map(|&[scale, zero]| (scale, zero))
    }

    /// For tables of integers, the scale and zero of an output: the integer y stands for
    /// `y·scale + zero` in its own unit. `None` for `f32`, or if there is no such output.
    ///
    /// With a [`Softmax`](Head::Softmax) or [`Sigmoid`](Head::Sigmoid) head all have the same
    /// scale, and their zeros are 0.
    pub fn output_scale(&self, output: usize) -> Option<(f32, f32)> {
        let last = self.layers.last().filter(|layer| layer.is_integer())?;
        let scale = last.output_scales().get(output);
        scale.map(|&[scale, zero]| (scale, zero))
    }

    /// Number of inputs, 1 to `IN`; of an [empty](Self::empty) model 0, as all its numbers.
    pub fn inputs(&self) -> usize {
        self.header.inputs()
    }

    /// Number of outputs, 1 to `OUT`. Of a [`Sigmoid`](Head::Sigmoid) model 1, though it has two
    /// classes.
    pub fn outputs(&self) -> usize {
        self.header.outputs()
    }

    /// The most output nodes of any layer, 1 to `WIDTH`.
    pub fn width(&self) -> usize {
        self.header.width()
    }

    /// Number of layers, 1 to `LAYERS`.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Number of edges of all layers.
    pub fn edges(&self) -> usize {
        self.header.edges()
    }

    /// What the outputs mean.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The model's name; empty if it is not UTF-8.
    pub fn name(&self) -> &'m str {
        let name = self.title().map_or(&[][..], |title| title.name);
        str::from_utf8(name).unwrap_or("")
    }

    /// Name of an input. `None` if the blob has no names, no such input, or the name is not UTF-8.
    pub fn input_name(&self, input: usize) -> Option<&'m str> {
        line(self.title()?.input_names, input)
    }

    /// Name of an output, or with a [`Softmax`](Head::Softmax) or [`Sigmoid`](Head::Sigmoid) head
    /// of a class. `None` as for [`input_name`](Self::input_name).
    pub fn output_name(&self, output: usize) -> Option<&'m str> {
        line(self.title()?.output_names, output)
    }

    /// The names. They are read when asked for, and checked then: that they are UTF-8 costs half a
    /// kilobyte of flash, which only firmware that reads names should pay.
    fn title(&self) -> Option<Title<'m>> {
        Reader::new(self.blob).title()
    }

    /// Version of the blob's format.
    pub fn format_version(&self) -> u16 {
        VERSION // the only one that loads so far
    }

    /// Length of the blob in bytes.
    pub fn blob_len(&self) -> usize {
        self.blob.len()
    }

    /// The CRC-32 that the blob carries, to tell models apart.
    pub fn crc(&self) -> u32 {
        self.header.crc()
    }

    /// What the tables of each layer are, first to last.
    pub fn tables(&self) -> impl Iterator<Item = LayerTables> {
        self.layers.iter().map(Layer::tables)
    }
}

/// Bytes of RAM that a [`Model`] of these capacities takes on a 32-bit target: the struct itself,
/// and the two rows of sums that an evaluation of `f32` keeps on the stack beside its few locals.
///
/// Of tables of integers it is [`integer_ram_bytes`].
pub const fn ram_bytes(width: usize, layers: usize) -> usize {
    let (fixed, layer, sums) = (20, 60, 2 * size_of::<f32>());
    fixed + layer * layers + sums * width
}

/// [`ram_bytes`] for tables of integers: the struct, and what [`Model::eval_q`] keeps on the stack
/// beside its few locals: a row of sums, the outputs, and 12 bytes for each node of a layer's
/// inputs.
pub const fn integer_ram_bytes(
    inputs: usize,
    outputs: usize,
    width: usize,
    layers: usize,
) -> usize {
    let place = 12;
    ram_bytes(0, layers) + 4 * (width + outputs) + place * (inputs + width)
}

impl<const IN: usize, const OUT: usize, const WIDTH: usize, const LAYERS: usize, const KINDS: u16>
    fmt::Debug for Model<'_, IN, OUT, WIDTH, LAYERS, KINDS>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("name", &self.name())
            .field("crc", &self.crc())
            .finish()
    }
}

#[cfg(feature = "defmt")]
impl<const IN: usize, const OUT: usize, const WIDTH: usize, const LAYERS: usize, const KINDS: u16>
    defmt::Format for Model<'_, IN, OUT, WIDTH, LAYERS, KINDS>
{
    fn format(&self, f: defmt::Formatter<'_>) {
        defmt::write!(
            f,
            "Model {{ name: {=str}, crc: {=u32} }}",
            self.name(),
            self.crc()
        );
    }
}

/// Reads the header and the layers, without the capacities as types, so that it is compiled once.
fn read<'m, const KINDS: u16>(
    blob: &'m [u8],
    capacity: [usize; 3],
    layers: &mut VecView<Layer<'m>>,
) -> Result<(Header<'m>, Head), LoadError> {
    let header = Header::read(blob)?;
    let (inputs, outputs, count) = (header.inputs(), header.outputs(), header.layers());
    let [most_inputs, most_outputs, widest] = capacity;
    if inputs > most_inputs
        || outputs > most_outputs
        || header.width() > widest
        || count > layers.capacity()
    {
        return Err(LoadError::CapacityExceeded);
    }
    let malformed = LoadError::Malformed;
    let mut reader = Reader::new(blob);
    let title = reader.title().ok_or(malformed)?;
    if reader.number() != count {
        return Err(malformed);
    }
    let (of_floats, of_integers) = (KINDS & kinds::F32 != 0, KINDS & !kinds::F32 != 0);
    let (mut last, mut widest, mut edges) = (inputs, 0, 0);
    for k in 0..count {
        let layer = Layer::read::<KINDS>(&mut reader, last)?;
        // A model is of f32 or of integers throughout.
        let is_other = |first: &Layer| first.is_integer() != layer.is_integer();
        if of_floats && of_integers && layers.first().is_some_and(is_other) {
            return Err(malformed);
        }
        layers
            .push(layer)
            .map_err(|_| LoadError::CapacityExceeded)?;
        let layer = layers.last_mut().ok_or(malformed)?;
        let of_outputs = (k + 1 == count).then_some(title.head);
        layer.check::<KINDS>(k == 0, of_outputs)?;
        last = layer.outputs();
        widest = widest.max(last);
        edges += layer.edges();
    }
    let (head_fits, classes) = match title.head {
        Head::Identity => (true, outputs),
        Head::Softmax => (outputs >= 2, outputs),
        Head::Sigmoid => (outputs == 1, 2),
    };
    let consistent = reader.is_finished()
        && inputs > 0
        && outputs > 0
        && last == outputs
        && widest == header.width()
        && edges == header.edges()
        && head_fits
        && names_fit(title.input_names, inputs)
        && names_fit(title.output_names, classes);
    if consistent {
        Ok((header, title.head))
    } else {
        Err(malformed)
    }
}

/// Whether `names` is empty or has `count` lines.
fn names_fit(names: &[u8], count: usize) -> bool {
    names.is_empty() || names.iter().filter(|&&byte| byte == b'\n').count() + 1 == count
}

/// Line `k` of `names`. (Not by `str::split`, which is not free of panics.)
fn line(names: &[u8], k: usize) -> Option<&str> {
    let end = |rest: &[u8]| rest.iter().position(|&byte| byte == b'\n');
    let mut rest = names;
    for _ in 0..k {
        rest = rest.get(end(rest)? + 1..)?;
    }
    let line = rest.get(..end(rest).unwrap_or(rest.len()))?;
    if names.is_empty() {
        None
    } else {
        str::from_utf8(line).ok()
    }
}

/// The nearest integer, half a unit away from 0; saturates, and NaN is the least.
fn nearest(x: f32) -> i32 {
    let half = if x < 0.0 { -0.5 } else { 0.5 };
    if x >= i32::MIN as f32 {
        (x + half) as i32
    } else {
        i32::MIN
    }
}

/// Number `k`, or 0.
fn nth<T: Copy + Default>(numbers: &[T], k: usize) -> T {
    numbers.get(k).copied().unwrap_or_default()
}

/// Copies what there is, and fills the rest with 0.
fn copy<T: Copy + Default>(from: &[T], to: &mut [T]) {
    for (k, to) in to.iter_mut().enumerate() {
        *to = nth(from, k);
    }
}

/// The first of the largest values.
fn position_of_largest<T: PartialOrd + Copy>(values: &[T]) -> usize {
    let mut best = (0, None);
    for (k, &value) in values.iter().enumerate() {
        if best.1.is_none_or(|largest| value > largest) {
            best = (k, Some(value));
        }
    }
    best.0
}
