//! The comparisons that are known without a run: the cache's, else the lock's, else what the cache's
//! tables give.

use crate::graph::{Graph, NodeId};
use crate::ledger::lock::{Compared, Lock};
use crate::plan::state::NodeState;
use crate::store::Store;

use super::compute::{compute, inputs};
use super::kept::{self, Kept};
use super::{Asked, Comparisons, NoResult, Pairing};

/// Returns the result of each comparison. The cache is asked first, where there is one; a line of
/// the lock counts when it was computed from the same inputs and has all that the claims ask.
pub fn known<'d>(
    graph: &Graph,
    comparisons: &Comparisons,
    lock: &Lock,
    store: Option<&Store>,
    done: impl Fn(NodeId) -> Option<&'d NodeState> + Sync,
) -> Vec<Result<Compared, NoResult>> {
    if comparisons.pairings.is_empty() {
        return Vec::new();
    }
    let kept = store.map(Kept::open);
    let one = |(pairing, asked): (&Pairing, &Asked)| {
        let inputs = inputs(graph, pairing, &done)?;
        let place = kept::place(&inputs, &pairing.comparison, asked);
        if let Some(result) = kept.as_ref().and_then(|kept| kept.get(&place)) {
            return Ok(result);
        }
        let entry = lock.comparisons.get(&pairing.comparison.name);
        let entry =
            entry.filter(|entry| entry.inputs == inputs && asked.is_in(&entry.result, pairing));
        match (entry, store) {
            (Some(entry), _) => Ok(entry.result.clone()),
            (None, Some(store)) => {
                let (pairing, asked) = (std::slice::from_ref(pairing), std::slice::from_ref(asked));
                let computed = compute(graph, pairing, asked, store, &done).pop();
                computed
                    .unwrap_or_else(|| Err(NoResult::NoTable(String::new())))
                    .map(|entry| entry.result)
            }
            (None, None) => {
                let node = pairing.figures.first().and_then(|figure| figure.nodes.first());
                let name = node.map_or("", |[first, _]| graph.node(*first).name.as_str());
                Err(NoResult::NoTable(name.into()))
            }
        }
    };
    comparisons.pairings.iter().zip(&comparisons.asked).map(one).collect()
}

impl Asked {
    /// Whether a result has all that is asked, and no tests beside.
    pub(crate) fn is_in(&self, result: &Compared, pairing: &Pairing) -> bool {
        let null = [pairing.comparison.null()];
        let above = if self.above.is_empty() { &null[..] } else { &self.above };
        let tests = result.tests.iter().map(|test| test.above);
        tests.eq(above.iter().copied())
            && self.confidences.iter().all(|confidence| result.interval(*confidence).is_some())
    }
}
