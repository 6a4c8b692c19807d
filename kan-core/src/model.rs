//! A loaded model and what can be asked of it.

use core::{fmt, iter, mem};

use heapless::{Vec, VecView};

use crate::base::{exp, logistic};
use crate::blob::{Head, Header, LoadError, Reader, Scalar};
use crate::layer::Layer;

/// A model whose tables stay where the blob is.
///
/// The parameters are capacities: the most inputs, outputs, nodes in a layer other than the
/// inputs, and layers that a blob may have to be loaded as this type. `kan inspect` prints the
/// type that fits a blob exactly.
///
/// Evaluation needs 8·`WIDTH` bytes of stack, the struct itself about 70 + 48·`LAYERS` bytes on a
/// 32-bit target.
#[derive(Clone)]
pub struct Model<'m, const IN: usize, const OUT: usize, const WIDTH: usize, const LAYERS: usize> {
    header: Header,
    title: Title<'m>,
    layers: Vec<Layer<'m>, LAYERS>,
}

/// The fields of the message before its layers. The names are bytes because checking UTF-8 costs
/// half a kilobyte of flash, which only firmware that reads names should pay.
#[derive(Clone, Copy)]
struct Title<'m> {
    name: &'m [u8],
    head: Head,
    input_names: &'m [u8],
    output_names: &'m [u8],
}

/// What the tables of one layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LayerTables {
    /// Degree of the splines: 3, 1 or 0.
    pub degree: u8,
    /// Number format of the coefficients.
    pub scalar: Scalar,
    /// Whether the edges have a SiLU base function beside their spline.
    pub residual: bool,
    /// Number of input nodes.
    pub inputs: usize,
    /// Number of output nodes.
    pub outputs: usize,
    /// Number of edges.
    pub edges: usize,
}

impl<'m, const IN: usize, const OUT: usize, const WIDTH: usize, const LAYERS: usize>
    Model<'m, IN, OUT, WIDTH, LAYERS>
{
    /// Checks a blob and borrows its tables.
    pub fn load(blob: &'m [u8]) -> Result<Self, LoadError> {
        let mut layers = Vec::new();
        let (header, title) = read(blob, [IN, OUT, WIDTH], &mut layers)?;
        Ok(Self {
            header,
            title,
            layers,
        })
    }

    /// The outputs for one input vector; those that the model does not have are 0.
    pub fn eval(&self, input: &[f32; IN]) -> [f32; OUT] {
        let mut output = [0.0; OUT];
        self.eval_into(input, &mut output);
        output
    }

    /// [`eval`](Self::eval) on slices of any length.
    pub fn eval_into(&self, input: &[f32], output: &mut [f32]) {
        let [mut a, mut b] = [[0.0; WIDTH]; 2];
        copy(forward(&self.layers, input, &mut a, &mut b), output);
    }

    /// The class of one input vector.
    pub fn classify(&self, input: &[f32; IN]) -> usize {
        self.classify_from(input)
    }

    /// [`classify`](Self::classify) on a slice of any length.
    pub fn classify_from(&self, input: &[f32]) -> usize {
        let [mut a, mut b] = [[0.0; WIDTH]; 2];
        let logits = forward(&self.layers, input, &mut a, &mut b);
        match (self.title.head, logits) {
            (Head::Sigmoid, [logit, ..]) => usize::from(*logit > 0.0),
            (_, logits) => position_of_largest(logits),
        }
    }

    /// The probabilities of the classes.
    pub fn probabilities(&self, input: &[f32; IN]) -> [f32; OUT] {
        let mut output = [0.0; OUT];
        self.probabilities_into(input, &mut output);
        output
    }

    /// [`probabilities`](Self::probabilities) on slices of any length.
    pub fn probabilities_into(&self, input: &[f32], output: &mut [f32]) {
        let [mut a, mut b] = [[0.0; WIDTH]; 2];
        let values = forward(&self.layers, input, &mut a, &mut b);
        match self.title.head {
            Head::Identity => {}
            Head::Softmax => softmax(values),
            Head::Sigmoid => values
                .iter_mut()
                .for_each(|value| *value = logistic(*value)),
        }
        copy(values, output);
    }

    /// Whether no input saturates.
    pub fn in_domain(&self, input: &[f32; IN]) -> bool {
        self.in_domain_of(input)
    }

    /// [`in_domain`](Self::in_domain) on a slice of any length.
    pub fn in_domain_of(&self, input: &[f32]) -> bool {
        self.layers.first().is_some_and(|layer| layer.covers(input))
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        usize::from(self.header.inputs)
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        usize::from(self.header.outputs)
    }

    /// The most output nodes of any layer.
    pub fn width(&self) -> usize {
        usize::from(self.header.width)
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Number of edges.
    pub fn edges(&self) -> usize {
        self.header.edges as usize
    }

    /// Meaning of the outputs.
    pub fn head(&self) -> Head {
        self.title.head
    }

    /// Name of the model; empty if it is not UTF-8.
    pub fn name(&self) -> &'m str {
        str::from_utf8(self.title.name).unwrap_or("")
    }

    /// Name of an input, if the blob names them.
    pub fn input_name(&self, input: usize) -> Option<&'m str> {
        line(self.title.input_names, input)
    }

    /// Name of an output, or of a class, if the blob names them.
    pub fn output_name(&self, output: usize) -> Option<&'m str> {
        line(self.title.output_names, output)
    }

    /// Length of the blob in bytes.
    pub fn blob_len(&self) -> usize {
        self.header.len as usize
    }

    /// The blob's CRC-32, which identifies the model.
    pub fn crc(&self) -> u32 {
        self.header.crc
    }

    /// What the tables of each layer are, first to last.
    pub fn tables(&self) -> impl Iterator<Item = LayerTables> {
        self.layers.iter().map(|layer| LayerTables {
            degree: layer.degree(),
            scalar: layer.scalar(),
            residual: layer.residual(),
            inputs: layer.inputs(),
            outputs: layer.outputs(),
            edges: layer.edges(),
        })
    }
}

impl<const IN: usize, const OUT: usize, const WIDTH: usize, const LAYERS: usize> fmt::Debug
    for Model<'_, IN, OUT, WIDTH, LAYERS>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header {
            inputs,
            outputs,
            width,
            layers,
            edges,
            ..
        } = self.header;
        let name = self.name();
        write!(
            f,
            "Model {name:?}: {inputs} inputs, {outputs} outputs, {layers} layers, width {width}, {edges} edges"
        )
    }
}

/// `load` without the capacities as types, so that it is compiled once.
fn read<'m>(
    blob: &'m [u8],
    capacity: [usize; 3],
    layers: &mut VecView<Layer<'m>>,
) -> Result<(Header, Title<'m>), LoadError> {
    let header = Header::read(blob)?;
    if !blob.as_ptr().addr().is_multiple_of(4) {
        return Err(LoadError::Misaligned);
    }
    let sizes = [header.inputs, header.outputs, header.width].map(usize::from);
    let count = usize::from(header.layers);
    let fits = sizes
        .iter()
        .zip(&capacity)
        .all(|(size, capacity)| size <= capacity);
    if !fits || count > layers.capacity() {
        return Err(LoadError::CapacityExceeded);
    }
    let mut reader = Reader::new(blob);
    let malformed = LoadError::Malformed;
    let title = Title {
        name: reader.bytes().ok_or(malformed)?,
        head: match reader.number() {
            Some(0) => Head::Identity,
            Some(1) => Head::Softmax,
            Some(2) => Head::Sigmoid,
            _ => return Err(malformed),
        },
        input_names: reader.bytes().ok_or(malformed)?,
        output_names: reader.bytes().ok_or(malformed)?,
    };
    if reader.number() != Some(count) {
        return Err(malformed);
    }
    let [inputs, outputs, width] = sizes;
    let (mut last, mut widest, mut edges) = (inputs, 0, 0);
    for _ in 0..count {
        let layer = Layer::read(&mut reader, last)?;
        last = layer.outputs();
        widest = widest.max(last);
        edges += layer.edges();
        layers
            .push(layer)
            .map_err(|_| LoadError::CapacityExceeded)?;
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
        && widest == width
        && edges == header.edges as usize
        && head_fits
        && names_fit(title.input_names, inputs)
        && names_fit(title.output_names, classes);
    if consistent {
        Ok((header, title))
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

/// Runs the layers, each from one half of the scratch to the other; returns the last outputs.
fn forward<'s>(
    layers: &[Layer],
    input: &[f32],
    mut from: &'s mut [f32],
    mut to: &'s mut [f32],
) -> &'s mut [f32] {
    let mut outputs = 0;
    for (k, layer) in layers.iter().enumerate() {
        layer.eval(if k == 0 { input } else { from }, to);
        outputs = layer.outputs();
        mem::swap(&mut from, &mut to);
    }
    from.get_mut(..outputs).unwrap_or(&mut [])
}

/// Copies what there is, and fills the rest with 0.
fn copy(from: &[f32], to: &mut [f32]) {
    let values = from.iter().copied().chain(iter::repeat(0.0));
    for (to, value) in to.iter_mut().zip(values) {
        *to = value;
    }
}

/// The first of the largest values.
fn position_of_largest(values: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (k, &value) in values.iter().enumerate() {
        if value > best.1 {
            best = (k, value);
        }
    }
    best.0
}

fn softmax(logits: &mut [f32]) {
    let largest = logits
        .iter()
        .fold(f32::NEG_INFINITY, |m, &z| if z > m { z } else { m });
    let mut total = 0.0;
    for value in logits.iter_mut() {
        *value = exp(*value - largest);
        total += *value;
    }
    for value in logits {
        *value /= total;
    }
}
