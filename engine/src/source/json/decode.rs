//! Brings JSON objects into columns. Single values go straight into their column; lists and mappings
//! go through Arrow's reader.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, NullArray, RecordBatch,
    RecordBatchOptions, StringBuilder, UInt64Builder,
};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use serde::de::{Deserializer, Visitor};

use super::json_text::{JsonTexts, is_json};
use super::shape::Parts;

/// A column that grows by a value. Its type has been inferred from all values.
enum ColumnBuilder {
    Null,
    Truth(BooleanBuilder),
    Int(Int64Builder),
    UInt(UInt64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
    /// Objects with the one entry, and the name as it is written in them.
    Nested {
        text: String,
        name: String,
    },
}

impl ColumnBuilder {
    /// Starts a column of some rows; as a text it may take about so many bytes.
    fn new(field: &FieldRef, rows: usize, bytes: usize) -> ColumnBuilder {
        let name = serde_json::Value::from(field.name().as_str()).to_string();
        let nested = ColumnBuilder::Nested { text: String::new(), name };
        if is_json(field) {
            return nested;
        }
        match field.data_type() {
            DataType::Null => ColumnBuilder::Null,
            DataType::Boolean => ColumnBuilder::Truth(BooleanBuilder::with_capacity(rows)),
            DataType::Int64 => ColumnBuilder::Int(Int64Builder::with_capacity(rows)),
            DataType::UInt64 => ColumnBuilder::UInt(UInt64Builder::with_capacity(rows)),
            DataType::Float64 => ColumnBuilder::Float(Float64Builder::with_capacity(rows)),
            DataType::Utf8 => ColumnBuilder::Text(StringBuilder::with_capacity(rows, bytes)),
            _ => nested,
        }
    }

    /// Appends a value as it is written; `None` is null.
    fn append(&mut self, json: Option<&str>) -> Result<(), ArrowError> {
        let json = json.filter(|json| *json != "null");
        let misfit = || {
            let value = json.unwrap_or_default();
            ArrowError::JsonError(format!("the value {value} is not of its column's type"))
        };
        match self {
            ColumnBuilder::Null if json.is_some() => return Err(misfit()),
            ColumnBuilder::Null => {}
            ColumnBuilder::Truth(column) => {
                column.append_option(
                    json.map(|json| json.parse()).transpose().map_err(|_| misfit())?,
                );
            }
            ColumnBuilder::Int(column) => {
                column.append_option(
                    json.map(|json| json.parse()).transpose().map_err(|_| misfit())?,
                );
            }
            ColumnBuilder::UInt(column) => {
                column.append_option(
                    json.map(|json| json.parse()).transpose().map_err(|_| misfit())?,
                );
            }
            ColumnBuilder::Float(column) => {
                column.append_option(
                    json.map(|json| json.parse()).transpose().map_err(|_| misfit())?,
                );
            }
            ColumnBuilder::Text(column) => match json {
                None => column.append_null(),
                Some(json) => append_text(column, json)?,
            },
            ColumnBuilder::Nested { text, name } => {
                text.push('{');
                text.push_str(name);
                text.push(':');
                text.push_str(json.unwrap_or("null"));
                text.push('}');
            }
        }
        Ok(())
    }

    fn finish(self, field: &FieldRef, rows: usize) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            ColumnBuilder::Null => Arc::new(NullArray::new(rows)),
            ColumnBuilder::Truth(mut column) => Arc::new(column.finish()),
            ColumnBuilder::Int(mut column) => Arc::new(column.finish()),
            ColumnBuilder::UInt(mut column) => Arc::new(column.finish()),
            ColumnBuilder::Float(mut column) => Arc::new(column.finish()),
            ColumnBuilder::Text(mut column) => Arc::new(column.finish()),
            ColumnBuilder::Nested { text, .. } => nested(field, &text, rows)?,
        })
    }
}

/// Appends the text of a single value: of a number or a truth as it is written.
fn append_text(column: &mut StringBuilder, json: &str) -> Result<(), ArrowError> {
    let inside = json.strip_prefix('"').and_then(|json| json.strip_suffix('"'));
    match inside {
        Some(inside) if memchr::memchr(b'\\', inside.as_bytes()).is_some() => {
            let parsed = serde_json::Deserializer::from_str(json).deserialize_str(Append(column));
            parsed.map_err(|error| ArrowError::JsonError(error.to_string()))?;
        }
        _ => column.append_value(inside.unwrap_or(json)),
    }
    Ok(())
}

/// Appends a text to a column without a copy of its own.
struct Append<'a>(&'a mut StringBuilder);

impl Visitor<'_> for Append<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.append_value(text);
        Ok(())
    }
}

/// A column of lists or mappings.
fn nested(field: &FieldRef, text: &str, rows: usize) -> Result<ArrayRef, ArrowError> {
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    let mut decoder = ReaderBuilder::new(schema.clone())
        .with_batch_size(rows.max(1))
        .with_coerce_primitive(true)
        .with_decoder_factory(Arc::new(JsonTexts))
        .build_decoder()?;
    decoder.decode(text.as_bytes())?;
    let batch = decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(schema));
    match batch.num_rows() == rows {
        true => Ok(batch.column(0).clone()),
        false => Err(ArrowError::JsonError("an object ends before its row".into())),
    }
}

/// Counts the columns of text, at least 1.
fn texts(schema: &Schema) -> usize {
    let texts = schema.fields().iter().filter(|field| *field.data_type() == DataType::Utf8);
    texts.count().max(1)
}

/// Parses objects into columns; of an entry that comes twice the last counts.
pub(super) fn batch(schema: &SchemaRef, objects: &[&str]) -> Result<RecordBatch, ArrowError> {
    let fields = schema.fields();
    let places: HashMap<&str, usize> =
        fields.iter().enumerate().map(|(place, field)| (field.name().as_str(), place)).collect();
    // A fair share to begin with: texts that grow from nothing are copied again and again.
    let share = objects.iter().map(|json| json.len()).sum::<usize>() / texts(schema);
    let new = |field| ColumnBuilder::new(field, objects.len(), share);
    let mut builders: Vec<ColumnBuilder> = fields.iter().map(new).collect();
    let mut values: Vec<Option<&str>> = vec![None; fields.len()];
    for object in objects {
        values.fill(None);
        // Rows mostly have their entries in one order, which is that of the columns.
        let mut next = 0;
        let mut entry = |name: Option<&str>, value| {
            let name = name.unwrap_or_default();
            let expected = fields.get(next).is_some_and(|field| field.name() == name);
            let place = if expected { Some(next) } else { places.get(name).copied() };
            if let Some(place) = place {
                values[place] = Some(value);
                next = place + 1;
            }
        };
        serde_json::Deserializer::from_str(object)
            .deserialize_any(Parts(&mut entry))
            .map_err(|error| ArrowError::JsonError(error.to_string()))?;
        for (builder, value) in builders.iter_mut().zip(&values) {
            builder.append(*value)?;
        }
    }
    let columns: Result<Vec<ArrayRef>, ArrowError> = builders
        .into_iter()
        .zip(fields)
        .map(|(builder, field)| builder.finish(field, objects.len()))
        .collect();
    let rows = RecordBatchOptions::new().with_row_count(Some(objects.len()));
    RecordBatch::try_new_with_options(schema.clone(), columns?, &rows)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Field;

    use super::*;

    /// As Arrow's own reader brings them.
    #[test]
    fn values_are_what_they_always_were() {
        let objects = [
            r#"{"t": "a", "n": 1, "u": 18446744073709551615, "x": 1, "b": true, "l": [1, null], "o": null}"#,
            r#"{"b": false, "t": 2.50, "x": -0.0, "l": null, "s": {"y": "z"}, "extra": {}}"#,
            r#"{"t": "q\"\n\u00fc\\", "t": "\ud83d\ude00", "n": -5, "x": 1e3, "s": {}}"#,
            r#"{}"#,
            r#"{"t": null, "t\u0061": 1, "x": 1.7976931348623157e308}"#,
        ];
        let item = |ty| Arc::new(Field::new("item", ty, true));
        let schema = Arc::new(Schema::new(vec![
            Field::new("t", DataType::Utf8, true),
            Field::new("n", DataType::Int64, true),
            Field::new("u", DataType::UInt64, true),
            Field::new("x", DataType::Float64, true),
            Field::new("b", DataType::Boolean, true),
            Field::new("l", DataType::List(item(DataType::Int64)), true),
            Field::new(
                "s",
                DataType::Struct(vec![Field::new("y", DataType::Utf8, true)].into()),
                true,
            ),
            Field::new("o", DataType::Null, true),
            Field::new("ta", DataType::Int64, true),
        ]));
        let whole = objects.join("\n");
        let mut reader = ReaderBuilder::new(schema.clone())
            .with_coerce_primitive(true)
            .build(whole.as_bytes())
            .unwrap();
        let expected = reader.next().unwrap().unwrap();
        assert_eq!(batch(&schema, &objects).unwrap(), expected);
        assert_eq!(expected.column(0).as_string::<i32>().value(2), "😀");
        assert!(batch(&schema, &[r#"{"n": 1.5}"#]).is_err());
    }
}
