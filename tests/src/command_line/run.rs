//! `kan refine`, `prune` and `compile`: a run that is changed or compiled again.

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use super::resume::noisy;
use super::{Desk, flowers, number, table};

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
    let layer = u64::MAX;
    desk.fails(&format!("prune run --node {layer}:0"), 1, &["hidden"]);
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
    // Without a kind a limit chooses among all.
    let said = desk.json("compile run --max-flash 1000 --max-instructions 4000@m0 --out small.kan");
    let tried = said["alternatives"].as_array().unwrap();
    assert_eq!(tried.len(), 10);
    for kind in tried {
        let Some(bytes) = kind["bytes"].as_f64() else {
            assert!(kind["reason"].is_string(), "{kind}");
            continue;
        };
        assert!(bytes <= 1000.0 && number(&kind["instructions"]["cortex-m0"]) <= 4000.0);
        assert!(kind["score"]["rmse"].is_number());
    }
    let chosen: Vec<_> = tried.iter().filter(|kind| kind["chosen"] == true).collect();
    assert_eq!(chosen.len(), 1);
    assert_eq!(
        (&chosen[0]["tables"], &chosen[0]["bits"]),
        (&said["tables"], &said["bits"])
    );
    let inspected = desk.json("inspect small.kan");
    assert_eq!(inspected["bits"], said["bits"]);
    let of_sixteen = desk.json("compile run --bits 16 --max-flash 1000 --out small.kan");
    assert_eq!(of_sixteen["bits"], 16);
    assert_eq!(of_sixteen["alternatives"].as_array().unwrap().len(), 3);
    let predicted = desk.text("predict small.kan --data xy.csv");
    assert_eq!(
        predicted.lines().count(),
        desk.text("predict run --data xy.csv").lines().count()
    );
    for (option, code) in [
        ("--max-instructions 5", 1),
        ("--max-instructions 0", 2),
        ("--max-instructions -1", 2),
        ("--max-instructions many", 2),
        ("--max-instructions 100@z80", 2),
        ("--bits 4", 2),
        ("--tables exact --bits 8", 2),
    ] {
        let named = option
            .split(' ')
            .next()
            .unwrap()
            .replace("--tables", "--bits");
        desk.fails(
            &format!("compile run {option} --out none.kan"),
            code,
            &[&named],
        );
    }
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
    // Compiling needs no data; without them nothing is measured, and --data says where they are.
    fs::rename(desk.path("moved.csv"), desk.path("back.csv")).unwrap();
    assert!(desk.json("compile run")["test"].is_null());
    desk.fails("compile run --data none.csv", 1, &["none.csv"]);
    desk.fails("compile run --data others.csv", 1, &["others.csv", "'y'"]);
    // Rows that the network was not trained on are measured, but not remembered as if it was.
    desk.file("more.csv", table(70));
    assert!(number(&desk.json("compile run --data more.csv")["test"]["rmse"]) > 0.0);
    assert!(desk.json("compile run")["test"].is_null());
    let said = desk.json("compile run --data back.csv");
    assert!(number(&said["test"]["rmse"]) > 0.0);
    assert_eq!(desk.json("compile run")["test"], said["test"]);
}

#[test]
fn the_members_of_a_mean_are_pruned_and_refined_one_by_one() {
    let desk = Desk::new();
    desk.file("noisy.csv", noisy(150));
    let said = desk.json("train noisy.csv --target y --grid 3,6 --steps 8 --out mean");
    let members = number(&said["members"]);
    assert!(members > 1.0, "{said:#}");
    let hidden = |said: &Value| number(&said["width"][1]) as usize;
    let widths = || {
        let network: Value =
            serde_json::from_slice(&desk.bytes("mean/network.json")).expect("whole");
        let members = network["training"]["members"].as_array().cloned();
        let members = members.expect("the members are known");
        let hidden: f64 = members.iter().map(|width| number(&width[1])).sum();
        (members.len() as f64, hidden as usize)
    };
    assert_eq!(widths(), (members, hidden(&said)));

    // The last node is one of the last member; its edges go, and no others.
    let last = hidden(&said) - 1;
    let after = desk.json(&format!("prune mean --node 1:{last}"));
    assert_eq!(hidden(&after), last);
    assert_eq!(widths(), (members, last));
    let edge = format!("prune mean --edge 0:0:{last}");
    desk.fails(&edge, 1, &["no such edge"]);
    let after = desk.json(&format!("prune mean --edge 0:0:{}", last - 1));
    assert_eq!(
        number(&after["edges"]) + 1.0,
        number(&after["before"]["edges"])
    );
    let after = desk.json("prune mean --threshold 0.15");
    assert!(number(&after["edges"]) < number(&after["before"]["edges"]));
    assert_eq!(widths(), (members, hidden(&after)));

    let after = desk.json("refine mean --grid 12");
    assert_eq!(after["members"], said["members"]);
    assert!(
        number(&after["train"]["rmse"]) <= number(&after["before"]["train"]["rmse"]),
        "{after:#}"
    );
    // What does not fit the network is not taken for its members: it is trained as one.
    let mut network: Value =
        serde_json::from_slice(&desk.bytes("mean/network.json")).expect("whole");
    network["training"]["members"] = serde_json::json!([[2, 1, 1], [], [7, u64::MAX, 1]]);
    desk.file("mean/network.json", network.to_string());
    let after = desk.json("refine mean --grid 24");
    assert_eq!(after["members"], 1);
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
