//! The append-only log of checked lines, which several processes may write at once.

use std::fs::{File, TryLockError};
use std::io;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::write::{open_append, truncate, write_once};

/// Hexadecimal characters of the BLAKE3 of a payload that open its line.
const CHECK: usize = 16;

/// Bytes read at once when a log is scanned.
const BUFFER: u64 = 1 << 20;

/// Tries, one per millisecond, of a process to join a log that another one empties.
const JOIN_TRIES: u32 = 100;
/// Bytes read at once for one line: most records are shorter.
const LINE: usize = 2048;

/// A log of lines, each the first 16 hexadecimal characters of the payload's BLAKE3, a space, the
/// payload and a line feed.
///
/// Each line is written by one `write` to a file opened for appending, which a local file system
/// keeps whole against other writers. A line torn by a crash or a full disk fails its check, and
/// every reader skips it.
#[derive(Debug)]
pub struct AppendLog {
    file: File,
}

/// A sound line of a log: its payload, and where the line starts in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Offset in bytes of the line's first character.
    pub offset: u64,
    /// The payload as it was appended.
    pub payload: String,
}

/// The content of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogContent {
    /// The sound lines in the order of the file.
    pub lines: Vec<LogLine>,
    /// Lines that failed their check or were cut off.
    pub torn: usize,
    /// Offset at which the next scan starts: the end of the last complete line.
    pub end: u64,
}

/// The result of a scan, beside the sound lines.
pub(crate) struct ScanSummary {
    /// Offset of the end of the last complete line.
    pub(crate) end: u64,
    /// Bytes of the whole log when the scan began.
    pub(crate) length: u64,
    /// Complete lines that failed their check.
    pub(crate) torn: usize,
    /// Whether bytes without a line feed follow: a torn line, or another process's half-written
    /// one.
    pub(crate) cut_off: bool,
}

impl AppendLog {
    /// Opens a log for reading and appending, and creates it where there is none.
    ///
    /// # Errors
    /// I/O errors.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: open_append(path)? })
    }

    /// Opens an existing log read-only; appending to it fails.
    ///
    /// # Errors
    /// I/O errors.
    pub fn open_read_only(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)? })
    }

    /// Reads all sound payloads of a log, and counts the torn lines. A log that does not exist is
    /// empty.
    ///
    /// # Errors
    /// I/O errors.
    pub fn read(path: &Path) -> io::Result<(Vec<String>, usize)> {
        match Self::open_read_only(path) {
            Ok(log) => {
                let content = log.read_from(0)?;
                Ok((content.lines.into_iter().map(|line| line.payload).collect(), content.torn))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((Vec::new(), 0)),
            Err(error) => Err(error),
        }
    }

    /// Reads the sound lines from `offset`, the start of a line, to the end.
    ///
    /// A last line without a line feed is counted as torn, and the next scan starts before it:
    /// another process may have written half of it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn read_from(&self, offset: u64) -> io::Result<LogContent> {
        let mut lines = Vec::new();
        let scan = self.scan_from(offset, |offset, payload| {
            lines.push(LogLine { offset, payload: payload.to_owned() })
        })?;
        Ok(LogContent { lines, torn: scan.torn + usize::from(scan.cut_off), end: scan.end })
    }

    /// Appends one line and returns when the kernel has it; [`Cache::sync`](crate::Cache::sync)
    /// syncs it to disk.
    ///
    /// # Errors
    /// `InvalidInput` when the payload holds a line feed; I/O errors. Readers skip a line of which
    /// only a part was written, and the next append starts on a new line.
    pub fn append(&self, payload: &str) -> io::Result<()> {
        self.append_all(&[payload])
    }

    /// Appends several lines with one `write`, as [`AppendLog::append`] does one.
    ///
    /// # Errors
    /// See [`AppendLog::append`].
    pub fn append_all(&self, payloads: &[&str]) -> io::Result<()> {
        let mut text =
            String::with_capacity(payloads.iter().map(|p| p.len() + CHECK + 2).sum::<usize>() + 1);
        if self.ends_torn()? {
            text.push('\n');
        }
        for payload in payloads {
            if payload.contains('\n') {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a log line cannot hold a line feed",
                ));
            }
            text.push_str(&checked_line(payload));
        }
        write_once(&self.file, text.as_bytes())
    }

    /// Truncates the log if no other process uses it, by file locks and by `alone`, then takes a
    /// shared lock.
    pub(crate) fn empty_unless_shared(&self, alone: impl FnOnce() -> bool) {
        if self.file.try_lock().is_ok() && alone() {
            // A log that cannot be emptied takes longer to read.
            let _full = truncate(&self.file);
        }
        // No process holds it exclusively for longer than the lines above take.
        for _ in 0..JOIN_TRIES {
            match self.file.try_lock_shared() {
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
                Ok(()) | Err(TryLockError::Error(_)) => return,
            }
        }
    }

    /// Calls `each` with offset and payload of every sound line from `offset`, the start of a line,
    /// to the end.
    pub(crate) fn scan_from(
        &self,
        offset: u64,
        mut each: impl FnMut(u64, &str),
    ) -> io::Result<ScanSummary> {
        let length = self.file.metadata()?.len();
        let mut scan = ScanSummary { end: offset, length, torn: 0, cut_off: false };
        let left = length.saturating_sub(offset);
        if left == 0 {
            return Ok(scan);
        }
        // Lines appended meanwhile are left to the next scan. Most scans are of one line.
        let content = PositionedReader { file: &self.file, offset }.take(left);
        let mut reader = BufReader::with_capacity(left.min(BUFFER) as usize, content);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(scan);
            }
            if line.pop() != Some(b'\n') {
                scan.cut_off = true;
                return Ok(scan);
            }
            match checked_payload(&line) {
                Some(payload) => each(scan.end, payload),
                // Two appends that both saw a torn tail leave an empty line.
                None if line.is_empty() => {}
                None => scan.torn += 1,
            }
            scan.end += read as u64;
        }
    }

    /// Reads the payload of the line that starts at `offset`; `None` when no sound line starts
    /// there.
    pub(crate) fn read_line(&self, offset: u64) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        BufReader::with_capacity(LINE, PositionedReader { file: &self.file, offset })
            .read_until(b'\n', &mut line)?;
        Ok((line.pop() == Some(b'\n')).then(|| checked_payload(&line).map(str::to_owned)).flatten())
    }

    /// Whether the last byte is not a line feed, so that a line appended now would join a torn one.
    fn ends_torn(&self) -> io::Result<bool> {
        let Some(last) = self.file.metadata()?.len().checked_sub(1) else { return Ok(false) };
        let mut byte = [b'\n'];
        self.file.read_at(&mut byte, last)?;
        Ok(byte != *b"\n")
    }
}

/// Reads a file from an offset of its own: readers and appenders share one descriptor, whose
/// position must not move.
struct PositionedReader<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for PositionedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Returns the line of a payload, which holds no line feed, with its own at the end.
pub(crate) fn checked_line(payload: &str) -> String {
    format!("{} {payload}\n", check_of(payload))
}

/// Returns the check that begins the line of a payload.
pub(super) fn check_of(payload: &str) -> String {
    let mut hex = blake3::hash(payload.as_bytes()).to_hex().to_string();
    hex.truncate(CHECK);
    hex
}

/// Returns the payload of a line, without its line feed, if its check holds.
fn checked_payload(line: &[u8]) -> Option<&str> {
    let line = str::from_utf8(line).ok()?;
    let (check, payload) = line.split_at_checked(CHECK)?;
    let payload = payload.strip_prefix(' ')?;
    (check_of(payload) == check).then_some(payload)
}
