//! The rows to train on: the tokens of a masked table as they are, or rows that are rendered here.

use arrow::array::{Array, BooleanArray, Int32Array, ListArray, RecordBatch, StringArray};
use rayon::prelude::*;

use refrain_cache::TableReader;
use refrain_cache::columns::{column, list_column, optional_column};
use refrain_engine::kind::{Context, StageError};
use refrain_lm::render::Renderer;
use refrain_lm::tokenizer::Tokenizer;
use refrain_lm::train::TrainRow;

use crate::prompts::{self, Prompt, PromptRenderer, RowPrompt, cell, row_error, with_row};
use crate::remarks::{Remarks, RowRemarks};
use crate::tables::scan;
use crate::tokens::{CUT, TURNS, Tokens, check_tokens};

use super::params::{FinetuneParams, TrainOn};

/// Counts over the rows.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Counts {
    pub rows: u64,
    pub tokens: u64,
    /// Tokens that are learnt each time the rows are gone through.
    pub active_tokens: u64,
    /// Tokens of the responses that are masked, where the table tells where the responses begin.
    pub masked_tokens: u64,
    pub rows_without_active_tokens: u64,
}

impl Counts {
    /// Adds a row, of whose tokens so many are the response's, where the table tells that.
    fn add(&mut self, row: &TrainRow, response: Option<u64>) {
        let active = row.active.iter().filter(|active| **active).count() as u64;
        self.rows += 1;
        self.tokens += row.ids.len() as u64;
        self.active_tokens += active;
        self.masked_tokens += response.unwrap_or(0).saturating_sub(active);
        self.rows_without_active_tokens += u64::from(active == 0);
    }
}

/// The rows of a table.
pub(super) struct TrainingRows {
    pub rows: Vec<TrainRow>,
    pub counts: Counts,
}

/// Reads the table at `input`, whose rows and ids must be below `sizes`: the limit of tokens, and
/// the size of the vocabulary. All rows are held in memory, five bytes a token, because training
/// goes through them in another order.
pub(super) fn rows(
    context: &Context<'_>,
    params: &FinetuneParams,
    input: &str,
    tokenizer: &Tokenizer,
    sizes: (usize, usize),
) -> Result<TrainingRows, StageError> {
    let masked =
        TableReader::open(context.table(input)?)?.schema().field_with_name("loss_mask").is_ok();
    let source =
        if masked { Source::Masked { tokenizer } } else { Source::rendered(params, tokenizer)? };
    let (mut rows, mut counts) = (Vec::new(), Counts::default());
    let mut remarks = Remarks::default();
    scan(context, input, None, |batch, first| {
        let columns = source.columns(batch, first)?;
        let row = |row: usize| {
            let (mut train, remarks) =
                source.row(&columns, batch, first, row, params.max_tokens)?;
            check_tokens(&train.ids, sizes)
                .map_err(|error| error.of_row(batch, row, first, CUT))?;
            // Nothing comes before the first token that could predict it.
            train.active.iter_mut().take(1).for_each(|active| *active = false);
            Ok((train, remarks))
        };
        // Collected in the order of the rows, so that of several errors the first row's is shown.
        let made: Vec<Result<(TrainRow, RowRemarks), StageError>> =
            (0..batch.num_rows()).into_par_iter().map(row).collect();
        let prompt_tokens =
            optional_column::<Int32Array>(batch, "prompt_tokens")?.filter(|_| masked);
        let response = |at: usize, tokens: usize| -> Option<u64> {
            let prompt = prompt_tokens?.value(at).max(1) as usize;
            Some(match &columns {
                Columns::Masked { turns: Some(turns), .. } => flags(*turns, at)?
                    .into_iter()
                    .take(tokens)
                    .skip(prompt)
                    .filter(|turn| *turn)
                    .count() as u64,
                _ => tokens.saturating_sub(prompt) as u64,
            })
        };
        for (at, row) in made.into_iter().enumerate() {
            let (row, of_row) = row?;
            remarks.add(of_row);
            counts.add(&row, response(at, row.ids.len()));
            rows.push(row);
        }
        Ok(())
    })?;
    if let Source::Rendered { prompts, renderer, .. } = &source {
        prompts.note_left_out(renderer, context.progress);
    }

    remarks.without_trained_token(counts.rows_without_active_tokens);
    remarks.note(context.progress, input);
    Ok(TrainingRows { rows, counts })
}

/// The texts that a new tokenizer is trained on: prompts and responses.
pub(super) fn texts(
    context: &Context<'_>,
    params: &FinetuneParams,
) -> Result<Vec<String>, StageError> {
    let prompts = PromptRenderer::new(params.prompt.as_deref(), params.system.clone(), false)?;
    let mut texts = Vec::new();
    scan(context, "data", None, |batch, first| {
        let asked = prompts.of_batch(batch, first)?;
        let responses = column::<StringArray>(batch, "response")?;
        for (row, prompt) in asked.into_iter().enumerate() {
            if let Prompt::Text(text) = prompt.prompt {
                texts.push(text);
            }
            texts.extend(cell(responses, row).map(str::to_owned));
        }
        Ok(())
    })?;
    Ok(texts)
}

/// Where tokens come from.
#[expect(clippy::large_enum_variant, reason = "one value exists for a whole training")]
enum Source<'a> {
    Masked { tokenizer: &'a Tokenizer },
    Rendered { prompts: PromptRenderer, renderer: Renderer<'a>, turns: TrainOn },
}

/// The columns of one batch that rows are made from.
enum Columns<'b> {
    Masked {
        ids: (&'b ListArray, &'b Int32Array),
        mask: (&'b ListArray, &'b BooleanArray),
        /// The tokens of the assistant, where the table tells them from those of other turns.
        turns: Option<(&'b ListArray, &'b BooleanArray)>,
        /// The text and where in it each token begins, where the table has both.
        spelling: Option<(&'b StringArray, (&'b ListArray, &'b Int32Array))>,
    },
    Rendered {
        prompts: Vec<RowPrompt>,
        responses: &'b StringArray,
    },
}

impl<'a> Source<'a> {
    fn rendered(
        params: &FinetuneParams,
        tokenizer: &'a Tokenizer,
    ) -> Result<Source<'a>, StageError> {
        let chat = params.chat.resolve(tokenizer)?;
        let prompts = PromptRenderer::new(params.prompt.as_deref(), params.system.clone(), chat)?;
        let renderer = prompts::renderer(tokenizer, chat, params.bos)?;
        let turns = params.train_on.unwrap_or(TrainOn::Last);
        Ok(Source::Rendered { prompts, renderer, turns })
    }

    fn columns<'b>(&self, batch: &'b RecordBatch, first: u64) -> Result<Columns<'b>, StageError> {
        Ok(match self {
            Source::Masked { .. } => {
                let text = optional_column::<StringArray>(batch, "text")?;
                let offsets = batch
                    .column_by_name("offsets")
                    .map(|_| list_column::<Int32Array>(batch, "offsets"));
                Columns::Masked {
                    ids: list_column(batch, "token_ids")?,
                    mask: list_column(batch, "loss_mask")?,
                    turns: batch
                        .column_by_name(TURNS)
                        .map(|_| list_column(batch, TURNS))
                        .transpose()?,
                    spelling: text.zip(offsets.transpose()?),
                }
            }
            Source::Rendered { prompts, .. } => Columns::Rendered {
                prompts: prompts.of_batch(batch, first)?,
                responses: column(batch, "response")?,
            },
        })
    }

    fn row(
        &self,
        columns: &Columns<'_>,
        batch: &RecordBatch,
        first: u64,
        row: usize,
        max_tokens: Option<usize>,
    ) -> Result<(TrainRow, RowRemarks), StageError> {
        let wrong = |what: &str| row_error(batch, row, first, what);
        match (self, columns) {
            (
                Source::Rendered { renderer, turns, .. },
                Columns::Rendered { prompts, responses },
            ) => {
                let response =
                    cell(responses, row).ok_or_else(|| wrong("`response` is missing"))?;
                let rendered = with_row(&prompts[row], Some(response), |text| match turns {
                    TrainOn::Last => renderer.full(text),
                    TrainOn::All => renderer.full_turns(text),
                });
                let tokens =
                    Tokens::new(rendered.map_err(|error| wrong(&error.to_string()))?, max_tokens);
                let active = (0..tokens.ids.len()).map(|token| tokens.is_response(token)).collect();
                Ok((TrainRow { ids: tokens.ids, active }, tokens.remarks))
            }
            (Source::Masked { tokenizer }, Columns::Masked { ids, mask, turns, spelling }) => {
                let mut ids = whole_numbers(*ids, row)
                    .ok_or_else(|| wrong("`token_ids` holds no token ids"))?;
                let mut active =
                    flags(*mask, row).ok_or_else(|| wrong("`loss_mask` holds an empty value"))?;
                if ids.len() != active.len() {
                    let lengths = (ids.len(), active.len());
                    let what = format!(
                        "`token_ids` has {} entries and `loss_mask` {}",
                        lengths.0, lengths.1
                    );
                    return Err(wrong(&what));
                }
                if let Some(turns) = turns {
                    let turns = flags(*turns, row).filter(|turns| turns.len() == ids.len());
                    let turns = turns.ok_or_else(|| {
                        wrong("`response_mask` has not one value for each of `token_ids`")
                    })?;
                    // The turns of others are never trained, whatever the mask says of it.
                    active.iter_mut().zip(turns).for_each(|(active, turn)| *active &= turn);
                }
                if let Some((texts, offsets)) = spelling
                    && let (Some(text), Some(offsets)) =
                        (cell(texts, row), whole_numbers(*offsets, row))
                    && !spells(tokenizer, text, &ids, &offsets)
                {
                    let hint = "score and mask the table with the model that is trained, or one with the same tokenizer";
                    let what = "its `token_ids` do not decode to its text: the mask was made with another tokenizer";
                    return Err(StageError::with_hint(wrong(what).to_string(), hint));
                }
                let kept = max_tokens.unwrap_or(usize::MAX);
                let cut = kept < ids.len();
                let without_response = cut && !active[..kept].contains(&true);
                ids.truncate(kept);
                active.truncate(kept);
                let remarks = RowRemarks { cut, without_response, ..RowRemarks::default() };
                Ok((TrainRow { ids, active }, remarks))
            }
            _ => Err(StageError::bug("the columns are another source's")),
        }
    }
}

/// A row of a list of whole numbers from 0; `None` where the list or a value is missing or
/// negative.
fn whole_numbers((lists, values): (&ListArray, &Int32Array), row: usize) -> Option<Vec<u32>> {
    let range = range(lists, row)?;
    range
        .map(|at| values.is_valid(at).then(|| u32::try_from(values.value(at)).ok()).flatten())
        .collect()
}

fn flags((lists, values): (&ListArray, &BooleanArray), row: usize) -> Option<Vec<bool>> {
    range(lists, row)?.map(|at| values.is_valid(at).then(|| values.value(at))).collect()
}

fn range(lists: &ListArray, row: usize) -> Option<std::ops::Range<usize>> {
    let offsets = lists.value_offsets();
    lists.is_valid(row).then(|| offsets[row] as usize..offsets[row + 1] as usize)
}

/// Whether the tokens are this tokenizer's for the text.
///
/// Most tokenizers spell a text byte for byte. Where one changes the text before it cuts it,
/// tokenising it again decides.
fn spells(tokenizer: &Tokenizer, text: &str, ids: &[u32], offsets: &[u32]) -> bool {
    let bytes = text.as_bytes();
    let ends = offsets.iter().skip(1).copied().chain([bytes.len() as u32]);
    let spelt = ids.len() == offsets.len()
        && ids.iter().zip(offsets).zip(ends).all(|((&id, &begin), end)| {
            let part = bytes.get(begin as usize..end as usize);
            // A token that the tokenizer puts before a text has no bytes in it.
            part.is_some_and(|part| part.is_empty() || part == tokenizer.token_bytes(id))
        });
    let again = |added| tokenizer.encode(text, added).is_ok_and(|encoding| encoding.ids == ids);
    spelt || again(false) || again(true)
}
