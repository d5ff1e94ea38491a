//! The rows of the scored table, each with the values that are compared.

use arrow::array::RecordBatch;

use refrain_engine::kind::{Context, StageError};

use super::relative::{self, Second};
use super::scored::{Place, Scored};

/// The rows of the table, each with the values that are compared.
pub(super) struct Rows {
    second: Option<Second>,
    /// Whether the values of the prompts are read too.
    whole: bool,
    perplexities: Vec<f64>,
    values: Vec<f64>,
}

/// The values of one row: of the whole text where something needs it, else of the response.
pub(super) struct Row<'r> {
    /// Its number in the batch.
    pub number: usize,
    pub place: Place,
    /// The perplexities under the first model.
    pub perplexities: &'r [f64],
    /// The values that are compared: perplexities, or their differences.
    pub values: &'r [f64],
    /// Tokens behind the prompt that are not the assistant's.
    pub of_others: Vec<usize>,
}

impl Row<'_> {
    /// The number of the response's tokens.
    pub(super) fn response_tokens(&self) -> usize {
        self.place.tokens - self.place.prompt - self.of_others.len()
    }

    /// Takes of the row's values those behind its prompt.
    pub(super) fn of_response<'v>(&self, values: &'v [f64]) -> &'v [f64] {
        &values[values.len() - (self.place.tokens - self.place.prompt)..]
    }
}

impl Rows {
    /// Opens the rows of `data`; `whole` says whether the values of prompts are read too.
    pub(super) fn open(ctx: &Context<'_>, hybrid: bool, whole: bool) -> Result<Rows, StageError> {
        let second = Second::open(ctx, hybrid)?;
        Ok(Rows { second, whole, perplexities: Vec::new(), values: Vec::new() })
    }

    /// Visits the rows of the next batch.
    pub(super) fn visit(
        &mut self,
        batch: &RecordBatch,
        first_row: u64,
        mut visit: impl FnMut(&Scored<'_>, Row<'_>),
    ) -> Result<(), StageError> {
        let scored = Scored::new(batch, first_row)?;
        let other = match &mut self.second {
            Some(second) if batch.num_rows() > 0 => Some(second.take(batch.num_rows())?),
            _ => None,
        };
        let second = other.as_ref().map(|other| Scored::new(other, first_row)).transpose()?;
        let mut of_second = Vec::new();
        for number in 0..batch.num_rows() {
            let place = scored.place(number)?;
            let from = if self.whole { 0 } else { place.prompt };
            scored.perplexities(place, from, &mut self.perplexities);
            let mut values = self.perplexities.as_slice();
            if let (Some(relation), Some(second), Some(other)) = (&self.second, &second, &other) {
                let there = second.place(number)?;
                relative::check_same((&scored, batch), (second, other), number, (place, there))?;
                second.perplexities(there, from, &mut of_second);
                self.values.clone_from(&self.perplexities);
                relation.relate(&of_second, &mut self.values);
                values = &self.values;
            }
            let of_others = scored.of_others(number, place)?;
            let perplexities = &self.perplexities;
            visit(&scored, Row { number, place, perplexities, values, of_others });
        }
        Ok(())
    }

    /// Checks that the second table has no further rows.
    pub(super) fn finish(self) -> Result<(), StageError> {
        self.second.map_or(Ok(()), Second::finish)
    }
}
