//! The table of a node's metrics: `metric`, `value`, `n`, `low`, `high`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use refrain_cache::{Artifact, Cache, CacheError, Digest, Metric, TableError, TableWriter};

/// The name of the output that holds it.
pub const OUTPUT: &str = "metrics";

/// Returns its columns.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("metric", DataType::Utf8, false),
        Field::new("value", DataType::Float64, true),
        Field::new("n", DataType::Int64, false),
        Field::new("low", DataType::Float64, true),
        Field::new("high", DataType::Float64, true),
    ]))
}

/// Writes the metrics as a table of the cache.
pub fn store(cache: &Cache, metrics: &[Metric]) -> Result<Artifact, CacheError> {
    let mut writer = cache.new_table(schema())?;
    writer.write(&batch(metrics))?;
    cache.store_table(writer)
}

/// Computes the digest of the metrics' table without writing one.
pub fn digest(metrics: &[Metric]) -> Result<Digest, TableError> {
    let mut writer = TableWriter::hash_only(schema())?;
    writer.write(&batch(metrics))?;
    Ok(writer.hash()?.digest)
}

fn batch(metrics: &[Metric]) -> RecordBatch {
    let finite = |value: f64| value.is_finite().then_some(value);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(metrics.iter().map(|m| &m.metric))),
        Arc::new(Float64Array::from_iter(metrics.iter().map(|m| finite(m.value)))),
        Arc::new(Int64Array::from_iter_values(metrics.iter().map(|m| m.n as i64))),
        Arc::new(Float64Array::from_iter(metrics.iter().map(|m| m.low))),
        Arc::new(Float64Array::from_iter(metrics.iter().map(|m| m.high))),
    ];
    RecordBatch::try_new(schema(), columns).expect("the columns are those of the schema")
}
