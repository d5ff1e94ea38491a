//! Looks up many ready nodes at once, on all cores, while one after the other is in the cache.

use std::collections::{BTreeSet, VecDeque};

use rayon::prelude::*;

use crate::graph::NodeId;
use crate::plan::state::{Lookup, State, StateError};

/// The limit of nodes that are looked up at once.
const LIMIT: usize = 1024;
/// Nodes that one thread looks up in a row.
const CHUNK: usize = 16;

/// A node with its lookup.
pub(super) type LookedUp = (NodeId, Result<Option<Lookup>, StateError>);

/// The nodes that were looked up before their turn.
pub(super) struct Lookahead {
    found: VecDeque<LookedUp>,
    /// How many are looked up next: twice as many after one that is in the cache, one after one that
    /// is not. So a run that computes everything holds nothing but what it is about to start.
    next: usize,
    limit: usize,
}

impl Lookahead {
    /// A lookahead; unless it is `allowed`, nodes are looked up one by one.
    pub fn new(allowed: bool) -> Lookahead {
        Lookahead { found: VecDeque::new(), next: 1, limit: if allowed { LIMIT } else { 1 } }
    }

    /// The number of nodes that are looked up already.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Returns the next node whose inputs are done, of those looked up already or else of the `ready`
    /// ones.
    pub fn next(&mut self, ready: &mut BTreeSet<NodeId>, state: &State<'_>) -> Option<LookedUp> {
        // For one node, as in a run that computes everything, waking other threads takes longer than
        // looking it up.
        if self.found.is_empty() && self.next == 1 {
            let id = ready.pop_first()?;
            self.found.push_back((id, state.look_up(id)));
        }
        if self.found.is_empty() {
            let ids: Vec<NodeId> =
                std::iter::from_fn(|| ready.pop_first()).take(self.next).collect();
            let found = ids.par_iter().with_min_len(CHUNK).map(|id| (*id, state.look_up(*id)));
            self.found = found.collect::<Vec<LookedUp>>().into();
        }

        let (id, lookup) = self.found.pop_front()?;
        self.next = match &lookup {
            Ok(Some(Lookup::Done(_))) => (self.next * 2).min(self.limit),
            // What must be hashed says nothing of the others.
            Ok(Some(Lookup::Unhashed(_))) => self.next,
            _ => 1,
        };
        Some((id, lookup))
    }
}
