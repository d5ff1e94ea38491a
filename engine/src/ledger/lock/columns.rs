//! The columns of a source's table as a lock writes them: `{"id":"Utf8","messages":[{"role":"Utf8"}]}`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Columns with their types: a list is an array of its element's type, a struct a mapping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceColumns(Map<String, Value>);

impl SourceColumns {
    /// The columns of a table.
    pub fn new(schema: &Schema) -> SourceColumns {
        SourceColumns(mapping(schema.fields()))
    }

    /// The schema with these columns; `None` for a type that this version does not know.
    pub fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::new(Schema::new(fields(&self.0)?)))
    }
}

fn mapping(fields: &Fields) -> Map<String, Value> {
    fields.iter().map(|field| (field.name().clone(), written(field.data_type()))).collect()
}

fn written(data_type: &DataType) -> Value {
    match data_type {
        DataType::List(item) => Value::Array(vec![written(item.data_type())]),
        DataType::Struct(fields) => Value::Object(mapping(fields)),
        plain => Value::from(plain.to_string()),
    }
}

fn fields(columns: &Map<String, Value>) -> Option<Fields> {
    columns.iter().map(|(name, value)| Some(Field::new(name, read(value)?, true))).collect()
}

fn read(value: &Value) -> Option<DataType> {
    match value {
        Value::String(plain) => plain.parse().ok(),
        Value::Object(columns) => Some(DataType::Struct(fields(columns)?)),
        Value::Array(items) => match items.as_slice() {
            [item] => Some(DataType::new_list(read(item)?, true)),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn columns_come_back_as_they_were() {
        let message = DataType::Struct(
            vec![Field::new("role", DataType::Utf8, true), Field::new("n", DataType::Int64, true)]
                .into(),
        );
        let schema = Schema::new(vec![
            Field::new("id", DataType::Utf8, true),
            Field::new("messages", DataType::new_list(message, true), true),
            Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), true),
            Field::new("cost", DataType::Decimal128(9, 2), true),
            Field::new("hash", DataType::FixedSizeBinary(4), true),
            Field::new("share", DataType::Float32, true),
            Field::new("right", DataType::Boolean, true),
        ]);
        let text = serde_json::to_string(&SourceColumns::new(&schema)).unwrap();
        let columns: SourceColumns = serde_json::from_str(&text).unwrap();
        assert_eq!(*columns.schema().unwrap(), schema, "{text}");
    }

    #[test]
    fn an_unknown_type_leaves_the_columns_unknown() {
        let columns: SourceColumns = serde_json::from_str(r#"{"id":"Colour"}"#).unwrap();
        assert_eq!(columns.schema(), None);
    }
}
