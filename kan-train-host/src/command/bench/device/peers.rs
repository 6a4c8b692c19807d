//! KANs and int8 perceptrons on the same rows.

use std::path::PathBuf;
use std::{fs, mem};

use kan_train_host::benchmark::{self, Build, Peer, SMALL, SPEED, Scales};
use kan_train_host::compile::{Kind, Tables};
use kan_train_host::dataset::Task;
use kan_train_host::device::Cost;
use serde::Serialize;

use super::sets::{SETS, Set, error, measure};
use super::{Bench, compiled, in_cell};
use crate::command::Failure;
use crate::command::console::{figures, shape};

/// A KAN or a perceptron on a machine.
#[derive(Serialize)]
pub(super) struct Contender {
    machine: &'static str,
    core: &'static str,
    data: &'static str,
    engine: &'static str,
    /// Node counts and format.
    model: String,
    measure: &'static str,
    /// Of the outputs that the device gave for the test rows.
    error: f64,
    /// From floats to floats, on the test rows.
    instructions: Cost,
    /// Engine and model, in the profile whose instructions are counted; and in that for size.
    flash_bytes: u64,
    small_flash_bytes: u64,
    /// The stack of a call, the model's struct and variables.
    ram_bytes: u64,
    /// Whether a perceptron is as good as the KAN of 16 bits: an RMSE at most 5 % higher, or at
    /// most half a point more wrong classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_good: Option<bool>,
}

impl Bench<'_> {
    pub(super) fn peers(&self) -> Result<Vec<Contender>, Failure> {
        let sets = SETS.iter().filter(|set| self.chosen.has(set.0));
        let mut rows = Vec::new();
        let mut headed = false;
        for &(name, targets, task, _) in sets {
            let set = Set::open(name, targets, task)?;
            if !mem::replace(&mut headed, true) {
                self.head(
                    "KANs and the smallest int8 perceptrons that are as good, from floats to floats",
                    &[
                        "data set",
                        "machine",
                        "core",
                        "engine",
                        "model",
                        "measure",
                        "test error",
                        "instructions",
                        "flash",
                        "at opt-level s",
                        "RAM",
                        "as good",
                    ],
                );
            }
            for row in self.set(name, &set)? {
                self.say(row.markdown());
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// Both contenders of a data set on all machines.
    fn set(&self, name: &'static str, set: &Set) -> Result<Vec<Contender>, Failure> {
        let width = set.predictor.network.width();
        let perceptron = set.perceptron()?;
        let nodes = perceptron.file_stem().unwrap_or_default().to_string_lossy();
        let peer = Peer {
            perceptron: &perceptron,
            width: &width,
        };
        let kinds = [16, 8].map(|bits| Kind {
            tables: Tables::Cubic,
            bits,
        });
        let mut blobs = Vec::new();
        for kind in kinds {
            blobs.push(compiled(&set.predictor, name, kind, &set.train.x)?.bytes);
        }
        let slices: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
        let mut rows = Vec::new();
        for &build in &self.chosen.builds {
            let Build { machine, core, .. } = build;
            let firmware = self.firmware(build, Some(&peer))?;
            self.console
                .progress(&format!("{core}: {name}"), 0, set.test.rows);
            let results = benchmark::contest(&firmware, &set.test.x, set.test.rows, &slices)?;
            let (mut texts, mut sizes) = (Vec::new(), Vec::new());
            for profile in [SPEED, SMALL] {
                texts.push(self.texts(build, profile, &kinds)?);
                sizes.push(Scales::tared(build, profile)?.perceptron(&peer)?);
            }
            let mut of_kan = f64::INFINITY;
            for (k, result) in results.into_iter().enumerate() {
                let values: Vec<f64> = result.outputs.iter().map(|&y| f64::from(y)).collect();
                let error = error(&values, &set.test);
                let ram = u64::from(result.stack + result.struct_bytes);
                let (engine, model, flash, ram, as_good) = match kinds.get(k) {
                    Some(&kind) => {
                        if k == 0 {
                            of_kan = error;
                        }
                        let flash = [0, 1].map(|of| texts[of][k] + blobs[k].len() as u64);
                        let model = format!("{} {kind}", shape(&width));
                        ("kan-core", model, flash, ram, None)
                    }
                    None => {
                        let nodes: Vec<usize> =
                            nodes.split('-').filter_map(|n| n.parse().ok()).collect();
                        let model = format!("{} i8", shape(&nodes));
                        let as_good = match set.test.task() {
                            Task::Regression => error <= 1.05 * of_kan,
                            Task::Classification => error <= of_kan + 0.005,
                        };
                        let flash = [0, 1].map(|of| sizes[of].flash());
                        (
                            "microflow",
                            model,
                            flash,
                            ram + sizes[0].ram(),
                            Some(as_good),
                        )
                    }
                };
                rows.push(Contender {
                    machine: machine.name(),
                    core,
                    data: name,
                    engine,
                    model,
                    measure: measure(&set.test),
                    error,
                    instructions: result.instructions,
                    flash_bytes: flash[0],
                    small_flash_bytes: flash[1],
                    ram_bytes: ram,
                    as_good,
                });
            }
        }
        Ok(rows)
    }
}

impl Contender {
    fn markdown(&self) -> String {
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            self.data,
            self.machine,
            self.core,
            self.engine,
            self.model,
            self.measure,
            figures(self.error),
            in_cell(self.instructions),
            self.flash_bytes,
            self.small_flash_bytes,
            self.ram_bytes,
            match self.as_good {
                None => "",
                Some(true) => "yes",
                Some(false) => "no",
            },
        )
    }
}

impl Set {
    /// The only `.tflite` file, named after its node counts.
    fn perceptron(&self) -> Result<PathBuf, Failure> {
        let folder = self.folder.canonicalize()?;
        let files = fs::read_dir(&folder)?.flatten().map(|file| file.path());
        let is_model = |path: &PathBuf| path.extension().is_some_and(|end| end == "tflite");
        let found = files.into_iter().find(is_model);
        found.ok_or_else(|| Failure::new(format!("{}: no .tflite file", folder.display())))
    }
}
