//! Makes a row of each element of a list: the row's own columns, and the fields of the element, which
//! win.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, RecordBatch, RecordBatchOptions, UInt32Array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use refrain_cache::TableError;

use crate::source::piece::Element;
use crate::source::{SourceError, SourceSpec};

/// Returns the columns after `column` is exploded, and the names of those that its elements have;
/// they must have those `elsewhere`, which `drop` names and the file lacks.
pub(super) fn exploded_schema(
    spec: &SourceSpec,
    schema: &SchemaRef,
    column: &str,
    elsewhere: &[&str],
) -> Result<(SchemaRef, Vec<String>), SourceError> {
    let names = |schema: &Schema| -> Vec<String> {
        schema.fields().iter().map(|field| field.name().clone()).collect()
    };
    let Ok(list) = schema.field_with_name(column) else {
        return Err(spec.nothing_to_explode(&names(schema), column));
    };
    let DataType::List(item) = list.data_type() else {
        let found = crate::kind::type_name(list.data_type());
        let message = format!("cannot be exploded by `{column}`, which is {found}, not a list");
        return Err(spec.option_error("explode", message, None));
    };
    let own: Vec<Arc<Field>> = match item.data_type() {
        DataType::Struct(fields) => fields.iter().cloned().collect(),
        scalar => vec![Arc::new(Field::new(column, scalar.clone(), true))],
    };
    let all: Vec<String> = own.iter().map(|field| field.name().clone()).collect();
    if let Some(name) = elsewhere.iter().find(|name| !all.iter().any(|own| own == *name)) {
        let there: Vec<String> = names(schema).into_iter().chain(all).collect();
        return Err(spec.nothing_to_drop(&there, name));
    }

    let is_dropped = |name: &String| spec.drop.contains(name);
    let is_own = |name: &String| all.contains(name);
    let kept = schema.fields().iter().filter(|f| f.name() != column && !is_own(f.name()));
    let own = own.iter().filter(|field| !is_dropped(field.name()));
    let fields: Vec<Arc<Field>> = kept.chain(own).cloned().collect();
    let of_elements = all.iter().filter(|name| !is_dropped(name)).cloned().collect();
    Ok((Arc::new(Schema::new(fields)), of_elements))
}

/// Explodes the rows of a batch, and returns where each new one comes from.
pub(super) fn exploded(
    spec: &SourceSpec,
    batch: &RecordBatch,
    column: &str,
) -> Result<(RecordBatch, Vec<Element>), SourceError> {
    let list: Option<&ListArray> = batch.column_by_name(column).and_then(|c| c.as_list_opt());
    let Some(list) = list else {
        return Err(spec.content(format!("`{column}` is not a list, which `explode` needs")));
    };
    let mut elements = Vec::new();
    let mut at = Vec::new();
    for (row, bounds) in list.value_offsets().windows(2).enumerate() {
        if list.is_null(row) {
            continue;
        }
        for (place, value) in (bounds[0]..bounds[1]).enumerate() {
            elements.push(Element { row: row as u32, at: place as i32 });
            at.push(value as u32);
        }
    }
    let rows = UInt32Array::from_iter_values(elements.iter().map(|element| element.row));
    let values = take(list.values(), &UInt32Array::from(at), None).map_err(TableError::from)?;

    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    match values.as_struct_opt() {
        // A field of an element that is null is null.
        Some(fields) => {
            for (name, field) in fields.column_names().into_iter().zip(fields.columns()) {
                let masked = match fields.nulls() {
                    None => field.clone(),
                    Some(valid) => masked(field, valid).map_err(TableError::from)?,
                };
                columns.push((name.to_owned(), masked));
            }
        }
        None => columns.push((column.to_owned(), values)),
    }
    let own: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
    columns.retain(|(name, _)| !spec.drop.contains(name));
    for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if field.name() != column && !own.contains(field.name()) {
            let repeated = take(array, &rows, None).map_err(TableError::from)?;
            columns.push((field.name().clone(), repeated));
        }
    }

    let field =
        |(name, array): &(String, ArrayRef)| Field::new(name, array.data_type().clone(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let count = RecordBatchOptions::new().with_row_count(Some(elements.len()));
    let batch =
        RecordBatch::try_new_with_options(schema, arrays, &count).map_err(TableError::from)?;
    Ok((batch, elements))
}

/// A column with null where `valid` is false.
fn masked(array: &ArrayRef, valid: &NullBuffer) -> Result<ArrayRef, ArrowError> {
    let places = (0..array.len()).map(|row| valid.is_valid(row).then_some(row as u32));
    take(array, &UInt32Array::from_iter(places), None)
}
