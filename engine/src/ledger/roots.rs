//! Finds the roots of garbage collection: the locks of the workflows that a cache has seen, and its
//! last runs.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use refrain_cache::gc::Roots;

use crate::language::explain::{ErrorClass, Explain};
use crate::ledger::lock::{Lock, LockError};
use crate::ledger::run_log;

/// The roots, and where they come from.
#[derive(Debug, Clone, Default)]
pub struct FoundRoots {
    /// The roots.
    pub roots: Roots,
    /// The locks that name results which stay.
    pub locks: Vec<PathBuf>,
    /// Workflows that are gone with their locks; the results of their logged runs stay.
    pub gone: Vec<PathBuf>,
    /// How many runs have a log.
    pub runs: usize,
}

/// Why the roots are unknown.
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
        /// The system's reason.
        error: std::io::Error,
    },
}

/// Finds the roots of the cache in the folder `root`: the locks in `named`, those beside the
/// workflows that its logs name, and those in the folder that the cache lies in, where it has its
/// usual name. Of a workflow that is gone with its lock, what its logged runs used stays, unless it
/// is one of `forget`.
///
/// # Errors
/// [`RootsError`] for a lock or a log that cannot be read; a lock that is not there is none.
pub fn find(root: &Path, named: &[PathBuf], forget: &[PathBuf]) -> Result<FoundRoots, RootsError> {
    let runs = root.join("runs");
    let logs =
        run_log::read(&runs).map_err(|error| RootsError::Runs { path: runs.clone(), error })?;
    let mut found = FoundRoots { runs: logs.len(), ..FoundRoots::default() };
    let mut locks: BTreeSet<PathBuf> = named.iter().cloned().collect();
    if root.file_name().is_some_and(|name| name == ".refrain") {
        locks.extend(root.parent().map(locks_in).unwrap_or_default());
    }
    let mut gone = BTreeSet::new();
    for log in logs {
        let keys = log.keys;
        for key in &keys {
            let used = found.roots.used.entry(*key).or_insert(log.used);
            *used = (*used).max(log.used);
        }
        let oldest = found.roots.oldest_run.get_or_insert(log.began);
        *oldest = (*oldest).min(log.began);
        let lock = match log.lock.exists() {
            true => Some(log.lock),
            false => moved(&log.lock, &log.runs, &runs),
        };
        if log.workflow.exists() {
            found.roots.plans.insert(log.plan);
        } else if lock.is_none() && !forget.contains(&log.workflow) {
            // It may have been moved, with its lock: what its runs used stays until it is said to
            // be gone.
            found.roots.keys.extend(&keys);
            gone.insert(log.workflow);
        }
        locks.extend(lock);
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

impl FoundRoots {
    fn add(&mut self, lock: &Lock) {
        for line in lock.entries.values() {
            self.roots.keys.insert(line.key);
            let artifacts = line.outputs.values();
            self.roots.objects.extend(artifacts.flat_map(|a| [Some(a.digest), a.base]).flatten());
        }
    }
}

/// The lock of a project that was moved together with its cache, whose logs lay in `from` and lie
/// in `to`.
fn moved(lock: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    for (from, to) in from.ancestors().zip(to.ancestors()) {
        if let Ok(rest) = lock.strip_prefix(from) {
            return Some(to.join(rest)).filter(|lock| lock.exists());
        }
    }
    None
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

impl Explain for RootsError {
    fn class(&self) -> ErrorClass {
        match self {
            RootsError::Lock(error) => error.class(),
            RootsError::Runs { .. } => ErrorClass::Environment,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            RootsError::Lock(error) => error.hint(),
            RootsError::Runs { .. } => None,
        }
    }
}
