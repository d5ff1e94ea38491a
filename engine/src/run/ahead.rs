//! Looks up many ready nodes at once, on all cores, where one after the other turns out to be in the cache.

use std::collections::{BTreeSet, VecDeque};

use rayon::prelude::*;

use crate::graph::NodeId;
use crate::plan::state::{Look, State, StateError};

/// Most nodes that are looked up at once.
const MOST: usize = 1024;
/// Nodes that one thread looks up in a row.
const CHUNK: usize = 16;

/// A node, and what the cache says of it.
pub(super) type Looked = (NodeId, Result<Option<Look>, StateError>);

/// What was looked up before its turn.
pub(super) struct Ahead {
    looked: VecDeque<Looked>,
    /// How many are looked up next: twice as many after one that is in the cache, one after one that is not. So a run
    /// that computes everything holds nothing but what it is about to start.
    next: usize,
    most: usize,
}

impl Ahead {
    /// Nothing is looked up yet; `allowed` says whether anything ever is before its turn.
    pub fn new(allowed: bool) -> Ahead {
        Ahead { looked: VecDeque::new(), next: 1, most: if allowed { MOST } else { 1 } }
    }

    /// How many nodes are looked up already.
    pub fn len(&self) -> usize {
        self.looked.len()
    }

    /// The next node whose inputs are done, of those looked up already or else of the `ready` ones.
    pub fn next(&mut self, ready: &mut BTreeSet<NodeId>, state: &State<'_>) -> Option<Looked> {
        // Waking other threads for one node, as in a run that computes everything, would take longer than looking it up.
        if self.looked.is_empty() && self.next == 1 {
            let id = ready.pop_first()?;
            self.looked.push_back((id, state.look(id)));
        }
        if self.looked.is_empty() {
            let ids: Vec<NodeId> =
                std::iter::from_fn(|| ready.pop_first()).take(self.next).collect();
            let looked = ids.par_iter().with_min_len(CHUNK).map(|id| (*id, state.look(*id)));
            self.looked = looked.collect::<Vec<Looked>>().into();
        }
        let (id, look) = self.looked.pop_front()?;
        self.next = match &look {
            Ok(Some(Look::Done(_))) => (self.next * 2).min(self.most),
            _ => 1,
        };
        Some((id, look))
    }
}
