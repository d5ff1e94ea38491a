//! The graph of nodes: their inputs, with every parameter resolved.

pub(crate) mod build;
mod columns;
pub mod drawing;
pub(crate) mod gather;
mod params;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::kind::{ArtifactKind, Kind, Kinds, ModelFacts, OutputDecl, ServedSpec};
use crate::language::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::language::workflow::{Settings, Workflow};
use crate::source::SourceSpec;
use crate::source::fetched::{FindFetched, NothingFetched, Pin};
use crate::source::recorded::{FindRecorded, RecordedSource};
use crate::source::seen::SourcePlace;
use crate::source::upstream::Upstream;

pub use params::Params;

/// A node's number: dense, and every input of a node has a smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// Returns the number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An edge: the output of another node that a parameter refers to.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    /// Path of the parameter, for example `mix[0].data`.
    pub path: String,
    /// The node.
    pub node: NodeId,
    /// The name of its output.
    pub output: String,
}

/// The work of a node.
#[derive(Debug, Clone)]
pub enum Work {
    /// Reads a table from files.
    Source(SourceSpec),
    /// Names a model folder.
    Model(PathBuf),
    /// Names a model that a server computes, and stores what identifies it.
    Served(Arc<ServedSpec>),
    /// Names a file.
    File(PathBuf),
    /// Names a folder.
    Folder(PathBuf),
    /// Names something that is not fetched yet, of which no more is known than its kind.
    Unfetched(ArtifactKind),
    /// Puts the tables of all nodes of a stage under each other, the axes as first columns.
    Gather {
        /// The axes' names.
        axes: Vec<String>,
        /// For each input the labels of its point.
        rows: Vec<Vec<String>>,
    },
    /// Runs a kind.
    Stage {
        /// The kind.
        kind: Arc<Kind>,
        /// Its parameters.
        params: Params,
    },
}

impl Work {
    /// Returns the facts of a source model, read from its files.
    pub(crate) fn model_facts(&self, kinds: &Kinds) -> ModelFacts {
        match self {
            Work::Model(path) => kinds.model_facts(path),
            Work::Served(spec) => {
                let mut facts = spec
                    .tokenizer
                    .as_deref()
                    .map(|path| kinds.model_facts(path))
                    .unwrap_or_default();
                facts.insert("served".into(), spec.api.word().into());
                facts
            }
            _ => ModelFacts::new(),
        }
    }

    /// Returns where a source lies, and what it is.
    pub fn source(&self) -> Option<SourcePlace> {
        match self {
            Work::Source(spec) => Some(SourcePlace {
                path: spec.path.clone(),
                kind: ArtifactKind::Table,
                split: spec.split.clone(),
                tokenizer: false,
            }),
            Work::Model(path) => Some(SourcePlace::new(path, ArtifactKind::Model)),
            Work::Served(spec) => spec.tokenizer.as_deref().map(SourcePlace::of_tokenizer),
            Work::File(path) => Some(SourcePlace::new(path, ArtifactKind::File)),
            Work::Folder(path) => Some(SourcePlace::new(path, ArtifactKind::Folder)),
            Work::Unfetched(_) | Work::Gather { .. } | Work::Stage { .. } => None,
        }
    }
}

/// A source that lies on the hub or on the web.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedSource {
    /// Where it lies.
    pub upstream: Upstream,
    /// The line that a lock keeps of it, where its files are known.
    pub pin: Option<Pin>,
}

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name, with its point: `masked[threshold=2.5]`.
    pub name: String,
    /// The name of its stage or source.
    pub stage: String,
    /// Its point: names of axes and labels, in the order of the file.
    pub point: Vec<(String, String)>,
    /// Its work.
    pub work: Work,
    /// The outputs that it reads.
    pub inputs: Vec<Edge>,
    /// Its own outputs.
    pub outputs: Arc<[OutputDecl]>,
    /// The settings of its stage.
    pub settings: Arc<Settings>,
    /// The place of its stage or source in the workflow.
    pub span: Span,
}

impl Node {
    /// Whether the node is a source: read but not made by the workflow.
    pub fn is_source(&self) -> bool {
        matches!(self.work, Work::Source(_) | Work::Served(_) | Work::Unfetched(_))
            || self.is_read_in_place()
    }

    /// Whether the node is a source that its readers read where it lies.
    pub fn is_read_in_place(&self) -> bool {
        matches!(self.work, Work::Model(_) | Work::File(_) | Work::Folder(_))
    }

    /// Whether the main output is that of one of the inputs, passed on.
    pub fn passes_on(&self) -> bool {
        matches!(&self.work, Work::Stage { kind, .. } if kind.over.is_some())
    }

    /// Names the kind, for people.
    pub fn kind_name(&self) -> &'static str {
        match &self.work {
            Work::Source(_) | Work::Unfetched(ArtifactKind::Table) => "source",
            Work::Model(_) | Work::Unfetched(ArtifactKind::Model) => "model",
            Work::Served(_) => "served",
            Work::File(_) | Work::Unfetched(ArtifactKind::File) => "file",
            Work::Folder(_) | Work::Unfetched(ArtifactKind::Folder) => "folder",
            Work::Gather { .. } => "gather",
            Work::Stage { kind, .. } => kind.name,
        }
    }

    /// Returns the kind of artifact of an output.
    pub fn output_kind(&self, output: &str) -> Option<ArtifactKind> {
        self.outputs.iter().find(|o| o.name == output).map(|o| o.kind)
    }
}

/// A resolved workflow, ready to be planned and run.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Its workflow.
    pub workflow: Workflow,
    /// The nodes, inputs before their readers.
    pub nodes: Vec<Node>,
    /// The edges once more, for order and export.
    pub edges: DiGraph<NodeId, ()>,
    /// The records of an earlier run of the sources whose files are absent.
    pub absent: HashMap<NodeId, RecordedSource>,
    /// The sources that lie on the hub or on the web.
    pub fetched: HashMap<NodeId, FetchedSource>,
    /// Axes, params and sources that nothing reads: problems for `check`, warnings elsewhere.
    pub unread: Vec<Diagnostic>,
}

impl Graph {
    /// Resolves a workflow at all points of its sweep and checks what can be checked before anything runs.
    pub fn build(workflow: Workflow) -> Result<Graph, Diagnostics> {
        build::graph(workflow, &|_| None, &NothingFetched)
    }

    /// Resolves a workflow as [`Graph::build`] does; a source whose files are absent is taken as it was recorded, and
    /// one on the hub or on the web from where `fetched` finds it.
    pub fn build_with(
        workflow: Workflow,
        recorded: FindRecorded<'_>,
        fetched: &dyn FindFetched,
    ) -> Result<Graph, Diagnostics> {
        build::graph(workflow, recorded, fetched)
    }

    /// Lists the sources that must be fetched before their content is known.
    pub fn unfetched(&self) -> impl Iterator<Item = (NodeId, &Upstream)> {
        self.ids().filter_map(|id| match self.node(id).work {
            Work::Unfetched(_) => Some((id, &self.fetched.get(&id)?.upstream)),
            _ => None,
        })
    }

    /// Returns a node by its number.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Iterates over all numbers, inputs before their readers.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// Finds a node by its name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.ids().find(|id| self.node(*id).name == name)
    }

    /// Iterates over the nodes that read an output of `id`.
    pub fn dependents(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.edges.neighbors(NodeIndex::new(id.index())).map(|n| self.edges[n])
    }

    /// Iterates over the nodes that `id` reads an output of, each once.
    pub fn inputs(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let node = NodeIndex::new(id.index());
        self.edges.neighbors_directed(node, Direction::Incoming).map(|n| self.edges[n])
    }

    /// Groups the nodes by depth: no node reads another of its group, and each group follows those that it reads.
    pub fn levels(&self) -> Vec<Vec<NodeId>> {
        let mut level_of = vec![0; self.nodes.len()];
        let mut levels: Vec<Vec<NodeId>> = Vec::new();
        for id in self.ids() {
            let level = self
                .node(id)
                .inputs
                .iter()
                .map(|e| level_of[e.node.index()] + 1)
                .max()
                .unwrap_or(0);
            level_of[id.index()] = level;
            if level == levels.len() {
                levels.push(Vec::new());
            }
            levels[level].push(id);
        }
        levels
    }

    /// Marks nodes and everything upstream of them, by number.
    pub fn upstream(&self, targets: &[NodeId]) -> Vec<bool> {
        let mut wanted = vec![false; self.nodes.len()];
        for id in targets {
            wanted[id.index()] = true;
        }
        for id in (0..self.nodes.len()).rev() {
            if wanted[id] {
                for edge in &self.nodes[id].inputs {
                    wanted[edge.node.index()] = true;
                }
            }
        }
        wanted
    }
}

/// Finds the source from which the model at an input descends: itself, its base where it is an
/// adapter, or the one at the same input of the stage that makes it, and so on.
fn model_source(nodes: &[Node], edges: &[Edge], path: &str) -> Option<NodeId> {
    let mut edge = edges.iter().find(|edge| edge.path == path)?;
    loop {
        let node = &nodes[edge.node.index()];
        edge = match (&node.work, node.inputs.first()) {
            (Work::Model(_), Some(base)) => base,
            (Work::Model(_), None) | (Work::Served(_), _) => return Some(edge.node),
            // Of what is chosen from, the first tells.
            (Work::Stage { .. }, Some(first)) if node.passes_on() => first,
            (Work::Stage { .. }, _) => node.inputs.iter().find(|edge| edge.path == path)?,
            _ => return None,
        };
    }
}
