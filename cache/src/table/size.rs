//! The size of rows, counted from their values alone, so that limits in bytes are a matter of rows.

use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;

/// Returns the bytes of some rows of a batch with normal types. Sizes add up: two neighbouring
/// ranges have the sum of their bytes, whatever the batches they lie in.
pub(super) fn batch_bytes(batch: &RecordBatch, rows: Range<usize>) -> u64 {
    batch.columns().iter().map(|column| array_bytes(column, rows.clone())).sum()
}

/// Returns the largest number of rows from `start` on, `limit` at most, that take `bytes` or less.
pub(super) fn rows_within(batch: &RecordBatch, start: usize, limit: usize, bytes: u64) -> usize {
    let (mut fits, mut tried) = (0, limit);
    while fits < tried {
        let middle = (fits + tried).div_ceil(2);
        if batch_bytes(batch, start..start + middle) <= bytes {
            fits = middle;
        } else {
            tried = middle - 1;
        }
    }
    fits
}

fn array_bytes(array: &dyn Array, rows: Range<usize>) -> u64 {
    match array.data_type() {
        DataType::Utf8 => offset_bytes(array, array.as_string::<i32>().value_offsets(), rows),
        DataType::Binary => offset_bytes(array, array.as_binary::<i32>().value_offsets(), rows),
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            let offsets = lists.value_offsets();
            let values = |range: Range<usize>| {
                let values = offsets[range.start] as usize..offsets[range.end] as usize;
                array_bytes(lists.values(), values)
            };
            OFFSET * rows.len() as u64 + valid_bytes(array, rows, values)
        }
        DataType::Struct(_) => {
            let columns = array.as_struct().columns().iter();
            columns.map(|column| array_bytes(column, rows.clone())).sum()
        }
        plain => rows.len() as u64 * fixed_width(plain),
    }
}

/// Bytes of an offset of a text or a list.
const OFFSET: u64 = 4;

fn offset_bytes(array: &dyn Array, offsets: &[i32], rows: Range<usize>) -> u64 {
    let values = |range: Range<usize>| (offsets[range.end] - offsets[range.start]) as u64;
    OFFSET * rows.len() as u64 + valid_bytes(array, rows, values)
}

/// Sums `bytes` over the rows that are not null: a null may have bytes behind it that are no part
/// of its row.
fn valid_bytes(array: &dyn Array, rows: Range<usize>, bytes: impl Fn(Range<usize>) -> u64) -> u64 {
    if array.null_count() == 0 {
        return bytes(rows);
    }
    rows.filter(|row| array.is_valid(*row)).map(|row| bytes(row..row + 1)).sum()
}

/// Returns the bytes of a value of a type whose values are all of one size.
fn fixed_width(data_type: &DataType) -> u64 {
    match data_type {
        DataType::Boolean => 1,
        DataType::FixedSizeBinary(width) => *width as u64,
        other => other.primitive_width().unwrap_or(0) as u64,
    }
}
