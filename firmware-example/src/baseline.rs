//! `minimal` without `kan-core`: the model is the first input. It exists for its size, which
//! subtracted from that of `minimal` gives what the crate costs.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[cortex_m_rt::entry]
fn main() -> ! {
    use core::hint::black_box;
    loop {
        let (region, input): (&[u8], &[f32]) = black_box((&[], &[]));
        let output: &mut [f32] = black_box(&mut []);
        if !region.is_empty() {
            for (output, input) in output.iter_mut().zip(input) {
                *output = *input;
            }
            black_box(output);
        }
    }
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("This is firmware; its size matters: cargo firmware-size");
}
