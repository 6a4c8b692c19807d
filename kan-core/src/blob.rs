//! The model file: its header, its message, and the encoder. Byte by byte in `FORMAT.md`.
//!
//! A host builds a [`Message`] from one [`LayerMessage`] per layer and calls [`Message::encode`];
//! a device reads the same structs back, without copying their tables. Neither allocates.
//!
//! ```
//! use kan_core::blob::{Aligned, Head, LayerMessage, Message, Node, Scalar};
//!
//! // One input, one output, one edge: the straight line y = x over two linear intervals.
//! let nodes = [Node { lo: -1.0, inv_step: 1.0, margin: 0.0, intervals: 2, edges: 1 }.pack()];
//! let layer = LayerMessage {
//!     degree: 1,
//!     scalar: Scalar::F32,
//!     residual: false,
//!     outputs: 1,
//!     nodes: Aligned::of(&nodes),
//!     bias: Aligned::of(&[0.0_f32]),
//!     targets: Aligned::of(&[0_u16]),
//!     coefficients: Aligned::of(&[-1.0_f32, 0.0, 1.0]),
//!     base: Aligned::of::<f32>(&[]),
//! };
//! let message = Message {
//!     name: "line",
//!     head: Head::Identity,
//!     input_names: "x",
//!     output_names: "y",
//!     layers: &[layer],
//! };
//!
//! let mut words = [0_u32; 64]; // words, so that the bytes are aligned
//! let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
//! let len = message.encode(bytes).expect("the buffer is large enough");
//! assert_eq!(len, message.encoded_len());
//!
//! let model = kan_core::Model::<1, 1, 1, 1>::load(&bytes[..len])?;
//! assert_eq!(model.eval(&[0.25]), [0.25]);
//! # Ok::<(), kan_core::LoadError>(())
//! ```

use core::fmt;

use bytemuck::{AnyBitPattern, NoUninit};
use crc::{CRC_32_ISO_HDLC, Crc, NoTable};
use serde::{Deserialize, Serialize};

/// The first four bytes of every blob; the last of them occurs in no UTF-8 text.
pub const MAGIC: [u8; 4] = *b"KAN\xFA";

/// The format version this crate writes, and the newest it reads.
pub const VERSION: u16 = 1;

/// Bytes before the message.
pub const HEADER_LEN: usize = 32;

/// In place of a group's number of members: all nodes of the layer, in order, without a list.
pub const ALL_NODES: u16 = u16::MAX;

/// Bitwise, as a table would cost a device 1 KiB of flash.
const CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISO_HDLC);

/// Why [`Model::load`](crate::Model::load) refused a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum LoadError {
    /// The bytes do not begin with the magic number.
    NotABlob,
    /// The blob is of this format version, which this crate does not know.
    Version(u16),
    /// The blob is longer than the bytes given.
    Truncated,
    /// There are bytes after the blob's end.
    TrailingBytes,
    /// The CRC-32 is not that of the bytes.
    Checksum,
    /// The bytes do not start at a multiple of four; see [`ModelBytes`](crate::ModelBytes).
    Misaligned,
    /// The model has more inputs, outputs, layers, or nodes in a layer than the type has room for.
    CapacityExceeded,
    /// The tables are of a degree or number format this version of the crate does not evaluate.
    Unsupported,
    /// A field, length or index contradicts the others.
    Malformed,
    /// A table holds a NaN or an infinity.
    NotFinite,
    /// Some input could drive a sum out of the range of `f32`, or a grid is too wide to locate.
    Overflow,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotABlob => "not a KAN model",
            Self::Version(version) => {
                return write!(f, "blob format version {version} is not known here");
            }
            Self::Truncated => "the blob is cut short",
            Self::TrailingBytes => "there are bytes after the blob",
            Self::Checksum => "the checksum does not match: the blob is damaged",
            Self::Misaligned => "the blob does not start at a multiple of four",
            Self::CapacityExceeded => "the model is larger than the capacity of its type",
            Self::Unsupported => "the tables are of a kind this version does not evaluate",
            Self::Malformed => "the blob contradicts itself",
            Self::NotFinite => "a table holds a NaN or an infinity",
            Self::Overflow => "a sum could leave the range of f32",
        })
    }
}

impl core::error::Error for LoadError {}

/// What the outputs of the last layer mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Head {
    /// The outputs are the predicted values themselves.
    Identity,
    /// At least two logits, one for each class.
    Softmax,
    /// Exactly one logit, that of class 1 against class 0.
    Sigmoid,
}

/// Number format of a layer's coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Scalar {
    /// IEEE 754 binary32.
    F32,
    /// 16-bit integers: see [`IntegerNode`].
    I16,
    /// 8-bit integers.
    I8,
}

/// A model, ready to be encoded. The blob is a header and this struct as one postcard message.
#[derive(Clone, Copy, Debug, Serialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Message<'a> {
    /// Name of the model, for people.
    pub name: &'a str,
    /// Meaning of the outputs.
    pub head: Head,
    /// One name per input, separated by line feeds; or empty.
    pub input_names: &'a str,
    /// One name per output or class (two for [`Head::Sigmoid`]), separated by line feeds; or empty.
    pub output_names: &'a str,
    /// The layers, first to last. The number of inputs is that of the first layer's nodes.
    pub layers: &'a [LayerMessage<'a>],
}

/// One layer's tables: `inputs` nodes, each with edges to some of the `outputs` nodes.
///
/// serde reads it back too, for tools on a host; [`Model::load`](crate::Model::load) does without,
/// so it costs a device nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LayerMessage<'a> {
    /// Degree of the splines: 3, 1 or 0.
    pub degree: u8,
    /// Number format of `coefficients`.
    pub scalar: Scalar,
    /// Whether every edge adds `base[edge]`·silu(z) to its spline; z is −1 to 1 over the grid.
    pub residual: bool,
    /// Number of output nodes, at least 1.
    pub outputs: u16,
    /// One [`Node`] per input, packed: `[u32; 4]` each.
    #[serde(borrow)]
    pub nodes: Aligned<'a>,
    /// `f32` per output: where its sum starts.
    #[serde(borrow)]
    pub bias: Aligned<'a>,
    /// `u16` per edge, node by node: the output it leads to, strictly ascending within a node.
    #[serde(borrow)]
    pub targets: Aligned<'a>,
    /// Node by node, (`intervals` + `degree`) rows of `edges` coefficients.
    #[serde(borrow)]
    pub coefficients: Aligned<'a>,
    /// `f32` per edge, in the order of `targets`: factor of silu(z). Empty unless `residual`.
    #[serde(borrow)]
    pub base: Aligned<'a>,
}

/// Bulk data that starts at a multiple of four from the blob's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Aligned<'a> {
    /// 0 to 3 zero bytes. [`Message::encode`] computes them; what stands here does not matter.
    pub pad: &'a [u8],
    /// The data, little endian.
    pub data: &'a [u8],
}

impl<'a> Aligned<'a> {
    /// The bytes of `values`.
    pub fn of<T: NoUninit>(values: &'a [T]) -> Self {
        Self {
            pad: &[],
            data: bytemuck::cast_slice(values),
        }
    }
}

/// The uniform grid that all edges leaving one input node share.
///
/// The grid covers [lo, lo + intervals / inv_step]; beyond it every edge goes on as a straight
/// line for `margin` further intervals on each side (not with degree 0, which stays constant),
/// and beyond that the input saturates.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Node {
    /// Left end of the grid, in the unit of the input.
    pub lo: f32,
    /// Intervals per unit of the input, positive.
    pub inv_step: f32,
    /// Width of the margin in intervals, not negative.
    pub margin: f32,
    /// Number of intervals, at least 1.
    pub intervals: u16,
    /// Number of edges that leave the node.
    pub edges: u16,
}

impl Node {
    /// The record as it stands in the blob.
    pub fn pack(self) -> [u32; 4] {
        [
            self.lo.to_bits(),
            self.inv_step.to_bits(),
            self.margin.to_bits(),
            pair(self.intervals, self.edges),
        ]
    }

    /// The inverse of [`pack`](Self::pack).
    pub fn unpack([lo, inv_step, margin, counts]: [u32; 4]) -> Self {
        let (intervals, edges) = halves(counts);
        Self {
            lo: f32::from_bits(lo),
            inv_step: f32::from_bits(inv_step),
            margin: f32::from_bits(margin),
            intervals,
            edges,
        }
    }
}

/// The grid that all edges leaving one input node of an integer layer share.
///
/// An input x, an integer, is where
/// `position = (d << shift)·(scale + 1) / 2³²` says (rounded down), with d the distance of x from
/// `hi − width`, saturated to 0 to `width`: `position / 2¹⁵` is the interval, from 0, and the rest
/// the place in it in Q15. The grid has as many intervals as positions reach, and intervals +
/// degree rows of coefficients. Inputs beyond it saturate: what margin there is, has intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct IntegerNode {
    /// Right end of the grid, in the unit of the input.
    pub hi: i32,
    /// Its width, in the same unit: less than 2³¹, and so when shifted.
    pub width: u32,
    /// Positions per unit, in Q32, less 1.
    pub scale: u32,
    /// 2¹⁵ times the number of rows of all nodes before.
    pub first: u32,
}

impl IntegerNode {
    /// The record as it stands in the blob.
    pub fn pack(self) -> [u32; 4] {
        [self.hi as u32, self.width, self.scale, self.first]
    }

    /// The inverse of [`pack`](Self::pack).
    pub fn unpack([hi, width, scale, first]: [u32; 4]) -> Self {
        let hi = hi as i32;
        Self {
            hi,
            width,
            scale,
            first,
        }
    }
}

impl Message<'_> {
    /// Length of the blob in bytes.
    pub fn encoded_len(&self) -> usize {
        let text = |text: &str| varint_len(text.len()) + text.len();
        let head = 1;
        let start = HEADER_LEN
            + text(self.name)
            + head
            + text(self.input_names)
            + text(self.output_names)
            + varint_len(self.layers.len());
        self.layers
            .iter()
            .fold(start, |at, layer| layer.padded(at).1)
    }

    /// Writes the blob to the start of `buffer` and returns its length.
    ///
    /// `None` if `buffer` is shorter than [`encoded_len`](Self::encoded_len), if there is no layer,
    /// or if a number does not fit its header field (65 535 inputs or layers, 4 GiB). Nothing else
    /// is checked here: [`Model::load`](crate::Model::load) alone decides what a valid model is.
    pub fn encode(&self, buffer: &mut [u8]) -> Option<usize> {
        let Self {
            name,
            head,
            input_names,
            output_names,
            layers,
        } = *self;
        // A postcard struct is the concatenation of its fields, a sequence its length and elements.
        let title = (name, head, input_names, output_names, layers.len());
        let mut at = HEADER_LEN;
        at += postcard::to_slice(&title, buffer.get_mut(at..)?)
            .ok()?
            .len();
        for layer in layers {
            let (padded, _) = layer.padded(at);
            at += postcard::to_slice(&padded, buffer.get_mut(at..)?)
                .ok()?
                .len();
        }
        let blob = buffer.get_mut(..at)?;
        for (bytes, word) in blob.as_chunks_mut().0.iter_mut().zip(self.header(at)?) {
            *bytes = word.to_le_bytes();
        }
        let crc = checksum(blob)?;
        *blob.get_mut(12..)?.first_chunk_mut()? = crc.to_le_bytes();
        Some(at)
    }

    /// The words of the header, without the checksum.
    fn header(&self, len: usize) -> Option<[u32; HEADER_LEN / 4]> {
        let inputs = u16::try_from(self.layers.first()?.nodes.data.len() / 16).ok()?;
        let outputs = self.layers.last()?.outputs;
        let width = self.layers.iter().map(|layer| layer.outputs).max()?;
        let layers = u16::try_from(self.layers.len()).ok()?;
        let mut edges = self.layers.iter().map(LayerMessage::edges);
        Some([
            u32::from_le_bytes(MAGIC),
            pair(VERSION, 0),
            u32::try_from(len).ok()?,
            0,
            pair(inputs, outputs),
            pair(width, layers),
            edges.try_fold(0, |sum: u32, edges| sum.checked_add(edges?))?,
            0,
        ])
    }
}

impl LayerMessage<'_> {
    /// Number of edges, if the tables say.
    fn edges(&self) -> Option<u32> {
        let records = self.nodes.data.as_chunks::<16>().0;
        if self.scalar == Scalar::F32 {
            let of = |node: &[u8; 16]| u32::from(u16::from_le_bytes([node[14], node[15]]));
            return records.iter().map(of).try_fold(0, u32::checked_add);
        }
        let mut pairs = self.targets.data.as_chunks::<4>().0;
        let mut edges: u32 = 0;
        while let Some(([header, _rows], rest)) = pairs.split_first_chunk() {
            let (outputs, members) = halves(u32::from_le_bytes(*header));
            let (count, listed) = match members {
                ALL_NODES => (records.len(), 0),
                count => (usize::from(count), usize::from(count)),
            };
            pairs = rest.get(listed..)?;
            let of_group = u32::from(outputs).checked_mul(u32::try_from(count).ok()?)?;
            edges = edges.checked_add(of_group)?;
        }
        Some(edges)
    }

    /// The layer as it stands in a blob if it begins at byte `start`, and where it ends then.
    fn padded(&self, start: usize) -> (Self, usize) {
        let mut layer = *self;
        let degree_scalar_residual = 3;
        let mut at = start + degree_scalar_residual + varint_len(usize::from(layer.outputs));
        for field in [
            &mut layer.nodes,
            &mut layer.bias,
            &mut layer.targets,
            &mut layer.coefficients,
            &mut layer.base,
        ] {
            at += 1 + varint_len(field.data.len());
            field.pad = match at % 4 {
                0 => &[],
                1 => &[0; 3],
                2 => &[0; 2],
                _ => &[0; 1],
            };
            at += field.pad.len() + field.data.len();
        }
        (layer, at)
    }
}

/// Bytes of a postcard length or unsigned integer: seven bits each.
fn varint_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

/// The fixed part of a blob: what must be known before the message can be read.
#[derive(Clone, Copy)]
pub(crate) struct Header<'m>(&'m [u32; HEADER_LEN / 4]);

impl<'m> Header<'m> {
    /// That of no model.
    pub const EMPTY: Self = Self(&[0; HEADER_LEN / 4]);

    /// Reads the header and checks all that can be checked without the message.
    pub fn read(blob: &'m [u8]) -> Result<Self, LoadError> {
        let len = blob_len(blob)?;
        match blob.len() {
            have if have < len => return Err(LoadError::Truncated),
            have if have > len => return Err(LoadError::TrailingBytes),
            _ => {}
        }
        let bytes: &[u8; HEADER_LEN] = blob.first_chunk().ok_or(LoadError::Truncated)?;
        let header = Self(bytemuck::try_from_bytes(bytes).map_err(|_| LoadError::Misaligned)?);
        if checksum(blob) != Some(header.crc()) {
            return Err(LoadError::Checksum);
        }
        let [_, version, .., reserved] = *header.0;
        if halves(version).1 != 0 || reserved != 0 {
            return Err(LoadError::Malformed);
        }
        Ok(header)
    }

    pub fn crc(self) -> u32 {
        self.0[3]
    }

    pub fn inputs(self) -> usize {
        halves(self.0[4]).0.into()
    }

    pub fn outputs(self) -> usize {
        halves(self.0[4]).1.into()
    }

    pub fn width(self) -> usize {
        halves(self.0[5]).0.into()
    }

    pub fn layers(self) -> usize {
        halves(self.0[5]).1.into()
    }

    pub fn edges(self) -> usize {
        self.0[6] as usize
    }
}

/// The fields of the message before its layers. Names are bytes here: nobody has seen yet whether
/// they are UTF-8.
pub(crate) struct Title<'m> {
    pub name: &'m [u8],
    pub head: Head,
    pub input_names: &'m [u8],
    pub output_names: &'m [u8],
}

/// Reads the message field by field: the visitor that serde derives for a whole [`Message`] would
/// be more code than the rest of the loader. After a field that cannot stand where it does all are
/// 0 or empty, and the reader tells so when it is asked, once for several fields.
///
/// Every number must have its shortest encoding: so a model has one encoding only.
pub(crate) struct Reader<'m> {
    rest: &'m [u8],
    is_good: bool,
}

impl<'m> Reader<'m> {
    /// At the first field of a blob's message.
    pub fn new(blob: &'m [u8]) -> Self {
        Self {
            rest: blob.get(HEADER_LEN..).unwrap_or(&[]),
            is_good: true,
        }
    }

    /// Whether all fields could stand where they did.
    pub fn is_good(&self) -> bool {
        self.is_good
    }

    /// Whether the message has been read to its end, too.
    pub fn is_finished(&self) -> bool {
        self.is_good && self.rest.is_empty()
    }

    /// An empty field, as the one that is there cannot be.
    #[cold]
    #[inline(never)]
    fn fail(&mut self) -> &'m [u8] {
        *self = Self {
            rest: &[],
            is_good: false,
        };
        &[]
    }

    /// An unsigned integer, the length of a sequence, the variant of an enum, or a `bool`.
    pub fn number(&mut self) -> usize {
        let (mut number, mut shift) = (0, 0);
        while let Some(&byte) = self.rest.split_off_first() {
            // The fifth byte has four bits left, and only the first may be 0.
            if (shift == 28 && byte > 0xf) || (shift > 0 && byte == 0) {
                break;
            }
            number |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return number as usize;
            }
            shift += 7;
        }
        self.fail().len()
    }

    /// Bytes or a string.
    pub fn bytes(&mut self) -> &'m [u8] {
        let len = self.number();
        match self.rest.split_off(..len) {
            Some(bytes) => bytes,
            None => self.fail(),
        }
    }

    /// An [`Aligned`] field of numbers.
    pub fn array<T: AnyBitPattern>(&mut self) -> &'m [T] {
        bytemuck::try_cast_slice(self.aligned()).unwrap_or_else(|_| {
            self.fail();
            &[]
        })
    }

    fn aligned(&mut self) -> &'m [u8] {
        let (pad, data) = (self.bytes(), self.bytes());
        let is_shortest = pad.len() < 4 && data.as_ptr().addr().is_multiple_of(4);
        if is_shortest && pad.iter().all(|&byte| byte == 0) {
            data
        } else {
            self.fail()
        }
    }

    /// What stands before the layers.
    pub fn title(&mut self) -> Option<Title<'m>> {
        let (name, head) = (self.bytes(), self.number());
        let (input_names, output_names) = (self.bytes(), self.bytes());
        let head = match head {
            0 => Head::Identity,
            1 => Head::Softmax,
            2 => Head::Sigmoid,
            _ => return None,
        };
        self.is_good.then_some(Title {
            name,
            head,
            input_names,
            output_names,
        })
    }
}

/// The length of the blob that begins at `prefix`, from its first twelve bytes.
///
/// For firmware that cuts a blob out of a region of flash:
/// `region.get(..blob_len(region)?)`. The length is what the header says; only
/// [`Model::load`](crate::Model::load) shows that the blob is whole.
///
/// # Errors
///
/// [`NotABlob`](LoadError::NotABlob) for any other content (erased flash too),
/// [`Version`](LoadError::Version), [`Truncated`](LoadError::Truncated) below twelve bytes, and
/// [`Malformed`](LoadError::Malformed) for a length shorter than a header.
// Not inlined: firmware calls it, and the loader does.
#[inline(never)]
pub fn blob_len(prefix: &[u8]) -> Result<usize, LoadError> {
    if prefix.iter().zip(MAGIC).any(|(&byte, magic)| byte != magic) {
        return Err(LoadError::NotABlob);
    }
    let &[_, _, _, _, v0, v1, _, _, l0, l1, l2, l3] =
        prefix.first_chunk().ok_or(LoadError::Truncated)?;
    match u16::from_le_bytes([v0, v1]) {
        VERSION => {}
        other => return Err(LoadError::Version(other)),
    }
    match u32::from_le_bytes([l0, l1, l2, l3]) as usize {
        len if len < HEADER_LEN => Err(LoadError::Malformed),
        len => Ok(len),
    }
}

/// CRC-32/ISO-HDLC of the blob without the four bytes that hold it.
fn checksum(blob: &[u8]) -> Option<u32> {
    let (before, rest) = blob.split_at_checked(12)?;
    let (_, after) = rest.split_at_checked(4)?;
    let mut digest = CRC.digest();
    for part in [before, after] {
        digest.update(part);
    }
    Some(digest.finalize())
}

/// Two numbers in one word, the first in its low half.
fn pair(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

/// The inverse of [`pair`].
fn halves(word: u32) -> (u16, u16) {
    (word as u16, (word >> 16) as u16)
}
