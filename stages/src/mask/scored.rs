//! The scores of a batch's rows, checked and read as perplexities.

use arrow::array::{Array, AsArray, Float64Array, Int32Array, ListArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use refrain_cache::columns::{column, optional_column};
use refrain_engine::kind::StageError;

use crate::scores::{check_logprob, check_perplexity};
use crate::tables::{arrow_bug, row_name};
use crate::tokens::TURNS;

/// The columns that [`Scored`] reads, where a table has them.
pub(super) const COLUMNS: [&str; 7] =
    ["id", "sample", "token_ids", "prompt_tokens", "logprobs", "perplexities", TURNS];

/// The scores of a batch.
pub(super) struct Scored<'a> {
    batch: &'a RecordBatch,
    first_row: u64,
    token_ids: &'a ListArray,
    prompt_tokens: &'a Int32Array,
    scores: &'a ListArray,
    /// The values of `scores`.
    values: Float64Array,
    /// Whether they are log-probabilities rather than perplexities.
    logarithms: bool,
    name: &'static str,
    /// Of conversations scored turn by turn, which tokens are the assistant's.
    turns: Option<&'a ListArray>,
}

/// The place of a row's tokens among the values of its batch.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) start: usize,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// All tokens.
    pub tokens: usize,
}

impl<'a> Scored<'a> {
    pub(super) fn new(batch: &'a RecordBatch, first_row: u64) -> Result<Scored<'a>, StageError> {
        let logarithms = batch.column_by_name("logprobs").is_some();
        let name = if logarithms { "logprobs" } else { "perplexities" };
        let scores = column::<ListArray>(batch, name)?;
        if !matches!(scores.value_type(), DataType::Float32 | DataType::Float64) {
            let found = refrain_cache::type_name(scores.data_type());
            return Err(StageError::failed(format!(
                "the column `{name}` is {found}, expected list<float32>"
            )));
        }
        let values = cast(scores.values(), &DataType::Float64).map_err(arrow_bug)?;
        Ok(Scored {
            batch,
            first_row,
            token_ids: column(batch, "token_ids")?,
            prompt_tokens: column(batch, "prompt_tokens")?,
            scores,
            values: values.as_primitive().clone(),
            logarithms,
            name,
            turns: optional_column(batch, TURNS)?,
        })
    }

    /// Finds the tokens of a row and checks its scores.
    ///
    /// # Errors
    /// A missing value, lists of other lengths, a score outside its range.
    pub(super) fn place(&self, row: usize) -> Result<Place, StageError> {
        let missing = [
            ("token_ids", self.token_ids.is_null(row)),
            ("prompt_tokens", self.prompt_tokens.is_null(row)),
            (self.name, self.scores.is_null(row)),
        ];
        if let Some((column, _)) = missing.iter().find(|(_, null)| *null) {
            return Err(StageError::failed(format!("{} has no `{column}`", self.row_name(row))));
        }
        let tokens = self.token_ids.value_length(row) as usize;
        let scores = self.scores.value_length(row) as usize;
        if tokens != scores {
            let (row, name) = (self.row_name(row), self.name);
            return Err(StageError::with_hint(
                format!("{row} has {tokens} `token_ids` and {scores} `{name}`"),
                "there must be one score, or null, for each token",
            ));
        }
        let prompt = self.prompt_tokens.value(row);
        let prompt = usize::try_from(prompt).ok().filter(|prompt| *prompt <= tokens);
        let prompt = prompt.ok_or_else(|| {
            let (row, prompt) = (self.row_name(row), self.prompt_tokens.value(row));
            StageError::failed(format!(
                "{row} has {tokens} tokens, but `prompt_tokens` is {prompt}"
            ))
        })?;

        let place = Place { start: self.scores.value_offsets()[row] as usize, prompt, tokens };
        self.check(row, place)?;
        Ok(place)
    }

    fn check(&self, row: usize, place: Place) -> Result<(), StageError> {
        let check = if self.logarithms { check_logprob } else { check_perplexity };
        for i in place.start + place.prompt..place.start + place.tokens {
            if self.values.is_valid(i) {
                check(self.values.value(i)).map_err(|message| {
                    StageError::with_hint(
                        format!("{}: {message}", self.row_name(row)),
                        "`logprobs` are natural logarithms of probabilities, `perplexities` their \
                         inverses",
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Puts the perplexities of a row's tokens from number `from` on into `out`, NaN where there is
    /// no prediction.
    pub(super) fn perplexities(&self, place: Place, from: usize, out: &mut Vec<f64>) {
        out.clear();
        out.extend((place.start + from..place.start + place.tokens).map(|i| {
            match (self.values.is_null(i), self.logarithms) {
                (true, _) => f64::NAN,
                (false, true) => libm::exp(-self.values.value(i)),
                (false, false) => self.values.value(i),
            }
        }));
    }

    /// The negative log-likelihoods of a row's predicted tokens from number `from` on, in nats.
    pub(super) fn nlls(&self, place: Place, from: usize) -> impl Iterator<Item = f64> {
        (place.start + from..place.start + place.tokens).filter(|&i| self.values.is_valid(i)).map(
            |i| match self.logarithms {
                true => -self.values.value(i),
                false => libm::log(self.values.value(i)),
            },
        )
    }

    /// The tokens behind a row's prompt that are not the assistant's, counted from its end.
    ///
    /// # Errors
    /// A `response_mask` of another length.
    pub(super) fn of_others(&self, row: usize, place: Place) -> Result<Vec<usize>, StageError> {
        let Some(turns) = self.turns.filter(|turns| turns.is_valid(row)) else {
            return Ok(Vec::new());
        };
        let turns = turns.value(row);
        let Some(turns) = turns.as_boolean_opt().filter(|turns| turns.len() == place.tokens) else {
            let row = self.row_name(row);
            return Err(StageError::failed(format!(
                "the `response_mask` of {row} does not hold a truth for each of its {} tokens",
                place.tokens
            )));
        };
        let others = (place.prompt..place.tokens).filter(|&i| !turns.value(i));
        Ok(others.map(|i| i - place.prompt).collect())
    }

    /// The token ids of a row.
    pub(super) fn token_ids(&self, row: usize) -> arrow::array::ArrayRef {
        self.token_ids.value(row)
    }

    /// Names a row in messages.
    pub(super) fn row_name(&self, row: usize) -> String {
        row_name(self.batch, self.first_row, row)
    }
}
