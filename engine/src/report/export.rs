//! The figures of a workflow as trackers of experiments keep them: a run for each node that has any.

mod curves;

use std::collections::HashMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde_json::Value;

use refrain_cache::{Digest, Key, Metric, TableError};

use crate::graph::{Edge, Graph, Node, NodeId, Work};
use crate::kind::{ArtifactKind, MAIN};
use crate::ledger::lock::Lock;
use crate::ledger::run_log::{NodeOutcome, RunCourse};
use crate::plan;
use crate::plan::state::{NodeState, StateError};
use crate::report::results;
use crate::store::Store;

pub use curves::Curve;

/// The output in which a training writes its steps.
const LOG: &str = "log";

/// Everything that an export is made from.
pub struct ExportInput<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The lock.
    pub lock: &'a Lock,
    /// The cache, where there is one.
    pub store: Option<&'a Store>,
    /// The logged runs of the workflow, the last one first.
    pub courses: Vec<RunCourse>,
}

/// The figures of a workflow.
#[derive(Debug, Clone)]
pub struct Export {
    /// The workflow's name.
    pub name: String,
    /// The question that it asks.
    pub description: Option<String>,
    /// The version of Refrain that wrote the lock.
    pub version: String,
    /// The nodes with figures, inputs before their readers.
    pub runs: Vec<ExportedRun>,
    /// Nodes without a result.
    pub missing: usize,
    /// Trainings whose curves the cache lacks.
    pub without_curves: usize,
}

/// A node with its figures.
#[derive(Debug, Clone)]
pub struct ExportedRun {
    /// Its name, with its point.
    pub name: String,
    /// The name of its stage.
    pub stage: String,
    /// Its kind.
    pub kind: &'static str,
    /// The description of its stage.
    pub description: Option<String>,
    /// Its point: names of axes and labels.
    pub point: Vec<(String, String)>,
    /// Its parameters: `lora.rank` for one inside of another.
    pub params: Vec<(String, String)>,
    /// Its metrics.
    pub metrics: Vec<Metric>,
    /// The table with its figures by step, where the cache has it.
    log: Option<PathBuf>,
    /// Its key.
    pub key: Key,
    /// The digests of its outputs.
    pub outputs: Vec<(String, Digest)>,
    /// The parameters that refer to other nodes: parameter, node and output, digest.
    pub inputs: Vec<(String, String, Digest)>,
    /// The backend and device.
    pub profile: String,
    /// When it was computed, where a log tells it.
    pub times: Option<Times>,
}

/// Begin and end in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The begin.
    pub begin: i64,
    /// The end.
    pub end: i64,
}

/// Formats a time in milliseconds since 1970, as RFC 3339 has it.
pub fn utc(milliseconds: i64) -> String {
    let time = DateTime::<Utc>::from_timestamp_millis(milliseconds).unwrap_or_default();
    time.format("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string()
}

impl Export {
    /// Collects the figures from lock, cache and logs.
    ///
    /// # Errors
    /// [`StateError`] where sources cannot be hashed or the cache cannot be read.
    pub fn collect(input: &ExportInput<'_>) -> Result<Export, StateError> {
        let ExportInput { graph, lock, store, courses } = input;
        let plan = store.map(|store| plan::look_up(graph, store)).transpose()?;
        let known = results::known(graph, lock, plan.as_ref());
        let times = times(courses);

        let found = graph.ids().filter_map(|id| run(graph, *store, &known, &times, id));
        let runs: Vec<ExportedRun> = found.collect();
        let has_log = |run: &&ExportedRun| run.outputs.iter().any(|(name, _)| name == LOG);
        let missing = |id: &NodeId| !graph.node(*id).is_source() && known[id.index()].is_none();
        let about = &graph.workflow.about;
        Ok(Export {
            name: graph.workflow.name.clone(),
            description: about.description.clone(),
            version: lock.version.clone(),
            missing: graph.ids().filter(missing).count(),
            without_curves: runs.iter().filter(|run| run.log.is_none()).filter(has_log).count(),
            runs,
        })
    }
}

impl ExportedRun {
    /// Reads its figures by step; none where the cache lacks their table.
    ///
    /// # Errors
    /// [`TableError`] where the table is damaged.
    pub fn curves(&self) -> Result<Vec<Curve>, TableError> {
        self.log.as_deref().map_or(Ok(Vec::new()), curves::read)
    }
}

/// When the results of nodes were computed, by node and key, as the last log that tells it says.
fn times(courses: &[RunCourse]) -> HashMap<(&str, Key), Times> {
    let mut times = HashMap::new();
    for course in courses {
        let Some(began) = course.began_at else { continue };
        let at = |seconds: f64| began.saturating_add((seconds * 1000.0).round() as i64);
        for node in course.nodes.iter().filter(|node| node.outcome == NodeOutcome::Ran) {
            let told = (node.key, node.started, node.ended);
            if let (Some(key), Some(started), Some(ended)) = told {
                let of = Times { begin: at(started), end: at(ended) };
                times.entry((node.node.as_str(), key)).or_insert(of);
            }
        }
    }
    times
}

/// Collects a node that has figures.
fn run(
    graph: &Graph,
    store: Option<&Store>,
    known: &[Option<NodeState>],
    times: &HashMap<(&str, Key), Times>,
    id: NodeId,
) -> Option<ExportedRun> {
    let (node, done) = (graph.node(id), known[id.index()].as_ref()?);
    let artifacts = &done.result.artifacts;
    let log = artifacts.get(LOG).filter(|log| log.kind == ArtifactKind::Table);
    if node.is_source() || (done.result.metrics.is_empty() && log.is_none()) {
        return None;
    }

    let path = log.and_then(|log| Some(store?.object_path(&log.digest)));
    let input = |edge: &Edge| {
        let of = known[edge.node.index()].as_ref()?.result.artifacts.get(&edge.output)?;
        let name = &graph.node(edge.node).name;
        let name = match edge.output.as_str() {
            MAIN => name.clone(),
            output => format!("{name}.{output}"),
        };
        Some((edge.path.clone(), name, of.digest))
    };
    Some(ExportedRun {
        name: node.name.clone(),
        stage: node.stage.clone(),
        kind: node.kind_name(),
        description: node.settings.description.clone(),
        point: node.point.clone(),
        params: params(node),
        metrics: done.result.metrics.clone(),
        log: path.filter(|path| path.exists()),
        key: done.key,
        outputs: artifacts.iter().map(|(name, of)| (name.to_owned(), of.digest)).collect(),
        inputs: node.inputs.iter().filter_map(input).collect(),
        profile: done.result.profile.clone(),
        times: times.get(&(node.name.as_str(), done.key)).copied(),
    })
}

/// The parameters of a stage that say anything, those inside of others by their paths.
fn params(node: &Node) -> Vec<(String, String)> {
    let Work::Stage { params, .. } = &node.work else { return Vec::new() };
    let mut flat = Vec::new();
    for (name, value) in params.iter() {
        flatten(name, value, &mut flat);
    }
    flat
}

fn flatten(name: &str, value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Array(items) if items.is_empty() => {}
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| flatten(&format!("{name}.{key}"), value, into));
        }
        Value::String(text) => into.push((name.to_owned(), text.clone())),
        other => into.push((name.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ledger::run_log::NodeCourse;

    #[test]
    fn parameters_inside_of_others_have_paths() {
        let mut flat = Vec::new();
        flatten("lora", &json!({ "rank": 2, "targets": ["q", "v"], "from": null }), &mut flat);
        flatten("stop", &json!([]), &mut flat);
        flatten("order", &json!("given"), &mut flat);
        let expected = [("lora.rank", "2"), ("lora.targets", "[\"q\",\"v\"]"), ("order", "given")];
        assert_eq!(flat, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn times_are_those_of_the_last_run_that_computed_the_key() {
        let [old, new] = ["a", "b"].map(|digit| digit.repeat(64).parse::<Key>().expect("a key"));
        let course = |began: i64, key: Key, outcome: NodeOutcome| RunCourse {
            began_at: Some(began),
            nodes: vec![NodeCourse {
                node: "n".into(),
                key: Some(key),
                outcome,
                started: Some(0.25),
                ended: Some(1.5),
                ..NodeCourse::default()
            }],
            ..RunCourse::default()
        };
        let courses = [
            course(4000, new, NodeOutcome::Failed),
            course(3000, new, NodeOutcome::Ran),
            course(2000, old, NodeOutcome::Ran),
            course(1000, old, NodeOutcome::Ran),
        ];
        let times = times(&courses);
        assert_eq!(times[&("n", new)], Times { begin: 3250, end: 4500 });
        assert_eq!(times[&("n", old)], Times { begin: 2250, end: 3500 });
    }
}
