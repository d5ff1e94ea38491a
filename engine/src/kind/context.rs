//! The context of a running stage: parameters, inputs, a place for its outputs, progress and cancellation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::{Span, debug, dispatcher, info};

use refrain_cache::{Artifact, Cache, Digest, Unfinished};

use crate::language::explain::{ErrorClass, Explain};

use super::machine::Machine;
use super::pins::Pins;
use super::served::ServedSpec;

/// Longest time before a waiting thread notices cancellation.
const NOTICED: Duration = Duration::from_millis(50);

/// A request to stop, shared by everything that runs; what has a time limit is asked to stop by it too.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    asked: Arc<AtomicBool>,
    deadline: Option<Instant>,
}

impl Cancel {
    /// Asks everything to stop at the next safe point.
    pub fn cancel(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// The same request, which comes by itself when `limit` has passed.
    pub fn within(&self, limit: Duration) -> Cancel {
        Cancel { asked: self.asked.clone(), deadline: Instant::now().checked_add(limit) }
    }

    /// Whether a stop was asked for, or the time is over.
    pub fn is_cancelled(&self) -> bool {
        self.is_asked() || self.is_late()
    }

    /// Whether a stop was asked for.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Whether the time is over.
    pub fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Waits, or ends with [`StageError::Cancelled`] when a stop is asked for meanwhile.
    pub fn pause(&self, pause: Duration) -> Result<(), StageError> {
        let begin = Instant::now();
        loop {
            self.check()?;
            let left = pause.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(NOTICED));
        }
    }

    /// [`StageError::Cancelled`] when a stop was asked for.
    pub fn check(&self) -> Result<(), StageError> {
        if self.is_cancelled() { Err(StageError::Cancelled) } else { Ok(()) }
    }
}

/// An input of a node, ready to be read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A Parquet file.
    Table {
        /// Its path.
        path: PathBuf,
        /// Its artifact.
        artifact: Artifact,
    },
    /// A model: a folder in Hugging Face layout, and adapters to apply to it in order.
    Model {
        /// The folder with the weights.
        folder: PathBuf,
        /// Folders of LoRA adapters, the one nearest the base first.
        adapters: Vec<PathBuf>,
        /// The digest of the outermost folder.
        artifact: Artifact,
        /// The digests of what the outermost adapter is applied to, the outermost first; empty for a
        /// whole model.
        bases: Vec<Digest>,
        /// The server that computes it; the folder then holds no weights, but the tokenizer.
        #[serde(skip)]
        served: Option<Arc<ServedSpec>>,
    },
    /// Any other file.
    File {
        /// Its path.
        path: PathBuf,
        /// Its artifact.
        artifact: Artifact,
    },
    /// Any other folder.
    Folder {
        /// Its path.
        path: PathBuf,
        /// Its artifact.
        artifact: Artifact,
    },
}

impl Input {
    /// Returns the artifact of the input.
    pub fn artifact(&self) -> &Artifact {
        match self {
            Input::Table { artifact, .. }
            | Input::Model { artifact, .. }
            | Input::File { artifact, .. }
            | Input::Folder { artifact, .. } => artifact,
        }
    }

    /// The outermost file or folder of the input.
    pub fn path(&self) -> &PathBuf {
        match self {
            Input::Table { path, .. } | Input::File { path, .. } | Input::Folder { path, .. } => {
                path
            }
            Input::Model { folder, adapters, .. } => adapters.last().unwrap_or(folder),
        }
    }
}

/// The resources of a node. They cannot change a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Threads, at least 1.
    pub threads: usize,
    /// Graphics cards that the stage declares; 0 where it does not.
    pub gpus: usize,
    /// Rows computed together; `None` lets the stage choose.
    pub batch: Option<usize>,
    /// Requests that a server is asked at once; `None` lets the stage choose.
    pub requests: Option<usize>,
    /// Bytes of memory that the stage declares; `None` where it does not say.
    pub memory: Option<u64>,
    /// Bytes of memory that all running nodes may need together.
    pub memory_limit: u64,
}

/// Reports the progress of one node, as events in its span.
#[derive(Debug)]
pub struct Progress {
    span: Span,
    /// Shortest time between two reports, but for the last one.
    every: Duration,
    last: Mutex<Instant>,
}

impl Default for Progress {
    /// Reports nothing.
    fn default() -> Progress {
        Progress::new(Span::none(), Duration::ZERO)
    }
}

impl Progress {
    /// Reports in the span of a node, no more often than `every`.
    pub fn new(span: Span, every: Duration) -> Progress {
        Progress { span, every, last: Mutex::new(Instant::now()) }
    }

    /// Reports that `done` of `total` units are finished.
    pub fn set(&self, done: u64, total: Option<u64>, unit: &'static str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < self.every && Some(done) != total {
            return;
        }
        *last = Instant::now();
        drop(last);

        self.emit(|| debug!(name: "progress", parent: &self.span, done, total, unit, "progress"));
    }

    /// Reports a remark or warning for people.
    pub fn note(&self, text: impl Into<String>) {
        let text: String = text.into();
        self.emit(|| info!(name: "note", parent: &self.span, "{text}"));
    }

    /// Emits an event to the subscriber of the span: a thread of the stage's own may have none.
    fn emit(&self, event: impl Fn()) {
        let emitted = self.span.with_subscriber(|(_, to)| dispatcher::with_default(to, &event));
        emitted.unwrap_or_default();
    }
}

/// The argument of a stage's function.
pub struct Context<'a> {
    /// Semantic parameters and knobs, typed, with defaults, references removed.
    pub params: &'a Map<String, Value>,
    /// The inputs by the path of their parameter: `data`, `inputs.tool`, `mix[0].data`.
    pub inputs: &'a BTreeMap<String, Input>,
    /// The cache that outputs are written to.
    pub cache: &'a Cache,
    /// The checkpoints of a long run, for the next run of the same key; removed when the node is done.
    pub unfinished: Unfinished<'a>,
    /// Whether all is computed again, also what the row memo knows (`--force`).
    pub fresh: bool,
    /// The resources of the node.
    pub resources: Resources,
    /// The sink of its progress.
    pub progress: &'a Progress,
    /// Asked at every batch.
    pub cancel: &'a Cancel,
    /// Resolves `${env:NAME}`; the result must never be kept or shown.
    pub environment: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// The program of this process, which a stage starts anew to confine what it runs.
    pub own_program: Option<&'a Path>,
    /// The programs and servers that the machine's configuration names. They cannot change a key.
    pub machine: &'a Machine,
    /// Facts about models that are found out once.
    pub pins: &'a Pins,
}

impl Context<'_> {
    /// The parameters as a type of the stage's own.
    pub fn parameters<T: DeserializeOwned>(&self) -> Result<T, StageError> {
        serde_json::from_value(Value::Object(self.params.clone()))
            .map_err(|e| StageError::bug(format!("the kind's table and its type disagree: {e}")))
    }

    /// The input at a path that the kind's table requires.
    pub fn input(&self, path: &str) -> Result<&Input, StageError> {
        self.inputs.get(path).ok_or_else(|| StageError::bug(format!("input `{path}` is missing")))
    }

    /// The file of the table at a path that the kind's table requires.
    pub fn table(&self, path: &str) -> Result<&PathBuf, StageError> {
        match self.input(path)? {
            Input::Table { path, .. } => Ok(path),
            _ => Err(StageError::bug(format!("input `{path}` is not a table"))),
        }
    }
}

/// Why a node failed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The input data or the model is wrong for this stage.
    #[error("{message}")]
    Failed {
        /// The fault, as a lowercase fragment.
        message: String,
        /// The way to mend it.
        hint: Option<String>,
    },
    /// The disk, the system or a missing backend.
    #[error("{message}")]
    Environment {
        /// The failure, as a lowercase fragment.
        message: String,
        /// The way to mend it.
        hint: Option<String>,
    },
    /// A stop was asked for.
    #[error("interrupted")]
    Cancelled,
    /// A bug in Refrain.
    #[error("internal error: {0}")]
    Bug(String),
}

impl StageError {
    /// The data or the model is wrong.
    pub fn failed(message: impl Into<String>) -> StageError {
        StageError::Failed { message: message.into(), hint: None }
    }

    /// The data or the model is wrong, and this is what to do.
    pub fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> StageError {
        StageError::Failed { message: message.into(), hint: Some(hint.into()) }
    }

    /// A bug in Refrain.
    pub fn bug(message: impl Into<String>) -> StageError {
        StageError::Bug(message.into())
    }
}

impl From<refrain_cache::CacheError> for StageError {
    fn from(error: refrain_cache::CacheError) -> StageError {
        StageError::Environment { message: error.to_string(), hint: None }
    }
}

impl From<refrain_cache::TableError> for StageError {
    fn from(error: refrain_cache::TableError) -> StageError {
        match error {
            refrain_cache::TableError::Io { .. } => {
                StageError::Environment { message: error.to_string(), hint: None }
            }
            error => StageError::failed(error.to_string()),
        }
    }
}

impl Explain for StageError {
    fn class(&self) -> ErrorClass {
        match self {
            StageError::Environment { .. } => ErrorClass::Environment,
            StageError::Cancelled => ErrorClass::Interrupted,
            StageError::Failed { .. } | StageError::Bug(_) => ErrorClass::Stage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            StageError::Failed { hint, .. } | StageError::Environment { hint, .. } => hint.clone(),
            StageError::Cancelled | StageError::Bug(_) => None,
        }
    }
}
