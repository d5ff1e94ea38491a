//! `refrain explain`: what differs between nodes of the last run and of now.

use std::collections::HashSet;
use std::process::ExitCode;

use serde_json::{Value, json};

use refrain_engine::graph::{Graph, NodeId, Work};
use refrain_engine::ledger::lock::Lock;
use refrain_engine::ledger::run_log::LastRuns;
use refrain_engine::plan::{self, Explanation};

use crate::cli::{self, Format};
use crate::command_error::CommandError;
use crate::output;
use crate::session::Session;

use super::plan::differences_json;

/// Explains one node, the nodes of a stage, or all that differ.
pub fn explain(arguments: &cli::ExplainArgs, format: Format) -> Result<ExitCode, CommandError> {
    let session = Session::open(&arguments.workflow)?;
    let store = session.store()?;
    let lock = session.lock()?;
    let graph = &session.graph;
    let ids: Vec<NodeId> = match &arguments.node {
        Some(name) => session.nodes(name)?,
        None => graph.ids().collect(),
    };
    let mut explanations = plan::explain(graph, &store, &lock.keys(), &ids)?;
    if arguments.node.is_none() {
        explanations.retain(Explanation::differs);
    }
    let last = session.last_runs();
    let names: HashSet<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
    let gone: Vec<&String> = match arguments.node {
        Some(_) => Vec::new(),
        None => lock.entries.keys().filter(|name| !names.contains(name.as_str())).collect(),
    };
    let one = arguments.node.is_some() && ids.len() == 1;
    match (format, explanations.as_slice()) {
        (Format::Json, [explanation]) if one => {
            let mut document = node_json(graph, explanation, &last);
            document["refrain"] = json!(1);
            document["manifest"] = json!(explanation.manifest);
            output::json(&document);
        }
        (Format::Json, explanations) => {
            let nodes: Vec<Value> =
                explanations.iter().map(|e| node_json(graph, e, &last)).collect();
            output::json(&json!({ "refrain": 1, "nodes": nodes, "gone": gone }));
        }
        (_, explanations) => {
            for explanation in explanations {
                show(graph, explanation, &last, one);
            }
            for name in &gone {
                output::line(&format!("`{name}`: the workflow has no such node any more"));
            }
            if explanations.is_empty() && gone.is_empty() {
                output::line("nothing differs from the last run");
                show_last(graph, &lock, &last);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows why the nodes were computed whose results are in the lock.
fn show_last(graph: &Graph, lock: &Lock, last: &LastRuns) {
    for node in &graph.nodes {
        let entry = lock.entries.get(&node.name);
        let reason = last.reasons.get(&node.name);
        if let Some(reason) = reason.filter(|reason| entry.is_some_and(|e| e.key == reason.key)) {
            output::line(&format!("`{}` ran last: {}", node.name, reason.why));
        }
    }
}

fn node_json(graph: &Graph, explanation: &Explanation, last: &LastRuns) -> Value {
    let node = graph.node(explanation.id);
    let waits: Vec<&str> =
        explanation.waits.iter().map(|id| graph.node(*id).name.as_str()).collect();
    json!({
        "node": node.name,
        "kind": node.kind_name(),
        "before": explanation.before.map(|k| k.to_string()),
        "now": explanation.now.map(|k| k.to_string()),
        "cached": explanation.cached,
        "damaged": explanation.damaged,
        "ran_last": last.reasons.get(&node.name).map(|reason| &reason.why),
        "waits": waits,
        "differences": differences_json(graph, node, &explanation.differences),
    })
}

fn show(graph: &Graph, explanation: &Explanation, last: &LastRuns, with_manifest: bool) {
    let node = graph.node(explanation.id);
    output::line(&format!("`{}`", node.name));
    let words = match (explanation.before, explanation.now) {
        (_, None) if matches!(node.work, Work::Unfetched(_)) => {
            "  its content is not known until fetched".into()
        }
        (_, None) => {
            let on: Vec<String> =
                explanation.waits.iter().map(|id| format!("`{}`", graph.node(*id).name)).collect();
            let known = if explanation.differences.is_empty() { "" } else { "; known to differ:" };
            format!("  its key is not known before {} ran{known}", on.join(", "))
        }
        (None, Some(_)) => "  not in the lock, so there is nothing to compare with".into(),
        (Some(a), Some(b)) if a == b => "  nothing differs from the last run".into(),
        (Some(_), Some(_)) if explanation.differences.is_empty() => {
            "  its key changed; the cache no longer has the old record to compare".into()
        }
        _ => "  differs from the last run:".into(),
    };
    output::line(&words);
    for difference in &explanation.differences {
        output::line(&format!("    {}", plan::difference_words(graph, node, difference)));
    }
    if let Some(reason) = last.reasons.get(&node.name) {
        output::line(&format!("  it ran last because: {}", reason.why));
    }
    match (explanation.now, explanation.cached, &explanation.damaged) {
        (None, ..) => {}
        (_, true, _) => output::line("  its result is in the cache"),
        (_, false, Some(damage)) => output::line(&format!("  it would be computed: {damage}")),
        (_, false, None) => output::line("  it would be computed"),
    }
    if let (true, Some(manifest)) = (with_manifest, &explanation.manifest) {
        output::line("  its key is made of:");
        for (path, value) in manifest.leaves() {
            output::line(&format!("    {path}: {value}"));
        }
    }
}
