//! `refrain graph`: the stages and what they read.

use std::process::ExitCode;

use serde_json::json;

use refrain_engine::graph::drawing::{dot, mermaid};

use crate::cli::{self, Drawing, Format};
use crate::command_error::CommandError;
use crate::escape::escape_controls;
use crate::output;
use crate::session::Session;

/// Prints the stages in the language of a drawing, or all nodes with their inputs as JSON.
pub fn graph(arguments: &cli::GraphArgs, format: Format) -> Result<ExitCode, CommandError> {
    let session = Session::open(&arguments.workflow)?;
    let graph = &session.graph;
    if format == Format::Json {
        let nodes: Vec<_> = graph
            .nodes
            .iter()
            .map(|n| {
                let inputs: Vec<_> = n
                    .inputs
                    .iter()
                    .map(|e| json!({ "path": e.path, "node": graph.node(e.node).name, "output": e.output }))
                    .collect();
                json!({ "node": n.name, "stage": n.stage, "kind": n.kind_name(), "inputs": inputs })
            })
            .collect();
        output::json(&json!({ "refrain": 1, "nodes": nodes }));
    } else {
        let drawn = match arguments.drawing {
            Drawing::Mermaid => mermaid::mermaid(graph),
            Drawing::Dot => dot::dot(graph),
        };
        output::text(&escape_controls(&drawn));
    }
    Ok(ExitCode::SUCCESS)
}
