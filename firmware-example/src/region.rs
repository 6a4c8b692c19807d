//! Memory that the linker script knows: the model's region of flash, and the stack.

use core::{hint::black_box, slice};

/// Most bytes of stack that are painted to see how many are used.
const PAINTED_BYTES: usize = 64 * 1024;

/// What painted stack holds.
const PAINT: u32 = 0xA5A5_5A5A;

unsafe extern "C" {
    static __model_start: u8;
    static __model_end: u8;
    /// Where the program's variables end, by cortex-m-rt.
    static __sheap: u8;
}

/// The region MODEL.
pub fn model() -> &'static [u8] {
    let (start, end) = (&raw const __model_start, &raw const __model_end);
    // SAFETY: the linker script links nothing into the memory between the two symbols.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// The most stack that `work` uses, in bytes: paint what lies below, work, look what is left.
#[inline(never)]
pub fn stack_bytes(work: &mut dyn FnMut()) -> u32 {
    let top = cortex_m::register::msp::read() as usize;
    let bottom = (&raw const __sheap)
        .addr()
        .max(top - PAINTED_BYTES)
        .next_multiple_of(4);
    for address in (bottom..top).step_by(4) {
        // SAFETY: stack below the stack pointer is in nobody's use, and no interrupt is enabled
        // that could use it meanwhile.
        unsafe { (address as *mut u32).write_volatile(PAINT) };
    }
    black_box(work)();
    let used = (bottom..top).step_by(4).find(|&address| {
        // SAFETY: as above; the memory is initialised.
        unsafe { (address as *const u32).read_volatile() != PAINT }
    });
    used.map_or(0, |address| (top - address) as u32)
}
