//! What a run would do, and why, without running anything.

use std::collections::BTreeMap;

use serde_json::Value;

use refrain_cache::{Difference, Key, Manifest, Record};

use crate::graph::{Graph, Node, NodeId, Work};
use crate::manifest;
use crate::state::{Look, State, StateError};
use crate::store::Store;

mod estimate;
mod explain;

pub use estimate::{Basis, Estimate, Total, estimate, total};
pub use explain::{Explanation, explain};

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
    /// Its key is not known before others have run.
    Waits {
        /// The nodes that it reads and that must run.
        on: Vec<NodeId>,
        /// What differs from the last run as far as it is known now.
        differences: Vec<Difference>,
    },
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

/// What a node took in the last run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Took {
    /// Seconds.
    pub seconds: f64,
    /// Tokens that were computed, for kinds that count them.
    pub tokens: Option<f64>,
}

impl Took {
    /// What a record of a node of this kind says.
    fn of(node: &Node, record: &Record) -> Took {
        let counts = match &node.work {
            Work::Stage { kind, .. } => kind.tokens,
            _ => None,
        };
        let figure = |name: &str| record.metrics.iter().find(|m| m.metric == name).map(|m| m.value);
        Took { seconds: record.seconds, tokens: counts.and_then(figure).filter(|t| t.is_finite()) }
    }
}

/// A plan: a step for every node, and the nodes whose outputs are known.
pub struct Plan<'a> {
    /// The steps by node number.
    pub steps: Vec<Step>,
    /// What the nodes took in the last run, where known.
    pub last: Vec<Option<Took>>,
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
    let mut took = Vec::with_capacity(graph.nodes.len());
    let mut manifests = Vec::with_capacity(graph.nodes.len());
    for id in graph.ids() {
        let node = graph.node(id);
        let before = last.get(&node.name);
        let record = before.map(|key| store.record(key)).transpose()?.flatten();
        took.push(record.as_ref().map(|record| Took::of(node, record)));
        let (step, manifest) = match state.look(id)? {
            None => {
                let mut on: Vec<NodeId> = node.inputs.iter().map(|e| e.node).collect();
                on.retain(|id| !matches!(steps[id.index()], Step::Cached(_)));
                on.sort();
                on.dedup();
                let differences = record.map_or(Vec::new(), |record| known(&state, node, &record.manifest));
                (Step::Waits { on, differences }, None)
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
    Ok(Plan { steps, last: took, manifests, state })
}

/// What differs from an earlier manifest of a node some of whose inputs are not known yet: those are taken as they were.
fn known(state: &State<'_>, node: &Node, old: &Manifest) -> Vec<Difference> {
    let before = |path: &str| old.get("inputs").and_then(|inputs| inputs.get(path)).cloned();
    let unknown = |i: usize| before(&node.inputs[i].path).unwrap_or(Value::Null);
    manifest::manifest_as_far(node, |i| state.done(node.inputs[i].node), unknown)
        .map_or(Vec::new(), |now| old.differences(&now))
}

/// The node from which the input comes that a difference is about.
pub fn origin(node: &Node, difference: &Difference) -> Option<NodeId> {
    let path = difference.path.strip_prefix("inputs.")?;
    let is_of =
        |name: &str| path == name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    let quoted = |name: &str| Value::from(name).to_string();
    let edge = node.inputs.iter().find(|edge| is_of(&edge.path) || is_of(&quoted(&edge.path)))?;
    Some(edge.node)
}
