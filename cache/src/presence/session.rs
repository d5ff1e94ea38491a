//! The part of `tmp/` that belongs to one process, and how other processes see whether it lives.
//!
//! A session's folder holds one file, `lock`. Its owner keeps a lock on it and overwrites its content every quarter of a
//! lease, with the boot of the machine and a counter. Where the boot is their own, others try the lock, and know of a
//! death at once. Elsewhere, and where the owner holds no lock, they watch the content: what has not changed for a
//! lease, by the watcher's own clock, counts as dead. No times of different machines are compared.

use std::collections::BTreeSet;
use std::fs;
use std::fs::{File, TryLockError};
use std::io;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{LazyLock, OnceLock};
use std::thread;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::removal_lock;
use crate::error::{CacheError, io_error};
use crate::write::{PlainFile, TempFolder, parent_of, remove_dir_all};

/// The first letters of a session's folder.
const PREFIX: &str = "session-";

/// The file inside a session's folder.
const LOCK: &str = "lock";

/// More than a session ever writes into its file.
const CONTENT: u64 = 256;

/// Sessions that gave no sign of life for this long are removed.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Signs of life in a lease: a few may come late on a busy machine.
const BEATS: u32 = 4;

/// Looks in a lease.
const LOOKS: u32 = 20;

/// The longest time between two looks of a process that waits: a death is to be seen soon whatever the lease.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What stands in place of the boot where the owner of a session has no lock on it.
const NO_LOCK: &str = "-";

/// How the processes that share a cache know of each other.
#[derive(Debug, Clone, Copy)]
pub struct Sharing {
    /// How long a process that gives no sign of life keeps what it claimed.
    pub lease: Duration,
    /// Whether locks of files are used. Without them a dead process is known by its silence alone.
    pub file_locks: bool,
}

impl Default for Sharing {
    fn default() -> Self {
        Self { lease: Duration::from_secs(10), file_locks: true }
    }
}

/// What identifies this start of this machine's kernel, the realm of its file locks; `None` where it cannot be known.
static BOOT: LazyLock<Option<String>> = LazyLock::new(|| {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty() && !boot.contains(' '))
});

/// The folder under `tmp/` in which one process writes; made when first needed, removed when the cache is closed.
#[derive(Debug)]
pub(crate) struct Session {
    parent: PathBuf,
    sharing: Sharing,
    open: OnceLock<Open>,
}

#[derive(Debug)]
struct Open {
    // Before the folder, so that nobody writes into it when it is removed.
    _heartbeat: Heartbeat,
    folder: TempFolder,
}

impl Session {
    pub(crate) fn new(parent: &Path, sharing: Sharing) -> Self {
        Self { parent: parent.to_path_buf(), sharing, open: OnceLock::new() }
    }

    /// The folder, created by the first call.
    pub(crate) fn folder(&self) -> Result<PathBuf, CacheError> {
        if let Some(open) = self.open.get() {
            return Ok(open.folder.path().to_path_buf());
        }
        let opened = Open::new(&self.parent, self.sharing)
            .map_err(|source| io_error(&self.parent, "written", source))?;
        // When another thread was faster, its folder is taken and this one removed by its drop.
        Ok(self.open.get_or_init(|| opened).folder.path().to_path_buf())
    }

    /// Whose session a name in `tmp/` is, as far as can be told.
    pub(crate) fn presence(&self, name: &str) -> Presence {
        let own = self.open.get().and_then(|open| open.folder.path().file_name());
        let folder = self.parent.join(name);
        let lock = folder.join(LOCK);
        if !name.starts_with(PREFIX) {
            Presence::None
        } else if own.is_some_and(|own| own == name) {
            Presence::Own
        } else if lock.exists() && matches!(liveness(&lock, self.sharing), Liveness::Ended)
            || is_abandoned(&self.parent, &folder, self.sharing)
        {
            Presence::Ended
        } else {
            Presence::Other
        }
    }

    /// Whether what was last touched then is of no process that lives.
    pub(crate) fn is_old(&self, modified: SystemTime) -> bool {
        modified.elapsed().is_ok_and(|age| age > LEFTOVER_AGE)
    }

    /// The names of the sessions of other processes that may live.
    pub(crate) fn others(&self) -> io::Result<BTreeSet<String>> {
        let own = self.open.get().and_then(|open| open.folder.path().file_name());
        let mut others = BTreeSet::new();
        for entry in fs::read_dir(&self.parent)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let lock = entry.path().join(LOCK);
            if name.starts_with(PREFIX)
                && own != Some(entry.file_name().as_os_str())
                && !matches!(liveness(&lock, self.sharing), Liveness::Ended)
            {
                others.insert(name);
            }
        }
        Ok(others)
    }
}

impl Open {
    fn new(parent: &Path, sharing: Sharing) -> io::Result<Self> {
        // A collection that is under way ends before, and a later one sees this session.
        let gate = removal_lock::open(parent_of(parent))?;
        let _unsupported = if sharing.file_locks { gate.lock_shared() } else { Ok(()) };
        let folder = TempFolder::create(parent, PREFIX)?;
        let lock = PlainFile::create(&folder.path().join(LOCK))?;
        let locked = sharing.file_locks && lock.open().try_lock().is_ok();
        let boot = BOOT.as_deref().filter(|_| locked).unwrap_or(NO_LOCK);
        Ok(Self { _heartbeat: Heartbeat::start(lock, boot, sharing.lease / BEATS)?, folder })
    }
}

/// Whose session a name is.
pub(crate) enum Presence {
    /// It is no session.
    None,
    /// This process's own.
    Own,
    /// Another one's, who may live.
    Other,
    /// Another one's, who ended.
    Ended,
}

/// A thread that gives signs of life until it is dropped.
#[derive(Debug)]
struct Heartbeat {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    fn start(mut lock: PlainFile, boot: &'static str, every: Duration) -> io::Result<Self> {
        let sign = move |count: u64| format!("{boot} {count}\n");
        lock.write_all(sign(0).as_bytes())?;
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("beat".into()).spawn(move || {
            let mut count = 0;
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                count += 1;
                // What cannot be written now may be next time; until then others may compute what this process does.
                let _missed = lock.overwrite(sign(count).as_bytes());
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// What one look at another process's session tells.
enum Liveness {
    /// It is over.
    Ended,
    /// What its file holds, when it can be read; it may live.
    Content(Option<Vec<u8>>),
}

fn liveness(lock: &Path, sharing: Sharing) -> Liveness {
    let file = match File::open(lock) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Liveness::Ended,
        Err(_) => return Liveness::Content(None),
    };
    let mut content = Vec::new();
    if (&file).take(CONTENT).read_to_end(&mut content).is_err() {
        return Liveness::Content(None);
    }
    let boot = content.split(|byte| *byte == b' ').next();
    let ours =
        sharing.file_locks && BOOT.as_ref().is_some_and(|ours| boot == Some(ours.as_bytes()));
    // Shared, so that two who look at once do not take each other for the owner.
    if ours && file.try_lock_shared().is_ok() {
        Liveness::Ended
    } else {
        Liveness::Content(Some(content))
    }
}

/// What a process knows of another one's session.
#[derive(Debug, Default)]
pub(crate) struct LivenessWatch {
    content: Vec<u8>,
    silent: Duration,
    looked: Option<Instant>,
    ended: bool,
}

impl LivenessWatch {
    /// Whether the session `name` lives, as far as can be told; cheap when it was asked a moment ago.
    pub(crate) fn lives(&mut self, tmp: &Path, name: &str, sharing: Sharing) -> bool {
        let now = Instant::now();
        let since = self.looked.map_or(Duration::MAX, |looked| now.duration_since(looked));
        let pace = (sharing.lease / LOOKS).min(LOOK_EVERY);
        if !self.ended && since >= pace {
            let first = self.looked.replace(now).is_none();
            match liveness(&tmp.join(name).join(LOCK), sharing) {
                Liveness::Ended => self.ended = true,
                Liveness::Content(Some(content)) if first || content != self.content => {
                    self.content = content;
                    self.silent = Duration::ZERO;
                }
                Liveness::Content(_) if first => {}
                // A watcher that was suspended itself has not watched for all of the time.
                Liveness::Content(_) => self.silent += since.min(pace * 2),
            }
        }
        !self.ended && self.silent < sharing.lease
    }
}

/// Removes the folders of processes that ended without doing so. Nothing depends on it, so errors are no matter.
pub(crate) fn remove_leftovers(tmp: &Path, sharing: Sharing) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    for entry in entries.flatten() {
        let is_session = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_session && is_abandoned(tmp, &entry.path(), sharing) {
            let _still_there = remove_dir_all(&entry.path());
        }
    }
}

/// Whether nobody has given a sign of life in a session for long, by this machine's clock and by the file system's: one
/// of them alone may be wrong by days.
fn is_abandoned(tmp: &Path, folder: &Path, sharing: Sharing) -> bool {
    let lock = folder.join(LOCK);
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let Ok(beat) = modified(&lock).or_else(|_| modified(folder)) else { return false };
    let is_old = |now: SystemTime| now.duration_since(beat).is_ok_and(|age| age > LEFTOVER_AGE);
    is_old(SystemTime::now())
        && !is_locked(&lock, sharing)
        && file_system_now(tmp).is_ok_and(is_old)
}

/// Whether a process that can be seen from here holds the lock.
fn is_locked(lock: &Path, sharing: Sharing) -> bool {
    sharing.file_locks
        && File::open(lock)
            .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The time that a file gets which is made now.
fn file_system_now(folder: &Path) -> io::Result<SystemTime> {
    tempfile::tempfile_in(folder)?.metadata()?.modified()
}
