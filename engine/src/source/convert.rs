//! Brings the columns of a source to the types of Refrain's tables.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, StringArray, StringBuilder, StructArray, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};

/// The type that a column of that name and found type has in our tables.
pub(super) fn target(name: &str, found: &DataType) -> DataType {
    let list = |item| DataType::List(Arc::new(Field::new("item", item, true)));
    match name {
        "id" | "prompt" | "response" | "reference" | "text" | "prediction" | "reason"
        | "finish_reason" => DataType::Utf8,
        "sample" | "prompt_tokens" => DataType::Int32,
        "token_ids" | "offsets" | "response_token_ids" => list(DataType::Int32),
        "logprobs" | "response_logprobs" => list(DataType::Float32),
        "perplexity" => DataType::Float64,
        "loss_mask" => list(DataType::Boolean),
        "correct" => DataType::Boolean,
        "messages" => messages_type(),
        _ => general(found),
    }
}

/// `list<struct<role, content>>`.
pub(super) fn messages_type() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Struct(message_fields()), true)))
}

fn message_fields() -> Fields {
    vec![Field::new("role", DataType::Utf8, true), Field::new("content", DataType::Utf8, true)]
        .into()
}

/// One width for numbers and one kind of text, so that the same rows from two formats are the same table.
fn general(found: &DataType) -> DataType {
    match found {
        DataType::Null | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        t if t.is_integer() => DataType::Int64,
        t if t.is_floating() => DataType::Float64,
        DataType::Dictionary(_, value) => general(value),
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => {
            DataType::List(Arc::new(Field::new("item", general(f.data_type()), true)))
        }
        DataType::Struct(fields) => {
            let fields: Vec<FieldRef> = fields
                .iter()
                .map(|f| Arc::new(Field::new(f.name(), general(f.data_type()), true)))
                .collect();
            DataType::Struct(fields.into())
        }
        other => other.clone(),
    }
}

/// The number of single columns of a type, and the levels of lists and mappings around them.
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

/// Whether columns of the found type can be brought to another; the error says why not.
pub(super) fn check(name: &str, found: &DataType, to: &DataType) -> Result<(), String> {
    if found == to || *found == DataType::Null {
        return Ok(());
    }
    if name == "messages" {
        let turns = match found {
            DataType::List(turn) | DataType::LargeList(turn) => turn.data_type(),
            _ => return Err(no_messages(found)),
        };
        let DataType::Struct(fields) = turns else { return Err(no_messages(found)) };
        let has = |names: [&str; 2]| names.iter().any(|n| fields.find(n).is_some());
        let fits = has(ROLE) && has(CONTENT);
        return if fits { Ok(()) } else { Err(no_messages(found)) };
    }
    // A list could be written out as text, but would be a mistake.
    let flat = !found.is_nested() || to.is_nested();
    if flat && can_cast_types(found, to) { Ok(()) } else { Err(no_cast(name, found, to)) }
}

fn no_cast(name: &str, from: &DataType, to: &DataType) -> String {
    let (from, to) = (crate::kind::type_name(from), crate::kind::type_name(to));
    format!("column `{name}` is {from} and cannot be read as {to}")
}

fn no_messages(found: &DataType) -> String {
    let found = crate::kind::type_name(found);
    format!(
        "column `messages` is {found}, expected a list of turns with `role` and `content`, or `from` and `value`"
    )
}

/// The names that the speaker of a turn has, ours first.
const ROLE: [&str; 2] = ["role", "from"];
/// The names that its text has.
const CONTENT: [&str; 2] = ["content", "value"];

/// The column with that type; the error says what cannot be brought to it.
pub(super) fn column(name: &str, array: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    if *array.data_type() == DataType::Null {
        return Ok(new_null_array(to, array.len()));
    }
    if name == "messages" {
        return messages(array);
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &options).map_err(|_| no_cast(name, array.data_type(), to))
}

/// Turns with `role`/`content` or `from`/`value` as turns with `role` and `content`.
fn messages(array: &ArrayRef) -> Result<ArrayRef, String> {
    let wrong = || no_messages(array.data_type());
    let list: ListArray = match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().clone(),
        DataType::LargeList(f) => {
            let to = DataType::List(f.clone());
            let cast =
                cast_with_options(array, &to, &CastOptions::default()).map_err(|_| wrong())?;
            cast.as_list::<i32>().clone()
        }
        _ => return Err(wrong()),
    };
    let turns = list.values().as_struct_opt().ok_or_else(wrong)?;
    let text = |names: [&str; 2]| -> Result<StringArray, String> {
        let column = names.iter().find_map(|n| turns.column_by_name(n)).ok_or_else(wrong)?;
        let cast = cast_with_options(column, &DataType::Utf8, &CastOptions::default())
            .map_err(|_| wrong())?;
        Ok(cast.as_string::<i32>().clone())
    };
    let (roles, contents) = (text(ROLE)?, text(CONTENT)?);
    let mut renamed = StringBuilder::new();
    for role in roles.iter() {
        renamed.append_option(role.map(|r| match r {
            "human" => "user",
            "gpt" => "assistant",
            other => other,
        }));
    }
    let columns: Vec<ArrayRef> = vec![Arc::new(renamed.finish()), Arc::new(contents)];
    let turns = StructArray::new(message_fields(), columns, turns.nulls().cloned());
    let field = Arc::new(Field::new("item", DataType::Struct(message_fields()), true));
    Ok(Arc::new(ListArray::new(
        field,
        list.offsets().clone(),
        Arc::new(turns),
        list.nulls().cloned(),
    )))
}

/// Takes a trailing assistant turn off each conversation: the shorter conversations and the turns' texts.
pub(super) fn split_last_turn(messages: &ListArray) -> (ListArray, StringArray) {
    let turns = messages.values().as_struct();
    let (roles, contents) =
        (turns.column(0).as_string::<i32>(), turns.column(1).as_string::<i32>());
    let mut lengths = Vec::with_capacity(messages.len());
    let mut keep: Vec<u32> = Vec::new();
    let mut responses = StringBuilder::new();
    for row in 0..messages.len() {
        let (start, end) = (messages.value_offsets()[row], messages.value_offsets()[row + 1]);
        let last = (end - 1).max(0) as usize;
        let answered = end > start && !roles.is_null(last) && roles.value(last) == "assistant";
        responses
            .append_option((answered && !contents.is_null(last)).then(|| contents.value(last)));
        let end = if answered { end - 1 } else { end };
        lengths.push((end - start) as usize);
        keep.extend(start as u32..end as u32);
    }
    let indices = arrow::array::UInt32Array::from(keep);
    let turns =
        arrow::compute::take(turns, &indices, None).expect("the indices are rows of the turns");
    let DataType::List(field) = messages.data_type() else {
        unreachable!("a list array has a list type")
    };
    let shorter = ListArray::new(
        field.clone(),
        OffsetBuffer::from_lengths(lengths),
        turns,
        messages.nulls().cloned(),
    );
    (shorter, responses.finish())
}
