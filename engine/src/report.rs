//! Reports on results: tables, conditions, and verification against a lock.

pub mod compare;
pub mod expect;
pub mod metric_names;
pub mod outcome;
pub mod results;
pub mod verify;
