//! Removes what a plan names: the records first, then what they name, by a rename that leaves nobody half a folder.

use std::io;
use std::path::{Path, PathBuf};

use super::{Plan, What};
use crate::file_digests::FileDigests;
use crate::records::{RecordError, Records};
use crate::store::{Cache, CacheError, Gate, io_error};
use crate::write::{rename, sync_all_in};

/// Why a plan could not be carried out to its end.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// A file or folder.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The records.
    #[error(transparent)]
    Records(#[from] RecordError),
}

impl Cache {
    /// Carries out a plan that was made while `gate` was closed, and writes logs anew half of whose lines are dead.
    ///
    /// Whenever it is stopped, no record is left whose object was removed.
    ///
    /// # Errors
    /// Those of writing records and of renaming; what was removed before stays removed.
    pub fn remove(&self, plan: &Plan, records: Records, gate: Gate) -> Result<(), RemoveError> {
        let mut forgotten = false;
        for removal in &plan.removals {
            if let What::Record(key) = &removal.what {
                records.forget(key)?;
                forgotten = true;
            }
        }
        if forgotten {
            // A power cut must not bring a record back whose object is gone.
            sync_all_in(self.root()).map_err(|source| io_error(self.root(), "synced", source))?;
        }
        let scratch = self.scratch_dir()?;
        for (number, removal) in plan.removals.iter().enumerate() {
            if let Some(path) = self.path_of(&removal.what) {
                move_away(&path, &scratch.path().join(number.to_string()))?;
            }
        }
        if plan.sessions.is_empty() {
            records.compact(&self.session_folder()?)?;
            let digests = self.root().join("records/files.log");
            FileDigests::compact(&digests, &self.session_folder()?)
                .map_err(|source| io_error(&digests, "written", source))?;
        }
        // Others may go on while the disk is freed.
        drop(gate);
        drop(scratch);
        Ok(())
    }

    fn path_of(&self, what: &What) -> Option<PathBuf> {
        let within = |folder: &str, name: &str| Some(self.root().join(folder).join(name));
        match what {
            What::Record(_) => None,
            What::Object(digest) => Some(self.object_path(digest)),
            What::Rows(name) => within("rows", name),
            What::Unfinished(name) => within("unfinished", name),
            What::Plan(name) => within("plans", name),
            What::Leftover(name) => within("tmp", name),
            What::Corrupt(name) => within("tmp/corrupt", name),
        }
    }
}

/// Renames; what is not there any more need not be.
fn move_away(from: &Path, to: &Path) -> Result<(), CacheError> {
    match rename(from, to) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(io_error(from, "removed", source))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
