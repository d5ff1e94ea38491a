//! What a run would do, and why, without running anything.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde_json::Value;

use refrain_cache::{Difference, Key, Manifest, RecordSummary, Usage};

use crate::graph::{Edge, Graph, Node, NodeId, Work};
use crate::plan::state::{Lookup, NodeState, State, StateError};
use crate::store::Store;

mod cost;
mod elsewhere;
mod estimate;
mod explain;
pub mod node_manifest;
mod requests;
pub mod state;

pub use cost::Cost;
pub use elsewhere::elsewhere;
pub use estimate::{Basis, Estimate, NodeEstimate, Total, estimate, total};
pub use explain::{Explanation, explain};
pub use requests::{Asked, AskedTotal, asked_total};

/// Nodes that are planned at once.
const PART: usize = 4096;
/// Nodes that one thread plans in a row.
const CHUNK: usize = 16;

/// The step of a run for one node.
#[derive(Debug, Clone)]
pub enum Step {
    /// Its outputs are in the cache.
    Cached(Key),
    /// It would be computed.
    Run {
        /// Its key.
        key: Key,
        /// The reason.
        why: Why,
    },
    /// Its key is not known before others have run.
    Waits {
        /// The nodes that it reads and that must run.
        on: Vec<NodeId>,
        /// The known differences from the last run.
        differences: Vec<Difference>,
    },
}

/// The reason for computing a node.
#[derive(Debug, Clone)]
pub enum Why {
    /// The last run, if any, did not get to it.
    New,
    /// Its artifact is lost or damaged.
    Damaged(String),
    /// Its manifest has changed since the last run.
    Changed(Vec<Difference>),
    /// It has run before with just these inputs, but the cache no longer holds the record.
    Forgotten,
}

/// The cost of a node in the last run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LastCost {
    /// Seconds.
    pub seconds: f64,
    /// Tokens that were computed, for kinds that count them.
    pub tokens: Option<f64>,
    /// Its requests to a server.
    pub usage: Option<Usage>,
}

impl LastCost {
    /// Reads the cost of a node from its record.
    fn of(node: &Node, made: &RecordSummary) -> LastCost {
        let counts = match &node.work {
            Work::Stage { kind, .. } => kind.tokens,
            _ => None,
        };
        let figure =
            |name: &str| made.result.metrics.iter().find(|m| m.metric == name).map(|m| m.value);
        LastCost {
            seconds: made.seconds,
            tokens: counts.and_then(figure).filter(|t| t.is_finite()),
            usage: made.result.usage,
        }
    }
}

/// A plan: a step for every node, and the nodes whose outputs are known.
pub struct Plan<'a> {
    /// The steps by node number.
    pub steps: Vec<Step>,
    /// The costs of the nodes in the last run, where known.
    pub last: Vec<Option<LastCost>>,
    /// The outputs that are known.
    pub state: State<'a>,
}

/// Plans a graph; `last` has each node's key in the last run.
pub fn plan<'a>(
    graph: &'a Graph,
    store: &'a Store,
    last: &BTreeMap<String, Key>,
) -> Result<Plan<'a>, StateError> {
    plan_of(graph, store, last, &vec![true; graph.nodes.len()])
}

/// Looks up all nodes, as [`plan()`] does, without comparing any with the last run.
pub fn look_up<'a>(graph: &'a Graph, store: &'a Store) -> Result<Plan<'a>, StateError> {
    plan(graph, store, &BTreeMap::new())
}

/// Plans the wanted nodes, which all that they are made from are among; of the others the plan says nothing.
fn plan_of<'a>(
    graph: &'a Graph,
    store: &'a Store,
    last: &BTreeMap<String, Key>,
    wanted: &[bool],
) -> Result<Plan<'a>, StateError> {
    let nodes = graph.nodes.len();
    let steps = vec![Step::Waits { on: Vec::new(), differences: Vec::new() }; nodes];
    let mut plan = Plan { steps, last: vec![None; nodes], state: State::new(graph, store) };
    for mut level in graph.levels() {
        level.retain(|id| wanted[id.index()]);
        // In parts, so that little is held beside the plan.
        for ids in level.chunks(PART) {
            let planned: Vec<Result<Planned, StateError>> = ids
                .par_iter()
                .with_min_len(CHUNK)
                .map(|id| planned(graph, store, last.get(&graph.node(*id).name), &plan, *id))
                .collect();
            for (id, planned) in ids.iter().zip(planned) {
                let (step, took, done) = planned?;
                plan.steps[id.index()] = step;
                plan.last[id.index()] = took;
                if let Some(done) = done {
                    plan.state.set(*id, *done);
                }
            }
        }
    }
    Ok(plan)
}

type Planned = (Step, Option<LastCost>, Option<Box<NodeState>>);

/// Plans a node whose inputs are planned; `before` is its key in the last run.
fn planned(
    graph: &Graph,
    store: &Store,
    before: Option<&Key>,
    plan: &Plan<'_>,
    id: NodeId,
) -> Result<Planned, StateError> {
    let node = graph.node(id);
    let made = before.map(|key| store.made(key)).transpose()?.flatten();
    let took = made.map(|made| LastCost::of(node, &made));
    // Only nodes that differ need the whole record.
    let record = || before.map(|key| store.record(key)).transpose().map(Option::flatten);
    let (step, done) = match plan.state.look_up_now(id)? {
        None => {
            let mut on: Vec<NodeId> = node.inputs.iter().map(|e| e.node).collect();
            on.retain(|id| !matches!(plan.steps[id.index()], Step::Cached(_)));
            on.sort();
            on.dedup();
            let differences =
                record()?.map_or(Vec::new(), |old| known(&plan.state, node, &old.manifest));
            (Step::Waits { on, differences }, None)
        }
        Some(Lookup::Done(done)) => (Step::Cached(done.key), Some(done)),
        Some(Lookup::Unhashed(_)) => unreachable!("it was hashed"),
        Some(Lookup::Pending(pending)) => {
            let why = match (pending.damaged, before, record()?) {
                (Some(damage), _, _) => Why::Damaged(damage),
                (None, None, _) => Why::New,
                (None, Some(_), Some(record)) => {
                    Why::Changed(record.manifest.differences(&pending.manifest))
                }
                (None, Some(_), None) => Why::Forgotten,
            };
            (Step::Run { key: pending.key, why }, None)
        }
    };
    Ok((step, took, done))
}

/// Returns the differences from an earlier manifest; unknown inputs count as unchanged.
fn known(state: &State<'_>, node: &Node, old: &Manifest) -> Vec<Difference> {
    let before = |path: &str| old.get("inputs").and_then(|inputs| inputs.get(path)).cloned();
    let unknown = |edge: &Edge| before(&edge.path).unwrap_or(Value::Null);
    node_manifest::manifest_as_far(node, |edge| state.identity(edge), unknown)
        .map_or(Vec::new(), |now| old.differences(&now))
}

/// Formats a difference; of an input it names the node that it comes from.
pub fn difference_words(graph: &Graph, node: &Node, of: &Difference) -> String {
    let origin = origin(node, of).map(|id| format!(" (from `{}`)", graph.node(id).name));
    format!("{}{}", difference(of), origin.unwrap_or_default())
}

/// Formats a difference between two manifests.
pub fn difference(d: &Difference) -> String {
    let show = |v: &Option<Value>| v.as_ref().map_or("absent".to_string(), |v| v.to_string());
    format!("`{}` changed from {} to {}", d.path, show(&d.before), show(&d.after))
}

/// Finds the node of the input that a difference is about.
pub fn origin(node: &Node, difference: &Difference) -> Option<NodeId> {
    let path = difference.path.strip_prefix("inputs.")?;
    let is_of = |name: &str| {
        path == name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
    };
    let quoted = |name: &str| Value::from(name).to_string();
    let edge = node.inputs.iter().find(|edge| is_of(&edge.path) || is_of(&quoted(&edge.path)))?;
    Some(edge.node)
}
