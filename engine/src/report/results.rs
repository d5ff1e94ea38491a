//! The table of results: one row a point of the sweep, one column `stage.metric`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::graph::{Graph, NodeId};
use crate::kind::{Param, Type, coerce};
use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::language::workflow::Workflow;
use crate::plan::state::Done;
use crate::report::expect::{Expect, Rule};

pub(crate) static PARAMS: &[Param] = &[
    Param::optional("columns", Type::Map(&Type::Text), "heading: `stage.metric`, in this order"),
    Param::optional("mean_over", Type::List(&Type::Text), "axes over which rows are averaged"),
    Param::optional(
        "rows",
        Type::Map(&Type::Map(&Type::Text)),
        "further rows, by name: a heading and the `stage.metric` that stands there",
    ),
];

/// A heading, and the stage and metric that stand below it.
pub type Column = (String, String, String);

/// Which figures the table shows, and over which axes it averages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// The columns; all figures when empty.
    pub columns: Vec<Column>,
    /// The axes.
    pub mean_over: Vec<String>,
    /// Rows that are no point of the sweep, such as the model that all points begin with: their name, and what
    /// stands in them in place of a column's own figure.
    pub rows: Vec<(String, Vec<Column>)>,
}

/// A figure of one row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The value, or the mean over the averaged points.
    pub value: f64,
    /// How many points it is the mean of.
    pub points: usize,
    /// The sample standard deviation over those points, for two and more.
    pub deviation: Option<f64>,
    /// The published value, where an `expect` names one.
    pub published: Option<f64>,
}

/// The table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// The axes that rows differ in.
    pub axes: Vec<String>,
    /// Headings with stage and metric.
    pub columns: Vec<Column>,
    /// The rows: those that the workflow names, then the points of the sweep.
    pub rows: Vec<Row>,
}

/// A row of the table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Row {
    /// Its name, where it is no point of the sweep.
    pub name: Option<String>,
    /// Its labels by axis; empty where it has none.
    pub labels: Vec<String>,
    /// Its figures by column.
    pub cells: Vec<Option<Cell>>,
}

/// Reads the section `results` of a workflow.
pub fn parse(workflow: &Workflow, problems: &mut Vec<Diagnostic>) -> Selection {
    let Some(node) = &workflow.results else { return Selection::default() };
    let resolved = coerce(PARAMS, node, "`results`", problems);
    let mut selection = Selection::default();
    let place = |path: &str| resolved.place(path).unwrap_or(node.span.clone());
    if let Some(Value::Object(columns)) = resolved.values.get("columns") {
        for (heading, text) in columns {
            let place = place(&format!("columns.{heading}"));
            selection.columns.extend(figure_at(workflow, heading, text, place, problems));
        }
    }
    for (name, row) in resolved.values.get("rows").and_then(Value::as_object).into_iter().flatten()
    {
        let mut cells = Vec::new();
        for (heading, text) in row.as_object().into_iter().flatten() {
            let place = place(&format!("rows.{name}.{heading}"));
            let headings = selection.columns.iter().map(|(heading, _, _)| heading.as_str());
            if headings.clone().any(|known| known == heading) {
                cells.extend(figure_at(workflow, heading, text, place, problems));
            } else {
                let problem = Diagnostic::at(place, format!("there is no column `{heading}`"));
                problems.push(problem.maybe_hint(suggest(heading, headings, "columns are")));
            }
        }
        selection.rows.push((name.clone(), cells));
    }
    for (i, axis) in
        resolved.values.get("mean_over").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        let axis = axis.as_str().unwrap_or_default();
        if workflow.axes.iter().any(|a| a.name == axis) {
            selection.mean_over.push(axis.to_string());
        } else {
            let place = place(&format!("mean_over[{i}]"));
            let known = workflow.axes.iter().map(|a| a.name.as_str());
            problems.push(
                Diagnostic::at(place, format!("there is no axis `{axis}`"))
                    .maybe_hint(suggest(axis, known, "axes are")),
            );
        }
    }
    selection
}

/// Reads `stage.metric`.
fn figure_at(
    workflow: &Workflow,
    heading: &str,
    text: &Value,
    place: Span,
    problems: &mut Vec<Diagnostic>,
) -> Option<Column> {
    let text = text.as_str().unwrap_or_default();
    let stages = workflow.stages.iter().map(|s| s.name.text.as_str());
    let problem = match text.rsplit_once('.') {
        Some((stage, metric)) if stages.clone().any(|known| known == stage) => {
            return Some((heading.into(), stage.into(), metric.into()));
        }
        Some((stage, _)) => Diagnostic::at(place, format!("there is no stage `{stage}`"))
            .maybe_hint(suggest(stage, stages, "stages are")),
        None => Diagnostic::at(place, format!("`{text}` is not a figure"))
            .hint("write `stage.metric`, for example `target.accuracy`"),
    };
    problems.push(problem);
    None
}

/// Collects the figures of all nodes whose outputs are known.
pub fn collect<'d>(
    graph: &Graph,
    selection: &Selection,
    expects: &[Expect],
    done: impl Fn(NodeId) -> Option<&'d Done>,
) -> Results {
    let figures: Vec<(NodeId, &Done)> = graph
        .ids()
        .filter_map(|id| Some((id, done(id)?)))
        .filter(|(_, d)| !d.metrics.is_empty())
        .collect();
    let mut columns = selection.columns.clone();
    if columns.is_empty() {
        for (id, done) in &figures {
            let stage = &graph.node(*id).stage;
            for metric in &done.metrics {
                if !columns.iter().any(|(_, s, m)| s == stage && *m == metric.metric) {
                    let heading = format!("{stage}.{}", metric.metric);
                    columns.push((heading, stage.clone(), metric.metric.clone()));
                }
            }
        }
    }
    let of_stage = |columns: &[Column]| -> Vec<(NodeId, &'d Done)> {
        let wanted =
            |id: NodeId| columns.iter().any(|(_, stage, _)| *stage == graph.node(id).stage);
        figures.iter().copied().filter(|(id, _)| wanted(*id)).collect()
    };
    let shown = of_stage(&columns);
    let used = |axis: &str| {
        shown.iter().any(|(id, _)| graph.node(*id).point.iter().any(|(a, _)| a == axis))
    };
    let axes: Vec<String> = graph
        .workflow
        .axes
        .iter()
        .map(|a| a.name.clone())
        .filter(|a| used(a) && !selection.mean_over.contains(a))
        .collect();
    let points = row_points(graph, &axes, &shown).into_iter().map(|labels| {
        let point: Vec<(&String, &String)> =
            axes.iter().zip(&labels).filter(|(_, l)| !l.is_empty()).collect();
        let cells = columns.iter().map(|c| cell(graph, &shown, c, &point, expects)).collect();
        Row { name: None, labels, cells }
    });
    let named = selection.rows.iter().map(|(name, row)| {
        let shown = of_stage(row);
        let of = |(heading, _, _): &Column| row.iter().find(|(named, _, _)| named == heading);
        let cells = columns.iter().map(|c| cell(graph, &shown, of(c)?, &[], expects)).collect();
        Row { name: Some(name.clone()), labels: vec![String::new(); axes.len()], cells }
    });
    let rows = named.chain(points).collect();
    Results { axes, columns, rows }
}

/// The rows: every combination of labels that some node has and no other node has in full.
fn row_points(graph: &Graph, axes: &[String], shown: &[(NodeId, &Done)]) -> Vec<Vec<String>> {
    let order: BTreeMap<(&str, &str), usize> = graph
        .workflow
        .axes
        .iter()
        .flat_map(|a| {
            a.values.iter().enumerate().map(|(i, (l, _))| ((a.name.as_str(), l.as_str()), i))
        })
        .collect();
    let mut points: Vec<Vec<String>> = shown
        .iter()
        .map(|(id, _)| {
            let point = &graph.node(*id).point;
            let label =
                |axis: &String| point.iter().find(|(a, _)| a == axis).map(|(_, l)| l.clone());
            axes.iter().map(|a| label(a).unwrap_or_default()).collect()
        })
        .collect();
    let place = |p: &Vec<String>| -> Vec<usize> {
        axes.iter()
            .zip(p)
            .map(|(a, l)| order.get(&(a.as_str(), l.as_str())).map_or(0, |i| i + 1))
            .collect()
    };
    points.sort_by_key(place);
    points.dedup();
    let inside =
        |p: &[String], q: &[String]| p != q && p.iter().zip(q).all(|(a, b)| a.is_empty() || a == b);
    points.iter().filter(|p| !points.iter().any(|q| inside(p, q))).cloned().collect()
}

fn cell(
    graph: &Graph,
    shown: &[(NodeId, &Done)],
    (_, stage, metric): &Column,
    row: &[(&String, &String)],
    expects: &[Expect],
) -> Option<Cell> {
    let values: Vec<f64> = shown
        .iter()
        .filter(|(id, _)| graph.node(*id).stage == *stage)
        .filter(|(id, _)| {
            let point = &graph.node(*id).point;
            point.iter().all(|(a, l)| row.iter().all(|(ra, rl)| *ra != a || *rl == l))
        })
        .filter_map(|(_, done)| crate::report::expect::figure(done, metric))
        .collect();
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.len() > 1)
        .then(|| (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0)).sqrt());
    let named = |e: &&Expect| {
        e.stage == *stage
            && e.metric == *metric
            && e.at.iter().all(|(a, l)| row.iter().all(|(ra, rl)| *ra != a || *rl == l))
    };
    let published = expects.iter().filter(named).find_map(|e| match e.rule {
        Rule::Within { value, .. } => Some(value),
        _ => None,
    });
    Some(Cell { value: mean, points: values.len(), deviation, published })
}
