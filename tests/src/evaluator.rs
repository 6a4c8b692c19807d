//! kan-core's evaluation, against the textbook in f64 and against what its documentation promises.

use kan_core::{
    LoadError, Model,
    blob::{Head, Node},
};

use crate::blob::{AnyModel, Layer, Random, Tables, load};

/// Half a unit in the last place of 1: the relative error of one f32 operation.
const U: f64 = 1.0 / (1_u64 << 24) as f64;

fn silu(z: f64) -> f64 {
    z / (1.0 + (-z).exp())
}

fn silu_slope(z: f64) -> f64 {
    let s = 1.0 / (1.0 + (-z).exp());
    s * (1.0 + z * (1.0 - s))
}

/// A node's grid in f64.
struct Grid {
    degree: usize,
    intervals: usize,
    lo: f64,
    hi: f64,
    step: f64,
    margin: f64,
}

impl Grid {
    fn new(node: &Node, degree: u8) -> Self {
        let intervals = usize::from(node.intervals);
        let (lo, step) = (f64::from(node.lo), 1.0 / f64::from(node.inv_step));
        let hi = lo + intervals as f64 * step;
        let (degree, margin) = (usize::from(degree), f64::from(node.margin));
        Self {
            degree,
            intervals,
            lo,
            hi,
            step,
            margin,
        }
    }

    fn knot(&self, i: usize) -> f64 {
        self.lo + (i as f64 - self.degree as f64) * self.step
    }

    /// B-spline `i` of degree `p` by the recursion of Cox and de Boor, `x` on the grid.
    fn spline(&self, i: usize, p: usize, x: f64) -> f64 {
        if p == 0 {
            // The last interval of the grid is closed.
            let last = i + 1 == self.degree + self.intervals;
            let within = if x == self.hi {
                last
            } else {
                self.knot(i) <= x && x < self.knot(i + 1)
            };
            return f64::from(within);
        }
        let rising = (x - self.knot(i)) / (self.knot(i + p) - self.knot(i));
        let falling = (self.knot(i + p + 1) - x) / (self.knot(i + p + 1) - self.knot(i + 1));
        rising * self.spline(i, p - 1, x) + falling * self.spline(i + 1, p - 1, x)
    }

    /// Its derivative, by the formula for B-splines.
    fn spline_slope(&self, i: usize, x: f64) -> f64 {
        let p = self.degree;
        if p == 0 {
            return 0.0;
        }
        let left = self.spline(i, p - 1, x) / (self.knot(i + p) - self.knot(i));
        let right = self.spline(i + 1, p - 1, x) / (self.knot(i + p + 1) - self.knot(i + 1));
        p as f64 * (left - right)
    }

    /// `x` saturated at the end of the margin, and its nearest point on the grid.
    fn saturate(&self, x: f64) -> (f64, f64) {
        let margin = self.margin * self.step;
        let x = if x.is_nan() { f64::NEG_INFINITY } else { x };
        let x = x.clamp(self.lo - margin, self.hi + margin);
        (x, x.clamp(self.lo, self.hi))
    }

    /// The function of an edge. Its base function sees the grid as −1 to 1.
    fn edge(&self, coefficients: &[f64], base: f64, x: f64) -> f64 {
        let (x, inside) = self.saturate(x);
        let half = 0.5 * (self.hi - self.lo);
        let z = (inside - 0.5 * (self.lo + self.hi)) / half;
        let mut value = base * silu(z);
        let mut slope = base * silu_slope(z) / half;
        for (i, c) in coefficients.iter().enumerate() {
            value += c * self.spline(i, self.degree, inside);
            slope += c * self.spline_slope(i, inside);
        }
        value + slope * (x - inside)
    }
}

/// A layer's outputs in f64, and how far f32 can be from them, given how far the inputs are.
///
/// The bound follows the operations one by one (`FORMAT.md`), each with a relative error of U:
///
/// - The position on the grid, |t| ≤ T = intervals + margin: two operations and the split into
///   nearest point and rest make 4UT, and an input error e adds e·inv_step. Times the steepest
///   slope, which for a B-spline is the largest difference of neighbouring coefficients.
/// - The weights: counting the operations of each, their errors sum to at most (12 + 3·margin)U.
///   Times the largest coefficient.
/// - The base function: the position's error times 2/intervals, as its slope is below 1. Then z,
///   from −1 to 1, is off by 5U (the factor and its product, at most 2, and the difference), the
///   logistic function s ≤ 0.74 by 4Us (exp counts two operations), their product by one more: 9U
///   with that of z. The slope is off by 10U, and as |silu″| ≤ 1/2 by 2.5U for z; `beyond` in the
///   unit of z and the product with it make it 16U times the longest tangent L =
///   2·margin/intervals. Their sum is rounded, below 1 + L.
/// - The sum of n products: n + 1 roundings of at most the sum of all magnitudes.
fn oracle(layer: &Layer, input: &[f64], error: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let outputs = usize::from(layer.outputs);
    let mut value: Vec<f64> = layer.bias.iter().map(|&bias| f64::from(bias)).collect();
    let mut bound = vec![0.0; outputs];
    let mut magnitude: Vec<f64> = value.iter().map(|bias| bias.abs()).collect();
    let mut products = vec![0.0; outputs];
    for (i, target, coefficients, base) in layer.edges() {
        let node = &layer.nodes[i];
        let grid = Grid::new(node, layer.degree);
        value[target] += grid.edge(&coefficients, base, input[i]);

        let largest = coefficients.iter().fold(0.0_f64, |m, c| m.max(c.abs()));
        let steepest = coefficients
            .windows(2)
            .fold(0.0_f64, |m, c| m.max((c[1] - c[0]).abs()));
        let t = grid.intervals as f64 + grid.margin;
        let off = 4.0 * U * t + error[i] / grid.step;
        let factor = 2.0 / grid.intervals as f64;
        let tangent = grid.margin * factor;
        let base_off = off * factor + (10.0 + 17.0 * tangent) * U;
        let position = if layer.degree == 0 {
            0.0
        } else {
            steepest * off
        };
        bound[target] +=
            position + largest * (12.0 + 3.0 * grid.margin) * U + base.abs() * base_off;
        magnitude[target] += largest * (1.0 + 2.0 * grid.margin) + base.abs() * (1.0 + tangent);
        products[target] += f64::from(layer.degree) + 1.0 + f64::from(u8::from(layer.residual));
    }
    for (bound, (magnitude, products)) in bound.iter_mut().zip(magnitude.iter().zip(&products)) {
        *bound = 1.01 * (*bound + (products + 1.0) * U * magnitude);
    }
    (value, bound)
}

/// The whole model in f64, with the bound.
fn oracle_of_model(tables: &Tables, input: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let mut value: Vec<f64> = input.iter().map(|&x| f64::from(x)).collect();
    let mut error = vec![0.0; value.len()];
    for layer in &tables.layers {
        (value, error) = oracle(layer, &value, &error);
    }
    (value, error)
}

fn eval(model: &AnyModel, input: &[f32]) -> Vec<f32> {
    let mut output = vec![f32::NAN; model.outputs()];
    model.eval_into(input, &mut output);
    output
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// Inputs within the grid, on its margins, and far out.
fn inputs(random: &mut Random, nodes: &[Node]) -> Vec<f32> {
    let of = |node: &Node| {
        let step = 1.0 / node.inv_step;
        let width = f32::from(node.intervals) * step;
        let beyond = match random.below(4) {
            0 => 2.0 * (node.margin + 1.0) * step,
            1 => node.margin * step,
            _ => 0.0,
        };
        random.within(node.lo - beyond, node.lo + width + beyond)
    };
    nodes.iter().map(of).collect()
}

/// Whether `x` is so near a knot that f32 may find itself on its other side.
fn near_a_knot(node: &Node, x: f32) -> bool {
    let t = (f64::from(x) - f64::from(node.lo)) * f64::from(node.inv_step);
    (t - t.round()).abs() < 1e-4
}

#[test]
fn a_layer_computes_what_cox_and_de_boor_say() {
    let mut random = Random(3);
    let mut worst: f64 = 0.0;
    for degree in [3, 1, 0] {
        for residual in [false, true] {
            for density in [1.0, 0.5] {
                for _ in 0..10 {
                    let shape = (1 + random.below(6), 1 + random.below(6) as u16);
                    let layer = Layer::random(&mut random, degree, residual, shape, density);
                    let tables = Tables::new(Head::Identity, vec![layer.clone()]);
                    let blob = tables.encode();
                    let model = load(&blob);
                    for _ in 0..100 {
                        let input = inputs(&mut random, &layer.nodes);
                        let mut on_a_jump = layer.nodes.iter().zip(&input);
                        if degree == 0 && on_a_jump.any(|(node, &x)| near_a_knot(node, x)) {
                            continue;
                        }
                        let (value, bound) = oracle_of_model(&tables, &input);
                        for ((y, value), bound) in
                            eval(&model, &input).iter().zip(&value).zip(&bound)
                        {
                            let error = (f64::from(*y) - value).abs();
                            assert!(
                                error <= *bound,
                                "degree {degree}, residual {residual}, input {input:?}: {y} \
                                 instead of {value}, off by {error:e} of {bound:e}"
                            );
                            assert!(*bound < 2e-3, "the bound {bound:e} says nothing");
                            worst = worst.max(error / bound);
                        }
                    }
                }
            }
        }
    }
    // The bound is a worst case over every rounding; were it far too wide, it would hide mistakes.
    assert!(worst > 0.02, "no error above {worst:.3} of its bound");
}

#[test]
fn layers_follow_one_another() {
    let mut random = Random(4);
    for _ in 0..20 {
        let widths = [
            1 + random.below(4),
            1 + random.below(6),
            1 + random.below(6),
            2,
        ];
        let layers = widths
            .windows(2)
            .map(|pair| {
                let degree = [1, 3][random.below(2)];
                let residual = random.below(2) == 0;
                Layer::random(
                    &mut random,
                    degree,
                    residual,
                    (pair[0], pair[1] as u16),
                    0.8,
                )
            })
            .collect();
        let tables = Tables::new(Head::Identity, layers);
        let blob = tables.encode();
        let model = load(&blob);
        for _ in 0..50 {
            let input = inputs(&mut random, &tables.layers[0].nodes);
            let (value, bound) = oracle_of_model(&tables, &input);
            for ((y, value), bound) in eval(&model, &input).iter().zip(value).zip(bound) {
                let error = (f64::from(*y) - value).abs();
                assert!(
                    error <= bound,
                    "{y} instead of {value}, off by {error:e} of {bound:e}"
                );
            }
        }
    }
}

/// One input, one output, one edge.
fn one_edge(degree: u8, node: Node, coefficients: Vec<f32>) -> Tables {
    let layer = Layer {
        degree,
        residual: false,
        outputs: 1,
        nodes: vec![Node { edges: 1, ..node }],
        bias: vec![0.0],
        targets: vec![0],
        coefficients,
        base: vec![],
    };
    Tables::new(Head::Identity, vec![layer])
}

const GRID: Node = Node {
    lo: -2.0,
    inv_step: 2.0,
    margin: 3.0,
    intervals: 9,
    edges: 1,
};

#[test]
fn the_basis_is_a_partition_of_unity() {
    let mut random = Random(5);
    for degree in [3, 1, 0] {
        let blob = one_edge(degree, GRID, vec![1.0; 9 + usize::from(degree)]).encode();
        let model = load(&blob);
        for _ in 0..1000 {
            let x = random.within(-6.0, 6.0);
            let y = f64::from(eval(&model, &[x])[0]);
            // The errors of the weights, and of adding up numbers of at most 1 + margin.
            let bound = (12.0 + 3.0 * 3.0 + 4.0 * 4.0) * U;
            assert!((y - 1.0).abs() <= bound, "degree {degree} at {x}: {y}");
        }
    }
}

#[test]
fn straight_lines_are_reproduced_to_the_end_of_the_margin() {
    for degree in [3, 1] {
        // The coefficients of x itself are the means of `degree` neighbouring knots.
        let first = -2.0 - 0.25 * (f32::from(degree) - 1.0);
        let coefficients = (0..9 + degree)
            .map(|m| first + 0.5 * f32::from(m))
            .collect();
        let blob = one_edge(degree, GRID, coefficients).encode();
        let model = load(&blob);
        // The grid ends at −2 and 2.5, the margin at −3.5 and 4.
        for k in -60..=60 {
            let x = k as f32 / 10.0;
            let y = f64::from(eval(&model, &[x])[0]);
            let expected = f64::from(x.clamp(-3.5, 4.0));
            let bound = (4.0 * 12.0 * 0.5 + 3.0 * (12.0 + 9.0) + 5.0 * 3.0 * 7.0) * U;
            assert!((y - expected).abs() <= bound, "degree {degree} at {x}: {y}");
            assert_eq!(model.in_domain(&[x; 16]), (-3.5..=4.0).contains(&x), "{x}");
        }
    }
}

#[test]
fn steps_stay_constant_beyond_the_grid() {
    let coefficients: Vec<f32> = (0..9).map(|k| k as f32).collect();
    let blob = one_edge(0, GRID, coefficients).encode();
    let model = load(&blob);
    for (x, y) in [
        (-1e9, 0.0),
        (-2.0, 0.0),
        (-1.75, 0.0),
        (-1.5, 1.0),
        (2.25, 8.0),
        (9.0, 8.0),
    ] {
        assert_eq!(eval(&model, &[x]), [y], "at {x}");
    }
}

/// A node whose only edge is the base function.
fn base_alone(node: Node) -> Tables {
    let mut tables = one_edge(0, node, vec![0.0; usize::from(node.intervals)]);
    tables.layers[0].residual = true;
    tables.layers[0].base = vec![1.0];
    tables
}

#[test]
fn the_base_function_sees_the_grid_as_minus_1_to_1() {
    for (lo, width) in [
        (-1.0_f32, 2.0_f32),
        (-2.0, 4.5),
        (1000.0, 0.125),
        (0.0, 1e6),
    ] {
        for intervals in [1, 2, 9, 4096] {
            let node = Node {
                lo,
                inv_step: f32::from(intervals) / width,
                // As far again as the grid is wide: to z = ±3.
                margin: f32::from(intervals),
                intervals,
                edges: 1,
            };
            let blob = base_alone(node).encode();
            let model = load(&blob);
            for k in -40..=40 {
                let z = f64::from(k) / 10.0;
                let x = (f64::from(lo) + f64::from(width) * (z + 1.0) / 2.0) as f32;
                let y = f64::from(eval(&model, &[x])[0]);
                let inside = z.clamp(-1.0, 1.0);
                let expected = silu(inside) + silu_slope(inside) * (z.clamp(-3.0, 3.0) - inside);
                // On the scale of z: x, up to 5 from lo, is rounded; then 1/step, x − lo, their
                // product and its rest, up to 4. The function itself is as in `oracle`.
                let place = 2.0 * f64::from(lo.abs() / width) + 5.0 + 4.0 * 4.0;
                let bound = 1.01 * (place + 10.0 + 17.0 * 2.0) * U;
                assert!(
                    (y - expected).abs() <= bound,
                    "z = {z} on {lo} + {width}, {intervals} intervals: {y}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn the_unit_of_a_node_changes_no_bit() {
    let mut random = Random(10);
    for degree in [3, 1, 0] {
        let layer = Layer::random(&mut random, degree, true, (3, 4), 0.8);
        let of_unit = |unit: f32| {
            let mut layer = layer.clone();
            for node in &mut layer.nodes {
                node.lo *= unit;
                node.inv_step /= unit;
            }
            Tables::new(Head::Identity, vec![layer]).encode()
        };
        let (one, small, large) = (of_unit(1.0), of_unit(1.0 / 1024.0), of_unit(4096.0));
        for _ in 0..100 {
            let input = inputs(&mut random, &layer.nodes);
            let at = |blob, unit: f32| {
                let input: Vec<f32> = input.iter().map(|x| x * unit).collect();
                bits(&eval(&load(blob), &input))
            };
            assert_eq!(at(&small, 1.0 / 1024.0), at(&one, 1.0), "{input:?}");
            assert_eq!(at(&large, 4096.0), at(&one, 1.0), "{input:?}");
        }
    }
}

#[test]
fn inputs_saturate_at_the_end_of_the_margin() {
    for residual in [false, true] {
        for degree in [3, 1, 0] {
            let mut random = Random(6);
            let shape = (1, 3);
            let layer = Layer::random(&mut random, degree, residual, shape, 1.0);
            let layer = Layer {
                nodes: vec![Node { edges: 3, ..GRID }],
                ..layer
            };
            let rows = 9 + usize::from(degree);
            let coefficients = (0..3 * rows).map(|_| random.within(-1.0, 1.0)).collect();
            let layer = Layer {
                coefficients,
                ..layer
            };
            let blob = Tables::new(Head::Identity, vec![layer]).encode();
            let model = load(&blob);
            let at = |x: f32| bits(&eval(&model, &[x]));
            // Its ends are whole numbers of steps here, so that the margin ends at them exactly.
            for x in [4.0_f32.next_up(), 5.0, 1e9, f32::MAX, f32::INFINITY] {
                assert_eq!(at(x), at(4.0), "degree {degree}, residual {residual}, {x}");
                assert!(!model.in_domain_of(&[x]), "{x}");
            }
            for x in [
                (-3.5_f32).next_down(),
                -5.0,
                -1e9,
                f32::MIN,
                f32::NEG_INFINITY,
                f32::NAN,
            ] {
                assert_eq!(at(x), at(-3.5), "degree {degree}, residual {residual}, {x}");
                assert!(!model.in_domain_of(&[x]), "{x}");
            }
            assert!(model.in_domain_of(&[4.0]) && model.in_domain_of(&[-3.5]));
            if degree > 0 {
                assert_ne!(at(4.0), at(3.9), "the margin is not flat");
            }
        }
    }
}

#[test]
fn inputs_that_no_edge_reads_are_not_looked_at() {
    let blob = Tables::mixed(Head::Softmax, 3).encode();
    let model = load(&blob);
    let tables = Tables::mixed(Head::Softmax, 3);
    let middle = |node: &Node| node.lo + 0.5 * f32::from(node.intervals) / node.inv_step;
    let inside: Vec<f32> = tables.layers[0].nodes.iter().map(middle).collect();
    assert!(model.in_domain_of(&inside));
    for far in [f32::NAN, f32::INFINITY, 1e9] {
        for k in 0..4 {
            let mut input = inside.clone();
            input[k] = far;
            assert_eq!(model.in_domain_of(&input), k == 2, "input {k} = {far}");
            let same = bits(&eval(&model, &input)) == bits(&eval(&model, &inside));
            assert!(k != 2 || same, "the unread input matters");
        }
    }
}

#[test]
fn capacities_bound_the_shape_and_change_no_bit() {
    let tables = Tables::mixed(Head::Softmax, 3);
    let blob = tables.encode();
    let exact = Model::<4, 3, 5, 4>::load(&blob).expect("it fits exactly");
    let roomy = Model::<9, 7, 64, 12>::load(&blob).expect("it fits easily");
    let mut random = Random(7);
    for _ in 0..100 {
        let input = inputs(&mut random, &tables.layers[0].nodes);
        let output = exact.eval(&[input[0], input[1], input[2], input[3]]);
        let mut wide = [f32::NAN; 9];
        wide[..4].copy_from_slice(&input);
        let of_roomy = roomy.eval(&wide);
        assert_eq!(bits(&of_roomy[..3]), bits(&output));
        assert_eq!(bits(&of_roomy[3..]), [0; 4], "surplus outputs are 0");
        assert_eq!(bits(&roomy.probabilities(&wide)[3..]), [0; 4]);
        assert_eq!(roomy.classify(&wide), exact.classify_from(&input));
        assert_eq!(roomy.in_domain(&wide), exact.in_domain_of(&input));

        let mut slice = [f32::NAN; 5];
        exact.eval_into(&input, &mut slice);
        assert_eq!(
            bits(&slice),
            bits(&[output[0], output[1], output[2], 0.0, 0.0])
        );
        let mut short = [f32::NAN; 2];
        exact.eval_into(&input, &mut short);
        assert_eq!(bits(&short), bits(&output[..2]));
        let mut padded = [input[0], 0.0, 0.0, 0.0].map(Some);
        let mut of_padded = [f32::NAN; 3];
        let mut of_short = [f32::NAN; 3];
        exact.eval_into(
            &padded.each_mut().map(|x| x.take().unwrap()),
            &mut of_padded,
        );
        exact.eval_into(&input[..1], &mut of_short);
        assert_eq!(
            bits(&of_short),
            bits(&of_padded),
            "missing inputs count as 0"
        );
    }
    let exceeded = Some(LoadError::CapacityExceeded);
    assert_eq!(Model::<3, 3, 5, 4>::load(&blob).err(), exceeded, "inputs");
    assert_eq!(Model::<4, 2, 5, 4>::load(&blob).err(), exceeded, "outputs");
    assert_eq!(Model::<4, 3, 4, 4>::load(&blob).err(), exceeded, "width");
    assert_eq!(Model::<4, 3, 5, 3>::load(&blob).err(), exceeded, "layers");
    assert_eq!(Model::<0, 0, 0, 0>::load(&blob).err(), exceeded);
}

/// Four straight lines of slope 1 on ±8, so that the outputs are the sums of chosen logits.
fn logits(head: Head, count: u16) -> Tables {
    let nodes = vec![
        Node {
            lo: -8.0,
            inv_step: 1.0 / 16.0,
            margin: 20.0,
            intervals: 1,
            edges: 1
        };
        usize::from(count)
    ];
    let layer = Layer {
        degree: 1,
        residual: false,
        outputs: count,
        nodes,
        bias: vec![0.0; usize::from(count)],
        targets: (0..count).collect(),
        coefficients: [-8.0, 8.0].repeat(usize::from(count)),
        base: vec![],
    };
    Tables::new(head, vec![layer])
}

#[test]
fn a_softmax_head_gives_probabilities_and_the_likeliest_class() {
    let blob = logits(Head::Softmax, 4).encode();
    let model = Model::<4, 4, 4, 1>::load(&blob).expect("it loads");
    let mut random = Random(8);
    for _ in 0..1000 {
        let scale = [1.0, 10.0, 300.0][random.below(3)];
        let input = [0; 4].map(|_| random.within(-scale, scale));
        let logits = model.eval(&input);
        let largest = logits
            .iter()
            .fold(f64::NEG_INFINITY, |m, &z| m.max(f64::from(z)));
        let exps = logits.map(|z| (f64::from(z) - largest).exp());
        let total: f64 = exps.iter().sum();
        let probabilities = model.probabilities(&input);
        for (p, exp) in probabilities.iter().zip(exps) {
            // The difference of logits is at most 2·300 and rounded once; exp, sum and quotient
            // add a few roundings more.
            let bound = (600.0 + 8.0) * U * (exp / total) + 1e-38;
            assert!(
                (f64::from(*p) - exp / total).abs() <= bound,
                "{logits:?}: {probabilities:?}"
            );
        }
        let class = model.classify(&input);
        assert!(
            logits.iter().all(|&z| z <= logits[class]),
            "{logits:?}: {class}"
        );
    }
    assert_eq!(
        model.classify(&[1.0, 3.0, 3.0, 2.0]),
        1,
        "the first of the largest"
    );
    assert_eq!(model.classify(&[f32::NAN; 4]), 0);
    assert_eq!(model.probabilities(&[f32::INFINITY; 4]), [0.25; 4]);
}

#[test]
fn a_sigmoid_head_gives_the_probability_of_class_1() {
    let blob = logits(Head::Sigmoid, 1).encode();
    let model = Model::<1, 2, 1, 1>::load(&blob).expect("it loads");
    for k in -300..=300 {
        let x = k as f32;
        let [logit, _] = model.eval(&[x]);
        let [p, none] = model.probabilities(&[x]);
        let expected = 1.0 / (1.0 + (-f64::from(logit)).exp());
        assert!(
            (f64::from(p) - expected).abs() <= 5.0 * U * expected + 1e-38,
            "{logit}: {p}"
        );
        assert_eq!(none, 0.0);
        assert_eq!(model.classify(&[x]), usize::from(k > 0), "{logit}");
    }
}

#[test]
fn an_identity_head_leaves_the_outputs_as_they_are() {
    let blob = logits(Head::Identity, 3).encode();
    let model = Model::<3, 3, 3, 1>::load(&blob).expect("it loads");
    let input = [0.5, 2.5, -1.0];
    assert_eq!(
        bits(&model.probabilities(&input)),
        bits(&model.eval(&input))
    );
    assert_eq!(model.classify(&input), 1);
}
