//! The graph as a Mermaid flowchart.

use std::fmt::Write;

use crate::graph::Graph;
use crate::graph::drawing::StageGraph;

/// The stages and what they read; a stage with several nodes shows their number.
pub fn mermaid(graph: &Graph) -> String {
    let stages = StageGraph::of(graph);
    let mut text = String::from("flowchart LR\n");
    for (i, stage) in stages.boxes.iter().enumerate() {
        let (open, close) = match stage.kind {
            "source" | "file" => ("[(", ")]"),
            "model" => ("([", "])"),
            _ => ("[", "]"),
        };
        // Writing into a text cannot fail.
        let _ = writeln!(
            text,
            "    n{i}{open}\"{}<br/><small>{}</small>\"{close}",
            stage.name,
            stage.caption()
        );
    }
    for (from, to) in stages.edges {
        let _ = writeln!(text, "    n{from} --> n{to}");
    }
    text
}
