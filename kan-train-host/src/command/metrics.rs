//! `metrics.json`: what a training, its network and the blob come to.

use std::path::PathBuf;

use kan_train_host::compile::{self, Compiled, Options, Tables};
use kan_train_host::dataset::{Dataset, Task};
use kan_train_host::estimate::Instructions;
use kan_train_host::evaluator::Evaluator;
use kan_train_host::predictor::Score;
use kan_train_host::selection::Tried;
use kan_train_host::train::{Method, Stage};
use serde::{Deserialize, Serialize};

use super::Failure;
use super::console::{Console, figures, in_words, shape};
use super::run::{Checkpoint, Split, model_name};

/// `metrics.json`, and what `train --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Metrics {
    pub task: Task,
    /// Input columns, in the order of the model's inputs.
    pub inputs: Vec<String>,
    /// Target columns.
    pub targets: Vec<String>,
    pub train_rows: usize,
    pub test_rows: usize,
    /// Whether the network has been trained on other rows, too, as [`super::run::Training::other_rows`].
    pub other_rows: bool,
    /// Node counts from the inputs to the outputs, after pruning.
    pub width: Vec<usize>,
    pub edges: usize,
    /// The same before pruning.
    pub width_before: Vec<usize>,
    pub edges_before: usize,
    /// The network is the mean of so many, side by side.
    pub members: usize,
    pub parameters: usize,
    pub grid: usize,
    pub degree: usize,
    pub seed: u64,
    pub optimizer: Optimizer,
    /// Why this one, where training chose it.
    pub optimizer_reason: Option<String>,
    pub penalty: Penalties,
    pub seconds: f64,
    pub train: Score,
    pub test: Option<Score>,
    pub stages: Vec<Stage>,
    pub blob: Blob,
    /// How many candidates were compared on held-out training rows.
    pub candidates: usize,
    /// The best of them, best first.
    pub tried: Vec<Tried>,
}

/// The part of [`Metrics`] that a change of the network does not change.
#[derive(Clone, Debug, Deserialize)]
pub struct Past {
    pub width_before: Vec<usize>,
    pub edges_before: usize,
    pub penalty: Penalties,
    pub optimizer_reason: Option<String>,
    pub stages: Vec<Stage>,
    pub candidates: usize,
    pub tried: Vec<Tried>,
}

/// The optimiser that was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Optimizer {
    /// Levenberg–Marquardt, its steps by Cholesky factorisation.
    #[serde(rename = "lm, factorised")]
    Factorised,
    /// The same for large networks, its steps by conjugate gradients.
    #[serde(rename = "lm, conjugate gradients")]
    ConjugateGradients,
    /// Limited-memory BFGS on all rows.
    #[serde(rename = "lbfgs")]
    Lbfgs,
    /// AdamW on mini-batches.
    #[serde(rename = "adamw")]
    AdamW,
}

impl Optimizer {
    /// The method, and whether second-order steps were by factorisation.
    pub fn of(method: Method, factorised: bool) -> Self {
        match method {
            Method::Lbfgs => Self::Lbfgs,
            Method::AdamW => Self::AdamW,
            Method::Lm if factorised => Self::Factorised,
            Method::Lm => Self::ConjugateGradients,
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Factorised => "Levenberg-Marquardt, factorised",
            Self::ConjugateGradients => "Levenberg-Marquardt by conjugate gradients",
            Self::Lbfgs => "L-BFGS",
            Self::AdamW => "AdamW on mini-batches",
        }
    }
}

/// The penalties that were used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Penalties {
    pub roughness: f64,
    pub slope: f64,
    pub lamb: f64,
}

/// A blob and how good it is.
#[derive(Clone, Debug, Serialize)]
pub struct Blob {
    /// Where it is, unless it was not kept.
    pub path: Option<PathBuf>,
    pub bytes: usize,
    pub tables: Tables,
    pub bits: u8,
    /// Estimates for one inference.
    pub instructions: Instructions,
    /// From integers to integers, for tables of integers.
    pub instructions_q: Option<Instructions>,
    /// Measured by running kan-core on the bytes.
    pub train: Option<Score>,
    /// Measured by running kan-core on the bytes.
    pub test: Option<Score>,
    /// For each network output the most by which tables and network can differ inside the domain.
    pub error_bound: Vec<f64>,
    /// The most by which they do on the rows at hand.
    pub deviation: Vec<f64>,
    /// The root mean square of that on the training rows.
    pub rms_deviation: Vec<f64>,
    /// Whether that is at most a tenth of the network's own error, of tables of 8 bits a sixth.
    pub within_tolerance: bool,
    /// Table intervals by layer and input node.
    pub intervals: Vec<Vec<usize>>,
}

impl Blob {
    /// Compiles a network, runs kan-core on the bytes, and holds it to its error bound.
    pub fn make(
        checkpoint: &Checkpoint,
        split: Option<&Split>,
        options: &Options,
        path: Option<PathBuf>,
    ) -> Result<(Compiled, Self), Failure> {
        let Checkpoint {
            predictor,
            training,
            ..
        } = checkpoint;
        let rows = split.map_or(&[][..], |split| &split.train.x);
        let compiled = compile::compile(predictor, &model_name(training), options, rows)?;
        let evaluator = Evaluator::load(&compiled.bytes)?;
        let mut deviation = vec![0.0_f64; predictor.outputs.len()];
        let mut measure = |data: &Dataset| {
            let outputs: Vec<f64> = evaluator.eval(&data.x).into_iter().map(f64::from).collect();
            let network = predictor.eval(&data.x);
            let rows = outputs
                .chunks(deviation.len())
                .zip(network.chunks(deviation.len()));
            for ((device, network), covered) in rows.zip(evaluator.in_domain(&data.x)) {
                if covered {
                    for ((most, device), network) in deviation.iter_mut().zip(device).zip(network) {
                        *most = most.max((device - network).abs());
                    }
                }
            }
            Score::of(&outputs, data)
        };
        let train = split.map(|split| measure(&split.train));
        let test = split.and_then(|split| split.test.as_ref()).map(measure);
        if let Some((found, bound)) = deviation
            .iter()
            .zip(&compiled.error_bound)
            .find(|(found, bound)| found > bound)
        {
            return Err(Failure::new(format!(
                "the tables differ from the network by {found:e}, but should by {bound:e} at most: \
                 this is a fault of kan, please report it"
            )));
        }
        let blob = Self {
            path,
            bytes: compiled.bytes.len(),
            tables: compiled.kind.tables,
            bits: compiled.kind.bits,
            instructions: compiled.instructions,
            instructions_q: compiled.instructions_q,
            train,
            test,
            error_bound: compiled.error_bound.clone(),
            deviation,
            rms_deviation: compiled.rms_deviation.clone(),
            within_tolerance: compiled.within_tolerance,
            intervals: compiled.intervals.clone(),
        };
        Ok((compiled, blob))
    }

    /// The lines of a report.
    pub fn say(&self, console: &Console) {
        let path = self
            .path
            .as_ref()
            .map_or("not kept".into(), |p| p.display().to_string());
        let Self {
            bytes,
            tables,
            bits,
            ..
        } = self;
        console.say(format_args!(
            "blob: {path}: {bytes} bytes, {tables} tables of {bits} bits"
        ));
        if let Some(score) = self.test.as_ref().or(self.train.as_ref()) {
            let rows = if self.test.is_some() {
                "test"
            } else {
                "training"
            };
            let most = |list: &[f64]| figures(list.iter().copied().fold(0.0, f64::max));
            console.say(format_args!(
                "      kan-core on these bytes, {rows} rows: {}; at most {} from the network (bound {})",
                in_words(score),
                most(&self.deviation),
                most(&self.error_bound)
            ));
        }
        if !self.within_tolerance {
            let rms = self.rms_deviation.iter().copied().fold(0.0, f64::max);
            console.say(format_args!(
                "      warning: {tables} tables of this size are {} (RMS) from the network, more than \
                 a {} of its own error",
                figures(rms),
                if *bits == 8 { "sixth" } else { "tenth" }
            ));
        }
    }
}

/// What is known about a training besides its network.
pub struct History {
    pub width_before: Vec<usize>,
    pub edges_before: usize,
    pub members: usize,
    pub stages: Vec<Stage>,
    pub candidates: usize,
    pub tried: Vec<Tried>,
    pub lamb: f64,
    pub optimizer: Optimizer,
    pub optimizer_reason: Option<String>,
    pub seconds: f64,
}

impl Metrics {
    /// The figures of a network, its score on both parts of the data among them.
    pub fn of(checkpoint: &Checkpoint, split: &Split, blob: Blob, history: History) -> Self {
        let Checkpoint {
            predictor,
            training,
            ..
        } = checkpoint;
        let network = &predictor.network;
        let score = |data: &Dataset| Score::of(&predictor.eval(&data.x), data);
        let (roughness, slope) = (training.roughness, training.slope);
        Self {
            task: predictor.task(),
            inputs: predictor.schema.inputs.clone(),
            targets: predictor.schema.target.names().to_vec(),
            train_rows: split.train.rows,
            test_rows: split.test.as_ref().map_or(0, |test| test.rows),
            other_rows: training.other_rows,
            width: network.width(),
            edges: network.edges(),
            width_before: history.width_before,
            edges_before: history.edges_before,
            members: history.members,
            parameters: network.parameters(),
            grid: network.intervals(),
            degree: network.degree(),
            seed: training.settings.seed,
            optimizer: history.optimizer,
            optimizer_reason: history.optimizer_reason,
            penalty: Penalties {
                roughness,
                slope,
                lamb: history.lamb,
            },
            seconds: history.seconds,
            train: score(&split.train),
            test: split.test.as_ref().map(score),
            stages: history.stages,
            blob,
            candidates: history.candidates,
            tried: history.tried,
        }
    }

    /// The lines of a report.
    pub fn say(&self, console: &Console) {
        let (edges, before) = (self.edges, self.edges_before);
        let (width, was) = (shape(&self.width), shape(&self.width_before));
        let parameters = match self.members {
            1 => format!("{} parameters", self.parameters),
            n => format!("{} parameters, the mean of {n} networks", self.parameters),
        };
        console.say(if edges == before {
            format!("network: {width}, {edges} edges (none pruned), {parameters}")
        } else {
            format!("network: {was}, {before} edges → {width}, {edges} edges, {parameters}")
        });
        let optimizer = self.optimizer.in_words();
        let why = self.optimizer_reason.as_ref();
        let optimizer = why.map_or(optimizer.to_string(), |why| format!("{optimizer}: {why}"));
        match self.candidates {
            0 => console.say(format_args!("         {optimizer}")),
            n => console.say(format_args!(
                "         {optimizer}; the best of {n} candidates on held-out training rows{}:",
                match self.tried.len() {
                    shown if shown < n => format!(", the first {shown}"),
                    _ => String::new(),
                }
            )),
        }
        for (at, tried) in self.tried.iter().enumerate() {
            let more = match self.members {
                members if at == 0 && members > tried.members => {
                    format!("; trained as the mean of {members}")
                }
                _ => String::new(),
            };
            console.say(format_args!("           {}{more}", candidate(tried)));
        }
        match &self.test {
            Some(test) => console.say(format_args!("test: {}", in_words(test))),
            None => console.say(format_args!("training rows: {}", in_words(&self.train))),
        }
        self.blob.say(console);
    }
}

/// A candidate of the selection, and how it did.
fn candidate(tried: &Tried) -> String {
    let mut text = format!("{} grid {}", shape(&tried.width), tried.grid);
    match tried.epochs {
        Some(epochs) => text += &format!(", {epochs} epochs, decay {}", tried.weight_decay),
        None => text += &format!(", roughness {:e}", tried.roughness),
    }
    if tried.slope > 0.0 {
        text += &format!(", slope {:e}", tried.slope);
    }
    if tried.members > 1 {
        text += &format!(", the mean of {}", tried.members);
    }
    let (parameters, loss) = (tried.parameters, figures(tried.loss));
    format!("{text}: {parameters} parameters, held-out loss {loss}")
}
