//! What differs between a node of the last run and of now.

use std::collections::BTreeMap;

use rayon::prelude::*;

use refrain_cache::{Difference, Key, Manifest};

use crate::graph::{Graph, NodeId};
use crate::plan::state::StateError;
use crate::source::seen::SeenSource;
use crate::store::Store;

use super::{CHUNK, Plan, Step, Why, plan_of};

/// The differences between what a node was made from in the last run and what it would be made from now.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The node.
    pub id: NodeId,
    /// Its key in the last run.
    pub before: Option<Key>,
    /// Its key now, when its inputs are known.
    pub now: Option<Key>,
    /// The manifest now, when its inputs are known and this node alone is explained: of a large graph all would fill the
    /// memory.
    pub manifest: Option<Manifest>,
    /// The known differences; empty where there are none, or no record of the last run.
    pub differences: Vec<Difference>,
    /// Whether the cache holds its outputs.
    pub cached: bool,
    /// The damage of its outputs in the cache.
    pub damaged: Option<String>,
    /// The inputs that must run before its key is known.
    pub waits: Vec<NodeId>,
}

impl Explanation {
    /// Whether the node differs from the last run, or would or may have to be computed.
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
    let plan = plan_of(graph, store, last, &graph.upstream(ids))?;
    let one = |id: &NodeId| explain_one(&plan, graph, store, last, *id);
    let mut explanations = ids
        .par_iter()
        .with_min_len(CHUNK)
        .map(one)
        .collect::<Vec<_>>()
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    if let [explanation] = explanations.as_mut_slice() {
        explanation.manifest = manifest_now(&plan, graph, store, explanation.id)?;
    }
    Ok(explanations)
}

fn explain_one(
    plan: &Plan<'_>,
    graph: &Graph,
    store: &Store,
    last: &BTreeMap<String, Key>,
    id: NodeId,
) -> Result<Explanation, StateError> {
    let before = last.get(&graph.node(id).name).copied();
    let (mut now, mut waits, mut damaged) = (None, Vec::new(), None);
    let mut differences = Vec::new();
    match &plan.steps[id.index()] {
        Step::Waits { on, differences: known } => {
            (waits, differences) = (on.clone(), known.clone())
        }
        Step::Cached(key) => now = Some(*key),
        Step::Run { key, why } => {
            now = Some(*key);
            match why {
                Why::Changed(changed) => differences = changed.clone(),
                Why::Damaged(damage) => damaged = Some(damage.clone()),
                Why::New | Why::Forgotten => {}
            }
        }
    }
    if let (true, Some(key), Some(_)) = (differences.is_empty() && before != now, before, now)
        && let Some(old) = store.record(&key)?
        && let Some(manifest) = manifest_now(plan, graph, store, id)?
    {
        differences = old.manifest.differences(&manifest);
    }
    let cached = matches!(plan.steps[id.index()], Step::Cached(_));
    Ok(Explanation { id, before, now, manifest: None, differences, cached, damaged, waits })
}

/// The manifest of a node, when its inputs are known. The plan keeps none: for most nodes it is never asked for.
fn manifest_now(
    plan: &Plan<'_>,
    graph: &Graph,
    store: &Store,
    id: NodeId,
) -> Result<Option<Manifest>, StateError> {
    let node = graph.node(id);
    let file = match plan.state.done(id) {
        Some(done) => done.file,
        None => match node.work.source() {
            Some(_) if graph.absent.contains_key(&id) => Some(graph.absent[&id].digest),
            Some(place) => Some(SeenSource::hash(&place, store.digests(), &|_| Ok(()))?.digest()),
            None => None,
        },
    };
    Ok(plan.state.manifest(node, file))
}
