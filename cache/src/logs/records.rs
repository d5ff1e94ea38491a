//! Records: under each key a node's result and its provenance, in one append-only checked log.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::lines::AppendLog;
use super::record_line::{RecordLine, SummaryLine};
use crate::manifest::{Key, Manifest};
use crate::result::NodeResult;

/// The entry of a cache for one key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "RecordLine")]
pub struct Record {
    /// The key of `manifest`.
    pub key: Key,
    /// The kind of the stage, or `source`.
    pub kind: String,
    /// The result of the node.
    pub result: NodeResult,
    /// Duration of the node in seconds.
    pub seconds: f64,
    /// The values that the key was computed from.
    pub manifest: Manifest,
    /// The version of Refrain that wrote the record.
    pub version: String,
}

/// The part of a record that downstream nodes need.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "SummaryLine")]
pub struct RecordSummary {
    /// The result of the node.
    pub result: NodeResult,
    /// Duration of the node in seconds.
    pub seconds: f64,
}

/// The outcome of [`Records::put`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is the first record of its key.
    First,
    /// Another record of the key was there first and stays.
    Adopted {
        /// Whether the artifacts of the two differ: the node is not reproducible.
        differs: bool,
    },
}

/// An error of reading or writing the records.
#[derive(Debug, Error)]
pub enum RecordError {
    /// An I/O error.
    #[error("the records in `{}` could not be {action}: {source}", path.display())]
    Io {
        /// The log.
        path: PathBuf,
        /// `opened`, `read` or `written`.
        action: &'static str,
        /// The error of the file system.
        source: io::Error,
    },
}

/// All records of a cache, shared by the threads of a process and by processes.
///
/// Only the offset of each record is in memory; a record is decoded when it is asked for. The first
/// record of a key wins, in the order of the log, so that all processes agree without a lock.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    log: Option<AppendLog>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Offset of the record that counts for each key.
    index: HashMap<Key, u64>,
    /// Offset up to which the log was read.
    end: u64,
    /// Damaged lines so far.
    torn: usize,
}

/// Characters of a key at the start of a payload.
const KEY: usize = 64;

impl Records {
    /// Opens the log at `path` and reads the offsets of its records. A log that does not exist is
    /// created, or, in a folder that cannot be written, taken as empty.
    ///
    /// # Errors
    /// I/O errors of the log.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let log = match AppendLog::open(path) {
            Ok(log) => Some(log),
            // A cache on a read-only file system can be read.
            Err(error) if cannot_write(&error) => match AppendLog::open_read_only(path) {
                Ok(log) => Some(log),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(source) => {
                    return Err(RecordError::Io { path: path.into(), action: "opened", source });
                }
            },
            Err(source) => {
                return Err(RecordError::Io { path: path.into(), action: "opened", source });
            }
        };
        let records = Self { path: path.to_path_buf(), log, state: Mutex::default() };
        records.refresh()?;
        Ok(records)
    }

    /// Reads the lines that were appended since the log was last read.
    ///
    /// # Errors
    /// I/O errors of the log.
    pub fn refresh(&self) -> Result<(), RecordError> {
        // On a network file system only opening a file fetches what others appended.
        drop(File::open(&self.path));
        self.refresh_locked(&mut self.state())
    }

    /// Returns the record of a key, as of the last refresh.
    ///
    /// A record that cannot be decoded counts as absent: its node is computed again.
    ///
    /// # Errors
    /// I/O errors of the log.
    pub fn get(&self, key: &Key) -> Result<Option<Record>, RecordError> {
        let offset = self.state().index.get(key).copied();
        match offset {
            Some(offset) => self.read(offset),
            None => Ok(None),
        }
    }

    /// Returns the record of a key as [`Records::get`] does, without its manifest, which takes most
    /// of the time.
    ///
    /// # Errors
    /// I/O errors of the log.
    pub fn summary(&self, key: &Key) -> Result<Option<RecordSummary>, RecordError> {
        let offset = self.state().index.get(key).copied();
        let payload = offset.map(|offset| self.read_payload(offset)).transpose()?.flatten();
        Ok(payload.and_then(|payload| decode(&payload)))
    }

    /// Returns all keys that have a record, sorted.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.state().index.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// Calls `visit` with the key and the summary of every record, in the order of the log. A
    /// record that cannot be decoded is skipped.
    ///
    /// # Errors
    /// I/O errors of the log.
    pub fn each(&self, mut visit: impl FnMut(Key, RecordSummary)) -> Result<(), RecordError> {
        let Some(log) = &self.log else { return Ok(()) };
        let state = self.state();
        let scanned = log.scan_from(0, |offset, payload| {
            if let Some(key) = payload.get(..KEY).and_then(|key| key.parse().ok())
                && state.index.get(&key) == Some(&offset)
            {
                decode(payload).into_iter().for_each(|summary| visit(key, summary));
            }
        });
        scanned.map(drop).map_err(|source| self.error("read", source))
    }

    /// Returns the number of damaged lines of the log.
    pub fn torn(&self) -> usize {
        self.state().torn
    }

    /// Appends a record, unless its key has one. The artifacts must be in the store before.
    ///
    /// # Errors
    /// I/O errors of the log.
    pub fn put(&self, record: &Record) -> Result<Stored, RecordError> {
        let mut state = self.state();
        self.refresh_locked(&mut state)?;
        if let Some(&offset) = state.index.get(&record.key) {
            match self.read(offset)? {
                Some(first) => return Ok(Stored::adopted(&first, record)),
                // A record that cannot be decoded must not keep its node from ever being recorded.
                None => self.append(&tombstone(&record.key, offset))?,
            }
        }
        let json = serde_json::to_string(record)
            .expect("a record is made of texts, numbers and maps with text keys");
        let payload = format!("{} {json}", record.key);
        self.append(&payload)?;
        // Another process may have appended a record of the same key since the refresh; the log's
        // order decides.
        let mut ours = None;
        self.refresh_seeing(&mut state, |offset, line| {
            if ours.is_none() && line == payload {
                ours = Some(offset);
            }
        })?;
        let first = match state.index.get(&record.key) {
            Some(&offset) if Some(offset) != ours => self.read_payload(offset)?,
            Some(_) | None => None,
        };
        let first: Option<Record> = first.and_then(|first| decode(&first));
        Ok(first.map_or(Stored::First, |first| Stored::adopted(&first, record)))
    }

    /// Removes the record of a key: its artifact is damaged, or is to be computed again.
    ///
    /// # Errors
    /// I/O errors of the log.
    pub fn forget(&self, key: &Key) -> Result<(), RecordError> {
        let mut state = self.state();
        self.refresh_locked(&mut state)?;
        if let Some(&offset) = state.index.get(key) {
            self.append(&tombstone(key, offset))?;
            self.refresh_locked(&mut state)?;
        }
        Ok(())
    }

    /// Rewrites the log when damaged lines and those of records that do not count are half of it or
    /// more. The temporary file is in `scratch`; no other process may work with the cache.
    ///
    /// # Errors
    /// I/O errors of the log.
    pub(crate) fn compact(self, scratch: &Path) -> Result<(), RecordError> {
        self.refresh()?;
        let state = self.state();
        let Some(log) = &self.log else { return Ok(()) };
        let mut lines = 0;
        let scan =
            log.scan_from(0, |_, _| lines += 1).map_err(|source| self.error("read", source))?;
        if (lines + scan.torn) < 2 * state.index.len() || lines + scan.torn == state.index.len() {
            return Ok(());
        }
        Self::rewrite(&self.path, scratch).map_err(|source| self.error("written", source))
    }

    /// Rewrites the log at `path` without damaged lines and without the lines of records that do
    /// not count. A tombstone names the offset of its record, so that neither can be kept alone.
    pub(super) fn rewrite(path: &Path, scratch: &Path) -> io::Result<()> {
        let mut index = HashMap::new();
        let log = AppendLog::open_read_only(path)?;
        log.scan_from(0, |offset, payload| apply_line(&mut index, offset, payload))?;
        AppendLog::rewrite(path, scratch, |offset, payload| {
            let key = payload.get(..KEY).and_then(|key| key.parse().ok());
            key.is_some_and(|key: Key| index.get(&key) == Some(&offset))
        })
    }

    fn refresh_locked(&self, state: &mut State) -> Result<(), RecordError> {
        self.refresh_seeing(state, |_, _| {})
    }

    /// Reads the new lines, and calls `see` with offset and payload of each.
    fn refresh_seeing(
        &self,
        state: &mut State,
        mut see: impl FnMut(u64, &str),
    ) -> Result<(), RecordError> {
        let Some(log) = &self.log else { return Ok(()) };
        let index = &mut state.index;
        let scan = log
            .scan_from(state.end, |offset, payload| {
                see(offset, payload);
                apply_line(index, offset, payload);
            })
            .map_err(|source| self.error("read", source))?;
        state.end = scan.end;
        state.torn += scan.torn;
        Ok(())
    }

    fn append(&self, payload: &str) -> Result<(), RecordError> {
        let refused = || io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        self.log
            .as_ref()
            .ok_or_else(refused)
            .and_then(|log| log.append(payload))
            .map_err(|source| self.error("written", source))
    }

    fn read(&self, offset: u64) -> Result<Option<Record>, RecordError> {
        Ok(self.read_payload(offset)?.and_then(|payload| decode(&payload)))
    }

    fn read_payload(&self, offset: u64) -> Result<Option<String>, RecordError> {
        let Some(log) = &self.log else { return Ok(None) };
        log.read_line(offset).map_err(|source| self.error("read", source))
    }

    fn error(&self, action: &'static str, source: io::Error) -> RecordError {
        RecordError::Io { path: self.path.clone(), action, source }
    }

    /// Locks the state; every change is a single insertion, so a thread that panicked left it
    /// sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stored {
    fn adopted(first: &Record, later: &Record) -> Self {
        Self::Adopted { differs: first.result.artifacts != later.result.artifacts }
    }
}

/// Parses the JSON of a payload, `KEY JSON`, as a `T`.
fn decode<T: DeserializeOwned>(payload: &str) -> Option<T> {
    serde_json::from_str(payload.get(KEY + 1..)?).ok()
}

/// Returns the payload that removes the record at `offset`. It names the line, because another
/// process may have removed the record meanwhile and put a sound one.
fn tombstone(key: &Key, offset: u64) -> String {
    format!("{key} -{offset}")
}

/// Applies one log line to the index.
fn apply_line(index: &mut HashMap<Key, u64>, offset: u64, payload: &str) {
    let Some((key, rest)) = payload.split_at_checked(KEY) else { return };
    let Ok(key) = key.parse::<Key>() else { return };
    match rest.strip_prefix(" -") {
        Some(forgotten) => {
            if index.get(&key).is_some_and(|offset| offset.to_string() == forgotten) {
                index.remove(&key);
            }
        }
        None => {
            index.entry(key).or_insert(offset);
        }
    }
}

fn cannot_write(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}
