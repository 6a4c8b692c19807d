//! What an inference costs on every core: the bench firmware in QEMU, and networks to measure.
//!
//! Instructions are counted exactly and are not cycles. The firmware makes its own inputs, extremes
//! and NaN among them ([`firmware_example::stimulus`]), and answers with a digest of all outputs,
//! which must be that of [`digests`], the same computed on the host.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use firmware_example::stimulus::{Digest, ROWS, Stimulus};
use kan_core::{LoadError, Model, kinds};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::dataset::{Schema, TargetSchema};
use crate::device::{Cost, DeviceError, Link};
use crate::emulator::{Firmware, Machine, Recipe, Size};
use crate::evaluator::Evaluator;
use crate::kinds::{Kind, Tables};
use crate::network::{Base, Network};
use crate::predictor::{FORMAT, Predictor, Range, Scale};
use crate::spline::Grid;

/// How firmware is built, and where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// A machine of the core.
    pub machine: Machine,
    /// The core, and what it is said to have besides.
    pub core: &'static str,
    /// What rustc is told of the processor.
    pub cpu: Option<&'static str>,
}

impl Build {
    /// As rustc builds for the target without flags.
    const fn plain(machine: Machine, core: &'static str) -> Self {
        let cpu = None;
        Self { machine, core, cpu }
    }

    /// The Rust target.
    pub fn target(&self) -> &'static str {
        self.machine.target()
    }

    /// [`FLAGS`] and those of its own.
    pub fn flags(&self) -> String {
        let cpu = self.cpu.map(|cpu| format!(" -C target-cpu={cpu}"));
        format!(
            "{FLAGS} --target {}{}",
            self.target(),
            cpu.unwrap_or_default()
        )
    }
}

/// A build for each core.
pub const BUILDS: [Build; 6] = [
    Build::plain(Machine::Microbit, "M0"),
    Build::plain(Machine::Mps2An385, "M3"),
    Build::plain(Machine::Mps2An386, "M4F"),
    Build::plain(Machine::Mps2An500, "M7"),
    Build::plain(Machine::Mps2An505, "M33"),
    Build {
        machine: Machine::Mps2An505,
        core: "M33+DSP",
        cpu: Some("cortex-m33"),
    },
];

/// The profile whose instructions are counted.
pub const SPEED: &str = "firmware-speed";
/// The profile whose flash is weighed.
pub const SMALL: &str = "firmware";

/// What rustc is told by [`SPEED`].
pub const FLAGS: &str = "-C opt-level=3 -C lto=fat -C codegen-units=1 -C panic=abort";

/// How long the firmware may say nothing: a call on all rows, in floats on a core without an FPU.
const PATIENCE: Duration = Duration::from_secs(180);

/// A network of a shape, its functions drawn at random on grids of so many intervals, with inputs
/// of −1 … 1 and outputs of order one. `density` is the part of the edges that is kept; every node
/// keeps one.
pub fn network(width: &[usize], intervals: usize, density: f64) -> Predictor {
    let mut random = Pcg64Mcg::seed_from_u64(8);
    let (inputs, outputs) = (width[0], width[width.len() - 1]);
    let grids = vec![Grid::uniform(3, -1.0, 1.0, intervals); inputs];
    let mut network = Network::random(width, &grids, Base::Silu, &mut random);
    for layer in &mut network.layers {
        let inputs = layer.grids.len();
        for (k, edge) in layer.edges.iter_mut().enumerate() {
            let (i, j) = (k / layer.outputs, k % layer.outputs);
            let is_kept = random.random_range(0.0..1.0) < density;
            if !is_kept && i % layer.outputs != j && j % inputs != i {
                *edge = None;
            }
        }
    }
    let names = |letter: &str, count| (0..count).map(|k| format!("{letter}{k}")).collect();
    let (range, scale) = (
        Range { lo: -1.0, hi: 1.0 },
        Scale {
            offset: 0.0,
            scale: 1.0,
        },
    );
    Predictor {
        format: FORMAT,
        schema: Schema {
            inputs: names("x", inputs),
            target: TargetSchema::Regression {
                names: names("y", outputs),
            },
        },
        inputs: vec![range; inputs],
        outputs: vec![scale; outputs],
        // As if it had learnt its data to a hundredth of their deviation: tables need not be
        // better.
        error: 0.01,
        network,
    }
}

/// The largest |device − network| of all outputs for the rows of `x`, by running kan-core on the
/// host, whose bits are the device's.
pub fn largest_error(predictor: &Predictor, evaluator: &Evaluator, x: &[f64]) -> f64 {
    let outputs = evaluator.eval(x);
    let pairs = predictor.eval(x).into_iter().zip(outputs);
    pairs
        .map(|(a, b)| (a - f64::from(b)).abs())
        .fold(0.0, f64::max)
}

/// The set of kinds that a firmware for tables of one kind alone takes, of [`kan_core::kinds`].
pub fn only(kind: Kind) -> u16 {
    match (kind.tables, kind.bits) {
        (Tables::Cubic, 32) => kinds::CUBIC_F32,
        (Tables::Cubic, 16) => kinds::CUBIC_I16,
        (Tables::Cubic, _) => kinds::CUBIC_I8,
        (Tables::Linear, 32) => kinds::LINEAR_F32,
        (Tables::Linear, 16) => kinds::LINEAR_I16,
        (Tables::Linear, _) => kinds::LINEAR_I8,
        (Tables::Step, 32) => kinds::STEP_F32,
        (Tables::Step, 16) => kinds::STEP_I16,
        (Tables::Step, _) => kinds::STEP_I8,
        (Tables::Exact, _) => kinds::CUBIC_F32 | kinds::RESIDUAL,
    }
}

/// Builds the bench firmware in `folder`; with `peer`, for rows of a data set.
///
/// # Errors
/// Those of a build.
pub fn firmware(
    build: Build,
    peer: Option<&Peer<'_>>,
    folder: &Path,
) -> Result<Firmware, DeviceError> {
    let board = build.machine.board().feature;
    let environment = peer.map_or(Vec::new(), Peer::environment);
    let image = Recipe {
        binary: "bench",
        profile: SPEED,
        target: build.target(),
        cpu: build.cpu,
        features: &[board, "peer"][..if peer.is_some() { 2 } else { 1 }],
        environment: &borrowed(&environment),
    }
    .build()?;
    let path = folder.join(build.core);
    fs::write(&path, image).map_err(|source| DeviceError::Io {
        what: path.display().to_string(),
        source,
    })?;
    Firmware::open(build.machine, &path)
}

fn borrowed<'a>(environment: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    let pairs = environment.iter();
    pairs.map(|(name, value)| (*name, value.as_str())).collect()
}

/// Weighs what firmware has beyond that without a model.
#[derive(Clone, Copy, Debug)]
pub struct Scales {
    build: Build,
    profile: &'static str,
    nothing: Size,
}

impl Scales {
    /// Builds and weighs the firmware without a model.
    ///
    /// # Errors
    /// Those of a build.
    pub fn tared(build: Build, profile: &'static str) -> Result<Self, DeviceError> {
        let nothing = Size {
            text: 0,
            data: 0,
            bss: 0,
        };
        let empty = Self {
            build,
            profile,
            nothing,
        };
        let nothing = empty.weigh("baseline", &[], &[])?;
        Ok(Self { nothing, ..empty })
    }

    /// kan-core with its loader and evaluation of a set of kinds of tables, of [`kan_core::kinds`],
    /// without a blob.
    ///
    /// # Errors
    /// Those of a build.
    pub fn kan_core(&self, kinds: u16) -> Result<Size, DeviceError> {
        self.weigh("minimal", &[], &[("KAN_KINDS", &kinds.to_string())])
    }

    /// A perceptron: microflow and the weights.
    ///
    /// # Errors
    /// Those of a build.
    pub fn perceptron(&self, peer: &Peer<'_>) -> Result<Size, DeviceError> {
        let environment = peer.environment();
        self.weigh("minimal", &["peer"], &borrowed(&environment))
    }

    fn weigh(
        &self,
        binary: &str,
        features: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Size, DeviceError> {
        let recipe = Recipe {
            binary,
            profile: self.profile,
            target: self.build.target(),
            cpu: self.build.cpu,
            features,
            environment,
        };
        let size = Size::of_image(&recipe.build()?).map_err(|error| DeviceError::Image {
            path: binary.into(),
            reason: error.to_string(),
        })?;
        let Size { text, data, bss } = self.nothing;
        Ok(Size {
            text: size.text.saturating_sub(text),
            data: size.data.saturating_sub(data),
            bss: size.bss.saturating_sub(bss),
        })
    }
}

/// A perceptron, and a KAN that learnt the same.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// The `.tflite` file: int8 inputs, weights and outputs, fully connected.
    pub perceptron: &'a Path,
    /// The node counts of the KAN.
    pub width: &'a [usize],
}

impl Peer<'_> {
    /// What its firmware is built with.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let Self { perceptron, width } = self;
        let (inputs, outputs) = (width[0], width[width.len() - 1]);
        let widest = width[1..].iter().max().unwrap_or(&outputs);
        let layers = width.len() - 1;
        vec![
            ("KAN_PEER", perceptron.display().to_string()),
            (
                "KAN_CAPACITY",
                format!("{inputs},{outputs},{widest},{layers}"),
            ),
        ]
    }
}

/// What the calls of one function took on the rows of the stimulus: on [`ROWS`], and the least and
/// most instructions on ten times as many where they are to be the same for every input.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Instructions.
    pub instructions: Cost,
    /// Bytes of stack.
    pub stack: u32,
    /// Of the outputs for [`ROWS`].
    pub digest: Digest,
}

/// What was measured of a model.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Floats in, floats out.
    pub eval: Call,
    /// Integers in, integers out, if the tables are integers.
    pub eval_q: Option<Call>,
}

/// Runs the bench firmware with a blob.
///
/// # Errors
/// [`DeviceError`] if it does not come to its end.
pub fn measure(firmware: &Firmware, blob: &[u8]) -> Result<Measured, DeviceError> {
    let mut talk = Talk::begin(firmware, blob)?;
    let (mut eval, mut eval_q) = (None, None);
    while let Some(line) = talk.line()? {
        let call = Call {
            instructions: Cost {
                min: talk.instructions(&line, "least")?,
                median: talk.instructions(&line, "median")?,
                max: talk.instructions(&line, "most")?,
            },
            stack: talk.stack(&line)?,
            digest: Digest(talk.bits(line.field("digest"))?),
        };
        match line.name.as_str() {
            "eval" => eval = Some(call),
            "eval_q" => eval_q = Some(call),
            _ => return Err(talk.garbled(&line.text)),
        }
    }
    let eval = eval.ok_or_else(|| talk.garbled("no line of eval"))?;
    Ok(Measured { eval, eval_q })
}

/// What one model of a [`Peer`]'s firmware made of the rows.
#[derive(Clone, Debug)]
pub struct Contestant {
    /// What each row took.
    pub instructions: Cost,
    /// Bytes of stack.
    pub stack: u32,
    /// Bytes of the model's struct in RAM.
    pub struct_bytes: u32,
    /// Row-major.
    pub outputs: Vec<f32>,
}

/// Runs the bench firmware of a [`Peer`] with the KANs in `blobs` on rows of inputs: first what
/// each of these made of them, then the perceptron.
///
/// # Errors
/// [`DeviceError`] if it does not come to its end, or not with so many models.
pub fn contest(
    firmware: &Firmware,
    x: &[f64],
    rows: usize,
    blobs: &[&[u8]],
) -> Result<Vec<Contestant>, DeviceError> {
    let mut region = Vec::from((rows as u32).to_le_bytes());
    region.extend(x.iter().flat_map(|&x| (x as f32).to_le_bytes()));
    region.extend(blobs.iter().copied().flatten());
    let mut talk = Talk::begin(firmware, &region)?;
    let mut all = Vec::new();
    let mut counts: Vec<Vec<u32>> = Vec::new();
    while let Some(line) = talk.line()? {
        match (line.name.as_str(), all.last_mut(), counts.last_mut()) {
            ("model", ..) => {
                all.push(Contestant {
                    instructions: Cost {
                        min: 0,
                        median: 0,
                        max: 0,
                    },
                    stack: talk.stack(&line)?,
                    struct_bytes: talk.number(&line, "struct")?,
                    outputs: Vec::new(),
                });
                counts.push(Vec::new());
            }
            ("row", Some(Contestant { outputs, .. }), Some(counts)) => {
                counts.push(talk.instructions(&line, "ticks")?);
                for bits in line.field("outputs").unwrap_or_default().split(',') {
                    outputs.push(f32::from_bits(talk.bits(Some(bits))?));
                }
            }
            _ => return Err(talk.garbled(&line.text)),
        }
    }
    for (contestant, counts) in all.iter_mut().zip(counts) {
        contestant.instructions = Some(counts)
            .filter(|counts| counts.len() == rows)
            .and_then(Cost::of)
            .ok_or_else(|| talk.garbled("not as many rows as it was given"))?;
    }
    match all.len() == blobs.len() + 1 {
        true => Ok(all),
        false => Err(talk.garbled("not as many models as it was given")),
    }
}

/// The bench firmware while it speaks.
struct Talk {
    machine: Machine,
    link: Box<dyn Link>,
    /// What has come of the next lines.
    pending: Vec<u8>,
    ticks_of_nothing: u32,
}

/// A line: a name, and fields `name=value`.
struct Line {
    text: String,
    name: String,
    fields: BTreeMap<String, String>,
}

impl Line {
    fn of(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default().to_owned();
        let fields = words.filter_map(|word| word.split_once('='));
        Self {
            text: text.to_owned(),
            name,
            fields: fields.map(|(a, b)| (a.to_owned(), b.to_owned())).collect(),
        }
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

impl Talk {
    fn begin(firmware: &Firmware, region: &[u8]) -> Result<Self, DeviceError> {
        let mut talk = Self {
            machine: firmware.machine(),
            link: Box::new(firmware.connect(region)?),
            pending: Vec::new(),
            ticks_of_nothing: 0,
        };
        match talk.line()? {
            Some(line) if line.name == "counter" => {
                talk.ticks_of_nothing = talk.number(&line, "ticks_of_nothing")?;
                Ok(talk)
            }
            _ => Err(talk.garbled("it does not begin with its counter")),
        }
    }

    /// The next line; `None` after the last one.
    fn line(&mut self) -> Result<Option<Line>, DeviceError> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let text: Vec<u8> = self.pending.drain(..=end).collect();
                // The micro:bit's line begins with a byte that starts its UART.
                let text = String::from_utf8_lossy(&text);
                let line = Line::of(text.trim_matches(['\0', '\n', '\r']));
                return Ok((line.name != "end").then_some(line));
            }
            let mut chunk = [0; 4096];
            match self.link.receive(&mut chunk, PATIENCE) {
                Ok(count) => self.pending.extend(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    let seconds = PATIENCE.as_secs();
                    return Err(self.garbled(&format!("nothing for {seconds} s")));
                }
                Err(error) => {
                    let reason = self.link.last_words();
                    return Err(DeviceError::Gone {
                        device: self.machine.to_string(),
                        reason: reason.unwrap_or_else(|| error.to_string()),
                    });
                }
            }
        }
    }

    fn number(&self, line: &Line, field: &str) -> Result<u32, DeviceError> {
        let number = line.field(field).and_then(|text| text.parse().ok());
        number.ok_or_else(|| self.garbled(&line.text))
    }

    fn bits(&self, text: Option<&str>) -> Result<u32, DeviceError> {
        let bits = text.and_then(|text| u32::from_str_radix(text, 16).ok());
        bits.ok_or_else(|| self.garbled("no number in hexadecimal digits"))
    }

    fn instructions(&self, line: &Line, field: &str) -> Result<u32, DeviceError> {
        match self.number(line, field)? {
            u32::MAX => Err(self.garbled("more ticks than its counter holds")),
            ticks => {
                let ticks = ticks.saturating_sub(self.ticks_of_nothing);
                Ok(self.machine.unit().count(ticks))
            }
        }
    }

    fn stack(&self, line: &Line) -> Result<u32, DeviceError> {
        match self.number(line, "stack")? {
            u32::MAX => Err(self.garbled("more stack than it painted")),
            bytes => Ok(bytes),
        }
    }

    fn garbled(&self, reason: &str) -> DeviceError {
        DeviceError::Garbled {
            device: format!("the bench firmware on {}", self.machine),
            reason: reason.to_owned(),
        }
    }
}

/// The digests of [`Measured::eval`] and [`Measured::eval_q`] for a blob, computed on the host.
///
/// # Errors
/// If the blob does not load within the firmware's capacity.
pub fn digests(evaluator: &Evaluator) -> Result<(Digest, Option<Digest>), LoadError> {
    fn of<X, const I: usize, Y, const O: usize>(
        row: impl Fn(&mut Stimulus, usize) -> [X; I],
        call: impl Fn(&[X; I]) -> [Y; O],
        bits: impl Fn(Y) -> u32,
    ) -> Digest {
        let (mut stimulus, mut digest) = (Stimulus::default(), Digest::default());
        for k in 0..ROWS {
            for y in call(&row(&mut stimulus, k)) {
                digest.add(bits(y));
            }
        }
        digest
    }
    let blob = evaluator.bytes();
    let large = Model::<64, 10, 16, 4>::load(blob)?;
    let small = Model::<8, 8, 8, 2>::load(blob).ok();
    let floats = match &small {
        Some(small) if !small.is_integer() => {
            of(Stimulus::floats::<8>, |x| small.eval(x), f32::to_bits)
        }
        _ => of(Stimulus::floats::<64>, |x| large.eval(x), f32::to_bits),
    };
    let integers = large.is_integer().then(|| match &small {
        Some(small) => of(Stimulus::integers::<8>, |x| small.eval_q(x), |y| y as u32),
        None => of(Stimulus::integers::<64>, |x| large.eval_q(x), |y| y as u32),
    });
    Ok((floats, integers))
}
