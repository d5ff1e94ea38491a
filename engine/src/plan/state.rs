//! What is known of the nodes of a graph: their keys, their artifacts, and whether the cache holds them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use refrain_cache::{Artifact, Artifacts, Digest, Key, Manifest, Metric};

use crate::graph::{Edge, Graph, Node, NodeId, Work};
use crate::kind::{ArtifactKind, Input, MAIN};
use crate::plan::node_manifest;
use crate::source::model_folder::HashError;
use crate::store::{Store, StoreError};

/// A node whose outputs are known.
#[derive(Debug, Clone)]
pub struct Done {
    /// Its key.
    pub key: Key,
    /// Its outputs by name.
    pub artifacts: Artifacts,
    /// Its figures.
    pub metrics: Vec<Metric>,
    /// What could move the last bits; empty where nothing can.
    pub profile: String,
    /// For a source the digest of its file or folder.
    pub file: Option<Digest>,
}

/// Where a model's weights lie.
#[derive(Debug, Clone)]
struct Place {
    folder: PathBuf,
    adapters: Vec<PathBuf>,
    name: String,
}

/// Why the state of a node cannot be told.
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
pub struct Todo {
    /// Its key.
    pub key: Key,
    /// What the key is made of.
    pub manifest: Manifest,
    /// For a source the digest of its file.
    pub file: Option<Digest>,
    /// An artifact that the cache had and lost or that was damaged.
    pub damaged: Option<String>,
}

/// What one look at the cache says of a node whose inputs are done.
#[derive(Debug)]
pub enum Look {
    /// Its outputs are there.
    Done(Box<Done>),
    /// It must be computed.
    Todo(Box<Todo>),
}

/// The nodes that are done, and where their artifacts lie.
pub struct State<'a> {
    graph: &'a Graph,
    store: &'a Store,
    done: Vec<Option<Done>>,
    models: HashMap<Digest, Place>,
}

impl<'a> State<'a> {
    /// Nothing is known yet.
    pub fn new(graph: &'a Graph, store: &'a Store) -> State<'a> {
        State { graph, store, done: vec![None; graph.nodes.len()], models: HashMap::new() }
    }

    /// The node's outputs, when they are known.
    pub fn done(&self, id: NodeId) -> Option<&Done> {
        self.done[id.index()].as_ref()
    }

    /// Notes a node's outputs, for those that read them.
    pub fn set(&mut self, id: NodeId, done: Done) {
        let node = self.graph.node(id);
        for artifact in done.artifacts.values().filter(|a| a.kind == ArtifactKind::Model) {
            let place = match (&node.work, artifact.base.and_then(|base| self.models.get(&base))) {
                (Work::Model(path), Some(base)) => {
                    let mut place = base.clone();
                    place.adapters.push(path.clone());
                    place
                }
                (Work::Model(path), None) => {
                    Place { folder: path.clone(), adapters: Vec::new(), name: node.stage.clone() }
                }
                (_, Some(base)) => {
                    let mut place = base.clone();
                    place.adapters.push(self.store.object_path(&artifact.digest));
                    place
                }
                (_, None) => Place {
                    folder: self.store.object_path(&artifact.digest),
                    adapters: Vec::new(),
                    name: node.name.clone(),
                },
            };
            self.models.insert(artifact.digest, place);
        }
        self.done[id.index()] = Some(done);
    }

    /// The manifest of a node, when all its inputs are done.
    pub fn manifest(&self, node: &Node, file: Option<Digest>) -> Option<Manifest> {
        node_manifest::manifest(node, |i| Some(&self.done(node.inputs[i].node)?.artifacts), file)
    }

    /// Looks a node up whose inputs are all done; `None` when one is not.
    pub fn look(&self, id: NodeId) -> Result<Option<Look>, StateError> {
        let node = self.graph.node(id);
        let hashed = node_manifest::hash_source(&node.work, self.store.digests())?;
        let file = hashed.map(|(digest, _, _)| digest);
        let Some(manifest) = self.manifest(node, file) else { return Ok(None) };
        let key = manifest.key();
        if let (Work::Model(_) | Work::File(_), Some((digest, bytes, kind))) = (&node.work, hashed)
        {
            let base = node
                .inputs
                .first()
                .and_then(|edge| Some(self.done(edge.node)?.artifacts.get(&edge.output)?.digest));
            let artifact = Artifact { kind, digest, bytes, rows: None, base };
            let artifacts = Artifacts::from([(MAIN.to_string(), artifact)]);
            let done = Done { key, artifacts, metrics: Vec::new(), profile: String::new(), file };
            return Ok(Some(Look::Done(Box::new(done))));
        }
        let mut damaged = None;
        if let Some(record) = self.store.made(&key)? {
            for (i, (name, artifact)) in record.result.artifacts.iter().enumerate() {
                // An only output of `run` is the main one too.
                if record.result.artifacts.values().take(i).any(|before| before == artifact) {
                    continue;
                }
                let fault = self.store.check(artifact)?;
                damaged = damaged.or(fault.map(|fault| format!("output `{name}`: {fault}")));
            }
            if damaged.is_none() {
                let done = Done {
                    key,
                    artifacts: record.result.artifacts,
                    metrics: record.result.metrics,
                    profile: record.result.profile,
                    file,
                };
                return Ok(Some(Look::Done(Box::new(done))));
            }
        }
        Ok(Some(Look::Todo(Box::new(Todo { key, manifest, file, damaged }))))
    }

    /// The inputs of a node by the path of their parameter, ready to be read.
    pub fn inputs(&self, node: &Node) -> Option<BTreeMap<String, Input>> {
        node.inputs.iter().map(|edge| Some((edge.path.clone(), self.input(edge)?))).collect()
    }

    fn input(&self, edge: &Edge) -> Option<Input> {
        let artifact = self.done(edge.node)?.artifacts.get(&edge.output)?.clone();
        let path = match &self.graph.node(edge.node).work {
            Work::File(path) => path.clone(),
            _ => self.store.object_path(&artifact.digest),
        };
        Some(match artifact.kind {
            ArtifactKind::Table => Input::Table { path, artifact },
            ArtifactKind::File => Input::File { path, artifact },
            ArtifactKind::Model => {
                let Place { folder, adapters, name } = self.models.get(&artifact.digest)?.clone();
                Input::Model { folder, adapters, artifact, base_name: name }
            }
        })
    }

    /// An output of a node as what reads it is given it.
    pub fn output(&self, id: NodeId, output: &str) -> Option<Input> {
        self.input(&Edge { path: String::new(), node: id, output: output.to_string() })
    }
}
