//! Figures by step, from the log of a training.

use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type};

use refrain_cache::{TableError, TableReader};

/// The column with the number of the step.
const STEP: &str = "step";
/// Rows that are read at once.
const BATCH_ROWS: usize = 4096;

/// A figure by step.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// The figure, such as `loss`.
    pub metric: String,
    /// Steps and values, in the order of the log.
    pub points: Vec<(i64, f64)>,
}

/// Reads every column of numbers beside the step; a table without steps has no curves.
pub(super) fn read(path: &Path) -> Result<Vec<Curve>, TableError> {
    let table = TableReader::open(path)?;
    let fields = table.schema().fields();
    let is_whole = |data_type: &DataType| matches!(data_type, DataType::Int32 | DataType::Int64);
    let is_number = |data_type: &DataType| is_whole(data_type) || data_type.is_floating();
    if !fields.find(STEP).is_some_and(|(_, field)| is_whole(field.data_type())) {
        return Ok(Vec::new());
    }

    let numbers = fields.iter().filter(|field| is_number(field.data_type()));
    let columns: Vec<&str> = numbers.map(|field| field.name().as_str()).collect();
    let figures = columns.iter().filter(|name| **name != STEP);
    let mut curves: Vec<Curve> =
        figures.map(|name| Curve { metric: (*name).to_owned(), points: Vec::new() }).collect();
    for batch in table.batches(Some(&columns), BATCH_ROWS)? {
        add(&mut curves, &batch?);
    }
    Ok(curves)
}

fn add(curves: &mut [Curve], batch: &RecordBatch) {
    let Some(steps) = batch.column_by_name(STEP).map(numbers) else { return };
    for curve in curves {
        let Some(values) = batch.column_by_name(&curve.metric).map(numbers) else { continue };
        let points = steps.iter().zip(values).filter_map(|(step, value)| Some(((*step)?, value?)));
        curve.points.extend(points.map(|(step, value)| (step as i64, value)));
    }
}

fn numbers(column: &ArrayRef) -> Vec<Option<f64>> {
    match column.data_type() {
        DataType::Int32 => {
            column.as_primitive::<Int32Type>().iter().map(|n| n.map(f64::from)).collect()
        }
        DataType::Int64 => {
            column.as_primitive::<Int64Type>().iter().map(|n| n.map(|n| n as f64)).collect()
        }
        DataType::Float32 => {
            column.as_primitive::<Float32Type>().iter().map(|n| n.map(f64::from)).collect()
        }
        DataType::Float64 => column.as_primitive::<Float64Type>().iter().collect(),
        _ => Vec::new(),
    }
}
