//! `kan predict`: a file of rows with the model's predictions beside them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kan_core::Head;
use kan_train_host::artifact;
use kan_train_host::dataset::{Inputs, TargetSchema};
use kan_train_host::objective::most_probable;
use kan_train_host::objective::softmax;
use serde_json::{Map, Value, json};

use super::Failure;
use super::console::Console;
use super::model::{Loaded, Place, input_names, labels, output_names, place};

/// Write a file of rows again, with the predictions in further columns
#[derive(clap::Args)]
#[command(after_help = "\
Example: kan predict airfoil --data new.csv --out predicted.csv

Adds a column for each target; or for a classification the class and the probability of each. A name
that the file has already is followed by _predicted. Without --out the file goes to stdout. Of images
only the labels are written again.")]
pub struct Args {
    /// A folder that `kan train` made, or a blob
    #[arg(value_name = "RUN|FILE.kan")]
    model: PathBuf,
    /// The rows, as a CSV file, or as an IDX file of images with or without ,LABELS
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The CSV file to write
    #[arg(long, value_name = "FILE.csv")]
    out: Option<PathBuf>,
    /// Where to evaluate: host, qemu, qemu:MACHINE or serial:PORT, as for `kan eval`
    #[arg(long, value_name = "PLACE", default_value = "host", value_parser = place)]
    on: Place,
}

/// Columns of predictions.
struct Predictions {
    names: Vec<String>,
    rows: Vec<Vec<Value>>,
}

impl Predictions {
    fn values(names: Vec<String>, outputs: &[f32]) -> Self {
        let rows = outputs
            .chunks(names.len())
            .map(|row| row.iter().map(|&y| number(y)).collect());
        Self {
            rows: rows.collect(),
            names,
        }
    }

    fn classes(target: &str, labels: &[String], head: Head, outputs: &[f32]) -> Self {
        let names = std::iter::once(target.to_string())
            .chain(labels.iter().map(|label| format!("p_{label}")))
            .collect();
        let width = if head == Head::Sigmoid {
            1
        } else {
            labels.len()
        };
        let rows = outputs.chunks(width).map(|logits| {
            let logits: Vec<f64> = logits.iter().copied().map(f64::from).collect();
            let mut p = vec![0.0; width];
            softmax(&logits, &mut p);
            if let [p1] = p[..] {
                p = vec![1.0 - p1, p1];
            }
            let class = json!(labels[most_probable(&logits)]);
            std::iter::once(class)
                .chain(p.iter().map(|&p| number(p as f32)))
                .collect()
        });
        Self {
            rows: rows.collect(),
            names,
        }
    }

    /// Gives names that the file has already an ending.
    fn rename(&mut self, header: &[String]) {
        let mut taken: BTreeSet<String> = header.iter().cloned().collect();
        for name in &mut self.names {
            while !taken.insert(name.clone()) {
                name.push_str("_predicted");
            }
        }
    }
}

pub fn run(args: &Args, console: &Console) -> Result<(), Failure> {
    let loaded = Loaded::open(&args.model)?;
    let model = loaded.evaluator.model();
    let inputs = match input_names(&model) {
        Some(names) => Inputs::read(&args.data, &names)?,
        None => Inputs::read_all(&args.data, model.inputs())?,
    };

    let run = args.on.device_run(&loaded.evaluator, &inputs.x, console)?;
    let outputs = match run {
        None => loaded.evaluator.eval(&inputs.x),
        Some((run, _)) => run.outputs,
    };
    let target = loaded
        .checkpoint
        .as_ref()
        .map(|c| &c.predictor.schema.target);
    let mut predictions = match model.head() {
        Head::Identity => {
            let known = target.map(|target| target.names().to_vec());
            let numbered = || {
                (0..model.outputs())
                    .map(|k| format!("output_{k}"))
                    .collect()
            };
            let names = known
                .or_else(|| output_names(&model))
                .unwrap_or_else(numbered);
            Predictions::values(names, &outputs)
        }
        head => {
            let name = match target {
                Some(TargetSchema::Classification { name, .. }) => name,
                _ => "class",
            };
            Predictions::classes(name, &labels(&model), head, &outputs)
        }
    };
    predictions.rename(&inputs.header);

    if args.out.is_some() || !console.wants_json() {
        let csv = table(&inputs, &predictions)?;
        match &args.out {
            Some(out) => {
                artifact::write_atomic(out, csv.as_bytes())?;
                let (rows, out) = (predictions.rows.len(), out.display());
                console.say(format_args!(
                    "{out}: {rows} rows with {}",
                    predictions.names.join(", ")
                ));
            }
            None => console.print_text(&csv),
        }
    }
    let outside = loaded
        .evaluator
        .in_domain(&inputs.x)
        .iter()
        .filter(|covered| !**covered)
        .count();
    if outside > 0 && args.out.is_some() {
        console.say(format_args!(
            "{outside} rows have an input outside the domain, which saturates"
        ));
    }
    let rows: Vec<Map<String, Value>> = predictions
        .rows
        .into_iter()
        .map(|row| predictions.names.iter().cloned().zip(row).collect())
        .collect();
    console.object(&json!({
        "n": rows.len(),
        "outside_domain": outside,
        "out": args.out,
        "rows": rows,
    }))
}

/// A number with no more digits than tell it from other `f32`.
fn number(value: f32) -> Value {
    json!(value.to_string().parse::<f64>().unwrap_or(f64::from(value)))
}

/// The file's columns with the predictions beside them.
fn table(inputs: &Inputs, predictions: &Predictions) -> Result<String, Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(inputs.header.iter().chain(&predictions.names))?;
    for (row, predicted) in inputs.records.iter().zip(&predictions.rows) {
        let predicted = predicted.iter().map(|value| match value {
            Value::String(text) => text.clone(),
            number => number.to_string(),
        });
        writer.write_record(row.iter().map(str::to_string).chain(predicted))?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|fault| Failure::new(fault.error()))?;
    Ok(String::from_utf8(bytes)?)
}
