//! The tokens of a row, cut to a length, and the check that a model can take them.

use arrow::array::RecordBatch;

use refrain_engine::kind::StageError;
use refrain_lm::render::Rendered;

use crate::remarks::RowRemarks;
use crate::tables::row_name;

/// The largest number of tokens that a parameter can ask for.
pub(crate) const MOST_TOKENS: i64 = i32::MAX as i64;

/// The column that tells the assistant's tokens from those of others between its turns.
pub(crate) const TURNS: &str = "response_mask";

/// A rendered row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tokens {
    /// The text that the tokens tile.
    pub text: String,
    pub ids: Vec<u32>,
    /// First byte of each token in `text`.
    pub offsets: Vec<u32>,
    /// Number of leading tokens that are the prompt's.
    pub prompt_tokens: usize,
    /// Of each token whether it is the assistant's, where earlier turns count as the response does.
    pub in_turns: Option<Vec<bool>>,
    /// Remarks on the row.
    pub remarks: RowRemarks,
}

impl Tokens {
    /// The row with at most `max_tokens` tokens. The cut is made where a character ends, so that
    /// the text stays one.
    pub fn new(rendered: Rendered, max_tokens: Option<usize>) -> Tokens {
        let Rendered { text, offsets, prompt_tokens, empty, had_begin, had_end, in_turns, .. } =
            rendered;
        let remarks = RowRemarks { empty, had_begin, had_end, ..RowRemarks::default() };
        let ids = rendered.token_ids;
        let mut tokens = Tokens { text, ids, offsets, prompt_tokens, in_turns, remarks };
        if let Some(most) = max_tokens.filter(|&most| most < tokens.ids.len()) {
            let ends_character =
                |kept: &usize| tokens.text.is_char_boundary(tokens.offsets[*kept] as usize);
            let kept = (0..=most).rev().find(ends_character).unwrap_or(0);
            tokens.text.truncate(tokens.offsets[kept] as usize);
            tokens.remarks.cut = true;
            tokens.ids.truncate(kept);
            tokens.offsets.truncate(kept);
            tokens.in_turns.iter_mut().for_each(|turns| turns.truncate(kept));
            tokens.prompt_tokens = tokens.prompt_tokens.min(kept);
            tokens.remarks.without_response = tokens.prompt_tokens == kept;
        }
        tokens
    }

    /// Whether a token is the response's, or that of an earlier turn which counts as one.
    pub fn is_response(&self, token: usize) -> bool {
        match &self.in_turns {
            Some(turns) => turns[token],
            None => token >= self.prompt_tokens,
        }
    }
}

/// Why a model cannot take a row.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    /// It has more tokens than the model's context.
    #[error("it has {tokens} tokens, and the model's context ends at {limit}")]
    TooLong { tokens: usize, limit: usize },
    /// Its tokens are not the model's.
    #[error("token {id} is not among the {vocab} of the model's vocabulary")]
    Foreign { id: u32, vocab: usize },
}

impl RowError {
    /// The stage's error, with the row's name and what to do about a row that is too long.
    pub fn of_row(self, batch: &RecordBatch, row: usize, first: u64, hint: &str) -> StageError {
        let name = row_name(batch, first, row);
        match self {
            RowError::TooLong { .. } => {
                StageError::with_hint(format!("{name} is too long: {self}"), hint)
            }
            RowError::Foreign { .. } => StageError::with_hint(
                format!("{name}: {self}"),
                "give the model the tokenizer that it was made with, and tables that were scored with it",
            ),
        }
    }
}

/// The hint for rows that are too long where they can be cut.
pub(crate) const CUT: &str =
    "set `max_tokens` to cut such rows, or leave the row out of the source";

/// Whether a model can take the tokens.
///
/// `sizes`: most tokens of a row, and how many tokens there are to choose from.
pub(crate) fn check_tokens(ids: &[u32], sizes: (usize, usize)) -> Result<(), RowError> {
    let (limit, vocab) = sizes;
    if ids.len() > limit {
        return Err(RowError::TooLong { tokens: ids.len(), limit });
    }
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(&id) => Err(RowError::Foreign { id, vocab }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_never_splits_a_character() {
        // "aé" as three tokens: the two bytes of é are one each.
        let rendered = Rendered {
            text: "aéb".into(),
            token_ids: vec![1, 2, 3, 4],
            offsets: vec![0, 1, 2, 3],
            prompt_tokens: 3,
            empty: false,
            had_begin: false,
            had_end: false,
            in_turns: None,
        };
        let cut = |most| {
            let tokens = Tokens::new(rendered.clone(), Some(most));
            (tokens.text, tokens.ids.len(), tokens.prompt_tokens)
        };
        assert_eq!(cut(4), ("aéb".into(), 4, 3));
        assert_eq!(cut(3), ("aé".into(), 3, 3));
        assert_eq!(cut(2), ("a".into(), 1, 1));
        assert_eq!(Tokens::new(rendered.clone(), None).ids.len(), 4);
    }
}
