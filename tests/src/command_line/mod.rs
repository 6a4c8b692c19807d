//! The binary `kan`, driven as a user would: here what all commands have in common and the desk
//! that the tests work at, in the modules what single commands print, write, and refuse.

mod bench;
mod demo;
mod model;
mod resume;
mod run;
mod train;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The binary, built as these tests are and from the same sources.
fn kan() -> Command {
    static KAN: OnceLock<PathBuf> = OnceLock::new();
    let path = KAN.get_or_init(|| {
        // target/PROFILE/deps/workspace-…
        let this = std::env::current_exe().expect("tests have a path");
        let target = this.ancestors().nth(3).expect("cargo's folders");
        let profile = if cfg!(debug_assertions) {
            "dev"
        } else {
            "release"
        };
        let built = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .args([
                "build",
                "--quiet",
                "--package",
                "kan-train-host",
                "--bin",
                "kan",
            ])
            .args([
                "--profile",
                profile,
                "--message-format",
                "json-render-diagnostics",
            ])
            .arg("--target-dir")
            .arg(target)
            .output()
            .expect("cargo starts");
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        String::from_utf8_lossy(&built.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .expect("cargo tells where the binary is")
    });
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

/// A folder of one's own, in which everything happens.
pub struct Desk(tempfile::TempDir);

impl Desk {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("the folder is writable");
        path
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = kan();
        command
            .current_dir(self.0.path())
            .args(arguments.split_whitespace());
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().expect("kan starts")
    }

    /// What a command prints that must succeed.
    #[track_caller]
    fn text(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {said}");
        String::from_utf8(output.stdout).expect("kan prints UTF-8")
    }

    /// The object that a command prints with --json: exactly one, and nothing else on stdout.
    #[track_caller]
    pub fn json(&self, arguments: &str) -> Value {
        let text = self.text(&format!("{arguments} --json"));
        let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(matches!(value, Value::Object(_)));
        value
    }

    /// Asserts that a command fails with this code and one line with these fragments, and that it
    /// leaves the folder as it was.
    #[track_caller]
    pub fn fails(&self, arguments: &str, code: i32, fragments: &[&str]) {
        let before = self.entries();
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert_eq!(said.lines().count(), 1, "{arguments}: one line: {said}");
        assert!(said.starts_with("error: "), "{arguments}: {said}");
        for fragment in fragments {
            assert!(
                said.contains(fragment),
                "{arguments}: {said:?} does not name {fragment:?}"
            );
        }
        assert!(output.stdout.is_empty(), "{arguments}: nothing on stdout");
        assert_eq!(self.entries(), before, "{arguments}: nothing is written");
    }

    /// Every file below, with its content.
    fn entries(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn collect(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in fs::read_dir(folder).expect("a folder").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    found.push((path.clone(), Vec::new()));
                    collect(&path, found);
                } else {
                    let bytes = fs::read(&path).expect("a file");
                    found.push((path, bytes));
                }
            }
        }
        let mut found = Vec::new();
        collect(self.0.path(), &mut found);
        found.sort();
        found
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).expect("a folder").flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// `xy.csv` and a network of three edges trained on it, in `run`.
    fn trained() -> Self {
        let desk = Self::new();
        desk.file("xy.csv", table(60));
        desk.text("train xy.csv --target y --width 2,1,1 --grid 3,5 --out run");
        desk
    }
}

/// Numbers in 0 … 1 without a pattern.
fn numbers() -> impl FnMut() -> f64 {
    let mut state = 1_u64;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A table with the columns a, b and y = exp(sin 2a + b²).
fn table(rows: usize) -> String {
    let mut number = numbers();
    let mut text = String::from("a,b,y\n");
    for _ in 0..rows {
        let (a, b) = (2.0 * number() - 1.0, 2.0 * number() - 1.0);
        let y = ((2.0 * a).sin() + b * b).exp();
        writeln!(text, "{a:.6},{b:.6},{y:.6}").expect("strings can be written to");
    }
    text
}

/// A table with the columns id, u, v and kind: three words, by the angle of (u, v).
fn flowers(rows: usize) -> String {
    let mut number = numbers();
    let mut text = String::from("u,v,kind\n");
    for _ in 0..rows {
        let (u, v) = (2.0 * number() - 1.0, 2.0 * number() - 1.0);
        let kind = ["rose", "lily", "iris"][((v.atan2(u) + 3.2) / 2.14) as usize];
        writeln!(text, "{u:.5},{v:.5},{kind}").expect("strings can be written to");
    }
    text
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is not a number"))
}

#[track_caller]
fn has_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some(), "no key {key} in {value:#}");
    }
}

/// The cells of a CSV file without quotes.
fn cells(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split(',').collect()).collect()
}

#[test]
fn help_has_an_example_and_version_a_number() {
    let desk = Desk::new();
    let commands = [
        "demo", "train", "refine", "prune", "compile", "eval", "predict", "inspect",
    ];
    let all = desk.text("--help");
    for command in commands {
        assert!(all.contains(command), "{command}: {all}");
        let help = desk.text(&format!("{command} --help"));
        assert!(help.contains(&format!("Example: kan {command}")), "{help}");
        assert!(help.contains("--json") && help.contains("--seed"), "{help}");
    }
    assert!(desk.text("--version").starts_with("kan 0."));
    assert_eq!(desk.run("").status.code(), Some(2));
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let desk = Desk::trained();
    desk.file("long.csv", table(20_000));
    for command in [
        "predict run --data long.csv",
        "predict run --data long.csv --json",
        "--help",
    ] {
        let mut child = desk
            .command(command)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kan starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("kan ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{command}: {said}"
        );
    }
    // A disk that is full is one.
    if let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") {
        let output = desk
            .command("inspect run --json")
            .stdout(full)
            .output()
            .expect("kan starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(said.contains("error: stdout: cannot write"), "{said}");
    }
}
