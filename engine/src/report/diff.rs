//! The difference of two states of a workflow: what changed in meaning, and what that did to each
//! metric.

mod snapshot;

use std::collections::{BTreeMap, BTreeSet};

use refrain_cache::{Difference, Key};

pub use snapshot::{Snapshot, SnapshotNode};

/// The differences between two snapshots.
#[derive(Debug, Default, PartialEq)]
pub struct Diff {
    /// The nodes that differ, by name.
    pub nodes: Vec<NodeChange>,
    /// The metrics that differ, by node.
    pub metrics: Vec<MetricChange>,
    /// The comparisons that differ.
    pub comparisons: Vec<ComparisonChange>,
}

/// A node that differs.
#[derive(Debug, PartialEq)]
pub struct NodeChange {
    /// Its name.
    pub node: String,
    /// The sort of change.
    pub what: Change,
    /// The values of its own that differ: kind, versions, parameters, and the file of a source.
    pub differences: Vec<Difference>,
    /// The inputs that come from another node: path, and the names before and now.
    pub inputs: Vec<(String, String, String)>,
}

/// The sort of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It has other values or other inputs.
    Changed,
    /// Only the second has it.
    New,
    /// Only the first has it.
    Gone,
    /// The second has it under another name, with the same key.
    Renamed,
    /// Its key differs, and no record says why.
    Unknown,
    /// Its values are the same, and what it reads differs.
    Follows,
}

/// A metric that differs.
#[derive(Debug, PartialEq)]
pub struct MetricChange {
    /// The node.
    pub node: String,
    /// The metric.
    pub metric: String,
    /// The value in the first; `None` where it has none.
    pub before: Option<f64>,
    /// The value in the second.
    pub after: Option<f64>,
}

/// A comparison that differs.
#[derive(Debug, PartialEq)]
pub struct ComparisonChange {
    /// Its name.
    pub name: String,
    /// The difference of the arms in the first; `None` where it has none.
    pub before: Option<f64>,
    /// The difference in the second.
    pub after: Option<f64>,
}

impl Change {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Change::Changed => "changed",
            Change::New => "new",
            Change::Gone => "gone",
            Change::Renamed => "renamed",
            Change::Unknown => "unknown",
            Change::Follows => "follows",
        }
    }
}

/// Compares two snapshots.
pub fn diff(a: &Snapshot, b: &Snapshot) -> Diff {
    let renamed = renamed(a, b);
    let new_names: BTreeSet<&str> = renamed.values().copied().collect();
    let mut nodes = Vec::new();
    for (name, before) in &a.nodes {
        if let Some(now) = renamed.get(name.as_str()) {
            let inputs = vec![(String::new(), name.clone(), (*now).to_string())];
            let node = (*now).to_string();
            nodes.push(NodeChange { node, what: Change::Renamed, differences: Vec::new(), inputs });
            continue;
        }
        match b.nodes.get(name) {
            None => nodes.push(bare(name, Change::Gone)),
            Some(after) => nodes.extend(change(name, before, after)),
        }
    }
    let is_new =
        |name: &&String| !a.nodes.contains_key(*name) && !new_names.contains(name.as_str());
    nodes.extend(b.nodes.keys().filter(is_new).map(|name| bare(name, Change::New)));
    nodes.sort_by(|x, y| (x.what, &x.node).cmp(&(y.what, &y.node)));

    let of =
        |name: &str| renamed.get(name).map_or_else(|| name.to_string(), |now| (*now).to_string());
    Diff { nodes, metrics: metrics(a, b, of), comparisons: comparisons(a, b) }
}

fn bare(name: &str, what: Change) -> NodeChange {
    NodeChange { node: name.into(), what, differences: Vec::new(), inputs: Vec::new() }
}

/// Nodes that only the first has, by the only name under which the second alone has their key.
fn renamed<'s>(a: &'s Snapshot, b: &'s Snapshot) -> BTreeMap<&'s str, &'s str> {
    let only = |of: &'s Snapshot, other: &'s Snapshot| {
        let mut by_key: BTreeMap<Key, Vec<&'s str>> = BTreeMap::new();
        for (name, node) in of.nodes.iter().filter(|(name, _)| !other.nodes.contains_key(*name)) {
            if let Some(key) = node.key {
                by_key.entry(key).or_default().push(name);
            }
        }
        by_key
    };
    let (old, new) = (only(a, b), only(b, a));
    let pair =
        |(key, names): (Key, Vec<&'s str>)| match (names.as_slice(), new.get(&key)?.as_slice()) {
            ([old], [new]) => Some((*old, *new)),
            _ => None,
        };
    old.into_iter().filter_map(pair).collect()
}

fn change(name: &str, before: &SnapshotNode, after: &SnapshotNode) -> Option<NodeChange> {
    if before.key.is_some() && before.key == after.key {
        return None;
    }
    let inputs: Vec<(String, String, String)> = before
        .inputs
        .iter()
        .filter_map(|(path, was)| Some((path, was, after.inputs.get(path)?)))
        .filter(|(_, was, is)| was.is_disjoint(is))
        .map(|(path, was, is)| (path.clone(), joined(was), joined(is)))
        .collect();
    let (Some(old), Some(new)) = (&before.manifest, &after.manifest) else {
        let is_known = before.key.is_some() && after.key.is_some();
        return is_known.then(|| bare(name, Change::Unknown));
    };

    // Of a source the file is a value of its own; the inputs of other nodes are told by their
    // names.
    let is_own = |difference: &Difference| {
        !difference.path.starts_with("inputs.")
            || matches!(difference.path.as_str(), "inputs.file" | "inputs.folder")
            || is_of_other_inputs(before, after, &difference.path)
    };
    let differences: Vec<Difference> = old.differences(new).into_iter().filter(is_own).collect();
    let what = match (differences.is_empty() && inputs.is_empty(), before.key, after.key) {
        (false, ..) => Change::Changed,
        (true, Some(_), Some(_)) => Change::Follows,
        // It has not run; as far as is known it is the same.
        _ => return None,
    };
    Some(NodeChange { node: name.into(), what, differences, inputs })
}

/// Whether a difference is an input that one of the two lacks.
fn is_of_other_inputs(before: &SnapshotNode, after: &SnapshotNode, path: &str) -> bool {
    let has = |node: &SnapshotNode| {
        let path = path.trim_start_matches("inputs.");
        node.inputs.keys().any(|known| {
            path == known
                || path.strip_prefix(known.as_str()).is_some_and(|rest| rest.starts_with('.'))
        })
    };
    has(before) != has(after)
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn metrics(a: &Snapshot, b: &Snapshot, now: impl Fn(&str) -> String) -> Vec<MetricChange> {
    type Values<'s> = BTreeMap<(String, &'s str), [Option<f64>; 2]>;
    let mut values: Values<'_> = BTreeMap::new();
    for (side, snapshot) in [a, b].into_iter().enumerate() {
        for (name, node) in &snapshot.nodes {
            let node_name = if side == 0 { now(name) } else { name.clone() };
            for metric in &node.metrics {
                let key = (node_name.clone(), metric.metric.as_str());
                values.entry(key).or_default()[side] = Some(metric.value);
            }
        }
    }

    let same = |[x, y]: [Option<f64>; 2]| {
        x == y || matches!((x, y), (Some(x), Some(y)) if x.is_nan() && y.is_nan())
    };
    let changed = values.into_iter().filter(|(_, sides)| !same(*sides));
    changed
        .map(|((node, metric), [before, after])| MetricChange {
            node,
            metric: metric.into(),
            before,
            after,
        })
        .collect()
}

fn comparisons(a: &Snapshot, b: &Snapshot) -> Vec<ComparisonChange> {
    let names: BTreeSet<&String> = a.comparisons.keys().chain(b.comparisons.keys()).collect();
    let change = |name: &String| {
        let of = |snapshot: &Snapshot| snapshot.comparisons.get(name).copied();
        let (before, after) = (of(a), of(b));
        (before != after).then(|| ComparisonChange { name: name.clone(), before, after })
    };
    names.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests;
