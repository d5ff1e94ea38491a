//! Builds the list columns of tokens.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, Int32Builder, ListBuilder};

/// A column of lists of int32. Token ids and byte offsets of one row are far below its limit.
pub(crate) fn int_lists<'a>(rows: impl Iterator<Item = &'a [u32]>) -> ArrayRef {
    let mut lists = ListBuilder::new(Int32Builder::new());
    for row in rows {
        for &number in row {
            lists.values().append_value(number as i32);
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// A column of lists of float32, where not-a-number stands for null.
pub(crate) fn float_lists<'a>(rows: impl Iterator<Item = &'a [f32]>) -> ArrayRef {
    let mut lists = ListBuilder::new(Float32Builder::new());
    for row in rows {
        for &number in row {
            lists.values().append_option((!number.is_nan()).then_some(number));
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}
