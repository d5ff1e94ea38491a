//! The kind `score`: the log-probability of every token of a response under a model.

mod check;
mod choices;
mod columns;
mod window;

use arrow::array::{RecordBatch, StringArray};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use tracing::trace_span;

use refrain_cache::TableReader;
use refrain_cache::columns::{column, with_column};
use refrain_engine::kind::{
    Component, Context, Kind, MetricDecl, Model, NodeResult, Parameters, StageError, Table,
    choices, parameters,
};
use refrain_lm::render::Renderer;

use crate::backend::{self, ABOUT_BACKEND, BackendChoice, LoadedModel};
use crate::canonical::{self, FindModel};
use crate::components;
use crate::memo::{self, Memo};
use crate::memory;
use crate::models;
use crate::prompts::{
    self, ABOUT_BOS, ABOUT_CHAT, ABOUT_PROMPT, ABOUT_SYSTEM, Bos, Chat, Prompt, PromptRenderer,
    cell, row_error, with_row,
};
use crate::remarks::{self, Remarks};
use crate::requests;
use crate::tables;
use crate::tokens::{MOST_TOKENS, TURNS, Tokens, check_tokens};

use check::{check, of_continuation, of_text};
use choices::ChoiceRows;
use columns::{Further, Totals, output_schema, scored_batch};
use window::{Piece, Window, pieces};

/// Rows that are rendered and scored together before they are written.
const WINDOW_ROWS: usize = 512;

/// Rows that are scored between two looks at whether to stop, where the workflow does not say how
/// many go together.
const PIECE_ROWS: usize = 32;

/// The hint for a row that is too long.
const FIT: &str =
    "set `max_tokens` to cut such rows, or `window` for the model to see them part by part";

/// The components that make log-probabilities of tokens.
const ROW: [Component; 1] = [components::LM];

/// The metrics of `score`.
const METRICS: &[MetricDecl] = &[
    MetricDecl::always("rows", "Rows of the table"),
    MetricDecl::always("tokens", "Tokens of all rows"),
    MetricDecl::always("response_tokens", "Tokens of the responses that have a probability"),
    MetricDecl::always("mean_perplexity", "Mean of the rows' perplexities").mean_of("perplexity"),
    MetricDecl::always("perplexity", "Perplexity over all response tokens"),
];

/// The kind `score`.
pub const SCORE: Kind = Kind {
    name: "score",
    about: "Writes the tokens of each response and how probable a model finds each of them",
    components: &[components::SCORE, components::LM, components::RENDER, components::TABLE],
    versions: None,
    params: ScoreParams::PARAMS,
    adds: &["text", "token_ids", "logprobs", "offsets", "prompt_tokens", "perplexity", TURNS],
    outputs: tables::table_and_metrics,
    metrics: METRICS,
    check,
    expand: None,
    canonicalize: Some(canonicalize),
    close_elsewhere: true,
    retryable: false,
    tokens: Some("response_tokens"),
    over: None,
    served: &["model"],
    requests: Some(requests::score),
    memory: Some(memory::score),
    run,
};

parameters! {
    /// The parameters of `score`.
    struct ScoreParams {
        /// The model that scores
        #[alias("model_name_or_path")]
        model: &Model,
        /// The table with prompts and responses
        #[alias("dataset")]
        data: &Table,
        /// `response`: prompt and response as rendered, the end of turn included; `turns`: every
        /// turn of the assistant in a chat likewise; `text`: the response alone; `continuation`:
        /// the response directly behind the prompt, without an end of turn
        of: ScoreTarget = "response",
        #[about(ABOUT_PROMPT)]
        prompt: Option<String>,
        #[about(ABOUT_SYSTEM)]
        #[alias("system_prompt")]
        system: Option<String>,
        #[about(ABOUT_CHAT)]
        chat: Chat = "auto",
        #[about(ABOUT_BOS)]
        bos: Option<Bos>,
        #[about(ABOUT_BACKEND)]
        backend: BackendChoice = "auto",
        /// Cuts longer rows to this many tokens; without it a row longer than the model's context
        /// is an error
        #[range(2..=MOST_TOKENS)]
        #[alias("max_length", "max_seq_length")]
        max_tokens: Option<usize>,
        /// A longer row is seen through overlapping windows; a token's probability is that in the
        /// first one that reaches it
        window: Option<Window>,
        /// The column with the options of a question, each of which becomes a row with that option
        /// as its response: a list of texts, or texts with a `text` and a `label`
        choices: Option<String>,
        /// A minijinja template that makes the response of an option, over `choice`, `label` and
        /// the row's columns; its text where not given
        continuation: Option<String>,
        /// A minijinja template of a prompt without the question, such as `Answer:`: the
        /// log-probability of each response behind it becomes the column `prior_logprob`
        prior: Option<String>,
    }
}

choices! {
    /// The tokens to score.
    enum ScoreTarget {
        /// Prompt and response as rendered.
        Response = "response",
        /// As `response`, and the assistant's earlier turns too.
        Turns = "turns",
        /// The response alone.
        Text = "text",
        /// The response behind the prompt, as evaluations of log-likelihoods tokenise it.
        Continuation = "continuation",
    }
}

fn canonicalize(params: &mut Map<String, Value>, model: FindModel<'_>) {
    // A response alone is never a chat, nor is a continuation.
    let is_plain = of_text(params) || of_continuation(params);
    let has_template = if is_plain { Some(false) } else { canonical::has_template(model) };
    canonical::chat(params, has_template);
    canonical::bos(params);
    backend::canonicalize(params, model);
}

fn run(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: ScoreParams = context.parameters()?;
    remarks::note_adapter_files(context, context.input("model")?);
    memory::check(context, memory::score)?;
    let network = backend::load(context, context.input("model")?, params.backend)?;
    models::on_threads(context.resources.threads, || {
        Scorer::new(context, &params, &network)?.table()
    })
}

/// One node's work.
struct Scorer<'a> {
    context: &'a Context<'a>,
    of: ScoreTarget,
    max_tokens: Option<usize>,
    window: Option<Window>,
    network: &'a LoadedModel,
    prompts: PromptRenderer,
    choices: Option<ChoiceRows>,
    /// Prompts without the question.
    prior: Option<PromptRenderer>,
    renderer: Renderer<'a>,
    memo: Memo,
}

/// A row with its tokens and the natural logarithm of each one's probability; not-a-number for the
/// first.
struct Scored {
    tokens: Tokens,
    logprobs: Vec<f32>,
    /// Whether each token after the first is the likeliest; empty where that is not known.
    likeliest: Vec<bool>,
}

impl Scored {
    /// Whether each token behind the prompt is the likeliest, where that is known.
    fn is_greedy(&self) -> Option<bool> {
        let behind = self.likeliest.get(self.tokens.prompt_tokens.checked_sub(1)?..)?;
        (!self.likeliest.is_empty()).then(|| behind.iter().all(|is_likeliest| *is_likeliest))
    }
}

impl<'a> Scorer<'a> {
    fn new(
        context: &'a Context<'a>,
        params: &ScoreParams,
        network: &'a LoadedModel,
    ) -> Result<Scorer<'a>, StageError> {
        let is_plain = [ScoreTarget::Text, ScoreTarget::Continuation].contains(&params.of);
        let chat = !is_plain && params.chat.resolve(network.tokenizer())?;
        // Of continuations an entry says too whether each token is the likeliest.
        let memo = match params.of {
            ScoreTarget::Continuation => json!({ "likeliest": true }),
            _ => json!({}),
        };
        let context_length = network.sizes().0;
        if let Some(Window { length, .. }) = params.window
            && length > context_length
        {
            return Err(StageError::with_hint(
                format!(
                    "`window.length` is {length}, and the model's context ends at {context_length}"
                ),
                format!("take at most {context_length}"),
            ));
        }
        Ok(Scorer {
            context,
            of: params.of,
            max_tokens: params.max_tokens,
            window: params.window,
            network,
            prompts: PromptRenderer::new(params.prompt.as_deref(), params.system.clone(), chat)?,
            choices: (params.choices.as_deref())
                .map(|column| ChoiceRows::new(column, params.continuation.as_deref()))
                .transpose()?,
            prior: (params.prior.as_deref())
                .map(|prior| PromptRenderer::new(Some(prior), params.system.clone(), chat))
                .transpose()?,
            renderer: prompts::renderer(network.tokenizer(), chat, params.bos)?,
            memo: Memo::open(context, network, &ROW, memo)?,
        })
    }

    fn table(&self) -> Result<NodeResult, StageError> {
        let input = TableReader::open(self.context.table("data")?)?;
        let further = Further {
            choices: self.choices.is_some(),
            turns: self.of == ScoreTarget::Turns,
            prior: self.prior.is_some(),
            greedy: self.of == ScoreTarget::Continuation,
        };
        let mut writer = self.context.cache.new_table(output_schema(input.schema(), further))?;
        let mut totals = Totals::default();
        let mut remarks = Remarks::default();
        let (mut known, mut first) = (0, 0);
        let total = match &self.choices {
            Some(choices) => choices.count(self.context, &input)?,
            None => input.rows(),
        };
        for batch in input.batches(None, WINDOW_ROWS)? {
            let mut batch = batch?;
            let input_rows = batch.num_rows() as u64;
            if let Some(choices) = &self.choices {
                batch = choices.explode(&batch, first)?;
            }
            let rows = self.tokens(&self.prompts, &batch, totals.rows)?;
            rows.iter().for_each(|row| remarks.add(row.remarks));
            let before = totals.rows;
            let (rows, from_memo) = self.score(rows, before, total)?;
            known += from_memo;
            let mut scored = scored_batch(&batch, &rows, further, &mut totals)?;
            if let Some(prior) = &self.prior {
                let (rows, _) = self.score(self.tokens(prior, &batch, before)?, before, total)?;
                let logprobs = choices::logprobs(&batch, &rows, before)?;
                scored = with_column(&scored, "prior_logprob", logprobs)?;
            }
            writer.write(&scored)?;
            first += input_rows;
            self.context.progress.set(totals.rows, Some(total), "rows");
        }

        remarks.note(self.context.progress, "data");
        if known > 0 {
            self.context
                .progress
                .note(format!("{known} of {total} rows were scored by earlier runs"));
        }
        self.prompts.note_left_out(&self.renderer, self.context.progress);
        let mut outputs = NodeResult::main(self.context.cache.store_table(writer)?);
        outputs.metrics = totals.metrics();
        outputs.profile = self.network.profile();
        outputs.usage = self.network.usage();
        Ok(outputs)
    }

    /// Renders the rows with their prompts, or with others.
    fn tokens(
        &self,
        prompts: &PromptRenderer,
        batch: &RecordBatch,
        first: u64,
    ) -> Result<Vec<Tokens>, StageError> {
        self.context.cancel.check()?;
        let responses = column::<StringArray>(batch, "response")?;
        let prompts = match self.of {
            ScoreTarget::Text => Vec::new(),
            _ => prompts.of_batch(batch, first)?,
        };
        let row = |row: usize| {
            let response = cell(responses, row)
                .ok_or_else(|| row_error(batch, row, first, "`response` is missing"))?;
            let rendered = match self.of {
                ScoreTarget::Response => {
                    with_row(&prompts[row], Some(response), |text| self.renderer.full(text))
                }
                ScoreTarget::Turns => {
                    with_row(&prompts[row], Some(response), |text| self.renderer.full_turns(text))
                }
                ScoreTarget::Text => self.renderer.text_only(response),
                ScoreTarget::Continuation => match &prompts[row].prompt {
                    Prompt::Text(prompt) => self.renderer.continuation(prompt, response),
                    Prompt::Turns(_) => {
                        let what = "`of: continuation` needs a text in `prompt`, not `messages`";
                        return Err(row_error(batch, row, first, what));
                    }
                },
            };
            let rendered =
                rendered.map_err(|error| row_error(batch, row, first, &error.to_string()))?;
            if self.of == ScoreTarget::Continuation
                && rendered.prompt_tokens >= rendered.token_ids.len()
            {
                let what = "the response has no tokens behind those of the prompt";
                return Err(row_error(batch, row, first, what));
            }
            let tokens = Tokens::new(rendered, self.max_tokens);
            let (context, vocab) = self.network.sizes();
            // Through a window a model can take a row of any length.
            let most = if self.window.is_some() { usize::MAX } else { context };
            check_tokens(&tokens.ids, (most, vocab))
                .map_err(|error| error.of_row(batch, row, first, FIT))?;
            Ok(tokens)
        };
        // In the order of the rows, so that of several errors the first row's is shown.
        let rows: Vec<Result<_, StageError>> =
            (0..batch.num_rows()).into_par_iter().map(row).collect();
        rows.into_iter().collect()
    }

    /// Scores the rows, of whose table `before` of `total` rows are done, and says how many of them
    /// were known. It does so in steps, after each of which what is done is kept, a stop is heard
    /// and progress is seen.
    fn score(
        &self,
        rows: Vec<Tokens>,
        before: u64,
        total: u64,
    ) -> Result<(Vec<Scored>, u64), StageError> {
        let pieces: Vec<Piece> =
            (0..rows.len()).flat_map(|row| pieces(row, rows[row].ids.len(), self.window)).collect();
        let seen = |piece: &Piece| &rows[piece.row].ids[piece.seen.clone()];
        let known: Result<Vec<Option<Vec<f32>>>, StageError> =
            pieces.par_iter().map(|piece| self.known(seen(piece))).collect();
        let known = known?;
        let mut logprobs: Vec<Vec<f32>> =
            rows.iter().map(|tokens| vec![f32::NAN; tokens.ids.len()]).collect();
        let mut likeliest: Vec<Vec<bool>> = vec![Vec::new(); rows.len()];
        let mut take = |piece: &Piece, values: &[f32]| {
            let (values, flags) = values.split_at(piece.seen.len() - 1);
            let new = &values[piece.first - piece.seen.start - 1..];
            logprobs[piece.row][piece.first..piece.seen.end].copy_from_slice(new);
            likeliest[piece.row] = flags.iter().map(|flag| *flag > 0.0).collect();
        };
        let mut waiting: Vec<&Piece> = Vec::new();
        for (piece, values) in pieces.iter().zip(&known) {
            match values {
                Some(values) => take(piece, values),
                None => waiting.push(piece),
            }
        }
        if let LoadedModel::Served(served) = self.network {
            let (ids, mut done): (Vec<&[u32]>, u64) =
                (waiting.iter().map(|p| seen(p)).collect(), 0);
            let name = |at: usize| format!("row {}", before + waiting[at].row as u64);
            served.score(self.context, &ids, &name, &mut |at, values| {
                let entry = (memo::digest_of_tokens(ids[at]), memo::floats_to_bytes(values));
                self.memo.put(&[entry])?;
                take(waiting[at], values);
                done += 1;
                self.context.progress.set(before + done, Some(total), "rows");
                Ok(())
            })?;
        }
        let batch = self.context.resources.batch;
        let here = if matches!(self.network, LoadedModel::Served(_)) { &[] } else { &waiting[..] };
        for step in here.chunks(batch.unwrap_or(PIECE_ROWS).max(1)) {
            self.context.cancel.check()?;
            let ids: Vec<&[u32]> = step.iter().map(|piece| seen(piece)).collect();
            let mut entries = Vec::with_capacity(ids.len());
            let _batch = trace_span!("batch", rows = ids.len()).entered();
            self.network.score(&ids, batch, &mut |at, values, likeliest| {
                let mut values = values.to_vec();
                if self.of == ScoreTarget::Continuation {
                    values.extend(likeliest.iter().map(|flag| f32::from(u8::from(*flag))));
                }
                entries.push((memo::digest_of_tokens(ids[at]), memo::floats_to_bytes(&values)));
                take(step[at], &values);
            })?;
            self.memo.put(&entries)?;
            let done = step.last().map_or(0, |last| last.row as u64 + 1);
            self.context.progress.set(before + done, Some(total), "rows");
        }
        let mut scored: Vec<&Piece> = pieces.iter().collect();
        scored.dedup_by_key(|piece| piece.row);
        waiting.dedup_by_key(|piece| piece.row);
        let known = (scored.len() - waiting.len()) as u64;
        for (tokens, logprobs) in rows.iter().zip(&mut logprobs) {
            // Between its turns the assistant predicts nothing.
            let others =
                (tokens.prompt_tokens..tokens.ids.len()).filter(|t| !tokens.is_response(*t));
            others.for_each(|token| logprobs[token] = f32::NAN);
        }
        let rows = rows.into_iter().zip(logprobs).zip(likeliest);
        let scored = |((tokens, logprobs), likeliest)| Scored { tokens, logprobs, likeliest };
        Ok((rows.map(scored).collect(), known))
    }

    /// Looks up the log-probabilities of these tokens, at least two, from an earlier run; behind
    /// them may be whether each is the likeliest.
    fn known(&self, ids: &[u32]) -> Result<Option<Vec<f32>>, StageError> {
        let entry = self.memo.get(&memo::digest_of_tokens(ids))?;
        let after = ids.len() - 1;
        let flagged = |bytes: &[u8]| match self.of {
            ScoreTarget::Continuation => memo::floats(bytes, 2 * after),
            _ => None,
        };
        Ok(entry.and_then(|bytes| flagged(&bytes).or_else(|| memo::floats(&bytes, after))))
    }
}
