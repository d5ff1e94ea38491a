//! The options of a question as responses: one row for each of them.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use refrain_cache::TableReader;
use refrain_cache::columns::{column, with_column};
use refrain_engine::kind::{Context, StageError};

use super::Scored;
use crate::continuation::{Continuation, ScoredTokens};
use crate::options::Choices;
use crate::prompts::{Template, row_error};
use crate::tables::{BATCH_ROWS, arrow_bug, with_fields};

/// The columns of an option: its number from 0, its label and its text.
const ADDED: [(&str, DataType); 3] =
    [("option", DataType::Int32), ("label", DataType::Utf8), ("choice", DataType::Utf8)];

/// Writes the options of each row as responses.
pub(super) struct ChoiceRows {
    column: String,
    /// The response that an option comes to; its text where there is none.
    continuation: Option<Template>,
}

impl ChoiceRows {
    pub fn new(column: &str, continuation: Option<&str>) -> Result<ChoiceRows, StageError> {
        let continuation = continuation.map(Template::new).transpose();
        let continuation = continuation.map_err(|error| {
            StageError::failed(format!("the template `continuation` cannot be read: {error}"))
        })?;
        Ok(ChoiceRows { column: column.to_owned(), continuation })
    }

    /// Counts the options of a table.
    pub fn count(&self, ctx: &Context<'_>, input: &TableReader) -> Result<u64, StageError> {
        let mut count = 0;
        for batch in input.batches(Some(&[&self.column]), BATCH_ROWS)? {
            ctx.cancel.check()?;
            let batch = batch?;
            let choices = Choices::of_batch(&batch, &self.column)?;
            count +=
                (0..batch.num_rows()).map(|row| choices.row(row).texts.len() as u64).sum::<u64>();
        }
        Ok(count)
    }

    /// The rows of a batch once for each option, with the option as the response.
    pub fn explode(&self, batch: &RecordBatch, first: u64) -> Result<RecordBatch, StageError> {
        let choices = Choices::of_batch(batch, &self.column)?;
        let (mut rows, mut numbers) = (Vec::new(), Vec::new());
        let (mut labels, mut texts) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            let options = choices.row(row);
            if options.texts.is_empty() || options.labels.len() != options.texts.len() {
                let what = format!("`{}` holds no options, or not a label for each", self.column);
                return Err(row_error(batch, row, first, &what));
            }
            for (number, (label, text)) in options.labels.into_iter().zip(options.texts).enumerate()
            {
                rows.push(row as u32);
                numbers.push(number as i32);
                labels.push(label);
                texts.push(text);
            }
        }

        let rows = UInt32Array::from(rows);
        let schema = schema(batch.schema_ref());
        let repeated = |field: &Arc<Field>| -> Result<ArrayRef, StageError> {
            let name = field.name().as_str();
            // Ours are put in their places below.
            match batch.column_by_name(name).filter(|from| from.data_type() == field.data_type()) {
                Some(from) => take(from, &rows, None).map_err(arrow_bug),
                None if name == "reference" && batch.column_by_name("response").is_some() => {
                    let from = column::<StringArray>(batch, "response")?;
                    take(from, &rows, None).map_err(arrow_bug)
                }
                None => Ok(arrow::array::new_null_array(field.data_type(), rows.len())),
            }
        };
        let columns: Result<Vec<ArrayRef>, StageError> =
            schema.fields().iter().map(repeated).collect();
        let mut out = RecordBatch::try_new(schema, columns?).map_err(arrow_bug)?;
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        out = with_column(&out, "option", Arc::new(Int32Array::from(numbers)))?;
        out = with_column(&out, "label", Arc::new(StringArray::from_iter_values(labels)))?;
        out = with_column(&out, "choice", texts.clone())?;
        let responses = match &self.continuation {
            None => texts,
            Some(template) => {
                let written = |row| {
                    template.render(&out, row).map_err(|why| {
                        let what = format!("the template `continuation` fails: {why}");
                        row_error(batch, rows.value(row) as usize, first, &what)
                    })
                };
                let written: Result<Vec<String>, StageError> =
                    (0..out.num_rows()).map(written).collect();
                Arc::new(StringArray::from_iter_values(written?))
            }
        };
        Ok(with_column(&out, "response", responses)?)
    }
}

/// The columns of the rows of options: an older response is the reference where there is none.
pub(super) fn schema(input: &Schema) -> SchemaRef {
    let has = |name: &str| input.field_with_name(name).is_ok();
    let mut fields: Vec<Arc<Field>> = input.fields().iter().cloned().collect();
    if let (Ok(response), false) = (input.field_with_name("response"), has("reference")) {
        fields.push(Arc::new(response.clone().with_name("reference")));
    }
    let ours = [&ADDED[..], &[("response", DataType::Utf8)]].concat();
    with_fields(&Schema::new(fields), &ours)
}

/// The log-probability of each response behind another prompt.
pub(super) fn logprobs(
    batch: &RecordBatch,
    rows: &[Scored],
    first: u64,
) -> Result<ArrayRef, StageError> {
    let responses = column::<StringArray>(batch, "response")?;
    let mut sums = Vec::with_capacity(rows.len());
    for (row, Scored { tokens, logprobs, .. }) in rows.iter().enumerate() {
        let scored = ScoredTokens {
            text: &tokens.text,
            count: tokens.ids.len(),
            prompt_tokens: tokens.prompt_tokens,
            offset: &|token| tokens.offsets[token] as usize,
            logprob: &|token| Some(logprobs[token]).filter(|value| !value.is_nan()),
        };
        let sum = Continuation::of(&scored, responses.value(row)).map_err(|what| {
            let error =
                row_error(batch, row, first, &format!("the response behind `prior`: {what}"));
            StageError::with_hint(error.to_string(), "give `prior` a text, such as `'Answer:'`")
        })?;
        sums.push(sum.logprob);
    }
    Ok(Arc::new(Float64Array::from(sums)))
}
