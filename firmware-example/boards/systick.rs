//! SysTick as a counter at the core's clock, of 24 bits. Under QEMU's `-icount` it counts
//! instructions.

use cortex_m::peripheral::{SYST, syst::SystClkSource};

/// Counts so many ticks a second.
pub struct Counter<const HZ: u32>(SYST);

impl<const HZ: u32> Counter<HZ> {
    pub const TICKS_PER_SECOND: u32 = HZ;

    pub fn new(mut systick: SYST) -> Self {
        systick.set_clock_source(SystClkSource::Core);
        systick.set_reload(0x00FF_FFFF);
        systick.enable_counter();
        Self(systick)
    }

    /// Begins at 0.
    pub fn start(&mut self) {
        self.0.clear_current();
        // A cleared counter reads 0 until its next tick reloads it.
        while SYST::get_current() == 0 {}
    }

    /// Ticks since [`start`](Self::start), if they fit 24 bits.
    pub fn ticks(&mut self) -> Option<u32> {
        let current = SYST::get_current();
        (!self.0.has_wrapped()).then_some(0x00FF_FFFF - current)
    }
}
