//! The nodes of a graph whose outputs are known: their keys, their artifacts, and what their readers
//! receive.

mod lookup;
mod place;

use std::collections::HashMap;
use std::sync::Arc;

use refrain_cache::{Artifacts, Digest, Key, Manifest, NodeResult};

use crate::graph::{Edge, Graph, Node, NodeId, Work};
use crate::kind::{ArtifactKind, Input};
use crate::language::explain::{ErrorClass, Explain};
use crate::plan::node_manifest::{self, Identity};
use crate::source::seen::{HashError, SeenSource};
use crate::store::{Store, StoreError};

pub use lookup::{HashTask, Hashed, Lookup};
pub use place::Inputs;

/// A node whose outputs are known.
#[derive(Debug, Clone)]
pub struct NodeState {
    /// Its key.
    pub key: Key,
    /// Its outputs, metrics and profile.
    pub result: NodeResult,
    /// For a source the digest of its file or folder.
    pub file: Option<Digest>,
    /// What was seen of a source when it was hashed; `None` where the lock alone says its digest.
    pub seen: Option<Arc<SeenSource>>,
}

/// Why a node cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A source cannot be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A node that must be computed.
#[derive(Debug, Clone)]
pub struct PendingNode {
    /// Its key.
    pub key: Key,
    /// The manifest of its key.
    pub manifest: Manifest,
    /// What was seen of a source when it was hashed.
    pub seen: Option<Arc<SeenSource>>,
    /// An artifact that the cache had and lost or that was damaged.
    pub damaged: Option<String>,
}

/// The nodes whose outputs are known.
pub struct State<'a> {
    graph: &'a Graph,
    store: &'a Store,
    done: Vec<Option<NodeState>>,
    /// What was hashed for the nodes that are being looked up.
    hashed: HashMap<NodeId, Hashed>,
}

impl<'a> State<'a> {
    /// A state in which no node is known.
    pub fn new(graph: &'a Graph, store: &'a Store) -> State<'a> {
        State { graph, store, done: vec![None; graph.nodes.len()], hashed: HashMap::new() }
    }

    /// Returns a node's outputs, when they are known.
    pub fn done(&self, id: NodeId) -> Option<&NodeState> {
        self.done[id.index()].as_ref()
    }

    /// Sets a node's outputs, for those that read them.
    pub fn set(&mut self, id: NodeId, done: NodeState) {
        self.hashed.remove(&id);
        self.done[id.index()] = Some(done);
    }

    /// Adds what was hashed for a node, for its next lookup.
    pub fn add_hashed(&mut self, id: NodeId, hashed: Hashed) {
        self.hashed.entry(id).or_default().add(hashed);
    }

    /// Forgets whether the outputs of a node are sound: its record may be another one by the next
    /// lookup.
    pub fn forget_outputs(&mut self, id: NodeId) {
        if let Some(hashed) = self.hashed.get_mut(&id) {
            hashed.forget_outputs();
        }
    }

    /// Makes the manifest of a node, when all its inputs are done; `file` is the digest of a source.
    pub fn manifest(&self, node: &Node, file: Option<Digest>) -> Option<Manifest> {
        node_manifest::manifest(node, |edge| self.identity(edge), file)
    }

    /// Returns the digests of the artifact that an edge refers to, when its node is done.
    pub fn identity(&self, edge: &Edge) -> Option<Identity> {
        node_manifest::identity(self.graph, edge, &|id| self.outputs(id))
    }

    fn outputs(&self, id: NodeId) -> Option<&Artifacts> {
        Some(&self.done(id)?.result.artifacts)
    }

    /// Returns an output of a node as its readers receive it.
    pub fn output(&self, id: NodeId, output: &str) -> Option<Input> {
        let artifact = self.outputs(id)?.get(output)?.clone();
        let path = match &self.graph.node(id).work {
            Work::File(path) | Work::Folder(path) => path.clone(),
            _ => self.store.object_path(&artifact.digest),
        };
        Some(match artifact.kind {
            ArtifactKind::Table => Input::Table { path, artifact },
            ArtifactKind::File => Input::File { path, artifact },
            ArtifactKind::Folder => Input::Folder { path, artifact },
            ArtifactKind::Model => {
                let place = self.place(id, output)?;
                let place::ModelPlace { folder, adapters, bases, base } = place;
                let served = match &self.graph.node(base).work {
                    Work::Served(spec) => Some(spec.clone()),
                    _ => None,
                };
                Input::Model { folder, adapters, artifact, bases, served }
            }
        })
    }

    /// Returns what an edge refers to, when its node is done: as its reader receives it, as it enters
    /// the key, and what was seen of the sources that are read in their own place.
    pub fn known_input(&self, edge: &Edge) -> Option<(Input, Identity, Vec<Arc<SeenSource>>)> {
        let mut seen = Vec::new();
        self.seen_below(edge.node, &edge.output, &mut seen);
        Some((self.output(edge.node, &edge.output)?, self.identity(edge)?, seen))
    }

    /// Returns the inputs of a node, when all of them are done.
    pub fn inputs(&self, node: &Node) -> Option<Inputs> {
        let mut inputs = Inputs::default();
        for edge in &node.inputs {
            inputs.by_path.insert(edge.path.clone(), self.output(edge.node, &edge.output)?);
            self.seen_below(edge.node, &edge.output, &mut inputs.seen);
        }
        Some(inputs)
    }
}

impl Explain for HashError {
    fn class(&self) -> ErrorClass {
        match self {
            HashError::Pickle { .. } | HashError::Shards(_) => ErrorClass::Input,
            HashError::Io { .. } => ErrorClass::Environment,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            HashError::Pickle { .. } => Some("convert the weights to safetensors".into()),
            HashError::Shards(error) => error.hint.clone(),
            HashError::Io { .. } => None,
        }
    }
}

impl Explain for StateError {
    fn class(&self) -> ErrorClass {
        match self {
            StateError::Hash(error) => error.class(),
            StateError::Store(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            StateError::Hash(error) => error.hint(),
            StateError::Store(_) => None,
        }
    }
}
