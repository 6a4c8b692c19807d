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

pub mod oven;
pub mod vectors;
