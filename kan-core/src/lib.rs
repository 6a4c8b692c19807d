#![doc = include_str!("../README.md")]
#![no_std]
#![deny(unsafe_code)]

#[cfg(not(target_endian = "little"))]
compile_error!(
    "kan-core reads little-endian tables in place: big-endian targets are not supported"
);

mod base;
pub mod blob;
mod float;
mod integer;
// All unsafe code: assembly, and scratch memory that is not cleared.
#[allow(unsafe_code)]
mod kernel;
pub mod kinds;
mod layer;
mod model;

pub use blob::{Head, LoadError, Scalar, blob_len};
pub use layer::LayerTables;
pub use model::{Model, integer_ram_bytes, ram_bytes};

/// Bytes that start at a multiple of four, as [`Model::load`] wants them.
///
/// For a blob that arrives in RAM: `ModelBytes([0; 4096])` is a receive buffer. For one that is
/// part of the program, [`include_model!`] wraps it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(C, align(4))]
pub struct ModelBytes<T: ?Sized>(
    /// The bytes themselves.
    pub T,
);

/// The bytes of a file as an aligned `&'static [u8]`, ready for [`Model::load`].
///
/// The path is relative to the source file, as with [`include_bytes!`].
#[macro_export]
macro_rules! include_model {
    ($path:expr $(,)?) => {{
        static BYTES: &$crate::ModelBytes<[u8]> = &$crate::ModelBytes(*include_bytes!($path));
        &BYTES.0
    }};
}
