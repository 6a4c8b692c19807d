//! Link arguments of the binaries, for the device only: on the host this is an ordinary crate.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=memory.x");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        // `link.x` is cortex-m-rt's and includes memory.x; `defmt.x` places the log strings of the
        // binaries that log.
        println!(
            "cargo::rustc-link-search={}",
            env::var("CARGO_MANIFEST_DIR").unwrap()
        );
        for argument in ["--nmagic", "-Tlink.x"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
        for binary in ["evaluate", "baseline"] {
            println!("cargo::rustc-link-arg-bin={binary}=-Tdefmt.x");
        }
    }
}
