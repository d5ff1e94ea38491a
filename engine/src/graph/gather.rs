//! Puts the tables of all nodes of a stage under each other, with the axes as their first columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use refrain_cache::{Artifact, Cache, TableReader};

use crate::kind::{Input, StageError, same_type, type_name};

/// Rows that are held at once.
const BATCH_ROWS: usize = 4096;

/// Writes the gathered table; `labels` has the axes' values for each table.
pub(crate) fn gather(
    cache: &Cache,
    axes: &[String],
    labels: &[Vec<String>],
    tables: &[&Input],
) -> Result<Artifact, StageError> {
    let first = tables.first().ok_or_else(|| StageError::bug("there is nothing to gather"))?;
    let columns: Vec<FieldRef> = TableReader::open(first.path())?
        .schema()
        .fields()
        .iter()
        .filter(|f| !axes.contains(f.name()))
        .map(|f| Arc::new(f.as_ref().clone().with_nullable(true)))
        .collect();
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
