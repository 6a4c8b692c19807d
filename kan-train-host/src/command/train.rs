//! `kan train`: from a CSV file to a run folder.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{ArgAction, CommandFactory, FromArgMatches, ValueEnum};
use kan_train_host::artifact::{self, MODEL};
use kan_train_host::compile::{self, Kind, Options as TableOptions, Tables};
use kan_train_host::dataset::{self, Dataset, Task};
use kan_train_host::predictor::{Predictor, Range};
use kan_train_host::train::{self, Event, Method, Progress, Settings, Trained};

use super::console::Console;
use super::metrics::{Blob, History, Metrics, Optimizer as Used};
use super::run::{Checkpoint, Held, Run, Source, Split, Training, absolute};
use super::{Failure, reason, shell_word};

/// The part of the rows that is held out as test rows when nothing is said.
const TEST_FRACTION: f64 = 0.2;
/// The best candidates that are reported.
const REPORTED: usize = 5;

/// Train a network on a CSV file, or on a pair of IDX files, and compile it
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan train airfoil.csv --target sound --out airfoil
         kan train iris.csv --target species --test-fraction 0.3 --width 4,3 --grid 3,6 --out iris
         kan train train-images.gz,train-labels.gz --test t10k-images.gz,t10k-labels.gz --out mnist

Every column but the targets is an input. What no option fixes (shape, grids, penalty) is chosen on
held-out training rows. RUN gets network.json (the network, after every grid: Ctrl-C leaves the last
one), model.kan (the tables for the device) and metrics.json (what --json prints).

FILE.toml gives options by their long names, and the penalty of bending and the blend of even
(1) and quantile (0) knots, such as:  width = [4, 5, 1]    domain = \"0:1\"    seed = 3
                                      roughness = 1e-6    grid_eps = 0.5")]
pub struct Args {
    /// The data: a CSV file whose first line names the columns, or two IDX files
    #[arg(value_name = "DATA.csv|IMAGES,LABELS")]
    data: PathBuf,
    #[command(flatten)]
    options: Options,
    /// Read options that the command line does not give from a TOML file
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
}

/// What the command line and a configuration file can both say.
#[derive(clap::Args, Default)]
struct Options {
    /// The column to predict (of IDX files `label`); several, separated by commas, are a regression
    /// with several outputs
    #[arg(long, value_name = "COL[,COL…]")]
    target: Option<Vec<String>>,
    /// Test rows, in a file of their own, or in a pair of IDX files
    #[arg(long, value_name = "FILE", conflicts_with = "test_fraction")]
    test: Option<PathBuf>,
    /// The part of the rows to test with, drawn at random; 0 trains on all [default: 0.2]
    #[arg(long, value_name = "PART", allow_negative_numbers = true)]
    test_fraction: Option<f64>,
    /// What to learn [default: classes if the target holds words or at most 20 whole numbers]
    #[arg(long)]
    task: Option<Task>,
    /// Nodes from the inputs to the outputs, such as 4,5,1 [default: chosen on held-out rows]
    #[arg(long, value_delimiter = ',', value_name = "N,…,N")]
    width: Option<Vec<usize>>,
    /// Grid intervals, one stage of training each [default: 3,6,12,… while held-out rows gain]
    #[arg(long, value_delimiter = ',', value_name = "G,…")]
    grid: Option<Vec<usize>>,
    /// Degree of the splines, 1 to 5 [default: 3]
    #[arg(long, value_name = "K")]
    degree: Option<usize>,
    /// Range of all inputs, or of single ones by name [default: the range of the training rows]
    #[arg(long, value_name = "LO:HI | COL=LO:HI,…", allow_hyphen_values = true)]
    domain: Option<String>,
    /// How to train: lm is Levenberg-Marquardt, auto takes it unless only adamw can afford the
    /// rows, and adamw for hidden layers of a classification
    #[arg(long)]
    optimizer: Option<Optimizer>,
    /// Most steps on each grid; of adamw, epochs [default: lm 100, lbfgs 500, adamw 10 or, for a
    /// classification, chosen on held-out rows]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Strength of the sparsity penalty on the first grid (λ of the KAN paper) [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lamb: Option<f64>,
    /// Keep all edges
    #[arg(long)]
    no_prune: bool,
    /// Kind of tables for the device [default: cubic]
    #[arg(long)]
    tables: Option<Tables>,
    /// Bits of a table entry: 32 (f32), 16 or 8 (integers) [default: 32]
    #[arg(long, value_parser = bits)]
    bits: Option<u8>,
    /// The folder to write
    #[arg(long, value_name = "RUN")]
    out: Option<PathBuf>,
}

/// Optimisers that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Optimizer {
    /// Second order where that is affordable; adamw elsewhere and for hidden layers of
    /// classifications
    Auto,
    /// Levenberg-Marquardt, factorised or by conjugate gradients
    Lm,
    /// Limited-memory BFGS on all rows
    Lbfgs,
    /// AdamW on mini-batches of 64 rows, in single precision
    #[value(name = "adamw")]
    AdamW,
}

impl Optimizer {
    fn method(self) -> Option<Method> {
        match self {
            Self::Auto => None,
            Self::Lm => Some(Method::Lm),
            Self::Lbfgs => Some(Method::Lbfgs),
            Self::AdamW => Some(Method::AdamW),
        }
    }
}

/// What a configuration file can say.
#[derive(clap::Parser, Default)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Config {
    #[command(flatten)]
    options: Options,
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long)]
    roughness: Option<f64>,
    #[arg(long = "grid_eps")]
    grid_eps: Option<f64>,
}

/// Reads `--bits`.
pub fn bits(text: &str) -> Result<u8, String> {
    match text {
        "32" => Ok(32),
        "16" => Ok(16),
        "8" => Ok(8),
        _ => Err("it is 32, 16 or 8".into()),
    }
}

/// The kind that `--tables` and `--bits` name, where they are silent that of `known`.
pub fn kind(tables: Option<Tables>, bits: Option<u8>, known: Kind) -> Result<Kind, Failure> {
    let kind = Kind {
        tables: tables.unwrap_or(known.tables),
        bits: bits.unwrap_or(known.bits),
    };
    if kind.exists() {
        return Ok(kind);
    }
    // What is there already gives way to what is asked for.
    match (tables, bits) {
        (Some(tables), None) => Ok(Kind::float(tables)),
        (None, Some(bits)) => Ok(Kind {
            tables: Tables::Cubic,
            bits,
        }),
        _ => Err(Failure::usage(format!(
            "--bits {}: {} tables have 32 bits only",
            kind.bits, kind.tables
        ))),
    }
}

impl Options {
    /// These, and where they are silent the others; with the names of those taken from there.
    fn or(self, mut other: Self) -> (Self, Vec<&'static str>) {
        fn either<T>(
            name: &'static str,
            given: Option<T>,
            other: Option<T>,
            taken: &mut Vec<&'static str>,
        ) -> Option<T> {
            if given.is_none() && other.is_some() {
                taken.push(name);
            }
            given.or(other)
        }
        if self.test.is_some() || self.test_fraction.is_some() {
            (other.test, other.test_fraction) = (None, None);
        }
        let mut taken = Vec::new();
        let from = &mut taken;
        let options = Self {
            target: either("--target", self.target, other.target, from),
            test: either("--test", self.test, other.test, from),
            test_fraction: either(
                "--test-fraction",
                self.test_fraction,
                other.test_fraction,
                from,
            ),
            task: either("--task", self.task, other.task, from),
            width: either("--width", self.width, other.width, from),
            grid: either("--grid", self.grid, other.grid, from),
            degree: either("--degree", self.degree, other.degree, from),
            domain: either("--domain", self.domain, other.domain, from),
            optimizer: either("--optimizer", self.optimizer, other.optimizer, from),
            steps: either("--steps", self.steps, other.steps, from),
            lamb: either("--lamb", self.lamb, other.lamb, from),
            no_prune: self.no_prune || other.no_prune,
            tables: either("--tables", self.tables, other.tables, from),
            bits: either("--bits", self.bits, other.bits, from),
            out: either("--out", self.out, other.out, from),
        };
        (options, taken)
    }
}

impl Config {
    /// Reads a file: every key is the long name of an option, and is read as that option is.
    fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let text = fs::read_to_string(path)
            .map_err(|error| Failure::new(format!("{shown}: cannot read: {error}")))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Failure::new(format!(
                "{shown}, row {line}: not TOML: {}",
                error.message().replace('\n', " ")
            ))
        })?;
        let mut arguments = Vec::new();
        for (key, value) in &table {
            let command = Self::command();
            let mut known = command.get_arguments();
            let Some(option) = known.find(|option| option.get_long() == Some(key)) else {
                return Err(Failure::new(format!("{shown}: no option `{key}`")));
            };
            let typed = match as_typed(value) {
                Some(Typed::Flag(false)) => continue,
                Some(Typed::Flag(true)) => vec![format!("--{key}")],
                Some(Typed::Values(mut list)) => {
                    if !matches!(option.get_action(), ArgAction::Append) {
                        list = vec![list.join(",")];
                    }
                    list.iter().map(|text| format!("--{key}={text}")).collect()
                }
                None => {
                    return Err(Failure::new(format!("{shown}: `{key}` cannot be {value}")));
                }
            };
            // Key by key, to name it.
            if let Err(error) = Self::command().try_get_matches_from(&typed) {
                return Err(Failure::new(format!(
                    "{shown}: `{key}`: {}",
                    reason(&error)
                )));
            }
            arguments.extend(typed);
        }
        let matches = Self::command().try_get_matches_from(&arguments);
        matches
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(|error| Failure::new(format!("{shown}: {}", reason(&error))))
    }
}

/// A value of a configuration file as it is typed on the command line.
enum Typed {
    Flag(bool),
    Values(Vec<String>),
}

fn as_typed(value: &toml::Value) -> Option<Typed> {
    let single = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        _ => None,
    };
    match value {
        toml::Value::Boolean(flag) => Some(Typed::Flag(*flag)),
        toml::Value::Array(list) if list.is_empty() => None,
        toml::Value::Array(list) => {
            let list: Option<Vec<String>> = list.iter().map(single).collect();
            list.map(Typed::Values)
        }
        value => single(value).map(|text| Typed::Values(vec![text])),
    }
}

/// `failure`, with the file to blame if it is about one of the options `taken` from there.
fn blame(failure: Failure, file: &Path, taken: &[&str]) -> Failure {
    let about = taken.iter().find_map(|option| {
        let rest = failure.message.strip_prefix(option)?;
        let key = option.trim_start_matches('-');
        rest.starts_with([' ', ':']).then_some((key, rest))
    });
    match about {
        Some((key, rest)) => Failure::new(format!("{}: `{key}`{rest}", file.display())),
        None => failure,
    }
}

pub fn run(args: Args, seed: Option<u64>, console: &Console) -> Result<(), Failure> {
    let Some(file) = &args.config else {
        let config = Config::default();
        return train_with(&args.data, args.options, &config, seed, console);
    };
    let mut config = Config::read(file)?;
    let (options, mut taken) = args.options.or(std::mem::take(&mut config.options));
    // Only the file can give these.
    taken.extend(["roughness", "grid_eps"]);
    train_with(&args.data, options, &config, seed, console)
        .map_err(|failure| blame(failure, file, &taken))
}

/// `config` gives what no option does.
fn train_with(
    data: &Path,
    options: Options,
    config: &Config,
    seed: Option<u64>,
    console: &Console,
) -> Result<(), Failure> {
    let target = match options.target {
        Some(target) => target,
        None if dataset::names_its_target(data) => Vec::new(),
        None => {
            return Err(Failure::usage(
                "--target COL is missing: the column to predict (see `kan train --help`)",
            ));
        }
    };
    let out = options.out.ok_or_else(|| {
        Failure::usage("--out RUN is missing: the folder to write (see `kan train --help`)")
    })?;
    let test = match (options.test, options.test_fraction.unwrap_or(TEST_FRACTION)) {
        (Some(path), _) => Held::File(path),
        (None, fraction) if (0.0..=0.9).contains(&fraction) => Held::Fraction(fraction),
        (None, fraction) => {
            return Err(Failure::usage(format!(
                "--test-fraction {fraction}: it is 0 to 0.9"
            )));
        }
    };
    if options.steps == Some(0) {
        return Err(Failure::usage("--steps 0: there must be at least one"));
    }
    let seed = seed.or(config.seed).unwrap_or(0);

    let kind = kind(options.tables, options.bits, Kind::float(Tables::Cubic))?;

    let split = Split::read(data, &test, seed, &target, options.task)?;
    let settings = Settings {
        width: options.width,
        grid: options.grid,
        degree: options.degree,
        domain: domains(options.domain.as_deref(), &split.train)?,
        optimizer: options.optimizer.and_then(Optimizer::method),
        steps: options.steps,
        lamb: options.lamb,
        roughness: config.roughness,
        grid_eps: config.grid_eps,
        no_prune: options.no_prune,
        seed,
    };
    train::check(&split.train, &settings)?;
    compile::check(&split.train)?;
    let training = Training {
        data: Source::File(absolute(data)?),
        test: match test {
            Held::File(path) => Held::File(absolute(&path)?),
            fraction => fraction,
        },
        tables: kind.tables,
        bits: kind.bits,
        ..before(&settings, &split)
    };
    let metrics = run_in(Some(&out), training, &settings, &split, console)?.1;
    console.say("next:");
    let (shown, data) = (
        shell_word(&out.to_string_lossy()),
        shell_word(&data.to_string_lossy()),
    );
    let target = shell_word(&metrics.targets.join(","));
    let kan = program();
    console.say(format_args!(
        "  {kan} eval {shown} --data {data} --target {target} --on qemu   # on an emulated Cortex-M4F"
    ));
    console.say(format_args!(
        "  {kan} inspect {shown}/{MODEL}   # the type to paste into firmware"
    ));
    console.object(&metrics)
}

/// What is known of a training before it has begun; its data and tables are still to be filled in.
pub fn before(settings: &Settings, split: &Split) -> Training {
    Training {
        data: Source::Thermocouple,
        test: Held::Fraction(0.0),
        fingerprint: split.fingerprint,
        other_rows: false,
        settings: settings.clone(),
        roughness: settings.roughness.unwrap_or(0.0),
        slope: if split.train.task() == Task::Classification {
            1e-5
        } else {
            0.0
        },
        descent: None,
        members: Vec::new(),
        tables: Tables::Cubic,
        bits: 32,
    }
}

/// Trains, compiles and verifies; with a folder, writes everything into it, a checkpoint at every
/// stage. Returns the blob and the figures.
pub fn run_in(
    out: Option<&Path>,
    training: Training,
    settings: &Settings,
    split: &Split,
    console: &Console,
) -> Result<(Vec<u8>, Metrics), Failure> {
    let clock = Instant::now();
    let created = out.map(Created::folder).transpose()?;
    say_data(split, &training, console);
    let checkpoint = |predictor: &Predictor, progress: Option<&Progress>| Run {
        path: out.map(Path::to_path_buf).unwrap_or_default(),
        checkpoint: Checkpoint {
            predictor: predictor.clone(),
            training: training.clone(),
            progress: progress.cloned(),
        },
    };
    let schema = split.train.schema();
    let progress = out.and_then(|out| Run::progress(out, &training, &schema));
    if let Some(Progress { recipe, stages, .. }) = &progress {
        let (done, of) = (stages.len(), recipe.grids.len());
        console.say(format_args!(
            "going on with the interrupted training of this folder: {done} of {of} grids are done"
        ));
        for stage in stages {
            console.stage(split.train.task(), stage);
        }
    }
    let task = split.train.task();
    let mut fault = None;
    let (data, test) = (&split.train, split.test.as_ref());
    let trained = train::train(data, test, settings, progress, &mut |event| {
        console.watch(task, &event);
        if let (Event::Checkpoint(progress, predictor), Some(_)) = (event, out) {
            fault = checkpoint(predictor, Some(progress)).save_network().err();
        }
        // A network that cannot be kept is not worth the time.
        match fault {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    });
    console.done();
    if let Some(fault) = fault {
        return Err(fault);
    }
    let Trained {
        predictor,
        stages,
        mut tried,
        penalty,
        members,
        width_before,
        edges_before,
        descent,
        factorised,
        why,
    } = trained?;
    let mut run = checkpoint(&predictor, None);
    run.checkpoint.training.roughness = penalty.roughness;
    run.checkpoint.training.slope = penalty.slope;
    run.checkpoint.training.descent = Some(descent);
    let count = members.len();
    run.checkpoint.training.set_members(members);
    let options = TableOptions {
        kind: training.kind(),
        tolerance: None,
        max_bytes: None,
        max_instructions: None,
    };
    let path = out.map(|out| out.join(MODEL));
    let (compiled, blob) = Blob::make(&run.checkpoint, Some(split), &options, path)?;
    let candidates = tried.len();
    tried.truncate(REPORTED);
    let history = History {
        width_before,
        edges_before,
        members: count,
        stages,
        candidates,
        tried,
        lamb: settings.lamb.unwrap_or(0.0),
        optimizer: Used::of(descent.method, factorised),
        optimizer_reason: why,
        seconds: clock.elapsed().as_secs_f64(),
    };
    let metrics = Metrics::of(&run.checkpoint, split, blob, history);
    metrics.say(console);
    if let Some(created) = created {
        run.save(&compiled, &metrics)?;
        created.keep();
    }
    Ok((compiled.bytes, metrics))
}

/// A folder that goes again, if it was not there before and is still empty, unless it is kept.
struct Created<'a> {
    path: &'a Path,
    new: bool,
}

impl<'a> Created<'a> {
    fn folder(path: &'a Path) -> Result<Self, Failure> {
        let new = !path.exists();
        artifact::create_run_folder(path)?;
        Ok(Self { path, new })
    }

    fn keep(mut self) {
        self.new = false;
    }
}

impl Drop for Created<'_> {
    fn drop(&mut self) {
        if self.new {
            // A folder with a checkpoint in it stays: only an empty one can be removed so.
            let _ = fs::remove_dir(self.path);
        }
    }
}

/// The first line of a report: what is learnt from how many rows.
fn say_data(split: &Split, training: &Training, console: &Console) {
    let data = &split.train;
    let schema = data.schema();
    let targets = schema.target.names().join(", ");
    let what = match data.task() {
        Task::Regression => format!("regression of {targets}"),
        Task::Classification => {
            format!("classification by {targets}, {} classes", data.outputs())
        }
    };
    let test = match (&split.test, &training.test) {
        (None, _) => "no test rows".into(),
        (Some(test), Held::Fraction(_)) if matches!(training.data, Source::File(_)) => {
            format!(
                "{} test rows, drawn at random (seed {})",
                test.rows, training.settings.seed
            )
        }
        (Some(test), _) => format!("{} test rows from {}", test.rows, test.source),
    };
    let (source, inputs, rows) = (&data.source, data.inputs(), data.rows);
    console.say(format_args!(
        "{source}: {what} from {inputs} inputs; {rows} training rows, {test}"
    ));
}

/// Reads `--domain`, columns by number; what comes later overrides.
fn domains(text: Option<&str>, data: &Dataset) -> Result<Vec<(usize, Range)>, Failure> {
    let mut domains = vec![None; data.inputs()];
    for part in text.into_iter().flat_map(|text| text.split(',')) {
        let wrong = |reason: &str| Failure::new(format!("--domain {part}: {reason}"));
        let (column, range) = match part.rsplit_once('=') {
            Some((column, range)) => (Some(column.trim()), range),
            None => (None, part),
        };
        let range = range
            .split_once(':')
            .and_then(|(lo, hi)| Some((lo.trim().parse().ok()?, hi.trim().parse().ok()?)))
            .ok_or_else(|| wrong("it is LO:HI or COL=LO:HI, with numbers"))?;
        let (lo, hi): (f64, f64) = range;
        let single = |value: f64| value.abs() <= f64::from(f32::MAX);
        if !(single(lo) && single(hi) && lo < hi) {
            return Err(wrong("LO must be less than HI, both 32-bit numbers"));
        }
        match column {
            None => domains.fill(Some(Range { lo, hi })),
            Some(column) => {
                let at = data.input_names.iter().position(|name| name == column);
                let at = at.ok_or_else(|| wrong("there is no such input column"))?;
                domains[at] = Some(Range { lo, hi });
            }
        }
    }
    let stated = domains.into_iter().enumerate();
    Ok(stated
        .filter_map(|(column, range)| Some((column, range?)))
        .collect())
}

/// How the user started this program.
pub fn program() -> &'static str {
    // Set by `cargo run`.
    if std::env::var_os("CARGO_PKG_NAME").is_some() {
        "cargo kan"
    } else {
        "kan"
    }
}
