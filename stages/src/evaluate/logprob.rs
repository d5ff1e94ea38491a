//! Answers each question by the option that a model finds likeliest, from the scores of all.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, RecordBatch,
    StringArray, UInt32Array,
};
use arrow::compute::take_record_batch;

use refrain_cache::columns::{column, list_column, with_column};
use refrain_cache::{Artifact, TableReader};
use refrain_engine::kind::{Context, StageError, choices};

use super::prompts::PerPrompt;
use super::verdict::{self, Tally};
use crate::continuation::{Continuation, ScoredTokens};
use crate::prompts::{cell, row_error};
use crate::tables::{self, arrow_bug, with_fields};

choices! {
    /// The measure by which an option is the likeliest.
    pub(super) enum By {
        /// The log-probability of the option.
        Sum = "sum",
        /// Per token of it.
        Token = "token",
        /// Per byte of it.
        Byte = "byte",
        /// Minus that of the option without the question.
        Prior = "prior",
    }
}

/// The columns that are read of a scored table.
pub(super) const READ: [&str; 8] =
    ["option", "label", "choice", "response", "text", "offsets", "prompt_tokens", "logprobs"];

/// An option of the question at hand.
struct Scored {
    row: u64,
    label: String,
    text: String,
    score: f64,
}

/// The chosen option of a question.
struct Chosen {
    row: u64,
    label: String,
    correct: Option<bool>,
}

/// Chooses the options and writes their rows with the verdicts; adds these to the tallies.
pub(super) fn run(
    ctx: &Context<'_>,
    by: By,
    compares: bool,
    prompts: &mut PerPrompt<Tally>,
) -> Result<Artifact, StageError> {
    let chosen = choose(ctx, by, compares)?;
    let columns = verdict::columns(compares);
    let reader = TableReader::open(ctx.table("data")?)?;
    let mut writer = ctx.cache.new_table(with_fields(reader.schema(), &columns))?;
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
        let ids = PerPrompt::<Tally>::ids(&out)?;
        for (row, one) in ours.iter().enumerate() {
            prompts.of_row(ids, row).add(one.correct == Some(true));
        }
        for ((name, _), array) in columns.iter().zip(arrays(ours, compares)) {
            out = with_column(&out, name, array)?;
        }
        Ok(writer.write(&out)?)
    })?;
    Ok(ctx.cache.store_table(writer)?)
}

fn arrays(chosen: &[Chosen], compares: bool) -> Vec<ArrayRef> {
    let labels = chosen.iter().map(|one| one.label.as_str());
    let reasons = chosen.iter().map(|one| verdict::reason(one.correct));
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(labels))];
    if compares {
        arrays.push(Arc::new(chosen.iter().map(|one| one.correct).collect::<BooleanArray>()));
    }
    arrays.push(Arc::new(StringArray::from_iter_values(reasons)));
    arrays
}

/// Chooses an option for each question, in the order of the table. The options of a question follow
/// each other, numbered from 0.
fn choose(ctx: &Context<'_>, by: By, compares: bool) -> Result<Vec<Chosen>, StageError> {
    let wanted = [&READ[..], &["id", "reference", "prior_logprob"]].concat();
    let wanted = tables::present(ctx, "data", &wanted)?;
    let mut chosen = Vec::new();
    let mut options: Vec<Scored> = Vec::new();
    let mut reference: Option<String> = None;
    let mut close = |options: &mut Vec<Scored>, reference: Option<String>| {
        chosen.extend(best(std::mem::take(options), reference)?);
        Ok::<(), StageError>(())
    };
    tables::scan(ctx, "data", Some(&wanted), |batch, first| {
        let numbers = column::<Int32Array>(batch, "option")?;
        let scores = scores(batch, first, by)?;
        let texts = |name| column::<StringArray>(batch, name);
        let (labels, choices) = (texts("label")?, texts("choice")?);
        let references = if compares { Some(texts("reference")?) } else { None };
        for (row, score) in scores.into_iter().enumerate() {
            if numbers.value(row) == 0 {
                close(&mut options, reference.take())?;
                reference = match references {
                    None => None,
                    Some(references) => {
                        let missing = || row_error(batch, row, first, "it has no `reference`");
                        Some(cell(references, row).ok_or_else(missing)?.to_owned())
                    }
                };
            }
            options.push(Scored {
                row: first + row as u64,
                label: cell(labels, row).unwrap_or_default().to_owned(),
                text: cell(choices, row).unwrap_or_default().to_owned(),
                score,
            });
        }
        Ok(())
    })?;
    close(&mut options, reference)?;
    Ok(chosen)
}

/// The first of the best options, and whether it is the reference: its label or its text.
fn best(options: Vec<Scored>, reference: Option<String>) -> Result<Option<Chosen>, StageError> {
    let is = |option: &Scored, reference: &str| {
        [&option.label, &option.text].iter().any(|text| text.trim() == reference.trim())
    };
    if let (Some(reference), Some(first)) = (&reference, options.first())
        && !options.iter().any(|option| is(option, reference))
    {
        let labels: Vec<String> = options.iter().map(|one| format!("`{}`", one.label)).collect();
        return Err(StageError::with_hint(
            format!("row {}: `reference` is neither a label nor the text of an option", first.row),
            format!("its labels are {}", labels.join(", ")),
        ));
    }
    let better = |best: Scored, other: Scored| if other.score > best.score { other } else { best };
    Ok(options.into_iter().reduce(better).map(|best| Chosen {
        row: best.row,
        correct: reference.map(|reference| is(&best, &reference)),
        label: best.label,
    }))
}

fn scores(batch: &RecordBatch, first: u64, by: By) -> Result<Vec<f64>, StageError> {
    let texts = column::<StringArray>(batch, "text")?;
    let responses = column::<StringArray>(batch, "response")?;
    let prompt_tokens = column::<Int32Array>(batch, "prompt_tokens")?;
    let (places, offsets) = list_column::<Int32Array>(batch, "offsets")?;
    let (lists, logprobs) = list_column::<Float32Array>(batch, "logprobs")?;
    let priors = match by {
        By::Prior => Some(column::<Float64Array>(batch, "prior_logprob")?),
        _ => None,
    };
    let score = |row: usize| -> Result<f64, StageError> {
        let start = lists.value_offsets()[row] as usize;
        let places = places.value_offsets()[row] as usize..places.value_offsets()[row + 1] as usize;
        let count = lists.value_offsets()[row + 1] as usize - start;
        let what = |what: &str| row_error(batch, row, first, what);
        if places.len() != count {
            return Err(what("`offsets` and `logprobs` do not fit"));
        }
        let tokens = ScoredTokens {
            text: cell(texts, row).unwrap_or_default(),
            count,
            prompt_tokens: prompt_tokens.value(row).max(0) as usize,
            offset: &|token| offsets.value(places.start + token).max(0) as usize,
            logprob: &|token| {
                let at = start + token;
                logprobs.is_valid(at).then(|| logprobs.value(at)).filter(|value| !value.is_nan())
            },
        };
        let option = Continuation::of(&tokens, cell(responses, row).unwrap_or_default());
        let option = option.map_err(|why| what(&format!("the option cannot be scored: {why}")))?;
        Ok(match (by, priors) {
            (By::Token, _) => option.logprob / option.tokens as f64,
            (By::Byte, _) => option.logprob / option.bytes as f64,
            (By::Prior, Some(priors)) => option.logprob - priors.value(row),
            (By::Sum | By::Prior, _) => option.logprob,
        })
    };
    (0..batch.num_rows()).map(score).collect()
}
