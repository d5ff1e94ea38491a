//! Drawings of the graph: one box per stage, however many nodes it has.

pub mod dot;
pub mod mermaid;

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Graph, Node};

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

/// Finds the arms that an edge between two stages belongs to: the labels of one axis at which the
/// reader reads the other stage, where there are others at which it does not.
pub fn edge_labels(graph: &Graph) -> BTreeMap<(usize, usize), String> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for node in &graph.nodes {
        let next = places.len();
        places.entry(&node.stage).or_insert(next);
    }
    let mut of_stage: BTreeMap<usize, Vec<&Node>> = BTreeMap::new();
    let mut readers: BTreeMap<(usize, usize), Vec<&Node>> = BTreeMap::new();
    for node in &graph.nodes {
        let to = places[node.stage.as_str()];
        of_stage.entry(to).or_default().push(node);
        let read: BTreeSet<usize> =
            node.inputs.iter().map(|edge| places[graph.node(edge.node).stage.as_str()]).collect();
        for from in read {
            readers.entry((from, to)).or_default().push(node);
        }
    }
    let label = |((from, to), readers): ((usize, usize), Vec<&Node>)| {
        let all = &of_stage[&to];
        if readers.len() == all.len() {
            return None;
        }
        let arms = all[0].point.iter().find_map(|(axis, _)| arms(axis, &readers, all))?;
        Some(((from, to), arms))
    };
    readers.into_iter().filter_map(label).collect()
}

/// Labels of an edge that are named.
const LABELS: usize = 3;

/// The labels of an axis that tell the readers from the other nodes of their stage.
fn arms(axis: &str, readers: &[&Node], all: &[&Node]) -> Option<String> {
    let label = |node: &&Node| {
        let entry = node.point.iter().find(|(name, _)| name == axis);
        entry.map(|(_, label)| label.clone())
    };
    let (mut order, mut labels) = (Vec::new(), BTreeSet::new());
    for found in readers.iter().filter_map(label) {
        if labels.insert(found.clone()) {
            order.push(found);
        }
    }
    let count = all.iter().filter_map(label).filter(|found| labels.contains(found)).count();
    if count != readers.len() || order.is_empty() {
        return None;
    }
    let more = if order.len() > LABELS { ", …" } else { "" };
    order.truncate(LABELS);
    Some(format!("{}{more}", order.join(", ")))
}
