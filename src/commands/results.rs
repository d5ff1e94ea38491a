//! `refrain results`: a row per sweep point, a column per metric or expression of metrics; then the
//! comparisons.

use std::panic::resume_unwind;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use refrain_cache::write::write_atomic;
use refrain_engine::graph::NodeId;
use refrain_engine::language::diagnostic::suggest;
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::plan;
use refrain_engine::report::comparison::ComparedRow;
use refrain_engine::report::results::{
    self, Cell, Heading, NodeStatus, ResultColumns, Results, Row,
};

use crate::cli::{self, Format};
use crate::command_error::CommandError;
use crate::escape::escape_controls;
use crate::output;
use crate::session::{Opened, Session, Sources, existing_store, read_lock};
use crate::up_to_date::UpToDateInput;

use super::compare::{self, known_rows};

/// Prints the metrics that the cache, or else the lock, has for the workflow.
pub fn results(arguments: &cli::ResultsArgs, format: Format) -> Result<ExitCode, CommandError> {
    let opened = Opened::new(&arguments.workflow)?;
    // The last complete run had this table, unless the averaged points are wanted one by one.
    let kept = match arguments.each {
        true => None,
        false => UpToDateInput::new(&arguments.workflow, &opened).and_then(|input| input.find()),
    };
    let (mut table, comparisons) = match kept {
        Some(kept) => (kept.results, kept.comparisons),
        None => planned(opened, arguments)?,
    };
    if let Some(heading) = &arguments.sort {
        sort(&mut table, heading)?;
    }

    let mut text = text(&table, &comparisons, format);
    if table.rows.is_empty() && format == Format::Human {
        text = "there are no results yet: `refrain run` makes them\n".into();
    }
    match &arguments.output {
        None => output::text(&text),
        Some(path) => {
            write_atomic(path, text.as_bytes())
                .map_err(|error| CommandError::cannot_write(path, &error))?;
        }
    }
    if format != Format::Json {
        reasons(&table, &comparisons);
    }
    Ok(ExitCode::SUCCESS)
}

/// Collects both tables by a plan of the workflow.
fn planned(
    opened: Opened,
    arguments: &cli::ResultsArgs,
) -> Result<(Results, Vec<ComparedRow>), CommandError> {
    // Lock and cache are read while the graph is built.
    let (lock, cache) = (opened.lock.clone(), opened.cache.clone());
    let (session, (lock, store)) = std::thread::scope(|scope| {
        let kept = scope.spawn(|| (read_lock(&lock), existing_store(&cache)));
        let session = Session::of(opened, &arguments.workflow, Sources::Recorded);
        (session, kept.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let (session, lock, store) = (session?, lock?, store?);
    let graph = &session.graph;
    let plan = store.as_ref().map(|store| plan::look_up(graph, store)).transpose()?;
    let known = results::known(graph, &lock, plan.as_ref());

    // The logs are read only where a result is missing.
    let missing = known.iter().any(Option::is_none);
    let failed = if missing { session.last_runs().failed } else { Default::default() };
    let mut columns = session.columns.clone();
    if arguments.each {
        columns.mean_over = Vec::new();
    }
    let comparisons = known_rows(&session, &lock, store.as_ref(), |id| known[id.index()].as_ref());
    let table = collect(&session, &columns, |id| match &known[id.index()] {
        Some(done) => NodeStatus::NodeState(done),
        None if failed.contains(&graph.node(id).name) => NodeStatus::Failed,
        None => NodeStatus::Missing,
    });
    Ok((table, comparisons))
}

/// Sorts by a heading; a `-` before it turns the order round.
fn sort(table: &mut Results, heading: &str) -> Result<(), CommandError> {
    let reversed = heading.strip_prefix('-');
    if table.sort_by(heading, false) || reversed.is_some_and(|name| table.sort_by(name, true)) {
        return Ok(());
    }

    let heading = heading.trim_start_matches('-');
    let columns = table.columns.iter().map(|column| column.heading.as_str());
    let known = table.axes.iter().map(String::as_str).chain(columns);
    let hint = suggest(heading, known, "its columns are");
    let message = format!("the table has no column `{heading}`");
    Err(CommandError::Plain { message, hint, class: ErrorClass::Input })
}

/// Collects the table of a session.
pub fn collect<'d>(
    session: &Session,
    columns: &ResultColumns,
    status: impl Fn(NodeId) -> NodeStatus<'d>,
) -> Results {
    results::collect(&session.graph, columns, &session.expects, status)
}

/// Prints both tables in a format, and for people why expressions and comparisons have no value.
pub fn print(table: &Results, comparisons: &[ComparedRow], format: Format) {
    output::text(&text(table, comparisons, format));
    if format != Format::Json {
        reasons(table, comparisons);
    }
}

/// Says of each column why its first cell without a value has none, and likewise of comparisons.
fn reasons(table: &Results, comparisons: &[ComparedRow]) {
    compare::table::reasons(comparisons);
    for (c, column) in table.columns.iter().enumerate() {
        let reasons = table.rows.iter().filter_map(|row| row.cells[c].as_ref()?.reason.as_ref());
        let reasons: Vec<&String> = reasons.collect();
        let more = match reasons.len() {
            0 | 1 => String::new(),
            n => format!("; {} more cells have no value", n - 1),
        };
        if let Some(reason) = reasons.first() {
            output::remark(&format!("warning: `{}` has no value: {reason}{more}", column.heading));
        }
    }
}

/// Formats the table of metrics and, behind it, that of comparisons.
fn text(table: &Results, comparisons: &[ComparedRow], format: Format) -> String {
    if format == Format::Json {
        return output::json_text(&to_json(table, comparisons));
    }
    let (metrics, compared) =
        (of_metrics(table, format), compare::table::text(comparisons, format));
    let between = if metrics.is_empty() || compared.is_empty() { "" } else { "\n" };
    format!("{metrics}{between}{compared}")
}

/// Formats the table of metrics.
fn of_metrics(table: &Results, format: Format) -> String {
    match format {
        Format::Csv => csv(table),
        Format::Markdown => {
            let (headings, rows) = cells(table);
            let mut text = format!("| {} |\n", headings.join(" | "));
            text.push_str(&format!("|{}\n", " --- |".repeat(headings.len())));
            for row in rows {
                text.push_str(&format!("| {} |\n", row.join(" | ")));
            }
            escape_controls(&text)
        }
        Format::Human | Format::Json => {
            let (headings, rows) = cells(table);
            let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
            output::table_text(&headings, &rows)
        }
    }
}

/// Whether named rows need a column of their own, because no axis has a column for their names.
fn names_apart(table: &Results) -> bool {
    table.axes.is_empty() && table.rows.iter().any(|row| row.name.is_some())
}

/// The headings of the labels.
fn label_headings(table: &Results) -> Vec<String> {
    let apart = names_apart(table).then(|| "row".to_string());
    apart.into_iter().chain(table.axes.iter().cloned()).collect()
}

/// The labels of a row, its name in the place of the first.
fn labels(table: &Results, row: &Row) -> Vec<String> {
    let mut labels = row.labels.clone();
    if names_apart(table) {
        labels.insert(0, String::new());
    }
    if let (Some(name), Some(first)) = (&row.name, labels.first_mut()) {
        first.clone_from(name);
    }
    labels
}

/// Whether an `expect` names a published value, by column.
fn published(table: &Results) -> Vec<bool> {
    let has = |c: usize| {
        let cells = table.rows.iter().filter_map(|row| row.cells[c].as_ref());
        cells.into_iter().any(|cell| cell.published.is_some())
    };
    (0..table.columns.len()).map(has).collect()
}

/// The headings and rows for people.
fn cells(table: &Results) -> (Vec<String>, Vec<Vec<String>>) {
    let published = published(table);
    let mut headings = label_headings(table);
    for (Heading { heading, .. }, published) in table.columns.iter().zip(&published) {
        headings.extend(published.then(|| format!("{heading} (published)")));
        headings.push(heading.clone());
    }

    let row = |row: &Row| {
        let mut texts = labels(table, row);
        for (cell, published) in row.cells.iter().zip(&published) {
            if *published {
                let value = cell.as_ref().and_then(|cell| cell.published);
                texts.push(value.map(number).unwrap_or_default());
            }
            texts.push(cell.as_ref().map(cell_text).unwrap_or_default());
        }
        texts
    };
    (headings, table.rows.iter().map(row).collect())
}

fn cell_text(cell: &Cell) -> String {
    let Some(value) = cell.value else {
        return if cell.failed > 0 { "failed".into() } else { "not run".into() };
    };
    let text = match cell.deviation {
        // Both with the decimals of the larger, so that neither shows more than the other is worth.
        Some(deviation) => {
            let decimals = decimals(value.abs().max(deviation));
            format!("{value:.decimals$} ± {deviation:.decimals$}")
        }
        None => number(value),
    };
    match cell.failed + cell.missing {
        0 => text,
        without => format!("{text} ({} of {})", cell.points, cell.points + without),
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

/// The table for programs: every digit, and where values are means their spread and number; at the end the row's
/// status.
fn csv(table: &Results) -> String {
    let published = published(table);
    let means = table.rows.iter().flat_map(|row| row.cells.iter().flatten()).any(|c| c.points > 1);
    let mut headings = label_headings(table);
    for (Heading { heading, .. }, published) in table.columns.iter().zip(&published) {
        headings.extend(published.then(|| format!("{heading} (published)")));
        headings.push(heading.clone());
        if means {
            headings.extend([format!("{heading} (sd)"), format!("{heading} (n)")]);
        }
    }
    headings.push("status".into());

    let digits = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let mut text = csv_line(&headings);
    for row in &table.rows {
        let mut fields = labels(table, row);
        for (cell, published) in row.cells.iter().map(Option::as_ref).zip(&published) {
            fields.extend(published.then(|| digits(cell.and_then(|cell| cell.published))));
            fields.push(digits(cell.and_then(|cell| cell.value)));
            if means {
                fields.push(digits(cell.and_then(|cell| cell.deviation)));
                fields.push(cell.map(|cell| cell.points.to_string()).unwrap_or_default());
            }
        }
        fields.push(row.status().into());
        text.push_str(&csv_line(&fields));
    }
    text
}

fn csv_line(fields: &[String]) -> String {
    let fields: Vec<String> = fields.iter().map(|field| csv_field(field)).collect();
    format!("{}\n", escape_controls(&fields.join(",")))
}

fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

fn to_json(table: &Results, comparisons: &[ComparedRow]) -> Value {
    let rows: Vec<Value> = table.rows.iter().map(|row| row_json(table, row)).collect();
    json!({ "refrain": 1, "rows": rows, "comparisons": compare::table::to_json(comparisons) })
}

fn row_json(table: &Results, row: &Row) -> Value {
    let labels = table.axes.iter().zip(&row.labels).filter(|(_, label)| !label.is_empty());
    let point: Map<String, Value> =
        labels.map(|(axis, label)| (axis.clone(), Value::from(label.as_str()))).collect();
    let metric = |(column, cell): (&Heading, &Option<Cell>)| {
        let cell = cell.as_ref()?;
        let figure = json!({
            "stage": column.metric.as_ref().map(|(stage, _)| stage),
            "metric": column.metric.as_ref().map(|(_, metric)| metric),
            "of": column.of,
            "value": cell.value,
            "points": cell.points,
            "failed": cell.failed,
            "missing": cell.missing,
            "status": cell.status(),
            "reason": cell.reason,
            "deviation": cell.deviation,
            "published": cell.published,
        });
        Some((column.heading.clone(), figure))
    };
    let figures: Map<String, Value> =
        table.columns.iter().zip(&row.cells).filter_map(metric).collect();
    json!({ "name": row.name, "point": point, "status": row.status(), "figures": figures })
}
