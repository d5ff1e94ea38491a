//! The first requests to a server: who it is, how it takes a prompt, whether it is the one that was
//! pinned, and how it scores.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use refrain_cache::{Cache, Digest, Key, Manifest};
use refrain_engine::kind::{Context, ServedApi, StageError};
use refrain_lm::chat::{Message, message};
use refrain_lm::sampling::SamplingParams;

use super::client::CallError;
use super::fingerprint::{Fingerprint, PROBES, TEXT_TOKENS, TOLERANCE};
use super::pool::{Call, ask_all};
use super::protocol::{Answer, Asked};
use super::refusal::{QUICK, listed, names};
use super::retry::ATTEMPTS;
use super::rows::check_prompt;
use super::scoring::Scoring;
use super::{Form, PROFILE, Served, ServedPrompt, align};

/// Times that a server is looked for before a stage gives up.
const LOOKS: u32 = 3;
/// Pause between two of them.
const BETWEEN: Duration = Duration::from_millis(300);
/// Attempts of a request that a server may not understand.
const TRIES: u32 = 2;

/// Finds the fingerprint of a model that runs with this cache have pinned.
pub(crate) fn kept_pin(cache: &Cache, model: &str) -> Option<Value> {
    let kept = cache.rows(&pin_key(model)).ok()?;
    serde_json::from_slice(&kept.get(&pin_row()).ok()??).ok()
}

fn pin_key(model: &str) -> Key {
    Manifest::new("fingerprint").section("model", model.into()).key()
}

fn pin_row() -> Digest {
    Digest::of_bytes(b"pinned")
}

/// A probe as it is sent.
enum Probe {
    Ids(Vec<u32>),
    Turns(Vec<Message>),
}

impl Probe {
    fn prompt(&self) -> ServedPrompt<'_> {
        match self {
            Probe::Ids(ids) => ServedPrompt::Ids(ids),
            Probe::Turns(turns) => ServedPrompt::Turns(turns, None),
        }
    }
}

impl Served {
    /// Asks a server what it offers and who it is.
    ///
    /// # Errors
    /// Nobody answers, or the key is refused.
    pub(super) fn meet(&mut self) -> Result<(), StageError> {
        let url = format!("{}/models", self.client.address);
        let mut looks = 1;
        let offered = loop {
            match self.client.get(&url, QUICK) {
                Ok(offered) => break offered,
                // Not every server lists its models.
                Err(CallError::Refused { status, .. }) if !matches!(status, 401 | 403) => {
                    break Value::Null;
                }
                Err(CallError::Temporary { .. }) if looks < LOOKS => thread::sleep(BETWEEN),
                Err(error) => return Err(self.refused(error)),
            }
            looks += 1;
        };
        let models: Vec<&Value> =
            offered.get("data").and_then(Value::as_array).into_iter().flatten().collect();
        if self.name.is_empty() {
            let [only] = models[..] else {
                let names = names(&offered);
                return Err(StageError::Environment {
                    message: format!("`{}` offers {} models", self.client.address, names.len()),
                    hint: Some(format!("give the server's `name` for it: {}", listed(&names))),
                });
            };
            self.name = only.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        }
        let id = |model: &&&Value| model.get("id").and_then(Value::as_str) == Some(&self.name);
        let model = models.iter().find(id).or(models.first());
        let number = |path: &str| model.and_then(|model| model.pointer(path)?.as_u64());
        let context = number("/max_model_len").or_else(|| number("/meta/n_ctx"));
        self.context = context.map_or(usize::MAX, |tokens| tokens as usize);
        let owner = model.and_then(|model| model.get("owned_by")?.as_str()).unwrap_or_default();
        self.profile = self.version(owner);
        Ok(())
    }

    /// Has the server put an adapter on its model, as vLLM does, under a name of its own.
    ///
    /// # Errors
    /// More than one adapter, and a server that cannot.
    pub(super) fn load_adapters(
        &mut self,
        adapters: &[PathBuf],
        identity: &str,
    ) -> Result<(), StageError> {
        let [adapter] = adapters else {
            return Err(StageError::with_hint(
                "a server puts one adapter on a model, and this one has several",
                "merge the inner one when it is trained (`merge: true`)",
            ));
        };
        let digest = Digest::of_bytes(identity.as_bytes()).to_string();
        let name = format!("refrain-{}", &digest[..16]);
        let body = json!({ "lora_name": name, "lora_path": adapter }).to_string();
        let url = format!("{}/load_lora_adapter", self.client.address);
        match self.client.tell(&url, body.as_bytes()) {
            Ok(()) => {}
            Err(CallError::Refused { status: 400, why }) if why.contains("already") => {}
            Err(error) => {
                return Err(StageError::Environment {
                    message: format!("{} cannot load the adapter: {error}", self.label()),
                    hint: Some(
                        "vLLM does with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; else                          merge it when it is trained (`merge: true`)"
                            .into(),
                    ),
                });
            }
        }
        self.name = name;
        Ok(())
    }

    /// Names server and version as it reports them; who does not is the word alone.
    fn version(&self, owner: &str) -> String {
        let root = self.client.root();
        let at = |path: &str, pointer: &str| {
            let answer = self.client.get(&format!("{root}/{path}"), QUICK).ok()?;
            Some(answer.pointer(pointer)?.as_str()?.to_owned())
        };
        let (server, version) = match owner {
            "vllm" => ("vllm", at("version", "/version")),
            "sglang" => ("sglang", at("get_server_info", "/version")),
            "llamacpp" => ("llama.cpp", at("props", "/build_info")),
            "me" => ("llama-cpp-python", at("openapi.json", "/info/version")),
            other => (other, None),
        };
        let words = [PROFILE, server, version.as_deref().unwrap_or_default()];
        let plain = |c: &char| c.is_ascii_graphic();
        let words = words.map(|word| word.chars().filter(plain).take(40).collect::<String>());
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Finds out how the server takes a prompt, and whether it gives log-probabilities.
    pub(super) fn find_form(&self, context: &Context<'_>) -> Result<Form, StageError> {
        let probes = self.probes()?;
        let by_ids: &[bool] =
            if self.api == ServedApi::Completions { &[true, false] } else { &[false] };
        let mut first = None;
        for &ids in by_ids {
            for logprobs in [true, false] {
                let form = Form { ids, logprobs };
                match self.try_form(context, &probes[0], form)? {
                    Ok(form) => return Ok(form),
                    Err(error) => first = first.or(Some(error)),
                }
            }
        }
        Err(first.unwrap_or_else(|| StageError::bug("a server was asked in no form")))
    }

    /// Tries one form; the inner error is that of a server which may take another one.
    fn try_form(
        &self,
        context: &Context<'_>,
        probe: &Probe,
        form: Form,
    ) -> Result<Result<Form, StageError>, StageError> {
        let sampling = SamplingParams::default();
        let asked = Asked::greedy(&sampling, 1);
        let call = self.continuation(&probe.prompt(), &asked, form, TRIES);
        let answer = match self.ask_one(context, call)? {
            Ok(answer) => Answer::read(&answer).and_then(|answer| match probe {
                Probe::Ids(ids) => check_prompt(&answer, ids).map(|()| answer),
                Probe::Turns(_) => Ok(answer),
            }),
            Err(error @ (CallError::Unreachable(_) | CallError::Stopped)) => {
                return Err(self.refused(error));
            }
            Err(error @ CallError::Refused { status: 401 | 403 | 404, .. }) => {
                return Err(self.refused(error));
            }
            Err(error) => return Ok(Err(self.refused(error))),
        };
        Ok(match answer {
            Ok(answer) => Ok(Form { logprobs: answer.logprobs.is_some(), ..form }),
            Err(why) => Err(self.wrong(&why)),
        })
    }

    /// Asks the probes: the fingerprint as it is now.
    pub(super) fn probe(&self, context: &Context<'_>) -> Result<Fingerprint, StageError> {
        let probes = self.probes()?;
        let sampling = SamplingParams::default();
        let tokens = if self.form.logprobs { 1 } else { TEXT_TOKENS };
        let mut call = |at: usize| {
            let asked = Asked::greedy(&sampling, tokens);
            self.continuation(&probes[at].prompt(), &asked, self.form, ATTEMPTS)
        };
        let mut answers: Vec<Option<Result<Value, CallError>>> = vec![None; probes.len()];
        let in_flight = self.in_flight.min(probes.len());
        ask_all(
            &self.client,
            in_flight,
            probes.len(),
            context.cancel,
            &mut call,
            &mut |at, answer| {
                answers[at] = Some(answer);
                ControlFlow::Continue(())
            },
        )?;
        let answers: Vec<Answer> = answers
            .into_iter()
            .flatten()
            .map(|answer| {
                let answer = answer.map_err(|error| self.refused(error))?;
                Answer::read(&answer).map_err(|why| self.wrong(&why))
            })
            .collect::<Result<_, _>>()?;
        if !self.form.logprobs {
            return Ok(Fingerprint::of_texts(answers.into_iter().map(|one| one.text).collect()));
        }
        let first = |answer: &Answer| answer.logprobs.as_ref()?.first().copied();
        // A model that ends its text at once gives a server nothing to show.
        Ok(Fingerprint::of_logprobs(answers.iter().map(|answer| first(answer).unwrap_or(0.0))))
    }

    fn probes(&self) -> Result<Vec<Probe>, StageError> {
        let probe = |text: &&str| match (self.api, &self.tokenizer) {
            (ServedApi::Completions, Some(tokenizer)) => {
                let encoding = tokenizer.encode(text, true).map_err(crate::models::failed)?;
                Ok(Probe::Ids(encoding.ids))
            }
            _ => Ok(Probe::Turns(vec![message("user", text)])),
        };
        PROBES.iter().map(probe).collect()
    }

    /// Compares a fingerprint with the pinned one, or pins it.
    ///
    /// The lock's counts. Where it has none, as at a run with `--set`, the cache's does.
    pub(super) fn pin(
        &self,
        context: &Context<'_>,
        model: String,
        now: Fingerprint,
    ) -> Result<Fingerprint, StageError> {
        let known = context.pins.get(&model).or_else(|| kept_pin(context.cache, &model));
        let kept = context.cache.rows(&pin_key(&model))?;
        let is_new = known.is_none();
        // Of stages that begin together the first one's counts.
        let pin = context.pins.pin(model, known.unwrap_or_else(|| now.to_pin()));
        let pinned = Fingerprint::from_pin(&pin).ok_or_else(|| {
            self.other("it is pinned by a fingerprint that this version does not make")
        })?;
        self.compare(&pinned, &now)?;
        if is_new {
            kept.put(&[(pin_row(), pin.to_string().into_bytes())])?;
        }
        Ok(pinned)
    }

    /// Asks the probes again, and compares.
    pub(super) fn check_again(&self, context: &Context<'_>) -> Result<(), StageError> {
        let now = self.probe(context)?;
        self.compare(&self.fingerprint, &now)
    }

    fn compare(&self, pinned: &Fingerprint, now: &Fingerprint) -> Result<(), StageError> {
        match pinned.difference(now) {
            Some(why) => Err(self.other(&why)),
            None => Ok(()),
        }
    }

    fn other(&self, why: &str) -> StageError {
        StageError::Environment {
            message: format!("{} is not the model that was pinned: {why}", self.label()),
            hint: Some(match self.has_revision {
                true => "serve the same weights with the same settings again, or give the model \
                         another `revision`, under which everything is computed anew"
                    .into(),
                false => "serve the weights of the folder with the settings of before; if those \
                          were wrong, remove `pinned` from the model's line of the lock, and run \
                          with another `--cache`"
                    .into(),
            }),
        }
    }

    /// Finds the way in which the server scores: the first that it knows, and whose numbers are
    /// those of its own continuation.
    pub(super) fn find_scoring(&self, context: &Context<'_>) -> Result<Scoring, StageError> {
        let Some(continued) = self.continued(context)? else {
            return Err(self.cannot_score("it gives no log-probabilities of tokens"));
        };
        let mut why = "it knows neither `prompt_logprobs` nor `echo` with `logprobs`".to_owned();
        for scoring in Scoring::ALL {
            match self.try_scoring(context, scoring, &continued)? {
                Ok(()) => return Ok(scoring),
                Err(Some(fault)) => why = fault,
                Err(None) => {}
            }
        }
        Err(self.cannot_score(&why))
    }

    /// Tries one way; the inner error is a fault where the server knows the way.
    fn try_scoring(
        &self,
        context: &Context<'_>,
        scoring: Scoring,
        (ids, logprob): &(Vec<u32>, f32),
    ) -> Result<Result<(), Option<String>>, StageError> {
        let Some(tokenizer) = &self.tokenizer else { return Ok(Err(None)) };
        let answer = match self.ask_one(context, self.scored(scoring, ids, self.form, TRIES))? {
            Ok(answer) => answer,
            Err(error @ (CallError::Unreachable(_) | CallError::Stopped)) => {
                return Err(self.refused(error));
            }
            Err(_) => return Ok(Err(None)),
        };
        let values = match scoring.read(&answer, tokenizer, ids) {
            Ok(values) => values,
            // Who ignores a parameter leaves its result out.
            Err(why) if why.starts_with("it holds no") => return Ok(Err(None)),
            Err(why) => return Ok(Err(Some(why))),
        };
        let last = values.last().copied().unwrap_or(f32::NAN);
        if (f64::from(last) - f64::from(*logprob)).abs() <= TOLERANCE {
            return Ok(Ok(()));
        }
        Ok(Err(Some(format!(
            "it gives a token the log-probability {logprob:.3} when it generates it, and {last:.3} \
             when it is given it"
        ))))
    }

    /// A probe with the one token that the server continues it by, and the log-probability of that.
    fn continued(&self, context: &Context<'_>) -> Result<Option<(Vec<u32>, f32)>, StageError> {
        let Some(tokenizer) = &self.tokenizer else { return Ok(None) };
        let sampling = SamplingParams::default();
        for probe in self.probes()? {
            let asked = Asked::greedy(&sampling, 1);
            let call = self.continuation(&probe.prompt(), &asked, self.form, ATTEMPTS);
            let answer = self.ask_one(context, call)?.map_err(|error| self.refused(error))?;
            let answer = Answer::read(&answer).map_err(|why| self.wrong(&why))?;
            let Probe::Ids(mut ids) = probe else { return Ok(None) };
            let found = match (&answer.ids, &answer.pieces) {
                (Some(made), _) => Some(made.clone()),
                (None, Some(pieces)) => align::ids_of_pieces(tokenizer, &ids, pieces),
                (None, None) => None,
            };
            let logprob = answer.logprobs.and_then(|values| values.first().copied());
            if let (Some([first, ..]), Some(logprob)) = (found.as_deref(), logprob) {
                // An end of the text is not echoed.
                if !tokenizer.is_special(*first) {
                    ids.push(*first);
                    return Ok(Some((ids, logprob)));
                }
            }
        }
        Ok(None)
    }

    fn cannot_score(&self, why: &str) -> StageError {
        StageError::Environment {
            message: format!("{} cannot score: {why}", self.label()),
            hint: Some(
                "scores need `prompt_logprobs` (vLLM), `input_token_logprobs` (SGLang) or `echo` with \
                 `logprobs` (`llama_cpp.server --logits_all true`, for models with a begin token)"
                    .into(),
            ),
        }
    }

    fn ask_one(
        &self,
        context: &Context<'_>,
        call: Call,
    ) -> Result<Result<Value, CallError>, StageError> {
        let (mut call, mut found) = (Some(call), None);
        let mut call = |_| call.take().expect("one request is made once");
        ask_all(&self.client, 1, 1, context.cancel, &mut call, &mut |_, answer| {
            found = Some(answer);
            ControlFlow::Continue(())
        })?;
        found.ok_or_else(|| StageError::bug("a request has no answer"))
    }
}
