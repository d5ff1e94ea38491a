//! `join`: the columns of a second table beside those of the first, row by row of equal keys.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use serde_json::{Map, Value};

use refrain_cache::{Artifact, TableReader};
use refrain_engine::kind::{
    Check, Columns, Context, Problem, StageError, Table, choices, parameters, type_name,
};

use crate::tables::{self, BATCH_ROWS, arrow_bug, row_name};

/// The path of the second table.
const WITH: &str = "join.with";

parameters! {
    /// The parameter `join`.
    pub(super) struct Join {
        /// The second table; its rows differ in the columns of `on`
        with: &Table,
        /// The columns in which joined rows are equal
        on: Vec<String> = ["id"],
        /// The columns that are taken from the second table (all others)
        columns: Option<Vec<String>>,
        /// Added to the name of a column that both tables have
        suffix: Option<String>,
        /// Rows that the second table has not are left out, or kept without values
        missing: Missing = "drop",
    }
}

choices! {
    /// The fate of rows without a partner.
    pub(super) enum Missing {
        /// They are left out.
        Drop = "drop",
        /// Their new columns are empty.
        Keep = "keep",
    }
}

/// Reads the parameter, whose references are removed.
fn parse(join: &Map<String, Value>) -> Option<Join> {
    serde_json::from_value(Value::Object(join.clone())).ok()
}

pub(super) fn check(
    check: &Check<'_>,
    join: &Map<String, Value>,
    problems: &mut Vec<Problem>,
) -> Columns {
    let join = parse(join)?;
    if join.on.is_empty() {
        problems.push(Problem::at("join.on", "`on` names no column"));
        return None;
    }
    for name in &join.on {
        check.need(problems, "data", name, &[]);
        check.need(problems, WITH, name, &[]);
    }
    let (first, second) = ((check.columns)("data")?, (check.columns)(WITH)?);
    for name in &join.on {
        let types = (first.field_with_name(name).ok()?, second.field_with_name(name).ok()?);
        if types.0.data_type() != types.1.data_type() {
            let (a, b) = (type_name(types.0.data_type()), type_name(types.1.data_type()));
            let message = format!("column `{name}` is {a} here and {b} in the second table");
            problems.push(Problem::at("join.on", message));
        }
    }
    for name in join.columns.iter().flatten() {
        check.need(problems, WITH, name, &[]);
    }
    for (name, as_name) in join.taken(&second) {
        if first.field_with_name(&as_name).is_ok() {
            let message = format!("both tables have a column `{name}`");
            let hint = "give `suffix: _2`, or name the `columns` that you want";
            problems.push(Problem::at("join", message).hint(hint));
        }
    }
    Some(join.schema(&first, &second))
}

impl Join {
    /// The columns that are taken from the second table, each with its new name.
    fn taken(&self, second: &Schema) -> Vec<(String, String)> {
        let wanted = |name: &str| match &self.columns {
            Some(columns) => columns.iter().any(|column| column == name),
            None => !self.on.iter().any(|on| on == name),
        };
        let names = second.fields().iter().map(|field| field.name().as_str());
        let suffix = self.suffix.as_deref().unwrap_or_default();
        names.filter(|n| wanted(n)).map(|n| (n.into(), format!("{n}{suffix}"))).collect()
    }

    fn schema(&self, first: &Schema, second: &Schema) -> SchemaRef {
        let mut fields: Vec<Field> = first.fields().iter().map(|f| f.as_ref().clone()).collect();
        fields.extend(self.taken(second).into_iter().filter_map(|(name, as_name)| {
            let field = second.field_with_name(&name).ok()?;
            Some(Field::new(as_name, field.data_type().clone(), true))
        }));
        Arc::new(Schema::new(fields))
    }
}

/// The table, and how many rows had no partner.
pub(super) struct Joined {
    pub table: Artifact,
    pub unmatched: u64,
}

/// Joins the two tables. The wanted columns of the second are held in memory.
pub(super) fn join(ctx: &Context<'_>, join: &Join) -> Result<Joined, StageError> {
    let first = TableReader::open(ctx.table("data")?)?;
    let second = Second::read(ctx, join)?;
    let schema = join.schema(first.schema(), &second.schema);
    let mut writer = ctx.cache.new_table(schema.clone())?;
    let mut unmatched = 0;
    tables::scan(ctx, "data", None, |batch, first_row| {
        let keys = keys(batch, &join.on)?;
        let (mut rows, mut partners) = (Vec::new(), Vec::new());
        for (row, key) in keys.iter().enumerate() {
            let partner = second.places.get(key.as_slice()).copied();
            unmatched += u64::from(partner.is_none());
            if partner.is_some() || join.missing == Missing::Keep {
                rows.push((0, row));
                partners.push(partner.unwrap_or((0, 0)));
            }
        }
        let from_first = batch.columns().iter().map(|column| interleave(&[column.as_ref()], &rows));
        let from_second = second.columns.iter().map(|parts| {
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            interleave(&parts, &partners)
        });
        let columns: Result<Vec<ArrayRef>, _> = from_first.chain(from_second).collect();
        let columns = columns.map_err(arrow_bug)?;
        writer.write(&RecordBatch::try_new(schema.clone(), columns).map_err(arrow_bug)?)?;
        ctx.progress.set(first_row + batch.num_rows() as u64, Some(first.rows()), "rows");
        Ok(())
    })?;
    Ok(Joined { table: ctx.cache.store_table(writer)?, unmatched })
}

/// The second table in memory.
struct Second {
    schema: SchemaRef,
    /// For each taken column its parts by batch; the first is one missing value.
    columns: Vec<Vec<ArrayRef>>,
    /// The batch and row of each key.
    places: HashMap<Box<[u8]>, (usize, usize)>,
}

impl Second {
    fn read(ctx: &Context<'_>, join: &Join) -> Result<Second, StageError> {
        let reader = TableReader::open(ctx.table(WITH)?)?;
        let schema = reader.schema().clone();
        let taken = join.taken(&schema);
        let missing = |name: &str| -> Result<Vec<ArrayRef>, StageError> {
            let field = schema.field_with_name(name).map_err(arrow_bug)?;
            Ok(vec![new_null_array(field.data_type(), 1)])
        };
        let columns: Result<_, _> = taken.iter().map(|(name, _)| missing(name)).collect();
        let mut second = Second { columns: columns?, places: HashMap::new(), schema };
        let mut wanted: Vec<&str> = taken.iter().map(|(name, _)| name.as_str()).collect();
        wanted.extend(join.on.iter().map(String::as_str));
        wanted.sort_unstable();
        wanted.dedup();

        let mut first_row = 0;
        for (number, batch) in reader.batches(Some(&wanted), BATCH_ROWS)?.enumerate() {
            ctx.cancel.check()?;
            let batch = batch?;
            for (row, key) in keys(&batch, &join.on)?.into_iter().enumerate() {
                if second.places.insert(key.into(), (number + 1, row)).is_some() {
                    let row = row_name(&batch, first_row, row);
                    let on = join.on.join("`, `");
                    return Err(StageError::with_hint(
                        format!("{row} of the second table has the `{on}` of another row"),
                        "add a column to `on`, or keep one row per key before",
                    ));
                }
            }
            for ((name, _), parts) in taken.iter().zip(&mut second.columns) {
                parts.extend(batch.column_by_name(name).cloned());
            }
            first_row += batch.num_rows() as u64;
        }
        Ok(second)
    }
}

/// The values of the key columns of each row, as bytes.
fn keys(batch: &RecordBatch, on: &[String]) -> Result<Vec<Vec<u8>>, StageError> {
    let columns: Option<Vec<ArrayRef>> =
        on.iter().map(|name| batch.column_by_name(name).cloned()).collect();
    let columns = columns.ok_or_else(|| StageError::bug("a column of `on` is gone"))?;
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
    let converter = RowConverter::new(fields.collect()).map_err(arrow_bug)?;
    let rows = converter.convert_columns(&columns).map_err(arrow_bug)?;
    Ok(rows.iter().map(|row| row.as_ref().to_vec()).collect())
}
