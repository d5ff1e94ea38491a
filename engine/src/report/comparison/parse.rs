//! Reads the section `compare` of a workflow.

use serde_json::{Map, Value};

use crate::kind::{Param, Resolved, Type, coerce};
use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::language::scalar::label;
use crate::language::workflow::{Axis, Workflow};
use crate::language::yaml::{Key, Node};
use crate::report::expression::Expression;

use super::{Comparison, Figure};

const FIGURE: &[Param] = &[
    Param::required("stage", Type::Text, "the stage"),
    Param::required("metric", Type::Text, "the metric's name"),
    Param::optional("at", Type::Map(&Type::Any), "values of axes of this metric alone"),
];

pub(crate) static PARAMS: &[Param] = &[
    Param::optional("stage", Type::Text, "the stage whose metric is compared"),
    Param::optional("metric", Type::Text, "the metric's name"),
    Param::optional("of", Type::Text, "an expression of metrics, in place of `stage` and `metric`"),
    Param::optional(
        "figures",
        Type::Map(&Type::OneOf(&[Type::Text, Type::Record(FIGURE)])),
        "names that `of` may use: each `STAGE.METRIC`, or a mapping with `stage`, `metric` and `at`",
    ),
    Param::required(
        "between",
        Type::Map(&Type::List(&Type::Any)),
        "an axis and two of its values, the arms: the difference is the first minus the second",
    ),
    Param::optional("over", Type::Text, "the axis of the seeds"),
    Param::optional("at", Type::Map(&Type::Any), "values of further axes"),
    Param::optional(
        "margin",
        Type::Float { min: 0.0, max: f64::INFINITY, open: true },
        "makes it a question of non-inferiority: the difference is tested to be above minus this",
    ),
    Param::optional(
        "group",
        Type::Text,
        "the name of the comparisons whose p-values are corrected together; alone by default",
    ),
];

/// Reads the comparisons of a workflow; `declared` has its axes with all their values. Those of
/// points that `--set` leaves out are left out too.
pub fn parse(
    workflow: &Workflow,
    declared: &[Axis],
    problems: &mut Vec<Diagnostic>,
) -> Vec<Comparison> {
    let read = |(name, node): &(Key, Node)| {
        let before = problems.len();
        let resolved = coerce(PARAMS, node, "a comparison", problems);
        if problems.len() > before {
            return None;
        }
        let (span, is_left_out) = (node.span.clone(), false);
        let mut reader =
            Reader { workflow, declared, resolved: &resolved, span, is_left_out, problems };
        let comparison = reader.comparison(name);
        comparison.filter(|_| !reader.is_left_out && reader.problems.len() == before)
    };
    workflow.compare.iter().filter_map(read).collect()
}

struct Reader<'a> {
    workflow: &'a Workflow,
    declared: &'a [Axis],
    resolved: &'a Resolved,
    span: Span,
    /// Whether `--set` leaves out a value that the comparison names.
    is_left_out: bool,
    problems: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    fn comparison(&mut self, name: &Key) -> Option<Comparison> {
        let (axis, arms) = self.between()?;
        let over = self.over(&axis);
        let at = self.point(self.resolved.values.get("at"), "at");
        for (named, _) in &at {
            let is_taken = *named == axis || over.as_ref().is_some_and(|(over, _)| over == named);
            if is_taken {
                let message = format!("axis `{named}` is given twice");
                let hint = "`at` is for axes other than those of `between` and `over`";
                self.problem(&format!("at.{named}"), message, Some(hint.into()));
            }
        }

        let (of, figures) = self.figures()?;
        Some(Comparison {
            name: name.text.clone(),
            span: name.span.clone(),
            figures,
            of,
            axis,
            between: self.place("between"),
            arms,
            over,
            at,
            margin: self.resolved.values.get("margin").and_then(Value::as_f64),
            group: self.text("group"),
        })
    }

    fn place(&self, path: &str) -> Span {
        self.resolved.place(path).unwrap_or(self.span.clone())
    }

    fn problem(&mut self, path: &str, message: String, hint: Option<String>) {
        self.problems.push(Diagnostic::at(self.place(path), message).maybe_hint(hint));
    }

    fn text(&self, name: &str) -> Option<String> {
        self.resolved.values.get(name).and_then(Value::as_str).map(String::from)
    }

    /// Reads the axis of the arms, and both of them.
    fn between(&mut self) -> Option<(String, [String; 2])> {
        let map = self.resolved.values.get("between").and_then(Value::as_object)?;
        let hint = "write `between: { AXIS: [FIRST, SECOND] }`";
        let mut entries = map.iter();
        let (Some((axis, values)), None) = (entries.next(), entries.next()) else {
            self.problem("between", "`between` names one axis".into(), Some(hint.into()));
            return None;
        };
        let path = format!("between.{axis}");
        let labels: Vec<String> = values.as_array().into_iter().flatten().map(label).collect();
        let Ok(arms) = <[String; 2]>::try_from(labels) else {
            self.problem(&path, "`between` names two values".into(), Some(hint.into()));
            return None;
        };
        if arms[0] == arms[1] {
            self.problem(&path, format!("both arms are `{}`", arms[0]), None);
            return None;
        }
        let known = [self.value(axis, &arms[0], &path), self.value(axis, &arms[1], &path)];
        known.into_iter().all(|known| known).then(|| (axis.clone(), arms))
    }

    fn over(&mut self, between: &str) -> Option<(String, Span)> {
        let over = self.text("over")?;
        let known = self.declared.iter().map(|axis| axis.name.as_str());
        if !known.clone().any(|name| name == over) {
            let hint = suggest(&over, known, "axes are");
            self.problem("over", format!("there is no axis `{over}`"), hint);
        } else if over == between {
            let hint = "`over` names the axis of the seeds, `between` that of the arms";
            self.problem("over", format!("axis `{over}` is that of the arms"), Some(hint.into()));
        }
        Some((over, self.place("over")))
    }

    /// Reads values of axes.
    fn point(&mut self, values: Option<&Value>, path: &str) -> Vec<(String, String)> {
        let map: Map<String, Value> =
            values.and_then(Value::as_object).cloned().unwrap_or_default();
        let mut point = Vec::new();
        for (axis, value) in &map {
            let label = label(value);
            if self.value(axis, &label, &format!("{path}.{axis}")) {
                point.push((axis.clone(), label));
            }
        }
        point
    }

    /// Checks that an axis has a value, and notes whether `--set` leaves it out.
    fn value(&mut self, axis: &str, label: &str, path: &str) -> bool {
        let Some(found) = self.declared.iter().find(|known| known.name == axis) else {
            let hint = suggest(axis, self.declared.iter().map(|a| a.name.as_str()), "axes are");
            self.problem(path, format!("there is no axis `{axis}`"), hint);
            return false;
        };
        if !found.values.iter().any(|(known, _)| known == label) {
            let known = found.values.iter().map(|(known, _)| known.as_str());
            let hint = suggest(label, known, "its values are");
            self.problem(path, format!("axis `{axis}` has no value `{label}`"), hint);
            return false;
        }
        let mut here = self.workflow.axes.iter().filter(|known| known.name == axis);
        self.is_left_out |= !here.any(|a| a.values.iter().any(|(known, _)| known == label));
        true
    }

    /// Reads `stage` and `metric`, or `of` with the names bound under `figures`.
    fn figures(&mut self) -> Option<(Option<Expression>, Vec<Figure>)> {
        let hint =
            "give `stage` and `metric`, or `of` with an expression such as `100 * target.accuracy`";
        let bound = self.bound()?;
        match (self.text("stage"), self.text("metric"), self.text("of")) {
            (Some(stage), Some(metric), None) => {
                if !bound.is_empty() {
                    let hint = "`figures` binds names for `of`";
                    self.problem(
                        "figures",
                        "there is no `of` that uses them".into(),
                        Some(hint.into()),
                    );
                    return None;
                }
                let figure = self.figure(None, stage, metric, Vec::new(), ["stage", "metric"])?;
                Some((None, vec![figure]))
            }
            (None, None, Some(of)) => self.expression(&of, &bound),
            (_, _, Some(_)) => {
                let message = "`of` stands in place of `stage` and `metric`";
                self.problem("of", message.into(), Some(hint.into()));
                None
            }
            (stage, _, None) => {
                let missing = if stage.is_some() { "metric" } else { "stage" };
                self.problem("stage", format!("a comparison needs `{missing}`"), Some(hint.into()));
                None
            }
        }
    }

    fn expression(
        &mut self,
        of: &str,
        bound: &[Figure],
    ) -> Option<(Option<Expression>, Vec<Figure>)> {
        let names: Vec<&str> = bound.iter().map(|figure| figure.name.as_str()).collect();
        let parsed = Expression::parse_with(self.workflow, of, &self.place("of"), &names);
        let of = parsed.map_err(|found| self.problems.extend(found)).ok()?;
        let unused = bound.iter().filter(|figure| {
            !of.metrics.iter().any(|used| used.metric.is_empty() && used.stage == figure.name)
        });
        for figure in unused {
            let message = format!("`of` does not use `{}`", figure.name);
            self.problems.push(Diagnostic::at(figure.span.clone(), message));
        }

        let figure = |used: &crate::report::metric_names::MetricReference| {
            let named =
                bound.iter().find(|known| used.metric.is_empty() && known.name == used.stage);
            named.cloned().unwrap_or_else(|| Figure {
                name: used.to_string(),
                stage: used.stage.clone(),
                metric: used.metric.clone(),
                at: Vec::new(),
                span: used.span.clone(),
            })
        };
        let figures = of.metrics.iter().map(figure).collect();
        Some((Some(of), figures))
    }

    /// Reads the names that are bound to metrics.
    fn bound(&mut self) -> Option<Vec<Figure>> {
        let figures = self.resolved.values.get("figures").and_then(Value::as_object);
        let mut bound = Vec::new();
        for (name, value) in figures.into_iter().flatten() {
            let path = format!("figures.{name}");
            let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
            let (stage, metric) = match value.as_str() {
                Some(figure) => figure.rsplit_once('.').unwrap_or((figure, "")),
                None => (text("stage"), text("metric")),
            };
            if metric.is_empty() {
                let message = format!("`{stage}` is not a metric");
                let hint = "write `STAGE.METRIC`, for example `target.accuracy`";
                self.problem(&path, message, Some(hint.into()));
                return None;
            }
            let (stage, metric) = (stage.to_string(), metric.to_string());
            let at = self.point(value.get("at"), &format!("{path}.at"));
            let places = [format!("{path}.stage"), format!("{path}.metric")];
            bound.extend(self.figure(
                Some(name),
                stage,
                metric,
                at,
                places.each_ref().map(|p| p.as_str()),
            ));
        }
        Some(bound)
    }

    fn figure(
        &mut self,
        name: Option<&str>,
        stage: String,
        metric: String,
        at: Vec<(String, String)>,
        [stage_path, metric_path]: [&str; 2],
    ) -> Option<Figure> {
        let stages = self.workflow.stages.iter().map(|known| known.name.text.as_str());
        if !stages.clone().any(|known| known == stage) {
            let hint = suggest(&stage, stages, "stages are");
            self.problem(stage_path, format!("there is no stage `{stage}`"), hint);
            return None;
        }
        let name = name.map_or_else(|| format!("{stage}.{metric}"), String::from);
        Some(Figure { name, stage, metric, at, span: self.place(metric_path) })
    }
}
