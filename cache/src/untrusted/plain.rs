//! Opens files that a stranger may have put there: plain ones only, and no more of them than is wanted.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Opens a file to be read; links are followed.
///
/// # Errors
/// Those of the file system; `IsADirectory` for a folder, and `InvalidInput` for a pipe, a socket or a device: reading
/// one may never end.
pub fn open_plain(path: &Path) -> io::Result<File> {
    // Asked before it is opened, since opening a pipe waits for its other end.
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a pipe or a device, no plain file",
        ));
    }
    File::open(path)
}

/// Reads a whole file of at most `limit` bytes, opened by [`open_plain`].
///
/// # Errors
/// Those of [`open_plain`] and of reading; `FileTooLarge` for a longer one, of which nothing is read.
pub fn read_plain(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_plain(path)?;
    let size = file.metadata()?.len();
    // A file of the system may be longer than it says.
    let mut bytes = Vec::new();
    if size <= limit {
        bytes.reserve_exact(size as usize);
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    if size > limit || bytes.len() as u64 > limit {
        let reason = format!("it is larger than {} MB, the most that is read", limit >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

/// Fills the bytes from a place in a file, as far as the file goes; says how far.
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
