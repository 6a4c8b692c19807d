//! `kan inspect`: what a blob is and what it costs.

use std::path::PathBuf;

use kan_core::{integer_ram_bytes, ram_bytes};
use serde::Serialize;

use kan_train_host::estimate::Instructions;

use super::console::{Console, shape};
use super::model::{Loaded, input_names, name, output_names};
use super::{Failure, one_line};

/// Tell what a blob is: its shape, its Rust type, what it costs in flash, RAM and instructions
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan inspect airfoil/model.kan

Instructions are an estimate for one inference by the firmware of `kan eval --on qemu`, which counts
them exactly: on an M4F (or an M7 with an FPU), an M33 with an FPU (built without flags, so without its
DSP extension), an M3 (or others without an FPU) and an M0 (or M0+). RAM is that of the printed type on a
32-bit target: the struct, and the sums on the stack.")]
pub struct Args {
    /// A blob, or the run folder of one
    #[arg(value_name = "FILE.kan")]
    file: PathBuf,
}

#[derive(Serialize)]
struct Description {
    format_version: u16,
    name: String,
    inputs: usize,
    outputs: usize,
    /// Node counts from the inputs to the outputs.
    width: Vec<usize>,
    layers: usize,
    edges: usize,
    tables: &'static str,
    bits: u8,
    bytes: usize,
    /// As `crc32` of eight hexadecimal digits.
    crc: String,
    rust_type: String,
    ram_bytes: usize,
    /// Of `eval`.
    instructions: Instructions,
    /// Of `eval_q`, for tables of integers.
    instructions_q: Option<Instructions>,
    input_names: Option<Vec<String>>,
    /// Names of the outputs, or of the classes.
    output_names: Option<Vec<String>>,
}

pub fn run(args: &Args, console: &Console) -> Result<(), Failure> {
    let loaded = Loaded::open(&args.file)?;
    let evaluator = &loaded.evaluator;
    let model = evaluator.model();
    let description = Description {
        format_version: model.format_version(),
        name: name(&model),
        inputs: model.inputs(),
        outputs: model.outputs(),
        width: evaluator.width(),
        layers: model.layers(),
        edges: model.edges(),
        tables: evaluator.tables(),
        bits: evaluator.bits(),
        bytes: model.blob_len(),
        crc: format!("{:08x}", model.crc()),
        rust_type: evaluator.rust_type(),
        ram_bytes: match evaluator.bits() {
            32 => ram_bytes(model.width(), model.layers()),
            _ => {
                let (inputs, outputs) = (model.inputs(), model.outputs());
                integer_ram_bytes(inputs, outputs, model.width(), model.layers())
            }
        },
        instructions: evaluator.instructions(),
        instructions_q: evaluator.instructions_q(),
        input_names: input_names(&model),
        output_names: output_names(&model),
    };
    let Description {
        name,
        width,
        layers,
        edges,
        tables,
        bits,
        bytes,
        ..
    } = &description;
    let names = |names: &Option<Vec<String>>| {
        names
            .as_ref()
            .map_or("unnamed".into(), |names| one_line(&names.join(", ")))
    };
    let version = description.format_version;
    console.say(format_args!("name          {name}"));
    console.say(format_args!(
        "blob          {bytes} bytes, format {version}, CRC {}",
        description.crc
    ));
    console.say(format_args!(
        "shape         {}, {layers} layers, {edges} edges",
        shape(width)
    ));
    console.say(format_args!("tables        {tables}, {bits} bits"));
    console.say(format_args!(
        "inputs        {}",
        names(&description.input_names)
    ));
    console.say(format_args!(
        "outputs       {}",
        names(&description.output_names)
    ));
    console.say(format_args!("Rust type     {}", description.rust_type));
    console.say(format_args!(
        "RAM           {} bytes",
        description.ram_bytes
    ));
    let about = |what: &str, of: &Instructions| {
        console.say(format_args!(
            "{what:13} about {} on a Cortex-M4F, {} on an M33, {} on an M3, {} on an M0",
            of.cortex_m4f, of.cortex_m33, of.cortex_m3, of.cortex_m0
        ));
    };
    about("instructions", &description.instructions);
    if let Some(integers) = &description.instructions_q {
        about("  of eval_q", integers);
    }
    console.object(&description)
}
