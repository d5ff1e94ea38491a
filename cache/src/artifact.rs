//! Artifacts: the outputs of a node, as records and locks name them.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

mod map;

pub use map::Artifacts;

/// The type of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactKind {
    /// A Parquet file.
    Table,
    /// A folder in Hugging Face layout.
    Model,
    /// Any other file.
    File,
    /// Any other folder, of which only sources are.
    Folder,
}

impl ArtifactKind {
    /// Whether an artifact of this kind is a folder.
    pub fn is_folder(self) -> bool {
        matches!(self, ArtifactKind::Model | ArtifactKind::Folder)
    }
}

/// One output of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Whether it is a table, a model, or another file or folder.
    pub kind: ArtifactKind,
    /// Digest of the file, or of the folder's listing.
    pub digest: Digest,
    /// Size in bytes: of the file, or of all files of the folder.
    pub bytes: u64,
    /// Rows of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Digest of the model that an adapter belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
}
