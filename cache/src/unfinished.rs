//! Checkpoints of interrupted nodes, checksummed, for the next run of the key.

use std::fs::File;
use std::io;
use std::io::{BufReader, Read, Seek, Take, Write};
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::error::{CacheError, io_error};
use crate::presence::Session;
use crate::write::{AtomicFile, create_dir_all, remove_dir_all};

/// Bytes read at once.
const BUFFER: usize = 128 << 10;

/// The length of the checksum at the end of a file.
const CHECKSUM: u64 = size_of::<Digest>() as u64;

/// The folder `unfinished/KEY/` of a cache. Losing it costs time and no result.
#[derive(Debug)]
pub struct Unfinished<'c> {
    session: &'c Session,
    folder: PathBuf,
}

impl<'c> Unfinished<'c> {
    pub(crate) fn new(session: &'c Session, folder: PathBuf) -> Self {
        Self { session, folder }
    }

    /// Atomically replaces a file by what `fill` writes; a killed process leaves the old one.
    ///
    /// # Errors
    /// I/O errors; the old file is then as it was.
    pub fn write(
        &self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), CacheError> {
        let path = self.folder.join(name);
        let scratch = self.session.folder()?;
        let write = || {
            create_dir_all(&self.folder)?;
            let mut file = Hashed {
                file: AtomicFile::create(&path, &scratch)?,
                hasher: blake3::Hasher::new(),
            };
            fill(&mut file)?;
            let Hashed { mut file, hasher } = file;
            file.write_all(hasher.finalize().as_bytes())?;
            match file.commit() {
                // Another process recorded the node meanwhile, so that its checkpoint is not
                // needed.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.folder.exists() => {
                    Ok(())
                }
                committed => committed,
            }
        };
        write().map_err(|source| io_error(&path, "written", source))
    }

    /// Opens a file whose checksum holds; `None` where there is none.
    ///
    /// # Errors
    /// I/O errors, and `InvalidData` for a damaged file.
    pub fn read(&self, name: &str) -> Result<Option<Take<BufReader<File>>>, CacheError> {
        let path = self.folder.join(name);
        match open_checked(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error(&path, "read", source)),
        }
    }

    /// Removes everything: the node is done.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remove(&self) -> Result<(), CacheError> {
        match remove_dir_all(&self.folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(io_error(&self.folder, "removed", source))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// A writer that hashes the bytes it passes on.
struct Hashed {
    file: AtomicFile,
    hasher: blake3::Hasher,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads a file once to check it, and returns its content without the checksum.
fn open_checked(path: &Path) -> io::Result<Take<BufReader<File>>> {
    let mut file = BufReader::with_capacity(BUFFER, File::open(path)?);
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "its checksum does not hold");
    let length = file.get_ref().metadata()?.len().checked_sub(CHECKSUM).ok_or_else(damaged)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader((&mut file).take(length))?;
    let mut expected = [0; CHECKSUM as usize];
    file.read_exact(&mut expected)?;
    if hasher.finalize() != blake3::Hash::from_bytes(expected) {
        return Err(damaged());
    }
    file.rewind()?;
    Ok(file.take(length))
}
