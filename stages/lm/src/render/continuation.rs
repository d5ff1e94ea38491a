//! Tokenises a prompt and its continuation as evaluations of log-likelihoods do.

use super::{RenderError, Rendered, Renderer};

impl Renderer<'_> {
    /// Tokenises prompt and continuation without an end of turn: the prompt alone, and of both as one
    /// text the tokens behind as many as the prompt has. White space at the end of the prompt belongs
    /// to the continuation. Before a continuation without a prompt stands the begin token, else the end token.
    ///
    /// # Errors
    /// An error of the tokenizer.
    pub fn continuation(&self, prompt: &str, response: &str) -> Result<Rendered, RenderError> {
        let text = format!("{prompt}{response}");
        let (encoding, had_begin, prompt_tokens) = if prompt.is_empty() {
            let mut encoding = self.tokenizer.encode(&text, false)?;
            let before = self.tokenizer.bos().or(self.tokenizer.eos().map(|(_, id)| id));
            let had_begin = before.is_some() && encoding.ids.first().copied() == before;
            if let Some(before) = before.filter(|_| !had_begin) {
                encoding.ids.insert(0, before);
                encoding.offsets.insert(0, 0);
            }
            let prompt_tokens = usize::from(before.is_some());
            (encoding, had_begin, prompt_tokens)
        } else {
            let (whole, had_begin) = self.encode_plain(&text)?;
            let (mut encoding, _) = self.encode_plain(prompt.trim_end_matches(is_space))?;
            let prompt_tokens = encoding.ids.len();
            // Where a token of the whole reaches over the end of the prompt, the prompt keeps its own.
            let from = prompt_tokens.min(whole.ids.len());
            let last = encoding.offsets.last().copied().unwrap_or(0);
            encoding.ids.extend(&whole.ids[from..]);
            encoding.offsets.extend(whole.offsets[from..].iter().map(|at| last.max(*at)));
            (encoding, had_begin, prompt_tokens)
        };
        Ok(Rendered {
            text,
            prompt_tokens: prompt_tokens.min(encoding.ids.len()),
            token_ids: encoding.ids,
            offsets: encoding.offsets,
            empty: response.is_empty(),
            had_begin,
            had_end: false,
            in_turns: None,
        })
    }
}

/// Whether Python's `rstrip` takes a character.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}
