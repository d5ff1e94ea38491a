//! The table of results: a row per sweep point, a column per `stage.metric` or expression of such.
//!
//! Rows come from the graph, whether or not their nodes have run, and a cell holds the metric of exactly the nodes that
//! belong to its row. Trials that failed or never ran are marked.

mod columns;
mod known;
mod place;

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::graph::{Graph, NodeId};
use crate::report::expect::{Expect, Rule};
use crate::report::expression::Expression;
use crate::report::points::{Absent, Point, Stages};

pub(crate) use columns::PARAMS;
pub use columns::{Column, ResultColumns, parse};
pub use known::known;

pub use crate::report::points::NodeStatus;

use place::{ColumnPoints, Places};

/// A metric in one row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The value, or the mean over the averaged points; `None` where no point has one.
    pub value: Option<f64>,
    /// The number of points in the mean.
    pub points: usize,
    /// The number of points that failed.
    pub failed: usize,
    /// The number of points that have not run.
    pub missing: usize,
    /// The sample standard deviation over the points, for two and more.
    pub deviation: Option<f64>,
    /// The published value, where an `expect` names one.
    pub published: Option<f64>,
    /// Why an expression has no value at the first point that lacks one, where all nodes ran.
    pub reason: Option<String>,
}

impl Cell {
    /// The status in one word: `ok`, `partial`, `failed` or `missing`.
    pub fn status(&self) -> &'static str {
        match (self.points, self.failed, self.missing) {
            (1.., 0, 0) => "ok",
            (1.., ..) => "partial",
            (0, 1.., _) => "failed",
            (0, 0, _) => "missing",
        }
    }
}

/// The table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// The axes that rows differ in.
    pub axes: Vec<String>,
    /// The columns.
    pub columns: Vec<Heading>,
    /// The rows: those that the workflow names, then the points of the sweep.
    pub rows: Vec<Row>,
}

/// A column of the table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Heading {
    /// Its heading.
    pub heading: String,
    /// Stage and metric; `None` of an expression.
    pub metric: Option<(String, String)>,
    /// The expression; `None` of a metric alone.
    pub of: Option<String>,
}

/// A row of the table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Row {
    /// Its name, where it is not a point of the sweep.
    pub name: Option<String>,
    /// Its labels by axis; empty where it has none.
    pub labels: Vec<String>,
    /// Its cells by column; `None` where the column's stage has no node in the row.
    pub cells: Vec<Option<Cell>>,
}

impl Row {
    /// The status of the whole row: the worst of its cells.
    pub fn status(&self) -> &'static str {
        let has = |status: &str| self.cells.iter().flatten().any(|cell| cell.status() == status);
        ["failed", "missing", "partial"].into_iter().find(|status| has(status)).unwrap_or("ok")
    }
}

impl Results {
    /// Sorts the rows by an axis or a column, named by its heading; rows without a value come last. Returns whether
    /// there is such a heading.
    pub fn sort_by(&mut self, heading: &str, descending: bool) -> bool {
        let direct = |order: std::cmp::Ordering| if descending { order.reverse() } else { order };
        if let Some(column) = self.columns.iter().position(|known| known.heading == heading) {
            let value = |row: &Row| row.cells[column].as_ref().and_then(|cell| cell.value);
            self.rows.sort_by(|a, b| match (value(a), value(b)) {
                (Some(a), Some(b)) => direct(a.total_cmp(&b)),
                (a, b) => b.is_some().cmp(&a.is_some()),
            });
            return true;
        }

        let Some(axis) = self.axes.iter().position(|name| name == heading) else { return false };
        let number = |row: &Row| row.labels[axis].parse::<f64>().ok();
        self.rows.sort_by(|a, b| match (number(a), number(b)) {
            (Some(a), Some(b)) => direct(a.total_cmp(&b)),
            _ => direct(a.labels[axis].cmp(&b.labels[axis])),
        });
        true
    }
}

/// Collects the metrics of all nodes.
pub fn collect<'d>(
    graph: &Graph,
    columns: &ResultColumns,
    expects: &[Expect],
    status: impl Fn(NodeId) -> NodeStatus<'d>,
) -> Results {
    let statuses: Vec<NodeStatus<'d>> = graph.ids().map(status).collect();
    let chosen = match columns.columns.is_empty() {
        true => all_columns(graph, &statuses),
        false => columns.columns.clone(),
    };
    let status = |id: NodeId| statuses[id.index()];
    let named = columns.rows.iter().flat_map(|(_, row)| row);
    let expressions = chosen.iter().chain(named).map(|column| &column.of);
    let wanted = |id: NodeId| !matches!(status(id), NodeStatus::Unwanted);
    let stages = Stages::new(graph, expressions, wanted);
    let table = Table { stages: &stages, status: &status, expects: by_expression(expects) };

    // Columns of the same stages have the same points.
    let mut groups: HashMap<Vec<&str>, usize> = HashMap::new();
    let mut points: Vec<Vec<Point>> = Vec::new();
    let mut group_of = Vec::with_capacity(chosen.len());
    for column in &chosen {
        let number = *groups.entry(column.of.stages()).or_insert_with(|| {
            points.push(stages.points(&column.of));
            points.len() - 1
        });
        group_of.push(number);
    }
    let places = Places::new(&graph.workflow.axes, points.iter().flatten(), &columns.mean_over);
    let found: Vec<ColumnPoints<'_>> = points.iter().map(|points| places.column(points)).collect();

    let swept = places.rows(points.iter().flatten()).into_iter().map(|place| {
        let point = places.point(&place);
        let here: Vec<Vec<&Point>> = found.iter().map(|points| points.at(&place)).collect();
        let cell =
            |(column, group): (&Column, &usize)| table.cell(&column.of, &here[*group], &point);
        let cells = chosen.iter().zip(&group_of).map(cell).collect();
        Row { name: None, labels: places.labels(&place), cells }
    });
    let named = columns.rows.iter().map(|(name, row)| {
        let cell = |column: &Column| {
            let of = &row.iter().find(|cell| cell.heading == column.heading)?.of;
            let points = stages.points(of);
            table.cell(of, &points.iter().collect::<Vec<_>>(), &[])
        };
        let labels = vec![String::new(); places.names().len()];
        Row { name: Some(name.clone()), labels, cells: chosen.iter().map(cell).collect() }
    });
    let rows = named.chain(swept).collect();
    Results { axes: places.names(), columns: chosen.iter().map(Column::heading).collect(), rows }
}

/// A column for every metric that some node has, in the order of the graph.
fn all_columns(graph: &Graph, statuses: &[NodeStatus<'_>]) -> Vec<Column> {
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    let mut columns = Vec::new();
    for id in graph.ids() {
        let NodeStatus::NodeState(done) = statuses[id.index()] else { continue };
        let node = graph.node(id);
        for metric in &done.result.metrics {
            if seen.insert((&node.stage, &metric.metric)) {
                let heading = format!("{}.{}", node.stage, metric.metric);
                let (stage, metric) = (node.stage.clone(), metric.metric.clone());
                let of = Expression::metric(stage, metric, node.span.clone());
                columns.push(Column { heading, of });
            }
        }
    }
    columns
}

type ByExpression<'e> = HashMap<&'e str, Vec<&'e Expect>>;

fn by_expression(expects: &[Expect]) -> ByExpression<'_> {
    let mut by_expression = ByExpression::new();
    for expect in expects {
        by_expression.entry(&expect.of.canonical).or_default().push(expect);
    }
    by_expression
}

/// All that cells are made from.
struct Table<'a, S> {
    stages: &'a Stages<'a>,
    status: &'a S,
    expects: ByExpression<'a>,
}

impl<'d, S: Fn(NodeId) -> NodeStatus<'d>> Table<'_, S> {
    /// The cell of an expression over the points of a row; `None` where none of them has anything to say.
    fn cell(&self, of: &Expression, points: &[&Point], row: &[(&str, &str)]) -> Option<Cell> {
        let mut values = Vec::new();
        let mut cell = Cell::default();
        for point in points {
            match self.stages.value(of, point, self.status) {
                Ok(value) => values.push(value),
                Err(Absent::Failed) => cell.failed += 1,
                Err(Absent::Missing) => cell.missing += 1,
                // A metric that a part of a stage's nodes has leaves the others' cells empty.
                Err(Absent::NoMetric(_)) if of.as_metric().is_some() => {}
                Err(Absent::NoMetric(reason)) => {
                    cell.missing += 1;
                    cell.reason.get_or_insert(reason);
                }
                Err(Absent::NotFinite(reason)) => {
                    cell.failed += 1;
                    cell.reason.get_or_insert(reason);
                }
            }
        }
        if values.is_empty() && cell.failed + cell.missing == 0 {
            return None;
        }

        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = || values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>();
        cell.value = (!values.is_empty()).then_some(mean);
        cell.points = values.len();
        cell.deviation = (values.len() > 1).then(|| (squares() / (n - 1.0)).sqrt());
        cell.published = self.published(of, row);
        Some(cell)
    }

    /// The value that an `expect` on this row states.
    fn published(&self, of: &Expression, row: &[(&str, &str)]) -> Option<f64> {
        let expects = self.expects.get(of.canonical.as_str())?;
        let is_here =
            |(axis, label): &(String, String)| row.iter().all(|(a, l)| a != axis || l == label);
        expects.iter().filter(|e| e.at.iter().all(is_here)).find_map(|expect| match expect.rule {
            Rule::Within { value, .. } => Some(value),
            _ => None,
        })
    }
}
