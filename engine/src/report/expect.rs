//! Conditions on results: published values with a tolerance, orders between points, bounds.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::graph::build::node_name;
use crate::graph::{Graph, NodeId};
use crate::kind::{Param, Type, coerce};
use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::language::scalar::label;
use crate::language::workflow::{Axis, Workflow};
use crate::plan::state::NodeState;
use crate::report::expression::Expression;
use crate::report::points::{Absent, NodeStatus, Point, Stages};

const NUMBER: Type = Type::Float { min: f64::NEG_INFINITY, max: f64::INFINITY, open: false };

pub(crate) static PARAMS: &[Param] = &[
    Param::optional("compare", Type::Text, "a comparison, in place of `stage` and `metric`"),
    Param::optional("stage", Type::Text, "the stage whose metric is meant"),
    Param::optional("metric", Type::Text, "the metric's name"),
    Param::optional("of", Type::Text, "an expression of metrics, in place of `stage` and `metric`"),
    Param::optional("at", Type::Map(&Type::Any), "values of axes"),
    Param::optional("value", NUMBER, "the published value"),
    Param::optional(
        "within",
        Type::Float { min: 0.0, max: f64::INFINITY, open: false },
        "tolerance of `value`",
    ),
    Param::optional(
        "above",
        Type::OneOf(&[NUMBER, Type::Map(&Type::Any)]),
        "values of axes of the nodes that it must exceed; of a comparison the number that it must exceed",
    ),
    Param::default("by", NUMBER, "0.0", "by how much at least"),
    Param::optional("at_least", NUMBER, "lower bound"),
    Param::optional("at_most", NUMBER, "upper bound"),
    Param::optional(
        "confidence",
        Type::Float { min: 0.0, max: 0.999_999, open: true },
        "of a comparison: the interval's confidence, of which the lower end must be above `above`",
    ),
    Param::default(
        "shown",
        Type::Bool,
        "true",
        "`false` marks a condition that was tested and does not hold",
    ),
    Param::optional("source", Type::Text, "where the value was published"),
];

/// One condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Expect {
    /// The metric or expression.
    pub of: Expression,
    /// Axes and labels that choose among the points.
    pub at: Vec<(String, String)>,
    /// The condition.
    pub rule: Rule,
    /// Where the value was published.
    pub source: Option<String>,
    /// Whether it is expected to hold.
    pub shown: bool,
    /// Its place in the workflow.
    pub span: Span,
}

/// The condition on a metric.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// Within a tolerance of a value.
    Within {
        /// The value.
        value: f64,
        /// The tolerance.
        within: f64,
    },
    /// Above the same metric at another point by a margin.
    Above {
        /// The other point.
        at: Vec<(String, String)>,
        /// The margin.
        by: f64,
    },
    /// Between two bounds.
    Bounds {
        /// The lower one.
        low: f64,
        /// The upper one.
        high: f64,
    },
}

/// The outcome of a condition.
#[derive(Debug, Clone)]
pub struct ExpectResult {
    /// The stage or comparison that it is about.
    pub stage: String,
    /// Its place in the workflow, by which conditions are in order.
    pub place: usize,
    /// Where the value was published.
    pub source: Option<String>,
    /// The value, a mean where several points match; `None` where a point has none.
    pub obtained: Option<f64>,
    /// The interval and the p-value that decide beside the value.
    pub detail: Option<String>,
    /// Why there is no value, where all nodes ran.
    pub reason: Option<String>,
    /// Whether it holds.
    pub holds: bool,
    /// Whether the workflow says that it holds.
    pub shown: bool,
    /// The condition in words.
    pub text: String,
}

/// The outcome of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It does not hold, or has no value.
    Fails,
    /// It does not hold, as the workflow says.
    NotShown,
    /// It holds, though the workflow says that it does not.
    HoldsAfterAll,
}

impl ExpectResult {
    /// Compares the outcome with what the workflow says of it.
    pub fn verdict(&self) -> Verdict {
        match (self.holds, self.shown) {
            (true, true) => Verdict::Holds,
            (true, false) => Verdict::HoldsAfterAll,
            (false, false) if self.obtained.is_some() => Verdict::NotShown,
            (false, _) => Verdict::Fails,
        }
    }
}

impl Verdict {
    /// Whether a run, or a verification, fails by it.
    pub fn is_failure(self) -> bool {
        matches!(self, Verdict::Fails | Verdict::HoldsAfterAll)
    }
}

/// Reads the conditions of a workflow; `declared` has its axes with all their values. Conditions on points that `--set`
/// leaves out are left out too.
pub fn parse(
    workflow: &Workflow,
    declared: &[Axis],
    problems: &mut Vec<Diagnostic>,
) -> Vec<Expect> {
    let read = |(node, span): &(crate::language::yaml::Node, Span)| {
        one(workflow, declared, node, span, problems)
    };
    // Those on comparisons are read with the comparisons.
    let of_figures = workflow.expect.iter().filter(|(node, _)| node.get("compare").is_none());
    of_figures.filter_map(read).collect()
}

fn one(
    workflow: &Workflow,
    declared: &[Axis],
    node: &crate::language::yaml::Node,
    span: &Span,
    problems: &mut Vec<Diagnostic>,
) -> Option<Expect> {
    let before = problems.len();
    let resolved = coerce(PARAMS, node, "`expect`", problems);
    let place = |path: &str| resolved.place(path).unwrap_or(span.clone());
    if problems.len() > before {
        return None;
    }
    let values = &resolved.values;
    let text = |name: &str| values.get(name).and_then(Value::as_str).map(String::from);
    let number = |name: &str| values.get(name).and_then(Value::as_f64);
    for (name, is_wrong) in [
        ("confidence", values.contains_key("confidence")),
        ("above", values.get("above").is_some_and(Value::is_number)),
    ] {
        if is_wrong {
            let message = match name {
                "above" => "`above` is a mapping, unless of a comparison",
                _ => "`confidence` is asked of a comparison",
            };
            let hint = "`at_least` is a lower bound; `compare: NAME` asks of a comparison";
            problems.push(Diagnostic::at(place(name), message).hint(hint));
            return None;
        }
    }
    let of = expression(workflow, [text("stage"), text("metric"), text("of")], &place, problems);
    let mut is_left_out = false;
    let mut point = |name: &str| -> Option<Vec<(String, String)>> {
        let map: &Map<String, Value> = values.get(name)?.as_object()?;
        let mut point = Vec::new();
        for (axis, value) in map {
            let label = label(value);
            let place = place(&format!("{name}.{axis}"));
            match declared.iter().find(|a| a.name == *axis) {
                None => {
                    let known = declared.iter().map(|a| a.name.as_str());
                    problems.push(
                        Diagnostic::at(place, format!("there is no axis `{axis}`"))
                            .maybe_hint(suggest(axis, known, "axes are")),
                    );
                }
                Some(found) if !found.values.iter().any(|(l, _)| *l == label) => {
                    let known = found.values.iter().map(|(l, _)| l.as_str());
                    problems.push(
                        Diagnostic::at(place, format!("axis `{axis}` has no value `{label}`"))
                            .maybe_hint(suggest(&label, known, "its values are")),
                    );
                }
                Some(_) => {
                    let axes = workflow.axes.iter().filter(|a| a.name == *axis);
                    is_left_out |= !axes.flat_map(|a| &a.values).any(|(l, _)| *l == label);
                    point.push((axis.clone(), label));
                }
            }
        }
        Some(point)
    };
    let (at, above) = (point("at").unwrap_or_default(), point("above"));
    let bounds = (number("at_least"), number("at_most"));
    let rule = match (number("value"), number("within"), above, bounds) {
        (Some(value), Some(within), None, (None, None)) => Rule::Within { value, within },
        (None, None, Some(at), (None, None)) => Rule::Above { at, by: number("by").unwrap_or(0.0) },
        (None, None, None, (low, high)) if low.is_some() || high.is_some() => Rule::Bounds {
            low: low.unwrap_or(f64::NEG_INFINITY),
            high: high.unwrap_or(f64::INFINITY),
        },
        _ => {
            problems.push(Diagnostic::at(span.clone(), "an `expect` states one condition").hint(
                "give `value` and `within`, or `above` (and `by`), or `at_least` and/or `at_most`",
            ));
            return None;
        }
    };
    let of = of.filter(|_| !is_left_out)?;
    let shown = values.get("shown").and_then(Value::as_bool).unwrap_or(true);
    Some(Expect { of, at, rule, source: text("source"), shown, span: span.clone() })
}

/// Reads `stage` and `metric`, or `of` in their place.
fn expression(
    workflow: &Workflow,
    [stage, metric, of]: [Option<String>; 3],
    place: &dyn Fn(&str) -> Span,
    problems: &mut Vec<Diagnostic>,
) -> Option<Expression> {
    let (stage, metric) = match (stage, metric, of) {
        (None, None, Some(of)) => {
            let of = Expression::parse(workflow, &of, &place("of"));
            return of.map_err(|found| problems.extend(found)).ok();
        }
        (Some(stage), Some(metric), None) => (stage, metric),
        (stage, _, of) => {
            let message = match (of.is_some(), stage.is_some()) {
                (true, _) => "`of` stands in place of `stage` and `metric`",
                (false, true) => "`expect` needs `metric`",
                (false, false) => "`expect` needs `stage`",
            };
            let hint = "give `stage` and `metric`, or `of` with an expression such as \
                        `tuned.accuracy - base.accuracy`";
            problems.push(Diagnostic::at(place("of"), message).hint(hint));
            return None;
        }
    };
    if !workflow.stages.iter().any(|s| s.name.text == stage) {
        let known = workflow.stages.iter().map(|s| s.name.text.as_str());
        problems.push(
            Diagnostic::at(place("stage"), format!("there is no stage `{stage}`"))
                .maybe_hint(suggest(&stage, known, "stages are")),
        );
    }
    Some(Expression::metric(stage, metric, place("metric")))
}

/// Checks all conditions against the metrics of the nodes.
pub fn check<'d>(
    expects: &[Expect],
    graph: &Graph,
    done: impl Fn(NodeId) -> Option<&'d NodeState>,
) -> Vec<ExpectResult> {
    let stages = Stages::new(graph, expects.iter().map(|expect| &expect.of), |_| true);
    let status = |id| done(id).map_or(NodeStatus::Missing, NodeStatus::NodeState);
    // Conditions on the same stages have the same points.
    let mut points: HashMap<Vec<&str>, Vec<Point>> = HashMap::new();
    let mut results = Vec::with_capacity(expects.len());
    for expect in expects {
        let of = &expect.of;
        let points = points.entry(of.stages()).or_insert_with(|| stages.points(of));
        results.push(result(expect, |at| mean(&stages, of, points, at, &status)));
    }
    results
}

/// Returns the mean of an expression over the points at some values of axes; the reason where a point lacks a value.
fn mean<'d>(
    stages: &Stages<'_>,
    of: &Expression,
    points: &[Point],
    at: &[(String, String)],
    status: &impl Fn(NodeId) -> NodeStatus<'d>,
) -> Result<f64, Option<String>> {
    let mut values = Vec::new();
    for point in points.iter().filter(|point| stages.is_at(point, at)) {
        values.push(stages.value(of, point, status).map_err(Absent::reason)?);
    }
    if values.is_empty() {
        return Err(None);
    }
    Ok(values.iter().sum::<f64>() / values.len() as f64)
}

fn result(
    expect: &Expect,
    mean: impl Fn(&[(String, String)]) -> Result<f64, Option<String>>,
) -> ExpectResult {
    let measured = mean(&expect.at);
    let (obtained, reason) = match measured {
        Ok(value) => (Some(value), None),
        Err(reason) => (None, reason),
    };
    let (holds, rule) = match &expect.rule {
        Rule::Within { value, within } => {
            let holds = obtained.is_some_and(|obtained| is_within(obtained, *value, *within));
            (holds, format!("{value} ± {within}"))
        }
        Rule::Above { at, by } => {
            let other = mean(at).ok();
            let holds = matches!((obtained, other), (Some(o), Some(x)) if o - x >= *by);
            let other = other.map_or("not known".into(), |x| format!("{x:.6}"));
            (holds, format!("at least {by} above {} ({other})", name(&expect.of, at)))
        }
        Rule::Bounds { low, high } => {
            (obtained.is_some_and(|o| o >= *low && o <= *high), bounds_words(*low, *high))
        }
    };
    let text = match expect.of.as_metric() {
        Some(metric) => format!("`{}` {}: {rule}", name(&expect.of, &expect.at), metric.metric),
        None => format!("`{}`: {rule}", name(&expect.of, &expect.at)),
    };
    ExpectResult {
        stage: expect.of.stages().first().copied().unwrap_or_default().to_string(),
        place: expect.span.start,
        source: expect.source.clone(),
        obtained,
        detail: None,
        reason,
        holds,
        shown: expect.shown,
        text,
    }
}

/// Whether a number is within a tolerance of a value. A tolerance such as 0.02 has no exact binary
/// form; the last bits may not decide.
pub(super) fn is_within(obtained: f64, value: f64, within: f64) -> bool {
    (obtained - value).abs() <= within + 1e-12 * value.abs().max(1.0)
}

/// Formats bounds, of which one may be infinite.
pub(super) fn bounds_words(low: f64, high: f64) -> String {
    match (low.is_finite(), high.is_finite()) {
        (true, true) => format!("from {low} to {high}"),
        (true, false) => format!("at least {low}"),
        _ => format!("at most {high}"),
    }
}

/// Names what is measured at some values of axes: the stage of a metric, an expression as it is.
fn name(of: &Expression, at: &[(String, String)]) -> String {
    match of.as_metric() {
        Some(metric) => node_name(&metric.stage, at),
        None if at.is_empty() => of.text.clone(),
        None => node_name(&format!("{} ", of.text), at),
    }
}
