//! The workflow language and the engine that runs it.
//!
//! A workflow goes through four forms, and only the last can be run:
//!
//! 1. [`yaml`]: the tree of the file, with the place of every word;
//! 2. [`workflow`]: its sections, names and stages;
//! 3. [`graph`]: a node for every stage and every point of the sweep that it depends on, with all values in
//!    place, types and columns checked;
//! 4. [`plan`] and [`run`]: each node's key, looked up in the cache, and what is missing computed.
//!
//! The engine knows no kind of stage: the stages crate hands it a [`kind::Kinds`]. It never prints, exits or
//! reads the environment; [`event`] carries everything that a display needs.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod compare;
pub mod diagnostic;
pub mod dot;
pub mod event;
pub mod expect;
mod gather;
pub mod graph;
pub mod interpolate;
pub mod kept;
pub mod kind;
pub mod lock;
pub mod manifest;
pub mod mermaid;
pub mod metrics;
pub mod plan;
pub mod results;
pub mod roots;
pub mod run;
pub mod run_log;
pub mod schema;
pub mod source;
mod stage_graph;
pub mod state;
pub mod store;
pub mod units;
pub mod verify;
pub mod workflow;
pub mod yaml;
