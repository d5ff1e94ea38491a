//! The results that are known without running anything: the cache's, or else the lock's.

use crate::graph::{Edge, Graph, NodeId};
use crate::ledger::lock::Lock;
use crate::plan::state::NodeState;
use crate::plan::{Plan, Step, node_manifest};

/// Returns the results of each node under its present key, by node number.
///
/// The cache is asked first, where there is one; an entry of the lock counts when its key is the one that the workflow
/// gives now.
pub fn known(graph: &Graph, lock: &Lock, plan: Option<&Plan<'_>>) -> Vec<Option<NodeState>> {
    let mut known: Vec<Option<NodeState>> = Vec::with_capacity(graph.nodes.len());
    for id in graph.ids() {
        let cached = plan.and_then(|plan| plan.state.done(id)).cloned();
        let done = cached.or_else(|| locked(graph, lock, plan, id, &known));
        known.push(done);
    }
    known
}

fn locked(
    graph: &Graph,
    lock: &Lock,
    plan: Option<&Plan<'_>>,
    id: NodeId,
    known: &[Option<NodeState>],
) -> Option<NodeState> {
    let node = graph.node(id);
    let entry = lock.entries.get(&node.name)?;
    let key = match plan.map(|plan| &plan.steps[id.index()]) {
        Some(Step::Run { key, .. } | Step::Cached(key)) => *key,
        Some(Step::Waits { .. }) | None => {
            let outputs = |id: NodeId| Some(&known[id.index()].as_ref()?.result.artifacts);
            let input = |edge: &Edge| node_manifest::identity(graph, edge, &outputs);
            node_manifest::manifest(node, input, entry.file)?.key()
        }
    };
    (key == entry.key).then(|| entry.to_done())
}
