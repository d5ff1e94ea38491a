//! Conditions on comparisons: a difference above a number, with the confidence that is demanded.

use serde_json::Value;

use crate::kind::coerce;
use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::language::workflow::{Axis, Workflow};
use crate::language::yaml::Node;
use crate::ledger::lock::Compared;
use crate::report::expect::{self, ExpectResult};

use super::{Asked, Comparison, Comparisons, LEAST_SEEDS, NoResult, Pairing};

/// By how much a p-value may exceed what a confidence leaves, in the last bits.
const SLACK: f64 = 1e-12;

/// A condition on a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The comparison's name.
    pub compare: String,
    /// The condition.
    pub rule: ClaimRule,
    /// Where it was published.
    pub source: Option<String>,
    /// Whether it is expected to hold.
    pub shown: bool,
    /// Its place in the workflow.
    pub span: Span,
}

/// The condition on a difference.
#[derive(Debug, Clone, PartialEq)]
pub enum ClaimRule {
    /// Above a number.
    Above {
        /// The number.
        above: f64,
        /// The confidence with which it must be.
        confidence: Option<f64>,
    },
    /// Within a tolerance of a value.
    Within {
        /// The value.
        value: f64,
        /// The tolerance.
        within: f64,
    },
    /// Between two bounds.
    Bounds {
        /// The lower one.
        low: f64,
        /// The upper one.
        high: f64,
    },
}

/// Reads the conditions on comparisons.
pub(super) fn parse(
    workflow: &Workflow,
    declared: &[Axis],
    comparisons: &[Comparison],
    problems: &mut Vec<Diagnostic>,
) -> Vec<Claim> {
    let stated = workflow.expect.iter().filter(|(node, _)| node.get("compare").is_some());
    let read = |(node, span): &(Node, Span)| {
        let before = problems.len();
        let claim = one(workflow, declared, comparisons, node, span, problems);
        claim.filter(|_| problems.len() == before)
    };
    stated.filter_map(read).collect()
}

fn one(
    workflow: &Workflow,
    declared: &[Axis],
    comparisons: &[Comparison],
    node: &Node,
    span: &Span,
    problems: &mut Vec<Diagnostic>,
) -> Option<Claim> {
    let before = problems.len();
    let resolved = coerce(expect::PARAMS, node, "`expect`", problems);
    let place = |path: &str| resolved.place(path).unwrap_or(span.clone());
    if problems.len() > before {
        return None;
    }
    let values = &resolved.values;
    let number = |name: &str| values.get(name).and_then(Value::as_f64);
    let text = |name: &str| values.get(name).and_then(Value::as_str).map(String::from);

    for name in ["stage", "metric", "of", "at", "by"] {
        if node.get(name).is_some() {
            let message = format!("a comparison has no `{name}`");
            let hint = "what is compared stands under `compare`, where the comparison has its name";
            problems.push(Diagnostic::at(place(name), message).hint(hint));
        }
    }
    let name = text("compare")?;
    let names = || workflow.compare.iter().map(|(key, _)| key.text.as_str());
    if !names().any(|known| known == name) {
        let hint = suggest(&name, names(), "comparisons are");
        let message = format!("there is no comparison `{name}`");
        problems.push(Diagnostic::at(place("compare"), message).maybe_hint(hint));
        return None;
    }
    if values.get("above").is_some_and(Value::is_object) {
        let message = "`above` of a comparison is a number";
        let hint = "the arms stand under `compare`; 0 asks for any difference";
        problems.push(Diagnostic::at(place("above"), message).hint(hint));
    }

    // Of a comparison that is wrong, or that `--set` leaves out, nothing more is said.
    let comparison = comparisons.iter().find(|comparison| comparison.name == name)?;
    let confidence = number("confidence");
    let bounds = (number("at_least"), number("at_most"));
    let rule = match (number("value"), number("within"), number("above"), confidence, bounds) {
        (Some(value), Some(within), None, None, (None, None)) => {
            ClaimRule::Within { value, within }
        }
        (None, None, above, _, (None, None)) if above.is_some() || confidence.is_some() => {
            let above = above.unwrap_or(comparison.null());
            ClaimRule::Above { above, confidence }
        }
        (None, None, None, None, (low, high)) if low.is_some() || high.is_some() => {
            let (low, high) = (low.unwrap_or(f64::NEG_INFINITY), high.unwrap_or(f64::INFINITY));
            ClaimRule::Bounds { low, high }
        }
        _ => {
            let hint = "give `above` and/or `confidence`, or `value` and `within`, or `at_least` \
                        and/or `at_most`";
            let message = "an `expect` states one condition";
            problems.push(Diagnostic::at(span.clone(), message).hint(hint));
            return None;
        }
    };
    if let Some(confidence) = confidence {
        enough_seeds(workflow, declared, comparison, confidence, place("confidence"), problems)?;
    }
    let shown = values.get("shown").and_then(Value::as_bool).unwrap_or(true);
    Some(Claim { compare: name, rule, source: text("source"), shown, span: span.clone() })
}

/// Refuses a confidence that too few seeds are to bear; `None` too where `--set` left a part of
/// them alone.
fn enough_seeds(
    workflow: &Workflow,
    declared: &[Axis],
    comparison: &Comparison,
    confidence: f64,
    place: Span,
    problems: &mut Vec<Diagnostic>,
) -> Option<()> {
    let count = |axes: &[Axis]| {
        let over = comparison.over.as_ref().map(|(over, _)| over);
        let axis = axes.iter().find(|axis| Some(&axis.name) == over);
        axis.map_or(1, |axis| axis.values.len())
    };
    let seeds = count(declared);
    if seeds < LEAST_SEEDS {
        let plural = if seeds == 1 { "seed" } else { "seeds" };
        let message = format!(
            "a confidence of {confidence} needs {LEAST_SEEDS} seeds, and `{}` has {seeds} {plural}",
            comparison.name
        );
        let hint = match &comparison.over {
            Some((over, _)) => format!("give axis `{over}` more values, or leave out `confidence`"),
            None => "name the axis of the seeds in `over`, or leave out `confidence`".into(),
        };
        problems.push(Diagnostic::at(place, message).hint(hint));
        return None;
    }
    (count(&workflow.axes) >= LEAST_SEEDS).then_some(())
}

/// Collects what the claims ask of a comparison.
pub(super) fn asked(claims: &[Claim], pairing: &Pairing) -> Asked {
    let mut asked = Asked::default();
    for claim in claims.iter().filter(|claim| claim.compare == pairing.comparison.name) {
        let ClaimRule::Above { above, confidence: Some(confidence) } = claim.rule else { continue };
        asked.above.push(above);
        asked.confidences.push(confidence);
    }
    for numbers in [&mut asked.above, &mut asked.confidences] {
        numbers.sort_by(f64::total_cmp);
        numbers.dedup();
    }
    asked
}

/// Checks all claims.
pub(super) fn check(
    comparisons: &Comparisons,
    results: &[Result<&Compared, &NoResult>],
) -> Vec<ExpectResult> {
    let known: Vec<Option<&Compared>> = results.iter().map(|result| result.ok()).collect();
    let corrected = comparisons.corrected(&known);
    let one = |claim: &Claim| {
        let position = comparisons.position(&claim.compare)?;
        Some(result(claim, results[position], corrected[position].as_deref()))
    };
    comparisons.claims.iter().filter_map(one).collect()
}

fn result(
    claim: &Claim,
    compared: Result<&Compared, &NoResult>,
    corrected: Option<&[f64]>,
) -> ExpectResult {
    let text = format!("`{}`: {}", claim.compare, words(&claim.rule));
    let mut result = ExpectResult {
        stage: claim.compare.clone(),
        place: claim.span.start,
        source: claim.source.clone(),
        obtained: None,
        reason: None,
        detail: None,
        holds: false,
        shown: claim.shown,
        text,
    };
    let compared = match compared {
        Ok(compared) => compared,
        Err(NoResult::Missing(_)) => return result,
        Err(reason) => {
            result.reason = Some(reason.to_string());
            return result;
        }
    };

    match claim.rule {
        ClaimRule::Within { value, within } => {
            result.obtained = Some(compared.estimate);
            result.holds = expect::is_within(compared.estimate, value, within);
        }
        ClaimRule::Bounds { low, high } => {
            result.obtained = Some(compared.estimate);
            result.holds = compared.estimate >= low && compared.estimate <= high;
        }
        ClaimRule::Above { above, confidence: None } => {
            result.obtained = Some(compared.estimate);
            result.holds = compared.estimate > above;
        }
        ClaimRule::Above { above, confidence: Some(confidence) } => {
            let test = compared.tests.iter().position(|test| test.above == above);
            let p = corrected.zip(test).and_then(|(corrected, test)| corrected.get(test));
            let (Some(interval), Some(p)) = (compared.interval(confidence), p) else {
                let reason = "it, or a comparison that is corrected with it, was not computed for this condition";
                result.reason = Some(reason.into());
                return result;
            };
            result.obtained = Some(compared.estimate);
            result.holds = interval.low > above && *p <= 1.0 - confidence + SLACK;
            result.detail =
                Some(format!("from {:.6} to {:.6}, p {p:.2e}", interval.low, interval.high));
        }
    }
    result
}

fn words(rule: &ClaimRule) -> String {
    match rule {
        ClaimRule::Within { value, within } => format!("{value} ± {within}"),
        ClaimRule::Bounds { low, high } => expect::bounds_words(*low, *high),
        ClaimRule::Above { above, confidence: None } => format!("above {above}"),
        ClaimRule::Above { above, confidence: Some(confidence) } => {
            format!("above {above} with confidence {confidence}")
        }
    }
}
