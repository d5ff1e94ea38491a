//! What a run would do, and why, without running anything.

use std::collections::BTreeMap;

use rayon::prelude::*;

use refrain_cache::{Difference, Key, Manifest};

use crate::graph::{Graph, NodeId};
use crate::state::{Done, Look, State, StateError};
use crate::store::Store;

/// Nodes that are planned at once.
const PART: usize = 4096;
/// Nodes that one thread plans in a row.
const CHUNK: usize = 16;

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

/// Plans the wanted nodes, which all that they are made from are among; of the others the plan says nothing.
fn plan_of<'a>(
    graph: &'a Graph,
    store: &'a Store,
    last: &BTreeMap<String, Key>,
    wanted: &[bool],
) -> Result<Plan<'a>, StateError> {
    let nodes = graph.nodes.len();
    let steps = vec![Step::Waits(Vec::new()); nodes];
    let mut plan = Plan { steps, seconds: vec![None; nodes], state: State::new(graph, store) };
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
                let (step, seconds, done) = planned?;
                plan.steps[id.index()] = step;
                plan.seconds[id.index()] = seconds;
                if let Some(done) = done {
                    plan.state.set(*id, *done);
                }
            }
        }
    }
    Ok(plan)
}

type Planned = (Step, Option<f64>, Option<Box<Done>>);

/// What would be done with a node when what it reads is planned; `before` is its key in the last run.
fn planned(
    graph: &Graph,
    store: &Store,
    before: Option<&Key>,
    plan: &Plan<'_>,
    id: NodeId,
) -> Result<Planned, StateError> {
    let seconds = before.map(|key| store.made(key)).transpose()?.flatten().map(|made| made.seconds);
    let (step, done) = match plan.state.look(id)? {
        None => {
            let mut on: Vec<NodeId> = graph.node(id).inputs.iter().map(|e| e.node).collect();
            on.retain(|id| !matches!(plan.steps[id.index()], Step::Cached(_)));
            on.dedup();
            (Step::Waits(on), None)
        }
        Some(Look::Done(done)) => (Step::Cached(done.key), Some(done)),
        Some(Look::Todo(todo)) => {
            let record = before.map(|key| store.record(key)).transpose()?.flatten();
            let why = match (todo.damaged, before, record) {
                (Some(damage), _, _) => Why::Damaged(damage),
                (None, None, _) => Why::New,
                (None, Some(_), Some(record)) => Why::Changed(record.manifest.differences(&todo.manifest)),
                (None, Some(_), None) => Why::Forgotten,
            };
            (Step::Run { key: todo.key, why }, None)
        }
    };
    Ok((step, seconds, done))
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
    let plan = plan_of(graph, store, last, &graph.upstream(&[id]))?;
    let node = graph.node(id);
    let before = last.get(&node.name).copied();
    let manifest = match plan.state.done(id) {
        Some(done) => plan.state.manifest(node, done.file),
        None => match plan.state.look(id)? {
            Some(Look::Todo(todo)) => Some(todo.manifest),
            Some(Look::Done(_)) | None => None,
        },
    };
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
