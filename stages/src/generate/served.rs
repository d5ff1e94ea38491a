//! `generate` with a model that a server computes.
//!
//! Rows are numbered and kept as those of other models are. A row's seed is a function of (seed, p,
//! k, sample), so that what a server makes of it depends on nothing else in the table.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use serde_json::{Value, json};

use refrain_cache::{Digest, TableReader};
use refrain_engine::kind::{Context, NodeResult, ServedApi, StageError};
use refrain_lm::chat::Message;
use refrain_lm::generate::Limits;
use refrain_lm::render::Renderer;
use refrain_lm::sampling::{Sampler, SamplingParams};

use crate::memo::{self, Memo};
use crate::models::failed;
use crate::prompts::{self, Prompt, PromptRenderer, RowPrompt, row_error, with_row};
use crate::remarks::{Remarks, RowRemarks};
use crate::served::{Served, ServedPrompt, ServedRow, Wanted};
use crate::tables::row_name;
use crate::tokens::check_tokens;

use super::table::{self, Response};
use super::{GenerateParams, Numbered, ROW, SHORTEN, Totals, end_of_turn};

/// Responses that are asked for before they are written: enough that few windows end with a server
/// half idle.
const WINDOW: usize = 16 * 1024;

/// One node's work.
pub(super) struct ServedGenerator<'a> {
    context: &'a Context<'a>,
    served: &'a Served,
    params: &'a GenerateParams,
    prompts: PromptRenderer,
    /// `None` where the server renders.
    renderer: Option<Renderer<'a>>,
    sampling: SamplingParams,
    sampler: Sampler,
    limits: Limits,
    memo: Memo,
    /// Number of rows so far with each prompt.
    earlier: HashMap<Digest, u64>,
    totals: Totals,
    /// Responses that are known from earlier runs.
    known: u64,
}

/// A prompt as it is sent.
enum Sent {
    Ids(Vec<u32>),
    Turns(Vec<Message>, Option<Value>),
}

impl Sent {
    fn prompt(&self) -> ServedPrompt<'_> {
        match self {
            Sent::Ids(ids) => ServedPrompt::Ids(ids),
            Sent::Turns(turns, tools) => ServedPrompt::Turns(turns, tools.as_ref()),
        }
    }

    /// The digest that names its responses.
    fn digest(&self) -> Digest {
        match self {
            Sent::Ids(ids) => memo::digest_of_tokens(ids),
            Sent::Turns(turns, tools) => Digest::of_bytes(
                json!({ "messages": turns, "tools": tools }).to_string().as_bytes(),
            ),
        }
    }
}

impl<'a> ServedGenerator<'a> {
    pub fn new(
        context: &'a Context<'a>,
        params: &'a GenerateParams,
        served: &'a Served,
    ) -> Result<ServedGenerator<'a>, StageError> {
        if params.kv.is_some() {
            return Err(StageError::with_hint(
                "`kv` is for native models, and a server computes this one",
                "leave `kv` out",
            ));
        }
        let (chat, renderer) = match (served.api(), served.tokenizer()) {
            (ServedApi::Completions, Some(tokenizer)) => {
                let chat = params.chat.resolve(tokenizer)?;
                (chat, Some(prompts::renderer(tokenizer, chat, params.bos)?))
            }
            _ => (true, None),
        };
        let prompts = PromptRenderer::new(params.prompt.as_deref(), params.system.clone(), chat)?;
        let &GenerateParams { temperature, top_k, top_p, min_p, repetition_penalty, .. } = params;
        let sampling = SamplingParams { temperature, top_k, top_p, min_p, repetition_penalty };
        let end = renderer.as_ref().zip(served.tokenizer());
        let end = end.and_then(|(renderer, tokenizer)| end_of_turn(renderer, tokenizer));
        let end = end.filter(|_| !params.ignore_eos);
        let row = json!({
            "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
            "repetition_penalty": repetition_penalty, "stop": params.stop,
            "ignore_eos": params.ignore_eos, "end_of_turn": end, "seed": params.seed,
        });
        Ok(ServedGenerator {
            context,
            served,
            params,
            prompts: prompts.with_shots(context, params.shots.as_ref())?,
            renderer,
            sampling,
            sampler: Sampler::new(sampling, params.seed).map_err(failed)?,
            limits: Limits {
                max_new_tokens: params.max_new_tokens,
                stop: params.stop.clone(),
                stop_ids: end.into_iter().collect(),
                ignore_eos: params.ignore_eos,
            },
            memo: Memo::of_model(context, "model", served.memo_profile(), &ROW, row)?,
            earlier: HashMap::new(),
            totals: Totals::default(),
            known: 0,
        })
    }

    pub fn table(mut self) -> Result<NodeResult, StageError> {
        let (samples, into) = (self.params.samples, self.params.into);
        let input = TableReader::open(self.context.table("data")?)?;
        let mut writer = self.context.cache.new_table(table::schema(input.schema(), into))?;
        let total = input.rows() * samples as u64;
        let mut remarks = Remarks::default();
        let mut first = 0;
        for batch in input.batches(None, (WINDOW / samples).max(1))? {
            let batch = batch?;
            self.context.cancel.check()?;
            let rows = self.responses(&batch, first, total)?;
            let mut responses = Vec::with_capacity(rows.len());
            for row in &rows {
                remarks.add(RowRemarks { empty: row.text.is_empty(), ..RowRemarks::default() });
                self.totals.count(row.tokens.unwrap_or(0), row.stopped);
                responses.push(Response::served(row));
            }
            writer.write(&table::batch(&batch, first, &responses, samples, into)?)?;
            first += batch.num_rows() as u64;
        }

        remarks.note(self.context.progress, "data");
        if self.known > 0 {
            let known = self.known;
            self.context
                .progress
                .note(format!("{known} of {total} responses were made by earlier runs"));
        }
        if let Some(renderer) = &self.renderer {
            self.prompts.note_left_out(renderer, self.context.progress);
        }
        let mut outputs = NodeResult::main(self.context.cache.store_table(writer)?);
        outputs.metrics = self.totals.metrics();
        outputs.profile = self.served.profile().to_owned();
        outputs.usage = self.served.usage();
        Ok(outputs)
    }

    /// The responses to the rows of a batch, those of a row one after another.
    fn responses(
        &mut self,
        batch: &RecordBatch,
        first: u64,
        total: u64,
    ) -> Result<Vec<ServedRow>, StageError> {
        let samples = self.params.samples;
        let prompts = self.prompts.of_batch(batch, first)?;
        let mut sent = Vec::with_capacity(prompts.len());
        for (row, prompt) in prompts.into_iter().enumerate() {
            sent.push(self.sent(batch, row, first, prompt)?);
        }
        let numbered: Vec<Numbered> =
            sent.iter().map(|sent| Numbered::next(&mut self.earlier, sent.digest())).collect();

        let mut rows: Vec<Option<ServedRow>> = Vec::with_capacity(sent.len() * samples);
        for row in &numbered {
            for sample in 0..samples {
                let bytes = self.memo.get(&row.entry(sample))?;
                rows.push(bytes.and_then(|bytes| {
                    ServedRow::kept(&bytes, &self.limits, self.served.tokenizer())
                }));
            }
        }
        let missing: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].is_none()).collect();
        self.known += (rows.len() - missing.len()) as u64;
        let mut done = self.totals.rows + (rows.len() - missing.len()) as u64;

        let of = |at: usize| (missing[at] / samples, missing[at] % samples);
        let wanted = |at: usize| {
            let (row, sample) = of(at);
            // 31 bits are a seed to every server.
            let seed = numbered[row].stream(&self.sampler, sample).bits(0) >> 33;
            Wanted {
                prompt: sent[row].prompt(),
                sampling: &self.sampling,
                limits: &self.limits,
                stop_ids: &self.limits.stop_ids,
                seed,
            }
        };
        let name = |at: usize| row_name(batch, first, of(at).0);
        self.served.generate(self.context, missing.len(), &wanted, &name, &mut |at, made| {
            let (row, sample) = of(at);
            self.memo.put(&[(numbered[row].entry(sample), made.to_bytes())])?;
            rows[missing[at]] = Some(made);
            done += 1;
            self.context.progress.set(done, Some(total), "responses");
            Ok(())
        })?;
        let count = rows.len();
        let rows: Vec<ServedRow> = rows.into_iter().flatten().collect();
        match rows.len() == count {
            true => Ok(rows),
            false => Err(StageError::bug("a row was not asked for")),
        }
    }

    /// Renders a prompt as it is sent.
    fn sent(
        &self,
        batch: &RecordBatch,
        row: usize,
        first: u64,
        prompt: RowPrompt,
    ) -> Result<Sent, StageError> {
        let (Some(renderer), Some(tokenizer)) = (&self.renderer, self.served.tokenizer()) else {
            let tools = prompt.tools.clone();
            return match prompt.prompt {
                Prompt::Turns(turns) => Ok(Sent::Turns(turns, tools)),
                Prompt::Text(_) => Err(StageError::bug("a chat has no turns")),
            };
        };
        let ids = with_row(&prompt, None, |text| renderer.prompt_ids(text));
        let ids = ids.map_err(|error| row_error(batch, row, first, &error.to_string()))?;
        check_tokens(&ids, (self.served.context(), tokenizer.vocab_size()))
            .map_err(|error| error.of_row(batch, row, first, SHORTEN))?;
        if ids.is_empty() {
            return Err(row_error(batch, row, first, "the prompt has no tokens"));
        }
        Ok(Sent::Ids(ids))
    }
}
