//! Gives each row its verdict, and sums the verdicts up over rows and prompts.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, BooleanBuilder, RecordBatch, StringBuilder};
use arrow::datatypes::DataType;

use refrain_cache::Metric;
use refrain_cache::columns::column;
use refrain_engine::kind::{Cancel, Context, NodeResult, StageError};

use super::answer::AnswerRule;
use super::bootstrap::{interval, pass_at};
use super::code::CodeRule;
use super::judge::ModelJudge;
use super::logprob::{self, By};
use super::prompts::PerPrompt;
use super::sql::{self, SqlRule};
use crate::tables::{self, metric, row_name, share};

/// The verdict on a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict<'r> {
    /// The answer in the form in which it is compared; `None` where none was found.
    pub prediction: Option<Cow<'r, str>>,
    /// Whether it is right; `None` where it is compared with nothing.
    pub correct: Option<bool>,
    /// Why, in a few words.
    pub reason: &'static str,
}

/// A way in which rows get their verdicts. A task that takes another way adds a variant, and a file
/// that judges a batch.
pub(super) enum Judge {
    /// Finds the answer in the response and compares it with that of the reference.
    Answer(AnswerRule),
    /// Runs the program in the response with the tests of its row.
    Code(CodeRule),
    /// Runs the queries of both and compares the results.
    Sql(SqlRule),
    /// Takes the verdicts of a model.
    Model(ModelJudge),
}

impl Judge {
    /// The verdicts on the rows of a batch, whose first is number `first_row` of its table.
    fn batch<'r>(
        &self,
        batch: &'r RecordBatch,
        first_row: u64,
    ) -> Result<Vec<Verdict<'r>>, StageError> {
        match self {
            Judge::Answer(rule) => rule.batch(batch, first_row),
            Judge::Code(rule) => rule.batch(batch, first_row),
            Judge::Sql(rule) => rule.batch(batch, first_row),
            Judge::Model(judge) => judge.batch(batch, first_row),
        }
    }

    /// Names the programs that the verdicts depend on.
    fn profile(&self) -> String {
        match self {
            Judge::Answer(_) | Judge::Model(_) => String::new(),
            Judge::Code(rule) => rule.profile(),
            Judge::Sql(_) => sql::profile(),
        }
    }

    /// Whether a row is compared with something, so that it is right or wrong.
    fn compares(&self) -> bool {
        match self {
            Judge::Answer(rule) => rule.compare.is_some(),
            Judge::Code(_) | Judge::Sql(_) | Judge::Model(_) => true,
        }
    }
}

/// The columns of the verdicts.
pub(super) fn columns(compares: bool) -> Vec<(&'static str, DataType)> {
    let mut columns = vec![("prediction", DataType::Utf8)];
    columns.extend(compares.then_some(("correct", DataType::Boolean)));
    columns.push(("reason", DataType::Utf8));
    columns
}

/// Adds the verdicts to the table.
pub(super) fn run(
    ctx: &Context<'_>,
    judge: &Judge,
    ks: &[u64],
    resamples: u64,
) -> Result<NodeResult, StageError> {
    let compares = judge.compares();
    let mut prompts: PerPrompt<Tally> = PerPrompt::default();
    let (mut rows, mut no_answer) = (0, 0);
    let table = tables::add_columns(ctx, "data", &columns(compares), |batch, first_row| {
        let verdicts = judge.batch(batch, first_row)?;
        let ids = PerPrompt::<Tally>::ids(batch)?;
        for (row, verdict) in verdicts.iter().enumerate() {
            rows += 1;
            no_answer += u64::from(verdict.prediction.is_none());
            prompts.of_row(ids, row).add(verdict.correct == Some(true));
        }
        Ok(arrays(&verdicts, compares))
    })?;

    let mut metrics = Vec::new();
    if compares {
        metrics.extend(shares(&prompts, resamples, ctx.cancel)?);
    }
    metrics.push(metric("no_answer", share(no_answer, rows), rows));
    if let Judge::Model(judge) = judge {
        metrics.extend(judge.metrics());
    }
    metrics.extend(estimates(&prompts, ks, resamples, ctx.cancel)?);
    Ok(NodeResult { metrics, profile: judge.profile(), ..NodeResult::main(table) })
}

/// Keeps of scored options the likeliest of each question, with its verdict.
pub(super) fn choose(
    ctx: &Context<'_>,
    by: By,
    compares: bool,
    ks: &[u64],
    resamples: u64,
) -> Result<NodeResult, StageError> {
    let mut prompts = PerPrompt::default();
    let table = logprob::run(ctx, by, compares, &mut prompts)?;
    let metrics = if compares { of_prompts(ctx, &prompts, ks, resamples)? } else { Vec::new() };
    Ok(NodeResult { metrics, ..NodeResult::main(table) })
}

/// Sums up the verdicts that a table brings as `correct`; the table is passed on as it is.
pub(super) fn sum_up(
    ctx: &Context<'_>,
    ks: &[u64],
    resamples: u64,
) -> Result<NodeResult, StageError> {
    let wanted = tables::present(ctx, "data", &["id", "correct"])?;
    let mut prompts: PerPrompt<Tally> = PerPrompt::default();
    tables::scan(ctx, "data", Some(&wanted), |batch, first_row| {
        let ids = PerPrompt::<Tally>::ids(batch)?;
        let verdicts = column::<BooleanArray>(batch, "correct")?;
        for row in 0..batch.num_rows() {
            if verdicts.is_null(row) {
                let message = format!("{} has no `correct`", row_name(batch, first_row, row));
                return Err(StageError::with_hint(
                    message,
                    "it is neither right nor wrong: leave it out, or add its verdict",
                ));
            }
            prompts.of_row(ids, row).add(verdicts.value(row));
        }
        Ok(())
    })?;
    let metrics = of_prompts(ctx, &prompts, ks, resamples)?;
    Ok(NodeResult { metrics, ..NodeResult::main(ctx.input("data")?.artifact().clone()) })
}

/// The metrics over rows and prompts.
pub(super) fn of_prompts(
    ctx: &Context<'_>,
    prompts: &PerPrompt<Tally>,
    ks: &[u64],
    resamples: u64,
) -> Result<Vec<Metric>, StageError> {
    let mut metrics = shares(prompts, resamples, ctx.cancel)?;
    metrics.extend(estimates(prompts, ks, resamples, ctx.cancel)?);
    Ok(metrics)
}

/// The reason of a verdict that needs no more words.
pub(super) fn reason(correct: Option<bool>) -> &'static str {
    match correct {
        None => "found",
        Some(true) => "equal",
        Some(false) => "different",
    }
}

/// The samples of one prompt.
#[derive(Debug, Default)]
pub(super) struct Tally {
    samples: u64,
    correct: u64,
}

impl Tally {
    pub fn add(&mut self, correct: bool) {
        self.samples += 1;
        self.correct += u64::from(correct);
    }
}

fn arrays(verdicts: &[Verdict<'_>], compares: bool) -> Vec<ArrayRef> {
    let (mut predictions, mut reasons) = (StringBuilder::new(), StringBuilder::new());
    let mut correct = BooleanBuilder::with_capacity(verdicts.len());
    for verdict in verdicts {
        predictions.append_option(verdict.prediction.as_deref());
        correct.append_option(verdict.correct);
        reasons.append_value(verdict.reason);
    }
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(predictions.finish())];
    if compares {
        arrays.push(Arc::new(correct.finish()));
    }
    arrays.push(Arc::new(reasons.finish()));
    arrays
}

/// The metrics over rows.
fn shares(
    prompts: &PerPrompt<Tally>,
    resamples: u64,
    cancel: &Cancel,
) -> Result<Vec<Metric>, StageError> {
    let rows: u64 = prompts.sums().iter().map(|tally| tally.samples).sum();
    let correct: u64 = prompts.sums().iter().map(|tally| tally.correct).sum();
    let pairs: Vec<_> =
        prompts.sums().iter().map(|tally| (tally.correct as f64, tally.samples as f64)).collect();
    let accuracy = metric("accuracy", share(correct, rows), rows);
    Ok(vec![
        with_interval(accuracy, &pairs, resamples, cancel)?,
        metric("correct", correct as f64, rows),
    ])
}

/// The metrics over prompts: pass@k of each k.
fn estimates(
    prompts: &PerPrompt<Tally>,
    ks: &[u64],
    resamples: u64,
    cancel: &Cancel,
) -> Result<Vec<Metric>, StageError> {
    let mut metrics = Vec::with_capacity(ks.len());
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
