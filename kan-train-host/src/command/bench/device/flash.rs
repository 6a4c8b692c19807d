//! What kan-core takes in flash.

use kan_train_host::benchmark::{self, Build, SMALL, Scales};
use kan_train_host::compile::{Kind, Tables};
use serde::Serialize;

use super::{Bench, FLASH, Goal};
use crate::command::Failure;

/// What kan-core takes.
#[derive(Serialize)]
pub(super) struct Flash {
    target: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<&'static str>,
    tables: Tables,
    bits: u8,
    bytes: u64,
    pub(super) goal: Option<Goal>,
}

impl Bench<'_> {
    /// One kind of tables at opt-level `s`.
    pub(super) fn flash(&self) -> Result<Vec<Flash>, Failure> {
        if !self.chosen.has(FLASH) {
            return Ok(Vec::new());
        }
        self.head(
            "Flash of kan-core with its loader and one kind of tables, profile firmware (opt-level s)",
            &["target", "tables", "bytes", "goal", "met"],
        );
        let mut rows: Vec<Flash> = Vec::new();
        for &build in &self.chosen.builds {
            let (target, cpu) = (build.target(), build.cpu);
            if (rows.iter()).any(|row| (row.target, row.cpu) == (target, cpu)) {
                continue;
            }
            let named = cpu.map_or(String::new(), |cpu| format!(", {cpu}"));
            for kind in Kind::ALL {
                let bytes = self.texts(build, SMALL, &[kind])?[0];
                let has_goal = target.starts_with("thumbv7em");
                let goal = has_goal.then(|| Goal::new("bytes", 4096.0, bytes as f64));
                let cells = Goal::cells(goal);
                self.say(format_args!(
                    "| {target}{named} | {kind} | {bytes} | {cells} |"
                ));
                rows.push(Flash {
                    target,
                    cpu,
                    tables: kind.tables,
                    bits: kind.bits,
                    bytes,
                    goal,
                });
            }
        }
        Ok(rows)
    }

    /// What kan-core takes on a machine with each of the kinds.
    pub(super) fn texts(
        &self,
        build: Build,
        profile: &'static str,
        kinds: &[Kind],
    ) -> Result<Vec<u64>, Failure> {
        let flags = build.flags();
        let known = |kind: Kind| {
            let texts = self.texts.borrow();
            let found = texts
                .iter()
                .find(|text| (&text.0, text.1, text.2) == (&flags, profile, kind));
            found.map(|text| text.3)
        };
        let mut scales = None;
        let mut texts = Vec::new();
        for (at, &kind) in kinds.iter().enumerate() {
            if known(kind).is_none() {
                let what = format!("{}: the size of {kind}", build.core);
                self.console.progress(&what, at, kinds.len());
                let tared = match scales {
                    Some(tared) => tared,
                    None => Scales::tared(build, profile)?,
                };
                scales = Some(tared);
                let bytes = tared.kan_core(benchmark::only(kind))?.flash();
                self.texts
                    .borrow_mut()
                    .push((flags.clone(), profile, kind, bytes));
            }
            texts.push(known(kind).unwrap_or_default());
        }
        Ok(texts)
    }
}
