//! The log-probability of every token of given rows.

use rayon::prelude::*;

use crate::backward::loss_block;
use crate::forward::Packed;
use crate::kernels::pointwise;
use crate::kernels::rows;
use crate::model::{LanguageModel, ModelError};

/// Rows that are computed together unless the caller says otherwise.
const ROWS: usize = 32;
/// Tokens beyond which no further row joins a batch.
const TOKENS: usize = 1536;

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
    score_and_rank(model, rows, batch, &mut |row, logprobs, _| on_row(row, logprobs))
}

/// Callback for a row: its number, the log-probabilities of its tokens after the first, and whether
/// each of them is the likeliest.
pub type OnScored<'a> = &'a mut dyn FnMut(usize, &[f32], &[bool]);

/// As [`score`], and of each token whether no other one is likelier.
pub fn score_and_rank(
    model: &LanguageModel,
    rows: &[&[u32]],
    batch: Option<usize>,
    on_row: OnScored<'_>,
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
        let (logprobs, likeliest) = logprobs(model, &hidden, &packed);
        if !logprobs.iter().all(|logprob| logprob.is_finite()) {
            return Err(ModelError::NotFinite);
        }
        let mut done = 0;
        for (i, span) in packed.offsets.windows(2).enumerate() {
            let row = done..done + (span[1] - span[0]).saturating_sub(1);
            done = row.end;
            on_row(begin + i, &logprobs[row.clone()], &likeliest[row]);
        }
        begin = end;
    }
    Ok(())
}

/// Log-probabilities of all tokens that follow another in their row, one after another, and whether
/// each is the likeliest.
///
/// The logits of a block of positions are held at once: no tensor `[rows, positions, vocab]` ever
/// exists.
fn logprobs(model: &LanguageModel, hidden: &[f32], packed: &Packed) -> (Vec<f32>, Vec<bool>) {
    let (width, vocab) = (model.config.hidden, model.config.vocab);
    let spans = packed.offsets.windows(2);
    let positions: Vec<usize> = spans.flat_map(|span| span[0]..span[1].max(1) - 1).collect();
    let mut logprobs = Vec::with_capacity(positions.len());
    let mut likeliest = Vec::with_capacity(positions.len());
    for block in positions.chunks(loss_block(vocab)) {
        let logits = model.logits(&rows::chosen_rows(hidden, width, block));
        let each = logits.par_chunks_exact(vocab).zip(block);
        let each = each.map(|(logits, at)| logprob_and_rank(logits, packed.ids[at + 1]));
        for (logprob, is_likeliest) in each.collect::<Vec<(f32, bool)>>() {
            logprobs.push(logprob);
            likeliest.push(is_likeliest);
        }
    }
    (logprobs, likeliest)
}

/// The natural-log probability of a token under the softmax of its logits.
pub fn logprob(logits: &[f32], token: u32) -> f32 {
    logprob_and_rank(logits, token).0
}

/// The same, and whether no other token is likelier.
fn logprob_and_rank(logits: &[f32], token: u32) -> (f32, bool) {
    let (top, log_sum) = pointwise::log_sum_exp(logits);
    let logit = logits[token as usize];
    ((f64::from(logit) - f64::from(top) - log_sum) as f32, logit >= top)
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
