//! Models on an emulated Cortex-M: the model server in QEMU, driven over its serial port.
//!
//! One image of the firmware serves every model: QEMU's generic loader writes the blob into the
//! memory region that the firmware has for it, whose bounds are symbols of the image, as a
//! programmer does with a board. Instructions are counted exactly (`-icount`), and are not cycles:
//! QEMU has no model of a pipeline or of flash.
//!
//! ```no_run
//! use kan_train_host::emulator::{Firmware, Machine};
//!
//! let blob = std::fs::read("model.kan")?;
//! let firmware = Firmware::build("qemu".parse::<Machine>()?)?;
//! let run = firmware.evaluate(&blob, &[0.5, 1.5, 2.5, 3.5], 2)?; // two rows of two inputs
//! println!("{:?} in {:?}", run.outputs, run.cost());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, fmt, fs, thread};

use firmware_example::boards::Board;
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, SectionKind, elf};
use serde::Serialize;
use tempfile::TempDir;
use thiserror::Error;

use crate::artifact;
use crate::device::{Device, DeviceError, DeviceRun, Link, Unit, within_capacity};

/// QEMU's program for Arm.
pub const QEMU: &str = "qemu-system-arm";

/// Where the firmware's sources are: it is built where this crate was.
pub const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The toolchain that builds it: the file that says so.
pub const TOOLCHAIN: &str = include_str!("../../rust-toolchain.toml");

/// How long the firmware may say nothing, unless told otherwise, each of three times. A checksum
/// over the whole region of the model, the longest silence there is, takes QEMU a few seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Nanoseconds of the machine's time that an instruction takes: `-icount shift=7`. With them each
/// of the counters ticks at least twice an instruction.
const NANOSECONDS: f64 = 128.0;

/// A machine that QEMU emulates, with a board of `firmware-example`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Machine {
    /// The BBC micro:bit, version 1: an nRF51822 with a Cortex-M0 and 16 KiB of RAM.
    Microbit,
    /// Arm's MPS2 board with image AN385: a Cortex-M3, without an FPU.
    Mps2An385,
    /// The same board with image AN386: a Cortex-M4 with a single-precision FPU.
    Mps2An386,
    /// The same with image AN500: a Cortex-M7 with an FPU.
    Mps2An500,
    /// The same with image AN505: a Cortex-M33 with an FPU, in the Secure state.
    Mps2An505,
    /// The Netduino Plus 2: an STM32F405 with a Cortex-M4F.
    NetduinoPlus2,
}

impl Machine {
    /// Every machine.
    pub const ALL: [Self; 6] = [
        Self::Microbit,
        Self::Mps2An385,
        Self::Mps2An386,
        Self::Mps2An500,
        Self::Mps2An505,
        Self::NetduinoPlus2,
    ];

    /// QEMU's name of the machine, which is that of its board too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Microbit => "microbit",
            Self::Mps2An385 => "mps2-an385",
            Self::Mps2An386 => "mps2-an386",
            Self::Mps2An500 => "mps2-an500",
            Self::Mps2An505 => "mps2-an505",
            Self::NetduinoPlus2 => "netduinoplus2",
        }
    }

    /// Its board.
    pub fn board(self) -> &'static Board {
        Board::named(self.name()).expect("every machine has a board of its name")
    }

    /// The Rust target of its processor.
    pub fn target(self) -> &'static str {
        self.board().target
    }

    /// Ticks a second of the counter of its board, in the machine's time.
    fn clock(self) -> f64 {
        match self {
            Self::Microbit => 16e6,
            Self::Mps2An385 | Self::Mps2An386 | Self::Mps2An500 => 25e6,
            Self::Mps2An505 => 20e6,
            Self::NetduinoPlus2 => 168e6,
        }
    }

    /// What the counter of its board counts.
    pub fn unit(self) -> Unit {
        Unit::Instructions {
            ticks: NANOSECONDS * self.clock() * 1e-9,
        }
    }

    /// QEMU's arguments for the machine with its board's serial line at standard input and output,
    /// up to the file with the firmware.
    pub fn arguments(self) -> Vec<&'static str> {
        let mut arguments = vec!["-machine", self.name(), "-icount", "shift=7"];
        arguments.extend(["-display", "none", "-monitor", "none"]);
        if self == Self::NetduinoPlus2 {
            // Its board uses the second serial port.
            arguments.extend(["-serial", "null"]);
        }
        arguments.extend(["-serial", "stdio", "-kernel"]);
        arguments
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Machine {
    type Err = UnknownMachine;

    /// Reads `qemu` (the default machine) or `qemu:` and a machine's name.
    fn from_str(text: &str) -> Result<Self, UnknownMachine> {
        if text == "qemu" {
            return Ok(Self::Mps2An386);
        }
        let name = text.strip_prefix("qemu:");
        let found = Self::ALL
            .into_iter()
            .find(|machine| name == Some(machine.name()));
        found.ok_or_else(|| UnknownMachine(text.to_owned()))
    }
}

/// A text that names no machine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "no machine {0:?}: there are qemu:mps2-an386 (or qemu; a Cortex-M4F), qemu:microbit (M0), \
     qemu:mps2-an385 (M3), qemu:netduinoplus2 (M4F), qemu:mps2-an500 (M7) and qemu:mps2-an505 (M33)"
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
pub fn toolchain(program: &str) -> Command {
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

/// The right to build firmware, held by one process and thread at a time.
pub(crate) struct Lock(#[expect(dead_code)] fs::File);

impl Lock {
    pub(crate) fn new() -> Result<Self, DeviceError> {
        let folder = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(WORKSPACE).join("target"), PathBuf::from);
        let path = Path::new(WORKSPACE).join(folder).join(".firmware-lock");
        let opened = path.parent().map_or(Ok(()), fs::create_dir_all);
        opened
            .and_then(|()| fs::File::create(&path))
            .and_then(|file| file.lock().map(|()| Self(file)))
            .map_err(|source| DeviceError::Io {
                what: path.display().to_string(),
                source,
            })
    }
}

/// What cargo is to build of `firmware-example`.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// The binary.
    pub binary: &'a str,
    /// The profile: `firmware` for size, `firmware-speed` for speed.
    pub profile: &'a str,
    /// The Rust target.
    pub target: &'a str,
    /// The processor, if rustc is to know more than the target.
    pub cpu: Option<&'a str>,
    /// Features.
    pub features: &'a [&'a str],
    /// Variables of the environment that the build reads.
    pub environment: &'a [(&'a str, &'a str)],
}

impl Recipe<'_> {
    /// Builds it, and gives the bytes of the image.
    ///
    /// # Errors
    /// [`DeviceError::Build`] or [`DeviceError::Io`].
    pub fn build(&self) -> Result<Vec<u8>, DeviceError> {
        let _lock = Lock::new()?;
        let path = self.build_in_place()?;
        fs::read(&path).map_err(|source| DeviceError::Io {
            what: path.display().to_string(),
            source,
        })
    }

    /// Builds it where the next build of the same binary for the same target will be.
    fn build_in_place(&self) -> Result<PathBuf, DeviceError> {
        let flags = self
            .cpu
            .map(|cpu| ("RUSTFLAGS", format!("-Ctarget-cpu={cpu}")));
        let build = toolchain("cargo")
            .args(["build", "--quiet", "--profile", self.profile])
            .args(["--package", "firmware-example", "--bin", self.binary])
            .args(["--target", self.target])
            .args(["--features", &self.features.join(",")])
            .args(["--message-format", "json-render-diagnostics"])
            .envs(self.environment.iter().copied())
            .envs(flags)
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
            .ok_or_else(|| DeviceError::Build(format!("no executable {}", self.binary)))
    }
}

/// Builds a binary of `firmware-example` for a board, and gives the path of the image.
///
/// # Errors
/// [`DeviceError::Build`] or [`DeviceError::Io`].
pub fn build(board: &Board, binary: &str) -> Result<PathBuf, DeviceError> {
    // Boards with the same target are built to the same file, perhaps by another `kan` at the same
    // time: each gets a copy of its own while nobody else builds.
    let _lock = Lock::new()?;
    let recipe = Recipe {
        binary,
        profile: "firmware",
        target: board.target,
        cpu: board.cpu,
        features: &[board.feature],
        environment: &[],
    };
    let built = recipe.build_in_place()?;
    let copy = built.with_file_name(format!("{binary}-{}", board.name));
    let copied = |source| DeviceError::Io {
        what: copy.display().to_string(),
        source,
    };
    let image = fs::read(&built).map_err(copied)?;
    // Not touched if it is the same: QEMU may be reading it.
    if fs::read(&copy).ok().as_ref() != Some(&image) {
        artifact::write_atomic(&copy, &image)
            .map_err(|error| copied(io::Error::other(error.to_string())))?;
    }
    Ok(copy)
}

/// An image of the firmware for a machine.
pub struct Firmware {
    machine: Machine,
    path: PathBuf,
    model: Region,
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
    /// Adds up the sections of an image that stay in the device's memory.
    ///
    /// # Errors
    /// [`DeviceError::Io`] or, if it is no ELF file, [`DeviceError::Image`].
    pub fn of(path: &Path) -> Result<Self, DeviceError> {
        let bytes = fs::read(path).map_err(|source| DeviceError::Io {
            what: path.display().to_string(),
            source,
        })?;
        Self::of_image(&bytes).map_err(|error| DeviceError::Image {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    /// [`Size::of`] an image in memory.
    ///
    /// # Errors
    /// If it is no ELF file.
    pub fn of_image(bytes: &[u8]) -> Result<Self, object::Error> {
        let file = object::File::parse(bytes)?;
        let mut size = Self {
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
        Ok(size)
    }

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
    /// Builds the model server: about half a minute on two cores the first time, then nothing.
    pub fn build(machine: Machine) -> Result<Self, DeviceError> {
        availability(machine)?;
        Self::open(machine, &build(machine.board(), "serve")?)
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
        Ok(Self {
            machine,
            model: region("__model_start", "__model_end")?,
            patience: PATIENCE,
            path,
        })
    }

    /// The machine.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// The ELF file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes how long the firmware may say nothing before it counts as hanging, each of three
    /// times, by default 10 s.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Starts QEMU with the model in `blob` in the region that the firmware has for it.
    ///
    /// The emulator ends with the value that is returned.
    ///
    /// # Errors
    /// [`DeviceError::Capacity`] or [`DeviceError::TooLarge`] before it starts; then what
    /// [`Device::new`] gives, with what QEMU said last.
    pub fn start(&self, blob: &[u8]) -> Result<Device, DeviceError> {
        let unit = self.machine.unit();
        let name = self.machine.to_string();
        let link = Box::new(self.connect(blob)?);
        Device::new(name, link, self.patience, Some(unit))
    }

    /// [`start`](Self::start), but only the line to the emulator's serial port, at which nobody has
    /// spoken yet.
    ///
    /// # Errors
    /// As `start`'s before the emulator runs.
    pub fn connect(&self, blob: &[u8]) -> Result<impl Link + 'static, DeviceError> {
        within_capacity(blob)?;
        if blob.len() > self.model.bytes {
            return Err(DeviceError::TooLarge {
                bytes: blob.len(),
                capacity: self.model.bytes,
            });
        }
        // QEMU runs in the folder: no name on its command line can hold a comma.
        let folder = tempfile::tempdir().map_err(|source| DeviceError::Io {
            what: "temporary folder".into(),
            source,
        })?;
        let mut command = Command::new(QEMU);
        command
            .current_dir(folder.path())
            .args(self.machine.arguments())
            .arg(&self.path);
        // The loader takes no empty file; an empty blob is no blob in blank memory either.
        if !blob.is_empty() {
            let path = folder.path().join("model.kan");
            fs::write(&path, blob).map_err(|source| DeviceError::Io {
                what: path.display().to_string(),
                source,
            })?;
            let start = self.model.start;
            command.arg("-device");
            command.arg(format!(
                "loader,file=model.kan,addr={start:#x},force-raw=on"
            ));
        }
        Emulator::start(command, folder).map_err(|source| DeviceError::Io {
            what: QEMU.into(),
            source,
        })
    }

    /// Evaluates the model in `blob` on rows of `n_inputs` values, in QEMU, which has ended when
    /// this returns: [`start`](Self::start), then [`Device::evaluate`].
    ///
    /// # Errors
    /// Those of the two.
    pub fn evaluate(
        &self,
        blob: &[u8],
        inputs: &[f32],
        n_inputs: usize,
    ) -> Result<DeviceRun, DeviceError> {
        self.start(blob)?.evaluate(inputs, n_inputs, |_| ())
    }
}

/// QEMU with the firmware's serial line at its standard input and output. It does not outlive this
/// value.
struct Emulator {
    child: Child,
    input: Option<ChildStdin>,
    output: mpsc::Receiver<Vec<u8>>,
    /// Bytes that have arrived.
    pending: Vec<u8>,
    folder: TempDir,
}

impl Emulator {
    fn start(mut command: Command, folder: TempDir) -> io::Result<Self> {
        let said = fs::File::create(folder.path().join("stderr"))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()?;
        let (sender, output) = mpsc::channel();
        let input = child.stdin.take();
        if let Some(mut stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(read @ 1..) = stdout.read(&mut chunk) {
                    if sender.send(chunk[..read].to_vec()).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self {
            child,
            input,
            output,
            pending: Vec::new(),
            folder,
        })
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Link for Emulator {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let closed = || io::Error::from(ErrorKind::BrokenPipe);
        let input = self.input.as_mut().ok_or_else(closed)?;
        input.write_all(bytes)?;
        input.flush()
    }

    fn receive(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        if self.pending.is_empty() {
            self.pending = self
                .output
                .recv_timeout(patience)
                .map_err(|error| match error {
                    RecvTimeoutError::Timeout => ErrorKind::TimedOut,
                    RecvTimeoutError::Disconnected => ErrorKind::UnexpectedEof,
                })?;
        }
        let count = self.pending.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(self.pending.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }

    fn last_words(&mut self) -> Option<String> {
        // Unless it needs more than the moment it has left to end by itself.
        let start = Instant::now();
        let mut status = None;
        while status.is_none() && start.elapsed() < Duration::from_secs(5) {
            status = self.child.try_wait().ok().flatten();
            thread::sleep(Duration::from_millis(2));
        }
        let said = fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        let line = said.trim().lines().next().map(str::to_owned);
        line.or_else(|| status.map(|status| status.to_string()))
    }
}
