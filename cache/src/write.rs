//! The one place where Refrain writes files: whole files appear at once or not at all, logs grow by checked lines.

use std::fs;
use std::fs::{File, Permissions};
use std::io;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

mod compact;
mod lines;
mod log;

pub use lines::LineFile;
pub use log::{AppendLog, LogContent, LogLine};

/// Bytes gathered before the file system is asked.
const BUFFER: usize = 128 << 10;

/// A file under construction, without a name of its own yet; removed when it is dropped before [`TempFile::place`].
#[derive(Debug)]
pub(crate) struct TempFile {
    file: BufWriter<NamedTempFile>,
}

impl TempFile {
    /// Opens a new temporary file in `folder`, which must lie on the file system of its later place.
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        let file = tempfile::Builder::new()
            .prefix(".refrain-")
            // The default would be readable to its owner alone; with this the process's umask decides, as for any other file.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        Ok(Self { file: BufWriter::with_capacity(BUFFER, file) })
    }

    /// Syncs the content, renames the file to `target` and syncs the folder: after this it survives a power cut.
    pub(crate) fn commit(mut self, target: &Path) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().as_file().sync_all()?;
        self.place(target, None)?;
        sync_dir(parent_of(target))
    }

    /// Gives the file `mode` where one is asked for, and renames it to `target`. Nothing is synced.
    pub(crate) fn place(self, target: &Path, mode: Option<u32>) -> io::Result<()> {
        let temp = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        if let Some(mode) = mode {
            temp.as_file().set_permissions(Permissions::from_mode(mode))?;
        }
        temp.persist(target).map_err(|error| error.error)?;
        Ok(())
    }
}

impl Write for TempFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file that appears under its name when it is complete and on disk, and never before.
///
/// Dropped without [`AtomicFile::commit`], it leaves no trace and the old file, where there is one, as it was.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temp: TempFile,
}

impl AtomicFile {
    /// Starts writing `target`; the content gathers in a temporary file in `temp_folder`, on the same file system.
    ///
    /// # Errors
    /// Those of creating a file in `temp_folder`.
    pub fn create(target: &Path, temp_folder: &Path) -> io::Result<Self> {
        Ok(Self { target: target.to_path_buf(), temp: TempFile::create(temp_folder)? })
    }

    /// Starts writing `target`, with the temporary file beside it.
    ///
    /// # Errors
    /// Those of creating a file in the folder of `target`.
    pub fn beside(target: &Path) -> io::Result<Self> {
        Self::create(target, parent_of(target))
    }

    /// Flushes, syncs, renames and syncs the folder: after this the file survives a power cut.
    ///
    /// # Errors
    /// Those of writing, syncing and renaming; the target is then as it was.
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

/// Replaces the content of `path` by `bytes` at once; a file that holds them already is left alone. Says whether it changed.
///
/// # Errors
/// Those of reading the old file, and of writing, syncing and renaming the new one.
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

/// Puts the entries of a folder on disk: without this a power cut may undo a rename in it.
fn sync_dir(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Puts everything on disk that was written so far to the file system of `folder`: files, names and all.
///
/// # Errors
/// Those of opening the folder and of writing what was still in memory.
pub fn sync_all_in(folder: &Path) -> io::Result<()> {
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

/// Creates a folder and those above it; one that is there already is no error.
///
/// # Errors
/// Those of creating a folder.
pub fn create_dir_all(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

/// Copies the content of a file into a new or an existing one, sharing blocks where the file system can; returns its size in bytes.
///
/// The copy is writable whatever the original is, so that a program that is handed a copy of an artifact may work on it.
///
/// # Errors
/// Those of reading `from` and writing `to`.
pub fn copy_file(from: &Path, to: &Path) -> io::Result<u64> {
    // Between two open files the standard library lets the kernel copy, and leaves the permissions alone.
    io::copy(&mut File::open(from)?, &mut File::create(to)?)
}

/// The folder of a path; a bare name lies in the current one.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}
