//! Nordic's nRF52840-DK (Cortex-M4F at 64 MHz).
//!
//! Serial line: the USB port of the on-board debugger. I²C: P0.27 (SCL) and P0.26 (SDA), as on the
//! Arduino connector. Heater: P0.03. Alarm: P0.04. Counter: DWT.

use core::convert::Infallible;
use embedded_io::{ErrorType, Read, Write};
use nrf52840_hal::{
    Twim, clocks::Clocks, gpio, gpio::p0, pac, pwm, pwm::Pwm, pwm::PwmChannel, timer::Timer, twim,
    uarte, uarte::Uarte,
};

#[path = "dwt.rs"]
mod dwt;

pub type Counter = dwt::Counter<64_000_000>;

pub struct Board {
    pub serial: Serial,
    pub counter: Counter,
    pub i2c: Twim<pac::TWIM0>,
    pub heater: PwmChannel<'static, pac::PWM0>,
    pub alarm: p0::P0_04<gpio::Output<gpio::PushPull>>,
    pub delay: Timer<pac::TIMER0>,
}

impl Board {
    /// Starts the peripherals; `None` if that has been done.
    pub fn take() -> Option<Self> {
        let core = cortex_m::Peripherals::take()?;
        let peripherals = pac::Peripherals::take()?;
        // The crystal: the built-in oscillator is too inexact for a serial line.
        Clocks::new(peripherals.CLOCK).enable_ext_hfosc();
        let pins = p0::Parts::new(peripherals.P0);
        let uart_pins = uarte::Pins {
            txd: pins
                .p0_06
                .into_push_pull_output(gpio::Level::High)
                .degrade(),
            rxd: pins.p0_08.into_floating_input().degrade(),
            cts: None,
            rts: None,
        };
        let uart = Uarte::new(
            peripherals.UARTE0,
            uart_pins,
            uarte::Parity::EXCLUDED,
            uarte::Baudrate::BAUD115200,
        );
        let twim_pins = twim::Pins {
            scl: pins.p0_27.into_floating_input().degrade(),
            sda: pins.p0_26.into_floating_input().degrade(),
        };
        let pwm: &'static Pwm<pac::PWM0> =
            cortex_m::singleton!(: Pwm<pac::PWM0> = Pwm::new(peripherals.PWM0))?;
        let heater = pins.p0_03.into_push_pull_output(gpio::Level::Low);
        pwm.set_output_pin(pwm::Channel::C0, heater.degrade());
        let (heater, ..) = pwm.split_channels();
        Some(Self {
            serial: Serial(uart),
            counter: Counter::new(core.DCB, core.DWT),
            i2c: Twim::new(peripherals.TWIM0, twim_pins, twim::Frequency::K100),
            heater,
            alarm: pins.p0_04.into_push_pull_output(gpio::Level::Low),
            delay: Timer::new(peripherals.TIMER0),
        })
    }
}

/// UARTE0 at 115 200 baud. The HAL implements embedded-io only for halves with buffers of their
/// own.
pub struct Serial(Uarte<pac::UARTE0>);

impl ErrorType for Serial {
    type Error = Infallible;
}

impl Read for Serial {
    /// A byte that arrived damaged is skipped.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(byte) = buffer.first_chunk_mut::<1>() else {
            return Ok(0);
        };
        while self.0.read(byte).is_err() {}
        Ok(1)
    }
}

impl Write for Serial {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        // The peripheral reads RAM only, and the bytes may be in flash.
        let mut buffer = [0; 64];
        let mut count = 0;
        for (to, from) in buffer.iter_mut().zip(bytes) {
            *to = *from;
            count += 1;
        }
        if let Some(filled) = buffer.get(..count) {
            // It fails only for buffers in flash.
            let _ = self.0.write(filled);
        }
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
