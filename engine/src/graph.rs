//! The graph of nodes: what will be computed from what, with every parameter resolved.

pub(crate) mod build;
mod columns;
pub mod drawing;
pub(crate) mod gather;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::{Map, Value};

use crate::kind::{ArtifactKind, Kind, OutputDecl};
use crate::language::diagnostic::{Diagnostics, Span};
use crate::language::workflow::{Settings, Workflow};
use crate::source::SourceSpec;
use crate::source::recorded::{FindRecorded, RecordedSource};

/// A node's number: dense, and every input of a node has a smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The number as an index.
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
    /// Which of its outputs.
    pub output: String,
}

/// What a node does.
#[derive(Debug, Clone)]
pub enum Work {
    /// Reads a table from files.
    Source(SourceSpec),
    /// Names a model folder.
    Model(PathBuf),
    /// Names a file.
    File(PathBuf),
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
        /// Its parameters, typed, with defaults, references removed.
        params: Map<String, Value>,
    },
}

impl Work {
    /// Returns the file or folder of a source, and what it is.
    pub fn source(&self) -> Option<(&Path, ArtifactKind)> {
        match self {
            Work::Source(spec) => Some((&spec.path, ArtifactKind::Table)),
            Work::Model(path) => Some((path, ArtifactKind::Model)),
            Work::File(path) => Some((path, ArtifactKind::File)),
            Work::Gather { .. } | Work::Stage { .. } => None,
        }
    }
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
    /// What it does.
    pub work: Work,
    /// What it reads.
    pub inputs: Vec<Edge>,
    /// What it makes.
    pub outputs: Arc<[OutputDecl]>,
    /// What it may use.
    pub settings: Arc<Settings>,
    /// Where its stage or source stands in the workflow.
    pub span: Span,
}

impl Node {
    /// Whether the node stands for something that the workflow reads but does not make.
    pub fn is_source(&self) -> bool {
        self.work.source().is_some()
    }

    /// The name of the kind, for people.
    pub fn kind_name(&self) -> &'static str {
        match &self.work {
            Work::Source(_) => "source",
            Work::Model(_) => "model",
            Work::File(_) => "file",
            Work::Gather { .. } => "gather",
            Work::Stage { kind, .. } => kind.name,
        }
    }

    /// What the output of that name is.
    pub fn output_kind(&self, output: &str) -> Option<ArtifactKind> {
        self.outputs.iter().find(|o| o.name == output).map(|o| o.kind)
    }
}

/// A workflow with everything resolved: only this can be planned and run.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The workflow that it was made from.
    pub workflow: Workflow,
    /// The nodes; inputs come before what reads them.
    pub nodes: Vec<Node>,
    /// The edges once more, for order and export.
    pub edges: DiGraph<NodeId, ()>,
    /// What an earlier run recorded of the sources whose files are absent.
    pub absent: HashMap<NodeId, RecordedSource>,
}

impl Graph {
    /// Resolves a workflow at all points of its sweep and checks what can be checked before anything runs.
    pub fn build(workflow: Workflow) -> Result<Graph, Diagnostics> {
        build::graph(workflow, &|_| None)
    }

    /// Resolves a workflow as [`Graph::build`] does; a source whose files are absent is taken as it was recorded.
    pub fn build_recorded(
        workflow: Workflow,
        recorded: FindRecorded<'_>,
    ) -> Result<Graph, Diagnostics> {
        build::graph(workflow, recorded)
    }

    /// The node's data.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// All numbers, inputs before what reads them.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The node of that name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.ids().find(|id| self.node(*id).name == name)
    }

    /// The nodes that read an output of `id`.
    pub fn dependents(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.edges.neighbors(NodeIndex::new(id.index())).map(|n| self.edges[n])
    }

    /// The nodes that `id` reads an output of, each once.
    pub fn inputs(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let node = NodeIndex::new(id.index());
        self.edges.neighbors_directed(node, Direction::Incoming).map(|n| self.edges[n])
    }

    /// The nodes in groups in which none reads another, each after all groups that its nodes read: what can be told of
    /// a group can be told of all its nodes at once.
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

    /// The node and everything that it is made from, as flags by number.
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
