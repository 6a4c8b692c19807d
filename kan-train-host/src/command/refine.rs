//! `kan refine` and `kan prune`: a run's network changed, trained again and compiled again.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use kan_train_host::artifact::{self, MODEL};
use kan_train_host::compile::Options as TableOptions;
use kan_train_host::dataset::Dataset;
use kan_train_host::levenberg;
use kan_train_host::network::Network;
use kan_train_host::objective::Samples;
use kan_train_host::predictor::{self, Score};
use kan_train_host::prune;
use kan_train_host::statistics::statistics;
use kan_train_host::train::{Event, FINEST, Stage};
use serde::Serialize;

use super::Failure;
use super::console::{Console, in_words, shape};
use super::metrics::{Blob, History, Metrics, Optimizer};
use super::run::{Run, Split, measure_error};

/// Give a trained network finer grids, and train it further
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan refine airfoil --grid 24

Trains on the rows that RUN was trained on, read again from where they were, and measures on the
same test rows; if they have changed it refuses, unless --data names the file to take all the same.
Replaces network.json, model.kan and metrics.json.")]
pub struct Refine {
    /// A folder that `kan train` made
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Grid intervals, more than it has
    #[arg(long, value_name = "N")]
    grid: usize,
    /// The data, if they have moved
    #[arg(long, value_name = "FILE.csv")]
    data: Option<PathBuf>,
}

/// Remove edges or nodes from a trained network, and train it further
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan prune airfoil
         kan prune airfoil --edge 0:2:1      (from input 2 to node 1 of the first hidden layer)
         kan prune airfoil --node 1:3        (node 3 of the first hidden layer)

Layers and nodes count from 0; layer 0 is the inputs. Trains on the rows that RUN was trained on,
read again from where they were. Replaces network.json, model.kan and metrics.json.")]
pub struct Prune {
    /// A folder that `kan train` made
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Remove this hidden node
    #[arg(long, value_name = "L:I", conflicts_with_all = ["edge", "threshold"])]
    node: Option<NodeNumber>,
    /// Remove the edge from node I of layer L to node J of the next
    #[arg(long, value_name = "L:I:J", conflicts_with = "threshold")]
    edge: Option<EdgeNumber>,
    /// Remove the edges whose share in the outputs is less (θ of the KAN paper) [default: 0.01, of
    /// the mean of N networks 0.01/N]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    threshold: Option<f64>,
    /// The data, if they have moved
    #[arg(long, value_name = "FILE.csv")]
    data: Option<PathBuf>,
}

/// `L:I`.
#[derive(Clone, Copy, Debug)]
struct NodeNumber([usize; 2]);

/// `L:I:J`.
#[derive(Clone, Copy, Debug)]
struct EdgeNumber([usize; 3]);

impl FromStr for NodeNumber {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        numbers(text)
            .map(Self)
            .ok_or("it is LAYER:NODE, such as 1:3")
    }
}

impl FromStr for EdgeNumber {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        numbers(text)
            .map(Self)
            .ok_or("it is LAYER:FROM:TO, such as 0:2:1")
    }
}

/// Exactly `N` numbers with colons between them.
fn numbers<const N: usize>(text: &str) -> Option<[usize; N]> {
    let parts: Option<Vec<usize>> = text.split(':').map(|part| part.parse().ok()).collect();
    parts?.try_into().ok()
}

/// A network as it was.
#[derive(Clone, Debug, Serialize)]
struct Before {
    width: Vec<usize>,
    edges: usize,
    parameters: usize,
    grid: usize,
    train: Score,
    test: Option<Score>,
}

/// What `refine` and `prune` print, and leave as `metrics.json`.
#[derive(Serialize)]
struct Change {
    #[serde(flatten)]
    metrics: Metrics,
    before: Before,
}

pub fn refine(args: &Refine, console: &Console) -> Result<(), Failure> {
    let run = Run::open(&args.run)?;
    let grid = run.checkpoint.predictor.network.intervals();
    if args.grid <= grid || args.grid > FINEST {
        return Err(Failure::new(format!(
            "--grid {}: the grids of {} have {grid} intervals; it is {} to {FINEST}",
            args.grid,
            args.run.display(),
            grid + 1,
        )));
    }
    change(
        run,
        args.data.as_deref(),
        Some(args.grid),
        |_, _, _| Ok(()),
        console,
    )
}

pub fn prune(args: &Prune, console: &Console) -> Result<(), Failure> {
    if let Some(threshold) = args.threshold.filter(|x| !(0.0..1.0).contains(x)) {
        return Err(Failure::usage(format!(
            "--threshold {threshold}: it is 0 to 1"
        )));
    }
    let remove = |network: &mut Network, samples: &Samples, members: usize| {
        // Each member of a mean makes its part of the outputs.
        let usual = prune::THRESHOLD / members as f64;
        match (args.node, args.edge) {
            (Some(NodeNumber(node)), _) => remove_node(network, samples, node),
            (_, Some(EdgeNumber(edge))) => remove_edge(network, samples, edge),
            (None, None) => remove_below(network, samples, args.threshold.unwrap_or(usual)),
        }
    };
    change(
        Run::open(&args.run)?,
        args.data.as_deref(),
        None,
        remove,
        console,
    )
}

fn remove_node(
    network: &mut Network,
    samples: &Samples,
    [layer, node]: [usize; 2],
) -> Result<(), Failure> {
    let width = network.width();
    let wrong = |reason: String| Err(Failure::new(format!("--node {layer}:{node}: {reason}")));
    if layer == 0 || layer + 1 >= width.len() {
        return wrong(format!("no layer of hidden nodes in {}", shape(&width)));
    }
    if node >= width[layer] {
        return wrong(format!("no such node in {}", shape(&width)));
    }
    if width[layer] == 1 {
        return wrong("it is the only node of its layer".into());
    }
    prune::node(network, samples, layer - 1, node);
    Ok(())
}

fn remove_edge(
    network: &mut Network,
    samples: &Samples,
    [layer, from, to]: [usize; 3],
) -> Result<(), Failure> {
    let width = network.width();
    let there = layer + 1 < width.len() && from < width[layer] && to < width[layer + 1];
    if !(there && prune::edge(network, samples, layer, from, to)) {
        let shape = shape(&width);
        return Err(Failure::new(format!(
            "--edge {layer}:{from}:{to}: no such edge in {shape}"
        )));
    }
    Ok(())
}

fn remove_below(network: &mut Network, samples: &Samples, threshold: f64) -> Result<(), Failure> {
    let scores = prune::importance(network, &statistics(network, samples));
    let least = network
        .layers
        .iter()
        .zip(&scores)
        .enumerate()
        .flat_map(|(l, (layer, scores))| {
            let edges = layer.edges.iter().zip(scores).enumerate();
            edges
                .filter(|(_, (edge, _))| edge.is_some())
                .map(move |(e, (_, &score))| (score, [l, e / layer.outputs, e % layer.outputs]))
        })
        .min_by(|a, b| a.0.total_cmp(&b.0));
    match least {
        Some((score, _)) if score < threshold => {
            prune::edges(network, samples, threshold);
            Ok(())
        }
        Some((score, [l, i, j])) => Err(Failure::new(format!(
            "nothing to prune: the least share of an edge is {score:.4} (edge {l}:{i}:{j}), and \
             --threshold is {threshold}"
        ))),
        None => Err(Failure::new("nothing to prune: the network has no edges")),
    }
}

/// Changes the network, trains it on `grid` intervals or those it has, and replaces the run.
fn change(
    mut run: Run,
    data: Option<&Path>,
    grid: Option<usize>,
    remove: impl FnOnce(&mut Network, &Samples, usize) -> Result<(), Failure>,
    console: &Console,
) -> Result<(), Failure> {
    let clock = Instant::now();
    let split = run.split(data)?;
    artifact::create_run_folder(&run.path)?;
    let before = describe(&run, &split);
    let past = run.past();
    let mut members = past.as_ref().map_or(1, |past| past.members.max(1));
    let interruption = run.checkpoint.interruption();
    if let Some(progress) = run.checkpoint.progress.take() {
        let (training, penalty) = (&mut run.checkpoint.training, progress.recipe.penalty);
        (training.roughness, training.slope) = (penalty.roughness, penalty.slope);
        training.descent = Some(progress.recipe.descent);
        members = progress.recipe.members;
    }
    let predictor = &run.checkpoint.predictor;
    let samples = predictor::samples(&split.train, &predictor.inputs, &predictor.outputs);
    let mut network = predictor.network.clone();
    remove(&mut network, &samples, members)?;
    if network.edges() == 0 {
        return Err(Failure::new("that would leave a network without edges"));
    }
    let (mut frame, penalty) = run.frame(&samples, &split.train);
    let finest = frame.finest(&network.width());
    if let Some(grid) = grid.filter(|grid| *grid > finest) {
        let data = &split.train.source;
        return Err(Failure::new(format!(
            "--grid {grid}: {data} supports at most {finest} intervals: no input has more than {} \
             distinct values",
            finest + 1
        )));
    }
    if grid.is_none() {
        frame.descent = frame.descent.after_pruning();
    }
    let grid = grid.unwrap_or(network.intervals());
    let task = predictor.task();
    frame.stage(&mut network, &samples, grid, &penalty, &mut |step, loss| {
        console.watch(
            task,
            &Event::Step {
                grid,
                step,
                of: frame.descent.steps,
                loss,
            },
        );
    });
    console.done();
    let factorised = levenberg::is_factorable(&network, &samples);
    run.checkpoint.predictor.network = network;
    measure_error(&mut run.checkpoint.predictor, &samples);
    if let Some(data) = data {
        let training = &mut run.checkpoint.training;
        training.move_data(data, split.fingerprint)?;
    }

    let options = TableOptions {
        kind: run.checkpoint.training.kind(),
        tolerance: None,
        max_bytes: None,
        max_instructions: None,
    };
    let path = Some(run.path.join(MODEL));
    let (compiled, blob) = Blob::make(&run.checkpoint, Some(&split), &options, path)?;
    let after = describe(&run, &split);
    if !after.train.error().is_finite() {
        return Err(Failure::new("training did not converge to finite numbers"));
    }
    let stage = Stage {
        grid,
        train: after.train.error(),
        test: after.test.as_ref().map(Score::error),
        seconds: clock.elapsed().as_secs_f64(),
    };
    let mut history = History {
        width_before: before.width.clone(),
        edges_before: before.edges,
        members,
        stages: Vec::new(),
        candidates: 0,
        tried: Vec::new(),
        lamb: 0.0,
        optimizer: Optimizer::of(frame.descent.method, factorised),
        optimizer_reason: None,
        seconds: stage.seconds,
    };
    if let Some(past) = past {
        history.width_before = past.width_before;
        history.edges_before = past.edges_before;
        history.stages = past.stages;
        history.candidates = past.candidates;
        history.tried = past.tried;
        history.lamb = past.penalty.lamb;
        history.optimizer_reason = past.optimizer_reason;
    }
    history.stages.push(stage);
    let metrics = Metrics::of(&run.checkpoint, &split, blob, history);
    let change = Change { metrics, before };
    if let Some(interruption) = interruption {
        console.say(format_args!(
            "{interruption}; with this change it is over, and `kan train` would begin anew"
        ));
    }
    for (when, at) in [("before", &change.before), ("after", &after)] {
        let (shape, edges, grid) = (shape(&at.width), at.edges, at.grid);
        let (rows, score) = match &at.test {
            Some(score) => ("test", score),
            None => ("training rows", &at.train),
        };
        let score = in_words(score);
        console.say(format_args!(
            "{when:>6}: {shape}, {edges} edges, grid {grid}; {rows}: {score}"
        ));
    }
    if change.metrics.other_rows {
        console.say(
            "        other rows than those of the first training: rows that the network was trained \
             on may be among the test rows",
        );
    }
    change.metrics.blob.say(console);
    run.save(&compiled, &change)?;
    console.object(&change)
}

fn describe(run: &Run, split: &Split) -> Before {
    let predictor = &run.checkpoint.predictor;
    let score = |data: &Dataset| Score::of(&predictor.eval(&data.x), data);
    Before {
        width: predictor.network.width(),
        edges: predictor.network.edges(),
        parameters: predictor.network.parameters(),
        grid: predictor.network.intervals(),
        train: score(&split.train),
        test: split.test.as_ref().map(score),
    }
}
