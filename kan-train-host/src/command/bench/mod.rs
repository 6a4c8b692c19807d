//! `kan bench`: what is measured, beside the goals.

mod paper;

use super::Failure;
use super::console::Console;

/// Measure how good training is on this machine
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Paper(paper::Args),
}

pub fn run(args: &Args, seed: u64, console: &Console) -> Result<(), Failure> {
    match &args.what {
        What::Paper(args) => paper::run(args, seed, console),
    }
}
