//! The kernels of `refrain-lm`, which that crate keeps to itself, opened for their benchmarks.

#![allow(missing_docs, dead_code)]

#[macro_use]
pub mod kernels;
pub mod random;
