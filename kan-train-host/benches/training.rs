//! What training spends its time on, against the number of samples, edges and intervals:
//! `cargo bench -p kan-train-host`. All cores are used, as in training.
//!
//! After criterion's own lines comes a Markdown table with the quickest run of each: times that
//! double with the samples and do not move with the intervals are as they should be.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use kan_train_host::adamw;
use kan_train_host::levenberg::{self, Options};
use kan_train_host::network::{Base, Network};
use kan_train_host::objective::{self, Samples, Target};
use kan_train_host::penalty::{Penalty, PenaltyForm};
use kan_train_host::spline::Grid;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Where a cost is measured; each sweep changes one of the three.
#[derive(Clone, Copy)]
struct Point {
    rows: usize,
    /// Inputs and hidden nodes of a network with one output: `hidden·(hidden + 1)` edges.
    hidden: usize,
    intervals: usize,
}

const BASE: Point = Point {
    rows: 1000,
    hidden: 4,
    intervals: 8,
};

/// The sweeps: name, and points with the number that changes.
fn sweeps() -> [(&'static str, Vec<(usize, Point)>); 3] {
    let edges = |hidden| hidden * (hidden + 1);
    [
        (
            "samples",
            [250, 1000, 4000]
                .map(|rows| (rows, Point { rows, ..BASE }))
                .to_vec(),
        ),
        (
            "edges",
            [4, 6, 8, 12]
                .map(|hidden| (edges(hidden), Point { hidden, ..BASE }))
                .to_vec(),
        ),
        (
            "G",
            [4, 8, 16, 32, 64]
                .map(|intervals| (intervals, Point { intervals, ..BASE }))
                .to_vec(),
        ),
    ]
}

impl Point {
    /// A cubic network with SiLU at random, and samples of a smooth function in its units.
    fn problem(self) -> (Network, Samples) {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let inputs = self.hidden;
        let x: Vec<f64> = (0..self.rows * inputs)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        let y = x
            .chunks(inputs)
            .map(|x| x.iter().sum::<f64>().sin())
            .collect();
        let grids = vec![Grid::uniform(3, -1.0, 1.0, self.intervals); inputs];
        let network = Network::random(&[inputs, self.hidden, 1], &grids, Base::Silu, &mut rng);
        let target = Target::Values(y);
        (
            network,
            Samples {
                inputs,
                outputs: 1,
                x,
                target,
            },
        )
    }
}

/// What is measured, once.
type Work = fn(&Network, &Samples);

const WORKS: [(&str, Work); 4] = [
    ("forward", |network, samples| {
        black_box(objective::loss(network, samples));
    }),
    // Forward and backward passes, and the sum of outer products of the Jacobian's rows.
    ("Gauss-Newton matrix", |network, samples| {
        let vector = network.to_vector();
        let form = PenaltyForm::at(network, samples, &Penalty::default());
        black_box(objective::expand(
            network,
            samples,
            &form.curvature(&vector),
        ));
    }),
    // The matrix, its factor, the penalty, and the passes that judge the step.
    ("Levenberg-Marquardt step", |network, samples| {
        let options = Options {
            steps: 1,
            damping: 1e-2,
            tolerance: 0.0,
        };
        let mut network = network.clone();
        black_box(levenberg::train(
            &mut network,
            samples,
            &Penalty::default(),
            &options,
            &mut |_, _| {},
        ));
    }),
    // All rows once, in batches of 64, and packing and unpacking the network.
    ("AdamW epoch", |network, samples| {
        let options = adamw::Options::over(1, 0);
        let mut network = network.clone();
        let mut state = adamw::State::default();
        adamw::train(
            &mut network,
            samples,
            &options,
            &mut state,
            &mut |_, _, _| {},
        );
        black_box(network);
    }),
];

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let quickest: RefCell<Vec<(&str, &str, usize, Duration)>> = RefCell::default();
    for (work_name, work) in WORKS {
        for (sweep, points) in sweeps() {
            let mut group = criterion.benchmark_group(format!("{work_name}/{sweep}"));
            for (value, point) in points {
                let (network, samples) = point.problem();
                group.throughput(Throughput::Elements((point.rows * network.edges()) as u64));
                group.bench_function(BenchmarkId::from_parameter(value), |bencher| {
                    bencher.iter_custom(|times| {
                        let clock = Instant::now();
                        for _ in 0..times {
                            work(black_box(&network), black_box(&samples));
                        }
                        let spent = clock.elapsed();
                        let each = spent / u32::try_from(times).unwrap_or(u32::MAX);
                        quickest.borrow_mut().push((work_name, sweep, value, each));
                        spent
                    });
                });
            }
            group.finish();
        }
    }
    criterion.final_summary();
    print_table(&quickest.into_inner());
}

/// The quickest of each, in milliseconds, and its exponent: by which power of the changed number
/// the time has grown since the line before.
fn print_table(runs: &[(&str, &str, usize, Duration)]) {
    println!("\n| | | | ms | grows as |\n|---|---|---|---|---|");
    let mut before: Option<(&str, &str, usize, f64)> = None;
    let mut at = 0;
    while let Some(&(work, sweep, value, _)) = runs.get(at) {
        let alike = runs[at..]
            .iter()
            .take_while(|run| (run.0, run.1, run.2) == (work, sweep, value));
        let times: Vec<Duration> = alike.map(|run| run.3).collect();
        at += times.len();
        let least = times
            .iter()
            .min()
            .map_or(f64::NAN, |time| 1e3 * time.as_secs_f64());
        let power = match before {
            Some((w, s, v, time)) if (w, s) == (work, sweep) => {
                let power = (least / time).ln() / (value as f64 / v as f64).ln();
                format!("{sweep}^{power:.1}")
            }
            _ => String::new(),
        };
        println!("| {work} | {sweep} | {value} | {least:.3} | {power} |");
        before = Some((work, sweep, value, least));
    }
}
