//! Computes one node on a worker's thread and stores what it makes.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use refrain_cache::{Cache, NodeResult, Record};

use crate::graph::gather;
use crate::graph::{Node, NodeId, Work};
use crate::kind::metrics_table;
use crate::kind::{
    Cancel, Context, Input, MAIN, Outputs, Progress, ProgressSink, Resources, StageError,
};
use crate::plan::state::{Done, StateError, Todo};
use crate::run::event::{Event, Events};
use crate::source::SourceError;

/// Shortest time between two progress events of a node.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);

/// Why a node failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The stage says why.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A source is wrong.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Its inputs cannot be hashed, or the cache failed.
    #[error(transparent)]
    State(#[from] StateError),
}

/// All that a worker needs for one node.
pub(super) struct Job<'a> {
    pub id: NodeId,
    pub node: &'a Node,
    pub inputs: BTreeMap<String, Input>,
    pub cache: &'a Cache,
    pub threads: usize,
    /// Whether the node is to be computed although its outputs are known.
    pub fresh: bool,
    pub cancel: &'a Cancel,
    pub environment: &'a (dyn Fn(&str) -> Option<String> + Sync),
    pub events: Events<'a>,
}

impl Job<'_> {
    /// Computes the node until `cancel` asks to stop. A panic in a dependency becomes an error that asks for a report.
    pub fn run(&self, todo: &Todo, begin: Instant, cancel: &Cancel) -> Result<Done, Failure> {
        let outputs = catch_unwind(AssertUnwindSafe(|| self.compute(todo, begin, cancel)))
            .unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text =
                    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                Err(StageError::bug(format!(
                    "a part of Refrain gave up ({text}); please report this"
                ))
                .into())
            })?;
        let mut artifacts = outputs.artifacts;
        if !outputs.metrics.is_empty() {
            let table =
                metrics_table::store(self.cache, &outputs.metrics).map_err(StageError::from)?;
            artifacts.insert("metrics".into(), table);
        }
        if let Some(missing) = self.node.outputs.iter().find(|o| !artifacts.contains_key(&o.name)) {
            return Err(
                StageError::bug(format!("the output `{}` was not made", missing.name)).into()
            );
        }
        Ok(Done {
            key: todo.key,
            artifacts: artifacts.into(),
            metrics: outputs.metrics,
            profile: outputs.profile,
            file: todo.file,
        })
    }

    fn compute(&self, todo: &Todo, begin: Instant, cancel: &Cancel) -> Result<Outputs, Failure> {
        let settings = &self.node.settings;
        let sink = Sink { id: self.id, events: self.events, last: Mutex::new(begin) };
        match &self.node.work {
            Work::Source(spec) => Ok(Outputs::main(spec.import(self.cache)?)),
            Work::Gather { axes, rows } => {
                let tables: Vec<&Input> = (0..rows.len())
                    .filter_map(|i| self.inputs.get(&format!("tables[{i}]")))
                    .collect();
                Ok(Outputs::main(gather::gather(self.cache, axes, rows, &tables)?))
            }
            Work::Stage { kind, params } => Ok((kind.run)(&Context {
                params,
                inputs: &self.inputs,
                cache: self.cache,
                unfinished: self.cache.unfinished(&todo.key),
                fresh: self.fresh,
                resources: Resources {
                    threads: self.threads,
                    batch: settings.batch,
                    memory: settings.memory,
                },
                progress: Progress(&sink),
                cancel,
                environment: self.environment,
            })?),
            Work::Model(_) | Work::File(_) => {
                Err(StageError::bug("a model or file source is never computed").into())
            }
        }
    }
}

/// The record of a computed node.
pub(super) fn record(node: &Node, todo: &Todo, done: &Done, elapsed: Duration) -> Record {
    let result = NodeResult {
        artifacts: done.artifacts.clone(),
        metrics: done.metrics.clone(),
        profile: done.profile.clone(),
    };
    let has_main = result.artifacts.contains_key(MAIN);
    debug_assert!(has_main || node.outputs.iter().all(|o| o.name != MAIN));
    Record {
        key: todo.key,
        kind: node.kind_name().to_string(),
        result,
        seconds: elapsed.as_secs_f64(),
        manifest: todo.manifest.clone(),
        version: env!("CARGO_PKG_VERSION").to_string(),
    }
}

/// Hands a node's progress on, at most every [`PROGRESS_EVERY`].
struct Sink<'a> {
    id: NodeId,
    events: Events<'a>,
    last: Mutex<Instant>,
}

impl ProgressSink for Sink<'_> {
    fn progress(&self, done: u64, total: Option<u64>, unit: &'static str) {
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if last.elapsed() < PROGRESS_EVERY && Some(done) != total {
            return;
        }
        *last = Instant::now();
        drop(last);
        (self.events)(Event::Progress { node: self.id, done, total, unit });
    }

    fn note(&self, text: String) {
        (self.events)(Event::Note { node: self.id, text });
    }
}
