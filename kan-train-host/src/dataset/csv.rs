//! CSV files: headers, cells and their faults.

use std::collections::BTreeSet;

use super::{CellFault, DatasetError, Target, breaks_line, one_line};

/// A target of whole numbers with more distinct values than this is a quantity, not a class.
const MOST_NUMBERED_CLASSES: usize = 20;

/// Whole numbers up to here have one `f64` each.
const LARGEST_WHOLE: f64 = 9_007_199_254_740_992.0;

/// A CSV text whose header has been read.
pub(super) struct Sheet<'t> {
    file: String,
    text: &'t str,
    pub(super) header: Vec<String>,
    reader: csv::Reader<&'t [u8]>,
}

impl<'t> Sheet<'t> {
    pub(super) fn open(source: &str, bytes: &'t [u8]) -> Result<Sheet<'t>, DatasetError> {
        let file = one_line(source);
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(fault) => {
                let row = line(&bytes[..fault.valid_up_to()]);
                return Err(DatasetError::NotUtf8 { file, row });
            }
        };
        if text.trim().is_empty() {
            return Err(DatasetError::Empty { file });
        }
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(text.as_bytes());
        let mut record = csv::StringRecord::new();
        match reader.read_record(&mut record) {
            Ok(_) => {}
            Err(cause) => return Err(DatasetError::Malformed { file, cause }),
        }
        let header: Vec<String> = record.iter().map(|cell| cell.trim().to_string()).collect();
        if header.iter().all(|name| name.parse::<f64>().is_ok()) {
            return Err(DatasetError::NoHeader { file });
        }
        Ok(Sheet {
            file,
            text,
            header,
            reader,
        })
    }

    /// The names of these columns.
    pub(super) fn names(&self, columns: &[usize]) -> Vec<String> {
        let names = columns.iter().map(|&column| self.header[column].clone());
        names.collect()
    }

    /// The columns of these names.
    pub(super) fn columns(&self, names: &[String]) -> Result<Vec<usize>, DatasetError> {
        names.iter().map(|name| self.column(name.trim())).collect()
    }

    fn column(&self, name: &str) -> Result<usize, DatasetError> {
        let file = || self.file.clone();
        let mut found = (0..self.header.len()).filter(|&column| self.header[column] == name);
        match (found.next(), found.next()) {
            (Some(column), None) => Ok(column),
            (Some(_), Some(_)) => Err(DatasetError::DuplicateColumn {
                file: file(),
                column: name.to_string(),
            }),
            (None, _) => match self.header.as_slice() {
                [only] if only.contains(';') => Err(DatasetError::Separator {
                    file: file(),
                    found: "semicolons",
                }),
                [only] if only.contains('\t') => Err(DatasetError::Separator {
                    file: file(),
                    found: "tabs",
                }),
                _ => Err(DatasetError::MissingColumn {
                    file: file(),
                    column: name.to_string(),
                    columns: self.header.clone(),
                }),
            },
        }
    }

    /// The columns that `--target` names: each text is a name or, where no column has that name,
    /// several names with commas between them.
    pub(super) fn targets(&self, given: &[String]) -> Result<Vec<usize>, DatasetError> {
        if given.is_empty() {
            return Err(DatasetError::NoTarget);
        }
        let mut names = Vec::new();
        for text in given {
            if self.header.iter().any(|name| name == text.trim()) {
                names.push(text.clone());
            } else {
                names.extend(text.split(',').map(str::to_string));
            }
        }
        let columns = self.columns(&names)?;
        for (k, column) in columns.iter().enumerate() {
            if columns[..k].contains(column) {
                return Err(DatasetError::TargetTwice {
                    column: self.header[*column].clone(),
                });
            }
        }
        Ok(columns)
    }

    /// All columns but the targets, each with a name of its own.
    pub(super) fn all_but(&self, targets: &[usize]) -> Result<Vec<usize>, DatasetError> {
        let mut names = BTreeSet::new();
        for (column, name) in self.header.iter().enumerate() {
            let file = self.file.clone();
            if name.is_empty() {
                return Err(DatasetError::UnnamedColumn {
                    file,
                    column: column + 1,
                });
            }
            if unprintable(name) {
                return Err(DatasetError::UnprintableName {
                    file,
                    column: column + 1,
                });
            }
            if !names.insert(name) {
                return Err(DatasetError::DuplicateColumn {
                    file,
                    column: name.clone(),
                });
            }
        }
        let inputs: Vec<usize> = (0..self.header.len())
            .filter(|column| !targets.contains(column))
            .collect();
        if inputs.is_empty() {
            return Err(DatasetError::NoInputs {
                file: self.file.clone(),
            });
        }
        Ok(inputs)
    }

    /// All columns but the targets, `count` of them.
    pub(super) fn inputs(
        &self,
        targets: &[usize],
        count: usize,
    ) -> Result<Vec<usize>, DatasetError> {
        let inputs = self.all_but(targets)?;
        if inputs.len() != count {
            return Err(DatasetError::InputCount {
                file: self.file.clone(),
                found: inputs.len(),
                expected: count,
            });
        }
        Ok(inputs)
    }

    /// Reads all rows: the inputs as numbers, the targets as they stand. `keep` sees each.
    pub(super) fn cells(
        mut self,
        inputs: &[usize],
        targets: &[usize],
        fewest: usize,
        keep: &mut dyn FnMut(&csv::StringRecord),
    ) -> Result<Cells<'t>, DatasetError> {
        let columns = self.header.len();
        let mut x = Vec::new();
        let mut target = vec![Vec::new(); targets.len()];
        let mut starts = Vec::new();
        let mut record = csv::StringRecord::new();
        loop {
            let start = self.reader.position().byte() as usize;
            match self.reader.read_record(&mut record) {
                Ok(true) => {}
                Ok(false) => break,
                Err(cause) => {
                    return Err(DatasetError::Malformed {
                        file: self.file,
                        cause,
                    });
                }
            }
            if record.len() != columns {
                // The csv crate skips empty lines; a line of spaces is as blank.
                if record.len() == 1 && record[0].trim().is_empty() {
                    continue;
                }
                return Err(DatasetError::Ragged {
                    row: row(self.text, start),
                    file: self.file,
                    cells: record.len(),
                    columns,
                });
            }
            for &column in inputs {
                match number(&record[column]) {
                    Ok(value) => x.push(value),
                    Err(fault) => {
                        return Err(DatasetError::Cell {
                            row: row(self.text, start),
                            file: self.file,
                            column: self.header[column].clone(),
                            fault,
                        });
                    }
                }
            }
            for (cells, &column) in target.iter_mut().zip(targets) {
                cells.push(record[column].trim().to_string());
            }
            keep(&record);
            starts.push(start);
        }
        if starts.len() < fewest {
            return Err(DatasetError::TooFewRows {
                file: self.file,
                rows: starts.len(),
                fewest,
            });
        }
        Ok(Cells {
            file: self.file,
            text: self.text,
            starts,
            x,
            target,
        })
    }
}

/// The rows of a [`Sheet`]: inputs read, targets still text.
pub(super) struct Cells<'t> {
    pub(super) file: String,
    text: &'t str,
    /// Where each row starts in `text`: line numbers are counted only when one is needed.
    pub(super) starts: Vec<usize>,
    pub(super) x: Vec<f64>,
    /// A vector of cells for each target column.
    target: Vec<Vec<String>>,
}

impl Cells<'_> {
    pub(super) fn rows(&self) -> usize {
        self.starts.len()
    }

    fn at(&self, sample: usize, column: &str, fault: CellFault) -> DatasetError {
        DatasetError::Cell {
            file: self.file.clone(),
            row: row(self.text, self.starts[sample]),
            column: column.to_string(),
            fault,
        }
    }

    /// Reads the target columns as numbers.
    pub(super) fn quantities(&self, names: &[String]) -> Result<Target, DatasetError> {
        let mut y = Vec::with_capacity(self.rows() * names.len());
        for sample in 0..self.rows() {
            for (cells, name) in self.target.iter().zip(names) {
                let value = number(&cells[sample]);
                y.push(value.map_err(|fault| self.at(sample, name, fault))?);
            }
        }
        Ok(Target::Regression {
            names: names.to_vec(),
            y,
        })
    }

    /// Whether the only target column holds words or a few whole numbers.
    pub(super) fn holds_classes(&self, name: &str) -> Result<bool, DatasetError> {
        let values: Vec<_> = self.target[0].iter().map(|cell| number(cell)).collect();
        let numbers = values.iter().filter(|value| value.is_ok()).count();
        let words = values
            .iter()
            .filter(|v| matches!(v, Err(CellFault::NotANumber(_))))
            .count();
        if words > 0 && numbers > 0 {
            // A typing error in a column of numbers must not turn it into hundreds of classes, so
            // a mixed column is taken as neither.
            let (sample, fault) = if numbers >= words {
                first(&values, |value| match value {
                    Err(CellFault::NotANumber(cell)) => {
                        Some(CellFault::WordAmongNumbers(cell.clone()))
                    }
                    Err(fault) => Some(fault.clone()),
                    Ok(_) => None,
                })
            } else {
                first(&values, |value| value.is_ok().then_some(()))
                    .map(|(k, ())| (k, CellFault::NumberAmongWords(self.target[0][k].clone())))
            }
            .expect("both kinds are there");
            return Err(self.at(sample, name, fault));
        }
        if words > 0 {
            return Ok(true);
        }
        let mut distinct = BTreeSet::new();
        for (sample, value) in values.into_iter().enumerate() {
            let value = value.map_err(|fault| self.at(sample, name, fault))?;
            if value.fract() != 0.0 || value.abs() > LARGEST_WHOLE {
                return Ok(false);
            }
            distinct.insert(value as i64);
        }
        Ok(distinct.len() <= MOST_NUMBERED_CLASSES)
    }

    /// Reads the only target column as labels and numbers them.
    pub(super) fn new_classes(&self, name: &str) -> Result<Target, DatasetError> {
        let cells = &self.target[0];
        for (sample, cell) in cells.iter().enumerate() {
            label(cell).map_err(|fault| self.at(sample, name, fault))?;
        }
        let values: Result<Vec<f64>, _> = cells.iter().map(|cell| number(cell)).collect();
        let (labels, class) = match values {
            Ok(values) => {
                let mut distinct = values.clone();
                distinct.sort_by(f64::total_cmp);
                distinct.dedup();
                let class = values
                    .iter()
                    .map(|value| distinct.partition_point(|other| other < value))
                    .collect();
                (distinct.iter().map(f64::to_string).collect(), class)
            }
            Err(_) => {
                let mut distinct = cells.clone();
                distinct.sort();
                distinct.dedup();
                let class = cells
                    .iter()
                    .map(|cell| distinct.partition_point(|other| other < cell))
                    .collect();
                (distinct, class)
            }
        };
        let file = self.file.clone();
        let column = name.to_string();
        match labels.as_slice() {
            [label] => Err(DatasetError::OneClass {
                file,
                column,
                label: label.clone(),
            }),
            _ if labels.len() == self.rows() => Err(DatasetError::NoClassTwice { file, column }),
            _ => Ok(Target::Classification {
                name: column,
                labels,
                class,
            }),
        }
    }

    /// Reads the only target column as labels of a trained model.
    pub(super) fn known_classes(
        &self,
        name: &str,
        labels: &[String],
    ) -> Result<Target, DatasetError> {
        let find = |cell: &str| {
            label(cell)?;
            let position = |wanted: &str| labels.iter().position(|known| known == wanted);
            position(cell)
                .or_else(|| {
                    number(cell)
                        .ok()
                        .and_then(|value| position(&value.to_string()))
                })
                .ok_or_else(|| CellFault::UnknownLabel {
                    label: cell.to_string(),
                    known: labels.to_vec(),
                })
        };
        let class = self.target[0]
            .iter()
            .enumerate()
            .map(|(sample, cell)| find(cell).map_err(|fault| self.at(sample, name, fault)))
            .collect::<Result<_, _>>()?;
        Ok(Target::Classification {
            name: name.to_string(),
            labels: labels.to_vec(),
            class,
        })
    }
}

/// Reads a cell as a finite number that `f32` can hold; −0 becomes 0.
fn number(cell: &str) -> Result<f64, CellFault> {
    let cell = cell.trim();
    match cell.parse::<f64>() {
        _ if cell.is_empty() => Err(CellFault::Empty),
        Ok(value) if value.abs() <= f64::from(f32::MAX) => Ok(value + 0.0),
        Ok(_) => Err(CellFault::NotFinite(cell.to_string())),
        Err(_) => Err(CellFault::NotANumber(cell.to_string())),
    }
}

/// Checks a trimmed cell as a label: something printable that does not stand for a missing value.
fn label(cell: &str) -> Result<(), CellFault> {
    if cell.is_empty() {
        Err(CellFault::Empty)
    } else if cell.parse::<f64>().is_ok_and(f64::is_nan) {
        Err(CellFault::NotFinite(cell.to_string()))
    } else if unprintable(cell) {
        Err(CellFault::UnprintableLabel(cell.to_string()))
    } else {
        Ok(())
    }
}

/// The first item that `pick` takes, with its index.
fn first<T, U>(items: &[T], pick: impl Fn(&T) -> Option<U>) -> Option<(usize, U)> {
    items
        .iter()
        .enumerate()
        .find_map(|(k, item)| Some((k, pick(item)?)))
}

/// The line number of the record that the csv crate began to read at `start`: it counts the rest of
/// a CRLF and blank lines to the record that follows them.
fn row(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let blank = bytes[start..]
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    line(&bytes[..start + blank])
}

/// The number of the line that follows `before`, as editors count: after LF, CRLF or a lone CR.
fn line(before: &[u8]) -> usize {
    let ends = before.iter().enumerate().filter(|&(k, byte)| match byte {
        b'\n' => true,
        b'\r' => before.get(k + 1) != Some(&b'\n'),
        _ => false,
    });
    1 + ends.count()
}

fn unprintable(text: &str) -> bool {
    text.chars().any(breaks_line)
}
