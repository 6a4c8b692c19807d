//! `kan demo`: its goals, and that it does without a device.

use super::{Desk, has_keys, number};

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
