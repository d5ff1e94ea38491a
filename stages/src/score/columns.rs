//! The columns of scored rows, and their sums.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, BooleanBuilder, Float64Array, Int32Array, ListBuilder, RecordBatch,
    StringArray,
};
use arrow::datatypes::{DataType, Schema, SchemaRef};

use refrain_cache::Metric;
use refrain_cache::columns::{with_column, without_column};
use refrain_engine::kind::StageError;

use super::{Scored, choices};
use crate::lists::{float_lists, int_lists};
use crate::tables::{list_of, metric, with_fields};
use crate::tokens::TURNS;

/// Columns that describe other tokens than those that are written here.
const STALE: [&str; 3] = ["loss_mask", "perplexities", TURNS];

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

/// Columns of the scored table beside those that it always has.
#[derive(Clone, Copy)]
pub(super) struct Further {
    /// Those of an option.
    pub choices: bool,
    /// The assistant's tokens.
    pub turns: bool,
    /// The log-probability behind `prior`.
    pub prior: bool,
    /// Whether each response is the likeliest token by token.
    pub greedy: bool,
}

/// The column that says whether a response is the likeliest token by token.
pub(crate) const GREEDY: &str = "greedy";

/// The columns of the scored table: those of the input but for the ones that describe other tokens,
/// and ours.
pub(super) fn output_schema(input: &Schema, further: Further) -> SchemaRef {
    let input = if further.choices { choices::schema(input) } else { Arc::new(input.clone()) };
    let kept: Vec<_> = input
        .fields()
        .iter()
        .filter(|field| !STALE.contains(&field.name().as_str()))
        .cloned()
        .collect();
    let turns = further.turns.then(|| (TURNS, list_of(DataType::Boolean)));
    let prior = further.prior.then_some(("prior_logprob", DataType::Float64));
    let greedy = further.greedy.then_some((GREEDY, DataType::Boolean));
    with_fields(
        &Schema::new(kept),
        &added().into_iter().chain(turns).chain(prior).chain(greedy).collect::<Vec<_>>(),
    )
}

/// The batch with the columns of the scores; adds the rows to the totals.
pub(super) fn scored_batch(
    batch: &RecordBatch,
    rows: &[Scored],
    further: Further,
    totals: &mut Totals,
) -> Result<RecordBatch, StageError> {
    let perplexities: Float64Array = rows.iter().map(|row| totals.add(row)).collect();
    let prompt_tokens: Int32Array =
        rows.iter().map(|row| Some(row.tokens.prompt_tokens as i32)).collect();
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
    if further.turns {
        batch = with_column(&batch, TURNS, turns_column(rows))?;
    }
    if further.greedy {
        let greedy: BooleanArray = rows.iter().map(Scored::is_greedy).collect();
        batch = with_column(&batch, GREEDY, Arc::new(greedy))?;
    }
    Ok(batch)
}

/// The column that tells the assistant's tokens from others.
fn turns_column(rows: &[Scored]) -> ArrayRef {
    let mut lists = ListBuilder::new(BooleanBuilder::new());
    for row in rows {
        lists.append_value(row.tokens.in_turns.iter().flatten().map(|turn| Some(*turn)));
    }
    Arc::new(lists.finish())
}

/// Sums over the rows, in their order.
#[derive(Default)]
pub(super) struct Totals {
    pub rows: u64,
    tokens: u64,
    /// Response tokens with a probability.
    response_tokens: u64,
    /// Minus the sum of their log-probabilities.
    surprise: f64,
    rows_with_perplexity: u64,
    perplexities: f64,
}

impl Totals {
    /// Adds a row and returns its perplexity; `None` where no token of the response has a
    /// probability. The end of turn is a token of the response, so that an empty one has the
    /// perplexity of its end.
    fn add(&mut self, row: &Scored) -> Option<f64> {
        self.rows += 1;
        self.tokens += row.tokens.ids.len() as u64;
        let response = row.logprobs.get(row.tokens.prompt_tokens..).unwrap_or_default();
        let known = response.iter().filter(|value| !value.is_nan());
        let (n, surprise) =
            known.fold((0u64, 0.0), |(n, sum), &value| (n + 1, sum - f64::from(value)));
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

    pub(super) fn metrics(&self) -> Vec<Metric> {
        let count = |name, value: u64| metric(name, value as f64, self.rows);
        vec![
            count("rows", self.rows),
            count("tokens", self.tokens),
            count("response_tokens", self.response_tokens),
            metric(
                "mean_perplexity",
                self.perplexities / self.rows_with_perplexity as f64,
                self.rows_with_perplexity,
            ),
            metric(
                "perplexity",
                libm::exp(self.surprise / self.response_tokens as f64),
                self.response_tokens,
            ),
        ]
    }
}
