//! Blobs from the hand of an enemy: `load` says no, or what it loads behaves.

use kan_core::{
    LoadError,
    blob::{Head, Scalar},
    blob_len,
};

use crate::blob::{AnyModel, Blob, Layer, Random, Tables, load};
use crate::integer;

const EXTREMES: [f32; 12] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    f32::MIN_POSITIVE,
    1e-45,
    1e9,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// Runs everything that a model can be asked, on inputs of every kind.
fn exercise(model: &AnyModel) {
    let mut random = Random(u64::from(model.crc()));
    for k in 0..8 {
        let input = [0; 16].map(|_| match k {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => f32::NEG_INFINITY,
            3 => f32::from_bits(random.bits() as u32),
            _ => EXTREMES[random.below(12)],
        });
        let output = model.eval(&input);
        assert!(
            output.iter().all(|y| y.is_finite()),
            "{model:?}: {input:?} gives {output:?}"
        );
        let probabilities = model.probabilities(&input);
        let valid = |p: &f32| match model.head() {
            Head::Identity => p.is_finite(),
            Head::Softmax | Head::Sigmoid => (0.0..=1.0).contains(p),
        };
        assert!(
            probabilities.iter().all(valid),
            "{model:?}: {probabilities:?}"
        );
        assert!(model.classify(&input) < model.outputs().max(2));
        model.in_domain(&input);
        let raw = [0; 16].map(|_| random.bits() as i32 >> random.below(32));
        model.eval_q(&raw);
        model.in_domain_q(&raw);
        assert!(model.classify_q(&raw) < model.outputs().max(2));
    }
    let text: usize = (0..4)
        .filter_map(|k| Some(model.input_name(k)?.len() + model.output_name(k)?.len()))
        .sum();
    assert!(text + model.name().len() <= model.blob_len());
    assert_eq!(model.tables().count(), model.layers());
}

/// What became of the blobs of an enemy.
#[derive(Debug, Default)]
struct Tally {
    loaded: usize,
    refused: usize,
}

impl Tally {
    fn attack(&mut self, blob: &Blob) {
        let _ = blob_len(blob);
        match AnyModel::load(blob) {
            Ok(model) => {
                exercise(&model);
                self.loaded += 1;
            }
            Err(_) => self.refused += 1,
        }
    }
}

fn victims() -> Vec<Blob> {
    let named = Tables {
        output_names: "a\nb\nc".into(),
        ..Tables::mixed(Head::Softmax, 3)
    };
    vec![
        named.encode(),
        Tables::mixed(Head::Sigmoid, 1).encode(),
        Tables::product().encode(),
        integers(3, Scalar::I16, 1.0),
        integers(1, Scalar::I8, 0.6),
        integers(0, Scalar::I16, 0.6),
    ]
}

fn integers(degree: u8, scalar: Scalar, density: f32) -> Blob {
    let mut random = Random(10 + u64::from(degree));
    let layers = integer::random_model(&mut random, degree, scalar, &[3, 7, 2], density);
    integer::encode(Head::Softmax, &layers)
}

#[test]
fn every_good_blob_behaves_on_every_input() {
    for blob in victims() {
        exercise(&load(&blob));
    }
}

#[test]
fn every_truncation_is_recognised() {
    for blob in victims() {
        for len in 0..blob.len() {
            let error = AnyModel::load(&Blob::of(&blob[..len])).err();
            assert_eq!(
                error,
                Some(LoadError::Truncated),
                "{len} of {} bytes",
                blob.len()
            );
        }
    }
}

#[test]
fn a_truncation_that_says_so_is_recognised_too() {
    for blob in victims() {
        for len in 32..blob.len() {
            let mut short = Blob::of(&blob[..len]);
            short[8..12].copy_from_slice(&(len as u32).to_le_bytes());
            short.fix_checksum();
            let error = AnyModel::load(&short).err();
            assert_eq!(
                error,
                Some(LoadError::Malformed),
                "{len} of {} bytes",
                blob.len()
            );
        }
    }
}

#[test]
fn every_damaged_byte_is_recognised() {
    let blob = &victims()[0];
    for at in 0..blob.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = blob.clone();
            damaged[at] ^= flip;
            let error = AnyModel::load(&damaged).expect_err("damaged");
            let expected = match at {
                0..4 => LoadError::NotABlob,
                4..6 => LoadError::Version(u16::from_le_bytes([damaged[4], damaged[5]])),
                8..12 => {
                    let len = u32::from_le_bytes(damaged[8..12].try_into().unwrap()) as usize;
                    match len {
                        0..32 => LoadError::Malformed,
                        _ if len > blob.len() => LoadError::Truncated,
                        _ => LoadError::TrailingBytes,
                    }
                }
                _ => LoadError::Checksum,
            };
            assert_eq!(error, expected, "byte {at} ^ {flip:#x}");
        }
    }
}

/// With the checksum made good again, the deeper checks are reached.
#[test]
fn every_byte_changed_on_purpose_is_refused_or_harmless() {
    let mut tally = Tally::default();
    for blob in victims() {
        for at in (0..blob.len()).filter(|at| !(12..16).contains(at)) {
            let before = blob[at];
            let flips = (0..8).map(|bit| before ^ 1 << bit);
            for byte in flips.chain([0x00, 0x7f, 0x80, 0xff, before ^ 0xff]) {
                let mut changed = blob.clone();
                changed[at] = byte;
                changed.fix_checksum();
                tally.attack(&changed);
            }
        }
    }
    // Most bytes are mantissas, where any value is good; the others are not.
    assert!(tally.loaded > 1000 && tally.refused > 1000, "{tally:?}");
}

#[test]
fn random_mutations_are_refused_or_harmless() {
    let victims = victims();
    let mut random = Random(9);
    let words = [
        0,
        1,
        u32::MAX,
        0x7f80_0000,
        0x7fc0_0000,
        0xff80_0000,
        0x7f7f_ffff,
        0x8000_0000,
    ];
    let mut tally = Tally::default();
    for _ in 0..40_000 {
        let mut blob = victims[random.below(victims.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(blob.len());
            match random.below(4) {
                0 => blob[at] = random.bits() as u8,
                // Small numbers are lengths, counts and indices.
                1 => blob[at] = random.below(8) as u8,
                2 => {
                    let at = at / 4 * 4;
                    let word = words[random.below(words.len())].to_le_bytes();
                    let end = blob.len().min(at + 4);
                    blob[at..end].copy_from_slice(&word[..end - at]);
                }
                _ => {
                    let from = random.below(blob.len());
                    let len = random.below(16).min(blob.len() - from.max(at));
                    blob.copy_within(from..from + len, at);
                }
            }
        }
        if random.below(8) > 0 {
            let len = (blob.len() as u32).to_le_bytes();
            blob[..4].copy_from_slice(b"KAN\xFA");
            blob[4..12].copy_from_slice(&[1, 0, 0, 0, len[0], len[1], len[2], len[3]]);
        }
        blob.fix_checksum();
        tally.attack(&blob);
    }
    assert!(tally.loaded > 1000 && tally.refused > 1000, "{tally:?}");
}

#[test]
fn bytes_that_are_no_blob_are_told_apart() {
    let blob = &victims()[0];
    let error = |bytes: &[u8]| AnyModel::load(&Blob::of(bytes)).err();
    assert_eq!(error(b"a,b,c\n1,2,3\n"), Some(LoadError::NotABlob));
    assert_eq!(error(b"KAN\n"), Some(LoadError::NotABlob));
    assert_eq!(
        error(&[0xff; 4096]),
        Some(LoadError::NotABlob),
        "erased flash"
    );
    assert_eq!(error(&[]), Some(LoadError::Truncated));

    for version in [0, 2, u16::MAX] {
        let mut newer = blob.clone();
        newer[4..6].copy_from_slice(&version.to_le_bytes());
        assert_eq!(
            error(&newer),
            Some(LoadError::Version(version)),
            "before anything else"
        );
        newer.fix_checksum();
        assert_eq!(error(&newer), Some(LoadError::Version(version)));
    }

    let mut longer = blob.to_vec();
    longer.push(0);
    assert_eq!(error(&longer), Some(LoadError::TrailingBytes));
    longer.extend(&blob[..]);
    assert_eq!(error(&longer), Some(LoadError::TrailingBytes));

    // Bytes that the header counts but the message does not need.
    let mut padded = Blob::of(&longer[..blob.len() + 1]);
    let len = padded.len() as u32;
    padded[8..12].copy_from_slice(&len.to_le_bytes());
    padded.fix_checksum();
    assert_eq!(error(&padded), Some(LoadError::Malformed));

    for offset in 1..4 {
        let mut shifted = Blob::of(&vec![0; blob.len() + offset]);
        shifted[offset..].copy_from_slice(blob);
        let error = AnyModel::load(&shifted[offset..]).err();
        assert_eq!(error, Some(LoadError::Misaligned), "by {offset}");
    }
}

/// A change to the tables of a good model, and what it is.
type Change = (&'static str, fn(&mut Tables));

fn shorten<T>(table: &mut Vec<T>) {
    table.pop();
}

/// The error that a model gives after a change to its tables.
fn error_after(change: impl Fn(&mut Tables)) -> Option<LoadError> {
    let mut tables = Tables::mixed(Head::Softmax, 3);
    change(&mut tables);
    AnyModel::load(&tables.encode()).err()
}

#[test]
fn tables_that_contradict_one_another_are_malformed() {
    let changes: [Change; 26] = [
        ("no node", |t| t.layers[0].nodes.clear()),
        ("a node too few", |t| shorten(&mut t.layers[1].nodes)),
        ("a node too many", |t| {
            let node = t.layers[2].nodes[2];
            t.layers[1]
                .nodes
                .push(kan_core::blob::Node { edges: 0, ..node });
        }),
        ("a bias too few", |t| shorten(&mut t.layers[0].bias)),
        ("a bias too many", |t| t.layers[0].bias.push(0.0)),
        ("a target too few", |t| shorten(&mut t.layers[1].targets)),
        ("a target too many", |t| t.layers[1].targets.push(0)),
        ("a coefficient too few", |t| {
            shorten(&mut t.layers[1].coefficients)
        }),
        ("a coefficient too many", |t| {
            t.layers[1].coefficients.push(0.0)
        }),
        ("a base factor too few", |t| shorten(&mut t.layers[0].base)),
        ("a base factor too many", |t| t.layers[0].base.push(0.0)),
        ("a base without need", |t| t.layers[1].base.push(0.0)),
        ("no base", |t| t.layers[0].base.clear()),
        ("an output too few", |t| t.layers[3].outputs = 2),
        ("an output too many", |t| t.layers[0].outputs = 4),
        ("a target that does not exist", |t| {
            t.layers[0].targets[2] = 3
        }),
        ("a target twice", |t| t.layers[0].targets[1] = 0),
        ("targets out of order", |t| t.layers[0].targets.swap(0, 1)),
        ("no interval", |t| t.layers[0].nodes[2].intervals = 0),
        ("too many intervals", |t| {
            t.layers[0].nodes[2].intervals = u16::MAX
        }),
        ("a step of 0", |t| t.layers[0].nodes[2].inv_step = 0.0),
        ("a negative step", |t| t.layers[0].nodes[2].inv_step = -1.0),
        ("a subnormal step", |t| {
            t.layers[0].nodes[2].inv_step = f32::MIN_POSITIVE / 2.0
        }),
        ("a negative margin", |t| t.layers[0].nodes[2].margin = -0.5),
        ("one interval more", |t| t.layers[0].nodes[0].intervals += 1),
        ("a hidden layer of no nodes", |t| {
            t.layers[1].outputs = 0;
            t.layers[1].bias.clear();
            t.layers[2].nodes.clear();
            for layer in &mut t.layers[1..3] {
                layer.nodes.iter_mut().for_each(|node| node.edges = 0);
                layer.targets.clear();
                layer.coefficients.clear();
                layer.base.clear();
            }
        }),
    ];
    assert_eq!(error_after(|_| ()), None);
    for (what, change) in changes {
        assert_eq!(error_after(change), Some(LoadError::Malformed), "{what}");
    }

    let head = |head, outputs| AnyModel::load(&Tables::mixed(head, outputs).encode()).err();
    assert_eq!(
        head(Head::Softmax, 1),
        Some(LoadError::Malformed),
        "one class"
    );
    assert_eq!(
        head(Head::Sigmoid, 2),
        Some(LoadError::Malformed),
        "two logits"
    );
    assert_eq!(head(Head::Identity, 1), None);
    for names in ["w\nx\ny", "w\nx\ny\nz\n", "w", "\n"] {
        let error = error_after(|t| t.input_names = names.into());
        assert_eq!(error, Some(LoadError::Malformed), "input names {names:?}");
        let error = error_after(|t| t.output_names = names.replace("\ny", ""));
        assert_eq!(error, Some(LoadError::Malformed), "output names {names:?}");
    }
}

#[test]
fn a_header_that_contradicts_the_message_is_malformed() {
    // Without names, so that their number does not give it away.
    let blob = Tables::new(Head::Identity, Tables::mixed(Head::Identity, 3).layers).encode();
    for at in [6, 16, 18, 20, 22, 24, 28] {
        for change in [-1_i16, 1] {
            let mut changed = blob.clone();
            let value = u16::from_le_bytes([changed[at], changed[at + 1]]);
            let value = value.wrapping_add_signed(change);
            changed[at..at + 2].copy_from_slice(&value.to_le_bytes());
            changed.fix_checksum();
            let error = AnyModel::load(&changed).err();
            assert_eq!(error, Some(LoadError::Malformed), "byte {at} {change:+}");
        }
    }
    // The number of layers once more, in the message: after three empty texts and the head.
    let at = 32 + 4;
    assert_eq!(blob[at], 4);
    for count in [0, 3, 5] {
        let mut changed = blob.clone();
        changed[at] = count;
        changed.fix_checksum();
        let error = AnyModel::load(&changed).err();
        assert_eq!(error, Some(LoadError::Malformed), "{count} layers");
    }
}

#[test]
fn numbers_must_have_their_shortest_form_and_paddings_be_zero() {
    // The name's length in two bytes instead of one; its last letter makes room.
    let short = Tables {
        name: "abcd".into(),
        ..Tables::product()
    }
    .encode();
    assert_eq!(&short[32..37], b"\x04abcd");
    let mut long = short.clone();
    long[32..37].copy_from_slice(b"\x83\x00abc");
    long.fix_checksum();
    assert_eq!(AnyModel::load(&long).err(), Some(LoadError::Malformed));
    long[32..37].copy_from_slice(b"\x04\xff\xff\xff\xff");
    long.fix_checksum();
    assert_eq!(load(&long).name(), "", "not UTF-8");

    for name in ["", "a", "ab", "abc"] {
        let blob = Tables {
            name: name.into(),
            ..Tables::product()
        }
        .encode();
        // Name, head, names, number of layers, and the first four fields of a layer.
        let at = 32 + (1 + name.len()) + 1 + 4 + 3 + 1 + 4;
        let pad = usize::from(blob[at]);
        assert!(pad < 4 && blob[at + 1..=at + pad].iter().all(|&byte| byte == 0));
        if pad > 0 {
            let mut changed = blob.clone();
            changed[at + pad] = 1;
            changed.fix_checksum();
            assert_eq!(
                AnyModel::load(&changed).err(),
                Some(LoadError::Malformed),
                "{name:?}"
            );
        }
    }
}

#[test]
fn tables_that_cannot_be_evaluated_are_unsupported() {
    for degree in [2, 4, 5, 100] {
        let error = error_after(|t| t.layers[1].degree = degree);
        assert_eq!(error, Some(LoadError::Unsupported), "degree {degree}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let after =
            |place: fn(&mut Layer) -> &mut f32| error_after(|t| *place(&mut t.layers[0]) = number);
        let refused = Some(LoadError::NotFinite);
        assert_eq!(after(|layer| &mut layer.nodes[2].lo), refused);
        assert_eq!(after(|layer| &mut layer.nodes[2].inv_step), refused);
        assert_eq!(after(|layer| &mut layer.nodes[2].margin), refused);
        assert_eq!(after(|layer| &mut layer.bias[1]), refused);
        assert_eq!(after(|layer| &mut layer.coefficients[7]), refused);
        assert_eq!(after(|layer| &mut layer.base[0]), refused);
    }
}

#[test]
fn sums_that_could_overflow_are_refused() {
    let changes: [Change; 10] = [
        ("a coefficient", |t| t.layers[1].coefficients[3] = f32::MAX),
        ("a bias", |t| t.layers[1].bias[0] = -f32::MAX),
        ("all coefficients", |t| {
            t.layers[3].coefficients.fill(f32::MAX / 12.0)
        }),
        ("a base factor", |t| t.layers[0].base[0] = 1e38),
        ("a base factor on a margin", |t| {
            t.layers[0].base[0] = 3e37;
            t.layers[0].nodes[0].margin = f32::from(t.layers[0].nodes[0].intervals);
        }),
        ("a far grid", |t| t.layers[0].nodes[0].lo = -3e38),
        ("a far grid without base", |t| {
            t.layers[1].nodes[0].lo = 3e38
        }),
        ("a wide grid", |t| {
            t.layers[0].nodes[0].inv_step = f32::MIN_POSITIVE
        }),
        ("a wide margin", |t| t.layers[0].nodes[0].margin = 1e7),
        ("an endless margin", |t| {
            t.layers[0].nodes[0].margin = f32::MAX
        }),
    ];
    for (what, change) in changes {
        assert_eq!(error_after(change), Some(LoadError::Overflow), "{what}");
    }
    // Large numbers that cannot overflow load, and stay finite.
    let mut large = Tables::mixed(Head::Softmax, 3);
    large.layers[3]
        .coefficients
        .fill(f32::MAX / 4.0 / (4.0 * 5.5 + 1.0));
    large.layers[3].bias.fill(1e30);
    exercise(&load(&large.encode()));

    // The same of the base function, on margins as wide as the grids.
    let mut large = Tables::mixed(Head::Softmax, 3);
    let last = &mut large.layers[3];
    last.residual = true;
    last.base = vec![f32::MAX / 4.0 / (4.0 * 3.0 + 0.1); last.targets.len()];
    for node in &mut last.nodes {
        node.margin = f32::from(node.intervals);
    }
    exercise(&load(&large.encode()));
    large.layers[3]
        .base
        .fill(f32::MAX / 4.0 / (4.0 * 3.0 - 0.1));
    assert_eq!(
        AnyModel::load(&large.encode()).err(),
        Some(LoadError::Overflow)
    );
}
