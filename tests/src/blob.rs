//! The blob format: what the encoder writes, what the loader reads back, and the blobs of old.

use std::{collections::HashSet, fs, ops::Deref, path::Path};

use kan_core::{
    LoadError, Model, ModelBytes,
    blob::{Aligned, HEADER_LEN, Head, LayerMessage, MAGIC, Message, Node, Scalar, VERSION},
    blob_len,
};
use serde::{Deserialize, Serialize};

/// Numbers that look random, the same in every run (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// One of 0 to `n` − 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// In [lo, hi).
    pub fn within(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * ((self.bits() >> 40) as f32 / (1_u64 << 24) as f32)
    }
}

/// A layer's tables, owned.
#[derive(Clone)]
pub struct Layer {
    pub degree: u8,
    pub residual: bool,
    pub outputs: u16,
    pub nodes: Vec<Node>,
    pub bias: Vec<f32>,
    pub targets: Vec<u16>,
    pub coefficients: Vec<f32>,
    pub base: Vec<f32>,
}

impl Layer {
    /// All tables random. A node has an edge to each output with probability `density`; the grids
    /// differ in everything.
    pub fn random(
        random: &mut Random,
        degree: u8,
        residual: bool,
        (inputs, outputs): (usize, u16),
        density: f32,
    ) -> Self {
        let mut layer = Self {
            degree,
            residual,
            outputs,
            nodes: Vec::new(),
            bias: (0..outputs).map(|_| random.within(-1.0, 1.0)).collect(),
            targets: Vec::new(),
            coefficients: Vec::new(),
            base: Vec::new(),
        };
        for _ in 0..inputs {
            let targets: Vec<u16> = (0..outputs)
                .filter(|_| random.within(0.0, 1.0) < density)
                .collect();
            let node = Node {
                lo: random.within(-3.0, 1.0),
                inv_step: random.within(0.4, 6.0),
                margin: [0.0, 0.5, 2.25][random.below(3)],
                intervals: 1 + random.below(12) as u16,
                edges: targets.len() as u16,
            };
            let rows = usize::from(node.intervals) + usize::from(degree);
            let coefficients = (0..rows * targets.len()).map(|_| random.within(-1.0, 1.0));
            layer.coefficients.extend(coefficients);
            if residual {
                layer
                    .base
                    .extend(targets.iter().map(|_| random.within(-1.0, 1.0)));
            }
            layer.targets.extend(targets);
            layer.nodes.push(node);
        }
        layer
    }

    /// The coefficients of each edge, as (node, target, its coefficients, its base factor).
    pub fn edges(&self) -> Vec<(usize, usize, Vec<f64>, f64)> {
        let (mut edges, mut first, mut row) = (Vec::new(), 0, 0);
        for (node, grid) in self.nodes.iter().enumerate() {
            let count = usize::from(grid.edges);
            let rows = usize::from(grid.intervals) + usize::from(self.degree);
            for edge in 0..count {
                let coefficients = (0..rows).map(|m| self.coefficients[row + m * count + edge]);
                edges.push((
                    node,
                    usize::from(self.targets[first + edge]),
                    coefficients.map(f64::from).collect(),
                    self.base
                        .get(first + edge)
                        .map_or(0.0, |&base| f64::from(base)),
                ));
            }
            first += count;
            row += rows * count;
        }
        edges
    }
}

/// A model's tables and texts, owned.
#[derive(Clone)]
pub struct Tables {
    pub name: String,
    pub head: Head,
    pub input_names: String,
    pub output_names: String,
    pub layers: Vec<Layer>,
}

impl Tables {
    /// With no names.
    pub fn new(head: Head, layers: Vec<Layer>) -> Self {
        let (name, input_names, output_names) = Default::default();
        Self {
            name,
            head,
            input_names,
            output_names,
            layers,
        }
    }

    /// A KAN that multiplies its two inputs: ab = ((a + b)² − (a − b)²)/4. It stands in kan-core as
    /// the example of its README.
    pub fn product() -> Self {
        let node = |lo: f32, step: f32, edges| Node {
            lo,
            inv_step: 1.0 / step,
            margin: 0.0,
            intervals: 1,
            edges,
        };
        let sums = Layer {
            degree: 1,
            residual: false,
            outputs: 2,
            nodes: vec![node(-1.0, 2.0, 2); 2],
            bias: vec![0.0; 2],
            targets: vec![0, 1, 0, 1],
            coefficients: vec![-1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0, -1.0],
            base: vec![],
        };
        // x²/4 on [−2, 2] as a cubic B-spline of one interval.
        let square = [23.0 / 3.0, -1.0 / 3.0, -1.0 / 3.0, 23.0 / 3.0_f32];
        let squares = Layer {
            degree: 3,
            residual: false,
            outputs: 1,
            nodes: vec![node(-2.0, 4.0, 1); 2],
            bias: vec![0.0],
            targets: vec![0, 0],
            coefficients: square.into_iter().chain(square.map(|c| -c)).collect(),
            base: vec![],
        };
        Self {
            name: "product".into(),
            head: Head::Identity,
            input_names: "a\nb".into(),
            output_names: "ab".into(),
            layers: vec![sums, squares],
        }
    }

    /// Every degree, dense and sparse layers, residual ones, and a node without edges.
    pub fn mixed(head: Head, classes: u16) -> Self {
        let mut random = Random(2024);
        let mut first = Layer::random(&mut random, 3, true, (4, 3), 1.0);
        // The third input is read by no edge.
        let rows = |node: &Node| (usize::from(node.intervals) + 3) * 3;
        let before: usize = first.nodes[..2].iter().map(rows).sum();
        first
            .coefficients
            .drain(before..before + rows(&first.nodes[2]));
        first.targets.drain(6..9);
        first.base.drain(6..9);
        first.nodes[2].edges = 0;
        let layers = vec![
            first,
            Layer::random(&mut random, 1, false, (3, 5), 0.6),
            Layer::random(&mut random, 0, true, (5, 4), 1.0),
            Layer::random(&mut random, 3, false, (4, classes), 0.7),
        ];
        Self {
            name: "mixed, with an ö".into(),
            head,
            input_names: "w\nx\ny\nz".into(),
            output_names: String::new(),
            layers,
        }
    }

    /// Calls `read` with the message for the encoder.
    pub fn with_message<R>(&self, read: impl FnOnce(&Message) -> R) -> R {
        let nodes: Vec<Vec<[u32; 4]>> = self
            .layers
            .iter()
            .map(|layer| layer.nodes.iter().map(|node| node.pack()).collect())
            .collect();
        let layers: Vec<LayerMessage> = self
            .layers
            .iter()
            .zip(&nodes)
            .map(|(layer, nodes)| LayerMessage {
                degree: layer.degree,
                scalar: Scalar::F32,
                residual: layer.residual,
                outputs: layer.outputs,
                nodes: Aligned::of(nodes),
                bias: Aligned::of(&layer.bias),
                targets: Aligned::of(&layer.targets),
                coefficients: Aligned::of(&layer.coefficients),
                base: Aligned::of(&layer.base),
            })
            .collect();
        read(&Message {
            name: &self.name,
            head: self.head,
            input_names: &self.input_names,
            output_names: &self.output_names,
            layers: &layers,
        })
    }

    pub fn encode(&self) -> Blob {
        self.with_message(|message| {
            let mut blob = Blob::of(&vec![0; message.encoded_len()]);
            assert_eq!(message.encode(&mut blob), Some(blob.len));
            blob
        })
    }
}

/// Bytes that start at a multiple of four.
#[derive(Clone, Debug, PartialEq)]
pub struct Blob {
    words: Vec<u32>,
    len: usize,
}

impl Blob {
    pub fn of(bytes: &[u8]) -> Self {
        let mut blob = Self {
            words: vec![0; bytes.len().div_ceil(4)],
            len: bytes.len(),
        };
        blob.copy_from_slice(bytes);
        blob
    }

    /// After a change: makes the checksum that of the bytes again.
    pub fn fix_checksum(&mut self) {
        let crc = crc32(self[..12].iter().chain(&self[16..]));
        self[12..16].copy_from_slice(&crc.to_le_bytes());
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

impl std::ops::DerefMut for Blob {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

/// CRC-32/ISO-HDLC by its definition.
fn crc32<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u32 {
    !bytes.into_iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ ((crc & 1) * 0xedb8_8320)
        })
    })
}

/// A model with room for all the models of these tests.
pub type AnyModel<'m> = Model<'m, 16, 16, 32, 8>;

pub fn load(blob: &Blob) -> AnyModel<'_> {
    Model::load(blob).expect("the blob is good")
}

pub fn committed(path: &str) -> Blob {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    Blob::of(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

#[test]
fn the_checksum_is_the_one_named_in_the_format() {
    assert_eq!(
        crc32(b"123456789"),
        0xcbf4_3926,
        "the check value of CRC-32/ISO-HDLC"
    );
    let blob = Tables::product().encode();
    let stored = u32::from_le_bytes(blob[12..16].try_into().unwrap());
    assert_eq!(stored, crc32(blob[..12].iter().chain(&blob[16..])));
    assert_eq!(load(&blob).crc(), stored);
}

#[test]
fn the_header_stands_where_the_format_says() {
    let blob = Tables::mixed(Head::Softmax, 3).encode();
    let half = |at: usize| u16::from_le_bytes([blob[at], blob[at + 1]]);
    let word = |at: usize| u32::from_le_bytes(blob[at..at + 4].try_into().unwrap());
    assert_eq!((&blob[..4], &blob[..4]), (&MAGIC[..], &b"KAN\xFA"[..]));
    assert_eq!((half(4), half(6)), (VERSION, 0));
    assert_eq!(word(8) as usize, blob.len());
    assert_eq!((half(16), half(18), half(20), half(22)), (4, 3, 5, 4));
    let edges: usize = Tables::mixed(Head::Softmax, 3)
        .layers
        .iter()
        .map(|layer| layer.edges().len())
        .sum();
    assert_eq!((word(24) as usize, word(28)), (edges, 0));
}

/// The message by the words of FORMAT.md alone, with serde's own containers.
#[derive(Serialize, Deserialize)]
struct PlainMessage<'a> {
    name: &'a str,
    head: u32,
    input_names: &'a str,
    output_names: &'a str,
    #[serde(borrow)]
    layers: Vec<PlainLayer<'a>>,
}

#[derive(Serialize, Deserialize)]
struct PlainLayer<'a> {
    degree: u8,
    scalar: u32,
    residual: bool,
    outputs: u16,
    #[serde(borrow)]
    arrays: [(&'a [u8], &'a [u8]); 5],
}

#[test]
fn the_message_is_the_postcard_encoding_of_the_structs() {
    for tables in [Tables::product(), Tables::mixed(Head::Softmax, 3)] {
        let blob = tables.encode();
        let body = &blob[HEADER_LEN..];
        let (plain, rest): (PlainMessage, _) = postcard::take_from_bytes(body).expect("it parses");
        assert_eq!(rest.len(), 0);
        assert_eq!(
            postcard::to_allocvec(&plain).unwrap(),
            body,
            "an independent writer"
        );

        // The public structs, read back with their paddings, give the same bytes once more.
        let layers: Vec<LayerMessage> = plain
            .layers
            .iter()
            .map(|layer| postcard::to_allocvec(layer).unwrap().leak())
            .map(|bytes| postcard::from_bytes(bytes).expect("a layer message"))
            .collect();
        tables.with_message(|message| {
            let message = Message {
                layers: &layers,
                ..*message
            };
            assert_eq!(postcard::to_allocvec(&message).unwrap(), body);
        });

        assert_eq!(
            (plain.name, plain.input_names),
            (&*tables.name, &*tables.input_names)
        );
        assert_eq!(
            (plain.head, plain.output_names),
            (tables.head as u32, &*tables.output_names)
        );
        for (plain, layer) in plain.layers.iter().zip(&tables.layers) {
            let nodes: Vec<[u32; 4]> = layer.nodes.iter().map(|node| node.pack()).collect();
            assert_eq!(
                (plain.degree, plain.residual),
                (layer.degree, layer.residual)
            );
            assert_eq!((plain.scalar, plain.outputs), (0, layer.outputs));
            let arrays: [&[u8]; 5] = [
                bytemuck::cast_slice(&nodes),
                bytemuck::cast_slice(&layer.bias),
                bytemuck::cast_slice(&layer.targets),
                bytemuck::cast_slice(&layer.coefficients),
                bytemuck::cast_slice(&layer.base),
            ];
            for ((pad, data), expected) in plain.arrays.iter().zip(arrays) {
                assert_eq!(*data, expected);
                assert!(
                    pad.len() < 4 && pad.iter().all(|&byte| byte == 0),
                    "{pad:?}"
                );
                let offset = data.as_ptr().addr() - blob.as_ptr().addr();
                assert_eq!(offset % 4, 0, "data at byte {offset}");
            }
        }
    }
}

#[test]
fn a_node_stands_in_its_record_as_the_format_says() {
    let node = Node {
        lo: -1.5,
        inv_step: 4.0,
        margin: 0.25,
        intervals: 0x1234,
        edges: 0x0506,
    };
    let record: Vec<u8> = node
        .pack()
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let expected: Vec<u8> = [-1.5_f32, 4.0, 0.25]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .chain([0x34, 0x12, 0x06, 0x05])
        .collect();
    assert_eq!(record, expected);
    assert_eq!(Node::unpack(node.pack()), node);
}

#[test]
fn a_model_tells_what_was_encoded() {
    let tables = Tables::mixed(Head::Softmax, 3);
    let tables = Tables {
        output_names: "red\n\ngrün".into(),
        ..tables
    };
    let blob = tables.encode();
    let model = load(&blob);
    assert_eq!(
        (model.name(), model.head()),
        ("mixed, with an ö", Head::Softmax)
    );
    assert_eq!((model.inputs(), model.outputs()), (4, 3));
    assert_eq!((model.width(), model.layers()), (5, 4));
    assert_eq!(model.blob_len(), blob.len());
    assert_eq!(model.format_version(), VERSION);
    let inputs: Vec<_> = (0..5).map(|k| model.input_name(k)).collect();
    assert_eq!(inputs, [Some("w"), Some("x"), Some("y"), Some("z"), None]);
    let outputs: Vec<_> = (0..5).map(|k| model.output_name(k)).collect();
    assert_eq!(outputs, [Some("red"), Some(""), Some("grün"), None, None]);
    for (described, layer) in model.tables().zip(&tables.layers) {
        assert_eq!(
            (described.degree, described.scalar),
            (layer.degree, Scalar::F32)
        );
        assert_eq!(described.residual, layer.residual);
        assert_eq!(described.inputs, layer.nodes.len());
        assert_eq!(described.outputs, usize::from(layer.outputs));
        assert_eq!(described.edges, layer.targets.len());
    }
    let edges: usize = model.tables().map(|layer| layer.edges).sum();
    assert_eq!(model.edges(), edges);
    assert!(format!("{model:?}").contains("mixed"));

    let unnamed = Tables::new(
        Head::Sigmoid,
        vec![Layer::random(&mut Random(1), 1, false, (2, 1), 1.0)],
    );
    let blob = unnamed.encode();
    let model = load(&blob);
    assert_eq!(
        (model.name(), model.input_name(0), model.output_name(0)),
        ("", None, None)
    );
    // A sigmoid model has one output but two classes.
    let named = Tables {
        output_names: "no\nyes".into(),
        ..unnamed
    };
    assert_eq!(load(&named.encode()).output_name(1), Some("yes"));
}

#[test]
fn the_encoder_refuses_what_does_not_fit() {
    let tables = Tables::product();
    let blob = tables.encode();
    tables.with_message(|message| {
        for len in 0..blob.len() {
            assert_eq!(message.encode(&mut vec![0; len]), None, "{len} bytes");
        }
        let mut longer = vec![0xaa; blob.len() + 5];
        assert_eq!(message.encode(&mut longer), Some(blob.len()));
        assert_eq!(longer[..blob.len()], blob[..]);
        assert_eq!(longer[blob.len()..], [0xaa; 5]);
        assert_eq!(
            Message {
                layers: &[],
                ..*message
            }
            .encode(&mut longer),
            None,
            "no layer"
        );
    });
    let nodes = vec![
        Node {
            lo: 0.0,
            inv_step: 1.0,
            margin: 0.0,
            intervals: 1,
            edges: 0
        };
        65_536
    ];
    let wide = Layer {
        nodes,
        coefficients: vec![],
        targets: vec![],
        ..tables.layers[1].clone()
    };
    Tables::new(Head::Identity, vec![wide]).with_message(|message| {
        assert_eq!(
            message.encode(&mut vec![0; message.encoded_len()]),
            None,
            "65 536 inputs"
        );
    });
}

#[test]
fn a_blob_is_cut_out_of_a_region_of_flash() {
    let blob = Tables::product().encode();
    let mut region = blob.to_vec();
    region.extend([0xff; 100]);
    assert_eq!(blob_len(&region), Ok(blob.len()));
    assert_eq!(blob_len(&region[..12]), Ok(blob.len()));
    assert_eq!(blob_len(&region[..11]), Err(LoadError::Truncated));
    assert_eq!(blob_len(&[]), Err(LoadError::Truncated));
    assert_eq!(blob_len(&[0xff; 64]), Err(LoadError::NotABlob));
    region[4] = 9;
    assert_eq!(blob_len(&region), Err(LoadError::Version(9)));
    region[4..12].copy_from_slice(&[1, 0, 0, 0, 31, 0, 0, 0]);
    assert_eq!(blob_len(&region), Err(LoadError::Malformed));
}

#[test]
fn an_included_model_is_aligned_and_loads() {
    static PRODUCT: &[u8] = kan_core::include_model!("../../kan-core/product.kan");
    assert_eq!(PRODUCT.as_ptr().addr() % 4, 0);
    let model = Model::<2, 1, 2, 2>::load(PRODUCT).expect("it loads");
    let buffer = ModelBytes([0_u8; 5]);
    assert_eq!(buffer.0.as_ptr().addr() % 4, 0);
    // All its numbers but 1/3 are exact; the sums stay below 16.
    for [a, b] in [[0.5, -0.25], [1.0, 1.0], [-1.0, 0.75], [0.0, 0.3]] {
        let [product] = model.eval(&[a, b]);
        assert!(
            (product - a * b).abs() < 16.0 * 16.0 * f32::EPSILON,
            "{a}·{b} = {product}"
        );
    }
}

/// A change here would break every blob in the field: change the version instead.
#[test]
fn the_encoder_writes_the_same_bytes_as_ever() {
    assert_eq!(
        *committed("../kan-core/product.kan"),
        *Tables::product().encode()
    );
    assert_eq!(
        *committed("golden/v1.kan"),
        *Tables::mixed(Head::Softmax, 3).encode()
    );
}

/// One blob of each released format version, with inputs and outputs as the bits they had then.
/// These files are never regenerated.
#[test]
fn blobs_of_every_version_give_the_outputs_they_always_gave() {
    for version in 1..=VERSION {
        let blob = committed(&format!("golden/v{version}.kan"));
        let model = load(&blob);
        let vectors = committed(&format!("golden/v{version}.txt"));
        let vectors = str::from_utf8(&vectors).expect("text");
        let (mut count, mut distinct) = (0, HashSet::new());
        for line in vectors.lines().filter(|line| !line.starts_with('#')) {
            let bits = line
                .split_whitespace()
                .map(|word| u32::from_str_radix(word, 16).unwrap());
            let numbers: Vec<f32> = bits.map(f32::from_bits).collect();
            let (input, expected) = numbers.split_at(model.inputs());
            let mut output = vec![f32::NAN; model.outputs()];
            model.eval_into(input, &mut output);
            let bits = |numbers: &[f32]| numbers.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            assert_eq!(
                bits(&output),
                bits(expected),
                "version {version}, input {input:?}"
            );
            count += 1;
            distinct.insert(bits(&output));
        }
        assert!(count >= 20, "version {version}: only {count} vectors");
        // Those that saturate everywhere would show nothing.
        let distinct = distinct.len();
        assert!(
            2 * distinct > count,
            "version {version}: only {distinct} different outputs"
        );
    }
}
