//! `refrain plan`: what a run would do with every node, why, and what that would take.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use refrain_cache::Difference;
use refrain_engine::graph::{Graph, Node, NodeId, Work};
use refrain_engine::kind::machine::Prices;
use refrain_engine::plan::{self, AskedTotal, Cost, NodeEstimate, Plan, Step, Total, Why};

use crate::cli::{self, Format};
use crate::command_error::{self, CommandError};
use crate::config::Config;
use crate::human::time;
use crate::session::Session;
use crate::{machine, output};

/// Plans the workflow and runs nothing.
pub fn plan(
    arguments: &cli::PlanArgs,
    config: Option<&Path>,
    format: Format,
) -> Result<ExitCode, CommandError> {
    let prices = Config::read(config)?.machine.prices;
    let session = Session::open(&arguments.workflow)?;
    command_error::warn(&session.unread(), format);
    let store = session.store()?;
    let lock = session.lock()?;
    let graph = &session.graph;
    let plan = plan::plan(graph, &store, &lock.keys())?;
    let estimates = plan::estimate(graph, &plan, &lock, &store)?;
    let jobs = arguments.jobs.map_or_else(machine::threads, |n| n as usize);
    let total = plan::total(graph, &plan.steps, &estimates, jobs);
    let cost = |id: NodeId| match &plan.steps[id.index()] {
        Step::Cached(_) => None,
        _ => Some(Cost::estimated(graph.node(id), estimates[id.index()].clone(), &prices)),
    };
    let costs = sum(graph.ids().filter_map(cost));
    let asked = plan::asked_total(&plan.steps, &estimates);
    if format == Format::Json {
        let nodes: Vec<Value> = graph
            .ids()
            .map(|id| node_json(graph, &plan, id, &estimates[id.index()], cost(id)))
            .collect();
        let total = json!({
            "nodes": total.nodes,
            "unknown": total.unknown,
            "seconds": total.seconds,
            "tokens": total.tokens,
            "jobs": jobs,
            "gpu_hours": costs.gpu_hours,
            "money": costs.money,
            "currency": prices.currency(),
            "served": (asked.nodes > 0).then(|| json!({
                "nodes": asked.nodes,
                "unknown": asked.unknown,
                "requests": asked.requests,
                "tokens_in": asked.tokens_in,
                "tokens_out": asked.tokens_out,
                "limit": asked.is_limit,
            })),
        });
        output::json(&json!({ "refrain": 1, "nodes": nodes, "total": total }));
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.summary {
        summary(graph, &plan.steps)
    } else {
        listing(graph, &plan.steps, &estimates)
    }
    let counts = counts(&plan.steps);
    output::line(&format!(
        "{} cached, {} to run, {} waiting for inputs",
        counts[0], counts[1], counts[2]
    ));
    if total.nodes > 0 {
        output::line(&total_words(&total, jobs));
    }
    if let Some(words) = cost_words(&costs, &prices) {
        output::line(&words);
    }
    if asked.nodes > 0 {
        let unpriced = graph.ids().filter_map(cost).filter(|cost| cost.tokens.is_none()).count();
        output::line(&asked_words(&asked, &costs, unpriced, &prices));
    }
    session.tell_unfetched();
    Ok(ExitCode::SUCCESS)
}

fn total_words(total: &Total, jobs: usize) -> String {
    if total.unknown == total.nodes {
        return "no estimate: nothing like it has run yet".into();
    }
    let tokens = match total.tokens {
        none if none < 0.5 => String::new(),
        tokens => format!(" and {tokens:.0} tokens"),
    };
    let without = match total.unknown {
        0 => String::new(),
        unknown => {
            format!("; {} without an estimate are not included", output::count(unknown, "node"))
        }
    };
    let time = duration(total.seconds);
    format!("by earlier runs about {time}{tokens} with {}{without}", output::count(jobs, "job"))
}

/// The sum of what is known of all costs.
fn sum(costs: impl Iterator<Item = Cost>) -> Cost {
    let add = |a: Option<f64>, b: Option<f64>| Some(a.unwrap_or(0.0) + b.unwrap_or(0.0));
    costs.fold(Cost::default(), |sum, cost| Cost {
        seconds: add(sum.seconds, cost.seconds),
        gpu_hours: add(sum.gpu_hours, cost.gpu_hours),
        money: add(sum.money, cost.money),
        tokens: add(sum.tokens, cost.tokens),
    })
}

/// The hours of cards and the money, where there are any.
fn cost_words(cost: &Cost, prices: &Prices) -> Option<String> {
    let hours = cost.gpu_hours.filter(|hours| *hours > 0.0)?;
    let money = match (&prices.gpu_hour, cost.money) {
        (Some(price), Some(money)) => {
            let of_cards = money - cost.tokens.unwrap_or(0.0);
            format!(", about {of_cards:.2} {}", price.currency)
        }
        _ => String::new(),
    };
    Some(format!("graphics cards: about {hours:.2} hours{money}"))
}

/// The requests to servers of models, their tokens, and the money for them.
fn asked_words(asked: &AskedTotal, cost: &Cost, unpriced: usize, prices: &Prices) -> String {
    let &AskedTotal { nodes, unknown, requests, tokens_in, tokens_out, is_limit } = asked;
    let mut words = "served models: ".to_owned();
    if unknown < nodes {
        let sent = tokens_in.map(|tokens| format!("about {tokens:.0} tokens sent, "));
        let limit = if is_limit { "at most" } else { "about" };
        words += &format!(
            "at most {}; {}{limit} {tokens_out:.0} tokens generated",
            output::count(requests as usize, "request"),
            sent.unwrap_or_default()
        );
        if let (Some(currency), Some(money)) = (prices.currency(), cost.tokens) {
            words += &format!("; about {money:.2} {currency}");
        }
    }
    let mut add = |count: usize, what: &str| {
        if count > 0 {
            let and = if words.ends_with(": ") { "" } else { "; " };
            words += &format!("{and}{what} of {} is not known", output::count(count, "node"));
        }
    };
    add(unknown, "the number of rows");
    add(unpriced, "the price");
    words
}

fn duration(seconds: f64) -> String {
    time(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

fn counts(steps: &[Step]) -> [usize; 3] {
    let count = |wanted: fn(&Step) -> bool| steps.iter().filter(|s| wanted(s)).count();
    [
        count(|s| matches!(s, Step::Cached(_))),
        count(|s| matches!(s, Step::Run { .. })),
        count(|s| matches!(s, Step::Waits { .. })),
    ]
}

fn word(step: &Step) -> &'static str {
    match step {
        Step::Cached(_) => "cached",
        Step::Run { .. } => "run",
        Step::Waits { .. } => "depends",
    }
}

/// Why a node would be computed, in words.
fn why(graph: &Graph, node: &Node, step: &Step) -> String {
    let words = |differences: &[Difference]| {
        let words: Vec<String> =
            differences.iter().map(|d| plan::difference_words(graph, node, d)).collect();
        words.join("; ")
    };
    match step {
        Step::Cached(_) => String::new(),
        Step::Run { why, .. } => match why {
            Why::New => "no earlier result".into(),
            Why::Damaged(damage) => damage.clone(),
            Why::Forgotten => "the cache no longer holds the result of the last run".into(),
            Why::Changed(differences) => words(differences),
        },
        Step::Waits { .. } if matches!(node.work, Work::Unfetched(_)) => {
            "its content is not known until fetched".into()
        }
        Step::Waits { on, differences } => {
            let names: Vec<String> =
                on.iter().take(3).map(|id| format!("`{}`", graph.node(*id).name)).collect();
            let more = if on.len() > 3 { ", …" } else { "" };
            let known = if differences.is_empty() {
                String::new()
            } else {
                format!("; {}", words(differences))
            };
            format!("on {}{more}{known}", names.join(", "))
        }
    }
}

/// Differences as docs/json.md describes them.
pub(super) fn differences_json(
    graph: &Graph,
    node: &Node,
    differences: &[Difference],
) -> Vec<Value> {
    let from = |d: &Difference| plan::origin(node, d).map(|id| graph.node(id).name.as_str());
    differences
        .iter()
        .map(|d| json!({ "path": d.path, "before": d.before, "after": d.after, "from": from(d) }))
        .collect()
}

fn listing(graph: &Graph, steps: &[Step], estimates: &[NodeEstimate]) {
    let rows: Vec<Vec<String>> = graph
        .ids()
        .map(|id| {
            let (node, step) = (graph.node(id), &steps[id.index()]);
            let (time, basis) = match estimates[id.index()].took {
                Some(estimate) => (duration(estimate.seconds), estimate.basis.word().to_string()),
                None => Default::default(),
            };
            vec![word(step).into(), node.name.clone(), time, basis, why(graph, node, step)]
        })
        .collect();
    output::table(&["", "node", "estimate", "by", "why"], &rows);
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
            Step::Waits { .. } => count[2] += 1,
        }
    }
    let rows: Vec<Vec<String>> = stages
        .iter()
        .map(|s| {
            std::iter::once(s.to_string()).chain(counts[s].iter().map(|n| n.to_string())).collect()
        })
        .collect();
    output::table(&["stage", "cached", "run", "depends"], &rows);
}

fn node_json(
    graph: &Graph,
    plan: &Plan<'_>,
    id: NodeId,
    estimate: &NodeEstimate,
    cost: Option<Cost>,
) -> Value {
    let (node, step) = (graph.node(id), &plan.steps[id.index()]);
    let key = match step {
        Step::Cached(key) | Step::Run { key, .. } => Some(key.to_string()),
        Step::Waits { .. } => None,
    };
    let differences = match step {
        Step::Run { why: Why::Changed(differences), .. } | Step::Waits { differences, .. } => {
            differences
        }
        _ => &Vec::new(),
    };
    let asked = estimate.asked.as_ref().map(|asked| {
        json!({
            "model": asked.model,
            "requests": asked.requests,
            "tokens_in": asked.tokens_in,
            "tokens_out": asked.tokens_out,
            "limit": asked.is_limit,
            "money": cost.and_then(|cost| cost.tokens),
        })
    });
    let estimate = estimate.took.map(|estimate| {
        json!({
            "seconds": estimate.seconds,
            "tokens": estimate.tokens,
            "basis": estimate.basis.word(),
            "records": estimate.records,
            "scaled": estimate.scaled,
            "gpu_hours": cost.and_then(|cost| cost.gpu_hours),
            "money": cost.and_then(|cost| cost.money),
        })
    });
    json!({
        "node": node.name,
        "kind": node.kind_name(),
        "step": word(step),
        "key": key,
        "why": why(graph, node, step),
        "differences": differences_json(graph, node, differences),
        "seconds": plan.last[id.index()].map(|took| took.seconds),
        "estimate": estimate,
        "served": asked,
    })
}
