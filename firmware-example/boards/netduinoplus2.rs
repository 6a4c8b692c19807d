//! STM32F405 and F407 (Cortex-M4F): the Netduino Plus 2, on the desk or as QEMU's `netduinoplus2`, and
//! the STM32F4DISCOVERY.
//!
//! Serial line: USART2, sending on PA2 and receiving on PA3. I²C: PB6 (SCL) and PB7 (SDA). Heater:
//! PA8. Alarm: PC13. Counter: SysTick. The core runs from its 16 MHz oscillator, which both boards
//! have and QEMU does not wait for.

use core::fmt;
use cortex_m::peripheral::{SYST, syst::SystClkSource};
use stm32f4xx_hal::{
    gpio, i2c::I2c, pac, pac::Peripherals, prelude::*, rcc, serial, timer, timer::PwmChannel,
};

pub struct Board {
    pub serial: Serial,
    pub counter: Counter,
    pub i2c: I2c<pac::I2C1>,
    pub heater: PwmChannel<pac::TIM1, 0>,
    pub alarm: gpio::PC13<gpio::Output>,
    pub delay: timer::DelayUs<pac::TIM5>,
}

impl Board {
    /// Starts the peripherals; `None` if that has been done.
    pub fn take() -> Option<Self> {
        let core = cortex_m::Peripherals::take()?;
        let peripherals = Peripherals::take()?;
        let mut rcc = peripherals.RCC.freeze(rcc::Config::hsi());
        let a = peripherals.GPIOA.split(&mut rcc);
        let b = peripherals.GPIOB.split(&mut rcc);
        let c = peripherals.GPIOC.split(&mut rcc);
        let config = serial::Config::default().baudrate(115_200.bps());
        let serial = peripherals
            .USART2
            .serial((a.pa2, a.pa3), config, &mut rcc)
            .ok()?;
        let i2c = I2c::new(peripherals.I2C1, (b.pb6, b.pb7), 100.kHz(), &mut rcc);
        let (_, (channel, ..)) = peripherals.TIM1.pwm_hz(1.kHz(), &mut rcc);
        let mut heater = channel.with(a.pa8);
        heater.enable();
        Some(Self {
            serial: Serial(serial),
            counter: Counter::new(core.SYST),
            i2c,
            heater,
            alarm: c.pc13.into_push_pull_output(),
            delay: peripherals.TIM5.delay_us(&mut rcc),
        })
    }
}

/// USART2 at 115 200 baud.
pub struct Serial(serial::Serial<pac::USART2>);

impl Serial {
    /// Waits for a byte; one that arrived damaged is skipped.
    pub fn read(&mut self) -> u8 {
        loop {
            if let Ok(byte) = self.0.read() {
                return byte;
            }
        }
    }

    /// Sends bytes, waiting for room.
    pub fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            while self.0.write(byte).is_err() {}
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
    pub const TICKS_PER_SECOND: u32 = 16_000_000;

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
