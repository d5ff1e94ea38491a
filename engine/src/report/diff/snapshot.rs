//! A state of a workflow: its nodes with what they are made of, and their metrics.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use refrain_cache::{Artifacts, Digest, Key, Manifest, Metric};

use crate::graph::{Edge, Graph};
use crate::ledger::lock::Lock;
use crate::ledger::run_log::RunLogEntry;
use crate::plan::node_manifest;
use crate::plan::state::NodeState;
use crate::store::{Store, StoreError};

/// A workflow as a file, a lock or a run has it.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The nodes by name.
    pub nodes: BTreeMap<String, SnapshotNode>,
    /// The differences of the comparisons' arms by name.
    pub comparisons: BTreeMap<String, f64>,
}

/// A node of a snapshot.
#[derive(Debug, Clone, Default)]
pub struct SnapshotNode {
    /// Its key, where it is known.
    pub key: Option<Key>,
    /// The manifest of its key, where it is known; inputs that are not known are null in it.
    pub manifest: Option<Manifest>,
    /// For each input the names of the nodes that it may come from.
    pub inputs: BTreeMap<String, BTreeSet<String>>,
    /// Its metrics.
    pub metrics: Vec<Metric>,
}

impl Snapshot {
    /// The state that a lock has; what keys are made of is in the records of a cache.
    ///
    /// # Errors
    /// [`StoreError`] where a record cannot be read.
    pub fn of_lock(lock: &Lock, store: Option<&Store>) -> Result<Snapshot, StoreError> {
        let mut made = BTreeMap::new();
        for (name, entry) in &lock.entries {
            made.insert(name.clone(), (entry.key, entry.outputs.clone(), entry.metrics.clone()));
        }
        let comparisons = lock
            .comparisons
            .iter()
            .map(|(name, entry)| (name.clone(), entry.result.estimate))
            .collect();
        Ok(Snapshot { nodes: nodes(made, store)?, comparisons })
    }

    /// The state that the log of a run has, by the records of its cache.
    ///
    /// # Errors
    /// [`StoreError`] where a record cannot be read.
    pub fn of_log(log: &str, store: Option<&Store>) -> Result<Snapshot, StoreError> {
        let mut made = BTreeMap::new();
        for line in log.lines() {
            let (node, key) = match serde_json::from_str(line) {
                Ok(RunLogEntry::Cached { node, key } | RunLogEntry::Finished { node, key, .. }) => {
                    (node, key)
                }
                _ => continue,
            };
            let record = store.map(|store| store.made(&key)).transpose()?.flatten();
            let result = record.map(|record| record.result).unwrap_or_default();
            made.insert(node, (key, result.artifacts, result.metrics));
        }
        Ok(Snapshot { nodes: nodes(made, store)?, comparisons: BTreeMap::new() })
    }

    /// The state of a workflow's file: its graph, with the results that are known.
    pub fn of_graph(
        graph: &Graph,
        done: &[Option<NodeState>],
        comparisons: BTreeMap<String, f64>,
    ) -> Snapshot {
        let outputs = |id: crate::graph::NodeId| Some(&done[id.index()].as_ref()?.result.artifacts);
        let identity = |edge: &Edge| node_manifest::identity(graph, edge, &outputs);
        let node = |id: crate::graph::NodeId| {
            let (node, state) = (graph.node(id), done[id.index()].as_ref());
            let whole = || node_manifest::manifest(node, identity, state?.file);
            let manifest =
                node_manifest::manifest_as_far(node, identity, |_| Value::Null).or_else(whole);
            let inputs = node.inputs.iter().map(|edge| {
                (edge.path.clone(), BTreeSet::from([graph.node(edge.node).name.clone()]))
            });
            let metrics = state.map(|state| state.result.metrics.clone()).unwrap_or_default();
            let snapshot = SnapshotNode {
                key: state.map(|state| state.key),
                manifest,
                inputs: inputs.collect(),
                metrics,
            };
            (node.name.clone(), snapshot)
        };
        Snapshot { nodes: graph.ids().map(node).collect(), comparisons }
    }
}

type Made = BTreeMap<String, (Key, Artifacts, Vec<Metric>)>;

/// Completes nodes by the records of a cache.
fn nodes(made: Made, store: Option<&Store>) -> Result<BTreeMap<String, SnapshotNode>, StoreError> {
    let mut makers: HashMap<Digest, BTreeSet<String>> = HashMap::new();
    for (name, (_, outputs, _)) in &made {
        for artifact in outputs.values() {
            makers.entry(artifact.digest).or_default().insert(name.clone());
        }
    }

    let mut nodes = BTreeMap::new();
    for (name, (key, _, metrics)) in made {
        let record = store.map(|store| store.record(&key)).transpose()?.flatten();
        let manifest = record.map(|record| record.manifest);
        let inputs =
            manifest.as_ref().map(|manifest| inputs(manifest, &makers)).unwrap_or_default();
        nodes.insert(name, SnapshotNode { key: Some(key), manifest, inputs, metrics });
    }
    Ok(nodes)
}

/// Names the nodes that made the inputs of a manifest.
fn inputs(
    manifest: &Manifest,
    makers: &HashMap<Digest, BTreeSet<String>>,
) -> BTreeMap<String, BTreeSet<String>> {
    let entries = manifest.get("inputs").and_then(Value::as_object).into_iter().flatten();
    let named = entries.filter_map(|(path, value)| {
        let digest = value.as_str().or_else(|| value.get("adapter")?.as_str())?;
        Some((path.clone(), makers.get(&digest.parse().ok()?)?.clone()))
    });
    named.collect()
}
