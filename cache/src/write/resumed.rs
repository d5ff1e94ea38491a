//! Files that several attempts write, one behind the other, and links to them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{Needs, faults};
use super::{parent_of, rename, sync_dir, sync_file};

/// A file that keeps what was written of it, and that appears under its name when it is complete.
#[derive(Debug)]
pub struct ResumedFile {
    file: File,
    path: PathBuf,
}

impl ResumedFile {
    /// Opens a file to go on with it, and creates it where there is none. A link is refused.
    ///
    /// # Errors
    /// I/O errors.
    pub fn open(path: &Path) -> io::Result<Self> {
        faults::step(Needs::Space)?;
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        options.custom_flags(OFlags::NOFOLLOW.bits() as i32);
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(Self { file, path: path.into() })
    }

    /// Returns the open file, to read what was written before.
    pub fn written(&self) -> &File {
        &self.file
    }

    /// Drops all that was written.
    ///
    /// # Errors
    /// I/O errors.
    pub fn restart(&mut self) -> io::Result<()> {
        faults::step(Needs::Nothing)?;
        self.file.set_len(0)
    }

    /// Removes the file.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remove(self) -> io::Result<()> {
        super::remove_file(&self.path)
    }

    /// Syncs the content, renames the file to `target` on the same file system, and syncs the
    /// folder: after this it survives a power cut.
    ///
    /// # Errors
    /// I/O errors.
    pub fn place(self, target: &Path) -> io::Result<()> {
        sync_file(&self.file)?;
        rename(&self.path, target)?;
        sync_dir(parent_of(target))
    }
}

impl Write for ResumedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        faults::write(&self.file, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a symbolic link to `target`, in the place of what is there.
///
/// # Errors
/// I/O errors.
pub fn link(target: &Path, at: &Path) -> io::Result<()> {
    if fs::read_link(at).is_ok_and(|found| found == target) {
        return Ok(());
    }
    faults::step(Needs::Space)?;
    let name = at.file_name().unwrap_or_default().to_string_lossy();
    let temporary = at.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    match symlink(target, &temporary) {
        // Of a process of that number that died.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            super::remove_file(&temporary)?;
            symlink(target, &temporary)?;
        }
        made => made?,
    }
    rename(&temporary, at)
}

/// Opens a file that processes lock, and creates it where there is none.
///
/// # Errors
/// I/O errors.
pub fn open_lock(path: &Path) -> io::Result<File> {
    faults::step(Needs::Space)?;
    OpenOptions::new().read(true).append(true).create(true).open(path)
}
