//! Writes files: the one module of Refrain that does, so that faults can be put into every step.
//!
//! Whole files appear at once or not at all. `clippy.toml` keeps all other modules from changing a
//! file or a folder; `write/faults.rs` says how a test makes a step fail.

#![expect(clippy::disallowed_methods, reason = "this is where files are written")]

use std::fs;
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};

mod append;
mod change;
#[cfg(feature = "faults")]
pub mod faults;
mod lines;
#[cfg(not(feature = "faults"))]
mod no_faults;
mod resumed;
mod temp;

pub use change::{
    PlainFile, copy_file, create_dir_all, remove_file, sync_all_in, touch, write_plain,
};
pub use lines::LineFile;
pub use resumed::{ResumedFile, link, open_lock};

pub(crate) use append::{mark_used, open_append, truncate, write_once};
pub(crate) use change::{create_dir, hard_link, remove_dir_all, rename, set_mode, sync_file};
pub(crate) use temp::{TempFile, TempFolder};

use change::sync_dir;
#[cfg(not(feature = "faults"))]
use no_faults as faults;

/// Whether a step needs space on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Space,
    Nothing,
}

/// A file that appears under its name when it is complete and on disk, and never before.
///
/// Dropped without [`AtomicFile::commit`], it leaves no trace and the old file, where there is one,
/// as it was.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temp: TempFile,
}

impl AtomicFile {
    /// Starts writing `target`; the content gathers in a temporary file in `temp_folder`, on the
    /// same file system.
    ///
    /// # Errors
    /// I/O errors.
    pub fn create(target: &Path, temp_folder: &Path) -> io::Result<Self> {
        Ok(Self { target: target.to_path_buf(), temp: TempFile::create(temp_folder)? })
    }

    /// Starts writing `target`, with the temporary file beside it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn beside(target: &Path) -> io::Result<Self> {
        Ok(Self { target: target.to_path_buf(), temp: TempFile::beside(target)? })
    }

    /// Flushes, syncs, renames and syncs the folder: after this the file survives a power cut.
    ///
    /// # Errors
    /// I/O errors; the target is then as it was.
    pub fn commit(self) -> io::Result<()> {
        self.temp.commit(&self.target)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temp.write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.temp.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temp.flush()
    }
}

/// Atomically replaces the content of `path` by `bytes`, and returns whether it changed: a file
/// that holds them already is left alone.
///
/// # Errors
/// I/O errors.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    match fs::read(path) {
        Ok(old) if old == bytes => return Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let mut file = AtomicFile::beside(path)?;
    file.write_all(bytes)?;
    file.commit()?;
    Ok(true)
}

/// Returns the folder of a path; that of a bare name is the current one.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}
