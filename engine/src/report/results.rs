//! The table of results: a row per sweep point, a column per `stage.metric`.
//!
//! Rows come from the graph, whether or not their nodes have run, and a cell holds the metric of exactly the nodes that
//! belong to its row. Trials that failed or never ran are marked.

mod columns;
mod known;
mod place;

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::graph::{Graph, NodeId};
use crate::plan::state::NodeState;
use crate::report::expect::{Expect, Rule, metric_of};

pub(crate) use columns::PARAMS;
pub use columns::{Column, ResultColumns, parse};
pub use known::known;

use place::Places;

/// A node's result, or why there is none.
#[derive(Debug, Clone, Copy)]
pub enum NodeStatus<'d> {
    /// Its result is known.
    NodeState(&'d NodeState),
    /// It failed.
    Failed,
    /// It has not run.
    Missing,
    /// The run was asked for other nodes; it makes no row.
    Unwanted,
}

/// A metric in one row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
    /// Headings with stage and metric.
    pub columns: Vec<Column>,
    /// The rows: those that the workflow names, then the points of the sweep.
    pub rows: Vec<Row>,
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
        if let Some(column) = self.columns.iter().position(|(name, ..)| name == heading) {
            let value = |row: &Row| row.cells[column].and_then(|cell| cell.value);
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
    let table = Table { graph, statuses: &statuses, expects: by_metric(expects) };

    let stages: HashSet<&str> = chosen.iter().map(|(_, stage, _)| stage.as_str()).collect();
    let wanted = |id: &NodeId| {
        stages.contains(graph.node(*id).stage.as_str())
            && !matches!(statuses[id.index()], NodeStatus::Unwanted)
    };
    let shown: Vec<NodeId> = graph.ids().filter(wanted).collect();
    let places = Places::new(graph, &shown, &columns.mean_over);
    let nodes = places.by_stage(graph, &shown);

    let points = places.rows().into_iter().map(|place| {
        let point = places.point(&place);
        let cell =
            |column: &Column| table.cell(column, &nodes.get(column.1.as_str())?.at(&place), &point);
        Row { name: None, labels: places.labels(&place), cells: chosen.iter().map(cell).collect() }
    });
    let named = columns.rows.iter().map(|(name, row)| {
        let cell = |column: &Column| {
            let column = row.iter().find(|(heading, ..)| *heading == column.0)?;
            let nodes = graph.ids().filter(|id| graph.node(*id).stage == column.1);
            table.cell(column, &nodes.collect::<Vec<_>>(), &[])
        };
        let labels = vec![String::new(); places.axes.len()];
        Row { name: Some(name.clone()), labels, cells: chosen.iter().map(cell).collect() }
    });
    let rows = named.chain(points).collect();
    Results {
        axes: places.axes.iter().map(|axis| axis.to_string()).collect(),
        columns: chosen,
        rows,
    }
}

/// A column for every metric that some node has, in the order of the graph.
fn all_columns(graph: &Graph, statuses: &[NodeStatus<'_>]) -> Vec<Column> {
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    let mut columns = Vec::new();
    for id in graph.ids() {
        let NodeStatus::NodeState(done) = statuses[id.index()] else { continue };
        let stage = &graph.node(id).stage;
        for metric in &done.result.metrics {
            if seen.insert((stage, &metric.metric)) {
                let heading = format!("{stage}.{}", metric.metric);
                columns.push((heading, stage.clone(), metric.metric.clone()));
            }
        }
    }
    columns
}

type ByMetric<'e> = HashMap<(&'e str, &'e str), Vec<&'e Expect>>;

fn by_metric(expects: &[Expect]) -> ByMetric<'_> {
    let mut by_metric = ByMetric::new();
    for expect in expects {
        by_metric.entry((&expect.stage, &expect.metric)).or_default().push(expect);
    }
    by_metric
}

/// All that cells are made from.
struct Table<'a, 'd> {
    graph: &'a Graph,
    statuses: &'a [NodeStatus<'d>],
    expects: ByMetric<'a>,
}

impl Table<'_, '_> {
    /// The cell of a column over the nodes of a row; `None` where none of them has anything to say.
    fn cell(&self, column: &Column, nodes: &[NodeId], point: &[(&str, &str)]) -> Option<Cell> {
        let (_, stage, metric) = column;
        let mut values = Vec::new();
        let (mut failed, mut missing) = (0, 0);
        for id in nodes {
            debug_assert_eq!(self.graph.node(*id).stage, *stage);
            match self.statuses[id.index()] {
                NodeStatus::NodeState(done) => values.extend(metric_of(done, metric)),
                NodeStatus::Failed => failed += 1,
                NodeStatus::Missing => missing += 1,
                NodeStatus::Unwanted => {}
            }
        }
        if values.is_empty() && failed + missing == 0 {
            return None;
        }

        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = || values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>();
        Some(Cell {
            value: (!values.is_empty()).then_some(mean),
            points: values.len(),
            failed,
            missing,
            deviation: (values.len() > 1).then(|| (squares() / (n - 1.0)).sqrt()),
            published: self.published(stage, metric, point),
        })
    }

    /// The value that an `expect` on this point states.
    fn published(&self, stage: &str, metric: &str, point: &[(&str, &str)]) -> Option<f64> {
        let expects = self.expects.get(&(stage, metric))?;
        let is_here =
            |(axis, label): &(String, String)| point.iter().all(|(a, l)| a != axis || l == label);
        expects.iter().filter(|e| e.at.iter().all(is_here)).find_map(|expect| match expect.rule {
            Rule::Within { value, .. } => Some(value),
            _ => None,
        })
    }
}
