//! The kinds of tables that a [`Model`](crate::Model) takes, as a set: its last parameter.
//!
//! By default a model takes [`ALL`]. Firmware that names what it needs, several joined by `|`, is
//! linked without the code of the others; a blob that needs them is
//! [`Unsupported`](crate::LoadError::Unsupported).
//!
//! ```
//! use kan_core::{Model, kinds};
//!
//! type Sensor<'m> = Model<'m, 4, 3, 8, 2, { kinds::CUBIC_I16 }>;
//! # let _ = Sensor::load(&[]);
//! ```

/// Steps in `f32`.
pub const STEP_F32: u16 = 1;
/// Linear splines in `f32`.
pub const LINEAR_F32: u16 = 1 << 1;
/// Cubic splines in `f32`.
pub const CUBIC_F32: u16 = 1 << 2;
/// Steps in `i16`.
pub const STEP_I16: u16 = 1 << 3;
/// Linear splines in `i16`.
pub const LINEAR_I16: u16 = 1 << 4;
/// Cubic splines in `i16`.
pub const CUBIC_I16: u16 = 1 << 5;
/// Steps in `i8`.
pub const STEP_I8: u16 = 1 << 6;
/// Linear splines in `i8`.
pub const LINEAR_I8: u16 = 1 << 7;
/// Cubic splines in `i8`.
pub const CUBIC_I8: u16 = 1 << 8;
/// The SiLU base function beside splines in `f32`.
pub const RESIDUAL: u16 = 1 << 9;
/// All kinds in `f32`.
pub const F32: u16 = STEP_F32 | LINEAR_F32 | CUBIC_F32 | RESIDUAL;
/// All kinds in `i16`.
pub const I16: u16 = STEP_I16 | LINEAR_I16 | CUBIC_I16;
/// All kinds in `i8`.
pub const I8: u16 = STEP_I8 | LINEAR_I8 | CUBIC_I8;
/// All kinds.
pub const ALL: u16 = F32 | I16 | I8;
