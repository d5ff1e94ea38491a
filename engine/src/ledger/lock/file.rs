//! Reads and writes a lock's file: one process at a time, and through symbolic links.

use std::fs::{self, File};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use refrain_cache::read_plain;
use refrain_cache::write::write_atomic;

use super::LockError;

/// Largest lock that is read in bytes: that of a million nodes.
const MAX_BYTES: u64 = 1 << 30;
/// Longest chain of symbolic links that is followed.
const MAX_LINKS: usize = 40;

/// Keeps other processes from updating the lock until the handle is dropped.
///
/// The folder is locked, since the file itself is replaced by each update. Where the system has no such locks, two
/// updates may still meet.
pub(super) fn hold(path: &Path) -> Option<File> {
    let target = target(path);
    let folder = File::open(folder_of(&target)).ok()?;
    folder.lock().ok()?;
    Some(folder)
}

/// Reads the text of a lock.
pub(super) fn read(path: &Path) -> Result<String, LockError> {
    let io = |error| LockError::Io { path: path.into(), error };
    let bytes = read_plain(path, MAX_BYTES).map_err(|error| match error.kind() {
        ErrorKind::NotFound => LockError::Missing(path.into()),
        _ => io(error),
    })?;
    String::from_utf8(bytes).map_err(|_| io(Error::new(ErrorKind::InvalidData, "it is not UTF-8")))
}

/// Replaces the lock's text where it differs; a symbolic link stays one. Returns whether it did.
pub(super) fn write(path: &Path, text: &[u8]) -> Result<bool, LockError> {
    write_atomic(&target(path), text).map_err(|error| LockError::Io { path: path.into(), error })
}

/// The file that a path leads to; it need not be there.
fn target(path: &Path) -> PathBuf {
    let mut target = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Ok(link) = fs::read_link(&target) else { break };
        target = folder_of(&target).join(link);
    }
    target
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
