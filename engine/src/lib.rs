//! The workflow language and the engine that runs it.
//!
//! A workflow goes through four forms, and only the last can be run:
//!
//! 1. [`language::yaml`]: the tree of the file, with the place of every word;
//! 2. [`language::workflow`]: its sections, names and stages;
//! 3. [`graph`]: a node for every stage and every point of the sweep that it depends on, with all values in
//!    place, types and columns checked;
//! 4. [`plan`] and [`run`]: each node's key, looked up in the cache, and what is missing computed.
//!
//! The engine knows no kind of stage: the stages crate hands it a [`kind::Kinds`]. It never prints, exits or
//! reads the environment; [`run::event`] carries everything that a display needs.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod graph;
pub mod kind;
pub mod language;
pub mod ledger;
pub mod plan;
pub mod report;
pub mod run;
pub mod source;
pub mod statistics;
pub mod store;
