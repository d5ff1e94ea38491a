//! The identity of a file: everything that its metadata tells about its content.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// Identifies a file's content without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    pub(crate) size: u64,
    /// Seconds and nanoseconds of the last change of the content.
    seconds: i64,
    nanoseconds: i64,
}

impl FileIdentity {
    /// Takes the identity of a file from its metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
        }
    }
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}
