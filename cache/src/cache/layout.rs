//! Creating and recognising a cache folder.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::{CacheError, io_error};
use crate::presence::{Sharing, remove_leftovers};
use crate::write::{create_dir_all, write_atomic};

/// Version of the layout that the crate's documentation draws.
const LAYOUT: u64 = 1;

/// Tells backups that they may leave the folder out (<https://bford.info/cachedir/>).
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder is a cache of refrain; what is in it can be made again.\n";

/// The file that makes a folder a cache.
const FORMAT: &str = "format";

const FOLDERS: [&str; 9] =
    ["deliveries", "jobs", "objects", "plans", "records", "rows", "runs", "tmp", "unfinished"];

/// Recognises the cache in `root`, or creates one in a folder that is empty or does not exist.
pub(super) fn open_or_create(root: &Path, sharing: Sharing) -> Result<(), CacheError> {
    let format = root.join(FORMAT);
    match fs::read_to_string(&format) {
        Ok(text) => check_format(root, &text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return create(root, sharing),
        Err(source) => return Err(io_error(&format, "read", source)),
    }
    // A user may have removed one to gain space.
    for folder in FOLDERS.map(|name| root.join(name)).iter().filter(|folder| !folder.is_dir()) {
        create_dir_all(folder).map_err(|source| io_error(folder, "created", source))?;
    }
    remove_leftovers(&root.join("tmp"), sharing);
    Ok(())
}

fn check_format(root: &Path, text: &str) -> Result<(), CacheError> {
    match text.trim().parse::<u64>() {
        Ok(LAYOUT) => Ok(()),
        Ok(found) if found > LAYOUT => {
            Err(CacheError::Newer { path: root.into(), found, known: LAYOUT })
        }
        Ok(_) | Err(_) => Err(CacheError::NotACache {
            path: root.into(),
            entry: "format, which does not name a layout".to_owned(),
        }),
    }
}

/// Creates the layout, the file `format` last: a folder without it is completed by the next
/// process.
fn create(root: &Path, sharing: Sharing) -> Result<(), CacheError> {
    refuse_foreign(root)?;
    for name in FOLDERS {
        let folder = root.join(name);
        create_dir_all(&folder).map_err(|source| io_error(&folder, "created", source))?;
    }
    let files =
        [(".gitignore", "*\n"), ("CACHEDIR.TAG", CACHEDIR_TAG), (FORMAT, &format!("{LAYOUT}\n"))];
    for (name, text) in files {
        let path = root.join(name);
        // Another process, of another version perhaps, may have been faster.
        if name == FORMAT && path.exists() {
            return open_or_create(root, sharing);
        }
        write_atomic(&path, text.as_bytes())
            .map_err(|source| io_error(&path, "written", source))?;
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
        // A process that was killed while it created the cache leaves some of these names, or a
        // temporary file.
        let ours = FOLDERS.contains(&&*name)
            // That one was not there when this process looked, so another process creates the cache
            // too.
            || [".gitignore", "CACHEDIR.TAG", FORMAT].contains(&&*name)
            || name.starts_with(".refrain-");
        if !ours {
            return Err(CacheError::NotACache { path: root.into(), entry: name.into_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The process that looked a moment ago and found no cache goes on as if it had found it.
    #[test]
    fn a_cache_that_another_process_creates_meanwhile_is_taken_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        create(folder.path(), Sharing::default()).unwrap();
        create(folder.path(), Sharing::default()).unwrap();
        let format = folder.path().join(FORMAT);
        fs::write(&format, "2\n").unwrap();
        let newer = create(folder.path(), Sharing::default());
        assert!(matches!(newer, Err(CacheError::Newer { found: 2, .. })), "{newer:?}");
        assert_eq!(fs::read_to_string(&format).unwrap(), "2\n");
    }
}
