//! The points behind the means of the table of results: a value per seed, or whatever is averaged.

use std::collections::HashMap;

use crate::graph::NodeId;
use crate::plan::state::NodeState;
use crate::report::results::{self, NodeStatus, ResultColumns, Results, Row};

use super::PageInput;

/// A column of the table of results with its points.
#[derive(Debug, Clone, PartialEq)]
pub struct SpreadColumn {
    /// Its heading.
    pub heading: String,
    /// Its rows, those with a value.
    pub rows: Vec<SpreadRow>,
}

/// A cell with its points.
#[derive(Debug, Clone, PartialEq)]
pub struct SpreadRow {
    /// The name or the labels of its row.
    pub label: String,
    /// The label of its first axis; `None` of a row that the workflow names.
    pub arm: Option<String>,
    /// The value, or the mean.
    pub value: f64,
    /// The standard deviation over points.
    pub deviation: Option<f64>,
    /// The published value.
    pub published: Option<f64>,
    /// The values that the mean is of; empty where it is none.
    pub points: Vec<f64>,
}

/// Collects the points of each column.
pub(super) fn spread<'d>(
    input: &PageInput<'_>,
    table: &Results,
    of: &impl Fn(NodeId) -> Option<&'d NodeState>,
) -> Vec<SpreadColumn> {
    let columns = ResultColumns { mean_over: Vec::new(), ..input.columns.clone() };
    let averaged = !input.columns.mean_over.is_empty();
    let each = averaged.then(|| {
        results::collect(input.graph, &columns, input.expects, |id| {
            of(id).map_or(NodeStatus::Missing, NodeStatus::NodeState)
        })
    });
    let points = each.as_ref().map(|each| by_labels(each, &table.axes));

    let cell = |row: &Row, column: usize| {
        let cell = row.cells[column].as_ref()?;
        let place = (row.name.clone(), row.labels.clone(), column);
        let points = points.as_ref().and_then(|points| points.get(&place)).cloned();
        Some(SpreadRow {
            label: row_label(row),
            arm: row.labels.first().filter(|_| row.name.is_none()).cloned(),
            value: cell.value?,
            deviation: cell.deviation,
            published: cell.published,
            points: if cell.points > 1 { points.unwrap_or_default() } else { Vec::new() },
        })
    };
    let column = |(c, heading): (usize, &results::Heading)| SpreadColumn {
        heading: heading.heading.clone(),
        rows: table.rows.iter().filter_map(|row| cell(row, c)).collect(),
    };
    table.columns.iter().enumerate().map(column).collect()
}

/// The name of a row, or its labels.
fn row_label(row: &Row) -> String {
    let labels = row.labels.iter().filter(|label| !label.is_empty()).cloned();
    row.name.clone().unwrap_or_else(|| labels.collect::<Vec<_>>().join(", "))
}

type Points = HashMap<(Option<String>, Vec<String>, usize), Vec<f64>>;

/// Groups the values of a table by name, labels of the axes that remain, and column.
fn by_labels(each: &Results, axes: &[String]) -> Points {
    let places: Vec<Option<usize>> =
        axes.iter().map(|axis| each.axes.iter().position(|known| known == axis)).collect();
    let mut points = Points::new();
    for row in &each.rows {
        let label = |place: &Option<usize>| place.map_or(String::new(), |p| row.labels[p].clone());
        let labels: Vec<String> = places.iter().map(label).collect();
        for (c, cell) in row.cells.iter().enumerate() {
            if let Some(value) = cell.as_ref().and_then(|cell| cell.value) {
                points.entry((row.name.clone(), labels.clone(), c)).or_default().push(value);
            }
        }
    }
    points
}
