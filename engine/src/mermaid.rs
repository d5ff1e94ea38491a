//! The graph as a Mermaid flowchart, one box a stage.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::graph::Graph;

/// The stages and what they read; a stage with several nodes shows their number.
pub fn mermaid(graph: &Graph) -> String {
    let mut stages: Vec<(&str, &str, usize)> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for node in &graph.nodes {
        let place = *places.entry(&node.stage).or_insert_with(|| {
            stages.push((&node.stage, node.kind_name(), 0));
            stages.len() - 1
        });
        stages[place].2 += 1;
    }
    let mut text = String::from("flowchart LR\n");
    for (i, (stage, kind, nodes)) in stages.iter().enumerate() {
        let count = if *nodes > 1 { format!(" ×{nodes}") } else { String::new() };
        let (open, close) = match *kind {
            "source" | "file" => ("[(", ")]"),
            "model" => ("([", "])"),
            _ => ("[", "]"),
        };
        // Writing into a text cannot fail.
        let _ = writeln!(text, "    n{i}{open}\"{stage}<br/><small>{kind}{count}</small>\"{close}");
    }
    let mut edges: Vec<(usize, usize)> = Vec::new();
    for node in &graph.nodes {
        for edge in &node.inputs {
            edges.push((places[graph.node(edge.node).stage.as_str()], places[node.stage.as_str()]));
        }
    }
    edges.sort_unstable();
    edges.dedup();
    for (from, to) in edges {
        let _ = writeln!(text, "    n{from} --> n{to}");
    }
    text
}
