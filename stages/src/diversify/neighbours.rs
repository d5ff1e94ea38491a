//! `neighbours`: the rows nearest each row by the cosine of their embeddings, as a second table.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Field, Schema};

use refrain_cache::{Artifact, TableReader};
use refrain_engine::kind::{Context, StageError};

use crate::models;
use crate::tables::arrow_bug;

use super::embedded;

/// Columns that name a row, where the table has them, each with its name as a neighbour's.
const NAMES: [(&str, &str); 2] = [("id", "neighbour_id"), ("sample", "neighbour_sample")];

/// Writes the nearest other rows of each row that has an embedding, the nearest first.
pub(super) fn store(ctx: &Context<'_>, table: &Path, count: usize) -> Result<Artifact, StageError> {
    let (rows, neighbours) = models::on_threads(ctx.resources.threads, || {
        let embedded = embedded::embed(ctx, table)?;
        let neighbours = embedded.vectors().neighbours(count);
        Ok((embedded.rows, neighbours))
    })?;
    if !rows.is_empty() && rows.len() <= count {
        let others = rows.len() - 1;
        ctx.progress.note(format!(
            "`neighbours` asks for {count} others of each row, and there are {others}"
        ));
    }
    let (mut from, mut to, mut rank, mut cosine) = (vec![], vec![], vec![], vec![]);
    for (row, nearest) in rows.iter().zip(neighbours) {
        for (place, (other, value)) in nearest.into_iter().enumerate() {
            from.push(*row);
            to.push(rows[other]);
            rank.push(place as i32);
            cosine.push(value);
        }
    }

    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    let mut add = |name: &str, column: ArrayRef| {
        fields.push(Field::new(name, column.data_type().clone(), true));
        columns.push(column);
    };
    let names = names(ctx, table)?;
    let named = |rows: &[u64], add: &mut dyn FnMut(&str, ArrayRef), as_neighbour: bool| {
        let places: UInt32Array = rows.iter().map(|row| Some(*row as u32)).collect();
        for (name, neighbour) in NAMES {
            if let Some(column) = names.as_ref().and_then(|names| names.column_by_name(name)) {
                let column = take(column, &places, None).map_err(arrow_bug)?;
                add(if as_neighbour { neighbour } else { name }, column);
            }
        }
        let numbers: Int64Array = rows.iter().map(|row| Some(*row as i64)).collect();
        add(if as_neighbour { "neighbour_row" } else { "row" }, Arc::new(numbers));
        Ok::<_, StageError>(())
    };
    named(&from, &mut add, false)?;
    add("rank", Arc::new(Int32Array::from(rank)));
    named(&to, &mut add, true)?;
    add("cosine", Arc::new(Float64Array::from(cosine)));

    let schema = Arc::new(Schema::new(fields));
    let mut writer = ctx.cache.new_table(schema.clone())?;
    writer.write(&RecordBatch::try_new(schema, columns).map_err(arrow_bug)?)?;
    Ok(ctx.cache.store_table(writer)?)
}

/// The columns that name the rows of a table; `None` where it has none.
fn names(ctx: &Context<'_>, table: &Path) -> Result<Option<RecordBatch>, StageError> {
    let reader = TableReader::open(table)?;
    let known = |name: &&str| reader.schema().field_with_name(name).is_ok();
    let wanted: Vec<&str> = NAMES.iter().map(|(name, _)| *name).filter(known).collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    ctx.cancel.check()?;
    let batches: Result<Vec<RecordBatch>, _> =
        reader.batches(Some(&wanted), crate::tables::BATCH_ROWS)?.collect();
    let batches = batches?;
    let Some(first) = batches.first() else { return Ok(None) };
    concat_batches(&first.schema(), &batches).map(Some).map_err(arrow_bug)
}
