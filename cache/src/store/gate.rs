//! The gate of a cache: who removes closes it, so that nobody begins to write meanwhile, and sees who is at work.

use std::fs::File;
use std::io;
use std::path::Path;

use super::session::Presence;
use super::{Cache, CacheError, io_error};
use crate::listing::{Entry, entries};

/// The name in `tmp/` of the folder for what is damaged.
pub(super) const CORRUPT: &str = "corrupt";

/// As long as this lives no other process begins to write to the cache, and none removes from it.
#[derive(Debug)]
pub struct Gate {
    _lock: File,
}

/// The file of a cache whose lock is shared by processes that begin to write, and held alone by one that removes.
pub(super) fn gate(root: &Path) -> io::Result<File> {
    File::open(root.join("format"))
}

impl Cache {
    /// Tells other processes that this one works with the cache: what it finds there is not removed by
    /// [`Cache::remove`] of another process before it ends. Said before the records are opened.
    ///
    /// # Errors
    /// Those of writing to `tmp/`.
    pub fn hold(&self) -> Result<(), CacheError> {
        self.session.folder().map(drop)
    }

    /// Waits for other processes that are removing, and keeps processes from beginning to write.
    ///
    /// # Errors
    /// Those of writing to `tmp/`.
    pub fn close(&self) -> Result<Gate, CacheError> {
        // Opened first: with the gate closed this process could not begin to write either.
        self.hold()?;
        let lock = gate(&self.root).map_err(|source| io_error(&self.root, "read", source))?;
        // Where there are no locks, only the sessions tell who is at work.
        let _unsupported = lock.lock();
        Ok(Gate { _lock: lock })
    }

    /// What processes that ended left in `tmp/`, and the names there of other processes that may be at work.
    pub(crate) fn sessions(&self) -> Result<(Vec<Entry>, Vec<String>), CacheError> {
        let (mut leftovers, mut living) = (Vec::new(), Vec::new());
        for entry in entries(&self.root.join("tmp"))? {
            match self.session.presence(&entry.name) {
                Presence::None if entry.name == CORRUPT => {}
                Presence::Own => {}
                Presence::Other => living.push(entry.name),
                Presence::Ended => leftovers.push(entry),
                Presence::None => {
                    if self.session.is_old(entry.modified) {
                        leftovers.push(entry);
                    }
                }
            }
        }
        Ok((leftovers, living))
    }
}
