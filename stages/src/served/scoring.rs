//! The ways in which servers give the log-probabilities of a prompt's tokens.

use serde_json::{Map, Value, json};

use refrain_lm::tokenizer::Tokenizer;

use super::align::{self, Echoed};
use super::protocol::{self, choice};

/// A way to score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scoring {
    /// `prompt_logprobs`, as vLLM does it: by token ids.
    PromptLogprobs,
    /// `input_token_logprobs` of `/generate`, as SGLang does it: by token ids.
    InputTokenLogprobs,
    /// `echo` with `logprobs`: by texts and offsets.
    Echo,
}

impl Scoring {
    /// Ways in the order in which they are tried.
    pub const ALL: [Scoring; 3] =
        [Scoring::PromptLogprobs, Scoring::InputTokenLogprobs, Scoring::Echo];

    /// Returns the body of a request, of whose fields `greedy` has those of a completion of one
    /// token, the prompt included.
    pub fn body(self, mut greedy: Map<String, Value>, ids: &[u32]) -> Value {
        match self {
            Scoring::PromptLogprobs => {
                greedy.insert("prompt_logprobs".into(), 1.into());
                Value::Object(greedy)
            }
            Scoring::Echo => {
                greedy.insert("echo".into(), true.into());
                greedy.insert("logprobs".into(), 1.into());
                Value::Object(greedy)
            }
            Scoring::InputTokenLogprobs => json!({
                "input_ids": ids,
                "sampling_params": { "max_new_tokens": 1, "temperature": 0.0 },
                "return_logprob": true,
                "logprob_start_len": 0,
                "stream": false,
            }),
        }
    }

    /// Reads the log-probabilities of the tokens after the first; not-a-number where the server
    /// shows none.
    ///
    /// # Errors
    /// The fault, as a fragment.
    pub fn read(
        self,
        answer: &Value,
        tokenizer: &Tokenizer,
        ids: &[u32],
    ) -> Result<Vec<f32>, String> {
        match self {
            Scoring::PromptLogprobs => prompt_logprobs(answer, ids),
            Scoring::InputTokenLogprobs => input_token_logprobs(answer, ids),
            Scoring::Echo => echo(answer, tokenizer, ids),
        }
    }
}

/// Reads a list with, for each token of the prompt, a mapping from ids to log-probabilities; null
/// for the first.
fn prompt_logprobs(answer: &Value, ids: &[u32]) -> Result<Vec<f32>, String> {
    let found = choice(answer)?.get("prompt_logprobs").or_else(|| answer.get("prompt_logprobs"));
    let list = found.and_then(Value::as_array).ok_or("it holds no `prompt_logprobs`")?;
    if list.len() != ids.len() {
        return Err(other_count(list.len(), ids.len()));
    }
    let value = |(at, id): (usize, &u32)| {
        let entry = list[at].get(id.to_string()).ok_or_else(|| {
            let others = list[at].as_object().into_iter().flat_map(Map::keys);
            let others: Vec<&str> = others.map(String::as_str).collect();
            format!("its token {at} is {}, and {id} was sent", others.join(" or "))
        })?;
        // As a mapping with rank and text, or the number alone.
        let number = entry.get("logprob").unwrap_or(entry).as_f64();
        number.map(|number| number as f32).ok_or_else(|| no_number(at))
    };
    ids.iter().enumerate().skip(1).map(value).collect()
}

/// Reads a list of `[logprob, id, text]`.
fn input_token_logprobs(answer: &Value, ids: &[u32]) -> Result<Vec<f32>, String> {
    let found = answer.get("meta_info").and_then(|meta| meta.get("input_token_logprobs"));
    let list = found.and_then(Value::as_array).ok_or("it holds no `input_token_logprobs`")?;
    if list.len() != ids.len() {
        return Err(other_count(list.len(), ids.len()));
    }
    let value = |(at, id): (usize, &u32)| {
        let theirs = list[at].get(1).and_then(Value::as_u64);
        if theirs != Some(u64::from(*id)) {
            let theirs = theirs.map_or("none".into(), |theirs| theirs.to_string());
            return Err(format!("its token {at} is {theirs}, and {id} was sent"));
        }
        let number = list[at].get(0).and_then(Value::as_f64);
        number.map(|number| number as f32).ok_or_else(|| no_number(at))
    };
    ids.iter().enumerate().skip(1).map(value).collect()
}

/// Reads parallel lists of texts, log-probabilities and offsets.
fn echo(answer: &Value, tokenizer: &Tokenizer, ids: &[u32]) -> Result<Vec<f32>, String> {
    let choice = choice(answer)?;
    let logprobs = choice.get("logprobs").filter(|value| !value.is_null());
    let logprobs = logprobs.ok_or("it holds no `logprobs`")?;
    if let Some(theirs) = protocol::ids(choice.get("prompt_token_ids"))
        && theirs != ids
    {
        return Err("it echoes other token ids than were sent".into());
    }
    let list = |name: &str| logprobs.get(name).and_then(Value::as_array);
    let values = list("token_logprobs").ok_or("it holds no `token_logprobs`")?;
    let offsets = list("text_offset").ok_or("it holds no `text_offset`")?;
    let offsets: Option<Vec<u64>> = offsets.iter().map(Value::as_u64).collect();
    let values: Vec<Option<f32>> =
        values.iter().map(|value| value.as_f64().map(|value| value as f32)).collect();
    let text = choice.get("text").and_then(Value::as_str).unwrap_or_default();
    align::echoed(
        tokenizer,
        ids,
        &Echoed {
            offsets: &offsets.ok_or("a `text_offset` is not a number")?,
            logprobs: &values,
            characters: text.chars().count() as u64,
        },
    )
}

fn other_count(theirs: usize, ours: usize) -> String {
    format!("it counts {theirs} tokens, and {ours} were sent")
}

fn no_number(at: usize) -> String {
    format!("its token {at} has no log-probability")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer of vLLM's documentation of `prompt_logprobs`, of a prompt of three tokens.
    fn vllm() -> Value {
        json!({
            "id": "cmpl-1", "object": "text_completion", "model": "m",
            "choices": [{
                "index": 0, "text": " a", "logprobs": null, "finish_reason": "length",
                "stop_reason": null,
                "prompt_logprobs": [
                    null,
                    { "791": { "logprob": -3.5, "rank": 12, "decoded_token": "The" },
                      "5": { "logprob": -0.5, "rank": 1, "decoded_token": "x" } },
                    { "2": { "logprob": -0.25, "rank": 1, "decoded_token": " b" } },
                ],
            }],
            "usage": { "prompt_tokens": 3, "total_tokens": 4, "completion_tokens": 1 },
        })
    }

    #[test]
    fn prompt_logprobs_are_those_of_the_sent_ids() {
        assert_eq!(prompt_logprobs(&vllm(), &[1, 791, 2]), Ok(vec![-3.5, -0.25]));
        assert_eq!(
            prompt_logprobs(&vllm(), &[1, 792, 2]).unwrap_err(),
            "its token 1 is 791 or 5, and 792 was sent"
        );
        assert_eq!(
            prompt_logprobs(&vllm(), &[1, 791]).unwrap_err(),
            "it counts 3 tokens, and 2 were sent"
        );
        let none = json!({ "choices": [{ "text": "" }] });
        assert_eq!(prompt_logprobs(&none, &[1]).unwrap_err(), "it holds no `prompt_logprobs`");
    }

    #[test]
    fn input_token_logprobs_are_those_of_the_sent_ids() {
        let answer = json!({ "text": "", "meta_info": {
            "input_token_logprobs": [[null, 1, null], [-3.5, 791, null], [-0.25, 2, null]],
        } });
        assert_eq!(input_token_logprobs(&answer, &[1, 791, 2]), Ok(vec![-3.5, -0.25]));
        assert_eq!(
            input_token_logprobs(&answer, &[1, 791, 3]).unwrap_err(),
            "its token 2 is 2, and 3 was sent"
        );
    }
}
