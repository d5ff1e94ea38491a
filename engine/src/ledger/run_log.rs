//! The event log of a run: a line of JSON for its begin, for what became of each node, and for its end.
//!
//! Logs lie in the cache's `runs/`, named by the time at which the run began, so that their names sort by age. They say
//! which results were used when, for garbage collection, and hold keys and names only: nothing that a command printed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use refrain_cache::write::{LineFile, remove_file, touch};
use refrain_cache::{Digest, Key};

use crate::graph::{Graph, NodeId};
use crate::run::event::Event;

/// Version of the log's lines.
const VERSION: u32 = 1;
/// Most logs that are kept, beside the last one of each workflow.
const LOGS: usize = 100;
/// Most bytes of logs that are kept, beside the last one of each workflow.
const BYTES: u64 = 64 << 20;

/// What a run is of.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The workflow, as an absolute path.
    pub workflow: &'a Path,
    /// Its lock.
    pub lock: &'a Path,
    /// What was set on the command line.
    pub set: &'a [String],
    /// The name of the kept plan that such a run would use.
    pub plan: &'a str,
}

/// A line of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    /// The run begins.
    Begin {
        /// Version of the format.
        refrain: u32,
        /// The version of Refrain that runs.
        version: String,
        /// The workflow.
        workflow: PathBuf,
        /// Its lock.
        lock: PathBuf,
        /// The name of its kept plan.
        plan: String,
    },
    /// A node was found in the cache.
    Cached {
        /// Its name.
        node: String,
        /// Its key.
        key: Key,
    },
    /// A node begins.
    Started {
        /// Its name.
        node: String,
        /// Its key.
        key: Key,
    },
    /// A node ended well.
    Finished {
        /// Its name.
        node: String,
        /// Its key.
        key: Key,
        /// How long it took.
        seconds: f64,
    },
    /// A node failed.
    Failed {
        /// Its name.
        node: String,
        /// Its key, where it is known.
        key: Option<Key>,
    },
    /// The run ends.
    End {
        /// How long it took.
        seconds: f64,
        /// Whether every wanted node is done.
        complete: bool,
    },
}

/// The log of a run that is under way. A log that cannot be written is no reason to end a run, so nothing here fails.
pub struct RunLog<'a> {
    graph: &'a Graph,
    begin: Instant,
    state: Mutex<State>,
}

struct State {
    /// `None` once a line could not be written.
    file: Option<LineFile>,
    /// The keys of the nodes that are under way.
    running: HashMap<NodeId, Key>,
}

impl<'a> RunLog<'a> {
    /// Begins a log in the folder `runs`, and removes the oldest logs there.
    pub fn create(runs: &Path, run: &Run<'_>, graph: &'a Graph) -> RunLog<'a> {
        remove_oldest(runs);
        let file = create(runs, run).ok();
        let log = RunLog {
            graph,
            begin: Instant::now(),
            state: Mutex::new(State { file, running: HashMap::new() }),
        };
        let line = Line::Begin {
            refrain: VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            workflow: run.workflow.into(),
            lock: run.lock.into(),
            plan: run.plan.into(),
        };
        log.write(&mut log.state(), &line, true);
        log
    }

    /// Writes down what an event says of a node.
    pub fn event(&self, event: &Event<'_>) {
        let mut state = self.state();
        let name = |node: NodeId| self.graph.node(node).name.clone();
        match event {
            // There may be very many of these, and none says what took work.
            Event::Cached { node, key } => {
                self.write(&mut state, &Line::Cached { node: name(*node), key: **key }, false);
            }
            Event::Started { node, key } => {
                state.running.insert(*node, **key);
                self.write(&mut state, &Line::Started { node: name(*node), key: **key }, true);
            }
            Event::Finished { node, elapsed, .. } => {
                if let Some(key) = state.running.remove(node) {
                    let line =
                        Line::Finished { node: name(*node), key, seconds: elapsed.as_secs_f64() };
                    self.write(&mut state, &line, true);
                }
            }
            Event::Failed { node, .. } => {
                let key = state.running.remove(node);
                self.write(&mut state, &Line::Failed { node: name(*node), key }, true);
            }
            Event::Begin { .. }
            | Event::Progress { .. }
            | Event::Note { .. }
            | Event::Skipped { .. } => {}
        }
    }

    /// Ends the log.
    pub fn end(self, complete: bool) {
        let line = Line::End { seconds: self.begin.elapsed().as_secs_f64(), complete };
        self.write(&mut self.state(), &line, true);
    }

    fn write(&self, state: &mut State, line: &Line, flush: bool) {
        let Some(file) = &mut state.file else { return };
        let text = serde_json::to_string(line).expect("names and numbers are JSON");
        let written = file.push(&text).and_then(|()| if flush { file.flush() } else { Ok(()) });
        if written.is_err() {
            state.file = None;
        }
    }

    /// The state; a thread that panicked left whole lines.
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a log under a name that no other process has taken.
fn create(runs: &Path, run: &Run<'_>) -> io::Result<LineFile> {
    let process = std::process::id();
    let mut name = stem(run);
    loop {
        match LineFile::create(&runs.join(format!("{name}-{process:x}.jsonl"))) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => name = stem(run),
            other => return other,
        }
    }
}

fn stem(run: &Run<'_>) -> String {
    let now: DateTime<Utc> = SystemTime::now().into();
    format!("{}-{}", now.format("%Y%m%dT%H%M%S%3fZ"), tag(run))
}

/// Eight characters for the workflow and eight for what was set: the logs of one are found by name.
fn tag(run: &Run<'_>) -> String {
    let workflow = Digest::of_bytes(run.workflow.as_os_str().as_encoded_bytes()).short();
    format!("{workflow}{}", Digest::of_bytes(run.set.join("\0").as_bytes()).short())
}

/// Notes that what the last run of this workflow used is used now, where a run need not even be planned.
pub fn used(runs: &Path, run: &Run<'_>) {
    let tag = tag(run);
    let last = names(runs).into_iter().rev().find(|name| tag_of(name) == Some(tag.as_str()));
    if let Some(name) = last {
        // It is known for a use of an older time where it cannot be written.
        let _older = touch(&runs.join(name));
    }
}

/// The tag in the name of a log.
fn tag_of(name: &str) -> Option<&str> {
    name.strip_suffix(".jsonl")?.split('-').nth(1)
}

/// The names of the logs, the oldest first.
fn names(runs: &Path) -> Vec<String> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| tag_of(name).is_some());
    names.sort_unstable();
    names
}

/// Keeps the newest logs, and of each workflow the last: by it garbage collection finds the workflow's lock.
fn remove_oldest(runs: &Path) {
    let (mut kept, mut bytes, mut workflows) = (0, 0, HashSet::new());
    for name in names(runs).into_iter().rev() {
        let workflow = tag_of(&name).and_then(|tag| tag.get(..8)).unwrap_or_default().to_string();
        let path = runs.join(&name);
        bytes += path.metadata().map_or(0, |metadata| metadata.len());
        let last = workflows.insert(workflow);
        // One more is about to begin.
        if kept + 1 < LOGS && bytes <= BYTES || last {
            kept += 1;
        } else {
            // Another process may have been faster.
            let _gone = remove_file(&path);
        }
    }
}

/// A log that was read.
#[derive(Debug, Clone)]
pub struct Log {
    /// The workflow.
    pub workflow: PathBuf,
    /// Its lock.
    pub lock: PathBuf,
    /// The name of its kept plan.
    pub plan: String,
    /// When the run began.
    pub began: SystemTime,
    /// When it was last written or touched.
    pub used: SystemTime,
    /// The keys of the nodes that it found or made.
    pub keys: Vec<Key>,
}

/// Reads the logs in a folder, the oldest first. A line that is cut off and a log without a begin are passed over.
///
/// # Errors
/// Those of reading a log.
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
    let Some(Line::Begin { workflow, lock, plan, .. }) = lines.next() else { return None };
    let began = chrono::NaiveDateTime::parse_from_str(name.split('-').next()?, "%Y%m%dT%H%M%S%3fZ");
    let began = began.map_or(used, |began| began.and_utc().into());
    let keys = lines.filter_map(|line| match line {
        Line::Cached { key, .. } | Line::Started { key, .. } => Some(key),
        Line::Failed { key, .. } => key,
        Line::Begin { .. } | Line::Finished { .. } | Line::End { .. } => None,
    });
    Some(Log { workflow, lock, plan, began, used, keys: keys.collect() })
}
