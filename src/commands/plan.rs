//! `refrain plan`: what a run would do with every node, and why.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Value, json};

use refrain_engine::graph::{Graph, NodeId};
use refrain_engine::plan::{self, Step, Why};
use refrain_engine::verify::difference;

use crate::cli::{self, Format};
use crate::failure::Failure;
use crate::output;
use crate::session::Session;

/// Plans the workflow and runs nothing.
pub fn plan(arguments: &cli::Plan, format: Format) -> Result<ExitCode, Failure> {
    let session = Session::open(&arguments.workflow)?;
    let store = session.store()?;
    let plan = plan::plan(&session.graph, &store, &session.lock()?.keys())?;
    let graph = &session.graph;
    if format == Format::Json {
        let nodes: Vec<Value> = graph
            .ids()
            .map(|id| node_json(graph, id, &plan.steps[id.index()], plan.seconds[id.index()]))
            .collect();
        output::json(&json!({ "refrain": 1, "nodes": nodes }));
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.summary {
        summary(graph, &plan.steps)
    } else {
        listing(graph, &plan.steps, &plan.seconds)
    }
    let counts = counts(&plan.steps);
    output::line(&format!("{} cached, {} to run, {} depend on those", counts[0], counts[1], counts[2]));
    Ok(ExitCode::SUCCESS)
}

fn counts(steps: &[Step]) -> [usize; 3] {
    let count = |wanted: fn(&Step) -> bool| steps.iter().filter(|s| wanted(s)).count();
    [
        count(|s| matches!(s, Step::Cached(_))),
        count(|s| matches!(s, Step::Run { .. })),
        count(|s| matches!(s, Step::Waits(_))),
    ]
}

fn word(step: &Step) -> &'static str {
    match step {
        Step::Cached(_) => "cached",
        Step::Run { .. } => "run",
        Step::Waits(_) => "depends",
    }
}

/// Why a node would be computed, in words.
fn why(graph: &Graph, step: &Step) -> String {
    match step {
        Step::Cached(_) => String::new(),
        Step::Run { why, .. } => match why {
            Why::New => "no earlier result".into(),
            Why::Damaged(damage) => damage.clone(),
            Why::Forgotten => "the cache no longer holds the result of the last run".into(),
            Why::Changed(differences) => differences.iter().map(difference).collect::<Vec<_>>().join("; "),
        },
        Step::Waits(on) => {
            let names: Vec<String> =
                on.iter().take(3).map(|id| format!("`{}`", graph.node(*id).name)).collect();
            format!("on {}{}", names.join(", "), if on.len() > 3 { ", …" } else { "" })
        }
    }
}

fn listing(graph: &Graph, steps: &[Step], seconds: &[Option<f64>]) {
    let rows: Vec<Vec<String>> = graph
        .ids()
        .map(|id| {
            let step = &steps[id.index()];
            let time = seconds[id.index()].filter(|_| !matches!(step, Step::Cached(_)));
            let time = time.map(|s| format!("{s:.1} s")).unwrap_or_default();
            vec![word(step).into(), graph.node(id).name.clone(), time, why(graph, step)]
        })
        .collect();
    output::table(&["", "node", "last took", "why"], &rows);
}

fn summary(graph: &Graph, steps: &[Step]) {
    let mut stages: Vec<&str> = Vec::new();
    let mut counts: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for id in graph.ids() {
        let stage = graph.node(id).stage.as_str();
        let count = counts.entry(stage).or_insert_with(|| {
            stages.push(stage);
            [0; 3]
        });
        match &steps[id.index()] {
            Step::Cached(_) => count[0] += 1,
            Step::Run { .. } => count[1] += 1,
            Step::Waits(_) => count[2] += 1,
        }
    }
    let rows: Vec<Vec<String>> = stages
        .iter()
        .map(|s| std::iter::once(s.to_string()).chain(counts[s].iter().map(|n| n.to_string())).collect())
        .collect();
    output::table(&["stage", "cached", "run", "depends"], &rows);
}

fn node_json(graph: &Graph, id: NodeId, step: &Step, seconds: Option<f64>) -> Value {
    let key = match step {
        Step::Cached(key) | Step::Run { key, .. } => Some(key.to_string()),
        Step::Waits(_) => None,
    };
    let differences = match step {
        Step::Run { why: Why::Changed(differences), .. } => differences
            .iter()
            .map(|d| json!({ "path": d.path, "before": d.before, "after": d.after }))
            .collect(),
        _ => Vec::new(),
    };
    json!({
        "node": graph.node(id).name,
        "kind": graph.node(id).kind_name(),
        "step": word(step),
        "key": key,
        "why": why(graph, step),
        "differences": differences,
        "seconds": seconds,
    })
}
