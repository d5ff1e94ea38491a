//! Judges each response against its reference.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::DataType;

use refrain_cache::Metric;
use refrain_cache::columns::column;
use refrain_engine::kind::{Cancel, Context, NodeResult, StageError};

use super::bootstrap::{interval, pass_at};
use super::compare::{Compare, Normalization};
use super::extract::Extract;
use super::prompts::PerPrompt;
use crate::tables::{self, metric, row_name, share};

/// The columns of a verdict.
pub(super) const ADDED: [(&str, DataType); 3] =
    [("prediction", DataType::Utf8), ("correct", DataType::Boolean), ("reason", DataType::Utf8)];

/// A way to find an answer and to compare it.
pub(super) struct JudgeRule {
    pub extract: Extract,
    pub compare: Compare,
    pub normal: Normalization,
}

impl JudgeRule {
    /// The answer in a response, and whether it is right.
    ///
    /// The reference's answer is found by the same rule; a reference in which it finds none is the
    /// answer as a whole.
    fn judge<'t>(&self, response: &'t str, reference: &str) -> (Option<&'t str>, Verdict) {
        let Some(answer) = self.extract.find(response) else {
            return (None, Verdict::NoAnswer);
        };
        let answer = if self.normal.trim { answer.trim() } else { answer };
        let reference = self.extract.find(reference).unwrap_or(reference);
        let equal = self.compare.equal(answer, reference, self.normal);
        (Some(answer), if equal { Verdict::Equal } else { Verdict::Different })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Equal,
    Different,
    NoAnswer,
}

impl Verdict {
    fn reason(self) -> &'static str {
        match self {
            Verdict::Equal => "equal",
            Verdict::Different => "different",
            Verdict::NoAnswer => "no answer found",
        }
    }
}

/// The samples of one prompt.
#[derive(Debug, Default)]
struct Tally {
    samples: u64,
    correct: u64,
}

pub(super) fn run(
    ctx: &Context<'_>,
    rule: &JudgeRule,
    ks: &[u64],
    resamples: u64,
) -> Result<NodeResult, StageError> {
    let mut prompts: PerPrompt<Tally> = PerPrompt::default();
    let mut no_answer = 0;
    let table = tables::add_columns(ctx, "data", &ADDED, |batch, first_row| {
        let ids = PerPrompt::<Tally>::ids(batch)?;
        judge_batch(batch, first_row, rule, |row, verdict| {
            let tally = prompts.of_row(ids, row);
            tally.samples += 1;
            tally.correct += u64::from(verdict == Verdict::Equal);
            no_answer += u64::from(verdict == Verdict::NoAnswer);
        })
    })?;
    Ok(NodeResult {
        metrics: metrics(&prompts, no_answer, ks, resamples, ctx.cancel)?,
        ..NodeResult::main(table)
    })
}

fn judge_batch(
    batch: &RecordBatch,
    first_row: u64,
    rule: &JudgeRule,
    mut note: impl FnMut(usize, Verdict),
) -> Result<Vec<ArrayRef>, StageError> {
    let responses = column::<StringArray>(batch, "response")?;
    let references = column::<StringArray>(batch, "reference")?;
    let (mut predictions, mut reasons) = (StringBuilder::new(), StringBuilder::new());
    let mut correct = BooleanBuilder::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        if references.is_null(row) {
            let message = format!("{} has no `reference`", row_name(batch, first_row, row));
            return Err(StageError::with_hint(
                message,
                "it cannot be judged: leave it out, or add its reference",
            ));
        }
        let (prediction, verdict) = match responses.is_valid(row) {
            true => rule.judge(responses.value(row), references.value(row)),
            false => (None, Verdict::NoAnswer),
        };
        predictions.append_option(prediction);
        correct.append_value(verdict == Verdict::Equal);
        reasons.append_value(verdict.reason());
        note(row, verdict);
    }
    Ok(vec![Arc::new(predictions.finish()), Arc::new(correct.finish()), Arc::new(reasons.finish())])
}

fn metrics(
    prompts: &PerPrompt<Tally>,
    no_answer: u64,
    ks: &[u64],
    resamples: u64,
    cancel: &Cancel,
) -> Result<Vec<Metric>, StageError> {
    let rows: u64 = prompts.sums().iter().map(|tally| tally.samples).sum();
    let correct: u64 = prompts.sums().iter().map(|tally| tally.correct).sum();
    let pairs: Vec<_> =
        prompts.sums().iter().map(|tally| (tally.correct as f64, tally.samples as f64)).collect();
    let mut metrics = vec![
        with_interval(metric("accuracy", share(correct, rows), rows), &pairs, resamples, cancel)?,
        metric("correct", correct as f64, rows),
        metric("no_answer", share(no_answer, rows), rows),
    ];
    for &k in ks {
        if let Some((id, tally)) = prompts.find(|tally| tally.samples < k) {
            let message = format!(
                "`pass_at: {k}` needs {k} samples a prompt, and `{id}` has {}",
                tally.samples
            );
            return Err(StageError::with_hint(
                message,
                "generate more `samples`, or ask for a smaller k",
            ));
        }
        let estimates: Vec<_> = prompts
            .sums()
            .iter()
            .map(|tally| (pass_at(k, tally.samples, tally.correct), 1.0))
            .collect();
        let mean =
            estimates.iter().map(|(estimate, _)| estimate).sum::<f64>() / estimates.len() as f64;
        let metric = metric(&format!("pass_at_{k}"), mean, estimates.len() as u64);
        metrics.push(with_interval(metric, &estimates, resamples, cancel)?);
    }
    Ok(metrics)
}

/// The metric with its interval over prompts, given as value and weight.
pub(super) fn with_interval(
    metric: Metric,
    prompts: &[(f64, f64)],
    resamples: u64,
    cancel: &Cancel,
) -> Result<Metric, StageError> {
    let (low, high) = interval(prompts, resamples, cancel)?.unzip();
    Ok(Metric { low, high, ..metric })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_a_mark_is_the_answer_as_a_whole() {
        let normal = Normalization { trim: true, ignore_case: false };
        let rule =
            JudgeRule { extract: Extract::After("Answer:".into()), compare: Compare::Text, normal };
        assert_eq!(rule.judge("So.\nAnswer: blue", "blue"), (Some("blue"), Verdict::Equal));
        assert_eq!(rule.judge("Answer: red", "Answer: blue"), (Some("red"), Verdict::Different));
        assert_eq!(rule.judge("blue", "blue"), (None, Verdict::NoAnswer));
    }
}
