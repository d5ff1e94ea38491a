//! Conditions on results: published values with a tolerance, orders between points, bounds.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::graph::{Graph, NodeId};
use crate::kind::{Param, Type, coerce};
use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::language::scalar::label;
use crate::language::workflow::{Axis, Workflow};
use crate::plan::state::NodeState;
use crate::report::metric_names::MetricReference;

const NUMBER: Type = Type::Float { min: f64::NEG_INFINITY, max: f64::INFINITY, open: false };

pub(crate) static PARAMS: &[Param] = &[
    Param::required("stage", Type::Text, "the stage whose figure is meant"),
    Param::required("metric", Type::Text, "the figure's name"),
    Param::optional("at", Type::Map(&Type::Any), "values of axes"),
    Param::optional("value", NUMBER, "the published value"),
    Param::optional(
        "within",
        Type::Float { min: 0.0, max: f64::INFINITY, open: false },
        "tolerance of `value`",
    ),
    Param::optional(
        "above",
        Type::Map(&Type::Any),
        "values of axes of the nodes that it must exceed",
    ),
    Param::default("by", NUMBER, "0.0", "by how much at least"),
    Param::optional("at_least", NUMBER, "lower bound"),
    Param::optional("at_most", NUMBER, "upper bound"),
    Param::optional("source", Type::Text, "where the value was published"),
];

/// One condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Expect {
    /// The stage.
    pub stage: String,
    /// The metric.
    pub metric: String,
    /// Axes and labels that choose among the stage's nodes.
    pub at: Vec<(String, String)>,
    /// The condition.
    pub rule: Rule,
    /// Where the value was published.
    pub source: Option<String>,
    /// Its place in the workflow.
    pub span: Span,
    /// The metric's place in the workflow.
    pub metric_span: Span,
}

impl Expect {
    /// The metric that it names.
    pub fn reference(&self) -> MetricReference {
        let (stage, metric) = (self.stage.clone(), self.metric.clone());
        MetricReference { stage, metric, span: self.metric_span.clone() }
    }
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
    /// The condition.
    pub expect: Expect,
    /// The value, a mean where several nodes match; `None` where a node has none.
    pub obtained: Option<f64>,
    /// Whether it holds.
    pub holds: bool,
    /// The condition in words.
    pub text: String,
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
    workflow.expect.iter().filter_map(read).collect()
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
    let stage = text("stage").unwrap_or_default();
    if !workflow.stages.iter().any(|s| s.name.text == stage) {
        let known = workflow.stages.iter().map(|s| s.name.text.as_str());
        problems.push(
            Diagnostic::at(place("stage"), format!("there is no stage `{stage}`"))
                .maybe_hint(suggest(&stage, known, "stages are")),
        );
    }
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
    let metric = text("metric").unwrap_or_default();
    if is_left_out {
        return None;
    }
    let metric_span = place("metric");
    let source = text("source");
    Some(Expect { stage, metric, at, rule, source, span: span.clone(), metric_span })
}

/// Checks all conditions against the metrics of the nodes.
pub fn check<'d>(
    expects: &[Expect],
    graph: &Graph,
    done: impl Fn(NodeId) -> Option<&'d NodeState>,
) -> Vec<ExpectResult> {
    let mut stages: HashMap<&str, Vec<NodeId>> =
        expects.iter().map(|expect| (expect.stage.as_str(), Vec::new())).collect();
    for id in graph.ids() {
        if let Some(nodes) = stages.get_mut(graph.node(id).stage.as_str()) {
            nodes.push(id);
        }
    }
    expects.iter().map(|e| result(e, graph, &stages[e.stage.as_str()], &done)).collect()
}

fn result<'d>(
    expect: &Expect,
    graph: &Graph,
    nodes: &[NodeId],
    done: &impl Fn(NodeId) -> Option<&'d NodeState>,
) -> ExpectResult {
    let mean = |at: &[(String, String)]| {
        let mut values = Vec::new();
        for id in nodes {
            let point = &graph.node(*id).point;
            let is_chosen = |chosen: &(String, String)| {
                !point.iter().any(|(axis, _)| *axis == chosen.0) || point.contains(chosen)
            };
            if at.iter().all(is_chosen) {
                values.push(metric_of(done(*id)?, &expect.metric)?);
            }
        }
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let obtained = mean(&expect.at);
    let (holds, rule) = match &expect.rule {
        Rule::Within { value, within } => {
            // A tolerance such as 0.02 has no exact binary form; the last bits may not decide.
            let slack = 1e-12 * value.abs().max(1.0);
            (
                obtained.is_some_and(|o| (o - value).abs() <= within + slack),
                format!("{value} ± {within}"),
            )
        }
        Rule::Above { at, by } => {
            let other = mean(at);
            let holds = matches!((obtained, other), (Some(o), Some(x)) if o - x >= *by);
            let other = other.map_or("not known".into(), |x| format!("{x:.6}"));
            (
                holds,
                format!(
                    "at least {by} above {} ({other})",
                    crate::graph::build::node_name(&expect.stage, at)
                ),
            )
        }
        Rule::Bounds { low, high } => {
            let words = match (low.is_finite(), high.is_finite()) {
                (true, true) => format!("from {low} to {high}"),
                (true, false) => format!("at least {low}"),
                _ => format!("at most {high}"),
            };
            (obtained.is_some_and(|o| o >= *low && o <= *high), words)
        }
    };
    let node = crate::graph::build::node_name(&expect.stage, &expect.at);
    ExpectResult {
        expect: expect.clone(),
        obtained,
        holds,
        text: format!("`{node}` {}: {rule}", expect.metric),
    }
}

/// Returns a metric of a node by name.
pub fn metric_of(done: &NodeState, metric: &str) -> Option<f64> {
    done.result.metrics.iter().find(|m| m.metric == metric).map(|m| m.value)
}
