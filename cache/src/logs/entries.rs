//! The append-only file of checked binary entries, which several processes may write at once.

use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::digest::Digest;
use crate::untrusted::fill_at;
use crate::write::{AtomicFile, mark_used, open_append, sync_file, write_once};

/// Begins every entry, so that a reader finds the next one behind a torn one.
const MAGIC: [u8; 4] = *b"RfE1";

/// Bytes before an entry's value: magic, length of the value (u32), check (u64), key.
const HEADER: usize = 4 + 4 + 8 + 32;

/// Bytes of the longest value. A greater length was never written.
pub(crate) const MAX_VALUE: usize = 64 << 20;

/// Bytes read at once when the file is scanned.
const BUFFER: usize = 1 << 20;

/// The range of a value in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueRange {
    offset: u64,
    length: u32,
}

/// The result of a scan, beside the sound entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntrySummary {
    /// Offset of the end of the last sound entry.
    pub end: u64,
    /// Damaged places, each up to the next sound entry.
    pub damaged: usize,
}

/// Entries of a key and a value, each behind its own check: the first 8 bytes of the BLAKE3 of
/// length, key and value, all numbers little-endian.
///
/// Entries are appended by one `write` to a file opened for appending, which the kernel keeps whole
/// against other writers on a local file system. What a crash or a full disk leaves torn fails its
/// check, and readers go on at the next entry.
#[derive(Debug)]
pub(crate) struct EntryLog {
    file: File,
}

impl EntryLog {
    /// Opens the file and creates it where there is none; its time marks its last use.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = open_append(path)?;
        mark_used(&file)?;
        Ok(Self { file })
    }

    /// Opens an existing file read-only.
    pub(crate) fn open_read_only(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)? })
    }

    /// Appends entries and returns when the kernel has them.
    pub(crate) fn append<'e>(
        &self,
        entries: impl IntoIterator<Item = (&'e Digest, &'e [u8])>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (key, value) in entries {
            push(&mut bytes, key, value);
        }
        write_once(&self.file, &bytes)
    }

    /// Waits until all that was appended is on disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        sync_file(&self.file)
    }

    /// Calls `each` with key and range of every sound entry from `offset` to the end.
    pub(crate) fn scan_from(
        &self,
        offset: u64,
        mut each: impl FnMut(Digest, ValueRange),
    ) -> io::Result<EntrySummary> {
        let mut window = Window { file: &self.file, bytes: Vec::new(), start: offset, at: 0 };
        let mut scanned = EntrySummary { end: offset, damaged: 0 };
        loop {
            let header = window.ahead(HEADER)?;
            if header.len() < HEADER {
                let cut_off = !header.is_empty() && window.offset() == scanned.end;
                scanned.damaged += usize::from(cut_off);
                return Ok(scanned);
            }
            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
            if header[..4] == MAGIC && length as usize <= MAX_VALUE {
                let size = HEADER + length as usize;
                let entry = window.ahead(size)?;
                if entry.len() >= size
                    && let Some(key) = checked_key(&entry[..size], length)
                {
                    each(key, ValueRange { offset: window.offset() + HEADER as u64, length });
                    window.at += size;
                    scanned.end = window.offset();
                    continue;
                }
            }
            // Counted where it begins, not at magic bytes within it.
            scanned.damaged += usize::from(window.offset() == scanned.end);
            window.seek_magic()?;
        }
    }

    /// Atomically replaces the file at `path` by its sound entries.
    ///
    /// Entries that another process appends meanwhile are lost, so none may be at work.
    pub(super) fn rewrite(path: &Path, scratch: &Path) -> io::Result<()> {
        let log = Self::open_read_only(path)?;
        let mut file = AtomicFile::create(path, scratch)?;
        let mut copied = Ok(());
        let mut entry = Vec::new();
        log.scan_from(0, |key, range| {
            if copied.is_ok() {
                copied = log.read(range).and_then(|value| {
                    entry.clear();
                    push(&mut entry, &key, &value);
                    file.write_all(&entry)
                });
            }
        })?;
        copied?;
        file.commit()
    }

    /// Reads a value.
    pub(crate) fn read(&self, range: ValueRange) -> io::Result<Vec<u8>> {
        let mut value = vec![0; range.length as usize];
        self.file.read_exact_at(&mut value, range.offset)?;
        Ok(value)
    }
}

/// A part of a file in memory that moves forward.
struct Window<'a> {
    file: &'a File,
    bytes: Vec<u8>,
    /// Offset in the file of the first byte in memory.
    start: u64,
    /// The current position in `bytes`.
    at: usize,
}

impl Window<'_> {
    /// Returns the bytes from the current position on, at least `wanted` unless the file ends
    /// before.
    fn ahead(&mut self, wanted: usize) -> io::Result<&[u8]> {
        if self.bytes.len() - self.at < wanted {
            self.bytes.drain(..self.at);
            self.start += self.at as u64;
            self.at = 0;
            let here = self.bytes.len();
            self.bytes.resize(wanted.max(BUFFER), 0);
            let filled =
                here + fill_at(self.file, &mut self.bytes[here..], self.start + here as u64)?;
            self.bytes.truncate(filled);
        }
        Ok(&self.bytes[self.at..])
    }

    fn offset(&self) -> u64 {
        self.start + self.at as u64
    }

    /// Moves on to the next magic bytes, or to the end.
    fn seek_magic(&mut self) -> io::Result<()> {
        self.at += 1;
        loop {
            let ahead = self.ahead(HEADER)?;
            match ahead.windows(MAGIC.len()).position(|bytes| bytes == MAGIC) {
                Some(found) => {
                    self.at += found;
                    return Ok(());
                }
                None if ahead.len() < HEADER => {
                    self.at = self.bytes.len();
                    return Ok(());
                }
                // The last bytes may begin it.
                None => self.at += ahead.len() - (MAGIC.len() - 1),
            }
        }
    }
}

/// Appends the bytes of an entry.
fn push(bytes: &mut Vec<u8>, key: &Digest, value: &[u8]) {
    let length = value.len() as u32;
    bytes.extend(MAGIC);
    bytes.extend(length.to_le_bytes());
    bytes.extend(check_of(length, key.as_bytes(), value));
    bytes.extend(key.as_bytes());
    bytes.extend(value);
}

/// Returns the key of an entry, if its check holds.
fn checked_key(entry: &[u8], length: u32) -> Option<Digest> {
    let (key, value) = entry[HEADER - 32..].split_first_chunk::<32>()?;
    (entry[8..16] == check_of(length, key, value)).then(|| Digest::from_bytes(*key))
}

fn check_of(length: u32, key: &[u8; 32], value: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    let mut check = [0; 8];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    check
}
