//! Nodes whose key is being computed elsewhere: parked, polled, resumed.

use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use refrain_cache::{Holder, Key};

use crate::graph::NodeId;
use crate::plan::state::{Lookup, NodeState, PendingNode, StateError};

use super::{Outcome, Runner};

/// The interval of polling parked nodes, which costs some microseconds.
pub(super) const POLL_EVERY: Duration = Duration::from_millis(20);

/// How long a node is parked before people are told: of short ones there may be thousands.
const NOTE_AFTER: Duration = Duration::from_secs(1);

/// A node that waits for another computation of its key.
pub(super) struct Parked {
    key: Key,
    holder: Holder,
    since: Instant,
    noted: bool,
}

/// A node whose key this process has claimed, or why it does not start now.
pub(super) enum Claim {
    /// It is to be computed.
    Start(Box<PendingNode>),
    /// It is done, parked, or looked up again later.
    Settled,
}

impl Runner<'_, '_> {
    /// Claims a node that may start now, or parks it.
    pub(super) fn claim(
        &mut self,
        id: NodeId,
        pending: Box<PendingNode>,
    ) -> Result<Claim, StateError> {
        let cache = self.store.cache();
        if let Err(holder) = cache.claim(&pending.key) {
            let parked = Parked { key: pending.key, holder, since: Instant::now(), noted: false };
            self.parked.insert(id, parked);
            return Ok(Claim::Settled);
        }

        let key = pending.key;
        let claimed = self.claimed(id, pending);
        if !matches!(claimed, Ok(Claim::Start(_))) {
            cache.release(&key);
        }
        claimed
    }

    /// Looks up once more a node that is claimed now: its earlier holder may have recorded it since.
    fn claimed(&mut self, id: NodeId, mut pending: Box<PendingNode>) -> Result<Claim, StateError> {
        if !self.store.has_recorded(&pending.key)? {
            return Ok(Claim::Start(pending));
        }
        let lookup = self.state.look_up(id)?.expect("a ready node's inputs are done");
        let damaged = match lookup {
            Lookup::Done(done) if !self.options.force.contains(&id) => {
                self.cached(id, *done);
                return Ok(Claim::Settled);
            }
            Lookup::Done(_) => None,
            Lookup::Pending(now) => now.damaged,
            Lookup::Unhashed(task) => {
                self.hashing.wait(id, task);
                return Ok(Claim::Settled);
            }
        };

        // The first lookup may have set aside what was damaged; it saw more.
        pending.damaged = pending.damaged.or(damaged);
        self.store.forget(&pending.key)?;
        if let Some(damage) = &pending.damaged {
            let name = self.graph.node(id).name.as_str();
            warn!(
                name: "damaged",
                node = id.0,
                name,
                key = %pending.key,
                "the cached result is damaged and will be recomputed: {damage}"
            );
        }
        Ok(Claim::Start(pending))
    }

    /// Makes parked nodes ready that are recorded or free by now.
    pub(super) fn poll_parked(&mut self) {
        let mut free = Vec::new();
        for (id, parked) in &mut self.parked {
            // Where the records cannot be read, the next lookup of the node says so.
            let recorded = !self.options.force.contains(id)
                && self.store.has_recorded(&parked.key).unwrap_or(true);
            if recorded || self.store.cache().holder(&parked.key).is_none() {
                free.push(*id);
                if !recorded && parked.holder == Holder::Elsewhere {
                    let name = self.graph.node(*id).name.as_str();
                    info!(
                        name: "taken_over",
                        node = id.0,
                        name,
                        key = %parked.key,
                        "the process that computed it ended without a result; computing it here"
                    );
                }
            } else if parked.holder == Holder::Elsewhere
                && !parked.noted
                && parked.since.elapsed() > NOTE_AFTER
            {
                parked.noted = true;
                let name = self.graph.node(*id).name.as_str();
                info!(
                    name: "waiting",
                    node = id.0,
                    name,
                    key = %parked.key,
                    "another process is computing it; waiting for the result"
                );
            }
        }
        for id in free {
            self.parked.remove(&id);
            self.ready.insert(id);
        }
    }

    /// Finishes a node whose outputs the cache has.
    pub(super) fn cached(&mut self, id: NodeId, done: NodeState) {
        let name = self.graph.node(id).name.as_str();
        debug!(name: "cached", node = id.0, name, key = %done.key, "cached");
        self.outcomes[id.index()] = Outcome::Cached;
        self.finish(id, done);
    }
}
