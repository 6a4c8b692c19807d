//! STM32F405 and F407 (Cortex-M4F): the Netduino Plus 2, on the desk or as QEMU's `netduinoplus2`,
//! and the STM32F4DISCOVERY.
//!
//! Serial line: USART2, sending on PA2 and receiving on PA3. I²C: PB6 (SCL) and PB7 (SDA). Heater:
//! PA8. Alarm: PC13. Counter: SysTick. The core runs from its 16 MHz oscillator, which both boards
//! have and QEMU does not wait for.

use core::convert::Infallible;
use embedded_io::{ErrorType, Read, Write};
use stm32f4xx_hal::{
    gpio, i2c::I2c, pac, pac::Peripherals, prelude::*, rcc, serial, serial::Serial, timer,
    timer::PwmChannel,
};

#[path = "systick.rs"]
mod systick;

pub type Counter = systick::Counter<16_000_000>;

pub struct Board {
    pub serial: Usart,
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
            serial: Usart(serial),
            counter: Counter::new(core.SYST),
            i2c,
            heater,
            alarm: c.pc13.into_push_pull_output(),
            delay: peripherals.TIM5.delay_us(&mut rcc),
        })
    }
}

/// USART2 at 115 200 baud, with the traits of embedded-io 0.7, of which the HAL has an older
/// version.
pub struct Usart(Serial<pac::USART2>);

impl ErrorType for Usart {
    type Error = Infallible;
}

impl Read for Usart {
    /// A byte that arrived damaged is skipped.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(byte) = buffer.first_mut() else {
            return Ok(0);
        };
        loop {
            if let Ok(received) = self.0.read() {
                *byte = received;
                return Ok(1);
            }
        }
    }
}

impl Write for Usart {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let Some(&byte) = bytes.first() else {
            return Ok(0);
        };
        while self.0.write(byte).is_err() {}
        Ok(1)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while self.0.flush().is_err() {}
        Ok(())
    }
}
