//! Networks: values against an independent evaluation, derivatives against difference quotients.

use kan_train_host::network::{Base, Edge, Layer, Network};
use kan_train_host::objective::{Samples, Target};
use kan_train_host::spline::{Grid, MAX_DEGREE};
use kan_train_host::statistics::statistics;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::spline::{Textbook, irregular, narrowest, rounding};

pub const BASES: [Base; 2] = [Base::Silu, Base::Zero];

pub const EPSILON: f64 = f64::EPSILON;

/// A network in which everything differs: ranges, numbers and spacing of intervals, biases; an edge
/// is there with probability `density`.
pub fn random_network(
    rng: &mut Pcg64Mcg,
    width: &[usize],
    degree: usize,
    base: Base,
    density: f64,
) -> Network {
    let layers = width
        .windows(2)
        .map(|pair| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let grids: Vec<Grid> = (0..inputs).map(|_| random_grid(rng, degree)).collect();
            let scale = (inputs as f64).sqrt().recip();
            let edges = (0..inputs * outputs)
                .map(|e| {
                    let functions = grids[e / outputs].functions();
                    let coef = (0..functions).map(|_| scale * rng.random_range(-1.0..1.0));
                    let coef = coef.collect();
                    let scale_base = match base {
                        Base::Silu => scale * rng.random_range(-1.0..1.0),
                        Base::Zero => 0.0,
                    };
                    rng.random_bool(density)
                        .then_some(Edge { coef, scale_base })
                })
                .collect();
            let bias = (0..outputs).map(|_| rng.random_range(-0.3..0.3)).collect();
            Layer {
                outputs,
                grids,
                edges,
                bias,
            }
        })
        .collect();
    Network { base, layers }
}

fn random_grid(rng: &mut Pcg64Mcg, degree: usize) -> Grid {
    let (lo, hi) = (rng.random_range(-1.5..-0.5), rng.random_range(0.5..1.5));
    let intervals = rng.random_range(1..8);
    if rng.random_bool(0.5) {
        Grid::uniform(degree, lo, hi, intervals)
    } else {
        irregular(rng, degree, lo, hi, intervals)
    }
}

/// Points of which some lie outside every grid of [`random_network`].
pub fn random_points(rng: &mut Pcg64Mcg, rows: usize, inputs: usize) -> Vec<f64> {
    (0..rows * inputs)
        .map(|_| rng.random_range(-1.8..1.8))
        .collect()
}

/// b at the node's unit and its first two derivatives by x; linear outside the grid.
pub fn base(base: Base, grid: &Grid, x: f64) -> [f64; 3] {
    if base == Base::Zero {
        return [0.0; 3];
    }
    let inside = x.clamp(grid.lo(), grid.hi());
    let factor = 2.0 / (grid.hi() - grid.lo());
    let z = factor * (inside - 0.5 * (grid.lo() + grid.hi()));
    let e = (-z).exp();
    let value = z / (1.0 + e);
    // The quotient rule, unsimplified.
    let slope = ((1.0 + e) + z * e) / (1.0 + e).powi(2);
    let numerator = (1.0 + e) + z * e;
    let curvature = (-e + e - z * e) / (1.0 + e).powi(2) + 2.0 * numerator * e / (1.0 + e).powi(3);
    let slope_x = factor * slope;
    [
        value + slope_x * (x - inside),
        slope_x,
        factor * factor * curvature,
    ]
}

/// φ and φ′ by definition.
pub fn edge(kind: Base, grid: &Grid, edge: &Edge, x: f64) -> (f64, f64) {
    let (spline, slope) = Textbook::new(grid).spline(&edge.coef, x);
    let [b, b_slope, _] = base(kind, grid, x);
    (
        edge.scale_base * b + spline,
        edge.scale_base * b_slope + slope,
    )
}

/// The outputs by definition, all node values on the way, and bounds on the rounding errors.
pub fn reference(network: &Network, x: &[f64]) -> Vec<Vec<(f64, f64)>> {
    let mut layers = vec![x.iter().map(|&x| (x, 0.0)).collect::<Vec<_>>()];
    for layer in &network.layers {
        let values = layers.last().unwrap();
        let sums = (0..layer.outputs)
            .map(|j| {
                let (mut sum, mut error) = (layer.bias[j], 0.0);
                let mut size = sum.abs();
                for (i, &(x, wrong)) in values.iter().enumerate() {
                    let Some(e) = layer.edge(i, j) else { continue };
                    let grid = &layer.grids[i];
                    let (value, _) = edge(network.base, grid, e, x);
                    // On both sides of a knot, should x be one.
                    let steep = [-1e-9, 1e-9].map(|s| edge(network.base, grid, e, x + s).1.abs());
                    let largest = e.coef.iter().fold(0.0, |m: f64, c| m.max(c.abs()));
                    let beyond = (x - grid.clamp(x)).abs() / narrowest(grid);
                    let basis = rounding(grid) * (1.0 + 4.0 * beyond);
                    let active = (grid.degree() + 1) as f64;
                    error += active * largest * basis
                        + 16.0 * EPSILON * e.scale_base.abs() * (1.0 + beyond)
                        + 2.0 * f64::max(steep[0], steep[1]) * wrong;
                    sum += value;
                    size += value.abs();
                }
                (sum, error + (values.len() + 1) as f64 * EPSILON * size)
            })
            .collect();
        layers.push(sums);
    }
    layers
}

/// Whether no hidden value is so near a knot that small changes of the parameters carry it across:
/// difference quotients need one polynomial piece.
fn is_clear(network: &Network, x: &[f64]) -> bool {
    let values = reference(network, x);
    network
        .layers
        .iter()
        .zip(&values)
        .skip(1)
        .all(|(layer, values)| {
            layer
                .grids
                .iter()
                .zip(values)
                .all(|(grid, (x, _))| grid.breaks().iter().all(|knot| (knot - x).abs() > 2e-3))
        })
}

pub fn clear_points(rng: &mut Pcg64Mcg, network: &Network, rows: usize) -> Vec<f64> {
    let inputs = network.layers[0].inputs();
    let mut points = Vec::new();
    while points.len() < rows * inputs {
        let x = random_points(rng, 1, inputs);
        if is_clear(network, &x) {
            points.extend(x);
        }
    }
    points
}

/// f′(0) by central differences and Richardson's extrapolation, and a bound on its error: the
/// difference of the two quotients is four times the larger one's truncation error to leading
/// order, and `error` is that of one value.
pub fn quotient(f: impl Fn(f64) -> f64, error: f64) -> (f64, f64) {
    let step = 1e-5;
    let central = |h: f64| (f(h) - f(-h)) / (2.0 * h);
    let (fine, coarse) = (central(step), central(2.0 * step));
    (
        (4.0 * fine - coarse) / 3.0,
        (fine - coarse).abs() + 2.0 * error / step,
    )
}

/// The network with parameter `p` raised by `by`.
pub fn moved(network: &Network, p: usize, by: f64) -> Network {
    let mut vector = network.to_vector();
    vector[p] += by;
    let mut network = network.clone();
    network.set_vector(&vector);
    network
}

const SHAPES: [&[usize]; 4] = [&[1, 1], &[3, 2], &[2, 3, 2], &[3, 4, 3, 2]];

/// Points as samples whose targets are all 0.
pub fn samples(network: &Network, x: Vec<f64>) -> Samples {
    let width = network.width();
    let (inputs, outputs) = (width[0], width[width.len() - 1]);
    let target = Target::Values(vec![0.0; x.len() / inputs * outputs]);
    Samples {
        inputs,
        outputs,
        x,
        target,
    }
}

/// Networks of every degree, base function and depth, complete and with edges pruned.
pub fn networks() -> Vec<Network> {
    let mut rng = Pcg64Mcg::seed_from_u64(10);
    let mut networks = Vec::new();
    for degree in 1..=MAX_DEGREE {
        for base in BASES {
            for width in SHAPES {
                for density in [1.0, 0.7] {
                    networks.push(random_network(&mut rng, width, degree, base, density));
                }
            }
        }
    }
    networks
}

/// Samples of the three kinds of target for `network`, with one output the two that go with it.
pub fn targets(rng: &mut Pcg64Mcg, network: &Network, x: &[f64]) -> Vec<Samples> {
    let width = network.width();
    let (inputs, outputs) = (width[0], width[width.len() - 1]);
    let rows = x.len() / inputs;
    let values = (0..rows * outputs)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    let classes = (0..rows)
        .map(|_| rng.random_range(0..outputs.max(2)))
        .collect();
    [Target::Values(values), Target::Classes(classes)]
        .map(|target| Samples {
            inputs,
            outputs,
            x: x.to_vec(),
            target,
        })
        .to_vec()
}

#[test]
fn a_network_is_the_sum_of_its_edges() {
    let mut rng = Pcg64Mcg::seed_from_u64(11);
    for network in networks() {
        for x in random_points(&mut rng, 20, network.width()[0]).chunks(network.width()[0]) {
            let outputs = network.eval(x);
            let exact = reference(&network, x);
            assert_eq!(outputs.len(), network.width()[network.layers.len()]);
            for (output, (exact, bound)) in outputs.iter().zip(exact.last().unwrap()) {
                assert!(*bound < 1e-9, "the bound says something");
                assert!(
                    (output - exact).abs() <= *bound,
                    "{output}, not {exact}: {network:?}"
                );
            }
        }
    }
}

#[test]
fn rows_together_give_the_bits_of_one_after_the_other() {
    let mut rng = Pcg64Mcg::seed_from_u64(12);
    for network in networks() {
        let inputs = network.layers[0].inputs();
        for rows in [1, 64, 150] {
            let mut x = random_points(&mut rng, rows, inputs);
            // Values that repeat, and one beyond every grid.
            x[..inputs * rows / 2].fill(0.5);
            x[0] = 7.0;
            let one_by_one: Vec<f64> = x.chunks(inputs).flat_map(|x| network.eval(x)).collect();
            assert_eq!(network.eval_rows(&x), one_by_one);
        }
    }
}

#[test]
fn the_base_function_is_silu_in_the_unit_of_the_grid() {
    let grid = Grid::uniform(3, 2.0, 6.0, 4);
    let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
    for z in [-1.0, -0.3, 0.0, 0.8, 1.0] {
        let x = 4.0 + 2.0 * z;
        let (value, slope) = Base::Silu.at(&grid, x);
        assert!((value - z * sigmoid(z)).abs() <= 4.0 * EPSILON);
        let exact = base(Base::Silu, &grid, x);
        assert!((slope - exact[1]).abs() <= 8.0 * EPSILON);
        assert!((Base::Silu.curvature_at(&grid, x) - exact[2]).abs() <= 8.0 * EPSILON);
    }
    // Beyond the grid it goes on along its tangent.
    for (end, x) in [(2.0, -7.0), (6.0, 6.5), (6.0, 1e6)] {
        let (value, slope) = Base::Silu.at(&grid, end);
        let line = value + slope * (x - end);
        assert!((Base::Silu.at(&grid, x).0 - line).abs() <= 4.0 * EPSILON * line.abs());
        assert_eq!(Base::Silu.at(&grid, x).1, slope);
        assert_eq!(Base::Silu.curvature_at(&grid, x), 0.0);
    }
    assert_eq!(Base::Zero.at(&grid, 3.0), (0.0, 0.0));
    assert_eq!(Base::Zero.curvature_at(&grid, 3.0), 0.0);
}

#[test]
fn jacobian_rows_are_the_limits_of_difference_quotients() {
    let mut rng = Pcg64Mcg::seed_from_u64(12);
    for network in networks() {
        let (inputs, layers) = (network.width()[0], network.layers.len());
        let mut tape = network.tape();
        let mut felt = vec![false; network.parameters()];
        for x in clear_points(&mut rng, &network, 6).chunks(inputs) {
            let errors = reference(&network, x).pop().unwrap();
            for (output, (_, error)) in errors.iter().enumerate() {
                network.forward(x, &mut tape);
                let row = network.jacobian_row(&mut tape, output);
                assert_eq!(row.len(), network.parameters());
                for (p, &derivative) in row.iter().enumerate() {
                    let f = |by: f64| moved(&network, p, by).eval(x)[output];
                    let (exact, bound) = quotient(f, *error);
                    assert!(bound < 1e-5, "the bound says something: {bound}");
                    assert!(
                        (derivative - exact).abs() <= bound,
                        "{layers} layers, parameter {p}: {derivative}, not {exact} ± {bound}"
                    );
                    felt[p] |= derivative != 0.0;
                }
            }
        }
        // In the smallest network every parameter of every kind had its turn.
        assert!(network.parameters() == 0 || felt.contains(&true));
        if network.width() == [1, 1] && network.base == Base::Silu && network.edges() == 1 {
            assert!(felt[felt.len() - 1], "scale_base");
        }
    }
}

#[test]
fn parameters_are_counted_and_kept_in_order() {
    for mut network in networks() {
        let base = usize::from(network.base == Base::Silu);
        let (mut edges, mut parameters) = (0, 0);
        let (offsets, length) = network.offsets();
        let vector = network.to_vector();
        for (layer, offsets) in network.layers.iter().zip(&offsets) {
            for i in 0..layer.inputs() {
                for j in 0..layer.outputs {
                    let offset = offsets[i * layer.outputs + j];
                    assert_eq!(offset.is_some(), layer.edge(i, j).is_some());
                    let Some(edge) = layer.edge(i, j) else {
                        continue;
                    };
                    assert_eq!(offset, Some(parameters));
                    assert_eq!(vector[parameters..][..edge.coef.len()], edge.coef);
                    if base == 1 {
                        assert_eq!(vector[parameters + edge.coef.len()], edge.scale_base);
                    }
                    edges += 1;
                    parameters += layer.grids[i].functions() + base;
                }
            }
        }
        assert_eq!((network.edges(), network.parameters()), (edges, parameters));
        assert_eq!((length, vector.len()), (parameters, parameters));
        let same = network.clone();
        network.set_vector(&vector);
        assert_eq!(network, same);
        let other: Vec<f64> = vector.iter().map(|c| 3.0 - c).collect();
        network.set_vector(&other);
        assert_eq!(network.to_vector(), other);
        let json = serde_json::to_string(&network).unwrap();
        assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), network);
    }
}

#[test]
fn random_networks_have_the_shape_asked_for_and_lively_nodes() {
    let mut variances = Vec::new();
    for (seed, width) in [&[3, 1][..], &[2, 5, 1], &[30, 30, 30, 2]]
        .into_iter()
        .enumerate()
    {
        let inputs = vec![Grid::uniform(3, -1.0, 1.0, 5); width[0]];
        let random = |seed: usize| {
            let mut rng = Pcg64Mcg::seed_from_u64(seed as u64);
            Network::random(width, &inputs, Base::Silu, &mut rng)
        };
        let network = random(seed);
        assert_eq!(network, random(seed));
        assert_ne!(network, random(seed + 1));
        assert_eq!(network.width(), width);
        assert_eq!((network.degree(), network.intervals()), (3, 5));
        let edges: usize = width.windows(2).map(|pair| pair[0] * pair[1]).sum();
        assert_eq!((network.edges(), network.parameters()), (edges, 9 * edges));
        let mut rng = Pcg64Mcg::seed_from_u64(13);
        let x: Vec<f64> = (0..400 * width[0])
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        let (inputs, outputs) = (width[0], width[width.len() - 1]);
        let target = Target::Values(vec![0.0; 400 * outputs]);
        let statistics = statistics(
            &network,
            &Samples {
                inputs,
                outputs,
                x,
                target,
            },
        );
        variances.extend(
            statistics.deviation[1..]
                .iter()
                .map(|layer| layer.iter().map(|d| d * d).sum::<f64>() / layer.len() as f64),
        );
    }
    // A sum over n inputs of slopes and noise of variance 1/n each: of order one, however wide and
    // deep.
    assert!(
        variances.iter().all(|v| (0.02..3.0).contains(v)),
        "{variances:?}"
    );
}

/// `network`, but on the input grids of `first`.
fn on_inputs_of(first: &Network, mut network: Network, rng: &mut Pcg64Mcg) -> Network {
    let layer = &mut network.layers[0];
    layer.grids.clone_from(&first.layers[0].grids);
    for (e, edge) in layer.edges.iter_mut().enumerate() {
        let functions = layer.grids[e / layer.outputs].functions();
        if let Some(edge) = edge {
            edge.coef = (0..functions)
                .map(|_| rng.random_range(-1.0..1.0))
                .collect();
        }
    }
    network
}

#[test]
fn the_mean_of_networks_is_a_network_with_the_mean_of_their_outputs() {
    let mut rng = Pcg64Mcg::seed_from_u64(23);
    let families: [&[&[usize]]; 5] = [
        &[&[3, 2], &[3, 2], &[3, 2]],
        &[&[2, 3, 1]],
        &[&[2, 1, 2], &[2, 4, 2], &[2, 2, 2]],
        &[&[3, 4, 3, 2], &[3, 1, 2, 2]],
        &[
            &[1, 2, 1, 3, 1],
            &[1, 1, 2, 1, 1],
            &[1, 1, 1, 1, 1],
            &[1, 3, 3, 3, 1],
        ],
    ];
    for (family, degree) in families
        .iter()
        .flat_map(|f| (1..=MAX_DEGREE).map(move |d| (f, d)))
    {
        for base in BASES {
            for density in [1.0, 0.6] {
                let mut networks: Vec<Network> = Vec::new();
                for width in *family {
                    let network = random_network(&mut rng, width, degree, base, density);
                    let first = networks.first().unwrap_or(&network).clone();
                    networks.push(on_inputs_of(&first, network, &mut rng));
                }
                let mean = Network::mean(&networks);
                let depth = family[0].len();
                for l in 1..depth - 1 {
                    let side_by_side: usize = family.iter().map(|width| width[l]).sum();
                    assert_eq!(mean.width()[l], side_by_side);
                }
                if depth > 2 {
                    let edges: usize = networks.iter().map(Network::edges).sum();
                    assert_eq!(mean.edges(), edges, "no edge is made up");
                }
                for (layer, grids) in mean.layers.iter().map(|layer| (layer, &layer.grids)) {
                    assert_eq!(layer.edges.len(), grids.len() * layer.outputs);
                    for (i, grid) in grids.iter().enumerate() {
                        for (_, edge) in layer.edges_from(i) {
                            assert_eq!(edge.coef.len(), grid.functions());
                        }
                    }
                }
                let widths: Vec<Vec<usize>> = networks.iter().map(Network::width).collect();
                assert!(
                    mean.members(&widths[1..]).is_none(),
                    "too few nodes, or no network at all"
                );
                match mean.members(&widths) {
                    Some(members) => assert_same_but_for_biases(&members, &networks),
                    None => assert_eq!(depth, 2, "edges of one layer are sums"),
                }
                let count = networks.len() as f64;
                for x in random_points(&mut rng, 50, family[0][0]).chunks(family[0][0]) {
                    // Hidden nodes are the same bit for bit; the last layer's sums are made in
                    // another order, from weights with one rounding more.
                    let (mut sums, mut size, mut terms) = (vec![0.0; mean.eval(x).len()], 0.0, 8);
                    for network in &networks {
                        let mut tape = network.tape();
                        network.forward(x, &mut tape);
                        let last = network.layers.last().unwrap();
                        for (sum, y) in sums.iter_mut().zip(tape.values.last().unwrap()) {
                            *sum += y / count;
                        }
                        for (i, node) in tape.nodes.last().unwrap().iter().enumerate() {
                            let values = &node.local.value[..=degree];
                            for (_, edge) in last.edges_from(i) {
                                let coef = &edge.coef[node.local.first..];
                                let parts = coef.iter().zip(values).map(|(c, b)| (c * b).abs());
                                size += parts.sum::<f64>() + (edge.scale_base * node.base).abs();
                                terms += degree + 2;
                            }
                        }
                        size += last.bias.iter().map(|b| b.abs()).sum::<f64>();
                    }
                    let bound = terms as f64 * EPSILON * size;
                    for (found, exact) in mean.eval(x).iter().zip(&sums) {
                        assert!(
                            (found - exact).abs() <= bound,
                            "{family:?} {degree}: {found}, not {exact} ± {bound}"
                        );
                    }
                }
            }
        }
    }
}

/// The same edges: those of the last layer have been divided by the number of networks and
/// multiplied by it, two roundings, or one where the products of parts are sums.
fn assert_same_but_for_biases(members: &[Network], networks: &[Network]) {
    assert_eq!(members.len(), networks.len());
    for (member, network) in members.iter().zip(networks) {
        let last = network.layers.len() - 1;
        assert_eq!(member.width(), network.width());
        for (l, (found, layer)) in member.layers.iter().zip(&network.layers).enumerate() {
            assert_eq!(found.grids, layer.grids);
            if l < last {
                assert!(found == layer, "layer {l}");
                continue;
            }
            for (found, edge) in found.edges.iter().zip(&layer.edges) {
                assert_eq!(found.is_some(), edge.is_some());
                let (Some(found), Some(edge)) = (found, edge) else {
                    continue;
                };
                let numbers = |edge: &Edge| [&edge.coef[..], &[edge.scale_base]].concat();
                for (a, b) in numbers(found).iter().zip(numbers(edge)) {
                    assert!((a - b).abs() <= 4.0 * f64::EPSILON * b.abs(), "{a} {b}");
                }
            }
        }
    }
}

#[test]
fn a_network_is_the_mean_only_of_what_no_edge_connects() {
    let mut rng = Pcg64Mcg::seed_from_u64(25);
    let whole = random_network(&mut rng, &[2, 4, 4, 1], 3, Base::Silu, 1.0);
    let halves = [vec![2, 2, 2, 1], vec![2, 2, 2, 1]];
    assert!(whole.members(&halves).is_none(), "edges cross");
    let mut parted = whole.clone();
    for (i, j) in (0..4).flat_map(|i| (0..4).map(move |j| (i, j))) {
        if (i < 2) != (j < 2) {
            parted.layers[1].edges[4 * i + j] = None;
        }
    }
    assert!(parted.members(&halves).is_some());
    for wrong in [
        vec![vec![2, 1, 2, 1], vec![2, 3, 2, 1]],
        vec![vec![2, 2, 2, 1], vec![2, 2, 1]],
        vec![vec![1, 2, 2, 1], vec![1, 2, 2, 1]],
        vec![vec![2, usize::MAX, 2, 1], vec![2, 5, 2, 1]],
        vec![vec![2, 4, 4, 1], vec![2, 0, 0, 1]],
        vec![Vec::new()],
        Vec::new(),
    ] {
        assert!(parted.members(&wrong).is_none(), "{wrong:?}");
    }
    // Each gets the output's bias, so that their mean has it.
    let mean = Network::mean(&parted.members(&halves).expect("it is a mean"));
    assert!(mean == parted, "halves and doubles are exact");
}

#[test]
fn networks_on_other_inputs_have_no_mean() {
    let mut rng = Pcg64Mcg::seed_from_u64(24);
    let mut network = |width: &[usize], base| random_network(&mut rng, width, 3, base, 1.0);
    let first = network(&[2, 2, 1], Base::Silu);
    let mut zero = first.clone();
    zero.base = Base::Zero;
    // Of other grids, depth, base function, number.
    let other = network(&[2, 2, 1], Base::Silu);
    let mut deep = first.clone();
    deep.layers
        .push(network(&[1, 1], Base::Silu).layers.remove(0));
    for pair in [
        vec![first.clone(), other],
        vec![first.clone(), zero],
        vec![first, deep],
        vec![],
    ] {
        let mean = std::panic::catch_unwind(|| Network::mean(&pair));
        assert!(mean.is_err());
    }
}
