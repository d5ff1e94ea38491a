//! The perplexity of a scored table's responses, over tokens and over rows.

use arrow::array::{Array, Float32Array, Float64Array, Int32Array};

use refrain_cache::columns::{column, list_column};
use refrain_engine::kind::{Context, NodeResult, StageError};

use super::bootstrap::interval;
use super::prompts::PerPrompt;
use super::verdict::with_interval;
use crate::prompts::row_error;
use crate::scores::check_logprob;
use crate::tables::{self, metric, row_name};

/// Sums over the rows of one prompt.
#[derive(Debug, Default)]
struct Sums {
    /// Of -log p over predicted tokens of the responses.
    nll: f64,
    tokens: u64,
    /// Of the rows' perplexities.
    perplexity: f64,
    rows: u64,
}

/// Passes the table on unchanged and gives `perplexity`, the exponential of the mean over tokens,
/// and `mean_perplexity`, the mean over rows. Rows without a perplexity (empty responses) do not
/// count.
pub(super) fn run(ctx: &Context<'_>, resamples: u64) -> Result<NodeResult, StageError> {
    let columns = tables::present(ctx, "data", &["id", "prompt_tokens", "logprobs", "perplexity"])?;
    let mut prompts: PerPrompt<Sums> = PerPrompt::default();
    tables::scan(ctx, "data", Some(&columns), |batch, first_row| {
        let ids = PerPrompt::<Sums>::ids(batch)?;
        let prompt_tokens = column::<Int32Array>(batch, "prompt_tokens")?;
        let perplexities = column::<Float64Array>(batch, "perplexity")?;
        let (lists, logprobs) = list_column::<Float32Array>(batch, "logprobs")?;
        for row in (0..batch.num_rows()).filter(|&row| perplexities.is_valid(row)) {
            let (start, end) =
                (lists.value_offsets()[row] as usize, lists.value_offsets()[row + 1] as usize);
            let prompt = usize::try_from(prompt_tokens.value(row))
                .ok()
                .filter(|prompt| *prompt <= end - start);
            let Some(prompt) =
                prompt.filter(|_| prompt_tokens.is_valid(row) && lists.is_valid(row))
            else {
                let row = row_name(batch, first_row, row);
                return Err(StageError::failed(format!(
                    "`prompt_tokens` and `logprobs` of {row} do not fit"
                )));
            };
            let sums = prompts.of_row(ids, row);
            for i in (start + prompt..end).filter(|&i| logprobs.is_valid(i)) {
                let logprob = f64::from(logprobs.value(i));
                check_logprob(logprob).map_err(|what| row_error(batch, row, first_row, &what))?;
                sums.nll -= logprob;
                sums.tokens += 1;
            }
            sums.perplexity += perplexities.value(row);
            sums.rows += 1;
        }
        Ok(())
    })?;
    let total = prompts.sums().iter().fold(Sums::default(), |all, one| Sums {
        nll: all.nll + one.nll,
        tokens: all.tokens + one.tokens,
        perplexity: all.perplexity + one.perplexity,
        rows: all.rows + one.rows,
    });
    let over_tokens: Vec<_> =
        prompts.sums().iter().map(|sums| (sums.nll, sums.tokens as f64)).collect();
    let over_rows: Vec<_> =
        prompts.sums().iter().map(|sums| (sums.perplexity, sums.rows as f64)).collect();
    let mut perplexity =
        metric("perplexity", libm::exp(total.nll / total.tokens as f64), total.tokens);
    // The exponential keeps order, so that the interval of the mean becomes that of the perplexity.
    (perplexity.low, perplexity.high) = interval(&over_tokens, resamples, ctx.cancel)?
        .map(|(low, high)| (libm::exp(low), libm::exp(high)))
        .unzip();
    let mean = metric("mean_perplexity", total.perplexity / total.rows as f64, total.rows);
    let metrics = vec![perplexity, with_interval(mean, &over_rows, resamples, ctx.cancel)?];
    Ok(NodeResult { metrics, ..NodeResult::main(ctx.input("data")?.artifact().clone()) })
}
