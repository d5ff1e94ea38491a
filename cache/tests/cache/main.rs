//! Tests of the cache crate through its public interface, one module a theme.

// Helpers of tests may unwrap as the tests themselves do.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod check;
mod claims;
mod deliveries;
mod digests;
mod files;
mod gc;
mod manifests;
mod records;
mod rows;
mod store;
mod tables;
mod tables_broken;
mod tables_foreign;
mod tables_long;
mod unfinished;
