//! Expressions over metrics, such as `100 * (tuned.accuracy / base.accuracy - 1)`: their language and their value.
//!
//! minijinja parses and computes them. They are rewritten before: a metric becomes a variable, every number a float, so
//! that no name of a stage is misread and nothing is computed in whole numbers.

mod functions;
mod scan;

use std::fmt;
use std::sync::Arc;

use minijinja::value::Value;

use crate::language::diagnostic::{Diagnostic, Span};
use crate::language::workflow::Workflow;
use crate::report::metric_names::MetricReference;

use functions::ENVIRONMENT;
use scan::{Fault, scan};

pub(crate) use scan::minus_hint;

/// The longest expression, in bytes.
const MAX_BYTES: usize = 10_000;

/// A metric of a stage, or a number that is computed from such.
#[derive(Clone)]
pub struct Expression {
    /// Its text as written; of a metric alone `stage.metric`.
    pub text: String,
    /// The same for all expressions that differ in spaces alone.
    pub canonical: String,
    /// The metrics in it, each once.
    pub metrics: Vec<MetricReference>,
    /// The program; `None` for a metric alone.
    code: Option<Arc<minijinja::Expression<'static, 'static>>>,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Expression) -> bool {
        self.canonical == other.canonical
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl Expression {
    /// Makes an expression of a metric alone.
    pub fn metric(stage: String, metric: String, span: Span) -> Expression {
        let text = format!("{stage}.{metric}");
        let metrics = vec![MetricReference { stage, metric, span }];
        Expression { canonical: text.clone(), text, metrics, code: None }
    }

    /// Reads an expression at a place of a workflow.
    ///
    /// # Errors
    /// The faults, each with its own place where the text stands in the file as it is.
    pub fn parse(
        workflow: &Workflow,
        text: &str,
        span: &Span,
    ) -> Result<Expression, Vec<Diagnostic>> {
        Expression::parse_with(workflow, text, span, &[])
    }

    /// Reads an expression in which names that are bound to metrics may stand, too.
    ///
    /// # Errors
    /// See [`Expression::parse`].
    pub fn parse_with(
        workflow: &Workflow,
        text: &str,
        span: &Span,
        names: &[&str],
    ) -> Result<Expression, Vec<Diagnostic>> {
        if text.len() > MAX_BYTES {
            let message = format!("the expression is longer than {MAX_BYTES} bytes");
            return Err(vec![Diagnostic::at(span.clone(), message)]);
        }
        let begin = begin(workflow, text, span);
        let place = |at: &std::ops::Range<usize>| match begin {
            Some(begin) => begin + at.start..begin + at.end,
            None => span.clone(),
        };

        let stages = workflow.stages.iter().map(|stage| stage.name.text.as_str());
        let scanned = scan(text, stages, names).map_err(|faults| {
            let problem = |fault: Fault| {
                Diagnostic::at(place(&fault.at), fault.message).maybe_hint(fault.hint)
            };
            faults.into_iter().map(problem).collect::<Vec<_>>()
        })?;
        let code = ENVIRONMENT.compile_expression_owned(scanned.code).map_err(|error| {
            let reason = error.detail().unwrap_or("minijinja refuses it").to_string();
            let message = format!("the expression cannot be computed: {reason}");
            vec![Diagnostic::at(span.clone(), message)]
        })?;

        let reference = |(stage, metric, at): (String, String, _)| MetricReference {
            stage,
            metric,
            span: place(&at),
        };
        let metrics: Vec<MetricReference> = scanned.metrics.into_iter().map(reference).collect();
        let alone = metrics.first().filter(|metric| scanned.canonical == metric.to_string());
        if let Some(MetricReference { stage, metric, span }) =
            alone.filter(|alone| !alone.metric.is_empty()).cloned()
        {
            return Ok(Expression::metric(stage, metric, span));
        }
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Expression { text, canonical: scanned.canonical, metrics, code: Some(Arc::new(code)) })
    }

    /// Returns the metric, where it is one alone.
    pub fn as_metric(&self) -> Option<&MetricReference> {
        self.metrics.first().filter(|_| self.code.is_none())
    }

    /// Lists the stages in it, each once.
    pub fn stages(&self) -> Vec<&str> {
        let mut stages: Vec<&str> = Vec::new();
        for metric in &self.metrics {
            if !stages.contains(&metric.stage.as_str()) {
                stages.push(&metric.stage);
            }
        }
        stages
    }

    /// Computes the value from those of the metrics, in their order. A metric alone is taken as it is.
    ///
    /// # Errors
    /// Why there is no finite value.
    pub fn value(&self, metrics: &[f64]) -> Result<f64, String> {
        let Some(code) = &self.code else {
            return metrics.first().copied().ok_or_else(String::new);
        };
        let named = || self.metrics.iter().zip(metrics);
        if let Some((metric, _)) = named().find(|(_, value)| !value.is_finite()) {
            return Err(format!("`{metric}` is not defined"));
        }

        let variables = metrics.iter().enumerate().map(|(i, value)| (scan::variable(i), *value));
        let value = code.eval(variables.collect::<Value>());
        let reason = match value.map(f64::try_from) {
            Ok(Ok(value)) if value.is_finite() => return Ok(value),
            Ok(_) => format!("`{}` is not finite", self.text),
            Err(error) => error.detail().unwrap_or("it cannot be computed").to_string(),
        };
        let values: Vec<String> =
            named().map(|(metric, value)| format!("`{metric}` is {value}")).collect();
        Err(format!("{reason}: {}", values.join(", ")))
    }
}

/// Finds where the text of a scalar begins in the file; `None` where it is folded or has escapes.
fn begin(workflow: &Workflow, text: &str, span: &Span) -> Option<usize> {
    let raw = workflow.source.text.get(span.clone())?;
    Some(span.start + raw.find(text)?)
}
