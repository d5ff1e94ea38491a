//! Fetched sources: where their files lie on this machine, and the pins that a lock keeps of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::upstream::{HubSource, Repository, RepositoryKind, Upstream};

/// Finds fetched files on this machine, without a network.
pub trait FindFetched {
    /// Finds the files of a source; `None` where they must be fetched.
    fn find(&self, name: &str, upstream: &Upstream) -> Option<Found>;

    /// Whether the lock was written with the source as it is declared now.
    fn is_pinned(&self, name: &str, upstream: &Upstream) -> bool;
}

/// The files of a fetched source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file or folder, or a pattern.
    pub path: PathBuf,
    /// The line of the lock; `None` where the digests of the files are not known.
    pub pin: Option<Pin>,
}

/// Finds nothing: every source with an upstream must be fetched.
pub struct NothingFetched;

impl FindFetched for NothingFetched {
    fn find(&self, _: &str, _: &Upstream) -> Option<Found> {
        None
    }

    fn is_pinned(&self, _: &str, _: &Upstream) -> bool {
        false
    }
}

/// A fetched source as a lock pins it, one line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Pin {
    /// From the hub.
    Hub(HubPin),
    /// From the web.
    Web(WebPin),
}

/// The commit of a repository, and the digests of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubPin {
    /// The name of the source.
    pub fetched: String,
    /// The name of the repository.
    pub hub: String,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: RepositoryKind,
    /// The revision, as the workflow names it.
    pub revision: String,
    /// The file, folder or pattern, as the workflow names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The commit that the revision meant.
    pub commit: String,
    /// The digests of the files as the hub gives them: SHA-256 of large files, git's SHA-1 of others.
    pub files: BTreeMap<String, String>,
    /// Fields of a later version, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The digest of a file on the web.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebPin {
    /// The name of the source.
    pub fetched: String,
    /// The digest, as `ContentDigest` writes it.
    pub digest: String,
    /// Fields of a later version, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A pin's source and what the workflow says of it: the order of pins in a lock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinKey {
    /// The name of the source.
    pub name: String,
    declared: Declared,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Declared {
    Hub(Repository, String, Option<String>),
    Web(String),
}

impl Pin {
    /// Returns what identifies it.
    pub fn key(&self) -> PinKey {
        match self {
            Pin::Hub(pin) => {
                let repository = Repository { kind: pin.kind, name: pin.hub.clone() };
                let declared = Declared::Hub(repository, pin.revision.clone(), pin.file.clone());
                PinKey { name: pin.fetched.clone(), declared }
            }
            Pin::Web(pin) => {
                PinKey { name: pin.fetched.clone(), declared: Declared::Web(pin.digest.clone()) }
            }
        }
    }
}

impl Pin {
    /// Whether it pins what another does, whatever a later version added.
    pub fn says(&self, other: &Pin) -> bool {
        match (self, other) {
            (Pin::Hub(a), Pin::Hub(b)) => (&a.commit, &a.files) == (&b.commit, &b.files),
            (Pin::Web(a), Pin::Web(b)) => a.digest == b.digest,
            _ => false,
        }
    }
}

impl PinKey {
    /// Returns the key of the pin of a source.
    pub fn new(name: &str, upstream: &Upstream) -> PinKey {
        let declared = match upstream {
            Upstream::Hub(HubSource { repository, revision, file }) => {
                Declared::Hub(repository.clone(), revision.clone(), file.clone())
            }
            Upstream::Web(web) => Declared::Web(web.digest.to_string()),
        };
        PinKey { name: name.into(), declared }
    }

    /// Whether both are of one revision of one repository.
    pub fn is_of_same_revision(&self, other: &PinKey) -> bool {
        match (&self.declared, &other.declared) {
            (Declared::Hub(a, of_a, _), Declared::Hub(b, of_b, _)) => {
                self.name == other.name && a == b && of_a == of_b
            }
            _ => false,
        }
    }
}
