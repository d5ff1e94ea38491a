//! Asks for the report of the last complete run of a workflow, which needs no plan while no file behind it has changed.

use std::path::PathBuf;

use refrain_engine::graph::Graph;
use refrain_engine::ledger::up_to_date::{self, CachedReport, Request};
use refrain_engine::plan::state::State;
use refrain_engine::store::Store;

use crate::cli::{SandboxArg, WorkflowArgs};
use crate::session::Opened;

/// Everything that a kept report depends on beside files.
pub struct UpToDateInput {
    text: String,
    path: PathBuf,
    cache: PathBuf,
    set: Vec<String>,
    build: String,
    lock: Option<PathBuf>,
}

impl UpToDateInput {
    /// Collects it for the workflow of the command line; `None` where no report is kept.
    pub fn new(arguments: &WorkflowArgs, opened: &Opened) -> Option<UpToDateInput> {
        if arguments.sandbox == SandboxArg::Weaker {
            return None;
        }
        let set = arguments.set.clone();
        Some(UpToDateInput {
            text: opened.source.text.clone(),
            path: std::path::absolute(&opened.source.path).ok()?,
            cache: opened.cache.clone(),
            lock: set.is_empty().then(|| std::path::absolute(&opened.lock)).transpose().ok()?,
            set,
            build: build()?,
        })
    }

    /// Returns the report of the last complete run, if none of the files behind it has changed.
    pub fn find(&self) -> Option<CachedReport> {
        up_to_date::find(&self.request())
    }

    /// Keeps the report of a complete run.
    pub fn keep(&self, graph: &Graph, store: &Store, state: &State<'_>, report: CachedReport) {
        up_to_date::keep(&self.request(), graph, store, state, report);
    }

    fn request(&self) -> Request<'_> {
        Request {
            text: self.text.as_bytes(),
            path: &self.path,
            cache: &self.cache,
            set: &self.set,
            build: &self.build,
            lock: self.lock.as_deref(),
        }
    }
}

/// This build: its version, and its file as the system knows it.
fn build() -> Option<String> {
    let metadata = std::env::current_exe().and_then(std::fs::metadata).ok()?;
    let modified = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(format!("{} {} {}", env!("CARGO_PKG_VERSION"), metadata.len(), modified.as_nanos()))
}
