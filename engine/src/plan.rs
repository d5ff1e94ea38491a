//! What a run would do, and why, without running anything.

use std::collections::BTreeMap;

use refrain_cache::{Difference, Key, Manifest};

use crate::graph::{Graph, NodeId};
use crate::state::{Look, State, StateError};
use crate::store::Store;

/// What a run would do with a node.
#[derive(Debug, Clone)]
pub enum Step {
    /// Its outputs are in the cache.
    Cached(Key),
    /// It would be computed.
    Run {
        /// Its key.
        key: Key,
        /// Why.
        why: Why,
    },
    /// Its key is not known before these nodes have run.
    Waits(Vec<NodeId>),
}

/// Why a node would be computed.
#[derive(Debug, Clone)]
pub enum Why {
    /// The last run, if any, did not get to it.
    New,
    /// Its artifact is lost or damaged.
    Damaged(String),
    /// What its key is made of has changed since the last run.
    Changed(Vec<Difference>),
    /// It has run before with just these inputs, but the cache no longer holds the record.
    Forgotten,
}

/// A plan: a step for every node, and the nodes whose outputs are known.
pub struct Plan<'a> {
    /// The steps by node number.
    pub steps: Vec<Step>,
    /// What earlier runs took, in seconds, where known.
    pub seconds: Vec<Option<f64>>,
    /// The manifests of the nodes whose inputs are known.
    pub manifests: Vec<Option<Manifest>>,
    /// The outputs that are known.
    pub state: State<'a>,
}

/// Plans a graph; `last` has each node's key in the last run.
pub fn plan<'a>(
    graph: &'a Graph,
    store: &'a Store,
    last: &BTreeMap<String, Key>,
) -> Result<Plan<'a>, StateError> {
    let mut state = State::new(graph, store);
    let mut steps: Vec<Step> = Vec::with_capacity(graph.nodes.len());
    let mut seconds = Vec::with_capacity(graph.nodes.len());
    let mut manifests = Vec::with_capacity(graph.nodes.len());
    for id in graph.ids() {
        let node = graph.node(id);
        let before = last.get(&node.name);
        let record = before.map(|key| store.record(key)).transpose()?.flatten();
        seconds.push(record.as_ref().map(|r| r.seconds));
        let (step, manifest) = match state.look(id)? {
            None => {
                let mut on: Vec<NodeId> = node.inputs.iter().map(|e| e.node).collect();
                on.retain(|id| !matches!(steps[id.index()], Step::Cached(_)));
                on.dedup();
                (Step::Waits(on), None)
            }
            Some(Look::Done(done)) => {
                let manifest = state.manifest(node, done.file);
                let step = Step::Cached(done.key);
                state.set(id, *done);
                (step, manifest)
            }
            Some(Look::Todo(todo)) => {
                let why = match (todo.damaged, before, record) {
                    (Some(damage), _, _) => Why::Damaged(damage),
                    (None, None, _) => Why::New,
                    (None, Some(_), Some(record)) => {
                        Why::Changed(record.manifest.differences(&todo.manifest))
                    }
                    (None, Some(_), None) => Why::Forgotten,
                };
                (Step::Run { key: todo.key, why }, Some(todo.manifest))
            }
        };
        steps.push(step);
        manifests.push(manifest);
    }
    Ok(Plan { steps, seconds, manifests, state })
}

/// The differences between what a node was made from in the last run and what it would be made from now.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The node's name.
    pub node: String,
    /// Its key in the last run.
    pub before: Option<Key>,
    /// Its key now, when its inputs are known.
    pub now: Option<Key>,
    /// The manifest now.
    pub manifest: Option<Manifest>,
    /// What differs; empty when nothing does or when one of the two is not known.
    pub differences: Vec<Difference>,
    /// Whether the cache holds its outputs.
    pub cached: bool,
    /// The inputs that must run before its key is known.
    pub waits: Vec<String>,
}

/// Explains one node.
pub fn explain(
    graph: &Graph,
    store: &Store,
    last: &BTreeMap<String, Key>,
    id: NodeId,
) -> Result<Explanation, StateError> {
    let plan = plan(graph, store, last)?;
    let node = graph.node(id);
    let before = last.get(&node.name).copied();
    let manifest = plan.manifests[id.index()].clone();
    let old = before.map(|key| store.record(&key)).transpose()?.flatten().map(|r| r.manifest);
    let differences = match (&old, &manifest) {
        (Some(old), Some(now)) => old.differences(now),
        _ => Vec::new(),
    };
    let waits = match &plan.steps[id.index()] {
        Step::Waits(on) => on.iter().map(|id| graph.node(*id).name.clone()).collect(),
        _ => Vec::new(),
    };
    Ok(Explanation {
        node: node.name.clone(),
        before,
        now: manifest.as_ref().map(Manifest::key),
        manifest,
        differences,
        cached: matches!(plan.steps[id.index()], Step::Cached(_)),
        waits,
    })
}
