//! Linear algebra in f64 for sets of vectors: products of all pairs of rows, and eigenvalues of
//! symmetric matrices.
//!
//! Every sum has one order, so that bits depend on neither threads nor the width of registers.

mod eigenvalues;
mod packed;
mod tridiagonal;
mod vectors;

pub use eigenvalues::eigenvalues;
pub use packed::{Packed, add_lower, map_lower, map_panels};
pub use vectors::{add, dots, exp_all, sum_exp};

#[cfg(test)]
mod tests;
