//! The workflow language: from the text of a file to its sections, names and stages, and the diagnostics of both.

pub mod diagnostic;
pub mod explain;
pub mod interpolate;
pub mod schema;
pub mod units;
pub mod workflow;
pub mod yaml;
