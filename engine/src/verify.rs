//! Checks a workflow against its lock without computing anything: keys, sources, artifacts, conditions.

use std::collections::HashSet;

use rayon::prelude::*;
use serde::Serialize;

use refrain_cache::{Artifact, Difference, FileDigests};

use crate::expect::{self, Expect};
use crate::graph::{Graph, Node, NodeId, Work};
use crate::lock::{Line, Lock};
use crate::manifest;
use crate::state::Done;
use crate::store::Store;

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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mismatch {
    /// The node.
    pub node: String,
    /// What differs: `missing`, `stale`, `source`, `artifact`, `key` or `expect`.
    pub what: &'static str,
    /// In words.
    pub message: String,
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
    digests: &FileDigests,
    store: Option<&Store>,
    expects: &[Expect],
    options: Options,
) -> Verification {
    let lines: Vec<Option<&Line>> =
        graph.nodes.par_iter().with_min_len(NODES).map(|node| lock.lines.get(&node.name)).collect();
    let check = |nodes: (&[Node], &[Option<&Line>])| {
        let mut found = Verification::default();
        for (node, line) in nodes.0.iter().zip(nodes.1) {
            match line {
                Some(line) => check_node(node, line, &lines, digests, store, options, &mut found),
                None => found.add(node, "missing", "the lock has no line for it".into()),
            }
        }
        found
    };
    let parts = graph.nodes.par_chunks(NODES).zip(lines.par_chunks(NODES)).map(check);
    let mut found = parts.reduce(Verification::default, Verification::and);
    if lines.iter().flatten().count() < lock.lines.len() {
        let names: HashSet<&str> = graph.nodes.iter().map(|n| n.name.as_str()).collect();
        for name in lock.lines.keys().filter(|name| !names.contains(name.as_str())) {
            let message = "the lock has a line for it, but the workflow has no such node".into();
            found.mismatches.push(Mismatch { node: name.clone(), what: "stale", message });
        }
    }
    conditions(graph, &lines, expects, &mut found);
    found.mismatches.sort();
    found
}

/// Steps 1 to 3 for one node.
fn check_node(
    node: &Node,
    line: &Line,
    lines: &[Option<&Line>],
    digests: &FileDigests,
    store: Option<&Store>,
    options: Options,
    found: &mut Verification,
) {
    key(node, line, lines, store, found);
    if node.is_source() {
        source(node, line, digests, options, found);
    } else if let Some(store) = store {
        for (i, (name, artifact)) in line.outputs.iter().enumerate() {
            // An only output of `run` is the main one too.
            if !line.outputs.values().take(i).any(|before| before == artifact) {
                check_artifact(node, name, artifact, store, options, found);
            }
        }
    }
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

    fn add(&mut self, node: &Node, what: &'static str, message: String) {
        self.mismatches.push(Mismatch { node: node.name.clone(), what, message });
    }
}

/// Step 1: the key that follows from the workflow and the lock's own lines.
fn key(node: &Node, line: &Line, lines: &[Option<&Line>], store: Option<&Store>, found: &mut Verification) {
    let input = |i: usize| lines[node.inputs[i].node.index()].map(|line| &line.outputs);
    let Some(manifest) = manifest::manifest(node, input, line.file) else {
        return found.add(
            node,
            "key",
            "its key cannot be computed, since the lock lacks one of its inputs".into(),
        );
    };
    found.keys += 1;
    if manifest.key() != line.key {
        let old = store.and_then(|c| c.record(&line.key).ok().flatten());
        let what = match old.map(|r| r.manifest.differences(&manifest)) {
            Some(differences) if !differences.is_empty() => {
                let words: Vec<String> = differences.iter().map(difference).collect();
                format!("the workflow now gives another key: {}", words.join("; "))
            }
            _ => "the workflow now gives another key".into(),
        };
        found.add(node, "key", what);
    }
}

/// A difference between two manifests in words.
pub fn difference(d: &Difference) -> String {
    let show = |v: &Option<serde_json::Value>| v.as_ref().map_or("absent".to_string(), |v| v.to_string());
    format!("`{}` was {}, is {}", d.path, show(&d.before), show(&d.after))
}

/// Step 2: the source's file, where it is there.
fn source(node: &Node, line: &Line, digests: &FileDigests, options: Options, found: &mut Verification) {
    let path = match &node.work {
        Work::Source(spec) => &spec.path,
        Work::Model(path) | Work::File(path) => path,
        _ => return,
    };
    if !path.exists() {
        found.sources.1 += 1;
        if !options.no_data {
            found.add(node, "source", format!("`{}` is absent", path.display()));
        }
        return;
    }
    match manifest::hash_source(&node.work, digests) {
        Ok(hashed) => {
            found.sources.0 += 1;
            let digest = hashed.map(|(digest, _, _)| digest);
            if digest != line.file {
                found.add(
                    node,
                    "source",
                    format!("`{}` is not the file that the lock names", path.display()),
                );
            }
        }
        Err(error) => found.add(node, "source", error.to_string()),
    }
}

/// Step 3: the artifact's bytes, where the cache holds them.
fn check_artifact(
    node: &Node,
    name: &str,
    artifact: &Artifact,
    store: &Store,
    options: Options,
    found: &mut Verification,
) {
    if !store.object_path(&artifact.digest).exists() {
        found.artifacts.1 += 1;
        if options.complete {
            found.add(node, "artifact", format!("the cache does not hold the output `{name}`"));
        }
    } else if let Err(fault) = store.verify(artifact) {
        found.add(node, "artifact", format!("the output `{name}` is damaged: {fault}"));
    } else {
        found.artifacts.0 += 1;
    }
}

/// Step 4: every `expect` against the lock's figures.
fn conditions(graph: &Graph, lines: &[Option<&Line>], expects: &[Expect], found: &mut Verification) {
    if expects.is_empty() {
        return;
    }
    let done: Vec<Option<Done>> = lines.iter().map(|line| line.map(Line::to_done)).collect();
    let of = |id: NodeId| done[id.index()].as_ref();
    for verdict in expect::check(expects, graph, of) {
        found.expects += 1;
        if !verdict.holds {
            let obtained = verdict.obtained.map_or("no figure".into(), |o| format!("{o:.6}"));
            let node = verdict.expect.stage.clone();
            let message = format!("{}: obtained {obtained}", verdict.text);
            found.mismatches.push(Mismatch { node, what: "expect", message });
        }
    }
}
