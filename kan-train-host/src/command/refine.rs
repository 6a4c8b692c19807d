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
    /// Remove the edges whose share in the outputs, or where the network is a mean in those of its
    /// member, is less (θ of the KAN paper) [default: 0.01]
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
        |_, _| Ok(()),
        console,
    )
}

pub fn prune(args: &Prune, console: &Console) -> Result<(), Failure> {
    let threshold = args.threshold.unwrap_or(prune::THRESHOLD);
    if !(0.0..1.0).contains(&threshold) {
        return Err(Failure::usage(format!(
            "--threshold {threshold}: it is 0 to 1"
        )));
    }
    let remove = |networks: &mut [Network], samples: &Samples| match (args.node, args.edge) {
        (Some(NodeNumber(node)), _) => remove_node(networks, samples, node),
        (_, Some(EdgeNumber(edge))) => remove_edge(networks, samples, edge),
        (None, None) => remove_below(networks, samples, threshold),
    };
    change(
        Run::open(&args.run)?,
        args.data.as_deref(),
        None,
        remove,
        console,
    )
}

/// The network that a hidden node of the mean belongs to, and its number there.
fn place(networks: &[Network], layer: usize, node: usize) -> Option<(usize, usize)> {
    let mut before = 0;
    networks.iter().enumerate().find_map(|(at, network)| {
        let nodes = network.width()[layer];
        let own = node.checked_sub(before).filter(|own| *own < nodes);
        before += nodes;
        own.map(|own| (at, own))
    })
}

fn remove_node(
    networks: &mut [Network],
    samples: &Samples,
    [layer, node]: [usize; 2],
) -> Result<(), Failure> {
    let width = Network::mean(networks).width();
    let wrong = |reason: String| Err(Failure::new(format!("--node {layer}:{node}: {reason}")));
    if layer == 0 || layer >= width.len() - 1 {
        return wrong(format!("no layer of hidden nodes in {}", shape(&width)));
    }
    let Some((at, own)) = place(networks, layer, node) else {
        return wrong(format!("no such node in {}", shape(&width)));
    };
    let network = &mut networks[at];
    if network.width()[layer] == 1 {
        return wrong(match width[layer] {
            1 => "it is the only node of its layer".into(),
            _ => {
                "it is the only node of its layer in one of the networks that the mean is of".into()
            }
        });
    }
    prune::node(network, samples, layer - 1, own);
    Ok(())
}

fn remove_edge(
    networks: &mut [Network],
    samples: &Samples,
    [layer, from, to]: [usize; 3],
) -> Result<(), Failure> {
    let width = Network::mean(networks).width();
    let last = width.len() - 2;
    let there = layer <= last && from < width[layer] && to < width[layer + 1];
    // Inputs and outputs are common to all networks.
    let found = match layer {
        _ if !there => None,
        0 if last == 0 => Some((0, from, to)),
        0 => place(networks, 1, to).map(|(at, to)| (at, from, to)),
        _ => place(networks, layer, from).and_then(|(at, from)| {
            if layer == last {
                return Some((at, from, to));
            }
            let (other, to) = place(networks, layer + 1, to)?;
            (other == at).then_some((at, from, to))
        }),
    };
    match found {
        Some((at, i, j)) if prune::edge(&mut networks[at], samples, layer, i, j) => Ok(()),
        _ => Err(Failure::new(format!(
            "--edge {layer}:{from}:{to}: no such edge in {}",
            shape(&width)
        ))),
    }
}

fn remove_below(
    networks: &mut [Network],
    samples: &Samples,
    threshold: f64,
) -> Result<(), Failure> {
    let mut shares = Vec::new();
    let mut before = vec![0; networks[0].layers.len() + 1];
    for network in &*networks {
        let scores = prune::importance(network, &statistics(network, samples));
        for (l, (layer, scores)) in network.layers.iter().zip(scores).enumerate() {
            let edges = layer.edges.iter().zip(scores).enumerate();
            for (e, (_, score)) in edges.filter(|(_, (edge, _))| edge.is_some()) {
                let (i, j) = (e / layer.outputs, e % layer.outputs);
                shares.push((score, [l, before[l] + i, before[l + 1] + j]));
            }
        }
        let hidden = 1..network.layers.len();
        for (sum, nodes) in before[hidden].iter_mut().zip(&network.width()[1..]) {
            *sum += nodes;
        }
    }
    match shares.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, _)) if score < threshold => {
            for network in networks {
                prune::edges(network, samples, threshold);
            }
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
    remove: impl FnOnce(&mut [Network], &Samples) -> Result<(), Failure>,
    console: &Console,
) -> Result<(), Failure> {
    let clock = Instant::now();
    let split = run.split(data)?;
    artifact::create_run_folder(&run.path)?;
    let before = describe(&run, &split);
    let past = run.past();
    let mut members = None;
    let interruption = run.checkpoint.interruption();
    if let Some(progress) = run.checkpoint.progress.take() {
        let (training, penalty) = (&mut run.checkpoint.training, progress.recipe.penalty);
        (training.roughness, training.slope) = (penalty.roughness, penalty.slope);
        training.descent = Some(progress.recipe.descent);
        members = Some(progress.networks);
    }
    let predictor = &run.checkpoint.predictor;
    let samples = predictor::samples(&split.train, &predictor.inputs, &predictor.outputs);
    // Trained as one, a mean would have all its parameters to learn the noise with. Of other
    // intervals, members would not have common input grids for long.
    let intervals = predictor.network.intervals();
    let mut networks = members
        .or_else(|| predictor.network.members(&run.checkpoint.training.members))
        .filter(|members| members.iter().all(|one| one.intervals() == intervals))
        .unwrap_or_else(|| vec![predictor.network.clone()]);
    remove(&mut networks, &samples)?;
    if networks.iter().any(|network| network.edges() == 0) {
        return Err(Failure::new(match networks.len() {
            1 => "that would leave a network without edges",
            _ => "that would leave one of the networks that the mean is of without edges",
        }));
    }
    let (mut frame, penalty) = run.frame(&samples, &split.train);
    let finest = frame.finest(&predictor.network.width());
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
    let grid = grid.unwrap_or(predictor.network.intervals());
    let task = predictor.task();
    let watch = &mut |event: Event<'_>| console.watch(task, &event);
    frame.stage_of_all(&mut networks, &samples, grid, &penalty, false, watch);
    console.done();
    let factorised = networks
        .iter()
        .all(|network| levenberg::is_factorable(network, &samples));
    run.checkpoint.predictor.network = Network::mean(&networks);
    let widths = networks.iter().map(Network::width).collect();
    run.checkpoint.training.set_members(widths);
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
        members: networks.len(),
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
