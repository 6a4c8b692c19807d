//! Arm's MPS2 boards as QEMU emulates them: the images AN385 (Cortex-M3), AN386 (M4F), AN500 (M7)
//! and AN505 (M33). No HAL crate knows their UART, CMSDK's, so its four registers are driven here.
//!
//! Serial line: UART0. Counter: SysTick, which counts instructions under `-icount`.

use core::{fmt, ptr};
use cortex_m::peripheral::{Peripherals, SYST, syst::SystClkSource};

unsafe extern "C" {
    /// The first register of UART0: by `memory.x`, as the images differ.
    static mut __uart0: [u32; 5];
}

pub struct Board {
    pub serial: Serial,
    pub counter: Counter,
}

impl Board {
    /// Starts the peripherals; `None` if that has been done.
    pub fn take() -> Option<Self> {
        let counter = Counter::new(Peripherals::take()?.SYST);
        Some(Self {
            serial: Serial::new(),
            counter,
        })
    }
}

/// UART0, polled.
pub struct Serial(());

impl Serial {
    const DATA: usize = 0;
    const STATE: usize = 1;
    const CONTROL: usize = 2;
    const BAUD_DIVIDER: usize = 4;
    const TX_FULL: u32 = 1;
    const RX_FULL: u32 = 2;
    const ENABLE_BOTH: u32 = 3;

    fn new() -> Self {
        let mut serial = Self(());
        serial.set(Self::BAUD_DIVIDER, 25_000_000 / 115_200);
        serial.set(Self::CONTROL, Self::ENABLE_BOTH);
        serial
    }

    fn get(&self, register: usize) -> u32 {
        // SAFETY: the address is that of the UART, whose registers nothing else accesses.
        unsafe { ptr::read_volatile((&raw const __uart0).cast::<u32>().add(register)) }
    }

    fn set(&mut self, register: usize, value: u32) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile((&raw mut __uart0).cast::<u32>().add(register), value) }
    }

    /// Waits for a byte.
    pub fn read(&mut self) -> u8 {
        while self.get(Self::STATE) & Self::RX_FULL == 0 {}
        self.get(Self::DATA) as u8
    }

    /// Sends bytes, waiting for room.
    pub fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            while self.get(Self::STATE) & Self::TX_FULL != 0 {}
            self.set(Self::DATA, byte.into());
        }
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

/// SysTick at the core's clock.
pub struct Counter(SYST);

impl Counter {
    pub const TICKS_PER_SECOND: u32 = 25_000_000;

    fn new(mut systick: SYST) -> Self {
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
