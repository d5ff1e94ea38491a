//! Concatenates the tables of all nodes of a stage, with the axes as first columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use refrain_cache::{Artifact, Cache, TableReader};

use crate::kind::{Input, StageError, same_type, type_name};

/// Rows per batch.
const BATCH_ROWS: usize = 4096;

/// The hint at an axis that is named like a column.
pub(super) const COLLISION_HINT: &str =
    "rename the axis, or the column in the stage or source that makes it";

/// The message at an axis that is named like a column.
pub(super) fn collision(axis: &str) -> String {
    format!("gathering adds the axis `{axis}` as a column, but the tables have a column `{axis}`")
}

/// Writes the gathered table; `labels` has the axes' values for each table.
pub(crate) fn gather(
    cache: &Cache,
    axes: &[String],
    labels: &[Vec<String>],
    tables: &[&Input],
) -> Result<Artifact, StageError> {
    let first = tables.first().ok_or_else(|| StageError::bug("there is nothing to gather"))?;
    let reader = TableReader::open(first.path())?;
    let read = reader.schema();
    if let Some(axis) = axes.iter().find(|axis| read.column_with_name(axis).is_some()) {
        return Err(StageError::with_hint(collision(axis), COLLISION_HINT));
    }
    let columns: Vec<FieldRef> =
        read.fields().iter().map(|f| Arc::new(f.as_ref().clone().with_nullable(true))).collect();
    let mut fields: Vec<FieldRef> =
        axes.iter().map(|a| Arc::new(Field::new(a, DataType::Utf8, false))).collect();
    fields.extend(columns.iter().cloned());
    let schema = Arc::new(Schema::new(fields));

    let mut writer = cache.new_table(schema.clone())?;
    for (table, labels) in tables.iter().zip(labels) {
        let reader = TableReader::open(table.path())?;
        for batch in reader.batches(None, BATCH_ROWS)? {
            writer.write(&under(&schema, &columns, labels, &batch?)?)?;
        }
    }
    Ok(cache.store_table(writer)?)
}

fn under(
    schema: &SchemaRef,
    columns: &[FieldRef],
    labels: &[String],
    batch: &RecordBatch,
) -> Result<RecordBatch, StageError> {
    let rows = batch.num_rows();
    let label = |l: &String| {
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(l, rows))) as ArrayRef
    };
    let mut arrays: Vec<ArrayRef> = labels.iter().map(label).collect();
    for field in columns {
        let column = batch.column_by_name(field.name()).ok_or_else(|| {
            StageError::failed(format!(
                "the gathered tables differ: one has no column `{}`",
                field.name()
            ))
        })?;
        if !same_type(column.data_type(), field.data_type()) {
            return Err(StageError::failed(format!(
                "the gathered tables differ: column `{}` is {} in one and {} in another",
                field.name(),
                type_name(field.data_type()),
                type_name(column.data_type())
            )));
        }
        arrays.push(column.clone());
    }
    RecordBatch::try_new(schema.clone(), arrays).map_err(|e| StageError::failed(e.to_string()))
}
