//! The kind `generate`: continues the prompts of a table with a model.
//!
//! The random number of a token is a function of (seed, p, k, sample, position): p is the digest of
//! the prompt's tokens, and k counts the earlier rows with the same prompt. So a response depends
//! on nothing else in the table, and is known again by the same three in another one.

mod served;
mod table;

use std::collections::HashMap;
use std::ops::ControlFlow;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use refrain_cache::{Digest, Metric, TableReader};
use refrain_engine::kind::{
    Bounds, Check, Columns, Component, Context, Kind, MetricDecl, Model, NodeResult, Parameters,
    Problem, StageError, Table, choices, parameters,
};
use refrain_lm::generate::{Decoding, Finish, Generated, KeyPrecision, Limits, Progress, Request};
use refrain_lm::random::Stream;
use refrain_lm::render::{self, Renderer, RowText};
use refrain_lm::sampling::{Sampler, SamplingParams};
use refrain_lm::tokenizer::Tokenizer;

use crate::backend::{self, ABOUT_BACKEND, BackendChoice, LoadedModel};
use crate::canonical::{self, FindModel};
use crate::components;
use crate::memo::{self, Memo};
use crate::memory;
use crate::models::{self, failed};
use crate::prompts::{
    self, ABOUT_BOS, ABOUT_CHAT, ABOUT_PROMPT, ABOUT_SYSTEM, Bos, Chat, PromptRenderer, Shots,
    row_error, with_row,
};
use crate::remarks::{self, Remarks, RowRemarks};
use crate::requests;
use crate::served::{Purpose, Served};
use crate::tables::{self, metric, share};
use crate::tokens::{MOST_TOKENS, check_tokens};

use served::ServedGenerator;
use table::Response;

/// Responses that are made before they are written: enough to keep all slots of the model busy.
const WINDOW: usize = 1024;

/// The hint for a prompt that leaves no room.
const SHORTEN: &str = "shorten the prompt, or take a model with a longer context";

/// The components that make a response of a prompt's tokens.
const ROW: [Component; 3] = [components::GENERATE, components::LM, components::SAMPLE];

/// The metrics of `generate`.
const METRICS: &[MetricDecl] = &[
    MetricDecl::always("rows", "Responses"),
    MetricDecl::always("generated_tokens", "Tokens of all responses"),
    MetricDecl::always("mean_tokens", "Tokens per response"),
    MetricDecl::always("finish_stop", "Share of responses that ended by themselves"),
];

/// The kind `generate`.
pub const GENERATE: Kind = Kind {
    name: "generate",
    about: "Continues the prompts of a table with a model",
    components: &[
        components::GENERATE,
        components::LM,
        components::SAMPLE,
        components::RENDER,
        components::TABLE,
    ],
    versions: None,
    params: GenerateParams::PARAMS,
    adds: &["response", "sample", "finish_reason", "response_token_ids", "response_logprobs"],
    outputs: tables::table_and_metrics,
    metrics: METRICS,
    check,
    expand: None,
    canonicalize: Some(canonicalize),
    close_elsewhere: false,
    retryable: false,
    tokens: Some("generated_tokens"),
    over: None,
    served: &["model"],
    requests: Some(requests::generate),
    memory: Some(memory::generate),
    run,
};

parameters! {
    /// The parameters of `generate`.
    struct GenerateParams {
        /// The model that generates
        #[alias("model_name_or_path")]
        model: &Model,
        /// The table with the prompts
        #[alias("dataset")]
        data: &Table,
        /// Responses to each prompt
        #[range(1..=1_000_000)]
        #[alias("n", "num_return_sequences")]
        samples: usize = 1,
        /// Sampling temperature; 0 takes the likeliest token
        #[range(0.0..)]
        temperature: f64 = 0.0,
        /// Samples among the k likeliest tokens
        #[range(1..=MOST_TOKENS)]
        top_k: Option<usize>,
        /// Samples among the fewest tokens that together have this probability
        #[range(SHARE_ABOVE_ZERO)]
        top_p: Option<f64>,
        /// Samples among tokens at least this fraction as probable as the likeliest one
        #[range(0.0..=1.0)]
        min_p: Option<f64>,
        /// Lowers the logits of tokens that occurred; 1 changes nothing
        #[range(above 0.0)]
        repetition_penalty: Option<f64>,
        /// Limit of the tokens of a response
        #[range(1..=MOST_TOKENS)]
        #[alias("max_tokens", "max_length")]
        max_new_tokens: usize = 256,
        /// Texts that end a response; they are cut off it
        #[alias("stop_sequences")]
        stop: Vec<String> = [],
        /// Whether the model's end token does not end a response
        ignore_eos: bool = false,
        /// The seed of all draws
        #[range(0..)]
        seed: u64 = 0,
        #[about(ABOUT_PROMPT)]
        prompt: Option<String>,
        /// Writes the responses in the place of the prompts, so that a later stage answers them
        into: Option<ResponseColumn>,
        #[about(ABOUT_SYSTEM)]
        #[alias("system_prompt")]
        system: Option<String>,
        /// Examples that stand before each prompt, the same for all
        shots: Option<Shots>,
        #[about(ABOUT_CHAT)]
        chat: Chat = "auto",
        #[about(ABOUT_BOS)]
        bos: Option<Bos>,
        #[about(ABOUT_BACKEND)]
        backend: BackendChoice = "auto",
        /// Precision in which the keys and values of earlier positions are kept: `f32`, or `bf16`
        /// in half the memory, to which they are rounded; native models alone
        kv: Option<KeyValues>,
    }
}

choices! {
    /// Precision of cached keys and values.
    enum KeyValues {
        /// As they are computed.
        F32 = "f32",
        /// The upper half of a 32-bit float.
        Bf16 = "bf16",
    }
}

choices! {
    /// The column that holds the responses in place of `response`.
    pub(crate) enum ResponseColumn {
        /// The prompt, whose own text goes.
        Prompt = "prompt",
    }
}

const SHARE_ABOVE_ZERO: Bounds<f64> = Bounds { min: 0.0, max: 1.0, open: true };

fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    backend::check_served(check, Purpose::Generate, problems);
    prompts::check(check, "data", problems);
    if check.params.contains_key("shots") {
        prompts::check(check, "shots.data", problems);
        check.need(problems, "shots.data", "response", &[DataType::Utf8]);
    }
    let number =
        |name: &str| check.params.get(name).and_then(|value| value.as_f64()).unwrap_or_default();
    if number("temperature") == 0.0 && number("samples") > 1.0 {
        let message =
            format!("all {} samples would be equal, because `temperature` is 0", number("samples"));
        problems.push(
            Problem::at("samples", message).hint("set `temperature` above 0, or `samples: 1`"),
        );
    }
    let stops = check.params.get("stop").and_then(|stop| stop.as_array()).into_iter().flatten();
    for (place, _) in stops.enumerate().filter(|(_, stop)| stop.as_str() == Some("")) {
        let problem =
            Problem::at(format!("stop[{place}]"), "an empty text would end every response at once");
        problems.push(problem.hint("leave it out"));
    }
    let into = check.params.get("into").map(|_| ResponseColumn::Prompt);
    (check.columns)("data").map(|schema| table::schema(&schema, into))
}

/// Removes the filters that filter nothing, and what `auto` comes to.
fn canonicalize(params: &mut Map<String, Value>, model: FindModel<'_>) {
    for (name, nothing) in [("top_p", 1.0), ("min_p", 0.0), ("repetition_penalty", 1.0)] {
        canonical::remove_default(params, name, &json!(nothing));
    }
    canonical::remove_default(params, "kv", &"f32".into());
    canonical::chat(params, canonical::has_template(model));
    canonical::bos(params);
    backend::canonicalize(params, model);
}

fn run(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: GenerateParams = context.parameters()?;
    remarks::note_adapter_files(context, context.input("model")?);
    let input = context.input("model")?;
    if Served::is_meant(input, params.backend == BackendChoice::Server) {
        let served = Served::connect(context, input, Purpose::Generate)?;
        return ServedGenerator::new(context, &params, &served)?.table();
    }
    memory::check(context, memory::generate)?;
    let network = backend::load(context, input, params.backend)?;
    models::on_threads(context.resources.threads, || {
        Generator::new(context, &params, &network)?.table()
    })
}

/// The token with which rendered responses end, and which training teaches as the end: the chat
/// template's end of turn, else eos. A model's folder does not always name it among the tokens that
/// end a text.
fn end_of_turn(renderer: &Renderer<'_>, tokenizer: &Tokenizer) -> Option<u32> {
    let any = RowText {
        prompt: render::Prompt::Text("a"),
        system: None,
        tools: None,
        response_fields: None,
        response: Some("a"),
    };
    // A template may refuse this row; then the model's own end tokens are all that is known.
    let last = renderer.full(&any).ok()?.token_ids.pop()?;
    tokenizer.is_special(last).then_some(last)
}

/// One node's work.
struct Generator<'a> {
    context: &'a Context<'a>,
    network: &'a LoadedModel,
    samples: usize,
    into: Option<ResponseColumn>,
    prompts: PromptRenderer,
    renderer: Renderer<'a>,
    sampler: Sampler,
    limits: Limits,
    keys: KeyPrecision,
    memo: Memo,
    /// Number of rows so far with each prompt.
    earlier: HashMap<Digest, u64>,
    totals: Totals,
    /// Responses that are known from earlier runs.
    known: u64,
}

/// The name of the responses to a row.
struct Numbered {
    /// The digest of the prompt.
    p: Digest,
    /// Number of earlier rows with the same prompt.
    k: u64,
}

/// A prompt, and what names its responses.
struct Asked {
    prompt: Vec<u32>,
    number: Numbered,
}

impl Numbered {
    /// Numbers the next row with this prompt.
    fn next(earlier: &mut HashMap<Digest, u64>, p: Digest) -> Numbered {
        let count = earlier.entry(p).or_default();
        let k = *count;
        *count += 1;
        Numbered { p, k }
    }

    /// The random numbers of a sample.
    fn stream(&self, sampler: &Sampler, sample: usize) -> Stream {
        let (words, _) = self.p.as_bytes().as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        sampler.stream(&words.chain([self.k, sample as u64]).collect::<Vec<u64>>())
    }

    /// The row of the memo that holds a sample.
    fn entry(&self, sample: usize) -> Digest {
        let number = [self.k.to_le_bytes(), (sample as u64).to_le_bytes()].concat();
        Digest::of_bytes(&[&self.p.as_bytes()[..], &number].concat())
    }
}

impl<'a> Generator<'a> {
    fn new(
        context: &'a Context<'a>,
        params: &GenerateParams,
        network: &'a LoadedModel,
    ) -> Result<Generator<'a>, StageError> {
        let chat = params.chat.resolve(network.tokenizer())?;
        let &GenerateParams { temperature, top_k, top_p, min_p, repetition_penalty, .. } = params;
        let sampling = SamplingParams { temperature, top_k, top_p, min_p, repetition_penalty };
        let prompts = PromptRenderer::new(params.prompt.as_deref(), params.system.clone(), chat)?;
        let renderer = prompts::renderer(network.tokenizer(), chat, params.bos)?;
        let end_of_turn =
            end_of_turn(&renderer, network.tokenizer()).filter(|_| !params.ignore_eos);
        let mut row = json!({
            "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
            "repetition_penalty": repetition_penalty, "stop": params.stop, "ignore_eos": params.ignore_eos,
            "end_of_turn": end_of_turn, "seed": params.seed,
        });
        let keys = match params.kv {
            Some(KeyValues::Bf16) => KeyPrecision::Bf16,
            Some(KeyValues::F32) | None => KeyPrecision::F32,
        };
        if keys == KeyPrecision::Bf16 {
            if matches!(network, LoadedModel::Mistralrs(..)) {
                return Err(StageError::with_hint(
                    "`kv: bf16` is for native models, and mistralrs computes this one",
                    "leave `kv` out",
                ));
            }
            row["kv"] = "bf16".into();
        }
        Ok(Generator {
            context,
            network,
            samples: params.samples,
            into: params.into,
            prompts: prompts.with_shots(context, params.shots.as_ref())?,
            renderer,
            sampler: Sampler::new(sampling, params.seed).map_err(failed)?,
            limits: Limits {
                max_new_tokens: params.max_new_tokens,
                stop: params.stop.clone(),
                stop_ids: end_of_turn.into_iter().collect(),
                ignore_eos: params.ignore_eos,
            },
            memo: Memo::open(context, network, &ROW, row)?,
            keys,
            earlier: HashMap::new(),
            totals: Totals::default(),
            known: 0,
        })
    }

    fn table(mut self) -> Result<NodeResult, StageError> {
        let input = TableReader::open(self.context.table("data")?)?;
        let mut writer = self.context.cache.new_table(table::schema(input.schema(), self.into))?;
        let total = input.rows() * self.samples as u64;
        let mut remarks = Remarks::default();
        let mut first = 0;
        for batch in input.batches(None, (WINDOW / self.samples).max(1))? {
            let batch = batch?;
            let asked = self.asked(&batch, first)?;
            let responses = self.responses(&asked, total)?;
            for generated in responses.iter().flatten() {
                let empty = generated.text.is_empty();
                remarks.add(RowRemarks { empty, ..RowRemarks::default() });
                self.totals.add(generated);
            }
            let responses: Vec<Response<'_>> =
                responses.iter().flatten().map(Response::generated).collect();
            writer.write(&table::batch(&batch, first, &responses, self.samples, self.into)?)?;
            first += batch.num_rows() as u64;
        }

        remarks.note(self.context.progress, "data");
        if self.known > 0 {
            self.context
                .progress
                .note(format!("{} of {total} responses were made by earlier runs", self.known));
        }
        self.prompts.note_left_out(&self.renderer, self.context.progress);
        let mut outputs = NodeResult::main(self.context.cache.store_table(writer)?);
        outputs.metrics = self.totals.metrics();
        outputs.profile = self.network.profile();
        Ok(outputs)
    }

    /// Renders the prompts of a batch and numbers equal ones.
    fn asked(&mut self, batch: &RecordBatch, first: u64) -> Result<Vec<Asked>, StageError> {
        self.context.cancel.check()?;
        let prompts = self.prompts.of_batch(batch, first)?;
        let ids = |row: usize| {
            let ids = with_row(&prompts[row], None, |text| self.renderer.prompt_ids(text));
            let ids = ids.map_err(|error| row_error(batch, row, first, &error.to_string()))?;
            check_tokens(&ids, self.network.sizes())
                .map_err(|error| error.of_row(batch, row, first, SHORTEN))?;
            if ids.is_empty() {
                Err(row_error(batch, row, first, "the prompt has no tokens"))
            } else {
                Ok((memo::digest_of_tokens(&ids), ids))
            }
        };
        // Collected in the order of the rows, so that of several errors the first row's is shown.
        let prompts: Vec<Result<(Digest, Vec<u32>), StageError>> =
            (0..batch.num_rows()).into_par_iter().map(ids).collect();
        let number = |prompt: Result<(Digest, Vec<u32>), StageError>| {
            let (p, prompt) = prompt?;
            Ok(Asked { prompt, number: Numbered::next(&mut self.earlier, p) })
        };
        prompts.into_iter().map(number).collect()
    }

    /// The responses to each prompt, of `total` in all.
    fn responses(
        &mut self,
        asked: &[Asked],
        total: u64,
    ) -> Result<Vec<Vec<Generated>>, StageError> {
        let known = |one: &Asked| (0..self.samples).map(|sample| self.known(one, sample)).collect();
        let known: Result<Vec<Vec<Option<Generated>>>, StageError> =
            asked.par_iter().map(known).collect();
        let mut responses = known?;
        let missing: Vec<(usize, Vec<usize>)> = responses
            .iter()
            .map(|samples| (0..self.samples).filter(|&sample| samples[sample].is_none()).collect())
            .enumerate()
            .filter(|(_, missing): &(usize, Vec<usize>)| !missing.is_empty())
            .collect();
        self.known += responses.iter().flatten().flatten().count() as u64;
        for ((row, samples), made) in missing.iter().zip(self.generate(asked, &missing, total)?) {
            for (sample, generated) in samples.iter().zip(made) {
                responses[*row][*sample] = Some(generated);
            }
        }
        let complete = |samples: Vec<Option<Generated>>| samples.into_iter().flatten().collect();
        Ok(responses.into_iter().map(complete).collect())
    }

    /// A response that an earlier run made, cut as a run with these limits would cut it.
    fn known(&self, asked: &Asked, sample: usize) -> Result<Option<Generated>, StageError> {
        let room = self.network.sizes().0.saturating_sub(asked.prompt.len());
        let entry = self.memo.get(&asked.number.entry(sample))?;
        Ok(entry.and_then(|bytes| {
            memo::continuation(&bytes, &self.limits, room, self.network.tokenizer())
        }))
    }

    /// Makes the missing samples of rows; each is kept as soon as it is complete.
    fn generate(
        &self,
        asked: &[Asked],
        missing: &[(usize, Vec<usize>)],
        total: u64,
    ) -> Result<Vec<Vec<Generated>>, StageError> {
        let request = |(row, samples): &(usize, Vec<usize>)| Request {
            prompt: asked[*row].prompt.clone(),
            samples: samples
                .iter()
                .map(|&sample| asked[*row].number.stream(&self.sampler, sample))
                .collect(),
        };
        let requests: Vec<Request> = missing.iter().map(request).collect();
        let waiting: usize = missing.iter().map(|(_, samples)| samples.len()).sum();
        let mut done = self.totals.rows + (asked.len() * self.samples - waiting) as u64;
        let mut kept = Ok(());
        let result = self.network.generate(
            &requests,
            &self.sampler,
            &self.limits,
            Decoding { batch: self.context.resources.batch, keys: self.keys },
            &mut |progress| {
                if let Progress::Finished { request, sample, generated } = progress {
                    let (row, samples) = &missing[request];
                    let row = asked[*row].number.entry(samples[sample]);
                    kept = self.memo.put(&[(row, memo::continuation_to_bytes(generated))]);
                    done += 1;
                }
                self.context.progress.set(done, Some(total), "responses");
                let stop = kept.is_err() || self.context.cancel.is_cancelled();
                if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        kept.and(result)
    }
}

/// Counts over the responses.
#[derive(Default)]
struct Totals {
    rows: u64,
    tokens: u64,
    stopped: u64,
}

impl Totals {
    fn add(&mut self, generated: &Generated) {
        self.count(generated.token_ids.len() as u64, generated.finish == Finish::Stop);
    }

    fn count(&mut self, tokens: u64, stopped: bool) {
        self.rows += 1;
        self.tokens += tokens;
        self.stopped += u64::from(stopped);
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![
            metric("rows", self.rows as f64, self.rows),
            metric("generated_tokens", self.tokens as f64, self.rows),
            metric("mean_tokens", share(self.tokens, self.rows), self.rows),
            metric("finish_stop", share(self.stopped, self.rows), self.rows),
        ]
    }
}
