//! Which process computes a key: claims in one append-only log, of which the first of a key counts while its session lives.
//!
//! A claim keeps others from doing the same work, and nothing rests on it. Where a claim is lost, overwritten, or taken
//! over from a process that was only suspended, a key is computed twice and the first record of it counts.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::manifest::Key;
use crate::store::{Cache, Sharing, Watch};
use crate::write::AppendLog;

/// Who computes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Here,
    /// Another process, which lives as far as can be told.
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
    /// How far the log was read.
    end: u64,
    /// The sessions that claim a key, in the order of the log.
    held: HashMap<Key, Vec<String>>,
    /// Lines that the next append takes along.
    unwritten: Vec<String>,
    watched: HashMap<String, Watch>,
}

impl Cache {
    /// Claims a key for this process, or says who computes it. Who has claimed a key should look once more whether it has
    /// a record before computing it.
    ///
    /// In a cache whose claims cannot be written every key is free: nothing of that kind keeps a process from its work.
    ///
    /// # Errors
    /// Who holds the key.
    pub fn claim(&self, key: &Key) -> Result<(), Holder> {
        let claims = self.claims.get_or_init(|| Claims::open(self).ok());
        claims.as_ref().and_then(|claims| claims.take(key).ok()).unwrap_or(Ok(()))
    }

    /// Gives a key back: it is recorded, or was not computed after all. Others see it with the next [`Cache::claim`]
    /// or [`Cache::flush_claims`].
    pub fn release(&self, key: &Key) {
        if let Some(claims) = self.opened_claims() {
            claims.give_back(&mut claims.state(), key);
        }
    }

    /// Lets others see what was released.
    pub fn flush_claims(&self) {
        if let Some(claims) = self.opened_claims() {
            let _unseen = claims.append(&mut claims.state(), None);
        }
    }

    /// Who computes a key, as far as this process knows, which knows nothing before its first [`Cache::claim`].
    pub fn holder(&self, key: &Key) -> Option<Holder> {
        self.opened_claims()?.look(key).ok().flatten()
    }

    /// The claims, unless this process has claimed nothing yet: then it has nothing to do with them.
    fn opened_claims(&self) -> Option<&Claims> {
        self.claims.get()?.as_ref()
    }
}

impl Claims {
    fn open(cache: &Cache) -> io::Result<Self> {
        let session = cache.session();
        let folder = session.folder().map_err(io::Error::other)?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = cache.root().join("records/claims.log");
        let log = AppendLog::open(&path)?;
        let sharing = cache.sharing();
        // The order matters: this session is seen by others before it looks for them.
        let alone = || session.others().is_ok_and(|others| others.is_empty());
        if sharing.file_locks {
            log.empty_unless_shared(alone);
        }
        let tmp = crate::write::parent_of(&folder).to_path_buf();
        Ok(Self { log, path, tmp, session: name, sharing, state: Mutex::default() })
    }

    fn take(&self, key: &Key) -> io::Result<Result<(), Holder>> {
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

    fn look(&self, key: &Key) -> io::Result<Option<Holder>> {
        // On a network file system nothing but opening a file asks the server what others wrote to it.
        drop(File::open(&self.path)?);
        let mut state = self.state();
        self.refresh(&mut state)?;
        Ok(self.first(&mut state, key))
    }

    /// The first of a key's claims whose session lives.
    fn first(&self, state: &mut State, key: &Key) -> Option<Holder> {
        let State { held, watched, .. } = state;
        held.get(key)?.iter().find_map(|session| {
            if *session == self.session {
                return Some(Holder::Here);
            }
            if !watched.contains_key(session) {
                watched.insert(session.clone(), Watch::default());
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
        let mut scan = self.log.scan_from(*end, |_, payload| take_in(held, payload))?;
        if scan.length < *end {
            // Another process emptied it, which did not see this one.
            held.clear();
            scan = self.log.scan_from(0, |_, payload| take_in(held, payload))?;
        }
        *end = scan.end;
        Ok(())
    }

    /// The state; every change to it is a single insertion or removal, so a thread that panicked left it sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the line of a claim.
const CLAIM: &str = "claim";

/// Opens the line with which a session gives up its claim.
const RELEASE: &str = "release";

/// Enters one line of the log: a word, a key and a session.
fn take_in(held: &mut HashMap<Key, Vec<String>>, payload: &str) {
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

/// Removes a session's claims on a key; says whether there were any.
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
