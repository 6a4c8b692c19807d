//! `kan train`, interrupted: started again with the same command line it ends as if nothing had
//! been; with any other, or from a checkpoint that somebody has spoilt, it begins anew.

use std::fmt::Write as _;
use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::{Value, json};

use super::{Desk, has_keys, number, numbers, table};

/// A table of y = sin 4|(a, b)| + ab and some noise: more than a few hidden nodes can tell, and so
/// noisy that the mean of several networks is better than one. The values of a and b crowd about 0.
pub(super) fn noisy(rows: usize) -> String {
    let mut number = numbers();
    let mut text = String::from("a,b,y\n");
    for _ in 0..rows {
        let mut input = || {
            let x = 2.0 * number() - 1.0;
            x.abs().powf(2.5).copysign(x)
        };
        let (a, b) = (input(), input());
        let y = (4.0 * a.hypot(b)).sin() + a * b + 0.3 * (2.0 * number() - 1.0);
        writeln!(text, "{a:.6},{b:.6},{y:.6}").expect("strings can be written to");
    }
    text
}

/// A table of two classes, a checkerboard of two by two.
fn checkerboard(rows: usize) -> String {
    let mut number = numbers();
    let mut text = String::from("a,b,colour\n");
    for _ in 0..rows {
        let (a, b) = (2.0 * number() - 1.0, 2.0 * number() - 1.0);
        let colour = if a * b > 0.0 { "black" } else { "white" };
        writeln!(text, "{a:.6},{b:.6},{colour}").expect("strings can be written to");
    }
    text
}

/// A training that is killed again and again, and what it gives if it is not.
struct Training<'a> {
    desk: &'a Desk,
    command: &'a str,
    network: Vec<u8>,
    model: Vec<u8>,
    metrics: Value,
    time: Duration,
}

impl<'a> Training<'a> {
    fn uninterrupted(desk: &'a Desk, command: &'a str) -> Self {
        // Not the time that it takes to build the binary.
        super::kan();
        let start = Instant::now();
        desk.text(&format!("{command} --out whole"));
        Self {
            desk,
            command,
            network: desk.bytes("whole/network.json"),
            model: desk.bytes("whole/model.kan"),
            metrics: figures(desk, "whole"),
            time: start.elapsed(),
        }
    }

    fn start(&self) -> Child {
        self.desk
            .command(&format!("{} --out run", self.command))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("kan starts")
    }

    /// Starts it and kills it after a while.
    fn kill_after(&self, time: Duration) {
        let mut child = self.start();
        thread::sleep(time);
        end(&mut child);
    }

    /// Starts it and kills it as soon as `ready` says so of the names in its folder and its
    /// checkpoint. Whether it came to that.
    fn kill_when(&self, ready: impl Fn(&[String], &[u8]) -> bool) -> bool {
        let mut child = self.start();
        let hit = loop {
            let names = match fs::read_dir(self.desk.path("run")) {
                Ok(_) => self.desk.names("run"),
                Err(_) => Vec::new(),
            };
            if ready(&names, &self.checkpoint()) {
                break true;
            }
            if child.try_wait().expect("it is our child").is_some() {
                break false;
            }
            thread::sleep(Duration::from_micros(200));
        };
        end(&mut child);
        hit
    }

    fn checkpoint(&self) -> Vec<u8> {
        fs::read(self.desk.path("run/network.json")).unwrap_or_default()
    }

    /// Runs it to its end; gives its report. The folder holds what an uninterrupted run leaves.
    #[track_caller]
    fn finish(&self, told: &str) -> String {
        let report = self.desk.text(&format!("{} --out run", self.command));
        let names = self.desk.names("run");
        assert_eq!(
            names,
            ["metrics.json", "model.kan", "network.json"],
            "{told}"
        );
        assert!(
            self.desk.bytes("run/network.json") == self.network,
            "{told}: another network.json"
        );
        assert!(
            self.desk.bytes("run/model.kan") == self.model,
            "{told}: another model.kan"
        );
        assert_eq!(figures(self.desk, "run"), self.metrics, "{told}");
        report
    }

    fn begin_anew(&self) {
        let _ = fs::remove_dir_all(self.desk.path("run"));
    }
}

/// SIGKILL, unless it has ended.
fn end(child: &mut Child) {
    let _ = child.kill();
    child.wait().expect("it ends");
}

/// `metrics.json` without what a clock and the folder's name have to do with.
fn figures(desk: &Desk, run: &str) -> Value {
    let mut metrics: Value =
        serde_json::from_slice(&desk.bytes(&format!("{run}/metrics.json"))).expect("JSON");
    metrics["seconds"] = Value::Null;
    metrics["blob"]["path"] = Value::Null;
    for stage in metrics["stages"].as_array_mut().expect("a list") {
        assert!(number(&stage["seconds"]) >= 0.0);
        stage["seconds"] = Value::Null;
    }
    metrics
}

const GOING_ON: &str = "going on with the interrupted training";

/// Long enough to be hit anywhere, with a checkpoint every few hundredths of it.
const MANY_GRIDS: &str = "train xy.csv --target y --width 2,3,2,1 --steps 30 \
                          --grid 2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20";

#[test]
fn a_killed_training_ends_with_the_very_network_of_one_that_was_not() {
    let desk = Desk::new();
    desk.file("xy.csv", table(250));
    let training = Training::uninterrupted(&desk, MANY_GRIDS);
    let mut rng = Pcg64Mcg::seed_from_u64(50);
    let mut resumed = 0;
    for moment in 0..20 {
        training.begin_anew();
        let part = (f64::from(moment) + rng.random_range(0.0..1.0)) / 20.0;
        training.kill_after(training.time.mul_f64(part));
        let report = training.finish(&format!("killed at {part:.3} of its time"));
        resumed += usize::from(report.contains(GOING_ON));
    }
    // Most of them had a checkpoint; none of the first moments had, and the last may be too late.
    assert!(resumed >= 10, "{resumed} of 20 went on");

    // Several times in a row, and never let come far.
    training.begin_anew();
    for _ in 0..8 {
        training.kill_after(training.time.mul_f64(rng.random_range(0.05..0.3)));
    }
    training.finish("killed eight times");

    // While a checkpoint is written: a half-written file lies beside the last whole one.
    training.begin_anew();
    let is_temporary = |name: &String| name.starts_with(".kan-");
    for turn in 0..6 {
        let before = training.checkpoint();
        training.kill_when(|names, now| now != before && names.iter().any(is_temporary));
        desk.file("run/.kan-killed", "half a file");
        let names = desk.names("run");
        assert!(names.iter().any(is_temporary), "turn {turn}: {names:?}");
    }
    training.finish("killed while writing");
}

#[test]
fn a_training_that_chooses_its_shape_goes_on_with_what_it_chose() {
    let desk = Desk::new();
    desk.file("noisy.csv", noisy(150));
    let command = "train noisy.csv --target y --grid 2,3,4,5,6 --steps 8";
    let training = Training::uninterrupted(&desk, command);
    // Members that go on from different folds, with other quantiles than all rows have: without
    // common input grids their mean would be refused.
    assert!(number(&training.metrics["members"]) > 1.0);
    assert!(number(&training.metrics["candidates"]) > 1.0);
    // While it chooses: nothing is kept of that, and nothing of it is in the way.
    training.kill_after(training.time.mul_f64(0.3));
    assert!(!training.finish("killed while choosing").contains(GOING_ON));
    // At each of its checkpoints.
    let stages = training.metrics["stages"].as_array().map_or(0, Vec::len);
    training.begin_anew();
    let mut last = Vec::new();
    for checkpoint in 0..stages {
        if !training.kill_when(|_, now| !now.is_empty() && now != last) {
            break;
        }
        last = training.checkpoint();
        let now: Value = serde_json::from_slice(&last).expect("whole");
        let done = now["progress"]["stages"].as_array().map(Vec::len);
        if checkpoint == 0 {
            let members = now["progress"]["networks"].as_array().map(Vec::len);
            assert_eq!(
                members,
                training.metrics["members"].as_u64().map(|n| n as usize)
            );
        }
        assert!(done >= Some(checkpoint) || done.is_none());
    }
    training.finish("killed at every checkpoint");
}

#[test]
fn every_checkpoint_leads_to_the_same_end() {
    // With quantiles, a sparsity penalty, pruning, a configuration file: what else could get lost.
    let desk = Desk::new();
    desk.file("xy.csv", table(120));
    desk.file("fit.toml", "grid_eps = 0.1\nroughness = 1e-6\n");
    desk.file("board.csv", checkerboard(120));
    desk.file("noisy.csv", noisy(120));
    for command in [
        "train xy.csv --target y --config fit.toml --width 2,4,1 --grid 3,6,9 --steps 15",
        "train xy.csv --target y --width 2,4,1 --grid 3,6,9 --steps 15 --lamb 1e-3 --seed 7",
        "train xy.csv --target y --width 2,1 --grid 3,6,9 --no-prune --degree 2 --domain=-1:1.5",
        "train xy.csv --target y --optimizer lbfgs --width 2,4,1 --grid 3,6,9 --steps 40",
        "train xy.csv --target y --optimizer adamw --width 2,4,1 --grid 3,6,9 --steps 20",
        // Whose shape is chosen, and which is not to become a mean of several.
        "train noisy.csv --target y --grid 3,6,9 --steps 8 --lamb 1e-3",
        // Whose optimiser and epochs are chosen.
        "train board.csv --target colour --width 2,4,1 --grid 3,6",
    ] {
        let training = Training::uninterrupted(&desk, command);
        training.begin_anew();
        let mut last = Vec::new();
        while training.kill_when(|_, now| !now.is_empty() && now != last)
            && serde_json::from_slice::<Value>(&training.checkpoint())
                .expect("whole")
                .get("progress")
                .is_some()
        {
            last = training.checkpoint();
        }
        training.finish(command);
        // What was chosen stays so.
        let optimizer = &training.metrics["optimizer"];
        assert_eq!(
            optimizer == "adamw",
            command.contains("adamw") || command.contains("board")
        );
        let pruned = desk.json("prune whole --edge 0:0:0");
        assert_eq!(&pruned["optimizer"], optimizer, "{command}");
    }
}

/// A folder `run` with a training in it that was killed after its first checkpoint, and later ones
/// perhaps.
fn interrupted(desk: &Desk) -> Value {
    let _ = fs::remove_dir_all(desk.path("run"));
    let training = Training {
        desk,
        command: UNFINISHED,
        network: Vec::new(),
        model: Vec::new(),
        metrics: Value::Null,
        time: Duration::ZERO,
    };
    let far = |now: &[u8]| {
        serde_json::from_slice::<Value>(now).is_ok_and(|now| {
            now["progress"]["stages"]
                .as_array()
                .is_some_and(|s| s.len() == 1)
        })
    };
    assert!(training.kill_when(|_, now| far(now)));
    serde_json::from_slice(&training.checkpoint()).expect("whole")
}

/// A moment for the first grid, a long time for the last.
const UNFINISHED: &str = "train xy.csv --target y --width 2,3,1 --grid 3,800 --steps 400";
/// The same options, but for the grids: they end at once.
const SHORT: &str = "train xy.csv --target y --width 2,3,1 --grid 3,6";

#[test]
fn other_options_seeds_and_data_begin_anew() {
    let desk = Desk::new();
    desk.file("xy.csv", table(60));
    desk.file("fit.toml", "roughness = 1e-5\n");
    let other: [(&str, &dyn Fn()); 8] = [
        ("--seed 1", &|| ()),
        ("--steps 9", &|| ()),
        ("--degree 2", &|| ()),
        ("--no-prune", &|| ()),
        ("--tables linear", &|| ()),
        ("--test-fraction 0.3", &|| ()),
        ("--config fit.toml", &|| ()),
        // The same numbers under another name.
        ("", &|| {
            desk.file("xy.csv", table(60).replacen("a,b,y", "a,c,y", 1));
        }),
    ];
    let short = |more: &str, out: &str| {
        let report = desk.text(&format!("{SHORT} {more} --out {out}"));
        (report, desk.bytes(&format!("{out}/network.json")))
    };
    // A checkpoint of SHORT: one of the long training that says so.
    let mut checkpoint = interrupted(&desk);
    checkpoint["training"]["settings"]["grid"] = json!([3, 6]);
    checkpoint["training"]["settings"]["steps"] = Value::Null;
    checkpoint["progress"]["recipe"]["grids"] = json!([3, 6]);
    let checkpoint = checkpoint.to_string();
    desk.file("run/network.json", &checkpoint);
    let (report, _) = short("", "run");
    assert!(report.contains(GOING_ON), "{report}");
    assert!(report.contains("1 of 2 grids"), "{report}");
    for (options, change) in other {
        change();
        desk.file("run/network.json", &checkpoint);
        let (report, resumed) = short(options, "run");
        assert!(!report.contains(GOING_ON), "{options}: {report}");
        let (_, anew) = short(options, "anew");
        assert!(resumed == anew, "{options}: mixed with the training before");
    }
    // Other values.
    desk.file("xy.csv", table(60).replacen(",0.", ",0.1", 1));
    desk.file("run/network.json", &checkpoint);
    let (report, resumed) = short("", "run");
    assert!(!report.contains(GOING_ON), "{report}");
    assert!(resumed == short("", "anew").1);
    // A training that has come to its end is no checkpoint.
    let (report, again) = short("", "run");
    assert!(!report.contains(GOING_ON) && again == resumed, "{report}");
}

#[test]
fn a_spoilt_checkpoint_is_begun_anew_and_refused_by_the_rest() {
    let desk = Desk::new();
    desk.file("xy.csv", table(60));
    let mut good = interrupted(&desk);
    // Ends at once from here.
    good["training"]["settings"]["grid"] = json!([3, 6]);
    good["training"]["settings"]["steps"] = json!(5);
    good["progress"]["recipe"]["grids"] = json!([3, 6]);
    let command = "train xy.csv --target y --width 2,3,1 --grid 3,6 --steps 5 --out";
    desk.file("run/network.json", good.to_string());
    let report = desk.text(&format!("{command} run"));
    assert!(report.contains(GOING_ON), "{report}");
    desk.text(&format!("{command} anew"));
    let anew = desk.bytes("anew/network.json");

    let spoilt = |text: &str, told: &str| {
        desk.file("run/network.json", text);
        let _ = fs::remove_file(desk.path("run/model.kan"));
        let _ = fs::remove_file(desk.path("run/metrics.json"));
        desk.fails("compile run --out x.kan", 1, &["run/network.json"]);
        let report = desk.text(&format!("{command} run"));
        assert!(!report.contains(GOING_ON), "{told}: {report}");
        assert!(desk.bytes("run/network.json") == anew, "{told}");
    };
    let whole = good.to_string();
    for part in [0.0, 0.1, 0.5, 0.9, 0.999] {
        let end = (part * whole.len() as f64) as usize;
        spoilt(&whole[..end], &format!("{end} of {} bytes", whole.len()));
    }
    let put = |pointer: &str, value: Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect(pointer) = value.clone();
        spoilt(&bad.to_string(), &format!("{pointer}: {value}"));
    };
    let network = good["progress"]["networks"][0].clone();
    let changed = |pointer: &str, value: Value| {
        let mut bad = network.clone();
        *bad.pointer_mut(pointer).expect(pointer) = value;
        bad
    };
    let stage = good["progress"]["stages"][0].clone();
    put("/progress", json!({}));
    put("/progress", json!([]));
    put("/progress/networks", json!([]));
    put("/progress/networks", json!([network, network]));
    put(
        "/progress/networks/0",
        json!({"base": "silu", "layers": []}),
    );
    put("/progress/networks/0/layers/0/edges/0/coef/0", Value::Null);
    put("/progress/networks/0/base", "zero".into());
    put(
        "/progress/networks/0/layers/0/grids/0/breaks/0",
        (-7.5).into(),
    );
    put("/progress/stages", json!([stage, stage]));
    put("/progress/stages", json!([stage, stage, stage]));
    put("/progress/stages/0/grid", 4.into());
    put("/progress/stages/0/train", Value::Null);
    put("/progress/recipe/grids", json!([]));
    put("/progress/recipe/grids", json!([3]));
    put("/progress/recipe/grids", json!([3, 3]));
    put("/progress/recipe/grids", json!([3, 0]));
    put("/progress/recipe/grids", json!([3, 2001]));
    put("/progress/recipe/grids", json!([3, u64::MAX]));
    put("/progress/recipe/grids", json!([3, -6]));
    put("/progress/recipe/width", json!([]));
    put("/progress/recipe/width", json!([2, 1]));
    put("/progress/recipe/width", json!([2, 2, 1]));
    put("/progress/recipe/width", json!([2, u64::MAX, 1]));
    put("/progress/recipe/width", json!([1, 3, 1]));
    put("/progress/recipe/members", 0.into());
    put("/progress/recipe/members", 2.into());
    put("/progress/recipe/members", u64::MAX.into());
    put("/progress/recipe/penalty/roughness", (-1).into());
    put("/progress/recipe/penalty/slope", Value::Null);
    // A second member that does not go with the first.
    let mut two = good.clone();
    two["progress"]["recipe"]["members"] = 2.into();
    let mut narrow = network.clone();
    narrow["layers"][0]["grids"] = json!([network["layers"][0]["grids"][0]]);
    narrow["layers"][0]["edges"] = json!(vec![&network["layers"][0]["edges"][0]; 3]);
    let empty = vec![Value::Null; 6];
    for member in [
        narrow,
        changed("/base", "zero".into()),
        changed("/layers/0/grids/0/breaks/0", (-7.5).into()),
        changed("/layers/1/bias", json!([0.0, 0.0])),
        changed("/layers/1/edges/0/coef", json!([1.0])),
        json!({"base": "silu", "layers": [network["layers"][0]]}),
        {
            let mut bare = changed("/layers/0/edges", empty.into());
            bare["layers"][1]["edges"] = json!(vec![Value::Null; 3]);
            bare
        },
    ] {
        two["progress"]["networks"] = json!([network, member]);
        spoilt(&two.to_string(), "a second member");
    }

    // Of another table: a good checkpoint, but not of this training.
    let mut other = good.clone();
    other["schema"]["inputs"] = json!(["a", "c"]);
    desk.file("run/network.json", other.to_string());
    let report = desk.text(&format!("{command} run"));
    assert!(!report.contains(GOING_ON), "{report}");
    assert!(desk.bytes("run/network.json") == anew);

    // Numbers beyond all bounds are numbers: training goes on from them, or says that it cannot.
    for value in [1e308, 1e154, 1e-308] {
        for pointer in [
            "/progress/networks/0/layers/0/edges/0/coef/0",
            "/progress/networks/0/layers/1/edges/0/scale_base",
            "/progress/networks/0/layers/0/bias/0",
            "/progress/recipe/penalty/roughness",
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).expect(pointer) = value.into();
            desk.file("run/network.json", bad.to_string());
            let output = desk.run(&format!("{command} run"));
            let said = String::from_utf8_lossy(&output.stderr);
            let clean = match output.status.code() {
                Some(0) => said.is_empty(),
                Some(1) => said.lines().count() == 1 && said.starts_with("error: "),
                _ => false,
            };
            assert!(clean, "{pointer} {value}: {said}");
        }
    }
    // Breaks without room for more between them.
    for breaks in [
        json!([1.0, 1.0 + 4.0 * f64::EPSILON]),
        json!([-1e300, 1e300]),
        json!([0.0, 1e-300]),
    ] {
        let mut bad = good.clone();
        for network in ["/network", "/progress/networks/0"] {
            let layer = bad
                .pointer_mut(&format!("{network}/layers/1"))
                .expect("a layer");
            for node in 0..3 {
                layer["grids"][node]["breaks"] = breaks.clone();
                layer["edges"][node]["coef"] = json!(vec![0.5; 4]);
            }
        }
        desk.file("run/network.json", bad.to_string());
        for command in [&format!("{command} run"), "refine run --grid 9"] {
            let output = desk.run(command);
            let said = String::from_utf8_lossy(&output.stderr);
            let code = output.status.code();
            assert!(code == Some(0) || code == Some(1), "{breaks}: {said}");
            assert!(said.lines().count() <= 1, "{breaks}: {said}");
        }
    }
}

#[test]
fn an_unfinished_network_can_be_used_and_its_report_says_what_it_is() {
    let desk = Desk::new();
    desk.file("xy.csv", table(60));
    let now =
        || -> Value { serde_json::from_slice(&desk.bytes("run/network.json")).expect("JSON") };
    let unfinished = "interrupted: 1 of 2 grids";

    // Its tables, which leave the way open: the network is still what training goes on from.
    let checkpoint = interrupted(&desk);
    desk.fails("eval run --data xy.csv", 1, &["interrupted", "kan compile"]);
    let report = desk.text("compile run");
    assert!(report.contains(unfinished), "{report}");
    assert_eq!(now()["progress"], checkpoint["progress"]);
    let report = desk.text("eval run --data xy.csv");
    assert!(report.contains(unfinished), "{report}");
    has_keys(&desk.json("eval run --data xy.csv"), &["rmse", "network"]);

    // Another network than training was at: its way ends here.
    for change in ["refine run --grid 6", "prune run --edge 0:1:0"] {
        let checkpoint = interrupted(&desk);
        let report = desk.text(change);
        assert!(report.contains(unfinished), "{report}");
        assert!(now().get("progress").is_none(), "{change}");
        assert_ne!(now()["network"], checkpoint["network"]);
        assert_eq!(
            desk.names("run"),
            ["metrics.json", "model.kan", "network.json"]
        );
        let report = desk.text("eval run --data xy.csv");
        assert!(!report.contains("interrupted"), "{report}");
        let report = desk.text(&change.replace(" 6", " 7").replace("0:1:0", "0:1:1"));
        assert!(!report.contains("interrupted"), "{report}");
    }

    // A refusal changes nothing.
    interrupted(&desk);
    desk.fails("prune run --node 1:9", 1, &["--node 1:9"]);
    assert!(now().get("progress").is_some());
}
