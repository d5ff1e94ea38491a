//! The checks of one node: its key, its source, its artifacts and its metrics.

use refrain_cache::{Artifact, Corrupt, FileDigests, same_metrics};

use crate::graph::{Edge, Graph, Node, NodeId, Work};
use crate::kind::{MAIN, metrics_table};
use crate::ledger::lock::{Lock, LockEntry};
use crate::plan::node_manifest;
use crate::source;
use crate::source::seen::{HashError, SeenSource, SourcePlace};
use crate::source::upstream::Upstream;
use crate::store::Store;

use super::mismatch::{Mismatch, Remedy, key_mismatch};
use super::{Verification, VerifyOptions};

/// All that a node is checked against.
pub(super) struct Check<'a> {
    pub graph: &'a Graph,
    pub lock: &'a Lock,
    /// The lock's entries by node number.
    pub entries: &'a [Option<&'a LockEntry>],
    /// The remembered digests of files; without them every file is hashed.
    pub digests: Option<&'a FileDigests>,
    pub store: Option<&'a Store>,
    pub options: VerifyOptions,
}

impl Check<'_> {
    fn mismatch(
        &self,
        node: &Node,
        what: &'static str,
        message: String,
        remedy: Remedy,
    ) -> Mismatch {
        Mismatch::new(&node.name, what, message, remedy.words(self.graph))
    }

    /// Steps 1 to 4 for one node.
    pub fn node(&self, node: &Node, entry: &LockEntry, found: &mut Verification) {
        self.key_and_source(node, entry, found);
        self.metrics(node, entry, found);

        let Some(store) = self.store.filter(|_| !node.is_read_in_place()) else { return };
        for (i, (name, artifact)) in entry.outputs.iter().enumerate() {
            if node.passes_on() && name == MAIN {
                continue;
            }
            // An only output of `run` is the main one too.
            if !entry.outputs.values().take(i).any(|before| before == artifact) {
                self.artifact(node, name, artifact, store, found);
            }
        }
    }

    /// Steps 1 and 2.
    pub fn key_and_source(&self, node: &Node, entry: &LockEntry, found: &mut Verification) {
        self.key(node, entry, found);
        self.source(node, entry, found);
    }

    /// Step 1: the key that follows from the workflow and the lock's own entries.
    fn key(&self, node: &Node, entry: &LockEntry, found: &mut Verification) {
        let outputs = |id: NodeId| self.entries[id.index()].map(|entry| &entry.outputs);
        let input = |edge: &Edge| node_manifest::identity(self.graph, edge, &outputs);
        if let (Work::Unfetched(_), Some(upstream)) = (&node.work, self.upstream(node)) {
            let message = format!("the lock was written with another revision than `{upstream}`");
            found.mismatches.push(self.mismatch(node, "source", message, Remedy::Fetch));
            return;
        }
        let Some(manifest) = node_manifest::manifest(node, input, entry.file) else {
            let message = "its key is not known, since the lock lacks one of its inputs".into();
            let mismatch = self.mismatch(node, "key", message, Remedy::Accept);
            found.mismatches.push(Mismatch { before: Some(entry.key.to_string()), ..mismatch });
            return;
        };

        found.keys += 1;
        let key = manifest.key();
        if key != entry.key {
            let (graph, manifest) = (self.graph, Some(&manifest));
            let mismatch =
                key_mismatch(graph, self.lock, &node.name, entry, key, manifest, self.store);
            found.mismatches.push(mismatch);
        }
    }

    /// Step 2: the source's file, where it is there.
    fn source(&self, node: &Node, entry: &LockEntry, found: &mut Verification) {
        let Some(place) = node.work.source() else { return };
        let path = &place.path;
        let mut now = None;
        let message = if !source::exists(path) {
            found.sources.1 += 1;
            if self.options.no_data {
                return;
            }
            match self.upstream(node) {
                Some(upstream) => format!("`{upstream}` is not fetched"),
                None => format!("`{}` is absent", path.display()),
            }
        } else {
            match hash(&place, self.digests) {
                Ok(seen) => {
                    found.sources.0 += 1;
                    let digest = Some(seen.digest());
                    if digest == entry.file {
                        return;
                    }
                    now = digest.map(|digest| digest.to_string());
                    format!("`{}` is not the file that the lock names", path.display())
                }
                Err(error) => error.to_string(),
            }
        };
        let before = entry.file.map(|digest| digest.to_string());
        let remedy = match self.upstream(node) {
            Some(_) if now.is_none() => Remedy::Fetch,
            _ => Remedy::Source,
        };
        let mismatch = self.mismatch(node, "source", message, remedy);
        found.mismatches.push(Mismatch { before, now, ..mismatch });
    }

    /// Returns where a source is fetched from.
    fn upstream(&self, node: &Node) -> Option<&Upstream> {
        if self.graph.fetched.is_empty() {
            return None;
        }
        let id = self.graph.find(&node.name)?;
        self.graph.fetched.get(&id).map(|source| &source.upstream)
    }

    /// Step 3: the artifact's bytes, where the cache holds them.
    fn artifact(
        &self,
        node: &Node,
        name: &str,
        artifact: &Artifact,
        store: &Store,
        found: &mut Verification,
    ) {
        let message = match store.verify(artifact) {
            Ok(()) => {
                found.artifacts.0 += 1;
                return;
            }
            Err(Corrupt::Missing { .. }) => {
                found.artifacts.1 += 1;
                if !self.options.complete {
                    return;
                }
                format!("the cache does not hold the output `{name}`")
            }
            Err(fault) => format!("the output `{name}` is damaged: {fault}"),
        };
        let mismatch = self.mismatch(node, "artifact", message, Remedy::Artifact);
        found.mismatches.push(Mismatch { before: Some(artifact.digest.to_string()), ..mismatch });
    }

    /// Step 4: the metrics against the digest of their table, which is in the same entry, and against the cache's
    /// record.
    fn metrics(&self, node: &Node, entry: &LockEntry, found: &mut Verification) {
        let table = entry.outputs.get(metrics_table::OUTPUT);
        let digest = table.map(|table| table.digest);
        let made = match entry.metrics.is_empty() {
            // A command may have an output of that name.
            true => digest,
            false => metrics_table::digest(&entry.metrics).ok(),
        };
        let record = self.store.and_then(|store| store.made(&entry.key).ok().flatten());
        let recorded = record
            .as_ref()
            .filter(|record| record.result.artifacts == entry.outputs)
            .is_none_or(|record| same_metrics(&record.result.metrics, &entry.metrics));
        if made == digest && recorded {
            return;
        }

        let message = match (digest, recorded) {
            (None, _) => "its line has metrics, but no table of them",
            (Some(_), true) => "its metrics are not those of the metrics table in the same line",
            (Some(_), false) => "its metrics are not those that the cache recorded",
        };
        let mismatch = self.mismatch(node, "metrics", message.into(), Remedy::Metrics);
        let (before, now) =
            (digest.map(|digest| digest.to_string()), made.map(|digest| digest.to_string()));
        found.mismatches.push(Mismatch { before, now, ..mismatch });
    }
}

/// Hashes a source, as far as its digest is not remembered.
pub(super) fn hash(
    place: &SourcePlace,
    digests: Option<&FileDigests>,
) -> Result<SeenSource, HashError> {
    match digests {
        Some(digests) => SeenSource::hash(place, digests, &|_| Ok(())),
        None => SeenSource::read(place),
    }
}
