//! Tells the crate which instructions its target has, which stable Rust does not.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = env::var("TARGET").unwrap_or_default();
    // A Cortex-M33 may come without the DSP extension: only who names the processor has it.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let m33 = target.starts_with("thumbv8m.main") && flags.contains("target-cpu=cortex-m33");
    let dsp = target.starts_with("thumbv7em") || m33;
    let v6m = target.starts_with("thumbv6m");
    // Floats of single precision in registers s0 to s31.
    let vfp = target.starts_with("thumb") && target.ends_with("-eabihf");
    for (has, name) in [
        (dsp, "kan_dsp"),
        (m33, "kan_m33"),
        (v6m, "kan_v6m"),
        (vfp, "kan_vfp"),
        // Kernels for integers, and for any.
        (dsp || v6m, "kan_integers"),
        (dsp || v6m || vfp, "kan_kernels"),
    ] {
        println!("cargo::rustc-check-cfg=cfg({name})");
        if has {
            println!("cargo::rustc-cfg={name}");
        }
    }
}
