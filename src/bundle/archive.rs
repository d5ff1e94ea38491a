//! The archive of a bundle: written with the same bytes from the same files, and read with
//! distrust.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use refrain_cache::is_inside;
use refrain_cache::write::{AtomicFile, PlainFile, create_dir_all};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

/// Bytes of a foreign archive's files at most, for each byte of the archive.
const RATIO: u64 = 1_000;
/// Bytes of a foreign archive's files that are always accepted.
const ACCEPTED: u64 = 64 << 20;
/// Files of a foreign archive at most.
const FILES: usize = 1_000_000;
/// Size in bytes from which on the archive must say that a file is large.
const LARGE: u64 = 0xffff_0000;
/// The kind of a Unix file among its mode's bits, and that of a plain file.
const KIND: (u32, u32) = (0o170_000, 0o100_000);

/// The content of a file in an archive.
#[derive(Debug, Clone)]
pub enum Content {
    /// A file.
    File(PathBuf),
    /// A text.
    Text(String),
}

/// Writes an archive of files by their names, in the order of the names; no time, owner or mode of
/// the files enters it.
///
/// # Errors
/// I/O errors.
pub fn write(path: &Path, files: &BTreeMap<String, Content>) -> io::Result<()> {
    let mut archive = ZipWriter::new_stream(AtomicFile::beside(path)?);
    for (name, content) in files {
        let size = match content {
            Content::File(path) => path.metadata()?.len(),
            Content::Text(text) => text.len() as u64,
        };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644)
            .large_file(size >= LARGE);
        archive.start_file(name.as_str(), options)?;
        match content {
            Content::File(path) => drop(io::copy(&mut File::open(path)?, &mut archive)?),
            Content::Text(text) => archive.write_all(text.as_bytes())?,
        }
    }
    archive.finish()?.into_inner().commit()
}

/// Unpacks a foreign archive into an empty folder and returns the names of its files.
///
/// # Errors
/// An error in words for what is no archive or may do harm: names that leave the folder, links,
/// names that occur twice, and files out of all proportion to the archive; I/O errors.
pub fn unpack(path: &Path, folder: &Path) -> io::Result<Vec<String>> {
    let refused = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let limit = size.saturating_mul(RATIO).max(ACCEPTED);
    let declared = entries(path)?;
    let mut archive = ZipArchive::new(file).map_err(|error| refused(error.to_string()))?;
    if archive.len() > FILES {
        return Err(refused(format!("it has {} files", archive.len())));
    }
    if declared.is_some_and(|declared| declared != archive.len() as u64) {
        return Err(refused("a name occurs twice in it".into()));
    }

    let mut names = Vec::new();
    let mut left = limit;
    for number in 0..archive.len() {
        let mut entry = archive.by_index(number).map_err(|error| refused(error.to_string()))?;
        let name = entry.name().to_owned();
        if entry.is_dir() {
            continue;
        }
        // Some programs take a backslash for a separator.
        if !is_inside(&name) || name.contains('\\') {
            return Err(refused(format!("`{name}` is a path that leaves its folder")));
        }
        if entry.unix_mode().is_some_and(|mode| mode & KIND.0 != 0 && mode & KIND.0 != KIND.1) {
            return Err(refused(format!("`{name}` is no plain file")));
        }
        let target = folder.join(&name);
        create_dir_all(target.parent().unwrap_or(folder))?;
        let mut out = PlainFile::create_new(&target)?;
        let copied = io::copy(&mut (&mut entry).take(left + 1), &mut out);
        let copied = copied.map_err(|error| refused(format!("`{name}`: {error}")))?;
        if copied > left {
            return Err(refused(format!("its files have more than {limit} bytes")));
        }
        left -= copied;
        names.push(name);
    }
    Ok(names)
}

/// Returns the number of entries that an archive's end declares; `None` for one that is too large
/// for the field. The reader keeps one of several entries of a name, and says nothing.
fn entries(path: &Path) -> io::Result<Option<u64>> {
    const END: &[u8] = b"PK\x05\x06";
    const LONGEST: u64 = 22 + 0xffff;
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    io::Seek::seek(&mut file, io::SeekFrom::Start(size.saturating_sub(LONGEST)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let Some(at) = tail.windows(END.len()).rposition(|window| window == END) else {
        return Ok(None);
    };
    let count = tail.get(at + 10..at + 12).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    Ok(count.filter(|count| *count != u16::MAX).map(u64::from))
}
