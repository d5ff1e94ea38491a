//! Delivering the results of a job, and collecting those of others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Cache;
use crate::digest::FileIdentity;
use crate::error::{CacheError, io_error};
use crate::logs::{FileDigests, Record, RecordError, Records, Stored, segments};
use crate::manifest::Key;
use crate::objects::SealedFile;
use crate::presence::{LivenessWatch, Presence, Sharing};
use crate::write::{remove_dir_all, sync_all_in};

impl Cache {
    /// Delivers records: syncs everything stored so far, then writes the records into a file of
    /// their own, which the next reader collects.
    ///
    /// # Errors
    /// I/O errors.
    pub fn deliver(&self, records: &[Record]) -> Result<(), CacheError> {
        let placed = std::mem::take(&mut *self.placed());
        sync_all_in(&self.root).map_err(|source| io_error(&self.root, "synced", source))?;

        let files = placed.into_iter().filter_map(|(path, SealedFile { digest, identity })| {
            let now = FileIdentity::of(&path.metadata().ok()?);
            let below = path.strip_prefix(&self.root).ok()?.to_path_buf();
            now.has_content_of(&identity).then_some((below, digest, now))
        });
        let session = self.session.folder()?;
        let written = self.deliveries.write(&session, records, files);
        written.map_err(|source| io_error(&self.root.join("deliveries"), "written", source))
    }

    /// Appends delivered records to the records, and remembers the digests of the files behind
    /// them; the keys of those that arrived since the last call.
    ///
    /// # Errors
    /// I/O errors of the deliveries and the records.
    pub fn collect(
        &self,
        records: &Records,
        known: &FileDigests,
    ) -> Result<Vec<(Key, Stored)>, RecordError> {
        self.deliveries.collect(&self.root, records, known)
    }

    /// Returns the collected deliveries whose records are on disk once a [`Cache::sync`] that begins
    /// after this call has ended.
    pub fn unsynced_deliveries(&self) -> Vec<PathBuf> {
        self.deliveries.unsynced()
    }

    /// Removes collected deliveries whose records are on disk.
    pub fn remove_deliveries(&self, synced: Vec<PathBuf>) {
        self.deliveries.remove(synced);
    }

    /// Moves the rows of ended jobs into the shared files.
    ///
    /// # Errors
    /// I/O errors of the files.
    pub fn merge_rows(&self) -> Result<(), CacheError> {
        for segment in segments(&self.rows_dir(), None)? {
            let there = self.root.join("tmp").join(&segment.session).exists();
            if !there || matches!(self.session.presence(&segment.session), Presence::Ended) {
                segment.merge()?;
            }
        }
        Ok(())
    }

    /// Removes the folder of a job that is over. Nothing depends on it, so errors are ignored.
    pub fn remove_job(&self, folder: &Path) {
        if folder.parent() == Some(&self.jobs_dir()) {
            let _still_there = remove_dir_all(folder);
        }
    }

    /// Returns the time without a sign of life after which a process loses its claims.
    pub fn lease(&self) -> Duration {
        self.sharing.lease
    }

    /// Begins to watch whether a session gives signs of life.
    pub fn watch(&self, session: &str) -> SessionWatch {
        SessionWatch { name: session.to_owned(), watch: LivenessWatch::default() }
    }

    /// Whether a session seems to live: not ended, and not silent for so long.
    pub fn session_lives(&self, watched: &mut SessionWatch, silence: Duration) -> bool {
        let sharing = Sharing { lease: silence, ..self.sharing };
        watched.watch.lives(&self.root.join("tmp"), &watched.name, sharing)
    }
}

/// One process's knowledge of whether another one lives.
#[derive(Debug)]
pub struct SessionWatch {
    name: String,
    watch: LivenessWatch,
}
