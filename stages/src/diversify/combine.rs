//! Writes rows of several tables under each other: all their columns, ids that stay unique, and a
//! column that says where each row is from.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int32Array, RecordBatch, StringArray, UInt32Array, new_null_array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use refrain_cache::columns::optional_column;
use refrain_cache::{Artifact, TableReader, TableWriter};
use refrain_engine::kind::{Check, Columns, Context, Problem, StageError, same_type, type_name};

use crate::draw::{Draws, RowDraws};
use crate::tables::{self, arrow_bug};

/// The column that says where each row is from.
pub(super) const ORIGIN: &str = "origin";

/// Rows of one table.
pub(super) struct Part {
    /// The path of the table's parameter.
    pub input: String,
    /// The text of [`ORIGIN`].
    pub origin: String,
    /// The numbers of the rows, ascending.
    pub rows: Vec<u64>,
}

/// Checks that the columns of the tables go together; gives those of the result.
pub(super) fn check(check: &Check<'_>, inputs: &[String], problems: &mut Vec<Problem>) -> Columns {
    let schemas: Option<Vec<SchemaRef>> =
        inputs.iter().map(|input| (check.columns)(input)).collect();
    let schemas = schemas?;
    match union(schemas.iter().map(AsRef::as_ref)) {
        Ok(schema) => Some(schema),
        Err(Conflict { table, message }) => {
            let hint =
                "the tables are put under each other: give the columns one type, or other names";
            problems.push(Problem::at(&inputs[table], message).hint(hint));
            None
        }
    }
}

/// A column that has two types.
struct Conflict {
    /// The place of the table whose type differs from an earlier one's.
    table: usize,
    message: String,
}

/// The columns of all tables, each where it is first met, and [`ORIGIN`].
fn union<'s>(schemas: impl Iterator<Item = &'s Schema>) -> Result<SchemaRef, Conflict> {
    let mut fields: Vec<Field> = Vec::new();
    for (table, schema) in schemas.enumerate() {
        for field in schema.fields().iter().filter(|field| field.name() != ORIGIN) {
            match fields.iter().find(|known| known.name() == field.name()) {
                None => fields.push(field.as_ref().clone().with_nullable(true)),
                Some(known) if same_type(known.data_type(), field.data_type()) => {}
                Some(known) => {
                    let (here, there) =
                        (type_name(field.data_type()), type_name(known.data_type()));
                    let name = field.name();
                    let message =
                        format!("column `{name}` is {here} here and {there} in another table");
                    return Err(Conflict { table, message });
                }
            }
        }
    }
    fields.push(Field::new(ORIGIN, DataType::Utf8, true));
    Ok(Arc::new(Schema::new(fields)))
}

/// Writes the rows of the parts, one part behind the other.
pub(super) fn store(ctx: &Context<'_>, parts: &[Part]) -> Result<Artifact, StageError> {
    let open = |part: &Part| Ok(TableReader::open(ctx.table(&part.input)?)?);
    let readers: Vec<TableReader> = parts.iter().map(open).collect::<Result<_, StageError>>()?;
    let schema = union(readers.iter().map(|reader| reader.schema().as_ref()))
        .map_err(|Conflict { message, .. }| StageError::failed(message))?;
    let mut writer = ctx.cache.new_table(schema.clone())?;
    let mut ids = Ids::default();
    for (place, part) in parts.iter().enumerate() {
        ids.add(ctx, part, place)?;
        write(ctx, part, place, &ids, &mut writer, &schema)?;
    }
    Ok(ctx.cache.store_table(writer)?)
}

fn write(
    ctx: &Context<'_>,
    part: &Part,
    place: usize,
    ids: &Ids,
    writer: &mut TableWriter,
    schema: &SchemaRef,
) -> Result<(), StageError> {
    let mut next = 0;
    tables::scan(ctx, &part.input, None, |batch, first_row| {
        let end = first_row + batch.num_rows() as u64;
        let until = next + part.rows[next..].partition_point(|row| *row < end);
        let wanted = &part.rows[next..until];
        next = until;
        if wanted.is_empty() {
            return Ok(());
        }

        let places =
            UInt32Array::from_iter_values(wanted.iter().map(|row| (row - first_row) as u32));
        let batch = take_record_batch(batch, &places).map_err(arrow_bug)?;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let column = batch.column_by_name(field.name());
            columns.push(match (field.name().as_str(), column) {
                (ORIGIN, _) => {
                    let origins = std::iter::repeat_n(&part.origin, wanted.len());
                    Arc::new(StringArray::from_iter_values(origins))
                }
                ("id", Some(_)) => ids.written(&batch, wanted, place)?,
                (_, Some(column)) => column.clone(),
                (_, None) => new_null_array(field.data_type(), wanted.len()),
            });
        }
        writer.write(&RecordBatch::try_new(schema.clone(), columns).map_err(arrow_bug)?)?;
        Ok(())
    })?;
    Ok(())
}

/// The ids of all tables so far. Of two rows with one `id` and `sample` the one of the later table
/// gets another id, whichever rows of the tables are written: so a row is called the same in a
/// larger mixture.
#[derive(Default)]
struct Ids {
    /// The place of the first table that has the key.
    first: HashMap<u128, usize>,
    /// The number of times that the suffix is added to the id, by row of the last table.
    suffixes: HashMap<u64, usize>,
}

impl Ids {
    /// Adds the keys of a table, and finds those of its rows that need another id.
    fn add(&mut self, ctx: &Context<'_>, part: &Part, place: usize) -> Result<(), StageError> {
        self.suffixes.clear();
        let columns = tables::present(ctx, &part.input, &["id", "sample"])?;
        if !columns.contains(&"id") {
            return Ok(());
        }
        let mut taken: Vec<(u64, String, i32)> = Vec::new();
        tables::scan(ctx, &part.input, Some(&columns), |batch, first_row| {
            let (ids, samples) = keys(batch)?;
            let Some(ids) = ids else { return Ok(()) };
            for row in (0..batch.num_rows()).filter(|row| ids.is_valid(*row)) {
                let sample = sample_of(samples, row);
                let first = self.first.entry(key(ids.value(row), sample)).or_insert(place);
                if *first < place {
                    taken.push((first_row + row as u64, ids.value(row).into(), sample));
                }
            }
            Ok(())
        })?;
        for (row, mut id, sample) in taken {
            let mut times = 0;
            loop {
                times += 1;
                id.push_str(&suffix(place));
                let key = key(&id, sample);
                if let std::collections::hash_map::Entry::Vacant(vacant) = self.first.entry(key) {
                    vacant.insert(place);
                    break;
                }
            }
            self.suffixes.insert(row, times);
        }
        Ok(())
    }

    /// The ids of a batch as they are written; `rows` are their numbers in the table.
    fn written(
        &self,
        batch: &RecordBatch,
        rows: &[u64],
        place: usize,
    ) -> Result<ArrayRef, StageError> {
        let Some(ids) = keys(batch)?.0 else { return Err(StageError::bug("the ids are gone")) };
        let written = ids.iter().zip(rows).map(|(id, row)| {
            let times = self.suffixes.get(row).copied().unwrap_or(0);
            id.map(|id| format!("{id}{}", suffix(place).repeat(times)))
        });
        Ok(Arc::new(written.collect::<StringArray>()))
    }
}

fn keys(batch: &RecordBatch) -> Result<(Option<&StringArray>, Option<&Int32Array>), StageError> {
    Ok((optional_column(batch, "id")?, optional_column(batch, "sample")?))
}

fn sample_of(samples: Option<&Int32Array>, row: usize) -> i32 {
    samples.filter(|samples| samples.is_valid(row)).map_or(0, |samples| samples.value(row))
}

/// Sixteen bytes of the hash of an id and a sample.
fn key(id: &str, sample: i32) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&sample.to_le_bytes());
    hasher.update(id.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(bytes)
}

fn suffix(place: usize) -> String {
    format!("-{place}")
}

/// Draws rows of a table without replacement, the same ones first however many: a larger draw holds
/// the smaller one.
///
/// Gives their numbers, ascending; all where the table has fewer.
pub(super) fn draw(
    ctx: &Context<'_>,
    purpose: &'static str,
    (seed, place): (u64, usize),
    input: &str,
    count: u64,
) -> Result<Vec<u64>, StageError> {
    // Rows of equal ids in two tables are drawn apart.
    let seed = Draws::new(purpose, seed, &[&(place as u64).to_le_bytes()]).at(0);
    let columns = tables::present(ctx, input, &["id", "sample"])?;
    let mut drawn: Vec<(u64, u64)> = Vec::new();
    tables::scan(ctx, input, Some(&columns), |batch, first_row| {
        let draws = RowDraws::new(purpose, seed, batch, first_row)?;
        drawn
            .extend((0..batch.num_rows()).map(|row| (draws.of(row).at(0), first_row + row as u64)));
        Ok(())
    })?;
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(drawn.len());
    if count < drawn.len() {
        drawn.select_nth_unstable(count);
        drawn.truncate(count);
    }
    let mut rows: Vec<u64> = drawn.into_iter().map(|(_, row)| row).collect();
    rows.sort_unstable();
    Ok(rows)
}
