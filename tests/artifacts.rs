//! Reads the tables and metrics of what a workflow made, and the cases of the shared folder.

use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::space::Space;

/// The table of a node of `w.yaml`.
pub fn table(space: &Space, node: &str) -> RecordBatch {
    shown(space, &["w.yaml", node])
}

/// The table that `show` names with these arguments.
pub fn shown(space: &Space, arguments: &[&str]) -> RecordBatch {
    let path = space.run(&[&["show", "--path"], arguments].concat()).stdout;
    let file = std::fs::File::open(space.path(path.trim())).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// The texts of a column.
pub fn texts(table: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let column = table.column_by_name(name).unwrap().as_string::<i32>();
    column.iter().map(|text| text.map(str::to_owned)).collect()
}

/// The truths of a column, none of which is missing.
pub fn truths(table: &RecordBatch, name: &str) -> Vec<bool> {
    let column = table.column_by_name(name).unwrap().as_boolean();
    assert_eq!(column.null_count(), 0);
    column.values().iter().collect()
}

/// A column of a node of `w.yaml`.
pub fn column(space: &Space, node: &str, name: &str) -> ArrayRef {
    table(space, node).column_by_name(name).unwrap().clone()
}

/// The numbers of a column, none of which is missing.
pub fn floats(space: &Space, node: &str, name: &str) -> Vec<f64> {
    column(space, node, name).as_primitive::<Float64Type>().iter().map(Option::unwrap).collect()
}

/// The whole numbers of a column.
pub fn whole(space: &Space, node: &str, name: &str) -> Vec<Option<i64>> {
    column(space, node, name).as_primitive::<Int64Type>().iter().collect()
}

/// The values of a table of metrics by name.
pub fn figures(space: &Space, node: &str) -> impl Fn(&str) -> f64 + use<> {
    let names = texts(&table(space, node), "metric");
    let values = floats(space, node, "value");
    move |name| values[names.iter().position(|known| known.as_deref() == Some(name)).unwrap()]
}

/// The lines of a file of the shared cases, which must be there.
pub fn lines(path: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(path);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
