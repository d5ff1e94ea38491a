//! Checks a workflow against its lock: keys, sources, artifacts, metrics, conditions, and, where asked, a sample of the
//! results.

mod changes;
mod check;
mod comparisons;
mod mismatch;
mod recompute;
mod renamed;

use std::collections::{BTreeMap, HashMap, HashSet};

use rayon::prelude::*;

use refrain_cache::{FileDigests, Key};

use crate::graph::{Graph, Node, NodeId};
use crate::ledger::lock::{Lock, LockEntry};
use crate::plan::state::NodeState;
use crate::report::comparison::{Comparisons, NoResult};
use crate::report::expect::{self, Expect, Verdict};
use crate::store::Store;

pub use changes::{changes, foresee};
pub use mismatch::{Mismatch, sort};
pub use recompute::{Comparison, Recomputed, Sample, recompute};

use check::Check;
use mismatch::Remedy;

/// This version of Refrain.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Nodes that one thread checks in a row.
const NODES: usize = 256;

/// How strict the check is.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyOptions {
    /// Whether absent sources are skipped.
    pub no_data: bool,
    /// Whether artifacts that the cache does not hold are a difference.
    pub complete: bool,
    /// Whether the graph is a part of the workflow's, so that the lock may name further nodes.
    pub partial: bool,
}

/// What was checked, and what was found.
#[derive(Debug, Default)]
pub struct Verification {
    /// The differences: causes before their consequences.
    pub mismatches: Vec<Mismatch>,
    /// The number of keys that were computed again.
    pub keys: usize,
    /// Sources that were hashed, and sources that are absent.
    pub sources: (usize, usize),
    /// Artifacts that were hashed, and artifacts that the cache does not hold.
    pub artifacts: (usize, usize),
    /// Comparisons whose lines were checked, and comparisons that were computed again.
    pub comparisons: (usize, usize),
    /// The number of conditions that were checked.
    pub expects: usize,
}

/// Checks a graph against a lock; `store` is the cache where there is one.
pub fn verify(
    graph: &Graph,
    lock: &Lock,
    store: Option<&Store>,
    expects: &[Expect],
    compared: &Comparisons,
    options: VerifyOptions,
) -> Verification {
    let (entries, mut mismatches) = entries(graph, lock, None, options.partial);
    mismatches.extend(shared_keys(graph, lock));

    let check = Check { graph, lock, entries: &entries, digests: None, store, options };
    let part = |(nodes, entries): (&[Node], &[Option<&LockEntry>])| {
        let mut found = Verification::default();
        for (node, entry) in nodes.iter().zip(entries) {
            if let Some(entry) = entry {
                check.node(node, entry, &mut found);
            }
        }
        found
    };
    let parts = graph.nodes.par_chunks(NODES).zip(entries.par_chunks(NODES)).map(part);
    let mut found = parts.reduce(Verification::default, Verification::and);

    found.mismatches.append(&mut mismatches);
    let done = comparisons::done(&entries);
    // The lines are of comparisons over all points of the sweep.
    let none = Comparisons::default();
    let compared = if options.partial { &none } else { compared };
    let mut checked = comparisons::check(graph, lock, compared, &done, store);
    if !options.partial {
        found.mismatches.extend(comparisons::stale(graph, lock, compared));
    }
    found.mismatches.append(&mut checked.mismatches);
    found.comparisons = (checked.lines, checked.computed);
    conditions(graph, lock, &done, expects, compared, &mut found);
    sort(graph, &mut found.mismatches);
    found
}

/// Finds the entry of each node, and the nodes and entries that have none: a new name for the same key is one
/// difference, not two.
fn entries<'l>(
    graph: &Graph,
    lock: &'l Lock,
    digests: Option<&FileDigests>,
    partial: bool,
) -> (Vec<Option<&'l LockEntry>>, Vec<Mismatch>) {
    let named = |node: &Node| lock.entries.get(&node.name);
    let mut entries: Vec<Option<&LockEntry>> =
        graph.nodes.par_iter().with_min_len(NODES).map(named).collect();
    let mut mismatches = Vec::new();

    let mut stale: BTreeMap<&str, &LockEntry> = BTreeMap::new();
    if entries.iter().flatten().count() < lock.entries.len() {
        let names: HashSet<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
        let others = lock.entries.iter().filter(|(name, _)| !names.contains(name.as_str()));
        stale.extend(others.map(|(name, entry)| (name.as_str(), entry)));
    }
    for (id, old) in renamed::find(graph, digests, &mut entries, &stale) {
        stale.remove(old);
        mismatches.push(mismatch::renamed(graph, &graph.node(id).name, old));
    }

    let missing = graph.ids().filter(|id| entries[id.index()].is_none());
    mismatches.extend(missing.map(|id| mismatch::missing(graph, &graph.node(id).name)));
    if !partial {
        mismatches.extend(stale.iter().map(|(name, entry)| mismatch::stale(graph, name, entry)));
    }
    (entries, mismatches)
}

/// Entries with one key and different outputs: a key has one result.
fn shared_keys(graph: &Graph, lock: &Lock) -> Vec<Mismatch> {
    let mut first: HashMap<Key, &LockEntry> = HashMap::with_capacity(lock.entries.len());
    let mut mismatches = Vec::new();
    for entry in lock.entries.values() {
        let other = first.entry(entry.key).or_insert(entry);
        if other.outputs != entry.outputs {
            let message = format!("it has the key of `{}`, but other outputs", other.node);
            let hint = Remedy::Accept.words(graph);
            mismatches.push(Mismatch::new(&entry.node, "artifact", message, hint));
        }
    }
    mismatches
}

/// Checks every `expect` against the lock's metrics and comparisons.
fn conditions(
    graph: &Graph,
    lock: &Lock,
    done: &[Option<NodeState>],
    expects: &[Expect],
    compared: &Comparisons,
    found: &mut Verification,
) {
    let of = |id: NodeId| done[id.index()].as_ref();
    let absent = NoResult::Unusable("the lock has no line for it".into());
    let lines = compared.pairings.iter().map(|pairing| {
        let entry = lock.comparisons.get(&pairing.comparison.name);
        entry.map(|entry| &entry.result).ok_or(&absent)
    });
    let claims = compared.check(&lines.collect::<Vec<_>>());
    for result in expect::check(expects, graph, of).into_iter().chain(claims) {
        found.expects += 1;
        let verdict = result.verdict();
        if !verdict.is_failure() {
            continue;
        }
        let obtained = result.obtained.map(|obtained| format!("{obtained:.6}"));
        let mut message =
            format!("{}: obtained {}", result.text, obtained.as_deref().unwrap_or("no value"));
        if let Some(detail) = &result.detail {
            message.push_str(&format!(" ({detail})"));
        }
        if verdict == Verdict::HoldsAfterAll {
            message.push_str(", which holds, though it is marked `shown: false`");
        }
        if let Some(reason) = &result.reason {
            message.push_str(&format!(": {reason}"));
        }
        let hint = Remedy::Expect.words(graph);
        let mismatch = Mismatch::new(&result.stage, "expect", message, hint);
        let before = Some(result.text);
        found.mismatches.push(Mismatch { before, now: obtained, ..mismatch });
    }
}

impl Verification {
    /// Joins the findings of two checks.
    fn and(mut self, other: Verification) -> Verification {
        let add = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
        self.mismatches.extend(other.mismatches);
        self.keys += other.keys;
        self.sources = add(self.sources, other.sources);
        self.artifacts = add(self.artifacts, other.artifacts);
        self.expects += other.expects;
        self
    }
}
