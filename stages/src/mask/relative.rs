//! `relative_to`: the perplexities of a second model beside those of the first, token by token.

use arrow::array::{Array, ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;

use refrain_cache::TableReader;
use refrain_cache::columns::optional_column;
use refrain_engine::kind::{Context, StageError};

use super::scored::{COLUMNS, Place, Scored};
use crate::tables::{self, BATCH_ROWS, arrow_bug};

/// The parameter that names the second table.
pub(super) const INPUT: &str = "relative_to";

/// The value of two models' perplexities that is compared with the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// The difference, second minus first.
    Difference,
    /// The first one's, and infinity where the second one's is higher.
    Hybrid,
}

/// The second table, read in step with the first.
pub(super) struct Second {
    relation: Relation,
    batches: Box<dyn Iterator<Item = Result<RecordBatch, StageError>>>,
    /// Rows that were read and not yet taken.
    rest: Option<RecordBatch>,
}

impl Second {
    /// Opens the second table, if there is one.
    pub(super) fn open(ctx: &Context<'_>, hybrid: bool) -> Result<Option<Second>, StageError> {
        if !ctx.inputs.contains_key(INPUT) {
            return Ok(None);
        }
        let columns = tables::present(ctx, INPUT, &COLUMNS)?;
        let reader = TableReader::open(ctx.table(INPUT)?)?;
        let batches = reader.batches(Some(&columns), BATCH_ROWS)?;
        let batches = batches.map(|batch| batch.map_err(StageError::from));
        let relation = if hybrid { Relation::Hybrid } else { Relation::Difference };
        Ok(Some(Second { relation, batches: Box::new(batches), rest: None }))
    }

    /// Takes the next `count` rows.
    ///
    /// # Errors
    /// The table ends before.
    pub(super) fn take(&mut self, count: usize) -> Result<RecordBatch, StageError> {
        let mut parts: Vec<RecordBatch> = Vec::new();
        let mut missing = count;
        while missing > 0 {
            let batch = match self.rest.take() {
                Some(batch) => batch,
                None => self.batches.next().ok_or_else(|| other_rows("it has fewer rows"))??,
            };
            let taken = missing.min(batch.num_rows());
            parts.push(batch.slice(0, taken));
            if taken < batch.num_rows() {
                self.rest = Some(batch.slice(taken, batch.num_rows() - taken));
            }
            missing -= taken;
        }
        match parts.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(StageError::bug("a batch without rows")),
            [first, ..] => concat_batches(&first.schema(), &parts).map_err(arrow_bug),
        }
    }

    /// Checks that no rows are left.
    ///
    /// # Errors
    /// There are some.
    pub(super) fn finish(mut self) -> Result<(), StageError> {
        match self.rest.is_some() || self.batches.next().transpose()?.is_some() {
            true => Err(other_rows("it has more rows")),
            false => Ok(()),
        }
    }

    /// Turns the first model's perplexities of a row into the values that are compared.
    pub(super) fn relate(&self, second: &[f64], values: &mut [f64]) {
        for (value, second) in values.iter_mut().zip(second) {
            *value = match self.relation {
                Relation::Difference => second - *value,
                Relation::Hybrid if second > value => f64::INFINITY,
                Relation::Hybrid => *value,
            };
        }
    }
}

/// Checks that two rows are one row scored twice.
pub(super) fn check_same(
    (first, a): (&Scored<'_>, &RecordBatch),
    (second, b): (&Scored<'_>, &RecordBatch),
    row: usize,
    places: (Place, Place),
) -> Result<(), StageError> {
    let same = text(a, "id", row)? == text(b, "id", row)? && sample(a, row)? == sample(b, row)?;
    if !same {
        return Err(other_rows(&format!(
            "{} is {} there",
            first.row_name(row),
            second.row_name(row)
        )));
    }
    let ids = |scored: &Scored<'_>| -> ArrayRef { scored.token_ids(row) };
    if places.0.prompt != places.1.prompt || ids(first).to_data() != ids(second).to_data() {
        let row = first.row_name(row);
        return Err(StageError::with_hint(
            format!("the tokens of {row} differ from those in `{INPUT}`"),
            "score both tables with one tokenizer and the same parameters",
        ));
    }
    Ok(())
}

fn text<'b>(batch: &'b RecordBatch, name: &str, row: usize) -> Result<Option<&'b str>, StageError> {
    let column = optional_column::<StringArray>(batch, name)?;
    Ok(column.filter(|column| column.is_valid(row)).map(|column| column.value(row)))
}

fn sample(batch: &RecordBatch, row: usize) -> Result<Option<i32>, StageError> {
    let column = optional_column::<Int32Array>(batch, "sample")?;
    Ok(column.filter(|column| column.is_valid(row)).map(|column| column.value(row)))
}

fn other_rows(why: &str) -> StageError {
    StageError::with_hint(
        format!("`{INPUT}` does not hold the rows of `data`: {why}"),
        "score the table that `data` was scored from, with the other model",
    )
}
