//! Digests by which files are known before they arrive, and hashers that check them.

use std::fmt;
use std::fmt::Write;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use refrain_cache::Digest;
use refrain_engine::source::upstream::ContentDigest;

/// The digest of a file as the hub gives it, which is the name of its blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Etag(String);

impl Etag {
    /// Reads a header or a field of a listing; `None` for anything but a digest.
    pub fn parse(text: &str) -> Option<Etag> {
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"').to_ascii_lowercase();
        let is_hex = text.bytes().all(|b| b.is_ascii_hexdigit());
        (is_hex && matches!(text.len(), 40 | 64)).then_some(Etag(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the file is a large one, known by its SHA-256: its bytes come from another host.
    fn is_large(&self) -> bool {
        self.0.len() == 64
    }

    /// Returns the validator of the hub's own answers, which are those of small files.
    pub fn validator(&self) -> Option<String> {
        (!self.is_large()).then(|| format!("\"{}\"", self.0))
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The digest that a file must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The hub's, of a file of a known size.
    Hub(Etag, u64),
    /// The workflow's.
    Declared(ContentDigest),
}

impl Expected {
    pub fn hasher(&self) -> Hasher {
        match self {
            Expected::Hub(etag, _) if etag.is_large() => Hasher::Sha256(Sha256::new()),
            Expected::Hub(_, size) => {
                let mut hasher = Sha1::new();
                // As git hashes a file.
                hasher.update(format!("blob {size}\0"));
                Hasher::Git(hasher)
            }
            Expected::Declared(ContentDigest::Sha256(_)) => Hasher::Sha256(Sha256::new()),
            Expected::Declared(ContentDigest::Blake3(_)) => Hasher::Blake3(Box::default()),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Hub(etag, _) if etag.is_large() => write!(f, "sha256:{etag}"),
            Expected::Hub(etag, _) => write!(f, "git:{etag}"),
            Expected::Declared(digest) => digest.fmt(f),
        }
    }
}

/// A hasher of any of these digests.
pub(crate) enum Hasher {
    Blake3(Box<blake3::Hasher>),
    Git(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Blake3(hasher) => drop(hasher.update(bytes)),
            Hasher::Git(hasher) => hasher.update(bytes),
            Hasher::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the digest, written as [`Expected`] writes it.
    pub fn finish(self) -> String {
        match self {
            Hasher::Blake3(hasher) => {
                ContentDigest::Blake3(Digest::from(hasher.finalize())).to_string()
            }
            Hasher::Git(hasher) => format!("git:{}", hex(&hasher.finalize())),
            Hasher::Sha256(hasher) => format!("sha256:{}", hex(&hasher.finalize())),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _written = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_git_and_of_sha256sum() {
        let digest = |expected: Expected| {
            let mut hasher = expected.hasher();
            hasher.update(b"hel");
            hasher.update(b"lo\n");
            assert_eq!(hasher.finish(), expected.to_string());
        };
        // `git hash-object`, `sha256sum` and `b3sum` of a file with `hello`.
        digest(Expected::Hub(Etag::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap(), 6));
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        digest(Expected::Hub(Etag::parse(sha256).unwrap(), 6));
        digest(Expected::Declared(format!("sha256:{sha256}").parse().unwrap()));
        let blake3 = blake3::hash(b"hello\n").to_string();
        digest(Expected::Declared(blake3.parse().unwrap()));
    }

    #[test]
    fn an_etag_is_a_digest_and_nothing_else() {
        let hex = "ab".repeat(20);
        for text in [hex.clone(), format!("\"{hex}\""), format!("W/\"{hex}\""), hex.to_uppercase()]
        {
            assert_eq!(Etag::parse(&text).unwrap().as_str(), hex, "{text}");
        }
        for text in ["", "\"\"", "../../x", &hex[1..], &format!("{hex}/..")] {
            assert!(Etag::parse(text).is_none(), "{text}");
        }
    }
}
