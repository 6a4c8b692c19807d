//! The run folder: what `train` leaves for the commands that follow.
//!
//! `network.json` alone is enough to go on from: it is the predictor and, under `training`, where
//! its rows came from. `model.kan` and `metrics.json` always belong to the `network.json` beside
//! them: both are removed before it changes, and written after.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kan_train_host::artifact::{self, METRICS, MODEL, NETWORK};
use kan_train_host::compile::{Compiled, Kind, Tables};
use kan_train_host::dataset::{self, Dataset, Schema, Target, TargetSchema, Task};
use kan_train_host::grid;
use kan_train_host::network::Network;
use kan_train_host::objective::Samples;
use kan_train_host::penalty::Penalty;
use kan_train_host::predictor::{self, FORMAT, Predictor};
use kan_train_host::spline::Grid;
use kan_train_host::train::{
    self, Descent, FINEST, Frame, MOST_NODES, MOST_STEPS, Progress, Recipe, Settings,
};
use serde::{Deserialize, Serialize};

use super::metrics::Past;
use super::{Failure, one_line};

/// `network.json`. It is read in its two parts: serde reads no numbers through `flatten` where a
/// dependency switches on the arbitrary precision of serde_json.
#[derive(Clone, Debug, Serialize)]
pub struct Checkpoint {
    #[serde(flatten)]
    pub predictor: Predictor,
    pub training: Training,
    /// How far training has come, unless it has come to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

impl Checkpoint {
    /// What a report has to say of a network whose training did not come to its end.
    pub fn interruption(&self) -> Option<String> {
        let Progress { recipe, stages, .. } = self.progress.as_ref()?;
        Some(format!(
            "the training of this network was interrupted: {} of {} grids are done",
            stages.len(),
            recipe.grids.len()
        ))
    }
}

/// How a network was trained: what it takes to train it further.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    pub data: Source,
    pub test: Held,
    /// What `data` and `test` held.
    pub fingerprint: Fingerprint,
    /// Whether the network has been trained on other rows than these, too: then its test rows may
    /// be among them.
    pub other_rows: bool,
    pub settings: Settings,
    /// Penalties; what was chosen is known, and stands here, once training has ended.
    pub roughness: f64,
    pub slope: f64,
    /// How its stages went; stands here once training has ended, too.
    #[serde(default)]
    pub descent: Option<Descent>,
    /// Node counts of the networks whose mean the network is; none if it is the mean of none.
    #[serde(default)]
    pub members: Vec<Vec<usize>>,
    pub tables: Tables,
    /// Bits of a table entry.
    #[serde(default = "single")]
    pub bits: u8,
}

/// The bits of the entries of tables made before there were others.
fn single() -> u8 {
    32
}

impl Training {
    /// The kind of tables.
    pub fn kind(&self) -> Kind {
        let Self { tables, bits, .. } = *self;
        Kind { tables, bits }
    }

    /// How to train the network further.
    pub fn descent(&self, data: &Dataset) -> Descent {
        self.descent.unwrap_or_else(|| {
            let (method, _) = train::choose_method(data, &self.settings);
            Descent::by(method, self.settings.steps)
        })
    }

    /// Notes what the networks are whose mean the network has become.
    pub fn set_members(&mut self, widths: Vec<Vec<usize>>) {
        self.members = match widths.len() {
            1 => Vec::new(),
            _ => widths,
        };
    }

    /// Notes that training went on with the rows of another file, which may be the same rows.
    pub fn move_data(&mut self, path: &Path, fingerprint: Fingerprint) -> Result<(), Failure> {
        self.data = Source::File(absolute(path)?);
        self.other_rows |= self.fingerprint != fingerprint;
        self.fingerprint = fingerprint;
        Ok(())
    }
}

/// A path, or a pair of them, that means the same wherever the next command is typed.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    if let Some((images, labels)) = dataset::pair(path) {
        let (images, labels) = (absolute(&images)?, absolute(&labels)?);
        return Ok(format!("{},{}", images.display(), labels.display()).into());
    }
    std::path::absolute(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A CSV file or a pair of IDX files, by absolute paths.
    File(PathBuf),
    /// The data set inside the binary, its test rows included.
    Thermocouple,
}

/// Where test rows come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Held {
    /// A CSV file or a pair of IDX files, by absolute paths.
    File(PathBuf),
    /// This part of the rows, drawn at random.
    Fraction(f64),
}

/// What tells the rows of a training from others: that a file has been written again as it was, or
/// in another notation, does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// All rows before any are held out.
    pub data: Rows,
    /// Test rows that have a file of their own.
    pub test: Option<Rows>,
}

/// The number of rows of a table, and a checksum of their values in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    pub rows: usize,
    pub crc: u32,
}

impl Rows {
    fn of(data: &Dataset) -> Self {
        const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
        let mut digest = CRC.digest();
        let mut add = |value: f64| digest.update(&value.to_le_bytes());
        data.x.iter().copied().for_each(&mut add);
        match &data.target {
            Target::Regression { y, .. } => y.iter().copied().for_each(add),
            Target::Classification { class, .. } => {
                class.iter().for_each(|&class| add(class as f64));
            }
        }
        Self {
            rows: data.rows,
            crc: digest.finalize(),
        }
    }
}

/// The fewest rows that a split may leave to train on: what is left of the fewest a file may have.
const FEWEST_ROWS_LEFT: usize = 8;

/// Rows to train on, and rows to test with.
pub struct Split {
    pub train: Dataset,
    pub test: Option<Dataset>,
    /// Of both files.
    pub fingerprint: Fingerprint,
}

impl Split {
    /// Both parts of a data set and, where test rows have a file of their own, of that.
    pub fn read(
        data: &Path,
        test: &Held,
        seed: u64,
        target: &[String],
        task: Option<Task>,
    ) -> Result<Self, Failure> {
        let all = Dataset::read(data, target, task)?;
        let mut fingerprint = Fingerprint {
            data: Rows::of(&all),
            test: None,
        };
        match test {
            Held::File(path) => {
                let test = Dataset::read_like(path, &all.schema())?;
                fingerprint.test = Some(Rows::of(&test));
                Ok(Self {
                    train: all,
                    test: Some(test),
                    fingerprint,
                })
            }
            Held::Fraction(fraction) => {
                let (train, test) = all.split(*fraction, seed);
                if train.rows < FEWEST_ROWS_LEFT {
                    return Err(Failure::new(format!(
                        "--test-fraction {fraction}: of the {} rows of {} it leaves {} to train \
                         on, at least {FEWEST_ROWS_LEFT} are needed",
                        all.rows, all.source, train.rows
                    )));
                }
                Ok(if test.rows == 0 {
                    Self {
                        train: all,
                        test: None,
                        fingerprint,
                    }
                } else {
                    Self {
                        train,
                        test: Some(test),
                        fingerprint,
                    }
                })
            }
        }
    }

    pub fn thermocouple() -> Self {
        let (train, test) = Dataset::thermocouple();
        Self {
            fingerprint: Fingerprint {
                data: Rows::of(&train),
                test: Some(Rows::of(&test)),
            },
            train,
            test: Some(test),
        }
    }
}

/// A run folder with a network in it.
pub struct Run {
    pub path: PathBuf,
    pub checkpoint: Checkpoint,
}

impl Run {
    /// Reads and checks the network of a run folder.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let file = path.join(NETWORK);
        if !file.is_file() {
            let path = path.display();
            return Err(Failure::new(format!(
                "{path}: no run folder: there is no {NETWORK} in it (`kan train … --out {path}` makes one)"
            )));
        }
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        #[derive(Deserialize)]
        struct Trained {
            training: Training,
            progress: Option<Progress>,
        }
        let Version { format } = artifact::read_json(&file)?;
        let fault = |reason| Err(Failure::new(format!("{}: {reason}", file.display())));
        if format != FORMAT {
            return fault(format!(
                "of format {format}, but this kan reads format {FORMAT}"
            ));
        }
        let predictor = artifact::read_json(&file)?;
        let Trained { training, progress } = artifact::read_json(&file)?;
        let checkpoint = Checkpoint {
            predictor,
            training,
            progress,
        };
        if let Some(reason) = contradiction(&checkpoint) {
            return fault(format!("damaged: {reason}"));
        }
        Ok(Self {
            path: path.to_path_buf(),
            checkpoint,
        })
    }

    /// How far an interrupted training in this folder has come, if it is `training` of rows with
    /// this `schema` that was interrupted there.
    pub fn progress(path: &Path, training: &Training, schema: &Schema) -> Option<Progress> {
        let begun = Self::open(path).ok()?.checkpoint;
        let same = begun.training == *training && begun.predictor.schema == *schema;
        begun.progress.filter(|_| same)
    }

    /// The rows it was trained on and tested with, or whatever rows another file with the same
    /// columns holds.
    pub fn split(&self, other: Option<&Path>) -> Result<Split, Failure> {
        let Training {
            data,
            test,
            settings,
            ..
        } = &self.checkpoint.training;
        let schema = &self.checkpoint.predictor.schema;
        let path = match (other, data) {
            (Some(path), _) => path,
            (None, Source::Thermocouple) => {
                let split = Split::thermocouple();
                self.check_rows(&split, "the data set inside this kan")?;
                return Ok(split);
            }
            (None, Source::File(path)) => path,
        };
        let task = Some(self.checkpoint.predictor.task());
        if other.is_none() && !path.exists() && dataset::pair(path).is_none() {
            return Err(Failure::new(format!(
                "{}: the data of {} are no longer there; --data FILE.csv says where they are now",
                path.display(),
                self.path.display()
            )));
        }
        let split = Split::read(path, test, settings.seed, schema.target.names(), task)?;
        if split.train.schema() != *schema {
            return Err(Failure::new(format!(
                "{}: other columns or classes than those {} was trained on",
                path.display(),
                self.path.display()
            )));
        }
        if other.is_none() {
            self.check_rows(&split, &path.display().to_string())?;
        }
        Ok(split)
    }

    /// Refuses rows that training has not seen so: split again, what it was trained on would be
    /// among the test rows.
    fn check_rows(&self, split: &Split, data: &str) -> Result<(), Failure> {
        let Training {
            test, fingerprint, ..
        } = &self.checkpoint.training;
        let changed = |file: &str, now: Rows, then: Rows| {
            let difference = if now.rows == then.rows {
                "other values".to_string()
            } else {
                format!("{} rows instead of {}", now.rows, then.rows)
            };
            Err(Failure::new(format!(
                "{file}: changed since {} was trained: {difference} (--data FILE.csv goes on with \
                 other rows, and says so)",
                self.path.display()
            )))
        };
        if split.fingerprint.data != fingerprint.data {
            return changed(data, split.fingerprint.data, fingerprint.data);
        }
        match (split.fingerprint.test, fingerprint.test) {
            (Some(now), Some(then)) if now != then => {
                let file = match test {
                    Held::File(path) => path.display().to_string(),
                    Held::Fraction(_) => data.to_string(),
                };
                changed(&file, now, then)
            }
            _ => Ok(()),
        }
    }

    /// What training this network further works with.
    pub fn frame(&self, samples: &Samples, data: &Dataset) -> (Frame, Penalty) {
        let Checkpoint {
            predictor,
            training,
            ..
        } = &self.checkpoint;
        let frame = Frame {
            inputs: vec![Grid::uniform(predictor.network.degree(), -1.0, 1.0, 1); data.inputs()],
            limits: grid::limits(samples),
            constant: (0..data.inputs())
                .map(|i| !predictor.network.layers[0].is_used(i))
                .collect(),
            grid_eps: training.settings.grid_eps,
            descent: training.descent(data),
            starts: 0,
            seed: training.settings.seed,
        };
        let penalty = Penalty {
            roughness: training.roughness,
            slope: training.slope,
            lamb: 0.0,
        };
        (frame, penalty)
    }

    /// How the network came about, if its training came to an end.
    pub fn past(&self) -> Option<Past> {
        artifact::read_json(&self.path.join(METRICS)).ok()
    }

    /// All that was measured then.
    pub fn metrics(&self) -> Option<serde_json::Map<String, serde_json::Value>> {
        artifact::read_json(&self.path.join(METRICS)).ok()
    }

    /// Writes the network as a checkpoint, the tables and figures of another one taken away.
    pub fn save_network(&self) -> Result<(), Failure> {
        for stale in [METRICS, MODEL] {
            let path = self.path.join(stale);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Failure::new(format!(
                        "{}: cannot remove: {error}",
                        path.display()
                    )));
                }
                _ => {}
            }
        }
        Ok(artifact::write_json(
            &self.path.join(NETWORK),
            &self.checkpoint,
        )?)
    }

    /// Writes the network with its tables and figures.
    pub fn save(&self, compiled: &Compiled, metrics: &impl Serialize) -> Result<(), Failure> {
        self.save_network()?;
        artifact::write_atomic(&self.path.join(MODEL), &compiled.bytes)?;
        Ok(artifact::write_json(&self.path.join(METRICS), metrics)?)
    }
}

/// The name that a blob carries: that of the data.
pub fn model_name(training: &Training) -> String {
    match &training.data {
        Source::Thermocouple => "thermocouple_k".into(),
        Source::File(path) => {
            let images = dataset::pair(path).map(|(images, _)| images);
            let file = images.as_ref().unwrap_or(path).file_stem();
            one_line(&file.unwrap_or_default().to_string_lossy())
        }
    }
}

/// Refreshes what the predictor states about its own error, after its network has changed.
pub fn measure_error(predictor: &mut Predictor, samples: &Samples) {
    predictor.error = train::own_error(&predictor.network, samples);
}

/// What is wrong with a network that somebody else wrote, if anything would make it fail later.
fn contradiction(checkpoint: &Checkpoint) -> Option<&'static str> {
    let Predictor {
        schema,
        inputs,
        outputs,
        network,
        error,
        ..
    } = &checkpoint.predictor;
    if let Some(reason) = wrong_shape(network) {
        return Some(reason);
    }
    let (n_in, n_out) = ends(&network.width());
    if let Some(progress) = &checkpoint.progress {
        if let Some(reason) = progress.networks.iter().find_map(wrong_shape) {
            return Some(reason);
        }
        if !leads_to(progress, network) {
            return Some("an interrupted training of another network");
        }
    }
    if !checkpoint.training.descent.iter().all(is_proper) {
        return Some("a number of steps or a weight decay that training cannot take");
    }
    let labels = match &schema.target {
        TargetSchema::Regression { names } => names.len().max(2),
        TargetSchema::Classification { labels, .. } => labels.len(),
    };
    if labels < 2
        || schema.inputs.len() != n_in
        || inputs.len() != n_in
        || outputs.len() != n_out
        || predictor::network_outputs(&schema.target) != n_out
    {
        return Some("another number of columns than the network has inputs and outputs");
    }
    let finite = |values: [f64; 2]| values.iter().all(|value| value.is_finite());
    let proper = inputs
        .iter()
        .all(|range| finite([range.lo, range.hi]) && range.lo < range.hi)
        && outputs
            .iter()
            .all(|s| finite([s.offset, s.scale]) && s.scale != 0.0)
        && error.is_finite();
    (!proper).then_some("an input range or an output scale that is none")
}

fn ends(width: &[usize]) -> (usize, usize) {
    (width[0], width[width.len() - 1])
}

/// Whether `network` can be the mean that an interrupted training has come to, and training can go
/// on from there.
fn leads_to(progress: &Progress, network: &Network) -> bool {
    let Progress {
        recipe,
        networks,
        stages,
        ..
    } = progress;
    let Recipe {
        width,
        grids,
        penalty,
        members,
        descent,
    } = recipe;
    let alike = |member: &Network| {
        let found = member.width();
        // Of the members' own nodes some may have been pruned.
        found.len() == width.len()
            && ends(&found) == ends(width)
            && found.iter().zip(width).all(|(found, most)| found <= most)
            && member.base == network.base
            && member.degree() == network.degree()
            && member.layers[0].grids == network.layers[0].grids
            && member.intervals() == network.intervals()
            && member.edges() > 0
    };
    let increasing = grids.windows(2).all(|pair| pair[0] < pair[1]);
    network.width().len() == width.len()
        && ends(&network.width()) == ends(width)
        && width.iter().all(|&nodes| nodes <= MOST_NODES)
        && networks.len() == *members
        && !networks.is_empty()
        && networks.iter().all(alike)
        && stages.len() < grids.len()
        && stages.iter().zip(grids).all(|(stage, g)| stage.grid == *g)
        && increasing
        && is_proper(descent)
        && grids.iter().all(|g| (1..=FINEST).contains(g))
        && [penalty.roughness, penalty.slope, penalty.lamb]
            .iter()
            .all(|strength| *strength >= 0.0)
}

/// Whether stages can go so.
fn is_proper(descent: &Descent) -> bool {
    (1..=MOST_STEPS).contains(&descent.steps) && (0.0..=10.0).contains(&descent.weight_decay)
}

/// What is wrong with the layers of a network.
fn wrong_shape(network: &Network) -> Option<&'static str> {
    let Some(first) = network.layers.first() else {
        return Some("a network without layers");
    };
    let Some(grid) = first.grids.first() else {
        return Some("a layer without inputs");
    };
    let degree = grid.degree();
    for pair in network.layers.windows(2) {
        if pair[0].outputs != pair[1].inputs() {
            return Some("layers that do not fit each other");
        }
    }
    for layer in &network.layers {
        let shape = layer.inputs().checked_mul(layer.outputs);
        if layer.outputs == 0
            || shape != Some(layer.edges.len())
            || layer.inputs() == 0
            || layer.bias.len() != layer.outputs
        {
            return Some("a layer with another number of edges than its shape says");
        }
        if !layer.bias.iter().all(|bias| bias.is_finite())
            || layer.grids.iter().any(|grid| grid.degree() != degree)
        {
            return Some("a bias that is no number, or two degrees in one network");
        }
        for (e, edge) in layer.edges.iter().enumerate() {
            let Some(edge) = edge else { continue };
            let finite = edge.scale_base.is_finite() && edge.coef.iter().all(|c| c.is_finite());
            if !finite || edge.coef.len() != layer.grids[e / layer.outputs].functions() {
                return Some("an edge with coefficients that are no numbers, too few or too many");
            }
        }
    }
    None
}
