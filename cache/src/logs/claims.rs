//! Claims: the process that computes a key announces it in one append-only log. The first claim of
//! a key counts while its session lives.
//!
//! Claims only avoid duplicate work; correctness never depends on them. Where a claim is lost, or
//! taken over from a process that was only suspended, a key is computed twice and its first record
//! counts.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lines::AppendLog;
use crate::manifest::Key;
use crate::presence::{LivenessWatch, Session, Sharing};
use crate::write::parent_of;

/// The process that computes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Here,
    /// Another process, which seems to live.
    Elsewhere,
}

/// The claims of a cache, shared by the threads of a process and by processes.
#[derive(Debug)]
pub(crate) struct Claims {
    log: AppendLog,
    path: PathBuf,
    tmp: PathBuf,
    session: String,
    sharing: Sharing,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Offset up to which the log was read.
    end: u64,
    /// The sessions that claim a key, in the order of the log.
    held: HashMap<Key, Vec<String>>,
    /// Lines that the next append takes along.
    unwritten: Vec<String>,
    watched: HashMap<String, LivenessWatch>,
}

impl Claims {
    pub(crate) fn open(root: &Path, session: &Session, sharing: Sharing) -> io::Result<Self> {
        let folder = session.folder().map_err(io::Error::other)?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = root.join("records/claims.log");
        let log = AppendLog::open(&path)?;
        // The order matters: others see this session before it looks for them.
        let alone = || session.others().is_ok_and(|others| others.is_empty());
        if sharing.file_locks {
            log.empty_unless_shared(alone);
        }
        let tmp = parent_of(&folder).to_path_buf();
        Ok(Self { log, path, tmp, session: name, sharing, state: Mutex::default() })
    }

    /// Claims a key, or returns its holder.
    pub(crate) fn take(&self, key: &Key) -> io::Result<Result<(), Holder>> {
        let mut state = self.state();
        self.refresh(&mut state)?;
        if let Some(holder) = self.first(&mut state, key) {
            return Ok(Err(holder));
        }
        self.append(&mut state, Some(&self.line(CLAIM, key)))?;
        self.refresh(&mut state)?;
        match self.first(&mut state, key) {
            Some(Holder::Elsewhere) => {
                self.give_back(&mut state, key);
                Ok(Err(Holder::Elsewhere))
            }
            Some(Holder::Here) | None => Ok(Ok(())),
        }
    }

    /// Gives a key back; other processes see it after the next append.
    pub(crate) fn release(&self, key: &Key) {
        self.give_back(&mut self.state(), key);
    }

    /// Appends the releases that are not written yet.
    pub(crate) fn flush(&self) {
        let _unseen = self.append(&mut self.state(), None);
    }

    /// Returns the holder of a key; none where the log cannot be read.
    pub(crate) fn holder(&self, key: &Key) -> Option<Holder> {
        self.read_holder(key).ok().flatten()
    }

    fn read_holder(&self, key: &Key) -> io::Result<Option<Holder>> {
        // On a network file system only opening a file fetches what others appended.
        drop(File::open(&self.path)?);
        let mut state = self.state();
        self.refresh(&mut state)?;
        Ok(self.first(&mut state, key))
    }

    /// Returns the holder of the first of a key's claims whose session lives.
    fn first(&self, state: &mut State, key: &Key) -> Option<Holder> {
        let State { held, watched, .. } = state;
        held.get(key)?.iter().find_map(|session| {
            if *session == self.session {
                return Some(Holder::Here);
            }
            if !watched.contains_key(session) {
                watched.insert(session.clone(), LivenessWatch::default());
            }
            let watch = watched.get_mut(session)?;
            watch.lives(&self.tmp, session, self.sharing).then_some(Holder::Elsewhere)
        })
    }

    fn give_back(&self, state: &mut State, key: &Key) {
        if drop_claim(&mut state.held, key, &self.session) {
            state.unwritten.push(self.line(RELEASE, key));
        }
    }

    fn line(&self, word: &str, key: &Key) -> String {
        format!("{word} {key} {}", self.session)
    }

    fn append(&self, state: &mut State, last: Option<&str>) -> io::Result<()> {
        let lines: Vec<&str> = state.unwritten.iter().map(String::as_str).chain(last).collect();
        if !lines.is_empty() {
            self.log.append_all(&lines)?;
            state.unwritten.clear();
        }
        Ok(())
    }

    fn refresh(&self, state: &mut State) -> io::Result<()> {
        let State { held, end, .. } = state;
        let mut scan = self.log.scan_from(*end, |_, payload| apply_line(held, payload))?;
        if scan.length < *end {
            // Another process, which did not see this one, emptied it.
            held.clear();
            scan = self.log.scan_from(0, |_, payload| apply_line(held, payload))?;
        }
        *end = scan.end;
        Ok(())
    }

    /// Locks the state; every change is a single insertion or removal, so a thread that panicked
    /// left it sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins the line of a claim.
const CLAIM: &str = "claim";

/// Begins the line with which a session gives up its claim.
const RELEASE: &str = "release";

/// Applies one log line, `WORD KEY SESSION`.
fn apply_line(held: &mut HashMap<Key, Vec<String>>, payload: &str) {
    let mut words = payload.splitn(3, ' ');
    let (Some(word), Some(key), Some(session)) = (words.next(), words.next(), words.next()) else {
        return;
    };
    let Ok(key) = key.parse::<Key>() else { return };
    match word {
        CLAIM => held.entry(key).or_default().push(session.to_owned()),
        RELEASE => drop(drop_claim(held, &key, session)),
        _ => {}
    }
}

/// Removes a session's claims on a key, and returns whether there were any.
fn drop_claim(held: &mut HashMap<Key, Vec<String>>, key: &Key, session: &str) -> bool {
    let Some(sessions) = held.get_mut(key) else { return false };
    let before = sessions.len();
    sessions.retain(|other| other != session);
    let dropped = sessions.len() < before;
    if sessions.is_empty() {
        held.remove(key);
    }
    dropped
}
