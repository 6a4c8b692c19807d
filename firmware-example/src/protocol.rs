//! How a host and a device with a model talk over a serial line: the types of both sides.
//!
//! The host asks, the device answers; it never speaks first. A message is one frame:
//!
//! ```text
//! 0x00   COBS( postcard(Request or Reply)   CRC-32/ISO-HDLC of that, little endian )   0x00
//! ```
//!
//! No byte of the middle part is zero, so whatever went wrong before, a zero byte is where the next
//! frame begins. A frame that is damaged, too long or empty is skipped without an answer: the host
//! asks again. All requests may be repeated. A request that is whole but cannot be met is answered
//! by [`Answer::Refused`]. The answer bears the number of its request.
//!
//! The line runs at [`BAUD`], with 8 data bits, no parity and one stop bit, without flow control:
//! the host waits for the answer before it sends the next frame.

use cobs::{DecodeResult, DecoderState, EncoderState, PushResult, max_encoding_length};
use crc::{CRC_32_ISO_HDLC, Crc};
use postcard::ser_flavors::{Flavor, crc::CrcModifier};
use serde::{Deserialize, Serialize};

/// Version of the protocol; both sides must have the same.
pub const VERSION: u16 = 1;

/// Bits per second.
pub const BAUD: u32 = 115_200;

/// Most bytes of [`Ask::Predict::rows`], [`Ask::PredictRaw::rows`], [`Ask::Piece::bytes`] and
/// [`Answer::Rows`].
pub const DATA_BYTES: usize = 1024;

/// Most bytes of a frame between its zeros: the data, and room for all that goes with them.
pub const FRAME_BYTES: usize = max_encoding_length(DATA_BYTES + 32);

/// What stands in place of a count of ticks that the device's counter could not hold.
pub const UNCOUNTED: u32 = u32::MAX;

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// From the host.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request<'a> {
    /// Any number; the answer bears it too.
    pub number: u32,
    /// What is wanted.
    #[serde(borrow)]
    pub ask: Ask<'a>,
}

/// What the host can want.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ask<'a> {
    /// To know the device and its model. Answer: [`Answer::Info`].
    Info,
    /// The model in flash, checked anew. Answer: [`Answer::Info`].
    Load,
    /// To put a piece of a blob into RAM. The piece that reaches the blob's end makes it the model,
    /// until the next [`Ask::Load`] or reset; from the first piece on there is none. Answer:
    /// [`Answer::Done`], but [`Answer::Info`] to the last piece.
    Piece {
        /// Bytes of the whole blob.
        blob_len: u32,
        /// Where in the blob the piece belongs.
        at: u32,
        /// The piece.
        #[serde(borrow)]
        bytes: &'a [u8],
    },
    /// The model's outputs. Answer: [`Answer::Rows`].
    Predict {
        /// Whole rows of inputs, little-endian `f32`.
        #[serde(borrow)]
        rows: &'a [u8],
    },
    /// The outputs of a model of integer tables, without a float. Answer: [`Answer::Rows`] with
    /// `i32` in place of `f32`.
    PredictRaw {
        /// Whole rows of inputs, little-endian `i32`.
        #[serde(borrow)]
        rows: &'a [u8],
    },
}

/// From the device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply<'a> {
    /// That of the request.
    pub number: u32,
    /// The answer to it.
    #[serde(borrow)]
    pub answer: Answer<'a>,
}

/// What the device can answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer<'a> {
    /// What the device and its model are.
    #[serde(borrow)]
    Info(Info<'a>),
    /// It is done.
    Done,
    /// For each row its outputs as little-endian `f32`, then, as `u32`, the counter's ticks from
    /// the call of the inference to its return (or [`UNCOUNTED`]).
    Rows(#[serde(borrow)] &'a [u8]),
    /// It cannot be done, and why.
    Refused(&'a str),
}

/// The device and its model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info<'a> {
    /// The device.
    #[serde(borrow)]
    pub device: Identity<'a>,
    /// Requests answered since the reset, this one not counted.
    pub answered: u32,
    /// Largest blob, in bytes, that [`Ask::Piece`] can fill the RAM with.
    pub ram_bytes: u32,
    /// The model, or why there is none.
    #[serde(borrow)]
    pub model: Result<Shape, &'a str>,
}

/// What is known of a device from its start on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity<'a> {
    /// [`VERSION`].
    pub protocol: u16,
    /// The board's name.
    #[serde(borrow)]
    pub board: &'a str,
    /// Address of the instruction at which a fault ended the run before this one.
    pub fault: Option<u32>,
    /// Ticks of the counter a second.
    pub ticks_per_second: u32,
    /// What the counter counts around nothing, and around 1000 more turns of a loop of two
    /// instructions: with these a host proves that it counts what it should.
    pub ticks_of_nothing: u32,
    /// See [`ticks_of_nothing`](Self::ticks_of_nothing).
    pub ticks_of_thousand_turns: [u32; 2],
}

/// The model that a device has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Inputs of the first layer.
    pub inputs: u16,
    /// Outputs of the last layer.
    pub outputs: u16,
    /// Most output nodes of any layer.
    pub width: u16,
    /// Layers.
    pub layers: u16,
    /// Edges of all layers.
    pub edges: u32,
    /// Whether the tables are of integers, so that [`Ask::PredictRaw`] is answered.
    pub integer: bool,
    /// Bytes of the blob.
    pub blob_len: u32,
    /// The checksum in the blob, by which models are told apart.
    pub crc: u32,
    /// Whether it lies in RAM, by [`Ask::Piece`], and not in flash.
    pub in_ram: bool,
    /// Bytes of the firmware's `Model`, which has capacity for many models; one made for this model
    /// alone has a smaller one.
    pub struct_bytes: u32,
    /// Most bytes of stack in use during an inference, for the same capacity.
    pub stack_bytes: u32,
}

/// A frame with its zeros, at the start of `buffer`; of `FRAME_BYTES + 2` bytes any message fits.
///
/// `None` if the message is longer than the buffer or than [`FRAME_BYTES`].
pub fn encode<'b>(message: &impl Serialize, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let (first, rest) = buffer.split_first_mut()?;
    *first = 0;
    let framed = CrcModifier::new(Stuffing::new(rest)?, CRC.digest());
    let len = postcard::serialize_with_flavor(message, framed).ok()?;
    let whole = len.checked_add(1)?;
    buffer.get(..whole).filter(|_| len <= FRAME_BYTES + 1)
}

/// COBS over the bytes that postcard writes, and its closing zero. (Those of `cobs` and postcard
/// index their buffers, which the compiler must take for possible panics.) Gives the number of
/// bytes.
struct Stuffing<'b> {
    buffer: &'b mut [u8],
    len: usize,
    state: EncoderState,
}

impl<'b> Stuffing<'b> {
    /// With room for the first code.
    fn new(buffer: &'b mut [u8]) -> Option<Self> {
        let state = EncoderState::default();
        (!buffer.is_empty()).then_some(Self {
            buffer,
            len: 1,
            state,
        })
    }

    fn set(&mut self, at: usize, byte: u8) -> postcard::Result<()> {
        let slot = self.buffer.get_mut(at);
        *slot.ok_or(postcard::Error::SerializeBufferFull)? = byte;
        Ok(())
    }

    fn put(&mut self, byte: u8) -> postcard::Result<()> {
        self.set(self.len, byte)?;
        self.len += 1;
        Ok(())
    }
}

impl Flavor for Stuffing<'_> {
    type Output = usize;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        match self.state.push(byte) {
            PushResult::AddSingle(byte) => return self.put(byte),
            PushResult::ModifyFromStartAndSkip((at, code)) => self.set(at, code)?,
            PushResult::ModifyFromStartAndPushAndSkip((at, code, byte)) => {
                self.set(at, code)?;
                self.put(byte)?;
            }
        }
        // Room for the next code.
        self.put(0)
    }

    fn finalize(mut self) -> postcard::Result<usize> {
        let (at, code) = self.state.clone().finalize();
        self.set(at, code)?;
        self.put(0)?;
        Ok(self.len)
    }
}

/// The message in the bytes between two zeros, which are overwritten. `None` if they are damaged.
pub fn decode<'b, T: Deserialize<'b>>(frame: &'b mut [u8]) -> Option<T> {
    // In place: never more bytes are written than have been read.
    let (mut state, mut len) = (DecoderState::Idle, 0);
    for at in 0..frame.len() {
        match state.feed(*frame.get(at)?).ok()? {
            DecodeResult::NoData => {}
            DecodeResult::DataContinue(byte) => {
                *frame.get_mut(len)? = byte;
                len += 1;
            }
            DecodeResult::DataComplete => return None,
        }
    }
    let DecodeResult::DataComplete = state.feed(0).ok()? else {
        return None;
    };
    let message = frame.get(..len)?;
    match postcard::take_from_bytes_crc32(message, CRC.digest()) {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Receiver {
    frame: heapless::Vec<u8, FRAME_BYTES>,
    /// The frame at hand is longer than any message.
    overlong: bool,
    /// `frame` has been given out.
    taken: bool,
}

impl Receiver {
    /// With nothing received.
    pub const fn new() -> Self {
        Self {
            frame: heapless::Vec::new(),
            overlong: false,
            taken: false,
        }
    }

    /// Takes the next byte. If it ends a frame, these are the bytes between the zeros.
    pub fn push(&mut self, byte: u8) -> Option<&mut [u8]> {
        if self.taken {
            *self = Self::new();
        }
        if byte != 0 {
            self.overlong |= self.frame.push(byte).is_err();
            return None;
        }
        self.taken = true;
        (!self.overlong && !self.frame.is_empty()).then_some(&mut self.frame)
    }
}
