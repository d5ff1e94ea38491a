//! BLAKE3 digests of bytes, files and folders, equal to what `b3sum` prints.

use std::fmt;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use pieces::PIECE;

use crate::untrusted::open_plain;

mod identity;
mod listing;
mod pieces;

pub use identity::FileIdentity;
pub use listing::{digest_listing, listing_text, parse_listing};

/// A BLAKE3 digest: 32 bytes, written as 64 lower-case hexadecimal characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// A text that should have been a digest and is not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseDigestError {
    /// The text does not have 64 characters.
    #[error("a digest has 64 hexadecimal characters, this text has {0}")]
    Length(usize),
    /// A character is not one of `0-9a-f`.
    #[error("a digest is written in lower-case hexadecimal characters, `{0}` is none of them")]
    Character(char),
}

impl Digest {
    /// Creates a digest from its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Hashes bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the first eight hexadecimal characters, for people; never an identity.
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
        // One digest has one spelling, so upper-case characters are refused: locks and logs are
        // compared as text.
        let accepted = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        let wrong = || match text.chars().find(|c| !accepted(*c)) {
            Some(character) => ParseDigestError::Character(character),
            None => ParseDigestError::Length(text.len()),
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(wrong()) };
        let pairs: &[[u8; 2]; 32] = pairs.try_into().map_err(|_| wrong())?;
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = nibble(*high)
                .zip(nibble(*low))
                .map(|(high, low)| high << 4 | low)
                .ok_or_else(wrong)?;
        }
        Ok(Self(bytes))
    }
}

/// Returns the value of a lower-case hexadecimal character.
fn nibble(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(AsText)
    }
}

/// Deserializes a digest from borrowed text: the lock of a large sweep holds hundreds of thousands.
struct AsText;

impl Visitor<'_> for AsText {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Digest, E> {
        text.parse().map_err(E::custom)
    }
}

/// Hashes a file on all cores, and returns its digest and its size in bytes.
///
/// The file is read rather than mapped: a file that shrinks while it is mapped ends the process.
///
/// # Errors
/// I/O errors.
pub fn digest_file(path: &Path) -> io::Result<(Digest, u64)> {
    digest_open_file(&open_plain(path)?, &|_| Ok(()))
}

/// Called with the number of bytes after each piece of a file is hashed, and with 0 before it is
/// read, from several threads. An error ends the hashing with it.
pub type OnHashed<'a> = &'a (dyn Fn(u64) -> io::Result<()> + Sync);

/// Hashes a file that was just opened, as [`digest_file`] does.
pub(crate) fn digest_open_file(file: &File, on_hashed: OnHashed<'_>) -> io::Result<(Digest, u64)> {
    let length = file.metadata()?.len();
    if length > PIECE {
        return Ok((pieces::digest(file, length, on_hashed)?, length));
    }
    // One byte more than the file, so that its end is seen without a second block. A file that is
    // not regular, such as a pipe, has no length and is read block by block.
    let mut block = vec![0; if length == 0 { PIECE as usize } else { length as usize + 1 }];
    let mut hasher = blake3::Hasher::new();
    loop {
        let read = fill(file, &mut block)?;
        hasher.update(&block[..read]);
        on_hashed(read as u64)?;
        if read < block.len() {
            return Ok((hasher.finalize().into(), hasher.count()));
        }
    }
}

/// Reads until `block` is full or the file ends, and returns the number of bytes read.
fn fill(mut file: &File, block: &mut [u8]) -> io::Result<usize> {
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
