//! `kan pack`: a model as a file that flash tools take.

use std::path::PathBuf;

use firmware_example::boards::{BOARDS, Board, Region};
use kan_train_host::artifact;
use kan_train_host::pack::{Format, PackError, pack};
use serde_json::json;

use super::console::Console;
use super::model::Loaded;
use super::{Failure, shell_word};

/// Write a model as a file that flashes it alone: .bin, .hex, .uf2 or .elf
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan pack airfoil --board nrf52840-dk --out airfoil.hex
         kan pack airfoil --board pico --out airfoil.uf2
         kan pack airfoil --address 0x08080000 --out airfoil.elf

The bytes lie at the address of the region that the board's firmware has for its model, or at the one
given. The command that flashes the file is printed.")]
pub struct Args {
    /// A folder that `kan train` made, or a blob
    #[arg(value_name = "RUN|FILE.kan")]
    model: PathBuf,
    /// The board whose firmware it is for
    #[arg(long, value_name = "NAME", value_parser = board, required_unless_present = "address")]
    board: Option<&'static Board>,
    /// Where it lies in flash, for firmware of your own
    #[arg(long, value_name = "0xADDRESS", value_parser = address, conflicts_with = "board")]
    address: Option<u32>,
    /// The file to write; its ending says which kind
    #[arg(long, value_name = "FILE.bin|.hex|.uf2|.elf")]
    out: PathBuf,
}

/// Reads the name of a board.
pub fn board(name: &str) -> Result<&'static Board, String> {
    Board::named(name).ok_or_else(|| {
        let names: Vec<&str> = BOARDS.iter().map(|board| board.name).collect();
        format!("it is one of {}", names.join(", "))
    })
}

/// Reads an address, a multiple of four.
fn address(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    match u32::from_str_radix(digits, 16) {
        Ok(address) if address.is_multiple_of(4) => Ok(address),
        Ok(_) => Err("a model starts at a multiple of four".into()),
        Err(_) => Err("it is a hexadecimal number of at most eight digits".into()),
    }
}

pub fn run(args: &Args, console: &Console) -> Result<(), Failure> {
    let ending = args.out.extension().and_then(|ending| ending.to_str());
    let shown = args.out.display();
    let format = ending.unwrap_or_default().parse::<Format>();
    let format = format.map_err(|error| Failure::usage(format!("--out {shown}: {error}")))?;
    let loaded = Loaded::open(&args.model)?;
    let blob = loaded.evaluator.bytes();
    let region = match (args.address, args.board) {
        (Some(start), _) => Some(Region {
            start,
            bytes: u32::MAX - start,
        }),
        (None, board) => board.and_then(Board::model_region),
    };
    let region = region.ok_or_else(|| Failure::new("the board has no region for a model"))?;
    let family = args.board.and_then(|board| board.uf2_family);
    let packed = pack(blob, region, format, family).map_err(|error| match error {
        PackError::Family => Failure::usage(format!("--out {shown}: {error}")),
        error => Failure::new(format!("{}: {error}", loaded.path.display())),
    })?;
    artifact::write_atomic(&args.out, &packed)?;

    let (bytes, start) = (blob.len(), region.start);
    console.say(format_args!("{shown}: {bytes} bytes at {start:#010x}"));
    let file = shell_word(&args.out.to_string_lossy());
    let command = args.board.and_then(|board| {
        let chip = board.chip?;
        Some(match format {
            Format::Uf2 => format!("hold BOOTSEL while plugging in, then copy {file} to the disk"),
            Format::Bin => format!(
                "probe-rs download --chip {chip} --binary-format bin --base-address {start:#010x} \
                 {file}"
            ),
            Format::Hex => {
                format!("probe-rs download --chip {chip} --binary-format hex {file}")
            }
            Format::Elf => format!("probe-rs download --chip {chip} {file}"),
        })
    });
    if let Some(command) = &command {
        console.say(format_args!("next: {command}"));
    }
    console.object(&json!({
        "out": args.out,
        "bytes": bytes,
        "address": start,
        "flash": command,
    }))
}
