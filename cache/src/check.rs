//! Checks a whole cache: every object against its name, every line of its logs and row memos against its check.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use rayon::prelude::*;

use crate::digest::{Digest, digest_listing, digest_open_file};
use crate::listing::{Listing, Object, entries};
use crate::store::{Cache, CacheError, Corrupt, Gate, io_error, listing_of};
use crate::write::{AppendLog, EntryLog, hard_link};

/// The logs of checked lines, relative to the cache folder.
const LOGS: [&str; 2] = ["records/records.log", "records/files.log"];

/// An object that is not what its name says, or a log with parts that are not as they were written.
#[derive(Debug)]
pub enum Damage {
    /// An object, and where it is now; the next run that needs it makes it again.
    Object {
        /// Its name.
        digest: Digest,
        /// What is wrong with it.
        fault: Corrupt,
        /// Where it was set aside.
        aside: PathBuf,
    },
    /// A log or a row memo. What it said is made or hashed again where it is needed.
    Log {
        /// The log.
        path: PathBuf,
        /// How many of its lines or entries are damaged; those that are damaged side by side may count as one.
        places: usize,
        /// Where the whole log was set aside, now that it was written anew without them; `None` while another process
        /// works with the cache.
        aside: Option<PathBuf>,
    },
}

impl Cache {
    /// Hashes every object of the listing and sets aside those whose bytes are not what their name says. No digest that
    /// was remembered is trusted; `done` counts the bytes that were hashed.
    ///
    /// # Errors
    /// Those of setting aside; the objects are all hashed before.
    pub fn verify_objects(
        &self,
        listing: &Listing,
        done: &AtomicU64,
    ) -> Result<Vec<Damage>, CacheError> {
        let mut objects: Vec<&Object> = listing.objects.iter().collect();
        // The large ones first, so that no core is left alone with one at the end.
        objects.sort_by_key(|object| (Reverse(object.bytes), object.digest));
        let faults: Vec<(Digest, Corrupt)> = objects
            .into_par_iter()
            .with_max_len(1)
            .filter_map(|object| Some((object.digest, self.fault(object, done)?)))
            .collect();
        let aside = |(digest, fault)| {
            let aside = self.set_object_aside(&digest)?;
            Ok(Damage::Object { digest, fault, aside })
        };
        faults.into_iter().map(aside).collect()
    }

    /// What is wrong with an object. One that was removed since it was listed is no damage.
    fn fault(&self, object: &Object, done: &AtomicU64) -> Option<Corrupt> {
        let path = self.object_path(&object.digest);
        match hash(&path, object.folder, done) {
            Ok(found) if found == object.digest => None,
            Ok(found) => Some(Corrupt::Digest { path, found }),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => None,
            Err(source) => Some(Corrupt::Unreadable { path, source }),
        }
    }

    /// Checks every line of the logs and every entry of the row memos. What has damaged ones is set aside and written anew
    /// without them, unless another process works with the cache.
    ///
    /// # Errors
    /// Those of reading and writing the logs.
    pub fn verify_logs(&self) -> Result<Vec<Damage>, CacheError> {
        let logs = LOGS.map(|log| (self.root().join(log), Format::Lines));
        let rows =
            entries(&self.rows_dir())?.into_iter().map(|entry| self.rows_dir().join(entry.name));
        let rows: Vec<PathBuf> =
            rows.filter(|path| path.extension() == Some(OsStr::new("rows"))).collect();
        let all = logs.into_iter().chain(rows.into_iter().map(|path| (path, Format::Entries)));
        let all: Vec<(PathBuf, Format)> = all.collect();
        let looked: Vec<io::Result<usize>> =
            all.par_iter().with_max_len(1).map(|(path, format)| format.damaged(path)).collect();
        let mut damages = Vec::new();
        for ((path, format), places) in all.into_iter().zip(looked) {
            let places = places.map_err(|source| io_error(&path, "read", source))?;
            if places == 0 {
                continue;
            }
            let gate = self.close()?;
            let alone = self.sessions()?.1.is_empty();
            let aside = if alone { Some(self.rewrite_log(&path, format, &gate)?) } else { None };
            damages.push(Damage::Log { path, places, aside });
        }
        Ok(damages)
    }

    fn rewrite_log(
        &self,
        path: &Path,
        format: Format,
        _alone: &Gate,
    ) -> Result<PathBuf, CacheError> {
        let refused = |source| io_error(path, "written", source);
        let name = path.file_name().expect("a log has a name").to_string_lossy();
        let aside = self.place_aside(&name)?;
        hard_link(path, &aside).map_err(refused)?;
        let scratch = self.session_folder()?;
        match format {
            Format::Lines => AppendLog::rewrite(path, &scratch, |_, _| true).map_err(refused)?,
            Format::Entries => EntryLog::rewrite(path, &scratch).map_err(refused)?,
        }
        Ok(aside)
    }
}

/// What a log is made of.
#[derive(Debug, Clone, Copy)]
enum Format {
    Lines,
    Entries,
}

impl Format {
    /// How many places of a log are damaged or cut off; a log that is not there has none.
    fn damaged(self, path: &Path) -> io::Result<usize> {
        let places = match self {
            Self::Lines => AppendLog::open_read_only(path)
                .and_then(|log| log.scan_from(0, |_, _| {}))
                .map(|scan| scan.torn + usize::from(scan.cut_off)),
            Self::Entries => EntryLog::open_read_only(path)
                .and_then(|log| log.scan_from(0, |_, _| {}))
                .map(|scanned| scanned.damaged),
        };
        match places {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            places => places,
        }
    }
}

fn hash(path: &Path, folder: bool, done: &AtomicU64) -> io::Result<Digest> {
    let hash = |path: &Path| Ok(digest_open_file(&File::open(path)?, done)?.0);
    if !folder {
        return hash(path);
    }
    let files = listing_of(path).map_err(io::Error::other)?;
    let digests: io::Result<Vec<(String, Digest)>> = files
        .into_par_iter()
        .map(|relative| Ok((relative.clone(), hash(&path.join(relative))?)))
        .collect();
    Ok(digest_listing(&digests?))
}
