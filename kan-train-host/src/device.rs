//! Models on an emulated Cortex-M: the firmware `evaluate` in QEMU, its outputs and its cost.
//!
//! One image of the firmware serves every model. QEMU's generic loader writes the blob and the
//! test inputs into memory regions of their own, whose bounds are symbols of the image; the
//! firmware answers with defmt frames over semihosting, which end in a marker. Instructions are
//! counted exactly (`-icount`), and are not cycles: QEMU has no model of a pipeline or of flash.
//!
//! ```no_run
//! use kan_train_host::device::{Firmware, Machine};
//!
//! let blob = std::fs::read("model.kan")?;
//! let firmware = Firmware::build("qemu".parse::<Machine>()?)?;
//! let run = firmware.evaluate(&blob, &[0.5, 1.5, 2.5, 3.5], 2)?; // two rows of two inputs
//! println!("{:?} in {} instructions", run.outputs, run.instructions().median);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{
    env, fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use defmt_decoder::{DecodeError, Frame, Table};
use firmware_example::{CAPACITY, vectors};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, SectionKind, elf};
use serde::Serialize;
use thiserror::Error;

use crate::evaluator::Evaluator;

/// The emulator's program.
const QEMU: &str = "qemu-system-arm";

/// Where the firmware's sources are: it is built where this crate was.
const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The toolchain that builds it.
const TOOLCHAIN: &str = include_str!("../../rust-toolchain.toml");

/// How long the firmware may say nothing, unless told otherwise. It reports every row; a checksum
/// over the whole region of the model, the longest silence there is, takes QEMU a few seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine that QEMU emulates.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Machine {
    /// Arm's MPS2 board with image AN386: a Cortex-M4 with a single-precision FPU.
    Mps2An386,
    /// The same board with image AN385: a Cortex-M3, without an FPU.
    Mps2An385,
    /// Code for a Cortex-M0 on image AN385, which executes all that it has: so its instructions are
    /// counted, for QEMU has no board with an M0 and this much memory.
    CortexM0,
}

impl Machine {
    /// QEMU's name of the machine.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mps2An386 => "mps2-an386",
            Self::Mps2An385 | Self::CortexM0 => "mps2-an385",
        }
    }

    /// The Rust target of its processor.
    pub fn target(self) -> &'static str {
        match self {
            Self::Mps2An386 => "thumbv7em-none-eabihf",
            Self::Mps2An385 => "thumbv7m-none-eabi",
            Self::CortexM0 => "thumbv6m-none-eabi",
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CortexM0 => "cortex-m0",
            _ => self.name(),
        })
    }
}

impl FromStr for Machine {
    type Err = UnknownMachine;

    /// Reads `qemu` (the default machine) or `qemu:` and a machine's name.
    fn from_str(text: &str) -> Result<Self, UnknownMachine> {
        match text {
            "qemu" | "qemu:mps2-an386" => Ok(Self::Mps2An386),
            "qemu:mps2-an385" => Ok(Self::Mps2An385),
            "qemu:cortex-m0" => Ok(Self::CortexM0),
            _ => Err(UnknownMachine(text.to_owned())),
        }
    }
}

/// A text that names no machine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "no machine {0:?}: there are qemu:mps2-an386 (or qemu; a Cortex-M4F), qemu:mps2-an385 (a \
     Cortex-M3) and qemu:cortex-m0"
)]
pub struct UnknownMachine(String);

/// What has to be installed. Its text is the one line of shell that does it, on Debian or Ubuntu.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Missing {
    /// Whether QEMU for Arm is missing.
    pub qemu: bool,
    /// The Rust target that is missing.
    pub target: Option<&'static str>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Where there is no sudo, as in most containers, one is root.
        let path = env::var_os("PATH").unwrap_or_default();
        let has_sudo = env::split_paths(&path).any(|folder| folder.join("sudo").is_file());
        let sudo = if has_sudo { "sudo " } else { "" };
        if self.qemu {
            write!(f, "{sudo}apt-get update && ")?;
            write!(f, "{sudo}apt-get install -y --no-install-recommends {QEMU}")?;
        }
        if self.qemu && self.target.is_some() {
            f.write_str(" && ")?;
        }
        if let Some(target) = self.target {
            f.write_str("rustup target add")?;
            if let Some(channel) = channel() {
                write!(f, " --toolchain {channel}")?;
            }
            write!(f, " {target}")?;
        }
        Ok(())
    }
}

/// The channel in [`TOOLCHAIN`].
fn channel() -> Option<String> {
    let file: toml::Table = TOOLCHAIN.parse().ok()?;
    Some(file.get("toolchain")?.get("channel")?.as_str()?.to_owned())
}

/// Why a model was not evaluated on a device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// QEMU or the Rust target is not there.
    #[error("QEMU or the Rust target is not installed; this installs it: {0}")]
    Missing(#[from] Missing),
    /// The inputs are not at least one whole row.
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
    /// The blob or the test inputs are larger than the memory set apart for them.
    #[error("{what}: {bytes} bytes do not fit the device's {capacity}")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// Their size.
        bytes: usize,
        /// The size of the region.
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
    /// A program could not be started, or a file not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// Program or file.
        what: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The firmware refused the blob or the inputs, or failed on them.
    #[error("the device reports: {0}")]
    Reported(String),
    /// The emulator ended before the firmware was done.
    #[error("{machine} ended early: {reason}")]
    Unfinished {
        /// The machine.
        machine: Machine,
        /// What QEMU said last.
        reason: String,
    },
    /// The firmware hangs.
    #[error("{machine} has said nothing for {patience:?}")]
    Silent {
        /// The machine.
        machine: Machine,
        /// How long it was listened to.
        patience: Duration,
    },
    /// What the device sent makes no sense: not the firmware this was built with.
    #[error("unexpected answer from the device: {0}")]
    Garbled(String),
}

/// Whether everything is there that evaluating on `machine` needs.
///
/// # Errors
/// [`DeviceError::Sources`] or [`DeviceError::Missing`].
pub fn availability(machine: Machine) -> Result<(), DeviceError> {
    availability_with(Path::new(WORKSPACE), machine)
}

/// [`availability`] with the firmware's sources below the folder `workspace`.
///
/// # Errors
/// As [`availability`].
pub fn availability_with(workspace: &Path, machine: Machine) -> Result<(), DeviceError> {
    // First, because nothing can be asked of the toolchain in a folder that is gone.
    if !workspace.join("firmware-example").is_dir() {
        return Err(DeviceError::Sources(workspace.into()));
    }
    let succeeds = |command: &mut Command| {
        command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()
            .filter(|o| o.status.success())
    };
    let qemu = succeeds(Command::new(QEMU).arg("--version")).is_none();
    let has_core = |libraries: &Path| {
        fs::read_dir(libraries).is_ok_and(|files| {
            files
                .flatten()
                .any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
        })
    };
    let rustc = succeeds(toolchain("rustc").args([
        "--print",
        "target-libdir",
        "--target",
        machine.target(),
    ]));
    let libraries = rustc.and_then(|output| String::from_utf8(output.stdout).ok());
    let target = !libraries.is_some_and(|path| has_core(Path::new(path.trim_end())));
    if qemu || target {
        return Err(DeviceError::Missing(Missing {
            qemu,
            target: target.then_some(machine.target()),
        }));
    }
    Ok(())
}

/// A program of the toolchain, told to work on the firmware.
///
/// This process may itself run under cargo, which leaves its own settings in the environment:
/// those that would change the firmware, or the toolchain that builds it, are not passed on.
fn toolchain(program: &str) -> Command {
    const PASSED_ON: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_TARGET_DIR",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_TERM_",
    ];
    let mut command = Command::new(program);
    command.current_dir(WORKSPACE).env("DEFMT_LOG", "info");
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let of_cargo =
            text.starts_with("CARGO_") && !PASSED_ON.iter().any(|passed| text.starts_with(passed));
        if of_cargo
            || ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER"].contains(&&*text)
        {
            command.env_remove(&name);
        }
    }
    command
}

/// An image of the firmware for a machine.
pub struct Firmware {
    machine: Machine,
    path: PathBuf,
    /// How its log is encoded.
    log: Table,
    model: Region,
    vectors: Region,
    size: Size,
    patience: Duration,
}

/// Memory of the device that the host fills.
#[derive(Copy, Clone, Debug)]
struct Region {
    start: u64,
    bytes: usize,
}

/// Memory that an image takes, in bytes, as the tool `size` counts it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Code and constants, in flash.
    pub text: u64,
    /// Variables with an initial value: in RAM, and in flash too.
    pub data: u64,
    /// Variables that start at zero, in RAM.
    pub bss: u64,
}

impl Size {
    /// Bytes of flash.
    pub fn flash(&self) -> u64 {
        self.text + self.data
    }

    /// Bytes of RAM, without the stack.
    pub fn ram(&self) -> u64 {
        self.data + self.bss
    }
}

impl Firmware {
    /// Builds the binary `evaluate`: about half a minute on two cores the first time, then nothing.
    pub fn build(machine: Machine) -> Result<Self, DeviceError> {
        Self::build_binary(machine, "evaluate")
    }

    /// Builds the binary `baseline`: the same without `kan-core`, to compare its [`size`] with.
    ///
    /// [`size`]: Self::size
    pub fn build_baseline(machine: Machine) -> Result<Self, DeviceError> {
        Self::build_binary(machine, "baseline")
    }

    fn build_binary(machine: Machine, binary: &str) -> Result<Self, DeviceError> {
        availability(machine)?;
        let build = toolchain("cargo")
            .args([
                "build",
                "--quiet",
                "--profile",
                "firmware",
                "--package",
                "firmware-example",
            ])
            .args(["--bin", binary, "--target", machine.target()])
            .args(["--message-format", "json-render-diagnostics"])
            .stdin(Stdio::null())
            .output()
            .map_err(|source| DeviceError::Io {
                what: "cargo".into(),
                source,
            })?;
        if !build.status.success() {
            let said = String::from_utf8_lossy(&build.stderr);
            let error = said.lines().find(|line| line.starts_with("error"));
            return Err(DeviceError::Build(
                error.unwrap_or("no reason given").to_owned(),
            ));
        }
        String::from_utf8_lossy(&build.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
            .ok_or_else(|| DeviceError::Build(format!("no executable {binary}")))
            .and_then(|path| Self::open(machine, &path))
    }

    /// Takes an image that was built before.
    pub fn open(machine: Machine, path: &Path) -> Result<Self, DeviceError> {
        let io = |source| DeviceError::Io {
            what: path.display().to_string(),
            source,
        };
        let path = path.canonicalize().map_err(io)?;
        let bytes = fs::read(&path).map_err(io)?;
        let image = |reason: String| DeviceError::Image {
            path: path.clone(),
            reason,
        };

        let file = object::File::parse(&*bytes).map_err(|error| image(error.to_string()))?;
        let symbol = |name: &str| {
            let found = file.symbols().find(|symbol| symbol.name() == Ok(name));
            found
                .map(|symbol| symbol.address())
                .ok_or_else(|| image(format!("no symbol {name}")))
        };
        let region = |start: &str, end: &str| {
            let (start, end) = (symbol(start)?, symbol(end)?);
            let bytes = end
                .checked_sub(start)
                .and_then(|bytes| bytes.try_into().ok());
            bytes
                .map(|bytes| Region { start, bytes })
                .ok_or_else(|| image("region upside down".into()))
        };
        let log = match Table::parse(&bytes) {
            Ok(Some(log)) => log,
            Ok(None) => return Err(image("logs nothing by defmt".into())),
            Err(error) => return Err(image(error.to_string())),
        };
        Ok(Self {
            machine,
            log,
            model: region("__model_start", "__model_end")?,
            vectors: region("__vectors_start", "__vectors_end")?,
            size: size(&file),
            patience: PATIENCE,
            path,
        })
    }

    /// The ELF file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes how long the firmware may say nothing before it counts as hanging, by default 30 s.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The memory that the image takes.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Evaluates the model in `blob` on rows of `n_inputs` values, in QEMU.
    ///
    /// `inputs` is row-major, at least one row; values are passed bit for bit, NaN and infinities
    /// too. All of them have to fit the device's memory at once, 16 MiB. The emulator has ended when
    /// this returns, whatever the result.
    pub fn evaluate(
        &self,
        blob: &[u8],
        inputs: &[f32],
        n_inputs: usize,
    ) -> Result<DeviceRun, DeviceError> {
        let shape = || DeviceError::Shape {
            values: inputs.len(),
            inputs: n_inputs,
        };
        if n_inputs == 0 || inputs.is_empty() || !inputs.len().is_multiple_of(n_inputs) {
            return Err(shape());
        }
        within_capacity(blob)?;
        let rows = inputs.len() / n_inputs;
        let header = vectors::header(
            rows.try_into().map_err(|_| shape())?,
            n_inputs.try_into().map_err(|_| shape())?,
        );
        let mut vectors = header.to_vec();
        vectors.extend(inputs.iter().flat_map(|value| value.to_le_bytes()));

        // QEMU runs in the folder: no name on its command line can hold a comma.
        let folder = tempfile::tempdir().map_err(|source| DeviceError::Io {
            what: "temporary folder".into(),
            source,
        })?;
        let said = folder.path().join("stderr");
        let mut command = Command::new(QEMU);
        command
            .current_dir(folder.path())
            .args(["-machine", self.machine.name(), "-icount", "shift=7"])
            .args(["-nographic", "-monitor", "none", "-serial", "none"])
            .args(["-semihosting-config", "enable=on,target=native"])
            .arg("-kernel")
            .arg(&self.path);
        for (what, file, bytes, region) in [
            ("model", "model.kan", blob, self.model),
            ("test inputs", "vectors.bin", &vectors, self.vectors),
        ] {
            if bytes.len() > region.bytes {
                let (bytes, capacity) = (bytes.len(), region.bytes);
                return Err(DeviceError::TooLarge {
                    what,
                    bytes,
                    capacity,
                });
            }
            // The loader takes no empty file; an empty blob is no blob in blank memory either.
            if !bytes.is_empty() {
                let path = folder.path().join(file);
                fs::write(&path, bytes).map_err(|source| DeviceError::Io {
                    what: path.display().to_string(),
                    source,
                })?;
                let start = region.start;
                command.arg("-device");
                command.arg(format!("loader,file={file},addr={start:#x},force-raw=on"));
            }
        }
        let qemu = |source| DeviceError::Io {
            what: QEMU.into(),
            source,
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&said).map_err(qemu)?);
        let mut report = Report::new(self.machine, rows);
        let mut emulator = Emulator(command.spawn().map_err(qemu)?);
        emulator.listen(self, &mut report)?;
        let status = emulator.end();
        report.finish(|| match fs::read_to_string(&said).ok() {
            Some(text) if !text.trim().is_empty() => {
                text.trim().lines().next().unwrap_or("").into()
            }
            _ => status.map_or("it did not stop".into(), |status| status.to_string()),
        })
    }
}

/// Whether the firmware has room for the model in `blob`, if it is one: of a blob that does not load
/// the device tells.
fn within_capacity(blob: &[u8]) -> Result<(), DeviceError> {
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

/// Adds up the sections that stay in the device's memory.
fn size(file: &object::File) -> Size {
    let mut size = Size {
        text: 0,
        data: 0,
        bss: 0,
    };
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else {
            continue;
        };
        if sh_flags & u64::from(elf::SHF_ALLOC) == 0 {
            continue;
        }
        if section.kind() == SectionKind::UninitializedData {
            size.bss += section.size();
        } else if sh_flags & u64::from(elf::SHF_WRITE) != 0 {
            size.data += section.size();
        } else {
            size.text += section.size();
        }
    }
    size
}

/// Builds the firmware if need be and evaluates the model in `blob` on `machine`: for a single
/// call; for several, keep a [`Firmware`].
pub fn evaluate(
    machine: Machine,
    blob: &[u8],
    inputs: &[f32],
    n_inputs: usize,
) -> Result<DeviceRun, DeviceError> {
    Firmware::build(machine)?.evaluate(blob, inputs, n_inputs)
}

/// QEMU, which does not outlive this value.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Emulator {
    /// Passes every log line to `report` until the emulator closes its output.
    fn listen(&mut self, firmware: &Firmware, report: &mut Report) -> Result<(), DeviceError> {
        let Firmware {
            machine,
            patience,
            ref log,
            ..
        } = *firmware;
        let Some(mut output) = self.0.stdout.take() else {
            return Ok(());
        };
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut chunk) {
                if sender.send(chunk[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut decoder = log.new_stream_decoder();
        loop {
            match receiver.recv_timeout(patience) {
                Ok(chunk) => decoder.received(&chunk),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(DeviceError::Silent { machine, patience });
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            loop {
                match decoder.decode() {
                    Ok(frame) => report.take(&frame)?,
                    Err(DecodeError::UnexpectedEof) => break,
                    Err(DecodeError::Malformed) => {
                        return Err(DeviceError::Garbled("no defmt frame".into()));
                    }
                }
            }
        }
    }

    /// Its exit status, unless it needs more than the moment it has left to end by itself.
    fn end(&mut self) -> Option<std::process::ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            if let Ok(Some(status)) = self.0.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(2));
        }
        None
    }
}

/// What the firmware found in the blob, and the RAM that evaluating it takes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModelInfo {
    /// Inputs of the first layer.
    pub inputs: usize,
    /// Outputs of the last layer.
    pub outputs: usize,
    /// Most output nodes of any layer.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Edges of all layers.
    pub edges: usize,
    /// Bytes of the firmware's `Model`, which has capacity for many models; one made for this
    /// model alone has a smaller one.
    pub struct_bytes: usize,
    /// Most bytes of stack in use during an evaluation, for the same capacity.
    pub stack_bytes: usize,
}

/// The result of an evaluation on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceRun {
    /// Where.
    pub machine: Machine,
    /// What was evaluated.
    pub model: ModelInfo,
    /// The outputs, row-major, bit for bit as the device computed them.
    pub outputs: Vec<f32>,
    /// Executed instructions of each row's inference, from the call of `eval_into` to its return,
    /// in the firmware's size-minded build and with its generous capacity, whose scratch memory is
    /// cleared every time: firmware made for one model needs fewer.
    pub row_instructions: Vec<u32>,
}

/// Executed instructions per inference.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Instructions {
    /// Least of all rows.
    pub min: u32,
    /// Median of all rows (the upper one of two).
    pub median: u32,
    /// Most of all rows.
    pub max: u32,
}

impl DeviceRun {
    /// Minimum, median and maximum of the executed instructions.
    pub fn instructions(&self) -> Instructions {
        let mut sorted = self.row_instructions.clone();
        sorted.sort_unstable();
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0);
        Instructions {
            min: at(0),
            median: at(sorted.len() / 2),
            max: at(sorted.len().saturating_sub(1)),
        }
    }

    /// How many outputs have the same bits as those in `host`, which are in the same order.
    pub fn equal_outputs(&self, host: &[f32]) -> usize {
        self.outputs
            .iter()
            .zip(host)
            .filter(|(a, b)| a.to_bits() == b.to_bits())
            .count()
    }
}

/// What the firmware has reported so far.
struct Report {
    machine: Machine,
    rows: usize,
    model: ModelInfo,
    outputs: Vec<f32>,
    instructions: Vec<u32>,
    ended: bool,
}

impl Report {
    fn new(machine: Machine, rows: usize) -> Self {
        Self {
            machine,
            rows,
            model: ModelInfo::default(),
            outputs: Vec::new(),
            instructions: Vec::new(),
            ended: false,
        }
    }

    /// Reads one line of the log; an error line is the device's last.
    fn take(&mut self, frame: &Frame) -> Result<(), DeviceError> {
        let line = frame.display_message().to_string();
        if frame.level().is_some_and(|level| level.as_str() == "error") {
            return Err(DeviceError::Reported(line));
        }
        self.read(&line).ok_or(DeviceError::Garbled(line))
    }

    fn read(&mut self, line: &str) -> Option<()> {
        let field = |key: &str| {
            let (_, rest) = line.split_once(&format!(" {key}="))?;
            rest.split(' ').next()?.parse::<usize>().ok()
        };
        match line.split(' ').next()? {
            "model" => {
                self.model = ModelInfo {
                    inputs: field("inputs")?,
                    outputs: field("outputs")?,
                    width: field("width")?,
                    layers: field("layers")?,
                    edges: field("edges")?,
                    struct_bytes: field("struct_bytes")?,
                    stack_bytes: 0,
                };
            }
            "stack" => self.model.stack_bytes = field("bytes")?,
            "row" if self.instructions.len() < self.rows => {
                self.instructions
                    .push(field("instructions")?.try_into().ok()?);
                let (_, list) = line.split_once("outputs=[")?;
                for bits in list.strip_suffix(']')?.split(", ") {
                    self.outputs
                        .push(f32::from_bits(u32::from_str_radix(bits, 16).ok()?));
                }
                if self.outputs.len() != self.instructions.len() * self.model.outputs {
                    return None;
                }
            }
            "end" => {
                self.ended = self.instructions.len() == self.rows && field("rows")? == self.rows;
            }
            _ => return None,
        }
        Some(())
    }

    /// The result, if the end marker has come; else an error with `reason`.
    fn finish(self, reason: impl FnOnce() -> String) -> Result<DeviceRun, DeviceError> {
        if !self.ended {
            return Err(DeviceError::Unfinished {
                machine: self.machine,
                reason: reason(),
            });
        }
        Ok(DeviceRun {
            machine: self.machine,
            model: self.model,
            outputs: self.outputs,
            row_instructions: self.instructions,
        })
    }
}
