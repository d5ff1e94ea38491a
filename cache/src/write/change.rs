//! Single changes to files and folders.

use std::fs;
use std::fs::{File, Permissions};
use std::io;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use super::faults::{self, Needs};

/// A file that is written where it stands, for places that are under construction as a whole.
#[derive(Debug)]
pub struct PlainFile(File);

impl PlainFile {
    /// Creates a file, or empties the one that is there.
    ///
    /// # Errors
    /// Those of creating the file.
    pub fn create(path: &Path) -> io::Result<Self> {
        faults::step(Needs::Space)?;
        Ok(Self(File::create(path)?))
    }

    /// Creates a file that is not there yet.
    ///
    /// # Errors
    /// Those of creating the file, and `AlreadyExists`.
    pub fn create_new(path: &Path) -> io::Result<Self> {
        faults::step(Needs::Space)?;
        Ok(Self(File::create_new(path)?))
    }

    /// Replaces the first bytes. It is no step: a sign of life comes when it is time, whatever else is done.
    pub(crate) fn overwrite(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, 0)
    }

    /// The open file, to be looked at or locked.
    pub(crate) fn open(&self) -> &File {
        &self.0
    }
}

impl Write for PlainFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        faults::write(&self.0, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a whole file where it stands; unlike [`write_atomic`](super::write_atomic) it may be left half written.
///
/// # Errors
/// Those of creating and writing the file.
pub fn write_plain(path: &Path, bytes: &[u8]) -> io::Result<()> {
    PlainFile::create(path)?.write_all(bytes)
}

/// Copies the content of a file into a new or an existing one, sharing blocks where the file system can; returns its size in bytes.
///
/// The copy is writable whatever the original is, so that a program that is handed a copy of an artifact may work on it.
///
/// # Errors
/// Those of reading `from` and writing `to`.
pub fn copy_file(from: &Path, to: &Path) -> io::Result<u64> {
    let mut from = File::open(from)?;
    let mut to = PlainFile::create(to)?;
    if faults::armed() {
        return io::copy(&mut from, &mut to);
    }
    // Between two open files the standard library lets the kernel copy, and leaves the permissions alone.
    io::copy(&mut from, &mut to.0)
}

/// Creates a folder; one that is there already is no error.
pub(crate) fn create_dir(folder: &Path) -> io::Result<()> {
    faults::step(Needs::Space)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created,
    }
}

/// Creates a folder and those above it; one that is there already is no error.
///
/// # Errors
/// Those of creating a folder.
pub fn create_dir_all(folder: &Path) -> io::Result<()> {
    faults::step(Needs::Space)?;
    fs::create_dir_all(folder)
}

/// Renames a file or folder; a file that has the new name is replaced at once.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    faults::step(Needs::Space)?;
    fs::rename(from, to)
}

/// Gives a file a second name.
pub(crate) fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    faults::step(Needs::Space)?;
    fs::hard_link(from, to)
}

/// Sets the permission bits of a file.
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    faults::step(Needs::Nothing)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Says that a file is used now, by its time.
///
/// # Errors
/// Those of opening the file and setting its time.
pub fn touch(path: &Path) -> io::Result<()> {
    faults::step(Needs::Nothing)?;
    File::open(path)?.set_modified(SystemTime::now())
}

/// Removes a file.
///
/// # Errors
/// Those of removing it.
pub fn remove_file(path: &Path) -> io::Result<()> {
    faults::step(Needs::Nothing)?;
    fs::remove_file(path)
}

/// Removes a folder and all that is in it.
pub(crate) fn remove_dir_all(folder: &Path) -> io::Result<()> {
    faults::step(Needs::Nothing)?;
    fs::remove_dir_all(folder)
}

/// Puts a file on disk.
pub(super) fn sync_file(file: &File) -> io::Result<()> {
    faults::step(Needs::Space)?;
    file.sync_all()
}

/// Puts the entries of a folder on disk: without this a power cut may undo a rename in it.
pub(super) fn sync_dir(folder: &Path) -> io::Result<()> {
    sync_file(&File::open(folder)?)
}

/// Puts everything on disk that was written so far to the file system of `folder`: files, names and all.
///
/// # Errors
/// Those of opening the folder and of writing what was still in memory.
pub fn sync_all_in(folder: &Path) -> io::Result<()> {
    faults::step(Needs::Space)?;
    let folder = File::open(folder)?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(&folder)?;
    // Elsewhere all file systems are synced, and errors are lost.
    #[cfg(not(target_os = "linux"))]
    {
        drop(folder);
        rustix::fs::sync();
    }
    Ok(())
}
