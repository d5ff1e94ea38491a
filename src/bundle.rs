//! A bundle: the workflow, its lock and what its figures need in one archive that a reviewer
//! checks.

use std::collections::BTreeSet;

use refrain_engine::ledger::lock::Lock;
use refrain_remote::Named;

use crate::remote;
use crate::session::Session;

pub mod archive;
pub mod metadata;

/// The folder in a bundle with the tables that its figures need, laid out as a remote cache.
pub const RESULTS: &str = "results";

/// Returns the results that the figures of a workflow are read from, those of whole models left
/// out: what its conditions, comparisons and table of results name.
pub fn figures(session: &Session, lock: &Lock) -> Vec<Named> {
    let graph = &session.graph;
    let of_expects = session.expects.iter().flat_map(|expect| &expect.of.metrics);
    let mut stages: BTreeSet<&str> =
        of_expects.chain(session.columns.metrics()).map(|metric| metric.stage.as_str()).collect();
    let pairings = session.comparisons.pairings.iter();
    let compared = pairings.flat_map(|pairing| &pairing.figures).flat_map(|f| &f.nodes).flatten();
    stages.extend(compared.map(|id| graph.node(*id).stage.as_str()));

    let nodes: BTreeSet<&str> = graph
        .nodes
        .iter()
        .filter(|node| stages.contains(node.stage.as_str()))
        .map(|node| node.name.as_str())
        .collect();
    let is_small = |named: &Named| !named.result.artifacts.values().any(|a| a.kind.is_folder());
    let mut named = remote::named(lock);
    named.retain(|one| nodes.contains(one.node.as_str()) && is_small(one));
    named
}
