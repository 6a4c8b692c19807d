//! The board that a binary is built for: the file in `boards/` that a feature of its name selects.

#[cfg_attr(feature = "mps2", path = "../boards/mps2.rs")]
#[cfg_attr(feature = "mps2-an505", path = "../boards/mps2.rs")]
#[cfg_attr(feature = "microbit", path = "../boards/microbit.rs")]
#[cfg_attr(feature = "netduinoplus2", path = "../boards/netduinoplus2.rs")]
#[cfg_attr(feature = "nrf52840-dk", path = "../boards/nrf52840-dk.rs")]
#[cfg_attr(feature = "pico", path = "../boards/pico.rs")]
#[cfg_attr(feature = "pico2", path = "../boards/pico2.rs")]
#[allow(dead_code)] // no binary uses all of a board
mod selected;

pub use selected::*;

/// The feature.
pub const NAME: &str = env!("BOARD");
