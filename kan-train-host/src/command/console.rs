//! What a command says, and where: results on stdout, or one JSON object there and the rest on
//! stderr; progress on stderr, if that is a terminal.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressStyle};
use kan_train_host::dataset::Task;
use kan_train_host::predictor::Score;
use kan_train_host::train::{Event, Stage};
use serde::Serialize;

use super::{Failure, one_line};

/// Where a command speaks.
pub struct Console {
    json: bool,
    /// The first failure to write to stdout.
    fault: RefCell<Option<io::Error>>,
    bar: ProgressBar,
    /// Whether the head of the table of stages has been printed.
    headed: Cell<bool>,
}

impl Console {
    pub fn new(json: bool) -> Self {
        let bar = ProgressBar::new(0);
        // A mistake in a template shows as a plain bar.
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} {elapsed}") {
            bar.set_style(style);
        }
        let (fault, headed) = (RefCell::default(), Cell::new(false));
        Self {
            json,
            fault,
            bar,
            headed,
        }
    }

    /// A line of the report.
    pub fn say(&self, line: impl fmt::Display) {
        let say = || {
            if self.json {
                note(&line.to_string());
            } else {
                self.print(|stdout| writeln!(stdout, "{line}"));
            }
        };
        // A bar that has not begun would be drawn by its suspension.
        match self.bar.length() {
            Some(0) | None => say(),
            Some(_) => self.bar.suspend(say),
        }
    }

    /// The result, if JSON is wanted.
    pub fn object(&self, value: &impl Serialize) -> Result<(), Failure> {
        if self.json {
            let text = serde_json::to_string_pretty(value)?;
            self.print(|stdout| writeln!(stdout, "{text}"));
        }
        Ok(())
    }

    /// Text for stdout that is the result itself.
    pub fn print_text(&self, text: &str) {
        self.print(|stdout| stdout.write_all(text.as_bytes()));
    }

    pub fn wants_json(&self) -> bool {
        self.json
    }

    /// Shows what training is doing.
    pub fn watch(&self, task: Task, event: &Event<'_>) {
        match *event {
            Event::Candidate { done, of } => self.progress("choosing shape and grid", done, of),
            Event::Step { grid, step, of, .. } => self.progress(&format!("grid {grid}"), step, of),
            Event::Stage(stage) => self.stage(task, stage),
            Event::Checkpoint(..) => {}
        }
    }

    /// Shows how far something is.
    pub fn progress(&self, what: &str, at: usize, of: usize) {
        advance(&self.bar, what, at, of);
    }

    /// The progress bar, for [`advance`] on other threads.
    pub fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    /// A line of the table of stages.
    pub fn stage(&self, task: Task, stage: &Stage) {
        let error = match task {
            Task::Regression => "RMSE",
            Task::Classification => "log-loss",
        };
        if !self.headed.replace(true) {
            let (train, test) = (format!("train {error}"), format!("test {error}"));
            self.say(format_args!(
                "{:>6} {train:>15} {test:>15} {:>9}",
                "grid", "seconds"
            ));
        }
        let test = stage.test.map_or("-".into(), figures);
        let (grid, train, seconds) = (stage.grid, figures(stage.train), stage.seconds);
        self.say(format_args!(
            "{grid:>6} {train:>15} {test:>15} {seconds:>9.1}"
        ));
    }

    /// Takes the progress bar away.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }

    /// Whether everything that was said could be written. A reader that had enough is no failure.
    pub fn finish(&self) -> Result<(), Failure> {
        self.done();
        match self.fault.borrow_mut().take() {
            Some(fault) => Err(Failure::new(format!("stdout: cannot write: {fault}"))),
            None => Ok(()),
        }
    }

    fn print(&self, write: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) {
        let mut stdout = io::stdout().lock();
        let result = write(&mut stdout).and_then(|()| stdout.flush());
        let mut fault = self.fault.borrow_mut();
        match result {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe && fault.is_none() => {
                *fault = Some(error);
            }
            _ => {}
        }
    }
}

/// A line on stderr; if nobody can read it, nobody can be told.
fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Shows how far something is.
pub fn advance(bar: &ProgressBar, what: &str, at: usize, of: usize) {
    bar.set_length(of as u64);
    bar.set_position(at as u64);
    bar.set_message(what.to_string());
}

/// The line that ends a failure.
pub fn complain(message: &str) {
    note(&format!("error: {}", one_line(message)));
}

/// Four significant figures.
pub fn figures(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    if !(1e-4..1e7).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    let decimals = (3 - magnitude.log10().floor() as i32).max(0) as usize;
    format!("{value:.decimals$}")
}

/// A score in words.
pub fn in_words(score: &Score) -> String {
    match score {
        Score::Regression { rmse, r2, targets } => {
            let r2_of = |r2: Option<f64>| r2.map_or("-".into(), share);
            let mut words = format!("RMSE {}, R² {}", figures(*rmse), r2_of(*r2));
            for target in targets {
                let (name, rmse, r2) = (
                    one_line(&target.name),
                    figures(target.rmse),
                    r2_of(target.r2),
                );
                words += &format!("; {name}: RMSE {rmse}, R² {r2}");
            }
            words
        }
        Score::Classification { accuracy, log_loss } => {
            format!(
                "accuracy {}, log-loss {}",
                share(*accuracy),
                figures(*log_loss)
            )
        }
    }
}

/// A number at most 1; 1 itself only if it is exact.
fn share(value: f64) -> String {
    if value < -1e4 {
        return figures(value);
    }
    let text = format!("{value:.4}");
    if text == "1.0000" && value < 1.0 {
        let nines = (-(1.0 - value).log10()).floor().min(15.0) as usize;
        return format!("{:.*}", nines + 1, value);
    }
    text
}

/// A number in brackets for each layer of nodes.
pub fn shape(width: &[usize]) -> String {
    let nodes: Vec<String> = width.iter().map(usize::to_string).collect();
    format!("[{}]", nodes.join(","))
}
