//! A model to evaluate, from a run folder or a blob, and the columns it reads.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kan_core::Head;
use kan_train_host::artifact::MODEL;
use kan_train_host::dataset::{Schema, TargetSchema};
use kan_train_host::device::{Device, DeviceError, DeviceRun};
use kan_train_host::emulator::{Firmware, Machine};
use kan_train_host::evaluator::{Evaluator, HostModel};

use super::console::Console;
use super::run::{Checkpoint, Run};
use super::{Failure, one_line};

/// No microcontroller has as much flash.
const LARGEST_BLOB: u64 = 256 << 20;

/// Where a model is evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Host,
    Qemu(Machine),
    /// The device at this serial port.
    Serial(String),
}

/// Reads `--on`.
pub fn place(text: &str) -> Result<Place, String> {
    match text.strip_prefix("serial:") {
        _ if text == "host" => Ok(Place::Host),
        Some(port) if !port.is_empty() => Ok(Place::Serial(port.to_owned())),
        _ => text.parse().map(Place::Qemu).map_err(|_| {
            let machines = Machine::ALL.map(Machine::name).join(", ");
            format!(
                "it is host, serial:PORT, qemu (which is qemu:mps2-an386), or qemu: and one of \
                 {machines}"
            )
        }),
    }
}

impl Place {
    /// Evaluates a model on the rows of `x`, each input rounded to `f32`, on the device that this
    /// is; `None` if it is the host. Tells how long the rows took, once the device served the
    /// model.
    pub fn device_run(
        &self,
        evaluator: &Evaluator,
        x: &[f64],
        console: &Console,
    ) -> Result<Option<(DeviceRun, Duration)>, DeviceError> {
        let blob = evaluator.bytes();
        let mut device = match self {
            Self::Host => return Ok(None),
            Self::Qemu(machine) => Firmware::build(*machine)?.start(blob)?,
            Self::Serial(port) => {
                let mut device = Device::at_port(port)?;
                device.hold(blob)?;
                device
            }
        };
        let inputs = evaluator.model().inputs();
        let single: Vec<f32> = x.iter().map(|&value| value as f32).collect();
        let rows = x.len() / inputs;
        let start = Instant::now();
        let run = device.evaluate(&single, inputs, |done| {
            console.progress("rows on the device", done, rows);
        });
        console.done();
        run.map(|run| Some((run, start.elapsed())))
    }
}

/// A blob, with the network it was compiled from where that is known.
pub struct Loaded {
    pub path: PathBuf,
    pub evaluator: Evaluator,
    pub checkpoint: Option<Checkpoint>,
}

impl Loaded {
    /// Reads the blob of a run folder, or a blob.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        if !path.is_dir() {
            return Self::blob(path.to_path_buf(), None);
        }
        let run = Run::open(path)?;
        let model = path.join(MODEL);
        if !model.exists() {
            return Err(Failure::new(format!(
                "{}: not there: training was interrupted; `kan compile {}` makes it from the \
                 last checkpoint",
                model.display(),
                path.display()
            )));
        }
        let loaded = Self::blob(model, Some(run.checkpoint))?;
        let known = loaded
            .checkpoint
            .as_ref()
            .map(|c| c.predictor.network.width());
        if known != Some(loaded.evaluator.width()) {
            return Err(Failure::new(format!(
                "{}: not the tables of the network beside it; `kan compile {}` makes them",
                loaded.path.display(),
                path.display()
            )));
        }
        Ok(loaded)
    }

    fn blob(path: PathBuf, checkpoint: Option<Checkpoint>) -> Result<Self, Failure> {
        let shown = path.display();
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(LARGEST_BLOB + 1).read_to_end(&mut bytes))
            .map_err(|error| Failure::new(format!("{shown}: cannot read: {error}")))?;
        if bytes.len() as u64 > LARGEST_BLOB {
            return Err(Failure::new(format!("{shown}: larger than any blob")));
        }
        let evaluator =
            Evaluator::load(&bytes).map_err(|error| Failure::new(format!("{shown}: {error}")))?;
        Ok(Self {
            path,
            evaluator,
            checkpoint,
        })
    }

    /// The columns to read from `data`, whose targets are named by the user or by the model: by
    /// name where the model has names, else by order.
    pub fn schema(&self, data: &Path, targets: Option<&[String]>) -> Result<Schema, Failure> {
        let model = self.evaluator.model();
        let targets = targets.map(|given| Schema::target_names(data, given));
        let target = self.target(&model, targets.transpose()?.as_deref())?;
        let inputs = match input_names(&model) {
            Some(names) => names,
            None => Schema::input_names(data, target.names(), model.inputs())?,
        };
        Ok(Schema { inputs, target })
    }

    fn target(
        &self,
        model: &HostModel<'_>,
        targets: Option<&[String]>,
    ) -> Result<TargetSchema, Failure> {
        let known = self.checkpoint.as_ref().map(|c| &c.predictor.schema.target);
        let missing = || Failure::usage("--target COL is missing: the blob does not name it");
        if model.head() == Head::Identity {
            let names = match (targets, known) {
                (Some(names), _) => names.to_vec(),
                (None, Some(known)) => known.names().to_vec(),
                (None, None) => output_names(model).ok_or_else(missing)?,
            };
            if names.len() != model.outputs() {
                return Err(Failure::new(format!(
                    "--target names {} columns, but the model has {} outputs",
                    names.len(),
                    model.outputs()
                )));
            }
            return Ok(TargetSchema::Regression { names });
        }
        let name = match (targets, known) {
            (Some([name]), _) => name.clone(),
            (Some(names), _) => {
                let n = names.len();
                return Err(Failure::new(format!(
                    "--target names {n} columns, but the model tells classes apart: there is one"
                )));
            }
            (None, Some(known)) => known.names().concat(),
            (None, None) => return Err(missing()),
        };
        Ok(TargetSchema::Classification {
            name,
            labels: labels(model),
        })
    }
}

/// Names of the inputs, if the blob has them.
pub fn input_names(model: &HostModel<'_>) -> Option<Vec<String>> {
    (0..model.inputs())
        .map(|i| model.input_name(i).map(str::to_string))
        .collect()
}

/// Names of the outputs or classes, if the blob has them.
pub fn output_names(model: &HostModel<'_>) -> Option<Vec<String>> {
    let count = match model.head() {
        Head::Sigmoid => 2,
        _ => model.outputs(),
    };
    (0..count)
        .map(|i| model.output_name(i).map(str::to_string))
        .collect()
}

/// Names of the classes, or their numbers.
pub fn labels(model: &HostModel<'_>) -> Vec<String> {
    output_names(model).unwrap_or_else(|| {
        let classes = if model.head() == Head::Sigmoid {
            2
        } else {
            model.outputs()
        };
        (0..classes).map(|class| class.to_string()).collect()
    })
}

/// The name of a model for people.
pub fn name(model: &HostModel<'_>) -> String {
    one_line(model.name())
}
