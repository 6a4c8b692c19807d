//! Evaluates the model in the region MODEL on the test vectors in the region VECTORS.
//!
//! Reports over defmt, one line each: `model …`, `stack …`, a `row …` per test vector, `end …`.
//! The host's `device` module starts it in QEMU and reads the lines.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod board;

#[cfg(target_os = "none")]
#[cortex_m_rt::entry]
fn main() -> ! {
    use firmware_example::CAPACITY;
    use kan_core::{Model, blob_len};
    use semihosting::process;

    unsafe extern "C" {
        static __model_start: u8;
        static __model_end: u8;
    }

    type Any = Model<
        'static,
        { CAPACITY.inputs },
        { CAPACITY.outputs },
        { CAPACITY.width },
        { CAPACITY.layers },
    >;

    let mut counter = board::Counter::start();
    // SAFETY: the linker script links nothing into the memory between the two symbols.
    let region = unsafe { board::region(&raw const __model_start, &raw const __model_end) };
    // A blob longer than its region is cut short, and refused as such.
    let blob = blob_len(region).map(|len| region.get(..len).unwrap_or(region));
    let model = match blob.and_then(Any::load) {
        Ok(model) => model,
        Err(error) => {
            defmt::error!("load: {}", error);
            process::exit(1)
        }
    };
    defmt::info!(
        "model inputs={=usize} outputs={=usize} width={=usize} layers={=usize} edges={=usize} \
         struct_bytes={=usize}",
        model.inputs(),
        model.outputs(),
        model.width(),
        model.layers(),
        model.edges(),
        size_of::<Any>(),
    );
    let vectors = board::vectors();
    if vectors.inputs() != model.inputs() {
        defmt::error!(
            "the test vectors have {=usize} inputs, the model {=usize}",
            vectors.inputs(),
            model.inputs()
        );
        process::exit(1)
    }
    board::evaluate(vectors, model.outputs(), &mut counter, |input, output| {
        model.eval_into(input, output);
    })
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!(
        "This is firmware; run it by: cargo kan eval FILE.kan --data FILE.csv --target COL --on qemu"
    );
}
