//! Groups of rows that are equal in some columns, numbered in the order of their first rows.

use std::collections::HashMap;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::row::{RowConverter, SortField};

use refrain_engine::kind::StageError;

use crate::tables::arrow_bug;

/// The groups met so far.
#[derive(Default)]
pub(super) struct Groups {
    numbers: HashMap<Box<[u8]>, u32>,
    /// The number of each group's first row.
    first_rows: Vec<u64>,
}

impl Groups {
    /// Returns the group of each row of a batch. Without columns all rows are one group; rows
    /// without a value are one of their own.
    pub(super) fn of_rows(
        &mut self,
        batch: &RecordBatch,
        first_row: u64,
        columns: &[&str],
    ) -> Result<Vec<u32>, StageError> {
        let columns: Vec<ArrayRef> =
            columns.iter().filter_map(|name| batch.column_by_name(name)).cloned().collect();
        if columns.is_empty() {
            if self.first_rows.is_empty() && batch.num_rows() > 0 {
                self.first_rows.push(first_row);
            }
            return Ok(vec![0; batch.num_rows()]);
        }

        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).map_err(arrow_bug)?;
        let keys = converter.convert_columns(&columns).map_err(arrow_bug)?;
        let mut numbers = Vec::with_capacity(batch.num_rows());
        for (row, key) in (first_row..).zip(keys.iter()) {
            let next = self.first_rows.len() as u32;
            let number = match self.numbers.get(key.as_ref()) {
                Some(number) => *number,
                None => {
                    self.first_rows.push(row);
                    *self.numbers.entry(key.as_ref().into()).or_insert(next)
                }
            };
            numbers.push(number);
        }
        Ok(numbers)
    }

    /// The number of groups.
    pub(super) fn count(&self) -> u64 {
        self.first_rows.len() as u64
    }

    /// The number of each group's first row.
    pub(super) fn first_rows(&self) -> &[u64] {
        &self.first_rows
    }
}
