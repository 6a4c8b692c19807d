//! `kan new-firmware`: a project of one's own around a model, for a board.

use std::fs;
use std::path::{Path, PathBuf};

use firmware_example::boards::Board;
use kan_train_host::artifact;
use kan_train_host::emulator::{Machine, QEMU, TOOLCHAIN, WORKSPACE};
use kan_train_host::evaluator::Evaluator;
use serde_json::json;

use super::console::Console;
use super::model::{Loaded, input_names};
use super::pack::board;
use super::{Failure, one_line, shell_word};

/// The versions of the crates that boards were tested with.
const MANIFEST: &str = include_str!("../../../Cargo.toml");

/// Those of all crates below them.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// Write a firmware project around a model, for a board
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan new-firmware thermometer --board microbit --model run/model.kan
         cd thermometer && cargo run --release

The project evaluates the model once a second and writes the outputs to the board's serial line. Of
src/main.rs, make what you want; src/board.rs has the peripherals; model.kan is flashed to a region
of its own, and `kan pack` makes files that replace it alone. Boards: microbit, netduinoplus2,
nrf52840-dk, pico, pico2; and in QEMU besides the first two mps2-an385, mps2-an386, mps2-an500 and
mps2-an505.")]
pub struct Args {
    /// The folder to create
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The board
    #[arg(long, value_name = "NAME", value_parser = board)]
    board: &'static Board,
    /// The model: a blob, or a folder that `kan train` made
    #[arg(long, value_name = "FILE.kan|RUN")]
    model: PathBuf,
}

pub fn run(args: &Args, console: &Console) -> Result<(), Failure> {
    let folder = &args.folder;
    let shown = folder.display();
    let loaded = Loaded::open(&args.model)?;
    let sources = Path::new(WORKSPACE).join("kan-core");
    let sources = sources.canonicalize().map_err(|error| {
        let sources = sources.display();
        Failure::new(format!("{sources}: no sources of kan-core: {error}"))
    })?;
    let name = package_name(folder)
        .ok_or_else(|| Failure::usage(format!("DIR {shown}: no name for a package")))?;
    if name == "kan-core" {
        let taken = format!("DIR {shown}: the crate that the project depends on is called so");
        return Err(Failure::usage(taken));
    }
    let files = [
        ("Cargo.toml", manifest(&name, args.board, &sources)?),
        ("Cargo.lock", LOCK.to_owned()),
        ("rust-toolchain.toml", TOOLCHAIN.to_owned()),
        (".cargo/config.toml", configuration(args.board)),
        (".gitignore", "/target\n".to_owned()),
        ("build.rs", BUILD.to_owned()),
        ("memory.x", format!("{}{MODEL_SECTION}", args.board.memory)),
        ("src/board.rs", args.board.source.to_owned()),
        ("src/main.rs", program(&name, args.board, &loaded.evaluator)),
    ];

    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::new(format!("{shown}: the folder is not empty")));
    }
    artifact::create_run_folder(folder)?;
    for below in [".cargo", "src"] {
        artifact::create_run_folder(&folder.join(below))?;
    }
    artifact::write_atomic(&folder.join("model.kan"), loaded.evaluator.bytes())?;
    for (path, text) in files {
        artifact::write_atomic(&folder.join(path), text.as_bytes())?;
    }
    for (file, text) in args.board.modules {
        artifact::write_atomic(&folder.join("src").join(file), text.as_bytes())?;
    }

    let commands = [
        format!("cd {}", shell_word(&folder.to_string_lossy())),
        "cargo run --release".to_owned(),
    ];
    console.say(format_args!("{shown}: firmware for {}", args.board.about));
    console.say("next:");
    for command in &commands {
        console.say(format_args!("  {command}"));
    }
    console.object(&json!({
        "out": folder,
        "board": args.board.name,
        "target": args.board.target,
        "commands": commands,
    }))
}

/// The folder's name, of letters, digits, `-` and `_`, as cargo wants it.
fn package_name(folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_str()?.to_lowercase();
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "-");
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        .then_some(name)
}

fn manifest(name: &str, board: &Board, sources: &Path) -> Result<String, Failure> {
    let known: toml::Table = MANIFEST.parse()?;
    let known = |name: &str| {
        let dependency = known.get("workspace")?.get("dependencies")?.get(name)?;
        Some(dependency.clone())
    };
    let mut dependencies = format!(
        "kan-core = {{ path = {} }}\n",
        toml::Value::from(sources.to_string_lossy().as_ref())
    );
    for name in ["cortex-m", "cortex-m-rt", "embedded-io"]
        .iter()
        .chain(board.crates)
    {
        let version = known(name)
            .ok_or_else(|| Failure::new(format!("no version of {name} is known: a bug")))?;
        dependencies += &format!("{name} = {version}\n");
    }
    Ok(format!(
        r#"[package]
name = "{name}"
version = "0.1.0"
edition = "2024"

[dependencies]
{dependencies}
[profile.release]
opt-level = "s"
lto = "fat"
codegen-units = 1
panic = "abort"
debug = 2

# A project of its own, wherever it lies.
[workspace]
"#
    ))
}

fn configuration(board: &Board) -> String {
    let emulated = Machine::ALL
        .into_iter()
        .find(|machine| Some(machine.name()) == board.machine)
        .map(|machine| {
            let arguments = machine.arguments().join(" ");
            format!("# In QEMU; Ctrl-C ends it.\nrunner = \"{QEMU} {arguments}\"\n")
        });
    let probed = board.chip.map(|chip| {
        let off = if emulated.is_some() { "# " } else { "" };
        format!(
            "# On the board, by a debug probe (https://probe.rs); its serial line speaks at 115200 \
             baud.\n{off}runner = \"probe-rs run --chip {chip}\"\n"
        )
    });
    let target = board.target;
    let flags = board.cpu.map_or(String::new(), |cpu| {
        format!("rustflags = [\"-Ctarget-cpu={cpu}\"]\n")
    });
    let runners = emulated.unwrap_or_default() + &probed.unwrap_or_default();
    // Of a target with a dot in its name cargo finds no runner.
    format!(
        "[build]\ntarget = \"{target}\"\n{flags}\n[target.'cfg(target_os = \"none\")']\n{runners}"
    )
}

/// What the linker is told.
const BUILD: &str = r#"//! The linker's scripts: cortex-m-rt's `link.x`, which includes `memory.x`.

fn main() {
    println!("cargo::rerun-if-changed=memory.x");
    println!("cargo::rustc-link-search={}", env!("CARGO_MANIFEST_DIR"));
    println!("cargo::rustc-link-arg=--nmagic");
    println!("cargo::rustc-link-arg=-Tlink.x");
}
"#;

const MODEL_SECTION: &str = "
/* The model that is flashed with the program. */
SECTIONS
{
  .model : ALIGN(4)
  {
    KEEP(*(.model));
  } > MODEL
} INSERT AFTER .text;
";

fn program(name: &str, board: &Board, evaluator: &Evaluator) -> String {
    let model = evaluator.model();
    let rust_type = evaluator.rust_type();
    let bytes = evaluator.bytes().len();
    let centre: Vec<f32> = evaluator.centre().iter().map(|&x| x as f32).collect();
    let inputs = input_names(&model).map_or("the model's inputs".into(), |names| names.join(", "));
    let inputs = one_line(&inputs);
    let about = board.about;
    format!(
        r#"//! {name}, firmware for {about}: evaluates a model once a second and writes the outputs, and
//! what the inference took, to the serial line.

#![no_std]
#![no_main]

#[allow(dead_code)] // it has more than is used here
mod board;

use core::panic::PanicInfo;
use core::slice;

use board::{{Board, Counter}};
use cortex_m::asm;
use cortex_m::peripheral::SCB;
use cortex_m_rt::entry;
use embedded_io::Write;
use kan_core::{{LoadError, Model, ModelBytes, blob_len}};

/// As `kan inspect` prints it.
type Network = {rust_type};

/// The model that is flashed with this program.
#[unsafe(link_section = ".model")]
#[used]
static MODEL: ModelBytes<[u8; {bytes}]> = ModelBytes(*include_bytes!("../model.kan"));

unsafe extern "C" {{
    static __model_start: u8;
    static __model_end: u8;
}}

/// Loads what is in the region MODEL, perhaps flashed after this program: see `kan pack`.
fn load() -> Result<Network, LoadError> {{
    let (start, end) = (&raw const __model_start, &raw const __model_end);
    // SAFETY: by memory.x, there is nothing but the model between the two.
    let region = unsafe {{ slice::from_raw_parts(start, end.addr() - start.addr()) }};
    Model::load(region.get(..blob_len(region)?).unwrap_or(region))
}}

#[entry]
fn main() -> ! {{
    let Some(mut board) = Board::take() else {{
        SCB::sys_reset()
    }};
    // The serial line never fails.
    let model = match load() {{
        Ok(model) => model,
        Err(error) => {{
            let _ = writeln!(board.serial, "no model: {{error}}");
            loop {{
                asm::wfi();
            }}
        }}
    }};
    loop {{
        // Your sensors, in the units of the training data: {inputs}.
        let input = {centre:?};
        board.counter.start();
        let output = model.eval(&input);
        let ticks = board.counter.ticks().unwrap_or_default();
        let _ = match model.in_domain(&input) {{
            true => writeln!(board.serial, "{{output:?}} in {{ticks}} ticks"),
            false => writeln!(board.serial, "{{output:?}}, but an input is out of the domain"),
        }};
        asm::delay(Counter::TICKS_PER_SECOND);
    }}
}}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {{
    SCB::sys_reset()
}}
"#
    )
}
