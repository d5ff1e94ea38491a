//! Brings the columns of a source to the types of Refrain's tables, never from one kind of value to
//! another.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringBuilder, new_null_array};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef};

use super::error::Fault;
use super::messages;
use super::numbers::Ranges;

/// Columns of ours that are text, whatever they are in the file.
const TEXTS: [&str; 8] =
    ["id", "prompt", "response", "reference", "text", "prediction", "reason", "finish_reason"];

/// Whether a column of that name is text, whatever it is in the file.
pub(super) fn is_text(name: &str) -> bool {
    TEXTS.contains(&name)
}

/// Returns the type that a column has in our tables: the one that its name asks for, if its values
/// are of that kind, else `general`. A kind of stage that needs another refuses the column by its
/// name.
pub(super) fn target(name: &str, found: &DataType, general: &DataType) -> DataType {
    let list = |item| DataType::List(Arc::new(Field::new("item", item, true)));
    let ours = match name {
        _ if is_text(name) => DataType::Utf8,
        "sample" | "prompt_tokens" => DataType::Int32,
        "token_ids" | "offsets" | "response_token_ids" => list(DataType::Int32),
        "logprobs" | "response_logprobs" => list(DataType::Float32),
        "perplexity" => DataType::Float64,
        "loss_mask" => list(DataType::Boolean),
        "correct" => DataType::Boolean,
        "tools" if is_list_of_mappings(found) => DataType::Utf8,
        _ => return general.clone(),
    };
    if is_same_kind(found, &ours) || name == "tools" { ours } else { general.clone() }
}

fn is_list_of_mappings(found: &DataType) -> bool {
    matches!(found, DataType::List(item) if matches!(item.data_type(), DataType::Struct(_)))
}

/// Whether values of the found type are of the kind of `ours`: whole numbers are numbers, and
/// whatever is neither a list nor a mapping has a text.
fn is_same_kind(found: &DataType, ours: &DataType) -> bool {
    match (found, ours) {
        (DataType::Null, _) => true,
        (DataType::List(found), DataType::List(ours)) => {
            is_same_kind(found.data_type(), ours.data_type())
        }
        (_, DataType::Utf8) => !found.is_nested() && can_cast_types(found, ours),
        (_, DataType::Int32) => found.is_integer(),
        (_, DataType::Float32 | DataType::Float64) => found.is_numeric() && !found.is_nested(),
        _ => found == ours,
    }
}

/// Returns one width for numbers and one kind of text, so that the same rows from two formats are
/// the same table. Where the type alone does not tell the numbers' width, `ranges` does; without
/// them the type stays.
pub(super) fn general(found: &DataType, ranges: Option<&Ranges>) -> DataType {
    match found {
        DataType::Null => DataType::Utf8,
        DataType::UInt64 | DataType::Decimal128(_, 0) => {
            ranges.map_or_else(|| found.clone(), Ranges::data_type)
        }
        t if t.is_integer() => DataType::Int64,
        t if t.is_floating() => DataType::Float64,
        DataType::List(item) => {
            let inside = ranges.map(|ranges| ranges.of_part(0));
            let item = general(item.data_type(), inside.as_ref());
            DataType::List(Arc::new(Field::new("item", item, true)))
        }
        DataType::Struct(fields) => {
            let part = |(i, field): (usize, &FieldRef)| {
                let inside = ranges.map(|ranges| ranges.of_part(i));
                let ty = general(field.data_type(), inside.as_ref());
                Arc::new(Field::new(field.name(), ty, true))
            };
            DataType::Struct(fields.iter().enumerate().map(part).collect())
        }
        other => other.clone(),
    }
}

/// Returns the number of single columns of a type, and the levels of lists and mappings around
/// them.
pub(super) fn size(found: &DataType) -> (usize, usize) {
    let deeper = |(columns, depth)| (columns, depth + 1);
    match found {
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => {
            deeper(size(f.data_type()))
        }
        DataType::Struct(fields) => {
            let sizes = fields.iter().map(|field| size(field.data_type()));
            deeper(sizes.fold((0, 0), |(n, depth), (columns, deep)| (n + columns, depth.max(deep))))
        }
        _ => (1, 0),
    }
}

/// The fault of an `id` that is not a text, nor anything that has one.
pub(super) fn not_text(name: &str, found: &DataType) -> Fault {
    let found = crate::kind::type_name(found);
    Fault::new(format!("column `{name}` is {found}, expected text")).hint(format!(
        "rename it, `columns: {{ old_{name}: {name} }}`, or leave it out, `drop: [{name}]`"
    ))
}

/// Brings a column to a type that [`target`] chose; the fault comes with its row.
pub(super) fn column(
    name: &str,
    array: &ArrayRef,
    to: &DataType,
) -> Result<ArrayRef, (usize, Fault)> {
    if name == "messages" {
        let fields = *to == messages::messages_type(true);
        let texts = json_texts(array).map_err(|fault| (0, fault))?;
        return Ok(Arc::new(messages::from_json(&texts, fields)?));
    }
    if array.data_type() == to {
        return Ok(array.clone());
    }
    if *array.data_type() == DataType::Null {
        return Ok(new_null_array(to, array.len()));
    }
    if name == "tools" && is_list_of_mappings(array.data_type()) {
        return Ok(Arc::new(json_texts(array).map_err(|fault| (0, fault))?));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let whole = cast_with_options(array, to, &options);
    let cast = whole.map_err(|_| first_misfit(name, array, to, &options))?;
    Ok(match (array.data_type().is_floating(), to) {
        (true, DataType::Utf8) => Arc::new(whole_floats(cast.as_string())),
        _ => cast,
    })
}

/// The JSON text of each value of a column, which may be such a text already.
fn json_texts(array: &ArrayRef) -> Result<StringArray, Fault> {
    match array.data_type() {
        DataType::Utf8 => Ok(array.as_string::<i32>().clone()),
        DataType::Null => Ok(StringArray::new_null(array.len())),
        _ => messages::to_json(array).map_err(|error| Fault::new(error.to_string())),
    }
}

/// Finds the first row that cannot be brought to a type.
fn first_misfit(
    name: &str,
    array: &ArrayRef,
    to: &DataType,
    options: &CastOptions<'_>,
) -> (usize, Fault) {
    let fails = |row: &usize| cast_with_options(&array.slice(*row, 1), to, options).is_err();
    let row = (0..array.len()).find(fails).unwrap_or(0);
    let (found, to) = (crate::kind::type_name(array.data_type()), crate::kind::type_name(to));
    let message = format!("a value of column `{name}`, {found}, does not fit into {to}");
    (row, Fault::new(message).hint(super::error::left_out(name)))
}

/// The texts of floats, those of whole numbers as whole numbers: programs that have one type for
/// all numbers of a column write 18 as 18.0 where another is 2.5.
fn whole_floats(texts: &StringArray) -> StringArray {
    let mut whole = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
    for text in texts {
        whole.append_option(text.map(|text| text.strip_suffix(".0").unwrap_or(text)));
    }
    whole.finish()
}
