//! What differs between a node of the last run and of now.

use std::collections::BTreeMap;

use refrain_cache::{Difference, Key, Manifest};

use crate::graph::{Graph, NodeId};
use crate::state::StateError;
use crate::store::Store;

use super::{Plan, Step, Why, plan};

/// The differences between what a node was made from in the last run and what it would be made from now.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The node.
    pub id: NodeId,
    /// Its key in the last run.
    pub before: Option<Key>,
    /// Its key now, when its inputs are known.
    pub now: Option<Key>,
    /// The manifest now.
    pub manifest: Option<Manifest>,
    /// What differs, as far as it is known now; empty when nothing does or the cache has no record of the last run.
    pub differences: Vec<Difference>,
    /// Whether the cache holds its outputs.
    pub cached: bool,
    /// What is wrong with its outputs in the cache.
    pub damaged: Option<String>,
    /// The inputs that must run before its key is known.
    pub waits: Vec<NodeId>,
}

impl Explanation {
    /// Whether the node is other than in the last run, or would be computed, or may have to be.
    pub fn differs(&self) -> bool {
        !self.cached || self.before != self.now
    }
}

/// Explains the nodes.
pub fn explain(
    graph: &Graph,
    store: &Store,
    last: &BTreeMap<String, Key>,
    ids: &[NodeId],
) -> Result<Vec<Explanation>, StateError> {
    let plan = plan(graph, store, last)?;
    ids.iter().map(|id| one(&plan, graph, store, last, *id)).collect()
}

fn one(
    plan: &Plan<'_>,
    graph: &Graph,
    store: &Store,
    last: &BTreeMap<String, Key>,
    id: NodeId,
) -> Result<Explanation, StateError> {
    let before = last.get(&graph.node(id).name).copied();
    let manifest = plan.manifests[id.index()].clone();
    let now = manifest.as_ref().map(Manifest::key);
    let (mut waits, mut damaged) = (Vec::new(), None);
    let mut differences = Vec::new();
    match &plan.steps[id.index()] {
        Step::Waits { on, differences: known } => (waits, differences) = (on.clone(), known.clone()),
        Step::Run { why: Why::Changed(changed), .. } => differences = changed.clone(),
        Step::Run { why: Why::Damaged(damage), .. } => damaged = Some(damage.clone()),
        _ => {}
    }
    if let (true, Some(key), Some(manifest)) = (differences.is_empty() && before != now, before, &manifest) {
        let old = store.record(&key)?;
        differences = old.map_or(Vec::new(), |old| old.manifest.differences(manifest));
    }
    let cached = matches!(plan.steps[id.index()], Step::Cached(_));
    Ok(Explanation { id, before, now, manifest, differences, cached, damaged, waits })
}
