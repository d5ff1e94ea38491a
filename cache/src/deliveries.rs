//! Results of processes that append to no log: each group of them is a file of its own, which the
//! next reader moves into the records.
//!
//! Appends of several machines tear on a network file system, renames do not. So a job on another
//! machine writes its records, and the digests of the files behind them, into a new file in
//! `deliveries/` under a temporary name, syncs it and renames it.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, FileIdentity};
use crate::logs::{AppendLog, FileDigests, Record, RecordError, Records, Stored, checked_line};
use crate::manifest::Key;
use crate::write::{AtomicFile, remove_file};

/// Ends the name of a delivery.
const ENDING: &str = "delivery";

/// A line of a delivery.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DeliveryLine {
    /// The record of a node.
    Record(Box<Record>),
    /// A file of the cache, by its path below the cache's folder, as its writer saw it.
    File { path: PathBuf, digest: Digest, identity: FileIdentity },
}

/// The deliveries of a cache: those that this process writes, and those that it has collected.
#[derive(Debug)]
pub(crate) struct Deliveries {
    folder: PathBuf,
    written: AtomicU64,
    collected: Mutex<Collected>,
}

/// The deliveries whose records are in the log.
#[derive(Debug, Default)]
struct Collected {
    /// All whose files are still there.
    files: HashSet<PathBuf>,
    /// Those among them whose records are not on disk for sure.
    unsynced: Vec<PathBuf>,
}

impl Deliveries {
    pub(crate) fn new(root: &Path) -> Self {
        let folder = root.join("deliveries");
        Self { folder, written: AtomicU64::new(0), collected: Mutex::default() }
    }

    /// Writes a delivery. What it names must be on disk. `session` is the folder of this process,
    /// whose name no other process has.
    pub(crate) fn write(
        &self,
        session: &Path,
        records: &[Record],
        files: impl IntoIterator<Item = (PathBuf, Digest, FileIdentity)>,
    ) -> io::Result<()> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let owner = session.file_name().unwrap_or_default().to_string_lossy();
        let target = self.folder.join(format!("{owner}-{number}.{ENDING}"));
        let mut file = AtomicFile::create(&target, session)?;
        let files = files.into_iter().map(|(path, digest, identity)| DeliveryLine::File {
            path,
            digest,
            identity,
        });
        let records = records.iter().map(|record| DeliveryLine::Record(Box::new(record.clone())));
        for line in files.chain(records) {
            let json = serde_json::to_string(&line).map_err(io::Error::other)?;
            file.write_all(checked_line(&json).as_bytes())?;
        }
        file.commit()
    }

    /// Appends what was delivered since the last call to the records, and returns the keys. The
    /// files stay until [`Deliveries::remove`].
    pub(crate) fn collect(
        &self,
        root: &Path,
        records: &Records,
        known: &FileDigests,
    ) -> Result<Vec<(Key, Stored)>, RecordError> {
        let mut stored = Vec::new();
        for path in self.new_files()? {
            let (lines, _torn) = match AppendLog::read(&path) {
                Ok(lines) => lines,
                Err(source) => return Err(self.error("read", source)),
            };
            let lines = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
            for line in lines {
                match line {
                    DeliveryLine::File { path, digest, identity } => {
                        adopt(root, &path, digest, &identity, known);
                    }
                    // A record under another key than its own would answer for another node.
                    DeliveryLine::Record(record) if record.manifest.key() == record.key => {
                        stored.push((record.key, records.put(&record)?));
                    }
                    DeliveryLine::Record(_) => {}
                }
            }
            let mut collected = self.collected();
            collected.unsynced.push(path.clone());
            collected.files.insert(path);
        }
        Ok(stored)
    }

    /// Returns the collected files whose records a sync that begins now puts on disk.
    pub(crate) fn unsynced(&self) -> Vec<PathBuf> {
        std::mem::take(&mut self.collected().unsynced)
    }

    /// Removes collected files whose records are on disk.
    pub(crate) fn remove(&self, synced: Vec<PathBuf>) {
        for path in synced {
            // Another process may have collected it too; a file that stays is collected again.
            let _gone = remove_file(&path);
            self.collected().files.remove(&path);
        }
    }

    /// Returns the files that this process has not collected yet, sorted by name.
    fn new_files(&self) -> Result<Vec<PathBuf>, RecordError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|source| self.error("read", source))?,
        };
        let collected = self.collected();
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| self.error("read", source))?.path();
            let is_delivery = path.extension().is_some_and(|ending| ending == ENDING);
            if is_delivery && !collected.files.contains(&path) {
                files.push(path);
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// Locks the state; a thread that panicked left at worst a file that is collected again.
    fn collected(&self) -> MutexGuard<'_, Collected> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, action: &'static str, source: io::Error) -> RecordError {
        RecordError::Io { path: self.folder.clone(), action, source }
    }
}

/// Remembers the digest of a delivered file, if it is as its writer left it. The device number of a
/// network file system differs between machines.
fn adopt(root: &Path, path: &Path, digest: Digest, seen: &FileIdentity, known: &FileDigests) {
    let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_inside || !path.starts_with("objects") {
        return;
    }
    let path = root.join(path);
    let Ok(metadata) = path.symlink_metadata() else { return };
    let now = FileIdentity::of(&metadata);
    if metadata.is_file() && now.is_elsewhere(seen) {
        known.adopt(&path, now, digest);
    }
}
