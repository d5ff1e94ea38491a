//! The agreement of two tables' masks: response tokens of the rows that both have, by `id` and
//! `sample`.

use std::collections::HashMap;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type};

use refrain_cache::TableReader;
use refrain_cache::columns::column;
use refrain_engine::kind::{Context, StageError};

use crate::tables;

/// The columns that are needed.
pub(super) const MASK: &str = "loss_mask";
const COLUMNS: [&str; 4] = ["id", "sample", MASK, "prompt_tokens"];

/// The masks of a table.
pub(super) struct Masks {
    /// For each row that has a mask its number, and which of its response's tokens are trained on.
    rows: Vec<(u64, Vec<bool>)>,
    /// The places of rows by `id` and `sample`.
    places: HashMap<(String, i32), usize>,
    /// The key of each place.
    keys: Vec<(String, i32)>,
}

/// Response tokens of rows that both tables have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Agreement {
    /// Tokens that are compared.
    pub tokens: u64,
    /// Tokens on which both masks say the same.
    pub equal: u64,
    /// Tokens that both leave out.
    pub both: u64,
    /// Tokens that either leaves out.
    pub either: u64,
}

impl Agreement {
    /// Returns the share of the tokens on which both say the same.
    pub fn share(self) -> f64 {
        self.equal as f64 / self.tokens as f64
    }

    /// Returns the tokens that both leave out per token that either does.
    pub fn jaccard(self) -> f64 {
        self.both as f64 / self.either as f64
    }
}

impl Masks {
    pub fn read(ctx: &Context<'_>, table: &Path) -> Result<Masks, StageError> {
        let reader = TableReader::open(table)?;
        let known = |name: &&str| reader.schema().field_with_name(name).is_ok();
        let wanted: Vec<&str> = COLUMNS.into_iter().filter(known).collect();
        let mut masks = Masks { rows: Vec::new(), places: HashMap::new(), keys: Vec::new() };
        let mut first = 0;
        for batch in reader.batches(Some(&wanted), tables::BATCH_ROWS)? {
            ctx.cancel.check()?;
            let batch = batch?;
            let ids = column::<StringArray>(&batch, "id")?;
            // A table of another program may have longer numbers.
            let numbers = |name: &str| {
                let column =
                    batch.column_by_name(name).map(|column| cast(column, &DataType::Int32));
                column.transpose().map_err(tables::arrow_bug)
            };
            let (samples, prompts) = (numbers("sample")?, numbers("prompt_tokens")?);
            let number = |column: &Option<ArrayRef>, row| {
                let column = column.as_ref().map(|column| column.as_primitive::<Int32Type>());
                column.filter(|column| column.is_valid(row)).map_or(0, |column| column.value(row))
            };
            let lists = batch.column_by_name(MASK).and_then(|lists| lists.as_list_opt::<i32>());
            let lists = lists.ok_or_else(|| StageError::bug("the masks are gone"))?;
            for row in (0..batch.num_rows()).filter(|row| lists.is_valid(*row)) {
                let values = lists.value(row);
                let values = values.as_boolean_opt();
                let values = values.ok_or_else(|| StageError::bug("a mask is not of truths"))?;
                let skip = number(&prompts, row).max(0) as usize;
                let mask = values.iter().skip(skip).map(|value| value == Some(true)).collect();
                let id = if ids.is_valid(row) { ids.value(row) } else { "" };
                let key = (id.to_owned(), number(&samples, row));
                masks.places.insert(key.clone(), masks.rows.len());
                masks.keys.push(key);
                masks.rows.push((first + row as u64, mask));
            }
            first += batch.num_rows() as u64;
        }
        Ok(masks)
    }

    /// Checks that rows that both have are of the same number of tokens.
    ///
    /// # Errors
    /// The first row that is not.
    pub fn check(&self, other: &Masks) -> Result<(), StageError> {
        for ((_, mask), key) in self.rows.iter().zip(&self.keys) {
            let Some(place) = other.places.get(key) else { continue };
            let (here, there) = (mask.len(), other.rows[*place].1.len());
            if here != there {
                let (id, sample) = key;
                return Err(StageError::with_hint(
                    format!(
                        "the response of `{id}`, sample {sample}, has {here} tokens here and \
                         {there} in `against`"
                    ),
                    "masks are compared token by token: mask tables that one tokenizer scored",
                ));
            }
        }
        Ok(())
    }

    /// Chooses rows by their numbers.
    pub fn of(&self, wanted: impl Fn(u64) -> bool) -> MaskRows<'_> {
        let chosen = (0..self.rows.len()).filter(|place| wanted(self.rows[*place].0));
        MaskRows { masks: self, places: chosen.collect() }
    }
}

/// Some rows of a table with masks.
pub(super) struct MaskRows<'a> {
    masks: &'a Masks,
    places: Vec<usize>,
}

impl MaskRows<'_> {
    /// Compares the masks with those of another table.
    pub fn agreement(&self, other: &MaskRows<'_>) -> Agreement {
        let mut found = Agreement::default();
        for place in &self.places {
            let Some(there) = other.masks.places.get(&self.masks.keys[*place]) else { continue };
            for (a, b) in self.masks.rows[*place].1.iter().zip(&other.masks.rows[*there].1) {
                found.tokens += 1;
                found.equal += u64::from(a == b);
                found.both += u64::from(!a && !b);
                found.either += u64::from(!a || !b);
            }
        }
        found
    }
}
