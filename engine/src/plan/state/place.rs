//! Where the weights of a model lie, found by the edges of the graph.
//!
//! A digest does not say it: two models may have equal adapters. What an adapter is applied to is the
//! model that the node which made it read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use refrain_cache::{ArtifactKind, Digest};

use crate::graph::{NodeId, Work};
use crate::kind::Input;
use crate::plan::node_manifest::{base_edge, passed_edge};
use crate::source::seen::SeenSource;

use super::State;

/// The inputs of a node, ready to be read.
#[derive(Debug, Default)]
pub struct Inputs {
    /// By the path of the parameter.
    pub by_path: BTreeMap<String, Input>,
    /// What was seen of the files and folders that the node reads in their own place.
    pub seen: Vec<Arc<SeenSource>>,
}

/// The weights of a model.
#[derive(Debug, Clone)]
pub(super) struct ModelPlace {
    /// The folder of the base model, or its one file.
    pub folder: PathBuf,
    /// The folders of the adapters, the one nearest the base first.
    pub adapters: Vec<PathBuf>,
    /// The digests of what the outermost adapter is applied to, the outermost first.
    pub bases: Vec<Digest>,
    /// The node of the base model.
    pub base: NodeId,
}

impl State<'_> {
    /// Finds the weights of a model that a node makes.
    pub(super) fn place(&self, id: NodeId, output: &str) -> Option<ModelPlace> {
        let artifact = self.outputs(id)?.get(output)?;
        let node = self.graph.node(id);
        if let Some(edge) = passed_edge(node, artifact, &|id| self.outputs(id)) {
            return self.place(edge.node, &edge.output);
        }
        let own = match &node.work {
            Work::Model(path) => path.clone(),
            _ => self.store.object_path(&artifact.digest),
        };
        let Some(base) = artifact.base else {
            return Some(ModelPlace {
                folder: own,
                adapters: Vec::new(),
                bases: Vec::new(),
                base: id,
            });
        };

        let edge = base_edge(node, &base, &|id| self.outputs(id))?;
        let mut place = self.place(edge.node, &edge.output)?;
        place.adapters.push(own);
        place.bases.insert(0, base);
        Some(place)
    }

    /// Returns the node of the model that an output's adapters are applied to: the node itself for a
    /// whole model.
    pub fn base(&self, id: NodeId, output: &str) -> Option<NodeId> {
        self.place(id, output).map(|place| place.base)
    }

    /// Collects what was seen of the sources that a reader of an output reads in their own place.
    pub(super) fn seen_below(&self, id: NodeId, output: &str, seen: &mut Vec<Arc<SeenSource>>) {
        let node = self.graph.node(id);
        if node.is_read_in_place() {
            seen.extend(self.done(id).and_then(|done| done.seen.clone()));
        }
        let artifact = self.outputs(id).and_then(|outputs| outputs.get(output));
        if let Some(edge) = artifact.and_then(|a| passed_edge(node, a, &|id| self.outputs(id))) {
            return self.seen_below(edge.node, &edge.output, seen);
        }
        let base = artifact.filter(|a| a.kind == ArtifactKind::Model).and_then(|a| a.base);
        if let Some(edge) = base.and_then(|base| base_edge(node, &base, &|id| self.outputs(id))) {
            self.seen_below(edge.node, &edge.output, seen);
        }
    }
}
