//! Tables of integers: evaluation against exact arithmetic and against the textbook, and the limits
//! that `load` sets.

use std::collections::HashSet;

use kan_core::{
    LoadError, Model,
    blob::{ALL_NODES, Aligned, Head, IntegerNode, LayerMessage, Message, Scalar},
    kinds,
};

use crate::blob::{AnyModel, Blob, Random, committed, load};

/// A layer of integer tables, owned.
#[derive(Clone)]
pub struct IntegerLayer {
    pub degree: u8,
    pub scalar: Scalar,
    pub shift: u32,
    pub nodes: Vec<IntegerNode>,
    pub bias: Vec<i32>,
    /// Outputs and, unless it is all, the nodes that feed them.
    pub groups: Vec<(usize, Option<Vec<usize>>)>,
    /// By output and node, one for each row; empty where there is no edge.
    pub edges: Vec<Vec<Vec<i32>>>,
    /// Scales and zeros of the inputs and of the outputs.
    pub scales: Vec<[f32; 2]>,
}

impl IntegerLayer {
    /// All tables random, within what `load` allows. `density` is that of the edges; 1 makes the
    /// one group that a dense layer has.
    pub fn random(
        random: &mut Random,
        degree: u8,
        scalar: Scalar,
        (inputs, outputs): (usize, usize),
        density: f32,
    ) -> Self {
        Self::of_groups(random, degree, scalar, inputs, |random| {
            if density >= 1.0 {
                return vec![(outputs, None)];
            }
            let (mut groups, mut left) = (Vec::new(), outputs);
            while left > 0 {
                let some = 1 + random.below(left.min(7));
                let members = (0..inputs).filter(|_| random.within(0.0, 1.0) < density);
                groups.push((some, Some(members.collect())));
                left -= some;
            }
            groups
        })
    }

    /// The same of the given groups.
    pub fn of_groups(
        random: &mut Random,
        degree: u8,
        scalar: Scalar,
        inputs: usize,
        groups: impl FnOnce(&mut Random) -> Vec<(usize, Option<Vec<usize>>)>,
    ) -> Self {
        let of_inputs = random.below(2) == 0;
        let shift = if of_inputs { random.below(8) as u32 } else { 0 };
        let mut nodes = Vec::new();
        for _ in 0..inputs {
            let width = (1 << (18 + random.below(5))) + random.below(1 << 18) as u32;
            let intervals = 1 + random.below(12) as u64;
            // The right end is the last position of the last interval.
            let scale = (((intervals << 15) - 1) << 32) / u64::from(width << shift);
            nodes.push(IntegerNode {
                hi: random.below(1 << 20) as i32 - (1 << 19) + (width / 2) as i32,
                width,
                scale: (scale - 1) as u32,
                first: 0,
            });
        }
        let groups = groups(random);
        let most = match (scalar, degree) {
            (Scalar::I8, _) => 127.min(32_000 / inputs),
            (_, 3) => 32_767.min(60_000 / inputs),
            _ => 32_767 / inputs,
        };
        let mut layer = Self {
            degree,
            scalar,
            shift,
            nodes,
            bias: Vec::new(),
            groups,
            edges: Vec::new(),
            scales: Vec::new(),
        };
        let mut number = |most: usize| random.below(2 * most + 1) as i32 - most as i32;
        for (some, members) in layer.groups.clone() {
            for _ in 0..some {
                let mut edges = vec![Vec::new(); inputs];
                for node in members.clone().unwrap_or((0..inputs).collect()) {
                    let rows = layer.rows(node);
                    edges[node] = (0..rows).map(|_| number(most)).collect();
                }
                layer.edges.push(edges);
                layer.bias.push(number(1 << 20));
            }
        }
        layer.number_rows();
        layer
    }

    /// The last position on a grid, by the definition.
    fn position(&self, node: usize, x: i64) -> i64 {
        let IntegerNode {
            hi, width, scale, ..
        } = self.nodes[node];
        let lo = i64::from(hi) - i64::from(width);
        let d = i128::from((x - lo).clamp(0, i64::from(width)));
        (((d << self.shift) * (i128::from(scale) + 1)) >> 32) as i64
    }

    fn rows(&self, node: usize) -> usize {
        let last = self.position(node, self.nodes[node].hi.into());
        (last >> 15) as usize + 1 + usize::from(self.degree)
    }

    fn number_rows(&mut self) {
        let mut first = 0;
        for node in 0..self.nodes.len() {
            self.nodes[node].first = first << 15;
            first += self.rows(node) as u32;
        }
    }

    /// The same layer on grids of so many intervals.
    pub fn with_intervals(mut self, intervals: u64) -> Self {
        for node in &mut self.nodes {
            // No unit of the input holds more than a position.
            node.width = 1 << 23;
            let width = u64::from(node.width) << self.shift;
            node.scale = ((((intervals << 15) - 1) << 32) / width - 1) as u32;
        }
        for node in 0..self.nodes.len() {
            let rows = self.rows(node);
            assert_eq!(rows as u64, intervals + u64::from(self.degree));
            for edges in &mut self.edges {
                edges[node] = (0..rows).map(|row| (row % 9) as i32 - 4).collect();
            }
        }
        self.number_rows();
        self
    }

    /// The same layer with all grids around 0 and of one width, that sums are in the unit of.
    fn on_sums(mut self, width: u32) -> Self {
        for k in 0..self.nodes.len() {
            let intervals = (self.rows(k) - usize::from(self.degree)) as u64;
            self.nodes[k].hi = (width / 2) as i32;
            self.nodes[k].width = width;
            self.nodes[k].scale = ((((intervals << 15) - 1) << 32) / u64::from(width) - 1) as u32;
        }
        self.shift = 0;
        self
    }

    /// Groups and coefficients as they stand in the blob.
    fn pack(&self) -> (Vec<u16>, Vec<i32>) {
        let (mut groups, mut coefficients, mut output) = (Vec::new(), Vec::new(), 0);
        for (some, members) in &self.groups {
            let nodes = members.clone().unwrap_or((0..self.nodes.len()).collect());
            // What stands in the tables, also where a test has changed the grid.
            let rows_of = |node: usize| self.edges[output][node].len();
            let rows: usize = nodes.iter().map(|&node| rows_of(node)).sum();
            let count = members.as_ref().map_or(ALL_NODES, |list| list.len() as u16);
            groups.extend([*some as u16, count, rows as u16, (rows >> 16) as u16]);
            let mut before = 0;
            for &node in members.iter().flatten() {
                let skipped = (self.nodes[node].first >> 15) as usize - before;
                groups.extend([node as u16, skipped as u16]);
                before += rows_of(node);
            }
            let end = output + some;
            while output < end {
                let width = [1, 2, 2, 4][(end - output).min(4) - 1];
                for &node in &nodes {
                    for row in 0..self.edges[output][node].len() {
                        coefficients
                            .extend((output..output + width).map(|j| self.edges[j][node][row]));
                    }
                }
                output += width;
            }
            let per_word = if self.scalar == Scalar::I8 { 4 } else { 2 };
            coefficients.resize(coefficients.len().next_multiple_of(per_word), 0);
        }
        (groups, coefficients)
    }

    /// The sums in exact integers, by the words of FORMAT.md.
    fn exact(&self, input: &[i64]) -> Vec<i64> {
        let sum = |(j, edges): (usize, &Vec<Vec<i32>>)| {
            let mut sum = i64::from(self.bias[j]);
            for (node, c) in edges.iter().enumerate().filter(|(_, c)| !c.is_empty()) {
                let position = self.position(node, input[node]);
                let weights = weights(self.degree, position & 0x7fff);
                let row = (position >> 15) as usize;
                for (weight, c) in weights.iter().zip(&c[row..]) {
                    sum += weight * i64::from(*c);
                }
            }
            sum
        };
        self.edges.iter().enumerate().map(sum).collect()
    }

    /// The sums of a true spline, and how far rounded weights can be from it.
    fn textbook(&self, input: &[i64]) -> Vec<(f64, f64)> {
        let sum = |(j, edges): (usize, &Vec<Vec<i32>>)| {
            let (mut sum, mut bound) = (f64::from(self.bias[j]), 0.0);
            for (node, c) in edges.iter().enumerate().filter(|(_, c)| !c.is_empty()) {
                let position = self.position(node, input[node]);
                let t = (position & 0x7fff) as f64 / 32_768.0;
                let row = (position >> 15) as usize;
                let (weights, error) = true_weights(self.degree, t);
                for (weight, c) in weights.iter().zip(&c[row..]) {
                    sum += weight * f64::from(*c);
                    bound += error * f64::from(c.abs());
                }
            }
            (sum, bound)
        };
        self.edges.iter().enumerate().map(sum).collect()
    }
}

/// The weights of FORMAT.md in exact arithmetic.
fn weights(degree: u8, t: i64) -> Vec<i64> {
    match degree {
        3 => {
            let cube = (t * t * t).div_euclid(1 << 16);
            let w3 = (cube * 43_691 + (1 << 31)).div_euclid(1 << 32);
            let ends = 5461 - (t * 32_768 - t * t).div_euclid(1 << 16);
            let w2 = 5462 + (t * 32_768 + t * t - 2 * cube).div_euclid(1 << 16);
            vec![ends - w3, 32_768 - w2 - ends, w2, w3]
        }
        1 => vec![16_384 - t / 2, t / 2],
        _ => vec![16_384],
    }
}

/// The B-splines of a degree, in the unit of the weights, and how far those may be off: Q15 with
/// its truncations for degree 3, half a step of t for degree 1.
fn true_weights(degree: u8, t: f64) -> (Vec<f64>, f64) {
    let s = 1.0 - t;
    match degree {
        3 => {
            let middle = |t: f64| 4.0 - 6.0 * t * t + 3.0 * t * t * t;
            let sixths = [s * s * s, middle(t), middle(s), t * t * t];
            (sixths.map(|w| w / 6.0 * 32_768.0).to_vec(), 2.0)
        }
        1 => (vec![s * 16_384.0, t * 16_384.0], 0.5),
        _ => (vec![16_384.0], 0.0),
    }
}

pub fn encode(head: Head, layers: &[IntegerLayer]) -> Blob {
    encode_with(head, layers, |_| ())
}

/// The same with other groups.
fn encode_with(head: Head, layers: &[IntegerLayer], change: impl Fn(&mut Vec<u16>)) -> Blob {
    let packed: Vec<_> = layers
        .iter()
        .map(|layer| {
            let nodes: Vec<[u32; 4]> = layer.nodes.iter().map(|node| node.pack()).collect();
            let (mut groups, coefficients) = layer.pack();
            change(&mut groups);
            let bytes: Vec<u8> = match layer.scalar {
                Scalar::I8 => coefficients.iter().map(|&c| c as i8 as u8).collect(),
                _ => coefficients
                    .iter()
                    .flat_map(|&c| (c as i16).to_le_bytes())
                    .collect(),
            };
            let base: Vec<u32> = std::iter::once(layer.shift)
                .chain(layer.scales.iter().flatten().map(|number| number.to_bits()))
                .collect();
            (nodes, groups, bytes, base)
        })
        .collect();
    let messages: Vec<LayerMessage> = layers
        .iter()
        .zip(&packed)
        .map(
            |(layer, (nodes, groups, coefficients, base))| LayerMessage {
                degree: layer.degree,
                scalar: layer.scalar,
                residual: false,
                outputs: layer.bias.len() as u16,
                nodes: Aligned::of(nodes),
                bias: Aligned::of(&layer.bias),
                targets: Aligned::of(groups),
                coefficients: Aligned::of(coefficients),
                base: Aligned::of(base),
            },
        )
        .collect();
    let message = Message {
        name: "",
        head,
        input_names: "",
        output_names: "",
        layers: &messages,
    };
    let mut blob = Blob::of(&vec![0; message.encoded_len()]);
    message.encode(&mut blob).expect("it fits");
    blob
}

/// A model of random layers of integers. The grids of hidden nodes cover half of what can reach
/// them.
pub fn random_model(
    random: &mut Random,
    degree: u8,
    scalar: Scalar,
    widths: &[usize],
    density: f32,
) -> Vec<IntegerLayer> {
    let mut layers: Vec<IntegerLayer> = Vec::new();
    for pair in widths.windows(2) {
        let mut layer = IntegerLayer::random(random, degree, scalar, (pair[0], pair[1]), density);
        layer.scales.clear();
        if layers.is_empty() {
            layer.scales.extend((0..pair[0]).map(|_| [1000.0, 0.25]));
        }
        layers.push(layer);
    }
    let last = layers.last_mut().expect("there is a layer");
    let outputs = last.bias.len();
    last.scales.extend(vec![[1e-6, 0.0]; outputs]);
    layers
}

/// A model of lists: outputs by 7, 3, 2 and 1 that 17, 9 or no nodes feed. Kernels gather eight at
/// a time.
pub fn model_of_lists(degree: u8, scalar: Scalar) -> Vec<IntegerLayer> {
    let mut random = Random(78);
    let mut layer = |inputs: usize, lists: &[(usize, usize)]| {
        let list = |count: usize| Some((0..count).map(|k| k * inputs / count).collect());
        let groups = lists.iter().map(|&(outputs, count)| (outputs, list(count)));
        IntegerLayer::of_groups(&mut random, degree, scalar, inputs, |_| groups.collect())
    };
    let mut first = layer(20, &[(7, 17), (3, 9), (2, 0), (1, 17)]);
    let last = layer(13, &[(7, 9), (2, 0), (1, 9)]);
    // Hidden grids cover most of the sums that come.
    let mut last = last.on_sums(if scalar == Scalar::I8 {
        1 << 23
    } else {
        1 << 27
    });
    first.scales = vec![[1000.0, 0.25]; 20];
    last.scales = vec![[1e-6, 0.0]; 10];
    vec![first, last]
}

/// The model of `golden/v1-integers.kan`: four inputs, three outputs, layers of several kinds, two
/// of them pruned.
pub fn mixed() -> Vec<IntegerLayer> {
    let mut random = Random(2026);
    // Hidden grids cover most of the sums that come.
    let mut layer = |degree, scalar, shape, density, width: Option<u32>| {
        let mut layer = IntegerLayer::random(&mut random, degree, scalar, shape, density);
        layer.scales.clear();
        match width {
            Some(width) => layer.on_sums(width),
            None => layer,
        }
    };
    let mut layers = vec![
        layer(3, Scalar::I16, (4, 7), 1.0, None),
        layer(1, Scalar::I8, (7, 6), 0.6, Some(1 << 30)),
        layer(0, Scalar::I16, (6, 5), 0.7, Some(1 << 23)),
        layer(3, Scalar::I8, (5, 3), 1.0, Some(1 << 28)),
    ];
    layers[0].scales = vec![[1000.0, 0.25]; 4];
    layers[3].scales = vec![[1e-6, 0.0]; 3];
    layers
}

/// Inputs within the grids, at their ends, and far out.
pub fn inputs(random: &mut Random, nodes: &[IntegerNode]) -> Vec<i32> {
    let of = |node: &IntegerNode| {
        let lo = node.hi - node.width as i32;
        match random.below(12) {
            0 => i32::MIN,
            1 => i32::MAX,
            2 => lo,
            3 => node.hi,
            4 => random.bits() as i32,
            _ => lo + random.below(node.width as usize + 1) as i32,
        }
    };
    nodes.iter().map(of).collect()
}

const KINDS: [(u8, Scalar, u16); 6] = [
    (3, Scalar::I16, kinds::CUBIC_I16),
    (1, Scalar::I16, kinds::LINEAR_I16),
    (0, Scalar::I16, kinds::STEP_I16),
    (3, Scalar::I8, kinds::CUBIC_I8),
    (1, Scalar::I8, kinds::LINEAR_I8),
    (0, Scalar::I8, kinds::STEP_I8),
];

#[test]
fn rounded_weights_are_near_the_true_ones_and_sum_to_one() {
    for t in 0..32_768 {
        for (degree, unit) in [(3, 32_768), (1, 16_384), (0, 16_384)] {
            let rounded = weights(degree, t);
            assert_eq!(rounded.iter().sum::<i64>(), unit, "degree {degree} at {t}");
            let magnitude: i64 = rounded.iter().map(|w| w.abs()).sum();
            assert!(magnitude <= unit + if degree == 3 { 2 } else { 0 });
            let (exact, error) = true_weights(degree, t as f64 / 32_768.0);
            for (w, exact) in rounded.iter().zip(exact) {
                assert!((*w as f64 - exact).abs() <= error, "degree {degree} at {t}");
            }
        }
    }
}

#[test]
fn integers_are_evaluated_exactly_as_written_down() {
    let mut random = Random(41);
    for (degree, scalar, _) in KINDS {
        for density in [1.0, 0.6, 0.1] {
            for _ in 0..20 {
                let widths: Vec<usize> = (0..2 + random.below(3))
                    .map(|_| 1 + random.below(13))
                    .collect();
                let layers = random_model(&mut random, degree, scalar, &widths, density);
                let blob = encode(Head::Identity, &layers);
                let model = load(&blob);
                let edges: usize = layers
                    .iter()
                    .flat_map(|layer| layer.edges.iter().flatten())
                    .filter(|edge| !edge.is_empty())
                    .count();
                assert_eq!(model.edges(), edges);
                for _ in 0..40 {
                    let input = inputs(&mut random, &layers[0].nodes);
                    let mut values: Vec<i64> = input.iter().map(|&x| x.into()).collect();
                    for layer in &layers {
                        let sums = layer.exact(&values);
                        for (sum, (textbook, bound)) in sums.iter().zip(layer.textbook(&values)) {
                            let error = (*sum as f64 - textbook).abs();
                            assert!(error <= bound * (1.0 + 1e-9), "off by {error} of {bound}");
                        }
                        values = sums;
                    }
                    let mut output = [i32::MAX; 16];
                    model.eval_q_into(&input, &mut output);
                    let output: Vec<i64> = output.iter().map(|&y| y.into()).collect();
                    assert_eq!(
                        output[..values.len()],
                        values,
                        "{degree} {scalar:?} {widths:?}"
                    );
                    assert!(output[values.len()..].iter().all(|&y| y == 0));
                }
            }
        }
    }
}

#[test]
fn long_and_empty_lists_are_evaluated_exactly() {
    let mut random = Random(46);
    for (degree, scalar, _) in KINDS {
        let layers = model_of_lists(degree, scalar);
        let blob = encode(Head::Identity, &layers);
        let model = Model::<20, 10, 13, 2>::load(&blob).expect("it is good");
        let mut distinct = HashSet::new();
        for _ in 0..100 {
            let input = inputs(&mut random, &layers[0].nodes);
            let values = input.iter().map(|&x| x.into()).collect();
            let sums = layers
                .iter()
                .fold(values, |values: Vec<i64>, layer| layer.exact(&values));
            let mut output = [0; 10];
            model.eval_q_into(&input, &mut output);
            assert_eq!(output.map(i64::from)[..], sums, "{degree} {scalar:?}");
            assert_eq!(output[7..9], layers[1].bias[7..9]);
            distinct.insert(output);
        }
        assert!(distinct.len() > 50, "{degree} {scalar:?}: {distinct:?}");
    }
}

#[test]
fn floats_are_wrapped_around_integers() {
    let mut random = Random(42);
    let layers = random_model(&mut random, 3, Scalar::I16, &[3, 4, 2], 1.0);
    let blob = encode(Head::Identity, &layers);
    let model = Model::<3, 2, 4, 2>::load(&blob).expect("it is good");
    assert!(model.is_integer());
    assert_eq!(model.input_scale(1), Some((1000.0, 0.25)));
    assert_eq!((model.input_scale(3), model.output_scale(2)), (None, None));
    for _ in 0..1000 {
        let x = [0; 3].map(|_| random.within(-3000.0, 3000.0));
        // Half a unit away from 0, and every step rounded to f32.
        let raw = x.map(|x| {
            let t = x * 1000.0 + 0.25_f32;
            (t + 0.5_f32.copysign(t)).trunc() as i32
        });
        let y = model.eval_q(&raw).map(|y| y as f32 * 1e-6);
        assert_eq!(model.eval(&x), y);
        assert_eq!(model.classify(&x), usize::from(y[1] > y[0]));
        assert_eq!(model.in_domain(&x), model.in_domain_q(&raw));
        let inside = layers[0].nodes.iter().zip(raw).all(|(node, x)| {
            (i64::from(node.hi) - i64::from(node.width)..=node.hi.into()).contains(&x.into())
        });
        assert_eq!(model.in_domain_q(&raw), inside);
    }
    let least = model.eval_q(&[i32::MIN; 3]);
    for x in [f32::NAN, f32::NEG_INFINITY, f32::MIN] {
        assert_eq!(model.eval(&[x; 3]), least.map(|y| y as f32 * 1e-6));
        assert!(!model.in_domain(&[x; 3]));
    }
    assert!(!model.in_domain(&[f32::INFINITY; 3]));
}

#[test]
fn kinds_that_are_not_named_are_not_supported() {
    let mut random = Random(43);
    for (degree, scalar, kind) in KINDS {
        let layers = random_model(&mut random, degree, scalar, &[3, 4, 2], 1.0);
        let blob = encode(Head::Identity, &layers);
        let input = inputs(&mut random, &layers[0].nodes);
        let any = load(&blob).eval_q(&std::array::from_fn(|k| input.get(k).copied().unwrap_or(0)));
        let mut outputs = [0; 2];
        macro_rules! outputs_with {
            ($kinds:expr) => {
                Model::<3, 2, 4, 2, { $kinds }>::load(&blob)
                    .map(|model| model.eval_q_into(&input, &mut outputs))
            };
        }
        let loaded = match kind {
            kinds::CUBIC_I16 => outputs_with!(kinds::CUBIC_I16),
            kinds::LINEAR_I16 => outputs_with!(kinds::LINEAR_I16),
            kinds::STEP_I16 => outputs_with!(kinds::STEP_I16),
            kinds::CUBIC_I8 => outputs_with!(kinds::CUBIC_I8),
            kinds::LINEAR_I8 => outputs_with!(kinds::LINEAR_I8),
            _ => outputs_with!(kinds::STEP_I8),
        };
        assert_eq!((loaded, outputs), (Ok(()), [any[0], any[1]]));
        let other = Model::<3, 2, 4, 2, { kinds::F32 }>::load(&blob).err();
        assert_eq!(other, Some(LoadError::Unsupported));
    }
}

/// The error that a model gives after a change to its layers.
fn error_after(change: impl Fn(&mut Vec<IntegerLayer>)) -> Option<LoadError> {
    let mut layers = random_model(&mut Random(44), 3, Scalar::I16, &[3, 6, 2], 1.0);
    change(&mut layers);
    AnyModel::load(&encode(Head::Identity, &layers)).err()
}

#[test]
fn integers_that_contradict_one_another_are_refused() {
    use LoadError::{Malformed, NotFinite, Overflow};
    assert_eq!(error_after(|_| ()), None);
    type Change = (&'static str, LoadError, fn(&mut Vec<IntegerLayer>));
    let changes: [Change; 14] = [
        ("a first row", Malformed, |l| l[0].nodes[1].first += 1 << 15),
        ("part of a row", Malformed, |l| l[0].nodes[1].first += 1),
        ("an endless grid", Overflow, |l| {
            l[1].nodes[0].width = 1 << 31
        }),
        ("a shift out of 32 bits", Overflow, |l| l[0].shift = 14),
        ("a shift that does not exist", Malformed, |l| {
            l[0].shift = 31
        }),
        ("a right end that cannot be left", Overflow, |l| {
            l[0].nodes[0].hi = i32::MAX
        }),
        ("a left end that cannot be left", Overflow, |l| {
            l[0].nodes[0].hi = i32::MIN + l[0].nodes[0].width as i32
        }),
        ("a bias too large", Overflow, |l| l[0].bias[5] = i32::MIN),
        ("coefficients too large", Overflow, |l| {
            l[1].edges[1].iter_mut().for_each(|c| c[0] = 32_767)
        }),
        ("a scale too few", Malformed, |l| l[0].scales.truncate(2)),
        ("scales too many", Malformed, |l| {
            l[0].scales.push([1.0, 0.0])
        }),
        ("a scale that is none", NotFinite, |l| {
            l[0].scales[0] = [f32::NAN, 0.0]
        }),
        ("an output beyond f32", Overflow, |l| {
            l[1].scales[0] = [1e30, 0.0]
        }),
        ("an output that no group has", Malformed, |l| {
            l[0].groups[0].0 = 5
        }),
    ];
    for (what, error, change) in changes {
        assert_eq!(error_after(change), Some(error), "{what}");
    }
    let layers = random_model(&mut Random(44), 3, Scalar::I16, &[3, 6, 2], 1.0);
    let half_a_pair = encode_with(Head::Identity, &layers, |groups| groups.push(0));
    assert_eq!(AnyModel::load(&half_a_pair).err(), Some(Malformed));
    // Logits are compared as integers.
    let logits = |scales: [[f32; 2]; 2]| {
        let mut layers = random_model(&mut Random(44), 3, Scalar::I16, &[3, 2], 1.0);
        layers[0].scales[3..].copy_from_slice(&scales);
        AnyModel::load(&encode(Head::Softmax, &layers)).err()
    };
    assert_eq!(logits([[1e-3, 0.0]; 2]), None);
    for scales in [
        [[1e-3, 0.0], [2e-3, 0.0]],
        [[1e-3, 0.5]; 2],
        [[-1e-3, 0.0]; 2],
    ] {
        assert_eq!(logits(scales), Some(Malformed));
    }
    // f32 and integers in one model.
    let widths = random_model(&mut Random(44), 3, Scalar::I8, &[3, 2], 1.0);
    let mut blob = encode(Head::Identity, &widths);
    let scalar = 32 + 6;
    assert_eq!(blob[scalar], 2);
    blob[scalar] = 3;
    blob.fix_checksum();
    assert_eq!(AnyModel::load(&blob).err(), Some(Malformed));
}

/// The largest tables that load reach the largest sums, without an overflow: this is built with
/// overflow checks.
#[test]
fn sums_reach_their_bounds_and_no_further() {
    for (degree, scalar, _) in KINDS {
        let mut layers = random_model(&mut Random(45), degree, scalar, &[2, 5], 1.0);
        let weights = if degree == 3 { 32_770 } else { 16_384 };
        let largest = match (scalar, degree) {
            (Scalar::I8, _) => 127,
            (_, 3) => 32_763,
            _ => 16_383,
        };
        for (k, bias) in layers[0].bias.iter_mut().enumerate() {
            *bias = (i32::MAX - 2 * largest * weights) * if k % 2 == 0 { 1 } else { -1 };
        }
        for (k, edges) in layers[0].edges.iter_mut().enumerate() {
            edges
                .iter_mut()
                .flatten()
                .for_each(|c| *c = if k % 2 == 0 { largest } else { -largest });
        }
        let blob = encode(Head::Identity, &layers);
        let model = load(&blob);
        for x in (-600..600).map(|k| k * 3_000) {
            let mut output = [0; 5];
            model.eval_q_into(&[x, -x], &mut output);
            let exact = layers[0].exact(&[x.into(), i64::from(-x)]);
            assert_eq!(output.map(i64::from)[..], exact);
        }
        for sign in [1, -1] {
            let mut beyond = layers.clone();
            beyond[0].bias[0] += sign * if sign < 0 { 0 } else { 1 };
            let error = AnyModel::load(&encode(Head::Identity, &beyond)).err();
            assert_eq!(error, (sign > 0).then_some(LoadError::Overflow));
        }
    }
}

/// As [`blob`](crate::blob)'s of floats: neither file is ever regenerated. The outputs are those of
/// exact arithmetic by the words of FORMAT.md.
#[test]
fn integers_of_old_blobs_are_what_they_always_were() {
    let blob = committed("golden/v1-integers.kan");
    assert_eq!(*blob, *encode(Head::Identity, &mixed()), "the encoder");
    let model = load(&blob);
    let vectors = committed("golden/v1-integers.txt");
    let vectors = str::from_utf8(&vectors).expect("text");
    let mut distinct = HashSet::new();
    let mut count = 0;
    for line in vectors.lines().filter(|line| !line.starts_with('#')) {
        let numbers: Vec<i32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        let (input, expected) = numbers.split_at(4);
        let mut output = [0; 3];
        model.eval_q_into(input, &mut output);
        assert_eq!(output, expected, "input {input:?}");
        count += 1;
        distinct.insert(output);
    }
    assert!(count >= 20 && 2 * distinct.len() > count);
}
