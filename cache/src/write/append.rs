//! Opens files for appending, and appends to them by single writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::{Needs, faults};

/// Opens a file for reading and appending, and creates it where there is none.
pub(crate) fn open_append(path: &Path) -> io::Result<File> {
    faults::step(Needs::Space)?;
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

/// Writes all bytes with one `write`: the rest of a short one would land behind the append of
/// another process.
pub(crate) fn write_once(file: &File, bytes: &[u8]) -> io::Result<()> {
    loop {
        match faults::write(file, bytes) {
            Ok(written) if written == bytes.len() => return Ok(()),
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "only a part of it was written",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Empties an open file.
pub(crate) fn truncate(file: &File) -> io::Result<()> {
    faults::step(Needs::Nothing)?;
    file.set_len(0)
}

/// Sets the time of an open file to now, to mark it as used.
pub(crate) fn mark_used(file: &File) -> io::Result<()> {
    file.set_modified(SystemTime::now())
}
