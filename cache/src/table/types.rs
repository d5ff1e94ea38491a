//! The normal types of a table's columns, and their names for people.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};

use super::TableError;

/// The name of a list's values, in our files as in Arrow's builders.
const ITEM: &str = "item";

/// The schema of a table after writing and reading: every column nullable, no metadata, and of the
/// types that mean the same one (`utf8`, large `utf8`, `utf8` views and dictionaries of them, …)
/// always the plainest.
///
/// # Errors
/// [`TableError::Unsupported`] for a type that does not come back from Parquet as it was; [`TableError::Duplicate`].
pub fn normal_schema(schema: &Schema) -> Result<SchemaRef, TableError> {
    let mut names = HashSet::new();
    let mut fields = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        if !names.insert(field.name()) {
            return Err(TableError::Duplicate { column: field.name().clone() });
        }
        let normal = normal_type(field.data_type()).ok_or_else(|| TableError::Unsupported {
            column: field.name().clone(),
            found: type_name(field.data_type()),
        })?;
        fields.push(Field::new(field.name(), normal, true));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// Converts a batch's columns to [`normal_schema`]; cheap where they are normal already.
///
/// # Errors
/// See [`normal_schema`]; [`TableError::Rows`] when a value does not fit the normal type.
pub fn normal_batch(batch: &RecordBatch) -> Result<RecordBatch, TableError> {
    let schema = normal_schema(batch.schema_ref())?;
    if &schema == batch.schema_ref() {
        return Ok(batch.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let columns: Result<Vec<ArrayRef>, TableError> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(column.clone()),
            false => Ok(cast_with_options(column, field.data_type(), &options)?),
        })
        .collect();
    // A batch without columns has its row count nowhere else.
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema, columns?, &rows)?)
}

/// Returns the normal form of a type; `None` if Parquet has none.
fn normal_type(data_type: &DataType) -> Option<DataType> {
    use DataType as T;
    Some(match data_type {
        T::LargeUtf8 | T::Utf8View => T::Utf8,
        T::LargeBinary | T::BinaryView => T::Binary,
        T::List(item)
        | T::LargeList(item)
        | T::ListView(item)
        | T::LargeListView(item)
        | T::FixedSizeList(item, _) => {
            T::List(Arc::new(Field::new(ITEM, normal_type(item.data_type())?, true)))
        }
        T::Dictionary(_, value) => normal_type(value)?,
        T::RunEndEncoded(_, value) => normal_type(value.data_type())?,
        // Parquet has no struct without fields.
        T::Struct(fields) if fields.is_empty() => return None,
        T::Struct(fields) => {
            let normal = |field: &FieldRef| {
                Some(Field::new(field.name(), normal_type(field.data_type())?, true))
            };
            T::Struct(fields.iter().map(normal).collect::<Option<_>>()?)
        }
        // Parquet counts time from milliseconds on, and keeps of a zone that there is one.
        T::Timestamp(unit, zone) => {
            T::Timestamp(at_least_millis(*unit), zone.as_ref().map(|_| "UTC".into()))
        }
        T::Time32(_) => T::Time32(TimeUnit::Millisecond),
        T::Date64 => T::Timestamp(TimeUnit::Millisecond, None),
        T::Null
        | T::Boolean
        | T::Int8
        | T::Int16
        | T::Int32
        | T::Int64
        | T::UInt8
        | T::UInt16
        | T::UInt32
        | T::UInt64
        | T::Float16
        | T::Float32
        | T::Float64
        | T::Utf8
        | T::Binary
        | T::FixedSizeBinary(_)
        | T::Date32
        | T::Time64(_)
        | T::Decimal128(..) => data_type.clone(),
        T::Decimal32(precision, scale) | T::Decimal64(precision, scale) => {
            T::Decimal128(*precision, *scale)
        }
        T::Decimal256(..) | T::Duration(_) | T::Interval(_) | T::Map(..) | T::Union(..) => {
            return None;
        }
    })
}

fn at_least_millis(unit: TimeUnit) -> TimeUnit {
    if unit == TimeUnit::Second { TimeUnit::Millisecond } else { unit }
}

/// Returns the name of a type for people, such as `utf8`, `int64` or `list<struct<role: utf8,
/// content: utf8>>`.
pub fn type_name(data_type: &DataType) -> String {
    use DataType as T;
    match data_type {
        T::Boolean => "bool".to_owned(),
        T::List(item)
        | T::LargeList(item)
        | T::ListView(item)
        | T::LargeListView(item)
        | T::FixedSizeList(item, _) => {
            format!("list<{}>", type_name(item.data_type()))
        }
        T::Dictionary(_, value) => type_name(value),
        T::RunEndEncoded(_, value) => type_name(value.data_type()),
        T::LargeUtf8 | T::Utf8View => "utf8".to_owned(),
        T::LargeBinary | T::BinaryView => "binary".to_owned(),
        T::Struct(fields) => {
            let named =
                |field: &FieldRef| format!("{}: {}", field.name(), type_name(field.data_type()));
            format!("struct<{}>", fields.iter().map(named).collect::<Vec<_>>().join(", "))
        }
        T::Map(..) => "map".to_owned(),
        T::Union(..) => "union".to_owned(),
        // The rest have short names without names of fields inside.
        plain => plain.to_string().to_lowercase(),
    }
}
