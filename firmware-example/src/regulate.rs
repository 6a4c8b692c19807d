//! The oven on a board: sensors on its I²C bus, the model in its flash, heater and alarm on its
//! pins, and a line of log by defmt for every step.
//!
//! Memory that holds no model of two inputs and one output, or a sensor that does not answer, is
//! logged, and nothing is heated.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod board;
#[cfg(target_os = "none")]
mod region;

#[cfg(target_os = "none")]
mod application {
    use core::panic::PanicInfo;

    use cortex_m::peripheral::SCB;
    use defmt::Debug2Format;
    use defmt_rtt as _;
    use embedded_hal::delay::DelayNs;
    use firmware_example::oven::{Oven, PERIOD_MS, Reading};
    use kan_core::{Model, blob_len};

    use crate::board::{Board, NAME};
    use crate::region;

    /// What the oven is held at, in °C.
    const SETPOINT: f32 = 180.0;

    #[cortex_m_rt::entry]
    fn main() -> ! {
        if let Some(board) = Board::take() {
            hold(board);
        }
        // Heater and alarm are as the failed start left them; a reset begins anew.
        loop {
            cortex_m::asm::wfi();
        }
    }

    /// Holds the temperature; returns if it cannot begin to.
    fn hold(mut board: Board) {
        let region = region::model();
        // Room for two hidden layers of eight nodes; the type that `kan inspect` prints is exact.
        let model = blob_len(region)
            .map(|len| region.get(..len).unwrap_or(region))
            .and_then(Model::<2, 1, 8, 3>::load);
        let model = match model {
            Ok(model) => model,
            Err(error) => return defmt::error!("the region MODEL: {}", error),
        };
        defmt::info!("{=str}: model {=str}", NAME, model.name());
        let mut oven = match Oven::start(board.i2c, board.heater, board.alarm, model) {
            Ok(oven) => oven,
            Err(error) => return defmt::error!("not started: {}", Debug2Format(&error)),
        };
        loop {
            board.delay.delay_ms(PERIOD_MS);
            match oven.step(SETPOINT) {
                Ok(reading) => {
                    let Reading {
                        temperature, power, ..
                    } = reading;
                    defmt::info!("{=f32} °C, heater at {=f32}", temperature, power);
                    if !reading.in_domain {
                        defmt::warn!("a sensor reads what the model has never seen: heater off");
                    }
                }
                Err(error) => defmt::error!("heater off: {}", Debug2Format(&error)),
            }
        }
    }

    #[panic_handler]
    fn panic(_: &PanicInfo) -> ! {
        SCB::sys_reset()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("This is firmware for a board; the README tells how it gets there.");
}
