//! Lists a cache folder: every object, record, memo and leftover, with its size and its time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

use crate::artifact::ArtifactKind;
use crate::digest::Digest;
use crate::error::{CacheError, io_error};
use crate::logs::{RecordError, Records};
use crate::manifest::Key;

/// Everything in a cache folder. Entries that other processes write meanwhile may be out of date.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listing {
    /// The objects, sorted by digest.
    pub objects: Vec<Object>,
    /// The records, sorted by key.
    pub records: Vec<Recorded>,
    /// The row memos.
    pub rows: Vec<Entry>,
    /// Work of interrupted nodes, under their keys.
    pub unfinished: Vec<Entry>,
    /// Saved plans of complete runs.
    pub plans: Vec<Entry>,
    /// The event logs of runs.
    pub runs: Vec<Entry>,
    /// Damaged files that were set aside.
    pub corrupt: Vec<Entry>,
    /// Leftovers of ended processes in `tmp/`.
    pub leftovers: Vec<Entry>,
    /// Sessions of other processes that may be at work.
    pub sessions: Vec<String>,
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its digest, which is its name.
    pub digest: Digest,
    /// Whether it is a folder.
    pub folder: bool,
    /// Size in bytes: of the file, or of all files of the folder.
    pub bytes: u64,
    /// The time when it was moved into the cache.
    pub stored: SystemTime,
}

/// A record in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its key.
    pub key: Key,
    /// Its artifacts.
    pub outputs: Vec<(Digest, ArtifactKind)>,
    /// The models that its adapters belong to; a source's model lies outside the cache.
    pub bases: Vec<Digest>,
}

/// A file or folder with a name of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name in its folder.
    pub name: String,
    /// Size in bytes, of a folder that of all files in it.
    pub bytes: u64,
    /// Its modification time.
    pub modified: SystemTime,
}

impl Listing {
    /// Lists a cache folder, given its leftovers and the sessions of other processes.
    pub(crate) fn read(
        root: &Path,
        records: &Records,
        leftovers: Vec<Entry>,
        sessions: Vec<String>,
    ) -> Result<Self, ListingError> {
        let folder = |name: &str| entries(&root.join(name));
        Ok(Self {
            objects: objects(&root.join("objects"))?,
            records: recorded(records)?,
            rows: folder("rows")?,
            unfinished: folder("unfinished")?,
            plans: folder("plans")?,
            runs: folder("runs")?,
            corrupt: folder("tmp/corrupt")?,
            leftovers,
            sessions,
        })
    }

    /// Returns the kind of each object as its records say; an object that no record names has none.
    pub fn kinds(&self) -> BTreeMap<Digest, ArtifactKind> {
        self.records.iter().flat_map(|recorded| recorded.outputs.iter().copied()).collect()
    }
}

/// An error of listing a cache.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// An I/O error of a folder.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// An I/O error of the records.
    #[error(transparent)]
    Records(#[from] RecordError),
}

fn recorded(records: &Records) -> Result<Vec<Recorded>, RecordError> {
    let mut listed = Vec::new();
    records.each(|key, made| {
        let outputs = made
            .result
            .artifacts
            .values()
            .map(|artifact| (artifact.digest, artifact.kind))
            .collect();
        let bases = made.result.artifacts.values().filter_map(|artifact| artifact.base).collect();
        listed.push(Recorded { key, outputs, bases });
    })?;
    listed.sort_unstable_by_key(|recorded| recorded.key);
    Ok(listed)
}

/// Lists the objects; an entry whose name is not a digest is not the cache's and is skipped.
fn objects(folder: &Path) -> Result<Vec<Object>, CacheError> {
    let below: Result<Vec<Vec<Object>>, CacheError> =
        names(folder)?.par_iter().map(|first| objects_below(folder, first)).collect();
    let mut objects: Vec<Object> = below?.into_iter().flatten().collect();
    objects.sort_unstable_by_key(|object| object.digest);
    Ok(objects)
}

/// Lists the objects whose digests begin with `first`.
fn objects_below(folder: &Path, first: &str) -> Result<Vec<Object>, CacheError> {
    let within = folder.join(first);
    let mut objects = Vec::new();
    if first.len() != 2 || !within.is_dir() {
        return Ok(objects);
    }
    for rest in names(&within)? {
        let Ok(digest) = format!("{first}{rest}").parse() else { continue };
        let path = within.join(&rest);
        objects.extend(gone(object(digest, &path), &path)?);
    }
    Ok(objects)
}

fn object(digest: Digest, path: &Path) -> io::Result<Object> {
    let metadata = path.symlink_metadata()?;
    // A command can set the modification time of its outputs, but not the change time.
    let changed =
        UNIX_EPOCH + Duration::new(metadata.ctime().max(0) as u64, metadata.ctime_nsec() as u32);
    let bytes = size(path, &metadata)?;
    Ok(Object { digest, folder: metadata.is_dir(), bytes, stored: changed })
}

/// Lists the entries of a folder, sorted by name; a folder that is not there has none.
pub(crate) fn entries(folder: &Path) -> Result<Vec<Entry>, CacheError> {
    let mut entries = Vec::new();
    for name in names(folder)? {
        let path = folder.join(&name);
        entries.extend(gone(entry(name, &path), &path)?);
    }
    Ok(entries)
}

fn entry(name: String, path: &Path) -> io::Result<Entry> {
    let metadata = path.symlink_metadata()?;
    Ok(Entry { name, bytes: size(path, &metadata)?, modified: metadata.modified()? })
}

/// Lists the names in a folder, sorted. The cache gives no name that is not UTF-8.
fn names(folder: &Path) -> Result<Vec<String>, CacheError> {
    let refused = |source| io_error(folder, "read", source);
    let listed = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(refused)?,
    };
    let mut names = Vec::new();
    for entry in listed {
        names.extend(entry.map_err(refused)?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// Returns the bytes of a file, or of all files below a folder.
fn size(path: &Path, metadata: &fs::Metadata) -> io::Result<u64> {
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        bytes += size(&entry.path(), &entry.metadata()?)?;
    }
    Ok(bytes)
}

/// Returns `None` for an entry that another process removed since its folder was read.
fn gone<T>(found: io::Result<T>, path: &Path) -> Result<Option<T>, CacheError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error(path, "read", source)),
    }
}

impl Recorded {
    /// Returns the objects that it needs.
    pub fn objects(&self) -> impl Iterator<Item = Digest> + '_ {
        self.outputs.iter().map(|(digest, _)| *digest).chain(self.bases.iter().copied())
    }
}
