//! The row memo: per-row results, keyed by row digest, reused by later runs.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::entries::{EntryLog, MAX_VALUE, ValueRange};
use crate::digest::Digest;
use crate::error::{CacheError, io_error};
use crate::manifest::Key;
use crate::write::remove_file;

/// Ends the name of a file of rows.
const ENDING: &str = "rows";

/// Entries that are moved at once from a segment.
const MOVED: usize = 256;

/// The rows of one function, shared by the threads of a process and by processes.
///
/// They lie in `rows/FUNCTION.rows`, to which several processes append, and in segments
/// `rows/FUNCTION.SESSION.rows`, each of one process that must not append there. Only the range of
/// each row's value is in memory. Losing a file costs time and no result. Of two values of a row in
/// one file the later one counts.
#[derive(Debug)]
pub struct RowMemo {
    /// The file that this process appends to.
    path: PathBuf,
    /// That file, then the others.
    logs: Vec<EntryLog>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the file, and the range in it.
    index: HashMap<Digest, (usize, ValueRange)>,
    /// For each file the offset up to which it was read.
    ends: Vec<u64>,
}

impl RowMemo {
    /// Opens the rows of a function in `folder`, empty until they are refreshed. With a `session`
    /// new rows go into a segment of its own.
    pub(crate) fn open(
        folder: &Path,
        function: &Key,
        session: Option<&str>,
    ) -> Result<Self, CacheError> {
        let shared = folder.join(format!("{function}.{ENDING}"));
        let own = session
            .map_or_else(|| shared.clone(), |name| folder.join(segment_name(function, name)));
        let mut logs =
            vec![EntryLog::open(&own).map_err(|source| io_error(&own, "opened", source))?];
        let others = segments(folder, Some(function))?.into_iter().map(|segment| segment.path);
        for path in std::iter::once(shared).chain(others).filter(|path| *path != own) {
            match EntryLog::open_read_only(&path) {
                Ok(log) => logs.push(log),
                // There is none, or it was moved into the shared file since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(io_error(&path, "opened", source)),
            }
        }
        let state = State { ends: vec![0; logs.len()], index: HashMap::new() };
        Ok(Self { path: own, logs, state: Mutex::new(state) })
    }

    /// Returns the value of a row, as of the last refresh.
    ///
    /// # Errors
    /// I/O errors of the file.
    pub fn get(&self, row: &Digest) -> Result<Option<Vec<u8>>, CacheError> {
        let place = self.state().index.get(row).copied();
        place
            .map(|(file, range)| self.logs[file].read(range))
            .transpose()
            .map_err(|source| self.error("read", source))
    }

    /// Adds rows, which then survive this process. A value of over 64 MiB is not kept.
    ///
    /// # Errors
    /// I/O errors of the file.
    pub fn put(&self, rows: &[(Digest, Vec<u8>)]) -> Result<(), CacheError> {
        let kept = rows.iter().filter(|(_, value)| value.len() <= MAX_VALUE);
        self.logs[0]
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
        let State { index, ends } = &mut *state;
        for (file, log) in self.logs.iter().enumerate() {
            let scanned = log.scan_from(ends[file], |row, range| {
                index.insert(row, (file, range));
            });
            ends[file] = scanned.map_err(|source| self.error("read", source))?.end;
        }
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

/// A segment: the rows that one session added to a function.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    function: String,
    /// The name of the session's folder.
    pub(crate) session: String,
}

impl Segment {
    /// Moves the rows into the shared file of their function. Two processes that do so at once leave
    /// some of them twice.
    pub(crate) fn merge(&self) -> Result<(), CacheError> {
        let read = |source| io_error(&self.path, "read", source);
        let segment = match EntryLog::open_read_only(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            segment => segment.map_err(read)?,
        };
        let mut places = Vec::new();
        segment.scan_from(0, |row, range| places.push((row, range))).map_err(read)?;

        let target = self.path.with_file_name(format!("{}.{ENDING}", self.function));
        let written = |source| io_error(&target, "written", source);
        let shared = EntryLog::open(&target).map_err(written)?;
        for places in places.chunks(MOVED) {
            let values: io::Result<Vec<Vec<u8>>> =
                places.iter().map(|(_, range)| segment.read(*range)).collect();
            let values = values.map_err(read)?;
            let entries = places.iter().zip(&values).map(|((row, _), value)| (row, &**value));
            shared.append(entries).map_err(written)?;
        }
        shared.sync().map_err(written)?;
        match remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(io_error(&self.path, "removed", source))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Lists the segments in a folder of rows, of one function or of all, sorted by name.
pub(crate) fn segments(folder: &Path, of: Option<&Key>) -> Result<Vec<Segment>, CacheError> {
    let refused = |source| io_error(folder, "read", source);
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(refused)?,
    };
    let of = of.map(Key::to_string);
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry.map_err(refused)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let [function, session, ENDING] = name.split('.').collect::<Vec<_>>()[..] else { continue };
        if of.as_ref().is_none_or(|of| of == function) {
            let (function, session) = (function.to_owned(), session.to_owned());
            segments.push(Segment { path, function, session });
        }
    }
    segments.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(segments)
}

fn segment_name(function: &Key, session: &str) -> String {
    format!("{function}.{session}.{ENDING}")
}
