//! A continuation that a server made, as it is kept and written.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use refrain_lm::generate::{Finish, Generated, Limits};
use refrain_lm::sampling::SamplingParams;
use refrain_lm::tokenizer::Tokenizer;

use super::protocol::Answer;
use super::{Served, ServedPrompt, align};

/// A continuation that is wanted.
pub(crate) struct Wanted<'a> {
    pub prompt: ServedPrompt<'a>,
    pub sampling: &'a SamplingParams,
    pub limits: &'a Limits,
    /// Tokens that end it, beside the model's own.
    pub stop_ids: &'a [u32],
    pub seed: u64,
}

/// A continuation; it is kept as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServedRow {
    pub text: String,
    /// Whether it ended by itself, not by its length.
    pub stopped: bool,
    /// Number of its tokens, where it is known.
    pub tokens: Option<u64>,
    pub ids: Option<Vec<u32>>,
    pub logprobs: Option<Vec<f32>>,
    /// Limit on its tokens when it was made.
    limit: usize,
}

impl ServedRow {
    /// Reads a server's answer.
    ///
    /// # Errors
    /// The fault, as a fragment.
    pub(super) fn read(
        served: &Served,
        wanted: &Wanted<'_>,
        answer: &Value,
    ) -> Result<ServedRow, String> {
        let answer = Answer::read(answer)?;
        let ids = match wanted.prompt {
            ServedPrompt::Ids(prompt) => {
                check_prompt(&answer, prompt)?;
                let pieces = answer.pieces.as_deref().zip(served.tokenizer());
                let found = pieces.and_then(|(pieces, tokenizer)| {
                    align::ids_of_pieces(tokenizer, prompt, pieces)
                });
                answer.ids.or(found)
            }
            ServedPrompt::Turns(..) => answer.ids,
        };
        if served.has_logprobs() && answer.logprobs.is_none() {
            return Err("it holds no log-probabilities, which the server gave before".into());
        }
        let listed = ids.as_ref().map(Vec::len).or(answer.logprobs.as_ref().map(Vec::len));
        let same_length =
            |values: &Vec<f32>| ids.as_ref().is_none_or(|ids| ids.len() == values.len());
        let mut row = ServedRow {
            text: answer.text,
            stopped: answer.finish == Finish::Stop,
            tokens: listed.map(|n| n as u64).or(answer.tokens),
            logprobs: answer.logprobs.filter(same_length),
            ids,
            limit: wanted.limits.max_new_tokens,
        };
        if let (Some(ids), Some(tokenizer)) = (&row.ids, served.tokenizer()) {
            check_vocabulary(ids, tokenizer)?;
            let stop = &wanted.limits.stop;
            let made = Generated::new(ids.clone(), Vec::new(), answer.finish, tokenizer, stop);
            row.text = made.text;
        }
        Ok(row)
    }

    /// Reads a kept continuation; `None` where another limit of its length would give another one.
    ///
    /// No token depends on where a continuation is cut, so a longer one begins with each shorter
    /// one.
    pub fn kept(bytes: &[u8], limits: &Limits, tokenizer: Option<&Tokenizer>) -> Option<ServedRow> {
        let row: ServedRow = serde_json::from_slice(bytes).ok()?;
        let most = limits.max_new_tokens;
        let tokens = row.tokens.map(|tokens| tokens as usize);
        if row.limit == most || row.stopped && tokens.is_some_and(|tokens| tokens <= most) {
            return Some(row);
        }
        let ids = row.ids.as_ref().filter(|ids| ids.len() >= most)?;
        let ids = ids[..most].to_vec();
        let text =
            Generated::new(ids.clone(), Vec::new(), Finish::Length, tokenizer?, &limits.stop);
        Some(ServedRow {
            text: text.text,
            stopped: false,
            tokens: Some(most as u64),
            logprobs: row.logprobs.map(|mut values| {
                values.truncate(most);
                values
            }),
            ids: Some(ids),
            limit: most,
        })
    }

    /// Returns it as it is kept.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Checks that a server was given the tokens that were sent.
pub(super) fn check_prompt(answer: &Answer, prompt: &[u32]) -> Result<(), String> {
    if let Some(theirs) = &answer.prompt_ids
        && theirs != prompt
    {
        let at = theirs.iter().zip(prompt).position(|(a, b)| a != b);
        let at = at.unwrap_or(theirs.len().min(prompt.len()));
        return Err(format!("it was made for other token ids than were sent, from token {at} on"));
    }
    match answer.prompt_tokens {
        Some(theirs) if theirs != prompt.len() as u64 => Err(format!(
            "it was made for other token ids than were sent: the server counts {theirs} of {}",
            prompt.len()
        )),
        _ => Ok(()),
    }
}

fn check_vocabulary(ids: &[u32], tokenizer: &Tokenizer) -> Result<(), String> {
    match ids.iter().find(|id| **id as usize >= tokenizer.vocab_size()) {
        Some(id) => Err(format!("its token {id} is not among the tokenizer's")),
        None => Ok(()),
    }
}
