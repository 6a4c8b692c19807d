//! The network that is trained: `f64`, a spline with a residual base function on every edge, sums
//! in the nodes.
//!
//! x_{l+1,j} = bias_{l,j} + Σ_i φ_{l,j,i}(x_{l,i}) (KAN paper, 2.5), with
//! φ(x) = scale_base·b(x) + Σ_m coef_m·B_m(x) (2.10–2.12). The paper's `scale_spline` is absorbed
//! into the coefficients: only the product can be learnt from data. Outside the grid of its input
//! node the whole edge function goes on linearly, base function included.

use std::ops::Range;

use rand::{Rng, RngExt};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::spline::{Grid, Local, MAX_ORDER};

/// The residual base function b of (2.10). It sees the grid of its node as −1 … 1, the domain that
/// the paper's functions have: so it is the same gentle curve whatever the unit of the node, and a
/// change of that unit changes nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// b(z) = z / (1 + e^−z).
    Silu,
    /// No residual: b(z) = 0.
    Zero,
}

impl Base {
    /// Value and slope at `x` on a node's grid, by `x`; beyond the grid b goes on linearly.
    #[inline]
    pub fn at(self, grid: &Grid, x: f64) -> (f64, f64) {
        match self {
            Base::Silu => {
                let clamped = grid.clamp(x);
                let factor = 2.0 / (grid.hi() - grid.lo());
                let z = (clamped - grid.lo()) * factor - 1.0;
                let s = 1.0 / (1.0 + (-z).exp());
                let slope = factor * s * (1.0 + z * (1.0 - s));
                (z * s + slope * (x - clamped), slope)
            }
            Base::Zero => (0.0, 0.0),
        }
    }

    /// Second derivative at `x` on a node's grid; 0 beyond it.
    pub fn curvature_at(self, grid: &Grid, x: f64) -> f64 {
        match self {
            Base::Silu if grid.clamp(x) == x => {
                let factor = 2.0 / (grid.hi() - grid.lo());
                let z = (x - grid.lo()) * factor - 1.0;
                let s = 1.0 / (1.0 + (-z).exp());
                factor * factor * s * (1.0 - s) * (2.0 + z * (1.0 - 2.0 * s))
            }
            _ => 0.0,
        }
    }
}

/// The parameters of one edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// Spline coefficients, shape `[G + k]` of the grid of the edge's input node.
    pub coef: Vec<f64>,
    /// The weight of the base function.
    pub scale_base: f64,
}

/// One layer: every edge from `inputs` nodes to `outputs` nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// The number of nodes the edges lead to.
    pub outputs: usize,
    /// One grid for each input node.
    pub grids: Vec<Grid>,
    /// The edge from node i to node j at `i·outputs + j`; `None` where it is pruned.
    pub edges: Vec<Option<Edge>>,
    /// What each output node adds to its sum, shape `[outputs]`; not trained: it holds what pruned
    /// constant edges left behind.
    pub bias: Vec<f64>,
}

/// A Kolmogorov–Arnold network of any shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The base function of all edges.
    pub base: Base,
    /// The layers, from the inputs on.
    pub layers: Vec<Layer>,
}

/// What a forward pass keeps of one input node, for its edges and for the way back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Node {
    /// The basis functions at the node's value.
    pub local: Local,
    /// b(x), linear outside the grid.
    pub base: f64,
    /// b′(x), by the node's value.
    pub base_slope: f64,
}

/// Rows that go through a layer together: the coefficients of a node are read once for all.
const ROWS_AT_ONCE: usize = 64;

/// The coefficients of a layer by input node in rows over the output nodes, `[G + k + 1][outputs]`,
/// the last row the base function's; 0 where an edge is pruned.
struct Coefficients(Vec<Vec<f64>>);

impl Coefficients {
    fn of(layer: &Layer) -> Self {
        let outputs = layer.outputs;
        let node = |(i, grid): (usize, &Grid)| {
            let mut rows = vec![0.0; (grid.functions() + 1) * outputs];
            for (j, edge) in layer.edges_from(i) {
                let parameters = edge.coef.iter().chain([&edge.scale_base]);
                let column = rows.iter_mut().skip(j).step_by(outputs);
                column.zip(parameters).for_each(|(to, &from)| *to = from);
            }
            rows
        };
        Self(layer.grids.iter().enumerate().map(node).collect())
    }

    /// Node sums for rows of node values; every sum in the order of [`Network::forward`].
    #[inline(always)]
    fn sums(&self, layer: &Layer, base: Base, values: &[f64]) -> Vec<f64> {
        let (inputs, outputs) = (layer.inputs(), layer.outputs);
        let order = layer.grids[0].degree() + 1;
        let mut sums = layer.bias.repeat(values.len() / inputs);
        let mut spline = vec![0.0; outputs];
        for (i, rows) in self.0.iter().enumerate() {
            if !layer.is_used(i) {
                continue;
            }
            let base_row = &rows[rows.len() - outputs..];
            let (mut last, mut node) = (None, Node::default());
            for (sums, x) in sums
                .chunks_exact_mut(outputs)
                .zip(values.chunks_exact(inputs))
            {
                // Many rows share a value where inputs are counts, or the background of an image.
                if last != Some(x[i].to_bits()) {
                    last = Some(x[i].to_bits());
                    node = layer.node(base, i, x[i]);
                }
                spline.fill(0.0);
                let touched = rows[node.local.first * outputs..].chunks_exact(outputs);
                for (row, b) in touched.zip(&node.local.value[..order]) {
                    for (spline, c) in spline.iter_mut().zip(row) {
                        *spline += c * b;
                    }
                }
                for ((sum, scale), spline) in sums.iter_mut().zip(base_row).zip(&spline) {
                    *sum += scale * node.base + spline;
                }
            }
        }
        sums
    }
}

/// Rows on their way through all layers, in the widest registers there are.
struct Block<'a> {
    network: &'a Network,
    layers: &'a [Coefficients],
    x: &'a [f64],
}

impl pulp::WithSimd for Block<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Vec<f64> {
        let mut values = self.x.to_vec();
        for (layer, coefficients) in self.network.layers.iter().zip(self.layers) {
            values = coefficients.sums(layer, self.network.base, &values);
        }
        values
    }
}

/// Workspace of forward and backward passes over one sample.
#[derive(Debug, Clone)]
pub struct Tape {
    /// Node values, by layer; the last entry is the output.
    pub values: Vec<Vec<f64>>,
    /// Input nodes of each layer.
    pub nodes: Vec<Vec<Node>>,
    /// Derivatives of one scalar of the output by node values, by layer.
    pub sensitivity: Vec<Vec<f64>>,
}

/// Derivatives of one scalar by the parameters of one edge.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Where the `k + 1` active coefficients stand in the parameter vector.
    pub coef: usize,
    /// Where `scale_base` stands, if the network has a base function.
    pub base: usize,
    /// Derivatives by the active coefficients.
    pub value: [f64; MAX_ORDER],
    /// Derivative by `scale_base`.
    pub base_value: f64,
}

impl Layer {
    /// The number of input nodes.
    pub fn inputs(&self) -> usize {
        self.grids.len()
    }

    /// The edge from `input` to `output`, if it is not pruned.
    pub fn edge(&self, input: usize, output: usize) -> Option<&Edge> {
        self.edges[input * self.outputs + output].as_ref()
    }

    /// The edges that leave node `input`, with their output nodes, pruned ones left out.
    pub fn edges_from(&self, input: usize) -> impl Iterator<Item = (usize, &Edge)> {
        self.edges[input * self.outputs..(input + 1) * self.outputs]
            .iter()
            .enumerate()
            .filter_map(|(output, edge)| Some((output, edge.as_ref()?)))
    }

    /// Whether any edge leaves node `input`.
    pub fn is_used(&self, input: usize) -> bool {
        self.edges_from(input).next().is_some()
    }

    /// Whether any edge leads to node `output`.
    pub fn is_fed(&self, output: usize) -> bool {
        (0..self.inputs()).any(|input| self.edge(input, output).is_some())
    }

    /// One layer of the edges of several, times `factor`, which have the inputs, the outputs, both
    /// or neither in common.
    fn side_by_side(parts: &[&Self], same_inputs: bool, same_outputs: bool, factor: f64) -> Self {
        let first = parts[0];
        let inputs: usize = parts.iter().map(|part| part.inputs()).sum();
        let outputs: usize = parts.iter().map(|part| part.outputs).sum();
        let (inputs, outputs) = (
            if same_inputs { first.inputs() } else { inputs },
            if same_outputs { first.outputs } else { outputs },
        );
        let mut layer = Self {
            outputs,
            grids: Vec::with_capacity(inputs),
            edges: vec![None; inputs * outputs],
            bias: vec![0.0; outputs],
        };
        let (mut from, mut to) = (0, 0);
        for part in parts {
            for (i, grid) in part.grids.iter().enumerate() {
                if layer.grids.len() <= from + i {
                    layer.grids.push(grid.clone());
                }
                for (j, edge) in part.edges_from(i) {
                    let sum =
                        layer.edges[(from + i) * outputs + to + j].get_or_insert_with(|| Edge {
                            coef: vec![0.0; edge.coef.len()],
                            scale_base: 0.0,
                        });
                    for (sum, c) in sum.coef.iter_mut().zip(&edge.coef) {
                        *sum += factor * c;
                    }
                    sum.scale_base += factor * edge.scale_base;
                }
            }
            for (sum, bias) in layer.bias[to..].iter_mut().zip(&part.bias) {
                *sum += factor * bias;
            }
            from += if same_inputs { 0 } else { part.inputs() };
            to += if same_outputs { 0 } else { part.outputs };
        }
        layer
    }

    /// The way back from [`Layer::side_by_side`]: the part with these inputs and outputs. `None` if
    /// an edge leads from inside to outside, or from outside to inside, of a part.
    fn part(&self, inputs: Range<usize>, outputs: Range<usize>, factor: f64) -> Option<Self> {
        let (all_inputs, all_outputs) =
            (inputs == (0..self.inputs()), outputs == (0..self.outputs));
        let mut edges = Vec::with_capacity(inputs.len() * outputs.len());
        for i in 0..self.inputs() {
            for j in 0..self.outputs {
                let edge = self.edge(i, j);
                match (inputs.contains(&i), outputs.contains(&j)) {
                    (true, true) => edges.push(edge.map(|edge| Edge {
                        coef: edge.coef.iter().map(|c| factor * c).collect(),
                        scale_base: factor * edge.scale_base,
                    })),
                    (true, false) if !all_inputs && edge.is_some() => return None,
                    (false, true) if !all_outputs && edge.is_some() => return None,
                    _ => {}
                }
            }
        }
        Some(Self {
            outputs: outputs.len(),
            grids: self.grids[inputs].to_vec(),
            edges,
            bias: self.bias[outputs].to_vec(),
        })
    }

    fn node(&self, base: Base, input: usize, x: f64) -> Node {
        let grid = &self.grids[input];
        let local = grid.local(x);
        let (base, base_slope) = base.at(grid, x);
        Node {
            local,
            base,
            base_slope,
        }
    }
}

impl Edge {
    /// φ at a node.
    #[inline]
    pub fn value(&self, node: &Node, order: usize) -> f64 {
        let coef = &self.coef[node.local.first..node.local.first + order];
        let spline: f64 = coef.iter().zip(&node.local.value).map(|(c, b)| c * b).sum();
        self.scale_base * node.base + spline
    }

    /// φ′ at a node.
    #[inline]
    pub fn slope(&self, node: &Node, order: usize) -> f64 {
        let coef = &self.coef[node.local.first..node.local.first + order];
        let spline: f64 = coef.iter().zip(&node.local.slope).map(|(c, b)| c * b).sum();
        self.scale_base * node.base_slope + spline
    }
}

impl Network {
    /// A fully connected network of shape `width` on the grids of its inputs, hidden grids on
    /// `−1..1`, at random: each edge a line of slope up to 1/√(edges into its node) plus noise and
    /// base function, so that node sums stay of order one whatever the width.
    pub fn random(width: &[usize], inputs: &[Grid], base: Base, rng: &mut impl Rng) -> Self {
        let degree = inputs[0].degree();
        let intervals = inputs.iter().map(Grid::intervals).max().unwrap_or(1);
        let layers = width
            .windows(2)
            .enumerate()
            .map(|(l, pair)| {
                let (n_in, n_out) = (pair[0], pair[1]);
                let grids: Vec<Grid> = match l {
                    0 => inputs.to_vec(),
                    _ => vec![Grid::uniform(degree, -1.0, 1.0, intervals); n_in],
                };
                let scale = (n_in as f64).sqrt().recip();
                let edges = grids
                    .iter()
                    .flat_map(|grid| {
                        let m = grid.functions();
                        std::iter::repeat_n(m, n_out)
                    })
                    .map(|m| {
                        let slope = scale * rng.random_range(-1.0..1.0);
                        let last = (m - 1).max(1) as f64;
                        let coef = (0..m)
                            .map(|k| {
                                let line = -1.0 + 2.0 * k as f64 / last;
                                // The sum of three uniform numbers: near enough to a normal one.
                                let noise: f64 =
                                    (0..3).map(|_| rng.random_range(-1.0..1.0)).sum::<f64>();
                                slope * line + 0.3 * scale * noise
                            })
                            .collect();
                        let scale_base = match base {
                            Base::Silu => scale * rng.random_range(-1.0..1.0),
                            Base::Zero => 0.0,
                        };
                        Some(Edge { coef, scale_base })
                    })
                    .collect();
                Layer {
                    outputs: n_out,
                    grids,
                    edges,
                    bias: vec![0.0; n_out],
                }
            })
            .collect();
        Self { base, layers }
    }

    /// The mean of networks on the same inputs: one network again, their hidden nodes side by side.
    /// Exact, with every weight of the last layer divided by their number.
    ///
    /// # Panics
    /// If there is none, or they differ in depth, inputs, outputs, base function or input grids.
    pub fn mean(networks: &[Self]) -> Self {
        let first = &networks[0];
        if networks.len() == 1 {
            return first.clone();
        }
        let depth = first.layers.len();
        let ends = |n: &Self| n.layers.last().map(|layer| layer.outputs);
        assert!(
            networks.iter().all(|other| {
                other.base == first.base
                    && other.layers.len() == depth
                    && ends(other) == ends(first)
                    && other.layers[0].grids == first.layers[0].grids
            }),
            "networks that have no mean"
        );
        let share = (networks.len() as f64).recip();
        let layers = (0..depth)
            .map(|l| {
                let parts: Vec<&Layer> = networks.iter().map(|n| &n.layers[l]).collect();
                let last = l + 1 == depth;
                Layer::side_by_side(&parts, l == 0, last, if last { share } else { 1.0 })
            })
            .collect();
        Self {
            base: first.base,
            layers,
        }
    }

    /// The networks with these node counts whose [mean](Self::mean) this is, but for the biases of
    /// the outputs, which are the mean in each. `None` if it is not the mean of such.
    pub fn members(&self, widths: &[Vec<usize>]) -> Option<Vec<Self>> {
        let whole = self.width();
        let last = self.layers.len().checked_sub(1)?;
        let hidden = 1..=last;
        let fits = |width: &Vec<usize>| {
            width.len() == whole.len()
                && width[0] == whole[0]
                && width[last + 1] == whole[last + 1]
                && !width.contains(&0)
        };
        let sum = |l: usize| {
            let nodes = widths.iter().map(|width| width[l]);
            nodes.fold(0, usize::saturating_add)
        };
        let whole_sum = widths.iter().all(fits) && hidden.clone().all(|l| sum(l) == whole[l]);
        if widths.is_empty() || last == 0 || !whole_sum {
            return None;
        }
        let mut begin = vec![0; whole.len()];
        let mut members = Vec::with_capacity(widths.len());
        for width in widths {
            let nodes = |l: usize| begin[l]..begin[l] + width[l];
            let layers: Option<Vec<Layer>> = self
                .layers
                .iter()
                .enumerate()
                .map(|(l, layer)| {
                    let factor = if l == last { widths.len() as f64 } else { 1.0 };
                    layer.part(nodes(l), nodes(l + 1), factor)
                })
                .collect();
            members.push(Self {
                base: self.base,
                layers: layers?,
            });
            for l in hidden.clone() {
                begin[l] += width[l];
            }
        }
        Some(members)
    }

    /// Node counts from the inputs to the outputs.
    pub fn width(&self) -> Vec<usize> {
        let inputs = self.layers.first().map(Layer::inputs);
        inputs
            .into_iter()
            .chain(self.layers.iter().map(|layer| layer.outputs))
            .collect()
    }

    /// The spline degree.
    pub fn degree(&self) -> usize {
        self.layers[0].grids[0].degree()
    }

    /// The largest number of intervals of any grid.
    pub fn intervals(&self) -> usize {
        let grids = self.layers.iter().flat_map(|layer| &layer.grids);
        grids.map(Grid::intervals).max().unwrap_or(0)
    }

    /// The number of edges that are not pruned.
    pub fn edges(&self) -> usize {
        self.layers
            .iter()
            .flat_map(|layer| &layer.edges)
            .flatten()
            .count()
    }

    /// The number of parameters of the edges that are not pruned.
    pub fn parameters(&self) -> usize {
        let base = usize::from(self.base != Base::Zero);
        let edges = self.layers.iter().flat_map(|layer| &layer.edges).flatten();
        edges.map(|edge| edge.coef.len() + base).sum()
    }

    /// Room for passes over one sample.
    pub fn tape(&self) -> Tape {
        let width = self.width();
        Tape {
            values: width.iter().map(|&n| vec![0.0; n]).collect(),
            nodes: self
                .layers
                .iter()
                .map(|l| vec![Node::default(); l.inputs()])
                .collect(),
            sensitivity: width.iter().map(|&n| vec![0.0; n]).collect(),
        }
    }

    /// Evaluates one sample, shape `[inputs]`; the result is `tape.values.last()`.
    pub fn forward(&self, x: &[f64], tape: &mut Tape) {
        let order = self.degree() + 1;
        tape.values[0].copy_from_slice(x);
        for (l, layer) in self.layers.iter().enumerate() {
            let (before, after) = tape.values.split_at_mut(l + 1);
            let (values, sums) = (&before[l], &mut after[0]);
            sums.copy_from_slice(&layer.bias);
            for (i, &value) in values.iter().enumerate() {
                let node = layer.node(self.base, i, value);
                tape.nodes[l][i] = node;
                for (j, edge) in layer.edges_from(i) {
                    sums[j] += edge.value(&node, order);
                }
            }
        }
    }

    /// The outputs for one sample.
    pub fn eval(&self, x: &[f64]) -> Vec<f64> {
        let mut tape = self.tape();
        self.forward(x, &mut tape);
        tape.values.pop().unwrap_or_default()
    }

    /// The outputs for all rows of `x`, row-major `[rows, inputs]`, on all cores; the same bits as
    /// [`Network::eval`] gives one by one, but for large networks ten times as fast. Row-major
    /// `[rows, outputs]`.
    pub fn eval_rows(&self, x: &[f64]) -> Vec<f64> {
        let inputs = self.layers[0].inputs();
        let layers: Vec<Coefficients> = self.layers.iter().map(Coefficients::of).collect();
        let blocks: Vec<Vec<f64>> = x
            .par_chunks(ROWS_AT_ONCE * inputs)
            .map(|x| {
                let block = Block {
                    network: self,
                    layers: &layers,
                    x,
                };
                pulp::Arch::new().dispatch(block)
            })
            .collect();
        blocks.concat()
    }

    /// Carries the derivative of a scalar by the outputs, which stands in the last entry of
    /// `tape.sensitivity`, back to every node.
    pub fn backward(&self, tape: &mut Tape) {
        let order = self.degree() + 1;
        for (l, layer) in self.layers.iter().enumerate().skip(1).rev() {
            let (before, after) = tape.sensitivity.split_at_mut(l + 1);
            for (i, sum) in before[l].iter_mut().enumerate() {
                let node = &tape.nodes[l][i];
                *sum = layer
                    .edges_from(i)
                    .map(|(j, e)| after[0][j] * e.slope(node, order))
                    .sum();
            }
        }
    }

    /// Where the parameters of each edge stand in the parameter vector: for every layer and edge
    /// its first index, or `None`; and the length of the vector. An edge has its coefficients, then
    /// `scale_base` (absent without a base function).
    pub fn offsets(&self) -> (Vec<Vec<Option<usize>>>, usize) {
        let base = usize::from(self.base != Base::Zero);
        let mut next = 0;
        let offsets = self
            .layers
            .iter()
            .map(|layer| {
                let edges = layer.edges.iter();
                edges
                    .map(|edge| {
                        edge.as_ref().map(|edge| {
                            let at = next;
                            next += edge.coef.len() + base;
                            at
                        })
                    })
                    .collect()
            })
            .collect();
        (offsets, next)
    }

    /// All parameters as one vector, in the order of [`Network::offsets`].
    pub fn to_vector(&self) -> Vec<f64> {
        let mut vector = Vec::with_capacity(self.parameters());
        for edge in self.layers.iter().flat_map(|layer| &layer.edges).flatten() {
            vector.extend_from_slice(&edge.coef);
            if self.base != Base::Zero {
                vector.push(edge.scale_base);
            }
        }
        vector
    }

    /// Sets all parameters from a vector as [`Network::to_vector`] gives it.
    pub fn set_vector(&mut self, vector: &[f64]) {
        let base = self.base;
        let mut rest = vector;
        for edge in self
            .layers
            .iter_mut()
            .flat_map(|layer| &mut layer.edges)
            .flatten()
        {
            let (coef, after) = rest.split_at(edge.coef.len());
            edge.coef.copy_from_slice(coef);
            rest = after;
            if base != Base::Zero {
                edge.scale_base = rest[0];
                rest = &rest[1..];
            }
        }
    }

    /// The derivatives by the parameters that are not zero, after a backward pass, in the order of
    /// their offsets: one run for each edge.
    #[inline]
    pub fn runs(&self, tape: &Tape, offsets: &[Vec<Option<usize>>], runs: &mut Vec<Run>) {
        runs.clear();
        for (l, layer) in self.layers.iter().enumerate() {
            for (i, node) in tape.nodes[l].iter().enumerate() {
                let functions = layer.grids[i].functions();
                let row = &offsets[l][i * layer.outputs..(i + 1) * layer.outputs];
                for (&offset, &s) in row.iter().zip(&tape.sensitivity[l + 1]) {
                    let Some(offset) = offset else { continue };
                    if s != 0.0 {
                        runs.push(Run {
                            coef: offset + node.local.first,
                            base: offset + functions,
                            value: node.local.value.map(|b| s * b),
                            base_value: s * node.base,
                        });
                    }
                }
            }
        }
    }

    /// Derivatives of output `output` by all parameters, dense, after a forward pass: one row of
    /// the Jacobian.
    pub fn jacobian_row(&self, tape: &mut Tape, output: usize) -> Vec<f64> {
        let (offsets, n) = self.offsets();
        let order = self.degree() + 1;
        let mut row = vec![0.0; n];
        let last = tape.sensitivity.len() - 1;
        tape.sensitivity[last].fill(0.0);
        tape.sensitivity[last][output] = 1.0;
        self.backward(tape);
        let mut runs = Vec::new();
        self.runs(tape, &offsets, &mut runs);
        for run in runs {
            row[run.coef..run.coef + order].copy_from_slice(&run.value[..order]);
            if self.base != Base::Zero {
                row[run.base] = run.base_value;
            }
        }
        row
    }
}
