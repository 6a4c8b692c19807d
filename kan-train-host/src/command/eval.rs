//! `kan eval`: how good a blob is on a file of rows, on the host or on a device.

use std::path::PathBuf;

use kan_train_host::dataset::Dataset;
use kan_train_host::device::{DeviceError, Firmware, Instructions, Machine};
use kan_train_host::evaluator::Evaluator;
use kan_train_host::predictor::Score;
use serde::Serialize;

use super::Failure;
use super::console::{Console, in_words};
use super::model::{Loaded, Place, place};
use super::run::Checkpoint;

/// Measure a model on a file of rows, on the host or on an emulated Cortex-M
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan eval airfoil --data test.csv --target sound
         kan eval airfoil/model.kan --data test.csv --target sound --on qemu

What is evaluated is the blob, by kan-core: of RUN its model.kan. Columns are found by name where the
blob has names, else by their order. On a device every output is compared bit for bit with the host;
any difference is a failure. Instructions are executed instructions of one inference, not cycles. The
device has memory for 16 MiB of inputs, four bytes each.")]
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
    /// Where to evaluate: host, qemu, or qemu:MACHINE (mps2-an386, mps2-an385 or cortex-m0)
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
    pub instructions: Instructions,
    pub equal_to_host: Equality,
    /// Bytes of the firmware's model struct, which has room for many models.
    pub struct_bytes: usize,
    /// Most bytes of stack in use during an inference.
    pub stack_bytes: usize,
}

/// How many outputs were equal bit for bit, of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Equality {
    pub equal: usize,
    pub of: usize,
}

impl Evaluation {
    /// Runs kan-core on the host.
    pub fn on_host(evaluator: &Evaluator, data: &Dataset) -> Self {
        Self::of(&evaluator.eval(&data.x), evaluator, data)
    }

    /// Runs the firmware on an emulated machine, and kan-core on the host to compare with.
    pub fn on_device(
        machine: Machine,
        evaluator: &Evaluator,
        data: &Dataset,
    ) -> Result<Self, DeviceError> {
        let inputs: Vec<f32> = data.x.iter().map(|&value| value as f32).collect();
        let firmware = Firmware::build(machine)?;
        let run = firmware.evaluate(evaluator.bytes(), &inputs, data.inputs())?;
        let host = evaluator.eval(&data.x);
        let device = OnDevice {
            machine: machine.to_string(),
            instructions: run.instructions(),
            equal_to_host: Equality {
                equal: run.equal_outputs(&host),
                of: host.len(),
            },
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
            let Instructions { min, median, max } = device.instructions;
            console.say(format_args!(
                "bit for bit equal to the host: {equal} of {of} outputs"
            ));
            console.say(if min == max {
                format!("{median} instructions per inference, whatever the input")
            } else {
                format!("{median} instructions per inference (median; {min} to {max})")
            });
        }
    }
}

pub fn run(args: &Args, console: &Console) -> Result<(), Failure> {
    let loaded = Loaded::open(&args.model)?;
    let schema = loaded.schema(&args.data, args.target.as_deref())?;
    let data = Dataset::read_like(&args.data, &schema)?;
    let mut evaluation = match args.on {
        Place::Host => Evaluation::on_host(&loaded.evaluator, &data),
        Place::Device(machine) => Evaluation::on_device(machine, &loaded.evaluator, &data)?,
    };
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
