//! Reads a JSON value of any form as its text, numbers as they are written, without what is null in
//! mappings.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringBuilder};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::error::ArrowError;
use arrow::json::reader::{ArrayDecoder, DecoderContext, DecoderFactory, Tape, TapeElement};

/// Marks a field whose values are read as JSON texts.
const MARK: &str = "refrain.json";

/// Returns a field whose values are read as JSON texts.
pub(in crate::source) fn field(name: &str) -> Field {
    let mark = HashMap::from([(MARK.to_string(), String::new())]);
    Field::new(name, DataType::Utf8, true).with_metadata(mark)
}

/// Whether [`field`] made a field.
pub(super) fn is_json(field: &Field) -> bool {
    field.metadata().contains_key(MARK)
}

/// Reads the fields that [`field`] makes.
#[derive(Debug)]
pub(super) struct JsonTexts;

impl DecoderFactory for JsonTexts {
    fn make_default_decoder(
        &self,
        _: &DecoderContext,
        field: &FieldRef,
        _: bool,
    ) -> Result<Option<Box<dyn ArrayDecoder>>, ArrowError> {
        Ok(is_json(field).then(|| Box::new(JsonTexts) as Box<dyn ArrayDecoder>))
    }
}

impl ArrayDecoder for JsonTexts {
    fn decode(&mut self, tape: &Tape<'_>, places: &[u32]) -> Result<ArrayRef, ArrowError> {
        let mut texts = StringBuilder::new();
        let mut json = String::new();
        for place in places {
            match tape.get(*place) {
                TapeElement::Null => texts.append_null(),
                // A text may be such a JSON already.
                TapeElement::String(text) => texts.append_value(tape.get_string(text)),
                _ => {
                    json.clear();
                    write(tape, *place, &mut json)?;
                    texts.append_value(&json);
                }
            }
        }
        Ok(Arc::new(texts.finish()))
    }
}

/// Writes the value at a place of the tape; its depth has been checked.
fn write(tape: &Tape<'_>, place: u32, json: &mut String) -> Result<(), ArrowError> {
    match tape.get(place) {
        TapeElement::Null => json.push_str("null"),
        TapeElement::True => json.push_str("true"),
        TapeElement::False => json.push_str("false"),
        TapeElement::Number(number) => json.push_str(tape.get_string(number)),
        TapeElement::String(text) => quote(tape.get_string(text), json)?,
        TapeElement::StartList(end) => {
            json.push('[');
            let mut at = place + 1;
            while at < end {
                if at > place + 1 {
                    json.push(',');
                }
                write(tape, at, json)?;
                at = tape.next(at, "an item")?;
            }
            json.push(']');
        }
        TapeElement::StartObject(end) => {
            json.push('{');
            let opened = json.len();
            let mut at = place + 1;
            while at < end {
                let TapeElement::String(key) = tape.get(at) else {
                    return Err(tape.error(at, "a key"));
                };
                let value = at + 1;
                if tape.get(value) != TapeElement::Null {
                    if json.len() > opened {
                        json.push(',');
                    }
                    quote(tape.get_string(key), json)?;
                    json.push(':');
                    write(tape, value, json)?;
                }
                at = tape.next(value, "a value")?;
            }
            json.push('}');
        }
        _ => return Err(tape.error(place, "JSON")),
    }
    Ok(())
}

fn quote(text: &str, json: &mut String) -> Result<(), ArrowError> {
    let quoted = serde_json::to_string(text);
    json.push_str(&quoted.map_err(|error| ArrowError::JsonError(error.to_string()))?);
    Ok(())
}
