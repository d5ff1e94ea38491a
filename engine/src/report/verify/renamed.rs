//! Recognises nodes that have another name than in the lock, by their keys.

use std::collections::{BTreeMap, HashMap};

use refrain_cache::{FileDigests, Key};

use crate::graph::{Edge, Graph, NodeId};
use crate::ledger::lock::LockEntry;
use crate::plan::node_manifest;

use super::check::hash;

/// Gives nodes without an entry the one of their key among those that no node has, and returns them with the old names.
///
/// Nodes are taken in the order of the graph, so that a renamed input does not hide what reads it.
pub(super) fn find<'l>(
    graph: &Graph,
    digests: Option<&FileDigests>,
    entries: &mut [Option<&'l LockEntry>],
    stale: &BTreeMap<&'l str, &'l LockEntry>,
) -> Vec<(NodeId, &'l str)> {
    let mut free: HashMap<Key, Vec<&'l LockEntry>> = HashMap::new();
    for entry in stale.values().rev() {
        free.entry(entry.key).or_default().push(entry);
    }

    let mut found = Vec::new();
    for id in graph.ids().filter(|_| !stale.is_empty()) {
        if entries[id.index()].is_some() {
            continue;
        }
        let node = graph.node(id);
        let outputs = |id: NodeId| Some(&entries[id.index()]?.outputs);
        let input = |edge: &Edge| node_manifest::identity(graph, edge, &outputs);
        let file = node.work.source().and_then(|place| hash(&place, digests).ok());
        let Some(manifest) = node_manifest::manifest(node, input, file.map(|file| file.digest()))
        else {
            continue;
        };
        if let Some(entry) = free.get_mut(&manifest.key()).and_then(Vec::pop) {
            entries[id.index()] = Some(entry);
            found.push((id, entry.node.as_str()));
        }
    }
    found
}
