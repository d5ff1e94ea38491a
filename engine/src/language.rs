//! The workflow language: from the text of a file to its sections, names and stages, and their diagnostics.

pub mod diagnostic;
pub mod explain;
pub mod interpolate;
pub mod reference;
pub mod scalar;
pub mod schema;
pub mod units;
pub mod workflow;
pub mod yaml;
