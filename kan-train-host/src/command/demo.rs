//! `kan demo`: the whole way, from the data set inside the binary to an emulated Cortex-M.

use std::path::PathBuf;

use faer::Mat;
use faer::linalg::solvers::SolveLstsq;
use kan_train_host::artifact::MODEL;
use kan_train_host::dataset::{Dataset, Target};
use kan_train_host::device::DeviceError;
use kan_train_host::emulator::{self, Machine};
use kan_train_host::evaluator::Evaluator;
use kan_train_host::train::Settings;
use serde::Serialize;

use super::Failure;
use super::console::{Console, figures};
use super::eval::Evaluation;
use super::metrics::Metrics;
use super::model::Place;
use super::run::{Split, Training};
use super::train::{before, program, run_in};

/// Train, compile and verify a model of a real sensor, and run it on an emulated Cortex-M4F
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan demo
         kan demo --out thermocouple --no-device

The data set is inside the program: millivolts of a type-K thermocouple and the temperature of its
cold junction, from which firmware has to compute the temperature of the hot one.")]
pub struct Args {
    /// Keep network, blob and figures in this folder, as `kan train` does
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Leave the emulated device out
    #[arg(long)]
    no_device: bool,
}

/// What `demo --json` prints.
#[derive(Serialize)]
struct Demonstration {
    #[serde(flatten)]
    metrics: Metrics,
    /// Test RMSE of the cubic polynomial that fits the training rows best.
    polynomial_rmse: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Evaluation>,
    /// Why it did not run on the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_not_run: Option<String>,
}

pub fn run(args: &Args, seed: u64, console: &Console) -> Result<(), Failure> {
    let split = Split::thermocouple();
    let settings = Settings {
        // Wider than it has to be: the sparsity penalty and pruning find that one node is enough.
        width: Some(vec![2, 5, 1]),
        grid: Some(vec![6, 12, 24, 48, 96]),
        lamb: Some(1e-4),
        seed,
        ..Settings::default()
    };
    let training: Training = before(&settings, &split);
    let (blob, metrics) = run_in(args.out.as_deref(), training, &settings, &split, console)?;
    let test = split.test.as_ref().unwrap_or(&split.train);
    let error = metrics.blob.test.as_ref().or(metrics.blob.train.as_ref());
    let error = error.map_or(f64::NAN, |score| score.error());
    let polynomial_rmse = cubic_polynomial_rmse(&split.train, test);
    console.say(format_args!(
        "test error: {} °C; the best cubic polynomial has {} °C",
        figures(error),
        figures(polynomial_rmse)
    ));

    let machine = Machine::Mps2An386;
    let evaluator = Evaluator::load(&blob)?;
    let device_not_run = if args.no_device {
        Some("--no-device".to_string())
    } else {
        match emulator::availability(machine) {
            Ok(()) => None,
            // What is not there is no failure of the demonstration; whatever fails below is.
            Err(missing @ (DeviceError::Missing(_) | DeviceError::Sources(_))) => {
                Some(missing.to_string())
            }
            Err(error) => return Err(error.into()),
        }
    };
    let device = if let Some(reason) = &device_not_run {
        console.say(format_args!("not run on a device: {reason}"));
        None
    } else {
        console.say(format_args!(
            "{machine}: building the firmware for an emulated Cortex-M4F"
        ));
        let evaluation = Evaluation::at(&Place::Qemu(machine), &evaluator, test, console)?;
        evaluation.say(console);
        evaluation.verdict()?;
        Some(evaluation)
    };

    let kan = program();
    console
        .say("next, with a CSV file of your own, to predict one of its columns from the others:");
    console.say(format_args!(
        "  {kan} train DATA.csv --target COLUMN --out RUN"
    ));
    console.say(format_args!(
        "  {kan} eval RUN --data DATA.csv --target COLUMN --on qemu"
    ));
    console.say(format_args!("  {kan} inspect RUN/{MODEL}"));
    console.object(&Demonstration {
        metrics,
        polynomial_rmse,
        device,
        device_not_run,
    })
}

/// Test RMSE of the polynomial of total degree 3 in both inputs that is nearest to the training
/// rows: what firmware often makes do with.
fn cubic_polynomial_rmse(train: &Dataset, test: &Dataset) -> f64 {
    let ranges = [train.range(0), train.range(1)];
    let terms = |data: &Dataset, row: usize| {
        let unit = |i: usize| {
            let (lo, hi) = ranges[i];
            (2.0 * data.row(row)[i] - lo - hi) / (hi - lo)
        };
        let (u, v) = (unit(0), unit(1));
        [
            1.0,
            u,
            v,
            u * u,
            u * v,
            v * v,
            u * u * u,
            u * u * v,
            u * v * v,
            v * v * v,
        ]
    };
    let values = |data: &Dataset| match &data.target {
        Target::Regression { y, .. } => y.clone(),
        Target::Classification { .. } => Vec::new(),
    };
    let y = values(train);
    let matrix = Mat::from_fn(train.rows, 10, |row, term| terms(train, row)[term]);
    let right = Mat::from_fn(train.rows, 1, |row, _| y[row]);
    let solution = matrix.qr().solve_lstsq(right);
    let truth = values(test);
    let squares = truth.iter().enumerate().map(|(row, y)| {
        let fit: f64 = terms(test, row)
            .iter()
            .enumerate()
            .map(|(k, t)| t * solution[(k, 0)])
            .sum();
        (fit - y).powi(2)
    });
    (squares.sum::<f64>() / test.rows as f64).sqrt()
}
