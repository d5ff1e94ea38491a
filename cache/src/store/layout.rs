//! Creating and recognising a cache folder, and the part of `tmp/` that belongs to one process.

use std::fs;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{CacheError, io_error};
use crate::write::{PlainFile, TempFolder, create_dir_all, is_old, remove_dir_all, write_atomic};

/// The version of the layout that is drawn in the crate's documentation.
const LAYOUT: u64 = 1;

/// Marks a folder whose content can be made again, so that backups may leave it out (<https://bford.info/cachedir/>).
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder is a cache of refrain; what is in it can be made again.\n";

const FOLDERS: [&str; 7] = ["objects", "plans", "records", "rows", "runs", "tmp", "unfinished"];

/// Recognises the cache in `root`, or creates one in a folder that is empty or does not exist.
pub(super) fn open_or_create(root: &Path) -> Result<(), CacheError> {
    let format = root.join("format");
    match fs::read_to_string(&format) {
        Ok(text) => check_format(root, &text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return create(root),
        Err(source) => return Err(io_error(&format, "read", source)),
    }
    // Somebody may have removed one to win space.
    for folder in FOLDERS.map(|name| root.join(name)).iter().filter(|folder| !folder.is_dir()) {
        create_dir_all(folder).map_err(|source| io_error(folder, "created", source))?;
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
        create_dir_all(&folder).map_err(|source| io_error(&folder, "created", source))?;
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
    open: OnceLock<(TempFolder, PlainFile)>,
}

/// The name of the lock inside a session's folder.
const LOCK: &str = "lock";

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

fn open_session(parent: &Path) -> io::Result<(TempFolder, PlainFile)> {
    let folder = TempFolder::create(parent, "session-")?;
    let lock = PlainFile::create(&folder.path().join(LOCK))?;
    // On a file system without locks the folder is merely never taken for a leftover.
    let _unsupported = lock.open().try_lock();
    Ok((folder, lock))
}

/// Removes the folders of processes that ended without doing so. Nothing depends on it, so errors are no matter.
fn remove_leftovers(tmp: &Path) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with("session-");
        let old = entry.metadata().is_ok_and(|metadata| is_old(&metadata));
        if ours && old && is_abandoned(&entry.path()) {
            let _still_there = remove_dir_all(&entry.path());
        }
    }
}

fn is_abandoned(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        // Its owner died before it could lock it.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
