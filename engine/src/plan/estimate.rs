//! What the nodes that would run will take, by what earlier runs took.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use refrain_cache::{ArtifactKind, Artifacts, Digest, Usage};

use crate::graph::{Graph, NodeId};
use crate::ledger::lock::Lock;
use crate::store::{Store, StoreError};

use super::requests::{self, Asked};
use super::{LastCost, Plan, Step};

/// The limit of earlier nodes of a stage or kind that are read.
const RECORDS: usize = 64;

/// The basis of an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The node itself in the last run.
    Own,
    /// Nodes of the same stage in the last run.
    Stage,
    /// Nodes of the same kind with the same model in the last run.
    Kind,
}

impl Basis {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Basis::Own => "own",
            Basis::Stage => "stage",
            Basis::Kind => "kind",
        }
    }
}

/// The estimated cost of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Seconds.
    pub seconds: f64,
    /// Tokens that would be computed, for kinds that count them.
    pub tokens: Option<f64>,
    /// Its basis.
    pub basis: Basis,
    /// The number of earlier nodes that it is the mean of.
    pub records: usize,
    /// Whether it is scaled by the rows that are read.
    pub scaled: bool,
}

/// The estimates of a node that would run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeEstimate {
    /// Its time and tokens, where earlier runs tell.
    pub took: Option<Estimate>,
    /// Its requests to a server, if it asks one.
    pub asked: Option<Asked>,
}

/// The estimated cost of all nodes that would run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Total {
    /// Nodes that would run, or may have to.
    pub nodes: usize,
    /// The nodes among them without an estimate, which count as nothing.
    pub unknown: usize,
    /// Seconds until the last one ends.
    pub seconds: f64,
    /// Tokens.
    pub tokens: f64,
}

/// An earlier node.
struct Earlier {
    took: LastCost,
    rows: Option<u64>,
    models: Vec<Digest>,
}

/// Estimates every node that would run, where earlier runs say anything of it.
///
/// # Errors
/// [`StoreError`].
pub fn estimate(
    graph: &Graph,
    plan: &Plan<'_>,
    lock: &Lock,
    store: &Store,
) -> Result<Vec<NodeEstimate>, StoreError> {
    let mut past = Past::new(graph, lock, store);
    let mut estimates = Vec::with_capacity(graph.nodes.len());
    for id in graph.ids() {
        if matches!(plan.steps[id.index()], Step::Cached(_)) {
            estimates.push(NodeEstimate::default());
            continue;
        }
        let outputs = |input: NodeId| {
            let done = plan.state.done(input).map(|done| &done.result.artifacts);
            done.or_else(|| outputs_before(graph, lock, input))
        };
        let (rows, models) = inputs(graph, id, outputs);
        let (took, usage) = match plan.last[id.index()] {
            Some(took) => {
                let (before, _) = inputs(graph, id, |input| outputs_before(graph, lock, input));
                let own = Earlier { took, rows: before, models: Vec::new() };
                (mean(&[&own], rows, Basis::Own), usage(&[&own]))
            }
            None => like_it(&mut past, graph, id, rows, &models)?,
        };
        let rows_of = |path: &str| {
            let edge = graph.node(id).inputs.iter().find(|edge| edge.path == path)?;
            outputs(edge.node)?.get(&edge.output)?.rows
        };
        estimates.push(NodeEstimate { took, asked: requests::asked(graph, id, &rows_of, &usage) });
    }
    Ok(estimates)
}

/// Estimates a node by others: those of its stage, or else those of its kind with its models.
fn like_it<'a>(
    past: &mut Past<'a>,
    graph: &'a Graph,
    id: NodeId,
    rows: Option<u64>,
    models: &[Digest],
) -> Result<(Option<Estimate>, Vec<Usage>), StoreError> {
    let node = graph.node(id);
    let of_stage: Vec<&Earlier> = past.nodes(Group::Stage(&node.stage))?.iter().collect();
    if let Some(estimate) = mean(&of_stage, rows, Basis::Stage) {
        return Ok((Some(estimate), usage(&of_stage)));
    }
    let of_kind = past.nodes(Group::Kind(node.kind_name()))?;
    let same: Vec<&Earlier> = of_kind.iter().filter(|earlier| earlier.models == models).collect();
    Ok((mean(&same, rows, Basis::Kind), usage(&same)))
}

/// Lists the requests of earlier nodes.
fn usage(earlier: &[&Earlier]) -> Vec<Usage> {
    earlier.iter().filter_map(|earlier| earlier.took.usage).collect()
}

/// Returns the outputs of a node in the last run.
fn outputs_before<'l>(graph: &Graph, lock: &'l Lock, id: NodeId) -> Option<&'l Artifacts> {
    lock.entries.get(&graph.node(id).name).map(|line| &line.outputs)
}

/// Counts the rows of all tables that a node reads, where known, and lists its models.
fn inputs<'o>(
    graph: &Graph,
    id: NodeId,
    outputs: impl Fn(NodeId) -> Option<&'o Artifacts>,
) -> (Option<u64>, Vec<Digest>) {
    let (mut rows, mut models, mut unknown) = (None, Vec::new(), false);
    for edge in &graph.node(id).inputs {
        match outputs(edge.node).and_then(|outputs| outputs.get(&edge.output)) {
            Some(artifact) if artifact.kind == ArtifactKind::Model => models.push(artifact.digest),
            Some(artifact) => rows = artifact.rows.map(|n| n + rows.unwrap_or(0)).or(rows),
            None => unknown = true,
        }
    }
    (rows.filter(|_| !unknown), models)
}

/// Nodes that have something in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group<'a> {
    Stage(&'a str),
    Kind(&'a str),
}

/// The nodes of the last run by what they have in common; their records are read when they are asked for.
struct Past<'a> {
    graph: &'a Graph,
    lock: &'a Lock,
    store: &'a Store,
    members: BTreeMap<Group<'a>, Vec<NodeId>>,
    read: BTreeMap<Group<'a>, Vec<Earlier>>,
}

impl<'a> Past<'a> {
    fn new(graph: &'a Graph, lock: &'a Lock, store: &'a Store) -> Past<'a> {
        let mut members: BTreeMap<Group<'a>, Vec<NodeId>> = BTreeMap::new();
        for id in graph.ids().filter(|id| lock.entries.contains_key(&graph.node(*id).name)) {
            let node = graph.node(id);
            for group in [Group::Stage(&node.stage), Group::Kind(node.kind_name())] {
                members.entry(group).or_default().push(id);
            }
        }
        Past { graph, lock, store, members, read: BTreeMap::new() }
    }

    /// The first nodes of a group of which the cache has a record.
    fn nodes(&mut self, group: Group<'a>) -> Result<&[Earlier], StoreError> {
        if !self.read.contains_key(&group) {
            let mut found = Vec::new();
            for id in self.members.get(&group).into_iter().flatten() {
                let node = self.graph.node(*id);
                let Some(line) = self.lock.entries.get(&node.name) else { continue };
                let Some(made) = self.store.made(&line.key)? else { continue };
                let (rows, models) =
                    inputs(self.graph, *id, |input| outputs_before(self.graph, self.lock, input));
                found.push(Earlier { took: LastCost::of(node, &made), rows, models });
                if found.len() == RECORDS {
                    break;
                }
            }
            self.read.insert(group, found);
        }
        Ok(&self.read[&group])
    }
}

/// The mean of earlier nodes; by the row where all rows are known.
fn mean(earlier: &[&Earlier], rows: Option<u64>, basis: Basis) -> Option<Estimate> {
    let records = earlier.len();
    if records == 0 {
        return None;
    }
    let before: Option<u64> = earlier.iter().map(|e| e.rows).sum();
    let share = match (before, rows) {
        (Some(before), Some(rows)) if before > 0 => Some(rows as f64 / before as f64),
        _ => None,
    };
    let share_of_sum = share.unwrap_or(1.0 / records as f64);
    let seconds = earlier.iter().map(|e| e.took.seconds).sum::<f64>() * share_of_sum;
    let tokens: Option<f64> = earlier.iter().map(|e| e.took.tokens).sum();
    let tokens = tokens.map(|tokens| tokens * share_of_sum);
    Some(Estimate {
        seconds,
        tokens,
        basis,
        records,
        scaled: share.is_some_and(|share| share != 1.0),
    })
}

/// Sums the estimates of all nodes that would run, `jobs` (1 or more) at once, in the order of a run.
pub fn total(graph: &Graph, steps: &[Step], estimates: &[NodeEstimate], jobs: usize) -> Total {
    let runs = |id: NodeId| !matches!(steps[id.index()], Step::Cached(_));
    let mut total = Total::default();
    let mut waiting = vec![0; graph.nodes.len()];
    let mut ready = BTreeSet::new();
    for id in graph.ids().filter(|id| runs(*id)) {
        total.nodes += 1;
        match estimates[id.index()].took {
            Some(estimate) => total.tokens += estimate.tokens.unwrap_or(0.0),
            None => total.unknown += 1,
        }
        let inputs: BTreeSet<NodeId> = graph.node(id).inputs.iter().map(|e| e.node).collect();
        waiting[id.index()] = inputs.into_iter().filter(|input| runs(*input)).count();
        if waiting[id.index()] == 0 {
            ready.insert(id);
        }
    }
    // The times are whole microseconds, which have an order.
    let mut running: BinaryHeap<Reverse<(u64, NodeId)>> = BinaryHeap::new();
    let mut now = 0u64;
    loop {
        while running.len() < jobs.max(1)
            && let Some(id) = ready.pop_first()
        {
            let seconds = estimates[id.index()].took.map_or(0.0, |estimate| estimate.seconds);
            running.push(Reverse((now.saturating_add((seconds * 1e6) as u64), id)));
        }
        let Some(Reverse((end, id))) = running.pop() else { break };
        now = end;
        for dependent in graph.dependents(id).filter(|id| runs(*id)) {
            waiting[dependent.index()] -= 1;
            if waiting[dependent.index()] == 0 {
                ready.insert(dependent);
            }
        }
    }
    Total { seconds: now as f64 / 1e6, ..total }
}
