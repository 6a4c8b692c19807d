//! The region MODEL of the linker script.

use core::slice;

unsafe extern "C" {
    static __model_start: u8;
    static __model_end: u8;
}

/// What is in the region: a blob and what was there before, or anything.
pub fn model() -> &'static [u8] {
    let (start, end) = (&raw const __model_start, &raw const __model_end);
    // SAFETY: the linker script links nothing into the memory between the two symbols.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}
