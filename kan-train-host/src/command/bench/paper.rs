//! `kan bench paper`: how good training is on this machine, beside the goals.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use cpu_time::ProcessTime;
use indicatif::ProgressBar;
use kan_train_host::dataset::{Dataset, Task};
use kan_train_host::predictor::Score;
use kan_train_host::problem::table::{self, TABLES, Table};
use kan_train_host::problem::{self, Bound, Group, Measure, Problem};
use kan_train_host::train::{self, Event, Settings, Stage};
use serde::Serialize;

use crate::command::Failure;
use crate::command::console::{Console, advance, figures, shape};

/// Of the equations of the paper's Feynman table, so many should be learnt as well as there.
const FEYNMAN_GOAL: usize = 24;
/// On so many data sets training should beat every rival.
const TABLES_GOAL: usize = 6;

/// Measure error and time on the problems of the KAN paper and on data sets, beside the goals
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan bench paper
         kan bench paper --only exp-sin,j0 --seeds 1
         kan bench paper --data DIR --only table --json

Prints a Markdown table: for each problem the goal, the median and the best over the seeds, and the
median seconds of a training, with its processor time on all threads. A seed draws the samples, 1000
to train and 1000 to test with where nothing else is said, and is the seed of training. DIR has a
folder for each data set, in it train.csv and test.csv; training gets all rows of train.csv and no
options. The folder mnist has the four IDX files, learnt by a fixed recipe; its seconds are those of
an epoch on one thread.")]
pub struct Args {
    /// The folder of the data sets
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How many seeds to take, counted from --seed
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Only the rows with these names; or with this in their names or groups, which are toy,
    /// feynman, special and table
    #[arg(long, value_name = "PATTERN,…", value_delimiter = ',')]
    only: Vec<String>,
}

/// What `bench paper --json` prints.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    threads: usize,
    first_seed: u64,
    seeds: u64,
    rows: Vec<Outcome>,
    not_measured: Vec<Missing>,
    counts: Vec<Count>,
    seconds: f64,
}

/// A row of the table.
#[derive(Serialize)]
struct Outcome {
    name: &'static str,
    group: Group,
    /// The function, or what is predicted.
    formula: String,
    /// The ranges of the inputs of a function.
    ranges: String,
    /// Node counts that training was given, if any.
    width: Option<&'static [usize]>,
    grids: Option<&'static [usize]>,
    degree: usize,
    /// Training rows.
    rows: usize,
    goal: Bound,
    /// Over the seeds; a training that failed counts as infinitely bad (null).
    median: f64,
    best: f64,
    /// Whether the median reaches the goal, and all that is asked for besides but the time.
    met: bool,
    seconds_goal: Option<f64>,
    /// Median over the seeds.
    seconds: f64,
    /// Median over the seeds of the processor time of all threads: what a busy machine does not
    /// change.
    cpu_seconds: f64,
    seconds_met: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<Epoch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pruned: Option<Pruned>,
    #[serde(skip_serializing_if = "Option::is_none")]
    best_rival: Option<Rival>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_loss: Option<LogLoss>,
    trials: Vec<Trial>,
}

/// Median seconds of an epoch, where these are the seconds of the row.
#[derive(Serialize)]
struct Epoch {
    one_thread: f64,
    all_threads: f64,
}

/// The node counts that pruning should leave, and how many seeds came to them.
#[derive(Serialize)]
struct Pruned {
    width: &'static [usize],
    seeds: usize,
}

/// The best of other methods on a data set, and the median beside it.
#[derive(Serialize)]
struct Rival {
    goal: Bound,
    median: f64,
    met: bool,
}

/// The median log-loss of a classification, and that of a logistic model.
#[derive(Serialize)]
struct LogLoss {
    median: f64,
    linear: f64,
    met: bool,
}

/// What one seed gave.
#[derive(Serialize)]
struct Trial {
    seed: u64,
    /// On the test rows; absent if training failed.
    #[serde(flatten)]
    score: Option<Score>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slope: Option<f64>,
    /// Why training failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    seconds: f64,
    cpu_seconds: f64,
    /// Median seconds between the steps, or epochs, of the final training.
    #[serde(skip)]
    epoch_seconds: f64,
    /// Node counts at the end.
    width: Vec<usize>,
    grid: usize,
    parameters: usize,
}

/// A row that could not be measured.
#[derive(Serialize)]
struct Missing {
    name: &'static str,
    reason: String,
}

/// How many rows of a group are met.
#[derive(Serialize)]
struct Count {
    what: &'static str,
    met: usize,
    of: usize,
    goal: usize,
}

pub fn run(paper: &Args, seed: u64, console: &Console) -> Result<(), Failure> {
    let clock = Instant::now();
    let chosen = choose(&paper.only)?;
    if let Some(data) = paper.data.as_ref().filter(|data| !data.is_dir()) {
        let shown = data.display();
        return Err(Failure::new(format!("--data {shown}: no such folder")));
    }
    for row in &chosen {
        // A fault in a file should not come to light after an hour.
        if let Row::Table(table) = row {
            table.read(paper.data.as_deref())?;
        }
    }
    let seeds: Vec<u64> = (0..paper.seeds).map(|k| seed.wrapping_add(k)).collect();

    console.say(
        "| problem | shape | goal | median | best | met | seconds, goal | median | CPU | met | notes |",
    );
    console.say("|---|---|---|---|---|---|---|---|---|---|---|");
    let (mut rows, mut not_measured) = (Vec::new(), Vec::new());
    for row in chosen {
        match row.measure(paper.data.as_deref(), &seeds, console)? {
            Ok(outcome) => {
                console.say(outcome.markdown());
                rows.push(outcome);
            }
            Err(missing) => {
                let Missing { name, reason } = &missing;
                console.say(format_args!(
                    "| {name} |{} not measured: {reason} |",
                    " |".repeat(9)
                ));
                not_measured.push(missing);
            }
        }
    }
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        threads: rayon::current_num_threads(),
        first_seed: seed,
        seeds: paper.seeds,
        counts: counts(&rows),
        rows,
        not_measured,
        seconds: clock.elapsed().as_secs_f64(),
    };
    console.done();
    console.say("");
    for Count {
        what,
        met,
        of,
        goal,
    } in &report.counts
    {
        console.say(format_args!("- {what}: {met} of {of}; the goal is {goal}"));
    }
    let Report {
        version,
        threads,
        seconds,
        ..
    } = &report;
    let last = seeds[seeds.len() - 1];
    console.say(format_args!(
        "- kan {version}, {threads} threads, seeds {seed} to {last}, {seconds:.0} s in all"
    ));
    console.object(&report)
}

/// What can be measured.
#[derive(Clone, Copy)]
enum Row {
    Function(&'static Problem),
    Table(&'static Table),
}

/// The rows that `--only` names: by the whole name, else by a part of name or group.
fn choose(only: &[String]) -> Result<Vec<Row>, Failure> {
    let functions = problem::all().map(Row::Function);
    let mut rows: Vec<(Row, bool)> = functions
        .chain(TABLES.iter().map(Row::Table))
        .map(|row| (row, only.is_empty()))
        .collect();
    for pattern in only {
        let pattern = pattern.trim().to_lowercase();
        let whole = |row: &Row| row.name().to_lowercase() == pattern;
        let part = |row: &Row| {
            let name = format!("{} {}", row.group().name(), row.name().to_lowercase());
            !pattern.is_empty() && name.contains(&pattern)
        };
        let by_name = rows.iter().any(|(row, _)| whole(row));
        let mut found = false;
        for (row, chosen) in &mut rows {
            if if by_name { whole(row) } else { part(row) } {
                (*chosen, found) = (true, true);
            }
        }
        if !found {
            let names: Vec<&str> = rows.iter().map(|(row, _)| row.name()).collect();
            let names = names.join(", ");
            return Err(Failure::usage(format!(
                "--only: no row has `{pattern}` in its name; there are {names}"
            )));
        }
    }
    let rows = rows.into_iter().filter(|(_, chosen)| *chosen);
    Ok(rows.map(|(row, _)| row).collect())
}

impl Row {
    fn name(&self) -> &'static str {
        match self {
            Self::Function(problem) => problem.name,
            Self::Table(table) => table.name,
        }
    }

    fn group(&self) -> Group {
        match self {
            Self::Function(problem) => problem.group,
            Self::Table(_) => Group::Table,
        }
    }

    /// Trains with each seed; or tells what is missing.
    fn measure(
        self,
        data: Option<&Path>,
        seeds: &[u64],
        console: &Console,
    ) -> Result<Result<Outcome, Missing>, Failure> {
        Ok(match self {
            Self::Function(problem) => Ok(function(problem, seeds, console)),
            Self::Table(table) => match table.read(data)? {
                Some((train, test)) => Ok(data_set(table, &train, &test, seeds, console)?),
                None => Err(Missing {
                    name: table.name,
                    reason: match data {
                        Some(data) => format!("no folder {}", data.join(table.name).display()),
                        None => format!("--data DIR with the folder {}", table.name),
                    },
                }),
            },
        })
    }
}

fn function(problem: &'static Problem, seeds: &[u64], console: &Console) -> Outcome {
    let trials: Vec<Trial> = seeds
        .iter()
        .map(|&seed| {
            let (train, test) = problem.data(seed);
            Trial::of(
                problem.name,
                &train,
                &test,
                &problem.settings(seed),
                console.bar(),
            )
        })
        .collect();
    let pruned = problem.pruned.map(|width| Pruned {
        width,
        seeds: trials.iter().filter(|trial| trial.width == width).count(),
    });
    let median = median(&trials, problem.goal.measure);
    let seconds = middle(trials.iter().map(|trial| trial.seconds).collect());
    let cpu_seconds = middle(trials.iter().map(|trial| trial.cpu_seconds).collect());
    // More than half, as for the median.
    let is_pruned = |pruned: &Pruned| 2 * pruned.seeds > seeds.len();
    Outcome {
        name: problem.name,
        group: problem.group,
        formula: problem.formula.to_string(),
        ranges: problem.ranges(),
        width: problem.width,
        grids: problem.grids,
        degree: problem.degree,
        rows: problem.rows,
        goal: problem.goal,
        median,
        best: best(&trials, problem.goal),
        met: problem.goal.is_met(median) && pruned.as_ref().is_none_or(is_pruned),
        seconds_goal: problem.seconds,
        seconds,
        cpu_seconds,
        seconds_met: problem.seconds.is_none_or(|goal| seconds <= goal),
        epoch: None,
        pruned,
        best_rival: None,
        log_loss: None,
        trials,
    }
}

fn data_set(
    table: &'static Table,
    train: &Dataset,
    test: &Dataset,
    seeds: &[u64],
    console: &Console,
) -> Result<Outcome, Failure> {
    let name = table.name;
    let bar = console.bar();
    let trial = |seed: &u64| Trial::of(name, train, test, &table.settings(*seed), bar);
    let trials: Vec<Trial> = match table.images {
        None => seeds.iter().map(trial).collect(),
        Some(_) => {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
            let one_thread = |seed| pool.install(|| trial(seed));
            seeds.iter().map(one_thread).collect()
        }
    };
    // The network is the same whatever the number of threads: once is enough for the time.
    let all_threads = table.images.map(|_| trial(&seeds[0]).epoch_seconds);
    let time = |trial: &Trial| match table.images {
        None => trial.seconds,
        Some(_) => trial.epoch_seconds,
    };
    let seconds = middle(trials.iter().map(time).collect());
    let seconds_goal = table.images.map_or(table::SECONDS, |images| images.seconds);
    let log_loss = (table.task == Task::Classification && table.images.is_none()).then(|| {
        let losses = trials.iter().map(|trial| match trial.score {
            Some(Score::Classification { log_loss, .. }) => log_loss,
            _ => f64::INFINITY,
        });
        let median = middle(losses.collect());
        let linear = table::linear_log_loss(train, test);
        let met = median < linear;
        LogLoss {
            median,
            linear,
            met,
        }
    });
    let best_rival = table.best.map(|goal| {
        let median = median(&trials, goal.measure);
        let met = goal.is_met(median);
        Rival { goal, median, met }
    });
    let median = median(&trials, table.goal.measure);
    Ok(Outcome {
        name,
        group: Group::Table,
        formula: table.targets[0].to_string(),
        ranges: String::new(),
        width: table.images.map(|images| images.width),
        grids: None,
        degree: 3,
        rows: train.rows,
        goal: table.goal,
        median,
        best: best(&trials, table.goal),
        met: table.goal.is_met(median) && log_loss.as_ref().is_none_or(|loss| loss.met),
        seconds_goal: Some(seconds_goal),
        seconds,
        cpu_seconds: middle(trials.iter().map(|trial| trial.cpu_seconds).collect()),
        seconds_met: seconds <= seconds_goal,
        epoch: all_threads.map(|all_threads| Epoch {
            one_thread: seconds,
            all_threads,
        }),
        pruned: None,
        best_rival,
        log_loss,
        trials,
    })
}

impl Trial {
    fn of(
        name: &str,
        train: &Dataset,
        test: &Dataset,
        settings: &Settings,
        bar: &ProgressBar,
    ) -> Self {
        let seed = settings.seed;
        let (clock, cpu_clock) = (Instant::now(), ProcessTime::now());
        let mut steps: Vec<Instant> = Vec::new();
        let mut show = |event: Event<'_>| {
            let what = format!("{name}, seed {seed}");
            match event {
                Event::Candidate { done, of } => {
                    advance(bar, &format!("{what}: choosing shape and grid"), done, of);
                }
                Event::Step { grid, step, of, .. } => {
                    steps.push(Instant::now());
                    advance(bar, &format!("{what}: grid {grid}"), step, of);
                }
                Event::Stage(_) | Event::Checkpoint(..) => {}
            }
            ControlFlow::Continue(())
        };
        let trained = train::train(train, Some(test), settings, None, &mut show);
        let seconds = clock.elapsed().as_secs_f64();
        let cpu_seconds = cpu_clock.elapsed().as_secs_f64();
        let between = steps
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_secs_f64());
        let epoch_seconds = middle(between.collect());
        match trained {
            Ok(trained) => {
                let network = &trained.predictor.network;
                Self {
                    seed,
                    score: Some(Score::of(&trained.predictor.eval(&test.x), test)),
                    slope: slope(&trained.stages),
                    failure: None,
                    seconds,
                    cpu_seconds,
                    epoch_seconds,
                    width: network.width(),
                    grid: network.intervals(),
                    parameters: network.parameters(),
                }
            }
            Err(failure) => Self {
                seed,
                score: None,
                slope: None,
                failure: Some(failure.to_string()),
                seconds,
                cpu_seconds,
                epoch_seconds,
                width: Vec::new(),
                grid: 0,
                parameters: 0,
            },
        }
    }

    /// What is measured; infinitely bad if training failed.
    fn value(&self, measure: Measure) -> f64 {
        match (measure, &self.score) {
            (Measure::Rmse, Some(Score::Regression { rmse, .. })) => *rmse,
            (Measure::R2, Some(Score::Regression { r2: Some(r2), .. })) => *r2,
            (Measure::Accuracy, Some(Score::Classification { accuracy, .. })) => *accuracy,
            (Measure::Slope, _) => self.slope.unwrap_or(f64::INFINITY),
            (Measure::Rmse, _) => f64::INFINITY,
            (Measure::R2 | Measure::Accuracy, _) => f64::NEG_INFINITY,
        }
    }
}

/// The slope of ln(test RMSE) against ln(grid intervals), by least squares.
fn slope(stages: &[Stage]) -> Option<f64> {
    let points: Option<Vec<(f64, f64)>> = stages
        .iter()
        .map(|stage| Some(((stage.grid as f64).ln(), stage.test?.ln())))
        .collect();
    let points = points.filter(|points| points.len() > 1)?;
    let count = points.len() as f64;
    let x_mean = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let y_mean = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let covariance: f64 = points
        .iter()
        .map(|(x, y)| (x - x_mean) * (y - y_mean))
        .sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - x_mean).powi(2)).sum();
    Some(covariance / variance)
}

fn median(trials: &[Trial], measure: Measure) -> f64 {
    middle(trials.iter().map(|trial| trial.value(measure)).collect())
}

/// The median; of an even number the mean of the middle two, of none NaN.
fn middle(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 {
        values[half]
    } else {
        0.5 * (values[half - 1] + values[half])
    }
}

fn best(trials: &[Trial], goal: Bound) -> f64 {
    let values = trials.iter().map(|trial| trial.value(goal.measure));
    let badness = |value: f64| goal.measure.badness(value, goal.value);
    values
        .min_by(|a, b| badness(*a).total_cmp(&badness(*b)))
        .unwrap_or(f64::NAN)
}

/// How many rows of the groups are met.
fn counts(rows: &[Outcome]) -> Vec<Count> {
    let count = |what, goal, are_met: Vec<bool>| Count {
        what,
        met: are_met.iter().filter(|met| **met).count(),
        of: are_met.len(),
        goal,
    };
    let equations = rows.iter().filter(|row| row.group == Group::Feynman);
    let rivals = rows.iter().filter_map(|row| row.best_rival.as_ref());
    let counts = [
        count(
            "equations at most at the RMSE of the paper's best KAN",
            FEYNMAN_GOAL,
            equations.map(|row| row.met).collect(),
        ),
        count(
            "data sets at least at the best of all rivals",
            TABLES_GOAL,
            rivals.map(|rival| rival.met).collect(),
        ),
    ];
    counts.into_iter().filter(|count| count.of > 0).collect()
}

impl Outcome {
    /// A row of the Markdown table.
    fn markdown(&self) -> String {
        let sign = |met: bool| if met { "yes" } else { "**no**" };
        let width = self.width.map_or("free".into(), shape);
        let goal = in_words(self.goal);
        let (median, best) = (figures(self.median), figures(self.best));
        let (met, seconds_met) = (sign(self.met), sign(self.seconds_met));
        let spent = format!(
            "{} | {}",
            duration(self.seconds),
            duration(self.cpu_seconds)
        );
        let time = match self.seconds_goal {
            Some(goal) => format!("≤ {goal} | {spent} | {seconds_met}"),
            None => format!("| {spent} |"),
        };
        let mut notes = match self.group {
            Group::Table => format!("{}, {} rows", self.formula, self.rows),
            _ => format!("{}; {}", self.formula, self.ranges),
        };
        if self.rows != 1000 && self.group != Group::Table {
            let _ = write!(notes, "; {} + {0} rows", self.rows);
        }
        if let Some(grids) = self.grids {
            let _ = write!(notes, "; G={}", grids[grids.len() - 1]);
        }
        if self.degree != 3 {
            let _ = write!(notes, "; degree {}", self.degree);
        }
        if self.width.is_none() {
            let middle = &self.trials[self.trials.len() / 2];
            let _ = write!(notes, "; e.g. {} G={}", shape(&middle.width), middle.grid);
        }
        if let Some(Pruned { width, seeds }) = self.pruned {
            let (width, of) = (shape(width), self.trials.len());
            let _ = write!(notes, "; {seeds} of {of} pruned to {width}");
        }
        if let Some(epoch) = &self.epoch {
            let (one, all) = (duration(epoch.one_thread), duration(epoch.all_threads));
            let threads = rayon::current_num_threads();
            let _ = write!(
                notes,
                "; an epoch takes {one} s on one thread, {all} s on {threads}"
            );
        }
        if let Some(rival) = &self.best_rival {
            let (goal, met) = (in_words(rival.goal), sign(rival.met));
            let _ = write!(
                notes,
                "; best rival {goal}: {} {met}",
                figures(rival.median)
            );
        }
        if let Some(loss) = &self.log_loss {
            let (median, linear) = (figures(loss.median), figures(loss.linear));
            let _ = write!(
                notes,
                "; log-loss {median}, logistic model {linear}: {}",
                sign(loss.met)
            );
        }
        let failed = self
            .trials
            .iter()
            .filter(|trial| trial.score.is_none())
            .count();
        if failed > 0 {
            let _ = write!(notes, "; {failed} failed");
        }
        // A bar would end the cell.
        let notes = notes.replace('|', "\\|");
        let name = self.name;
        format!("| {name} | {width} | {goal} | {median} | {best} | {met} | {time} | {notes} |")
    }
}

/// A goal as it stands in the table.
fn in_words(bound: Bound) -> String {
    let value = bound.value;
    match bound.measure {
        Measure::Rmse if value < 1e-3 => format!("≤ {value:e}"),
        Measure::Rmse => format!("≤ {value}"),
        Measure::R2 => format!("R² ≥ {value}"),
        Measure::Accuracy => format!("accuracy ≥ {value}"),
        Measure::Slope => format!("slope {value} ± 0.3"),
    }
}

fn duration(seconds: f64) -> String {
    if seconds < 10.0 {
        format!("{seconds:.2}")
    } else {
        format!("{seconds:.0}")
    }
}
