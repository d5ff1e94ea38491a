//! Reports on results: tables, comparisons, conditions, and verification against a lock.

pub mod artifact_difference;
pub mod comparison;
pub mod diff;
pub mod expect;
pub mod export;
pub mod expression;
pub mod metric_names;
pub mod outcome;
pub mod page;
mod points;
pub mod results;
pub mod verify;
