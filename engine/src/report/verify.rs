//! Checks a workflow against its lock: keys, sources, artifacts, conditions, and, where asked, a sample of the results.

use std::collections::HashSet;

use rayon::prelude::*;

use refrain_cache::{Artifact, Corrupt, Difference, Manifest};

use crate::graph::{Edge, Graph, Node, NodeId};
use crate::ledger::lock::{self, Lock, LockEntry};
use crate::plan::node_manifest;
use crate::plan::state::Done;
use crate::report::expect::{self, Expect};
use crate::source::seen::SeenSource;
use crate::store::Store;

mod recompute;

pub use recompute::{Recomputed, Sample, Verdict, recompute};

/// This version of Refrain.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Nodes that one thread checks in a row.
const NODES: usize = 256;

/// How strict the check is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether absent sources are passed over.
    pub no_data: bool,
    /// Whether artifacts that the cache does not hold are a difference.
    pub complete: bool,
}

/// One difference between the workflow, its lock, and what is on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    /// The node; of a condition its stage.
    pub node: String,
    /// What differs: `missing`, `stale`, `source`, `artifact`, `key`, `expect` or `recompute`.
    pub what: &'static str,
    /// In words.
    pub message: String,
    /// What the lock says: a key, a digest or a condition; `None` where it says nothing.
    pub before: Option<String>,
    /// What was found: a key, a digest or a figure; `None` where nothing was.
    pub now: Option<String>,
    /// What the two keys are made of that differs, where that is known.
    pub differences: Vec<Difference>,
    /// What to do about it, and how to accept it.
    pub hint: String,
}

impl Mismatch {
    fn new(node: &str, what: &'static str, message: String, hint: String) -> Mismatch {
        let node = node.to_string();
        Mismatch { node, what, message, before: None, now: None, differences: Vec::new(), hint }
    }
}

/// What can be done about a difference.
#[derive(Debug, Clone, Copy)]
enum Remedy {
    Accept,
    Source,
    Artifact,
    Expect,
    Recompute,
}

impl Remedy {
    fn words(self, graph: &Graph) -> String {
        let path = &graph.workflow.source.path;
        let run = format!("`refrain run {}`", path.display());
        let commit = format!("commit `{}`", lock::path_of(path).display());
        match self {
            Remedy::Accept => format!("to accept it: {run}, then {commit}"),
            Remedy::Source => {
                format!("put the file back, or accept the one that is there: {run}, then {commit}")
            }
            Remedy::Artifact => format!("{run} makes it again"),
            Remedy::Expect => {
                format!(
                    "correct the workflow or its `expect`; {run} gives new figures, then {commit}"
                )
            }
            Remedy::Recompute => {
                let force = format!("`refrain run {} --force NODE`", path.display());
                format!(
                    "the node is not reproducible; to accept what it makes now: {force}, then {commit}"
                )
            }
        }
    }
}

/// What was checked, and what was found.
#[derive(Debug, Default)]
pub struct Verification {
    /// The differences, sorted.
    pub mismatches: Vec<Mismatch>,
    /// Keys that were computed again.
    pub keys: usize,
    /// Sources that were hashed, and sources that are absent.
    pub sources: (usize, usize),
    /// Artifacts that were hashed, and artifacts that the cache does not hold.
    pub artifacts: (usize, usize),
    /// Conditions that were checked.
    pub expects: usize,
}

/// Checks a graph against a lock; `store` is the cache where there is one.
pub fn verify(
    graph: &Graph,
    lock: &Lock,
    store: Option<&Store>,
    expects: &[Expect],
    options: Options,
) -> Verification {
    let lines: Vec<Option<&LockEntry>> = graph
        .nodes
        .par_iter()
        .with_min_len(NODES)
        .map(|node| lock.entries.get(&node.name))
        .collect();
    let check = Check { graph, lock, lines: &lines, store, options };
    let part = |nodes: (&[Node], &[Option<&LockEntry>])| {
        let mut found = Verification::default();
        for (node, line) in nodes.0.iter().zip(nodes.1) {
            match line {
                Some(line) => check.node(node, line, &mut found),
                None => found.mismatches.push(missing(graph, &node.name)),
            }
        }
        found
    };
    let parts = graph.nodes.par_chunks(NODES).zip(lines.par_chunks(NODES)).map(part);
    let mut found = parts.reduce(Verification::default, Verification::and);
    if lines.iter().flatten().count() < lock.entries.len() {
        let names: HashSet<&str> = graph.nodes.iter().map(|n| n.name.as_str()).collect();
        for (name, line) in lock.entries.iter().filter(|(name, _)| !names.contains(name.as_str())) {
            found.mismatches.push(stale(graph, name, line));
        }
    }
    check.conditions(expects, &mut found);
    sort(&mut found.mismatches);
    found
}

impl Verification {
    /// What two checks found together.
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

/// Sorts differences by node, by what they are, and by their words.
pub fn sort(mismatches: &mut [Mismatch]) {
    mismatches.sort_by(|a, b| (&a.node, a.what, &a.message).cmp(&(&b.node, b.what, &b.message)));
}

/// How a lock would change: every node whose line differs.
pub fn changes(graph: &Graph, before: &Lock, after: &Lock, store: &Store) -> Vec<Mismatch> {
    let mut changes = Vec::new();
    for (name, new) in &after.entries {
        let Some(old) = before.entries.get(name) else {
            changes.push(missing(graph, name));
            continue;
        };
        if old.says(&new.kind, &new.to_done()) {
            continue;
        }
        if old.key != new.key {
            let manifest = store.record(&new.key).ok().flatten().map(|record| record.manifest);
            changes.push(key_mismatch(
                graph,
                before,
                name,
                old,
                new.key,
                manifest.as_ref(),
                Some(store),
            ));
            continue;
        }
        let outputs = |line: &LockEntry| {
            let digests: Vec<String> =
                line.outputs.values().map(|a| a.digest.to_string()).collect();
            digests.join(" ")
        };
        let message = match (outputs(old) == outputs(new), old.profile == new.profile) {
            (false, _) => "the same key now has other outputs: it is not reproducible".to_string(),
            (true, false) => format!("its profile was `{}`, is `{}`", old.profile, new.profile),
            (true, true) => "its figures, or its source's file, differ".to_string(),
        };
        let mut change = Mismatch::new(name, "artifact", message, Remedy::Accept.words(graph));
        (change.before, change.now) = (Some(outputs(old)), Some(outputs(new)));
        changes.push(change);
    }
    for (name, line) in before.entries.iter().filter(|(name, _)| !after.entries.contains_key(*name))
    {
        changes.push(stale(graph, name, line));
    }
    sort(&mut changes);
    changes
}

fn missing(graph: &Graph, name: &str) -> Mismatch {
    let message = "the lock has no line for it".into();
    Mismatch::new(name, "missing", message, Remedy::Accept.words(graph))
}

fn stale(graph: &Graph, name: &str, line: &LockEntry) -> Mismatch {
    let message = "the lock has a line for it, but the workflow has no such node".into();
    let mismatch = Mismatch::new(name, "stale", message, Remedy::Accept.words(graph));
    Mismatch { before: Some(line.key.to_string()), ..mismatch }
}

/// A node whose key is not the lock's: what differs by the records, or why that is not known.
fn key_mismatch(
    graph: &Graph,
    lock: &Lock,
    name: &str,
    line: &LockEntry,
    key: refrain_cache::Key,
    manifest: Option<&Manifest>,
    store: Option<&Store>,
) -> Mismatch {
    let old = store.and_then(|store| store.record(&line.key).ok().flatten());
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
            "Refrain {} wrote the lock, this is {VERSION}, and the cache has no record that says what differs",
            lock.version
        ),
        (true, false) => "the cache has no record that says what differs".into(),
    };
    let message = format!("the workflow now gives another key: {why}");
    Mismatch {
        before: Some(line.key.to_string()),
        now: Some(key.to_string()),
        differences,
        ..Mismatch::new(name, "key", message, Remedy::Accept.words(graph))
    }
}

/// All that a node is checked against.
struct Check<'a> {
    graph: &'a Graph,
    lock: &'a Lock,
    /// The lock's lines by node number.
    lines: &'a [Option<&'a LockEntry>],
    store: Option<&'a Store>,
    options: Options,
}

impl Check<'_> {
    fn mismatch(
        &self,
        node: &Node,
        what: &'static str,
        message: String,
        remedy: Remedy,
    ) -> Mismatch {
        Mismatch::new(&node.name, what, message, remedy.words(self.graph))
    }

    /// Steps 1 to 3 for one node.
    fn node(&self, node: &Node, line: &LockEntry, found: &mut Verification) {
        self.key(node, line, found);
        if node.is_source() {
            self.source(node, line, found);
        } else if let Some(store) = self.store {
            for (i, (name, artifact)) in line.outputs.iter().enumerate() {
                // An only output of `run` is the main one too.
                if !line.outputs.values().take(i).any(|before| before == artifact) {
                    self.artifact(node, name, artifact, store, found);
                }
            }
        }
    }

    /// Step 1: the key that follows from the workflow and the lock's own lines.
    fn key(&self, node: &Node, line: &LockEntry, found: &mut Verification) {
        let outputs = |id: NodeId| self.lines[id.index()].map(|line| &line.outputs);
        let input = |edge: &Edge| node_manifest::identity(self.graph, edge, &outputs);
        let Some(manifest) = node_manifest::manifest(node, input, line.file) else {
            let message =
                "its key cannot be computed, since the lock lacks one of its inputs".into();
            let mismatch = self.mismatch(node, "key", message, Remedy::Accept);
            found.mismatches.push(Mismatch { before: Some(line.key.to_string()), ..mismatch });
            return;
        };
        found.keys += 1;
        let key = manifest.key();
        if key != line.key {
            let mismatch = key_mismatch(
                self.graph,
                self.lock,
                &node.name,
                line,
                key,
                Some(&manifest),
                self.store,
            );
            found.mismatches.push(mismatch);
        }
    }

    /// Step 2: the source's file, where it is there.
    fn source(&self, node: &Node, line: &LockEntry, found: &mut Verification) {
        let Some((path, kind)) = node.work.source() else { return };
        let mut now = None;
        let message = if !path.exists() {
            found.sources.1 += 1;
            if self.options.no_data {
                return;
            }
            format!("`{}` is absent", path.display())
        } else {
            match SeenSource::read(path, kind) {
                Ok(seen) => {
                    found.sources.0 += 1;
                    let digest = Some(seen.digest());
                    if digest == line.file {
                        return;
                    }
                    now = digest.map(|digest| digest.to_string());
                    format!("`{}` is not the file that the lock names", path.display())
                }
                Err(error) => error.to_string(),
            }
        };
        let before = line.file.map(|digest| digest.to_string());
        let mismatch = self.mismatch(node, "source", message, Remedy::Source);
        found.mismatches.push(Mismatch { before, now, ..mismatch });
    }

    /// Step 3: the artifact's bytes, where the cache holds them.
    fn artifact(
        &self,
        node: &Node,
        name: &str,
        artifact: &Artifact,
        store: &Store,
        found: &mut Verification,
    ) {
        let message = match store.verify(artifact) {
            Ok(()) => {
                found.artifacts.0 += 1;
                return;
            }
            Err(Corrupt::Missing { .. }) => {
                found.artifacts.1 += 1;
                if !self.options.complete {
                    return;
                }
                format!("the cache does not hold the output `{name}`")
            }
            Err(fault) => format!("the output `{name}` is damaged: {fault}"),
        };
        let mismatch = self.mismatch(node, "artifact", message, Remedy::Artifact);
        found.mismatches.push(Mismatch { before: Some(artifact.digest.to_string()), ..mismatch });
    }

    /// Step 4: every `expect` against the lock's figures.
    fn conditions(&self, expects: &[Expect], found: &mut Verification) {
        if expects.is_empty() {
            return;
        }
        let done: Vec<Option<Done>> =
            self.lines.iter().map(|line| line.map(LockEntry::to_done)).collect();
        let of = |id: NodeId| done[id.index()].as_ref();
        for verdict in expect::check(expects, self.graph, of) {
            found.expects += 1;
            if !verdict.holds {
                let obtained = verdict.obtained.map(|o| format!("{o:.6}"));
                let words = obtained.clone().unwrap_or("no figure".into());
                let message = format!("{}: obtained {words}", verdict.text);
                let hint = Remedy::Expect.words(self.graph);
                let mismatch = Mismatch::new(&verdict.expect.stage, "expect", message, hint);
                let mismatch = Mismatch { before: Some(verdict.text), now: obtained, ..mismatch };
                found.mismatches.push(mismatch);
            }
        }
    }
}

/// A difference between two manifests in words.
pub fn difference(d: &Difference) -> String {
    let show =
        |v: &Option<serde_json::Value>| v.as_ref().map_or("absent".to_string(), |v| v.to_string());
    format!("`{}` was {}, is {}", d.path, show(&d.before), show(&d.after))
}
