//! `kan eval`: how good a blob is on a file of rows, on the host or on a device.

use std::path::PathBuf;

use kan_train_host::dataset::Dataset;
use kan_train_host::device::{Cost, DeviceError, Unit};
use kan_train_host::evaluator::Evaluator;
use kan_train_host::predictor::Score;
use serde::Serialize;

use super::Failure;
use super::console::{Console, figures, in_words};
use super::model::{Loaded, Place, place};
use super::run::Checkpoint;

/// Measure a model on a file of rows, on the host, an emulated Cortex-M or a board
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan eval airfoil --data test.csv --target sound
         kan eval airfoil/model.kan --data test.csv --target sound --on qemu
         kan eval airfoil --data test.csv --target sound --on serial:/dev/ttyACM0

What is evaluated is the blob, by kan-core: of RUN its model.kan. Columns are found by name where the
blob has names, else by their order. On a device every output is compared bit for bit with the host;
any difference is a failure.

Machines of QEMU: mps2-an386 (Cortex-M4F), microbit (M0), mps2-an385 (M3), netduinoplus2 (M4F),
mps2-an500 (M7), mps2-an505 (M33). There, executed instructions of one inference are counted, which are
not cycles. A board at a serial port, with the model server on it, counts cycles; a model that is not in
its flash is sent to its RAM.")]
pub struct Args {
    /// A folder that `kan train` made, or a blob
    #[arg(value_name = "RUN|FILE.kan")]
    model: PathBuf,
    /// The rows, as a CSV file, or as IDX files IMAGES,LABELS
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The columns with the true values [default: those that the model knows]
    #[arg(long, value_name = "COL[,COL…]")]
    target: Option<Vec<String>>,
    /// Where to evaluate: host, qemu (which is qemu:mps2-an386), qemu:MACHINE or serial:PORT
    #[arg(long, value_name = "PLACE", default_value = "host", value_parser = place)]
    on: Place,
}

/// What `eval` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Rows.
    pub n: usize,
    #[serde(flatten)]
    pub score: Score,
    /// Rows with an input that saturates.
    pub outside_domain: usize,
    #[serde(flatten)]
    pub device: Option<OnDevice>,
    /// The score of the network that the tables were made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Score>,
}

/// What is known only of a device.
#[derive(Clone, Debug, Serialize)]
pub struct OnDevice {
    pub machine: String,
    /// Executed instructions of an inference, where QEMU counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<Cost>,
    /// Clock cycles of an inference, on a board.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycles: Option<Cost>,
    /// The board's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_hz: Option<u32>,
    pub equal_to_host: Equality,
    /// What all rows took, on the line too; not what it took to start the device.
    pub seconds: f64,
    /// Bytes of the firmware's model struct, which has room for many models.
    pub struct_bytes: u32,
    /// Most bytes of stack in use during an inference.
    pub stack_bytes: u32,
}

/// How many outputs were equal bit for bit, of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Equality {
    pub equal: usize,
    pub of: usize,
}

impl Evaluation {
    /// Runs kan-core on the host, and at another place, to compare, the firmware of a device.
    pub fn at(
        place: &Place,
        evaluator: &Evaluator,
        data: &Dataset,
        console: &Console,
    ) -> Result<Self, DeviceError> {
        let host = evaluator.eval(&data.x);
        let Some((run, time)) = place.device_run(evaluator, &data.x, console)? else {
            return Ok(Self::of(&host, evaluator, data));
        };
        let (instructions, cycles, clock_hz) = match run.unit {
            Unit::Instructions { .. } => (run.cost(), None, None),
            Unit::Cycles { per_second } => (None, run.cost(), Some(per_second)),
        };
        let device = OnDevice {
            machine: run.machine.clone(),
            instructions,
            cycles,
            clock_hz,
            equal_to_host: Equality {
                equal: run.equal_outputs(&host),
                of: host.len(),
            },
            seconds: time.as_secs_f64(),
            struct_bytes: run.model.struct_bytes,
            stack_bytes: run.model.stack_bytes,
        };
        Ok(Self {
            device: Some(device),
            ..Self::of(&run.outputs, evaluator, data)
        })
    }

    /// The device's outputs are the host's, or that is a failure.
    ///
    /// # Errors
    /// One line with the machine and how many differ.
    pub fn verdict(&self) -> Result<(), Failure> {
        let Some(device) = &self.device else {
            return Ok(());
        };
        let Equality { equal, of } = device.equal_to_host;
        if equal == of {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{}: {} of {of} outputs are not those of the host",
            device.machine,
            of - equal
        )))
    }

    fn of(outputs: &[f32], evaluator: &Evaluator, data: &Dataset) -> Self {
        let outputs: Vec<f64> = outputs.iter().copied().map(f64::from).collect();
        let outside = evaluator
            .in_domain(&data.x)
            .iter()
            .filter(|covered| !**covered)
            .count();
        Self {
            n: data.rows,
            score: Score::of(&outputs, data),
            outside_domain: outside,
            device: None,
            network: None,
        }
    }

    /// The lines of a report.
    pub fn say(&self, console: &Console) {
        let place = self
            .device
            .as_ref()
            .map_or("host", |device| &device.machine);
        let (n, score) = (self.n, in_words(&self.score));
        console.say(format_args!("{place}: {n} rows: {score}"));
        if let Some(network) = &self.network {
            console.say(format_args!("network: {}", in_words(network)));
        }
        if self.outside_domain > 0 {
            console.say(format_args!(
                "{} rows have an input outside the domain, which saturates",
                self.outside_domain
            ));
        }
        if let Some(device) = &self.device {
            let Equality { equal, of } = device.equal_to_host;
            console.say(format_args!(
                "bit for bit equal to the host: {equal} of {of} outputs"
            ));
            let costs = [
                (device.instructions, "instructions"),
                (device.cycles, "cycles"),
            ];
            for (cost, unit) in costs {
                let Some(Cost { min, median, max }) = cost else {
                    continue;
                };
                let clock = device.clock_hz.map_or(String::new(), |hz| {
                    let time = 1e6 * f64::from(median) / f64::from(hz);
                    format!(": {} µs at {} MHz", figures(time), f64::from(hz) / 1e6)
                });
                console.say(if min == max {
                    format!("{median} {unit} per inference, whatever the input{clock}")
                } else {
                    format!("{median} {unit} per inference (median; {min} to {max}){clock}")
                });
            }
            if device.instructions.is_none() && device.cycles.is_none() {
                console.say("an inference takes longer than the device's counter can count");
            }
        }
    }
}

pub fn run(args: &Args, console: &Console) -> Result<(), Failure> {
    let loaded = Loaded::open(&args.model)?;
    let schema = loaded.schema(&args.data, args.target.as_deref())?;
    let data = Dataset::read_like(&args.data, &schema)?;
    let mut evaluation = Evaluation::at(&args.on, &loaded.evaluator, &data, console)?;
    let known = loaded.checkpoint.as_ref();
    if let Some(interruption) = known.and_then(Checkpoint::interruption) {
        console.say(interruption);
    }
    evaluation.network = loaded.checkpoint.map(|checkpoint| {
        let predictor = checkpoint.predictor;
        Score::of(&predictor.eval(&data.x), &data)
    });
    evaluation.say(console);
    console.object(&evaluation)?;
    evaluation.verdict()
}
