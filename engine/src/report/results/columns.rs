//! The section `results` of a workflow: which metrics its table shows.

use serde_json::Value;

use crate::kind::{Param, Type, coerce};
use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::language::workflow::Workflow;
use crate::report::metric_names::MetricReference;

pub(crate) static PARAMS: &[Param] = &[
    Param::optional("columns", Type::Map(&Type::Text), "heading: `stage.metric`, in this order"),
    Param::optional("mean_over", Type::List(&Type::Text), "axes over which rows are averaged"),
    Param::optional(
        "rows",
        Type::Map(&Type::Map(&Type::Text)),
        "further rows, by name: a heading and the `stage.metric` that stands there",
    ),
];

/// A heading, and the stage and metric below it.
pub type Column = (String, String, String);

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
    /// The metrics that the section names, with their places.
    pub references: Vec<MetricReference>,
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
        let references = &mut chosen.references;
        chosen.columns.extend(column(workflow, heading, text, place, references, problems));
    }

    for (name, row) in values.get("rows").and_then(Value::as_object).into_iter().flatten() {
        let mut cells = Vec::new();
        for (heading, text) in row.as_object().into_iter().flatten() {
            let place = place(&format!("rows.{name}.{heading}"));
            let headings = chosen.columns.iter().map(|(heading, ..)| heading.as_str());
            if headings.clone().any(|known| known == heading) {
                let references = &mut chosen.references;
                cells.extend(column(workflow, heading, text, place, references, problems));
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

/// Reads `stage.metric`.
fn column(
    workflow: &Workflow,
    heading: &str,
    text: &Value,
    place: Span,
    references: &mut Vec<MetricReference>,
    problems: &mut Vec<Diagnostic>,
) -> Option<Column> {
    let text = text.as_str().unwrap_or_default();
    let stages = workflow.stages.iter().map(|s| s.name.text.as_str());
    let problem = match text.rsplit_once('.') {
        Some((stage, metric)) if stages.clone().any(|known| known == stage) => {
            let (stage, metric) = (stage.to_string(), metric.to_string());
            let reference =
                MetricReference { stage: stage.clone(), metric: metric.clone(), span: place };
            references.push(reference);
            return Some((heading.into(), stage, metric));
        }
        Some((stage, _)) => Diagnostic::at(place, format!("there is no stage `{stage}`"))
            .maybe_hint(suggest(stage, stages, "stages are")),
        None => Diagnostic::at(place, format!("`{text}` is not a metric"))
            .hint("write `stage.metric`, for example `target.accuracy`"),
    };
    problems.push(problem);
    None
}
