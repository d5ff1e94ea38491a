//! The kind `score`: the log-probability of every token of a response under a model.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use refrain_cache::columns::{column, with_column, without_column};
use refrain_cache::{Metric, TableReader};
use refrain_engine::kind::{
    ArtifactKind, Check, Columns, Component, Context, Kind, Outputs, Param, Problem, StageError, Type,
};
use refrain_lm::render::Renderer;

use crate::backend::{self, BACKEND, Choice, Network};
use crate::lists::{float_lists, int_lists};
use crate::models::{self, failed};
use crate::prompts::{self, CHAT_PARAM, Chat, PROMPT, Prompts, SYSTEM, cell, row_error, with_row};
use crate::tables::{self, TABLE, figure, list_of, with_fields};
use crate::tokens::{CUT, Tokens, check_tokens};

/// Rows that are rendered and scored together before they are written.
const WINDOW_ROWS: usize = 512;

/// Rows that are scored between two looks at whether to stop, where the workflow does not say how many go together.
const PIECE_ROWS: usize = 32;

/// Columns that describe other tokens than those that are written here.
const STALE: [&str; 2] = ["loss_mask", "perplexities"];

/// The kind `score`.
pub const SCORE: Kind = Kind {
    name: "score",
    about: "Writes the tokens of each response and how probable a model finds each of them",
    components: &[
        Component { name: "score", version: 1 },
        Component { name: "lm", version: 1 },
        Component { name: "render", version: 1 },
        TABLE,
    ],
    params: &[
        Param::required("model", Type::Reference(Some(ArtifactKind::Model)), "The model that scores"),
        Param::required(
            "data",
            Type::Reference(Some(ArtifactKind::Table)),
            "The table with prompts and responses",
        ),
        Param::default(
            "of",
            Type::Choice(&["response", "text"]),
            "\"response\"",
            "`response`: prompt and response as rendered, the end of turn included; `text`: the response alone",
        ),
        PROMPT,
        SYSTEM,
        CHAT_PARAM,
        BACKEND,
        Param::optional(
            "max_tokens",
            Type::Int { min: 2, max: i32::MAX as i64 },
            "A longer row is cut to so many tokens; without it a row longer than the model's context is an error",
        ),
    ],
    adds: &["text", "token_ids", "logprobs", "offsets", "prompt_tokens", "perplexity"],
    outputs: tables::table_and_metrics,
    check,
    expand: None,
    settle: Some(backend::settle),
    close_elsewhere: true,
    retryable: false,
    tokens: Some("response_tokens"),
    run,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    of: Of,
    prompt: Option<String>,
    system: Option<String>,
    chat: Chat,
    backend: Choice,
    max_tokens: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Of {
    Response,
    Text,
}

fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    check.need(problems, "data", "response", &[DataType::Utf8]);
    if of_text(check.params) {
        for name in ["prompt", "system"] {
            if check.params.contains_key(name) {
                let message =
                    format!("`{name}` does nothing beside `of: text`, which scores the response alone");
                problems.push(
                    Problem::at(name, message).hint(format!("leave `{name}` out, or take `of: response`")),
                );
            }
        }
        if check.params.get("chat").is_some_and(|chat| chat == &Value::Bool(true)) {
            let message = "`chat: true` does nothing beside `of: text`, which scores the response alone";
            problems.push(Problem::at("chat", message).hint("leave `chat` out, or take `of: response`"));
        }
    } else {
        prompts::check(check, "data", problems);
    }
    (check.columns)("data").map(|schema| output_schema(&schema))
}

fn of_text(params: &Map<String, Value>) -> bool {
    params.get("of").is_some_and(|of| of == "text")
}

/// The columns that are added, in their order.
fn added() -> [(&'static str, DataType); 6] {
    [
        ("text", DataType::Utf8),
        ("token_ids", list_of(DataType::Int32)),
        ("logprobs", list_of(DataType::Float32)),
        ("offsets", list_of(DataType::Int32)),
        ("prompt_tokens", DataType::Int32),
        ("perplexity", DataType::Float64),
    ]
}

/// The columns of the scored table: those of the input but for the ones that describe other tokens, and ours.
fn output_schema(input: &Schema) -> SchemaRef {
    let kept: Vec<_> =
        input.fields().iter().filter(|field| !STALE.contains(&field.name().as_str())).cloned().collect();
    with_fields(&Schema::new(kept), &added())
}

fn run(context: &Context<'_>) -> Result<Outputs, StageError> {
    let params: Params = context.parameters()?;
    let network = backend::load(context.input("model")?, params.backend)?;
    models::on_threads(context.resources.threads, || Scorer::new(context, &params, &network)?.table())
}

/// One node's work.
struct Scorer<'a> {
    context: &'a Context<'a>,
    of: Of,
    max_tokens: Option<usize>,
    network: &'a Network,
    prompts: Prompts,
    renderer: Renderer<'a>,
}

/// A row with its tokens and the natural logarithm of each one's probability; not-a-number for the first.
struct Scored {
    tokens: Tokens,
    logprobs: Vec<f32>,
    empty: bool,
}

impl<'a> Scorer<'a> {
    fn new(
        context: &'a Context<'a>,
        params: &Params,
        network: &'a Network,
    ) -> Result<Scorer<'a>, StageError> {
        let chat = params.of == Of::Response && params.chat.resolve(network.tokenizer())?;
        Ok(Scorer {
            context,
            of: params.of,
            max_tokens: params.max_tokens,
            network,
            prompts: Prompts::new(params.prompt.as_deref(), params.system.clone(), chat)?,
            renderer: Renderer::new(network.tokenizer(), chat).map_err(failed)?,
        })
    }

    fn table(&self) -> Result<Outputs, StageError> {
        let input = TableReader::open(self.context.table("data")?)?;
        let mut writer = self.context.cache.new_table(output_schema(input.schema()))?;
        let mut figures = Figures::default();
        for batch in input.batches(None, WINDOW_ROWS)? {
            let batch = batch?;
            let rows = self.score(self.tokens(&batch, figures.rows)?, figures.rows, input.rows())?;
            writer.write(&scored_batch(&batch, &rows, &mut figures)?)?;
            self.context.progress.set(figures.rows, Some(input.rows()), "rows");
        }
        let mut outputs = Outputs::main(self.context.cache.store_table(writer)?);
        outputs.metrics = figures.metrics();
        outputs.profile = self.network.profile();
        Ok(outputs)
    }

    /// The rows' tokens, and whether the response is empty.
    fn tokens(&self, batch: &RecordBatch, first: u64) -> Result<Vec<(Tokens, bool)>, StageError> {
        self.context.cancel.check()?;
        let responses = column::<StringArray>(batch, "response")?;
        let prompts = match self.of {
            Of::Response => self.prompts.of_batch(batch, first)?,
            Of::Text => Vec::new(),
        };
        let row = |row: usize| {
            let response =
                cell(responses, row).ok_or_else(|| row_error(batch, row, first, "`response` is missing"))?;
            let rendered = match self.of {
                Of::Response => with_row(&prompts[row], Some(response), |text| self.renderer.full(text)),
                Of::Text => self.renderer.text_only(response),
            };
            let rendered = rendered.map_err(|error| row_error(batch, row, first, &error.to_string()))?;
            let tokens = Tokens::new(rendered, self.max_tokens);
            check_tokens(&tokens.ids, self.network.sizes())
                .map_err(|error| error.of_row(batch, row, first, CUT))?;
            Ok((tokens, response.is_empty()))
        };
        // In the order of the rows, so that of several errors the first row's is shown.
        let rows: Vec<Result<_, StageError>> = (0..batch.num_rows()).into_par_iter().map(row).collect();
        rows.into_iter().collect()
    }

    /// Scores the rows, of whose table `before` of `total` rows are done. It does so in pieces, after each of which a
    /// stop is heard and progress is seen.
    fn score(&self, rows: Vec<(Tokens, bool)>, before: u64, total: u64) -> Result<Vec<Scored>, StageError> {
        let mut logprobs: Vec<Vec<f32>> = rows.iter().map(|(row, _)| nothing_known(row.ids.len())).collect();
        // A row of one token has no token to predict.
        let places: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].0.ids.len() > 1).collect();
        let batch = self.context.resources.batch;
        for places in places.chunks(batch.unwrap_or(PIECE_ROWS).max(1)) {
            self.context.cancel.check()?;
            let ids: Vec<&[u32]> = places.iter().map(|&row| rows[row].0.ids.as_slice()).collect();
            self.network.score(&ids, batch, &mut |row, values| {
                logprobs[places[row]][1..].copy_from_slice(values);
            })?;
            let done = places.last().map_or(0, |last| *last as u64 + 1);
            self.context.progress.set(before + done, Some(total), "rows");
        }
        let scored = rows.into_iter().zip(logprobs);
        Ok(scored.map(|((tokens, empty), logprobs)| Scored { tokens, logprobs, empty }).collect())
    }
}

fn nothing_known(tokens: usize) -> Vec<f32> {
    vec![f32::NAN; tokens]
}

/// The batch with the columns of the scores; adds the rows to the figures.
fn scored_batch(
    batch: &RecordBatch,
    rows: &[Scored],
    figures: &mut Figures,
) -> Result<RecordBatch, StageError> {
    let perplexities: Float64Array = rows.iter().map(|row| figures.add(row)).collect();
    let prompt_tokens: Int32Array = rows.iter().map(|row| Some(row.tokens.prompt_tokens as i32)).collect();
    let texts = StringArray::from_iter_values(rows.iter().map(|row| row.tokens.text.as_str()));
    let columns: [ArrayRef; 6] = [
        Arc::new(texts),
        int_lists(rows.iter().map(|row| row.tokens.ids.as_slice())),
        float_lists(rows.iter().map(|row| row.logprobs.as_slice())),
        int_lists(rows.iter().map(|row| row.tokens.offsets.as_slice())),
        Arc::new(prompt_tokens),
        Arc::new(perplexities),
    ];
    let mut batch = batch.clone();
    for name in STALE {
        batch = without_column(&batch, name)?;
    }
    for ((name, _), array) in added().into_iter().zip(columns) {
        batch = with_column(&batch, name, array)?;
    }
    Ok(batch)
}

/// What is summed over the rows, in their order.
#[derive(Default)]
struct Figures {
    rows: u64,
    tokens: u64,
    /// Response tokens with a probability.
    response_tokens: u64,
    /// Minus the sum of their log-probabilities.
    surprise: f64,
    rows_with_perplexity: u64,
    perplexities: f64,
}

impl Figures {
    /// Adds a row; its perplexity is the answer: `None` where the response is empty or was cut off.
    fn add(&mut self, row: &Scored) -> Option<f64> {
        self.rows += 1;
        self.tokens += row.tokens.ids.len() as u64;
        if row.empty {
            return None;
        }
        let response = row.logprobs.get(row.tokens.prompt_tokens..).unwrap_or_default();
        let known = response.iter().filter(|value| !value.is_nan());
        let (n, surprise) = known.fold((0u64, 0.0), |(n, sum), &value| (n + 1, sum - f64::from(value)));
        if n == 0 {
            return None;
        }
        let perplexity = libm::exp(surprise / n as f64);
        self.response_tokens += n;
        self.surprise += surprise;
        self.rows_with_perplexity += 1;
        self.perplexities += perplexity;
        Some(perplexity)
    }

    fn metrics(&self) -> Vec<Metric> {
        let count = |name, value: u64| figure(name, value as f64, self.rows);
        vec![
            count("rows", self.rows),
            count("tokens", self.tokens),
            count("response_tokens", self.response_tokens),
            figure(
                "mean_perplexity",
                self.perplexities / self.rows_with_perplexity as f64,
                self.rows_with_perplexity,
            ),
            figure(
                "perplexity",
                libm::exp(self.surprise / self.response_tokens as f64),
                self.response_tokens,
            ),
        ]
    }
}
