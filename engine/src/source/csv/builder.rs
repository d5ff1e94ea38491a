//! Builds a column of the cells of one type.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, NullArray, StringBuilder, UInt64Builder,
};
use arrow::datatypes::DataType;

use crate::source::json::shape::truth;

/// A column that grows by a cell. The type has been inferred from all cells, so that each has a
/// value of it.
pub(super) enum CellBuilder {
    Null(usize),
    Truth(BooleanBuilder),
    Int(Int64Builder),
    UInt(UInt64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
}

impl CellBuilder {
    /// Starts a column; as a text it may take about so many bytes.
    pub fn new(ty: &DataType, bytes: usize) -> CellBuilder {
        match ty {
            DataType::Null => CellBuilder::Null(0),
            DataType::Boolean => CellBuilder::Truth(BooleanBuilder::new()),
            DataType::Int64 => CellBuilder::Int(Int64Builder::new()),
            DataType::UInt64 => CellBuilder::UInt(UInt64Builder::new()),
            DataType::Float64 => CellBuilder::Float(Float64Builder::new()),
            _ => CellBuilder::Text(StringBuilder::with_capacity(0, bytes)),
        }
    }

    pub fn append(&mut self, cell: &str) {
        match self {
            CellBuilder::Null(rows) => *rows += 1,
            CellBuilder::Truth(column) => column.append_option(truth(cell)),
            CellBuilder::Int(column) => column.append_option(cell.parse().ok()),
            CellBuilder::UInt(column) => column.append_option(cell.parse().ok()),
            CellBuilder::Float(column) => column.append_option(cell.parse().ok()),
            CellBuilder::Text(column) => column.append_option((!cell.is_empty()).then_some(cell)),
        }
    }

    pub fn finish(self) -> ArrayRef {
        match self {
            CellBuilder::Null(rows) => Arc::new(NullArray::new(rows)),
            CellBuilder::Truth(mut column) => Arc::new(column.finish()),
            CellBuilder::Int(mut column) => Arc::new(column.finish()),
            CellBuilder::UInt(mut column) => Arc::new(column.finish()),
            CellBuilder::Float(mut column) => Arc::new(column.finish()),
            CellBuilder::Text(mut column) => Arc::new(column.finish()),
        }
    }
}
