//! `kan bench device`: what inference costs on every core, beside the goals and beside perceptrons.

mod accuracy;
mod flash;
mod models;
mod peers;
mod sets;

use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use kan_train_host::benchmark::{self, BUILDS, Build, FLAGS, Measured, Peer, SPEED};
use kan_train_host::compile::{self, Compiled, Kind, Options};
use kan_train_host::device::{Cost, DeviceError};
use kan_train_host::emulator::{self, Firmware, Machine, QEMU, WORKSPACE};
use kan_train_host::predictor::Predictor;
use rayon::prelude::*;
use serde::Serialize;

use self::accuracy::Accuracy;
use self::flash::Flash;
use self::models::{Growth, MODELS, Missing, Row};
use self::peers::Contender;
use self::sets::SETS;
use crate::command::Failure;
use crate::command::console::{Console, advance, figures};

/// Count the instructions of inference on every core, beside the goals and beside int8 perceptrons
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan bench device
         kan bench device --machine mps2-an386 --only 8-8,iris
         kan bench device --data DIR --only accuracy --json

Builds the bench firmware and runs it in QEMU, on a machine for each core; for an M33 as rustc does
without flags, and with its DSP extension (-C target-cpu=cortex-m33). Prints Markdown tables:
- each model with tables of every kind. Instructions are of eval_q (integers in, integers out) or,
  for tables of 32 bits, of eval, over 1000 inputs with extremes and NaN among them (least and most
  over 10,000 where all are to take the same); the text is
  what kan-core adds to a firmware for this kind alone; the error is the largest distance from the
  float network over 1000 points of its domain, whose outputs are of order one;
- `growth`: the instructions against edges and intervals;
- `flash`: kan-core with one kind of tables, optimised for size;
- `accuracy`: what integers add to the test error of networks that learnt data sets;
- each data set by name: its KAN and the smallest int8 perceptron that is as good, run by microflow,
  on the test rows: instructions from floats to floats, flash and RAM.

An instruction is not a cycle: QEMU does not know pipelines or the flash's wait states.")]
pub struct Args {
    /// Only these machines: microbit, mps2-an385, mps2-an386, mps2-an500, mps2-an505
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = machine)]
    machine: Vec<Machine>,
    /// Only what has one of these names, or this in its name: 8-8, 64-10, 4-8-3, pruned, growth,
    /// flash, accuracy, thermocouple_k, ntc_adc, iris, digits8x8, pendigits
    #[arg(long, value_name = "PATTERN,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Also train on the data sets in this folder without options, for the table of accuracy: a
    /// folder for each, as for `kan bench paper`
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Reads `--machine`.
fn machine(text: &str) -> Result<Machine, String> {
    let plain = || BUILDS.iter().filter(|build| build.cpu.is_none());
    let names = || Vec::from_iter(plain().map(|build| build.machine.name())).join(", ");
    plain()
        .map(|build| build.machine)
        .find(|machine| machine.name() == text)
        .ok_or_else(|| format!("there are {}", names()))
}

const GROWTH: &str = "growth";
const FLASH: &str = "flash";
const ACCURACY: &str = "accuracy";

/// A limit that should be kept.
#[derive(Clone, Copy, Debug, Serialize)]
struct Goal {
    /// Of which field of the row.
    of: &'static str,
    at_most: f64,
    met: bool,
}

impl Goal {
    fn new(of: &'static str, at_most: f64, value: f64) -> Self {
        let met = value <= at_most;
        Self { of, at_most, met }
    }

    /// Two cells of a table.
    fn cells(goal: Option<Self>) -> String {
        goal.map_or("– | ".into(), |Self { of, at_most, met }| {
            let of = of.replace('_', " ");
            let verdict = if met { "yes" } else { "no" };
            format!("{of} ≤ {} | {verdict}", number(at_most))
        })
    }
}

/// What `bench device --json` prints.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    rustc: String,
    qemu: String,
    rows: Vec<Row>,
    not_measured: Vec<Missing>,
    growth: Vec<Growth>,
    flash: Vec<Flash>,
    accuracy: Vec<Accuracy>,
    peers: Vec<Contender>,
    seconds: f64,
}

pub fn run(args: &Args, seed: u64, console: &Console) -> Result<(), Failure> {
    let clock = Instant::now();
    let chosen = Chosen::of(args)?;
    if let Some(data) = args.data.as_ref().filter(|data| !data.is_dir()) {
        let shown = data.display();
        return Err(Failure::new(format!("--data {shown}: no such folder")));
    }
    if chosen.needs_machines() {
        for build in &chosen.builds {
            emulator::availability(build.machine)?;
        }
    }
    let bench = Bench {
        chosen,
        folder: tempfile::tempdir()?,
        texts: RefCell::default(),
        console,
    };
    let (rows, not_measured) = bench.rows()?;
    let growth = bench.growth()?;
    let flash = bench.flash()?;
    let accuracy = bench.accuracy(args.data.as_deref(), seed)?;
    let peers = bench.peers()?;
    console.done();
    let first_line = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(WORKSPACE)
            .output();
        let text = output.map_or(String::new(), |output| {
            String::from_utf8_lossy(&output.stdout).into_owned()
        });
        text.lines().next().unwrap_or("not found").to_owned()
    };
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        rustc: first_line("rustc", &["--version"]),
        qemu: first_line(QEMU, &["--version"]),
        rows,
        not_measured,
        growth,
        flash,
        accuracy,
        peers,
        seconds: clock.elapsed().as_secs_f64(),
    };
    console.say("");
    let Report {
        version,
        rustc,
        qemu,
        seconds,
        ..
    } = &report;
    console.say(format_args!(
        "- kan {version}, {rustc}, profile {SPEED}: {FLAGS}"
    ));
    console.say(format_args!("- {qemu}; {seconds:.0} s in all"));
    let goals = (report.rows.iter().filter_map(|row| row.goal))
        .chain(report.flash.iter().filter_map(|flash| flash.goal))
        .chain(report.accuracy.iter().filter_map(|accuracy| accuracy.goal));
    let (met, of) = goals.fold((0, 0), |(met, of), goal| {
        (met + usize::from(goal.met), of + 1)
    });
    console.say(format_args!("- goals met: {met} of {of}"));
    console.object(&report)
}

/// What is asked for.
struct Chosen {
    builds: Vec<Build>,
    names: Vec<&'static str>,
}

impl Chosen {
    fn of(args: &Args) -> Result<Self, Failure> {
        let mut builds = BUILDS.to_vec();
        builds.retain(|build| args.machine.is_empty() || args.machine.contains(&build.machine));
        let all: Vec<&str> = (MODELS.iter().map(|(name, ..)| *name))
            .chain([GROWTH, FLASH, ACCURACY])
            .chain(SETS.iter().filter(|set| set.3).map(|set| set.0))
            .collect();
        let mut names = Vec::new();
        for pattern in &args.only {
            let pattern = pattern.trim().to_lowercase();
            let by_name = all.contains(&pattern.as_str());
            let fits = |name: &str| match by_name {
                true => name == pattern,
                false => !pattern.is_empty() && name.contains(&pattern),
            };
            let found = names.len();
            names.extend(all.iter().copied().filter(|name| fits(name)));
            if names.len() == found {
                return Err(Failure::usage(format!(
                    "--only: nothing has `{pattern}` in its name; there are {}",
                    all.join(", ")
                )));
            }
        }
        if args.only.is_empty() {
            names = all;
        }
        Ok(Self { builds, names })
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    fn needs_machines(&self) -> bool {
        self.names.iter().any(|&name| name != ACCURACY)
    }
}

struct Bench<'a> {
    chosen: Chosen,
    /// For images.
    folder: tempfile::TempDir,
    /// What kan-core takes with a kind of tables, by flags and profile: weighed once.
    texts: RefCell<Vec<(String, &'static str, Kind, u64)>>,
    console: &'a Console,
}

impl Bench<'_> {
    fn say(&self, line: impl fmt::Display) {
        self.console.say(line);
    }

    /// The head of a table, after a title.
    fn head(&self, title: &str, columns: &[&str]) {
        self.say(format_args!(
            "\n{title}\n\n| {} |\n|{}",
            columns.join(" | "),
            "---|".repeat(columns.len())
        ));
    }

    fn firmware(&self, build: Build, peer: Option<&Peer<'_>>) -> Result<Firmware, DeviceError> {
        let what = format!("{}: building the firmware", build.core);
        self.console.progress(&what, 0, 1);
        benchmark::firmware(build, peer, self.folder.path())
    }

    /// Runs the bench firmware with all of `blobs` that fit the machine's flash.
    fn measure(
        &self,
        build: Build,
        blobs: &[(String, Vec<u8>)],
    ) -> Result<Vec<Option<Measured>>, Failure> {
        let firmware = self.firmware(build, None)?;
        let room = room(build.machine);
        let bar = self.console.bar();
        let done = AtomicUsize::new(0);
        let all: Result<Vec<Option<Measured>>, DeviceError> = blobs
            .par_iter()
            .map(|(name, blob)| {
                let measured = match blob.len() <= room {
                    true => Some(benchmark::measure(&firmware, blob)?),
                    false => None,
                };
                let done = 1 + done.fetch_add(1, Ordering::Relaxed);
                let what = format!("{}: {name}", build.core);
                advance(bar, &what, done, blobs.len());
                Ok(measured)
            })
            .collect();
        Ok(all?)
    }
}

fn compiled(
    predictor: &Predictor,
    name: &str,
    kind: Kind,
    rows: &[f64],
) -> Result<Compiled, compile::CompileError> {
    let options = Options {
        kind,
        tolerance: None,
        max_bytes: None,
        max_instructions: None,
    };
    compile::compile(predictor, name, &options, rows)
}

/// Bytes that a model may have on a machine.
fn room(machine: Machine) -> usize {
    let region = machine.board().model_region();
    region.map_or(0, |region| region.bytes as usize)
}

/// A number of instructions, or two where they differ.
fn in_cell(cost: Cost) -> String {
    match cost {
        Cost { min, max, .. } if min == max => min.to_string(),
        Cost { min, median, max } => format!("{median} ({min} … {max})"),
    }
}

/// As many digits as it takes.
fn number(value: f64) -> String {
    match value.fract() == 0.0 {
        true => value.to_string(),
        false => figures(value),
    }
}
