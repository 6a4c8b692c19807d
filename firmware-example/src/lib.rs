//! A Cortex-M application around [`kan_core`], and firmware that serves a model to a host.
//!
//! - [`oven`] is the application: it reads a type-K thermocouple over I²C, linearises it with a
//!   KAN and drives a heater. It is generic over the traits of `embedded-hal` 1.0, so that the
//!   same code runs on every board and, with mocked peripherals, in a test on the host.
//! - [`server`] answers a host over a serial line: it evaluates a model on the rows that the host
//!   sends, and counts what each inference takes. [`protocol`] is how the two talk.
//! - [`boards`] tells a host how firmware and models get to each board.
//!
//! Binaries: `serve` and `regulate` are the two on a board, each of which is one file in `boards/`;
//! `minimal` is the least firmware around a model, and `baseline` the same without `kan-core`, to
//! weigh it. The binary `bench` measures a model on the inputs of [`stimulus`] or, with the feature
//! `peer`, KANs and a perceptron on those of a data set. The binary `panic-free` calls everything
//! that `kan-core` offers a device, and links only because none of it can panic; so does `serve`,
//! but on the two Picos, whose HALs can.

#![no_std]
#![forbid(unsafe_code)]

pub mod boards;
pub mod oven;
pub mod protocol;
pub mod server;
pub mod stimulus;

/// The largest model that the server takes.
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

/// A model of any shape within [`CAPACITY`].
pub type Model<'m> = kan_core::Model<
    'm,
    { CAPACITY.inputs },
    { CAPACITY.outputs },
    { CAPACITY.width },
    { CAPACITY.layers },
>;
