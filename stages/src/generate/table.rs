//! The table that `generate` writes: every input row once for each sample, with the response in
//! place of an older one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int32Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use refrain_cache::columns::optional_column;
use refrain_engine::kind::StageError;
use refrain_lm::generate::{Finish, Generated};

use super::ResponseColumn;
use crate::lists::{optional_float_lists, optional_int_lists};
use crate::served::ServedRow;
use crate::tables::{arrow_bug, list_of, row_name, with_fields};

/// Columns that say something of the response that was there before. They are ours where their
/// first one is there; else a source may have a column of that name.
const STALE: [&[&str]; 4] = [
    &["token_ids", "text", "logprobs", "offsets", "prompt_tokens", "perplexity", "loss_mask"],
    &["perplexities", "token_ids", "prompt_tokens", "perplexity", "loss_mask"],
    &["correct", "prediction", "reason"],
    &["response_fields"],
];

/// The columns that are added or replaced, in their order.
fn added() -> [(&'static str, DataType); 5] {
    [
        ("sample", DataType::Int32),
        ("response", DataType::Utf8),
        ("finish_reason", DataType::Utf8),
        ("response_token_ids", list_of(DataType::Int32)),
        ("response_logprobs", list_of(DataType::Float32)),
    ]
}

/// The columns of the table, given those of the input: all but the stale ones, an older response as
/// `reference` where there is none, and ours. Of responses that become prompts `response` stays.
pub(super) fn schema(input: &Schema, into: Option<ResponseColumn>) -> SchemaRef {
    let has = |name: &str| input.field_with_name(name).is_ok();
    let stale = |name: &str| STALE.iter().any(|group| has(group[0]) && group.contains(&name));
    let mut kept: Vec<Arc<Field>> =
        input.fields().iter().filter(|field| !stale(field.name())).cloned().collect();
    if into == Some(ResponseColumn::Prompt) {
        kept.retain(|field| field.name() != "messages");
        let ours = added().map(|(name, ty)| (if name == "response" { "prompt" } else { name }, ty));
        return with_fields(&Schema::new(kept), &ours);
    }
    if let (Ok(response), false) = (input.field_with_name("response"), has("reference")) {
        kept.push(Arc::new(response.clone().with_name("reference")));
    }
    with_fields(&Schema::new(kept), &added())
}

/// A response, as it is written.
pub(super) struct Response<'r> {
    text: &'r str,
    finish: Finish,
    token_ids: Option<&'r [u32]>,
    logprobs: Option<&'r [f32]>,
}

impl<'r> Response<'r> {
    /// The response of a model that is computed here.
    pub fn generated(made: &'r Generated) -> Response<'r> {
        Response {
            text: &made.text,
            finish: made.finish,
            token_ids: Some(&made.token_ids),
            logprobs: Some(&made.logprobs),
        }
    }

    /// The response of a server, which may not have said what its tokens are.
    pub fn served(made: &'r ServedRow) -> Response<'r> {
        Response {
            text: &made.text,
            finish: if made.stopped { Finish::Stop } else { Finish::Length },
            token_ids: made.ids.as_deref(),
            logprobs: made.logprobs.as_deref(),
        }
    }
}

/// The rows of a batch, whose first is number `first` of its table, with their responses, `samples`
/// to each.
pub(super) fn batch(
    input: &RecordBatch,
    first: u64,
    responses: &[Response<'_>],
    samples: usize,
    into: Option<ResponseColumn>,
) -> Result<RecordBatch, StageError> {
    let rows: UInt32Array =
        (0..input.num_rows() as u32).flat_map(|row| std::iter::repeat_n(row, samples)).collect();
    let all = || responses.iter();
    let finish = |response: &Response<'_>| match response.finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    let schema = schema(input.schema_ref(), into);
    let ours = if into == Some(ResponseColumn::Prompt) { "prompt" } else { "response" };
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        columns.push(match field.name().as_str() {
            "sample" => Arc::new(sample_numbers(input, first, samples)?),
            name if name == ours => {
                Arc::new(StringArray::from_iter_values(all().map(|one| one.text)))
            }
            "finish_reason" => Arc::new(StringArray::from_iter_values(all().map(finish))),
            "response_token_ids" => optional_int_lists(all().map(|one| one.token_ids)),
            "response_logprobs" => optional_float_lists(all().map(|one| one.logprobs)),
            name => {
                let from = input.column_by_name(name).or_else(|| input.column_by_name("response"));
                let from = from.ok_or_else(|| {
                    StageError::bug(format!("the column `{name}` comes from nowhere"))
                })?;
                take(from, &rows, None).map_err(arrow_bug)?
            }
        });
    }
    RecordBatch::try_new(schema, columns).map_err(arrow_bug)
}

/// The number of each response. Rows that are samples themselves are numbered through, so that
/// (`id`, `sample`) stays unique.
fn sample_numbers(
    input: &RecordBatch,
    first: u64,
    samples: usize,
) -> Result<Int32Array, StageError> {
    let before = optional_column::<Int32Array>(input, "sample")?;
    let mut numbers = Vec::with_capacity(input.num_rows() * samples);
    for row in 0..input.num_rows() {
        let before =
            before.filter(|column| column.is_valid(row)).map_or(0, |column| column.value(row));
        let begin = i64::from(before) * samples as i64;
        for sample in begin..begin + samples as i64 {
            numbers.push(i32::try_from(sample).map_err(|_| {
                StageError::failed(format!(
                    "{}: the number of its samples is too large",
                    row_name(input, first, row)
                ))
            })?);
        }
    }
    Ok(numbers.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(columns: &[&str]) -> Vec<String> {
        let fields: Vec<Field> =
            columns.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
        schema(&Schema::new(fields), None)
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect()
    }

    #[test]
    fn columns_of_an_older_response_go_and_those_of_a_source_stay() {
        let ours = ["finish_reason", "response_token_ids", "response_logprobs"];
        let expected = |start: &[&'static str]| [start, &ours[..]].concat();
        assert_eq!(
            names(&["id", "prompt", "response", "text", "token_ids", "loss_mask"]),
            expected(&["id", "prompt", "response", "reference", "sample"])
        );
        assert_eq!(names(&["text", "reason"]), expected(&["text", "reason", "sample", "response"]));
        assert_eq!(
            names(&["correct", "reason", "reference"]),
            expected(&["reference", "sample", "response"])
        );
    }

    #[test]
    fn samples_of_samples_are_numbered_through() {
        let before = RecordBatch::try_from_iter([(
            "sample",
            Arc::new(Int32Array::from(vec![0, 1])) as ArrayRef,
        )])
        .unwrap();
        assert_eq!(sample_numbers(&before, 0, 3).unwrap().values(), &[0, 1, 2, 3, 4, 5]);
        let many = RecordBatch::try_from_iter([(
            "sample",
            Arc::new(Int32Array::from(vec![i32::MAX])) as ArrayRef,
        )])
        .unwrap();
        let error = sample_numbers(&many, 7, 2).unwrap_err().to_string();
        assert_eq!(error, "row 7: the number of its samples is too large");
    }
}
