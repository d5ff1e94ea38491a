//! The log-probability of every token of given rows.

use crate::forward::Packed;
use crate::kernels::pointwise;
use crate::model::{LanguageModel, ModelError};

/// Rows that are computed together unless the caller says otherwise.
const ROWS: usize = 32;
/// Tokens beyond which no further row joins a batch.
const TOKENS: usize = 4096;
/// Positions whose logits are held at once: no tensor `[rows, positions, vocab]` ever exists.
const BLOCK: usize = 128;

/// Calls `on_row` for each row with the natural-log probabilities of its tokens after the first,
/// given all before.
///
/// `batch` rows are computed together; a row's bits do not depend on it.
pub fn score(
    model: &LanguageModel,
    rows: &[&[u32]],
    batch: Option<usize>,
    on_row: &mut dyn FnMut(usize, &[f32]),
) -> Result<(), ModelError> {
    for (row, ids) in rows.iter().enumerate() {
        model.check_ids(row, ids)?;
    }
    let most = batch.unwrap_or(ROWS).max(1);
    let mut begin = 0;
    while begin < rows.len() {
        let mut end = begin;
        let mut tokens = 0;
        while end < rows.len() && end - begin < most && (tokens < TOKENS || batch.is_some()) {
            tokens += rows[end].len();
            end += 1;
        }
        let packed = Packed::new(rows[begin..end].iter().copied());
        let hidden = model.forward(&packed);
        for (i, span) in packed.offsets.windows(2).enumerate() {
            let logprobs = row_logprobs(model, &hidden, &packed.ids, span[0], span[1]);
            if !logprobs.iter().all(|logprob| logprob.is_finite()) {
                return Err(ModelError::NotFinite);
            }
            on_row(begin + i, &logprobs);
        }
        begin = end;
    }
    Ok(())
}

fn row_logprobs(
    model: &LanguageModel,
    hidden: &[f32],
    ids: &[u32],
    from: usize,
    to: usize,
) -> Vec<f32> {
    let (width, vocab) = (model.config.hidden, model.config.vocab);
    let mut logprobs = Vec::with_capacity((to - from).saturating_sub(1));
    let mut at = from;
    while at + 1 < to {
        let end = (at + BLOCK).min(to - 1);
        let logits = model.logits(&hidden[at * width..end * width]);
        for (row, target) in logits.chunks_exact(vocab).zip(&ids[at + 1..]) {
            logprobs.push(logprob(row, *target));
        }
        at = end;
    }
    logprobs
}

/// The natural-log probability of a token under the softmax of its logits.
pub fn logprob(logits: &[f32], token: u32) -> f32 {
    let (top, log_sum) = pointwise::log_sum_exp(logits);
    (f64::from(logits[token as usize]) - f64::from(top) - log_sum) as f32
}

impl LanguageModel {
    /// Whether a row's tokens are of the vocabulary and its length within the context.
    pub fn check_ids(&self, row: usize, ids: &[u32]) -> Result<(), ModelError> {
        if ids.len() > self.config.max_positions {
            let (tokens, limit) = (ids.len(), self.config.max_positions);
            return Err(ModelError::TooLong { row, tokens, limit });
        }
        match ids.iter().find(|id| **id as usize >= self.config.vocab) {
            Some(id) => Err(ModelError::Token { row, token: *id, vocab: self.config.vocab }),
            None => Ok(()),
        }
    }
}
