//! Requests for a continuation as servers take them, and their answers.
//!
//! Every sampling parameter is written out: servers have defaults of their own that are not neutral
//! (llama-cpp-python penalises repetitions and samples among 40 tokens).

use serde_json::{Map, Value, json};

use refrain_lm::generate::Finish;
use refrain_lm::sampling::SamplingParams;

/// A bound for `top_k` above every vocabulary: it filters nothing, where 0 and -1 mean that to some
/// servers and are refused by others.
const ALL_TOKENS: usize = 1 << 24;

/// The start of a token's text in which vLLM writes its id, when it is asked to.
const ID: &str = "token_id:";

/// The conditions of a continuation.
pub(super) struct Asked<'a> {
    pub sampling: &'a SamplingParams,
    pub max_tokens: usize,
    pub stop: &'a [String],
    /// Tokens that end it, beside the model's own.
    pub stop_ids: &'a [u32],
    pub ignore_eos: bool,
    pub seed: u64,
}

impl Asked<'_> {
    /// A greedy continuation.
    pub fn greedy(sampling: &SamplingParams, max_tokens: usize) -> Asked<'_> {
        Asked { sampling, max_tokens, stop: &[], stop_ids: &[], ignore_eos: false, seed: 0 }
    }

    /// Returns the fields of a request but for the prompt.
    pub fn fields(&self, model: &str) -> Map<String, Value> {
        let SamplingParams { temperature, top_k, top_p, min_p, repetition_penalty } =
            *self.sampling;
        let penalty = repetition_penalty.unwrap_or(1.0);
        let fields = json!({
            "model": model,
            "max_tokens": self.max_tokens,
            "temperature": temperature,
            "top_k": top_k.unwrap_or(ALL_TOKENS),
            "top_p": top_p.unwrap_or(1.0),
            "min_p": min_p.unwrap_or(0.0),
            // vLLM and SGLang call it so, llama.cpp otherwise.
            "repetition_penalty": penalty,
            "repeat_penalty": penalty,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": self.seed,
            "stop": self.stop,
            "stop_token_ids": self.stop_ids,
            "ignore_eos": self.ignore_eos,
            "n": 1,
            "stream": false,
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

/// A server's answer to a request for a continuation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub text: String,
    pub finish: Finish,
    /// The ids of its tokens, where the server gives them.
    pub ids: Option<Vec<u32>>,
    /// The texts of its tokens, where the server gives them.
    pub pieces: Option<Vec<String>>,
    /// The log-probability of each token, where the server gives them.
    pub logprobs: Option<Vec<f32>>,
    /// Tokens of the continuation as the server counts them.
    pub tokens: Option<u64>,
    /// Tokens of the prompt as the server counts them.
    pub prompt_tokens: Option<u64>,
    /// The prompt's tokens, where the server gives them back.
    pub prompt_ids: Option<Vec<u32>>,
}

/// The one choice of an answer.
///
/// # Errors
/// The fault, as a fragment.
pub(super) fn choice(answer: &Value) -> Result<&Value, String> {
    let choices = answer.get("choices").and_then(Value::as_array);
    choices.and_then(|choices| choices.first()).ok_or_else(|| "it holds no `choices`".to_owned())
}

impl Answer {
    /// Reads the answer of `/completions` or `/chat/completions`.
    ///
    /// # Errors
    /// The fault, as a fragment.
    pub fn read(answer: &Value) -> Result<Answer, String> {
        let choice = choice(answer)?;
        let message = choice.get("message");
        let text = match message {
            Some(message) => message.get("content"),
            None => choice.get("text"),
        };
        let text = match text {
            Some(Value::String(text)) => text.clone(),
            // A chat that calls a tool has no text.
            _ if message.is_some_and(|m| m.get("tool_calls").is_some_and(|c| !c.is_null())) => {
                return Err("it calls a tool, of which nothing is kept".into());
            }
            _ => return Err("it holds no text".into()),
        };
        let finish = match choice.get("finish_reason").and_then(Value::as_str) {
            Some("stop") => Finish::Stop,
            Some("length") => Finish::Length,
            Some(other) => return Err(format!("the server ended it by `{other}`")),
            None => return Err("it does not say why it ended".into()),
        };
        let logprobs = choice.get("logprobs").filter(|value| !value.is_null());
        let tokens = logprobs.map(Tokens::read).transpose()?.unwrap_or_default();
        let usage = |name: &str| answer.get("usage")?.get(name)?.as_u64();
        let given = |name: &str| ids(choice.get(name)).or_else(|| ids(answer.get(name)));
        Ok(Answer {
            text,
            finish,
            ids: given("token_ids").or(tokens.ids),
            pieces: tokens.pieces,
            logprobs: tokens.logprobs,
            tokens: usage("completion_tokens"),
            prompt_tokens: usage("prompt_tokens"),
            prompt_ids: given("prompt_token_ids"),
        })
    }
}

/// The tokens that `logprobs` lists.
#[derive(Default)]
struct Tokens {
    ids: Option<Vec<u32>>,
    pieces: Option<Vec<String>>,
    logprobs: Option<Vec<f32>>,
}

impl Tokens {
    /// Reads both forms: parallel lists, and a list of tokens under `content`.
    fn read(logprobs: &Value) -> Result<Tokens, String> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if let Some(content) = logprobs.get("content").and_then(Value::as_array) {
            let of = |name| content.iter().map(move |token| token.get(name));
            let id = |value: Option<&Value>| u32::try_from(value?.as_u64()?).ok();
            let values = of("logprob").map(|value| number(value?)).collect::<Option<Vec<f32>>>();
            return Ok(Tokens {
                ids: of("id").map(id).collect::<Option<Vec<u32>>>(),
                pieces: of("token").map(|piece| text(piece?)).collect(),
                logprobs: Some(values.ok_or("a token has no log-probability")?),
            });
        }
        let Some(values) = logprobs.get("token_logprobs").and_then(Value::as_array) else {
            return Ok(Tokens::default());
        };
        let values = values.iter().map(number).collect::<Option<Vec<f32>>>();
        let pieces = logprobs.get("tokens").and_then(Value::as_array);
        let pieces: Option<Vec<String>> = pieces.and_then(|all| all.iter().map(text).collect());
        let id = |piece: &String| piece.strip_prefix(ID)?.parse().ok();
        let ids = pieces.as_ref().and_then(|all| all.iter().map(id).collect::<Option<Vec<u32>>>());
        Ok(Tokens {
            pieces: pieces.filter(|_| ids.is_none()),
            ids,
            logprobs: Some(values.ok_or("a token has no log-probability")?),
        })
    }
}

/// A log-probability; one that is too small for a number is written as null or as text by some.
fn number(value: &Value) -> Option<f32> {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    (number <= 1e-3).then_some(number as f32)
}

/// A list of token ids.
pub(super) fn ids(value: Option<&Value>) -> Option<Vec<u32>> {
    value?.as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_is_written_out() {
        let sampling = SamplingParams::default();
        let fields = Asked::greedy(&sampling, 3).fields("m");
        for (name, value) in [
            ("temperature", json!(0.0)),
            ("top_p", json!(1.0)),
            ("min_p", json!(0.0)),
            ("repeat_penalty", json!(1.0)),
            ("repetition_penalty", json!(1.0)),
            ("presence_penalty", json!(0.0)),
            ("frequency_penalty", json!(0.0)),
            ("stream", json!(false)),
            ("seed", json!(0)),
        ] {
            assert_eq!(fields[name], value, "{name}");
        }
        assert!(fields["top_k"].as_u64().unwrap() > 1_000_000);
    }

    #[test]
    fn both_forms_of_logprobs_are_read() {
        let lists = json!({
            "choices": [{ "text": "ab", "finish_reason": "length", "logprobs": {
                "tokens": ["a", "b"], "token_logprobs": [-0.5, -1.5], "text_offset": [3, 4],
            } }],
            "usage": { "prompt_tokens": 3, "completion_tokens": 2 },
        });
        let read = Answer::read(&lists).unwrap();
        assert_eq!((read.text.as_str(), read.finish), ("ab", Finish::Length));
        assert_eq!(read.pieces, Some(vec!["a".into(), "b".into()]));
        assert_eq!((read.logprobs, read.ids), (Some(vec![-0.5, -1.5]), None));
        assert_eq!((read.prompt_tokens, read.tokens), (Some(3), Some(2)));

        let content = json!({
            "choices": [{ "message": { "content": "ab" }, "finish_reason": "stop", "logprobs": {
                "content": [{ "id": 7, "token": "ab", "logprob": -0.25 }],
            } }],
        });
        let read = Answer::read(&content).unwrap();
        assert_eq!((read.ids, read.logprobs), (Some(vec![7]), Some(vec![-0.25])));

        let as_ids = json!({
            "choices": [{ "text": "ab", "finish_reason": "stop", "logprobs": {
                "tokens": ["token_id:3", "token_id:4"], "token_logprobs": [-0.5, -1.5],
            } }],
        });
        let read = Answer::read(&as_ids).unwrap();
        assert_eq!((read.ids, read.pieces), (Some(vec![3, 4]), None));

        let given = json!({
            "choices": [{ "text": "ab", "finish_reason": "stop", "logprobs": null,
                          "token_ids": [4, 5], "prompt_token_ids": [1] }],
        });
        let read = Answer::read(&given).unwrap();
        assert_eq!((read.ids, read.prompt_ids), (Some(vec![4, 5]), Some(vec![1])));
    }

    #[test]
    fn an_answer_that_is_none_says_why() {
        for (answer, why) in [
            (json!({}), "it holds no `choices`"),
            (json!({ "choices": [] }), "it holds no `choices`"),
            (json!({ "choices": [{ "finish_reason": "stop" }] }), "it holds no text"),
            (json!({ "choices": [{ "text": "a" }] }), "it does not say why it ended"),
            (
                json!({ "choices": [{ "text": "a", "finish_reason": "content_filter" }] }),
                "the server ended it by `content_filter`",
            ),
            (
                json!({ "choices": [{ "text": "a", "finish_reason": "stop",
                                      "logprobs": { "token_logprobs": [0.7] } }] }),
                "a token has no log-probability",
            ),
        ] {
            assert_eq!(Answer::read(&answer).unwrap_err(), why, "{answer}");
        }
    }
}
