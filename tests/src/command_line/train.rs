//! `kan train`: what it leaves, what it refuses, and what is left when it is interrupted.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::resume::noisy;
use super::{Desk, cells, has_keys, number, numbers, table};
use crate::idx;

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
    // A mean of networks that are trained side by side.
    desk.file("noisy.csv", noisy(150));
    let train = |out: &str, seed: u64, threads: &str| {
        let data = if out.starts_with("mean") {
            "noisy.csv --grid 3,6 --steps 8"
        } else {
            "xy.csv"
        };
        let arguments = format!("train {data} --target y --seed {seed} --out {out}");
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
    let mean = train("mean", 1, "1");
    let said: Value = serde_json::from_slice(&desk.bytes("mean/metrics.json")).expect("JSON");
    assert!(number(&said["members"]) > 1.0);
    assert!(mean == train("mean2", 1, "2"), "a mean, two threads");
    assert!(mean == train("mean7", 1, "7"), "a mean, seven threads");
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
    assert_eq!(number(&network["training"]["settings"]["grid_eps"]), 0.5);
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

/// `images` and `labels`: pictures of 4 × 4 pixels, mostly black, with a bright row 0, 1 or 2.
fn pictures(desk: &Desk, count: usize) {
    let mut number = numbers();
    let class: Vec<u8> = (0..count).map(|k| (k % 3) as u8).collect();
    let mut pixels = Vec::new();
    for &class in &class {
        for at in 0..16 {
            let bright = at / 4 == usize::from(class) && number() < 0.9;
            pixels.push(if bright {
                100 + (155.0 * number()) as u8
            } else {
                0
            });
        }
    }
    desk.file("images", idx::packed(&idx::images(count, 4, 4, &pixels)));
    desk.file("labels", idx::labels(&class));
}

#[test]
fn images_and_labels_are_a_data_set_for_every_command() {
    let desk = Desk::new();
    pictures(&desk, 300);
    let trained = desk
        .json("train images,labels --width 16,8,3 --grid 4 --optimizer adamw --steps 20 --out run");
    assert_eq!(trained["optimizer"], "adamw");
    assert_eq!(trained["optimizer_reason"], Value::Null);
    assert_eq!(trained["targets"], serde_json::json!(["label"]));
    assert_eq!(trained["train_rows"], 240);
    assert!(number(&trained["test"]["accuracy"]) > 0.9, "{trained:#}");

    let evaluated = desk.json("eval run --data images,labels --target label");
    assert_eq!(evaluated["n"], 300);
    assert!(number(&evaluated["accuracy"]) > 0.9);
    let again = desk.json("eval run/model.kan --data images,labels --target label");
    assert_eq!(again["accuracy"], evaluated["accuracy"]);

    let text = desk.text("predict run --data images,labels");
    let rows = cells(&text);
    assert_eq!(rows[0], ["label", "label_predicted", "p_0", "p_1", "p_2"]);
    let right = rows[1..].iter().filter(|row| row[0] == row[1]).count();
    assert_eq!(right as f64 / 300.0, number(&evaluated["accuracy"]));
    let text = desk.text("predict run --data images");
    let alone = cells(&text);
    assert_eq!(alone[0], ["label", "p_0", "p_1", "p_2"]);
    assert!(
        alone
            .iter()
            .skip(1)
            .zip(&rows[1..])
            .all(|(alone, row)| alone[..] == row[1..])
    );

    // The data are found again, and trained on by the same method.
    let refined = desk.json("refine run --grid 8");
    assert_eq!(refined["optimizer"], "adamw");
    assert_eq!(refined["grid"], 8);

    desk.fails("train images --out other", 1, &["images", "without labels"]);
    desk.fails(
        "train images,labels --target r0c0 --out other",
        1,
        &["'r0c0'", "'label'"],
    );
    desk.fails(
        "train labels,images --out other",
        1,
        &["labels", "IMAGES,LABELS"],
    );
    desk.file("few", idx::labels(&[1; 299]));
    desk.fails(
        "train images,few --out other",
        1,
        &["few: 299 labels", "300"],
    );
    desk.fails("eval run --data images,few", 1, &["few: 299 labels"]);
    desk.fails("train images,none --out other", 1, &["none: cannot read"]);
}

#[test]
fn every_optimizer_learns_and_is_named() {
    let desk = Desk::new();
    desk.file("xy.csv", table(200));
    for (optimizer, options, least) in [
        ("lm", "--grid 3,6", 0.999),
        ("lbfgs", "--grid 3,6 --steps 400", 0.99),
        ("adamw", "--grid 5 --steps 300 --no-prune", 0.9),
    ] {
        let metrics = desk.json(&format!(
            "train xy.csv --target y --width 2,4,1 --optimizer {optimizer} {options} --out {optimizer}"
        ));
        let named = metrics["optimizer"].as_str().expect("a word");
        assert!(named.starts_with(optimizer), "{named}");
        let r2 = number(&metrics["test"]["r2"]);
        assert!(r2 > least, "{optimizer}: R² {r2}");
    }
    let alone = desk.json("train xy.csv --target y --optimizer adamw --steps 2 --out alone");
    assert_eq!(alone["width_before"], serde_json::json!([2, 64, 1]));
    assert_eq!(alone["grid"], 5);
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
        ("--bits 16 --tables exact", 2, ["--bits 16", "exact"]),
        ("--bits 8 --tables exact", 2, ["--bits 8", "exact"]),
        ("--bits 12", 2, ["--bits", "32"]),
        ("--optimizer sgd", 2, ["--optimizer", "sgd"]),
        ("--optimizer adamw --lamb 0.1", 1, ["--lamb", "AdamW"]),
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
        "eval xy.csv --data xy.csv --on serial:",
        2,
        &["serial:", "serial:PORT"],
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

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_the_last_checkpoint() {
    let desk = Desk::new();
    // With noise, which no number of steps learns.
    desk.file("xy.csv", noisy(300));
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
        // Not INT: a shell has its background jobs, and what they start, ignore that.
        let sent = Command::new("kill")
            .args(["-TERM", &pid])
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
    assert_eq!(second["training"]["settings"]["seed"], 1);
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
