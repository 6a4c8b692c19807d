//! Pruning removes what does nothing, keeps the function, and never breaks the shape.

use kan_train_host::levenberg;
use kan_train_host::network::{Base, Edge, Layer, Network};
use kan_train_host::objective::{self, Target};
use kan_train_host::penalty::Penalty;
use kan_train_host::prune::{self, Removed, THRESHOLD, importance};
use kan_train_host::spline::{Fit, Grid};
use kan_train_host::statistics::statistics;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::network::{random_network, random_points, samples};

/// Whether a network is one: layers that fit each other, coefficients that fit their grids.
fn is_whole(network: &Network) -> bool {
    let layers = &network.layers;
    let fit = layers
        .windows(2)
        .all(|pair| pair[0].outputs == pair[1].inputs());
    fit && layers.iter().all(|layer| {
        let edges = (0..layer.inputs()).flat_map(|i| layer.edges_from(i).map(move |e| (i, e.1)));
        layer.inputs() > 0
            && layer.outputs > 0
            && layer.bias.len() == layer.outputs
            && layer.edges.len() == layer.inputs() * layer.outputs
            && edges
                .into_iter()
                .all(|(i, e)| e.coef.len() == layer.grids[i].functions())
    })
}

fn distance(a: &Network, b: &Network, x: &[f64]) -> f64 {
    let rows = x.chunks(a.width()[0]);
    let pairs = rows.flat_map(|x| a.eval(x).into_iter().zip(b.eval(x)));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// A layer on grids −1 … 1 from functions, `None` where there is no edge: row-major
/// `[inputs, outputs]`.
fn layer(outputs: usize, functions: &[Option<&dyn Fn(f64) -> f64>]) -> Layer {
    let grid = Grid::uniform(3, -1.0, 1.0, 4);
    let fit = Fit::new(&grid);
    let edge = |f: &Option<&dyn Fn(f64) -> f64>| {
        f.map(|f| Edge {
            coef: fit.fit(f),
            scale_base: 0.0,
        })
    };
    Layer {
        outputs,
        grids: vec![grid.clone(); functions.len() / outputs],
        edges: functions.iter().map(edge).collect(),
        bias: vec![0.0; outputs],
    }
}

/// The samples −1, −0.9, … 1 of each input with every other.
fn lattice(inputs: u32) -> Vec<f64> {
    let at = |n: i32, i: u32| f64::from(n / 21_i32.pow(i) % 21 - 10) / 10.0;
    (0..21_i32.pow(inputs))
        .flat_map(|n| (0..inputs).map(move |i| at(n, i)))
        .collect()
}

#[test]
fn importance_is_the_share_of_a_nodes_magnitude_carried_back_from_the_outputs() {
    // Lines of slopes 3, 1 and −1 over the same samples: shares 3/5, 1/5 and 1/5, whatever constant
    // goes with them.
    let single = Network {
        base: Base::Zero,
        layers: vec![layer(
            1,
            &[
                Some(&|x| 3.0 * x - 7.0),
                Some(&|x| x + 40.0),
                Some(&|x| -x),
                None,
            ],
        )],
    };
    let mut seen = samples(
        &single,
        random_points(&mut Pcg64Mcg::seed_from_u64(1), 1, 4),
    );
    seen.x = lattice(2)
        .chunks(2)
        .flat_map(|x| [x[0], x[1], x[0], x[1]])
        .collect();
    seen.target = Target::Values(vec![0.0; 441]);
    let scores = importance(&single, &statistics(&single, &seen));
    for (score, exact) in scores[0].iter().zip([0.6, 0.2, 0.2, 0.0]) {
        assert!((score - exact).abs() <= 1e-12, "{scores:?}");
    }

    // Two outputs: the first takes 0.9 of its magnitude from node 0 and 0.1 from node 1, the second
    // all from node 1, which therefore counts fully.
    let deep = Network {
        base: Base::Zero,
        layers: vec![
            layer(
                2,
                &[
                    Some(&|x| 0.5 * x),
                    Some(&|x| 0.2 * x),
                    None,
                    Some(&|x| 0.6 * x),
                ],
            ),
            layer(
                2,
                &[Some(&|x| 9.0 * x), None, Some(&|x| x), Some(&|x| -3.0 * x)],
            ),
        ],
    };
    let seen = samples(&deep, lattice(2));
    let statistics = statistics(&deep, &seen);
    let scores = importance(&deep, &statistics);
    let spread = |l: usize, e: usize| statistics.magnitude[l][e];
    let share = spread(1, 0) / (spread(1, 0) + spread(1, 2));
    let expected = [
        [share, 0.25, 0.0, 0.75], // 0.2/(0.2 + 0.6) of node 1
        [share, 0.0, 1.0 - share, 1.0],
    ];
    for (scores, expected) in scores.iter().zip(&expected) {
        for (score, exact) in scores.iter().zip(expected) {
            assert!(
                (score - exact).abs() <= 1e-12,
                "{scores:?}, not {expected:?}"
            );
        }
    }
}

#[test]
fn importance_does_not_depend_on_the_unit_of_a_hidden_node() {
    let mut rng = Pcg64Mcg::seed_from_u64(41);
    for factor in [0.125, 1e-6, 3.7, 1e9] {
        let network = random_network(&mut rng, &[3, 4, 3, 2], 3, Base::Silu, 0.9);
        let mut scaled = network.clone();
        for l in 0..2 {
            let node = rng.random_range(0..scaled.layers[l].outputs);
            let feeding = &mut scaled.layers[l];
            feeding.bias[node] *= factor;
            for edge in feeding
                .edges
                .iter_mut()
                .skip(node)
                .step_by(feeding.outputs)
                .flatten()
            {
                edge.coef.iter_mut().for_each(|c| *c *= factor);
                edge.scale_base *= factor;
            }
            let grid = &mut scaled.layers[l + 1].grids[node];
            let breaks: Vec<f64> = grid.breaks().iter().map(|t| t * factor).collect();
            *grid = Grid::new(3, &breaks).unwrap();
        }
        let x = random_points(&mut rng, 100, 3);
        assert!(distance(&network, &scaled, &x) <= 1e-12);
        let scores = |network: &Network| {
            importance(network, &statistics(network, &samples(network, x.clone()))).concat()
        };
        for (a, b) in scores(&network).into_iter().zip(scores(&scaled)) {
            assert!((a - b).abs() <= 1e-12, "{factor}: {a}, {b}");
        }
    }
}

#[test]
fn what_does_nothing_goes_and_the_function_stays() {
    let mut rng = Pcg64Mcg::seed_from_u64(42);
    for _ in 0..20 {
        let mut network = random_network(&mut rng, &[3, 4, 3, 2], 3, Base::Silu, 1.0);
        // Every third edge zero or constant, the basis functions sum to one; but no node loses all.
        let mut idle = 0;
        for layer in &mut network.layers {
            for (e, edge) in layer.edges.iter_mut().enumerate() {
                if (e / layer.outputs + e % layer.outputs) % 3 == 1 {
                    let level = if e % 2 == 0 {
                        0.0
                    } else {
                        rng.random_range(-2.0..2.0)
                    };
                    let edge = edge.as_mut().unwrap();
                    edge.coef.fill(level);
                    edge.scale_base = 0.0;
                    idle += 1;
                }
            }
        }
        let x = random_points(&mut rng, 200, 3);
        let mut pruned = network.clone();
        // Rounding leaves a share of 1e-15 of a constant; the rest of the edges matter more.
        let removed = prune::edges(&mut pruned, &samples(&network, x.clone()), 1e-12);
        assert_eq!(
            removed,
            Removed {
                edges: idle,
                nodes: 0
            }
        );
        assert_eq!(pruned.edges(), network.edges() - idle);
        assert!(is_whole(&pruned));
        let distance = distance(&network, &pruned, &x);
        assert!(distance <= 1e-12, "{distance}");
        // Nothing more to remove.
        let again = prune::edges(&mut pruned, &samples(&network, x), 1e-12);
        assert_eq!(again, Removed::default());
    }
}

#[test]
fn nodes_that_nothing_feeds_or_nothing_reads_go_and_the_function_stays() {
    let curve = |x: f64| 0.3 + 0.5 * x - 0.4 * x * x;
    let (flat, none) = (|_: f64| 0.25, None);
    let other = |x: f64| 0.2 - 0.6 * x;
    // Node 0 works; node 1 is fed a constant only; node 2 is read by nobody, and its own feeder is
    // used by no other; node 3 has neither.
    let mut network = Network {
        base: Base::Silu,
        layers: vec![
            layer(
                4,
                &[
                    Some(&curve),
                    Some(&flat),
                    None,
                    None,
                    none,
                    None,
                    Some(&other),
                    None,
                ],
            ),
            layer(1, &[Some(&curve), Some(&other), None, None]),
        ],
    };
    network.layers[0].bias = vec![0.1, 0.2, 0.3, 0.4];
    let x = lattice(2);
    let mut pruned = network.clone();
    let removed = prune::edges(&mut pruned, &samples(&network, x.clone()), THRESHOLD);
    assert_eq!(pruned.width(), [2, 1, 1]);
    // The constant edge, the one behind it that became constant, and the one nobody reads.
    assert_eq!(removed, Removed { edges: 3, nodes: 3 });
    assert_eq!(pruned.edges(), 2);
    assert!(is_whole(&pruned));
    let difference = distance(&network, &pruned, &x);
    assert!(difference <= 1e-12, "{difference}");
    assert!(!pruned.layers[0].is_used(1) && pruned.layers[0].is_used(0));

    // The same by hand: without its constant feeder node 1 is a constant itself, and so is what
    // leaves it.
    let mut pruned = network.clone();
    assert!(prune::edge(
        &mut pruned,
        &samples(&network, x.clone()),
        0,
        0,
        1
    ));
    assert_eq!(pruned.width(), [2, 1, 1]);
    let difference = distance(&network, &pruned, &x);
    assert!(difference <= 1e-12, "{difference}");

    // A chain: what only feeds a dead node is dead too, through all layers.
    let chain = Network {
        base: Base::Zero,
        layers: vec![
            layer(2, &[Some(&curve), Some(&other)]),
            layer(2, &[Some(&curve), None, None, Some(&other)]),
            layer(1, &[Some(&curve), None]),
        ],
    };
    let mut pruned = chain.clone();
    prune::edges(&mut pruned, &samples(&chain, lattice(1)), THRESHOLD);
    assert_eq!((pruned.width(), pruned.edges()), (vec![1, 1, 1, 1], 3));
    assert!(distance(&chain, &pruned, &lattice(1)) <= 1e-12);
}

#[test]
fn what_matters_stays() {
    // Shares just above and just below θ: 0.012 and 0.008 of the magnitude.
    let parts = [0.98, 0.012, 0.008];
    let lines = parts.map(|part| move |x: f64| part * x);
    let network = Network {
        base: Base::Zero,
        layers: vec![layer(
            1,
            &[Some(&lines[0]), Some(&lines[1]), Some(&lines[2])],
        )],
    };
    let x: Vec<f64> = lattice(1).iter().flat_map(|&x| [x, -x, x]).collect();
    let mut pruned = network.clone();
    let removed = prune::edges(&mut pruned, &samples(&network, x.clone()), THRESHOLD);
    assert_eq!(removed, Removed { edges: 1, nodes: 0 });
    let left: Vec<bool> = (0..3)
        .map(|i| pruned.layers[0].edge(i, 0).is_some())
        .collect();
    assert_eq!(left, [true, true, false]);
    assert!(
        (distance(&network, &pruned, &x) - 0.008).abs() <= 1e-12,
        "the edge at x = ±1"
    );
    // A random network has no edge below a thousandth: nothing goes at a threshold of zero.
    let mut rng = Pcg64Mcg::seed_from_u64(43);
    let network = random_network(&mut rng, &[3, 4, 2], 3, Base::Silu, 1.0);
    let mut pruned = network.clone();
    let removed = prune::edges(
        &mut pruned,
        &samples(&network, random_points(&mut rng, 50, 3)),
        0.0,
    );
    assert_eq!((removed, &pruned), (Removed::default(), &network));
}

#[test]
fn a_network_pruned_to_nothing_is_the_mean_of_what_it_was() {
    let mut rng = Pcg64Mcg::seed_from_u64(44);
    for width in [&[2, 3][..], &[3, 4, 2], &[2, 3, 3, 1]] {
        let network = random_network(&mut rng, width, 3, Base::Silu, 0.9);
        let x = random_points(&mut rng, 60, width[0]);
        let seen = samples(&network, x.clone());
        let mut pruned = network.clone();
        prune::edges(&mut pruned, &seen, f64::INFINITY);
        assert!(is_whole(&pruned));
        assert_eq!((pruned.edges(), pruned.parameters()), (0, 0));
        let shape = pruned.width();
        assert_eq!(
            (shape[0], shape[shape.len() - 1]),
            (width[0], width[width.len() - 1])
        );
        let outputs: Vec<Vec<f64>> = x.chunks(width[0]).map(|x| network.eval(x)).collect();
        for (j, value) in pruned.eval(&x[..width[0]]).into_iter().enumerate() {
            let mean = outputs.iter().map(|y| y[j]).sum::<f64>() / 60.0;
            assert!((value - mean).abs() <= 1e-12, "{value}, not {mean}");
        }
        // It can still be trained, pruned and measured: there is only nothing to do.
        let options = levenberg::Options {
            steps: 5,
            damping: 1e-2,
            tolerance: 1e-3,
        };
        let constant = pruned.clone();
        let penalty = Penalty {
            roughness: 1e-3,
            slope: 1e-3,
            lamb: 1e-3,
        };
        let outcome = levenberg::train(&mut pruned, &seen, &penalty, &options, &mut |_, _| {});
        assert_eq!(outcome.loss, objective::loss(&constant, &seen));
        assert_eq!(
            prune::edges(&mut pruned, &seen, THRESHOLD),
            Removed::default()
        );
        assert_eq!(pruned, constant);
    }
}

#[test]
fn edges_and_nodes_can_be_taken_one_by_one_until_none_is_left() {
    let mut rng = Pcg64Mcg::seed_from_u64(45);
    for case in 0..30 {
        let mut network = random_network(&mut rng, &[3, 4, 3, 2], 2, Base::Silu, 0.8);
        let seen = samples(&network, random_points(&mut rng, 25, 3));
        while network.edges() > 0 {
            let before = network.edges();
            let l = rng.random_range(0..3);
            if l < 2 && rng.random_bool(0.3) {
                let node = rng.random_range(0..network.layers[l].outputs);
                let dead = !network.layers[l].is_fed(node);
                prune::node(&mut network, &seen, l, node);
                assert!(dead || network.edges() < before, "case {case}");
            } else {
                let (i, j) = (
                    rng.random_range(0..network.layers[l].inputs()),
                    rng.random_range(0..network.layers[l].outputs),
                );
                let there = network.layers[l].edge(i, j).is_some();
                let mean = |network: &Network| {
                    let rows = (0..25).map(|n| network.eval(seen.row(n)));
                    rows.fold([0.0; 2], |sum, y| {
                        [sum[0] + y[0] / 25.0, sum[1] + y[1] / 25.0]
                    })
                };
                let old = mean(&network);
                assert_eq!(
                    prune::edge(&mut network, &seen, l, i, j),
                    there,
                    "case {case}"
                );
                assert_eq!(network.edges() < before, there, "case {case}");
                if l == 2 {
                    // An edge to an output leaves its mean behind.
                    let new = mean(&network);
                    assert!((old[0] - new[0]).abs() + (old[1] - new[1]).abs() <= 1e-12);
                }
            }
            assert!(is_whole(&network), "case {case}");
            let width = network.width();
            assert_eq!((width.len(), width[0], width[3]), (4, 3, 2), "case {case}");
            assert!(
                network.eval(seen.row(0)).iter().all(|y| y.is_finite()),
                "case {case}"
            );
        }
        assert_eq!(network.width(), [3, 1, 1, 2], "a layer keeps one node");
    }
}

#[test]
fn taking_a_node_leaves_its_mean_behind() {
    let curve = |x: f64| 0.3 + 0.5 * x - 0.4 * x * x;
    let line = |x: f64| 0.7 * x;
    let network = Network {
        base: Base::Zero,
        layers: vec![
            layer(2, &[Some(&line), Some(&curve)]),
            layer(1, &[Some(&curve), Some(&line)]),
        ],
    };
    let mut pruned = network.clone();
    prune::node(&mut pruned, &samples(&network, lattice(1)), 0, 1);
    assert_eq!((pruned.width(), pruned.edges()), (vec![1, 1, 1], 2));
    let mean = lattice(1).iter().map(|&x| line(curve(x))).sum::<f64>() / 21.0;
    for x in lattice(1) {
        let exact = curve(line(x)) + mean;
        assert!((pruned.eval(&[x])[0] - exact).abs() <= 1e-12, "{x}");
    }
}
