//! The results that the cache lacks and another place may have.

use refrain_cache::Key;

use crate::graph::{Graph, NodeId};
use crate::plan::state::{Lookup, NodeState, State, StateError};
use crate::store::Store;

/// Finds the wanted nodes that the cache lacks and `known` has a result of, by node and key.
///
/// A result that `known` has counts as done for the nodes below, whose keys follow from it: in one
/// walk all is found that a run would look for.
///
/// # Errors
/// [`StateError`].
pub fn elsewhere(
    graph: &Graph,
    store: &Store,
    wanted: Option<&[bool]>,
    known: &dyn Fn(NodeId, &Key) -> Option<NodeState>,
) -> Result<Vec<(NodeId, Key)>, StateError> {
    let mut state = State::new(graph, store);
    let mut found = Vec::new();
    for id in graph.levels().into_iter().flatten() {
        if wanted.is_some_and(|wanted| !wanted[id.index()]) {
            continue;
        }
        match state.look_up_now(id)? {
            Some(Lookup::Done(done)) => state.set(id, *done),
            Some(Lookup::Pending(pending)) => {
                if let Some(done) = known(id, &pending.key) {
                    found.push((id, pending.key));
                    state.set(id, NodeState { seen: pending.seen, ..done });
                }
            }
            // Its inputs must be computed first.
            None | Some(Lookup::Unhashed(_)) => {}
        }
    }
    Ok(found)
}
