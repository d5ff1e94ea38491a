//! The course of a run, node by node, as its log tells it: for reports, and while it is under way.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use refrain_cache::{Digest, Key};

use super::{RunLogEntry, names, tag_of};

/// A run as its log tells it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunCourse {
    /// When it began: `2026-11-26 07:31:13 UTC`.
    pub began: String,
    /// The same in milliseconds since 1970.
    pub began_at: Option<i64>,
    /// The version of Refrain that ran.
    pub version: String,
    /// Its nodes, in the order in which they are first mentioned.
    pub nodes: Vec<NodeCourse>,
    /// Its duration in seconds, and whether every wanted node was done; `None` while it is under
    /// way, or when it was killed.
    pub end: Option<(f64, bool)>,
}

/// A node in a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeCourse {
    /// Its name.
    pub node: String,
    /// The key under which it was computed, where it was.
    pub key: Option<Key>,
    /// Its outcome so far.
    pub outcome: NodeOutcome,
    /// When it began, in seconds since the run began.
    pub started: Option<f64>,
    /// When it ended.
    pub ended: Option<f64>,
    /// Its duration.
    pub seconds: Option<f64>,
    /// Its progress, while it runs.
    pub progress: Option<NodeProgress>,
    /// The steps of its training: number and loss.
    pub steps: Vec<(u64, f64)>,
    /// Attempts that failed.
    pub retries: u64,
    /// Why it was computed.
    pub why: Option<String>,
}

/// The progress of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeProgress {
    /// Units finished.
    pub done: u64,
    /// Units in all, where known.
    pub total: Option<u64>,
    /// The unit.
    pub unit: String,
}

/// The outcome of a node in a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum NodeOutcome {
    /// It was found in the cache.
    #[default]
    Cached,
    /// It is under way, or the run was killed.
    Running,
    /// Another process computes it.
    Waiting,
    /// It was computed.
    Ran,
    /// It failed.
    Failed,
    /// A node that it reads failed.
    Skipped {
        /// The node that failed.
        because: String,
    },
}

/// Reads the runs of a workflow, an absolute path, the last one first.
pub fn courses(runs: &Path, workflow: &Path) -> impl Iterator<Item = RunCourse> + use<> {
    let tag = Digest::of_bytes(workflow.as_os_str().as_encoded_bytes()).short();
    let is_of = move |name: &String| tag_of(name).is_some_and(|found| found.starts_with(&tag));
    let runs = runs.to_path_buf();
    let names = names(&runs).into_iter().rev().filter(is_of);
    names.filter_map(move |name| read(&name, &fs::read(runs.join(&name)).ok()?))
}

/// Reads the last run of a workflow, an absolute path, that computed anything; the last one where
/// none did.
pub fn course(runs: &Path, workflow: &Path) -> Option<RunCourse> {
    let mut last = None;
    for course in courses(runs, workflow) {
        if course.nodes.iter().any(|node| !matches!(node.outcome, NodeOutcome::Cached)) {
            return Some(course);
        }
        last.get_or_insert(course);
    }
    last
}

/// Reads a log; lines that were cut off say nothing.
fn read(name: &str, text: &[u8]) -> Option<RunCourse> {
    let lines = text.split(|byte| *byte == b'\n');
    let mut lines = lines.filter_map(|line| serde_json::from_slice::<RunLogEntry>(line).ok());
    let Some(RunLogEntry::Begin { version, .. }) = lines.next() else { return None };
    let began = chrono::NaiveDateTime::parse_from_str(name.split('-').next()?, "%Y%m%dT%H%M%S%3fZ");
    let began = began.map(|began| began.and_utc()).ok();
    let mut course = RunCourse {
        began: began.map_or(String::new(), |b| b.format("%Y-%m-%d %H:%M:%S UTC").to_string()),
        began_at: began.map(|began| began.timestamp_millis()),
        version,
        ..RunCourse::default()
    };

    let mut places: HashMap<String, usize> = HashMap::new();
    for line in lines {
        if let RunLogEntry::End { seconds, complete } = line {
            course.end = Some((seconds, complete));
            continue;
        }
        let Some(name) = node_of(&line) else { continue };
        let place = *places.entry(name.to_owned()).or_insert_with(|| {
            course.nodes.push(NodeCourse { node: name.to_owned(), ..NodeCourse::default() });
            course.nodes.len() - 1
        });
        course.nodes[place].apply(line);
    }
    Some(course)
}

/// The node that a line is about.
fn node_of(line: &RunLogEntry) -> Option<&str> {
    match line {
        RunLogEntry::Cached { node, .. }
        | RunLogEntry::Started { node, .. }
        | RunLogEntry::Finished { node, .. }
        | RunLogEntry::Failed { node, .. }
        | RunLogEntry::Progress { node, .. }
        | RunLogEntry::Step { node, .. }
        | RunLogEntry::Retry { node, .. }
        | RunLogEntry::Waiting { node }
        | RunLogEntry::Skipped { node, .. } => Some(node),
        RunLogEntry::Why(reason) => Some(&reason.node),
        _ => None,
    }
}

impl NodeCourse {
    /// Applies a line about the node.
    fn apply(&mut self, line: RunLogEntry) {
        match line {
            RunLogEntry::Cached { .. } => self.outcome = NodeOutcome::Cached,
            RunLogEntry::Started { key, at, .. } => {
                self.outcome = NodeOutcome::Running;
                (self.key, self.started) = (Some(key), at);
            }
            RunLogEntry::Finished { seconds, at, .. } => {
                self.outcome = NodeOutcome::Ran;
                (self.ended, self.seconds, self.progress) = (at, Some(seconds), None);
            }
            RunLogEntry::Failed { at, .. } => {
                self.outcome = NodeOutcome::Failed;
                (self.ended, self.progress) = (at, None);
            }
            RunLogEntry::Progress { done, total, unit, .. } => {
                self.progress = Some(NodeProgress { done, total, unit });
            }
            RunLogEntry::Step { step, loss, .. } => self.steps.push((step, loss)),
            RunLogEntry::Retry { .. } => self.retries += 1,
            RunLogEntry::Waiting { .. } => self.outcome = NodeOutcome::Waiting,
            RunLogEntry::Skipped { because, .. } => self.outcome = NodeOutcome::Skipped { because },
            RunLogEntry::Why(reason) => self.why = Some(reason.why),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_tells_what_became_of_each_node() {
        let key = "0".repeat(64);
        let text = format!(
            "{{\"event\":\"begin\",\"refrain\":1,\"version\":\"9\",\"workflow\":\"w\",\"lock\":\"l\",\"plan\":\"p\"}}\n\
             {{\"event\":\"cached\",\"node\":\"a\",\"key\":\"{key}\"}}\n\
             {{\"event\":\"started\",\"node\":\"b\",\"key\":\"{key}\",\"at\":0.5}}\n\
             {{\"event\":\"started\",\"node\":\"c\",\"key\":\"{key}\",\"at\":0.75}}\n\
             {{\"event\":\"progress\",\"node\":\"c\",\"done\":3,\"total\":9,\"unit\":\"rows\"}}\n\
             {{\"event\":\"step\",\"node\":\"c\",\"step\":2,\"loss\":1.5,\"learning_rate\":0.1,\"grad_norm\":1,\"tokens\":7}}\n\
             {{\"event\":\"finished\",\"node\":\"b\",\"key\":\"{key}\",\"seconds\":2.0,\"at\":2.5}}\n\
             {{\"event\":\"skipped\",\"node\":\"d\",\"because\":\"b\"}}\n\
             {{\"event\":\"fini"
        );
        let course = read("20261126T073113250Z-06e7a3d8af1349b9-5a95.jsonl", text.as_bytes());
        let course = course.expect("it begins");
        assert_eq!((course.began.as_str(), course.end), ("2026-11-26 07:31:13 UTC", None));
        let outcomes: Vec<(&str, &NodeOutcome)> =
            course.nodes.iter().map(|node| (node.node.as_str(), &node.outcome)).collect();
        let because = NodeOutcome::Skipped { because: "b".into() };
        assert_eq!(
            outcomes,
            [
                ("a", &NodeOutcome::Cached),
                ("b", &NodeOutcome::Ran),
                ("c", &NodeOutcome::Running),
                ("d", &because)
            ]
        );
        assert_eq!(course.began_at, Some(1_795_678_273_250));
        let (b, c) = (&course.nodes[1], &course.nodes[2]);
        assert_eq!(b.key.map(|key| key.to_string()), Some(key));
        assert_eq!((b.started, b.ended, b.seconds), (Some(0.5), Some(2.5), Some(2.0)));
        assert_eq!(c.steps, [(2, 1.5)]);
        let progress = NodeProgress { done: 3, total: Some(9), unit: "rows".into() };
        assert_eq!(c.progress, Some(progress));
    }
}
