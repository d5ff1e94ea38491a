//! Windows over rows that are longer than a model should see at once: the strided perplexity of
//! long texts.

use std::ops::Range;

use refrain_engine::kind::parameters;

use crate::tokens::MOST_TOKENS;

parameters! {
    /// The parameter `window`.
    #[derive(Copy)]
    pub(super) struct Window {
        /// Limit of the tokens that the model sees at once
        #[range(2..=MOST_TOKENS)]
        length: usize,
        /// Tokens from the beginning of one window to that of the next, fewer than `length`
        #[range(1..=MOST_TOKENS)]
        stride: usize,
    }
}

/// A part of a row that the model sees at once.
#[derive(Debug, PartialEq)]
pub(super) struct Piece {
    /// The number of the row.
    pub row: usize,
    /// The tokens that are seen.
    pub seen: Range<usize>,
    /// The first of them whose probability is taken from this piece; that of all before is known
    /// from earlier ones.
    pub first: usize,
}

/// Cuts a row of that many tokens into pieces. Every token after the first is taken from exactly
/// one piece, the first that reaches it; a row of fewer than two tokens has none.
pub(super) fn pieces(row: usize, tokens: usize, window: Option<Window>) -> Vec<Piece> {
    let Window { length, stride } = window.unwrap_or(Window { length: tokens, stride: tokens });
    let mut pieces = Vec::new();
    let (mut begin, mut first) = (0, 1);
    while first < tokens {
        let end = tokens.min(begin + length);
        pieces.push(Piece { row, seen: begin..end, first });
        begin += stride;
        first = end;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_without_a_window_is_one_piece() {
        assert_eq!(pieces(3, 9, None), [Piece { row: 3, seen: 0..9, first: 1 }]);
        assert_eq!(pieces(3, 1, None), []);
        assert_eq!(pieces(3, 0, None), []);
    }

    proptest! {
        #[test]
        fn every_token_is_taken_once_and_with_as_much_before_it_as_there_is(
            tokens in 0_usize..200, length in 2_usize..40, stride in 1_usize..40,
        ) {
            let stride = stride.min(length - 1);
            let pieces = pieces(0, tokens, Some(Window { length, stride }));
            let taken: Vec<usize> = pieces.iter().flat_map(|piece| piece.first..piece.seen.end).collect();
            prop_assert_eq!(taken, (1..tokens).collect::<Vec<usize>>());
            for piece in &pieces {
                prop_assert!(piece.seen.len() <= length && piece.seen.start < piece.first);
                prop_assert!(piece.seen.start == 0 || piece.first - piece.seen.start >= length - stride);
            }
        }
    }
}
