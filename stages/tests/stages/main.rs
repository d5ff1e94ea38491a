//! Runs the kinds on small tables and on the reference data, without the engine's scheduler.

// Helpers of tests may unwrap and print as the tests themselves do.
#![allow(clippy::disallowed_methods, clippy::print_stderr, clippy::unwrap_used)]

mod bench;
mod columns;
mod diversify;
mod evaluate;
mod evaluate_edges;
mod keys;
mod mask;
mod run;
