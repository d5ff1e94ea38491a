//! The log of a run: a line of JSON for its begin, for each event of a node, and for its end.
//!
//! Logs lie in the cache's `runs/`, named by the time at which the run began, so that their names
//! sort by age. They say which results were used when, for garbage collection, and hold names, keys
//! and figures only: nothing that a command printed.

mod course;
mod entry;
mod read;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use refrain_cache::write::{LineFile, remove_file, touch};
use refrain_cache::{Digest, Key};

use crate::run::event::{self, Fields, NodeOf};

pub use course::{NodeCourse, NodeOutcome, NodeProgress, RunCourse, course, courses};
pub use entry::{Reason, RunLogEntry};
pub use read::{LastRuns, Log, last_runs, read};

/// Version of the log's lines.
const VERSION: u32 = 1;
/// Most logs that are kept, beside the last one of each workflow.
const LOGS: usize = 100;
/// The longest that lines of progress wait in memory.
const PROGRESS: Duration = Duration::from_millis(400);
/// Most bytes of logs that are kept, beside the last one of each workflow.
const BYTES: u64 = 64 << 20;

/// The workflow of a run, with its files.
#[derive(Debug, Clone, Copy)]
pub struct RunInfo<'a> {
    /// The workflow, as an absolute path.
    pub workflow: &'a Path,
    /// Its lock.
    pub lock: &'a Path,
    /// The values of `--set`.
    pub set: &'a [String],
    /// The name of the kept plan that such a run would use.
    pub plan: &'a str,
}

/// Layer: writes the events of a run to its log, from [`RunLog::begin`] to [`RunLog::end`].
///
/// A log that cannot be written is no reason to end a run, so nothing here fails. Clones share one
/// log.
#[derive(Debug, Clone, Default)]
pub struct RunLog {
    open: Arc<Mutex<Option<OpenLog>>>,
}

#[derive(Debug)]
struct OpenLog {
    begin: Instant,
    file: LineFile,
    /// The keys of the nodes that are under way.
    running: HashMap<u64, Key>,
    /// When progress was last written to the file.
    progress: Instant,
}

impl RunLog {
    /// Begins a log in the folder `runs`, and removes the oldest logs there.
    pub fn begin(&self, runs: &Path, run: &RunInfo<'_>) {
        remove_oldest(runs);
        let begin = Instant::now();
        let open = |file| OpenLog { begin, file, running: HashMap::new(), progress: begin };
        *self.open() = create(runs, run).ok().map(open);

        self.write(&RunLogEntry::Begin {
            refrain: VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            workflow: run.workflow.into(),
            lock: run.lock.into(),
            plan: run.plan.into(),
            runs: runs.into(),
        });
    }

    /// Writes down why nodes were computed.
    pub fn reasons(&self, reasons: Vec<Reason>) {
        for reason in reasons {
            self.write(&RunLogEntry::Why(reason));
        }
    }

    /// Ends the log.
    pub fn end(&self, complete: bool) {
        let mut open = self.open();
        let Some(log) = open.take() else { return };
        let seconds = log.begin.elapsed().as_secs_f64();
        *open = log.write(&RunLogEntry::End { seconds, complete });
        // Dropped, it is flushed and closed.
        *open = None;
    }

    fn write(&self, line: &RunLogEntry) {
        let mut open = self.open();
        *open = open.take().and_then(|log| log.write(line));
    }

    /// Turns an event into its line.
    fn line(&self, name: &str, fields: &Fields, of: NodeOf) -> Option<RunLogEntry> {
        let NodeOf { node: number, name: node } = of;
        let key = || fields.text("key")?.parse::<Key>().ok();
        let text = |field: &str| fields.text(field).unwrap_or_default().to_owned();
        Some(match name {
            "cached" => RunLogEntry::Cached { node, key: key()? },
            "finished" => {
                let key = self.open().as_mut()?.running.remove(&number)?;
                let seconds = fields.float("seconds")?;
                RunLogEntry::Finished { node, key, seconds, at: self.at() }
            }
            "failed" => {
                let key = self.open().as_mut()?.running.remove(&number);
                RunLogEntry::Failed { node, key, at: self.at() }
            }
            "progress" => {
                let (done, total) = (fields.number("done")?, fields.number("total"));
                RunLogEntry::Progress { node, done, total, unit: text("unit") }
            }
            "step" => RunLogEntry::Step {
                node,
                step: fields.number("step")?,
                loss: fields.float("loss")?,
                learning_rate: fields.float("learning_rate")?,
                grad_norm: fields.float("grad_norm")?,
                tokens: fields.number("tokens")?,
            },
            "retry" => RunLogEntry::Retry { node, attempt: fields.number("attempt")? },
            "damaged" => RunLogEntry::Damaged { node },
            "waiting" => RunLogEntry::Waiting { node },
            "taken_over" => RunLogEntry::TakenOver { node },
            "recorded" => RunLogEntry::Recorded { node, first: fields.is_true("first") },
            "skipped" => RunLogEntry::Skipped { node, because: text("because") },
            _ => return None,
        })
    }

    /// The time since the run began, in seconds to the millisecond.
    fn at(&self) -> Option<f64> {
        let begin = self.open().as_ref()?.begin;
        Some((begin.elapsed().as_secs_f64() * 1000.0).round() / 1000.0)
    }

    /// Locks the log; a thread that panicked left whole lines.
    fn open(&self) -> MutexGuard<'_, Option<OpenLog>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenLog {
    /// Writes a line; a log that refuses one is closed.
    fn write(mut self, line: &RunLogEntry) -> Option<OpenLog> {
        let text = serde_json::to_string(line).expect("names and numbers are JSON");
        let flush = match line {
            // There may be very many nodes in the cache, and none of them took work.
            RunLogEntry::Cached { .. } => false,
            // Who watches the run wants to see it go on; a batch may take less than a millisecond.
            RunLogEntry::Progress { .. } => self.progress.elapsed() >= PROGRESS,
            _ => true,
        };
        if flush {
            self.progress = Instant::now();
        }
        let written =
            self.file.push(&text).and_then(|()| if flush { self.file.flush() } else { Ok(()) });
        written.is_ok().then_some(self)
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for RunLog {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        event::keep_node(attributes, id, &context);
        if attributes.metadata().name() != "node" || self.open().is_none() {
            return;
        }

        let fields = Fields::of_span(attributes);
        let key = fields.text("key").and_then(|key| key.parse::<Key>().ok());
        let (Some(number), Some(name), Some(key)) =
            (fields.number("node"), fields.text("name"), key)
        else {
            return;
        };
        if let Some(log) = self.open().as_mut() {
            log.running.insert(number, key);
        }
        let at = self.at();
        self.write(&RunLogEntry::Started { node: name.to_owned(), key, at });
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if !event.metadata().target().starts_with(event::TARGET) || self.open().is_none() {
            return;
        }

        let name = event.metadata().name();
        if name == "lock_written" {
            return self.write(&RunLogEntry::Lock);
        }
        let fields = Fields::of_event(event);
        let of = event::node_of(event, &fields, &context);
        if let Some(line) = of.and_then(|of| self.line(name, &fields, of)) {
            self.write(&line);
        }
    }
}

/// Opens a log under a name that no other process has taken.
fn create(runs: &Path, run: &RunInfo<'_>) -> io::Result<LineFile> {
    let process = std::process::id();
    let mut name = stem(run);
    loop {
        match LineFile::create(&runs.join(format!("{name}-{process:x}.jsonl"))) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => name = stem(run),
            other => return other,
        }
    }
}

fn stem(run: &RunInfo<'_>) -> String {
    let now: DateTime<Utc> = SystemTime::now().into();
    format!("{}-{}", now.format("%Y%m%dT%H%M%S%3fZ"), tag(run))
}

/// Eight characters for the workflow and eight for what was set: the logs of one are found by name.
fn tag(run: &RunInfo<'_>) -> String {
    let workflow = Digest::of_bytes(run.workflow.as_os_str().as_encoded_bytes()).short();
    format!("{workflow}{}", Digest::of_bytes(run.set.join("\0").as_bytes()).short())
}

/// Marks the results of the workflow's last run as used now, where a run need not even be planned.
pub fn used(runs: &Path, run: &RunInfo<'_>) {
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

/// Keeps the newest logs, and the last of each workflow, by which garbage collection finds its lock.
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
