//! Folders to be stored: scratch folders, the writer of a model folder, and the listing of one.

use std::fs;
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{CacheError, io_error};
use crate::untrusted::is_inside;
use crate::write::{AtomicFile, TempFolder, create_dir, create_dir_all, parent_of};

/// The reason why a link is not stored.
pub(crate) const NOT_A_FILE: &str =
    "it is no plain file; where it is a link, put a copy in its place";

/// A scratch folder in the cache's `tmp/`, removed when dropped.
#[derive(Debug)]
pub struct ScratchDir {
    folder: TempFolder,
}

impl ScratchDir {
    pub(crate) fn new_in(parent: &Path) -> Result<Self, CacheError> {
        let folder = TempFolder::create(parent, "scratch-")
            .map_err(|source| io_error(parent, "written", source))?;
        Ok(Self { folder })
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A folder under construction, outside the objects of the cache; removed when it is dropped
/// without being stored.
#[derive(Debug)]
pub struct FolderWriter {
    /// Holds `content/`, which is moved into the cache as a whole: an empty scratch folder is left.
    scratch: ScratchDir,
    content: PathBuf,
}

impl FolderWriter {
    pub(crate) fn new(scratch: ScratchDir) -> Result<Self, CacheError> {
        let content = scratch.path().join("content");
        create_dir(&content).map_err(|source| io_error(&content, "created", source))?;
        Ok(Self { scratch, content })
    }

    /// Returns the path of its content; other programs may write there too.
    pub fn path(&self) -> &Path {
        &self.content
    }

    /// Writes a whole file. `name` is relative, with `/` between folders, and stays inside the
    /// folder.
    ///
    /// # Errors
    /// `InvalidInput` for a name that leaves the folder; I/O errors.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.create(name)?;
        file.write_all(bytes)?;
        file.commit()
    }

    /// Starts a file, which appears in the folder once it is committed. See [`FolderWriter::write`]
    /// for names.
    ///
    /// # Errors
    /// `InvalidInput` for a name that leaves the folder; I/O errors.
    pub fn create(&self, name: &str) -> io::Result<AtomicFile> {
        if !is_inside(name) {
            let reason = format!("`{name}` is not the name of a file inside the folder");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let target = self.content.join(name);
        create_dir_all(parent_of(&target))?;
        AtomicFile::create(&target, self.scratch.path())
    }
}

/// Lists the relative paths of all files of a folder, with `/` between names, sorted by their
/// bytes.
///
/// Links are refused: their targets are not in the stored folder, and may lie anywhere.
pub(crate) fn listing(folder: &Path) -> Result<Vec<String>, CacheError> {
    let mut files = Vec::new();
    walk(folder, &mut |path, metadata| {
        let unstorable = |reason| CacheError::Unstorable { path: path.into(), reason };
        if metadata.is_dir() {
            return Ok(());
        }
        if !metadata.is_file() {
            return Err(unstorable(NOT_A_FILE));
        }
        let relative = path.strip_prefix(folder).expect("the walk stays inside its folder");
        let relative = relative.to_str().ok_or_else(|| unstorable("its name is not UTF-8"))?;
        files.push(relative.to_owned());
        Ok(())
    })?;
    files.sort_unstable();
    Ok(files)
}

/// Returns the bytes of all files of a folder.
pub(super) fn total_size(folder: &Path) -> io::Result<u64> {
    let mut total = 0;
    walk(folder, &mut |_, metadata| {
        total += if metadata.is_file() { metadata.len() } else { 0 };
        Ok(())
    })
    .map_err(io::Error::other)?;
    Ok(total)
}

/// Calls `visit` with every entry below a folder; links are not followed.
fn walk(
    folder: &Path,
    visit: &mut impl FnMut(&Path, &fs::Metadata) -> Result<(), CacheError>,
) -> Result<(), CacheError> {
    let refused = |source| io_error(folder, "read", source);
    for entry in fs::read_dir(folder).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        let path = entry.path();
        let metadata = entry.metadata().map_err(|source| io_error(&path, "read", source))?;
        visit(&path, &metadata)?;
        if metadata.is_dir() {
            walk(&path, visit)?;
        }
    }
    Ok(())
}
