//! Calls everything that `kan-core` offers a device but the formatting of its types. It need not
//! run: its panic handler has no code, so that it links only if the compiler has found every panic
//! unreachable.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
use panic_never as _;

#[cfg(target_os = "none")]
#[cortex_m_rt::entry]
fn main() -> ! {
    use core::hint::black_box;
    use kan_core::{LoadError, Model, blob_len};

    /// All arguments come out of a black box: the compiler knows nothing of them.
    fn load_and_ask(region: &[u8], row: &[f32], output: &mut [f32]) -> Result<(), LoadError> {
        let region = region.get(..blob_len(region)?).unwrap_or(region);
        black_box(Model::<4, 3, 8, 2>::load(region)?.eval(&black_box([0.0; 4])));
        let mut model = Model::<4, 3, 8, 2>::empty();
        model.reload(region)?;
        let input = black_box([0.0; 4]);
        black_box(model.eval(&input));
        black_box(model.probabilities(&input));
        black_box((model.classify(&input), model.in_domain(&input)));
        model.eval_into(row, output);
        black_box(&mut *output);
        model.probabilities_into(row, output);
        black_box(&mut *output);
        black_box((model.classify_from(row), model.in_domain_of(row)));

        let raw = black_box([0; 4]);
        black_box(model.eval_q(&raw));
        black_box((model.classify_q(&raw), model.in_domain_q(&raw)));
        let (row, output): (&[i32], &mut [i32]) = black_box((&[], &mut []));
        model.eval_q_into(row, output);
        black_box(&mut *output);
        black_box((model.classify_q_from(row), model.in_domain_q_of(row)));

        let number = black_box(0);
        black_box((model.input_scale(number), model.output_scale(number)));
        black_box(model.is_integer());
        black_box((
            model.name(),
            model.input_name(number),
            model.output_name(number),
        ));
        black_box((
            model.inputs(),
            model.outputs(),
            model.width(),
            model.layers(),
        ));
        black_box((model.edges(), model.head(), model.format_version()));
        black_box((model.blob_len(), model.crc()));
        for tables in model.tables() {
            black_box(tables);
        }
        Ok(())
    }

    loop {
        let (region, row): (&[u8], &[f32]) = black_box((&[], &[]));
        let output: &mut [f32] = black_box(&mut []);
        let _ = black_box(load_and_ask(region, row, output));
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("This is firmware, and not to be run: that it links is what matters.");
}
