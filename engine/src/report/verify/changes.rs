//! How a run would change a lock, or did.

use refrain_cache::FileDigests;

use crate::graph::Graph;
use crate::ledger::lock::{Lock, LockEntry};
use crate::report::comparison::Comparisons;
use crate::store::Store;

use super::check::Check;
use super::comparisons;
use super::mismatch::{self, Mismatch, Remedy, key_mismatch};
use super::{Verification, VerifyOptions, entries, sort};

/// Lists how a run of the wanted nodes would change the lock, as far as that is known before anything runs: by keys
/// and sources. `partial` says that the lock may name further nodes.
pub fn foresee(
    graph: &Graph,
    lock: &Lock,
    digests: &FileDigests,
    store: &Store,
    compared: &Comparisons,
    wanted: Option<&[bool]>,
    partial: bool,
) -> Vec<Mismatch> {
    let is_wanted = |i: usize| wanted.is_none_or(|wanted| wanted[i]);
    let (entries, mut changes) = entries(graph, lock, Some(digests), partial || wanted.is_some());
    if wanted.is_some() {
        let unwanted = |name: &str| graph.find(name).is_some_and(|id| !is_wanted(id.index()));
        changes.retain(|change| !unwanted(&change.node));
    }

    let options = VerifyOptions { partial, ..VerifyOptions::default() };
    let check = Check {
        graph,
        lock,
        entries: &entries,
        digests: Some(digests),
        store: Some(store),
        options,
    };
    let mut found = Verification::default();
    for (i, (node, entry)) in graph.nodes.iter().zip(&entries).enumerate() {
        if let Some(entry) = entry.filter(|_| is_wanted(i)) {
            check.key_and_source(node, entry, &mut found);
        }
    }
    changes.append(&mut found.mismatches);
    // A run of a part need not come to its comparisons.
    if wanted.is_none() && !partial {
        let done = comparisons::done(&entries);
        let mut lines = comparisons::check(graph, lock, compared, &done, None);
        changes.append(&mut lines.mismatches);
        changes.extend(comparisons::stale(graph, lock, compared));
    }
    sort(graph, &mut changes);
    changes
}

/// Lists how a lock changed: every node and comparison whose entry differs.
pub fn changes(graph: &Graph, before: &Lock, after: &Lock, store: &Store) -> Vec<Mismatch> {
    let mut changes = Vec::new();
    for (name, new) in &after.entries {
        match before.entries.get(name) {
            None => changes.push(mismatch::missing(graph, name)),
            Some(old) => changes.extend(change(graph, before, name, old, new, store)),
        }
    }
    for (name, entry) in
        before.entries.iter().filter(|(name, _)| !after.entries.contains_key(*name))
    {
        changes.push(mismatch::stale(graph, name, entry));
    }
    changes.extend(comparisons::changes(graph, before, after));
    sort(graph, &mut changes);
    changes
}

fn change(
    graph: &Graph,
    before: &Lock,
    name: &str,
    old: &LockEntry,
    new: &LockEntry,
    store: &Store,
) -> Option<Mismatch> {
    if old.says(&new.kind, &new.to_done()) {
        return None;
    }
    if old.key != new.key {
        let manifest = store.record(&new.key).ok().flatten().map(|record| record.manifest);
        let manifest = manifest.as_ref();
        return Some(key_mismatch(graph, before, name, old, new.key, manifest, Some(store)));
    }

    let outputs = |entry: &LockEntry| {
        let digests: Vec<String> = entry.outputs.values().map(|a| a.digest.to_string()).collect();
        digests.join(" ")
    };
    let message = match (outputs(old) == outputs(new), old.profile == new.profile) {
        (false, _) => "the same key now has other outputs: it is not reproducible".to_string(),
        (true, false) => {
            format!("its profile changed from `{}` to `{}`", old.profile, new.profile)
        }
        (true, true) => "its metrics, or its source's file, differ".to_string(),
    };
    let mut change = Mismatch::new(name, "artifact", message, Remedy::Accept.words(graph));
    (change.before, change.now) = (Some(outputs(old)), Some(outputs(new)));
    Some(change)
}
