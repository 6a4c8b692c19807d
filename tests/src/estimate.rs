//! The estimates of `kan inspect` against counts in QEMU on every core, and their constants fitted
//! anew.

use std::fmt::Write as _;

use kan_core::blob::{Head, Scalar};
use kan_train_host::benchmark::{BUILDS, Build};
use kan_train_host::emulator::Firmware;
use kan_train_host::estimate::{self, Instructions};
use kan_train_host::evaluator::Evaluator;
use rayon::prelude::*;

use crate::blob::Random;
use crate::device::{Blob, KINDS, Numbers, built, cost};
use crate::integer;
use crate::levenberg::least_squares;

/// Nodes by layer, and whether a third of the edges is missing.
const SHAPES: [(&[usize], bool); 13] = [
    (&[1, 1], false),
    (&[4, 1], false),
    (&[1, 8], false),
    (&[8, 8], false),
    (&[2, 16], false),
    (&[16, 4], false),
    (&[4, 8, 3], false),
    (&[2, 5, 5, 1], false),
    (&[3, 4, 4, 4, 2], false),
    (&[12, 12], false),
    (&[8, 8], true),
    (&[4, 8, 3], true),
    (&[5, 9, 6, 2], true),
];

/// A model, and rows of inputs all over its grids.
struct Subject {
    kind: String,
    widths: &'static [usize],
    sparse: bool,
    evaluator: Evaluator,
    inputs: Vec<f32>,
    /// The same as integers, if its tables are of integers.
    raw: Vec<i32>,
}

/// What a model took on a core: the median of `eval_into`, and the count of `eval_q_into`.
#[derive(Clone, Copy)]
struct Count {
    floats: u32,
    integers: u32,
}

impl Subject {
    fn count(&self, image: &Firmware) -> Count {
        let inputs = self.widths[0];
        let mut device = image
            .start(self.evaluator.bytes())
            .unwrap_or_else(|error| panic!("{error}"));
        let run = device
            .evaluate(&self.inputs, inputs, |_| ())
            .unwrap_or_else(|error| panic!("{error}"));
        let x: Vec<f64> = self.inputs.iter().map(|&x| x.into()).collect();
        let host = self.evaluator.eval(&x);
        assert_eq!(run.equal_outputs(&host), run.outputs.len());
        let integers = match &self.raw[..] {
            [] => 0,
            raw => {
                let run = device.evaluate_raw(raw, inputs, |_| ());
                let run = run.unwrap_or_else(|error| panic!("{error}"));
                run.cost().expect("the counter holds it").max
            }
        };
        Count {
            floats: cost(&run).median,
            integers,
        }
    }
}

/// Every kind of tables in every shape: floats, then integers of 16 bits, then of 8.
fn subjects() -> [Vec<Subject>; 3] {
    let mut floats = Vec::new();
    for (degree, residual, kind) in KINDS {
        for (widths, sparse) in SHAPES {
            let narrow: Vec<u16> = widths.iter().map(|&width| width as u16).collect();
            let blob = Blob::random(degree, residual, &narrow, sparse);
            floats.push(Subject {
                kind: format!("{kind} f32"),
                widths,
                sparse,
                evaluator: Evaluator::load(blob.bytes()).expect("the blob is good"),
                inputs: Numbers(7).many(32 * widths[0]),
                raw: Vec::new(),
            });
        }
    }
    let integers = [(Scalar::I16, "i16"), (Scalar::I8, "i8")].map(|(scalar, bits)| {
        let mut subjects = Vec::new();
        for (degree, _, kind) in &KINDS[..3] {
            for (widths, sparse) in SHAPES {
                let mut random = Random(77);
                let density = if sparse { 2.0 / 3.0 } else { 1.0 };
                let layers = integer::random_model(&mut random, *degree, scalar, widths, density);
                let nodes = layers[0].nodes.iter().cycle().take(32 * widths[0]);
                let raw: Vec<i32> = nodes
                    .map(|node| node.hi - random.below(node.width as usize + 1) as i32)
                    .collect();
                let blob = integer::encode(Head::Identity, &layers);
                subjects.push(Subject {
                    kind: format!("{kind} {bits}"),
                    widths,
                    sparse,
                    evaluator: Evaluator::load(&blob).expect("the blob is good"),
                    // In the unit of the inputs, see `integer::random_model`.
                    inputs: raw.iter().map(|&x| x as f32 * 1e-3).collect(),
                    raw,
                });
            }
        }
        subjects
    });
    let [sixteen, eight] = integers;
    [floats, sixteen, eight]
}

/// 0, 1, 2 for cubic, linear and step tables.
fn kind(degree: u8) -> usize {
    match degree {
        3 => 0,
        1 => 1,
        _ => 2,
    }
}

/// How often a model of floats has each of `estimate::Costs`, in that order, and the instructions
/// that are counted.
fn terms_of_floats(evaluator: &Evaluator, has_fpu: bool) -> (Vec<f64>, f64) {
    let (mut terms, mut counted) = (vec![0.0; 14], 0.0);
    let model = evaluator.model();
    terms[0] = 1.0;
    terms[1] = f64::from(u8::from(model.layers() > 1));
    terms[2] = model.outputs() as f64;
    for tables in model.tables() {
        let (inputs, edges) = (tables.inputs as f64, tables.edges as f64);
        terms[3] += 1.0;
        if has_fpu {
            counted += estimate::of_fpu(&tables) as f64;
        } else {
            let kind = kind(tables.degree);
            terms[4 + 2 * kind] += inputs;
            terms[5 + 2 * kind] += edges;
        }
        if tables.residual {
            terms[10] += 1.0;
            terms[11] += inputs;
            terms[12] += edges;
        }
        if tables.residual || !has_fpu {
            let pruned = inputs * tables.outputs as f64 - edges;
            terms[13] += edges * (pruned / inputs).min(1.0);
        }
    }
    (terms, counted)
}

/// How often a model of integers has a call and a layer; then a node, a block and an edge by
/// degree; an output; and a pruned layer and an edge of one.
fn terms_of_integers(evaluator: &Evaluator) -> (Vec<f64>, Vec<f64>) {
    let (mut terms, mut pruned) = (vec![0.0; 12], vec![0.0; 2]);
    terms[0] = 1.0;
    terms[11] = evaluator.model().outputs() as f64;
    for tables in evaluator.model().tables() {
        let (inputs, edges) = (tables.inputs as f64, tables.edges as f64);
        let blocks = tables.outputs / 4 + tables.outputs % 4 / 2 + tables.outputs % 2;
        let kind = kind(tables.degree);
        terms[1] += 1.0;
        terms[2 + 3 * kind] += inputs;
        terms[3 + 3 * kind] += edges * blocks as f64 / tables.outputs as f64;
        terms[4 + 3 * kind] += edges;
        if tables.inputs * tables.outputs > tables.edges {
            pruned[0] += 1.0;
            pruned[1] += edges;
        }
    }
    (terms, pruned)
}

/// Constants, of which `terms` need so many: `missing` of a count that is `of` in all. The squares
/// of errors relative to that are the least. None of the constants but the first `free` is
/// negative.
fn fit(observations: &[(Vec<f64>, f64, f64)], free: usize) -> Vec<f64> {
    let count = observations[0].0.len();
    let occurs = |k: &usize| observations.iter().any(|(terms, ..)| terms[*k] != 0.0);
    let mut kept: Vec<usize> = (0..count).filter(occurs).collect();
    loop {
        let row =
            |(terms, _, of): &(Vec<f64>, f64, f64)| kept.iter().map(|&k| terms[k] / of).collect();
        let rows: Vec<Vec<f64>> = observations.iter().map(row).collect();
        let missing = observations.iter().map(|(_, missing, of)| missing / of);
        let found = least_squares(&rows, &missing.collect::<Vec<f64>>());
        // What would be negative has no cost that these counts show.
        let least = (free..found.len()).min_by(|&a, &b| found[a].total_cmp(&found[b]));
        match least {
            Some(least) if found[least] < 0.0 => drop(kept.remove(least)),
            _ => {
                let mut constants = vec![0.0; count];
                for (&k, found) in kept.iter().zip(found) {
                    constants[k] = found;
                }
                return constants;
            }
        }
    }
}

fn dot(terms: &[f64], constants: &[f64]) -> f64 {
    terms.iter().zip(constants).map(|(a, b)| a * b).sum()
}

/// `estimate::Costs` but for integers, as Rust.
fn floats_in_rust(subjects: &[Subject], counts: &[Count], has_fpu: bool) -> String {
    let observe = |(subject, count): (&Subject, &Count)| {
        let count = f64::from(count.floats);
        let (terms, counted) = terms_of_floats(&subject.evaluator, has_fpu);
        (terms, count - counted, count)
    };
    let observations: Vec<_> = subjects.iter().zip(counts).map(observe).collect();
    let c = fit(&observations, 0);
    let mut text = format!("    has_fpu: {has_fpu},\n");
    for (k, name) in ["call", "hidden", "output", "layer"].iter().enumerate() {
        let _ = writeln!(text, "    {name}: {:.1},", c[k]);
    }
    for (name, k) in [("cubic", 4), ("linear", 6), ("step", 8)] {
        let _ = writeln!(text, "    {name}: ({:.1}, {:.1}),", c[k], c[k + 1]);
    }
    let [layer, node, edge] = [c[10], c[11], c[12]];
    let _ = writeln!(text, "    residual: ({layer:.1}, {node:.1}, {edge:.1}),");
    text + &format!("    look_up: {:.1},", c[13])
}

/// `estimate::IntegerCosts` as Rust: first what integers take alone, in layers with all edges; then
/// what pruned layers take besides, and conversions.
fn integers_in_rust(subjects: &[Subject], counts: &[Count]) -> String {
    let (mut dense, mut pruned, mut converted) = (Vec::new(), Vec::new(), Vec::new());
    for (subject, count) in subjects.iter().zip(counts) {
        if !subject.sparse {
            let (terms, _) = terms_of_integers(&subject.evaluator);
            dense.push((terms, count.integers.into(), count.integers.into()));
        }
    }
    let c = fit(&dense, 0);
    for (subject, count) in subjects.iter().zip(counts) {
        let model = subject.evaluator.model();
        let (terms, of_pruned) = terms_of_integers(&subject.evaluator);
        let [floats, integers] = [count.floats, count.integers].map(f64::from);
        if subject.sparse {
            pruned.push((of_pruned, integers - dot(&terms, &c), integers));
        }
        let ends = vec![1.0, model.inputs() as f64, model.outputs() as f64];
        converted.push((ends, floats - integers, floats));
    }
    let (p, e) = (fit(&pruned, 0), fit(&converted, 1));
    let triple = |k: usize| format!("({:.1}, {:.1}, {:.1})", c[k], c[k + 1], c[k + 2]);
    let mut text = String::from("        IntegerCosts {\n");
    let _ = writeln!(text, "            call: ({:.1}, {:.1}),", c[0], c[11]);
    let [call, input, output] = [e[0], e[1], e[2]];
    let _ = writeln!(
        text,
        "            conversion: ({call:.1}, {input:.1}, {output:.1}),"
    );
    let _ = writeln!(text, "            layer: {:.1},", c[1]);
    let _ = writeln!(
        text,
        "            tables: [{}],",
        [2, 5, 8].map(triple).join(", ")
    );
    let _ = writeln!(text, "            pruned: ({:.1}, {:.1}),", p[0], p[1]);
    text + "        },"
}

/// `cargo firmware-cost` prints the counts as a Markdown table with the errors of the estimates,
/// then the constants of the estimates as `estimate.rs` has them, fitted to these counts.
#[test]
fn instructions_are_as_estimated() {
    let builds: &[Build; 5] = BUILDS.first_chunk().expect("and an M33 with DSP");
    let images = builds.map(|build| built(build.machine));
    let groups = subjects();
    let counts = groups.each_ref().map(|subjects| {
        let of_subject = |subject| {
            images
                .each_ref()
                .map(|image| Subject::count(subject, image))
        };
        subjects.par_iter().map(of_subject).collect::<Vec<_>>()
    });

    println!("| tables | shape | edges | M0 | | M3 | | M4F | | M33 | | M7 |");
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut far = Vec::new();
    for (subject, counts) in groups.iter().flatten().zip(counts.iter().flatten()) {
        let (kind, widths) = (&subject.kind, subject.widths);
        let estimates =
            |of: Instructions| [of.cortex_m0, of.cortex_m3, of.cortex_m4f, of.cortex_m33];
        let [m0, m3, m4f, m7, m33] = counts;
        let mut cells = String::new();
        let mut compare = |estimates: [u64; 4], counts: [u32; 4], call: &str| {
            for (count, estimate) in counts.into_iter().zip(estimates) {
                let off = estimate as f64 / f64::from(count) - 1.0;
                let _ = write!(cells, " {count} | {:+.1} % |", 100.0 * off);
                let most = match (subject.evaluator.bits(), subject.sparse) {
                    (32, _) => 0.07,
                    (_, false) => 0.15,
                    (_, true) if call == "eval" => 0.25,
                    (_, true) => 0.3,
                };
                let what = format!("{kind} {widths:?}, {call}: {count}, estimated {estimate}");
                far.push((off.abs() < most, what));
            }
        };
        let classes = [m0, m3, m4f, m33];
        let floats = estimates(subject.evaluator.instructions());
        compare(floats, classes.map(|count| count.floats), "eval");
        if let Some(integers) = subject.evaluator.instructions_q() {
            let counts = classes.map(|count| count.integers);
            compare(estimates(integers), counts, "eval_q");
        }
        let m7 = m7.floats;
        let edges = subject.evaluator.model().edges();
        println!("| {kind} | {widths:?} | {edges} |{cells} {m7} |");
    }
    // An M7 is like an M4F.
    let classes = builds.iter().enumerate().filter(|(_, of)| of.core != "M7");
    for (k, Build { core, .. }) in classes {
        let counts = counts.each_ref().map(|counts| {
            let of_core = counts.iter().map(|counts| counts[k]);
            of_core.collect::<Vec<Count>>()
        });
        let has_fpu = !matches!(*core, "M0" | "M3");
        println!("\nconst CORTEX_{core}: Costs = Costs {{");
        println!("{}", floats_in_rust(&groups[0], &counts[0], has_fpu));
        println!("    integers: [");
        println!("{}", integers_in_rust(&groups[1], &counts[1]));
        println!("{}", integers_in_rust(&groups[2], &counts[2]));
        println!("    ],\n}};");
    }
    for (is_near, what) in far {
        assert!(is_near, "{what}");
    }
}
