//! The stages and nodes of a report: what ran, why, how long and on what.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use refrain_cache::{Artifacts, Digest, Key, Metric};
use serde_json::Value;

use crate::graph::drawing::{StageGraph, edge_labels};
use crate::graph::{Graph, Node, NodeId, Work};
use crate::ledger::run_log::{NodeCourse, NodeOutcome, NodeProgress};
use crate::plan::state::{NodeState, StateError};

use super::PageInput;

/// A node in a report.
#[derive(Debug, Clone, PartialEq)]
pub struct PageNode {
    /// Its name, with its point.
    pub name: String,
    /// The number of its stage.
    pub stage: usize,
    /// Its point: names of axes and labels.
    pub point: Vec<(String, String)>,
    /// Its label of the first axis that is not averaged; empty without one.
    pub arm: String,
    /// Its status.
    pub status: Status,
    /// Why it was computed when it last was.
    pub why: Option<String>,
    /// Its duration, when it was computed.
    pub seconds: Option<f64>,
    /// When it began in the last run, in seconds.
    pub started: Option<f64>,
    /// When it ended in the last run.
    pub ended: Option<f64>,
    /// Its key; `None` where it has no result.
    pub key: Option<Key>,
    /// The digest of a source's file or folder.
    pub file: Option<Digest>,
    /// Its outputs.
    pub outputs: Artifacts,
    /// Its metrics.
    pub metrics: Vec<Metric>,
    /// The backend and device.
    pub profile: String,
    /// Its inputs: the parameter, the number of the node, the output.
    pub inputs: Vec<(String, u32, String)>,
    /// Its parameters as text.
    pub params: Vec<(String, String)>,
}

/// The status of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// It was computed in the last run.
    Ran,
    /// Its result was there before, or is known by the lock.
    Known,
    /// It failed in the last run.
    Failed,
    /// A node that it reads failed.
    Skipped {
        /// The node that failed.
        because: String,
    },
    /// It is under way.
    Running {
        /// Its progress, where it tells any.
        progress: Option<NodeProgress>,
    },
    /// It has no result.
    Missing,
}

impl Status {
    /// Says it in a word.
    pub fn word(&self) -> &'static str {
        match self {
            Status::Ran => "ran",
            Status::Known => "cached",
            Status::Failed => "failed",
            Status::Skipped { .. } => "skipped",
            Status::Running { .. } => "running",
            Status::Missing => "not run",
        }
    }
}

/// The number of nodes of each status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatusCounts {
    /// Those that were computed in the last run.
    pub ran: usize,
    /// Those whose result was there.
    pub known: usize,
    /// Those that failed.
    pub failed: usize,
    /// Those that were skipped.
    pub skipped: usize,
    /// Those under way.
    pub running: usize,
    /// Those without a result.
    pub missing: usize,
}

/// A stage or source in a report.
#[derive(Debug, Clone, PartialEq)]
pub struct PageStage {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its description.
    pub description: Option<String>,
    /// Whether it is read, not made.
    pub is_source: bool,
    /// Its axes, each with the labels of its nodes.
    pub axes: Vec<(String, Vec<String>)>,
    /// The labels of the first axis that is not averaged.
    pub arms: Vec<String>,
    /// Its nodes.
    pub nodes: Vec<u32>,
    /// The numbers of them by status.
    pub counts: StatusCounts,
    /// The seconds of those that were computed, as their records say.
    pub seconds: f64,
    /// The backends and devices.
    pub profiles: Vec<String>,
    /// Why nodes were computed, each with the number of nodes.
    pub whys: Vec<(String, usize)>,
    /// Parameters that all nodes share; those that differ are joined.
    pub params: Vec<(String, String)>,
}

/// An edge between two stages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The stage that is read.
    pub from: usize,
    /// The reader.
    pub to: usize,
    /// The labels of the arms that read it, where others do not.
    pub arms: Option<String>,
}

/// The stages of a graph, with their nodes.
pub(super) struct Stages {
    pub stage_of: Vec<usize>,
    pub nodes: Vec<Vec<NodeId>>,
    /// The axes over which results are averaged: they tell no arms.
    averaged: Vec<String>,
}

impl Stages {
    pub fn new(graph: &Graph, averaged: &[String]) -> Stages {
        let mut places: HashMap<&str, usize> = HashMap::new();
        let stage_of = Vec::with_capacity(graph.nodes.len());
        let mut stages = Stages { stage_of, nodes: Vec::new(), averaged: averaged.to_vec() };
        for id in graph.ids() {
            let next = places.len();
            let place = *places.entry(&graph.node(id).stage).or_insert(next);
            if place == next {
                stages.nodes.push(Vec::new());
            }
            stages.stage_of.push(place);
            stages.nodes[place].push(id);
        }
        stages
    }

    /// The arm of a node: its label of the first axis that is not averaged; empty without one.
    pub fn arm<'n>(&self, node: &'n Node) -> &'n str {
        let mut entries = node.point.iter().filter(|(axis, _)| !self.averaged.contains(axis));
        entries.next().map_or("", |(_, label)| label)
    }

    /// Sums the nodes of each stage up.
    pub fn finish(&self, graph: &Graph, nodes: &[PageNode]) -> Vec<PageStage> {
        self.nodes.iter().map(|ids| stage(self, graph, nodes, ids)).collect()
    }
}

fn stage(stages: &Stages, graph: &Graph, nodes: &[PageNode], ids: &[NodeId]) -> PageStage {
    let first = graph.node(ids[0]);
    let mut axes: Vec<(String, Vec<String>)> = Vec::new();
    let mut labels: Vec<HashSet<&str>> = Vec::new();
    let mut counts = StatusCounts::default();
    let mut profiles = BTreeSet::new();
    let mut whys: BTreeMap<&str, usize> = BTreeMap::new();
    let mut params: Vec<(String, BTreeSet<&str>)> = Vec::new();
    let mut seconds = 0.0;
    for id in ids {
        let node = &nodes[id.index()];
        for (axis, label) in &node.point {
            let place = axes.iter().position(|(name, _)| name == axis);
            let place = place.unwrap_or_else(|| {
                axes.push((axis.clone(), Vec::new()));
                labels.push(HashSet::new());
                axes.len() - 1
            });
            if labels[place].insert(label) {
                axes[place].1.push(label.clone());
            }
        }
        match &node.status {
            Status::Ran => counts.ran += 1,
            Status::Known => counts.known += 1,
            Status::Failed => counts.failed += 1,
            Status::Skipped { .. } => counts.skipped += 1,
            Status::Running { .. } => counts.running += 1,
            Status::Missing => counts.missing += 1,
        }
        if !node.profile.is_empty() {
            profiles.insert(node.profile.clone());
        }
        if let Some(why) = &node.why {
            *whys.entry(why).or_default() += 1;
        }
        seconds += node.seconds.unwrap_or(0.0);
        for (name, value) in &node.params {
            match params.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => drop(values.insert(value)),
                None => params.push((name.clone(), [value.as_str()].into())),
            }
        }
    }
    let mut arms: Vec<String> = Vec::new();
    let mut known: HashSet<&str> = HashSet::new();
    for arm in ids.iter().map(|id| stages.arm(graph.node(*id))) {
        if !arm.is_empty() && known.insert(arm) {
            arms.push(arm.to_owned());
        }
    }
    let mut whys: Vec<(String, usize)> =
        whys.into_iter().map(|(why, count)| (why.to_owned(), count)).collect();
    whys.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let joined = |values: BTreeSet<&str>| match values.len() {
        0..=6 => values.into_iter().collect::<Vec<_>>().join(" | "),
        n => format!("{n} values"),
    };
    PageStage {
        name: first.stage.clone(),
        kind: first.kind_name(),
        description: first.settings.description.clone(),
        is_source: first.is_source(),
        axes,
        arms,
        nodes: ids.iter().map(|id| id.0).collect(),
        counts,
        seconds,
        profiles: profiles.into_iter().collect(),
        whys,
        params: params.into_iter().map(|(name, values)| (name, joined(values))).collect(),
    }
}

/// Collects the nodes.
pub(super) fn nodes(
    input: &PageInput<'_>,
    stages: &Stages,
    known: &[Option<NodeState>],
) -> Result<Vec<PageNode>, StateError> {
    let of_course = input.course.iter().flat_map(|course| &course.nodes);
    let course: HashMap<&str, &NodeCourse> =
        of_course.map(|node| (node.node.as_str(), node)).collect();
    let ended = input.course.as_ref().is_some_and(|course| course.end.is_some());
    let one = |id: NodeId| {
        let node = input.graph.node(id);
        let (done, course) = (known[id.index()].as_ref(), course.get(node.name.as_str()).copied());
        let recorded = match (done, input.store) {
            (Some(done), Some(store)) => store.made(&done.key)?.map(|made| made.seconds),
            _ => None,
        };
        let reason = input.last.reasons.get(&node.name);
        let why = reason.filter(|reason| done.is_some_and(|done| done.key == reason.key));
        let result = done.map(|done| done.result.clone()).unwrap_or_default();
        Ok(PageNode {
            name: node.name.clone(),
            stage: stages.stage_of[id.index()],
            point: node.point.clone(),
            arm: stages.arm(node).to_owned(),
            status: status(done, recorded.is_some(), course, ended),
            why: why.map(|reason| reason.why.clone()),
            seconds: recorded.or(course.and_then(|course| course.seconds)),
            started: course.and_then(|course| course.started),
            ended: course.and_then(|course| course.ended),
            key: done.map(|done| done.key),
            file: done.and_then(|done| done.file),
            outputs: result.artifacts,
            metrics: result.metrics,
            profile: result.profile,
            inputs: node
                .inputs
                .iter()
                .map(|edge| (edge.path.clone(), edge.node.0, edge.output.clone()))
                .collect(),
            params: params(node),
        })
    };
    input.graph.ids().map(one).collect()
}

/// The status of a node; `is_recorded` says that the cache holds its result, which a lock may name
/// without it.
fn status(
    done: Option<&NodeState>,
    is_recorded: bool,
    course: Option<&NodeCourse>,
    ended: bool,
) -> Status {
    match course.map(|course| &course.outcome) {
        // A result is recorded a moment before the log says so.
        Some(NodeOutcome::Ran) if done.is_some() => Status::Ran,
        Some(NodeOutcome::Running) if is_recorded => Status::Ran,
        Some(NodeOutcome::Running | NodeOutcome::Waiting) if !ended && !is_recorded => {
            Status::Running { progress: course.and_then(|course| course.progress.clone()) }
        }
        Some(NodeOutcome::Failed) if !is_recorded => Status::Failed,
        Some(NodeOutcome::Skipped { because }) if !is_recorded => {
            Status::Skipped { because: because.clone() }
        }
        _ if done.is_some() => Status::Known,
        _ => Status::Missing,
    }
}

/// The parameters of a stage that say anything: those that are neither null nor empty.
fn params(node: &Node) -> Vec<(String, String)> {
    let Work::Stage { params, .. } = &node.work else { return Vec::new() };
    let shown = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.is_empty() => None,
        Value::Object(map) if map.is_empty() => None,
        other => Some(other.to_string()),
    };
    params.iter().filter_map(|(name, value)| Some((name.to_owned(), shown(value)?))).collect()
}

/// Collects the edges between stages.
pub(super) fn edges(graph: &Graph) -> Vec<Edge> {
    let labels = edge_labels(graph);
    let edges = StageGraph::of(graph).edges.into_iter();
    edges.map(|(from, to)| Edge { from, to, arms: labels.get(&(from, to)).cloned() }).collect()
}
