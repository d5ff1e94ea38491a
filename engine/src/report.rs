//! Reports on results: tables, conditions, and verification against a lock.

pub mod compare;
pub mod expect;
pub mod results;
pub mod verify;
