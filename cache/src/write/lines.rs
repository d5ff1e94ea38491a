//! A new file that grows by lines, for people and other programs to read.

use std::io;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::PlainFile;
use super::temp::BUFFER;

/// A file of lines that one process writes. A crash may cut its last line off.
#[derive(Debug)]
pub struct LineFile {
    file: BufWriter<PlainFile>,
}

impl LineFile {
    /// Creates the file.
    ///
    /// # Errors
    /// I/O errors, and `AlreadyExists`.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(BUFFER, PlainFile::create_new(path)?) })
    }

    /// Adds a line; it is in memory until [`LineFile::flush`] or the end.
    ///
    /// # Errors
    /// I/O errors.
    pub fn push(&mut self, line: &str) -> io::Result<()> {
        debug_assert!(!line.contains('\n'), "a line holds no line feed");
        self.file.write_all(line.as_bytes())?;
        self.file.write_all(b"\n")
    }

    /// Hands all lines to the kernel.
    ///
    /// # Errors
    /// I/O errors.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
