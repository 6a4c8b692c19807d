//! The board's memory, the link arguments of the binaries and the source of a perceptron, for the
//! device only: on the host this is an ordinary crate.

use std::{env, fs, path::Path};

/// What has a file of memory regions in `boards/`, and a feature. The first counts where none is
/// selected, for binaries that need no board.
const BOARDS: [&str; 7] = [
    "mps2",
    "mps2-an505",
    "microbit",
    "netduinoplus2",
    "nrf52840-dk",
    "pico",
    "pico2",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=boards");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let selected = |board: &&str| {
        let feature = board.to_uppercase().replace('-', "_");
        env::var_os(format!("CARGO_FEATURE_{feature}")).is_some()
    };
    let board = BOARDS.into_iter().find(selected).unwrap_or(BOARDS[0]);
    println!("cargo::rustc-env=BOARD={board}");

    // `link.x` is cortex-m-rt's and includes memory.x; `defmt.x` places the log strings of the
    // binary that logs.
    let out = env::var("OUT_DIR").unwrap();
    fs::copy(
        format!("boards/{board}.x"),
        Path::new(&out).join("memory.x"),
    )
    .unwrap();
    println!("cargo::rustc-link-search={out}");
    if env::var_os("CARGO_FEATURE_PEER").is_some() {
        println!("cargo::rerun-if-env-changed=KAN_PEER");
        let model = env::var("KAN_PEER").expect("KAN_PEER is the path of a .tflite file");
        println!("cargo::rerun-if-changed={model}");
        let source = format!("#[microflow::model({model:?})]\nstruct Perceptron;\n");
        fs::write(Path::new(&out).join("perceptron.rs"), source).unwrap();
    }
    for argument in ["--nmagic", "-Tlink.x"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bin=regulate=-Tdefmt.x");
}
