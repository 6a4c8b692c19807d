//! `kan bench paper`: what it prints and what it refuses. How well training does is not tested here.

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
    desk.fails("bench device", 2, &["device"]);
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
