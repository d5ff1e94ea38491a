//! Opens Parquet files: what their types leave undecided, the values tell.

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;

use refrain_cache::{TableError, TableReader};

use crate::kind::same_type;

use super::import::Opened;
use super::layout::Found;
use super::numbers::{self, Ranges};
use super::rows::Rows;
use super::{BATCH_ROWS, HEAD_ROWS, SourceError, SourceSpec, messages};

/// Returns the columns, as far as the first rows tell them.
pub(super) fn head(spec: &SourceSpec) -> Result<Found, SourceError> {
    found(spec, &open(spec)?, HEAD_ROWS)
}

/// Opens the file to read its rows.
pub(super) fn rows(spec: &SourceSpec) -> Result<Opened<'static>, SourceError> {
    let reader = open(spec)?;
    let found = found(spec, &reader, usize::MAX)?;
    let rows = count(spec, &reader)?;
    let batches = reader.batches(None, BATCH_ROWS)?;
    let batches = Box::new(batches.map(|batch| batch.map_err(SourceError::from)));
    Ok(Opened { found, rows, lines: None, batches })
}

fn open(spec: &SourceSpec) -> Result<TableReader, SourceError> {
    let dropped: Vec<&str> = spec.drop.iter().map(String::as_str).collect();
    TableReader::open_except(&spec.path, &dropped).map_err(|error| match error {
        TableError::Missing { column, there } => spec.nothing_to_drop(&there, &column),
        error => error.into(),
    })
}

/// Reads the columns whose types alone do not decide those of the table, up to `limit` rows of
/// them.
fn found(spec: &SourceSpec, reader: &TableReader, limit: usize) -> Result<Found, SourceError> {
    let schema = reader.schema().clone();
    let is_messages = |name: &str| spec.becomes(name, "messages");
    let wanted: Vec<&str> = schema
        .fields()
        .iter()
        .filter(|field| {
            numbers::undecided(field.data_type())
                || is_messages(field.name()) && messages::may_have_fields(field.data_type())
        })
        .map(|field| field.name().as_str())
        .collect();
    // A column in our form keeps it, so that a table read again is the same table.
    let ours = messages::messages_type(true);
    let turn_fields = schema
        .fields()
        .iter()
        .any(|field| is_messages(field.name()) && same_type(field.data_type(), &ours));
    let mut found = Found { schema: schema.clone(), ranges: None, turn_fields };
    let mut ranges = vec![Ranges::default(); schema.fields().len()];
    if !wanted.is_empty() {
        let mut left = limit;
        for batch in reader.batches(Some(&wanted), limit.min(BATCH_ROWS))? {
            let batch = batch?;
            for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                let place = schema.index_of(field.name()).expect("the column was asked for");
                ranges[place].add(column);
                found.turn_fields |= is_messages(field.name()) && has_turn_fields(column);
            }
            left = left.saturating_sub(batch.num_rows());
            if left == 0 {
                break;
            }
        }
    }
    found.ranges = Some(ranges);
    Ok(found)
}

/// Whether some turn holds a value beside role and content.
fn has_turn_fields(messages: &dyn Array) -> bool {
    let turns = messages.as_list_opt::<i32>();
    let Some(turns) = turns.and_then(|turns| turns.values().as_struct_opt()) else { return false };
    let DataType::Struct(fields) = turns.data_type() else { return false };
    let further = fields.iter().enumerate().filter(|(i, _)| !messages::is_main(fields, *i));
    let mut filled = further.map(|(i, _)| turns.column(i).logical_null_count() < turns.len());
    filled.any(|filled| filled)
}

/// Counts the rows. A draw goes over all of them before the first is read, so that they are read
/// for it: the header may promise billions.
fn count(spec: &SourceSpec, reader: &TableReader) -> Result<u64, SourceError> {
    if matches!(spec.rows, Rows::Range(..)) {
        return Ok(reader.rows());
    }
    let first = reader.schema().fields().first().map(|field| field.name().as_str());
    for batch in reader.batches(Some(&first.into_iter().collect::<Vec<_>>()), BATCH_ROWS)? {
        batch?;
    }
    Ok(reader.rows())
}
