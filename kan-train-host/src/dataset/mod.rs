//! Data sets: CSV files and pairs of IDX files read into numbers, with every fault named by file,
//! row and column.
//!
//! A path of the form `IMAGES,LABELS` that is no file itself is a pair of IDX files, plain or gzip:
//! a classification of images by `label`, whose inputs are the pixels `r0c0`, `r0c1`, … in rows and
//! columns.
//!
//! The format of CSV is RFC 4180 as spreadsheets and pandas write it: UTF-8 (a byte order mark is
//! skipped), commas, one header line that names the columns, LF or CRLF, cells optionally in double
//! quotes, spaces around a cell ignored, blank lines ignored. Numbers are decimal with a point.
//!
//! A *row* in an error is the line number that an editor or a spreadsheet shows: the header is row
//! 1.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

pub use idx::{IdxFault, Images};

mod csv;
mod idx;

use csv::Sheet;

/// The fewest rows a network is trained on.
pub const FEWEST_TRAINING_ROWS: usize = 10;

/// More than this is no training set for a microcontroller but a wrong file, or an endless device.
const LARGEST_FILE_MIB: u64 = 1024;

/// What is learnt from the target columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// One or more numbers, by least squares.
    Regression,
    /// One of several labels, by cross-entropy.
    Classification,
}

/// A table of finite numbers and what is to be learnt from them.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The file as the user named it, for messages.
    pub source: String,
    /// Names of the input columns, in the order of a row.
    pub input_names: Vec<String>,
    /// Inputs, row-major: `rows × inputs`.
    pub x: Vec<f64>,
    /// Number of samples.
    pub rows: usize,
    /// What is known about each row.
    pub target: Target,
}

/// The target columns of a [`Dataset`].
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Numbers to predict.
    Regression {
        /// Names of the target columns, in the order of a row.
        names: Vec<String>,
        /// Values in the columns' own units, row-major: `rows × names.len()`.
        y: Vec<f64>,
    },
    /// Labels to predict.
    Classification {
        /// Name of the target column.
        name: String,
        /// The distinct labels: numbers in numerical order, else in lexical order.
        labels: Vec<String>,
        /// For each row an index into `labels`.
        class: Vec<usize>,
    },
}

/// The columns a trained model knows: what a file must have to be evaluated with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// Names of the input columns, in the order of the model's inputs.
    pub inputs: Vec<String>,
    /// The target columns.
    pub target: TargetSchema,
}

/// The target columns of a [`Schema`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "lowercase")]
pub enum TargetSchema {
    /// Numbers, one column each.
    Regression {
        /// Names of the target columns, in the order of the model's outputs.
        names: Vec<String>,
    },
    /// One column of labels.
    Classification {
        /// Name of the target column.
        name: String,
        /// Labels in the order of the model's outputs.
        labels: Vec<String>,
    },
}

/// Inputs without targets: what there is to predict from.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// The file as the user named it, for messages.
    pub source: String,
    /// The names of all columns of the file.
    pub header: Vec<String>,
    /// All cells of each row as they stand.
    pub records: Vec<::csv::StringRecord>,
    /// Names of the input columns, in the order of a row of `x`.
    pub names: Vec<String>,
    /// Values, row-major: `rows × names.len()`.
    pub x: Vec<f64>,
    /// Number of samples.
    pub rows: usize,
}

/// Why a file is no data set. Each prints as one line.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation of the fields
pub enum DatasetError {
    /// Opening or reading failed.
    #[error("{file}: cannot read: {cause}")]
    Unreadable { file: String, cause: io::Error },
    /// More than the trainer takes, or an endless device.
    #[error("{file}: larger than {LARGEST_FILE_MIB} MiB")]
    TooLarge { file: String },
    /// Nothing but white space.
    #[error("{file}: the file is empty")]
    Empty { file: String },
    /// Another encoding, or no text at all.
    #[error("{file}, row {row}: not UTF-8 text (save the file as CSV in UTF-8)")]
    NotUtf8 { file: String, row: usize },
    /// The csv crate gave up.
    #[error("{file}: not a CSV file: {cause}")]
    Malformed { file: String, cause: ::csv::Error },
    /// The first line holds numbers only.
    #[error("{file}, row 1: the first line must name the columns, but it holds numbers only")]
    NoHeader { file: String },
    /// One column, with another separator in its name.
    #[error("{file}, row 1: columns must be separated by commas, not by {found}")]
    Separator { file: String, found: &'static str },
    /// A header cell is empty.
    #[error("{file}, row 1: column {column} has no name")]
    UnnamedColumn { file: String, column: usize },
    /// A header cell with a line break or another control character.
    #[error("{file}, row 1: the name of column {column} holds a line break or a control character")]
    UnprintableName { file: String, column: usize },
    /// Two header cells are equal.
    #[error("{file}, row 1: two columns are named {}", quoted(.column))]
    DuplicateColumn { file: String, column: String },
    /// A target, or an input of the model, is not in the header.
    #[error("{file}: no column {}; its columns are {}", quoted(.column), listed(.columns))]
    MissingColumn {
        file: String,
        column: String,
        columns: Vec<String>,
    },
    /// The list of targets is empty.
    #[error("--target names no column")]
    NoTarget,
    /// A column is twice in the list of targets.
    #[error("--target names column {} twice", quoted(.column))]
    TargetTwice { column: String },
    /// Classification has one target.
    #[error("--task classification takes one target, but --target names {targets}")]
    SeveralTargets { targets: usize },
    /// Every column is a target.
    #[error("{file}: every column is a target, none is left as an input")]
    NoInputs { file: String },
    /// The model has another number of inputs.
    #[error(
        "{file}: the number of input columns is {found}, but the model, which names none, has {expected} inputs"
    )]
    InputCount {
        file: String,
        found: usize,
        expected: usize,
    },
    /// A row with more or fewer cells than the header.
    #[error(
        "{file}, row {row}: the number of cells is {cells}, but the header names {columns} columns"
    )]
    Ragged {
        file: String,
        row: usize,
        cells: usize,
        columns: usize,
    },
    /// One cell is at fault.
    #[error("{file}, row {row}, column {}: {fault}", quoted(.column))]
    Cell {
        file: String,
        row: usize,
        column: String,
        fault: CellFault,
    },
    /// Too few rows to train on, or none to evaluate.
    #[error("{file}: too few rows of data: {rows}, at least {fewest} are needed")]
    TooFewRows {
        file: String,
        rows: usize,
        fewest: usize,
    },
    /// There is nothing to tell apart.
    #[error("{file}, column {}: only one class, {}, in all rows", quoted(.column), quoted(.label))]
    OneClass {
        file: String,
        column: String,
        label: String,
    },
    /// No label comes twice: a name or a quantity, but no class.
    #[error(
        "{file}, column {}: every row is a class of its own (--task regression if it is a quantity)",
        quoted(.column)
    )]
    NoClassTwice { file: String, column: String },
    /// An IDX file is at fault.
    #[error("{file}: {fault}")]
    Idx { file: String, fault: IdxFault },
}

/// What is wrong with a cell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CellFault {
    /// Nothing in it.
    #[error("the cell is empty")]
    Empty,
    /// A word, or a number in another notation.
    #[error("{} is not a number", quoted(.0))]
    NotANumber(String),
    /// NaN, an infinity, or more than the `f32` of the device can hold.
    #[error("{} is not a finite 32-bit number", quoted(.0))]
    NotFinite(String),
    /// A target that holds numbers for the most part.
    #[error("{} is not a number (--task classification takes all of them as words)", quoted(.0))]
    WordAmongNumbers(String),
    /// A target that holds words for the most part.
    #[error("{} is a number among words (--task classification takes it as a word)", quoted(.0))]
    NumberAmongWords(String),
    /// A label that cannot be printed on one line.
    #[error("the label {} holds a line break or a control character", quoted(.0))]
    UnprintableLabel(String),
    /// A label the model was not trained on.
    #[error("{} is not a class of the model, which knows {}", quoted(.label), listed(.known))]
    UnknownLabel {
        /// The label found.
        label: String,
        /// The labels of the model.
        known: Vec<String>,
    },
}

impl Dataset {
    /// Reads a training set: `target` alone decides the columns, all others are inputs. Each text
    /// in `target` is a column's name or, where no column has that name, several with commas
    /// between. Of a pair of IDX files the target is `label`, which may be left out.
    ///
    /// Without `task`, several targets are a regression, and one target is a classification if it
    /// holds words or at most 20 distinct whole numbers. Labels that are numbers are written in
    /// their shortest form (`1.0` and `1` are the same class).
    ///
    /// # Errors
    /// A [`DatasetError`] for any file that is not a table of finite numbers with the target
    /// columns, at least one input, [`FEWEST_TRAINING_ROWS`] rows and, in a classification, two
    /// classes of which one has two rows.
    pub fn read(
        path: &Path,
        target: &[String],
        task: Option<Task>,
    ) -> Result<Dataset, DatasetError> {
        if let Some(images) = Images::open(path)? {
            return images.training_set(target, task);
        }
        let (source, bytes) = contents(path)?;
        Dataset::parse(&source, &bytes, target, task)
    }

    /// [`Dataset::read`] from any reader; `source` names it in messages.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn from_reader(
        source: &str,
        reader: impl Read,
        target: &[String],
        task: Option<Task>,
    ) -> Result<Dataset, DatasetError> {
        let bytes = drain(source, reader)?;
        Dataset::parse(source, &bytes, target, task)
    }

    /// Reads a file for a trained model: the columns of `schema` by name, in the schema's order.
    ///
    /// Other columns may hold anything. Labels become the model's classes. One row is enough.
    ///
    /// # Errors
    /// A [`DatasetError`], among others for a column that is missing and a label that the model
    /// does not know.
    pub fn read_like(path: &Path, schema: &Schema) -> Result<Dataset, DatasetError> {
        if let Some(images) = Images::open(path)? {
            return images.like(schema);
        }
        let (source, bytes) = contents(path)?;
        let sheet = Sheet::open(&source, &bytes)?;
        let inputs = sheet.columns(&schema.inputs)?;
        let targets = sheet.columns(schema.target.names())?;
        let cells = sheet.cells(&inputs, &targets, 1, &mut |_| {})?;
        let target = match &schema.target {
            TargetSchema::Regression { names } => cells.quantities(names)?,
            TargetSchema::Classification { name, labels } => cells.known_classes(name, labels)?,
        };
        Ok(Dataset {
            source,
            input_names: schema.inputs.clone(),
            rows: cells.rows(),
            x: cells.x,
            target,
        })
    }

    /// The type-K thermocouple set inside the binary: 4000 rows to train on and 1000 to test with.
    /// Inputs: millivolts and cold-junction °C; target: hot-junction °C, −200 … 1370.
    ///
    /// Origin and licence are in `data/thermocouple_k/README.txt`.
    pub fn thermocouple() -> (Dataset, Dataset) {
        let read = |source, bytes: &[u8]| {
            let target = ["target".to_string()];
            Dataset::parse(source, bytes, &target, Some(Task::Regression))
                .expect("the data set inside the binary is valid")
        };
        (
            read(
                "thermocouple_k/train.csv",
                include_bytes!("../../data/thermocouple_k/train.csv"),
            ),
            read(
                "thermocouple_k/test.csv",
                include_bytes!("../../data/thermocouple_k/test.csv"),
            ),
        )
    }

    fn parse(
        source: &str,
        bytes: &[u8],
        target: &[String],
        task: Option<Task>,
    ) -> Result<Dataset, DatasetError> {
        let sheet = Sheet::open(source, bytes)?;
        let targets = sheet.targets(target)?;
        if task == Some(Task::Classification) && targets.len() > 1 {
            return Err(DatasetError::SeveralTargets {
                targets: targets.len(),
            });
        }
        let inputs = sheet.all_but(&targets)?;
        let (input_names, names) = (sheet.names(&inputs), sheet.names(&targets));
        let cells = sheet.cells(&inputs, &targets, FEWEST_TRAINING_ROWS, &mut |_| {})?;
        let target = match task {
            Some(Task::Classification) => cells.new_classes(&names[0])?,
            None if names.len() == 1 && cells.holds_classes(&names[0])? => {
                cells.new_classes(&names[0])?
            }
            _ => cells.quantities(&names)?,
        };
        Ok(Dataset {
            source: one_line(source),
            input_names,
            rows: cells.rows(),
            x: cells.x,
            target,
        })
    }

    /// What is learnt from this data set.
    pub fn task(&self) -> Task {
        match self.target {
            Target::Regression { .. } => Task::Regression,
            Target::Classification { .. } => Task::Classification,
        }
    }

    /// The columns a model of this data set knows.
    pub fn schema(&self) -> Schema {
        let target = match &self.target {
            Target::Regression { names, .. } => TargetSchema::Regression {
                names: names.clone(),
            },
            Target::Classification { name, labels, .. } => TargetSchema::Classification {
                name: name.clone(),
                labels: labels.clone(),
            },
        };
        Schema {
            inputs: self.input_names.clone(),
            target,
        }
    }

    /// Number of input columns.
    pub fn inputs(&self) -> usize {
        self.input_names.len()
    }

    /// Number of outputs of a model of this data set: target columns, or classes.
    pub fn outputs(&self) -> usize {
        match &self.target {
            Target::Regression { names, .. } => names.len(),
            Target::Classification { labels, .. } => labels.len(),
        }
    }

    /// The inputs of one sample.
    ///
    /// # Panics
    /// If `row` is not below `rows`.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.x[row * self.inputs()..][..self.inputs()]
    }

    /// The given rows in the given order; all labels are kept, so that classes keep their numbers.
    ///
    /// # Panics
    /// If an index is not below `rows`.
    pub fn subset(&self, rows: &[usize]) -> Dataset {
        let target = match &self.target {
            Target::Regression { names, y } => {
                let outputs = names.len();
                let y = rows
                    .iter()
                    .flat_map(|&row| &y[row * outputs..][..outputs])
                    .copied();
                Target::Regression {
                    names: names.clone(),
                    y: y.collect(),
                }
            }
            Target::Classification {
                name,
                labels,
                class,
            } => Target::Classification {
                name: name.clone(),
                labels: labels.clone(),
                class: rows.iter().map(|&row| class[row]).collect(),
            },
        };
        Dataset {
            source: self.source.clone(),
            input_names: self.input_names.clone(),
            x: rows
                .iter()
                .flat_map(|&row| self.row(row))
                .copied()
                .collect(),
            rows: rows.len(),
            target,
        }
    }

    /// Two disjoint, shuffled parts; the second has `round(fraction · rows)` rows, but leaves the
    /// first at least one.
    ///
    /// A classification is split class by class, so that each part has the same mix to within one
    /// row a class, and every class has a row in the first part. Depends on `seed` and the data
    /// only. A `fraction` outside 0 … 1 is taken as the nearer end.
    pub fn split(&self, fraction: f64, seed: u64) -> (Dataset, Dataset) {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut strata = match &self.target {
            Target::Regression { .. } => vec![(0..self.rows).collect::<Vec<_>>()],
            Target::Classification { labels, class, .. } => {
                let mut strata = vec![Vec::new(); labels.len()];
                for (row, &class) in class.iter().enumerate() {
                    strata[class].push(row);
                }
                strata
            }
        };
        let sizes: Vec<usize> = strata.iter().map(Vec::len).collect();
        let mut first = Vec::with_capacity(self.rows);
        let mut second = Vec::with_capacity(self.rows);
        for (stratum, take) in strata.iter_mut().zip(apportion(&sizes, fraction)) {
            stratum.shuffle(&mut random);
            let (taken, left) = stratum.split_at(take);
            second.extend_from_slice(taken);
            first.extend_from_slice(left);
        }
        first.shuffle(&mut random);
        second.shuffle(&mut random);
        (self.subset(&first), self.subset(&second))
    }

    /// Smallest and largest value of an input column; `(∞, −∞)` without rows.
    ///
    /// # Panics
    /// If `column` is not below the number of inputs.
    pub fn range(&self, column: usize) -> (f64, f64) {
        self.column(column)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
    }

    fn column(&self, column: usize) -> impl Iterator<Item = f64> + '_ {
        assert!(
            column < self.inputs(),
            "input column {column} of {}",
            self.inputs()
        );
        self.x.iter().skip(column).step_by(self.inputs()).copied()
    }
}

impl Inputs {
    /// Reads the columns `names`, in this order, of a file whose other columns may hold anything.
    ///
    /// # Errors
    /// A [`DatasetError`] for a missing column, a cell that is no finite number, or no rows.
    pub fn read(path: &Path, names: &[String]) -> Result<Inputs, DatasetError> {
        if let Some(images) = Images::open(path)? {
            return images.inputs(names);
        }
        let (source, bytes) = contents(path)?;
        let sheet = Sheet::open(&source, &bytes)?;
        let columns = sheet.columns(names)?;
        Inputs::of(sheet, &columns)
    }

    /// Reads all columns in the order of the file, for a model that has `count` inputs and names
    /// none of them.
    ///
    /// # Errors
    /// As [`Inputs::read`], and if there are more or fewer columns.
    pub fn read_all(path: &Path, count: usize) -> Result<Inputs, DatasetError> {
        if let Some(images) = Images::open(path)? {
            return images.inputs(&images.pixels(count)?);
        }
        let (source, bytes) = contents(path)?;
        let sheet = Sheet::open(&source, &bytes)?;
        let columns = sheet.inputs(&[], count)?;
        Inputs::of(sheet, &columns)
    }

    fn of(sheet: Sheet<'_>, columns: &[usize]) -> Result<Inputs, DatasetError> {
        let (header, names) = (sheet.header.clone(), sheet.names(columns));
        let mut records = Vec::new();
        let cells = sheet.cells(columns, &[], 1, &mut |record| records.push(record.clone()))?;
        Ok(Inputs {
            source: cells.file,
            header,
            records,
            names,
            rows: cells.starts.len(),
            x: cells.x,
        })
    }
}

impl Schema {
    /// The names of all columns of a file but `targets`, in the order of the file: the inputs of a
    /// model that has `count` of them and knows no names.
    ///
    /// # Errors
    /// A [`DatasetError`] if a target is missing or the number of other columns is not `count`.
    pub fn input_names(
        path: &Path,
        targets: &[String],
        count: usize,
    ) -> Result<Vec<String>, DatasetError> {
        if let Some(images) = Images::open(path)? {
            return images.pixels(count);
        }
        let (source, bytes) = contents(path)?;
        let sheet = Sheet::open(&source, &bytes)?;
        let inputs = sheet.inputs(&sheet.columns(targets)?, count)?;
        Ok(sheet.names(&inputs))
    }

    /// The columns of a file that `--target` names, as in [`Dataset::read`].
    ///
    /// # Errors
    /// A [`DatasetError`] if one is missing or named twice.
    pub fn target_names(path: &Path, given: &[String]) -> Result<Vec<String>, DatasetError> {
        if let Some(images) = Images::open(path)? {
            return images.target(given).map(|name| vec![name]);
        }
        let (source, bytes) = contents(path)?;
        let sheet = Sheet::open(&source, &bytes)?;
        Ok(sheet.names(&sheet.targets(given)?))
    }
}

impl TargetSchema {
    /// Names of the target columns.
    pub fn names(&self) -> &[String] {
        match self {
            TargetSchema::Regression { names } => names,
            TargetSchema::Classification { name, .. } => std::slice::from_ref(name),
        }
    }
}

/// How many of each stratum to take so that the total is `round(fraction · all)`: the whole part of
/// each share, then the largest remainders. Leaves a row of every stratum.
fn apportion(sizes: &[usize], fraction: f64) -> Vec<usize> {
    let fraction = if fraction > 0.0 {
        fraction.min(1.0)
    } else {
        0.0
    };
    let share = |size: usize| size as f64 * fraction;
    let most = |size: usize| size.saturating_sub(1);
    let mut take: Vec<usize> = sizes
        .iter()
        .map(|&size| (share(size) as usize).min(most(size)))
        .collect();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by(|&a, &b| share(sizes[b]).fract().total_cmp(&share(sizes[a]).fract()));
    let wanted = share(sizes.iter().sum()).round() as usize;
    let mut missing = wanted.saturating_sub(take.iter().sum());
    for k in order {
        if missing > 0 && take[k] < most(sizes[k]) {
            take[k] += 1;
            missing -= 1;
        }
    }
    take
}

/// The two files that a path of the form `IMAGES,LABELS` names, unless it is a file itself or
/// neither half is one.
pub fn pair(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let text = path.to_str().filter(|_| !path.exists())?;
    let halves = text.match_indices(',').map(|(at, comma)| {
        let (images, labels) = (&text[..at], &text[at + comma.len()..]);
        (PathBuf::from(images), PathBuf::from(labels))
    });
    let found = |(images, labels): &(PathBuf, PathBuf)| [images.is_file(), labels.is_file()];
    let both = |pair: &(PathBuf, PathBuf)| found(pair) == [true; 2];
    halves
        .clone()
        .find(both)
        .or_else(|| halves.clone().find(|pair| found(pair).contains(&true)))
}

/// Whether the file says itself what the target is, as IDX files do.
pub fn names_its_target(path: &Path) -> bool {
    pair(path).is_some() || idx::is_images(path)
}

/// A file's name for messages, and its bytes, unpacked if they are gzip.
fn unpacked(path: &Path) -> Result<(String, Vec<u8>), DatasetError> {
    let (source, bytes) = contents(path)?;
    if !bytes.starts_with(&[0x1F, 0x8B]) {
        return Ok((source, bytes));
    }
    let bytes = drain(&source, MultiGzDecoder::new(&bytes[..]))?;
    Ok((source, bytes))
}

/// A file's name for messages, and its bytes.
fn contents(path: &Path) -> Result<(String, Vec<u8>), DatasetError> {
    let source = one_line(&path.to_string_lossy());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) => {
            return Err(DatasetError::Unreadable {
                file: source,
                cause,
            });
        }
    };
    let bytes = drain(&source, file)?;
    Ok((source, bytes))
}

fn drain(source: &str, reader: impl Read) -> Result<Vec<u8>, DatasetError> {
    let most = LARGEST_FILE_MIB << 20;
    let mut bytes = Vec::new();
    let file = one_line(source);
    match reader.take(most + 1).read_to_end(&mut bytes) {
        Err(cause) => Err(DatasetError::Unreadable { file, cause }),
        Ok(_) if bytes.len() as u64 > most => Err(DatasetError::TooLarge { file }),
        Ok(_) => Ok(bytes),
    }
}

/// Control characters and the two separators that Unicode counts as line breaks.
fn breaks_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// `text` with everything escaped that would break the line of a message or drive the terminal.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if breaks_line(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// `text` in quotes, on one line, and not all of a very long one.
fn quoted(text: &str) -> String {
    let most = 40;
    let mut shown = String::from("'");
    shown += &one_line(&text.chars().take(most).collect::<String>());
    shown += if text.chars().nth(most).is_some() {
        "…'"
    } else {
        "'"
    };
    shown
}

/// The first few names.
fn listed(names: &[String]) -> String {
    let most = 12;
    let mut list = String::new();
    for (k, name) in names.iter().take(most).enumerate() {
        let separator = if k == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(list, "{separator}{}", quoted(name));
    }
    if names.len() > most {
        let _ = write!(list, " and {} more", names.len() - most);
    }
    list
}
