//! Carries out a plan: records first, then their objects, each by one rename, so that no reader
//! finds half a folder.

use std::io;
use std::path::{Path, PathBuf};

use tracing::info_span;

use super::plan::{RemovalPlan, RemovalTarget};
use crate::error::{CacheError, io_error};
use crate::logs::{FileDigests, RecordError, Records};
use crate::objects::{Objects, ScratchDir};
use crate::presence::{RemovalLock, Session};
use crate::write::{rename, sync_all_in};

/// An error that ended a removal.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// An I/O error of a file or folder.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// An I/O error of the records.
    #[error(transparent)]
    Records(#[from] RecordError),
}

/// Carries out a plan that was made while `lock` was held, and rewrites logs half of whose lines
/// are dead.
pub(crate) fn remove(
    root: &Path,
    objects: &Objects,
    session: &Session,
    plan: &RemovalPlan,
    records: Records,
    lock: RemovalLock,
) -> Result<(), RemoveError> {
    let _gc = info_span!("gc", removals = plan.removals.len()).entered();
    let mut forgotten = false;
    for removal in &plan.removals {
        if let RemovalTarget::Record(key) = &removal.target {
            records.forget(key)?;
            forgotten = true;
        }
    }
    if forgotten {
        // A power cut must not bring a record back whose object is gone.
        sync_all_in(root).map_err(|source| io_error(root, "synced", source))?;
    }

    let scratch = ScratchDir::new_in(&session.folder()?)?;
    for (number, removal) in plan.removals.iter().enumerate() {
        if let Some(path) = path_of(root, objects, &removal.target) {
            move_away(&path, &scratch.path().join(number.to_string()))?;
        }
    }

    if plan.sessions.is_empty() {
        records.compact(&session.folder()?)?;
        let digests = root.join("records/files.log");
        FileDigests::compact(&digests, &session.folder()?)
            .map_err(|source| io_error(&digests, "written", source))?;
    }

    // Others may go on while the disk is freed.
    drop(lock);
    drop(scratch);
    Ok(())
}

/// Returns the path of a target; a record has none.
fn path_of(root: &Path, objects: &Objects, target: &RemovalTarget) -> Option<PathBuf> {
    let within = |folder: &str, name: &str| Some(root.join(folder).join(name));
    match target {
        RemovalTarget::Record(_) => None,
        RemovalTarget::Object(digest) => Some(objects.path(digest)),
        RemovalTarget::Rows(name) => within("rows", name),
        RemovalTarget::Unfinished(name) => within("unfinished", name),
        RemovalTarget::Plan(name) => within("plans", name),
        RemovalTarget::Leftover(name) => within("tmp", name),
        RemovalTarget::Corrupt(name) => within("tmp/corrupt", name),
    }
}

/// Renames a file or folder; one that is already gone is not an error.
fn move_away(from: &Path, to: &Path) -> Result<(), CacheError> {
    match rename(from, to) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(io_error(from, "removed", source))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
