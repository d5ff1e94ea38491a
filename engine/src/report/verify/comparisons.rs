//! The checks of comparisons: their lines against those of their nodes, and against a second
//! computation.

use crate::graph::{Graph, NodeId};
use crate::ledger::lock::{Compared, ComparisonEntry, Lock, LockEntry};
use crate::plan::state::NodeState;
use crate::report::comparison::{Comparisons, NoResult, compute_anew, inputs};
use crate::statistics::mean;
use crate::store::Store;

use super::mismatch::{Mismatch, Remedy};

/// Which comparisons were checked, and what was found.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub mismatches: Vec<Mismatch>,
    /// Lines that were checked.
    pub lines: usize,
    /// Comparisons that were computed again.
    pub computed: usize,
}

/// The results of nodes by number, as a lock has them.
pub(super) fn done(entries: &[Option<&LockEntry>]) -> Vec<Option<NodeState>> {
    entries.iter().map(|entry| entry.map(LockEntry::to_done)).collect()
}

/// Checks the lines of all comparisons; with a cache that holds the tables each is computed again.
pub(super) fn check(
    graph: &Graph,
    lock: &Lock,
    comparisons: &Comparisons,
    done: &[Option<NodeState>],
    store: Option<&Store>,
) -> Checked {
    let mut found = Checked::default();
    let of = |id: NodeId| done[id.index()].as_ref();
    let Comparisons { pairings, asked, .. } = comparisons;
    let again = store.map(|store| compute_anew(graph, pairings, asked, store, of));
    for (i, (pairing, asked)) in pairings.iter().zip(asked).enumerate() {
        let name = &pairing.comparison.name;
        let Some(entry) = lock.comparisons.get(name) else {
            found.mismatches.push(mismatch(graph, name, "the lock has no line for it".into()));
            continue;
        };

        found.lines += 1;
        if let Some(message) = line(graph, entry, inputs(graph, pairing, of)) {
            found.mismatches.push(mismatch(graph, name, message));
            continue;
        }
        if !is_consistent(&entry.result) {
            let message = "its estimate is not the mean of the differences in the same line";
            let hint = Remedy::Metrics.words(graph);
            found.mismatches.push(Mismatch { hint, ..mismatch(graph, name, message.into()) });
            continue;
        }
        if !asked.is_in(&entry.result, pairing) {
            let message = "its line lacks an interval or a test that an `expect` asks for".into();
            found.mismatches.push(mismatch(graph, name, message));
            continue;
        }
        match again.as_ref().map(|again| &again[i]) {
            None | Some(Err(NoResult::Missing(_) | NoResult::NoTable(_))) => {}
            Some(Err(NoResult::Unusable(reason))) => {
                let message = format!("it cannot be computed again: {reason}");
                found.mismatches.push(mismatch(graph, name, message));
            }
            Some(Ok(now)) => {
                found.computed += 1;
                found.mismatches.extend(difference(graph, name, entry, &now.result));
            }
        }
    }
    found
}

fn mismatch(graph: &Graph, name: &str, message: String) -> Mismatch {
    Mismatch::new(name, "compare", message, Remedy::Accept.words(graph))
}

/// Whether the numbers of a line are those of one computation, as far as the line itself says.
fn is_consistent(result: &Compared) -> bool {
    let [first, second] = &result.arms;
    let of_arms = first.value - second.value - result.estimate;
    mean(&result.differences) == result.estimate
        && of_arms.abs() <= 1e-9 * result.estimate.abs().max(1.0)
}

/// Compares the digest of a line with that of the nodes' lines.
fn line(
    graph: &Graph,
    entry: &ComparisonEntry,
    inputs: Result<refrain_cache::Digest, NoResult>,
) -> Option<String> {
    match inputs {
        Ok(inputs) if inputs == entry.inputs => None,
        Ok(_) => Some(
            "its line was computed from other tables or metrics, or is of another definition"
                .into(),
        ),
        Err(NoResult::Missing(node)) if graph.find(&node).is_some() => {
            Some(format!("the lock lacks `{node}`, which it compares"))
        }
        Err(reason) => Some(reason.to_string()),
    }
}

fn difference(
    graph: &Graph,
    name: &str,
    entry: &ComparisonEntry,
    now: &Compared,
) -> Option<Mismatch> {
    // A line may have intervals that nobody asks for any more.
    let is_same = now.intervals.iter().all(|interval| entry.result.intervals.contains(interval))
        && Compared { intervals: Vec::new(), ..now.clone() }
            == Compared { intervals: Vec::new(), ..entry.result.clone() };
    if is_same {
        return None;
    }
    let text = |compared: &Compared| serde_json::to_string(compared).ok();
    let message = "computed again, its result differs from its line".to_string();
    let hint = Remedy::Metrics.words(graph);
    let found = Mismatch { hint, ..mismatch(graph, name, message) };
    Some(Mismatch { before: text(&entry.result), now: text(now), ..found })
}

/// Lists the lines of comparisons that the workflow lacks.
pub(super) fn stale(graph: &Graph, lock: &Lock, comparisons: &Comparisons) -> Vec<Mismatch> {
    let gone = lock.comparisons.keys().filter(|name| comparisons.position(name).is_none());
    let message = "the lock has a line for it, but the workflow has no such comparison";
    gone.map(|name| mismatch(graph, name, message.into())).collect()
}

/// Lists how the lines of comparisons changed.
pub(super) fn changes(graph: &Graph, before: &Lock, after: &Lock) -> Vec<Mismatch> {
    let mut changes = Vec::new();
    for (name, new) in &after.comparisons {
        match before.comparisons.get(name) {
            None => changes.push(mismatch(graph, name, "the lock has no line for it".into())),
            Some(old) if old.inputs != new.inputs || old.result != new.result => {
                changes.push(mismatch(graph, name, "its result differs from its line".into()));
            }
            Some(_) => {}
        }
    }
    let gone = before.comparisons.keys().filter(|name| !after.comparisons.contains_key(*name));
    let message = "the lock has a line for it, but it has no result now";
    changes.extend(gone.map(|name| mismatch(graph, name, message.into())));
    changes
}
