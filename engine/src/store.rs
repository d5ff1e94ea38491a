//! The cache as the engine uses it: artifacts, records and remembered file digests behind one handle.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use refrain_cache::{
    Artifact, Cache, CacheError, Corrupt, Digest, FileDigests, Key, Record, RecordError, Records, Stored,
};

/// An opened cache with its records.
pub struct Store {
    cache: Cache,
    records: Records,
    digests: FileDigests,
    /// Whether anything was written since the last sync.
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
    /// What it remembers of files.
    #[error("cannot write what the cache remembers of files: {0}")]
    Digests(std::io::Error),
}

impl Store {
    /// Opens the cache in a folder, which is made where it is not there.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        Self::of(Cache::open(root)?)
    }

    /// As [`Store::open`], for a run: what it finds in the cache stays there until it ends.
    pub fn open_for_run(root: &Path) -> Result<Store, StoreError> {
        let cache = Cache::open(root)?;
        // A cache that cannot be written to can be read: nobody removes anything from it.
        let _read_only = cache.hold();
        Self::of(cache)
    }

    fn of(cache: Cache) -> Result<Store, StoreError> {
        let records = cache.records()?;
        let digests = cache.file_digests()?;
        Ok(Store { cache, records, digests, unsynced: AtomicBool::new(false) })
    }

    /// The artifacts.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The digests of files, remembered.
    pub fn digests(&self) -> &FileDigests {
        &self.digests
    }

    /// Where an artifact lies.
    pub fn object_path(&self, digest: &Digest) -> PathBuf {
        self.cache.object_path(digest)
    }

    /// The record of a key.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        Ok(self.records.get(key)?)
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

    /// Whether an artifact is there with the right bytes; a damaged one is set aside.
    pub fn check(&self, artifact: &Artifact) -> Result<Option<String>, StoreError> {
        match self.cache.verify_remembered(artifact, &self.digests) {
            Ok(()) => Ok(None),
            Err(fault) => {
                if self.object_path(&artifact.digest).exists() {
                    self.cache.set_aside(artifact)?;
                }
                Ok(Some(fault.to_string()))
            }
        }
    }

    /// Hashes an artifact.
    pub fn verify(&self, artifact: &Artifact) -> Result<(), Corrupt> {
        self.cache.verify(artifact)
    }

    /// Makes everything written so far survive a power cut.
    pub fn sync(&self) -> Result<(), StoreError> {
        // Taken first: what is written meanwhile belongs to the next group.
        if self.unsynced.swap(false, Ordering::AcqRel) || self.digests.has_unsaved() {
            self.cache.sync(&self.digests)?;
            self.digests.save().map_err(StoreError::Digests)?;
        }
        Ok(())
    }
}
