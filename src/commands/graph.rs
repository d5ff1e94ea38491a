//! `refrain graph`: the stages and what they read.

use std::process::ExitCode;

use serde_json::json;

use refrain_engine::mermaid;

use crate::cli::{Format, Workflow};
use crate::failure::{Failure, shown};
use crate::output;
use crate::session::Session;

/// Prints a Mermaid flowchart, or all nodes with their inputs as JSON.
pub fn graph(arguments: &Workflow, format: Format) -> Result<ExitCode, Failure> {
    let session = Session::open(arguments)?;
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
        output::text(&shown(&mermaid::mermaid(graph)));
    }
    Ok(ExitCode::SUCCESS)
}
