//! Tells the crate which instructions its target has, which stable Rust does not.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(kan_dsp, kan_m33, kan_v6m, kan_vfp)");
    let target = env::var("TARGET").unwrap_or_default();
    // A Cortex-M33 may come without the DSP extension: only who names the processor has it.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let m33 = target.starts_with("thumbv8m.main") && flags.contains("target-cpu=cortex-m33");
    if target.starts_with("thumbv7em") || m33 {
        println!("cargo::rustc-cfg=kan_dsp");
    }
    if m33 {
        println!("cargo::rustc-cfg=kan_m33");
    }
    // Floats of single precision in registers s0 to s31.
    if target.starts_with("thumb") && target.ends_with("-eabihf") {
        println!("cargo::rustc-cfg=kan_vfp");
    }
    if target.starts_with("thumbv6m") {
        println!("cargo::rustc-cfg=kan_v6m");
    }
}
