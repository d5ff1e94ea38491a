//! A difference between a workflow, its lock and the disk, with its remedy.

use std::collections::HashMap;

use refrain_cache::{Difference, Key, Manifest};

use crate::graph::Graph;
use crate::ledger::lock::{self, Lock, LockEntry};
use crate::plan::difference;
use crate::store::Store;

use super::VERSION;

/// The sorts of differences, in the order in which those of one node are listed.
const ORDER: [&str; 12] = [
    "bundle",
    "renamed",
    "missing",
    "stale",
    "source",
    "key",
    "artifact",
    "remote",
    "metrics",
    "recompute",
    "compare",
    "expect",
];

/// One difference between the workflow, its lock, and the disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    /// The node; the name of a comparison; of a condition its stage or comparison.
    pub node: String,
    /// The sort of difference: `bundle`, `renamed`, `missing`, `stale`, `source`, `key`,
    /// `artifact`, `remote`, `metrics`, `recompute`, `compare` or `expect`.
    pub what: &'static str,
    /// The difference in words.
    pub message: String,
    /// The lock's key, digest, name or condition; `None` where it has none.
    pub before: Option<String>,
    /// The key, digest, name or metric that was found; `None` where there is none.
    pub now: Option<String>,
    /// The parts of the two keys that differ, where they are known.
    pub differences: Vec<Difference>,
    /// How to mend the difference, and how to accept it.
    pub hint: String,
}

impl Mismatch {
    pub(super) fn new(node: &str, what: &'static str, message: String, hint: String) -> Mismatch {
        let node = node.to_string();
        Mismatch { node, what, message, before: None, now: None, differences: Vec::new(), hint }
    }
}

/// Sorts differences so that a cause comes before its consequences: by the order of the graph, conditions last.
pub fn sort(graph: &Graph, mismatches: &mut [Mismatch]) {
    if mismatches.len() < 2 {
        return;
    }
    let numbers: HashMap<&str, usize> =
        graph.nodes.iter().enumerate().map(|(i, node)| (node.name.as_str(), i)).collect();
    mismatches.sort_by_cached_key(|mismatch| {
        let number = numbers.get(mismatch.node.as_str()).copied().unwrap_or(usize::MAX);
        let what = ORDER.iter().position(|what| *what == mismatch.what);
        let name = mismatch.node.clone();
        (mismatch.what == "expect", number, name, what, mismatch.message.clone())
    });
}

/// How a difference is mended or accepted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Remedy {
    Accept,
    Source,
    Fetch,
    Artifact,
    Metrics,
    Expect,
    Recompute,
}

impl Remedy {
    pub(super) fn words(self, graph: &Graph) -> String {
        let path = &graph.workflow.source.path;
        let run = format!("`refrain run {}`", path.display());
        let lock = lock::path_of(path).display().to_string();
        let commit = format!("commit `{lock}`");
        match self {
            Remedy::Accept => format!("to accept it: {run}, then {commit}"),
            Remedy::Source => {
                format!("put the file back, or accept the one that is there: {run}, then {commit}")
            }
            Remedy::Fetch => format!("`refrain fetch {}` fetches it", path.display()),
            Remedy::Artifact => format!("{run} makes it again"),
            Remedy::Metrics => format!(
                "restore `{lock}` from version control; or {run} writes the cache's metrics, then {commit}"
            ),
            Remedy::Expect => format!(
                "correct the workflow or its `expect`; {run} gives new figures, then {commit}"
            ),
            Remedy::Recompute => {
                let force = format!("`refrain run {} --force NODE`", path.display());
                format!(
                    "the node is not reproducible; to accept what it makes now: {force}, then {commit}"
                )
            }
        }
    }
}

pub(super) fn missing(graph: &Graph, name: &str) -> Mismatch {
    let message = "the lock has no line for it".into();
    Mismatch::new(name, "missing", message, Remedy::Accept.words(graph))
}

pub(super) fn stale(graph: &Graph, name: &str, entry: &LockEntry) -> Mismatch {
    let message = "the lock has a line for it, but the workflow has no such node".into();
    let mismatch = Mismatch::new(name, "stale", message, Remedy::Accept.words(graph));
    Mismatch { before: Some(entry.key.to_string()), ..mismatch }
}

pub(super) fn renamed(graph: &Graph, name: &str, old: &str) -> Mismatch {
    let message = format!("the lock has it as `{old}`, under the same key: it was renamed");
    let mismatch = Mismatch::new(name, "renamed", message, Remedy::Accept.words(graph));
    Mismatch { before: Some(old.into()), now: Some(name.into()), ..mismatch }
}

/// A node whose key is not the lock's: what differs by the records, or why that is not known.
pub(super) fn key_mismatch(
    graph: &Graph,
    lock: &Lock,
    name: &str,
    entry: &LockEntry,
    key: Key,
    manifest: Option<&Manifest>,
    store: Option<&Store>,
) -> Mismatch {
    let old = store.and_then(|store| store.record(&entry.key).ok().flatten());
    let differences = match (&old, manifest) {
        (Some(old), Some(now)) => old.manifest.differences(now),
        _ => Vec::new(),
    };

    let versions = differences.iter().any(|d| d.path.starts_with("versions."));
    let words: Vec<String> = differences.iter().map(difference).collect();
    let why = match (words.is_empty(), versions || lock.version != VERSION) {
        (false, true) if versions => {
            let writer = old.map_or(lock.version.clone(), |record| record.version);
            format!("{}; Refrain {writer} made it, this is {VERSION}", words.join("; "))
        }
        (false, _) => words.join("; "),
        (true, true) => format!(
            "Refrain {} wrote the lock, this is {VERSION}, and the cache has no record to compare with",
            lock.version
        ),
        (true, false) => "the cache has no record to compare with".into(),
    };
    Mismatch {
        before: Some(entry.key.to_string()),
        now: Some(key.to_string()),
        differences,
        ..Mismatch::new(name, "key", format!("its key changed: {why}"), Remedy::Accept.words(graph))
    }
}
