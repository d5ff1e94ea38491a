//! Opens untrusted files: regular files only, read up to a limit.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Opens a file to be read; links are followed.
///
/// # Errors
/// I/O errors; `IsADirectory` for a folder, and `InvalidInput` for a pipe, a socket or a device,
/// which might never end.
pub fn open_plain(path: &Path) -> io::Result<File> {
    // Checked before it is opened: opening a pipe waits for its other end.
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a pipe or a device, not a regular file",
        ));
    }
    File::open(path)
}

/// Reads a whole file of at most `limit` bytes, opened by [`open_plain`].
///
/// # Errors
/// See [`open_plain`]; `FileTooLarge` for a longer file, of which nothing is read.
pub fn read_plain(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_plain(path)?;
    let size = file.metadata()?.len();
    // A file of `/proc` may be longer than its size.
    let mut bytes = Vec::new();
    if size <= limit {
        bytes.reserve_exact(size as usize);
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    if size > limit || bytes.len() as u64 > limit {
        let reason = format!("it is larger than {} MB, the limit", limit >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

/// Fills the bytes from an offset of a file, and returns how many the file had.
pub(crate) fn fill_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
