//! `kan-core` on the host: the bytes that go to the device, evaluated as the device does.

use kan_core::blob::{HEADER_LEN, IntegerNode, LayerMessage, Node, VERSION};
use kan_core::{Head, LoadError, Model, Scalar, blob_len};
use rayon::prelude::*;

/// The most nodes of any layer of a model that the host evaluates: more than training allows.
pub const CAPACITY: usize = 4096;
/// The most layers.
pub const LAYERS: usize = 16;

/// A model of any shape that training can give.
pub type HostModel<'m> = Model<'m, CAPACITY, CAPACITY, CAPACITY, LAYERS>;

/// Why bytes are no model. Each prints as one line, to be preceded by the file's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluatorError {
    /// Any other file.
    #[error("not a KAN model: a blob begins with other bytes")]
    NotABlob,
    /// Written by another version.
    #[error("a blob of format version {0}, but this kan reads version {VERSION}: update kan")]
    Version(u16),
    /// The end is missing.
    #[error("the blob is cut short: {found} bytes of {expected}")]
    Truncated {
        /// The bytes there are.
        found: usize,
        /// The bytes there should be, or those of the smallest header.
        expected: usize,
    },
    /// Larger than anything this crate makes.
    #[error("the model has more than {CAPACITY} nodes in a layer or more than {LAYERS} layers")]
    TooLarge,
    /// Whatever else `kan-core` objects to.
    #[error("{0}")]
    Refused(LoadError),
}

/// A checked model that owns its bytes.
#[derive(Clone, Debug)]
pub struct Evaluator {
    /// Words, so that the bytes are aligned.
    words: Vec<u32>,
    len: usize,
}

impl Evaluator {
    /// Checks the bytes of a blob.
    ///
    /// # Errors
    /// [`EvaluatorError`] for bytes that [`Model::load`] refuses.
    pub fn load(bytes: &[u8]) -> Result<Self, EvaluatorError> {
        let mut words = vec![0; bytes.len().div_ceil(4)];
        bytemuck::cast_slice_mut::<u32, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        let evaluator = Self {
            words,
            len: bytes.len(),
        };
        let fault = HostModel::load(evaluator.bytes()).err();
        match fault {
            None => Ok(evaluator),
            Some(LoadError::NotABlob) => Err(EvaluatorError::NotABlob),
            Some(LoadError::Version(version)) => Err(EvaluatorError::Version(version)),
            Some(LoadError::Truncated) => Err(EvaluatorError::Truncated {
                found: bytes.len(),
                expected: blob_len(bytes).unwrap_or(HEADER_LEN),
            }),
            Some(LoadError::CapacityExceeded) => Err(EvaluatorError::TooLarge),
            Some(other) => Err(EvaluatorError::Refused(other)),
        }
    }

    /// The blob.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    /// The model. Loading it anew takes a pass over the bytes: keep it while it is in use.
    pub fn model(&self) -> HostModel<'_> {
        HostModel::load(self.bytes()).expect("the bytes are those that were checked")
    }

    /// The raw outputs (values, or logits) for every row of `x`, row-major `[rows, inputs]`, each
    /// input rounded to `f32` as a device gets it. Row-major `[rows, outputs]`.
    pub fn eval(&self, x: &[f64]) -> Vec<f32> {
        let model = self.model();
        let (inputs, outputs) = (model.inputs(), model.outputs());
        let mut all = vec![0.0; x.len() / inputs * outputs];
        let blocks = all
            .par_chunks_mut(64 * outputs)
            .zip(x.par_chunks(64 * inputs));
        blocks.for_each_init(
            || vec![0.0; inputs],
            |input, (block, x)| {
                let rows = x.chunks_exact(inputs);
                for (row, output) in rows.zip(block.chunks_exact_mut(outputs)) {
                    for (to, from) in input.iter_mut().zip(row) {
                        *to = *from as f32;
                    }
                    model.eval_into(input, output);
                }
            },
        );
        all
    }

    /// For every row of `x` whether none of its inputs saturates.
    pub fn in_domain(&self, x: &[f64]) -> Vec<bool> {
        let model = self.model();
        let single: Vec<f32> = x.iter().map(|&value| value as f32).collect();
        single
            .chunks_exact(model.inputs())
            .map(|row| model.in_domain_of(row))
            .collect()
    }

    /// The middle of each input's grid, in the unit of the input.
    pub fn centre(&self) -> Vec<f64> {
        type Title<'a> = (&'a str, Head, &'a str, &'a str, u32);
        let layers = postcard::take_from_bytes::<Title<'_>>(&self.bytes()[HEADER_LEN..]);
        let first = layers.and_then(|(_, layers)| postcard::take_from_bytes(layers));
        let (first, _): (LayerMessage<'_>, _) = first.expect("the bytes were checked");
        let model = self.model();
        let nodes = first.nodes.data.as_chunks::<16>().0.iter().enumerate();
        let centre = |(input, node): (usize, &[u8; 16])| match model.input_scale(input) {
            None => {
                let node = Node::unpack(bytemuck::cast(*node));
                f64::from(node.lo + 0.5 * f32::from(node.intervals) / node.inv_step)
            }
            Some((scale, zero)) => {
                let node = IntegerNode::unpack(bytemuck::cast(*node));
                let raw = f64::from(node.hi) - 0.5 * f64::from(node.width);
                (raw - f64::from(zero)) / f64::from(scale)
            }
        };
        nodes.map(centre).collect()
    }

    /// The number of nodes from the inputs to the outputs.
    pub fn width(&self) -> Vec<usize> {
        let model = self.model();
        std::iter::once(model.inputs())
            .chain(model.tables().map(|layer| layer.outputs))
            .collect()
    }

    /// The kind of all tables: `cubic`, `linear`, `step`, `exact`, or `mixed`.
    pub fn tables(&self) -> &'static str {
        let model = self.model();
        let mut kinds = model
            .tables()
            .map(|layer| match (layer.degree, layer.residual) {
                (3, false) => "cubic",
                (1, false) => "linear",
                (0, false) => "step",
                (3, true) => "exact",
                _ => "mixed",
            });
        let first = kinds.next().unwrap_or("mixed");
        if kinds.all(|kind| kind == first) {
            first
        } else {
            "mixed"
        }
    }

    /// Bits of a coefficient; the most of any layer.
    pub fn bits(&self) -> u8 {
        let model = self.model();
        let bits = model.tables().map(|layer| match layer.scalar {
            Scalar::F32 => 32,
            Scalar::I16 => 16,
            Scalar::I8 => 8,
        });
        bits.max().unwrap_or(32)
    }

    /// The type that firmware made for this model alone loads it with.
    pub fn rust_type(&self) -> String {
        let model = self.model();
        let (inputs, outputs) = (model.inputs(), model.outputs());
        let (width, layers) = (model.width(), model.layers());
        format!("kan_core::Model<'static, {inputs}, {outputs}, {width}, {layers}>")
    }
}
