//! IDX files: images and their labels as bytes, the format of MNIST.
//!
//! Big-endian words: a magic number (type of the elements, number of dimensions), the size of each
//! dimension; then the elements. Read are images (0x00000803: images, rows, columns) and labels
//! (0x00000801: labels) of unsigned bytes, plain or gzip, told by their content.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{
    CellFault, Dataset, DatasetError, FEWEST_TRAINING_ROWS, Inputs, LARGEST_FILE_MIB, Schema,
    Target, TargetSchema, Task, pair, unpacked,
};

const IMAGES: u32 = 0x0000_0803;
const LABELS: u32 = 0x0000_0801;
/// The name of the target.
const LABEL: &str = "label";

/// Why a file is no IDX file of the kind that is wanted. Each prints as the end of a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation of the fields
pub enum IdxFault {
    /// Another file, or elements of another type.
    #[error("not an IDX file of {what}: it begins with {found}, not with {magic:08x}")]
    Magic {
        what: &'static str,
        found: String,
        magic: u32,
    },
    /// The two files the wrong way round.
    #[error("holds IDX {found} where {what} are expected: the order is IMAGES,LABELS")]
    Swapped {
        what: &'static str,
        found: &'static str,
    },
    /// The header is cut short.
    #[error("cut short: {found} bytes are no IDX header")]
    Header { found: usize },
    /// Fewer elements than the header says.
    #[error("cut short: {found} bytes, but its header says {expected}")]
    Truncated { found: usize, expected: usize },
    /// More elements than the header says.
    #[error("{extra} bytes more than its header says")]
    Trailing { extra: usize },
    /// Images without rows or columns.
    #[error("its images have no pixels: {rows} rows, {columns} columns")]
    NoPixels { rows: u32, columns: u32 },
    /// Images and labels do not belong together.
    #[error("{labels} labels, but {other} has {images} images")]
    Counts {
        labels: usize,
        images: usize,
        other: String,
    },
    /// A training set needs labels.
    #[error("images without labels: give both files, as IMAGES,LABELS")]
    NoLabels,
}

/// Grey images, with labels where those were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// The files as the user named them, for messages.
    pub source: String,
    /// Brightness 0 to 255, `[images][rows][columns]`.
    pub pixels: Vec<u8>,
    /// Rows of pixels of an image.
    pub rows: usize,
    /// Columns of pixels of an image.
    pub columns: usize,
    /// One for each image.
    pub labels: Option<Vec<u8>>,
}

impl Images {
    /// Reads a pair `IMAGES,LABELS` or a single file of images; `None` if the path is neither.
    ///
    /// # Errors
    /// A [`DatasetError`] that names the file: unreadable or larger than the limit (unpacked, and
    /// as numbers), another magic number, more or fewer bytes than the header says, another number
    /// of labels than images.
    pub fn open(path: &Path) -> Result<Option<Self>, DatasetError> {
        let Some((images, labels)) = pair(path) else {
            return if is_images(path) {
                Self::read(path).map(Some)
            } else {
                Ok(None)
            };
        };
        let images = Self::read(&images)?;
        let (file, bytes) = unpacked(&labels)?;
        let fault = |fault| DatasetError::Idx {
            file: file.clone(),
            fault,
        };
        let ([count], labels) = elements::<1>(&bytes, LABELS).map_err(fault)?;
        if count as usize != images.count() {
            return Err(fault(IdxFault::Counts {
                labels: count as usize,
                images: images.count(),
                other: images.source,
            }));
        }
        Ok(Some(Self {
            source: format!("{},{file}", images.source),
            labels: Some(labels.to_vec()),
            ..images
        }))
    }

    fn read(path: &Path) -> Result<Self, DatasetError> {
        let (file, bytes) = unpacked(path)?;
        let fault = |fault| DatasetError::Idx {
            file: file.clone(),
            fault,
        };
        let ([_, rows, columns], pixels) = elements::<3>(&bytes, IMAGES).map_err(fault)?;
        if rows == 0 || columns == 0 {
            return Err(fault(IdxFault::NoPixels { rows, columns }));
        }
        // Eight bytes a number.
        if pixels.len() as u64 * 8 > LARGEST_FILE_MIB << 20 {
            return Err(DatasetError::TooLarge { file });
        }
        Ok(Self {
            pixels: pixels.to_vec(),
            rows: rows as usize,
            columns: columns as usize,
            labels: None,
            source: file,
        })
    }

    /// The number of images.
    pub fn count(&self) -> usize {
        self.pixels.len() / (self.rows * self.columns)
    }

    /// Names of the pixels: `r0c0`, `r0c1`, …
    pub fn names(&self) -> Vec<String> {
        let rows = 0..self.rows;
        rows.flat_map(|r| (0..self.columns).map(move |c| format!("r{r}c{c}")))
            .collect()
    }

    /// The names of all pixels, of which a model that names none has `count`.
    pub(super) fn pixels(&self, count: usize) -> Result<Vec<String>, DatasetError> {
        let names = self.names();
        if names.len() != count {
            return Err(DatasetError::InputCount {
                file: self.source.clone(),
                found: names.len(),
                expected: count,
            });
        }
        Ok(names)
    }

    /// The target, if that is what is `given`.
    pub(super) fn target(&self, given: &[String]) -> Result<String, DatasetError> {
        match given {
            [name] if name.trim() == LABEL => Ok(LABEL.into()),
            _ => Err(self.missing(given.iter().find(|name| *name != LABEL))),
        }
    }

    pub(super) fn training_set(
        self,
        target: &[String],
        task: Option<Task>,
    ) -> Result<Dataset, DatasetError> {
        let file = self.source.clone();
        let (rows, fewest) = (self.count(), FEWEST_TRAINING_ROWS);
        let column = LABEL.to_string();
        if !target.is_empty() {
            self.target(target)?;
        }
        let Some(values) = &self.labels else {
            let fault = IdxFault::NoLabels;
            return Err(DatasetError::Idx { file, fault });
        };
        if rows < fewest {
            return Err(DatasetError::TooFewRows { file, rows, fewest });
        }
        let target = if task == Some(Task::Regression) {
            let y = values.iter().copied().map(f64::from).collect();
            Target::Regression {
                names: vec![column],
                y,
            }
        } else {
            let mut distinct = values.clone();
            distinct.sort_unstable();
            distinct.dedup();
            if let [label] = distinct[..] {
                let label = label.to_string();
                return Err(DatasetError::OneClass {
                    file,
                    column,
                    label,
                });
            }
            if distinct.len() == rows {
                return Err(DatasetError::NoClassTwice { file, column });
            }
            let number = |value| distinct.partition_point(|other| other < value);
            Target::Classification {
                name: column,
                labels: distinct.iter().map(u8::to_string).collect(),
                class: values.iter().map(number).collect(),
            }
        };
        Ok(Dataset {
            input_names: self.names(),
            x: self.pixels.iter().copied().map(f64::from).collect(),
            rows,
            target,
            source: file,
        })
    }

    /// The pixels and labels that `schema` names, in its order.
    pub(super) fn like(self, schema: &Schema) -> Result<Dataset, DatasetError> {
        let file = self.source.clone();
        if let Some(name) = schema.target.names().iter().find(|name| *name != LABEL) {
            return Err(self.missing(Some(name)));
        }
        let Some(values) = &self.labels else {
            let fault = IdxFault::NoLabels;
            return Err(DatasetError::Idx { file, fault });
        };
        let target = match &schema.target {
            TargetSchema::Regression { names } => Target::Regression {
                names: names.clone(),
                y: values.iter().copied().map(f64::from).collect(),
            },
            TargetSchema::Classification { name, labels } => {
                let known =
                    |value: &u8| labels.iter().position(|label| *label == value.to_string());
                let known: Vec<Option<usize>> = (0..=255).map(|value| known(&value)).collect();
                let class = values.iter().enumerate().map(|(k, &value)| {
                    known[usize::from(value)].ok_or_else(|| DatasetError::Cell {
                        file: file.clone(),
                        row: k + 1,
                        column: LABEL.into(),
                        fault: CellFault::UnknownLabel {
                            label: value.to_string(),
                            known: labels.clone(),
                        },
                    })
                });
                Target::Classification {
                    name: name.clone(),
                    labels: labels.clone(),
                    class: class.collect::<Result<_, _>>()?,
                }
            }
        };
        let Inputs { x, rows, names, .. } = self.inputs(&schema.inputs)?;
        Ok(Dataset {
            source: file,
            input_names: names,
            x,
            rows,
            target,
        })
    }

    /// The pixels `names`, in this order; the only other column is `label`, where there are labels.
    ///
    /// # Errors
    /// [`DatasetError::MissingColumn`] for a name that is no pixel, [`DatasetError::TooFewRows`] if
    /// there are no images.
    pub fn inputs(&self, names: &[String]) -> Result<Inputs, DatasetError> {
        let own = self.names();
        let number: HashMap<&str, usize> = own
            .iter()
            .enumerate()
            .map(|(k, name)| (&name[..], k))
            .collect();
        let columns: Vec<usize> = names
            .iter()
            .map(|name| {
                number
                    .get(name.trim())
                    .copied()
                    .ok_or_else(|| self.missing(Some(name)))
            })
            .collect::<Result<_, _>>()?;
        let (file, rows) = (self.source.clone(), self.count());
        if rows == 0 {
            return Err(DatasetError::TooFewRows {
                file,
                rows,
                fewest: 1,
            });
        }
        let record = |label: &u8| csv::StringRecord::from(vec![label.to_string()]);
        let image = |image: &[u8]| -> Vec<f64> {
            columns
                .iter()
                .map(|&column| f64::from(image[column]))
                .collect()
        };
        Ok(Inputs {
            source: file,
            header: self.labels.iter().map(|_| LABEL.to_string()).collect(),
            records: match &self.labels {
                Some(labels) => labels.iter().map(record).collect(),
                None => vec![csv::StringRecord::new(); rows],
            },
            names: names.to_vec(),
            x: self
                .pixels
                .chunks_exact(own.len())
                .flat_map(image)
                .collect(),
            rows,
        })
    }

    fn missing(&self, name: Option<&String>) -> DatasetError {
        let mut columns = vec![LABEL.to_string()];
        columns.extend(self.names());
        DatasetError::MissingColumn {
            file: self.source.clone(),
            column: name.cloned().unwrap_or_default(),
            columns,
        }
    }
}

/// Whether a file begins as IDX images do, packed or not; `false` if it cannot be read.
pub(super) fn is_images(path: &Path) -> bool {
    // Neither a pipe nor an endless device may lose its first bytes here.
    let Ok(mut file) = File::open(path) else {
        return false;
    };
    if !file.metadata().is_ok_and(|file| file.is_file()) {
        return false;
    }
    let mut head = [0; 4];
    if file.read_exact(&mut head).is_err() {
        return false;
    }
    if head.starts_with(&[0x1F, 0x8B]) {
        let Ok(file) = File::open(path) else {
            return false;
        };
        let mut unpacked = flate2::read::MultiGzDecoder::new(file);
        return unpacked.read_exact(&mut head).is_ok() && head == IMAGES.to_be_bytes();
    }
    head == IMAGES.to_be_bytes()
}

/// Sizes and elements of an IDX file with this magic number, checked against its length.
fn elements<const N: usize>(bytes: &[u8], magic: u32) -> Result<([u32; N], &[u8]), IdxFault> {
    let kind = |magic| if magic == IMAGES { "images" } else { "labels" };
    let word = |k: usize| -> Option<u32> {
        let word = bytes.get(4 * k..4 * k + 4)?;
        Some(u32::from_be_bytes(word.try_into().ok()?))
    };
    let short = IdxFault::Header { found: bytes.len() };
    let what = kind(magic);
    match word(0).ok_or_else(|| short.clone())? {
        found if found == magic => {}
        found @ (IMAGES | LABELS) => {
            let found = kind(found);
            return Err(IdxFault::Swapped { what, found });
        }
        found => {
            let found = format!("{found:08x}");
            return Err(IdxFault::Magic { what, found, magic });
        }
    }
    let mut sizes = [0; N];
    for (k, size) in sizes.iter_mut().enumerate() {
        *size = word(1 + k).ok_or_else(|| short.clone())?;
    }
    let header = 4 * (1 + N);
    // A size beyond the arithmetic is more than any file has.
    let expected = sizes
        .iter()
        .try_fold(1, |product: usize, &size| {
            product.checked_mul(size as usize)
        })
        .map_or(usize::MAX, |product| product.saturating_add(header));
    let found = bytes.len();
    if found < expected {
        return Err(IdxFault::Truncated { found, expected });
    }
    if found > expected {
        let extra = found - expected;
        return Err(IdxFault::Trailing { extra });
    }
    Ok((sizes, &bytes[header..]))
}
