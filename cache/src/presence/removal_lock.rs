//! The removal lock: keeps garbage collection and writers of a cache apart.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::{CacheError, io_error};

/// Guard: while it is held, no other process begins to write to the cache or removes from it.
#[derive(Debug)]
pub struct RemovalLock {
    _lock: File,
}

impl RemovalLock {
    /// Waits for the lock of the cache folder `root`.
    pub(crate) fn acquire(root: &Path) -> Result<Self, CacheError> {
        let lock = open(root).map_err(|source| io_error(root, "read", source))?;
        // Where there are no locks, only the sessions tell who is at work.
        let _unsupported = lock.lock();
        Ok(Self { _lock: lock })
    }
}

/// Opens the locked file of a cache: processes that begin to write share the lock, one that removes
/// holds it alone.
pub(super) fn open(root: &Path) -> io::Result<File> {
    File::open(root.join("format"))
}
