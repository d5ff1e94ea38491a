//! Lists the files below a folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::shards::{ShardsError, unreadable, wrong};

/// Limit on the files and folders that are looked at for one source.
const MAX_FILES: usize = 100_000;
/// Limit on the depth of folders.
pub(super) const MAX_DEPTH: usize = 16;

/// The files and folders below a folder. Links to files are followed, those to folders are not.
#[derive(Debug, Default)]
pub struct Walk {
    /// The files with their paths below the folder, sorted by these.
    pub files: Vec<(String, PathBuf)>,
    /// The folders, itself among them.
    pub folders: Vec<PathBuf>,
    /// Whether there are folders below those that were looked at.
    is_cut: bool,
}

impl Walk {
    /// Lists a folder that is read as a whole; what begins with a dot is hidden.
    ///
    /// # Errors
    /// `ShardsError` for a folder that cannot be read, holds no files, or holds too much.
    pub fn whole(root: &Path) -> Result<Walk, ShardsError> {
        let walk = Walk::of(root, MAX_DEPTH, &['.'])?;
        walk.check_depth(root)?;
        match walk.files.is_empty() {
            true => Err(wrong("path", format!("the folder `{}` holds no files", root.display()))),
            false => Ok(walk),
        }
    }

    /// Lists a folder down to a depth; a name that begins with one of `hidden` does not count.
    pub(super) fn of(root: &Path, depth: usize, hidden: &[char]) -> Result<Walk, ShardsError> {
        let mut walk = Walk::default();
        walk.folder(root, root, depth, hidden)?;
        walk.files.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        walk.folders.sort();
        Ok(walk)
    }

    /// Refuses a folder that is deeper than the limit, rather than to leave files out.
    pub(super) fn check_depth(&self, root: &Path) -> Result<(), ShardsError> {
        let message = format!(
            "the folder `{}` is nested deeper than {MAX_DEPTH} levels, the limit",
            root.display()
        );
        if self.is_cut { Err(wrong("path", message)) } else { Ok(()) }
    }

    fn folder(
        &mut self,
        root: &Path,
        folder: &Path,
        depth: usize,
        hidden: &[char],
    ) -> Result<(), ShardsError> {
        self.folders.push(folder.into());
        for found in fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
            let found = found.map_err(|error| unreadable(folder, &error))?;
            let path = found.path();
            if found.file_name().to_string_lossy().starts_with(hidden) {
                continue;
            }
            if found.file_type().is_ok_and(|ty| ty.is_dir()) {
                match depth > 1 {
                    true => self.folder(root, &path, depth - 1, hidden)?,
                    false => self.is_cut = true,
                }
            } else if path.is_file() {
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                self.files.push((name, path));
            }
            if self.files.len() + self.folders.len() > MAX_FILES {
                let message = format!(
                    "below `{}` are more than {MAX_FILES} files, the limit",
                    root.display()
                );
                return Err(wrong("path", message));
            }
        }
        Ok(())
    }
}
