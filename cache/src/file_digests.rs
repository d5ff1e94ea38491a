//! Remembers the digests of files by path, inode, device, size and time, so that a file is hashed once.

use std::collections::HashMap;
use std::fs;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, digest_open_file};
use crate::plain::open_plain;
use crate::write::AppendLog;

/// A file this young may change again within the resolution of its time stamp, so its digest is not remembered.
const SETTLED: Duration = Duration::from_secs(2);

/// The remembered digests of files, kept in an append-only log and shared by all threads.
///
/// It is a convenience and nothing depends on it: a line that is torn is skipped, a log that is lost is rebuilt by hashing.
#[derive(Debug)]
pub struct FileDigests {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<PathBuf, Entry>,
    /// Lines that [`FileDigests::save`] will append.
    unsaved: Vec<String>,
}

/// What identifies a file's content without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the last change of the content.
    seconds: i64,
    nanoseconds: i64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    identity: FileIdentity,
    digest: Digest,
}

/// A line of the log.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
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
    /// Those of reading the log.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut state = State::default();
        let (lines, _torn) = AppendLog::read(path)?;
        for line in &lines {
            if let Ok(Line { identity, digest, path }) = serde_json::from_str(line) {
                state.known.insert(PathBuf::from(path.into_owned()), Entry { identity, digest });
            }
        }
        Ok(Self { path: path.to_path_buf(), state: Mutex::new(state) })
    }

    /// The digest and the size in bytes of a file; hashed only when it is not known or has changed.
    ///
    /// # Errors
    /// Those of reading the file, and one when it changes while it is hashed.
    pub fn get(&self, path: &Path) -> io::Result<(Digest, u64)> {
        let absolute = std::path::absolute(path)?;
        let identity = FileIdentity::of(&fs::metadata(path)?);
        if let Some(entry) = self.state().known.get(&absolute)
            && entry.identity == identity
        {
            return Ok((entry.digest, identity.size));
        }
        // What is known of another content must not be taken for this one's, should the file not be remembered.
        self.state().known.remove(&absolute);
        let (digest, identity, settled) = hash_unchanged(path)?;
        if settled {
            self.remember(absolute, Entry { identity, digest });
        }
        Ok((digest, identity.size))
    }

    /// What the file was when it was last hashed; `None` for one that is not remembered.
    pub fn remembered(&self, path: &Path) -> Option<FileIdentity> {
        let absolute = std::path::absolute(path).ok()?;
        self.state().known.get(&absolute).map(|entry| entry.identity)
    }

    /// Takes over the digest of a file that this process has just written, hashed and closed for writing, so that it
    /// is not read again. Nothing is remembered where the file cannot be looked at.
    pub fn adopt(&self, path: &Path, digest: Digest) {
        if let (Ok(absolute), Ok(metadata)) = (std::path::absolute(path), fs::metadata(path)) {
            self.remember(absolute, Entry { identity: FileIdentity::of(&metadata), digest });
        }
    }

    /// Whether [`FileDigests::save`] has anything to write.
    pub fn has_unsaved(&self) -> bool {
        !self.state().unsaved.is_empty()
    }

    /// Appends what was learnt since the last call to the log.
    ///
    /// # Errors
    /// Those of opening and writing the log; what could not be saved is kept for the next call.
    pub fn save(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.unsaved.is_empty() {
            return Ok(());
        }
        let lines: Vec<&str> = state.unsaved.iter().map(String::as_str).collect();
        AppendLog::open(&self.path)?.append_all(&lines)?;
        state.unsaved.clear();
        Ok(())
    }

    fn remember(&self, path: PathBuf, entry: Entry) {
        let mut state = self.state();
        // A path that is no UTF-8 has no place in a line; it is known for this process alone.
        if let Some(path) = path.to_str() {
            let line = Line { identity: entry.identity, digest: entry.digest, path: path.into() };
            state.unsaved.push(serde_json::to_string(&line).expect("numbers and texts are JSON"));
        }
        state.known.insert(path, entry);
    }

    /// The state; a thread that panicked while it held the lock left nothing half done that matters.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileIdentity {
    /// The identity of a file with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
        }
    }
}

/// Hashes a file that stays as it is meanwhile; says whether it had settled before.
fn hash_unchanged(path: &Path) -> io::Result<(Digest, FileIdentity, bool)> {
    let mut file = open_plain(path)?;
    let before = file.metadata()?;
    // A time in the future is no age, and so never old enough.
    let age = before.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
    let (digest, size) = digest_open_file(&mut file)?;
    let identity = FileIdentity::of(&before);
    if FileIdentity::of(&file.metadata()?) != identity || size != identity.size {
        return Err(io::Error::other(format!("`{}` changed while it was being hashed", path.display())));
    }
    Ok((digest, identity, age.is_some_and(|age| age >= SETTLED)))
}
