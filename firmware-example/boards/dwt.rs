//! The cycle counter of the core's unit DWT, of 32 bits.

use cortex_m::peripheral::{DCB, DWT};

/// Counts so many cycles a second.
pub struct Counter<const HZ: u32>(DWT, u32);

impl<const HZ: u32> Counter<HZ> {
    pub const TICKS_PER_SECOND: u32 = HZ;

    pub fn new(mut debug: DCB, mut counter: DWT) -> Self {
        debug.enable_trace();
        counter.enable_cycle_counter();
        Self(counter, 0)
    }

    /// Begins at 0.
    pub fn start(&mut self) {
        self.1 = DWT::cycle_count();
    }

    /// Ticks since [`start`](Self::start): 2^32 fit.
    pub fn ticks(&mut self) -> Option<u32> {
        Some(DWT::cycle_count().wrapping_sub(self.1))
    }
}
