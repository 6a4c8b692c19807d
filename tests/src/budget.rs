//! The kernels on every core: the bits of the host, one number of instructions for all inputs, and no
//! more instructions, stack, flash and bytes of blob than `budgets.json` allows. `cargo budgets` records
//! that file anew.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, OnceLock},
};

use firmware_example::stimulus::{Digest, ROWS, Stimulus};
use kan_core::{
    Model,
    blob::{Head, Scalar},
    kinds,
};
use kan_train_host::emulator::{Machine, QEMU, Size};
use object::{Object, ObjectSymbol};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{blob::Random, device, integer};

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Where the limits are.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/budgets.json");

/// A machine for each core: M0, M3, M4F, M7, M33.
const MACHINES: [Machine; 5] = [
    Machine::Microbit,
    Machine::Mps2An385,
    Machine::Mps2An386,
    Machine::Mps2An500,
    Machine::Mps2An505,
];

/// Builds for one target at a time, as they share a folder.
static BUILD: Mutex<()> = Mutex::new(());

/// Builds a binary of the firmware and gives the image.
fn build(machine: Machine, profile: &str, binary: &str, kinds: u16) -> PathBuf {
    let _one_at_a_time = BUILD.lock();
    // The others need no board, and are built without the crates of one.
    let features = match binary {
        "bench" => vec!["--features", machine.board().feature],
        _ => Vec::new(),
    };
    let build = Command::new("cargo")
        .current_dir(WORKSPACE)
        .args(["build", "--quiet", "--profile", profile, "--bin", binary])
        .args(["--package", "firmware-example"])
        .args(features)
        .args(["--target", machine.target()])
        .args(["--message-format", "json-render-diagnostics"])
        .env("KAN_KINDS", kinds.to_string())
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo starts");
    let said = String::from_utf8_lossy(&build.stderr);
    assert!(build.status.success(), "{machine}: {said}");
    let built = String::from_utf8_lossy(&build.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from));
    built.expect("an executable")
}

/// What the bench firmware tells of `eval` or `eval_q`.
#[derive(Clone, Copy, Debug)]
struct Measured {
    /// Instructions: least, median, most.
    instructions: [u32; 3],
    stack: u32,
    digest: Digest,
}

/// Runs the bench firmware with a model, and gives what it tells of each call.
fn run(machine: Machine, image: &Path, blob: &[u8]) -> BTreeMap<String, Measured> {
    let bytes = fs::read(image).expect("the image is there");
    let file = object::File::parse(&*bytes).expect("an ELF file");
    let mut symbols = file.symbols();
    let model = symbols.find(|symbol| symbol.name() == Ok("__model_start"));
    let address = model.expect("the region MODEL").address();
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("model.kan"), blob).expect("it is written");
    let mut qemu = Command::new(QEMU)
        .current_dir(folder.path())
        .args(machine.arguments())
        .arg(image)
        .arg("-device")
        .arg(format!(
            "loader,file=model.kan,addr={address:#x},force-raw=on"
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("QEMU starts");
    let lines = std::io::BufReader::new(qemu.stdout.take().expect("it is piped"));
    let mut of_calls = BTreeMap::new();
    let (mut of_nothing, mut per_instruction) = (0, 1.0);
    for line in std::io::BufRead::lines(lines) {
        // The micro:bit's line begins with a byte that starts its UART.
        let line = line.expect("text");
        let line = line.trim_matches('\0');
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let fields: BTreeMap<&str, &str> = words.filter_map(|word| word.split_once('=')).collect();
        let number = |field: &str| fields[field].parse::<u32>().expect("a number");
        // A difference is less than a tick away, and that less than half an instruction.
        let whole = |ticks: u32| {
            let ticks = f64::from(ticks) - f64::from(of_nothing);
            (ticks / per_instruction).round() as u32
        };
        match name {
            "counter" => {
                // An instruction takes 128 ns: `-icount shift=7`. The AN505's clock is 20 MHz.
                let clock = match machine {
                    Machine::Mps2An505 => 20e6,
                    _ => f64::from(number("ticks_per_second")),
                };
                per_instruction = 128e-9 * clock;
                of_nothing = number("ticks_of_nothing");
            }
            "eval" | "eval_q" => {
                let counts = ["least", "median", "most"].map(number);
                let measured = Measured {
                    instructions: counts.map(whole),
                    stack: number("stack"),
                    digest: Digest(u32::from_str_radix(fields["digest"], 16).expect("a digest")),
                };
                of_calls.insert(name.to_owned(), measured);
            }
            "end" => break,
            _ => panic!("{machine} says: {line}"),
        }
    }
    // Both fail only if it has ended already.
    let _ = qemu.kill();
    let _ = qemu.wait();
    of_calls
}

/// The digests of `eval_q` and `eval` on the host.
fn digests(blob: &[u8]) -> [Digest; 2] {
    fn of<X, const I: usize, Y, const O: usize>(
        row: impl Fn(&mut Stimulus, usize) -> [X; I],
        call: impl Fn(&[X; I]) -> [Y; O],
        bits: impl Fn(Y) -> u32,
    ) -> Digest {
        let (mut stimulus, mut digest) = (Stimulus::default(), Digest::default());
        for k in 0..ROWS {
            for y in call(&row(&mut stimulus, k)) {
                digest.add(bits(y));
            }
        }
        digest
    }
    let large = Model::<64, 10, 16, 4>::load(blob).expect("it is good");
    let integers = match Model::<8, 8, 8, 2>::load(blob) {
        Ok(small) => of(Stimulus::integers::<8>, |x| small.eval_q(x), |y| y as u32),
        Err(_) => of(Stimulus::integers::<64>, |x| large.eval_q(x), |y| y as u32),
    };
    let floats = match Model::<8, 8, 8, 2>::load(blob) {
        Ok(small) if !small.is_integer() => {
            of(Stimulus::floats::<8>, |x| small.eval(x), f32::to_bits)
        }
        _ => of(Stimulus::floats::<64>, |x| large.eval(x), f32::to_bits),
    };
    [integers, floats]
}

/// A model to measure.
struct Subject {
    /// Its tables and shape.
    name: String,
    blob: Vec<u8>,
    integer: bool,
    residual: bool,
}

/// Every kind of tables, each dense, pruned, and with 64 inputs.
fn subjects() -> Vec<Subject> {
    let shapes: [(&str, &[usize], f32); 4] = [
        ("8-8", &[8, 8], 1.0),
        ("4-8-3", &[4, 8, 3], 1.0),
        ("9-11-7-2 pruned", &[9, 11, 7, 2], 0.5),
        ("64-10", &[64, 10], 1.0),
    ];
    let degrees = [("cubic", 3), ("linear", 1), ("step", 0)];
    let mut subjects = Vec::new();
    for (shape, widths, density) in shapes {
        for (bits, scalar) in [("i16", Scalar::I16), ("i8", Scalar::I8)] {
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

/// What was measured, by machine and model, then by call.
type Measurements = BTreeMap<(&'static str, String), BTreeMap<String, Measured>>;

/// All models on all machines, measured once.
fn measurements() -> &'static Measurements {
    static ALL: OnceLock<Measurements> = OnceLock::new();
    ALL.get_or_init(|| {
        let subjects = subjects();
        let mut tasks = Vec::new();
        for machine in MACHINES {
            let image = build(machine, "firmware-speed", "bench", kinds::ALL);
            tasks.extend(
                subjects
                    .iter()
                    .map(|subject| (machine, image.clone(), subject)),
            );
        }
        tasks
            .into_par_iter()
            .map(|(machine, image, subject)| {
                let measured = run(machine, &image, &subject.blob);
                ((machine.name(), subject.name.clone()), measured)
            })
            .collect()
    })
}

/// Assembly and portable code, floats around both and floats alone.
#[test]
fn every_core_computes_the_bits_of_the_host() {
    let measured = measurements();
    for subject in subjects() {
        let [integers, floats] = digests(&aligned(&subject.blob));
        for machine in MACHINES {
            let of_calls = &measured[&(machine.name(), subject.name.clone())];
            let what = format!("{machine}: {}", subject.name);
            assert_eq!(of_calls["eval"].digest, floats, "{what}: eval");
            if subject.integer {
                assert_eq!(of_calls["eval_q"].digest, integers, "{what}: eval_q");
            }
        }
    }
}

fn aligned(bytes: &[u8]) -> crate::blob::Blob {
    crate::blob::Blob::of(bytes)
}

/// Integers take the same instructions for every input on every core; floats do where an FPU computes
/// them and there is no exponential.
#[test]
fn every_input_takes_the_same_instructions() {
    let measured = measurements();
    for subject in subjects() {
        for machine in MACHINES {
            let of_calls = &measured[&(machine.name(), subject.name.clone())];
            let has_fpu = !matches!(machine, Machine::Microbit | Machine::Mps2An385);
            let constant: &[&str] = match subject.integer {
                true => &["eval_q"],
                false if has_fpu && !subject.residual => &["eval"],
                false => &[],
            };
            for call in constant {
                let [least, _, most] = of_calls[*call].instructions;
                assert_eq!(least, most, "{machine}: {}: {call}", subject.name);
            }
        }
    }
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
    for machine in [Machine::Mps2An386, Machine::Microbit] {
        let image = build(machine, "firmware-speed", "bench", kinds::ALL);
        let counts = shapes.map(|(inputs, intervals)| {
            let counts = models(inputs, intervals)
                .map(|blob| run(machine, &image, &blob)["eval_q"].instructions[2]);
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
}

impl Budgets {
    fn measure() -> Self {
        let mut budgets = Self::default();
        for subject in subjects() {
            let call = if subject.integer { "eval_q" } else { "eval" };
            for machine in MACHINES {
                let measured = measurements()[&(machine.name(), subject.name.clone())][call];
                let limits = Limits {
                    instructions: measured.instructions[2],
                    stack: measured.stack,
                    blob: subject.blob.len(),
                };
                let of_machine = budgets.models.entry(machine.name().into()).or_default();
                of_machine.insert(subject.name.clone(), limits);
            }
        }
        let sets = [
            ("cubic i16", kinds::CUBIC_I16),
            ("linear i16", kinds::LINEAR_I16),
            ("cubic f32", kinds::CUBIC_F32),
            ("all", kinds::ALL),
        ];
        // The M7 is of the M4F's target.
        for machine in MACHINES.into_iter().filter(|&m| m != Machine::Mps2An500) {
            let flash = |binary, kinds| {
                let image = build(machine, "firmware", binary, kinds);
                Size::of(&image).expect("an image").flash()
            };
            let without = flash("baseline", kinds::ALL);
            let of_target = budgets.flash.entry(machine.target().into()).or_default();
            for (name, kinds) in sets {
                of_target.insert(name.into(), flash("minimal", kinds) - without);
            }
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
        for (target, sets) in &self.flash {
            for (set, &new) in sets {
                let old = limits.flash.get(target).and_then(|of| of.get(set));
                compare(
                    format!("{target}: {set}: bytes of flash"),
                    new,
                    old.copied(),
                );
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
            flash: BTreeMap::from([("all".to_owned(), BTreeMap::new())]),
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
