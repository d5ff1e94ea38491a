//! Typed access to the columns of a batch, with errors that name the column.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray, StructArray,
};
use arrow::datatypes::{Field, Schema};

use super::{TableError, missing, type_name};

/// An array type that [`column()`] and [`list_column`] can be asked for.
pub trait ColumnArray: Array + 'static {
    /// The name of the type in error messages.
    const NAME: &'static str;
    /// The name of a list of the type in error messages.
    const LIST_NAME: &'static str;
}

macro_rules! column_array {
    ($($array:ty = $name:literal),* $(,)?) => {$(
        impl ColumnArray for $array {
            const NAME: &'static str = $name;
            const LIST_NAME: &'static str = concat!("list<", $name, ">");
        }
    )*};
}

column_array! {
    StringArray = "utf8",
    Int32Array = "int32",
    Int64Array = "int64",
    Float32Array = "float32",
    Float64Array = "float64",
    BooleanArray = "bool",
    ListArray = "a list",
    StructArray = "a struct",
}

/// Returns the column `name` as an array of type `T`. Nothing is cast.
///
/// # Errors
/// [`TableError::Missing`] and [`TableError::Type`].
pub fn column<'a, T: ColumnArray>(batch: &'a RecordBatch, name: &str) -> Result<&'a T, TableError> {
    let array = any_column(batch, name)?;
    array.as_any().downcast_ref().ok_or_else(|| TableError::Type {
        column: name.to_owned(),
        found: type_name(array.data_type()),
        expected: T::NAME,
    })
}

/// Returns the column `name` as an array of type `T`, or `None` if there is no such column.
///
/// # Errors
/// [`TableError::Type`].
pub fn optional_column<'a, T: ColumnArray>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<Option<&'a T>, TableError> {
    match batch.column_by_name(name) {
        Some(_) => column(batch, name).map(Some),
        None => Ok(None),
    }
}

/// Returns the column `name` as lists, which hold offsets and nulls, and their values of type `T`.
///
/// The values of row `i` are those from `lists.value_offsets()[i]` to `lists.value_offsets()[i +
/// 1]`.
///
/// # Errors
/// [`TableError::Missing`] and [`TableError::Type`].
pub fn list_column<'a, T: ColumnArray>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<(&'a ListArray, &'a T), TableError> {
    let array = any_column(batch, name)?;
    let lists = array.as_any().downcast_ref::<ListArray>();
    let values = lists.and_then(|lists| lists.values().as_any().downcast_ref());
    lists.zip(values).ok_or_else(|| TableError::Type {
        column: name.to_owned(),
        found: type_name(array.data_type()),
        expected: T::LIST_NAME,
    })
}

/// Returns the batch with the column `name` replaced in its position, or added behind the others.
///
/// # Errors
/// [`TableError::Rows`] when the array has another length than the batch.
pub fn with_column(
    batch: &RecordBatch,
    name: &str,
    array: ArrayRef,
) -> Result<RecordBatch, TableError> {
    let field = Arc::new(Field::new(name, array.data_type().clone(), true));
    let mut fields = batch.schema_ref().fields().to_vec();
    let mut columns = batch.columns().to_vec();
    match batch.schema_ref().index_of(name) {
        Ok(position) => {
            fields[position] = field;
            columns[position] = array;
        }
        Err(_) => {
            fields.push(field);
            columns.push(array);
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// Returns the batch without the column `name`.
///
/// # Errors
/// [`TableError::Rows`] when Arrow refuses.
pub fn without_column(batch: &RecordBatch, name: &str) -> Result<RecordBatch, TableError> {
    let kept: Vec<usize> =
        (0..batch.num_columns()).filter(|&i| batch.schema_ref().field(i).name() != name).collect();
    Ok(batch.project(&kept)?)
}

fn any_column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, TableError> {
    batch.column_by_name(name).ok_or_else(|| missing(name, batch.schema_ref()))
}
