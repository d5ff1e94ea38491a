//! Nodes whose key is claimed elsewhere: put aside, looked at again, taken when they are free.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use refrain_cache::{Holder, Key};

use crate::graph::NodeId;
use crate::plan::state::{Done, Look, StateError, Todo};

use super::{Outcome, Runner, Word};

/// How often nodes that were put aside are looked at. Costs some microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a node is aside before people are told: of short ones there may be thousands.
const NOTE_AFTER: Duration = Duration::from_secs(1);

/// A node that waits for another one's computing of the same key.
pub(super) struct Aside {
    key: Key,
    holder: Holder,
    since: Instant,
    noted: bool,
}

impl Runner<'_, '_> {
    /// Claims a node that may start now. Nothing is returned when it is done, or put aside because its key is claimed.
    pub(super) fn claim(
        &mut self,
        id: NodeId,
        todo: Box<Todo>,
    ) -> Result<Option<Box<Todo>>, StateError> {
        let cache = self.store.cache();
        if let Err(holder) = cache.claim(&todo.key) {
            let aside = Aside { key: todo.key, holder, since: Instant::now(), noted: false };
            self.aside.insert(id, aside);
            return Ok(None);
        }
        let key = todo.key;
        let claimed = self.claimed(id, todo);
        if !matches!(claimed, Ok(Some(_))) {
            cache.release(&key);
        }
        claimed
    }

    /// Looks once more at a node that is claimed now: it may have been recorded since, by who had claimed it before.
    fn claimed(
        &mut self,
        id: NodeId,
        mut todo: Box<Todo>,
    ) -> Result<Option<Box<Todo>>, StateError> {
        if !self.store.has_recorded(&todo.key)? {
            return Ok(Some(todo));
        }
        let look = self.state.look(id)?.expect("a ready node's inputs are done");
        let again = match look {
            Look::Done(done) if !self.options.force.contains(&id) => {
                self.cached(id, *done);
                return Ok(None);
            }
            Look::Done(_) => None,
            Look::Todo(again) => again.damaged,
        };
        // The first look may have set aside what was damaged; it saw more.
        todo.damaged = todo.damaged.or(again);
        self.store.forget(&todo.key)?;
        if let Some(damage) = &todo.damaged {
            let name = self.graph.node(id).name.as_str();
            warn!(
                name: "damaged",
                node = id.0,
                name,
                key = %todo.key,
                "the cached result is damaged and will be recomputed: {damage}"
            );
        }
        Ok(Some(todo))
    }

    /// Makes ready what is free by now, or recorded.
    pub(super) fn look_aside(&mut self) {
        let mut free = Vec::new();
        for (id, aside) in &mut self.aside {
            // Where the records cannot be read, the next look at the node says so.
            let recorded = !self.options.force.contains(id)
                && self.store.has_recorded(&aside.key).unwrap_or(true);
            if recorded || self.store.cache().holder(&aside.key).is_none() {
                free.push(*id);
                if !recorded && aside.holder == Holder::Elsewhere {
                    let name = self.graph.node(*id).name.as_str();
                    info!(
                        name: "taken_over",
                        node = id.0,
                        name,
                        key = %aside.key,
                        "the process that computed it ended without a result; computing it here"
                    );
                }
            } else if aside.holder == Holder::Elsewhere
                && !aside.noted
                && aside.since.elapsed() > NOTE_AFTER
            {
                aside.noted = true;
                let name = self.graph.node(*id).name.as_str();
                info!(
                    name: "waiting",
                    node = id.0,
                    name,
                    key = %aside.key,
                    "another process is computing it; waiting for the result"
                );
            }
        }
        for id in free {
            self.aside.remove(&id);
            self.ready.insert(id);
        }
    }

    /// The next word of a worker; nothing when it is time to look at what was put aside.
    pub(super) fn listen(&self, receiver: &Receiver<Word>) -> Option<Word> {
        if self.aside.is_empty() || self.stopped {
            return Some(
                receiver.recv().expect("a worker sends before it ends, and one is running"),
            );
        }
        receiver.recv_timeout(LOOK_EVERY).ok()
    }

    /// Notes a node as done that the cache has.
    pub(super) fn cached(&mut self, id: NodeId, done: Done) {
        let name = self.graph.node(id).name.as_str();
        debug!(name: "cached", node = id.0, name, key = %done.key, "cached");
        self.outcomes[id.index()] = Outcome::Cached;
        self.finish(id, done);
    }
}
