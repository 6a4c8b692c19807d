//! Raspberry Pi Pico (RP2040, Cortex-M0+ at 125 MHz).
//!
//! Serial line: UART0, sending on GP0 and receiving on GP1, as a debug probe is wired. I²C: GP4
//! (SDA) and GP5 (SCL). Heater: GP16. Alarm: GP17. Counter: SysTick.

use rp2040_hal::{
    Clock, I2C, Sio, Timer, Watchdog, clocks,
    fugit::RateExtU32,
    gpio,
    gpio::Pins,
    pac, pwm,
    uart::{DataBits, Enabled, StopBits, UartConfig, UartPeripheral},
};

#[path = "systick.rs"]
mod systick;

pub type Counter = systick::Counter<125_000_000>;

/// The second stage of the boot loader, which the first finds at the start of the flash.
#[unsafe(link_section = ".boot2")]
#[used]
static BOOT_LOADER: [u8; 256] = rp2040_boot2::BOOT_LOADER_W25Q080;

/// The crystal, in Hz.
const CRYSTAL: u32 = 12_000_000;

type Pin<I, F> = gpio::Pin<I, F, gpio::PullDown>;
type UartPins = (
    Pin<gpio::bank0::Gpio0, gpio::FunctionUart>,
    Pin<gpio::bank0::Gpio1, gpio::FunctionUart>,
);
type I2cPin<I> = gpio::Pin<I, gpio::FunctionI2C, gpio::PullUp>;

pub struct Board {
    pub serial: UartPeripheral<Enabled, pac::UART0, UartPins>,
    pub counter: Counter,
    pub i2c: I2C<pac::I2C0, (I2cPin<gpio::bank0::Gpio4>, I2cPin<gpio::bank0::Gpio5>)>,
    pub heater: pwm::Channel<pwm::Slice<pwm::Pwm0, pwm::FreeRunning>, pwm::A>,
    pub alarm: Pin<gpio::bank0::Gpio17, gpio::FunctionSioOutput>,
    pub delay: Timer,
}

impl Board {
    /// Starts the peripherals; `None` if that has been done.
    pub fn take() -> Option<Self> {
        let core = cortex_m::Peripherals::take()?;
        let mut peripherals = pac::Peripherals::take()?;
        let mut watchdog = Watchdog::new(peripherals.WATCHDOG);
        let clocks = clocks::init_clocks_and_plls(
            CRYSTAL,
            peripherals.XOSC,
            peripherals.CLOCKS,
            peripherals.PLL_SYS,
            peripherals.PLL_USB,
            &mut peripherals.RESETS,
            &mut watchdog,
        )
        .ok()?;
        let resets = &mut peripherals.RESETS;
        let sio = Sio::new(peripherals.SIO);
        let (io, pads) = (peripherals.IO_BANK0, peripherals.PADS_BANK0);
        let pins = Pins::new(io, pads, sio.gpio_bank0, resets);
        let config = UartConfig::new(115_200.Hz(), DataBits::Eight, None, StopBits::One);
        let uart_pins = (pins.gpio0.reconfigure(), pins.gpio1.reconfigure());
        let uart = UartPeripheral::new(peripherals.UART0, uart_pins, resets)
            .enable(config, clocks.peripheral_clock.freq())
            .ok()?;
        let i2c = I2C::i2c0(
            peripherals.I2C0,
            pins.gpio4.reconfigure(),
            pins.gpio5.reconfigure(),
            100.kHz(),
            resets,
            &clocks.system_clock,
        );
        let mut slice = pwm::Slices::new(peripherals.PWM, resets).pwm0;
        slice.enable();
        let mut heater = slice.channel_a;
        heater.output_to(pins.gpio16);
        Some(Self {
            serial: uart,
            counter: Counter::new(core.SYST),
            i2c,
            heater,
            alarm: pins.gpio17.reconfigure(),
            delay: Timer::new(peripherals.TIMER, resets, &clocks),
        })
    }
}
