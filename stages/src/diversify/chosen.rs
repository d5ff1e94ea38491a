//! The table of the rows that `keep` chose: their ranks, and references in place of missing responses.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int32Array, RecordBatch, StringArray};
use arrow::compute::kernels::zip::zip;
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Schema, SchemaRef};

use refrain_cache::Artifact;
use refrain_cache::columns::{column, with_column};
use refrain_engine::kind::{Context, StageError};

use super::keep::{Chosen, KeepRule};
use crate::tables::{self, arrow_bug, with_fields};

/// The columns that a row has whatever its response is.
const OF_THE_PROMPT: [&str; 6] = ["id", "sample", "prompt", "messages", "tools", "reference"];

/// The table and what fell back.
pub(super) struct ChosenTable {
    pub table: Artifact,
    /// Rows whose response is the reference.
    pub from_reference: u64,
    /// Rows that have no reference to fall back to, and are left out.
    pub left_out: u64,
}

/// The columns of the table.
pub(super) fn schema(schema: &Schema, ranks: bool, fallback: bool) -> SchemaRef {
    with_fields(schema, &added(ranks, fallback))
}

fn added(ranks: bool, fallback: bool) -> Vec<(&'static str, DataType)> {
    let mut added = Vec::new();
    if ranks {
        added.extend([("rank", DataType::Int32), ("candidates", DataType::Int32)]);
    }
    if fallback {
        added.push(("from_reference", DataType::Boolean));
    }
    added
}

/// Writes the chosen rows.
pub(super) fn store(
    ctx: &Context<'_>,
    keep: &KeepRule,
    mut chosen: Chosen,
) -> Result<ChosenTable, StageError> {
    let (ranks, fallback) = (keep.ranks == Some(true), keep.fallback.is_some());
    let before = chosen.order.len();
    if fallback {
        leave_out_without_reference(ctx, &mut chosen)?;
    }
    let left_out = (before - chosen.order.len()) as u64;
    let from_reference = chosen.ranks.iter().filter(|(_, candidates)| *candidates == 0).count();

    let added = added(ranks, fallback);
    let table = tables::pick_rows_with(ctx, "data", &chosen.order, &added, |batch, rows| {
        let of_rows = &chosen.ranks[rows];
        let mut batch = batch;
        if fallback {
            batch = fall_back(&batch, of_rows, keep.per.as_deref())?;
        }
        if ranks {
            let column = |value: fn(&(u32, u32)) -> u32| -> ArrayRef {
                Arc::new(of_rows.iter().map(|row| Some(value(row) as i32)).collect::<Int32Array>())
            };
            batch = with_column(&batch, "rank", column(|row| row.0))?;
            batch = with_column(&batch, "candidates", column(|row| row.1))?;
        }
        if fallback {
            batch = with_column(&batch, "from_reference", Arc::new(no_candidates(of_rows)))?;
        }
        Ok(batch)
    })?;
    Ok(ChosenTable { table, from_reference: from_reference as u64, left_out })
}

/// Whether each row falls back to its reference.
fn no_candidates(ranks: &[(u32, u32)]) -> BooleanArray {
    ranks.iter().map(|(_, candidates)| Some(*candidates == 0)).collect()
}

/// Puts the reference in the place of the response, and nothing in that of what belonged to it.
fn fall_back(
    batch: &RecordBatch,
    ranks: &[(u32, u32)],
    per: Option<&str>,
) -> Result<RecordBatch, StageError> {
    let without = no_candidates(ranks);
    if without.true_count() == 0 {
        return Ok(batch.clone());
    }
    let response = zip(
        &without,
        column::<StringArray>(batch, "reference")?,
        column::<StringArray>(batch, "response")?,
    );
    let mut out = with_column(batch, "response", response.map_err(arrow_bug)?)?;
    for field in batch.schema().fields() {
        let name = field.name().as_str();
        let stays = OF_THE_PROMPT.contains(&name) || name == "response" || per == Some(name);
        if !stays && let Some(column) = batch.column_by_name(name) {
            out = with_column(&out, name, nullif(column, &without).map_err(arrow_bug)?)?;
        }
    }
    Ok(out)
}

/// Takes out the rows that would fall back and have no reference.
fn leave_out_without_reference(ctx: &Context<'_>, chosen: &mut Chosen) -> Result<(), StageError> {
    let mut wanted: Vec<u64> = (chosen.order.iter().zip(&chosen.ranks))
        .filter_map(|(row, (_, candidates))| (*candidates == 0).then_some(*row))
        .collect();
    wanted.sort_unstable();
    let mut missing = Vec::new();
    tables::scan(ctx, "data", Some(&["reference"]), |batch, first_row| {
        let references = column::<StringArray>(batch, "reference")?;
        let rows: Range<u64> = first_row..first_row + batch.num_rows() as u64;
        let from = wanted.partition_point(|row| *row < rows.start);
        let here = wanted[from..].iter().take_while(|row| rows.contains(row));
        missing.extend(here.filter(|row| references.is_null((**row - first_row) as usize)));
        Ok(())
    })?;

    let stays = |row: u64, candidates: u32| candidates > 0 || missing.binary_search(&row).is_err();
    let rows = chosen.order.drain(..).zip(chosen.ranks.drain(..));
    let (order, ranks) = rows.filter(|(row, (_, candidates))| stays(*row, *candidates)).unzip();
    (chosen.order, chosen.ranks) = (order, ranks);
    Ok(())
}
