//! Reads the columns and metrics of what a workflow made.

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::space::Space;

/// A column of an artifact of `w.yaml`, whole.
pub fn column(space: &Space, node: &str, name: &str) -> ArrayRef {
    let path = space.run(&["show", "w.yaml", node, "--path"]).stdout;
    let file = std::fs::File::open(space.path(path.trim())).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let parts: Vec<ArrayRef> =
        reader.map(|batch| batch.unwrap().column_by_name(name).unwrap().clone()).collect();
    arrow::compute::concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap()
}

/// The numbers of a column without missing ones.
pub fn floats(space: &Space, node: &str, name: &str) -> Vec<f64> {
    column(space, node, name).as_primitive::<Float64Type>().iter().map(Option::unwrap).collect()
}

/// The whole numbers of a column.
pub fn whole(space: &Space, node: &str, name: &str) -> Vec<Option<i64>> {
    column(space, node, name).as_primitive::<Int64Type>().iter().collect()
}

/// The texts of a column.
pub fn texts(space: &Space, node: &str, name: &str) -> Vec<Option<String>> {
    let column = column(space, node, name);
    column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

/// The values of a table of metrics by name.
pub fn figures(space: &Space, node: &str) -> impl Fn(&str) -> f64 + use<> {
    let names = texts(space, node, "metric");
    let values = floats(space, node, "value");
    move |name| values[names.iter().position(|known| known.as_deref() == Some(name)).unwrap()]
}
