//! Trains Kolmogorov–Arnold networks and compiles them to tables for `kan-core`.

pub mod adamw;
pub mod artifact;
pub mod benchmark;
pub mod compile;
pub mod dataset;
pub mod device;
pub mod emulator;
pub mod evaluator;
mod float;
mod functions;
pub mod gaps;
pub mod grid;
mod integer;
pub mod kinds;
pub mod lbfgs;
pub mod levenberg;
pub mod network;
pub mod objective;
pub mod pack;
pub mod penalty;
pub mod predictor;
pub mod problem;
pub mod prune;
pub mod selection;
pub mod spline;
pub mod statistics;
pub mod train;
