//! Computes one node once more, into another cache than that of its inputs.

use std::time::Instant;

use tracing::info;

use refrain_cache::Cache;

use crate::graph::{Graph, NodeId};
use crate::kind::{Cancel, StageError};
use crate::plan::state::{Done, State, Todo};

use super::node::{self, Failure, Job};
use super::{Options, retry};

/// Computes a node whose inputs are all done, and stores what it makes in `cache`; no record is written.
///
/// # Errors
/// Those of the node.
pub fn again(
    graph: &Graph,
    id: NodeId,
    state: &State<'_>,
    cache: &Cache,
    options: &Options<'_>,
    cancel: &Cancel,
) -> Result<Done, Failure> {
    let node = graph.node(id);
    let ready = || Some((state.inputs(node)?, state.manifest(node, None)?));
    let Some((inputs, manifest)) = ready() else {
        return Err(
            StageError::bug(format!("`{}` is computed before its inputs", node.name)).into()
        );
    };
    let todo = Todo { key: manifest.key(), manifest, file: None, damaged: None };
    let job = Job {
        node,
        inputs,
        cache,
        threads: node.settings.threads.unwrap_or(options.threads).min(options.threads.max(1)),
        // What is compared is what computes, not what is remembered.
        fresh: true,
        cancel,
        environment: options.environment,
        span: node::span(id, node, &todo.key),
    };

    let begin = Instant::now();
    let result = retry::attempts(&job, &todo);
    match &result {
        Ok(_) => {
            let (name, seconds) = (node.name.as_str(), begin.elapsed().as_secs_f64());
            info!(name: "finished", node = id.0, name, seconds, differs = false, "finished");
        }
        Err(Failure::Stage(StageError::Cancelled)) => {}
        Err(failure) => node::emit_failed(id, node, failure),
    }
    result
}
