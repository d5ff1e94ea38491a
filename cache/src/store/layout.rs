//! Creating and recognising a cache folder, and the part of `tmp/` that belongs to one process.

use std::fs;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::{Cache, CacheError, io_error};
use crate::listing::{Entry, entries};
use crate::write::write_atomic;

/// The version of the layout that is drawn in the crate's documentation.
const LAYOUT: u64 = 1;

/// Marks a folder whose content can be made again, so that backups may leave it out (<https://bford.info/cachedir/>).
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder is a cache of refrain; what is in it can be made again.\n";

const FOLDERS: [&str; 7] = ["objects", "plans", "records", "rows", "runs", "tmp", "unfinished"];

/// Leftovers in `tmp/` younger than this may belong to a process that is just starting.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Recognises the cache in `root`, or creates one in a folder that is empty or does not exist.
pub(super) fn open_or_create(root: &Path) -> Result<(), CacheError> {
    let format = root.join("format");
    match fs::read_to_string(&format) {
        Ok(text) => check_format(root, &text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return create(root),
        Err(source) => return Err(io_error(&format, "read", source)),
    }
    remove_leftovers(&root.join("tmp"));
    Ok(())
}

fn check_format(root: &Path, text: &str) -> Result<(), CacheError> {
    match text.trim().parse::<u64>() {
        Ok(LAYOUT) => Ok(()),
        Ok(found) if found > LAYOUT => Err(CacheError::Newer { path: root.into(), found, known: LAYOUT }),
        Ok(_) | Err(_) => Err(CacheError::NotACache {
            path: root.into(),
            entry: "format, which names no layout".to_owned(),
        }),
    }
}

/// Creates the layout, the file `format` last: a folder without it is completed by the next process.
fn create(root: &Path) -> Result<(), CacheError> {
    refuse_foreign(root)?;
    for name in FOLDERS {
        let folder = root.join(name);
        fs::create_dir_all(&folder).map_err(|source| io_error(&folder, "created", source))?;
    }
    let files = [(".gitignore", "*\n"), ("CACHEDIR.TAG", CACHEDIR_TAG), ("format", &format!("{LAYOUT}\n"))];
    for (name, text) in files {
        let path = root.join(name);
        write_atomic(&path, text.as_bytes()).map_err(|source| io_error(&path, "written", source))?;
    }
    Ok(())
}

/// Somebody's home folder named by mistake must not be given a `.gitignore` of `*`.
fn refuse_foreign(root: &Path) -> Result<(), CacheError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io_error(root, "read", source)),
    };
    for entry in entries {
        let entry = entry.map_err(|source| io_error(root, "read", source))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // A process that was killed while it created the cache leaves some of these names, or a temporary file.
        let ours = FOLDERS.contains(&&*name)
            || [".gitignore", "CACHEDIR.TAG"].contains(&&*name)
            || name.starts_with(".refrain-");
        if !ours {
            return Err(CacheError::NotACache { path: root.into(), entry: name.into_owned() });
        }
    }
    Ok(())
}

/// The folder under `tmp/` in which one process writes; made when first needed, removed when the cache is closed.
///
/// A lock that the kernel gives back with the process's end tells other processes whether its owner lives.
#[derive(Debug)]
pub(super) struct Session {
    parent: PathBuf,
    open: OnceLock<(TempDir, File)>,
}

/// How the names of sessions' folders begin.
const SESSION: &str = "session-";

/// The name of the lock inside a session's folder.
const LOCK: &str = "lock";

/// The name in `tmp/` of the folder for what is damaged.
pub(super) const CORRUPT: &str = "corrupt";

impl Session {
    pub(super) fn new(parent: &Path) -> Self {
        Self { parent: parent.to_path_buf(), open: OnceLock::new() }
    }

    /// The folder, created by the first call.
    pub(super) fn folder(&self) -> Result<PathBuf, CacheError> {
        if let Some((folder, _)) = self.open.get() {
            return Ok(folder.path().to_path_buf());
        }
        let opened =
            open_session(&self.parent).map_err(|source| io_error(&self.parent, "written", source))?;
        // When another thread was faster, its folder is taken and this one removed by its drop.
        Ok(self.open.get_or_init(|| opened).0.path().to_path_buf())
    }
}

fn open_session(parent: &Path) -> io::Result<(TempDir, File)> {
    // A collection that is under way ends before, and a later one sees this session.
    let gate = gate(crate::write::parent_of(parent))?;
    let _unsupported = gate.lock_shared();
    let folder = tempfile::Builder::new().prefix(SESSION).tempdir_in(parent)?;
    let lock = File::create(folder.path().join(LOCK))?;
    // On a file system without locks the folder is merely never taken for a leftover. Another process may hold the lock
    // for a moment, to see whether this one lives.
    let _unsupported = lock.lock();
    Ok((folder, lock))
}

/// The file of a cache whose lock is shared by processes that begin to write, and held alone by one that removes.
fn gate(root: &Path) -> io::Result<File> {
    File::open(root.join("format"))
}

/// As long as this lives no other process begins to write to the cache, and none removes from it.
#[derive(Debug)]
pub struct Gate {
    _lock: File,
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

    /// What processes that ended left in `tmp/`, and the names there of other processes that are at work.
    pub(crate) fn sessions(&self) -> Result<(Vec<Entry>, Vec<String>), CacheError> {
        let tmp = self.root.join("tmp");
        let own = self.session.open.get().and_then(|(folder, _)| folder.path().file_name());
        let (mut leftovers, mut living) = (Vec::new(), Vec::new());
        for entry in entries(&tmp)? {
            let old = entry.modified.elapsed().is_ok_and(|age| age > LEFTOVER_AGE);
            match entry.name.as_str() {
                CORRUPT => {}
                name if own.is_some_and(|own| own == name) => {}
                name if name.starts_with(SESSION) && !is_abandoned(&tmp.join(name)) => {
                    living.push(entry.name)
                }
                name if name.starts_with(SESSION) || old => leftovers.push(entry),
                _ => {}
            }
        }
        Ok((leftovers, living))
    }
}

/// Removes the folders of processes that ended without doing so. Nothing depends on it, so errors are no matter.
fn remove_leftovers(tmp: &Path) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(SESSION) && is_old(&entry) && is_abandoned(&entry.path()) {
            let _still_there = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_old(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
    age.is_some_and(|age| age > LEFTOVER_AGE)
}

/// Whether the owner of a session's folder has ended. One without a lock was killed before it made it, or is about to.
fn is_abandoned(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(_) => folder
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LEFTOVER_AGE)),
    }
}
