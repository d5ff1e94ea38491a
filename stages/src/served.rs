//! Models that a server computes: found, probed, compared with their fingerprint, asked.

mod align;
mod client;
mod fingerprint;
mod pool;
mod probe;
mod process;
mod protocol;
mod refusal;
mod retry;
mod rows;
mod scoring;
mod target;
mod usage;

use std::ops::ControlFlow;
use std::sync::Arc;

use serde_json::{Map, Value};

use refrain_cache::Usage;
use refrain_engine::kind::{Context, Input, ServedApi, StageError};
use refrain_lm::chat::Message;
use refrain_lm::sampling::SamplingParams;
use refrain_lm::tokenizer::Tokenizer;

use client::{CallError, Client};
use fingerprint::Fingerprint;
use pool::{Call, ask_all};
use process::Process;
use protocol::Asked;
use retry::ATTEMPTS;
use scoring::Scoring;
use target::Target;
use usage::UsageCount;

pub(crate) use probe::kept_pin;
pub use process::{end_servers, kill_servers};
pub(crate) use rows::{ServedRow, Wanted};

/// Requests under way where the workflow does not say.
const REQUESTS: usize = 32;

/// The word that begins the profile of what a server computed.
pub(crate) const PROFILE: &str = "server";

/// The demands of a stage on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Continuations.
    Generate,
    /// Log-probabilities of given tokens.
    Score,
}

/// A prompt as a server is given it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ServedPrompt<'a> {
    /// Tokens.
    Ids(&'a [u32]),
    /// A conversation that the server renders, and the tools that it may name.
    Turns(&'a [Message], Option<&'a Value>),
}

/// Takes the log-probabilities of a row, by its number.
pub(crate) type OnScored<'a> = &'a mut dyn FnMut(usize, &[f32]) -> Result<(), StageError>;

/// The form in which a server takes a prompt, and whether it gives log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    /// Whether token ids are sent; else their text, which the server tokenises again.
    ids: bool,
    logprobs: bool,
}

/// A model that a server computes, after its probes.
pub(crate) struct Served {
    client: Arc<Client>,
    /// The name of the model there.
    name: String,
    api: ServedApi,
    in_flight: usize,
    tokenizer: Option<Tokenizer>,
    /// Limit of the tokens of a row, where it is known.
    context: usize,
    /// Server and version, as it reports them.
    profile: String,
    form: Form,
    /// The fingerprint that is pinned.
    fingerprint: Fingerprint,
    /// Whether the workflow gives it a revision.
    has_revision: bool,
    scoring: Option<Scoring>,
    /// The rows that were asked for.
    usage: UsageCount,
    /// Held so that the server runs as long as it is asked.
    _process: Option<Arc<Process>>,
}

impl Served {
    /// Whether the model of an input is asked of a server.
    pub fn is_meant(input: &Input, backend_is_server: bool) -> bool {
        backend_is_server || matches!(input, Input::Model { served: Some(_), .. })
    }

    /// Finds the server of the model at an input, probes it, and compares its fingerprint.
    ///
    /// # Errors
    /// A server that does not answer, refuses, or is another one than before.
    pub fn connect(
        context: &Context<'_>,
        input: &Input,
        purpose: Purpose,
    ) -> Result<Served, StageError> {
        let Target {
            address,
            name,
            api,
            key,
            tokenizer,
            identity,
            has_revision,
            adapters,
            process,
        } = Target::of(context, input)?;
        let in_flight = context.resources.requests.unwrap_or(REQUESTS);
        let limit = context.machine.requests.time_limit;
        let client = Arc::new(Client::new(address, key, limit, in_flight));
        let tokenizer = match tokenizer {
            Some(folder) => Some(Tokenizer::load(&folder).map_err(crate::models::failed)?),
            None => None,
        };
        let mut served = Served {
            client,
            name: name.unwrap_or_default(),
            api,
            in_flight,
            tokenizer,
            context: usize::MAX,
            profile: PROFILE.to_owned(),
            form: Form { ids: api == ServedApi::Completions, logprobs: true },
            fingerprint: Fingerprint::of_logprobs([]),
            has_revision,
            scoring: None,
            usage: UsageCount::default(),
            _process: process,
        };
        served.meet()?;
        if !adapters.is_empty() {
            served.load_adapters(&adapters, &identity)?;
        }
        served.form = served.find_form(context)?;
        let now = served.probe(context)?;
        served.fingerprint = served.pin(context, identity, now)?;
        if purpose == Purpose::Score {
            served.scoring = Some(served.find_scoring(context)?);
        }
        Ok(served)
    }

    /// Its tokenizer; a server that renders needs none.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The interface by which it is asked.
    pub fn api(&self) -> ServedApi {
        self.api
    }

    /// Limit of the tokens of a row, as far as it is known.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Server and version, as it reports them.
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// The rows that were asked for, and their tokens as the server counts them.
    pub fn usage(&self) -> Option<Usage> {
        self.usage.total()
    }

    /// The part of the keys of rows that stands for the weights: the pinned fingerprint.
    pub fn memo_profile(&self) -> String {
        format!("{PROFILE} {}", self.fingerprint.digest())
    }

    /// Whether its continuations come with log-probabilities.
    pub fn has_logprobs(&self) -> bool {
        self.form.logprobs
    }

    /// Asks for `count` continuations; `on_row` gets each as it arrives.
    ///
    /// `name` gives the name of a row for messages.
    ///
    /// # Errors
    /// The first row that the server refuses, after those under way have been handed over.
    pub fn generate<'r>(
        &self,
        context: &Context<'_>,
        count: usize,
        wanted: &dyn Fn(usize) -> Wanted<'r>,
        name: &dyn Fn(usize) -> String,
        on_row: &mut dyn FnMut(usize, ServedRow) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        let call = &mut |row| {
            let Wanted { prompt, sampling, limits, stop_ids, seed } = wanted(row);
            let asked = Asked {
                sampling,
                max_tokens: self.room(&prompt, limits.max_new_tokens),
                stop: &limits.stop,
                stop_ids,
                ignore_eos: limits.ignore_eos,
                seed,
            };
            self.continuation(&prompt, &asked, self.form, ATTEMPTS)
        };
        self.ask_rows(context, count, call, name, &mut |row, answer| {
            let wanted = wanted(row);
            on_row(row, ServedRow::read(self, &wanted, &answer).map_err(RowFault::Other)?)
                .map_err(RowFault::Stage)
        })
    }

    /// Asks for the log-probabilities of rows of at least two tokens; `on_row` gets those after
    /// the first of each row as they arrive, not-a-number where the server shows none.
    ///
    /// # Errors
    /// As [`Served::generate`].
    pub fn score(
        &self,
        context: &Context<'_>,
        rows: &[&[u32]],
        name: &dyn Fn(usize) -> String,
        on_row: OnScored<'_>,
    ) -> Result<(), StageError> {
        let (Some(scoring), Some(tokenizer)) = (self.scoring, &self.tokenizer) else {
            return Err(StageError::bug("a server was asked to score without a probe"));
        };
        let call = &mut |row: usize| self.scored(scoring, rows[row], self.form, ATTEMPTS);
        self.ask_rows(context, rows.len(), call, name, &mut |row, answer| {
            let logprobs = scoring.read(&answer, tokenizer, rows[row]).map_err(RowFault::Other)?;
            on_row(row, &logprobs).map_err(RowFault::Stage)
        })
    }

    /// Asks for rows. After a connection that broke, the probes are asked again before an answer is
    /// taken: another server may have come in the place of the first.
    fn ask_rows(
        &self,
        context: &Context<'_>,
        count: usize,
        call: &mut dyn FnMut(usize) -> Call,
        name: &dyn Fn(usize) -> String,
        on_answer: &mut dyn FnMut(usize, Value) -> Result<(), RowFault>,
    ) -> Result<(), StageError> {
        let mut breaks = self.client.breaks();
        // Of several errors that of the first row is shown.
        let mut failed: Option<(usize, StageError)> = None;
        let mut take = |row: usize, answer: Result<Value, CallError>| -> Result<(), StageError> {
            if answer.is_ok() && self.client.breaks() != breaks {
                self.check_again(context)?;
                breaks = self.client.breaks();
            }
            let answer = answer.map_err(|error| self.row_refused(error, &name(row)))?;
            self.usage.add(&answer);
            on_answer(row, answer).map_err(|fault| match fault {
                RowFault::Stage(error) => error,
                RowFault::Other(why) => self.row_wrong(&why, &name(row)),
            })
        };
        ask_all(&self.client, self.in_flight, count, context.cancel, call, &mut |row, answer| {
            let Err(error) = take(row, answer) else { return ControlFlow::Continue(()) };
            if failed.as_ref().is_none_or(|(first, _)| row < *first) {
                failed = Some((row, error));
            }
            ControlFlow::Break(())
        })?;
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Limit on the tokens of a continuation: as wanted, or what the context has left.
    fn room(&self, prompt: &ServedPrompt<'_>, wanted: usize) -> usize {
        match prompt {
            ServedPrompt::Ids(ids) => wanted.min(self.context.saturating_sub(ids.len())).max(1),
            ServedPrompt::Turns(..) => wanted,
        }
    }

    /// The request for a continuation.
    fn continuation(
        &self,
        prompt: &ServedPrompt<'_>,
        asked: &Asked<'_>,
        form: Form,
        attempts: u32,
    ) -> Call {
        let mut fields = asked.fields(&self.name);
        let url = match prompt {
            ServedPrompt::Ids(ids) => {
                fields.insert("prompt".into(), self.prompt(ids, form));
                // vLLM then says which tokens it was given and made; older ones write ids as texts.
                fields.insert("return_token_ids".into(), true.into());
                fields.insert("return_tokens_as_token_ids".into(), true.into());
                if form.logprobs {
                    fields.insert("logprobs".into(), 1.into());
                }
                "completions"
            }
            ServedPrompt::Turns(turns, tools) => {
                let messages = turns.iter().cloned().map(Value::Object).collect();
                fields.insert("messages".into(), Value::Array(messages));
                if let Some(tools) = tools {
                    fields.insert("tools".into(), (*tools).clone());
                }
                if form.logprobs {
                    fields.insert("logprobs".into(), true.into());
                    fields.insert("top_logprobs".into(), 1.into());
                }
                "chat/completions"
            }
        };
        self.call(url, fields.into(), attempts)
    }

    /// The request for the log-probabilities of tokens.
    fn scored(&self, scoring: Scoring, ids: &[u32], form: Form, attempts: u32) -> Call {
        let sampling = SamplingParams::default();
        let mut fields: Map<String, Value> = Asked::greedy(&sampling, 1).fields(&self.name);
        fields.insert("prompt".into(), self.prompt(ids, form));
        let body = scoring.body(fields, ids);
        match scoring {
            Scoring::InputTokenLogprobs => Call {
                url: format!("{}/generate", self.client.root()).into(),
                body: body.to_string().into_bytes(),
                attempts,
            },
            Scoring::PromptLogprobs | Scoring::Echo => self.call("completions", body, attempts),
        }
    }

    fn call(&self, path: &str, body: Value, attempts: u32) -> Call {
        let url = format!("{}/{path}", self.client.address).into();
        Call { url, body: body.to_string().into_bytes(), attempts }
    }

    fn prompt(&self, ids: &[u32], form: Form) -> Value {
        match &self.tokenizer {
            Some(tokenizer) if !form.ids => align::text_of(tokenizer, ids).into(),
            _ => ids.into(),
        }
    }
}

/// Why an answer for a row is not taken.
enum RowFault {
    /// The stage's own error.
    Stage(StageError),
    /// A fault of the answer, as a fragment.
    Other(String),
}
