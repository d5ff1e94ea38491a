//! Checks a whole cache: every object against its digest, every line of its logs and row memos
//! against its check.

use std::cmp::Reverse;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::listing::{Listing, Object, entries};
use crate::digest::{Digest, digest_listing, digest_open_file};
use crate::error::{CacheError, Corrupt, io_error};
use crate::logs::LogKind;
use crate::objects::{Objects, listing as files_of};
use crate::presence::RemovalLock;
use crate::write::hard_link;

/// A damaged object or log.
#[derive(Debug)]
pub enum Damage {
    /// A damaged object; the next run that needs it computes it again.
    Object {
        /// Its digest, which is its name.
        digest: Digest,
        /// The difference from its digest.
        fault: Corrupt,
        /// Its new path, in `tmp/corrupt/`.
        aside: PathBuf,
    },
    /// A damaged log or row memo. Lost entries are computed or hashed again when needed.
    Log {
        /// The log.
        path: PathBuf,
        /// Damaged lines or entries; neighbours may count as one.
        places: usize,
        /// The path of the old log, now that it was rewritten without them; `None` while another
        /// process works with the cache.
        aside: Option<PathBuf>,
    },
}

/// Hashes every object of the listing and sets aside those that do not match their digest; `done`
/// counts the bytes that were hashed.
pub(crate) fn verify_objects(
    store: &Objects,
    listing: &Listing,
    done: &AtomicU64,
) -> Result<Vec<Damage>, CacheError> {
    let mut objects: Vec<&Object> = listing.objects.iter().collect();
    // The large ones first, so that no core is left alone with one at the end.
    objects.sort_by_key(|object| (Reverse(object.bytes), object.digest));
    let faults: Vec<(Digest, Corrupt)> = objects
        .into_par_iter()
        .with_max_len(1)
        .filter_map(|object| Some((object.digest, fault(store, object, done)?)))
        .collect();

    let aside = |(digest, fault)| {
        let aside = store.set_aside(&digest)?;
        Ok(Damage::Object { digest, fault, aside })
    };
    faults.into_iter().map(aside).collect()
}

/// Returns the fault of a damaged object. One that was removed since it was listed is not damaged.
fn fault(store: &Objects, object: &Object, done: &AtomicU64) -> Option<Corrupt> {
    let path = store.path(&object.digest);
    match hash(&path, object.folder, done) {
        Ok(found) if found == object.digest => None,
        Ok(found) => Some(Corrupt::Digest { path, found }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => None,
        Err(source) => Some(Corrupt::Unreadable { path, source }),
    }
}

/// A log with damaged lines or entries.
#[derive(Debug)]
pub(crate) struct DamagedLog {
    pub(crate) path: PathBuf,
    /// The number of damaged places.
    pub(crate) places: usize,
    kind: LogKind,
}

/// Checks every line of the logs and every entry of the row memos of the cache in `root`.
pub(crate) fn damaged_logs(root: &Path) -> Result<Vec<DamagedLog>, CacheError> {
    let rows = entries(&root.join("rows"))?.into_iter().map(|entry| entry.name);
    let all = LogKind::all(root, rows);
    let checked: Vec<io::Result<usize>> =
        all.par_iter().with_max_len(1).map(|(kind, path)| kind.damaged(path)).collect();

    let mut damaged = Vec::new();
    for ((kind, path), places) in all.into_iter().zip(checked) {
        let places = places.map_err(|source| io_error(&path, "read", source))?;
        if places > 0 {
            damaged.push(DamagedLog { path, places, kind });
        }
    }
    Ok(damaged)
}

impl DamagedLog {
    /// Sets the log aside, writes it anew without its damage, and returns the path of the old one.
    /// No other process may work with the cache.
    pub(crate) fn rewrite(
        &self,
        objects: &Objects,
        scratch: &Path,
        _alone: &RemovalLock,
    ) -> Result<PathBuf, CacheError> {
        let path = &self.path;
        let refused = |source| io_error(path, "written", source);
        let name = path.file_name().expect("a log has a name").to_string_lossy();
        let aside = objects.place_aside(&name)?;
        hard_link(path, &aside).map_err(refused)?;
        self.kind.rewrite(path, scratch).map_err(refused)?;
        Ok(aside)
    }
}

fn hash(path: &Path, folder: bool, done: &AtomicU64) -> io::Result<Digest> {
    let count = |bytes| {
        done.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    };
    let hash = |path: &Path| Ok(digest_open_file(&File::open(path)?, &count)?.0);
    if !folder {
        return hash(path);
    }
    let files = files_of(path).map_err(io::Error::other)?;
    let digests: io::Result<Vec<(String, Digest)>> = files
        .into_par_iter()
        .map(|relative| Ok((relative.clone(), hash(&path.join(relative))?)))
        .collect();
    Ok(digest_listing(&digests?))
}
