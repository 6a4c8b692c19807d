//! `kan compile`: other tables from a run's network.

use std::path::PathBuf;

use kan_train_host::artifact::{self, MODEL};
use kan_train_host::compile::{Options, Tables};

use super::Failure;
use super::console::Console;
use super::run::{Blob, Run};
use super::train::{bits, kind};

/// Compile a trained network to tables once more, of another kind or size
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan compile airfoil --tables linear --max-flash 4096 --out airfoil-small.kan

On the rows that RUN was trained with, the tables differ from the network by a twentieth of its own
error (root mean square), or by what their kind allows; --max-flash makes them as coarse as it takes
to fit. kan-core is run on them, on the rows that RUN was trained and tested with; where those are no
longer there, on points all over the ranges of the inputs, and no score is given.")]
pub struct Args {
    /// A folder that `kan train` made
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Kind of tables [default: that of RUN]
    #[arg(long)]
    tables: Option<Tables>,
    /// Bits of a table entry: 32 (f32), 16 or 8 (integers) [default: those of RUN]
    #[arg(long, value_parser = bits)]
    bits: Option<u8>,
    /// The data, if they have moved
    #[arg(long, value_name = "FILE.csv")]
    data: Option<PathBuf>,
    /// The blob may not be larger
    #[arg(long, value_name = "BYTES")]
    max_flash: Option<usize>,
    /// Where to write it [default: model.kan in RUN]
    #[arg(long, value_name = "FILE.kan")]
    out: Option<PathBuf>,
}

pub fn run(args: &Args, console: &Console) -> Result<(), Failure> {
    let mut run = Run::open(&args.run)?;
    let kind = kind(args.tables, args.bits, run.checkpoint.training.kind())?;
    let options = Options {
        kind,
        tolerance: None,
        max_bytes: args.max_flash,
    };
    let split = match (run.split(args.data.as_deref()), &args.data) {
        (Ok(split), _) => Some(split),
        (Err(failure), Some(_)) => return Err(failure),
        (Err(failure), None) => {
            console.say(format_args!("not measured: {}", failure.message));
            None
        }
    };
    let path = args.out.clone().unwrap_or_else(|| run.path.join(MODEL));
    let (compiled, blob) = Blob::make(&run.checkpoint, split.as_ref(), &options, Some(path))?;
    match &args.out {
        Some(out) => artifact::write_atomic(out, &compiled.bytes)?,
        None => {
            run.checkpoint.training.tables = kind.tables;
            run.checkpoint.training.bits = kind.bits;
            let training = &mut run.checkpoint.training;
            if let (Some(data), Some(split)) = (&args.data, &split) {
                if split.fingerprint == training.fingerprint {
                    training.move_data(data, split.fingerprint)?;
                } else {
                    console.say(format_args!(
                        "measured on other rows than {} was trained with",
                        run.path.display()
                    ));
                }
            }
            let metrics = match run.metrics() {
                Some(mut metrics) => {
                    metrics.insert("blob".into(), serde_json::to_value(&blob)?);
                    Some(metrics)
                }
                None => None,
            };
            match metrics {
                Some(metrics) => run.save(&compiled, &metrics)?,
                None => {
                    run.save_network()?;
                    artifact::write_atomic(&run.path.join(MODEL), &compiled.bytes)?;
                }
            }
        }
    }
    if let Some(interruption) = run.checkpoint.interruption() {
        console.say(interruption);
    }
    blob.say(console);
    console.object(&blob)
}
