//! The workspace's tests, one integration binary: a module for each part of the product.

mod adamw;
mod artifact;
mod blob;
mod board;
mod budget;
mod command_line;
mod compile;
mod dataset;
mod device;
mod evaluator;
mod firmware;
mod gaps;
mod grid;
mod hostile;
mod idx;
mod integer;
mod lbfgs;
mod network;
mod problem;
mod prune;
mod server;
mod spline;
mod training;
