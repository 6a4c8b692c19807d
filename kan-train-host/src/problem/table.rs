//! Data sets with fixed training and test rows, and the scores of other methods on them.
//!
//! The rivals are scikit-learn 1.9: multilayer perceptrons (with Adam, 16, 16-16 and 64-64 nodes,
//! median of 3 seeds; and trained well: tanh, L-BFGS, 4000 iterations, inputs in −1 … 1, 8 to 32-32
//! nodes, best of 3 seeds), a linear or logistic model and gradient-boosted trees; for MNIST it is
//! efficient-kan, a PyTorch implementation of KANs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::Bound;
use crate::dataset::{Dataset, DatasetError, Target, Task};
use crate::levenberg::{self, Options};
use crate::network::{Base, Network};
use crate::objective;
use crate::penalty::Penalty;
use crate::predictor::{self, Range, Scale};
use crate::spline::Grid;
use crate::train::{Method, Settings};

/// A data set: the folder NAME with `train.csv` and `test.csv`, target columns last.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The folder, and how `kan bench paper --only` finds it.
    pub name: &'static str,
    /// The target columns. The first one is learnt, the others are no inputs: so it was for the
    /// rivals.
    pub targets: &'static [&'static str],
    /// What is learnt.
    pub task: Task,
    /// The score to reach: the best multilayer perceptron, or better.
    pub goal: Bound,
    /// The best of all rivals, the linear model and boosted trees among them.
    pub best: Option<Bound>,
    /// Images in IDX files, learnt by a recipe of epochs; else training gets no options.
    pub images: Option<Images>,
}

/// Images in IDX files, plain or gzip, under their usual names, and how they are learnt: AdamW by
/// [`crate::adamw::Options::over`], nothing pruned.
#[derive(Debug, Clone, Copy)]
pub struct Images {
    /// Node counts.
    pub width: &'static [usize],
    /// Grid intervals.
    pub intervals: usize,
    /// Passes over the rows.
    pub epochs: usize,
    /// The seconds that one of them may take on one thread.
    pub seconds: f64,
}

/// Seconds for a training without options on up to 10,000 rows.
pub const SECONDS: f64 = 60.0;

const fn regression(
    name: &'static str,
    targets: &'static [&'static str],
    goal: Bound,
    best: Bound,
) -> Table {
    let task = Task::Regression;
    Table {
        name,
        targets,
        task,
        goal,
        best: Some(best),
        images: None,
    }
}

const fn classification(name: &'static str, perceptron: f64, best: f64) -> Table {
    Table {
        name,
        targets: &["label"],
        task: Task::Classification,
        goal: Bound::accuracy(perceptron),
        best: Some(Bound::accuracy(best)),
        images: None,
    }
}

/// The data sets, in the order of a report.
pub const TABLES: [Table; 12] = [
    // Perceptron 32-32, well trained; also the best of all.
    regression("airfoil", &["target"], Bound::rmse(1.23), Bound::rmse(1.23)),
    // Perceptron 8-8, well trained; boosted trees.
    regression(
        "concrete",
        &["target"],
        Bound::rmse(4.98),
        Bound::r2(0.9438),
    ),
    // Perceptron 64-64 with Adam; boosted trees.
    regression("ccpp", &["target"], Bound::r2(0.9468), Bound::r2(0.9610)),
    // Perceptron 16-16, well trained; also the best of all.
    regression(
        "energy_efficiency",
        &["heating", "cooling"],
        Bound::rmse(0.404),
        Bound::rmse(0.404),
    ),
    // Stricter than the perceptrons: 1.3 °C is the best of them and of all.
    regression(
        "thermocouple_k",
        &["target"],
        Bound::rmse(0.01),
        Bound::rmse(1.3),
    ),
    // Perceptron 16-16, well trained; also the best of all.
    regression(
        "ntc_adc",
        &["target"],
        Bound::rmse(0.154),
        Bound::rmse(0.154),
    ),
    // Stricter than the perceptrons: 0.00503 rad is the best of them and of all.
    regression(
        "ik_2link",
        &["q1", "q2"],
        Bound::rmse(0.0005),
        Bound::rmse(0.00503),
    ),
    // Perceptron 16-16 with Adam; also the best of all.
    classification("wifi_localization", 0.9725, 0.9725),
    // Perceptron 16-16 with Adam; the logistic model.
    classification("occupancy", 0.9394, 0.9831),
    // Perceptron 64-64 with Adam; also the best of all.
    classification("pendigits", 0.9941, 0.9941),
    // Perceptron 64-64 with Adam; also the best of all.
    classification("digits8x8", 0.9694, 0.9694),
    // What efficient-kan reaches by the same recipe; its epochs take 15 s.
    Table {
        best: None,
        images: Some(Images {
            width: &[784, 64, 10],
            intervals: 5,
            epochs: 10,
            seconds: 5.0,
        }),
        ..classification("mnist", 0.973, 0.973)
    },
];

impl Table {
    /// What training is told.
    pub fn settings(&self, seed: u64) -> Settings {
        let free = Settings {
            seed,
            ..Settings::default()
        };
        match self.images {
            None => free,
            Some(images) => Settings {
                width: Some(images.width.to_vec()),
                grid: Some(vec![images.intervals]),
                optimizer: Some(Method::AdamW),
                steps: Some(images.epochs),
                no_prune: true,
                ..free
            },
        }
    }

    /// Reads training and test rows from the folder `NAME` in `data`. The thermocouple set is
    /// inside the binary too, and used where `data` is not given.
    ///
    /// # Errors
    /// Those of [`Dataset::read`] and [`Dataset::read_like`]. `Ok(None)` if there is no such
    /// folder.
    pub fn read(&self, data: Option<&Path>) -> Result<Option<(Dataset, Dataset)>, DatasetError> {
        let Some(data) = data else {
            return Ok((self.name == "thermocouple_k").then(Dataset::thermocouple));
        };
        let folder = data.join(self.name);
        if !folder.is_dir() {
            return Ok(None);
        }
        let (train, test) = match self.images {
            None => (folder.join("train.csv"), folder.join("test.csv")),
            Some(_) => (image_files(&folder, "train"), image_files(&folder, "t10k")),
        };
        let targets: Vec<String> = self.targets.iter().map(ToString::to_string).collect();
        let train = Dataset::read(&train, &targets, Some(self.task))?;
        let test = Dataset::read_like(&test, &train.schema())?;
        Ok(Some((first_target(train), first_target(test))))
    }
}

/// The pair of IDX files `IMAGES,LABELS` of one part of the rows.
fn image_files(folder: &Path, part: &str) -> PathBuf {
    let mut pair = OsString::new();
    for (comma, kind) in [("", "images-idx3-ubyte"), (",", "labels-idx1-ubyte")] {
        let plain = folder.join(format!("{part}-{kind}"));
        let packed = folder.join(format!("{part}-{kind}.gz"));
        pair.push(comma);
        pair.push(if plain.exists() { plain } else { packed });
    }
    pair.into()
}

/// The data set with the first of its targets only.
fn first_target(mut data: Dataset) -> Dataset {
    if let Target::Regression { names, y } = &mut data.target {
        *y = y.iter().step_by(names.len()).copied().collect();
        names.truncate(1);
    }
    data
}

/// The log-loss on the test rows of a logistic model of the training rows: the lowest over ridge
/// penalties of five strengths, which favours it.
pub fn linear_log_loss(train: &Dataset, test: &Dataset) -> f64 {
    let ranges: Vec<Range> = (0..train.inputs())
        .map(|i| match train.range(i) {
            (lo, hi) if lo < hi => Range { lo, hi },
            (lo, _) => Range {
                lo: lo - 1.0,
                hi: lo + 1.0,
            },
        })
        .collect();
    let outputs = predictor::network_outputs(&train.schema().target);
    let scales = vec![
        Scale {
            offset: 0.0,
            scale: 1.0
        };
        outputs
    ];
    let learnt = predictor::samples(train, &ranges, &scales);
    let held = predictor::samples(test, &ranges, &scales);
    // One linear piece on every edge and no base function: a linear model.
    let grids = vec![Grid::uniform(1, -1.0, 1.0, 1); train.inputs()];
    let shape = [train.inputs(), outputs];
    let ridges = [1e-3, 1e-4, 1e-5, 1e-6, 1e-7];
    ridges
        .iter()
        .map(|&slope| {
            let mut rng = Pcg64Mcg::seed_from_u64(0);
            let mut network = Network::random(&shape, &grids, Base::Zero, &mut rng);
            let penalty = Penalty {
                slope,
                ..Penalty::default()
            };
            let options = Options {
                steps: 100,
                damping: 1e-3,
                tolerance: 1e-6,
            };
            levenberg::train(&mut network, &learnt, &penalty, &options, &mut |_, _| {});
            objective::loss(&network, &held)
        })
        .fold(f64::INFINITY, f64::min)
}
