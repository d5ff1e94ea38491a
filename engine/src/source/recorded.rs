//! Sources as an earlier run recorded them, for commands that run where their files are absent.

use arrow::datatypes::SchemaRef;

use refrain_cache::{Artifact, Digest, Key};

use crate::kind::ModelFacts;

/// A source as a lock names it.
#[derive(Debug, Clone)]
pub struct RecordedSource {
    /// The key of its node.
    pub key: Key,
    /// The digest of its file or folder.
    pub digest: Digest,
    /// Its output.
    pub artifact: Artifact,
    /// The columns of its table, where they are known.
    pub columns: Option<SchemaRef>,
    /// The facts of a model.
    pub facts: ModelFacts,
}

/// Finds the record of a source by the name of its node.
pub type FindRecorded<'a> = &'a dyn Fn(&str) -> Option<RecordedSource>;
