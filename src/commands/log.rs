//! `refrain log`: the runs of a workflow, each with what changed since the one before.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use refrain_engine::ledger::run_log::{NodeOutcome, RunCourse, courses};

use crate::cli::{self, Format};
use crate::command_error::CommandError;
use crate::human;
use crate::output;
use crate::session::{Opened, absolute};

/// Reasons of a run that are printed for people.
const REASONS: usize = 6;

/// A run in figures.
struct Summary {
    began: String,
    version: String,
    end: Option<(f64, bool)>,
    ran: usize,
    cached: usize,
    failed: Vec<String>,
    /// Why nodes were computed, with the number of nodes.
    changes: Vec<(String, usize)>,
}

/// Lists the runs that the cache still has logs of, the last one first.
pub fn log(arguments: &cli::LogRunsArgs, format: Format) -> Result<ExitCode, CommandError> {
    let opened = Opened::new(&arguments.workflow)?;
    let workflow = absolute(&opened.source.path)?;
    let folder = opened.cache.join("runs");
    let runs = courses(&folder, &workflow).take(arguments.runs);
    let runs: Vec<Summary> = runs.map(summary).collect();
    if format == Format::Json {
        let runs: Vec<Value> = runs.iter().map(to_json).collect();
        output::json(&json!({ "refrain": 1, "runs": runs }));
        return Ok(ExitCode::SUCCESS);
    }
    if runs.is_empty() {
        output::line("no run of this workflow is logged in its cache");
    }
    for run in &runs {
        print(run);
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(course: RunCourse) -> Summary {
    let RunCourse { began, version, nodes, end, .. } = course;
    let count = |outcome: NodeOutcome| nodes.iter().filter(|node| node.outcome == outcome).count();
    let (ran, cached) = (count(NodeOutcome::Ran), count(NodeOutcome::Cached));
    let failed = nodes.iter().filter(|node| node.outcome == NodeOutcome::Failed);
    let failed = failed.map(|node| node.node.clone()).collect();
    let mut whys: BTreeMap<&str, usize> = BTreeMap::new();
    for why in nodes.iter().filter_map(|node| node.why.as_deref()) {
        *whys.entry(why).or_default() += 1;
    }
    let mut changes: Vec<(String, usize)> =
        whys.into_iter().map(|(why, count)| (why.to_owned(), count)).collect();
    // A node that runs since its input changed says less than the change that made the input.
    changes.sort_by_key(|(why, count)| (why.contains("(from `"), std::cmp::Reverse(*count)));
    Summary { began, version, end, ran, cached, failed, changes }
}

fn print(run: &Summary) {
    let state = match run.end {
        Some((seconds, complete)) => {
            let time = human::time(Duration::from_secs_f64(seconds.max(0.0)));
            if complete { time } else { format!("incomplete after {time}") }
        }
        None => "under way, or killed".into(),
    };
    let failed = match run.failed.len() {
        0 => String::new(),
        n => format!(", {n} failed"),
    };
    let (ran, cached) = (output::count(run.ran, "node"), run.cached);
    output::line(&format!("{}  {ran} run, {cached} cached{failed}, {state}", run.began));
    for node in run.failed.iter().take(REASONS) {
        output::line(&format!("    failed: {node}"));
    }
    for (why, count) in run.changes.iter().take(REASONS) {
        let nodes = output::count(*count, "node");
        output::line(&format!("    {nodes}: {why}"));
    }
    if run.changes.len() > REASONS {
        output::line(&format!("    and {} more reasons", run.changes.len() - REASONS));
    }
}

fn to_json(run: &Summary) -> Value {
    let changes = run.changes.iter().map(|(why, nodes)| json!({ "why": why, "nodes": nodes }));
    json!({
        "began": run.began,
        "version": run.version,
        "seconds": run.end.map(|(seconds, _)| seconds),
        "complete": run.end.map(|(_, complete)| complete),
        "ran": run.ran,
        "cached": run.cached,
        "failed": run.failed,
        "changes": changes.collect::<Vec<_>>(),
    })
}
