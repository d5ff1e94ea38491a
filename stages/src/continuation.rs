//! The log-probability of a response as the continuation of its prompt, without the end of turn.

/// The tokens of a scored row.
pub(crate) struct ScoredTokens<'r> {
    /// The text that the tokens tile.
    pub text: &'r str,
    pub count: usize,
    /// Number of leading tokens of the prompt.
    pub prompt_tokens: usize,
    /// First byte of a token.
    pub offset: &'r dyn Fn(usize) -> usize,
    /// Log-probability of a token; `None` where nothing predicts it.
    pub logprob: &'r dyn Fn(usize) -> Option<f32>,
}

/// A response as a continuation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Continuation {
    /// Sum of its tokens' log-probabilities.
    pub logprob: f64,
    pub tokens: usize,
    /// Bytes of the response, without white space around it.
    pub bytes: usize,
}

impl Continuation {
    /// Sums up the tokens behind the prompt that begin before the response ends.
    ///
    /// # Errors
    /// The fault of the row, as a fragment.
    pub fn of(row: &ScoredTokens<'_>, response: &str) -> Result<Continuation, &'static str> {
        let response = response.trim();
        if response.is_empty() {
            return Err("its text is empty");
        }
        if row.prompt_tokens >= row.count {
            return Err("it has no tokens behind the prompt");
        }
        let mut start = (row.offset)(row.prompt_tokens).min(row.text.len());
        // A token may begin within a character.
        while !row.text.is_char_boundary(start) {
            start -= 1;
        }
        let at = row.text[start..].find(response).ok_or("its text is not behind the prompt")?;
        let end = start + at + response.len();

        let (mut logprob, mut tokens) = (0.0, 0);
        for token in (row.prompt_tokens..row.count).take_while(|&i| (row.offset)(i) < end) {
            let value = (row.logprob)(token).ok_or("nothing is before its first token")?;
            logprob += f64::from(value);
            tokens += 1;
        }
        Ok(Continuation { logprob, tokens, bytes: response.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_turn_is_left_out() {
        // "Q:", " ab", "c", "</s>"
        let (offsets, logprobs) = ([0, 2, 5, 6], [None, Some(-1.0), Some(-2.0), Some(-4.0)]);
        let of = |prompt_tokens, response| {
            let row = ScoredTokens {
                text: "Q: abc</s>",
                count: 4,
                prompt_tokens,
                offset: &|i| offsets[i],
                logprob: &|i| logprobs[i],
            };
            Continuation::of(&row, response)
        };
        assert_eq!(of(1, " abc"), Ok(Continuation { logprob: -3.0, tokens: 2, bytes: 3 }));
        assert_eq!(of(2, "c"), Ok(Continuation { logprob: -2.0, tokens: 1, bytes: 1 }));
        assert_eq!(of(0, "Q"), Err("nothing is before its first token"));
        assert_eq!(of(1, " "), Err("its text is empty"));
        assert_eq!(of(1, "x"), Err("its text is not behind the prompt"));
        assert_eq!(of(4, "abc"), Err("it has no tokens behind the prompt"));
    }
}
