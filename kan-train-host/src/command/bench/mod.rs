//! `kan bench`: what is measured, beside the goals.

mod device;
mod paper;

use super::Failure;
use super::console::Console;

/// Measure training on this machine, and inference on every core
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Paper(paper::Args),
    Device(device::Args),
}

pub fn run(args: &Args, seed: u64, console: &Console) -> Result<(), Failure> {
    match &args.what {
        What::Paper(args) => paper::run(args, seed, console),
        What::Device(args) => device::run(args, seed, console),
    }
}
