//! BLAKE3 digests of bytes, files and folders, equal to what `b3sum` prints.

use std::fmt;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::plain::open_plain;

/// A BLAKE3 digest: 32 bytes, written as 64 lower-case hexadecimal characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// A text that should have been a digest and is not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseDigestError {
    /// The text has another number of characters than 64.
    #[error("a digest has 64 hexadecimal characters, this text has {0}")]
    Length(usize),
    /// A character is not one of `0-9a-f`.
    #[error("a digest is written in lower-case hexadecimal characters, `{0}` is none of them")]
    Character(char),
}

impl Digest {
    /// The digest that consists of these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest of `bytes`.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hexadecimal characters, for people; never an identity.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        // One digest has one spelling, so upper-case characters are refused: locks and logs are compared as text.
        let accepted = |c: &char| matches!(c, '0'..='9' | 'a'..='f');
        if let Some(character) = text.chars().find(|c| !accepted(c)) {
            return Err(ParseDigestError::Character(character));
        }
        let hash = blake3::Hash::from_hex(text).map_err(|_| ParseDigestError::Length(text.len()))?;
        Ok(hash.into())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// How much of a file is in memory while it is hashed: large enough to keep every core busy on one block.
const BLOCK: usize = 4 << 20;

/// The digest and the size in bytes of a file, read in blocks that are hashed on all cores.
///
/// The file is read rather than mapped, because a source that shrinks while it is mapped ends the process.
///
/// # Errors
/// Those of opening and reading the file.
pub fn digest_file(path: &Path) -> io::Result<(Digest, u64)> {
    digest_open_file(&mut open_plain(path)?)
}

/// As [`digest_file`], from the current position of an open file to its end.
pub(crate) fn digest_open_file(file: &mut File) -> io::Result<(Digest, u64)> {
    let expected = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    // One byte more than the file, so that a small file is read whole and its end seen without a second block.
    let mut block = vec![0; expected.saturating_add(1).min(BLOCK)];
    let mut hasher = blake3::Hasher::new();
    loop {
        let read = fill(file, &mut block)?;
        hasher.update_rayon(&block[..read]);
        if read < block.len() {
            return Ok((hasher.finalize().into(), hasher.count()));
        }
    }
}

/// Reads until `block` is full or the file ends; says how many bytes are there.
fn fill(file: &mut File, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The digest of a folder: BLAKE3 of the lines `HEX  PATH` that `b3sum` prints for its files, sorted by the bytes of the path.
///
/// `files` holds paths relative to the folder, with `/` between names, in any order.
pub fn digest_listing(files: &[(String, Digest)]) -> Digest {
    let mut sorted: Vec<&(String, Digest)> = files.iter().collect();
    sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    let mut listing = String::with_capacity(files.len() * 96);
    for (path, digest) in sorted {
        push_listing_line(&mut listing, path, digest);
    }
    Digest::of_bytes(listing.as_bytes())
}

/// One line as `b3sum` prints it: a name with a backslash or a line break is escaped, and the line then opens with a backslash.
fn push_listing_line(listing: &mut String, path: &str, digest: &Digest) {
    let escaped = path.contains(['\\', '\n', '\r']);
    if escaped {
        listing.push('\\');
    }
    write!(listing, "{digest}  ").expect("writing into a string cannot fail");
    if escaped {
        listing.push_str(&path.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r"));
    } else {
        listing.push_str(path);
    }
    listing.push('\n');
}
