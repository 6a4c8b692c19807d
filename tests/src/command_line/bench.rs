//! `kan bench`: what it prints and what it refuses. How well training does is not tested here.

use std::fs;

use super::{Desk, has_keys, number};

#[test]
fn the_bench_measures_what_it_is_asked_for() {
    let desk = Desk::new();
    let said = desk.json("bench paper --only J0 --seeds 2 --seed 3");
    assert_eq!(
        (&said["seeds"], &said["first_seed"]),
        (&2.into(), &3.into())
    );
    has_keys(
        &said,
        &["version", "threads", "counts", "not_measured", "seconds"],
    );
    let rows = said["rows"].as_array().expect("a list");
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((&row["name"], &row["group"]), (&"j0".into(), &"toy".into()));
    assert_eq!(
        row["goal"],
        serde_json::json!({ "measure": "rmse", "value": 4e-7 })
    );
    has_keys(
        row,
        &[
            "formula",
            "ranges",
            "width",
            "grids",
            "degree",
            "rows",
            "median",
            "best",
            "met",
            "seconds_goal",
            "seconds",
            "cpu_seconds",
            "seconds_met",
        ],
    );
    let trials = row["trials"].as_array().expect("a list");
    let errors: Vec<f64> = trials.iter().map(|trial| number(&trial["rmse"])).collect();
    assert_eq!(number(&row["median"]), 0.5 * (errors[0] + errors[1]));
    assert_eq!(number(&row["best"]), errors[0].min(errors[1]));
    assert_eq!(trials[1]["seed"], 4);
    has_keys(
        &trials[0],
        &["seconds", "cpu_seconds", "width", "grid", "parameters"],
    );
    // The same seed gives the same error.
    let again = desk.json("bench paper --only j0 --seeds 1 --seed 4");
    assert_eq!(number(&again["rows"][0]["median"]), errors[1]);

    // A table that can be pasted: a head, a rule, a row; then what was counted.
    let text = desk.text("bench paper --only scaling --seeds 1");
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("| problem |") && lines[1].starts_with("|---|"),
        "{text}"
    );
    assert!(
        lines[2].starts_with("| scaling | [2,1,1] | slope -4"),
        "{text}"
    );
    let cells = |line: &str| line.matches('|').count();
    assert!(
        lines[..3].iter().all(|line| cells(line) == cells(lines[1])),
        "{text}"
    );
    assert!(desk.entries().is_empty(), "nothing is written");
}

#[test]
fn the_bench_says_what_it_could_not_measure() {
    let desk = Desk::new();
    let said = desk.json("bench paper --only airfoil,wifi_localization --seeds 1");
    let missing = said["not_measured"].as_array().expect("a list");
    assert_eq!(missing.len(), 2);
    assert!(
        missing[0]["reason"].to_string().contains("--data DIR"),
        "{said}"
    );
    fs::create_dir(desk.path("sets")).expect("writable");
    let text = desk.text("bench paper --only airfoil --data sets");
    assert!(text.contains("no folder sets/airfoil"), "{text}");

    desk.fails(
        "bench paper --only nonsense",
        2,
        &["nonsense", "exp-sin", "pendigits"],
    );
    desk.fails("bench paper --only ,", 2, &["--only"]);
    desk.fails("bench paper --seeds 0", 2, &["--seeds"]);
    desk.fails("bench paper --data nowhere", 1, &["nowhere"]);
    desk.fails("bench pencil", 2, &["pencil"]);
    desk.file("sets/airfoil", "a file");
    desk.text("bench paper --only airfoil --data sets");
    fs::create_dir(desk.path("sets/concrete")).expect("writable");
    desk.fails(
        "bench paper --only concrete --data sets",
        1,
        &["concrete", "train.csv"],
    );
    desk.file(
        "sets/concrete/train.csv",
        format!("a,target\n1,2\n{}", "1,word\n".repeat(12)),
    );
    desk.fails(
        "bench paper --only concrete --data sets",
        1,
        &["train.csv", "row 3", "target"],
    );
}

/// On one core: a model with tables of every kind, and the KAN and the perceptron of a data set.
#[test]
fn the_bench_of_devices_counts_and_compares() {
    let desk = Desk::new();
    let said = desk.json("bench device --machine mps2-an386 --only 4-8-3,iris");
    has_keys(
        &said,
        &[
            "version",
            "rustc",
            "qemu",
            "not_measured",
            "growth",
            "flash",
            "accuracy",
            "seconds",
        ],
    );
    let rows = said["rows"].as_array().expect("a list");
    assert_eq!(rows.len(), 10, "every kind of tables");
    for row in rows {
        has_keys(
            row,
            &[
                "machine",
                "core",
                "model",
                "width",
                "edges",
                "tables",
                "bits",
                "instructions",
                "per_edge",
                "blob_bytes",
                "text_bytes",
                "stack_bytes",
                "max_abs_error",
                "flags",
            ],
        );
        assert_eq!((&row["core"], &row["edges"]), (&"M4F".into(), &56.into()));
        assert_eq!(row["equal_to_host"], true, "{row}");
        let [min, median, max] =
            ["min", "median", "max"].map(|of| number(&row["instructions"][of]));
        // Only the exponential of the exact tables takes more for some inputs than for others.
        match row["tables"] == "exact" {
            true => assert!(min <= median && median <= max, "{row}"),
            false => assert!(min == max && median == max, "{row}"),
        }
        // An edge takes an addition at least.
        assert!(
            number(&row["per_edge"]) == median / 56.0 && median > 56.0,
            "{row}"
        );
        assert!(
            number(&row["text_bytes"]) > 1000.0 && number(&row["stack_bytes"]) > 0.0,
            "{row}"
        );
        // Steps are far from any smooth network, and nothing else is.
        let error = number(&row["max_abs_error"]);
        let most = if row["tables"] == "step" { 1.0 } else { 0.1 };
        assert!(error > 0.0 && error < most, "{row}");
    }
    let peers = said["peers"].as_array().expect("a list");
    let engines: Vec<&str> = peers
        .iter()
        .map(|peer| peer["engine"].as_str().expect("text"))
        .collect();
    assert_eq!(engines, ["kan-core", "kan-core", "microflow"]);
    for peer in peers {
        has_keys(
            peer,
            &[
                "model",
                "measure",
                "instructions",
                "flash_bytes",
                "small_flash_bytes",
                "ram_bytes",
            ],
        );
        // A third of the flowers is of each class.
        assert!(number(&peer["error"]) < 0.3, "{peer}");
    }
    assert_eq!(peers[2]["as_good"], true);
}

#[test]
fn the_bench_of_devices_refuses_what_it_cannot_do() {
    let desk = Desk::new();
    desk.fails(
        "bench device --machine mps2-an999",
        2,
        &["mps2-an999", "mps2-an386"],
    );
    desk.fails(
        "bench device --only nonsense",
        2,
        &["nonsense", "growth", "pendigits"],
    );
    desk.fails(
        "bench device --only accuracy --data nowhere",
        1,
        &["nowhere"],
    );
    // What integers add needs no machine. Every row tells whether it is as good as it should be.
    let said = desk.json("bench device --only accuracy");
    let rows = said["accuracy"].as_array().expect("a list");
    assert_eq!(rows.len(), 12, "two kinds of tables for each data set");
    for row in rows {
        let (network, device) = (number(&row["network"]), number(&row["device"]));
        assert!(device > 0.0 && network > 0.0, "{row}");
    }
    assert_eq!(
        (said["rows"].clone(), said["peers"].clone()),
        (serde_json::json!([]), serde_json::json!([]))
    );
}
