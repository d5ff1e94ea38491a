//! Reads the logs of earlier runs: for garbage collection, and for what is known of a workflow's
//! nodes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use refrain_cache::{Digest, Key};

use super::{Reason, RunLogEntry, names, tag_of};

/// A log that was read.
#[derive(Debug, Clone)]
pub struct Log {
    /// The workflow.
    pub workflow: PathBuf,
    /// Its lock.
    pub lock: PathBuf,
    /// The name of its kept plan.
    pub plan: String,
    /// The folder in which the log lay when it was written.
    pub runs: PathBuf,
    /// When the run began.
    pub began: SystemTime,
    /// When it was last written or touched.
    pub used: SystemTime,
    /// The keys of the nodes that it found or made.
    pub keys: Vec<Key>,
}

/// The nodes of a workflow in its last runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LastRuns {
    /// Why each node was computed when it last was, by name.
    pub reasons: HashMap<String, Reason>,
    /// The nodes that failed in the last run.
    pub failed: HashSet<String>,
}

/// Reads the logs of a workflow, an absolute path; one that cannot be read says nothing.
pub fn last_runs(runs: &Path, workflow: &Path) -> LastRuns {
    let tag = Digest::of_bytes(workflow.as_os_str().as_encoded_bytes()).short();
    let is_of = |name: &String| tag_of(name).is_some_and(|found| found.starts_with(&tag));
    let mut last = LastRuns::default();
    for (age, name) in names(runs).into_iter().rev().filter(is_of).enumerate() {
        let text = fs::read(runs.join(&name)).unwrap_or_default();
        for line in text.split(|byte| *byte == b'\n') {
            // Only these lines are of use here; a training may have written very many others.
            let is_why = line.starts_with(b"{\"event\":\"why\"");
            if !is_why && !line.starts_with(b"{\"event\":\"failed\"") {
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(RunLogEntry::Why(reason)) => {
                    last.reasons.entry(reason.node.clone()).or_insert(reason);
                }
                Ok(RunLogEntry::Failed { node, .. }) if age == 0 => {
                    last.failed.insert(node);
                }
                _ => {}
            }
        }
    }
    last
}

/// Reads the logs in a folder, the oldest first. Truncated lines and logs without a begin are
/// skipped.
///
/// # Errors
/// [`io::Error`] for a log that cannot be read.
pub fn read(runs: &Path) -> io::Result<Vec<Log>> {
    let mut logs = Vec::new();
    for name in names(runs) {
        let path = runs.join(&name);
        let (text, used) =
            match fs::read(&path).and_then(|text| Ok((text, path.metadata()?.modified()?))) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                read => read?,
            };
        logs.extend(log(&name, &text, used));
    }
    Ok(logs)
}

fn log(name: &str, text: &[u8], used: SystemTime) -> Option<Log> {
    let mut lines =
        text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let Some(RunLogEntry::Begin { workflow, lock, plan, runs, .. }) = lines.next() else {
        return None;
    };
    let began = chrono::NaiveDateTime::parse_from_str(name.split('-').next()?, "%Y%m%dT%H%M%S%3fZ");
    let began = began.map_or(used, |began| began.and_utc().into());
    let keys = lines.filter_map(|line| match line {
        RunLogEntry::Cached { key, .. } | RunLogEntry::Started { key, .. } => Some(key),
        RunLogEntry::Failed { key, .. } => key,
        _ => None,
    });
    Some(Log { workflow, lock, plan, runs, began, used, keys: keys.collect() })
}
