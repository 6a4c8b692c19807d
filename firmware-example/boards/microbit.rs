//! BBC micro:bit, version 1 (nRF51822, Cortex-M0 at 16 MHz), on the desk or as QEMU's `microbit`.
//!
//! Serial line: the USB port. I²C: edge connector 19 (SCL) and 20 (SDA), which the board's own
//! sensors share. Heater and alarm: rings 0 and 1. Counter: TIMER0 at the core's clock.

use core::convert::Infallible;
use embedded_hal::{digital::OutputPin, digital::PinState, pwm};
use embedded_io::WriteReady;
use nrf51_hal::{Twi, clocks::Clocks, gpio, gpio::p0, pac, timer::Timer, twi, uart, uart::Uart};

pub struct Board {
    pub serial: Uart<pac::UART0>,
    pub counter: Counter,
    pub i2c: Twi<pac::TWI1>,
    pub heater: OnOff,
    pub alarm: p0::P0_02<gpio::Output<gpio::PushPull>>,
    pub delay: Timer<pac::TIMER1>,
}

impl Board {
    /// Starts the peripherals; `None` if that has been done.
    pub fn take() -> Option<Self> {
        let peripherals = pac::Peripherals::take()?;
        // The crystal: the built-in oscillator is too inexact for a serial line.
        Clocks::new(peripherals.CLOCK).enable_ext_hfosc();
        let pins = p0::Parts::new(peripherals.GPIO);
        let uart_pins = uart::Pins {
            txd: pins
                .p0_24
                .into_push_pull_output(gpio::Level::High)
                .degrade(),
            rxd: pins.p0_25.into_floating_input().degrade(),
            cts: None,
            rts: None,
        };
        let twi_pins = twi::Pins {
            scl: pins.p0_00.into_floating_input().degrade(),
            sda: pins.p0_30.into_floating_input().degrade(),
        };
        Some(Self {
            serial: uart(peripherals.UART0, uart_pins),
            counter: Counter::new(peripherals.TIMER0),
            i2c: Twi::new(peripherals.TWI1, twi_pins, twi::Frequency::K100),
            heater: OnOff(pins.p0_03.into_push_pull_output(gpio::Level::Low)),
            alarm: pins.p0_02.into_push_pull_output(gpio::Level::Low),
            delay: Timer::new(peripherals.TIMER1),
        })
    }
}

/// The UART at 115 200 baud.
fn uart(peripheral: pac::UART0, pins: uart::Pins) -> Uart<pac::UART0> {
    let baud = uart::Baudrate::BAUD115200;
    let mut uart = Uart::new(peripheral, pins, uart::Parity::EXCLUDED, baud);
    // The HAL sends a byte before it starts the UART, and later waits for it to have been sent.
    // QEMU drops it, so another one is sent here.
    if uart.write_ready() == Ok(false) {
        // SAFETY: the register is only written by the UART's owner, who is here.
        unsafe { (*pac::UART0::ptr()).txd.write(|w| w.bits(0)) };
    }
    uart
}

/// TIMER0 with 32 bits at 16 MHz.
pub struct Counter(pac::TIMER0);

impl Counter {
    pub const TICKS_PER_SECOND: u32 = 16_000_000;

    fn new(timer: pac::TIMER0) -> Self {
        timer.bitmode.write(|w| w.bitmode()._32bit());
        // SAFETY: a prescaler of 2^0 is a valid one.
        timer.prescaler.write(|w| unsafe { w.prescaler().bits(0) });
        // SAFETY: 1 triggers the task.
        timer.tasks_start.write(|w| unsafe { w.bits(1) });
        Self(timer)
    }

    /// Begins at 0.
    pub fn start(&mut self) {
        // SAFETY: 1 triggers the task.
        self.0.tasks_clear.write(|w| unsafe { w.bits(1) });
    }

    /// Ticks since [`start`](Self::start): four minutes fit.
    pub fn ticks(&mut self) -> Option<u32> {
        // SAFETY: 1 triggers the task.
        self.0.tasks_capture[0].write(|w| unsafe { w.bits(1) });
        Some(self.0.cc[0].read().bits())
    }
}

/// A heater that is fully on or off, as this processor has no PWM.
pub struct OnOff(p0::P0_03<gpio::Output<gpio::PushPull>>);

impl pwm::ErrorType for OnOff {
    type Error = Infallible;
}

impl pwm::SetDutyCycle for OnOff {
    fn max_duty_cycle(&self) -> u16 {
        1
    }

    fn set_duty_cycle(&mut self, duty: u16) -> Result<(), Infallible> {
        self.0.set_state(PinState::from(duty > 0))
    }
}
