//! The device's side of the [`protocol`](crate::protocol): evaluates the model in flash, or one
//! that the host sends into RAM, on rows that come over a serial line.
//!
//! Nothing here knows a processor: the tests run it on the host. It does not allocate, its buffers
//! are bounded, and nothing that arrives makes it panic or stop.

use core::{fmt::Write, hint::black_box};

use bytemuck::NoUninit;
use heapless::{String, Vec};
use kan_core::{LoadError, ModelBytes, blob_len};

use crate::protocol::{
    Answer, Ask, DATA_BYTES, FRAME_BYTES, Identity, Info, Receiver, Reply, Request, Shape, decode,
    encode,
};
use crate::{CAPACITY, Model};

/// What the server needs of a device.
pub trait Device {
    /// The next byte from the line, waiting for it; `None` when there will be no more.
    fn receive(&mut self) -> Option<u8>;
    /// Sends bytes, waiting until there is room for the last.
    fn send(&mut self, bytes: &[u8]);
    /// Starts the counter from 0.
    fn start_counter(&mut self);
    /// Its ticks since, or [`UNCOUNTED`](crate::protocol::UNCOUNTED).
    fn ticks(&mut self) -> u32;
    /// The most bytes of stack that are in use during `work`.
    fn stack_bytes(&mut self, work: &mut dyn FnMut()) -> u32;
}

/// Where the model is.
#[derive(Clone, Copy)]
enum Place {
    Flash,
    /// So many bytes of RAM.
    Ram(usize),
    /// Only a part of a blob is in RAM.
    Nowhere,
}

/// What a request makes of the model.
enum Change<'f> {
    /// That in flash takes its place.
    Load,
    /// A piece of a blob is to be written to RAM.
    Piece {
        blob_len: u32,
        at: u32,
        bytes: &'f [u8],
    },
}

/// Answers requests until the device's line is closed.
///
/// `flash` is memory that begins with a blob, or has none; `ram` is for blobs that the host sends.
pub fn serve<const RAM: usize>(
    device: &mut impl Device,
    identity: Identity<'_>,
    flash: &[u8],
    ram: &mut ModelBytes<[u8; RAM]>,
) {
    let mut receiver = Receiver::new();
    let mut line = Line {
        identity,
        ram_bytes: RAM as u32,
        answered: 0,
        buffer: [0; FRAME_BYTES + 2],
    };
    let mut place = Place::Flash;
    // The request that changed the model, to be answered when the new one is loaded.
    let mut changed_by = None;
    loop {
        let model = match place {
            // A blob longer than its memory is cut short, and refused as such.
            Place::Flash => blob_len(flash)
                .map(|len| flash.get(..len).unwrap_or(flash))
                .and_then(Model::load),
            Place::Ram(len) => Model::load(ram.0.get(..len).unwrap_or(&[])),
            Place::Nowhere => Err(LoadError::Truncated),
        };
        let served = Served::new(model, matches!(place, Place::Ram(_)), device);
        if let Some(number) = changed_by.take() {
            line.inform(device, number, &served);
        }
        let (number, change) = loop {
            let Some(byte) = device.receive() else {
                return;
            };
            let Some(Request { number, ask }) = receiver.push(byte).and_then(decode) else {
                continue;
            };
            match ask {
                Ask::Info => line.inform(device, number, &served),
                Ask::Predict { rows } => {
                    let data = served.outputs(device, rows, f32::from_le_bytes, |model, x, y| {
                        model.eval_into(x, y);
                    });
                    line.rows(device, number, data);
                }
                Ask::PredictRaw { rows } => {
                    let data = served.raw_outputs(device, rows);
                    line.rows(device, number, data);
                }
                Ask::Load => break (number, Change::Load),
                Ask::Piece {
                    blob_len,
                    at,
                    bytes,
                } => {
                    let piece = Change::Piece {
                        blob_len,
                        at,
                        bytes,
                    };
                    break (number, piece);
                }
            }
        };
        drop(served);
        match change {
            Change::Load => {
                place = Place::Flash;
                changed_by = Some(number);
            }
            Change::Piece {
                blob_len,
                at,
                bytes,
            } => {
                let (blob_len, at) = (blob_len as usize, at as usize);
                let end = at.saturating_add(bytes.len());
                let blob = ram.0.get_mut(..blob_len);
                let Some(room) = blob.and_then(|blob| blob.get_mut(at..end)) else {
                    let refused = Answer::Refused("the blob does not fit the RAM set apart");
                    line.answer(device, number, refused);
                    continue;
                };
                for (to, from) in room.iter_mut().zip(bytes) {
                    *to = *from;
                }
                if end == blob_len {
                    place = Place::Ram(blob_len);
                    changed_by = Some(number);
                } else {
                    place = Place::Nowhere;
                    line.answer(device, number, Answer::Done);
                }
            }
        }
    }
}

/// The way out.
struct Line<'i> {
    identity: Identity<'i>,
    ram_bytes: u32,
    answered: u32,
    buffer: [u8; FRAME_BYTES + 2],
}

impl Line<'_> {
    fn answer(&mut self, device: &mut impl Device, number: u32, answer: Answer<'_>) {
        // Every answer fits the buffer: data are bounded, texts are short.
        if let Some(frame) = encode(&Reply { number, answer }, &mut self.buffer) {
            device.send(frame);
            self.answered = self.answered.wrapping_add(1);
        }
    }

    fn rows(
        &mut self,
        device: &mut impl Device,
        number: u32,
        data: Result<Vec<u8, DATA_BYTES>, &str>,
    ) {
        match data {
            Ok(data) => self.answer(device, number, Answer::Rows(&data)),
            Err(reason) => self.answer(device, number, Answer::Refused(reason)),
        }
    }

    fn inform(&mut self, device: &mut impl Device, number: u32, served: &Served<'_>) {
        let info = Info {
            device: self.identity,
            answered: self.answered,
            ram_bytes: self.ram_bytes,
            model: match &served.model {
                Ok((_, shape)) => Ok(*shape),
                Err(reason) => Err(reason.as_str()),
            },
        };
        self.answer(device, number, Answer::Info(info));
    }
}

/// A model in use, or in words why there is none.
struct Served<'m> {
    model: Result<(Model<'m>, Shape), String<64>>,
}

impl<'m> Served<'m> {
    fn new(loaded: Result<Model<'m>, LoadError>, in_ram: bool, device: &mut impl Device) -> Self {
        let model = loaded.map_err(|error| {
            let mut reason = String::new();
            // A longer reason would be cut short.
            let _ = write!(reason, "{error}");
            reason
        });
        let model = model.map(|model| {
            let input = [0.0; CAPACITY.inputs];
            let mut output = [0.0; CAPACITY.outputs];
            let stack_bytes = device.stack_bytes(&mut || {
                model.eval_into(black_box(&input), black_box(&mut output));
            });
            // All within CAPACITY.
            let shape = Shape {
                inputs: model.inputs() as u16,
                outputs: model.outputs() as u16,
                width: model.width() as u16,
                layers: model.layers() as u16,
                edges: model.edges() as u32,
                integer: model.is_integer(),
                blob_len: model.blob_len() as u32,
                crc: model.crc(),
                in_ram,
                struct_bytes: size_of::<Model<'_>>() as u32,
                stack_bytes,
            };
            (model, shape)
        });
        Self { model }
    }

    /// As [`outputs`](Self::outputs), of integers.
    fn raw_outputs(
        &self,
        device: &mut impl Device,
        rows: &[u8],
    ) -> Result<Vec<u8, DATA_BYTES>, &str> {
        match &self.model {
            Ok((_, shape)) if !shape.integer => Err("the tables are not of integers"),
            _ => self.outputs(device, rows, i32::from_le_bytes, |model, x, y| {
                model.eval_q_into(x, y);
            }),
        }
    }

    /// The data of [`Answer::Rows`].
    #[inline(always)] // so that nothing lies between the counter and the model
    fn outputs<N: Copy + Default + NoUninit>(
        &self,
        device: &mut impl Device,
        rows: &[u8],
        read: impl Fn([u8; 4]) -> N,
        eval: impl Fn(&Model<'_>, &[N], &mut [N]),
    ) -> Result<Vec<u8, DATA_BYTES>, &str> {
        let (model, shape) = self.model.as_ref().map_err(String::as_str)?;
        let mut input = [N::default(); CAPACITY.inputs];
        let mut output = [N::default(); CAPACITY.outputs];
        let (inputs, outputs) = (usize::from(shape.inputs), usize::from(shape.outputs));
        // Never none: what loads has inputs and outputs, within the capacity.
        let (Some(input), Some(output)) = (input.get_mut(..inputs), output.get_mut(..outputs))
        else {
            return Err("the model has no shape");
        };
        let (rows, []) = rows.as_chunks() else {
            return Err("the rows are not whole");
        };
        if inputs == 0 || rows.len() % inputs != 0 {
            return Err("the rows are not whole");
        }
        let mut data = Vec::new();
        for row in rows.chunks_exact(inputs) {
            for (slot, &value) in input.iter_mut().zip(row) {
                *slot = read(value);
            }
            device.start_counter();
            eval(model, black_box(input), black_box(output));
            let ticks = device.ticks();
            data.extend_from_slice(bytemuck::cast_slice(output))
                .and_then(|()| data.extend_from_slice(&ticks.to_le_bytes()))
                .map_err(|_| "the outputs of so many rows do not fit a frame")?;
        }
        Ok(data)
    }
}
