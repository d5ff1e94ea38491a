//! One entry of a lock.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use refrain_cache::{Artifacts, Digest, Key, Metric, NodeResult, same_metrics};

use crate::kind::{MAIN, ModelFacts};
use crate::plan::state::NodeState;
use crate::source::recorded::RecordedSource;

use super::SourceColumns;

/// A fact about a model, pinned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PinnedFact {
    /// The name of the model, made of its digests.
    pub model: String,
    /// The fact.
    pub fact: Value,
}

/// The entry of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "a mapping with `node`")]
pub struct LockEntry {
    /// The node's name.
    pub node: String,
    /// Its kind.
    pub kind: String,
    /// Its key.
    pub key: Key,
    /// The digest of a source's file or folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Digest>,
    /// The columns of a source's table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<SourceColumns>,
    /// The facts of a model on which defaults depend.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub facts: ModelFacts,
    /// Its outputs.
    pub outputs: Artifacts,
    /// Its metrics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// The backend and device that can move the last bits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub profile: String,
    /// A fact about the model that was found out at its first use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<PinnedFact>,
    /// Fields of a later version, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl LockEntry {
    /// The entry of a node with these results.
    pub fn new(node: &str, kind: &str, done: &NodeState) -> LockEntry {
        LockEntry {
            node: node.to_string(),
            kind: kind.to_string(),
            key: done.key,
            file: done.file,
            columns: None,
            facts: Map::new(),
            outputs: done.result.artifacts.clone(),
            metrics: done.result.metrics.clone(),
            profile: done.result.profile.clone(),
            pinned: None,
            other: Map::new(),
        }
    }

    /// Whether it is the entry of a node of this kind with these results.
    pub(crate) fn says(&self, kind: &str, done: &NodeState) -> bool {
        let NodeState { key, result, file, seen: _ } = done;
        let NodeResult { artifacts, metrics, profile, usage: _ } = result;
        self.key == *key
            && self.kind == kind
            && self.file == *file
            && self.outputs == *artifacts
            && same_metrics(&self.metrics, metrics)
            && self.profile == *profile
    }

    /// Returns the source as its entry records it.
    pub fn recorded(&self) -> Option<RecordedSource> {
        Some(RecordedSource {
            key: self.key,
            digest: self.file?,
            artifact: self.outputs.get(MAIN)?.clone(),
            columns: self.columns.as_ref().and_then(SourceColumns::schema),
            facts: self.facts.clone(),
        })
    }

    /// The results that the entry names.
    pub fn to_done(&self) -> NodeState {
        NodeState {
            key: self.key,
            result: NodeResult {
                artifacts: self.outputs.clone(),
                metrics: self.metrics.clone(),
                profile: self.profile.clone(),
                usage: None,
            },
            file: self.file,
            seen: None,
        }
    }
}
