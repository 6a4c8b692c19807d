//! What can be typed: one module for each command or pair of commands.

mod bench;
mod compile;
mod console;
mod demo;
mod eval;
mod inspect;
mod metrics;
mod model;
mod new_firmware;
mod pack;
mod predict;
mod refine;
mod run;
mod train;

use std::fmt;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use console::Console;
use kan_train_host::dataset::one_line;

/// Trains Kolmogorov-Arnold networks and compiles them to tables for microcontrollers.
#[derive(Parser)]
#[command(
    name = "kan",
    version,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Example: kan train DATA.csv --target COLUMN --out RUN && kan inspect RUN/model.kan"
)]
struct Cli {
    /// Print one JSON object on stdout, and everything else on stderr
    #[arg(long, global = true)]
    json: bool,
    /// Seed of everything random: equal seeds give equal results [default: 0]
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true)]
    seed: Option<u64>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Train(train::Args),
    Refine(refine::Refine),
    Prune(refine::Prune),
    Compile(compile::Args),
    Eval(eval::Args),
    Predict(predict::Args),
    Inspect(inspect::Args),
    Pack(pack::Args),
    NewFirmware(new_firmware::Args),
    Bench(bench::Args),
}

/// Why a command ended early: one line, and the exit code.
#[derive(Debug)]
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn new(message: impl fmt::Display) -> Self {
        Self {
            message: one_line(&message.to_string()),
            code: 1,
        }
    }

    /// The command was typed wrongly.
    fn usage(message: impl fmt::Display) -> Self {
        Self {
            code: 2,
            ..Self::new(message)
        }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// A word of the shell's language: in quotes, where it has more than plain characters.
fn shell_word(text: &str) -> String {
    let text = one_line(text);
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@,=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Runs the command that was typed.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let console = Console::new(cli.json);
    let result = match cli.command {
        Command::Demo(args) => demo::run(&args, cli.seed.unwrap_or(0), &console),
        Command::Train(args) => train::run(args, cli.seed, &console),
        Command::Refine(args) => refine::refine(&args, &console),
        Command::Prune(args) => refine::prune(&args, &console),
        Command::Compile(args) => compile::run(&args, &console),
        Command::Eval(args) => eval::run(&args, &console),
        Command::Predict(args) => predict::run(&args, &console),
        Command::Inspect(args) => inspect::run(&args, &console),
        Command::NewFirmware(args) => new_firmware::run(&args, &console),
        Command::Pack(args) => pack::run(&args, &console),
        Command::Bench(args) => bench::run(&args, cli.seed.unwrap_or(0), &console),
    };
    match result.and_then(|()| console.finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console::complain(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Prints the help that was asked for; or what is wrong, on one line where clap takes several.
fn explain(error: &clap::Error) -> ExitCode {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(
        error.kind(),
        DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        // Whoever asked may have closed the pipe.
        let _ = error.print();
    } else {
        console::complain(&format!("{} (see `kan --help`)", reason(error)));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// What clap objects to, without the usage that it adds.
fn reason(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"));
    let lines: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with("For more"))
        .collect();
    let reason = lines.join(" ");
    one_line(reason.strip_prefix("error: ").unwrap_or(&reason))
}
