//! The host and emulated Cortex-M processors compute the same bits, at a cost counted exactly.
//!
//! These tests need QEMU and the Rust target; where one is missing they fail with the line that
//! installs it.

use std::{
    fs,
    path::Path,
    sync::OnceLock,
    time::{Duration, Instant},
};

use kan_core::{
    LoadError, Model, ModelBytes,
    blob::{Aligned, Head, LayerMessage, Message, Node, Scalar},
};
use kan_train_host::device::{Cost, DeviceError, DeviceRun};
use kan_train_host::emulator::{self, Firmware, Machine, Missing, Size};
use kan_train_host::evaluator::Evaluator;
use object::{Object, ObjectSection, ObjectSymbol};

use crate::blob::Random;
use crate::integer;

/// Numbers that look random, the same in every run (Knuth's MMIX generator).
pub struct Numbers(pub u64);

impl Numbers {
    /// The next one in [−1, 1).
    pub fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    pub fn many(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// The tables of a layer, owned.
struct Layer {
    degree: u8,
    residual: bool,
    outputs: u16,
    nodes: Vec<[u32; 4]>,
    bias: Vec<f32>,
    targets: Vec<u16>,
    coefficients: Vec<f32>,
    base: Vec<f32>,
}

impl Layer {
    /// Tables with random entries; `sparse` leaves out every third edge.
    fn random(
        numbers: &mut Numbers,
        degree: u8,
        residual: bool,
        shape: (u16, u16),
        sparse: bool,
    ) -> Self {
        let (inputs, outputs) = shape;
        let (mut nodes, mut targets, mut coefficients) = (Vec::new(), Vec::new(), Vec::new());
        for input in 0..inputs {
            let of_node: Vec<u16> = (0..outputs)
                .filter(|output| !sparse || (input + output) % 3 != 2)
                .collect();
            let intervals = 3 + input % 5;
            nodes.push(
                Node {
                    lo: -1.0 + 0.25 * numbers.next(),
                    inv_step: 2.0 + numbers.next(),
                    margin: 1.5,
                    intervals,
                    edges: of_node.len() as u16,
                }
                .pack(),
            );
            let rows = usize::from(intervals) + usize::from(degree);
            coefficients.extend(numbers.many(rows * of_node.len()));
            targets.extend(of_node);
        }
        let base = if residual {
            numbers.many(targets.len())
        } else {
            Vec::new()
        };
        let bias = numbers.many(outputs.into());
        Self {
            degree,
            residual,
            outputs,
            nodes,
            bias,
            targets,
            coefficients,
            base,
        }
    }

    fn message(&self) -> LayerMessage<'_> {
        LayerMessage {
            degree: self.degree,
            scalar: Scalar::F32,
            residual: self.residual,
            outputs: self.outputs,
            nodes: Aligned::of(&self.nodes),
            bias: Aligned::of(&self.bias),
            targets: Aligned::of(&self.targets),
            coefficients: Aligned::of(&self.coefficients),
            base: Aligned::of(&self.base),
        }
    }
}

/// A blob, aligned as [`Model::load`] wants it.
pub struct Blob {
    bytes: Box<ModelBytes<[u8; 65_536]>>,
    len: usize,
}

impl Blob {
    /// Layers of random tables between `widths` nodes.
    pub fn random(degree: u8, residual: bool, widths: &[u16], sparse: bool) -> Self {
        let mut numbers = Numbers(widths.len() as u64);
        let layers: Vec<Layer> = widths
            .windows(2)
            .map(|pair| Layer::random(&mut numbers, degree, residual, (pair[0], pair[1]), sparse))
            .collect();
        let layers: Vec<LayerMessage> = layers.iter().map(Layer::message).collect();
        let message = Message {
            name: "random tables",
            head: Head::Identity,
            input_names: "",
            output_names: "",
            layers: &layers,
        };
        let mut bytes = Box::new(ModelBytes([0; 65_536]));
        let len = message.encode(&mut bytes.0).expect("64 KiB are enough");
        Self { bytes, len }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes.0[..self.len]
    }
}

/// Rows of `inputs` values: across the grids and beyond, and all that is special about f32.
fn rows(inputs: usize) -> Vec<f32> {
    const SPECIAL: [f32; 16] = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        -f32::MIN_POSITIVE,
        1e-45,
        0.0,
        -0.0,
        f32::EPSILON,
        1.0,
        -1.0,
        -1e9,
        88.8,
        -104.0,
    ];
    let mut values = Vec::new();
    for (row, first) in SPECIAL.into_iter().enumerate() {
        values.extend((0..inputs).map(|input| {
            if input == 0 {
                first
            } else {
                SPECIAL[(row + 5 * input) % 16]
            }
        }));
    }
    let across = (0..201).map(|step| -5.0 + 0.05 * step as f32);
    values.extend(across.flat_map(|x| (0..inputs).map(move |input| x + 0.3 * input as f32)));
    values.extend(Numbers(7).many(100 * inputs));
    values
}

/// The firmware of the Cortex-M4F, built once for all tests.
pub fn firmware() -> &'static Firmware {
    static FIRMWARE: OnceLock<Firmware> = OnceLock::new();
    FIRMWARE.get_or_init(|| built(Machine::Mps2An386))
}

pub fn built(machine: Machine) -> Firmware {
    Firmware::build(machine).unwrap_or_else(|error| panic!("{error}"))
}

/// What inferences took, which the counter could hold.
pub fn cost(run: &DeviceRun) -> Cost {
    run.cost()
        .expect("fewer instructions than the counter holds")
}

/// Evaluates `blob` on the device and on the host, whose type has exactly the blob's capacities,
/// and compares every output bit for bit.
fn same_on_device<const IN: usize, const OUT: usize, const WIDTH: usize, const LAYERS: usize>(
    blob: &Blob,
) -> DeviceRun {
    let model = Model::<IN, OUT, WIDTH, LAYERS>::load(blob.bytes()).expect("the blob is good");
    let inputs = rows(IN);
    let run = firmware()
        .evaluate(blob.bytes(), &inputs, IN)
        .unwrap_or_else(|error| panic!("{error}"));

    let shape = [
        run.model.inputs,
        run.model.outputs,
        run.model.width,
        run.model.layers,
    ];
    assert_eq!(shape.map(usize::from), [IN, OUT, WIDTH, LAYERS]);
    assert_eq!(run.model.edges as usize, model.edges());
    assert_eq!(run.model.crc, model.crc());
    assert!(!run.model.in_ram);
    assert_eq!(run.counts.len(), inputs.len() / IN);
    assert_eq!(run.outputs.len(), inputs.len() / IN * OUT);
    let mut host = Vec::new();
    for (row, input) in inputs.as_chunks::<IN>().0.iter().enumerate() {
        let output = model.eval(input);
        for (k, value) in output.iter().enumerate() {
            let device = run.outputs[row * OUT + k];
            assert!(value.is_finite());
            assert_eq!(
                value.to_bits(),
                device.to_bits(),
                "row {row} {input:?}: {value} {device}"
            );
        }
        host.extend(output);
    }
    assert_eq!(run.equal_outputs(&host), host.len());
    let counts = cost(&run);
    let scratch = 2 * 4 * 64;
    assert!(
        (scratch..4096).contains(&run.model.stack_bytes),
        "{:?}",
        run.model
    );
    println!(
        "{IN} inputs, {LAYERS} layers, {} edges: {counts:?}, {:?}",
        model.edges(),
        run.model
    );
    run
}

#[test]
fn tables_are_evaluated_bit_for_bit_at_a_cost_that_no_input_changes() {
    for sparse in [false, true] {
        for degree in [3, 1, 0] {
            let run =
                same_on_device::<2, 3, 5, 3>(&Blob::random(degree, false, &[2, 5, 4, 3], sparse));
            let counts = cost(&run);
            assert_eq!(counts.min, counts.max, "degree {degree}");
        }
    }
}

#[test]
fn exact_tables_are_evaluated_bit_for_bit_at_a_reproducible_cost() {
    // The exponential of `libm` has branches, so the cost does depend on the input a little.
    for sparse in [false, true] {
        let blob = Blob::random(3, true, &[3, 4, 2], sparse);
        let run = same_on_device::<3, 2, 4, 2>(&blob);
        assert_eq!(run, same_on_device::<3, 2, 4, 2>(&blob));
    }
}

#[test]
fn images_of_digits_fit() {
    let run = same_on_device::<64, 10, 10, 1>(&Blob::random(3, false, &[64, 10], false));
    assert_eq!(run.model.edges, 640);
}

/// What the device says of a blob that `load` refuses, which is what the host says.
#[track_caller]
fn refused(bytes: &[u8], expected: LoadError) {
    match firmware().evaluate(bytes, &[0.0; 2], 2) {
        Err(DeviceError::Refused { reason, .. }) => assert_eq!(reason, expected.to_string()),
        other => panic!("{expected} expected, not {other:?}"),
    }
}

#[test]
fn a_bad_blob_is_reported_by_its_error() {
    let blob = Blob::random(3, false, &[2, 3], false);
    let good = blob.bytes();
    refused(&[], LoadError::NotABlob);
    refused(b"a,b\n1,2\n", LoadError::NotABlob);
    refused(&good[..good.len() - 4], LoadError::Checksum);
    for at in [12, 40, good.len() - 1] {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x10;
        refused(&bytes, LoadError::Checksum);
    }
    let mut newer = good.to_vec();
    newer[4] = 9;
    refused(&newer, LoadError::Version(9));
    let mut endless = good.to_vec();
    endless[8..12].copy_from_slice(&[0xFF; 4]);
    refused(&endless, LoadError::Truncated);
}

#[test]
fn what_does_not_fit_is_refused() {
    let blob = Blob::random(3, false, &[2, 3], false);
    for (values, inputs) in [(0, 2), (3, 2), (1, 0), (3, 3)] {
        let result = firmware().evaluate(blob.bytes(), &vec![0.0; values], inputs);
        assert!(
            matches!(result, Err(DeviceError::Shape { inputs: 2, .. })),
            "{result:?}"
        );
    }
    for (widths, said) in [
        (&[65, 1][..], "65 inputs"),
        (&[1, 17], "17 outputs"),
        (&[1, 65, 1], "65 nodes in a layer"),
        (&[1; 10], "9 layers"),
    ] {
        let blob = Blob::random(1, false, widths, false);
        let inputs = vec![0.0; usize::from(widths[0])];
        let error = firmware().evaluate(blob.bytes(), &inputs, inputs.len());
        let room = "64 inputs, 16 outputs, 64 nodes in a layer and 8 layers";
        let expected = format!("the model has {said}, and the firmware has room for {room}");
        assert_eq!(error.unwrap_err().to_string(), expected);
    }
    let large = vec![0; 3 * 1024 * 1024 + 1];
    let error = firmware().evaluate(&large, &[0.0], 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a model of 3145729 bytes does not fit the device's 3145728"
    );
}

/// The firmware with its code overwritten at every symbol whose name has `symbol` in it, or at the
/// start of the section.
fn sabotaged(folder: &Path, section: &str, symbol: Option<&str>, code: &[u8]) -> Firmware {
    let mut image = fs::read(firmware().path()).expect("the firmware is built");
    let file = object::File::parse(&*image).expect("it is an ELF file");
    let section = file.section_by_name(section).expect("it has the section");
    let (start, _) = section.file_range().expect("the section is in the file");
    let offsets: Vec<u64> = match symbol {
        None => vec![0],
        // The lowest bit of a function's address says that it is Thumb code.
        Some(name) => file
            .symbols()
            .filter(|symbol| symbol.name().is_ok_and(|found| found.contains(name)))
            .map(|symbol| (symbol.address() & !1) - section.address())
            .collect(),
    };
    assert!(!offsets.is_empty(), "it has the symbol");
    for offset in offsets {
        let at = usize::try_from(start + offset).expect("the file is in memory");
        image[at..at + code.len()].copy_from_slice(code);
    }
    let path = folder.join("sabotaged");
    fs::write(&path, image).expect("the folder is writable");
    Firmware::open(Machine::Mps2An386, &path).expect("it is still firmware")
}

#[test]
fn a_device_that_fails_or_hangs_is_an_error_and_its_emulator_ends() {
    let blob = Blob::random(3, false, &[2, 3], false);
    let folder = tempfile::tempdir().expect("a temporary folder");

    // No vector is valid, not that of the fault handler either: the processor locks up.
    let locked_up = sabotaged(folder.path(), ".vector_table", None, &[0; 64]);
    match locked_up.evaluate(blob.bytes(), &[0.0, 0.0], 2) {
        Err(DeviceError::Gone { reason, .. }) => assert!(reason.contains("Lockup"), "{reason}"),
        other => panic!("{other:?}"),
    }

    // Undefined instructions where layers are read and evaluated: the processor is reset, and tells
    // where it was.
    let faulty = sabotaged(
        folder.path(),
        ".text",
        Some("kan_core5layer"),
        &[0x00, 0xDE],
    );
    let mut device = faulty
        .with_patience(Duration::from_millis(700))
        .start(&[])
        .unwrap_or_else(|error| panic!("{error}"));
    match device.hold(blob.bytes()) {
        Err(DeviceError::Fault { address, .. }) => assert!(address > 0, "{address:#x}"),
        other => panic!("{other:?}"),
    }
    drop(device);

    // A branch to itself where the program begins.
    let hanging = sabotaged(folder.path(), ".text", Some("main"), &[0xFE, 0xE7])
        .with_patience(Duration::from_millis(300));
    match hanging.evaluate(blob.bytes(), &[0.0, 0.0], 2) {
        Err(DeviceError::Silent { tries: 3, .. }) => {}
        other => panic!("{other:?}"),
    }
    #[cfg(target_os = "linux")]
    for process in fs::read_dir("/proc").expect("Linux has it").flatten() {
        let image = hanging.path().to_str().expect("a plain path");
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&command).contains(image),
            "QEMU still runs"
        );
    }
}

#[test]
fn only_firmware_is_opened() {
    let open = |path: &Path| match Firmware::open(Machine::Mps2An386, path) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{} is no firmware", path.display()),
    };
    assert!(open(Path::new("no/such/file")).starts_with("no/such/file: No such file"));
    let this = std::env::current_exe().expect("tests have a path");
    assert!(
        open(&this).contains("no symbol __model_start"),
        "{}",
        open(&this)
    );
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/device.rs");
    assert!(
        open(&source).contains("src/device.rs: "),
        "{}",
        open(&source)
    );
}

#[test]
fn machines_are_named() {
    assert_eq!("qemu".parse(), Ok(Machine::Mps2An386));
    assert_eq!("qemu:mps2-an386".parse(), Ok(Machine::Mps2An386));
    assert_eq!(Machine::Mps2An386.to_string(), "mps2-an386");
    for machine in Machine::ALL {
        assert_eq!(format!("qemu:{machine}").parse(), Ok(machine));
    }
    for unknown in ["", "host", "qemu:", "qemu:pdp11", "QEMU"] {
        assert!(unknown.parse::<Machine>().is_err(), "{unknown}");
    }
}

#[test]
fn what_is_missing_is_named_by_the_line_that_installs_it() {
    let target = Some("thumbv7em-none-eabihf");
    let toolchain = "rustup target add --toolchain 1.95.0 thumbv7em-none-eabihf";
    let qemu = "apt-get install -y --no-install-recommends qemu-system-arm";
    let both = Missing { qemu: true, target }.to_string();
    assert!(both.contains("apt-get update && "), "{both}");
    assert!(both.ends_with(&format!("{qemu} && {toolchain}")), "{both}");
    assert_eq!(
        Missing {
            qemu: false,
            target
        }
        .to_string(),
        toolchain
    );
    assert!(
        Missing {
            qemu: true,
            target: None
        }
        .to_string()
        .ends_with(qemu)
    );
    if let Err(missing) = emulator::availability(Machine::Mps2An386) {
        panic!("{missing}");
    }
    // Where this program was not built, that is what is missing, not the target.
    let gone = Path::new("/no/such/folder");
    let error = emulator::availability_with(gone, Machine::Mps2An386).unwrap_err();
    assert!(
        matches!(&error, DeviceError::Sources(path) if path == gone),
        "{error}"
    );
}

/// `cargo firmware-size` prints these figures.
#[test]
fn kan_core_is_small() {
    let size = |binary| {
        let built = emulator::build(Machine::Mps2An386.board(), binary);
        let size = built.and_then(|path| Size::of(&path));
        size.unwrap_or_else(|error| panic!("{error}"))
    };
    let (minimal, baseline) = (size("minimal"), size("baseline"));
    println!("bytes              text   data    bss   flash     RAM");
    for (name, size) in [("with kan-core", minimal), ("without", baseline)] {
        let (flash, ram) = (size.flash(), size.ram());
        println!(
            "{name:14} {:8} {:6} {:6} {flash:7} {ram:7}",
            size.text, size.data, size.bss
        );
    }
    let flash = minimal.flash() - baseline.flash();
    let ram = minimal.ram() - baseline.ram();
    println!("kan-core costs {flash} bytes of flash and {ram} bytes of static RAM");
    assert_eq!(ram, 0, "no static RAM");
    assert!(flash < 8 * 1024, "{flash} bytes");
}

/// The kinds of tables, by degree and residual.
pub const KINDS: [(u8, bool, &str); 4] = [
    (3, false, "cubic"),
    (1, false, "linear"),
    (0, false, "step"),
    (3, true, "exact"),
];

/// Tables of every kind on every machine, as floats; those of integers as integers too.
#[test]
fn every_machine_computes_the_bits_of_the_host() {
    let mut random = Random(77);
    let mut models: Vec<(String, Vec<u8>, Option<Vec<i32>>)> = Vec::new();
    for (degree, residual, kind) in KINDS {
        let blob = Blob::random(degree, residual, &[3, 5, 2], true);
        models.push((kind.into(), blob.bytes().to_vec(), None));
    }
    for (degree, scalar) in [(3, Scalar::I16), (1, Scalar::I16), (0, Scalar::I8)] {
        let layers = integer::random_model(&mut random, degree, scalar, &[3, 5, 2], 0.7);
        let raw = (0..300).flat_map(|_| integer::inputs(&mut random, &layers[0].nodes));
        let raw: Vec<i32> = raw.collect();
        let blob = integer::encode(Head::Identity, &layers);
        models.push((format!("{degree} {scalar:?}"), blob.to_vec(), Some(raw)));
    }
    for machine in Machine::ALL {
        let image = built(machine);
        for (kind, blob, raw) in &models {
            let inputs: Vec<f32> = match raw {
                None => rows(3),
                // Across the grids, in their own unit.
                Some(raw) => raw.iter().map(|&x| x as f32 * 1e-3).collect(),
            };
            let mut device = image
                .start(blob)
                .unwrap_or_else(|error| panic!("{machine}: {error}"));
            let run = device
                .evaluate(&inputs, 3, |_| ())
                .unwrap_or_else(|error| panic!("{machine}: {error}"));
            let evaluator = Evaluator::load(blob).expect("the blob is good");
            let host = evaluator.eval(&inputs.iter().map(|&x| x.into()).collect::<Vec<f64>>());
            assert_eq!(host.len(), run.outputs.len());
            assert_eq!(run.equal_outputs(&host), host.len(), "{machine}, {kind}");
            assert_eq!(run.machine, machine.name());
            println!("{machine}, {kind}: {:?}, {:?}", cost(&run), run.model);
            let Some(raw) = raw else {
                let refused = device.evaluate_raw(&[0; 3], 3, |_| ());
                let said = refused.expect_err("these are floats").to_string();
                assert!(said.contains("the tables are not of integers"), "{said}");
                continue;
            };
            let run = device
                .evaluate_raw(raw, 3, |_| ())
                .unwrap_or_else(|error| panic!("{machine}: {error}"));
            let model = evaluator.model();
            let mut host = vec![0; 2 * 300];
            for (x, y) in raw.chunks(3).zip(host.chunks_mut(2)) {
                model.eval_q_into(x, y);
            }
            assert_eq!(run.outputs, host, "{machine}, {kind}");
            let cost = run.cost().expect("the counter holds it");
            assert_eq!(cost.min, cost.max, "{machine}, {kind}: not one float");
            println!("{machine}, {kind}: {cost:?} raw");
        }
    }
}

/// Eight bytes of inputs and four of outputs a row, and the counts.
#[test]
fn the_serial_port_carries_at_least_500_inferences_a_second() {
    let blob = Blob::random(3, false, &[2, 5, 1], false);
    let inputs = Numbers(1).many(2 * 2000);
    let mut device = firmware()
        .start(blob.bytes())
        .unwrap_or_else(|error| panic!("{error}"));
    let start = Instant::now();
    let run = device
        .evaluate(&inputs, 2, |_| ())
        .unwrap_or_else(|error| panic!("{error}"));
    let rate = run.counts.len() as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} inferences a second");
    assert!(rate > 500.0, "{rate}");
}
