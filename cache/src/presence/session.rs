//! Sessions: the folder of one process in `tmp/`, and how other processes see whether it lives.
//!
//! A session's folder holds one file, `lock`. Its owner holds a lock on it and overwrites its
//! content every quarter of a lease: the boot id of the machine, a counter, and the machine's own
//! id. On the same machine, other processes try the lock, and notice a death at once, a restart of
//! the machine included. Elsewhere, and where the owner holds no lock, they watch the content: a
//! session whose content has not changed for a lease, by the watcher's own clock, counts as dead.
//! Times of different machines are never compared.

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
use crate::digest::Digest;
use crate::error::{CacheError, io_error};
use crate::write::{PlainFile, TempFolder, parent_of, remove_dir_all};

/// The first letters of a session's folder.
const PREFIX: &str = "session-";

/// The file inside a session's folder.
const LOCK: &str = "lock";

/// Bytes that are read of the file; a session writes fewer.
const CONTENT: u64 = 256;

/// Sessions without a sign of life for this long are removed.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Signs of life per lease: a few may come late on a busy machine.
const BEATS: u32 = 4;

/// Polls per lease.
const LOOKS: u32 = 20;

/// The longest polling interval: bounds how late a death is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Takes the place of the boot id where the owner of a session has no lock on it.
const NO_LOCK: &str = "-";

/// The rules by which the processes that share a cache know of each other.
#[derive(Debug, Clone, Copy)]
pub struct Sharing {
    /// Time without a sign of life after which a process loses its claims.
    pub lease: Duration,
    /// Whether file locks are used. Without them only silence tells that a process died.
    pub file_locks: bool,
}

impl Default for Sharing {
    fn default() -> Self {
        Self { lease: Duration::from_secs(10), file_locks: true }
    }
}

/// Identifies this start of this machine's kernel, the realm of its file locks; `None` if unknown.
static BOOT: LazyLock<Option<String>> = LazyLock::new(|| {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty() && !boot.contains(' '))
});

/// Identifies this machine across its starts; `None` if unknown.
///
/// Copies of one machine may share its id, and containers without ids may share a name, so both
/// count.
static MACHINE: LazyLock<Option<String>> = LazyLock::new(|| {
    let read = |path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let id = read("/etc/machine-id").filter(|id| !id.is_empty())?;
    let name = read("/proc/sys/kernel/hostname")?;
    Some(Digest::of_bytes(format!("{id} {name}").as_bytes()).short())
});

/// The folder under `tmp/` in which one process writes; created when first needed, removed when the
/// cache is closed.
#[derive(Debug)]
pub(crate) struct Session {
    parent: PathBuf,
    sharing: Sharing,
    open: OnceLock<Open>,
}

#[derive(Debug)]
struct Open {
    // Before the folder, so that it is dropped first: nothing may write into a folder being
    // removed.
    _heartbeat: Heartbeat,
    folder: TempFolder,
}

impl Session {
    pub(crate) fn new(parent: &Path, sharing: Sharing) -> Self {
        Self { parent: parent.to_path_buf(), sharing, open: OnceLock::new() }
    }

    /// Returns the folder, which the first call creates.
    pub(crate) fn folder(&self) -> Result<PathBuf, CacheError> {
        if let Some(open) = self.open.get() {
            return Ok(open.folder.path().to_path_buf());
        }
        let opened = Open::new(&self.parent, self.sharing)
            .map_err(|source| io_error(&self.parent, "written", source))?;
        // When another thread was faster, its folder counts and dropping this one removes it.
        Ok(self.open.get_or_init(|| opened).folder.path().to_path_buf())
    }

    /// Returns whose session a name in `tmp/` is, as far as that is known.
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

    /// Whether an entry modified then belongs to no living process.
    pub(crate) fn is_old(&self, modified: SystemTime) -> bool {
        modified.elapsed().is_ok_and(|age| age > LEFTOVER_AGE)
    }

    /// Returns the sessions of other processes that may live.
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
        // Waits for a collection that is under way; a later one sees this session.
        let gate = removal_lock::open(parent_of(parent))?;
        let _unsupported = if sharing.file_locks { gate.lock_shared() } else { Ok(()) };
        let folder = TempFolder::create(parent, PREFIX)?;
        let lock = PlainFile::create(&folder.path().join(LOCK))?;
        let locked = sharing.file_locks && lock.open().try_lock().is_ok();
        let boot = BOOT.as_deref().filter(|_| locked).unwrap_or(NO_LOCK);
        Ok(Self { _heartbeat: Heartbeat::start(lock, boot, sharing.lease / BEATS)?, folder })
    }
}

/// The owner of a name in `tmp/`.
pub(crate) enum Presence {
    /// Not a session.
    None,
    /// This process.
    Own,
    /// Another process, which may live.
    Other,
    /// Another process, which ended.
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
        let machine = MACHINE.as_deref().map(|machine| format!(" {machine}")).unwrap_or_default();
        let sign = move |count: u64| format!("{boot} {count}{machine}\n");
        lock.write_all(sign(0).as_bytes())?;
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("beat".into()).spawn(move || {
            let mut count = 0;
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                count += 1;
                // The next one may succeed; until then others may take over this process's claims.
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

/// The state of another process's session.
enum Liveness {
    /// It is over.
    Ended,
    /// It may live; the content of its file, where it can be read.
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
    // Shared, so that two who look at once do not take each other for the owner.
    let here = sharing.file_locks && is_of_this_machine(&content);
    if here && file.try_lock_shared().is_ok() {
        Liveness::Ended
    } else {
        Liveness::Content(Some(content))
    }
}

/// Whether a session belongs to this start of this machine, whose file locks tell who lives, or to
/// an earlier one, which no process survived.
fn is_of_this_machine(content: &[u8]) -> bool {
    let Ok(content) = str::from_utf8(content) else { return false };
    let mut words = content.trim_end().split(' ');
    let (boot, _count, machine) = (words.next(), words.next(), words.next());
    let this_boot = BOOT.is_some() && boot == BOOT.as_deref();
    let this_machine = MACHINE.is_some() && machine == MACHINE.as_deref();
    this_boot || (this_machine && boot.is_some_and(|boot| boot != NO_LOCK))
}

/// One process's knowledge of another one's session.
#[derive(Debug, Default)]
pub(crate) struct LivenessWatch {
    content: Vec<u8>,
    silent: Duration,
    looked: Option<Instant>,
    ended: bool,
}

impl LivenessWatch {
    /// Whether the session `name` seems to live; cheap when called again within a moment.
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
                // A watcher that was suspended itself has not watched all the time.
                Liveness::Content(_) => self.silent += since.min(pace * 2),
            }
        }
        !self.ended && self.silent < sharing.lease
    }
}

/// Removes the folders of processes that died. Nothing depends on it, so errors are ignored.
pub(crate) fn remove_leftovers(tmp: &Path, sharing: Sharing) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    for entry in entries.flatten() {
        let is_session = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_session && is_abandoned(tmp, &entry.path(), sharing) {
            let _still_there = remove_dir_all(&entry.path());
        }
    }
}

/// Whether a session has been without a sign of life for long, by this machine's clock and by the
/// file system's: one of them alone may be wrong by days.
fn is_abandoned(tmp: &Path, folder: &Path, sharing: Sharing) -> bool {
    let lock = folder.join(LOCK);
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let Ok(beat) = modified(&lock).or_else(|_| modified(folder)) else { return false };
    let is_old = |now: SystemTime| now.duration_since(beat).is_ok_and(|age| age > LEFTOVER_AGE);
    is_old(SystemTime::now())
        && !is_locked(&lock, sharing)
        && file_system_now(tmp).is_ok_and(is_old)
}

/// Whether a process holds the lock, as far as this machine sees it.
fn is_locked(lock: &Path, sharing: Sharing) -> bool {
    sharing.file_locks
        && File::open(lock)
            .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Returns the current time of a folder's file system.
fn file_system_now(folder: &Path) -> io::Result<SystemTime> {
    tempfile::tempfile_in(folder)?.metadata()?.modified()
}
