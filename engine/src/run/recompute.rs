//! Computes one node once more, into another cache than that of its inputs.

use std::time::Instant;

use tracing::info;

use refrain_cache::Cache;

use crate::graph::{Graph, NodeId};
use crate::kind::{Cancel, Pins, StageError};
use crate::plan::state::{NodeState, PendingNode, State};

use super::node::{self, NodeError, NodeJob};
use super::{RunOptions, retry};

/// Computes a node whose inputs are all done, and stores its outputs in `cache`; no record is written.
///
/// # Errors
/// [`NodeError`].
pub fn recompute_node(
    graph: &Graph,
    id: NodeId,
    state: &State<'_>,
    cache: &Cache,
    options: &RunOptions<'_>,
    cancel: &Cancel,
) -> Result<NodeState, NodeError> {
    let node = graph.node(id);
    let ready = || Some((state.inputs(node)?, state.manifest(node, None)?));
    let Some((inputs, manifest)) = ready() else {
        return Err(
            StageError::bug(format!("`{}` is computed before its inputs", node.name)).into()
        );
    };
    let pins = Pins::new(options.pins.clone());
    let pending = PendingNode { key: manifest.key(), manifest, seen: None, damaged: None };
    let job = NodeJob {
        node,
        inputs,
        cache,
        threads: node.settings.threads.unwrap_or(options.threads).min(options.threads.max(1)),
        memory_limit: options.memory,
        // The computation is compared, not what is remembered of it.
        fresh: true,
        cancel,
        environment: options.environment,
        own_program: options.own_program,
        machine: options.machine,
        pins: &pins,
        span: node::span(id, node, &pending.key),
    };

    let begin = Instant::now();
    let result = retry::attempts(&job, &pending);
    match &result {
        Ok(_) => {
            let (name, seconds) = (node.name.as_str(), begin.elapsed().as_secs_f64());
            info!(name: "finished", node = id.0, name, seconds, differs = false, "finished");
        }
        Err(NodeError::Stage(StageError::Cancelled)) => {}
        Err(error) => node::emit_failed(id, node, error),
    }
    result
}
