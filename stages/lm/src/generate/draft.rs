//! A continuation under way: draws its tokens from logits, whichever backend computes them, and
//! sees where it ends.

use crate::model::ModelError;
use crate::random::Stream;
use crate::sampling::{Sampler, Scratch};
use crate::score::logprob;
use crate::tokenizer::Tokenizer;

use super::{Finish, Generated, Limits};

/// Rules common to all continuations of a model.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Turns tokens into text.
    pub tokenizer: &'a Tokenizer,
    /// Draws tokens.
    pub sampler: &'a Sampler,
    /// Conditions that end a continuation.
    pub limits: &'a Limits,
    /// The model's own end tokens.
    pub eos: &'a [u32],
    /// Most tokens of prompt and continuation together.
    pub context: usize,
}

/// A continuation under way.
#[derive(Debug)]
pub struct Draft {
    prompt: usize,
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    /// Prompt and continuation, for the repetition penalty.
    tokens: Vec<u32>,
    scratch: Scratch,
    finish: Option<Result<Finish, ModelError>>,
}

impl Draft {
    /// Begins the continuation of a prompt.
    pub fn new(prompt: &[u32]) -> Draft {
        Draft {
            prompt: prompt.len(),
            ids: Vec::new(),
            logprobs: Vec::new(),
            tokens: prompt.to_vec(),
            scratch: Scratch::default(),
            finish: None,
        }
    }

    /// Draws the next token from the logits that follow what is there, `[vocab]`, and sees whether
    /// it is the last. At the most tokens nothing is drawn.
    pub fn advance(&mut self, rules: &Rules<'_>, stream: &Stream, logits: &[f32]) {
        let room = rules.context.saturating_sub(self.prompt);
        let most = rules.limits.max_new_tokens.min(room);
        if self.ids.len() >= most {
            self.finish = Some(Ok(Finish::Length));
            return;
        }
        let position = self.ids.len() as u64;
        let token = rules.sampler.next(logits, &self.tokens, stream, position, &mut self.scratch);
        let logprob = logprob(logits, token);
        if !logprob.is_finite() {
            self.finish = Some(Err(ModelError::NotFinite));
            return;
        }
        self.logprobs.push(logprob);
        self.ids.push(token);
        self.tokens.push(token);
        let ends = !rules.limits.ignore_eos && rules.eos.contains(&token);
        let stops =
            || stop_text(&rules.tokenizer.decode(&self.ids, true), &rules.limits.stop).is_some();
        if ends
            || rules.limits.stop_ids.contains(&token)
            || !rules.limits.stop.is_empty() && stops()
        {
            self.finish = Some(Ok(Finish::Stop));
        } else if self.ids.len() >= most {
            self.finish = Some(Ok(Finish::Length));
        }
    }

    /// The tokens drawn so far.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Tokens of the prompt and of the continuation.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Whether it has ended.
    pub fn finished(&self) -> bool {
        self.finish.is_some()
    }

    /// The continuation as it is.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] when the model's numbers were none.
    pub fn into_generated(self, rules: &Rules<'_>) -> Result<Generated, ModelError> {
        let finish = self.finish.unwrap_or(Ok(Finish::Length))?;
        Ok(Generated::new(self.ids, self.logprobs, finish, rules.tokenizer, &rules.limits.stop))
    }
}

impl Generated {
    /// The continuation of these tokens; its text ends before the first of the stop texts.
    pub fn new(
        token_ids: Vec<u32>,
        logprobs: Vec<f32>,
        finish: Finish,
        tokenizer: &Tokenizer,
        stop: &[String],
    ) -> Generated {
        let mut text = tokenizer.decode(&token_ids, true);
        if let Some(at) = stop_text(&text, stop) {
            text.truncate(at);
        }
        Generated { token_ids, logprobs, finish, text }
    }
}

/// Finds the first stop text.
fn stop_text(text: &str, stop: &[String]) -> Option<usize> {
    stop.iter().filter_map(|stop| text.find(stop.as_str())).min()
}
