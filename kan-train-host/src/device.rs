//! Models on a device: a client of the model server in `firmware-example`, over a serial line.
//!
//! The device may be a board at a serial port ([`Device::at_port`]) or one that QEMU emulates
//! ([`crate::emulator`]). Rows go to it in frames of the
//! [protocol](firmware_example::protocol), outputs come back bit for bit
//! as the device computed them, with what each inference took. Whatever the device does (nothing,
//! garbage, a fault, an end), the result is an answer or an error within a bounded time.
//!
//! ```no_run
//! use kan_train_host::device::Device;
//!
//! let blob = std::fs::read("model.kan")?;
//! let mut device = Device::at_port("/dev/ttyACM0")?;
//! device.hold(&blob)?;
//! let run = device.evaluate(&[0.5, 1.5, 2.5, 3.5], 2, |_| ())?; // two rows of two inputs
//! println!("{:?} in {:?}", run.outputs, run.cost());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use firmware_example::CAPACITY;
use firmware_example::protocol::{
    Answer, Ask, BAUD, DATA_BYTES, FRAME_BYTES, Info, Receiver, Reply, Request, Shape, UNCOUNTED,
    VERSION, decode, encode,
};
use serde::Serialize;
use thiserror::Error;

use crate::emulator::Missing;
use crate::evaluator::Evaluator;

/// How long a board is waited for, each of [`TRIES`] times, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often a request is sent before the device counts as dead: a frame may get lost on the line.
const TRIES: u32 = 3;

/// What a frame of rows should take at most, so that progress shows and patience suffices.
const FRAME_TIME: Duration = Duration::from_millis(300);

/// Why a model was not evaluated on a device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// QEMU or the Rust target is not there.
    #[error("QEMU or the Rust target is not installed; this installs it: {0}")]
    Missing(#[from] Missing),
    /// The inputs are not at least one whole row of the model's.
    #[error("{values} values are not rows of {inputs} inputs")]
    Shape {
        /// Values given.
        values: usize,
        /// Inputs in a row.
        inputs: usize,
    },
    /// The model has more of something than the firmware has room for.
    #[error(
        "the model has {count} {what}, and the firmware has room for {} inputs, {} outputs, {} \
         nodes in a layer and {} layers", CAPACITY.inputs, CAPACITY.outputs, CAPACITY.width,
        CAPACITY.layers
    )]
    Capacity {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// The blob is larger than the memory set apart for it.
    #[error("a model of {bytes} bytes does not fit the device's {capacity}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The size of the region.
        capacity: usize,
    },
    /// The blob is neither in the device's flash nor small enough for its RAM.
    #[error(
        "{device} ({board}) has another model in flash, and {capacity} bytes of RAM for one of \
         {bytes}: write it to the flash with `kan pack MODEL --board {board}`"
    )]
    NotHeld {
        /// The port.
        device: String,
        /// The board.
        board: String,
        /// Size of the blob.
        bytes: usize,
        /// Size of the RAM.
        capacity: usize,
    },
    /// The firmware's sources are not where this program was built.
    #[error("no sources of the firmware in {0}: build `kan` again where they are")]
    Sources(PathBuf),
    /// Cargo failed to build the firmware.
    #[error("the firmware does not build ({0}); `cargo firmware` tells more")]
    Build(String),
    /// The file is no firmware that can be used here.
    #[error("{path}: {reason}")]
    Image {
        /// The ELF file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A program could not be started, or a file or port not be opened, read or written.
    #[error("{what}: {source}")]
    Io {
        /// Program, file or port.
        what: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The firmware refused the blob or the inputs.
    #[error("{device} reports: {reason}")]
    Refused {
        /// The device.
        device: String,
        /// In its words.
        reason: String,
    },
    /// The line was closed: QEMU ended, or the board was unplugged.
    #[error("{device} has gone: {reason}")]
    Gone {
        /// The device.
        device: String,
        /// What QEMU or the operating system said last.
        reason: String,
    },
    /// Nothing answers.
    #[error(
        "{device} does not answer: {tries} requests, {patience:?} each. Is it the model server of \
         this version that runs there?"
    )]
    Silent {
        /// The device.
        device: String,
        /// How often it was asked.
        tries: u32,
        /// How long it was waited for each time.
        patience: Duration,
    },
    /// The firmware failed on a request, and was reset.
    #[error("{device} had a fault at {address:#010x} and was reset")]
    Fault {
        /// The device.
        device: String,
        /// The address of the instruction.
        address: u32,
    },
    /// What the device sent makes no sense.
    #[error("unexpected answer from {device}: {reason}")]
    Garbled {
        /// The device.
        device: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A line to a device.
pub trait Link: Send {
    /// Sends all bytes.
    ///
    /// # Errors
    /// Those of the operating system.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Waits for at most `patience` for bytes, and gives those there are.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] if there are none; any other if there will never be.
    fn receive(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize>;

    /// Why the line was closed, after an error of the two others, in one line.
    fn last_words(&mut self) -> Option<String> {
        None
    }
}

impl Link for Box<dyn serialport::SerialPort> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(self, bytes)
    }

    fn receive(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.set_timeout(patience)?;
        match io::Read::read(self, buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            bytes => Ok(bytes),
        }
    }
}

/// What a device's counter counts.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Unit {
    /// Cycles of the processor's clock, so many a second.
    Cycles {
        /// The clock in Hz.
        per_second: u32,
    },
    /// Executed instructions: the emulator's clock stands at each for so many ticks of the counter.
    Instructions {
        /// Ticks of an instruction, at least 2.
        ticks: f64,
    },
}

impl Unit {
    /// What so many ticks are. Two readings of a counter are less than a tick away from a whole
    /// number of instructions, so that rounding finds it.
    pub(crate) fn count(self, ticks: u32) -> u32 {
        match self {
            Self::Cycles { .. } => ticks,
            Self::Instructions { ticks: each } => (f64::from(ticks) / each).round() as u32,
        }
    }
}

/// A device with the model server on it.
pub struct Device {
    name: String,
    link: Box<dyn Link>,
    receiver: Receiver,
    number: u32,
    patience: Duration,
    board: String,
    ram_bytes: usize,
    unit: Unit,
    /// What is counted around nothing.
    overhead: u32,
    model: Result<Shape, String>,
}

impl Device {
    /// The board at a serial port.
    ///
    /// # Errors
    /// [`DeviceError::Io`] if the port cannot be opened, and those of [`Device::new`].
    pub fn at_port(port: &str) -> Result<Self, DeviceError> {
        let opened = serialport::new(port, BAUD).timeout(PATIENCE).open();
        let link = opened.map_err(|error| DeviceError::Io {
            what: port.to_owned(),
            source: error.into(),
        })?;
        Self::new(port.to_owned(), Box::new(link), PATIENCE, None)
    }

    /// The device at the other end of a line, called `name` in messages, which is given `patience`
    /// for each of three times to answer. `unit` is what its counter counts; by default cycles.
    ///
    /// # Errors
    /// [`DeviceError::Silent`], [`DeviceError::Gone`], [`DeviceError::Garbled`] if the counter does
    /// not count its unit.
    pub fn new(
        name: String,
        link: Box<dyn Link>,
        patience: Duration,
        unit: Option<Unit>,
    ) -> Result<Self, DeviceError> {
        let mut device = Self {
            name,
            link,
            receiver: Receiver::new(),
            // Not that of an answer which a client before this one no longer waited for.
            number: std::process::id() << 16,
            patience,
            board: String::new(),
            ram_bytes: 0,
            unit: Unit::Cycles { per_second: 0 },
            overhead: 0,
            model: Err(String::new()),
        };
        let mut frame = device.ask(Ask::Info)?;
        let info = device.info(&mut frame)?;
        let identity = info.device;
        if identity.protocol != VERSION {
            let theirs = identity.protocol;
            return Err(device.garbled(format!("protocol version {theirs}, not {VERSION}")));
        }
        let unit = unit.unwrap_or(Unit::Cycles {
            per_second: identity.ticks_per_second,
        });
        if let Unit::Instructions { .. } = unit {
            let [ten, more] = identity
                .ticks_of_thousand_turns
                .map(|ticks| unit.count(ticks));
            // The two calls differ, if at all, in how they load their argument.
            if more.abs_diff(ten + 2000) > 4 {
                return Err(device.garbled("its counter does not count instructions".into()));
            }
        }
        device.board = identity.board.to_owned();
        device.ram_bytes = info.ram_bytes as usize;
        device.unit = unit;
        device.overhead = unit.count(identity.ticks_of_nothing);
        device.model = info.model.map_err(str::to_owned);
        Ok(device)
    }

    /// The name of the board, as its firmware has it.
    pub fn board(&self) -> &str {
        &self.board
    }

    /// What its counter counts.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// The model that is served.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] with the reason why there is none.
    pub fn model(&self) -> Result<Shape, DeviceError> {
        self.model.clone().map_err(|reason| DeviceError::Refused {
            device: self.name.clone(),
            reason,
        })
    }

    /// Makes the device serve the model in `blob`: the one in its flash, if that is it, or else
    /// this one in RAM, if it fits.
    ///
    /// # Errors
    /// [`DeviceError::NotHeld`] if it does not, [`DeviceError::Capacity`] if it is too large for
    /// the firmware, [`DeviceError::Refused`] if it is no model, and those of the line.
    pub fn hold(&mut self, blob: &[u8]) -> Result<(), DeviceError> {
        within_capacity(blob)?;
        let evaluator = Evaluator::load(blob).map_err(|error| DeviceError::Refused {
            device: "kan-core on the host".into(),
            reason: error.to_string(),
        })?;
        let crc = evaluator.model().crc();
        let held = |model: &Result<Shape, String>| {
            let same = |shape: &Shape| shape.crc == crc && shape.blob_len as usize == blob.len();
            model.as_ref().is_ok_and(same)
        };
        if !held(&self.model) {
            // One that was sent to RAM before may hide it.
            let mut frame = self.ask(Ask::Load)?;
            self.model = self.info(&mut frame)?.model.map_err(str::to_owned);
        }
        if held(&self.model) {
            return Ok(());
        }
        if blob.len() > self.ram_bytes {
            return Err(DeviceError::NotHeld {
                device: self.name.clone(),
                board: self.board.clone(),
                bytes: blob.len(),
                capacity: self.ram_bytes,
            });
        }
        let mut at = 0;
        for bytes in blob.chunks(DATA_BYTES) {
            let mut frame = self.ask(Ask::Piece {
                blob_len: blob.len() as u32,
                at,
                bytes,
            })?;
            at += bytes.len() as u32;
            if at as usize == blob.len() {
                self.model = self.info(&mut frame)?.model.map_err(str::to_owned);
            }
        }
        self.model()?;
        if held(&self.model) {
            Ok(())
        } else {
            Err(self.garbled("another model than was sent".into()))
        }
    }

    /// Evaluates the model on rows of `n_inputs` values.
    ///
    /// `inputs` is row-major, at least one row; values are passed bit for bit, NaN and infinities
    /// too. `progress` is told how many rows are done.
    ///
    /// # Errors
    /// [`DeviceError::Shape`] if these are no rows for the model, and those of the line.
    pub fn evaluate(
        &mut self,
        inputs: &[f32],
        n_inputs: usize,
        progress: impl FnMut(usize),
    ) -> Result<DeviceRun, DeviceError> {
        self.exchange(inputs, n_inputs, |rows| Ask::Predict { rows }, progress)
    }

    /// [`evaluate`](Self::evaluate) for a model of integer tables: integers in, integers out.
    ///
    /// # Errors
    /// As `evaluate`'s; [`DeviceError::Refused`] if the tables are not of integers.
    pub fn evaluate_raw(
        &mut self,
        inputs: &[i32],
        n_inputs: usize,
        progress: impl FnMut(usize),
    ) -> Result<DeviceRun<i32>, DeviceError> {
        self.exchange(inputs, n_inputs, |rows| Ask::PredictRaw { rows }, progress)
    }

    fn exchange<N: Pod>(
        &mut self,
        inputs: &[N],
        n_inputs: usize,
        ask: impl Fn(&[u8]) -> Ask<'_>,
        mut progress: impl FnMut(usize),
    ) -> Result<DeviceRun<N>, DeviceError> {
        let model = self.model()?;
        let outputs = usize::from(model.outputs);
        if inputs.is_empty()
            || n_inputs != usize::from(model.inputs)
            || !inputs.len().is_multiple_of(n_inputs)
        {
            return Err(DeviceError::Shape {
                values: inputs.len(),
                inputs: model.inputs.into(),
            });
        }
        let machine = match self.unit {
            Unit::Cycles { .. } => &self.board,
            Unit::Instructions { .. } => &self.name,
        };
        let mut run = DeviceRun {
            machine: machine.clone(),
            unit: self.unit,
            model,
            outputs: Vec::new(),
            counts: Vec::new(),
        };
        // As many rows as fit both frames.
        let most = DATA_BYTES / (4 * n_inputs.max(outputs + 1));
        let mut rows_at_once = 1;
        let mut rest = inputs;
        while !rest.is_empty() {
            let now = rest.len().min(rows_at_once * n_inputs);
            let (batch, after) = rest.split_at(now);
            rest = after;
            let rows = batch.len() / n_inputs;
            let sent = Instant::now();
            // Both sides are little endian: kan-core does not compile elsewhere.
            let mut frame = self.ask(ask(bytemuck::cast_slice(batch)))?;
            let data = match self.answer(&mut frame)? {
                Answer::Rows(data) if data.len() == rows * 4 * (outputs + 1) => data,
                _ => return Err(self.garbled("not as many outputs as asked for".into())),
            };
            for row in data.chunks_exact(4 * (outputs + 1)) {
                let (values, ticks) = row.split_at(4 * outputs);
                let values = values
                    .chunks_exact(4)
                    .map(bytemuck::pod_read_unaligned::<N>);
                run.outputs.extend(values);
                run.counts.push(match bytemuck::pod_read_unaligned(ticks) {
                    UNCOUNTED => None,
                    ticks => self.unit.count(ticks).checked_sub(self.overhead),
                });
            }
            progress(run.counts.len());
            let each = sent.elapsed() / rows as u32;
            let affordable = FRAME_TIME.as_nanos() / each.as_nanos().max(1);
            rows_at_once = usize::try_from(affordable).unwrap_or(most).clamp(1, most);
        }
        Ok(run)
    }

    /// Sends a request until its answer comes; gives the frame of that.
    fn ask(&mut self, ask: Ask<'_>) -> Result<Vec<u8>, DeviceError> {
        self.number = self.number.wrapping_add(1);
        let request = Request {
            number: self.number,
            ask,
        };
        for _ in 0..TRIES {
            if let Some(frame) = self.try_to_ask(&request)? {
                return Ok(frame);
            }
        }
        let (device, tries, patience) = (self.name.clone(), TRIES, self.patience);
        // If it answers now, it was the request that it could not bear.
        let ask = Ask::Info;
        let last = Request {
            number: self.number.wrapping_add(1),
            ask,
        };
        self.number = last.number;
        if request.ask != ask
            && let Some(mut frame) = self.try_to_ask(&last)?
            && let Some(address) = self.info(&mut frame)?.device.fault
        {
            return Err(DeviceError::Fault { device, address });
        }
        Err(DeviceError::Silent {
            device,
            tries,
            patience,
        })
    }

    /// Sends a request and waits for its answer; of other frames nobody knows what they are.
    fn try_to_ask(&mut self, request: &Request<'_>) -> Result<Option<Vec<u8>>, DeviceError> {
        let mut buffer = [0; FRAME_BYTES + 2];
        let bytes = encode(request, &mut buffer)
            .ok_or_else(|| self.garbled("a request too long for a frame".into()))?;
        if let Err(error) = self.link.send(bytes) {
            return Err(self.gone(&error));
        }
        let sent = Instant::now();
        loop {
            let patience = self.patience.saturating_sub(sent.elapsed());
            if patience.is_zero() {
                return Ok(None);
            }
            let mut chunk = [0; 512];
            let received = match self.link.receive(&mut chunk, patience) {
                Ok(received) => received,
                Err(error)
                    if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Interrupted) =>
                {
                    continue;
                }
                Err(error) => return Err(self.gone(&error)),
            };
            for &byte in &chunk[..received] {
                let Some(frame) = self.receiver.push(byte) else {
                    continue;
                };
                let kept = frame.to_vec();
                let reply: Option<Reply<'_>> = decode(frame);
                if reply.is_some_and(|reply| reply.number == request.number) {
                    return Ok(Some(kept));
                }
            }
        }
    }

    /// What a frame says, unless that is a refusal.
    fn answer<'f>(&self, frame: &'f mut [u8]) -> Result<Answer<'f>, DeviceError> {
        match decode::<Reply<'_>>(frame).map(|reply| reply.answer) {
            Some(Answer::Refused(reason)) => Err(DeviceError::Refused {
                device: self.name.clone(),
                reason: reason.to_owned(),
            }),
            Some(answer) => Ok(answer),
            None => Err(self.garbled("a damaged frame".into())),
        }
    }

    fn info<'f>(&self, frame: &'f mut [u8]) -> Result<Info<'f>, DeviceError> {
        match self.answer(frame)? {
            Answer::Info(info) => Ok(info),
            _ => Err(self.garbled("not what was asked".into())),
        }
    }

    fn garbled(&self, reason: String) -> DeviceError {
        let device = self.name.clone();
        DeviceError::Garbled { device, reason }
    }

    fn gone(&mut self, error: &io::Error) -> DeviceError {
        DeviceError::Gone {
            device: self.name.clone(),
            reason: self.link.last_words().unwrap_or_else(|| error.to_string()),
        }
    }
}

/// Whether the firmware has room for the model in `blob`, if it is one: of a blob that does not
/// load the device tells.
///
/// # Errors
/// [`DeviceError::Capacity`].
pub fn within_capacity(blob: &[u8]) -> Result<(), DeviceError> {
    let Ok(evaluator) = Evaluator::load(blob) else {
        return Ok(());
    };
    let model = evaluator.model();
    let parts = [
        ("inputs", model.inputs(), CAPACITY.inputs),
        ("outputs", model.outputs(), CAPACITY.outputs),
        ("nodes in a layer", model.width(), CAPACITY.width),
        ("layers", model.layers(), CAPACITY.layers),
    ];
    match parts.into_iter().find(|(_, count, most)| count > most) {
        Some((what, count, _)) => Err(DeviceError::Capacity { what, count }),
        None => Ok(()),
    }
}

/// The result of an evaluation on a device, of floats or of integers.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceRun<N = f32> {
    /// The board, or QEMU's name of the machine.
    pub machine: String,
    /// What `counts` are.
    pub unit: Unit,
    /// What was evaluated.
    pub model: Shape,
    /// The outputs, row-major, bit for bit as the device computed them.
    pub outputs: Vec<N>,
    /// What each row's inference took, from the call of `eval_into` to its return, in the
    /// firmware's size-minded build and with its generous capacity, whose scratch memory is cleared
    /// every time: firmware made for one model needs less. `None` if the counter could not hold it.
    pub counts: Vec<Option<u32>>,
}

/// What inferences took, in the run's [`Unit`].
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Least of all rows.
    pub min: u32,
    /// Median of all rows (the upper one of two).
    pub median: u32,
    /// Most of all rows.
    pub max: u32,
}

impl Cost {
    /// Of what each row took; `None` of no rows.
    pub fn of(mut counts: Vec<u32>) -> Option<Self> {
        counts.sort_unstable();
        Some(Self {
            min: *counts.first()?,
            median: *counts.get(counts.len() / 2)?,
            max: *counts.last()?,
        })
    }
}

impl<N: Pod> DeviceRun<N> {
    /// Minimum, median and maximum of the counts; `None` if one of them could not be held.
    pub fn cost(&self) -> Option<Cost> {
        Cost::of(self.counts.iter().copied().collect::<Option<_>>()?)
    }

    /// How many outputs have the same bits as those in `host`, which are in the same order.
    pub fn equal_outputs(&self, host: &[N]) -> usize {
        self.outputs
            .iter()
            .zip(host)
            .filter(|(a, b)| bytemuck::bytes_of(*a) == bytemuck::bytes_of(*b))
            .count()
    }
}
