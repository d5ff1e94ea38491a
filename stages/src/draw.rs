//! Counter-based random numbers: a draw is a pure function of what it is for, never of the order of
//! drawing.

use arrow::array::{Array, Int32Array, RecordBatch, StringArray};

use refrain_cache::TableError;
use refrain_cache::columns::optional_column;

pub use refrain_engine::statistics::Draws;

/// Gives each row of a batch its own stream: by `id` and `sample`, or by its number in a table
/// without ids.
#[derive(Debug)]
pub struct RowDraws<'a> {
    purpose: &'static str,
    seed: u64,
    first_row: u64,
    ids: Option<&'a StringArray>,
    samples: Option<&'a Int32Array>,
}

impl<'a> RowDraws<'a> {
    /// The streams of a batch whose first row has the number `first_row` in its table.
    ///
    /// # Errors
    /// [`TableError::Type`] when `id` is no text or `sample` no int32.
    pub fn new(
        purpose: &'static str,
        seed: u64,
        batch: &'a RecordBatch,
        first_row: u64,
    ) -> Result<RowDraws<'a>, TableError> {
        let (ids, samples) = (optional_column(batch, "id")?, optional_column(batch, "sample")?);
        Ok(RowDraws { purpose, seed, first_row, ids, samples })
    }

    /// The stream of a row of the batch.
    pub fn of(&self, row: usize) -> Draws {
        let number = (self.first_row + row as u64).to_le_bytes();
        match self.ids.filter(|ids| ids.is_valid(row)) {
            Some(ids) => {
                let sample = self
                    .samples
                    .filter(|samples| samples.is_valid(row))
                    .map_or(0, |s| s.value(row));
                Draws::new(
                    self.purpose,
                    self.seed,
                    &[b"id", ids.value(row).as_bytes(), &sample.to_le_bytes()],
                )
            }
            None => Draws::new(self.purpose, self.seed, &[b"row", &number]),
        }
    }
}
