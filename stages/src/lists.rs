//! Builds the list columns of tokens.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, Int32Builder, ListBuilder};

/// A column of lists of int32. Token ids and byte offsets of one row are far below its limit.
pub(crate) fn int_lists<'a>(rows: impl Iterator<Item = &'a [u32]>) -> ArrayRef {
    optional_int_lists(rows.map(Some))
}

/// A column of lists of int32 that may be null.
pub(crate) fn optional_int_lists<'a>(rows: impl Iterator<Item = Option<&'a [u32]>>) -> ArrayRef {
    let mut lists = ListBuilder::new(Int32Builder::new());
    for row in rows {
        for &number in row.unwrap_or_default() {
            lists.values().append_value(number as i32);
        }
        lists.append(row.is_some());
    }
    Arc::new(lists.finish())
}

/// A column of lists of float32, where not-a-number stands for null.
pub(crate) fn float_lists<'a>(rows: impl Iterator<Item = &'a [f32]>) -> ArrayRef {
    optional_float_lists(rows.map(Some))
}

/// A column as [`float_lists`] makes it, of lists that may be null.
pub(crate) fn optional_float_lists<'a>(rows: impl Iterator<Item = Option<&'a [f32]>>) -> ArrayRef {
    let mut lists = ListBuilder::new(Float32Builder::new());
    for row in rows {
        for &number in row.unwrap_or_default() {
            lists.values().append_option((!number.is_nan()).then_some(number));
        }
        lists.append(row.is_some());
    }
    Arc::new(lists.finish())
}
