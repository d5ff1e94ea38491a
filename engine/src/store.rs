//! The cache as the engine uses it: artifacts, records and remembered file digests behind one handle.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use refrain_cache::{
    Artifact, Cache, CacheError, Corrupt, Digest, FileDigests, Key, OnHashed, Record, RecordError,
    RecordSummary, Records, Sharing, Stored,
};

use crate::language::explain::{ErrorClass, Explain};

/// An opened cache with its records.
pub struct Store {
    cache: Cache,
    records: Records,
    digests: FileDigests,
    /// Whether something was written since the last sync.
    unsynced: AtomicBool,
}

/// Why the cache failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its folder or an artifact.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Its records.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// Hashing was ended before its end.
    #[error("interrupted")]
    Stopped,
}

impl Store {
    /// Opens the cache in a folder, which is made where it is not there.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        Store::open_shared(root, Sharing::default())
    }

    /// Opens a cache as [`Store::open`] does, with other rules for the processes that share it.
    pub fn open_shared(root: &Path, sharing: Sharing) -> Result<Store, StoreError> {
        Self::of(Cache::open_shared(root, sharing)?)
    }

    /// Opens a cache for a run: nothing that the run finds in it is removed before the run ends.
    pub fn open_for_run(root: &Path, sharing: Sharing) -> Result<Store, StoreError> {
        let cache = Cache::open_shared(root, sharing)?;
        // A cache that cannot be written to can be read: nobody removes anything from it.
        let _read_only = cache.begin_write().and_then(|()| cache.merge_rows());
        Self::of(cache)
    }

    fn of(cache: Cache) -> Result<Store, StoreError> {
        let records = cache.records()?;
        let digests = cache.file_digests()?;
        let store = Store { cache, records, digests, unsynced: AtomicBool::new(false) };
        // A cache that cannot be written to is read without what waits in it.
        let _read_only = store.collect();
        Ok(store)
    }

    /// Takes over the results that jobs on other machines delivered; their keys, and whether an
    /// earlier record of a key counts.
    pub fn collect(&self) -> Result<Vec<(Key, Stored)>, StoreError> {
        let collected = self.cache.collect(&self.records, &self.digests)?;
        if !collected.is_empty() {
            self.unsynced.store(true, Ordering::Release);
        }
        Ok(collected)
    }

    /// The artifacts.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The records.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The digests of files, remembered.
    pub fn digests(&self) -> &FileDigests {
        &self.digests
    }

    /// Returns the path of an artifact, whether or not it is there.
    pub fn object_path(&self, digest: &Digest) -> PathBuf {
        self.cache.object_path(digest)
    }

    /// The record of a key.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        Ok(self.records.get(key)?)
    }

    /// Returns how long the node with a key took, in seconds; 0 where it has no record.
    pub fn seconds(&self, key: &Key) -> f64 {
        let summary = self.records.summary(key).ok().flatten();
        summary.map_or(0.0, |summary| summary.seconds)
    }

    /// Returns the summary of the record of a key: the part that readers of the node need.
    pub fn made(&self, key: &Key) -> Result<Option<RecordSummary>, StoreError> {
        Ok(self.records.summary(key)?)
    }

    /// Whether any process has recorded a key by now.
    pub fn has_recorded(&self, key: &Key) -> Result<bool, StoreError> {
        self.records.refresh()?;
        Ok(self.records.summary(key)?.is_some())
    }

    /// Writes a record; the first of a key wins.
    pub fn put(&self, record: &Record) -> Result<Stored, StoreError> {
        let stored = self.records.put(record)?;
        self.unsynced.store(true, Ordering::Release);
        Ok(stored)
    }

    /// Drops the record of a key.
    pub fn forget(&self, key: &Key) -> Result<(), StoreError> {
        self.records.forget(key)?;
        self.unsynced.store(true, Ordering::Release);
        Ok(())
    }

    /// Checks that an artifact is there with the right bytes, and sets a damaged one aside. Returns
    /// what is wrong with it.
    ///
    /// # Errors
    /// [`StoreError::Cache`] where it cannot be set aside.
    pub fn check(&self, artifact: &Artifact) -> Result<Option<String>, StoreError> {
        self.check_watched(artifact, &|_| Ok(()))
    }

    /// Checks an artifact as [`Store::check`] does; `on_hashed` is told of progress and can end it.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] where `on_hashed` ended it, and [`StoreError::Cache`].
    pub fn check_watched(
        &self,
        artifact: &Artifact,
        on_hashed: OnHashed<'_>,
    ) -> Result<Option<String>, StoreError> {
        let stopped = AtomicBool::new(false);
        let watched =
            |bytes| on_hashed(bytes).inspect_err(|_| stopped.store(true, Ordering::Release));
        let Err(fault) = self.cache.verify_watched(artifact, &self.digests, &watched) else {
            return Ok(None);
        };

        let there = || self.object_path(&artifact.digest).exists();
        // An artifact that was not hashed to its end is not damaged.
        if stopped.load(Ordering::Acquire) {
            return Err(StoreError::Stopped);
        }
        if !there() {
            return Ok(Some(fault.to_string()));
        }
        match self.cache.set_aside(artifact) {
            Ok(aside) => Ok(Some(format!("{fault}; it is set aside as `{}`", aside.display()))),
            // Of two that look at one artifact at once one sets it aside.
            Err(_) if !there() => Ok(Some(fault.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether checking an artifact means to hash a file.
    pub fn must_hash(&self, artifact: &Artifact) -> bool {
        self.cache.must_hash(artifact, &self.digests)
    }

    /// Hashes an artifact.
    pub fn verify(&self, artifact: &Artifact) -> Result<(), Corrupt> {
        self.cache.verify(artifact)
    }

    /// Makes everything written so far survive a power cut.
    pub fn sync(&self) -> Result<(), StoreError> {
        // Taken first: what is written meanwhile belongs to the next group.
        if self.unsynced.swap(false, Ordering::AcqRel) || self.digests.has_unsaved() {
            let collected = self.cache.unsynced_deliveries();
            let synced = self.cache.sync(&self.digests).and_then(|()| self.digests.save());
            // What was refused is tried again with the next group.
            synced.inspect_err(|_| self.unsynced.store(true, Ordering::Release))?;
            self.cache.remove_deliveries(collected);
        }
        Ok(())
    }
}

impl Explain for StoreError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Environment
    }

    fn hint(&self) -> Option<String> {
        let io = matches!(self, StoreError::Cache(CacheError::Io { .. }));
        io.then(|| "`--cache DIR` or REFRAIN_CACHE name another folder for the cache".into())
    }
}
