//! Computes one node once more, into another cache than that of its inputs.

use std::time::Instant;

use refrain_cache::Cache;

use crate::graph::{Graph, NodeId};
use crate::kind::{Cancel, StageError};
use crate::plan::state::{Done, State, Todo};
use crate::run::event::{Event, Events};

use super::node::{Failure, Job};
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
    events: Events<'_>,
) -> Result<Done, Failure> {
    let node = graph.node(id);
    let ready = || Some((state.inputs(node)?, state.manifest(node, None)?));
    let Some((inputs, manifest)) = ready() else {
        return Err(
            StageError::bug(format!("`{}` is computed before its inputs", node.name)).into()
        );
    };
    let job = Job {
        id,
        node,
        inputs,
        cache,
        threads: node.settings.threads.unwrap_or(options.threads).min(options.threads.max(1)),
        // What is compared is what computes, not what is remembered.
        fresh: true,
        cancel,
        environment: options.environment,
        events,
    };
    let todo = Todo { key: manifest.key(), manifest, file: None, damaged: None };
    events(Event::Started { node: id, key: &todo.key });
    let begin = Instant::now();
    let result = retry::attempts(&job, &todo);
    match &result {
        Ok(_) => events(Event::Finished { node: id, elapsed: begin.elapsed(), differs: false }),
        Err(failure) => events(Event::Failed { node: id, failure }),
    }
    result
}
