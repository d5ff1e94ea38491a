//! The table of comparisons: a row each, with its result, its corrected p-values and what was
//! claimed of it.

use serde::{Deserialize, Serialize};

use crate::ledger::lock::Compared;
use crate::report::expect::{ExpectResult, Verdict};

use super::{ClaimRule, Comparisons, NoResult};

/// A comparison in the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedRow {
    /// Its name.
    pub name: String,
    /// The metric or expression that is compared.
    pub of: String,
    /// The labels of the arms.
    pub arms: [String; 2],
    /// The labels of the seeds.
    pub seeds: Vec<String>,
    /// Its result; `None` where it has none.
    pub result: Option<Compared>,
    /// Why it has none.
    pub reason: Option<String>,
    /// Whether it has none though its nodes ran.
    pub is_wrong: bool,
    /// The published difference, where a claim names one.
    pub published: Option<f64>,
    /// The p-values of its tests, corrected within its group; `None` where another of the group has
    /// no result.
    pub corrected: Option<Vec<f64>>,
    /// The outcome of each claim on it.
    pub claims: Vec<Verdict>,
}

impl Comparisons {
    /// Makes the table, given the result of each comparison and the outcomes of conditions.
    pub fn rows(
        &self,
        results: &[Result<&Compared, &NoResult>],
        verdicts: &[ExpectResult],
    ) -> Vec<ComparedRow> {
        let known: Vec<Option<&Compared>> = results.iter().map(|result| result.ok()).collect();
        let corrected = self.corrected(&known);
        let row = |(i, corrected): (usize, Option<Vec<f64>>)| {
            let pairing = &self.pairings[i];
            let comparison = &pairing.comparison;
            let claims = self.claims.iter().filter(|claim| claim.compare == comparison.name);
            let mut of_values = claims.clone().filter_map(|claim| match claim.rule {
                ClaimRule::Within { value, .. } => Some(value),
                _ => None,
            });
            let verdict = |place: usize| verdicts.iter().find(|verdict| verdict.place == place);
            ComparedRow {
                name: comparison.name.clone(),
                of: comparison.words(),
                arms: comparison.arms.clone(),
                seeds: pairing.seeds.clone(),
                result: known[i].cloned(),
                reason: results[i].err().map(ToString::to_string),
                is_wrong: matches!(results[i], Err(NoResult::Unusable(_))),
                published: of_values.next(),
                corrected,
                claims: claims
                    .filter_map(|claim| verdict(claim.span.start).map(ExpectResult::verdict))
                    .collect(),
            }
        };
        corrected.into_iter().enumerate().map(row).collect()
    }
}

impl Verdict {
    /// Says it in a word or two.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Holds => "holds",
            Verdict::Fails => "fails",
            Verdict::NotShown => "not shown",
            Verdict::HoldsAfterAll => "holds after all",
        }
    }
}
