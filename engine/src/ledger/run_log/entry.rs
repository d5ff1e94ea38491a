//! The lines of a run's log.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use refrain_cache::Key;

/// Why a node was computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// The node's name.
    pub node: String,
    /// Its key.
    pub key: Key,
    /// Its key in the run before.
    pub before: Option<Key>,
    /// The reason in words.
    pub why: String,
}

/// A line of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunLogEntry {
    /// The run begins.
    Begin {
        /// Version of the format.
        refrain: u32,
        /// The version of Refrain that runs.
        version: String,
        /// The workflow.
        workflow: PathBuf,
        /// Its lock.
        lock: PathBuf,
        /// The name of its kept plan.
        plan: String,
        /// The folder of the logs, by which the lock is found where both have moved.
        #[serde(default)]
        runs: PathBuf,
    },
    /// A node was found in the cache.
    Cached {
        /// Its name.
        node: String,
        /// Its key.
        key: Key,
    },
    /// A node begins.
    Started {
        /// Its name.
        node: String,
        /// Its key.
        key: Key,
        /// Seconds since the run began.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<f64>,
    },
    /// A node ended well.
    Finished {
        /// Its name.
        node: String,
        /// Its key.
        key: Key,
        /// Its duration.
        seconds: f64,
        /// Seconds since the run began.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<f64>,
    },
    /// A node failed.
    Failed {
        /// Its name.
        node: String,
        /// Its key, where it is known.
        key: Option<Key>,
        /// Seconds since the run began.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<f64>,
    },
    /// A node goes on.
    Progress {
        /// Its name.
        node: String,
        /// Units finished.
        done: u64,
        /// Units in all, where known.
        total: Option<u64>,
        /// The unit.
        unit: String,
    },
    /// A training made a step.
    Step {
        /// The node's name.
        node: String,
        /// The step, from 0.
        step: u64,
        /// Its mean loss over the active tokens.
        loss: f64,
        /// Its learning rate.
        learning_rate: f64,
        /// The norm of its gradient before clipping.
        grad_norm: f64,
        /// Its tokens.
        tokens: u64,
    },
    /// An attempt failed, and another one follows.
    Retry {
        /// The node's name.
        node: String,
        /// The attempt, from 1.
        attempt: u64,
    },
    /// A cached result was damaged.
    Damaged {
        /// The node's name.
        node: String,
    },
    /// Another process computes the node.
    Waiting {
        /// Its name.
        node: String,
    },
    /// The process that computed the node ended without a result.
    TakenOver {
        /// Its name.
        node: String,
    },
    /// A node's result was recorded.
    Recorded {
        /// Its name.
        node: String,
        /// Whether it is the first record of its key.
        first: bool,
    },
    /// A node that it reads failed.
    Skipped {
        /// Its name.
        node: String,
        /// The node that failed.
        because: String,
    },
    /// The reason why a node was computed.
    Why(Reason),
    /// The lock was written.
    Lock,
    /// The run ends.
    End {
        /// Its duration.
        seconds: f64,
        /// Whether every wanted node is done.
        complete: bool,
    },
}
