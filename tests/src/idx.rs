//! Pairs of IDX files: what is read from good ones, plain or packed, and how bad ones are refused.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use kan_train_host::dataset::{Dataset, Images, Inputs, Schema, Target, TargetSchema, Task, pair};

/// An IDX file of bytes with these sizes.
pub fn idx(magic: u32, sizes: &[u32], elements: &[u8]) -> Vec<u8> {
    let words = std::iter::once(&magic).chain(sizes);
    let mut bytes: Vec<u8> = words.flat_map(|word| word.to_be_bytes()).collect();
    bytes.extend_from_slice(elements);
    bytes
}

pub fn images(count: usize, rows: usize, columns: usize, pixels: &[u8]) -> Vec<u8> {
    idx(0x803, &[count, rows, columns].map(|n| n as u32), pixels)
}

pub fn labels(labels: &[u8]) -> Vec<u8> {
    idx(0x801, &[labels.len() as u32], labels)
}

pub fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A folder for one test.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn pair(&self, images: &[u8], labels: &[u8]) -> PathBuf {
        joined(&self.put("images", images), &self.put("labels", labels))
    }
}

fn joined(images: &Path, labels: &Path) -> PathBuf {
    format!("{},{}", images.display(), labels.display()).into()
}

const ROWS: usize = 12;
const LABELS: [u8; ROWS] = [7, 0, 7, 3, 0, 7, 3, 3, 0, 7, 0, 3];

/// Images of 2 × 3 pixels, each pixel a number of its own.
fn pixels() -> Vec<u8> {
    (0..ROWS * 6).map(|k| (3 * k % 256) as u8).collect()
}

fn good() -> (Vec<u8>, Vec<u8>) {
    (images(ROWS, 2, 3, &pixels()), labels(&LABELS))
}

#[test]
fn pixels_are_inputs_and_labels_classes_packed_or_not() {
    let (images, labels) = good();
    let files = Files::new();
    // Names say nothing: the packed files have none that ends in gz.
    for (images, labels) in [
        (images.clone(), labels.clone()),
        (packed(&images), packed(&labels)),
        (images, packed(&labels)),
    ] {
        let path = files.pair(&images, &labels);
        for target in [vec![], vec!["label".to_string()]] {
            let data = Dataset::read(&path, &target, None).unwrap();
            let names = ["r0c0", "r0c1", "r0c2", "r1c0", "r1c1", "r1c2"];
            assert_eq!(data.input_names, names);
            assert_eq!(data.rows, ROWS);
            let expected: Vec<f64> = pixels().into_iter().map(f64::from).collect();
            assert_eq!(data.x, expected);
            let Target::Classification {
                name,
                labels,
                class,
            } = &data.target
            else {
                panic!("labels are classes");
            };
            assert_eq!(
                (name.as_str(), &labels[..]),
                ("label", &["0", "3", "7"].map(String::from)[..])
            );
            let read: Vec<&str> = class.iter().map(|&class| &labels[class][..]).collect();
            let expected: Vec<String> = LABELS.iter().map(u8::to_string).collect();
            assert_eq!(read, expected);
        }
        let data = Dataset::read(&path, &[], Some(Task::Regression)).unwrap();
        let y = LABELS.map(f64::from).to_vec();
        assert_eq!(
            data.target,
            Target::Regression {
                names: vec!["label".into()],
                y
            }
        );
    }
}

#[test]
fn a_model_finds_its_pixels_and_labels() {
    let (bytes, label_bytes) = good();
    let files = Files::new();
    let path = files.pair(&bytes, &label_bytes);
    let schema = Schema {
        inputs: ["r1c0", "r0c2"].map(String::from).to_vec(),
        target: TargetSchema::Classification {
            name: "label".into(),
            labels: ["7", "3", "0"].map(String::from).to_vec(),
        },
    };
    let data = Dataset::read_like(&path, &schema).unwrap();
    let expected: Vec<f64> = pixels()
        .chunks(6)
        .flat_map(|image| [image[3], image[2]].map(f64::from))
        .collect();
    assert_eq!(data.x, expected);
    let Target::Classification { class, .. } = data.target else {
        panic!("labels are classes");
    };
    assert_eq!(class[..3], [0, 2, 0]);

    // A single file of images is enough to predict from, and no training set.
    let alone = files.put("alone", &packed(&bytes));
    let inputs = Inputs::read(&alone, &schema.inputs).unwrap();
    assert_eq!((inputs.rows, inputs.x), (ROWS, expected));
    assert!(Images::open(&alone).unwrap().unwrap().labels.is_none());
    let message = Dataset::read(&alone, &[], None).unwrap_err().to_string();
    assert!(
        message.contains("alone: images without labels"),
        "{message}"
    );

    for (schema, fragments) in [
        (
            Schema {
                inputs: vec!["r2c0".into()],
                ..schema.clone()
            },
            ["images", "'r2c0'"],
        ),
        (
            Schema {
                target: TargetSchema::Classification {
                    name: "label".into(),
                    labels: vec!["7".into(), "3".into()],
                },
                ..schema.clone()
            },
            ["row 2", "'0' is not a class"],
        ),
        (
            Schema {
                target: TargetSchema::Regression {
                    names: vec!["y".into()],
                },
                ..schema
            },
            ["images", "'y'"],
        ),
    ] {
        let message = Dataset::read_like(&path, &schema).unwrap_err().to_string();
        for fragment in fragments {
            assert!(message.contains(fragment), "{message}");
        }
    }
}

#[test]
fn a_path_is_a_pair_only_if_it_is_no_file() {
    let files = Files::new();
    let folder = files.0.path();
    files.put("a,b.csv", b"x,y\n");
    assert_eq!(pair(&folder.join("a,b.csv")), None);
    files.put("c,d", b"");
    files.put("e", b"");
    let names = (folder.join("c,d"), PathBuf::from("e"));
    let text = format!("{},{}", names.0.display(), folder.join("e").display());
    assert_eq!(pair(Path::new(&text)), Some((names.0, folder.join("e"))));
    assert_eq!(pair(&folder.join("neither,nor")), None);
    // One half names the pair, so that the other can be named as missing.
    let half = joined(&folder.join("e"), &folder.join("gone"));
    let message = Dataset::read(&half, &[], None).unwrap_err().to_string();
    assert!(message.contains("/e: "), "{message}");
}

#[test]
fn every_fault_is_one_line_that_names_the_file() {
    let (bytes, label_bytes) = good();
    let files = Files::new();
    let cut = |bytes: &[u8], by: usize| bytes[..bytes.len() - by].to_vec();
    let with = |bytes: &[u8], more: &[u8]| [bytes, more].concat();
    let mut broken_gzip = packed(&bytes);
    let middle = broken_gzip.len() / 2;
    broken_gzip[middle] ^= 0xFF;
    let huge = idx(0x803, &[u32::MAX, u32::MAX, u32::MAX], &[0; 50]);
    for (images, labels, fragments) in [
        (
            b"r,g\n1,2\n".to_vec(),
            label_bytes.clone(),
            ["images: ", "00000803"],
        ),
        (
            bytes.clone(),
            b"\0\0\x0D\x01\0\0\0\0".to_vec(),
            ["labels: ", "00000d01"],
        ),
        (
            label_bytes.clone(),
            bytes.clone(),
            ["images: ", "IMAGES,LABELS"],
        ),
        (bytes.clone(), bytes.clone(), ["labels: ", "IMAGES,LABELS"]),
        (Vec::new(), label_bytes.clone(), ["images: ", "0 bytes"]),
        (
            bytes[..11].to_vec(),
            label_bytes.clone(),
            ["images: ", "11 bytes"],
        ),
        (
            cut(&bytes, 1),
            label_bytes.clone(),
            ["images: cut short", "88"],
        ),
        (
            bytes.clone(),
            cut(&label_bytes, 3),
            ["labels: cut short", "20"],
        ),
        (
            with(&bytes, &[0; 4]),
            label_bytes.clone(),
            ["images: ", "4 bytes more"],
        ),
        (
            bytes.clone(),
            with(&label_bytes, &[9]),
            ["labels: ", "1 bytes more"],
        ),
        (
            bytes.clone(),
            labels(&LABELS[1..]),
            ["labels: 11 labels", "images has 12"],
        ),
        (
            images(12, 0, 3, &[]),
            label_bytes.clone(),
            ["images: ", "no pixels"],
        ),
        (huge, label_bytes.clone(), ["images: cut short", "66 bytes"]),
        (
            cut(&packed(&bytes), 5),
            label_bytes.clone(),
            ["images: ", "cannot read"],
        ),
        (
            with(&packed(&bytes), b"tail"),
            label_bytes.clone(),
            ["images: ", "cannot read"],
        ),
        (broken_gzip, label_bytes.clone(), ["images: ", ""]),
        (
            images(3, 2, 3, &[1; 18]),
            labels(&[1, 2, 1]),
            ["few rows", "3"],
        ),
        (bytes.clone(), labels(&[5; ROWS]), ["one class", "'5'"]),
        (
            bytes.clone(),
            labels(&std::array::from_fn::<u8, ROWS, _>(|k| k as u8)),
            ["every row", "class"],
        ),
    ] {
        let path = files.pair(&images, &labels);
        let message = Dataset::read(&path, &[], None).unwrap_err().to_string();
        assert_eq!(message.lines().count(), 1, "{message:?}");
        for fragment in fragments {
            assert!(
                message.contains(fragment),
                "{message:?} does not say {fragment:?}"
            );
        }
    }
    let path = files.pair(&bytes, &label_bytes);
    for target in [
        vec!["digit".to_string()],
        vec!["label".into(), "r0c0".into()],
    ] {
        let message = Dataset::read(&path, &target, None).unwrap_err().to_string();
        assert!(
            message.contains(&format!("'{}'", target[target.len() - 1])),
            "{message}"
        );
    }
}

#[test]
fn what_unpacks_beyond_the_limit_is_refused() {
    // 1 GiB and a little of zeros in a megabyte, behind an honest header.
    let files = Files::new();
    let path = files.0.path().join("bomb");
    let mut encoder = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::best());
    let rows = 1 << 20;
    encoder.write_all(&images(rows, 33, 32, &[])).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..1025 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap();
    let message = Images::open(&path).unwrap_err().to_string();
    assert!(message.ends_with("bomb: larger than 1024 MiB"), "{message}");
    // As numbers of eight bytes, an eighth of that is too much.
    let path = files.put(
        "large",
        &packed(&images(1 << 17, 33, 32, &vec![0; (33 * 32) << 17])),
    );
    let message = Images::open(&path).unwrap_err().to_string();
    assert!(
        message.ends_with("large: larger than 1024 MiB"),
        "{message}"
    );
}
