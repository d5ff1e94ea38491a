//! The memory that a node needs, told before it starts, so that nodes run together only where all
//! of them fit.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::Input;

/// The facts from which a kind estimates a node's memory.
#[derive(Clone, Copy)]
pub struct MemoryContext<'a> {
    /// The parameters, typed and with defaults; references removed.
    pub params: &'a Map<String, Value>,
    /// The inputs by the path of their parameter.
    pub inputs: &'a BTreeMap<String, Input>,
    /// Rows computed together, where the workflow says so.
    pub batch: Option<usize>,
}

/// An estimate of the memory that a node needs, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Its own.
    pub own: u64,
    /// Memory that nodes which name the same path hold together, such as the weights of a model.
    pub shared: BTreeMap<PathBuf, u64>,
}

impl MemoryNeed {
    /// The sum, for a node that runs alone.
    pub fn total(&self) -> u64 {
        self.shared.values().fold(self.own, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Adds the need of a node that runs beside.
    pub fn add(&mut self, other: &MemoryNeed) {
        self.own = self.own.saturating_add(other.own);
        for (path, bytes) in &other.shared {
            let shared = self.shared.entry(path.clone()).or_default();
            *shared = (*shared).max(*bytes);
        }
    }
}
