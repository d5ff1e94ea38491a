//! The conditions of a workflow with their outcomes: what was published, and what was obtained.

use crate::report::comparison::{ClaimRule, Comparisons};
use crate::report::expect::{Expect, ExpectResult, Rule, Verdict};

/// A condition with its outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The condition in words.
    pub text: String,
    /// The published value, or the bounds that are set.
    pub published: Published,
    /// The value that was obtained.
    pub obtained: Option<f64>,
    /// The interval and the p-value that decide beside the value.
    pub detail: Option<String>,
    /// Why there is no value.
    pub reason: Option<String>,
    /// The outcome.
    pub verdict: Verdict,
    /// Where the value was published.
    pub source: Option<String>,
}

/// The numbers of a condition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Published {
    /// A value with its tolerance.
    Value {
        /// The value.
        value: f64,
        /// The tolerance.
        within: f64,
    },
    /// Bounds, of which one may be infinite.
    Bounds {
        /// The lower one.
        low: f64,
        /// The upper one.
        high: f64,
    },
    /// An order between two points of the sweep.
    Order,
}

/// Joins conditions with their outcomes, in the order of the file.
pub(super) fn claims(
    expects: &[Expect],
    comparisons: &Comparisons,
    verdicts: &[ExpectResult],
) -> Vec<Claim> {
    let of_expect = |place: usize| {
        let expect = expects.iter().find(|expect| expect.span.start == place)?;
        Some(match expect.rule {
            Rule::Within { value, within } => Published::Value { value, within },
            Rule::Bounds { low, high } => Published::Bounds { low, high },
            Rule::Above { .. } => Published::Order,
        })
    };
    let of_comparison = |place: usize| {
        let claim = comparisons.claims.iter().find(|claim| claim.span.start == place)?;
        Some(match claim.rule {
            ClaimRule::Within { value, within } => Published::Value { value, within },
            ClaimRule::Bounds { low, high } => Published::Bounds { low, high },
            ClaimRule::Above { above, .. } => Published::Bounds { low: above, high: f64::INFINITY },
        })
    };
    let mut verdicts: Vec<&ExpectResult> = verdicts.iter().collect();
    verdicts.sort_by_key(|verdict| verdict.place);
    let claim = |result: &ExpectResult| Claim {
        text: result.text.clone(),
        published: of_expect(result.place)
            .or_else(|| of_comparison(result.place))
            .unwrap_or(Published::Order),
        obtained: result.obtained,
        detail: result.detail.clone(),
        reason: result.reason.clone(),
        verdict: result.verdict(),
        source: result.source.clone(),
    };
    verdicts.into_iter().map(claim).collect()
}
