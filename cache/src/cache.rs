//! The cache folder, opened: the one handle through which the other crates use a cache.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::deliveries::Deliveries;
use crate::digest::Digest;
use crate::error::{CacheError, io_error};
use crate::logs::{Claims, FileDigests, Holder, RecordError, Records, RowMemo};
use crate::manifest::Key;
use crate::objects::{Objects, ScratchDir, SealedFile};
use crate::presence::{Session, Sharing};
use crate::unfinished::Unfinished;

mod artifacts;
mod delivery;
mod layout;
mod upkeep;

pub use delivery::SessionWatch;

/// An open cache folder, shared by the threads of a process. Other processes may use the same
/// folder at the same time.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    sharing: Sharing,
    claims: OnceLock<Option<Claims>>,
    session: Session,
    objects: Objects,
    /// Files that this process hashed and moved in, for [`Cache::sync`].
    placed: Mutex<Vec<(PathBuf, SealedFile)>>,
    /// The row memos that this process uses.
    rows: Mutex<HashMap<Key, Arc<RowMemo>>>,
    /// Whether new rows go into files of this process alone.
    apart: bool,
    deliveries: Deliveries,
}

impl Cache {
    /// Opens the cache folder `root`, and creates it where there is none.
    ///
    /// # Errors
    /// [`CacheError::Newer`] for an unknown layout, [`CacheError::NotACache`] for a folder that
    /// holds other things, and I/O errors.
    pub fn open(root: &Path) -> Result<Self, CacheError> {
        Self::open_shared(root, Sharing::default())
    }

    /// Opens a cache as [`Cache::open`] does, with other rules for the processes that share it; all
    /// must follow the same ones.
    ///
    /// # Errors
    /// See [`Cache::open`].
    pub fn open_shared(root: &Path, sharing: Sharing) -> Result<Self, CacheError> {
        Self::open_as(root, sharing, false)
    }

    /// Opens a cache for a job on another machine, which appends to no file that others append to:
    /// its rows go into files of its own, its records into deliveries ([`Cache::deliver`]).
    ///
    /// # Errors
    /// See [`Cache::open`].
    pub fn open_apart(root: &Path, sharing: Sharing) -> Result<Self, CacheError> {
        Self::open_as(root, sharing, true)
    }

    fn open_as(root: &Path, sharing: Sharing, apart: bool) -> Result<Self, CacheError> {
        let root = std::path::absolute(root).map_err(|source| io_error(root, "opened", source))?;
        layout::open_or_create(&root, sharing)?;
        Ok(Self {
            session: Session::new(&root.join("tmp"), sharing),
            objects: Objects::new(&root),
            deliveries: Deliveries::new(&root),
            root,
            sharing,
            claims: OnceLock::new(),
            placed: Mutex::default(),
            rows: Mutex::default(),
            apart,
        })
    }

    /// Returns the cache folder as an absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder for the event logs of runs.
    pub fn runs_dir(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Returns the folder for the row memos.
    pub fn rows_dir(&self) -> PathBuf {
        self.root.join("rows")
    }

    /// Opens the records of this cache.
    ///
    /// # Errors
    /// I/O errors of the log.
    pub fn records(&self) -> Result<Records, RecordError> {
        Records::open(&self.root.join("records/records.log"))
    }

    /// Opens the remembered digests of files.
    ///
    /// # Errors
    /// I/O errors of the log.
    pub fn file_digests(&self) -> Result<FileDigests, CacheError> {
        let path = self.root.join("records/files.log");
        FileDigests::open(&path).map_err(|source| io_error(&path, "read", source))
    }

    /// Returns the row memo of the function with this key, up to date with the disk: the file is
    /// read once, and from then on only its new entries.
    ///
    /// # Errors
    /// I/O errors of the file.
    pub fn rows(&self, function: &Key) -> Result<Arc<RowMemo>, CacheError> {
        // A map of whole entries; a thread that panicked left it sound.
        let mut opened = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = match opened.get(function) {
            Some(rows) => rows.clone(),
            None => {
                let session = self.apart.then(|| self.session_name()).transpose()?;
                let rows = RowMemo::open(&self.rows_dir(), function, session.as_deref())?;
                let rows = Arc::new(rows);
                opened.insert(*function, rows.clone());
                rows
            }
        };
        drop(opened);
        rows.refresh()?;
        Ok(rows)
    }

    /// Returns the folder of what jobs deliver.
    pub fn deliveries_dir(&self) -> PathBuf {
        self.root.join("deliveries")
    }

    /// Returns the folder of the jobs that run on other machines.
    pub fn jobs_dir(&self) -> PathBuf {
        self.root.join("jobs")
    }

    /// Returns the place where the node with this key keeps the work of an interrupted run.
    pub fn unfinished(&self, key: &Key) -> Unfinished<'_> {
        Unfinished::new(&self.session, self.root.join("unfinished").join(key.to_string()))
    }

    /// Creates an empty folder under `tmp/`, removed with all that is in it when it is dropped.
    ///
    /// # Errors
    /// I/O errors.
    pub fn scratch_dir(&self) -> Result<ScratchDir, CacheError> {
        ScratchDir::new_in(&self.session.folder()?)
    }

    /// Returns the name of this process among those at the cache, for [`Cache::session_lives`].
    ///
    /// # Errors
    /// I/O errors in `tmp/`.
    pub fn session_name(&self) -> Result<String, CacheError> {
        let folder = self.session.folder()?;
        Ok(folder.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    /// Claims a key for this process, or returns its holder. After claiming a key, check once more
    /// for its record before computing it.
    ///
    /// In a cache whose claims cannot be written every key is free: claims never keep a process
    /// from its work.
    ///
    /// # Errors
    /// The holder of the key.
    pub fn claim(&self, key: &Key) -> Result<(), Holder> {
        let open = || Claims::open(&self.root, &self.session, self.sharing).ok();
        let claims = self.claims.get_or_init(open);
        claims.as_ref().and_then(|claims| claims.take(key).ok()).unwrap_or(Ok(()))
    }

    /// Gives a key back: it is recorded, or was not computed after all. Other processes see it
    /// after the next [`Cache::claim`] or [`Cache::flush_claims`].
    pub fn release(&self, key: &Key) {
        if let Some(claims) = self.opened_claims() {
            claims.release(key);
        }
    }

    /// Lets other processes see released keys.
    pub fn flush_claims(&self) {
        if let Some(claims) = self.opened_claims() {
            claims.flush();
        }
    }

    /// Returns the holder of a key as far as this process knows; it knows of none before its first
    /// [`Cache::claim`].
    pub fn holder(&self, key: &Key) -> Option<Holder> {
        self.opened_claims()?.holder(key)
    }

    /// Returns the claims, unless this process has claimed nothing yet.
    fn opened_claims(&self) -> Option<&Claims> {
        self.claims.get()?.as_ref()
    }

    /// A list of whole entries; a thread that panicked left it sound.
    fn placed(&self) -> MutexGuard<'_, Vec<(PathBuf, SealedFile)>> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the path of an object, whether or not it is there.
    pub fn object_path(&self, digest: &Digest) -> PathBuf {
        self.objects.path(digest)
    }
}
