//! Arm's MPS2 boards as QEMU emulates them: the images AN385 (Cortex-M3), AN386 (M4F), AN500 (M7)
//! and AN505 (M33). No HAL crate knows their UART, CMSDK's, so its four registers are driven here.
//!
//! Serial line: UART0. Counter: SysTick, which counts instructions under `-icount`.

use core::{convert::Infallible, ptr};
use cortex_m::peripheral::Peripherals;
use embedded_io::{ErrorType, Read, Write};

#[path = "systick.rs"]
mod systick;

pub type Counter = systick::Counter<25_000_000>;

unsafe extern "C" {
    /// The first register of UART0: by `memory.x`, as the images differ.
    static mut __uart0: [u32; 5];
}

pub struct Board {
    pub serial: Uart,
    pub counter: Counter,
}

impl Board {
    /// Starts the peripherals; `None` if that has been done.
    pub fn take() -> Option<Self> {
        let counter = Counter::new(Peripherals::take()?.SYST);
        Some(Self {
            serial: Uart::new(),
            counter,
        })
    }
}

/// UART0, polled.
pub struct Uart(());

impl Uart {
    const DATA: usize = 0;
    const STATE: usize = 1;
    const CONTROL: usize = 2;
    const BAUD_DIVIDER: usize = 4;
    const TX_FULL: u32 = 1;
    const RX_FULL: u32 = 2;
    const ENABLE_BOTH: u32 = 3;

    fn new() -> Self {
        let mut uart = Self(());
        uart.set(Self::BAUD_DIVIDER, 25_000_000 / 115_200);
        uart.set(Self::CONTROL, Self::ENABLE_BOTH);
        uart
    }

    fn get(&self, register: usize) -> u32 {
        // SAFETY: the address is that of the UART, whose registers nothing else accesses.
        unsafe { ptr::read_volatile((&raw const __uart0).cast::<u32>().add(register)) }
    }

    fn set(&mut self, register: usize, value: u32) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile((&raw mut __uart0).cast::<u32>().add(register), value) }
    }
}

impl ErrorType for Uart {
    type Error = Infallible;
}

impl Read for Uart {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(byte) = buffer.first_mut() else {
            return Ok(0);
        };
        while self.get(Self::STATE) & Self::RX_FULL == 0 {}
        *byte = self.get(Self::DATA) as u8;
        Ok(1)
    }
}

impl Write for Uart {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let Some(&byte) = bytes.first() else {
            return Ok(0);
        };
        while self.get(Self::STATE) & Self::TX_FULL != 0 {}
        self.set(Self::DATA, byte.into());
        Ok(1)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while self.get(Self::STATE) & Self::TX_FULL != 0 {}
        Ok(())
    }
}
