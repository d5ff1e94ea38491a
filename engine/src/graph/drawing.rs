//! Drawings of the graph: one box per stage, however many nodes it has.

pub mod dot;
pub mod mermaid;

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::Graph;

/// The stages and sources in the order of the graph, and the edges between them.
pub struct StageGraph<'a> {
    /// The boxes.
    pub boxes: Vec<StageBox<'a>>,
    /// Pairs of indices: the second reads the first.
    pub edges: BTreeSet<(usize, usize)>,
}

/// A stage or source.
pub struct StageBox<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its kind.
    pub kind: &'static str,
    /// The number of its nodes.
    pub nodes: usize,
}

impl StageBox<'_> {
    /// Returns the kind, with the number of nodes where there are several.
    pub fn caption(&self) -> String {
        if self.nodes > 1 {
            format!("{} ×{}", self.kind, self.nodes)
        } else {
            self.kind.to_string()
        }
    }
}

impl<'a> StageGraph<'a> {
    /// Collects the stages of a graph.
    pub fn of(graph: &'a Graph) -> StageGraph<'a> {
        let mut boxes: Vec<StageBox<'a>> = Vec::new();
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for node in &graph.nodes {
            let place = *places.entry(&node.stage).or_insert_with(|| {
                boxes.push(StageBox { name: &node.stage, kind: node.kind_name(), nodes: 0 });
                boxes.len() - 1
            });
            boxes[place].nodes += 1;
        }
        let place = |stage: &str| places[stage];
        let edges = graph.nodes.iter().flat_map(|node| {
            node.inputs
                .iter()
                .map(move |edge| (place(&graph.node(edge.node).stage), place(&node.stage)))
        });
        let edges = edges.collect();
        StageGraph { boxes, edges }
    }
}
