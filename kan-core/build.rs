//! Tells the crate which instructions its target has, which stable Rust does not.

use std::env;

/// What kan-core's kernels ask of a processor.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Processor {
    /// Armv6-M.
    pub v6m: bool,
    /// Armv7-M, or Armv8-M Mainline, without the DSP extension.
    pub v7m: bool,
    /// The same with it.
    pub dsp: bool,
    /// Floats of single precision in registers s0 to s31.
    pub vfp: bool,
    /// A directive that tells the assembler of it, who in link-time optimisation knows no more than
    /// the target's name. It holds for all assembly that follows, of other crates too: so it names
    /// what the processor has, not what the kernels need.
    pub directive: String,
}

/// Processors with the DSP extension. A Cortex-M of Armv8-M may be without: only who names it has
/// it.
const WITH_DSP: [&str; 8] = [
    "cortex-m4",
    "cortex-m7",
    "cortex-m33",
    "cortex-m35p",
    "cortex-m52",
    "cortex-m55",
    "cortex-m85",
    "star-mc1",
];

impl Processor {
    /// That of a target and of what rustc is told besides, as in CARGO_ENCODED_RUSTFLAGS.
    pub fn of(target: &str, flags: &str) -> Self {
        let v7em = target.starts_with("thumbv7em");
        let is_mainline =
            v7em || target.starts_with("thumbv7m-") || target.starts_with("thumbv8m.main");
        let (mut cpu, mut said) = (None, None);
        // `-C option`, `-Coption`, `--codegen option`, `--codegen=option`: of equals the last
        // counts.
        for flag in flags.split('\x1f') {
            let option = flag
                .trim_start_matches("--codegen=")
                .trim_start_matches("-C");
            match option.split_once('=') {
                Some(("target-cpu", name)) => {
                    cpu = WITH_DSP.into_iter().find(|known| *known == name);
                }
                Some(("target-feature", features)) => {
                    for feature in features.split(',') {
                        match feature {
                            "+dsp" => said = Some(true),
                            "-dsp" => said = Some(false),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let dsp = is_mainline && said.unwrap_or(v7em || cpu.is_some());
        let vfp = target.starts_with("thumb") && target.ends_with("-eabihf");
        let v8m = target.starts_with("thumbv8m");
        // Where only a feature has been named.
        let with_dsp = if v8m { "cortex-m33" } else { "cortex-m4" };
        let directive = match cpu.or_else(|| (dsp && !v7em).then_some(with_dsp)) {
            Some(cpu) if is_mainline => format!(".cpu {cpu}"),
            _ if vfp && v8m => ".fpu fpv5-sp-d16".into(),
            _ if vfp => ".fpu fpv4-sp-d16".into(),
            _ => String::new(),
        };
        Self {
            v6m: target.starts_with("thumbv6m"),
            v7m: is_mainline && !dsp,
            dsp,
            vfp,
            directive,
        }
    }
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name| env::var(name).unwrap_or_default();
    let Processor {
        v6m,
        v7m,
        dsp,
        vfp,
        directive,
    } = Processor::of(&variable("TARGET"), &variable("CARGO_ENCODED_RUSTFLAGS"));
    println!("cargo::rustc-env=KAN_ASSEMBLER={directive}");
    let integers = v6m || v7m || dsp;
    for (has, name) in [
        (v6m, "kan_v6m"),
        (v7m, "kan_v7m"),
        (dsp, "kan_dsp"),
        (vfp, "kan_vfp"),
        // Kernels for integers, and for any.
        (integers, "kan_integers"),
        (integers || vfp, "kan_kernels"),
    ] {
        println!("cargo::rustc-check-cfg=cfg({name})");
        if has {
            println!("cargo::rustc-cfg={name}");
        }
    }
}
