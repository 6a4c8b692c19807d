//! Training, start to end: starts at random, grid continuation, selection, pruning.
//!
//! What the user fixes is kept; the rest (shape, grid, penalty) is chosen on held-out rows, see
//! [`crate::selection`]. Then the network is trained once more on all rows, grid after grid,
//! pruned, and trained again.

mod frame;

use std::ops::ControlFlow;
use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use self::frame::Frame;
use crate::adamw;
use crate::dataset::{Dataset, Target};
use crate::grid;
use crate::levenberg;
use crate::network::{Base, Network};
use crate::objective::{self, Samples};
use crate::penalty::Penalty;
use crate::predictor::{self, FORMAT, Predictor, Range, Scale, Score};
use crate::selection::{self, Choice, Tried};
use crate::spline::{Grid, MAX_DEGREE};

/// Random starts whose first steps decide which go on.
pub(crate) const STARTS: usize = 5;
/// As many for each network of the final training that does not come from the selection: a deep one
/// finds a good minimum from one start in ten. With two hidden layers, where the shape is fixed, the
/// first steps do not always tell which, and there are twice as many.
const MANY_STARTS: usize = 32;
/// The most nodes of a layer.
pub const MOST_NODES: usize = 4096;
/// The most intervals of a grid.
pub const FINEST: usize = 2000;
/// The intervals of an adaptive choice of grid: each extension halves, so that it is exact.
pub const GRIDS: [usize; 8] = [3, 6, 12, 24, 48, 96, 192, 384];

/// Active parameters (k + 2 of an edge) of all rows together, beyond which one pass of Gauss–Newton
/// products takes a second, a step of them a minute, and training hours.
const MOST_ACTIVE: f64 = 5e7;
/// The most steps or epochs.
pub const MOST_STEPS: usize = 1_000_000;
/// Hidden nodes of a network for AdamW where the user does not say.
const WIDE: usize = 64;
/// Intervals of the grids of a network for AdamW.
pub(crate) const WIDE_GRID: usize = 5;

/// How a stage is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// [`crate::levenberg`].
    Lm,
    /// [`crate::lbfgs`].
    Lbfgs,
    /// [`adamw`].
    AdamW,
}

impl Method {
    /// The most steps (of AdamW: epochs) on each grid where the user does not say.
    pub fn steps(self) -> usize {
        match self {
            Self::Lm => 100,
            Self::Lbfgs => 500,
            Self::AdamW => 10,
        }
    }
}

/// How the stages of a training go.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Descent {
    /// The optimiser.
    pub method: Method,
    /// Most steps, or epochs, for each grid.
    pub steps: usize,
    /// What AdamW takes from every parameter in a step, times the learning rate; the others take
    /// none.
    pub weight_decay: f32,
}

impl Descent {
    /// As `method` goes where nothing else is asked for or chosen.
    pub fn by(method: Method, steps: Option<usize>) -> Self {
        Self {
            method,
            steps: steps.unwrap_or(method.steps()),
            weight_decay: adamw::WEIGHT_DECAY,
        }
    }

    /// What follows pruning: of AdamW's epochs a quarter, as more would only repeat the rows.
    pub fn after_pruning(self) -> Self {
        match self.method {
            Method::AdamW => Self {
                steps: self.steps.div_ceil(4),
                ..self
            },
            _ => self,
        }
    }
}

/// What the user wants; `None` where training decides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Node counts from the inputs to the outputs.
    pub width: Option<Vec<usize>>,
    /// Grid intervals, one stage each.
    pub grid: Option<Vec<usize>>,
    /// Spline degree, 1 to 5; 3 if not given.
    pub degree: Option<usize>,
    /// Domains of inputs in their own units, by number.
    pub domain: Vec<(usize, Range)>,
    /// How to train; if not given, by cost ([`choose_method`]) and, hidden layers of a
    /// classification, by held-out rows.
    pub optimizer: Option<Method>,
    /// Most steps, or epochs, for each grid; [`Method::steps`] if not given and not chosen.
    pub steps: Option<usize>,
    /// λ of the sparsity penalty (2.20), applied on the first grid; then the network is pruned.
    pub lamb: Option<f64>,
    /// Times range³·∫(φ″)²; chosen on held-out rows if not given.
    pub roughness: Option<f64>,
    /// Blend of even spacing (1) and quantiles (0) in the grids. If not given, hidden grids are
    /// even, and inputs are blended where their values crowd ([`grid::blend`]).
    pub grid_eps: Option<f64>,
    /// Leaves every edge in place.
    pub no_prune: bool,
    /// Seed of everything random.
    pub seed: u64,
}

/// Why training cannot start. Each is one line.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrainError {
    /// The first or last width does not fit the data.
    #[error("--width {given}: the data have {inputs} inputs and need {outputs} network outputs")]
    Width {
        /// What was asked for.
        given: String,
        /// Input columns.
        inputs: usize,
        /// Outputs of the network.
        outputs: usize,
    },
    /// An option's value is out of its range.
    #[error("{option}: {reason}")]
    Option {
        /// The option as it is written.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A row lies outside the stated domain.
    #[error("--domain: column `{column}` has {value}, outside {lo}:{hi}")]
    OutsideDomain {
        /// The column.
        column: String,
        /// Its value.
        value: f64,
        /// Stated lower end.
        lo: f64,
        /// Stated upper end.
        hi: f64,
    },
    /// Nothing to learn from.
    #[error("{file}: column `{column}` is the same in every row; there is nothing to learn")]
    ConstantTarget {
        /// The file.
        file: String,
        /// The column.
        column: String,
    },
    /// Every input is constant.
    #[error("{file}: every input column is the same in every row; there is nothing to learn from")]
    ConstantInputs {
        /// The file.
        file: String,
    },
    /// A column whose range is beyond the arithmetic.
    #[error(
        "{file}: column `{column}` has values or a range too large or too small to calculate with; use another unit"
    )]
    Unit {
        /// The file.
        file: String,
        /// The column.
        column: String,
    },
    /// The optimiser found no finite network.
    #[error("training did not converge to finite numbers; try a smaller --grid or --width")]
    Diverged,
    /// Whoever watched has ended it.
    #[error("training was stopped")]
    Stopped,
}

/// One grid of the final training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Intervals.
    pub grid: usize,
    /// RMSE or log-loss on the training rows.
    pub train: f64,
    /// The same on the test rows, if there are any.
    pub test: Option<f64>,
    /// Seconds for this stage.
    pub seconds: f64,
}

/// What training tells while it runs.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A candidate of the selection is finished; how many of how many.
    Candidate {
        /// Finished ones.
        done: usize,
        /// All of them, as far as known.
        of: usize,
    },
    /// A step of the final training.
    Step {
        /// Intervals.
        grid: usize,
        /// The number of the step on this grid.
        step: usize,
        /// Most steps on this grid.
        of: usize,
        /// Loss in the network's units.
        loss: f64,
    },
    /// A grid of the final training is finished.
    Stage(&'a Stage),
    /// The way so far, and the network as it is, before each grid.
    Checkpoint(&'a Progress, &'a Predictor),
}

/// How far a training has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What was chosen.
    pub recipe: Recipe,
    /// The candidates it was chosen from, best first.
    pub tried: Vec<Tried>,
    /// The networks whose mean is the result.
    pub networks: Vec<Network>,
    /// The grids they have gone through.
    pub stages: Vec<Stage>,
}

/// A trained network and how it came about.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The network.
    pub predictor: Predictor,
    /// The grids of the final training.
    pub stages: Vec<Stage>,
    /// The candidates that were compared, best first; empty if the user fixed everything.
    pub tried: Vec<Tried>,
    /// The penalty that was used.
    pub penalty: Penalty,
    /// Node counts of the networks whose mean it is: see [`Network::members`].
    pub members: Vec<Vec<usize>>,
    /// Node counts before pruning.
    pub width_before: Vec<usize>,
    /// The number of edges before pruning.
    pub edges_before: usize,
    /// How it was trained.
    pub descent: Descent,
    /// Whether second-order steps of the networks, as they are now, are by factorisation.
    pub factorised: bool,
    /// Why it was trained by this method, where training decided.
    pub why: Option<String>,
}

/// Shape, grids and penalty of one training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Node counts.
    pub width: Vec<usize>,
    /// Intervals, in the order of the stages.
    pub grids: Vec<usize>,
    /// Penalty of every stage.
    pub penalty: Penalty,
    /// The network is the mean of so many, trained from different starts.
    pub members: usize,
    /// How each stage is trained.
    pub descent: Descent,
}

/// Trains on `data`; `test` is only measured. With the `progress` of an earlier training of the
/// same data and settings it goes on from there, and ends as that one would have. `watch` can end
/// the training at a checkpoint.
///
/// # Errors
/// As [`check`]; [`TrainError::Diverged`]; [`TrainError::Stopped`] if `watch` broke off.
pub fn train(
    data: &Dataset,
    test: Option<&Dataset>,
    settings: &Settings,
    progress: Option<Progress>,
    watch: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    let mut predictor = frame_of(data, settings)?;
    let samples = predictor::samples(data, &predictor.inputs, &predictor.outputs);
    let degree = settings.degree.unwrap_or(3);
    let (method, why) = choose_method(data, settings);
    let frame = Frame {
        inputs: vec![Grid::uniform(degree, -1.0, 1.0, 1); data.inputs()],
        limits: grid::limits(&samples),
        constant: (0..data.inputs())
            .map(|i| is_constant(data.range(i)))
            .collect(),
        grid_eps: settings.grid_eps,
        descent: Descent::by(method, settings.steps),
        starts: match &settings.width {
            Some(width) if width.len() > 3 => 2 * MANY_STARTS,
            _ => MANY_STARTS,
        },
        seed: settings.seed,
    };
    let mut clock = Instant::now();
    let mut progress = match progress {
        Some(progress) => progress,
        None => {
            let mut choice = match method {
                Method::AdamW => wide(&frame, &samples, settings),
                _ => selection::choose(&frame, &samples, settings, &mut |event| {
                    let _ = watch(event);
                }),
            };
            // A checkpoint holds no other numbers.
            choice.tried.retain(|tried| tried.loss.is_finite());
            clock = Instant::now();
            Progress {
                networks: frame
                    .to_train(&choice.recipe)
                    .starts(&samples, &choice, settings),
                recipe: choice.recipe,
                tried: choice.tried,
                stages: Vec::new(),
            }
        }
    };
    let frame = frame.to_train(&progress.recipe);
    let why = why.or_else(|| why_not(method, &progress));
    predictor.network = Network::mean(&progress.networks);
    predictor.error = own_error(&predictor.network, &samples);
    while let Some(&intervals) = progress.recipe.grids.get(progress.stages.len()) {
        if watch(Event::Checkpoint(&progress, &predictor)).is_break() {
            return Err(TrainError::Stopped);
        }
        let last = progress.stages.len() + 1 == progress.recipe.grids.len();
        let prune = last && !settings.no_prune;
        let penalty = &progress.recipe.penalty;
        let networks = &mut progress.networks;
        frame.stage_of_all(
            networks,
            &samples,
            intervals,
            penalty,
            prune,
            &mut |event| {
                let _ = watch(event);
            },
        );
        predictor.network = Network::mean(networks);
        predictor.error = own_error(&predictor.network, &samples);
        let error = |data: &Dataset| Score::of(&predictor.eval(&data.x), data).error();
        let stage = Stage {
            grid: intervals,
            train: error(data),
            test: test.map(error),
            seconds: clock.elapsed().as_secs_f64(),
        };
        clock = Instant::now();
        if !stage.train.is_finite() {
            return Err(TrainError::Diverged);
        }
        let _ = watch(Event::Stage(&stage));
        progress.stages.push(stage);
    }
    let Progress {
        recipe,
        tried,
        networks,
        stages,
    } = progress;
    let mut width_before = recipe.width.clone();
    let hidden = 1..width_before.len() - 1;
    for nodes in &mut width_before[hidden] {
        *nodes *= recipe.members;
    }
    Ok(Trained {
        predictor,
        stages,
        tried,
        penalty: recipe.penalty,
        members: networks.iter().map(Network::width).collect(),
        edges_before: recipe.members * full_edges(&recipe.width, &frame.constant),
        width_before,
        descent: recipe.descent,
        factorised: networks
            .iter()
            .all(|network| levenberg::is_factorable(network, &samples)),
        why,
    })
}

/// What to train with AdamW: what the user says, else one hidden layer. A random start is enough,
/// and weight decay takes the place of penalties.
fn wide(frame: &Frame, samples: &Samples, settings: &Settings) -> Choice {
    let width = settings.width.clone();
    let recipe = Recipe {
        width: width.unwrap_or_else(|| vec![samples.inputs, WIDE, samples.outputs]),
        grids: settings.grid.clone().unwrap_or_else(|| vec![WIDE_GRID]),
        penalty: Penalty::default(),
        members: 1,
        descent: frame.descent,
    };
    Choice {
        recipe,
        starts: Vec::new(),
        tried: Vec::new(),
    }
}

/// Why the selection took another optimiser than `method`, if it did.
fn why_not(method: Method, progress: &Progress) -> Option<String> {
    let Progress { recipe, tried, .. } = progress;
    let why = if tried.iter().any(|tried| tried.epochs.is_none()) {
        "better on held-out rows than the additive network by second order"
    } else {
        "the hidden layers of a classification are trained with it"
    };
    (recipe.descent.method != method).then(|| why.into())
}

/// How to train a network on `data` as far as cost decides (a classification may still be given to
/// AdamW by the selection), and, where the settings leave it open, why so: second order while a
/// pass of it over the rows is quick, for the shape that is asked for or the smallest there is.
pub fn choose_method(data: &Dataset, settings: &Settings) -> (Method, Option<String>) {
    if let Some(method) = settings.optimizer {
        return (method, None);
    }
    let outputs = predictor::network_outputs(&data.schema().target);
    let additive = vec![data.inputs(), outputs];
    let width = settings.width.as_ref().unwrap_or(&additive);
    let edges: usize = width.windows(2).map(|pair| pair[0] * pair[1]).sum();
    let active = edges * (settings.degree.unwrap_or(3) + 2);
    let all = data.rows as f64 * active as f64;
    if all <= MOST_ACTIVE {
        return (Method::Lm, None);
    }
    let why = format!(
        "{} rows × {active} active parameters are too many for Gauss-Newton steps",
        data.rows
    );
    (Method::AdamW, Some(why))
}

/// The edges of a network before anything is pruned.
fn full_edges(width: &[usize], constant: &[bool]) -> usize {
    let useless = constant.iter().filter(|constant| **constant).count();
    width
        .windows(2)
        .map(|pair| pair[0] * pair[1])
        .sum::<usize>()
        - useless * width[1]
}

/// See [`Predictor::error`].
pub fn own_error(network: &Network, samples: &Samples) -> f64 {
    match samples.target {
        objective::Target::Values(_) => {
            (2.0 * objective::loss(network, samples) / samples.outputs as f64).sqrt()
        }
        objective::Target::Classes(_) => 0.02,
    }
}

fn is_constant((lo, hi): (f64, f64)) -> bool {
    // NaN cannot occur: a data set is finite.
    hi - lo <= 1e-12 * lo.abs().max(hi.abs())
}

/// Whether the settings fit the data: what [`train`] finds out before its work begins.
///
/// # Errors
/// A [`TrainError`] that names the option, or the file and column.
pub fn check(data: &Dataset, settings: &Settings) -> Result<(), TrainError> {
    frame_of(data, settings).map(|_| ())
}

/// A predictor without its network: domains, scales and checks of the settings against the data.
fn frame_of(data: &Dataset, settings: &Settings) -> Result<Predictor, TrainError> {
    let schema = data.schema();
    let n_out = predictor::network_outputs(&schema.target);
    let option = |option, reason: String| Err(TrainError::Option { option, reason });
    if let Some(width) = &settings.width {
        let ends = (width.first(), width.last());
        let fits = ends == (Some(&data.inputs()), Some(&n_out)) && width.len() >= 2;
        if !fits {
            let given: Vec<String> = width.iter().map(ToString::to_string).collect();
            return Err(TrainError::Width {
                given: given.join(","),
                inputs: data.inputs(),
                outputs: n_out,
            });
        }
        if width.iter().any(|&n| !(1..=MOST_NODES).contains(&n)) || width.len() > 17 {
            return option(
                "--width",
                format!("a layer has 1 to {MOST_NODES} nodes, a network 1 to 16 layers"),
            );
        }
    }
    if let Some(grids) = &settings.grid {
        if grids.is_empty() || grids.iter().any(|&g| !(1..=FINEST).contains(&g)) {
            return option("--grid", format!("a grid has 1 to {FINEST} intervals"));
        }
        if grids.windows(2).any(|pair| pair[0] >= pair[1]) {
            return option("--grid", "the grids must increase".into());
        }
    }
    if settings
        .degree
        .is_some_and(|degree| !(1..=MAX_DEGREE).contains(&degree))
    {
        return option("--degree", format!("a degree is 1 to {MAX_DEGREE}"));
    }
    if settings
        .steps
        .is_some_and(|steps| !(1..=MOST_STEPS).contains(&steps))
    {
        return option("--steps", format!("1 to {MOST_STEPS}"));
    }
    if choose_method(data, settings).0 == Method::AdamW {
        for (name, value) in [("--lamb", settings.lamb), ("roughness", settings.roughness)] {
            if value.is_some() {
                let reason = "AdamW knows no such penalty; take --optimizer lm or lbfgs";
                return option(name, reason.into());
            }
        }
    }
    for (name, value) in [
        ("--lamb", settings.lamb),
        ("roughness", settings.roughness),
        ("grid_eps", settings.grid_eps),
    ] {
        if value.is_some_and(|value| !(value.is_finite() && value >= 0.0)) {
            return option(name, "must be a number that is not negative".into());
        }
    }
    if settings.grid_eps.is_some_and(|blend| blend > 1.0) {
        return option("grid_eps", "is 0 (quantiles) to 1 (even spacing)".into());
    }
    let columns = (0..data.inputs()).map(|i| data.range(i));
    if columns.clone().all(is_constant) {
        return Err(TrainError::ConstantInputs {
            file: data.source.clone(),
        });
    }
    let mut inputs: Vec<Range> = columns
        .map(|range| sampled_range(range, data.rows))
        .collect();
    for &(column, range) in &settings.domain {
        let (lo, hi) = data.range(column);
        let beyond = if lo < range.lo {
            Some(lo)
        } else {
            (hi > range.hi).then_some(hi)
        };
        if let Some(value) = beyond {
            return Err(TrainError::OutsideDomain {
                column: data.input_names[column].clone(),
                value,
                lo: range.lo,
                hi: range.hi,
            });
        }
        if !is_usable(range) {
            let name = &data.input_names[column];
            let (lo, hi) = (range.lo, range.hi);
            return option(
                "--domain",
                format!("column `{name}`: {lo}:{hi} is no range"),
            );
        }
        inputs[column] = range;
    }
    if let Some(column) = inputs.iter().position(|&range| !is_usable(range)) {
        return Err(TrainError::Unit {
            file: data.source.clone(),
            column: data.input_names[column].clone(),
        });
    }
    let outputs = match &data.target {
        Target::Classification { .. } => vec![
            Scale {
                offset: 0.0,
                scale: 1.0
            };
            n_out
        ],
        Target::Regression { names, y } => (0..n_out)
            .map(|k| {
                let column = || y.iter().skip(k).step_by(n_out).copied();
                let offset = column().sum::<f64>() / data.rows as f64;
                let variance =
                    column().map(|y| (y - offset).powi(2)).sum::<f64>() / data.rows as f64;
                let scale = variance.sqrt();
                if !scale.is_finite() || column().any(|y| y.abs() > LARGEST) {
                    return Err(TrainError::Unit {
                        file: data.source.clone(),
                        column: names[k].clone(),
                    });
                }
                if scale <= 1e-12 * offset.abs() || scale == 0.0 {
                    return Err(TrainError::ConstantTarget {
                        file: data.source.clone(),
                        column: names[k].clone(),
                    });
                }
                Ok(Scale { offset, scale })
            })
            .collect::<Result<_, _>>()?,
    };
    let network = Network {
        base: Base::Silu,
        layers: Vec::new(),
    };
    Ok(Predictor {
        format: FORMAT,
        schema,
        inputs,
        outputs,
        error: 0.0,
        network,
    })
}

/// The largest magnitude of a column: the tables hold `f32`, and a sum of several edges at the ends
/// of their tables, from where they go on straight, is larger than any value of the data.
const LARGEST: f64 = 1e30;

/// Whether the map from a range to −1 … 1 is made of ordinary numbers.
fn is_usable(Range { lo, hi }: Range) -> bool {
    hi > lo && (hi - lo).is_normal() && lo.abs().max(hi.abs()) <= LARGEST
}

/// The domain of an input that the user does not state: the sampled range and a little more, as
/// much as a few further samples can be expected to go beyond it (for even sampling 1/rows of the
/// range).
fn sampled_range((lo, hi): (f64, f64), rows: usize) -> Range {
    if is_constant((lo, hi)) {
        let half = lo.abs().max(1.0);
        return Range {
            lo: lo - half,
            hi: hi + half,
        };
    }
    let margin = (3.0 / rows as f64).min(0.02) * (hi - lo);
    Range {
        lo: lo - margin,
        hi: hi + margin,
    }
}
