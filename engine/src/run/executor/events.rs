//! The events of a job's nodes, from its own file to the subscriber of the run: bars, curves and
//! remarks are as if the nodes were computed here.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber, debug, info, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use refrain_cache::Key;
use refrain_cache::write::LineFile;

use crate::run::event::{self, Fields};

/// The file in a job's folder with the events of its nodes, a line of JSON each.
const EVENTS_FILE: &str = "events.jsonl";
/// Bytes of events that are read of a job at once; the rest is read at the next look.
const MOST: u64 = 1 << 20;
/// The events that are passed on.
const PASSED_ON: [&str; 4] = ["note", "progress", "retry", "step"];
/// The line of a node that begins.
const STARTED: &str = "started";

/// An event of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::run) struct JobEvent {
    /// The name of the event.
    event: String,
    /// The number of the node in the graph of the run that made the job.
    pub node: u64,
    /// The name of the node.
    pub name: String,
    /// The fields of the event.
    fields: Map<String, Value>,
}

/// Layer: writes the events of nodes into the folder of their job, from [`JobEvents::begin`] on.
///
/// Events that cannot be written are no reason to end a job, so nothing here fails.
#[derive(Debug, Clone, Default)]
pub struct JobEvents {
    open: Arc<Mutex<Option<LineFile>>>,
}

impl JobEvents {
    /// Begins to write into the folder of a job, in the place of what an earlier start wrote.
    pub fn begin(&self, folder: &Path) {
        let path = folder.join(EVENTS_FILE);
        // A job that starts for the first time has none.
        let _none = refrain_cache::write::remove_file(&path);
        *self.open() = LineFile::create(&path).ok();
    }

    fn write(&self, event: &JobEvent) {
        let mut open = self.open();
        let Some(file) = open.as_mut() else { return };
        let text = serde_json::to_string(event).expect("names and numbers are JSON");
        if file.push(&text).and_then(|()| file.flush()).is_err() {
            *open = None;
        }
    }

    /// Locks the file; a thread that panicked left whole lines.
    fn open(&self) -> MutexGuard<'_, Option<LineFile>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JobEvents {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        if attributes.metadata().name() != "node" || self.open().is_none() {
            return;
        }
        let fields = Fields::of_span(attributes);
        if let (Some(node), Some(name)) = (fields.number("node"), fields.text("name")) {
            let (event, name) = (STARTED.to_owned(), name.to_owned());
            self.write(&JobEvent { event, node, name, fields: to_map(&fields) });
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let name = event.metadata().name();
        if !PASSED_ON.contains(&name) || self.open().is_none() {
            return;
        }
        let fields = Fields::of_event(event);
        if let Some(of) = event::node_of(event, &fields, &context) {
            let event = name.to_owned();
            self.write(&JobEvent { event, node: of.node, name: of.name, fields: to_map(&fields) });
        }
    }
}

fn to_map(fields: &Fields) -> Map<String, Value> {
    match serde_json::to_value(fields) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// Reads the events of a job as they are written.
#[derive(Debug, Default)]
pub(super) struct EventReader {
    /// Offset of the first line that was not read.
    end: u64,
}

impl EventReader {
    /// Returns the events since the last call. Lines that are not events are passed over.
    pub fn read(&mut self, folder: &Path) -> Vec<JobEvent> {
        let mut bytes = Vec::new();
        let end = self.end;
        let read = || -> io::Result<()> {
            let mut file = File::open(folder.join(EVENTS_FILE))?;
            file.seek(SeekFrom::Start(end))?;
            file.take(MOST).read_to_end(&mut bytes)?;
            Ok(())
        };
        // A job that has not begun has no events.
        let _none: io::Result<()> = { read }();
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.end += whole as u64;
        let lines = bytes[..whole].split(|byte| *byte == b'\n');
        lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}

impl JobEvent {
    /// Returns the key of a node that begins; `None` for any other event.
    pub fn started(&self) -> Option<Key> {
        let key = (self.event == STARTED).then(|| self.fields.get("key"))?;
        key?.as_str()?.parse().ok()
    }

    /// Whether the event tells how far a node is.
    pub fn is_progress(&self) -> bool {
        self.event == "progress"
    }

    /// Emits the event as one of a node of this run.
    pub fn emit(&self, node: u32, name: &str) {
        let number = |field: &str| self.fields.get(field).and_then(Value::as_u64);
        let float = |field: &str| self.fields.get(field).and_then(Value::as_f64);
        let text = |field: &str| self.fields.get(field).and_then(Value::as_str).unwrap_or_default();
        let message = text("message");
        match self.event.as_str() {
            "progress" => {
                let (done, total, unit) = (number("done"), number("total"), text("unit"));
                debug!(name: "progress", node, name, done, total, unit, "progress");
            }
            "note" => info!(name: "note", node, name, "{message}"),
            "retry" => {
                let (attempt, of) = (number("attempt"), number("of"));
                warn!(name: "retry", node, name, attempt, of, "{message}");
            }
            "step" => {
                let (step, epoch, tokens) = (number("step"), number("epoch"), number("tokens"));
                let (loss, kl, rate) = (float("loss"), float("kl"), float("learning_rate"));
                let grad_norm = float("grad_norm");
                debug!(
                    name: "step",
                    node,
                    name,
                    step,
                    epoch,
                    loss,
                    kl,
                    learning_rate = rate,
                    grad_norm,
                    tokens,
                    "step"
                );
            }
            _ => {}
        }
    }
}
