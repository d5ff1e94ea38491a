//! What happens during a run, as events. The progress display, the run log and tests see nothing else.

use std::time::Duration;

use refrain_cache::Key;

use crate::graph::NodeId;
use crate::run::Failure;

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// The run begins.
    Begin {
        /// How many nodes are wanted.
        nodes: usize,
    },
    /// A node's outputs were found in the cache.
    Cached {
        /// The node.
        node: NodeId,
        /// Its key.
        key: &'a Key,
    },
    /// A node begins.
    Started {
        /// The node.
        node: NodeId,
        /// Its key.
        key: &'a Key,
    },
    /// A node goes on.
    Progress {
        /// The node.
        node: NodeId,
        /// Units finished.
        done: u64,
        /// Units in all, when known.
        total: Option<u64>,
        /// What is counted.
        unit: &'static str,
    },
    /// A remark of a node for people.
    Note {
        /// The node.
        node: NodeId,
        /// The remark.
        text: String,
    },
    /// A node ended well.
    Finished {
        /// The node.
        node: NodeId,
        /// How long it took.
        elapsed: Duration,
        /// Whether an earlier result of the same key has other bytes.
        differs: bool,
    },
    /// A node failed.
    Failed {
        /// The node.
        node: NodeId,
        /// Why.
        failure: &'a Failure,
    },
    /// A node cannot run, since one that it reads failed.
    Skipped {
        /// The node.
        node: NodeId,
        /// The node that failed.
        because: NodeId,
    },
}

/// Receives events, from several threads.
pub type Events<'a> = &'a (dyn Fn(Event<'_>) + Sync);
