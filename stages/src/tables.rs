//! Streams tables through stages: reading in batches, adding columns, picking rows, and the words
//! that all kinds share.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{interleave_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde_json::{Map, Value};

use refrain_cache::columns::{optional_column, with_column};
use refrain_cache::{Artifact, Metric, TableReader, TableWriter};
use refrain_engine::kind::{ArtifactKind, Context, MAIN, OutputDecl, StageError};

/// Rows read together. It cannot change a result: the writer slices on its own.
pub const BATCH_ROWS: usize = 1024;

/// The outputs of a kind that makes a table and metrics about it.
pub fn table_and_metrics(_: &Map<String, Value>) -> Vec<OutputDecl> {
    [MAIN, "metrics"].map(|name| OutputDecl { name: name.into(), kind: ArtifactKind::Table }).into()
}

/// A metric over `n` things, without an interval.
pub fn metric(metric: &str, value: f64, n: u64) -> Metric {
    Metric { metric: metric.to_owned(), value, n, low: None, high: None }
}

/// `part / whole`; NaN, which is shown as missing, where the whole is nothing.
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { f64::NAN } else { part as f64 / whole as f64 }
}

/// The type of a list column.
pub fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

/// The schema with columns added behind the others, or replaced in their positions.
pub fn with_fields(schema: &Schema, fields: &[(&str, DataType)]) -> SchemaRef {
    let mut all: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    for (name, ty) in fields {
        let field = Field::new(*name, ty.clone(), true);
        match all.iter().position(|known| known.name() == name) {
            Some(position) => all[position] = field,
            None => all.push(field),
        }
    }
    Arc::new(Schema::new(all))
}

/// Names a row in messages: its number from 0, and its `id` where it has one.
pub fn row_name(batch: &RecordBatch, first_row: u64, row: usize) -> String {
    let number = first_row + row as u64;
    match optional_column::<StringArray>(batch, "id") {
        Ok(Some(ids)) if ids.is_valid(row) => format!("row {number} (`{}`)", ids.value(row)),
        _ => format!("row {number}"),
    }
}

/// Calls `visit` with the wanted columns of a table, batch by batch, and the number of each batch's
/// first row. `None` means all columns. Returns the number of rows.
pub fn scan(
    ctx: &Context<'_>,
    input: &str,
    columns: Option<&[&str]>,
    mut visit: impl FnMut(&RecordBatch, u64) -> Result<(), StageError>,
) -> Result<u64, StageError> {
    let reader = TableReader::open(ctx.table(input)?)?;
    let mut first_row = 0;
    for batch in reader.batches(columns, BATCH_ROWS)? {
        ctx.cancel.check()?;
        let batch = batch?;
        visit(&batch, first_row)?;
        first_row += batch.num_rows() as u64;
    }
    Ok(first_row)
}

/// Of the wanted columns those that the table at `input` has.
pub fn present<'n>(
    ctx: &Context<'_>,
    input: &str,
    wanted: &[&'n str],
) -> Result<Vec<&'n str>, StageError> {
    let reader = TableReader::open(ctx.table(input)?)?;
    let has = |name: &&&str| reader.schema().field_with_name(name).is_ok();
    Ok(wanted.iter().filter(has).copied().collect())
}

/// Passes a table on with columns added or replaced; `compute` makes them, in the order of `added`,
/// for one batch.
pub fn add_columns(
    ctx: &Context<'_>,
    input: &str,
    added: &[(&str, DataType)],
    mut compute: impl FnMut(&RecordBatch, u64) -> Result<Vec<ArrayRef>, StageError>,
) -> Result<Artifact, StageError> {
    let reader = TableReader::open(ctx.table(input)?)?;
    let mut writer = ctx.cache.new_table(with_fields(reader.schema(), added))?;
    scan(ctx, input, None, |batch, first_row| {
        let mut out = batch.clone();
        for ((name, _), array) in added.iter().zip(compute(batch, first_row)?) {
            out = with_column(&out, name, array)?;
        }
        writer.write(&out)?;
        ctx.progress.set(first_row + batch.num_rows() as u64, Some(reader.rows()), "rows");
        Ok(())
    })?;
    Ok(ctx.cache.store_table(writer)?)
}

/// Writes the rows of a table whose numbers are in `order`, each at most once, in that order.
///
/// The table is read once. What waits in memory are wanted rows that are read before their turn:
/// few when rows that belong together are near each other, as the samples of one prompt are, and at
/// most the wanted rows.
pub fn pick_rows(ctx: &Context<'_>, input: &str, order: &[u64]) -> Result<Artifact, StageError> {
    pick_rows_with(ctx, input, order, &[], |batch, _| Ok(batch))
}

/// Writes rows as [`pick_rows`] does; `finish` is given them with their places in the output, and
/// adds the columns of `added`.
pub fn pick_rows_with(
    ctx: &Context<'_>,
    input: &str,
    order: &[u64],
    added: &[(&str, DataType)],
    finish: impl FnMut(RecordBatch, Range<usize>) -> Result<RecordBatch, StageError>,
) -> Result<Artifact, StageError> {
    let reader = TableReader::open(ctx.table(input)?)?;
    let mut by_row: Vec<(u64, usize)> = order.iter().copied().zip(0..).collect();
    by_row.sort_unstable();
    let mut picker = Picker {
        writer: ctx.cache.new_table(with_fields(reader.schema(), added))?,
        finish,
        places: vec![None; order.len()],
        written: 0,
        waiting: BTreeMap::new(),
    };
    let mut next = 0;
    scan(ctx, input, None, |batch, first_row| {
        let end = first_row + batch.num_rows() as u64;
        let wanted = next + by_row[next..].partition_point(|&(row, _)| row < end);
        picker.take(batch, first_row, &by_row[next..wanted])?;
        next = wanted;
        ctx.progress.set(end, Some(reader.rows()), "rows");
        Ok(())
    })?;
    Ok(ctx.cache.store_table(picker.writer)?)
}

/// Puts rows that come in the order of the table into another order.
struct Picker<F> {
    writer: TableWriter,
    finish: F,
    /// For each row of the output: the number of its batch in `waiting`, and its position there.
    places: Vec<Option<(usize, usize)>>,
    /// Rows of the output that are written.
    written: usize,
    /// Batches of wanted rows, and how many of each are not written yet.
    waiting: BTreeMap<usize, (RecordBatch, usize)>,
}

impl<F: FnMut(RecordBatch, Range<usize>) -> Result<RecordBatch, StageError>> Picker<F> {
    /// Takes the wanted rows of a batch, given as row and position in the output, and writes what
    /// is complete.
    fn take(
        &mut self,
        batch: &RecordBatch,
        first_row: u64,
        wanted: &[(u64, usize)],
    ) -> Result<(), StageError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let rows =
            UInt32Array::from_iter_values(wanted.iter().map(|(row, _)| (row - first_row) as u32));
        let number = self.waiting.last_key_value().map_or(0, |(last, _)| last + 1);
        self.waiting
            .insert(number, (take_record_batch(batch, &rows).map_err(arrow_bug)?, wanted.len()));
        for (i, (_, place)) in wanted.iter().enumerate() {
            self.places[*place] = Some((number, i));
        }
        let ready = self.places[self.written..].iter().take_while(|place| place.is_some()).count();
        let ready = self.written..self.written + ready;
        for start in ready.clone().step_by(BATCH_ROWS) {
            self.write(start..ready.end.min(start + BATCH_ROWS))?;
        }
        Ok(())
    }

    fn write(&mut self, rows: Range<usize>) -> Result<(), StageError> {
        let numbers: Vec<usize> = self.waiting.keys().copied().collect();
        let places: Vec<(usize, usize)> = self.places[rows.clone()]
            .iter()
            .flatten()
            .map(|(number, i)| (numbers.partition_point(|known| known < number), *i))
            .collect();
        let batches: Vec<&RecordBatch> = self.waiting.values().map(|(batch, _)| batch).collect();
        let picked = interleave_record_batch(&batches, &places).map_err(arrow_bug)?;
        self.writer.write(&(self.finish)(picked, rows.clone())?)?;
        for (index, _) in places {
            if let Some((_, left)) = self.waiting.get_mut(&numbers[index]) {
                *left -= 1;
            }
        }
        self.waiting.retain(|_, (_, left)| *left > 0);
        self.written = rows.end;
        Ok(())
    }
}

/// Arrow refused something that holds for every table, so that the fault is ours.
pub fn arrow_bug(error: ArrowError) -> StageError {
    StageError::bug(error.to_string())
}
