//! The errors of a remote cache, and its faults.

use std::io;
use std::path::PathBuf;

use refrain_cache::{CacheError, RecordError};
use thiserror::Error;

/// Why nothing more can be done with a remote cache.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// The address is none.
    #[error("`{address}` is no address of a remote cache: {reason}")]
    Address {
        /// The address.
        address: String,
        /// The reason.
        reason: String,
    },
    /// The address is one of the web, which is only read.
    #[error("`{address}` can only be read")]
    ReadOnly {
        /// The address.
        address: String,
    },
    /// The remote cache, or the way to it, failed.
    #[error("the remote cache `{address}` failed: {reason}")]
    Failed {
        /// The address.
        address: String,
        /// The reason, without secrets.
        reason: String,
    },
    /// The cache does not hold what is to be pushed.
    #[error(
        "{count} of the results that the lock names are not in this cache, among them `{first}`"
    )]
    Absent {
        /// The number of nodes.
        count: usize,
        /// One of them.
        first: String,
    },
    /// A file of the cache is not what its record says.
    #[error("`{}` is damaged: its bytes are not those of its digest", .0.display())]
    Damaged(PathBuf),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The records of the cache failed.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// A file of the cache could not be read or written.
    #[error("`{}` could not be read or written: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
}

/// Something at the remote that is not as the lock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The node whose result it is.
    pub node: String,
    /// The difference from the lock, in words.
    pub reason: String,
}

/// Why something is not taken.
pub(crate) enum Refused {
    /// It is not there, or not what its name says; in words.
    Fault(String),
    /// Nothing more can be done.
    Error(RemoteError),
}

impl From<CacheError> for Refused {
    fn from(error: CacheError) -> Refused {
        Refused::Error(error.into())
    }
}

impl From<RemoteError> for Refused {
    fn from(error: RemoteError) -> Refused {
        Refused::Error(error)
    }
}
