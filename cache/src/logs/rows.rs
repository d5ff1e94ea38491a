//! The row memo: per-row results, keyed by row digest, reused by later runs.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::entries::{EntryLog, MAX_VALUE, ValueRange};
use crate::digest::Digest;
use crate::error::{CacheError, io_error};

/// The rows of one function, `rows/KEY.rows`, shared by the threads of a process and by processes.
///
/// Only the range of each row's value is in memory. Losing the file costs time and no result. Of
/// two values of a row the later one counts.
#[derive(Debug)]
pub struct RowMemo {
    path: PathBuf,
    log: EntryLog,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    index: HashMap<Digest, ValueRange>,
    /// Offset up to which the file was read.
    end: u64,
}

impl RowMemo {
    /// Opens the memo at `path`, empty until it is refreshed.
    pub(crate) fn open(path: PathBuf) -> Result<Self, CacheError> {
        let log = EntryLog::open(&path).map_err(|source| io_error(&path, "opened", source))?;
        Ok(Self { path, log, state: Mutex::default() })
    }

    /// Returns the value of a row, as of the last refresh.
    ///
    /// # Errors
    /// I/O errors of the file.
    pub fn get(&self, row: &Digest) -> Result<Option<Vec<u8>>, CacheError> {
        let range = self.state().index.get(row).copied();
        range
            .map(|range| self.log.read(range))
            .transpose()
            .map_err(|source| self.error("read", source))
    }

    /// Adds rows, which then survive this process. A value of over 64 MiB is not kept.
    ///
    /// # Errors
    /// I/O errors of the file.
    pub fn put(&self, rows: &[(Digest, Vec<u8>)]) -> Result<(), CacheError> {
        let kept = rows.iter().filter(|(_, value)| value.len() <= MAX_VALUE);
        self.log
            .append(kept.map(|(row, value)| (row, value.as_slice())))
            .map_err(|source| self.error("written", source))
    }

    /// Returns the number of known rows.
    pub fn count(&self) -> usize {
        self.state().index.len()
    }

    /// Reads the entries that were appended since the last refresh.
    pub(crate) fn refresh(&self) -> Result<(), CacheError> {
        let mut state = self.state();
        let State { index, end } = &mut *state;
        let scanned = self.log.scan_from(*end, |row, range| {
            index.insert(row, range);
        });
        *end = scanned.map_err(|source| self.error("read", source))?.end;
        Ok(())
    }

    fn error(&self, action: &'static str, source: io::Error) -> CacheError {
        io_error(&self.path, action, source)
    }

    /// Locks the state; every change is a single insertion, so a thread that panicked left it
    /// sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
