//! What garbage collection must leave: the locks of the workflows that a cache has seen, and what its last runs used.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use refrain_cache::gc::Roots;

use crate::ledger::lock::{Lock, LockError};
use crate::ledger::run_log;

/// The roots, and where they come from.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The roots.
    pub roots: Roots,
    /// The locks that name results which stay.
    pub locks: Vec<PathBuf>,
    /// Workflows that the cache has seen and that are no more.
    pub gone: Vec<PathBuf>,
    /// How many runs have a log.
    pub runs: usize,
}

/// Why the roots cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// A lock cannot be read, so what it names is not known.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The logs of runs cannot be read.
    #[error("cannot read the logs of runs in `{}`: {error}", path.display())]
    Runs {
        /// Their folder.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
}

/// Finds the roots of the cache in the folder `root`: the locks in `named`, those beside the workflows that its logs name,
/// and those in the folder that the cache lies in, where it has its usual name.
///
/// # Errors
/// [`RootsError`] for a lock or a log that cannot be read; a lock that is not there is none.
pub fn find(root: &Path, named: &[PathBuf]) -> Result<Found, RootsError> {
    let runs = root.join("runs");
    let logs = run_log::read(&runs).map_err(|error| RootsError::Runs { path: runs, error })?;
    let mut found = Found { runs: logs.len(), ..Found::default() };
    let mut locks: BTreeSet<PathBuf> = named.iter().cloned().collect();
    if root.file_name().is_some_and(|name| name == ".refrain") {
        locks.extend(root.parent().map(locks_in).unwrap_or_default());
    }
    let mut gone = BTreeSet::new();
    for log in logs {
        for key in log.keys {
            let used = found.roots.used.entry(key).or_insert(log.used);
            *used = (*used).max(log.used);
        }
        let oldest = found.roots.oldest_run.get_or_insert(log.began);
        *oldest = (*oldest).min(log.began);
        if log.workflow.exists() {
            found.roots.plans.insert(log.plan);
        } else {
            gone.insert(log.workflow);
        }
        locks.insert(log.lock);
    }
    found.gone = gone.into_iter().collect();
    for path in locks {
        match Lock::read(&path) {
            Err(LockError::Missing(_)) => continue,
            lock => found.add(&lock?),
        }
        found.locks.push(path);
    }
    Ok(found)
}

impl Found {
    fn add(&mut self, lock: &Lock) {
        for line in lock.entries.values() {
            self.roots.keys.insert(line.key);
            let artifacts = line.outputs.values();
            self.roots.objects.extend(artifacts.flat_map(|a| [Some(a.digest), a.base]).flatten());
        }
    }
}

/// The locks of Refrain in a folder; other programs have files of that name too.
fn locks_in(folder: &Path) -> Vec<PathBuf> {
    let opening = b"{\"refrain_lock\"";
    let is_ours = |path: &Path| {
        let mut begin = [0; 15];
        fs::File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok()
            && begin == *opening
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|e| e == "lock") && is_ours(path)).collect()
}
