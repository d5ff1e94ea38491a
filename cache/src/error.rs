//! Errors of a cache folder, and damage to an artifact in it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::digest::Digest;
use crate::table::TableError;

/// An error of the cache.
#[derive(Debug, Error)]
pub enum CacheError {
    /// An I/O error.
    #[error("`{}` could not be {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The action that failed, such as `created`.
        action: &'static str,
        /// The error of the file system.
        source: io::Error,
    },
    /// The cache was written by a newer version of Refrain.
    #[error(
        "the cache `{}` has layout {found}, and this version of refrain knows layouts up to {known}; \
         use a newer refrain, or another folder with `--cache`",
        path.display()
    )]
    Newer {
        /// The cache folder.
        path: PathBuf,
        /// The layout that it has.
        found: u64,
        /// The newest layout that this version reads.
        known: u64,
    },
    /// The folder holds other things than a cache.
    #[error(
        "`{}` is not a cache: it holds `{entry}`; name an empty folder, or one that does not exist",
        path.display()
    )]
    NotACache {
        /// The folder.
        path: PathBuf,
        /// Something in it that no cache holds.
        entry: String,
    },
    /// A folder to be stored holds something that a model folder cannot hold.
    #[error("`{}` cannot be stored: {reason}", path.display())]
    Unstorable {
        /// The entry of the folder.
        path: PathBuf,
        /// The reason.
        reason: &'static str,
    },
    /// A table could not be completed.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// A difference between a stored artifact and its record.
#[derive(Debug, Error)]
pub enum Corrupt {
    /// It is not there.
    #[error("`{}` is missing", path.display())]
    Missing {
        /// Its path.
        path: PathBuf,
    },
    /// Its size differs.
    #[error("`{}` has {found} bytes, its record says {expected}", path.display())]
    Size {
        /// Its path.
        path: PathBuf,
        /// Bytes that the record says.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Its bytes differ.
    #[error("`{}` has the digest {found}, which is not its name", path.display())]
    Digest {
        /// Its path.
        path: PathBuf,
        /// The digest of the stored bytes.
        found: Digest,
    },
    /// It could not be read.
    #[error("`{}` could not be read: {source}", path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
}

/// Wraps an I/O error with its path and the action that failed, such as `created`.
pub(crate) fn io_error(path: &Path, action: &'static str, source: io::Error) -> CacheError {
    CacheError::Io { path: path.into(), action, source }
}
