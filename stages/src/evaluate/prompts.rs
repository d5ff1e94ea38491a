//! Gathers what the samples of each prompt add up to.

use std::collections::HashMap;

use arrow::array::{Array, RecordBatch, StringArray};

use refrain_cache::TableError;
use refrain_cache::columns::optional_column;

/// Sums for each prompt, in the order in which prompts first appear. Rows of one `id` are samples of one prompt; a row
/// without an id is a prompt of its own.
#[derive(Debug, Default)]
pub(super) struct PerPrompt<T> {
    numbers: HashMap<Box<str>, usize>,
    sums: Vec<T>,
}

impl<T: Default> PerPrompt<T> {
    /// The ids of a batch, to be given to [`PerPrompt::of_row`].
    pub fn ids(batch: &RecordBatch) -> Result<Option<&StringArray>, TableError> {
        optional_column(batch, "id")
    }

    /// The sums of the prompt of a row.
    pub fn of_row(&mut self, ids: Option<&StringArray>, row: usize) -> &mut T {
        let next = self.sums.len();
        let number = match ids.filter(|ids| ids.is_valid(row)).map(|ids| ids.value(row)) {
            None => next,
            Some(id) => match self.numbers.get(id) {
                Some(number) => *number,
                None => *self.numbers.entry(id.into()).or_insert(next),
            },
        };
        if number == next {
            self.sums.push(T::default());
        }
        &mut self.sums[number]
    }

    /// All sums.
    pub fn sums(&self) -> &[T] {
        &self.sums
    }

    /// The id of the first prompt whose sums meet a condition; empty when it has none.
    pub fn find(&self, condition: impl Fn(&T) -> bool) -> Option<(&str, &T)> {
        let number = self.sums.iter().position(condition)?;
        let id = self.numbers.iter().find(|(_, known)| **known == number).map_or("", |(id, _)| id);
        Some((id, &self.sums[number]))
    }
}
