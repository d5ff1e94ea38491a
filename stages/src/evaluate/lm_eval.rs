//! Judges answers by the filters and metrics of a task file of lm-evaluation-harness.

mod filters;
mod options;
mod texts;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, RecordBatch, StringArray,
};
use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use refrain_cache::Metric;
use refrain_cache::columns::{column, list_column};
use refrain_engine::kind::{Check, Columns, Context, NodeResult, Problem, StageError};

use super::prompts::PerPrompt;
use super::verdict::{self, Tally, with_interval};
use crate::lm_eval::{self, Aggregation, MetricEntry, MetricName, OutputType, TaskFile};
use crate::tables::{self, list_of, metric, share};

use filters::Pipelines;
use texts::ExactMatch;

/// The log-likelihood of a target.
const LOGPROB: &str = "logprob";

/// lm-evaluation-harness's `perplexity`, which is not that of tokens.
const TARGET_PERPLEXITY: &str = "target_perplexity";

/// The metrics of an output type, where a task names none.
fn preset(of: OutputType) -> &'static [MetricName] {
    match of {
        OutputType::GenerateUntil => &[MetricName::ExactMatch],
        OutputType::MultipleChoice => &[MetricName::Acc, MetricName::AccNorm],
        OutputType::Loglikelihood => &[MetricName::Perplexity, MetricName::Acc],
    }
}

/// The metrics that an output type can have.
fn possible(of: OutputType) -> &'static [MetricName] {
    match of {
        OutputType::GenerateUntil => &[MetricName::ExactMatch],
        OutputType::MultipleChoice => &[MetricName::Acc, MetricName::AccNorm, MetricName::AccBytes],
        OutputType::Loglikelihood => &[MetricName::Perplexity, MetricName::Acc],
    }
}

/// The metrics of a task, in its order.
fn metrics(task: &TaskFile) -> Vec<MetricName> {
    match &task.metric_list {
        Some(entries) => entries.iter().map(|entry| entry.metric).collect(),
        None => preset(output_type(task)).to_vec(),
    }
}

fn output_type(task: &TaskFile) -> OutputType {
    task.output_type.unwrap_or(OutputType::GenerateUntil)
}

/// The metrics that say of each row whether it is right.
fn truths(task: &TaskFile) -> Vec<MetricName> {
    let all = metrics(task).into_iter();
    all.filter(|metric| *metric != MetricName::Perplexity).collect()
}

/// Whether the stage's task is a file, and its rows are right or wrong.
pub(super) fn judges(params: &Map<String, Value>) -> bool {
    let task = lm_eval::content(params).and_then(|_| lm_eval::task_file(params).ok());
    task.is_some_and(|task| !truths(&task).is_empty())
}

/// Whether the stage's task is a file that finds answers in texts.
pub(super) fn finds(params: &Map<String, Value>) -> bool {
    lm_eval::output_type(params) == Some(OutputType::GenerateUntil)
}

/// The names of the metrics of a task file.
pub(super) fn metric_names(params: &Map<String, Value>) -> Vec<String> {
    if lm_eval::content(params).is_none() {
        return Vec::new();
    }
    let Ok(task) = lm_eval::task_file(params) else { return Vec::new() };
    names(&task)
}

/// The columns that say whether rows are right, and the metrics that are their means; of a
/// perplexity its own name.
fn names(task: &TaskFile) -> Vec<String> {
    let of = |metric: MetricName| match metric {
        MetricName::Perplexity => vec![TARGET_PERPLEXITY.to_owned()],
        metric => {
            let suffixes = filters::suffixes(task.filter_list.as_deref());
            suffixes.iter().map(|suffix| format!("{}{suffix}", metric.word())).collect()
        }
    };
    metrics(task).into_iter().flat_map(of).collect()
}

/// Checks filters and metrics, and that the table is one of answered requests.
pub(super) fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    let Ok(task) = lm_eval::task_file(check.params) else { return None };
    let of = output_type(&task);
    let given = |name: &&str| match *name {
        "trim" => check.params.get(*name) == Some(&false.into()),
        "ignore_case" => check.params.get(*name) == Some(&true.into()),
        name => check.params.contains_key(name),
    };
    let names = ["extract", "compare", "choices", "pattern", "trim", "ignore_case"];
    for name in names.into_iter().filter(given) {
        let message = format!("`{name}` does nothing beside a task file");
        let hint = "the file's `filter_list` finds answers, its `metric_list` compares them";
        problems.push(Problem::at(name, message).hint(hint));
    }
    filters::check(task.filter_list.as_deref(), of, problems);
    check_metrics(&task, problems);

    let text = [DataType::Utf8];
    check.need(problems, "data", "response", &text);
    match of {
        OutputType::GenerateUntil => {
            check.need(problems, "data", "targets", &[list_of(DataType::Utf8)]);
        }
        OutputType::MultipleChoice => {
            check.need(problems, "data", "choice", &text);
            check.need(problems, "data", "is_target", &[DataType::Boolean]);
            check.need(problems, "data", "logprobs", &[list_of(DataType::Float32)]);
        }
        OutputType::Loglikelihood => {
            check.need(problems, "data", "logprobs", &[list_of(DataType::Float32)]);
            check.need(problems, "data", "greedy", &[DataType::Boolean]);
        }
    }
    let schema = (check.columns)("data");
    schema.map(|schema| tables::with_fields(&schema, &fields(&columns(&task))))
}

fn check_metrics(task: &TaskFile, problems: &mut Vec<Problem>) {
    let of = output_type(task);
    let entries = task.metric_list.as_deref().unwrap_or_default();
    if task.metric_list.as_ref().is_some_and(Vec::is_empty) {
        problems.push(Problem::at("task.lm_eval.metric_list", "it names no metric"));
    }
    for (number, entry) in entries.iter().enumerate() {
        let at = |key: &str| format!("task.lm_eval.metric_list[{number}].{key}");
        let word = entry.metric.word();
        if !possible(of).contains(&entry.metric) {
            let message = format!("`{word}` is not a metric of `output_type: {}` here", of.word());
            let known: Vec<String> =
                possible(of).iter().map(|metric| format!("`{}`", metric.word())).collect();
            let problem = Problem::at(at("metric"), message);
            problems.push(problem.hint(format!("its metrics are {}", known.join(", "))));
        } else if entries[..number].iter().any(|earlier| earlier.metric == entry.metric) {
            problems.push(Problem::at(at("metric"), format!("`{word}` is named twice")));
        }
        let wanted = match entry.metric {
            MetricName::Perplexity => Aggregation::Perplexity,
            _ => Aggregation::Mean,
        };
        if entry.aggregation.is_some_and(|given| given != wanted) {
            let message = format!("`{word}` is summed up as `{}` alone", wanted.word());
            problems.push(Problem::at(at("aggregation"), message));
        }
        for (pattern, text) in entry.regexes_to_ignore.iter().enumerate() {
            let at = at(&format!("regexes_to_ignore[{pattern}]"));
            filters::check_regex(at, text, problems);
        }
    }
}

/// A column that is added.
type Column = (String, DataType);

/// The columns of the verdicts, in their order.
fn columns(task: &TaskFile) -> Vec<Column> {
    let mut columns = vec![("prediction".to_owned(), DataType::Utf8)];
    let has_truths = !truths(task).is_empty();
    columns.extend(has_truths.then(|| ("correct".to_owned(), DataType::Boolean)));
    columns.push(("reason".to_owned(), DataType::Utf8));
    let suffixes = filters::suffixes(task.filter_list.as_deref());
    let answers = suffixes.iter().filter(|suffix| !suffix.is_empty());
    columns.extend(answers.map(|suffix| (format!("prediction{suffix}"), DataType::Utf8)));
    if output_type(task) == OutputType::Loglikelihood {
        columns.push((LOGPROB.to_owned(), DataType::Float64));
    }
    let truths = names(task).into_iter().filter(|name| name != TARGET_PERPLEXITY);
    columns.extend(truths.map(|name| (name, DataType::Boolean)));
    columns
}

fn fields(columns: &[Column]) -> Vec<(&str, DataType)> {
    columns.iter().map(|(name, ty)| (name.as_str(), ty.clone())).collect()
}

/// The verdicts on the rows that go out.
#[derive(Default)]
struct Verdicts {
    /// The answers under each filter.
    predictions: Vec<Vec<Option<String>>>,
    /// Whether each row is right, by metric and filter in the order of their names.
    right: Vec<Vec<bool>>,
    logprobs: Vec<f64>,
}

impl Verdicts {
    fn new(task: &TaskFile) -> Verdicts {
        let filters = filters::suffixes(task.filter_list.as_deref()).len();
        Verdicts {
            predictions: vec![Vec::new(); filters],
            right: vec![Vec::new(); truths(task).len() * filters],
            logprobs: Vec::new(),
        }
    }

    /// The arrays of the columns.
    fn arrays(&self, columns: &[Column]) -> Vec<ArrayRef> {
        let mut answers = self.predictions.iter();
        let mut right = self.right.iter();
        let text = |texts: &Vec<Option<String>>| -> ArrayRef {
            Arc::new(texts.iter().map(Option::as_deref).collect::<StringArray>())
        };
        let truth =
            |truths: &Vec<bool>| -> ArrayRef { Arc::new(BooleanArray::from(truths.clone())) };
        let rows = self.predictions.first().map_or(0, Vec::len);
        let first = self.right.first();
        let mut array = |(name, ty): &Column| -> ArrayRef {
            match (name.as_str(), ty) {
                ("prediction", _) => text(&self.predictions[0]),
                ("correct", _) => truth(first.unwrap_or(&Vec::new())),
                ("reason", _) => {
                    let reason = |row| verdict::reason(first.map(|truths| truths[row]));
                    Arc::new(StringArray::from_iter_values((0..rows).map(reason)))
                }
                (_, DataType::Utf8) => text(answers.next().unwrap_or(&self.predictions[0])),
                (_, DataType::Float64) => Arc::new(Float64Array::from(self.logprobs.clone())),
                _ => truth(right.next().unwrap_or(&Vec::new())),
            }
        };
        columns.iter().map(&mut array).collect()
    }
}

/// Sums over the rows.
#[derive(Default)]
struct Sums {
    prompts: PerPrompt<Tally>,
    /// Rows that are right, by metric and filter.
    right: Vec<Vec<(f64, f64)>>,
    rows: u64,
    no_answer: u64,
    logprob: f64,
    logprobs: Vec<(f64, f64)>,
}

impl Sums {
    fn add(&mut self, verdicts: &Verdicts, ids: Option<&StringArray>) {
        self.right.resize(verdicts.right.len(), Vec::new());
        for (all, new) in self.right.iter_mut().zip(&verdicts.right) {
            all.extend(new.iter().map(|right| (f64::from(u8::from(*right)), 1.0)));
        }
        for (row, right) in verdicts.right.first().into_iter().flatten().enumerate() {
            self.prompts.of_row(ids, row).add(*right);
        }
        self.rows += verdicts.predictions.first().map_or(0, Vec::len) as u64;
        self.logprob += verdicts.logprobs.iter().sum::<f64>();
        self.logprobs.extend(verdicts.logprobs.iter().map(|value| (*value, 1.0)));
    }

    fn metrics(
        &self,
        ctx: &Context<'_>,
        task: &TaskFile,
        ks: &[u64],
        resamples: u64,
    ) -> Result<Vec<Metric>, StageError> {
        let mut metrics = Vec::new();
        if !self.right.is_empty() {
            metrics.extend(verdict::of_prompts(ctx, &self.prompts, ks, resamples)?);
        }
        if output_type(task) == OutputType::GenerateUntil {
            metrics.push(metric("no_answer", share(self.no_answer, self.rows), self.rows));
        }
        let mut right = self.right.iter();
        for name in names(task) {
            if name == TARGET_PERPLEXITY {
                let mean = self.logprob / self.rows as f64;
                let one = metric(&name, libm::exp(-mean), self.rows);
                let interval = super::bootstrap::interval(&self.logprobs, resamples, ctx.cancel)?;
                // A lower mean is a higher perplexity.
                let (high, low) =
                    interval.map(|(low, high)| (libm::exp(-low), libm::exp(-high))).unzip();
                metrics.push(Metric { low, high, ..one });
                continue;
            }
            let rows = right.next().map_or(&[][..], Vec::as_slice);
            let sum: f64 = rows.iter().map(|(right, _)| right).sum();
            let one = metric(&name, sum / rows.len() as f64, rows.len() as u64);
            metrics.push(with_interval(one, rows, resamples, ctx.cancel)?);
        }
        Ok(metrics)
    }
}

/// Judges the rows of answered requests.
pub(super) fn run(ctx: &Context<'_>, ks: &[u64], resamples: u64) -> Result<NodeResult, StageError> {
    let task = lm_eval::task_file(ctx.params)?;
    let columns = columns(&task);
    let mut sums = Sums::default();
    let table = match output_type(&task) {
        OutputType::MultipleChoice => options::run(ctx, &task, &columns, &mut sums)?,
        of => {
            let pipelines = Pipelines::new(task.filter_list.as_deref())?;
            let rule = ExactMatch::of(&task)?;
            tables::add_columns(ctx, "data", &fields(&columns), |batch, first| {
                let mut verdicts = Verdicts::new(&task);
                match of {
                    OutputType::GenerateUntil => {
                        let judged = texts::judge(batch, first, &pipelines, &rule, &mut verdicts);
                        sums.no_answer += judged?;
                    }
                    _ => texts::likelihoods(batch, first, &task, &mut verdicts)?,
                }
                sums.add(&verdicts, PerPrompt::<Tally>::ids(batch)?);
                Ok(verdicts.arrays(&columns))
            })?
        }
    };
    let metrics = sums.metrics(ctx, &task, ks, resamples)?;
    Ok(NodeResult { metrics, ..NodeResult::main(table) })
}

/// The sum of the log-probabilities of a row's continuation.
fn logprob(batch: &RecordBatch, row: usize) -> Result<f64, StageError> {
    let (lists, logprobs) = list_column::<Float32Array>(batch, "logprobs")?;
    let prompt_tokens = column::<Int32Array>(batch, "prompt_tokens")?;
    let start = lists.value_offsets()[row] as usize + prompt_tokens.value(row).max(0) as usize;
    let end = lists.value_offsets()[row + 1] as usize;
    if start >= end || (start..end).any(|at| logprobs.is_null(at)) {
        let what = "a token of the continuation has no log-probability";
        return Err(StageError::failed(what));
    }
    Ok((start..end).map(|at| f64::from(logprobs.value(at))).sum())
}

/// The entry of a metric, for its options.
fn entry(task: &TaskFile, name: MetricName) -> Option<&MetricEntry> {
    task.metric_list.as_ref()?.iter().find(|entry| entry.metric == name)
}
