//! `kan predict`, `eval` and `inspect`: a model that is used, on the host and on the device.

use std::fs;

use kan_core::blob::{Aligned, Head, LayerMessage, Message, Node, Scalar};
use kan_core::{Model, ModelBytes, ram_bytes};

use serde_json::Value;

use super::{Desk, cells, flowers, has_keys, number, table};
use crate::server;

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
    let classes = ["cortex-m4f", "cortex-m3", "cortex-m0"];
    let counts = classes.map(|class| number(&said["instructions"][class]));
    assert!(counts[0] > 0.0 && counts.is_sorted(), "{counts:?}");

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
fn a_device_that_differs_from_the_host_is_a_failure() {
    let desk = Desk::trained();
    let liar = server::liar(&desk.bytes("run/model.kan"));
    let on = format!("--on serial:{}", liar.port);
    let output = desk.run(&format!("eval run --data xy.csv --target y {on} --json"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    let expected = "error: desk: 1 of 60 outputs are not those of the host";
    assert_eq!(last, expected, "{said}");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["equal_to_host"]["equal"], 59);
}

#[test]
fn a_board_at_a_serial_port_is_used_like_any_other_place() {
    let desk = Desk::trained();
    // Nothing in flash: the model is sent to the RAM.
    let board = server::Board::plug_in(&[]);
    let on = format!("--on serial:{}", board.port);
    let eval = "eval run --data xy.csv --target y";
    let (host, device) = (desk.json(eval), desk.json(&format!("{eval} {on}")));
    for key in ["n", "rmse", "r2", "outside_domain", "network"] {
        assert_eq!(host.get(key), device.get(key), "{key}");
    }
    assert_eq!(device["machine"], "desk");
    assert_eq!(
        device["equal_to_host"],
        serde_json::json!({ "equal": 60, "of": 60 })
    );
    // 45 ticks, of which 3 are around nothing.
    let cost = serde_json::json!({ "min": 42, "median": 42, "max": 42 });
    assert_eq!(
        (&device["cycles"], &device["clock_hz"]),
        (&cost, &1_000_000.into())
    );
    assert_eq!(device.get("instructions"), None);
    let said = desk.text(&format!("{eval} {on}"));
    assert!(
        said.contains("42 cycles per inference, whatever the input: 42.00 µs at 1 MHz"),
        "{said}"
    );
    let predict = "predict run --data xy.csv";
    assert_eq!(desk.text(predict), desk.text(&format!("{predict} {on}")));

    let silent = serialport::TTYPort::pair().expect("the system has pseudo-terminals");
    let port = serialport::SerialPort::name(&silent.1).expect("they have names");
    let missing = "/dev/no-such-port";
    desk.fails(
        &format!("{eval} --on serial:{missing}"),
        1,
        &[missing, "No such file"],
    );
    drop(silent.1);
    desk.fails(
        &format!("{eval} --on serial:{port}"),
        1,
        &[&port, "does not answer"],
    );
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
                (estimate / median - 1.0).abs() < 0.06,
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
