//! Networks and what training minimises: values against an independent evaluation, derivatives
//! against difference quotients, curvatures against their definitions.

use kan_train_host::grid;
use kan_train_host::levenberg;
use kan_train_host::network::{Base, Edge, Layer, Network};
use kan_train_host::objective::{self, Samples, Tapes, Target, softmax};
use kan_train_host::penalty::{Penalty, PenaltyForm};
use kan_train_host::spline::{Grid, MAX_DEGREE};
use kan_train_host::statistics::{moments, sparsity, statistics};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::spline::{Textbook, irregular, narrowest, romberg, rounding};

const BASES: [Base; 2] = [Base::Silu, Base::Zero];
const EPSILON: f64 = f64::EPSILON;

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
fn base(base: Base, grid: &Grid, x: f64) -> [f64; 3] {
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
fn edge(kind: Base, grid: &Grid, edge: &Edge, x: f64) -> (f64, f64) {
    let (spline, slope) = Textbook::new(grid).spline(&edge.coef, x);
    let [b, b_slope, _] = base(kind, grid, x);
    (
        edge.scale_base * b + spline,
        edge.scale_base * b_slope + slope,
    )
}

/// The outputs by definition, all node values on the way, and bounds on the rounding errors.
fn reference(network: &Network, x: &[f64]) -> Vec<Vec<(f64, f64)>> {
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
/// difference of the two quotients is four times the larger one's truncation error to leading order,
/// and `error` is that of one value.
fn quotient(f: impl Fn(f64) -> f64, error: f64) -> (f64, f64) {
    let step = 1e-5;
    let central = |h: f64| (f(h) - f(-h)) / (2.0 * h);
    let (fine, coarse) = (central(step), central(2.0 * step));
    (
        (4.0 * fine - coarse) / 3.0,
        (fine - coarse).abs() + 2.0 * error / step,
    )
}

/// The network with parameter `p` raised by `by`.
fn moved(network: &Network, p: usize, by: f64) -> Network {
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
fn networks() -> Vec<Network> {
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

/// A network without edges: its outputs are its biases.
fn constant(outputs: &[f64]) -> Network {
    let layer = Layer {
        outputs: outputs.len(),
        grids: vec![Grid::uniform(3, -1.0, 1.0, 2)],
        edges: vec![None; outputs.len()],
        bias: outputs.to_vec(),
    };
    Network {
        base: Base::Silu,
        layers: vec![layer],
    }
}

#[test]
fn losses_have_their_closed_forms() {
    let loss = |outputs: &[f64], target: Target| {
        let x = match &target {
            Target::Values(y) => vec![0.0; y.len() / outputs.len()],
            Target::Classes(class) => vec![0.0; class.len()],
        };
        let samples = Samples {
            inputs: 1,
            outputs: outputs.len(),
            x,
            target,
        };
        objective::loss(&constant(outputs), &samples)
    };
    let near = |a: f64, b: f64| assert!((a - b).abs() <= 8.0 * EPSILON * b.abs(), "{a}, not {b}");
    // ½ mean of the squared distances: ½·(0.25 + 4 + 1 + 0)/2.
    near(
        loss(&[0.5, -1.0], Target::Values(vec![0.0, 1.0, 1.5, -1.0])),
        1.3125,
    );
    // −ln of one of three equal probabilities, of a logit of odds 3 to 1, of a softmax.
    near(
        loss(&[7.0, 7.0, 7.0], Target::Classes(vec![0, 1, 2])),
        3.0_f64.ln(),
    );
    near(
        loss(&[3.0_f64.ln()], Target::Classes(vec![1])),
        (4.0_f64 / 3.0).ln(),
    );
    near(
        loss(&[3.0_f64.ln()], Target::Classes(vec![0])),
        4.0_f64.ln(),
    );
    near(
        loss(&[2.0_f64.ln(), 0.0, 5.0_f64.ln()], Target::Classes(vec![0])),
        4.0_f64.ln(),
    );
    // No overflow where the logits are large, and no zero where the loss is small.
    near(loss(&[1000.0], Target::Classes(vec![0])), 1000.0);
    near(loss(&[-1000.0], Target::Classes(vec![1])), 1000.0);
    near(loss(&[-1000.0, 1000.0], Target::Classes(vec![0])), 2000.0);
    near(loss(&[-40.0], Target::Classes(vec![0])), (-40.0_f64).exp());
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(loss(&[bad], Target::Values(vec![0.0])), f64::INFINITY);
        assert_eq!(loss(&[0.0, bad], Target::Classes(vec![1])), f64::INFINITY);
        assert_eq!(loss(&[1.0], Target::Values(vec![bad])), f64::INFINITY);
    }
    assert_eq!(loss(&[f64::NAN], Target::Classes(vec![0])), f64::INFINITY);
    assert_eq!(
        loss(&[f64::INFINITY], Target::Classes(vec![0])),
        f64::INFINITY
    );
    let network = random_network(
        &mut Pcg64Mcg::seed_from_u64(14),
        &[1, 2, 1],
        3,
        Base::Silu,
        1.0,
    );
    for x in [f64::NAN, f64::INFINITY] {
        let samples = Samples {
            inputs: 1,
            outputs: 1,
            x: vec![x],
            target: Target::Values(vec![0.0]),
        };
        assert_eq!(objective::loss(&network, &samples), f64::INFINITY);
    }
}

#[test]
fn softmax_gives_probabilities() {
    let mut p = [0.0; 3];
    softmax(&[1f64.ln(), 2f64.ln(), 5f64.ln()], &mut p);
    for (p, exact) in p.iter().zip([0.125, 0.25, 0.625]) {
        assert!((p - exact).abs() <= 4.0 * EPSILON);
    }
    softmax(&[-1e300, 0.0, 1e300], &mut p);
    assert_eq!(p, [0.0, 0.0, 1.0]);
    for (z, exact) in [(0.0, 0.5), (3.0_f64.ln(), 0.75), (1e4, 1.0), (-1e4, 0.0)] {
        let mut p = [0.0];
        softmax(&[z], &mut p);
        assert!((p[0] - exact).abs() <= 4.0 * EPSILON);
    }
}

#[test]
fn gradients_of_the_loss_are_the_limits_of_difference_quotients() {
    let mut rng = Pcg64Mcg::seed_from_u64(15);
    for mut network in networks() {
        if rng.random_bool(0.5) {
            // One output: the logit of class 1 of two.
            let last = network.layers.last_mut().unwrap();
            let outputs = last.outputs;
            last.edges = last.edges.iter().step_by(outputs).cloned().collect();
            last.bias.truncate(1);
            last.outputs = 1;
        }
        let x = clear_points(&mut rng, &network, 9);
        for samples in targets(&mut rng, &network, &x) {
            let zero = Penalty::default();
            let vector = network.to_vector();
            let form = PenaltyForm::at(&network, &samples, &zero);
            let (expansion, _) = objective::expand(&network, &samples, &form.curvature(&vector));
            let loss = objective::loss(&network, &samples);
            assert!((expansion.loss - loss).abs() <= 16.0 * EPSILON * loss);
            // |∂loss/∂output| is at most 1 for classes and the residual for values.
            let error = (0..samples.rows())
                .map(|n| {
                    let outputs = reference(&network, samples.row(n)).pop().unwrap();
                    outputs
                        .iter()
                        .map(|(z, e)| (z.abs() + 1.0) * e)
                        .sum::<f64>()
                })
                .fold(16.0 * EPSILON * (1.0 + loss), f64::max);
            for (p, &derivative) in expansion.gradient.iter().enumerate() {
                let f = |by: f64| objective::loss(&moved(&network, p, by), &samples);
                let (exact, bound) = quotient(f, error);
                assert!(bound < 1e-4, "the bound says something: {bound}");
                assert!(
                    (derivative - exact).abs() <= bound,
                    "{:?}, parameter {p}: {derivative}, not {exact} ± {bound}",
                    network.width()
                );
            }
        }
    }
}

/// JᵀWJ/N by definition, row-major.
fn gauss_newton(network: &Network, samples: &Samples) -> Vec<f64> {
    let n = network.parameters();
    let outputs = samples.outputs;
    let mut matrix = vec![0.0; n * n];
    let mut tape = network.tape();
    for row in 0..samples.rows() {
        let z = network.eval(samples.row(row));
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|z| (z - top).exp()).sum();
        let p: Vec<f64> = z.iter().map(|z| (z - top).exp() / sum).collect();
        let jacobian: Vec<Vec<f64>> = (0..outputs)
            .map(|output| {
                network.forward(samples.row(row), &mut tape);
                network.jacobian_row(&mut tape, output)
            })
            .collect();
        for a in 0..outputs {
            for b in 0..outputs {
                let diagonal = f64::from(u8::from(a == b));
                let w = match samples.target {
                    Target::Values(_) => diagonal,
                    Target::Classes(_) if outputs == 1 => {
                        let p = 1.0 / (1.0 + (-z[0]).exp());
                        p * (1.0 - p)
                    }
                    Target::Classes(_) => diagonal * p[a] - p[a] * p[b],
                };
                for i in 0..n {
                    for j in 0..n {
                        matrix[i * n + j] +=
                            w * jacobian[a][i] * jacobian[b][j] / samples.rows() as f64;
                    }
                }
            }
        }
    }
    matrix
}

#[test]
fn the_gauss_newton_matrix_is_what_its_definition_says_in_every_form() {
    let mut rng = Pcg64Mcg::seed_from_u64(16);
    for degree in 1..=MAX_DEGREE {
        for base in BASES {
            for width in [&[2, 1][..], &[2, 3], &[2, 3, 1], &[3, 2, 2, 3]] {
                let network = random_network(&mut rng, width, degree, base, 0.8);
                // Few of many basis functions are not zero on a fine grid, most on a coarse one:
                // the matrix is made in another way.
                let mut fine = network.clone();
                grid::extend(&mut fine, 20, &[usize::MAX; 3]);
                let mut coarse = network.clone();
                grid::extend(&mut coarse, 2, &[usize::MAX; 3]);
                assert!(density(&fine) < 1.0 / 3.0 && density(&coarse) > 1.0 / 3.0);
                let x = random_points(&mut rng, 7, width[0]);
                for samples in targets(&mut rng, &network, &x) {
                    for (network, strength) in [
                        (&network, 0.0),
                        (&network, 1.0),
                        (&coarse, 1.0),
                        (&fine, 1.0),
                    ] {
                        let penalty = Penalty {
                            roughness: 1e-3 * strength,
                            slope: 0.1 * strength,
                            lamb: 0.01 * strength,
                        };
                        check_curvature(&mut rng, network, &samples, &penalty);
                    }
                }
            }
        }
    }
    // More rows than a block of them has, and no multiple of it.
    let network = random_network(&mut rng, &[2, 1], 3, Base::Silu, 1.0);
    let x = random_points(&mut rng, 1100, 2);
    for samples in targets(&mut rng, &network, &x) {
        check_curvature(&mut rng, &network, &samples, &Penalty::default());
    }
}

/// The share of a row of J that is not zero, as `objective::DENSE` counts it.
fn density(network: &Network) -> f64 {
    (network.edges() * (network.degree() + 2)) as f64 / network.parameters() as f64
}

fn check_curvature(rng: &mut Pcg64Mcg, network: &Network, samples: &Samples, penalty: &Penalty) {
    let n = network.parameters();
    let vector = network.to_vector();
    let form = PenaltyForm::at(network, samples, penalty);
    let curvature = form.curvature(&vector);
    let (expansion, lower) = objective::expand(network, samples, &curvature);
    // The penalty's part, column by column.
    let mut exact = gauss_newton(network, samples);
    for column in 0..n {
        let mut unit = vec![0.0; n];
        unit[column] = 1.0;
        for (row, q) in curvature.times(&unit).into_iter().enumerate() {
            exact[row * n + column] += q;
        }
    }
    let largest = (0..n).map(|i| exact[i * n + i]).fold(0.0, f64::max);
    // Products of Jacobian entries that carry a few dozen roundings each.
    let bound = 1e3 * EPSILON * largest;
    for i in 0..n {
        for j in 0..=i {
            let (a, b) = (lower[i * n + j], exact[i * n + j]);
            assert!(
                (a - b).abs() <= bound,
                "{:?} ({i}, {j}): {a}, not {b}",
                network.width()
            );
        }
    }
    let (same, diagonal) = objective::expand_diagonal(network, samples, &curvature);
    assert_eq!(same.loss, expansion.loss);
    assert_eq!(same.gradient, expansion.gradient);
    for i in 0..n {
        assert!(
            (diagonal[i] - exact[i * n + i]).abs() <= bound,
            "diagonal {i}"
        );
    }
    let v: Vec<f64> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut tapes = Tapes::of(network, samples);
    // Twice: a product leaves the tapes fit for the next.
    let product = objective::curvature_times(network, samples, &mut tapes, &curvature, &v);
    let again = objective::curvature_times(network, samples, &mut tapes, &curvature, &v);
    assert_eq!(product, again);
    for i in 0..n {
        let sum: f64 = (0..n).map(|j| exact[i * n + j] * v[j]).sum();
        assert!(
            (product[i] - sum).abs() <= n as f64 * bound,
            "row {i}: {}, not {sum}",
            product[i]
        );
    }
}

#[test]
fn penalty_gradients_are_the_limits_of_difference_quotients() {
    let mut rng = Pcg64Mcg::seed_from_u64(17);
    for (k, network) in networks().into_iter().enumerate() {
        let x = random_points(&mut rng, 30, network.width()[0]);
        let samples = targets(&mut rng, &network, &x).swap_remove(0);
        let penalty = match k % 4 {
            0 => Penalty {
                roughness: 1e-3,
                ..Penalty::default()
            },
            1 => Penalty {
                slope: 0.1,
                ..Penalty::default()
            },
            2 => Penalty {
                lamb: 0.01,
                ..Penalty::default()
            },
            _ => Penalty {
                roughness: 1e-3,
                slope: 0.1,
                lamb: 0.01,
            },
        };
        let form = PenaltyForm::at(&network, &samples, &penalty);
        let vector = network.to_vector();
        let value = form.value(&vector);
        assert!(value >= 0.0);
        let gradient = form.gradient(&vector);
        for p in 0..vector.len() {
            let f = |by: f64| {
                let mut moved = vector.clone();
                moved[p] += by;
                form.value(&moved)
            };
            let (exact, bound) = quotient(f, 1e3 * EPSILON * value);
            assert!(
                bound < 1e-4 * (1.0 + value),
                "the bound says something: {bound}"
            );
            assert!(
                (gradient[p] - exact).abs() <= bound,
                "{:?}, {penalty:?}, parameter {p}: {}, not {exact} ± {bound}",
                network.width(),
                gradient[p]
            );
        }
    }
}

/// Σ over the intervals of a grid of the integral of f, which may jump at its breaks.
fn integral(grid: &Grid, f: impl Fn(f64) -> f64) -> f64 {
    let pieces = grid.breaks().windows(2).map(|pair| {
        let (a, b) = (pair[0], pair[1]);
        romberg(6, a, b, |x| f(x.clamp(a, b - 1e-14)))
    });
    pieces.sum()
}

#[test]
fn penalties_measure_bending_tilt_and_magnitude() {
    let mut rng = Pcg64Mcg::seed_from_u64(18);
    for degree in 1..=MAX_DEGREE {
        for kind in BASES {
            for width in [&[2, 2][..], &[2, 3, 1]] {
                let mut network = random_network(&mut rng, width, degree, kind, 0.9);
                // Narrow intervals: the quadrature is exact for splines, not for the base function.
                grid::extend(&mut network, 12, &[usize::MAX; 2]);
                let x = random_points(&mut rng, 50, 2);
                let samples = targets(&mut rng, &network, &x).swap_remove(0);
                let penalty = Penalty {
                    roughness: rng.random_range(0.0..0.1),
                    slope: rng.random_range(0.0..1.0),
                    lamb: rng.random_range(0.0..0.5),
                };
                let exact = penalty_by_definition(&network, &samples, &penalty);
                let form = PenaltyForm::at(&network, &samples, &penalty);
                let value = form.value(&network.to_vector());
                // Four Gauss points on an interval of width w: error w⁹(4!)⁴/(9·8!³), 5e-9·w⁹, times
                // the eighth derivative, with w below a third of the base function's unit.
                assert!(
                    (value - exact).abs() <= 1e-9 * exact,
                    "degree {degree}, {kind:?}, {width:?}: {value}, not {exact}"
                );
            }
        }
    }
}

/// ½ Σ over the nodes that edges lead to; see [`PenaltyForm`].
fn penalty_by_definition(network: &Network, samples: &Samples, penalty: &Penalty) -> f64 {
    let last = network.layers.len() - 1;
    let nodes: Vec<Vec<Vec<(f64, f64)>>> = (0..samples.rows())
        .map(|n| reference(network, samples.row(n)))
        .collect();
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let variance = |v: &[f64]| {
        let m = mean(v);
        v.iter().map(|x| (x - m).powi(2)).sum::<f64>() / v.len() as f64
    };
    let mut total = 0.0;
    for (l, layer) in network.layers.iter().enumerate() {
        let mut found = Vec::new();
        for j in 0..layer.outputs {
            let target: Vec<f64> = nodes.iter().map(|node| node[l + 1][j].0).collect();
            for i in 0..layer.inputs() {
                let Some(e) = layer.edge(i, j) else { continue };
                let grid = &layer.grids[i];
                let values: Vec<f64> = nodes
                    .iter()
                    .map(|node| edge(network.base, grid, e, node[l][i].0).0)
                    .collect();
                let m = mean(&values);
                let absolute: Vec<f64> = values.iter().map(|v| (v - m).abs()).collect();
                let magnitude = mean(&absolute) / variance(&target).sqrt();
                found.push((i, j, variance(&values), magnitude));
            }
        }
        let entropy = |found: &[f64]| {
            let sum: f64 = found.iter().sum();
            found.iter().map(|a| -a / sum * (a / sum).ln()).sum::<f64>()
        };
        let magnitudes: Vec<f64> = found.iter().map(|f| f.3).collect();
        for j in 0..layer.outputs {
            let (mut numerator, mut spread) = (0.0, 0.0);
            for (at, &(i, to, variance, magnitude)) in found.iter().enumerate() {
                if to != j {
                    continue;
                }
                let (grid, e) = (&layer.grids[i], layer.edge(i, j).unwrap());
                let textbook = Textbook::new(grid);
                let range = grid.hi() - grid.lo();
                let curvature = |x: f64| {
                    let spline: f64 = match grid.degree() {
                        1 => 0.0,
                        _ => e
                            .coef
                            .iter()
                            .enumerate()
                            .map(|(m, c)| c * textbook.curvature(m, x))
                            .sum(),
                    };
                    spline + e.scale_base * base(network.base, grid, x)[2]
                };
                let bending = integral(grid, |x| curvature(x).powi(2)) + corners(grid, &e.coef);
                let tilt = integral(grid, |x| edge(network.base, grid, e, x).1.powi(2));
                let (pull, _) = quotient(
                    |by| {
                        let mut moved = magnitudes.clone();
                        moved[at] *= 1.0 + by;
                        entropy(&moved)
                    },
                    0.0,
                );
                let weight = penalty.lamb * (1.0 + (pull / magnitude).max(0.0)) / magnitude;
                numerator += penalty.roughness * range.powi(3) * bending
                    + penalty.slope * range * tilt
                    + weight * variance;
                spread += variance;
            }
            if numerator > 0.0 {
                total += 0.5 * numerator / if l < last { spread } else { 1.0 };
            }
        }
    }
    total
}

/// The bending of a polygon: its slope's jumps, squared, each over the width it is spread on.
fn corners(grid: &Grid, coef: &[f64]) -> f64 {
    if grid.degree() != 1 {
        return 0.0;
    }
    let breaks = grid.breaks();
    (1..breaks.len() - 1)
        .map(|m| {
            let slope = |a: usize| (coef[a + 1] - coef[a]) / (breaks[a + 1] - breaks[a]);
            (slope(m) - slope(m - 1)).powi(2) / (0.5 * (breaks[m + 1] - breaks[m - 1]))
        })
        .sum()
}

#[test]
fn sparsity_is_magnitude_and_entropy() {
    // Magnitudes mean|φ − mean φ| of lines over samples −1 and 1 are their slopes. Relative to the
    // node: 3/√(9 + 1) and 1/√10 for uncorrelated inputs.
    let line = |slope: f64| Edge {
        coef: vec![-slope, slope],
        scale_base: 0.0,
    };
    let layer = Layer {
        outputs: 1,
        grids: vec![Grid::uniform(1, -1.0, 1.0, 1); 2],
        edges: vec![Some(line(3.0)), Some(line(1.0))],
        bias: vec![0.0],
    };
    let network = Network {
        base: Base::Zero,
        layers: vec![layer],
    };
    let samples = Samples {
        inputs: 2,
        outputs: 1,
        x: vec![-1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0],
        target: Target::Values(vec![0.0; 4]),
    };
    let entropy = -(0.75 * 0.75_f64.ln() + 0.25 * 0.25_f64.ln());
    let exact = 4.0 / 10.0_f64.sqrt() + entropy;
    let found = sparsity(&network, &samples);
    assert!(
        (found - exact).abs() <= 16.0 * EPSILON,
        "{found}, not {exact}"
    );
}

#[test]
fn statistics_are_means_deviations_and_ranges() {
    let mut rng = Pcg64Mcg::seed_from_u64(19);
    let network = random_network(&mut rng, &[2, 3, 2], 3, Base::Silu, 0.8);
    let x = random_points(&mut rng, 40, 2);
    let samples = targets(&mut rng, &network, &x).swap_remove(0);
    let found = statistics(&network, &samples);
    let nodes: Vec<_> = x.chunks(2).map(|x| reference(&network, x)).collect();
    let bound = nodes
        .iter()
        .flatten()
        .flatten()
        .map(|(_, e)| *e)
        .fold(1e-14, f64::max)
        * 4.0;
    let check = |a: f64, b: f64| assert!((a - b).abs() <= bound, "{a}, not {b}");
    for l in 0..3 {
        for i in 0..network.width()[l] {
            let values: Vec<f64> = nodes.iter().map(|node| node[l][i].0).collect();
            let mean = values.iter().sum::<f64>() / 40.0;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 40.0;
            check(found.deviation[l][i], variance.sqrt());
            check(
                found.range[l][i].0,
                values.iter().copied().fold(f64::INFINITY, f64::min),
            );
            check(
                found.range[l][i].1,
                values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            );
        }
    }
    for (l, layer) in network.layers.iter().enumerate() {
        for e in 0..layer.edges.len() {
            let (i, j) = (e / layer.outputs, e % layer.outputs);
            let (mut mean, mut magnitude) = (0.0, 0.0);
            if let Some(at) = layer.edge(i, j) {
                let value = |node: &[Vec<(f64, f64)>]| {
                    edge(network.base, &layer.grids[i], at, node[l][i].0).0
                };
                mean = nodes.iter().map(|node| value(node)).sum::<f64>() / 40.0;
                magnitude = nodes
                    .iter()
                    .map(|node| (value(node) - mean).abs())
                    .sum::<f64>()
                    / 40.0;
            }
            check(found.mean[l][e], mean);
            check(found.magnitude[l][e], magnitude);
        }
    }
}

#[test]
fn moments_are_the_covariances_of_the_functions_of_a_node() {
    let mut rng = Pcg64Mcg::seed_from_u64(21);
    let rows = 40;
    for network in networks() {
        let x = random_points(&mut rng, rows, network.width()[0]);
        let samples = samples(&network, x);
        let found = moments(&network, &samples);
        let mut tape = network.tape();
        let nodes: Vec<Vec<Vec<f64>>> = (0..rows)
            .map(|n| {
                network.forward(samples.row(n), &mut tape);
                tape.values.clone()
            })
            .collect();
        for (l, layer) in network.layers.iter().enumerate() {
            for (i, grid) in layer.grids.iter().enumerate() {
                let mut size = grid.functions();
                let functions: Vec<Vec<f64>> = nodes
                    .iter()
                    .map(|node| {
                        let local = grid.local(node[l][i]);
                        let mut row = vec![0.0; size];
                        row[local.first..=local.first + network.degree()]
                            .copy_from_slice(&local.value[..=network.degree()]);
                        row.push(base(network.base, grid, node[l][i])[0]);
                        row
                    })
                    .collect();
                size += usize::from(network.base != Base::Zero);
                assert_eq!(found[l][i].len(), size * size);
                let count = rows as f64;
                let largest = functions
                    .iter()
                    .flatten()
                    .fold(0.0, |m, v| f64::max(m, v.abs()));
                // Sums of so many products, each with two roundings, and their difference; the
                // textbook's base function differs by a few more.
                let bound = 4.0 * (count + 10.0) * EPSILON * largest * largest;
                let mean = |a: usize| functions.iter().map(|row| row[a]).sum::<f64>() / count;
                for a in 0..size {
                    for b in 0..size {
                        let (mean_a, mean_b) = (mean(a), mean(b));
                        let products = functions.iter().map(|r| (r[a] - mean_a) * (r[b] - mean_b));
                        let exact = products.sum::<f64>() / count;
                        let moment = found[l][i][a * size + b];
                        assert!(
                            (moment - exact).abs() <= bound,
                            "{:?}, layer {l}, node {i} ({a}, {b}): {moment}, not {exact}",
                            network.width()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn bending_is_the_roughness_penalty_of_strength_one() {
    let mut rng = Pcg64Mcg::seed_from_u64(22);
    for network in networks() {
        let x = random_points(&mut rng, 30, network.width()[0]);
        let samples = samples(&network, x);
        let of = |penalty| PenaltyForm::at(&network, &samples, &penalty);
        let vector = network.to_vector();
        let exact = of(Penalty {
            roughness: 1.0,
            ..Penalty::default()
        })
        .value(&vector);
        let mut form = of(Penalty {
            roughness: 0.7,
            slope: 0.1,
            lamb: 0.01,
        });
        let bending = form.bending(&vector);
        // Sums of terms that are not negative, in another order.
        let bound = 1e3 * EPSILON * exact;
        assert!((bending - exact).abs() <= bound, "{bending}, not {exact}");
        let before = form.value(&vector);
        form.roughen(0.25);
        let (more, least) = (form.value(&vector) - before, 1e3 * EPSILON * before);
        assert!((more - 0.25 * exact).abs() <= bound + least, "{more}");
    }
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

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut rng = Pcg64Mcg::seed_from_u64(20);
    for rows in [1, 2, 3, 5, 50] {
        let network = random_network(&mut rng, &[3, 4, 2], 3, Base::Silu, 0.9);
        let x = random_points(&mut rng, rows, 3);
        for samples in targets(&mut rng, &network, &x) {
            let penalty = Penalty {
                roughness: 1e-4,
                slope: 1e-4,
                lamb: 1e-3,
            };
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| {
                    let vector = network.to_vector();
                    let form = PenaltyForm::at(&network, &samples, &penalty);
                    let curvature = form.curvature(&vector);
                    let (expansion, matrix) = objective::expand(&network, &samples, &curvature);
                    let (_, diagonal) = objective::expand_diagonal(&network, &samples, &curvature);
                    let mut tapes = Tapes::of(&network, &samples);
                    let product = objective::curvature_times(
                        &network, &samples, &mut tapes, &curvature, &vector,
                    );
                    let options = levenberg::Options {
                        steps: 5,
                        damping: 1e-2,
                        tolerance: 0.0,
                    };
                    let mut trained = network.clone();
                    levenberg::train(&mut trained, &samples, &penalty, &options, &mut |_, _| {});
                    let numbers = [matrix, diagonal, product, expansion.gradient].concat();
                    let trained = trained.to_vector();
                    let all = numbers
                        .into_iter()
                        .chain(trained)
                        .chain([expansion.loss, objective::loss(&network, &samples)]);
                    all.map(f64::to_bits).collect::<Vec<u64>>()
                })
            };
            assert!(on(1) == on(2), "{rows} rows");
        }
    }
}

#[test]
fn subsets_keep_rows_and_targets_together() {
    let samples = Samples {
        inputs: 2,
        outputs: 2,
        x: (0..8).map(f64::from).collect(),
        target: Target::Values((10..18).map(f64::from).collect()),
    };
    assert_eq!((samples.rows(), samples.row(2)), (4, &[4.0, 5.0][..]));
    let part = samples.subset(&[3, 0, 3]);
    assert_eq!(part.x, [6.0, 7.0, 0.0, 1.0, 6.0, 7.0]);
    assert_eq!(part.rows(), 3);
    assert!(matches!(part.target, Target::Values(y) if y == [16., 17., 10., 11., 16., 17.]));
    let classes = Samples {
        target: Target::Classes(vec![0, 1, 2, 3]),
        ..samples
    };
    assert!(matches!(classes.subset(&[2, 1]).target, Target::Classes(c) if c == [2, 1]));
}
