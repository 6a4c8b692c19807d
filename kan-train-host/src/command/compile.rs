//! `kan compile`: other tables from a run's network.

use std::path::PathBuf;

use clap::ValueEnum;
use kan_train_host::artifact::{self, MODEL};
use kan_train_host::compile::{self, CompileError, Compiled, Kind, Options, Tables};
use kan_train_host::estimate::{Core, Instructions};
use kan_train_host::evaluator::Evaluator;
use kan_train_host::predictor::Score;
use serde::Serialize;

use super::Failure;
use super::console::{Console, figures, in_words};
use super::metrics::Blob;
use super::run::{Run, Split, model_name};
use super::train::{bits, kind};

/// Compile a trained network to tables once more, of another kind or size
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan compile airfoil --tables linear --max-flash 4096 --out airfoil-small.kan

On the rows that RUN was trained with, the tables differ from the network by a twentieth of its own
error (root mean square), or by what their kind allows; --max-flash makes them as coarse as it takes
to fit. With a limit, --tables and --bits may be left out: of all kinds that fit the fastest is taken
that is near enough to the network, or else the nearest, and all are listed. kan-core is run on
them, on the rows that RUN was trained and tested with; where those are no longer there, on points all
over the ranges of the inputs, and no score is given.")]
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
    /// One inference (of integer tables, by eval_q) may take no more instructions, by estimate;
    /// CORE is m0, m3, m4f, m7 or m33 (built with its DSP extension, it is like an m4f) [default:
    /// m4f]
    #[arg(long, value_name = "N[@CORE]", value_parser = limit, allow_hyphen_values = true)]
    max_instructions: Option<(u64, Core)>,
    /// Where to write it [default: model.kan in RUN]
    #[arg(long, value_name = "FILE.kan")]
    out: Option<PathBuf>,
}

/// Reads `--max-instructions`.
fn limit(text: &str) -> Result<(u64, Core), String> {
    let (number, core) = text.split_once('@').unwrap_or((text, "m4f"));
    let number = number.parse().ok().filter(|&n| n > 0);
    let core = Core::from_str(core, true).ok();
    number.zip(core).ok_or_else(|| {
        "it is N or N@CORE: a number of instructions, and m0, m3, m4f, m7 or m33".into()
    })
}

/// Tables that were tried because of a limit.
#[derive(Serialize)]
struct Alternative {
    tables: Tables,
    bits: u8,
    /// What they would take, if they fit.
    bytes: Option<usize>,
    /// Of `eval`.
    instructions: Option<Instructions>,
    /// Of `eval_q`, for tables of integers: what the limit is for.
    instructions_q: Option<Instructions>,
    /// Measured by running kan-core on the bytes, on test rows if there are any.
    score: Option<Score>,
    /// For each output the root mean square of the distance from the network.
    rms_deviation: Option<Vec<f64>>,
    within_tolerance: Option<bool>,
    chosen: bool,
    /// Why they do not fit.
    reason: Option<String>,
}

impl Alternative {
    fn of(kind: Kind, result: &Result<Compiled, CompileError>, split: Option<&Split>) -> Self {
        let compiled = result.as_ref().ok();
        let score = compiled.zip(split).and_then(|(compiled, split)| {
            let data = split.test.as_ref().unwrap_or(&split.train);
            let evaluator = Evaluator::load(&compiled.bytes).ok()?;
            let outputs = evaluator.eval(&data.x).into_iter().map(f64::from);
            Some(Score::of(&outputs.collect::<Vec<f64>>(), data))
        });
        Self {
            tables: kind.tables,
            bits: kind.bits,
            bytes: compiled.map(|compiled| compiled.bytes.len()),
            instructions: compiled.map(|compiled| compiled.instructions),
            instructions_q: compiled.and_then(|compiled| compiled.instructions_q),
            score,
            rms_deviation: compiled.map(|compiled| compiled.rms_deviation.clone()),
            within_tolerance: compiled.map(|compiled| compiled.within_tolerance),
            chosen: false,
            reason: result.as_ref().err().map(ToString::to_string),
        }
    }

    fn say(&self, console: &Console) {
        let mark = if self.chosen { '*' } else { ' ' };
        let kind = format!("{} {}", self.tables, self.bits);
        let cost = self.instructions_q.or(self.instructions);
        let (Some(bytes), Some(cost)) = (self.bytes, cost) else {
            let reason = self.reason.as_deref().unwrap_or_default();
            return console.say(format_args!("{mark} {kind:10}  {reason}"));
        };
        let deviation = self
            .rms_deviation
            .iter()
            .flatten()
            .copied()
            .fold(0.0, f64::max);
        let score = self.score.as_ref().map_or(String::new(), in_words);
        console.say(format_args!(
            "{mark} {kind:10} {bytes:8} {:8} {:8} {:8} {:8}  {:>10}  {score}",
            cost.cortex_m4f,
            cost.cortex_m33,
            cost.cortex_m3,
            cost.cortex_m0,
            figures(deviation),
        ));
    }
}

/// Tries kinds, and takes the best that fits.
fn choose(
    run: &Run,
    kinds: &[Kind],
    options: &Options,
    split: Option<&Split>,
    console: &Console,
) -> Result<(Kind, Vec<Alternative>), Failure> {
    let predictor = &run.checkpoint.predictor;
    let name = model_name(&run.checkpoint.training);
    let rows = split.map_or(&[][..], |split| &split.train.x);
    let results: Vec<Result<Compiled, CompileError>> = kinds
        .iter()
        .map(|&kind| compile::compile(predictor, &name, &Options { kind, ..*options }, rows))
        .collect();
    let core = options.max_instructions.map_or(Core::M4f, |(_, core)| core);
    let mut alternatives: Vec<Alternative> = (kinds.iter().zip(&results))
        .map(|(&kind, result)| Alternative::of(kind, result, split))
        .collect();
    let Some(best) = compile::best(results.iter().flatten(), core) else {
        // The one that came nearest to its limit.
        let needs = |fault: &CompileError| match fault {
            CompileError::TooSlow { needed, .. } => (0, *needed),
            CompileError::TooLarge { least, .. } => (1, *least as u64),
            _ => (2, 0),
        };
        let faults = results.into_iter().filter_map(Result::err);
        let nearest = faults.min_by_key(needs);
        return Err(nearest.map_or_else(|| Failure::new("no kind of tables fits"), Failure::from));
    };
    console.say("Instructions of one inference: eval, or of integers eval_q");
    console.say("  tables        bytes      M4F      M33       M3       M0   RMS from network");
    for alternative in &mut alternatives {
        let kind = Kind {
            tables: alternative.tables,
            bits: alternative.bits,
        };
        alternative.chosen = kind == best.kind;
        alternative.say(console);
    }
    Ok((best.kind, alternatives))
}

/// What `compile` prints.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    blob: Blob,
    /// All kinds that were tried, if there was a choice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alternatives: Vec<Alternative>,
}

pub fn run(args: &Args, console: &Console) -> Result<(), Failure> {
    let mut run = Run::open(&args.run)?;
    let mut options = Options {
        kind: kind(args.tables, args.bits, run.checkpoint.training.kind())?,
        tolerance: None,
        max_bytes: args.max_flash,
        max_instructions: args.max_instructions,
    };
    let split = match (run.split(args.data.as_deref()), &args.data) {
        (Ok(split), _) => Some(split),
        (Err(failure), Some(_)) => return Err(failure),
        (Err(failure), None) => {
            console.say(format_args!("not measured: {}", failure.message));
            None
        }
    };
    let is_limited = args.max_flash.is_some() || args.max_instructions.is_some();
    let mut alternatives = Vec::new();
    if is_limited && !(args.tables.is_some() && args.bits.is_some()) {
        let is_meant = |kind: &Kind| {
            args.tables.is_none_or(|tables| tables == kind.tables)
                && args.bits.is_none_or(|bits| bits == kind.bits)
        };
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(is_meant).collect();
        (options.kind, alternatives) = choose(&run, &kinds, &options, split.as_ref(), console)?;
    }
    let kind = options.kind;
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
    console.object(&Report { blob, alternatives })
}
