//! Reports on results: tables, conditions, and verification against a lock.

pub mod compare;
pub mod expect;
pub mod expression;
pub mod metric_names;
pub mod outcome;
mod points;
pub mod results;
pub mod verify;
