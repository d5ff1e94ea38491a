//! Single changes to files and folders.

use std::fs;
use std::fs::{File, Permissions};
use std::io;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use super::{Needs, faults};

/// A file written in place, inside a folder that is under construction as a whole.
#[derive(Debug)]
pub struct PlainFile(File);

impl PlainFile {
    /// Creates a file, or empties an existing one.
    ///
    /// # Errors
    /// I/O errors.
    pub fn create(path: &Path) -> io::Result<Self> {
        faults::step(Needs::Space)?;
        Ok(Self(File::create(path)?))
    }

    /// Creates a file that does not exist yet.
    ///
    /// # Errors
    /// I/O errors, and `AlreadyExists`.
    pub fn create_new(path: &Path) -> io::Result<Self> {
        faults::step(Needs::Space)?;
        Ok(Self(File::create_new(path)?))
    }

    /// Overwrites the start of the file. Not a fault step: heartbeats follow a clock.
    pub(crate) fn overwrite(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, 0)
    }

    /// Returns the open file, to be read or locked.
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

/// Writes a whole file in place; unlike [`write_atomic`](super::write_atomic) it may be left half
/// written.
///
/// # Errors
/// I/O errors.
pub fn write_plain(path: &Path, bytes: &[u8]) -> io::Result<()> {
    PlainFile::create(path)?.write_all(bytes)
}

/// Copies the content of a file into a new or an existing one, sharing blocks where the file system
/// can, and returns its size in bytes.
///
/// The copy is writable even if the original is not, so that a command may change its copy of an
/// artifact.
///
/// # Errors
/// I/O errors.
pub fn copy_file(from: &Path, to: &Path) -> io::Result<u64> {
    let mut from = File::open(from)?;
    let mut to = PlainFile::create(to)?;
    if faults::armed() {
        return io::copy(&mut from, &mut to);
    }
    // Between two open files the standard library lets the kernel copy, and leaves the permissions
    // alone.
    io::copy(&mut from, &mut to.0)
}

/// Creates a folder; an existing one is not an error.
pub(crate) fn create_dir(folder: &Path) -> io::Result<()> {
    faults::step(Needs::Space)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created,
    }
}

/// Creates a folder and those above it; an existing one is not an error.
///
/// # Errors
/// I/O errors.
pub fn create_dir_all(folder: &Path) -> io::Result<()> {
    faults::step(Needs::Space)?;
    fs::create_dir_all(folder)
}

/// Renames a file or folder; a file with the new name is replaced atomically.
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

/// Sets the file's time to now, to mark it as used.
///
/// # Errors
/// I/O errors.
pub fn touch(path: &Path) -> io::Result<()> {
    faults::step(Needs::Nothing)?;
    File::open(path)?.set_modified(SystemTime::now())
}

/// Removes a file.
///
/// # Errors
/// I/O errors.
pub fn remove_file(path: &Path) -> io::Result<()> {
    faults::step(Needs::Nothing)?;
    fs::remove_file(path)
}

/// Removes a folder with its content.
pub(crate) fn remove_dir_all(folder: &Path) -> io::Result<()> {
    faults::step(Needs::Nothing)?;
    fs::remove_dir_all(folder)
}

/// Fsyncs a file.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    faults::step(Needs::Space)?;
    file.sync_all()
}

/// Fsyncs a directory, so that renames in it survive a power cut.
pub(super) fn sync_dir(folder: &Path) -> io::Result<()> {
    sync_file(&File::open(folder)?)
}

/// Syncs the file system of `folder`: everything written to it so far survives a power cut.
///
/// # Errors
/// I/O errors.
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
