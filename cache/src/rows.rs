//! The row memo: what a function of one row gave, under the digest of the row, for the runs that come.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::manifest::Key;
use crate::store::{Cache, CacheError, io_error};
use crate::write::{EntryLog, MOST, Place};

/// The rows of one function, `rows/KEY.rows`, shared by the threads of a process and by processes.
///
/// In memory is only where each row's value stands. Losing the file costs time and no result. Of two values of a row
/// the later one counts.
#[derive(Debug)]
pub struct Rows {
    path: PathBuf,
    log: EntryLog,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    index: HashMap<Digest, Place>,
    /// How far the file was read.
    end: u64,
}

impl Cache {
    /// The rows of the function with this key, as they stand on disk now: the file is read once, and from then on only
    /// what was appended since.
    ///
    /// # Errors
    /// Those of opening and reading the file.
    pub fn rows(&self, function: &Key) -> Result<Arc<Rows>, CacheError> {
        let mut opened = self.opened_rows();
        let rows = match opened.get(function) {
            Some(rows) => rows.clone(),
            None => {
                let path = self.rows_dir().join(format!("{function}.rows"));
                let log =
                    EntryLog::open(&path).map_err(|source| io_error(&path, "opened", source))?;
                let rows = Arc::new(Rows { path, log, state: Mutex::default() });
                opened.insert(*function, rows.clone());
                rows
            }
        };
        drop(opened);
        rows.refresh()?;
        Ok(rows)
    }
}

impl Rows {
    /// The value of a row, of those that the file held when it was last asked for.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn get(&self, row: &Digest) -> Result<Option<Vec<u8>>, CacheError> {
        let place = self.state().index.get(row).copied();
        place
            .map(|place| self.log.read(place))
            .transpose()
            .map_err(|source| self.error("read", source))
    }

    /// Adds rows, which then survive this process. A value of over 64 MiB is not kept.
    ///
    /// # Errors
    /// Those of writing the file.
    pub fn put(&self, rows: &[(Digest, Vec<u8>)]) -> Result<(), CacheError> {
        let kept = rows.iter().filter(|(_, value)| value.len() <= MOST);
        self.log
            .append(kept.map(|(row, value)| (row, value.as_slice())))
            .map_err(|source| self.error("written", source))
    }

    /// How many rows are known.
    pub fn count(&self) -> usize {
        self.state().index.len()
    }

    fn refresh(&self) -> Result<(), CacheError> {
        let mut state = self.state();
        let State { index, end } = &mut *state;
        let scanned = self.log.scan_from(*end, |row, place| {
            index.insert(row, place);
        });
        *end = scanned.map_err(|source| self.error("read", source))?.end;
        Ok(())
    }

    fn error(&self, action: &'static str, source: io::Error) -> CacheError {
        io_error(&self.path, action, source)
    }

    /// The state; every change to it is a single insertion, so a thread that panicked left it sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
