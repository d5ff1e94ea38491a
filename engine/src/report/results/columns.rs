//! The section `results` of a workflow: which metrics its table shows.

use serde_json::Value;

use crate::kind::{Param, Type, coerce};
use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::language::workflow::Workflow;
use crate::report::expression::Expression;
use crate::report::metric_names::MetricReference;

use super::Heading;

pub(crate) static PARAMS: &[Param] = &[
    Param::optional(
        "columns",
        Type::Map(&Type::Text),
        "heading: `stage.metric` or an expression of such, in this order",
    ),
    Param::optional("mean_over", Type::List(&Type::Text), "axes over which rows are averaged"),
    Param::optional(
        "rows",
        Type::Map(&Type::Map(&Type::Text)),
        "further rows, by name: a heading and the metric or expression that stands there",
    ),
];

/// A column that the workflow asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its heading.
    pub heading: String,
    /// The metric or expression below it.
    pub of: Expression,
}

impl Column {
    /// Describes the column in the table.
    pub(super) fn heading(&self) -> Heading {
        let metric = self.of.as_metric().map(|m| (m.stage.clone(), m.metric.clone()));
        let of = metric.is_none().then(|| self.of.text.clone());
        Heading { heading: self.heading.clone(), metric, of }
    }
}

/// The metrics that the table shows, and the axes that it averages over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResultColumns {
    /// The columns; every metric when empty.
    pub columns: Vec<Column>,
    /// The averaged axes.
    pub mean_over: Vec<String>,
    /// Rows beside the points of the sweep, such as the model that all points begin with: their name, and the metrics
    /// that stand in them in place of a column's own.
    pub rows: Vec<(String, Vec<Column>)>,
}

impl ResultColumns {
    /// Iterates over the metrics that the section names, with their places.
    pub fn metrics(&self) -> impl Iterator<Item = &MetricReference> {
        let named = self.rows.iter().flat_map(|(_, row)| row);
        self.columns.iter().chain(named).flat_map(|column| &column.of.metrics)
    }
}

/// Reads the section `results` of a workflow.
pub fn parse(workflow: &Workflow, problems: &mut Vec<Diagnostic>) -> ResultColumns {
    let Some(node) = &workflow.results else { return ResultColumns::default() };
    let resolved = coerce(PARAMS, node, "`results`", problems);
    let values = &resolved.values;
    let place = |path: &str| resolved.place(path).unwrap_or(node.span.clone());

    let mut chosen = ResultColumns::default();
    for (heading, text) in values.get("columns").and_then(Value::as_object).into_iter().flatten() {
        let place = place(&format!("columns.{heading}"));
        chosen.columns.extend(column(workflow, heading, text, &place, problems));
    }

    for (name, row) in values.get("rows").and_then(Value::as_object).into_iter().flatten() {
        let mut cells = Vec::new();
        for (heading, text) in row.as_object().into_iter().flatten() {
            let place = place(&format!("rows.{name}.{heading}"));
            let headings = chosen.columns.iter().map(|column| column.heading.as_str());
            if headings.clone().any(|known| known == heading) {
                cells.extend(column(workflow, heading, text, &place, problems));
            } else {
                let problem = Diagnostic::at(place, format!("there is no column `{heading}`"));
                problems.push(problem.maybe_hint(suggest(heading, headings, "columns are")));
            }
        }
        chosen.rows.push((name.clone(), cells));
    }

    let averaged = values.get("mean_over").and_then(Value::as_array).into_iter().flatten();
    for (i, axis) in averaged.enumerate() {
        let axis = axis.as_str().unwrap_or_default();
        let known = workflow.axes.iter().map(|a| a.name.as_str());
        if known.clone().any(|name| name == axis) {
            chosen.mean_over.push(axis.to_string());
            continue;
        }
        let place = place(&format!("mean_over[{i}]"));
        let problem = Diagnostic::at(place, format!("there is no axis `{axis}`"));
        problems.push(problem.maybe_hint(suggest(axis, known, "axes are")));
    }
    chosen
}

/// Reads `stage.metric`, or an expression.
fn column(
    workflow: &Workflow,
    heading: &str,
    text: &Value,
    place: &Span,
    problems: &mut Vec<Diagnostic>,
) -> Option<Column> {
    let of = Expression::parse(workflow, text.as_str()?, place);
    let of = of.map_err(|found| problems.extend(found)).ok()?;
    Some(Column { heading: heading.into(), of })
}
