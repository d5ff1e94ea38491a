//! `refrain results`: one row a point of the sweep, one column `stage.metric`.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use refrain_engine::graph::{Graph, NodeId};
use refrain_engine::plan;
use refrain_engine::plan::state::Done;
use refrain_engine::report::results::{self, Cell, Results, Row};

use crate::cli::{self, Format};
use crate::failure::Failure;
use crate::output;
use crate::session::Session;

/// Prints the figures that the cache or else the lock has for the workflow.
pub fn results(arguments: &cli::WorkflowArgs, format: Format) -> Result<ExitCode, Failure> {
    let session = Session::open(arguments)?;
    let graph = &session.graph;
    let lock = session.lock()?;
    let table = match session.existing_store()? {
        Some(store) => {
            let plan = plan::plan(graph, &store, &lock.keys())?;
            collect(&session, |id| plan.state.done(id))
        }
        None => {
            let done: Vec<Option<Done>> = graph
                .nodes
                .iter()
                .map(|n| lock.entries.get(&n.name).map(|l| l.to_done()))
                .collect();
            collect(&session, |id| done[id.index()].as_ref())
        }
    };
    print(&table, format);
    if table.rows.is_empty() && format == Format::Human {
        output::line("there are no results yet: `refrain run` makes them");
    }
    Ok(ExitCode::SUCCESS)
}

/// The table of a session.
pub fn collect<'d>(session: &Session, done: impl Fn(NodeId) -> Option<&'d Done>) -> Results {
    let graph: &Graph = &session.graph;
    results::collect(graph, &session.selection, &session.expects, done)
}

/// Prints the table in a format.
pub fn print(table: &Results, format: Format) {
    let published: Vec<bool> = (0..table.columns.len())
        .map(|c| {
            table
                .rows
                .iter()
                .any(|row| row.cells[c].as_ref().is_some_and(|c| c.published.is_some()))
        })
        .collect();
    let mut headings: Vec<String> = table.axes.clone();
    if names_apart(table) {
        headings.insert(0, "row".into());
    }
    for ((heading, _, _), published) in table.columns.iter().zip(&published) {
        if *published {
            headings.push(format!("{heading} (published)"));
        }
        headings.push(heading.clone());
    }
    match format {
        Format::Json => output::json(&to_json(table)),
        Format::Csv => {
            output::line(&headings.iter().map(|h| csv_field(h)).collect::<Vec<_>>().join(","));
            for row in rows(table, &published, |c| c.value.to_string()) {
                output::line(&row.iter().map(|f| csv_field(f)).collect::<Vec<_>>().join(","));
            }
        }
        Format::Markdown => {
            output::line(&format!("| {} |", headings.join(" | ")));
            output::line(&format!("|{}", " --- |".repeat(headings.len())));
            for row in rows(table, &published, shown) {
                output::line(&format!("| {} |", row.join(" | ")));
            }
        }
        Format::Human => {
            let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
            output::table(&headings, &rows(table, &published, shown));
        }
    }
}

/// Whether named rows need a column of their own, because there is no axis in whose column their names can stand.
fn names_apart(table: &Results) -> bool {
    table.axes.is_empty() && table.rows.iter().any(|row| row.name.is_some())
}

fn rows(table: &Results, published: &[bool], show: impl Fn(&Cell) -> String) -> Vec<Vec<String>> {
    let row = |Row { name, labels, cells }: &Row| {
        let mut row = labels.clone();
        if names_apart(table) {
            row.insert(0, String::new());
        }
        if let (Some(name), Some(first)) = (name, row.first_mut()) {
            first.clone_from(name);
        }
        for (cell, published) in cells.iter().zip(published) {
            if *published {
                let value = cell.as_ref().and_then(|c| c.published);
                row.push(value.map(number).unwrap_or_default());
            }
            row.push(cell.as_ref().map(&show).unwrap_or_default());
        }
        row
    };
    table.rows.iter().map(row).collect()
}

fn shown(cell: &Cell) -> String {
    match cell.deviation {
        // Both with the decimals of the larger, so that neither shows more than the other is worth.
        Some(deviation) => {
            let decimals = decimals(cell.value.abs().max(deviation));
            format!("{:.decimals$} ± {deviation:.decimals$}", cell.value)
        }
        None => number(cell.value),
    }
}

/// Four significant digits, whole numbers as they are.
fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    format!("{value:.*}", decimals(value.abs()))
}

/// Decimals that leave four significant digits to a number above 0.
fn decimals(value: f64) -> usize {
    if value == 0.0 { 0 } else { (3 - value.log10().floor() as i32).clamp(0, 8) as usize }
}

fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

fn to_json(table: &Results) -> Value {
    let rows: Vec<Value> = table
        .rows
        .iter()
        .map(|Row { name, labels, cells }| {
            let point: Map<String, Value> = table
                .axes
                .iter()
                .zip(labels)
                .filter(|(_, l)| !l.is_empty())
                .map(|(a, l)| (a.clone(), Value::from(l.as_str())))
                .collect();
            let figures: Map<String, Value> = table
                .columns
                .iter()
                .zip(cells)
                .filter_map(|((heading, stage, metric), cell)| {
                    let c = cell.as_ref()?;
                    let figure = json!({
                        "stage": stage, "metric": metric, "value": c.value, "points": c.points,
                        "deviation": c.deviation, "published": c.published,
                    });
                    Some((heading.clone(), figure))
                })
                .collect();
            json!({ "name": name, "point": point, "figures": figures })
        })
        .collect();
    json!({ "refrain": 1, "rows": rows })
}
