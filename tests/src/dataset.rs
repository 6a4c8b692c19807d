//! CSV files in: what is read, what is refused and how the refusal reads, and how rows are split.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use kan_train_host::dataset::{
    Dataset, DatasetError, FEWEST_TRAINING_ROWS, Inputs, Schema, Target, TargetSchema, Task,
};

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| name.to_string()).collect()
}

fn parse(text: &str, target: &[&str], task: Option<Task>) -> Result<Dataset, DatasetError> {
    Dataset::from_reader("data.csv", text.as_bytes(), &names(target), task)
}

/// A file of `rows` lines below `header`, each written by `cells` from its number, counted from 0.
fn table(header: &str, rows: usize, cells: impl Fn(usize) -> String) -> String {
    let mut text = format!("{header}\n");
    for k in 0..rows {
        text += &cells(k);
        text.push('\n');
    }
    text
}

/// Twelve rows of `a,b,y`, all fractions, with one line (as an editor counts) replaced.
fn with_line(line: usize, replacement: &str) -> String {
    let good = table("a,b,y", 12, |k| format!("{k}.25,{}.5,{}.125", 2 * k, 3 * k));
    let mut lines: Vec<&str> = good.lines().collect();
    lines[line - 1] = replacement;
    lines.join("\n")
}

#[track_caller]
fn refused(result: Result<Dataset, DatasetError>, fragments: &[&str]) {
    says(
        &result.expect_err("this file must be refused").to_string(),
        fragments,
    );
}

#[track_caller]
fn says(message: &str, fragments: &[&str]) {
    assert_eq!(message.lines().count(), 1, "one line: {message:?}");
    assert!(
        !message.chars().any(char::is_control),
        "printable: {message:?}"
    );
    assert!(message.len() < 400, "short: {message:?}");
    for fragment in fragments {
        assert!(
            message.contains(fragment),
            "{message:?} does not name {fragment:?}"
        );
    }
}

fn saved(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn quantities(data: &Dataset) -> &[f64] {
    match &data.target {
        Target::Regression { y, .. } => y,
        Target::Classification { .. } => panic!("read as a classification"),
    }
}

fn classes(data: &Dataset) -> (&[String], &[usize]) {
    match &data.target {
        Target::Classification { labels, class, .. } => (labels, class),
        Target::Regression { .. } => panic!("read as a regression"),
    }
}

// ---- what is read

#[test]
fn all_columns_but_the_targets_are_inputs() {
    let text = table("y2,a,y1,b", 10, |k| {
        format!("{k}.5,{},-{k}e-1,{}", 10 + k, 20 + k)
    });
    let data = parse(&text, &["y1", "y2"], None).unwrap();
    assert_eq!(data.source, "data.csv");
    assert_eq!(data.input_names, ["a", "b"]);
    assert_eq!((data.rows, data.inputs(), data.outputs()), (10, 2, 2));
    assert_eq!(data.row(3), [13.0, 23.0]);
    assert_eq!(
        quantities(&data)[6..8],
        [-0.3, 3.5],
        "targets stand in the order of --target"
    );
    assert_eq!(
        data.schema(),
        Schema {
            inputs: names(&["a", "b"]),
            target: TargetSchema::Regression {
                names: names(&["y1", "y2"])
            },
        }
    );
}

#[test]
fn numbers_are_read_to_the_last_bit() {
    let values = [
        0.1,
        -1.0 / 3.0,
        f64::MIN_POSITIVE,
        1e38,
        123456789.12345679,
        5e-324,
    ];
    let text = table("a,y", 12, |k| format!("{},{}.5", values[k % 6], k));
    let data = parse(&text, &["y"], None).unwrap();
    for k in 0..12 {
        assert_eq!(data.row(k)[0].to_bits(), values[k % 6].to_bits());
    }
    let zero = parse(&table("a,y", 10, |k| format!("-0.0,{k}.5")), &["y"], None).unwrap();
    assert_eq!(zero.x[0].to_bits(), 0, "a negative zero is a zero");
}

#[test]
fn the_dress_of_a_file_does_not_matter() {
    let plain = table("a,my b,y", 10, |k| format!("{k},{k}.5,{k}.25"));
    let expected = parse(&plain, &["y"], None).unwrap();
    let dressed = [
        ("byte order mark", format!("\u{feff}{plain}")),
        ("CRLF", plain.replace('\n', "\r\n")),
        ("CR", plain.replace('\n', "\r")),
        ("no end of the last line", plain.trim_end().to_string()),
        ("blank lines", plain.replace('\n', "\n\n") + "\n   \n\n"),
        (
            "spaces",
            plain.replace(',', " ,\t ").replace('\n', "  \n ") + "\n",
        ),
        ("no-break spaces", plain.replace(',', "\u{a0},\u{a0}")),
        ("quotes", {
            let rows = plain.trim_end().split('\n');
            let quoted = rows.map(|row| format!("\"{}\"\n", row.replace(',', "\",\"")));
            quoted.collect()
        }),
        (
            "plus signs and exponents",
            plain.replace(".5,", ".50e+00,").replace("\n1,", "\n+1,"),
        ),
    ];
    for (dress, text) in dressed {
        assert_eq!(
            parse(&text, &["y"], None).expect(dress),
            expected,
            "{dress}"
        );
    }
}

#[test]
fn task_follows_from_the_target() {
    let with = |cell: &dyn Fn(usize) -> String| table("a,y", 60, |k| format!("{k},{}", cell(k)));
    let is = |text: &str, task: Task| {
        assert_eq!(parse(text, &["y"], None).unwrap().task(), task);
    };
    is(&with(&|k| (k % 20).to_string()), Task::Classification);
    is(&with(&|k| (k % 21).to_string()), Task::Regression);
    is(&with(&|k| format!("{}.0", k % 2)), Task::Classification);
    is(&with(&|k| format!("{}.5", k % 2)), Task::Regression);
    is(&with(&|k| format!("-{}", k % 3)), Task::Classification);
    is(
        &with(&|k| ["on", "off"][k % 2].to_string()),
        Task::Classification,
    );
    is(&with(&|k| format!("word {}", k / 2)), Task::Classification);
    is(
        &with(&|k| ["inf", "susceptible"][k % 2].to_string()),
        Task::Classification,
    );

    let numbers = with(&|k| (k % 2).to_string());
    let forced = parse(&numbers, &["y"], Some(Task::Regression)).unwrap();
    assert_eq!(quantities(&forced)[..4], [0.0, 1.0, 0.0, 1.0]);
    let fractions = with(&|k| ["0.5", "0.25"][k % 2].to_string());
    let forced = parse(&fractions, &["y"], Some(Task::Classification)).unwrap();
    assert_eq!(classes(&forced).0, ["0.25", "0.5"]);
    let mixed = with(&|k| ["1", "1b", "10"][k % 3].to_string());
    let forced = parse(&mixed, &["y"], Some(Task::Classification)).unwrap();
    assert_eq!(classes(&forced).0, ["1", "10", "1b"]);

    let two = table("a,y,z", 10, |k| format!("{k},{},{}", k % 2, k % 3));
    assert_eq!(
        parse(&two, &["y", "z"], None).unwrap().task(),
        Task::Regression
    );
}

#[test]
fn labels_are_sorted_and_one_spelling_each() {
    let cells = ["10", "9", " 9.0", "-2", "1e1", "+9"];
    let data = parse(
        &table("a,y", 12, |k| format!("{k},{}", cells[k % 6])),
        &["y"],
        None,
    )
    .unwrap();
    let (labels, class) = classes(&data);
    assert_eq!(labels, ["-2", "9", "10"]);
    assert_eq!(class[..6], [2, 1, 1, 0, 2, 1]);
    assert_eq!(data.outputs(), 3);

    let cells = ["setosa", "\"Ünal, B.\"", "setosa ", "Virginica"];
    let data = parse(
        &table("a,y", 12, |k| format!("{k},{}", cells[k % 4])),
        &["y"],
        None,
    )
    .unwrap();
    let (labels, class) = classes(&data);
    assert_eq!(labels, ["Virginica", "setosa", "Ünal, B."]);
    assert_eq!(class[..4], [1, 2, 1, 0]);
}

#[test]
fn thermocouple_is_inside() {
    let (train, test) = Dataset::thermocouple();
    assert_eq!((train.rows, test.rows), (4000, 1000));
    assert_eq!(train.schema(), test.schema());
    assert_eq!(train.input_names, ["mv", "cold_junction_C"]);
    // Measured is E(t) − E(cold). From the standard's table for type K: E(−200 °C) = −5.891 mV,
    // E(−20) = −0.778, E(70) = 2.851, E(1372) = 54.886; from −20 to 70 °C, 38.6 to 41.5 µV/°C.
    for (row, &t) in (0..train.rows)
        .map(|row| train.row(row))
        .zip(quantities(&train))
    {
        let (mv, cold) = (row[0], row[1]);
        assert!((-20.0..=70.0).contains(&cold) && (-200.0..=1372.0).contains(&t));
        assert!((-5.891 - 2.851..=54.886 + 0.778).contains(&mv), "{mv} mV");
        if (t - cold).abs() < 5.0 {
            assert!(
                (mv - 0.04 * (t - cold)).abs() < 0.01,
                "{mv} mV at {t} °C over {cold} °C"
            );
        }
    }
}

// ---- what is refused

#[test]
fn a_bad_cell_is_named_by_file_row_and_column() {
    for (line, replacement, fragments) in [
        (
            2,
            "abc,1,2.5",
            ["data.csv, row 2", "'a'", "'abc' is not a number"],
        ),
        (
            5,
            "1,NaN,2.5",
            ["data.csv, row 5", "'b'", "'NaN' is not a finite"],
        ),
        (
            5,
            "1,-inf,2.5",
            ["data.csv, row 5", "'b'", "'-inf' is not a finite"],
        ),
        (
            6,
            "1,1e39,2.5",
            ["data.csv, row 6", "'b'", "'1e39' is not a finite"],
        ),
        (
            6,
            "1,1e999,2.5",
            ["data.csv, row 6", "'b'", "'1e999' is not a finite"],
        ),
        (7, ",2,2.5", ["data.csv, row 7", "'a'", "empty"]),
        (7, "1,\"  \",2.5", ["data.csv, row 7", "'b'", "empty"]),
        (
            8,
            "1,\"2,5\",2.5",
            ["data.csv, row 8", "'b'", "'2,5' is not a number"],
        ),
        (
            8,
            "1,0x10,2.5",
            ["data.csv, row 8", "'b'", "'0x10' is not a number"],
        ),
        (9, "1,2,", ["data.csv, row 9", "'y'", "empty"]),
        (
            9,
            "1,2,nan",
            ["data.csv, row 9", "'y'", "'nan' is not a finite"],
        ),
        (
            13,
            "1,2,inf",
            ["data.csv, row 13", "'y'", "'inf' is not a finite"],
        ),
        (
            13,
            "1,2,N/A",
            ["data.csv, row 13", "'y'", "'N/A' is not a number"],
        ),
        (13, "1,\0,2", ["data.csv, row 13", "'b'", "is not a number"]),
    ] {
        refused(
            parse(&with_line(line, replacement), &["y"], None),
            &fragments,
        );
        let text = with_line(line, replacement);
        refused(parse(&text, &["y"], Some(Task::Regression)), &fragments);
    }
}

#[test]
fn rows_are_counted_as_an_editor_counts() {
    let text = with_line(9, "1,x,2.5");
    let shown = ["row 9,", "'b'", "'x'"];
    refused(parse(&text, &["y"], None), &shown);
    refused(parse(&text.replace('\n', "\r\n"), &["y"], None), &shown);
    refused(parse(&text.replace('\n', "\r"), &["y"], None), &shown);
    refused(parse(&format!("\u{feff}{text}"), &["y"], None), &shown);
    let doubled = ["row 17,", "'b'", "'x'"];
    refused(parse(&text.replace('\n', "\n\n"), &["y"], None), &doubled);
    refused(
        parse(&text.replace('\n', "\r\n\r\n"), &["y"], None),
        &doubled,
    );
    refused(parse(&text.replace('\n', "\n \n"), &["y"], None), &doubled);
    // A target is looked at after all rows are read: the same count.
    let text = with_line(9, "1,2,x").replace('\n', "\r\n\r\n");
    refused(parse(&text, &["y"], None), &["row 17,", "'y'", "'x'"]);
    // A quoted line break is a line too.
    let text = table("a,y", 12, |k| {
        format!("{},\"{}\n\"", if k == 5 { "x" } else { "1" }, k)
    });
    refused(parse(&text, &["y"], None), &["row 12,", "'a'", "'x'"]);
}

#[test]
fn ragged_rows_are_refused() {
    for (cells, count) in [
        ("1", "is 1,"),
        ("1,2", "is 2,"),
        ("1,2,3,4", "is 4,"),
        ("1,2,3,", "is 4,"),
    ] {
        let fragments = ["data.csv, row 4", count, "3 columns"];
        refused(parse(&with_line(4, cells), &["y"], None), &fragments);
    }
}

#[test]
fn headers_that_cannot_be_used_are_refused() {
    let header = |header: &str| with_line(1, header);
    refused(
        parse(&header("a,b,z"), &["y"], None),
        &["data.csv", "no column 'y'", "'a', 'b', 'z'"],
    );
    refused(
        parse(&header("a,a,y"), &["y"], None),
        &["data.csv", "row 1", "'a'", "two columns"],
    );
    refused(
        parse(&header("a, y,y"), &["y"], None),
        &["data.csv", "row 1", "'y'", "two columns"],
    );
    refused(
        parse(&header("a,,y"), &["y"], None),
        &["data.csv", "row 1", "column 2 has no name"],
    );
    refused(
        parse(&header("a,\"b\nc\",y"), &["y"], None),
        &["data.csv", "row 1", "column 2", "line break"],
    );
    refused(
        parse(&header("1.0,2.0,3.5"), &["y"], None),
        &["data.csv", "row 1", "name the columns"],
    );
    refused(
        parse("y\n", &["y"], None),
        &["data.csv", "none is left as an input"],
    );
    refused(
        parse(&header("a,b,y"), &["b", "y", "a"], None),
        &["data.csv", "none is left"],
    );
    refused(
        parse(&header("a,b,y"), &["y", "b", " y "], None),
        &["--target", "'y' twice"],
    );
    refused(parse(&header("a,b,y"), &[], None), &["--target"]);
    refused(
        parse(&header("a,b,y"), &["y", "b"], Some(Task::Classification)),
        &["--task", "--target", "2"],
    );
    refused(
        parse("a;b;y\n1;2;3\n", &["y"], None),
        &["data.csv", "row 1", "commas", "semicolons"],
    );
    refused(
        parse("a\tb\ty\n1\t2\t3\n", &["y"], None),
        &["data.csv", "row 1", "commas", "tabs"],
    );
    let wide = (0..500)
        .map(|k| format!("c{k}"))
        .collect::<Vec<_>>()
        .join(",");
    refused(
        parse(&wide, &["y"], None),
        &["no column 'y'", "and 488 more"],
    );
    refused(
        parse(&"x".repeat(10_000), &["y"], None),
        &["no column 'y'", "…"],
    );
}

#[test]
fn too_little_is_refused() {
    for text in ["", "\n", " \r\n \n", "\u{feff}"] {
        refused(parse(text, &["y"], None), &["data.csv", "empty"]);
    }
    assert_eq!(FEWEST_TRAINING_ROWS, 10);
    for rows in 0..10 {
        let text = table("a,y", rows, |k| format!("{k},{k}.5"));
        refused(
            parse(&text, &["y"], None),
            &["data.csv", &format!("{rows},"), "at least 10"],
        );
    }
    assert_eq!(
        parse(&table("a,y", 10, |k| format!("{k},{k}.5")), &["y"], None)
            .unwrap()
            .rows,
        10
    );
}

#[test]
fn classes_that_cannot_be_learnt_are_refused() {
    let with = |cell: &dyn Fn(usize) -> String| table("a,y", 12, |k| format!("{k},{}", cell(k)));
    let task = Some(Task::Classification);
    refused(
        parse(&with(&|_| "7".into()), &["y"], None),
        &["data.csv", "'y'", "one class", "'7'"],
    );
    refused(
        parse(&with(&|_| "on".into()), &["y"], None),
        &["data.csv", "'y'", "one class", "'on'"],
    );
    refused(
        parse(&with(&|k| format!("id {k}")), &["y"], None),
        &["data.csv", "'y'", "every row"],
    );
    refused(
        parse(&with(&|k| format!("{k}")), &["y"], None),
        &["'y'", "--task regression"],
    );
    let odd = |odd: &'static str| {
        with(&|k| {
            if k == 4 {
                odd.into()
            } else {
                ["on", "off"][k % 2].into()
            }
        })
    };
    refused(
        parse(&odd("\"o\nn\""), &["y"], None),
        &["row 6", "'y'", "'o\\nn'", "line break"],
    );
    refused(
        parse(&odd("o\u{7}n"), &["y"], None),
        &["row 6", "'y'", "control"],
    );
    refused(parse(&odd(""), &["y"], None), &["row 6", "'y'", "empty"]);
    refused(parse(&odd("NaN"), &["y"], task), &["row 6", "'y'", "'NaN'"]);
    refused(
        parse(&odd("7"), &["y"], None),
        &["row 6", "'y'", "'7'", "--task classification"],
    );
    assert_eq!(
        classes(&parse(&odd("7"), &["y"], task).unwrap()).0,
        ["7", "off", "on"]
    );
    let typing_error = with(&|k| {
        if k == 4 {
            "l".into()
        } else {
            (k % 2).to_string()
        }
    });
    refused(
        parse(&typing_error, &["y"], None),
        &["row 6", "'y'", "'l' is not a number"],
    );
    let words = with(&|k| ["on", "off"][k % 2].into());
    refused(
        parse(&words, &["y"], Some(Task::Regression)),
        &["row 2", "'y'", "'on'"],
    );
}

#[test]
fn what_is_no_text_is_refused() {
    let read = |bytes: &[u8]| Dataset::from_reader("data.csv", bytes, &names(&["y"]), None);
    refused(read(b"a,y\n1,2.5\n2,\xE9\n"), &["data.csv, row 3", "UTF-8"]);
    refused(
        read(b"a,y\r\n1,2.5\r\n\xE9,2\r\n"),
        &["data.csv, row 3", "UTF-8"],
    );
    refused(
        read(b"\xFF\xFEa\0,\0y\0\n\0"),
        &["data.csv, row 1", "UTF-8"],
    );
    refused(
        read(b"\x7fELF\x02\x01\x01\0\0\0\0\xff"),
        &["data.csv, row 1", "UTF-8"],
    );
    // Whatever the bytes, an answer: every byte in turn is made every kind of troublemaker.
    let good = with_line(3, "\"1\",2,3.5")
        .replace('\n', "\r\n")
        .into_bytes();
    for at in 0..good.len() {
        for byte in *b"\0\"\r\n,;\xFFx" {
            let mut bytes = good.clone();
            bytes[at] = byte;
            if let Err(fault) = read(&bytes) {
                says(&fault.to_string(), &[]);
            }
            if let Err(fault) = read(&good[..at]) {
                says(&fault.to_string(), &[]);
            }
        }
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let read = |path: &str| Dataset::read(Path::new(path), &names(&["y"]), None);
    refused(read("no/such/file.csv"), &["no/such/file.csv: cannot read"]);
    refused(read("/"), &["/: cannot read"]);
    refused(read("two\nlines.csv"), &["two\\nlines.csv: cannot read"]);
    let file = saved(&with_line(3, "1,2"));
    let path = file.path().to_str().unwrap();
    refused(read(path), &[&format!("{path}, row 3")]);
}

// ---- a file for a model that is there already

#[test]
fn columns_of_a_model_are_found_by_name() {
    let data = parse(&with_line(2, "1,2,3.5"), &["y"], None).unwrap();
    let file = saved("note,y,b,a,b2,\nhello,-1.5,2,3,NaN,\n\"\",7,4,5,x,\n");
    let like = Dataset::read_like(file.path(), &data.schema()).unwrap();
    assert_eq!(
        (like.rows, like.x.as_slice()),
        (2, [3.0, 2.0, 5.0, 4.0].as_slice())
    );
    assert_eq!(quantities(&like), [-1.5, 7.0]);
    assert_eq!(like.schema(), data.schema());
    let inputs = Inputs::read(file.path(), &data.input_names).unwrap();
    assert_eq!(
        (inputs.rows, inputs.names.as_slice()),
        (2, data.input_names.as_slice())
    );
    assert_eq!(inputs.x, like.x);
    assert_eq!(inputs.header, ["note", "y", "b", "a", "b2", ""]);
    assert_eq!(inputs.records[1], vec!["", "7", "4", "5", "x", ""]);

    for (text, fragments) in [
        ("a,y\n1,2\n", ["no column 'b'", "'a', 'y'", ""]),
        ("a,b\n1,2\n", ["no column 'y'", "'a', 'b'", ""]),
        ("a,b,b,y\n1,2,3,4\n", ["row 1", "'b'", "two columns"]),
        ("a,b,y\n", ["too few rows", "0,", "at least 1"]),
        ("a,b,y\n1,2,3\n1,,3\n", ["row 3", "'b'", "empty"]),
        ("a,b,y\n1,2,3\n1,2,x\n", ["row 3", "'y'", "'x'"]),
        ("a,b,y\n1,2,3\n1,2\n", ["row 3", "cells", "3 columns"]),
    ] {
        let file = saved(text);
        let path = file.path().to_string_lossy().into_owned();
        let fault = Dataset::read_like(file.path(), &data.schema())
            .unwrap_err()
            .to_string();
        says(&fault, &fragments);
        says(&fault, &[&path]);
    }
    let file = saved("b,a\n2,1\n");
    assert_eq!(
        Inputs::read(file.path(), &names(&["a", "b"])).unwrap().x,
        [1.0, 2.0]
    );
    let fault = Inputs::read(file.path(), &names(&["a", "c"]))
        .unwrap_err()
        .to_string();
    says(&fault, &["no column 'c'", "'b', 'a'"]);
}

#[test]
fn labels_of_a_model_are_kept() {
    let words = table("a,y", 12, |k| format!("{k},{}", ["on", "off"][k % 2]));
    let schema = parse(&words, &["y"], None).unwrap().schema();
    let file = saved("y,a\non,1\n");
    let like = Dataset::read_like(file.path(), &schema).unwrap();
    assert_eq!(
        classes(&like),
        (names(&["off", "on"]).as_slice(), [1].as_slice())
    );
    let file = saved("y,a\non,1\nOn,1\n");
    let fault = Dataset::read_like(file.path(), &schema)
        .unwrap_err()
        .to_string();
    says(
        &fault,
        &["row 3", "'y'", "'On' is not a class", "'off', 'on'"],
    );
    let file = saved("y,a\non,1\n\"\",1\n");
    says(
        &Dataset::read_like(file.path(), &schema)
            .unwrap_err()
            .to_string(),
        &["row 3", "'y'", "empty"],
    );

    let numbers = table("a,y", 12, |k| format!("{k},{}", k % 3));
    let schema = parse(&numbers, &["y"], None).unwrap().schema();
    let file = saved("y,a\n2.0,1\n 0,1\n+1,3\n");
    let like = Dataset::read_like(file.path(), &schema).unwrap();
    assert_eq!(classes(&like).1, [2, 0, 1]);
    let file = saved("y,a\n3,1\n");
    let fault = Dataset::read_like(file.path(), &schema)
        .unwrap_err()
        .to_string();
    says(
        &fault,
        &["row 2", "'y'", "'3' is not a class", "'0', '1', '2'"],
    );
}

#[test]
fn a_model_without_names_takes_the_other_columns() {
    let file = saved("a,y,b\n1,2,3\n");
    let inputs = Schema::input_names(file.path(), &names(&["y"]), 2).unwrap();
    assert_eq!(inputs, ["a", "b"]);
    assert_eq!(
        Schema::input_names(file.path(), &[], 3).unwrap(),
        ["a", "y", "b"]
    );
    let fault = Schema::input_names(file.path(), &names(&["y"]), 3)
        .unwrap_err()
        .to_string();
    says(&fault, &["is 2,", "3 inputs"]);
    let all = Inputs::read_all(file.path(), 3).unwrap();
    assert_eq!(
        (all.names, all.x),
        (names(&["a", "y", "b"]), vec![1.0, 2.0, 3.0])
    );
    let fault = Inputs::read_all(file.path(), 2).unwrap_err().to_string();
    says(&fault, &["is 3,", "2 inputs"]);
    let fault = Schema::input_names(file.path(), &names(&["z"]), 2)
        .unwrap_err()
        .to_string();
    says(&fault, &["no column 'z'"]);
}

#[test]
fn a_schema_survives_json() {
    let regression = parse(&with_line(2, "1,2,3.5"), &["y", "b"], None)
        .unwrap()
        .schema();
    let words = table("a,y", 12, |k| format!("{k},{}", ["on", "off"][k % 2]));
    let classification = parse(&words, &["y"], None).unwrap().schema();
    for schema in [regression, classification] {
        let text = serde_json::to_string(&schema).unwrap();
        assert_eq!(serde_json::from_str::<Schema>(&text).unwrap(), schema);
    }
    assert_eq!(
        serde_json::to_string(&Task::Regression).unwrap(),
        "\"regression\""
    );
}

// ---- parts and columns

/// Rows that tell their own number and, in a classification, their class.
fn numbered(rows: usize, class: impl Fn(usize) -> usize) -> Dataset {
    let text = table("id,y", rows, |k| format!("{k},class {}", class(k)));
    parse(&text, &["y"], None).unwrap()
}

fn ids(data: &Dataset) -> Vec<usize> {
    data.x.iter().map(|&id| id as usize).collect()
}

#[test]
fn a_subset_keeps_rows_and_labels_together() {
    let data = numbered(12, |k| k % 3);
    let part = data.subset(&[11, 0, 3, 3]);
    assert_eq!((part.rows, ids(&part)), (4, vec![11, 0, 3, 3]));
    assert_eq!(classes(&part), (classes(&data).0, [2, 0, 0, 0].as_slice()));
    assert_eq!(data.subset(&(0..12).collect::<Vec<_>>()), data);
    let two = table("a,b,y,z", 10, |k| format!("{k},1{k},2{k}.5,3{k}.5"));
    let part = parse(&two, &["y", "z"], None).unwrap().subset(&[7, 2]);
    assert_eq!(part.x, [7.0, 17.0, 2.0, 12.0]);
    assert_eq!(quantities(&part), [27.5, 37.5, 22.5, 32.5]);
    assert_eq!(data.subset(&[]).rows, 0);
}

#[test]
fn a_split_is_a_partition_in_proportion() {
    let text = table("id,y", 103, |k| format!("{k},{k}.5"));
    let quantity = parse(&text, &["y"], None).unwrap();
    let class = |k: usize| {
        if k < 60 {
            0
        } else if k < 99 {
            1
        } else {
            2 + (k > 100) as usize
        }
    };
    let labelled = numbered(103, class);
    for (fraction, seed) in [(0.2, 0), (0.2, 1), (0.25, 2), (0.5, 3), (0.01, 4), (0.9, 5)] {
        for data in [&quantity, &labelled] {
            let (first, second) = data.split(fraction, seed);
            assert_eq!(second.rows, (fraction * 103.0).round() as usize);
            let mut all = ids(&first);
            all.extend(ids(&second));
            all.sort_unstable();
            assert_eq!(
                all,
                (0..103).collect::<Vec<_>>(),
                "each row in exactly one part"
            );
            assert_eq!(data.split(fraction, seed), (first.clone(), second.clone()));
            assert_ne!(data.split(fraction, seed + 100), (first, second));
        }
        let (first, second) = labelled.split(fraction, seed);
        for part in [&first, &second] {
            for (id, &found) in ids(part).into_iter().zip(classes(part).1) {
                assert_eq!(found, class(id), "a row keeps its label");
            }
        }
        let count = |data: &Dataset| {
            let mut count = BTreeMap::new();
            classes(data)
                .1
                .iter()
                .for_each(|&class| *count.entry(class).or_insert(0usize) += 1);
            count
        };
        let (all, first, second) = (count(&labelled), count(&first), count(&second));
        for (class, &n) in &all {
            assert!(
                first.contains_key(class),
                "class {class} is left in the first part"
            );
            let share = fraction * n as f64;
            let taken = second.get(class).copied().unwrap_or(0) as f64;
            assert!(
                (taken - share).abs() <= 1.0,
                "{taken} of class {class} for {share}"
            );
        }
    }
}

#[test]
fn a_split_mixes_sorted_rows() {
    // 1000 rows in ascending order: with a fifth taken at random, the mean id of the taken rows has
    // a standard deviation of 288.7·√(0.8/200) = 18.3; five of them hold for all but 1 seed in 10⁶.
    let text = table("id,y", 1000, |k| format!("{k},{k}.5"));
    let data = parse(&text, &["y"], None).unwrap();
    for seed in 0..20 {
        let (first, second) = data.split(0.2, seed);
        let mean = ids(&second).iter().sum::<usize>() as f64 / 200.0;
        assert!((mean - 499.5).abs() < 5.0 * 18.3, "mean {mean}");
        assert!(!ids(&first).is_sorted() && !ids(&second).is_sorted());
    }
    // Nor do the classes stay together within a part.
    let (first, second) = numbered(100, |k| k / 50).split(0.5, 0);
    assert!(!classes(&first).1.is_sorted() && !classes(&second).1.is_sorted());
}

#[test]
fn extreme_splits_leave_something_to_train_on() {
    for data in [
        numbered(10, |k| k / 9),
        parse(&with_line(2, "1,2,3.5"), &["y"], None).unwrap(),
    ] {
        for fraction in [0.0, -1.0, f64::NAN] {
            assert_eq!(data.split(fraction, 0).1.rows, 0);
        }
        for fraction in [1.0, 2.0, f64::INFINITY] {
            assert!(data.split(fraction, 0).0.rows >= 1);
        }
        let one = data.subset(&[0]);
        assert_eq!((one.split(0.5, 0).0.rows, one.split(0.5, 0).1.rows), (1, 0));
        let none = data.subset(&[]);
        assert_eq!(
            (none.split(0.5, 0).0.rows, none.split(0.5, 0).1.rows),
            (0, 0)
        );
    }
}

#[test]
fn columns_are_summarised() {
    let text = table("a,b,y", 10, |k| {
        format!("{},1000000000.{k},{k}.5", 5 - k as i32)
    });
    let data = parse(&text, &["y"], None).unwrap();
    assert_eq!(data.range(0), (-4.0, 5.0));
    assert_eq!(data.range(1), (1e9, 1e9 + 0.9));
    assert_eq!(
        data.subset(&[]).range(0),
        (f64::INFINITY, f64::NEG_INFINITY)
    );
}
