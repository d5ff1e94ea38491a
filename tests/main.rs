//! The binary driven from outside, a module a theme.

// Helpers of tests may unwrap and print as the tests themselves do.
#![allow(clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)]

mod space;

mod backends; // which code computes a model
mod errors; // what wrong workflows and sources are told
mod layers; // which crate may import which
mod real_input; // the shared folder's data and model, where it is there
mod rerun; // what an edit makes run again
mod same_bytes; // what must not change a digest
