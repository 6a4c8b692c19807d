//! The binary `kan`, driven as a user would: what it prints, writes, refuses, and leaves behind when
//! it is interrupted.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kan_core::blob::{Aligned, Head, LayerMessage, Message, Node, Scalar};
use kan_core::{Model, ModelBytes, ram_bytes};
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
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
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
    fn json(&self, arguments: &str) -> Value {
        let text = self.text(&format!("{arguments} --json"));
        let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(matches!(value, Value::Object(_)));
        value
    }

    /// Asserts that a command fails with this code and one line with these fragments, and that it
    /// leaves the folder as it was.
    #[track_caller]
    fn fails(&self, arguments: &str, code: i32, fragments: &[&str]) {
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

    fn bytes(&self, name: &str) -> Vec<u8> {
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
fn train_leaves_a_run_and_says_what_the_contract_says() {
    let desk = Desk::new();
    desk.file("xy.csv", table(60));
    let said = desk.json("train xy.csv --target y --width 2,1,1 --grid 3,5 --out run");
    has_keys(
        &said,
        &[
            "task",
            "width",
            "edges",
            "parameters",
            "seconds",
            "train",
            "test",
        ],
    );
    assert_eq!(said["task"], "regression");
    assert_eq!(said["width"], serde_json::json!([2, 1, 1]));
    assert_eq!(said["edges"], 3);
    assert_eq!(
        (&said["train_rows"], &said["test_rows"]),
        (&48.into(), &12.into())
    );
    for part in ["train", "test"] {
        assert!(number(&said[part]["rmse"]) > 0.0);
        assert!(number(&said[part]["r2"]) < 1.0);
    }
    assert!(number(&said["test"]["r2"]) > 0.9, "{said:#}");

    let stages = said["stages"].as_array().expect("a list");
    let grids: Vec<f64> = stages.iter().map(|stage| number(&stage["grid"])).collect();
    assert_eq!(grids, [3.0, 5.0]);
    for stage in stages {
        has_keys(stage, &["train", "test", "seconds"]);
    }
    // The last stage is the network that is left.
    assert_eq!(stages[1]["test"], said["test"]["rmse"]);

    let blob = &said["blob"];
    assert_eq!(
        (&blob["tables"], &blob["bits"]),
        (&"cubic".into(), &32.into())
    );
    assert_eq!(blob["path"], "run/model.kan");
    assert_eq!(
        number(&blob["bytes"]),
        desk.bytes("run/model.kan").len() as f64
    );
    // The tables' own error: kan-core's outputs are no further from the network's than stated.
    let bound = number(&blob["error_bound"][0]);
    assert!(number(&blob["deviation"][0]) <= bound);
    let (device, network) = (number(&blob["test"]["rmse"]), number(&said["test"]["rmse"]));
    assert!(
        (device - network).abs() <= bound,
        "{device} {network} {bound}"
    );

    assert_eq!(
        desk.names("run"),
        ["metrics.json", "model.kan", "network.json"]
    );
    let written: Value = serde_json::from_slice(&desk.bytes("run/metrics.json")).expect("JSON");
    assert_eq!(written, said);

    let output = desk.run("train xy.csv --target y --width 2,1,1 --grid 3,5 --out again");
    assert!(
        output.stderr.is_empty(),
        "no progress bar but on a terminal"
    );
    let report = String::from_utf8(output.stdout).expect("kan prints UTF-8");
    for fragment in [
        "[2,1,1]",
        "3 edges",
        "R²",
        "again/model.kan",
        "bytes",
        "kan eval again",
    ] {
        assert!(report.contains(fragment), "{fragment}: {report}");
    }
}

#[test]
fn the_target_and_a_folder_are_enough() {
    let desk = Desk::new();
    desk.file("xy.csv", table(60));
    let said = desk.json("train xy.csv --target y --out run");
    assert!(number(&said["test"]["r2"]) > 0.5, "{said:#}");
    let tried = said["tried"].as_array().expect("a list");
    assert!((1..=5).contains(&tried.len()));
    assert!(number(&said["candidates"]) >= tried.len() as f64);
    has_keys(&tried[0], &["width", "grid", "loss"]);
    has_keys(&said["penalty"], &["roughness"]);
    assert_eq!(tried[0]["width"], said["width_before"]);
}

#[test]
fn test_rows_are_held_out_unless_said_otherwise() {
    let desk = Desk::new();
    desk.file("xy.csv", table(60));
    desk.file("other.csv", table(90));
    let train = "train xy.csv --target y --width 2,1 --grid 3 --out run";
    let rows = |options: &str| {
        let said = desk.json(&format!("{train} {options}"));
        assert_eq!(said["test"].is_null(), said["test_rows"] == 0);
        assert_eq!(said["blob"]["test"].is_null(), said["test_rows"] == 0);
        (number(&said["train_rows"]), number(&said["test_rows"]))
    };
    assert_eq!(rows(""), (48.0, 12.0));
    assert_eq!(rows("--test-fraction 0.5"), (30.0, 30.0));
    assert_eq!(rows("--test-fraction 0"), (60.0, 0.0));
    assert_eq!(rows("--test other.csv"), (60.0, 90.0));
    desk.fails(
        &format!("{train} --test-fraction 1.5"),
        2,
        &["--test-fraction", "1.5"],
    );
    desk.fails(
        &format!("{train} --test-fraction nan"),
        2,
        &["--test-fraction"],
    );
    desk.fails(&format!("{train} --test none.csv"), 1, &["none.csv"]);
    // Ten rows are enough for a file, and eight of them to train on; fewer are not.
    desk.file("ten.csv", table(10));
    let ten = "train ten.csv --target y --width 2,1 --grid 1 --out ten";
    assert_eq!(desk.json(ten)["train_rows"], 8);
    for (fraction, left) in [
        ("0.3", "leaves 7"),
        ("0.8", "leaves 2"),
        ("0.9", "leaves 1"),
    ] {
        desk.fails(
            &format!("{ten} --test-fraction {fraction}"),
            1,
            &["--test-fraction", fraction, "ten.csv", left],
        );
    }
    desk.fails(
        &format!("{train} --test other.csv --test-fraction 0.1"),
        2,
        &["--test"],
    );
}

#[test]
fn predictions_and_scores_agree() {
    let desk = Desk::trained();
    let rows = table(40);
    desk.file("new.csv", &rows);
    for model in ["run", "run/model.kan"] {
        let score = desk.json(&format!("eval {model} --data new.csv --target y"));
        assert_eq!(score["n"], 40);
        assert_eq!(score["network"].is_null(), model != "run");
        let text = desk.text(&format!("predict {model} --data new.csv"));
        let table = cells(&text);
        assert_eq!(table[0], ["a", "b", "y", "y_predicted"]);
        for (line, given) in text.lines().zip(rows.lines()) {
            assert!(line.starts_with(given), "the file's columns as they stand");
        }
        let errors = table[1..].iter().map(|row| {
            let target = row[2].parse::<f64>().expect("a number");
            // Printed so that the device's f32 can be read back.
            let predicted = row[3].parse::<f32>().expect("a number");
            (target - f64::from(predicted)).powi(2)
        });
        let rmse = (errors.sum::<f64>() / 40.0).sqrt();
        let said = number(&score["rmse"]);
        // Forty squares are summed in the same order, or in another.
        assert!((rmse - said).abs() <= 1e-14 * said, "{rmse} {said}");

        let object = desk.json(&format!("predict {model} --data new.csv --out out.csv"));
        assert_eq!(desk.bytes("out.csv"), text.as_bytes());
        assert_eq!(object["rows"].as_array().map(Vec::len), Some(40));
        assert_eq!(
            object["rows"][7]["y_predicted"]
                .to_string()
                .parse::<f64>()
                .ok(),
            table[8][3].parse::<f64>().ok()
        );
    }
    // The order of the columns does not matter, and further ones may hold anything.
    desk.file(
        "columns.csv",
        "y,note,b,a\n0,\"x, y\",0.25,0.5\n\n1,,-0.5,0.125\n",
    );
    desk.file("straight.csv", "a,b\n0.5,0.25\n0.125,-0.5\n");
    let mixed = desk.json("predict run --data columns.csv");
    let straight = desk.json("predict run --data straight.csv");
    assert_eq!(mixed["rows"][1]["y_predicted"], straight["rows"][1]["y"]);
    let text = desk.text("predict run --data columns.csv");
    assert!(
        text.starts_with("y,note,b,a,y_predicted\n0,\"x, y\",0.25,0.5,"),
        "{text}"
    );
    // A target that does not vary has no R².
    desk.file("one.csv", "a,b,y\n0,0,1\n");
    let said = desk.json("eval run --data one.csv --target y");
    assert!(
        said["r2"].is_null() && number(&said["rmse"]) > 0.0,
        "{said}"
    );
    let said = desk.text("eval run --data one.csv --target y");
    assert!(said.contains("R² -"), "{said}");
    // Rows outside the domain are counted.
    desk.file("far.csv", "a,b,y\n900,0,1\n0,0,1\n");
    assert_eq!(
        desk.json("eval run --data far.csv --target y")["outside_domain"],
        1
    );
    desk.fails("predict run --data none.csv", 1, &["none.csv"]);
    desk.file("bad.csv", "a,b\n1,2\n1,two\n");
    desk.fails(
        "predict run --data bad.csv --out p.csv",
        1,
        &["bad.csv", "row 3", "'b'", "two"],
    );
    desk.fails(
        "predict run --data straight.csv --out no/p.csv",
        1,
        &["no/p.csv", "no folder"],
    );
}

#[test]
fn words_are_classes() {
    let desk = Desk::new();
    desk.file("flowers.csv", flowers(120));
    let said = desk.json("train flowers.csv --target kind --width 2,3 --grid 5 --out run");
    assert_eq!(said["task"], "classification");
    for part in [&said["train"], &said["test"], &said["blob"]["test"]] {
        has_keys(part, &["accuracy", "log_loss"]);
    }
    assert!(number(&said["test"]["accuracy"]) > 0.6, "{said:#}");

    let text = desk.text("predict run --data flowers.csv");
    let table = cells(&text);
    let header = [
        "u",
        "v",
        "kind",
        "kind_predicted",
        "p_iris",
        "p_lily",
        "p_rose",
    ];
    assert_eq!(table[0], header, "labels in lexical order");
    let (mut hits, mut loss) = (0, 0.0);
    for row in &table[1..] {
        let p: Vec<f64> = row[4..]
            .iter()
            .map(|p| p.parse().expect("a number"))
            .collect();
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-6);
        let of = |label: &str| {
            p[["iris", "lily", "rose"]
                .iter()
                .position(|l| *l == label)
                .unwrap()]
        };
        assert!(
            p.iter().all(|p| *p <= of(row[3])),
            "the most probable one: {row:?}"
        );
        hits += usize::from(row[2] == row[3]);
        loss -= of(row[2]).ln() / 120.0;
    }
    for model in ["run", "run/model.kan"] {
        let score = desk.json(&format!("eval {model} --data flowers.csv --target kind"));
        assert_eq!(number(&score["accuracy"]), hits as f64 / 120.0);
        assert!(
            (number(&score["log_loss"]) - loss).abs() < 1e-5,
            "{score} {loss}"
        );
    }
    // Of two classes a single logit decides.
    let two = flowers(60).replace("iris", "lily");
    desk.file("two.csv", two);
    let said = desk.json("train two.csv --target kind --width 2,1 --grid 4 --out run2");
    assert_eq!(said["width"], serde_json::json!([2, 1]));
    let text = desk.text("predict run2/model.kan --data two.csv");
    for row in &cells(&text)[1..] {
        let p: Vec<f64> = row[4..]
            .iter()
            .map(|p| p.parse().expect("a number"))
            .collect();
        assert!((p[0] + p[1] - 1.0).abs() < 1e-6);
        assert_eq!(row[3], if p[1] > 0.5 { "rose" } else { "lily" });
    }
    desk.file("tulip.csv", "u,v,kind\n0,0,tulip\n");
    desk.fails(
        "eval run --data tulip.csv --target kind",
        1,
        &["tulip.csv", "row 2", "tulip"],
    );
    desk.fails("eval run/model.kan --data two.csv", 2, &["--target"]);
}

#[test]
fn several_targets_are_several_outputs() {
    let desk = Desk::new();
    let mut text = String::from("x,twice,half\n");
    for k in 0..40 {
        let x = f64::from(k) / 10.0;
        writeln!(text, "{x},{},{}", 2.0 * x, x / 2.0).expect("strings can be written to");
    }
    desk.file("lines.csv", text);
    let said = desk
        .json("train lines.csv --target twice,half --width 1,2 --grid 3 --out run --domain 0:4");
    let targets = said["test"]["targets"].as_array().expect("a list");
    assert_eq!(
        (&targets[0]["name"], &targets[1]["name"]),
        (&"twice".into(), &"half".into())
    );
    assert_eq!(
        said["blob"]["error_bound"].as_array().map(Vec::len),
        Some(2)
    );
    let rows = desk.json("predict run --data lines.csv");
    let row = &rows["rows"][20];
    assert!(
        (number(&row["twice_predicted"]) - 4.0).abs() < 1e-2,
        "{row}"
    );
    assert!((number(&row["half_predicted"]) - 1.0).abs() < 1e-2, "{row}");
    desk.fails(
        "eval run --data lines.csv --target twice",
        1,
        &["--target", "2 outputs"],
    );
}

#[test]
fn a_target_may_have_a_comma_in_its_name() {
    let desk = Desk::new();
    let text = table(30).replacen("a,b,y\n", "a,\"speed,m/s\",y\n", 1);
    desk.file("comma.csv", text);
    let train = "train comma.csv --width 2,1 --grid 3 --task regression --out run --target";
    let said = desk.json(&format!("{train} speed,m/s"));
    assert_eq!(said["targets"], serde_json::json!(["speed,m/s"]));
    let score = desk.json("eval run --data comma.csv --target speed,m/s");
    assert_eq!(score["n"], 30);
    desk.file(
        "kan.toml",
        "target = [\"speed,m/s\", \"y\"]\nwidth = [1, 2]",
    );
    let said = desk.json("train comma.csv --config kan.toml --grid 3 --out both");
    assert_eq!(said["targets"], serde_json::json!(["speed,m/s", "y"]));
    desk.fails(&format!("{train} speed,y"), 1, &["no column 'speed'"]);
}

#[test]
fn equal_seeds_give_equal_bytes_whatever_the_number_of_threads() {
    let desk = Desk::new();
    desk.file("xy.csv", table(60));
    let train = |out: &str, seed: u64, threads: &str| {
        let arguments = format!("train xy.csv --target y --seed {seed} --out {out}");
        let output = desk
            .command(&arguments)
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .expect("kan starts");
        assert!(output.status.success());
        ["network.json", "model.kan"].map(|file| desk.bytes(&format!("{out}/{file}")))
    };
    let first = train("first", 1, "1");
    assert!(first == train("again", 1, "1"), "another run");
    assert!(first == train("threads", 1, "2"), "two threads");
    assert!(first == train("many", 1, "7"), "seven threads");
    assert!(first != train("seed", 2, "1"), "another seed");
}

#[test]
fn options_come_from_a_file_too() {
    let desk = Desk::new();
    desk.file("xy.csv", table(60));
    desk.file(
        "kan.toml",
        "target = \"y\"\nwidth = [2, 2, 1]\ngrid = \"3,6\"\nout = \"from_file\"\nseed = 3\n\
         test-fraction = 0.5\nno-prune = true\ndomain = \"-1:1,b=-2:2\"\nroughness = 1e-6\n\
         grid_eps = 0.5\ntables = \"linear\"\nsteps = 20\nlamb = 0.001\n",
    );
    let said = desk.json("train xy.csv --config kan.toml");
    assert_eq!(said["width"], serde_json::json!([2, 2, 1]));
    assert_eq!((&said["seed"], &said["test_rows"]), (&3.into(), &30.into()));
    assert_eq!(said["blob"]["tables"], "linear");
    assert_eq!(
        (number(&said["penalty"]["roughness"]), said["grid"].as_u64()),
        (1e-6, Some(6))
    );
    let network: Value = serde_json::from_slice(&desk.bytes("from_file/network.json")).unwrap();
    assert_eq!(number(&network["inputs"][1]["hi"]), 2.0);
    assert_eq!(number(&network["training"]["grid_eps"]), 0.5);
    // The command line wins.
    let said =
        desk.json("train xy.csv --config kan.toml --width 2,1 --seed 0 --out run --tables cubic");
    assert_eq!(said["width"], serde_json::json!([2, 1]));
    assert_eq!(
        (&said["seed"], &said["blob"]["tables"]),
        (&0.into(), &"cubic".into())
    );

    let fails = |content: &str, fragments: &[&str]| {
        desk.file("bad.toml", content);
        desk.fails(
            "train xy.csv --target y --out no --config bad.toml",
            1,
            fragments,
        );
    };
    fails("widht = [2, 1]", &["bad.toml", "`widht`"]);
    fails("data = \"xy.csv\"", &["`data`"]);
    fails("json = true", &["`json`"]);
    fails("width = [2, 1]\ngrid = ???", &["bad.toml", "row 2"]);
    fails("width = \"wide\"", &["`width`", "wide"]);
    fails("width = { x = 1 }", &["`width`"]);
    fails("seed = -1", &["`seed`"]);
    fails("optimizer = \"magic\"", &["`optimizer`", "magic"]);
    fails("no-prune = 3", &["`no-prune`"]);
    // What only the data or the other options show to be wrong is the file's fault, too.
    fails(
        "test-fraction = 3",
        &["bad.toml", "`test-fraction` 3", "0 to 0.9"],
    );
    fails(
        "test-fraction = 0.89",
        &["bad.toml", "`test-fraction` 0.89", "xy.csv"],
    );
    fails("steps = 0", &["bad.toml", "`steps` 0"]);
    fails("grid = [5, 3]", &["bad.toml", "`grid`", "increase"]);
    fails("width = [3, 1]", &["bad.toml", "`width` 3,1", "2 inputs"]);
    fails("lamb = -1", &["bad.toml", "`lamb`", "negative"]);
    fails("domain = \"1:0\"", &["bad.toml", "`domain` 1:0", "less"]);
    fails("grid_eps = 7", &["bad.toml", "`grid_eps`", "0", "1"]);
    fails("roughness = -1", &["bad.toml", "`roughness`", "negative"]);
    // What the command line says is not.
    desk.file("bad.toml", "test-fraction = 0.5\nsteps = 3");
    let train = "train xy.csv --target y --out no --config bad.toml";
    desk.fails(&format!("{train} --steps 0"), 2, &["error: --steps 0"]);
    desk.fails(
        &format!("{train} --test-fraction 3"),
        2,
        &["error: --test-fraction 3"],
    );
    desk.fails("train xy.csv --config none.toml", 1, &["none.toml"]);
}

#[test]
fn a_run_is_refined_pruned_and_compiled_again() {
    let desk = Desk::trained();
    let before = desk.json("eval run --data xy.csv --target y");
    let said = desk.json("refine run --grid 10");
    assert_eq!(
        (&said["grid"], &said["before"]["grid"]),
        (&10.into(), &5.into())
    );
    assert!(
        number(&said["train"]["rmse"]) < number(&said["before"]["train"]["rmse"]),
        "{said:#}"
    );
    assert_eq!(said["stages"].as_array().map(Vec::len), Some(3));
    let after = desk.json("eval run --data xy.csv --target y");
    assert!(
        number(&after["rmse"]) < number(&before["rmse"]),
        "the tables were made anew"
    );
    desk.fails("refine run --grid 10", 1, &["--grid 10", "11"]);
    desk.fails("refine run --grid 99999", 1, &["--grid 99999", "2000"]);

    // Nothing is superfluous in [2, 1, 1].
    desk.fails("prune run", 1, &["nothing to prune", "0.01"]);
    desk.fails("prune run --edge 0:0:5", 1, &["--edge 0:0:5", "[2,1,1]"]);
    desk.fails("prune run --edge 0:0", 2, &["--edge", "LAYER:FROM:TO"]);
    desk.fails("prune run --node 0:1", 1, &["--node 0:1", "hidden"]);
    desk.fails("prune run --node 1:0", 1, &["--node 1:0", "only node"]);
    desk.fails("prune run --edge 1:0:0", 1, &["without edges"]);
    let said = desk.json("prune run --edge 0:1:0");
    assert_eq!(
        (&said["edges"], &said["before"]["edges"]),
        (&2.into(), &3.into())
    );
    assert_eq!(said["edges_before"], 3);
    assert!(number(&said["test"]["r2"]) < number(&said["before"]["test"]["r2"]));
    desk.fails("prune run --edge 0:1:0", 1, &["no such edge"]);

    desk.text("train xy.csv --target y --width 2,4,1 --grid 3 --no-prune --out wide");
    let said = desk.json("prune wide --node 1:2");
    assert_eq!(
        (&said["width"], &said["edges"]),
        (&serde_json::json!([2, 3, 1]), &9.into())
    );
    let said = desk.json("prune wide --threshold 0.2");
    assert!(number(&said["edges"]) < 9.0);

    let network = desk.bytes("run/network.json");
    for tables in ["exact", "linear", "step", "cubic"] {
        let said = desk.json(&format!("compile run --tables {tables} --out other.kan"));
        assert_eq!(said["tables"], tables);
        assert_eq!(number(&said["bytes"]), desk.bytes("other.kan").len() as f64);
        assert!(number(&said["deviation"][0]) <= number(&said["error_bound"][0]));
        assert_eq!(desk.json("inspect other.kan")["tables"], tables);
    }
    let small = desk.json("compile run --tables linear --max-flash 300 --out small.kan");
    assert!(number(&small["bytes"]) <= 300.0);
    assert_eq!(
        desk.bytes("run/network.json"),
        network,
        "--out leaves the run alone"
    );
    desk.fails(
        "compile run --max-flash 20 --out tiny.kan",
        1,
        &["--max-flash 20"],
    );
    let said = desk.json("compile run --tables linear");
    let metrics: Value = serde_json::from_slice(&desk.bytes("run/metrics.json")).unwrap();
    assert_eq!(metrics["blob"], said);

    // The data have gone: the error names them, and --data says where they are.
    fs::rename(desk.path("xy.csv"), desk.path("moved.csv")).unwrap();
    desk.fails("refine run --grid 20", 1, &["xy.csv", "--data"]);
    desk.fails("refine run --grid 20 --data none.csv", 1, &["none.csv"]);
    desk.file("others.csv", flowers(30));
    desk.fails(
        "refine run --grid 20 --data others.csv",
        1,
        &["others.csv", "'y'"],
    );
    assert_eq!(
        desk.json("refine run --grid 20 --data moved.csv")["grid"],
        20
    );
    assert_eq!(desk.json("refine run --grid 30")["grid"], 30);
    // Compiling needs no data.
    fs::remove_file(desk.path("moved.csv")).unwrap();
    assert!(desk.json("compile run")["test"].is_null());
}

#[test]
fn rows_that_changed_since_the_training_are_not_taken_for_those_of_the_training() {
    let desk = Desk::trained();
    let good = table(60);
    let cut: String = good.split_inclusive('\n').take(46).collect();
    desk.file("xy.csv", &cut);
    let fragments = ["xy.csv", "changed", "45 rows instead of 60", "--data"];
    desk.fails("refine run --grid 9", 1, &fragments);
    desk.fails("prune run --edge 0:1:0", 1, &fragments);
    desk.file("xy.csv", good.replacen(",0.", ",0.1", 1));
    desk.fails("refine run --grid 9", 1, &["xy.csv", "other values"]);
    // The tables need no rows, and are not measured on wrong ones.
    let said = desk.run("compile run --out other.kan --json");
    assert!(said.status.success());
    let other: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert!(other["test"].is_null(), "{other}");
    // Another notation of the same rows is no change, nor is another name.
    desk.file("xy.csv", good.replace('\n', "\r\n"));
    assert_eq!(desk.json("refine run --grid 6")["other_rows"], false);
    desk.file("copy.csv", &good);
    let said = desk.json("refine run --grid 7 --data copy.csv");
    assert_eq!(said["other_rows"], false);
    // Other rows are taken if they are named, and ever after it is said.
    desk.file("cut.csv", &cut);
    let said = desk.text("refine run --grid 8 --data cut.csv");
    assert!(said.contains("other rows than those"), "{said}");
    let said = desk.json("refine run --grid 9");
    assert_eq!(
        (&said["other_rows"], &said["test_rows"]),
        (&true.into(), &9.into())
    );

    // Test rows in a file of their own are looked at, too.
    desk.file("xy.csv", &good);
    desk.file("test.csv", table(20));
    desk.text("train xy.csv --target y --test test.csv --width 2,1 --grid 3 --out tested");
    desk.file("test.csv", &cut);
    let fragments = ["test.csv", "changed", "45 rows instead of 20"];
    desk.fails("refine tested --grid 9", 1, &fragments);
    let said = desk.json("refine tested --grid 9 --data xy.csv");
    assert_eq!(said["other_rows"], true);
}

#[test]
fn grids_are_no_finer_than_the_values_of_the_inputs() {
    let desk = Desk::new();
    let mut text = String::from("a,y\n");
    for k in 0..40 {
        writeln!(text, "{},{}", k % 4, f64::from(k).sin()).expect("strings can be written to");
    }
    desk.file("four.csv", text);
    let train = "train four.csv --target y --grid 2,50,100 --task regression";
    let said = desk.json(&format!("{train} --width 1,1 --out run"));
    let grids = |said: &Value| -> Vec<u64> {
        let stages = said["stages"].as_array().expect("a list");
        stages.iter().filter_map(|s| s["grid"].as_u64()).collect()
    };
    assert_eq!(grids(&said), [2, 3]);
    assert_eq!(said["grid"], 3);
    desk.fails(
        "refine run --grid 10",
        1,
        &["--grid 10", "four.csv", "at most 3"],
    );
    // Hidden nodes take as many values as there are rows.
    let said = desk.json(&format!("{train} --width 1,1,1 --steps 5 --out deep"));
    assert_eq!(grids(&said), [2, 50, 100]);
}

#[test]
fn inspect_tells_what_firmware_needs() {
    let desk = Desk::trained();
    let said = desk.json("inspect run/model.kan");
    let keys = [
        "format_version",
        "name",
        "inputs",
        "outputs",
        "width",
        "layers",
        "edges",
        "tables",
    ];
    has_keys(&said, &keys);
    has_keys(
        &said,
        &[
            "bits",
            "bytes",
            "crc",
            "rust_type",
            "ram_bytes",
            "instructions",
        ],
    );
    assert_eq!(said["name"], "xy");
    assert_eq!((&said["inputs"], &said["outputs"]), (&2.into(), &1.into()));
    assert_eq!(said["width"], serde_json::json!([2, 1, 1]));
    assert_eq!(said["input_names"], serde_json::json!(["a", "b"]));
    assert_eq!(said["output_names"], serde_json::json!(["y"]));
    assert_eq!(number(&said["ram_bytes"]), ram_bytes(1, 2) as f64);
    assert!(number(&said["instructions"]["cortex-m4f"]) > 0.0);

    let bytes = desk.bytes("run/model.kan");
    assert_eq!(number(&said["bytes"]), bytes.len() as f64);
    let mut aligned = ModelBytes([0; 4096]);
    aligned.0[..bytes.len()].copy_from_slice(&bytes);
    let blob = &aligned.0[..bytes.len()];
    // The type as printed, and no smaller one.
    assert_eq!(said["rust_type"], "kan_core::Model<'static, 2, 1, 1, 2>");
    let model = Model::<'_, 2, 1, 1, 2>::load(blob).expect("the printed type fits");
    assert_eq!(said["crc"], format!("{:08x}", model.crc()));
    assert!(Model::<'_, 1, 1, 1, 2>::load(blob).is_err());
    assert!(Model::<'_, 2, 1, 1, 1>::load(blob).is_err());

    assert!(
        desk.text("inspect run/model.kan")
            .contains("kan_core::Model<'static, 2, 1, 1, 2>")
    );
}

/// A model of one edge with names as hostile as UTF-8 allows.
fn hostile_names() -> Vec<u8> {
    let nodes = [Node {
        lo: -1.0,
        inv_step: 1.0,
        margin: 0.0,
        intervals: 2,
        edges: 1,
    }
    .pack()];
    let layer = LayerMessage {
        degree: 1,
        scalar: Scalar::F32,
        residual: false,
        outputs: 1,
        nodes: Aligned::of(&nodes),
        bias: Aligned::of(&[0.0_f32]),
        targets: Aligned::of(&[0_u16]),
        coefficients: Aligned::of(&[-1.0_f32, 0.0, 1.0]),
        base: Aligned::of::<f32>(&[]),
    };
    let message = Message {
        name: "\u{1b}[2Jerror: gone",
        head: Head::Identity,
        input_names: "",
        output_names: "\u{1b}]0;\u{7}",
        layers: &[layer],
    };
    let mut bytes = ModelBytes([0; 1024]);
    let len = message.encode(&mut bytes.0).expect("it fits");
    bytes.0[..len].to_vec()
}

#[test]
fn a_blob_without_names_reads_columns_by_their_order() {
    let desk = Desk::new();
    desk.file("line.kan", hostile_names());
    desk.file("data.csv", "x,y\n-0.5,-0.5\n0.25,0.25\n0.5,1.5\n");
    let said = desk.json("eval line.kan --data data.csv --target y");
    assert_eq!(
        (number(&said["rmse"]), &said["n"]),
        ((1.0_f64 / 3.0).sqrt(), &3.into())
    );
    desk.file("wide.csv", "x,z,y\n1,2,3\n");
    desk.fails(
        "eval line.kan --data wide.csv --target y",
        1,
        &["wide.csv", "1 inputs"],
    );
    desk.fails(
        "predict line.kan --data wide.csv",
        1,
        &["wide.csv", "1 inputs"],
    );
    let text = desk.text("inspect line.kan");
    assert!(
        !text.contains('\u{1b}') && !text.contains('\u{7}'),
        "{text:?}"
    );
}

#[test]
fn bad_data_are_named_and_nothing_is_written() {
    let desk = Desk::new();
    let good = table(12);
    let with = |line: usize, text: &str| {
        let mut lines: Vec<&str> = good.lines().collect();
        lines[line - 1] = text;
        lines.join("\n")
    };
    let fails = |name: &str, content: &[u8], fragments: &[&str]| {
        desk.file(name, content);
        for options in ["", "--json", "--width 2,1,1 --grid 3"] {
            let arguments = format!("train {name} --target y --out run {options}");
            desk.fails(&arguments, 1, &[&[name], fragments].concat());
        }
    };
    fails(
        "nan.csv",
        with(4, "0.1,nan,1").as_bytes(),
        &["row 4", "'b'", "nan"],
    );
    fails(
        "inf.csv",
        with(4, "0.1,2,-inf").as_bytes(),
        &["row 4", "'y'", "inf"],
    );
    fails(
        "empty_cell.csv",
        with(7, "0.1,,1").as_bytes(),
        &["row 7", "'b'", "empty"],
    );
    fails(
        "word.csv",
        with(9, "often,2,1").as_bytes(),
        &["row 9", "'a'", "often"],
    );
    fails(
        "ragged.csv",
        with(5, "1,2").as_bytes(),
        &["row 5", "2", "3"],
    );
    fails("few.csv", table(9).as_bytes(), &["9", "10"]);
    fails("nothing.csv", b"", &["empty"]);
    fails("header.csv", b"a,b,y\n", &["0", "10"]);
    fails("binary.csv", &[0xFF; 40], &["UTF-8"]);
    fails(
        "no_y.csv",
        good.replacen('y', "z", 1).as_bytes(),
        &["'y'", "'z'"],
    );
    fails("twice.csv", good.replacen('b', "a", 1).as_bytes(), &["'a'"]);
    fails(
        "semicolon.csv",
        good.replace(',', ";").as_bytes(),
        &["semicolons"],
    );
    let constant: String = good
        .lines()
        .enumerate()
        .map(|(k, line)| match (k, line.rsplit_once(',')) {
            (1.., Some((inputs, _))) => format!("{inputs},0.5\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    fails("constant.csv", constant.as_bytes(), &["same in every row"]);
    fails(
        "one_class.csv",
        constant.replace(",0.5\n", ",yes\n").as_bytes(),
        &["one class", "yes"],
    );
    // An f32 holds these values, but no sum of several.
    let mut huge = good.replacen("y\n", "huge\n", 1);
    huge = huge.replacen(good.lines().nth(3).unwrap(), "0.1,0.2,-3e38", 1);
    desk.file("huge.csv", &huge);
    desk.fails(
        "train huge.csv --target huge --out run",
        1,
        &["huge.csv", "`huge`", "too large"],
    );
    desk.fails(
        "train huge.csv --target b --out run",
        1,
        &["huge.csv", "`huge`", "too large"],
    );
    desk.fails("train none.csv --target y --out run", 1, &["none.csv"]);
    desk.fails("train . --target y --out run", 1, &["."]);
    desk.file("good.csv", &good);
    desk.fails("train good.csv --target y,y --out run", 1, &["'y' twice"]);
    desk.fails(
        "train good.csv --target a,b,y --out run",
        1,
        &["every column"],
    );
    desk.fails(
        "train good.csv --target y --task classification --out run",
        1,
        &["'y'"],
    );
}

#[test]
fn wrong_options_are_named_and_nothing_is_written() {
    let desk = Desk::new();
    desk.file("xy.csv", table(20));
    let train = "train xy.csv --target y --out run";
    for (options, code, fragments) in [
        ("--width 3,1", 1, ["--width 3,1", "2 inputs"]),
        ("--width 2,0,1", 1, ["--width", "1 to"]),
        ("--width 2,x,1", 2, ["--width", "x"]),
        ("--grid 5,3", 1, ["--grid", "increase"]),
        ("--grid 0", 1, ["--grid", "1 to 2000"]),
        ("--grid 4000000000", 1, ["--grid", "1 to 2000"]),
        ("--degree 9", 1, ["--degree", "1 to 5"]),
        ("--lamb -1", 1, ["--lamb", "negative"]),
        ("--lamb nan", 1, ["--lamb", "negative"]),
        ("--steps 0", 2, ["--steps", "0"]),
        ("--domain 1", 1, ["--domain 1", "LO:HI"]),
        ("--domain 1:0", 1, ["--domain 1:0", "less"]),
        ("--domain -inf:inf", 1, ["--domain -inf:inf", "32-bit"]),
        ("--domain z=0:1", 1, ["--domain z=0:1", "column"]),
        ("--domain a=0:0.5", 1, ["--domain", "`a`"]),
        ("--tables quintic", 2, ["--tables", "quintic"]),
        ("--bits 16", 2, ["--bits", "32"]),
        ("--bits 8", 2, ["--bits", "32"]),
        ("--bits 12", 2, ["--bits", "32"]),
        ("--optimizer lbfgs", 2, ["--optimizer", "lbfgs"]),
        ("--task both", 2, ["--task", "both"]),
        ("--seed -1", 2, ["--seed", "-1"]),
        ("--frobnicate", 2, ["--frobnicate", "kan --help"]),
    ] {
        desk.fails(&format!("{train} {options}"), code, &fragments);
    }
    desk.fails("train xy.csv --out run", 2, &["--target"]);
    desk.fails("train xy.csv --target y", 2, &["--out"]);
    desk.fails("train --target y --out run", 2, &["DATA.csv"]);
    desk.fails("symbolify run", 2, &["symbolify"]);
    desk.fails(
        "eval xy.csv --data xy.csv --on serial:/dev/ttyACM0",
        2,
        &["serial", "host or qemu"],
    );
    desk.fails(
        "eval xy.csv --data xy.csv --on qemu:pdp11",
        2,
        &["qemu:pdp11", "mps2-an386"],
    );
}

#[test]
fn a_folder_that_cannot_be_written_is_found_out_first() {
    let desk = Desk::new();
    desk.file("xy.csv", table(20));
    desk.file("taken", "a file");
    let train = "train xy.csv --target y --width 2,1 --grid 3";
    desk.fails(&format!("{train} --out taken"), 1, &["taken", "file"]);
    desk.fails(
        &format!("{train} --out taken/run"),
        1,
        &["taken/run", "cannot create"],
    );
    desk.fails("demo --no-device --out taken", 1, &["taken", "file"]);
    if Path::new("/proc/self").exists() {
        desk.fails(
            &format!("{train} --out /proc/run"),
            1,
            &["/proc/run", "cannot create"],
        );
    }
    let report = desk.text(&format!("{train} --out deep/down/run"));
    assert!(report.contains("deep/down/run"), "{report}");
    assert_eq!(desk.names("deep/down/run").len(), 3);
}

#[test]
fn what_is_no_model_is_refused_by_its_reason() {
    let desk = Desk::trained();
    let good = desk.bytes("run/model.kan");
    let each = |name: &str, bytes: &[u8], fragments: &[&str]| {
        desk.file(name, bytes);
        for command in [
            "inspect",
            "predict --data xy.csv",
            "eval --data xy.csv --target y",
        ] {
            desk.fails(
                &format!("{command} {name}"),
                1,
                &[&[name], fragments].concat(),
            );
        }
    };
    each("text.kan", b"a,b,y\n1,2,3\n", &["not a KAN model"]);
    each("nothing.kan", b"", &["cut short"]);
    each(
        "cut.kan",
        &good[..good.len() - 1],
        &["cut short", &good.len().to_string()],
    );
    each("longer.kan", &[&good[..], &[0]].concat(), &["bytes after"]);
    let mut newer = good.clone();
    newer[4] = 9;
    each("newer.kan", &newer, &["version 9", "reads version 1"]);
    let mut damaged = good.clone();
    damaged[60] ^= 1;
    each("damaged.kan", &damaged, &["damaged"]);
    desk.fails("inspect none.kan", 1, &["none.kan"]);
    fs::create_dir(desk.path("folder")).unwrap();
    for command in [
        "inspect folder",
        "refine folder --grid 9",
        "prune folder",
        "compile folder",
    ] {
        desk.fails(command, 1, &["folder", "network.json"]);
    }
    fs::remove_file(desk.path("run/model.kan")).unwrap();
    desk.fails(
        "eval run --data xy.csv --target y",
        1,
        &["model.kan", "kan compile run"],
    );
    desk.text("compile run");
    assert_eq!(desk.bytes("run/model.kan"), good);
}

#[test]
fn a_damaged_network_is_refused() {
    let desk = Desk::trained();
    let good: Value = serde_json::from_slice(&desk.bytes("run/network.json")).unwrap();
    let refused = |pointer: &str, value: Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect(pointer) = value;
        desk.file("run/network.json", bad.to_string());
        desk.fails("compile run --out x.kan", 1, &["run/network.json"]);
    };
    let list = |n: usize| Value::from(vec![0.5; n]);
    refused("/format", 2.into());
    refused("/inputs", Value::Array(Vec::new()));
    refused("/inputs/0/hi", (-1e9).into());
    refused("/outputs/0/scale", 0.into());
    refused("/schema/inputs", serde_json::json!(["a"]));
    refused("/schema/target/names", serde_json::json!(["y", "z"]));
    refused("/network/layers", Value::Array(Vec::new()));
    refused("/network/layers/0/outputs", 0.into());
    refused("/network/layers/0/outputs", 7.into());
    refused("/network/layers/0/outputs", u64::MAX.into());
    refused("/network/layers/0/bias", list(2));
    refused("/network/layers/0/edges/0/coef", list(3));
    refused("/network/layers/0/edges/0/scale_base", Value::Null);
    refused("/network/layers/1/grids", Value::Array(Vec::new()));
    refused("/network/layers/1/grids/0/degree", 2.into());
    refused(
        "/network/layers/1/grids/0/breaks",
        serde_json::json!([1.0, 0.0]),
    );
    refused("/training", Value::Null);
    for text in ["", "{}", "[]", "{\"format\":1}", "null", "\u{0}"] {
        desk.file("run/network.json", text);
        desk.fails("compile run --out x.kan", 1, &["run/network.json"]);
    }
    // Figures are not needed to go on, whatever they are.
    desk.file("run/network.json", good.to_string());
    for text in ["", "[]", "7", "{\"stages\": 3}"] {
        desk.file("run/metrics.json", text);
        desk.text("compile run");
    }
    desk.text("refine run --grid 7");
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

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_the_last_checkpoint() {
    let desk = Desk::new();
    desk.file("xy.csv", table(300));
    // A moment for the first grid, minutes for the last.
    let train = "train xy.csv --target y --width 2,5,5,1 --steps 40 --no-prune --out run --grid";
    let interrupt = |options: &str, ready: &dyn Fn(&[u8]) -> bool| {
        let said = desk.path("said.txt");
        let mut child = desk
            .command(&format!("{train} {options}"))
            .stdout(fs::File::create(&said).expect("the folder is writable"))
            .stderr(Stdio::null())
            .spawn()
            .expect("kan starts");
        let start = Instant::now();
        while !ready(&fs::read(&said).expect("it is there")) {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "not so far in a minute"
            );
            assert!(
                child.try_wait().expect("it is our child").is_none(),
                "training has ended"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = child.id().to_string();
        let sent = Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .expect("there is kill");
        assert!(sent.success());
        let status = child.wait().expect("it ends");
        assert!(!status.success(), "{status}");
    };
    // Before the first checkpoint: nothing. The first line of the report follows the folder.
    interrupt("2000", &|said| said.contains(&b'\n'));
    assert!(desk.names("run").is_empty());
    desk.fails("compile run", 1, &["run", "network.json"]);
    // After it: a network that can be gone on from, and no tables of another one.
    let network = || fs::read(desk.path("run/network.json")).unwrap_or_default();
    interrupt("2,2000", &|_| !network().is_empty());
    assert_eq!(desk.names("run"), ["network.json"]);
    desk.fails("eval run --data xy.csv --target y", 1, &["kan compile run"]);
    desk.text("compile run");
    assert_eq!(desk.json("eval run --data xy.csv --target y")["n"], 300);
    // A second training takes the tables of the first away with its own first checkpoint, and what
    // a killed writer has left.
    let first = network();
    desk.file("run/.kan-abc123", "half a file");
    interrupt("2,2000 --seed 1", &|_| {
        !network().is_empty() && network() != first
    });
    assert_eq!(desk.names("run"), ["network.json"]);
    let second: Value = serde_json::from_slice(&network()).expect("whole");
    assert_eq!(second["training"]["seed"], 1);
}

#[test]
fn training_ends_when_a_checkpoint_cannot_be_written() {
    let desk = Desk::new();
    desk.file("xy.csv", table(300));
    fs::create_dir_all(desk.path("run/network.json")).unwrap();
    // Hours of training, but for the first grid.
    let output =
        desk.run("train xy.csv --target y --width 2,9,9,1 --grid 2,1999,2000 --no-prune --out run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("run/network.json"), "{said}");
}

#[test]
fn models_run_on_the_device_bit_for_bit_at_the_estimated_cost() {
    let desk = Desk::trained();
    desk.file("flowers.csv", flowers(60));
    desk.text("train flowers.csv --target kind --width 2,4,3 --grid 3 --no-prune --out flowers");
    desk.text("prune flowers --edge 0:0:1");
    desk.text("prune flowers --edge 1:2:0");
    for (model, data, target) in [("run", "xy.csv", "y"), ("flowers", "flowers.csv", "kind")] {
        for tables in ["cubic", "exact", "linear"] {
            desk.text(&format!(
                "compile {model} --tables {tables} --out model.kan"
            ));
            let eval = format!("eval model.kan --data {data} --target {target}");
            let host = desk.json(&eval);
            let device = desk.json(&format!("{eval} --on qemu"));
            assert_eq!(device["machine"], "mps2-an386");
            let equality = &device["equal_to_host"];
            let outputs = if model == "run" { 60 } else { 180 };
            assert_eq!(
                (&equality["equal"], &equality["of"]),
                (&outputs.into(), &outputs.into())
            );
            for key in ["n", "rmse", "accuracy", "log_loss"] {
                assert_eq!(host.get(key), device.get(key), "{key}");
            }
            let count = &device["instructions"];
            let (min, median, max) = (
                number(&count["min"]),
                number(&count["median"]),
                number(&count["max"]),
            );
            assert!(min <= median && median <= max);
            assert!(min == max || tables == "exact", "{count}");
            let inspected = desk.json("inspect model.kan");
            let estimate = number(&inspected["instructions"]["cortex-m4f"]);
            assert!(
                (estimate / median - 1.0).abs() < 0.05,
                "{estimate} for {count}"
            );
            // The firmware's own type has room for 64 nodes and 8 layers.
            let stack = number(&device["stack_bytes"]);
            let sums = 2.0 * 4.0 * 64.0;
            assert_eq!(
                number(&device["struct_bytes"]) + sums,
                ram_bytes(64, 8) as f64
            );
            assert!(stack >= sums && stack < sums + 512.0, "{stack}");
        }
    }
    let text = desk.text("predict run --data xy.csv --on qemu");
    assert_eq!(text, desk.text("predict run --data xy.csv"));
}

#[test]
fn the_demo_reaches_its_goals() {
    let desk = Desk::new();
    let said = desk.json("demo --out demo");
    assert!(number(&said["test"]["rmse"]) <= 0.01, "{said:#}");
    assert!(number(&said["blob"]["test"]["rmse"]) <= 0.01);
    assert!(number(&said["blob"]["bytes"]) <= 4096.0);
    assert!(
        number(&said["edges"]) < number(&said["edges_before"]),
        "something is pruned"
    );
    assert!(number(&said["polynomial_rmse"]) > 1.0);
    let device = &said["device"];
    assert_eq!(
        device["equal_to_host"],
        serde_json::json!({ "equal": 1000, "of": 1000 })
    );
    assert_eq!(device["rmse"], said["blob"]["test"]["rmse"]);
    has_keys(&device["instructions"], &["min", "median", "max"]);
    assert_eq!(
        desk.names("demo"),
        ["metrics.json", "model.kan", "network.json"]
    );
    // It can be gone on from without any file.
    assert_eq!(desk.json("compile demo")["bytes"], said["blob"]["bytes"]);
}

#[test]
fn the_demo_does_without_a_device() {
    let desk = Desk::new();
    // No emulator, no toolchain.
    let output = desk
        .command("demo")
        .env("PATH", desk.path(""))
        .output()
        .expect("kan starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for fragment in [
        "qemu-system-arm",
        "°C",
        "cubic polynomial",
        "edges",
        "kan train DATA.csv",
    ] {
        assert!(said.contains(fragment), "{fragment}: {said}");
    }
    let install = said.lines().find(|line| line.contains("apt-get install"));
    assert!(
        install.is_some_and(|line| line.contains("rustup target add")),
        "{said}"
    );
    assert!(
        desk.entries().is_empty(),
        "without --out nothing is written"
    );
}
