//! The graph in the DOT language of Graphviz.

use std::fmt::Write;

use crate::graph::Graph;
use crate::graph::drawing::StageGraph;

/// The stages and what they read; a stage with several nodes shows their number.
pub fn dot(graph: &Graph) -> String {
    let stages = StageGraph::of(graph);
    let mut text =
        String::from("digraph refrain {\n    rankdir=LR;\n    node [fontname=\"sans-serif\"];\n");
    for (i, stage) in stages.boxes.iter().enumerate() {
        let shape = match stage.kind {
            "source" | "file" => "cylinder",
            "model" => "ellipse",
            _ => "box",
        };
        let (name, caption) = (quoted(stage.name), quoted(&stage.caption()));
        // Writing into a text cannot fail.
        let _ = writeln!(text, "    n{i} [shape={shape}, label=\"{name}\\n{caption}\"];");
    }
    for (from, to) in stages.edges {
        let _ = writeln!(text, "    n{from} -> n{to};");
    }
    text.push_str("}\n");
    text
}

/// A text inside double quotes.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
