//! Files and folders under construction, removed unless they are moved to their targets.

use std::fs;
use std::fs::{File, Permissions};
use std::io;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::{NamedTempFile, TempDir};

use super::{Needs, faults};
use super::{parent_of, sync_dir, sync_file};

/// Bytes gathered before the file system is asked.
pub(super) const BUFFER: usize = 128 << 10;

/// Prefix and suffix of the names of temporary files.
const NAME: (&str, &str) = (".refrain-", ".tmp");

/// A file or folder under construction that has not been touched for so long belongs to no living
/// process.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A file under construction, without a name of its own yet; removed when it is dropped before
/// [`TempFile::place`].
#[derive(Debug)]
pub(crate) struct TempFile {
    file: BufWriter<Unplaced>,
}

impl TempFile {
    /// Opens a new temporary file in `folder`, which must lie on the file system of its later
    /// place.
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        faults::step(Needs::Space)?;
        let file = tempfile::Builder::new()
            .prefix(NAME.0)
            .suffix(NAME.1)
            // The default would be readable to its owner alone; with this the process's umask
            // decides, as for any other file.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        Ok(Self { file: BufWriter::with_capacity(BUFFER, Unplaced { file: Some(file) }) })
    }

    /// Opens a temporary file in the folder of `target`, after removing leftovers of killed
    /// processes there.
    pub(crate) fn beside(target: &Path) -> io::Result<Self> {
        remove_leftovers(parent_of(target));
        Self::create(parent_of(target))
    }

    /// Syncs the content, renames the file to `target` and syncs the folder: after this it survives
    /// a power cut.
    pub(crate) fn commit(mut self, target: &Path) -> io::Result<()> {
        self.file.flush()?;
        sync_file(self.file.get_ref().open())?;
        self.place(target, None)?;
        sync_dir(parent_of(target))
    }

    /// Sets the mode, if one is given, renames the file to `target`, and returns the metadata of
    /// the complete file. Nothing is synced.
    pub(crate) fn place(mut self, target: &Path, mode: Option<u32>) -> io::Result<fs::Metadata> {
        self.file.flush()?;
        let metadata = self.file.get_ref().open().metadata()?;
        if let Some(mode) = mode {
            faults::step(Needs::Nothing)?;
            self.file.get_ref().open().set_permissions(Permissions::from_mode(mode))?;
        }
        faults::step(Needs::Space)?;
        let file = self.file.get_mut().file.take().expect("a file is placed once");
        file.persist(target).map_err(|error| error.error)?;
        Ok(metadata)
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

/// The file itself, until it is placed.
#[derive(Debug)]
struct Unplaced {
    file: Option<NamedTempFile>,
}

impl Unplaced {
    fn open(&self) -> &File {
        self.file.as_ref().expect("a file that is placed is not used any more").as_file()
    }
}

impl Write for Unplaced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        faults::write(self.open(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Unplaced {
    fn drop(&mut self) {
        if let Some(file) = self.file.take()
            && faults::step(Needs::Nothing).is_err()
        {
            // A file that cannot be removed is a leftover.
            let _left = file.keep();
        }
    }
}

/// A new empty folder, removed with all that is in it when it is dropped.
#[derive(Debug)]
pub(crate) struct TempFolder {
    folder: Option<TempDir>,
}

impl TempFolder {
    /// Makes a folder in `parent` whose name begins with `prefix`.
    pub(crate) fn create(parent: &Path, prefix: &str) -> io::Result<Self> {
        faults::step(Needs::Space)?;
        // Other users of a shared cache must see signs of life in it; the process's umask decides
        // who they are.
        let folder = tempfile::Builder::new()
            .prefix(prefix)
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(parent)?;
        Ok(Self { folder: Some(folder) })
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        self.folder.as_ref().expect("it is there until it is dropped").path()
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take()
            && faults::step(Needs::Nothing).is_err()
        {
            let _left = folder.keep();
        }
    }
}

/// Removes temporary files of processes that died long ago. Nothing depends on it, so errors are
/// ignored.
fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours =
            name.to_str().is_some_and(|name| name.starts_with(NAME.0) && name.ends_with(NAME.1));
        if ours && entry.metadata().is_ok_and(|metadata| metadata.is_file() && is_old(&metadata)) {
            let _still_there = super::remove_file(&entry.path());
        }
    }
}

/// Whether a file or folder was not touched for [`LEFTOVER_AGE`].
fn is_old(metadata: &fs::Metadata) -> bool {
    // A time in the future has no age.
    let age = metadata
        .modified()
        .ok()
        .and_then(|modified| SystemTime::now().duration_since(modified).ok());
    age.is_some_and(|age| age > LEFTOVER_AGE)
}
