//! `evaluate` without `kan-core`: the model is the first input. It exists for its size, which
//! subtracted from that of `evaluate` gives what the crate costs.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod board;

#[cfg(target_os = "none")]
#[cortex_m_rt::entry]
fn main() -> ! {
    let mut counter = board::Counter::start();
    board::evaluate(board::vectors(), 1, &mut counter, |input, output| {
        output.copy_from_slice(&input[..1]);
    })
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("This is firmware; its size matters: cargo firmware-size");
}
