//! `kan bench device`: what inference costs on every core, beside the goals and beside perceptrons.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{fmt, fs, mem};

use kan_train_host::artifact;
use kan_train_host::benchmark::{self, BUILDS, Build, FLAGS, Measured, Peer, SMALL, SPEED, Scales};
use kan_train_host::compile::{self, Compiled, Kind, Options, Tables};
use kan_train_host::dataset::{Dataset, Target, Task};
use kan_train_host::device::{Cost, DeviceError};
use kan_train_host::emulator::{self, Firmware, Machine, QEMU, WORKSPACE};
use kan_train_host::evaluator::Evaluator;
use kan_train_host::predictor::{Predictor, Score};
use kan_train_host::problem::table::TABLES;
use kan_train_host::train::{self, Event, Settings};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use serde::Serialize;

use crate::command::Failure;
use crate::command::console::{Console, advance, figures, shape};

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

/// Intervals of the networks' grids; their tables have as many as they need.
const INTERVALS: usize = 8;

/// The models, and the part of their edges that is there.
const MODELS: [(&str, &[usize], f64); 4] = [
    ("8-8", &[8, 8], 1.0),
    ("64-10", &[64, 10], 1.0),
    ("4-8-3", &[4, 8, 3], 1.0),
    ("9-11-7-2 pruned", &[9, 11, 7, 2], 0.5),
];

/// The data sets with a network in [`PEERS`], their target columns, and whether there is a perceptron too.
const SETS: [(&str, &[&str], Task, bool); 6] = [
    ("thermocouple_k", &["target"], Task::Regression, true),
    ("ntc_adc", &["target"], Task::Regression, true),
    ("ik_2link", &["q1", "q2"], Task::Regression, false),
    ("iris", &["label"], Task::Classification, true),
    ("digits8x8", &["label"], Task::Classification, true),
    ("pendigits", &["label"], Task::Classification, true),
];

/// Where both are, a folder for each set, and where the rows are.
const PEERS: &str = "tests/peers";
const DATA: &str = "kan-train-host/data";

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

/// A model on a machine.
#[derive(Serialize)]
struct Row {
    machine: &'static str,
    core: &'static str,
    model: &'static str,
    width: Vec<usize>,
    edges: usize,
    /// Of the tables: the most of any node.
    intervals: usize,
    tables: Tables,
    bits: u8,
    /// The function that was called.
    call: &'static str,
    instructions: Cost,
    /// The median by edge.
    per_edge: f64,
    blob_bytes: usize,
    text_bytes: u64,
    stack_bytes: u32,
    /// Largest |device − network|; the network's outputs are of order one.
    max_abs_error: f64,
    /// Whether all outputs are the host's, bit for bit.
    equal_to_host: bool,
    flags: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<Goal>,
}

/// A model that a machine has no room for.
#[derive(Serialize)]
struct Missing {
    machine: &'static str,
    model: &'static str,
    tables: Tables,
    bits: u8,
    reason: String,
}

/// A layer of some edges, on tables of some intervals.
#[derive(Serialize)]
struct Growth {
    machine: &'static str,
    core: &'static str,
    edges: usize,
    /// The most of any input.
    intervals: usize,
    tables: Tables,
    bits: u8,
    instructions: Cost,
}

/// What kan-core takes.
#[derive(Serialize)]
struct Flash {
    target: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<&'static str>,
    tables: Tables,
    bits: u8,
    bytes: u64,
    goal: Option<Goal>,
}

/// What tables of integers add to the test error of a network.
#[derive(Serialize)]
struct Accuracy {
    data: String,
    tables: Tables,
    bits: u8,
    test_rows: usize,
    measure: &'static str,
    /// Of the network in `f64`, and of kan-core on the blob.
    network: f64,
    device: f64,
    blob_bytes: usize,
    goal: Option<Goal>,
}

/// A KAN or a perceptron on a machine.
#[derive(Serialize)]
struct Contender {
    machine: &'static str,
    core: &'static str,
    data: &'static str,
    engine: &'static str,
    /// Node counts and format.
    model: String,
    measure: &'static str,
    /// Of the outputs that the device gave for the test rows.
    error: f64,
    /// From floats to floats, on the test rows.
    instructions: Cost,
    /// Engine and model, in the profile whose instructions are counted; and in that for size.
    flash_bytes: u64,
    small_flash_bytes: u64,
    /// The stack of a call, the model's struct and variables.
    ram_bytes: u64,
    /// Whether a perceptron is as good as the KAN of 16 bits: an RMSE at most 5 % higher, or at most
    /// half a point more wrong classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_good: Option<bool>,
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

    fn rows(&self) -> Result<(Vec<Row>, Vec<Missing>), Failure> {
        let models = MODELS.iter().filter(|(name, ..)| self.chosen.has(name));
        let mut subjects = Vec::new();
        for &(model, width, density) in models {
            let predictor = benchmark::network(width, INTERVALS, density);
            let points = points(width[0]);
            for kind in Kind::ALL {
                let compiled = compiled(&predictor, model, kind, &[])?;
                let evaluator = Evaluator::load(&compiled.bytes)?;
                let error = benchmark::largest_error(&predictor, &evaluator, &points);
                // Not those of the blob, whose pruned integer layers count whole groups of outputs.
                let edges = predictor.network.edges();
                subjects.push((model, kind, compiled, evaluator, error, edges));
            }
        }
        let (mut rows, mut not_measured) = (Vec::new(), Vec::new());
        if subjects.is_empty() {
            return Ok((rows, not_measured));
        }
        let blobs: Vec<(String, Vec<u8>)> = (subjects.iter())
            .map(|(model, kind, compiled, ..)| (format!("{model}, {kind}"), compiled.bytes.clone()))
            .collect();
        self.head(
            "Models",
            &[
                "machine",
                "core",
                "model",
                "tables",
                "edges",
                "intervals",
                "instructions",
                "an edge",
                "goal",
                "met",
                "blob",
                "text",
                "stack",
                "largest error",
                "host's bits",
            ],
        );
        for &build in &self.chosen.builds {
            let Build { machine, core, .. } = build;
            let measured = self.measure(build, &blobs)?;
            let kinds: Vec<Kind> = subjects.iter().map(|subject| subject.1).collect();
            let texts = self.texts(build, SPEED, &kinds)?;
            let results = measured.into_iter().zip(texts);
            for ((model, kind, compiled, evaluator, error, edges), (measured, text_bytes)) in
                subjects.iter().zip(results)
            {
                let bytes = evaluator.bytes().len();
                let Some(measured) = measured else {
                    let reason = format!("{bytes} bytes, and there is room for {}", room(machine));
                    self.say(format_args!(
                        "| {machine} | {core} | {model} | {kind} |{} not measured: {reason} |",
                        " |".repeat(10)
                    ));
                    not_measured.push(Missing {
                        machine: machine.name(),
                        model,
                        tables: kind.tables,
                        bits: kind.bits,
                        reason,
                    });
                    continue;
                };
                let (floats, integers) =
                    benchmark::digests(evaluator).map_err(|e| Failure::new(e.to_string()))?;
                let (call, of) = match measured.eval_q {
                    Some(of) => ("eval_q", of),
                    None => ("eval", measured.eval),
                };
                let edges = *edges;
                let mut row = Row {
                    machine: machine.name(),
                    core,
                    model,
                    width: evaluator.width(),
                    edges,
                    intervals: most_intervals(compiled),
                    tables: kind.tables,
                    bits: kind.bits,
                    call,
                    instructions: of.instructions,
                    per_edge: f64::from(of.instructions.median) / edges as f64,
                    blob_bytes: bytes,
                    text_bytes,
                    stack_bytes: of.stack,
                    max_abs_error: *error,
                    equal_to_host: measured.eval.digest == floats
                        && measured.eval_q.map(|call| call.digest) == integers,
                    flags: build.flags(),
                    goal: None,
                };
                row.goal = row.judge();
                self.say(row.markdown());
                rows.push(row);
            }
        }
        Ok((rows, not_measured))
    }

    /// What kan-core takes on a machine with each of the kinds.
    fn texts(
        &self,
        build: Build,
        profile: &'static str,
        kinds: &[Kind],
    ) -> Result<Vec<u64>, Failure> {
        let flags = build.flags();
        let known = |kind: Kind| {
            let texts = self.texts.borrow();
            let found = texts
                .iter()
                .find(|text| (&text.0, text.1, text.2) == (&flags, profile, kind));
            found.map(|text| text.3)
        };
        let mut scales = None;
        let mut texts = Vec::new();
        for (at, &kind) in kinds.iter().enumerate() {
            if known(kind).is_none() {
                let what = format!("{}: the size of {kind}", build.core);
                self.console.progress(&what, at, kinds.len());
                let tared = match scales {
                    Some(tared) => tared,
                    None => Scales::tared(build, profile)?,
                };
                scales = Some(tared);
                let bytes = tared.kan_core(benchmark::only(kind))?.flash();
                self.texts
                    .borrow_mut()
                    .push((flags.clone(), profile, kind, bytes));
            }
            texts.push(known(kind).unwrap_or_default());
        }
        Ok(texts)
    }

    /// Layers of more and more edges, then one on finer and finer tables.
    fn growth(&self) -> Result<Vec<Growth>, Failure> {
        if !self.chosen.has(GROWTH) {
            return Ok(Vec::new());
        }
        let mut subjects = Vec::new();
        for tables in [Tables::Cubic, Tables::Linear] {
            let kind = Kind { tables, bits: 16 };
            let layers = [16, 32, 64].map(|inputs| (inputs, INTERVALS));
            let finer = [2, 16, 32].map(|intervals| (16, intervals));
            for (inputs, intervals) in layers.into_iter().chain(finer) {
                let predictor = benchmark::network(&[inputs, 8], intervals, 1.0);
                let compiled = compiled(&predictor, GROWTH, kind, &[])?;
                subjects.push((8 * inputs, kind, compiled));
            }
        }
        let blobs: Vec<(String, Vec<u8>)> = (subjects.iter())
            .map(|(edges, kind, compiled)| {
                (format!("{edges} edges, {kind}"), compiled.bytes.clone())
            })
            .collect();
        self.head(
            "Instructions against edges, and against intervals",
            &[
                "machine",
                "core",
                "tables",
                "edges",
                "intervals",
                "instructions",
            ],
        );
        let mut rows = Vec::new();
        for &build in &self.chosen.builds {
            let Build { machine, core, .. } = build;
            for ((edges, kind, compiled), measured) in
                subjects.iter().zip(self.measure(build, &blobs)?)
            {
                let Some(measured) = measured else {
                    continue;
                };
                let instructions = measured.eval_q.unwrap_or(measured.eval).instructions;
                let row = Growth {
                    machine: machine.name(),
                    core,
                    edges: *edges,
                    intervals: most_intervals(compiled),
                    tables: kind.tables,
                    bits: kind.bits,
                    instructions,
                };
                let (intervals, cost) = (row.intervals, in_cell(instructions));
                self.say(format_args!(
                    "| {machine} | {core} | {kind} | {edges} | {intervals} | {cost} |"
                ));
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// One kind of tables at opt-level `s`.
    fn flash(&self) -> Result<Vec<Flash>, Failure> {
        if !self.chosen.has(FLASH) {
            return Ok(Vec::new());
        }
        self.head(
            "Flash of kan-core with its loader and one kind of tables, profile firmware (opt-level s)",
            &["target", "tables", "bytes", "goal", "met"],
        );
        let mut rows: Vec<Flash> = Vec::new();
        for &build in &self.chosen.builds {
            let (target, cpu) = (build.target(), build.cpu);
            if (rows.iter()).any(|row| (row.target, row.cpu) == (target, cpu)) {
                continue;
            }
            let named = cpu.map_or(String::new(), |cpu| format!(", {cpu}"));
            for kind in Kind::ALL {
                let bytes = self.texts(build, SMALL, &[kind])?[0];
                let has_goal = target.starts_with("thumbv7em");
                let goal = has_goal.then(|| Goal::new("bytes", 4096.0, bytes as f64));
                let cells = Goal::cells(goal);
                self.say(format_args!(
                    "| {target}{named} | {kind} | {bytes} | {cells} |"
                ));
                rows.push(Flash {
                    target,
                    cpu,
                    tables: kind.tables,
                    bits: kind.bits,
                    bytes,
                    goal,
                });
            }
        }
        Ok(rows)
    }

    fn accuracy(&self, data: Option<&Path>, seed: u64) -> Result<Vec<Accuracy>, Failure> {
        if !self.chosen.has(ACCURACY) {
            return Ok(Vec::new());
        }
        self.head(
            "What integers add to the test error (wrong classes as a part of the rows)",
            &[
                "data set", "tables", "rows", "measure", "network", "device", "goal", "met", "blob",
            ],
        );
        let mut rows = Vec::new();
        for (name, targets, task, _) in SETS {
            let set = Set::open(name, targets, task)?;
            rows.extend(self.integers(name, &set.predictor, &set.train, &set.test)?);
        }
        for table in data.into_iter().flat_map(|_| &TABLES) {
            let is_inside = SETS.iter().any(|(name, ..)| *name == table.name);
            if is_inside || table.images.is_some() {
                continue;
            }
            let Some((train, test)) = table.read(data)? else {
                continue;
            };
            let settings = Settings {
                seed,
                ..Settings::default()
            };
            let mut show = |event: Event<'_>| {
                if let Event::Candidate { done, of } | Event::Step { step: done, of, .. } = event {
                    let what = format!("{}: training", table.name);
                    self.console.progress(&what, done, of);
                }
                ControlFlow::Continue(())
            };
            let trained = train::train(&train, Some(&test), &settings, None, &mut show)?;
            rows.extend(self.integers(table.name, &trained.predictor, &train, &test)?);
        }
        Ok(rows)
    }

    /// Cubic tables of 16 and 8 bits of one network.
    fn integers(
        &self,
        name: &str,
        predictor: &Predictor,
        train: &Dataset,
        test: &Dataset,
    ) -> Result<Vec<Accuracy>, Failure> {
        let mut rows = Vec::new();
        let network = error(&predictor.eval(&test.x), test);
        for bits in [16, 8] {
            let kind = Kind {
                tables: Tables::Cubic,
                bits,
            };
            let compiled = compiled(predictor, name, kind, &train.x)?;
            let device = error(&outputs(&compiled.bytes, test)?, test);
            let row = Accuracy {
                data: name.to_owned(),
                tables: kind.tables,
                bits,
                test_rows: test.rows,
                measure: measure(test),
                network,
                device,
                blob_bytes: compiled.bytes.len(),
                goal: limit(name, bits, network, train)
                    .map(|at_most| Goal::new("device", at_most, device)),
            };
            self.say(format_args!(
                "| {name} | {kind} | {} | {} | {} | {} | {} | {} |",
                row.test_rows,
                row.measure,
                figures(network),
                figures(device),
                Goal::cells(row.goal),
                row.blob_bytes
            ));
            rows.push(row);
        }
        Ok(rows)
    }

    fn peers(&self) -> Result<Vec<Contender>, Failure> {
        let sets = SETS.iter().filter(|set| self.chosen.has(set.0));
        let mut rows = Vec::new();
        let mut headed = false;
        for &(name, targets, task, _) in sets {
            let set = Set::open(name, targets, task)?;
            if !mem::replace(&mut headed, true) {
                self.head(
                    "KANs and the smallest int8 perceptrons that are as good, from floats to floats",
                    &[
                        "data set",
                        "machine",
                        "core",
                        "engine",
                        "model",
                        "measure",
                        "test error",
                        "instructions",
                        "flash",
                        "at opt-level s",
                        "RAM",
                        "as good",
                    ],
                );
            }
            for row in self.set(name, &set)? {
                self.say(row.markdown());
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// Both contenders of a data set on all machines.
    fn set(&self, name: &'static str, set: &Set) -> Result<Vec<Contender>, Failure> {
        let width = set.predictor.network.width();
        let perceptron = set.perceptron()?;
        let nodes = perceptron.file_stem().unwrap_or_default().to_string_lossy();
        let peer = Peer {
            perceptron: &perceptron,
            width: &width,
        };
        let kinds = [16, 8].map(|bits| Kind {
            tables: Tables::Cubic,
            bits,
        });
        let mut blobs = Vec::new();
        for kind in kinds {
            blobs.push(compiled(&set.predictor, name, kind, &set.train.x)?.bytes);
        }
        let slices: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
        let mut rows = Vec::new();
        for &build in &self.chosen.builds {
            let Build { machine, core, .. } = build;
            let firmware = self.firmware(build, Some(&peer))?;
            self.console
                .progress(&format!("{core}: {name}"), 0, set.test.rows);
            let results = benchmark::contest(&firmware, &set.test.x, set.test.rows, &slices)?;
            let (mut texts, mut sizes) = (Vec::new(), Vec::new());
            for profile in [SPEED, SMALL] {
                texts.push(self.texts(build, profile, &kinds)?);
                sizes.push(Scales::tared(build, profile)?.perceptron(&peer)?);
            }
            let mut of_kan = f64::INFINITY;
            for (k, result) in results.into_iter().enumerate() {
                let values: Vec<f64> = result.outputs.iter().map(|&y| f64::from(y)).collect();
                let error = error(&values, &set.test);
                let ram = u64::from(result.stack + result.struct_bytes);
                let (engine, model, flash, ram, as_good) = match kinds.get(k) {
                    Some(&kind) => {
                        if k == 0 {
                            of_kan = error;
                        }
                        let flash = [0, 1].map(|of| texts[of][k] + blobs[k].len() as u64);
                        let model = format!("{} {kind}", shape(&width));
                        ("kan-core", model, flash, ram, None)
                    }
                    None => {
                        let nodes: Vec<usize> =
                            nodes.split('-').filter_map(|n| n.parse().ok()).collect();
                        let model = format!("{} i8", shape(&nodes));
                        let as_good = match set.test.task() {
                            Task::Regression => error <= 1.05 * of_kan,
                            Task::Classification => error <= of_kan + 0.005,
                        };
                        let flash = [0, 1].map(|of| sizes[of].flash());
                        (
                            "microflow",
                            model,
                            flash,
                            ram + sizes[0].ram(),
                            Some(as_good),
                        )
                    }
                };
                rows.push(Contender {
                    machine: machine.name(),
                    core,
                    data: name,
                    engine,
                    model,
                    measure: measure(&set.test),
                    error,
                    instructions: result.instructions,
                    flash_bytes: flash[0],
                    small_flash_bytes: flash[1],
                    ram_bytes: ram,
                    as_good,
                });
            }
        }
        Ok(rows)
    }
}

impl Row {
    /// The goal for this row, if there is one.
    fn judge(&self) -> Option<Goal> {
        use Tables::{Cubic, Linear, Step};
        let per_edge = |m4f, m0| match self.core {
            "M4F" => m4f,
            "M0" => m0,
            _ => None,
        };
        let (of, limit) = match (self.model, self.tables, self.bits) {
            ("8-8", Cubic, 16) => ("per_edge", per_edge(Some(9.0), Some(25.0))),
            ("8-8", Linear, 16) => ("per_edge", per_edge(Some(6.0), Some(12.0))),
            ("8-8", Step, 16 | 8) => ("per_edge", per_edge(Some(4.0), Some(8.0))),
            ("8-8", Cubic, 32) => ("per_edge", per_edge(Some(13.0), None)),
            ("4-8-3", Cubic, 16) => ("instructions", per_edge(Some(700.0), Some(1600.0))),
            _ => return None,
        };
        let value = match of {
            "per_edge" => self.per_edge,
            _ => f64::from(self.instructions.max),
        };
        Some(Goal::new(of, limit?, value))
    }

    fn markdown(&self) -> String {
        let kind = Kind {
            tables: self.tables,
            bits: self.bits,
        };
        format!(
            "| {} | {} | {} | {kind} | {} | {} | {} | {:.2} | {} | {} | {} | {} | {} | {} |",
            self.machine,
            self.core,
            self.model,
            self.edges,
            self.intervals,
            in_cell(self.instructions),
            self.per_edge,
            Goal::cells(self.goal),
            self.blob_bytes,
            self.text_bytes,
            self.stack_bytes,
            figures(self.max_abs_error),
            if self.equal_to_host { "yes" } else { "no" },
        )
    }
}

impl Contender {
    fn markdown(&self) -> String {
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            self.data,
            self.machine,
            self.core,
            self.engine,
            self.model,
            self.measure,
            figures(self.error),
            in_cell(self.instructions),
            self.flash_bytes,
            self.small_flash_bytes,
            self.ram_bytes,
            match self.as_good {
                None => "",
                Some(true) => "yes",
                Some(false) => "no",
            },
        )
    }
}

/// A data set and the network that learnt it.
struct Set {
    /// Where the network and the perceptron are.
    folder: PathBuf,
    predictor: Predictor,
    train: Dataset,
    test: Dataset,
}

impl Set {
    fn open(name: &str, targets: &[&str], task: Task) -> Result<Self, Failure> {
        let rows = Path::new(WORKSPACE).join(DATA).join(name);
        let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
        let train = Dataset::read(&rows.join("train.csv"), &targets, Some(task))?;
        let test = Dataset::read_like(&rows.join("test.csv"), &train.schema())?;
        let folder = Path::new(WORKSPACE).join(PEERS).join(name);
        let predictor: Predictor = artifact::read_json(&folder.join(artifact::NETWORK))?;
        if predictor.schema != train.schema() {
            let folder = folder.display();
            return Err(Failure::new(format!(
                "{folder}: the network is of another table"
            )));
        }
        Ok(Self {
            folder,
            predictor,
            train,
            test,
        })
    }

    /// The only `.tflite` file, named after its node counts.
    fn perceptron(&self) -> Result<PathBuf, Failure> {
        let folder = self.folder.canonicalize()?;
        let files = fs::read_dir(&folder)?.flatten().map(|file| file.path());
        let is_model = |path: &PathBuf| path.extension().is_some_and(|end| end == "tflite");
        let found = files.into_iter().find(is_model);
        found.ok_or_else(|| Failure::new(format!("{}: no .tflite file", folder.display())))
    }
}

/// Points of −1 … 1 to measure an error at.
fn points(inputs: usize) -> Vec<f64> {
    let mut random = Pcg64Mcg::seed_from_u64(1);
    (0..1000 * inputs)
        .map(|_| random.random_range(-1.0..1.0))
        .collect()
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

/// The most intervals of any table.
fn most_intervals(compiled: &Compiled) -> usize {
    let intervals = compiled.intervals.iter().flatten();
    intervals.copied().max().unwrap_or(0)
}

/// What kan-core makes of the rows of `data`.
fn outputs(blob: &[u8], data: &Dataset) -> Result<Vec<f64>, Failure> {
    let outputs = Evaluator::load(blob)?.eval(&data.x);
    Ok(outputs.into_iter().map(f64::from).collect())
}

/// RMSE, or the part of the rows whose class is wrong.
fn error(outputs: &[f64], data: &Dataset) -> f64 {
    match Score::of(outputs, data) {
        Score::Regression { rmse, .. } => rmse,
        Score::Classification { accuracy, .. } => 1.0 - accuracy,
    }
}

fn measure(data: &Dataset) -> &'static str {
    match data.task() {
        Task::Regression => "rmse",
        Task::Classification => "wrong",
    }
}

/// The error that integers may have, if there is a goal for them.
fn limit(name: &str, bits: u8, network: f64, train: &Dataset) -> Option<f64> {
    let range = match &train.target {
        Target::Regression { y, .. } => {
            let ends = |(lo, hi): (f64, f64), y: &f64| (lo.min(*y), hi.max(*y));
            let (lo, hi) = y.iter().fold((f64::INFINITY, f64::NEG_INFINITY), ends);
            Some(hi - lo)
        }
        Target::Classification { .. } => None,
    };
    match (bits, range) {
        (16, _) if name == "thermocouple_k" => Some(0.02),
        (16, Some(range)) => (network > 3e-4 * range).then_some(1.01 * network),
        (16, None) => Some(1.01 * network),
        (_, Some(range)) => (network > 1e-2 * range).then_some(1.05 * network),
        (_, None) => Some(network + 0.005),
    }
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
