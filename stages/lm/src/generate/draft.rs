//! A continuation under way: draws its tokens from logits, whichever backend computes them, and sees where it ends.

use crate::random::Stream;
use crate::sampling::{Sampler, Scratch};
use crate::score::logprob;
use crate::tokenizer::Tokenizer;

use super::{Finish, Generated, Limits};

/// What holds for all continuations of one model.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Turns tokens into text.
    pub tokenizer: &'a Tokenizer,
    /// Draws tokens.
    pub sampler: &'a Sampler,
    /// When a continuation ends.
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
    finish: Option<Finish>,
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

    /// Draws the next token from the logits that follow what is there, `[vocab]`, and sees whether it is the last. At the
    /// most tokens nothing is drawn.
    pub fn advance(&mut self, rules: &Rules<'_>, stream: &Stream, logits: &[f32]) {
        let room = rules.context.saturating_sub(self.prompt);
        let most = rules.limits.max_new_tokens.min(room);
        if self.ids.len() >= most {
            self.finish = Some(Finish::Length);
            return;
        }
        let position = self.ids.len() as u64;
        let token = rules.sampler.next(logits, &self.tokens, stream, position, &mut self.scratch);
        self.logprobs.push(logprob(logits, token));
        self.ids.push(token);
        self.tokens.push(token);
        let ends = !rules.limits.ignore_eos && rules.eos.contains(&token);
        if !self.is_finite() {
            self.finish = Some(Finish::Length);
        } else if ends || rules.limits.stop_ids.contains(&token) || self.stop_text(rules).is_some() {
            self.finish = Some(Finish::Stop);
        } else if self.ids.len() >= most {
            self.finish = Some(Finish::Length);
        }
    }

    /// The tokens drawn so far.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Tokens of the prompt and of the continuation.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens at all.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Whether it has ended.
    pub fn finished(&self) -> bool {
        self.finish.is_some()
    }

    /// Whether the model gave its last token a probability; a draft ends where it gave none.
    pub fn is_finite(&self) -> bool {
        self.logprobs.last().is_none_or(|logprob| logprob.is_finite())
    }

    /// Where a stop text begins in the text.
    fn stop_text(&self, rules: &Rules<'_>) -> Option<usize> {
        if rules.limits.stop.is_empty() {
            return None;
        }
        let text = rules.tokenizer.decode(&self.ids, true);
        rules.limits.stop.iter().filter_map(|stop| text.find(stop.as_str())).min()
    }

    /// The continuation as it is.
    pub fn into_generated(self, rules: &Rules<'_>) -> Generated {
        let mut text = rules.tokenizer.decode(&self.ids, true);
        if let Some(at) = self.stop_text(rules) {
            text.truncate(at);
        }
        let finish = self.finish.unwrap_or(Finish::Length);
        Generated { token_ids: self.ids, logprobs: self.logprobs, finish, text }
    }
}
