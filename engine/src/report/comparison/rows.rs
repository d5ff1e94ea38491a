//! Reads the values of rows from the tables of nodes, and keeps the ids that all tables of a task
//! have.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use arrow::array::{
    Array, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch,
};
use arrow::datatypes::DataType;

use refrain_cache::columns::column;
use refrain_cache::{TableError, TableReader};

use crate::statistics::Population;

/// Rows that are read at once.
const BATCH_ROWS: usize = 65_536;

/// The mean of a column over the rows of each id.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// The mean per id, in the order of the ids.
    pub by_id: BTreeMap<String, f64>,
    /// Whether the column says right or wrong.
    pub is_binary: bool,
    /// Whether each id has one row.
    pub is_single: bool,
}

/// The tables of a task on the ids that all of them have.
#[derive(Debug)]
pub(super) struct Aligned {
    /// The ids, sorted.
    pub ids: Vec<String>,
    /// A column per table.
    pub population: Population,
    /// The number of ids that some table lacks.
    pub dropped: usize,
    pub is_binary: bool,
    pub is_single: bool,
}

/// Reads a column by id. Rows without a value do not count.
pub(super) fn read(path: &Path, name: &str) -> Result<Values, TableError> {
    let table = TableReader::open(path)?;
    let mut sums: HashMap<String, (f64, u32)> = HashMap::new();
    for batch in table.batches(Some(&["id", name]), BATCH_ROWS)? {
        let batch = batch?;
        let ids = column::<arrow::array::StringArray>(&batch, "id")?;
        let values = numbers(&batch, name)?;
        for (row, value) in values.into_iter().enumerate() {
            let Some(value) = value.filter(|_| ids.is_valid(row)) else { continue };
            let id = ids.value(row);
            let sum = match sums.get_mut(id) {
                Some(sum) => sum,
                None => sums.entry(id.to_owned()).or_default(),
            };
            *sum = (sum.0 + value, sum.1 + 1);
        }
    }
    let is_single = sums.values().all(|(_, count)| *count == 1);
    let by_id = sums.into_iter().map(|(id, (sum, count))| (id, sum / f64::from(count))).collect();
    let is_binary = table.schema().field_with_name(name)?.data_type() == &DataType::Boolean;
    Ok(Values { by_id, is_binary, is_single })
}

/// The values of a column as numbers.
fn numbers(batch: &RecordBatch, name: &str) -> Result<Vec<Option<f64>>, TableError> {
    let found = batch.column_by_name(name).map(|array| array.data_type());
    Ok(match found {
        Some(DataType::Boolean) => {
            let array = column::<BooleanArray>(batch, name)?;
            array.iter().map(|value| value.map(|value| f64::from(u8::from(value)))).collect()
        }
        Some(DataType::Float32) => {
            column::<Float32Array>(batch, name)?.iter().map(|value| value.map(f64::from)).collect()
        }
        Some(DataType::Int32) => {
            column::<Int32Array>(batch, name)?.iter().map(|value| value.map(f64::from)).collect()
        }
        Some(DataType::Int64) => {
            let array = column::<Int64Array>(batch, name)?;
            array.iter().map(|value| value.map(|value| value as f64)).collect()
        }
        _ => column::<Float64Array>(batch, name)?.iter().collect(),
    })
}

/// Keeps the ids that all tables of a task have.
pub(super) fn align(tables: &[&Values]) -> Aligned {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for table in tables {
        for id in table.by_id.keys() {
            *found.entry(id).or_default() += 1;
        }
    }
    let all = found.len();
    found.retain(|_, count| *count == tables.len());
    let ids: Vec<String> = found.into_keys().map(String::from).collect();

    let column = |table: &&Values| ids.iter().map(|id| table.by_id[id]).collect();
    let population = Population { rows: ids.len(), columns: tables.iter().map(column).collect() };
    Aligned {
        dropped: all - ids.len(),
        population,
        is_binary: tables.iter().all(|table| table.is_binary),
        is_single: tables.iter().all(|table| table.is_single),
        ids,
    }
}
