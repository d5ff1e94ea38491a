//! Remembers the digests of files by path and identity, so that a file is hashed once.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::lines::AppendLog;
use crate::digest::{Digest, FileIdentity, OnHashed, digest_open_file};
use crate::error::{CacheError, io_error};
use crate::untrusted::open_plain;

/// A younger file may change again within the resolution of its time stamps, so its digest is not
/// remembered.
const SETTLED: Duration = Duration::from_secs(2);

/// Lines of the log that one thread reads in a row.
const LINES: usize = 256;

/// The remembered digests of files, kept in an append-only log and shared by all threads.
///
/// Correctness never depends on it: a damaged line, and one of an earlier version that knew less of
/// a file, is skipped; a lost log is rebuilt by hashing.
#[derive(Debug)]
pub struct FileDigests {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By absolute path. `OsString` hashes faster than `PathBuf`, which hashes by component.
    known: HashMap<OsString, Remembered>,
    /// Lines that [`FileDigests::save`] will append.
    unsaved: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    identity: FileIdentity,
    digest: Digest,
}

/// A file's digest, and the identity that the file had all the while it was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashedFile {
    /// The digest.
    pub digest: Digest,
    /// The identity.
    pub identity: FileIdentity,
}

/// A line of the log.
#[derive(Serialize, Deserialize)]
struct DigestLine<'a> {
    #[serde(flatten)]
    identity: FileIdentity,
    digest: Digest,
    #[serde(borrow)]
    path: std::borrow::Cow<'a, str>,
}

impl FileDigests {
    /// Reads the log at `path`; one that does not exist is empty.
    ///
    /// # Errors
    /// I/O errors of the log.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut state = State::default();
        let (lines, _torn) = AppendLog::read(path)?;
        let entry = |line: &String| {
            let DigestLine { identity, digest, path } = serde_json::from_str(line).ok()?;
            Some((OsString::from(path.into_owned()), Remembered { identity, digest }))
        };
        let entries: Vec<_> = lines.par_iter().with_min_len(LINES).filter_map(entry).collect();
        // In the order of the log: the last line of a path counts.
        state.known.extend(entries);
        Ok(Self { path: path.to_path_buf(), state: Mutex::new(state) })
    }

    /// Returns the digest of a file and its size in bytes; hashes it only when it is not known or
    /// has changed.
    ///
    /// # Errors
    /// I/O errors, one of them when the file changes while it is hashed.
    pub fn get(&self, path: &Path) -> io::Result<(Digest, u64)> {
        let HashedFile { digest, identity } = self.hash(path, &|_| Ok(()))?;
        Ok((digest, identity.size()))
    }

    /// Returns the remembered digest of a file that has not changed since it was hashed.
    ///
    /// # Errors
    /// I/O errors of looking the file up.
    pub fn find(&self, path: &Path) -> io::Result<Option<HashedFile>> {
        let absolute = std::path::absolute(path)?.into_os_string();
        let identity = FileIdentity::of(&fs::metadata(path)?);
        let digest = self.known(&absolute, &identity);
        Ok(digest.map(|digest| HashedFile { digest, identity }))
    }

    /// Hashes a file, unless its digest is remembered and it has not changed since.
    ///
    /// # Errors
    /// I/O errors, an error of `on_hashed`, and one when the file changes while it is hashed.
    pub fn hash(&self, path: &Path, on_hashed: OnHashed<'_>) -> io::Result<HashedFile> {
        if let Some(found) = self.find(path)? {
            return Ok(found);
        }
        // An earlier content's digest must not be taken for this one's, should this one be too
        // young.
        let absolute = std::path::absolute(path)?.into_os_string();
        self.state().known.remove(&absolute);
        let (digest, identity, settled) = hash_unchanged(path, on_hashed)?;
        if settled {
            self.remember(absolute, Remembered { identity, digest });
        }
        Ok(HashedFile { digest, identity })
    }

    /// Returns the identity of a file when it was last hashed; `None` if it is not remembered.
    pub fn remembered(&self, path: &Path) -> Option<FileIdentity> {
        let absolute = std::path::absolute(path).ok()?;
        self.state().known.get(absolute.as_os_str()).map(|entry| entry.identity)
    }

    /// Returns the digest of the file at an absolute path, if it was hashed with this identity.
    pub(crate) fn known(&self, path: &OsStr, identity: &FileIdentity) -> Option<Digest> {
        self.state()
            .known
            .get(path)
            .filter(|entry| entry.identity == *identity)
            .map(|entry| entry.digest)
    }

    /// Remembers the digest of a file that this process has just written, hashed and closed, so
    /// that it is not read again.
    pub fn adopt(&self, path: &Path, identity: FileIdentity, digest: Digest) {
        if let Ok(absolute) = std::path::absolute(path) {
            self.remember(absolute.into(), Remembered { identity, digest });
        }
    }

    /// Whether [`FileDigests::save`] has anything to write.
    pub fn has_unsaved(&self) -> bool {
        !self.state().unsaved.is_empty()
    }

    /// Appends the digests learnt since the last call to the log.
    ///
    /// # Errors
    /// I/O errors of the log; unsaved digests are kept for the next call.
    pub fn save(&self) -> Result<(), CacheError> {
        let mut state = self.state();
        if state.unsaved.is_empty() {
            return Ok(());
        }
        let lines: Vec<&str> = state.unsaved.iter().map(String::as_str).collect();
        let saved = AppendLog::open(&self.path).and_then(|log| log.append_all(&lines));
        saved.map_err(|source| io_error(&self.path, "written", source))?;
        state.unsaved.clear();
        Ok(())
    }

    /// Rewrites the log at `path` without the lines of changed and removed files, when they are
    /// half of it or more. The temporary file is in `scratch`.
    pub(crate) fn compact(path: &Path, scratch: &Path) -> io::Result<()> {
        let log = match AppendLog::open_read_only(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            log => log?,
        };
        // Of each file the last line counts.
        let mut last: HashMap<String, (u64, FileIdentity)> = HashMap::new();
        let mut lines = 0;
        log.scan_from(0, |offset, payload| {
            lines += 1;
            if let Ok(DigestLine { identity, path, .. }) = serde_json::from_str(payload) {
                last.insert(path.into_owned(), (offset, identity));
            }
        })?;
        let unchanged = |path: &str, identity| {
            fs::metadata(path).is_ok_and(|metadata| FileIdentity::of(&metadata) == identity)
        };
        last.retain(|path, (_, identity)| unchanged(path, *identity));
        if lines < 2 * last.len() || lines == last.len() {
            return Ok(());
        }
        let live: HashSet<u64> = last.into_values().map(|(offset, _)| offset).collect();
        AppendLog::rewrite(path, scratch, |offset, _| live.contains(&offset))
    }

    /// Rewrites the log at `path` without its damaged lines.
    pub(super) fn rewrite(path: &Path, scratch: &Path) -> io::Result<()> {
        AppendLog::rewrite(path, scratch, |_, _| true)
    }

    fn remember(&self, path: OsString, entry: Remembered) {
        let mut state = self.state();
        // A path that is not UTF-8 does not fit a line; it is known to this process alone.
        if let Some(path) = path.to_str() {
            let line =
                DigestLine { identity: entry.identity, digest: entry.digest, path: path.into() };
            state.unsaved.push(serde_json::to_string(&line).expect("numbers and texts are JSON"));
        }
        state.known.insert(path, entry);
    }

    /// Locks the state; a thread that panicked while it held the lock left it sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HashedFile {
    /// Hashes a file, whatever is remembered of it.
    ///
    /// # Errors
    /// I/O errors, an error of `on_hashed`, and one when the file changes while it is hashed.
    pub fn read(path: &Path, on_hashed: OnHashed<'_>) -> io::Result<HashedFile> {
        let (digest, identity, _) = hash_unchanged(path, on_hashed)?;
        Ok(HashedFile { digest, identity })
    }
}

/// Hashes a file, which must not change meanwhile, and returns whether its digest can be
/// remembered.
fn hash_unchanged(
    path: &Path,
    on_hashed: OnHashed<'_>,
) -> io::Result<(Digest, FileIdentity, bool)> {
    let file = open_plain(path)?;
    let before = file.metadata()?;
    let identity = FileIdentity::of(&before);
    let settled = identity.is_older_than(SETTLED);
    let (digest, size) = digest_open_file(&file, on_hashed)?;
    if FileIdentity::of(&file.metadata()?) != identity || size != identity.size() {
        return Err(io::Error::other(format!(
            "`{}` changed while it was being hashed",
            path.display()
        )));
    }
    Ok((digest, identity, settled))
}
