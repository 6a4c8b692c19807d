//! The kernels on every core: the bits of the host, one number of instructions for all inputs, and
//! no more instructions, stack, flash and bytes of blob than `budgets.json` allows. `cargo budgets`
//! records that file anew.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    sync::OnceLock,
};

use firmware_example::stimulus::{ROWS, Stimulus};
use kan_core::{
    blob::{Head, Scalar},
    kinds,
};
use kan_train_host::{
    benchmark::{self, BUILDS, Build, Call, Measured, SMALL, Scales},
    compile::{Kind, Options, compile},
    emulator::Firmware,
    evaluator::Evaluator,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{blob::Random, device, integer};

/// The build script of kan-core, which chooses among its kernels.
#[allow(dead_code)]
#[path = "../../kan-core/build.rs"]
mod build;
use build::Processor;

/// Where the limits are.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/budgets.json");

/// Of the grids of networks whose blobs are weighed.
const INTERVALS: usize = 8;

/// Runs the bench firmware with a model.
fn measure(firmware: &Firmware, blob: &[u8]) -> Measured {
    benchmark::measure(firmware, blob).unwrap_or_else(|error| panic!("{error}"))
}

fn integers_of(measured: &Measured) -> Call {
    measured.eval_q.expect("its tables are of integers")
}

/// The digests are those of the host.
fn assert_bits(measured: &Measured, blob: &[u8], what: &str) {
    let evaluator = Evaluator::load(blob).expect("the blob is good");
    let (floats, integers) = benchmark::digests(&evaluator).expect("it is within the capacity");
    assert_eq!(measured.eval.digest, floats, "{what}: eval");
    let of_device = measured.eval_q.map(|call| call.digest);
    assert_eq!(of_device, integers, "{what}: eval_q");
}

/// A model to measure.
struct Subject {
    /// Its tables and shape.
    name: String,
    blob: Vec<u8>,
    integer: bool,
    residual: bool,
}

/// Every kind of tables, each dense, pruned, and with 64 inputs; of integers also with lists that
/// are longer than kernels gather, and empty.
fn subjects() -> Vec<Subject> {
    let shapes: [(&str, &[usize], f32); 4] = [
        ("8-8", &[8, 8], 1.0),
        ("4-8-3", &[4, 8, 3], 1.0),
        ("9-11-7-2 pruned", &[9, 11, 7, 2], 0.5),
        ("64-10", &[64, 10], 1.0),
    ];
    let degrees = [("cubic", 3), ("linear", 1), ("step", 0)];
    let scalars = [("i16", Scalar::I16), ("i8", Scalar::I8)];
    let mut subjects = Vec::new();
    for (bits, scalar) in scalars {
        for (kind, degree) in degrees {
            let layers = integer::model_of_lists(degree, scalar);
            subjects.push(Subject {
                name: format!("{kind} {bits} 20-13-10 lists"),
                blob: integer::encode(Head::Identity, &layers).to_vec(),
                integer: true,
                residual: false,
            });
        }
    }
    for (shape, widths, density) in shapes {
        for (bits, scalar) in scalars {
            for (kind, degree) in degrees {
                let mut random = Random(77);
                let layers = integer::random_model(&mut random, degree, scalar, widths, density);
                subjects.push(Subject {
                    name: format!("{kind} {bits} {shape}"),
                    blob: integer::encode(Head::Identity, &layers).to_vec(),
                    integer: true,
                    residual: false,
                });
            }
        }
        let widths: Vec<u16> = widths.iter().map(|&width| width as u16).collect();
        for (kind, degree, residual) in degrees
            .map(|(kind, degree)| (kind, degree, false))
            .into_iter()
            .chain([("exact", 3, true)])
        {
            let blob = device::Blob::random(degree, residual, &widths, density < 1.0);
            subjects.push(Subject {
                name: format!("{kind} f32 {shape}"),
                blob: blob.bytes().to_vec(),
                integer: false,
                residual,
            });
        }
    }
    subjects
}

impl Subject {
    /// The call that the limits are of.
    fn call(&self, measured: &Measured) -> Call {
        match self.integer {
            true => integers_of(measured),
            false => measured.eval,
        }
    }
}

/// What was measured, by core and model.
type Measurements = BTreeMap<(&'static str, String), Measured>;

/// All models on all cores, measured once.
fn measurements() -> &'static Measurements {
    static ALL: OnceLock<Measurements> = OnceLock::new();
    ALL.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let images = BUILDS.map(|build| {
            let image = benchmark::firmware(build, None, folder.path());
            (
                build,
                image.unwrap_or_else(|error| panic!("{}: {error}", build.core)),
            )
        });
        let subjects = subjects();
        let of_image = |image| subjects.par_iter().map(move |subject| (image, subject));
        let tasks = images.par_iter().flat_map(of_image);
        let measured = tasks.map(|((build, image), subject)| {
            let name = (build.core, subject.name.clone());
            (name, measure(image, &subject.blob))
        });
        measured.collect()
    })
}

/// Assembly and portable code, floats around both and floats alone.
#[test]
fn every_core_computes_the_bits_of_the_host() {
    let measured = measurements();
    for subject in subjects() {
        for Build { core, .. } in BUILDS {
            let of_model = &measured[&(core, subject.name.clone())];
            let what = format!("{core}: {}", subject.name);
            assert_bits(of_model, &subject.blob, &what);
        }
    }
}

/// A Cortex-M33 runs the kernels of the DSP extension where the build says that it has it.
#[test]
fn a_cortex_m33_with_dsp_takes_fewer_instructions() {
    let measured = measurements();
    for Subject { name, .. } in subjects().iter().filter(|subject| subject.integer) {
        let [without, with] = ["M33", "M33+DSP"]
            .map(|core| integers_of(&measured[&(core, name.clone())]).instructions);
        assert!(with.max < without.min, "{name}: {}", with.max);
    }
}

#[test]
fn kernels_are_those_of_the_processor_that_is_named_last() {
    let named = |target: &str, flags: &[&str]| Processor::of(target, &flags.join("\x1f"));
    let (v6m, v7m) = ("thumbv6m-none-eabi", "thumbv7m-none-eabi");
    let (v7em, v8m) = ("thumbv7em-none-eabihf", "thumbv8m.main-none-eabihf");
    for (target, flags, kernels, directive) in [
        (v6m, &[][..], "v6m", ""),
        (v7m, &[], "v7m", ""),
        (v7m, &["-Ctarget-cpu=cortex-m3"], "v7m", ""),
        (v7em, &[], "dsp vfp", ".fpu fpv4-sp-d16"),
        ("thumbv7em-none-eabi", &[], "dsp", ""),
        (
            v7em,
            &["-Ctarget-cpu=cortex-m7"],
            "dsp vfp",
            ".cpu cortex-m7",
        ),
        (v8m, &[], "v7m vfp", ".fpu fpv5-sp-d16"),
        ("thumbv8m.base-none-eabi", &[], "", ""),
        (
            v8m,
            &["-Ctarget-cpu=cortex-m33"],
            "dsp vfp",
            ".cpu cortex-m33",
        ),
        (
            v8m,
            &["-C", "target-cpu=cortex-m55"],
            "dsp vfp",
            ".cpu cortex-m55",
        ),
        (
            v8m,
            &["--codegen=target-cpu=cortex-m85"],
            "dsp vfp",
            ".cpu cortex-m85",
        ),
        (
            v8m,
            &["-Ctarget-feature=+dsp"],
            "dsp vfp",
            ".cpu cortex-m33",
        ),
        (
            v8m,
            &["-Ctarget-cpu=cortex-m33", "-Ctarget-feature=-mve,-dsp"],
            "v7m vfp",
            ".cpu cortex-m33",
        ),
        (
            v8m,
            &["-Ctarget-cpu=cortex-m33", "-Ctarget-cpu=generic"],
            "v7m vfp",
            ".fpu fpv5-sp-d16",
        ),
        (
            v8m,
            &["-Clink-arg=-target-cpu=cortex-m33"],
            "v7m vfp",
            ".fpu fpv5-sp-d16",
        ),
        ("x86_64-unknown-linux-gnu", &[], "", ""),
        ("aarch64-apple-darwin", &["-Ctarget-cpu=cortex-m33"], "", ""),
    ] {
        let has = |name: &str| kernels.split(' ').any(|kernel| kernel == name);
        let expected = Processor {
            v6m: has("v6m"),
            v7m: has("v7m"),
            dsp: has("dsp"),
            vfp: has("vfp"),
            directive: directive.into(),
        };
        assert_eq!(named(target, flags), expected, "{target} {flags:?}");
    }
}

/// Integers take the same instructions for every input on every core; floats do where an FPU
/// computes them and there is no exponential: on 10,000 inputs.
#[test]
fn every_input_takes_the_same_instructions() {
    let measured = measurements();
    for subject in subjects() {
        for Build { core, .. } in BUILDS {
            let of_model = &measured[&(core, subject.name.clone())];
            let has_fpu = !matches!(core, "M0" | "M3");
            if subject.integer || has_fpu && !subject.residual {
                let count = subject.call(of_model).instructions;
                assert_eq!(count.min, count.max, "{core}: {}", subject.name);
            }
        }
    }
}

/// Rows of extremes alone, of none, and of both.
#[test]
fn extremes_stand_alone_and_among_other_numbers() {
    let (mut stimulus, mut floats, mut integers) = (Stimulus::default(), [0; 3], [0; 3]);
    let count = |counts: &mut [usize; 3], extremes: usize| match extremes {
        0 => counts[0] += 1,
        8 => counts[2] += 1,
        _ => counts[1] += 1,
    };
    let mut mixed = HashSet::new();
    for k in 0..ROWS {
        let row = stimulus.floats::<8>(k);
        let is_finite = |x: &&f32| x.is_finite() && **x != f32::MAX;
        count(&mut floats, 8 - row.iter().filter(is_finite).count());
        if row.iter().any(|x| is_finite(&x)) {
            let extremes = row.iter().filter(|x| !is_finite(x));
            mixed.extend(extremes.map(|x| x.to_bits()));
        }
        let row = stimulus.integers::<8>(k);
        let ends = row.iter().filter(|x| [i32::MIN, i32::MAX].contains(x));
        count(&mut integers, ends.count());
    }
    for counts in [floats, integers] {
        assert!(counts.iter().all(|&count| count >= 90), "{counts:?}");
    }
    assert_eq!(mixed.len(), 4);
}

/// What another node costs is always the same, and the fineness of the grids costs nothing.
#[test]
fn cost_is_linear_in_edges_and_constant_in_intervals() {
    let models = |inputs, intervals| {
        [3, 1, 0].map(|degree| {
            let mut layers =
                integer::random_model(&mut Random(5), degree, Scalar::I16, &[inputs, 8], 1.0);
            layers[0] = layers[0].clone().with_intervals(intervals);
            integer::encode(Head::Identity, &layers).to_vec()
        })
    };
    let shapes = [(16, 8), (32, 8), (64, 8), (16, 2), (16, 32), (16, 128)];
    println!("| machine | edges | intervals | cubic `i16` | linear | step |");
    println!("|---|---|---|---|---|---|");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for build in (BUILDS.iter().rev()).filter(|build| ["M4F", "M0"].contains(&build.core)) {
        let (image, machine) = (
            benchmark::firmware(*build, None, folder.path()),
            build.machine,
        );
        let image = image.unwrap_or_else(|error| panic!("{machine}: {error}"));
        let counts = shapes.map(|(inputs, intervals)| {
            let counts = models(inputs, intervals)
                .map(|blob| integers_of(&measure(&image, &blob)).instructions.max);
            let [cubic, linear, step] = counts;
            let edges = 8 * inputs;
            println!("| {machine} | {edges} | {intervals} | {cubic} | {linear} | {step} |");
            counts
        });
        let of = |k: usize, degree: usize| counts[k][degree];
        for degree in [0, 1, 2] {
            let [few, more, most] = [0, 1, 2].map(|k| of(k, degree));
            assert_eq!(most - more, 2 * (more - few), "{machine}: edges");
            let of_intervals = [3, 4, 5].map(|k| of(k, degree));
            assert_eq!(of_intervals, [few; 3], "{machine}: intervals");
        }
    }
}

/// Limits of one model on one machine, or of one build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Limits {
    /// The most instructions of an inference: `eval_q` of integers, `eval` of floats.
    instructions: u32,
    /// Bytes of stack of it.
    stack: u32,
    /// Bytes of the model.
    blob: usize,
}

/// The file of limits.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Budgets {
    /// By machine and model.
    models: BTreeMap<String, BTreeMap<String, Limits>>,
    /// Bytes of flash that kan-core takes with loader and evaluation, by target and kinds: profile
    /// `firmware`.
    flash: BTreeMap<String, BTreeMap<String, u64>>,
    /// Bytes that the compiler makes of networks, by shape and kind of tables.
    blobs: BTreeMap<String, BTreeMap<String, u64>>,
}

/// What a machine or target is called where a build may say more.
fn with_cpu(name: &str, build: Build) -> String {
    let cpu = build.cpu.map(|cpu| format!(" {cpu}"));
    name.to_owned() + &cpu.unwrap_or_default()
}

impl Budgets {
    fn measure() -> Self {
        let mut budgets = Self::default();
        for subject in subjects() {
            for build in BUILDS {
                let measured = &measurements()[&(build.core, subject.name.clone())];
                let call = subject.call(measured);
                let limits = Limits {
                    instructions: call.instructions.max,
                    stack: call.stack,
                    blob: subject.blob.len(),
                };
                let of_machine = budgets.models.entry(with_cpu(build.machine.name(), build));
                let of_machine = of_machine.or_default();
                of_machine.insert(subject.name.clone(), limits);
            }
        }
        let mut sets = vec![("all".to_owned(), kinds::ALL)];
        sets.extend(Kind::ALL.map(|kind| (kind.to_string(), benchmark::only(kind))));
        for build in BUILDS {
            let target = with_cpu(build.target(), build);
            // The M7 is of the M4F's target.
            if budgets.flash.contains_key(&target) {
                continue;
            }
            let scales = Scales::tared(build, SMALL).unwrap_or_else(|error| panic!("{error}"));
            let sizes = sets.iter().map(|(name, kinds)| {
                let size = scales.kan_core(*kinds);
                let size = size.unwrap_or_else(|error| panic!("{target}: {name}: {error}"));
                (name.clone(), size.flash())
            });
            let sizes = sizes.collect();
            budgets.flash.insert(target, sizes);
        }
        for (width, density) in [(&[8, 8][..], 1.0), (&[4, 8, 3], 1.0), (&[9, 11, 7, 2], 0.5)] {
            let predictor = benchmark::network(width, INTERVALS, density);
            let sizes = Kind::ALL.map(|kind| {
                let options = Options {
                    kind,
                    tolerance: None,
                    max_bytes: None,
                    max_instructions: None,
                };
                let compiled = compile(&predictor, "budget", &options, &[]).expect("it compiles");
                (kind.to_string(), compiled.bytes.len() as u64)
            });
            budgets.blobs.insert(format!("{width:?}"), sizes.into());
        }
        budgets
    }

    /// What of it is more than `limits` allow, or has none.
    fn beyond(&self, limits: &Self) -> Vec<String> {
        let mut beyond = Vec::new();
        let mut compare = |what: String, new: u64, old: Option<u64>| match old {
            Some(old) if new <= old => {}
            Some(old) => beyond.push(format!("{what}: {new}, and {old} allowed")),
            None => beyond.push(format!("{what}: {new}, and no limit")),
        };
        for (machine, models) in &self.models {
            for (model, new) in models {
                let old = limits.models.get(machine).and_then(|of| of.get(model));
                for (what, of) in [
                    (
                        "instructions",
                        (|l| l.instructions.into()) as fn(&Limits) -> u64,
                    ),
                    ("bytes of stack", |l| l.stack.into()),
                    ("bytes of blob", |l| l.blob as u64),
                ] {
                    compare(format!("{machine}: {model}: {what}"), of(new), old.map(of));
                }
            }
        }
        for (of_what, sizes, limits) in [
            ("flash", &self.flash, &limits.flash),
            ("a compiled blob", &self.blobs, &limits.blobs),
        ] {
            for (what, kinds) in sizes {
                for (kind, &new) in kinds {
                    let old = limits.get(what).and_then(|of| of.get(kind));
                    let what = format!("{what}: {kind}: bytes of {of_what}");
                    compare(what, new, old.copied());
                }
            }
        }
        beyond
    }
}

#[test]
fn nothing_exceeds_its_budget() {
    let measured = Budgets::measure();
    if std::env::var_os("KAN_RECORD_BUDGETS").is_some() {
        let text = serde_json::to_string_pretty(&measured).expect("it is plain") + "\n";
        fs::write(FILE, text).expect("budgets.json is written");
        return;
    }
    let text = fs::read_to_string(FILE).expect("budgets.json is there");
    let limits: Budgets = serde_json::from_str(&text).expect("it is what was recorded");
    let beyond = measured.beyond(&limits);
    assert!(
        beyond.is_empty(),
        "more than the budget; if that is meant, record it: cargo budgets\n{}",
        beyond.join("\n")
    );
}

#[test]
fn a_budget_that_is_exceeded_is_told_with_both_figures() {
    let of = |instructions| {
        let limits = Limits {
            instructions,
            ..Limits::default()
        };
        let models = BTreeMap::from([("linear i16 1-1".to_owned(), limits)]);
        Budgets {
            models: BTreeMap::from([("mps2-an386".to_owned(), models)]),
            ..Budgets::default()
        }
    };
    assert!(of(100).beyond(&of(100)).is_empty());
    assert!(of(99).beyond(&of(100)).is_empty());
    assert_eq!(
        of(101).beyond(&of(100)),
        ["mps2-an386: linear i16 1-1: instructions: 101, and 100 allowed"]
    );
    assert_eq!(of(1).beyond(&Budgets::default()).len(), 3);
}
