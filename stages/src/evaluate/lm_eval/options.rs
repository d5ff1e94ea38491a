//! Chooses the likeliest option of each question, and whether it is one of those that are right.

use arrow::array::{BooleanArray, Int32Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;

use refrain_cache::columns::{column, with_column};
use refrain_cache::{Artifact, TableReader};
use refrain_engine::kind::{Context, StageError};

use super::{Column, Sums, Verdicts, fields, logprob, truths};
use crate::evaluate::prompts::PerPrompt;
use crate::evaluate::verdict::Tally;
use crate::lm_eval::{MetricName, TaskFile};
use crate::prompts::{cell, row_error};
use crate::tables::{self, arrow_bug, with_fields};

/// An option of the question at hand.
struct Scored {
    row: u64,
    text: String,
    logprob: f64,
    is_target: bool,
}

impl Scored {
    /// The measure by which a metric takes an option for the likeliest.
    fn measure(&self, metric: MetricName) -> f64 {
        match metric {
            MetricName::AccNorm => self.logprob / self.text.chars().count() as f64,
            MetricName::AccBytes => self.logprob / self.text.len() as f64,
            _ => self.logprob,
        }
    }
}

/// The row of a question's chosen option, and the verdict of each metric.
struct Chosen {
    row: u64,
    text: String,
    right: Vec<bool>,
}

/// Writes of each question the row of the option that the first metric chooses, with the verdicts.
pub(super) fn run(
    ctx: &Context<'_>,
    task: &TaskFile,
    columns: &[Column],
    sums: &mut Sums,
) -> Result<Artifact, StageError> {
    let chosen = choose(ctx, &truths(task))?;
    let reader = TableReader::open(ctx.table("data")?)?;
    let mut writer = ctx.cache.new_table(with_fields(reader.schema(), &fields(columns)))?;
    let mut next = 0;
    tables::scan(ctx, "data", None, |batch, first| {
        let end = first + batch.num_rows() as u64;
        let here = next..next + chosen[next..].partition_point(|one| one.row < end);
        let ours = &chosen[here.clone()];
        next = here.end;
        if ours.is_empty() {
            return Ok(());
        }
        let rows = UInt32Array::from_iter_values(ours.iter().map(|one| (one.row - first) as u32));
        let mut out = take_record_batch(batch, &rows).map_err(arrow_bug)?;
        let mut verdicts = Verdicts::new(task);
        for one in ours {
            verdicts.predictions[0].push(Some(one.text.clone()));
            for (all, right) in verdicts.right.iter_mut().zip(&one.right) {
                all.push(*right);
            }
        }
        sums.add(&verdicts, PerPrompt::<Tally>::ids(&out)?);
        for ((name, _), array) in columns.iter().zip(verdicts.arrays(columns)) {
            out = with_column(&out, name, array)?;
        }
        Ok(writer.write(&out)?)
    })?;
    Ok(ctx.cache.store_table(writer)?)
}

/// Chooses for each question; its options follow each other, numbered from 0.
fn choose(ctx: &Context<'_>, metrics: &[MetricName]) -> Result<Vec<Chosen>, StageError> {
    let wanted = ["id", "option", "choice", "is_target", "prompt_tokens", "logprobs"];
    let wanted = tables::present(ctx, "data", &wanted)?;
    let mut chosen = Vec::new();
    let mut options: Vec<Scored> = Vec::new();
    tables::scan(ctx, "data", Some(&wanted), |batch, first| {
        let numbers = column::<Int32Array>(batch, "option")?;
        for row in 0..batch.num_rows() {
            if numbers.value(row) == 0 {
                chosen.extend(best(&std::mem::take(&mut options), metrics));
            }
            options.push(scored(batch, row, first)?);
        }
        Ok(())
    })?;
    chosen.extend(best(&options, metrics));
    Ok(chosen)
}

fn scored(batch: &RecordBatch, row: usize, first: u64) -> Result<Scored, StageError> {
    let value = logprob(batch, row);
    Ok(Scored {
        row: first + row as u64,
        text: cell(column::<StringArray>(batch, "choice")?, row).unwrap_or_default().to_owned(),
        logprob: value.map_err(|error| row_error(batch, row, first, &error.to_string()))?,
        is_target: column::<BooleanArray>(batch, "is_target")?.value(row),
    })
}

/// The first of the likeliest options by each metric.
fn best(options: &[Scored], metrics: &[MetricName]) -> Option<Chosen> {
    let by = |metric: MetricName| {
        let better =
            |best: &'_ Scored, other: &'_ Scored| other.measure(metric) > best.measure(metric);
        options.iter().reduce(|best, other| if better(best, other) { other } else { best })
    };
    let first = by(*metrics.first()?)?;
    let right = metrics.iter().filter_map(|metric| by(*metric)).map(|one| one.is_target);
    Some(Chosen { row: first.row, text: first.text.clone(), right: right.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_chooses_by_its_own_measure() {
        let option = |row, text: &str, logprob, is_target| Scored {
            row,
            text: text.to_owned(),
            logprob,
            is_target,
        };
        // Sums -4, -6, -6; per character -2, -1, -1.5; per byte -2, -1, -0.75.
        let options = [
            option(0, "ab", -4.0, true),
            option(1, "abcdef", -6.0, false),
            option(2, "éééé", -6.0, true),
        ];
        let all = [MetricName::AccNorm, MetricName::Acc, MetricName::AccBytes];
        let chosen = best(&options, &all).unwrap();
        assert_eq!(
            (chosen.row, &chosen.text[..], &chosen.right[..]),
            (1, "abcdef", &[false, true, true][..])
        );
        assert!(best(&[], &all).is_none());
    }
}
