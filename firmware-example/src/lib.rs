//! A Cortex-M application around [`kan_core`], and the firmware that evaluates any model in QEMU.
//!
//! - [`oven`] is the application: it reads a type-K thermocouple over I²C, linearises it with a
//!   KAN and drives a heater. It is generic over the traits of `embedded-hal` 1.0, so that the
//!   same code runs on a board and, with mocked peripherals, in a test on the host.
//! - [`vectors`] is the format in which test inputs reach the binary `evaluate`.
//! - The binary `evaluate` finds a blob and test vectors in memory regions of their own, and
//!   reports every output bit for bit with the exact number of executed instructions. The binary
//!   `baseline` is the same without `kan-core`; the difference of their sizes is what it costs.
//! - The binary `panic-free` calls everything that `kan-core` offers a device, and links only
//!   because none of it can panic.

#![no_std]
#![forbid(unsafe_code)]

/// The largest model that the binary `evaluate` takes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Inputs.
    pub inputs: usize,
    /// Outputs of the last layer.
    pub outputs: usize,
    /// Output nodes of any layer.
    pub width: usize,
    /// Layers.
    pub layers: usize,
}

/// Room for every model in the documentation, 8×8 images of digits included. Firmware made for one
/// model has exactly the type that `kan inspect` prints.
pub const CAPACITY: Capacity = Capacity {
    inputs: 64,
    outputs: 16,
    width: 64,
    layers: 8,
};

pub mod oven;
pub mod vectors;
