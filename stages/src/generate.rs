//! The kind `generate`: continues the prompts of a table with a model.
//!
//! The random number of a token is a function of (seed, p, k, sample, position): p is the digest of the prompt's tokens, and
//! k counts the earlier rows with the same prompt. So a response depends on nothing else in the table.

mod table;

use std::collections::HashMap;
use std::ops::ControlFlow;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use rayon::prelude::*;
use serde::Deserialize;

use refrain_cache::{Digest, Metric, TableReader};
use refrain_engine::kind::{
    ArtifactKind, Check, Columns, Component, Context, Kind, Outputs, Param, Problem, StageError, Type,
};
use refrain_lm::generate::{Finish, Generated, Limits, Request};
use refrain_lm::render::{self, Renderer, RowText};
use refrain_lm::sampling::{Sampler, SamplingParams};
use refrain_lm::tokenizer::Tokenizer;

use crate::backend::{self, BACKEND, Choice, Network};
use crate::models::{self, failed};
use crate::prompts::{self, CHAT_PARAM, Chat, PROMPT, Prompts, SHOTS, SYSTEM, Shots, row_error, with_row};
use crate::tables::{self, TABLE, figure, share};
use crate::tokens::check_tokens;

/// Responses that are made before they are written: enough to keep all slots of the model busy.
const WINDOW: usize = 1024;

/// What to do about a prompt that leaves no room.
const SHORTEN: &str = "shorten the prompt, or take a model with a longer context";

const FROM_ZERO: Type = Type::Float { min: 0.0, max: f64::INFINITY, open: false };
const ABOVE_ZERO: Type = Type::Float { min: 0.0, max: f64::INFINITY, open: true };
const SHARE: Type = Type::Float { min: 0.0, max: 1.0, open: false };
const SHARE_ABOVE_ZERO: Type = Type::Float { min: 0.0, max: 1.0, open: true };

/// The kind `generate`.
pub const GENERATE: Kind = Kind {
    name: "generate",
    about: "Continues the prompts of a table with a model",
    components: &[
        Component { name: "generate", version: 1 },
        Component { name: "lm", version: 1 },
        Component { name: "render", version: 1 },
        Component { name: "sample", version: 1 },
        TABLE,
    ],
    params: &[
        Param::required("model", Type::Reference(Some(ArtifactKind::Model)), "The model that generates"),
        Param::required("data", Type::Reference(Some(ArtifactKind::Table)), "The table with the prompts"),
        Param::default("samples", Type::Int { min: 1, max: 1_000_000 }, "1", "Responses to each prompt"),
        Param::default(
            "temperature",
            FROM_ZERO,
            "0.0",
            "What logits are divided by; 0 takes the likeliest token",
        ),
        Param::optional(
            "top_k",
            Type::Int { min: 1, max: i32::MAX as i64 },
            "Draws among so many likeliest tokens",
        ),
        Param::optional(
            "top_p",
            SHARE_ABOVE_ZERO,
            "Draws among the fewest tokens that have this probability together",
        ),
        Param::optional(
            "min_p",
            SHARE,
            "Draws among tokens at least this fraction as probable as the likeliest one",
        ),
        Param::optional(
            "repetition_penalty",
            ABOVE_ZERO,
            "Lowers the logits of tokens that occurred; 1 changes nothing",
        ),
        Param::default(
            "max_new_tokens",
            Type::Int { min: 1, max: i32::MAX as i64 },
            "256",
            "Most tokens of a response",
        ),
        Param::default(
            "stop",
            Type::List(&Type::Text),
            "[]",
            "Texts that end a response; they are cut off it",
        ),
        Param::default(
            "ignore_eos",
            Type::Bool,
            "false",
            "Whether the model's end token does not end a response",
        ),
        Param::default("seed", Type::Int { min: 0, max: i64::MAX }, "0", "The seed of all draws"),
        PROMPT,
        SYSTEM,
        Param::optional(
            "shots",
            Type::Record(SHOTS),
            "Examples that stand before each prompt, the same for all",
        ),
        CHAT_PARAM,
        BACKEND,
    ],
    adds: &["response", "sample", "finish_reason", "response_token_ids", "response_logprobs"],
    outputs: tables::table_and_metrics,
    check,
    expand: None,
    settle: Some(backend::settle),
    close_elsewhere: false,
    retryable: false,
    tokens: Some("generated_tokens"),
    run,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    samples: usize,
    temperature: f64,
    top_k: Option<usize>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    max_new_tokens: usize,
    stop: Vec<String>,
    ignore_eos: bool,
    seed: u64,
    prompt: Option<String>,
    system: Option<String>,
    shots: Option<Shots>,
    chat: Chat,
    backend: Choice,
}

fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    prompts::check(check, "data", problems);
    if check.params.contains_key("shots") {
        prompts::check(check, "shots.data", problems);
        check.need(problems, "shots.data", "response", &[DataType::Utf8]);
    }
    let number = |name: &str| check.params.get(name).and_then(|value| value.as_f64()).unwrap_or_default();
    if number("temperature") == 0.0 && number("samples") > 1.0 {
        let message = format!("all {} samples would be equal, because `temperature` is 0", number("samples"));
        problems.push(Problem::at("samples", message).hint("set `temperature` above 0, or `samples: 1`"));
    }
    let stops = check.params.get("stop").and_then(|stop| stop.as_array()).into_iter().flatten();
    for (place, _) in stops.enumerate().filter(|(_, stop)| stop.as_str() == Some("")) {
        let problem = Problem::at(format!("stop[{place}]"), "an empty text would end every response at once");
        problems.push(problem.hint("leave it out"));
    }
    (check.columns)("data").map(|schema| table::schema(&schema))
}

fn run(context: &Context<'_>) -> Result<Outputs, StageError> {
    let params: Params = context.parameters()?;
    let network = backend::load(context.input("model")?, params.backend)?;
    models::on_threads(context.resources.threads, || Generator::new(context, &params, &network)?.table())
}

/// The token with which rendered responses end, and which training teaches as the end: the chat template's end of turn,
/// else eos. A model's folder does not always name it among the tokens that end a text.
fn end_of_turn(renderer: &Renderer<'_>, tokenizer: &Tokenizer) -> Option<u32> {
    let any = RowText { prompt: render::Prompt::Text("a"), system: None, response: Some("a") };
    // A template may refuse this row; then the model's own end tokens are all that is known.
    let last = renderer.full(&any).ok()?.token_ids.pop()?;
    tokenizer.is_special(last).then_some(last)
}

/// One node's work.
struct Generator<'a> {
    context: &'a Context<'a>,
    network: &'a Network,
    samples: usize,
    prompts: Prompts,
    renderer: Renderer<'a>,
    sampler: Sampler,
    limits: Limits,
    /// How many rows with each prompt came so far.
    earlier: HashMap<Digest, u64>,
    figures: Figures,
}

impl<'a> Generator<'a> {
    fn new(
        context: &'a Context<'a>,
        params: &Params,
        network: &'a Network,
    ) -> Result<Generator<'a>, StageError> {
        let chat = params.chat.resolve(network.tokenizer())?;
        let &Params { temperature, top_k, top_p, min_p, repetition_penalty, .. } = params;
        let sampling = SamplingParams { temperature, top_k, top_p, min_p, repetition_penalty };
        let prompts = Prompts::new(params.prompt.as_deref(), params.system.clone(), chat)?;
        let renderer = Renderer::new(network.tokenizer(), chat).map_err(failed)?;
        let end_of_turn = end_of_turn(&renderer, network.tokenizer()).filter(|_| !params.ignore_eos);
        Ok(Generator {
            context,
            network,
            samples: params.samples,
            prompts: prompts.with_shots(context, params.shots.as_ref())?,
            renderer,
            sampler: Sampler::new(sampling, params.seed).map_err(failed)?,
            limits: Limits {
                max_new_tokens: params.max_new_tokens,
                stop: params.stop.clone(),
                stop_ids: end_of_turn.into_iter().collect(),
                ignore_eos: params.ignore_eos,
            },
            earlier: HashMap::new(),
            figures: Figures::default(),
        })
    }

    fn table(mut self) -> Result<Outputs, StageError> {
        let input = TableReader::open(self.context.table("data")?)?;
        let mut writer = self.context.cache.new_table(table::schema(input.schema()))?;
        let mut first = 0;
        for batch in input.batches(None, (WINDOW / self.samples).max(1))? {
            let batch = batch?;
            let requests = self.requests(&batch, first)?;
            let responses = self.generate(&requests)?;
            for generated in responses.iter().flatten() {
                self.figures.add(generated);
            }
            writer.write(&table::batch(&batch, first, &responses, self.samples)?)?;
            first += batch.num_rows() as u64;
        }
        let mut outputs = Outputs::main(self.context.cache.store_table(writer)?);
        outputs.metrics = self.figures.metrics();
        outputs.profile = self.network.profile();
        Ok(outputs)
    }

    /// What is asked of the model for each row.
    fn requests(&mut self, batch: &RecordBatch, first: u64) -> Result<Vec<Request>, StageError> {
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
                Ok(ids)
            }
        };
        // Collected in the order of the rows, so that of several errors the first row's is shown.
        let prompts: Vec<Result<Vec<u32>, StageError>> =
            (0..batch.num_rows()).into_par_iter().map(ids).collect();
        prompts.into_iter().map(|prompt| Ok(self.request(prompt?))).collect()
    }

    fn request(&mut self, prompt: Vec<u32>) -> Request {
        let bytes: Vec<u8> = prompt.iter().flat_map(|id| id.to_le_bytes()).collect();
        let p = Digest::of_bytes(&bytes);
        let earlier = self.earlier.entry(p).or_default();
        let k = *earlier;
        *earlier += 1;
        let (words, _) = p.as_bytes().as_chunks::<8>();
        let mut row: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        row.extend([k, 0]);
        let mut stream = |sample: usize| {
            row[5] = sample as u64;
            self.sampler.stream(&row)
        };
        Request { prompt, samples: (0..self.samples).map(&mut stream).collect() }
    }

    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Generated>>, StageError> {
        let before = self.figures.tokens;
        let mut progress = |tokens: u64| {
            self.context.progress.set(before + tokens, None, "tokens");
            if self.context.cancel.is_cancelled() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let batch = self.context.resources.batch;
        self.network.generate(requests, &self.sampler, &self.limits, batch, &mut progress)
    }
}

/// What is counted over the responses.
#[derive(Default)]
struct Figures {
    rows: u64,
    tokens: u64,
    stopped: u64,
}

impl Figures {
    fn add(&mut self, generated: &Generated) {
        self.rows += 1;
        self.tokens += generated.token_ids.len() as u64;
        self.stopped += u64::from(generated.finish == Finish::Stop);
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![
            figure("rows", self.rows as f64, self.rows),
            figure("generated_tokens", self.tokens as f64, self.rows),
            figure("mean_tokens", share(self.tokens, self.rows), self.rows),
            figure("finish_stop", share(self.stopped, self.rows), self.rows),
        ]
    }
}
