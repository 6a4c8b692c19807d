//! The estimates of `kan inspect` against counts in QEMU on every core, and their constants fitted anew.

use std::fmt::Write as _;

use kan_core::blob::{Head, Scalar};
use kan_train_host::emulator::{Firmware, Machine};
use kan_train_host::evaluator::Evaluator;
use rayon::prelude::*;

use crate::blob::Random;
use crate::device::{Blob, KINDS, Numbers, built, cost};
use crate::integer;
use crate::levenberg::least_squares;

/// A machine for each core, and its name.
const CORES: [(Machine, &str); 5] = [
    (Machine::Microbit, "M0"),
    (Machine::Mps2An385, "M3"),
    (Machine::Mps2An386, "M4F"),
    (Machine::Mps2An500, "M7"),
    (Machine::Mps2An505, "M33"),
];

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
    evaluator: Evaluator,
    inputs: Vec<f32>,
    /// What has a cost, in the order of [`FLOATS`] or [`INTEGERS`], so many times.
    terms: Vec<f64>,
}

/// The constants of tables of `f32`, in the order of `evaluator::Costs`.
const FLOATS: usize = 12;

/// Those of tables of integers, in the order of `evaluator::IntegerCosts`.
const INTEGERS: usize = 10;

impl Subject {
    fn new(kind: String, widths: &'static [usize], blob: &[u8], inputs: Vec<f32>) -> Self {
        let evaluator = Evaluator::load(blob).expect("the blob is good");
        let terms = terms(&evaluator);
        Self {
            kind,
            widths,
            evaluator,
            inputs,
            terms,
        }
    }

    /// The median count of an inference by the model server.
    fn count(&self, image: &Firmware) -> u32 {
        let run = image
            .evaluate(self.evaluator.bytes(), &self.inputs, self.widths[0])
            .unwrap_or_else(|error| panic!("{error}"));
        let x: Vec<f64> = self.inputs.iter().map(|&x| x.into()).collect();
        let host = self.evaluator.eval(&x);
        assert_eq!(run.equal_outputs(&host), run.outputs.len());
        cost(&run).median
    }
}

/// Every kind of tables in every shape: floats, then integers of 16 bits, then of 8.
fn subjects() -> [Vec<Subject>; 3] {
    let mut floats = Vec::new();
    for (degree, residual, kind) in KINDS {
        for (widths, sparse) in SHAPES {
            let narrow: Vec<u16> = widths.iter().map(|&width| width as u16).collect();
            let blob = Blob::random(degree, residual, &narrow, sparse);
            let inputs = Numbers(7).many(32 * widths[0]);
            floats.push(Subject::new(kind.into(), widths, blob.bytes(), inputs));
        }
    }
    let integers = [(Scalar::I16, "i16"), (Scalar::I8, "i8")].map(|(scalar, bits)| {
        let mut subjects = Vec::new();
        for (degree, _, kind) in &KINDS[..3] {
            for (widths, sparse) in SHAPES {
                let mut random = Random(77);
                let density = if sparse { 2.0 / 3.0 } else { 1.0 };
                let layers = integer::random_model(&mut random, *degree, scalar, widths, density);
                // In the unit of the inputs, see `integer::random_model`.
                let inputs = (0..32).flat_map(|_| {
                    let nodes = layers[0].nodes.iter();
                    let within = nodes.map(|node| {
                        let at = random.below(node.width as usize + 1) as i32;
                        (node.hi - node.width as i32 + at) as f32 * 1e-3
                    });
                    within.collect::<Vec<f32>>()
                });
                let inputs = inputs.collect();
                let blob = integer::encode(Head::Identity, &layers);
                subjects.push(Subject::new(
                    format!("{kind} {bits}"),
                    widths,
                    &blob,
                    inputs,
                ));
            }
        }
        subjects
    });
    let [sixteen, eight] = integers;
    [floats, sixteen, eight]
}

/// How often a model has what the estimates count, see `Evaluator::instructions`.
fn terms(evaluator: &Evaluator) -> Vec<f64> {
    let model = evaluator.model();
    let is_integer = model.is_integer();
    let (mut terms, first) = match is_integer {
        // Call, layers; then nodes and edges by degree.
        false => (vec![0.0; FLOATS], 2),
        // Call, inputs, outputs, layers.
        true => (vec![0.0; INTEGERS], 4),
    };
    terms[0] = 1.0;
    if is_integer {
        terms[1] = model.inputs() as f64;
        terms[2] = model.outputs() as f64;
    }
    for tables in model.tables() {
        let (inputs, edges) = (tables.inputs as f64, tables.edges as f64);
        let kind = match tables.degree {
            3 => 0,
            1 => 1,
            _ => 2,
        };
        terms[first - 1] += 1.0;
        terms[first + 2 * kind] += inputs;
        terms[first + 2 * kind + 1] += edges;
        if is_integer {
            continue;
        }
        if tables.residual {
            terms[8] += 1.0;
            terms[9] += inputs;
            terms[10] += edges;
        }
        let pruned = inputs * tables.outputs as f64 - edges;
        terms[11] += edges * (pruned / inputs).min(1.0);
    }
    terms
}

/// The constants whose estimates have the least squares of relative errors, and the largest of those.
fn fit(subjects: &[Subject], counts: &[u32]) -> (Vec<f64>, f64) {
    let relative = |(subject, &count): (&Subject, &u32)| {
        let terms = subject.terms.iter();
        terms.map(|term| term / f64::from(count)).collect()
    };
    let rows: Vec<Vec<f64>> = subjects.iter().zip(counts).map(relative).collect();
    let constants = least_squares(&rows, &vec![1.0; rows.len()]);
    let errors = rows.iter().map(|row| {
        let sum: f64 = row.iter().zip(&constants).map(|(a, b)| a * b).sum();
        (sum - 1.0).abs()
    });
    let worst = errors.fold(0.0, f64::max);
    (constants, worst)
}

/// The constants as `evaluator.rs` has them.
fn in_rust(core: &str, floats: &[f64], integers: &[Vec<f64>]) -> String {
    let pair = |c: &[f64], k: usize| format!("({:.1}, {:.1})", c[k], c[k + 1]);
    let f = floats;
    let mut text = format!("const CORTEX_{core}: Costs = Costs {{\n");
    let _ = writeln!(text, "    call: {:.1},\n    layer: {:.1},", f[0], f[1]);
    for (name, k) in [("cubic", 2), ("linear", 4), ("step", 6)] {
        let _ = writeln!(text, "    {name}: {},", pair(f, k));
    }
    let _ = writeln!(
        text,
        "    residual: ({:.1}, {:.1}, {:.1}),",
        f[8], f[9], f[10]
    );
    let _ = writeln!(text, "    look_up: {:.1},\n    integers: [", f[11]);
    for c in integers {
        let tables = [4, 6, 8].map(|k| pair(c, k)).join(", ");
        let _ = writeln!(text, "        IntegerCosts {{");
        let _ = writeln!(
            text,
            "            call: ({:.1}, {:.1}, {:.1}),",
            c[0], c[1], c[2]
        );
        let _ = writeln!(text, "            layer: {:.1},", c[3]);
        let _ = writeln!(text, "            tables: [{tables}],\n        }},");
    }
    text + "    ],\n};"
}

/// `cargo firmware-cost` prints the counts as a Markdown table with the estimates' errors, then the
/// constants of the estimates fitted to these counts.
#[test]
fn instructions_are_as_estimated() {
    let images = CORES.map(|(machine, _)| built(machine));
    let groups = subjects();
    let counts = groups.each_ref().map(|subjects| {
        let of_subject = |subject| {
            images
                .each_ref()
                .map(|image| Subject::count(subject, image))
        };
        subjects.par_iter().map(of_subject).collect::<Vec<_>>()
    });

    println!(
        "| tables | shape | edges | M0 | estimate | M3 | estimate | M4F | estimate | M7 | M33 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut far = Vec::new();
    for (subject, counts) in groups.iter().flatten().zip(counts.iter().flatten()) {
        let estimates = subject.evaluator.instructions();
        let estimates = [
            estimates.cortex_m0,
            estimates.cortex_m3,
            estimates.cortex_m4f,
        ];
        let mut cells = String::new();
        for (count, estimate) in counts.iter().zip(estimates) {
            let off = estimate as f64 / f64::from(*count) - 1.0;
            let _ = write!(cells, " {count} | {:+.1} % |", 100.0 * off);
            let what = format!(
                "{} {:?}: {count}, estimated {estimate}",
                subject.kind, subject.widths
            );
            far.push((subject.evaluator.bits(), off.abs(), what));
        }
        let [.., m7, m33] = counts;
        let (kind, widths) = (&subject.kind, subject.widths);
        let edges = subject.evaluator.model().edges();
        println!("| {kind} | {widths:?} | {edges} |{cells} {m7} | {m33} |");
    }

    for (k, (_, core)) in CORES.iter().enumerate() {
        let fits: Vec<_> = groups
            .iter()
            .zip(&counts)
            .map(|(subjects, counts)| {
                let counts: Vec<u32> = counts.iter().map(|counts| counts[k]).collect();
                fit(subjects, &counts)
            })
            .collect();
        let worst: Vec<f64> = fits.iter().map(|(_, worst)| *worst).collect();
        let shown: Vec<String> = worst
            .iter()
            .map(|w| format!("{:.1} %", 100.0 * w))
            .collect();
        println!("\n// At most off by (f32, i16, i8): {}", shown.join(", "));
        let constants: Vec<Vec<f64>> = fits.into_iter().map(|(constants, _)| constants).collect();
        println!("{}", in_rust(core, &constants[0], &constants[1..]));
        // Layers, nodes and edges are what an inference costs.
        assert!(worst.iter().all(|&worst| worst < 0.1), "{core}: {worst:?}");
    }
    for (bits, off, what) in far {
        assert!(off < if bits == 32 { 0.06 } else { 0.1 }, "{what}");
    }
}
