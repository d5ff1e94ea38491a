//! Computes one node on a worker's thread and stores its outputs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{Span, debug_span, error, field, info_span};

use refrain_cache::{Cache, Key, Record};

use crate::graph::gather;
use crate::graph::{Node, NodeId, Work};
use crate::kind::machine::Machine;
use crate::kind::metrics_table;
use crate::kind::{
    Cancel, Context, Input, MAIN, NodeResult, OutputDecl, Pins, Progress, Resources, StageError,
};
use crate::plan::state::{Inputs, NodeState, PendingNode, StateError};
use crate::source::SourceError;
use crate::source::seen::HashError;

/// The shortest time between two progress events of a node.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);

/// Why a node failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The stage failed.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A source is wrong.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Its inputs cannot be hashed, or the cache failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file that it reads changed after the key was made.
    #[error("`{}` changed during the run, so the result is not recorded", .0.display())]
    Changed(PathBuf),
    /// A source that was to be fetched before.
    #[error("it is not fetched")]
    Unfetched,
}

impl NodeError {
    /// Returns the remedy, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            NodeError::Stage(
                StageError::Failed { hint, .. } | StageError::Environment { hint, .. },
            ) => hint.clone(),
            NodeError::Source(SourceError::Cache(_)) => None,
            NodeError::Source(error) => error.hint(),
            NodeError::State(StateError::Hash(HashError::Pickle { .. })) => {
                Some("convert the weights to safetensors".into())
            }
            NodeError::Changed(_) => Some("run again: the file is then taken as it is now".into()),
            NodeError::Unfetched => Some("`refrain fetch` fetches it".into()),
            NodeError::Stage(_) | NodeError::State(_) => None,
        }
    }
}

/// Opens the span of a node that is about to be computed.
pub(super) fn span(id: NodeId, node: &Node, key: &Key) -> Span {
    let (name, kind) = (node.name.as_str(), node.kind_name());
    info_span!("node", node = id.0, name, kind, key = %key)
}

/// Emits that a node failed.
pub(super) fn emit_failed(id: NodeId, node: &Node, error: &NodeError) {
    let (name, kind) = (node.name.as_str(), node.kind_name());
    let (what, hint) = (if node.is_source() { kind } else { "stage" }, error.hint());
    error!(name: "failed", node = id.0, name, what, hint, "{error}");
}

/// A node with everything that a worker needs to compute it.
pub(super) struct NodeJob<'a> {
    pub node: &'a Node,
    pub inputs: Inputs,
    pub cache: &'a Cache,
    pub threads: usize,
    /// Bytes of memory that all running nodes may need together.
    pub memory_limit: u64,
    /// Whether the node is computed although its outputs are known.
    pub fresh: bool,
    pub cancel: &'a Cancel,
    pub environment: &'a (dyn Fn(&str) -> Option<String> + Sync),
    pub own_program: Option<&'a Path>,
    pub machine: &'a Machine,
    pub pins: &'a Pins,
    /// The span of the node.
    pub span: Span,
}

impl NodeJob<'_> {
    /// Computes the node until `cancel` asks to stop, and checks that nothing which it read in its own
    /// place has changed since the key was made.
    pub fn run(&self, pending: &PendingNode, cancel: &Cancel) -> Result<NodeState, NodeError> {
        let result = self.run_unchecked(pending, cancel);
        // A change explains a failure too.
        let mut seen = self.inputs.seen.iter().chain(&pending.seen);
        match seen.find_map(|seen| seen.first_change()) {
            Some(changed) if !cancel.is_cancelled() => Err(NodeError::Changed(changed)),
            _ => result,
        }
    }

    /// Computes the node. A panic in a dependency becomes an error that asks for a report.
    fn run_unchecked(
        &self,
        pending: &PendingNode,
        cancel: &Cancel,
    ) -> Result<NodeState, NodeError> {
        let mut result = catch_unwind(AssertUnwindSafe(|| self.compute(pending, cancel)))
            .unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text =
                    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                Err(StageError::bug(format!("panicked: {text}; please report it")).into())
            })?;

        if !result.metrics.is_empty() {
            let table =
                metrics_table::store(self.cache, &result.metrics).map_err(StageError::from)?;
            result.artifacts.insert("metrics".into(), table);
        }
        let is_made = |output: &OutputDecl| result.artifacts.contains_key(&output.name);
        if let Some(missing) = self.node.outputs.iter().find(|output| !is_made(output)) {
            return Err(
                StageError::bug(format!("the output `{}` was not made", missing.name)).into()
            );
        }
        Ok(NodeState {
            key: pending.key,
            result,
            file: pending.seen.as_ref().map(|seen| seen.digest()),
            seen: pending.seen.clone(),
        })
    }

    fn compute(&self, pending: &PendingNode, cancel: &Cancel) -> Result<NodeResult, NodeError> {
        let settings = &self.node.settings;
        match &self.node.work {
            Work::Source(spec) => {
                let span = debug_span!("import", rows = field::Empty).entered();
                let table = spec.import(self.cache)?;
                span.record("rows", table.rows);
                if let Some(fewer) = spec.fewer_rows(table.rows) {
                    Progress::new(self.span.clone(), PROGRESS_EVERY).note(fewer);
                }
                Ok(NodeResult::main(table))
            }
            Work::Served(spec) => Ok(NodeResult::main(spec.import(self.cache)?)),
            Work::Gather { axes, rows } => {
                let tables: Vec<&Input> = (0..rows.len())
                    .filter_map(|i| self.inputs.by_path.get(&format!("tables[{i}]")))
                    .collect();
                Ok(NodeResult::main(gather::gather(self.cache, axes, rows, &tables)?))
            }
            Work::Stage { kind, params } => Ok((kind.run)(&Context {
                params: &params.to_map(),
                inputs: &self.inputs.by_path,
                cache: self.cache,
                unfinished: self.cache.unfinished(&pending.key),
                fresh: self.fresh,
                resources: Resources {
                    threads: self.threads,
                    gpus: settings.gpus.unwrap_or(0),
                    batch: settings.batch,
                    requests: settings.requests,
                    memory: settings.memory,
                    memory_limit: self.memory_limit,
                },
                progress: &Progress::new(self.span.clone(), PROGRESS_EVERY),
                cancel,
                environment: self.environment,
                own_program: self.own_program,
                machine: self.machine,
                pins: self.pins,
            })?),
            Work::Model(_) | Work::File(_) | Work::Folder(_) | Work::Unfetched(_) => {
                Err(StageError::bug("a source that is read in place was computed").into())
            }
        }
    }
}

/// Makes the record of a computed node.
pub(super) fn record(
    node: &Node,
    pending: &PendingNode,
    done: &NodeState,
    elapsed: Duration,
) -> Record {
    let result = done.result.clone();
    let has_main = result.artifacts.contains_key(MAIN);
    debug_assert!(has_main || node.outputs.iter().all(|o| o.name != MAIN));
    Record {
        key: pending.key,
        kind: node.kind_name().to_string(),
        result,
        seconds: elapsed.as_secs_f64(),
        manifest: pending.manifest.clone(),
        version: env!("CARGO_PKG_VERSION").to_string(),
    }
}
