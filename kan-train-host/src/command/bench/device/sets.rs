//! The data sets with a network that is kept, and their errors.

use std::path::{Path, PathBuf};

use kan_train_host::artifact;
use kan_train_host::dataset::{Dataset, Task};
use kan_train_host::emulator::WORKSPACE;
use kan_train_host::predictor::{Predictor, Score};

use crate::command::Failure;

/// The data sets with a network in [`PEERS`], their target columns, and whether there is a
/// perceptron too.
pub(super) const SETS: [(&str, &[&str], Task, bool); 6] = [
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

/// A data set and the network that learnt it.
pub(super) struct Set {
    /// Where the network and the perceptron are.
    pub(super) folder: PathBuf,
    pub(super) predictor: Predictor,
    pub(super) train: Dataset,
    pub(super) test: Dataset,
}

impl Set {
    pub(super) fn open(name: &str, targets: &[&str], task: Task) -> Result<Self, Failure> {
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
}

/// RMSE, or the part of the rows whose class is wrong.
pub(super) fn error(outputs: &[f64], data: &Dataset) -> f64 {
    match Score::of(outputs, data) {
        Score::Regression { rmse, .. } => rmse,
        Score::Classification { accuracy, .. } => 1.0 - accuracy,
    }
}

pub(super) fn measure(data: &Dataset) -> &'static str {
    match data.task() {
        Task::Regression => "rmse",
        Task::Classification => "wrong",
    }
}
