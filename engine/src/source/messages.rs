//! Brings conversations to one form: turns with `role` and `content`, and what else a turn holds as
//! JSON.
//!
//! A turn's further fields (`tool_calls`, `reasoning_content`, `name`, …) are kept as the text of a
//! JSON mapping in `fields`, a column that only tables with such fields have. Fields that are null
//! count as absent, since Parquet cannot tell the two apart.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, ListBuilder, RecordBatch, StringArray, StringBuilder,
    StructBuilder, UInt32Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Fields};
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::Fault;

/// The names of a turn's speaker, ours first.
const ROLE: [&str; 2] = ["role", "from"];
/// The names of a turn's text.
const CONTENT: [&str; 2] = ["content", "value"];
/// Our name for the further fields of a turn.
const FIELDS: &str = "fields";

/// Roles that are passed on as they are.
const ROLES: [&str; 11] = [
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
    "ipython",
    "observation",
    "environment",
    "context",
    "document",
];
/// Names of roles in other makers' data, and ours. Capital letters make no difference.
const OTHER_NAMES: [(&str, &str); 10] = [
    ("human", "user"),
    ("prompter", "user"),
    ("gpt", "assistant"),
    ("model", "assistant"),
    ("bot", "assistant"),
    ("chatbot", "assistant"),
    ("ai", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
];

/// Returns the type of `messages`: `list<struct<role, content>>`, with `fields` where some turn has
/// further ones.
pub(super) fn messages_type(fields: bool) -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Struct(turn_fields(fields)), true)))
}

fn turn_fields(fields: bool) -> Fields {
    let names = ["role", "content"].into_iter().chain(fields.then_some(FIELDS));
    names.map(|name| Field::new(name, DataType::Utf8, true)).collect()
}

/// Whether a Parquet column may hold conversations: a list of mappings with a role and a content.
pub(super) fn check_type(found: &DataType) -> Result<(), Fault> {
    let DataType::List(turn) = found else { return Err(not_turns(&kind_name(found))) };
    let DataType::Struct(fields) = turn.data_type() else {
        return Err(not_turns(&kind_name(found)));
    };
    let has = |names: [&str; 2]| names.iter().any(|name| fields.find(name).is_some());
    if has(ROLE) && has(CONTENT) { Ok(()) } else { Err(not_turns(&kind_name(found))) }
}

/// Whether turns of such a Parquet column have room for further fields.
pub(super) fn may_have_fields(found: &DataType) -> bool {
    let DataType::List(turn) = found else { return false };
    matches!(turn.data_type(), DataType::Struct(fields) if fields.len() > 2)
}

/// Whether the field at a place is a turn's role or content.
pub(super) fn is_main(turn: &Fields, at: usize) -> bool {
    let first = |names: [&str; 2]| names.iter().find_map(|name| turn.find(name)).map(|(i, _)| i);
    [first(ROLE), first(CONTENT)].contains(&Some(at))
}

fn kind_name(found: &DataType) -> String {
    crate::kind::type_name(found)
}

pub(super) fn not_turns(found: &str) -> Fault {
    Fault::new(format!(
        "`messages` is {found}, expected a list of turns with `role` and `content`, or `from` and `value`"
    ))
    .hint("to leave the column out, write `drop: [messages]`")
}

/// One turn of a conversation.
#[derive(Debug, PartialEq)]
pub(super) struct Turn<'a> {
    role: Cow<'a, str>,
    content: Option<Cow<'a, str>>,
    /// The text of a JSON mapping.
    fields: Option<String>,
}

impl Turn<'_> {
    /// Whether the turn holds more than role and content.
    pub fn has_fields(&self) -> bool {
        self.fields.is_some()
    }
}

/// Parses the JSON text of a conversation; `None` for null.
pub(super) fn parse(json: &str) -> Result<Option<Vec<Turn<'_>>>, Fault> {
    match json.as_bytes().first() {
        Some(b'n') => return Ok(None),
        Some(b'[') => {}
        _ => return Err(not_turns(json_kind(json))),
    }
    let turns: Vec<&RawValue> = serde_json::from_str(json).map_err(bad_json)?;
    let turns: Result<Vec<Turn<'_>>, Fault> = turns.iter().map(|turn| parse_turn(turn)).collect();
    turns.map(Some)
}

fn bad_json(error: serde_json::Error) -> Fault {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    Fault::new(format!("`messages` cannot be read: {reason}"))
}

/// The name of a JSON value's type for people.
fn json_kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'n') => "null",
        Some(b't' | b'f') => "true or false",
        Some(b'"') => "text",
        Some(b'[') => "a list",
        Some(b'{') => "a mapping",
        _ => "a number",
    }
}

fn parse_turn(json: &RawValue) -> Result<Turn<'_>, Fault> {
    if !json.get().starts_with('{') {
        let found = json_kind(json.get());
        return Err(Fault::new(format!("a turn of `messages` is {found}, expected a mapping")));
    }
    let Entries(mut entries) = serde_json::from_str(json.get()).map_err(bad_json)?;
    entries.retain(|(_, value)| value.get() != "null");
    let mut taken = |names: [&str; 2]| {
        let place = names.iter().find_map(|name| entries.iter().position(|(key, _)| key == name));
        place.map(|place| entries.remove(place).1)
    };
    let (role, content) = (taken(ROLE), taken(CONTENT));
    let Some(role) = role else {
        let message = "a turn of `messages` has no `role`, nor `from`";
        return Err(Fault::new(message).hint("a turn is `{ role: user, content: … }`"));
    };
    let content = content.map(content_text).transpose()?.flatten();
    let role = our_role(text(role.get())?)?;
    let fields = match own_fields(&entries) {
        Some(fields) => Some(fields),
        None => fields_text(&entries)?,
    };
    Ok(Turn { role, content, fields })
}

/// The further fields of a turn that already has our form, so that a table read again is the same table.
fn own_fields(entries: &[(Cow<'_, str>, &RawValue)]) -> Option<String> {
    let [(name, value)] = entries else { return None };
    let fields: String = serde_json::from_str(value.get()).ok().filter(|_| name == FIELDS)?;
    let is_mapping =
        fields.starts_with('{') && serde_json::from_str::<Entries<'_>>(&fields).is_ok();
    is_mapping.then_some(fields)
}

/// The role under our name.
fn our_role(role: Cow<'_, str>) -> Result<Cow<'_, str>, Fault> {
    if ROLES.contains(&&*role) {
        return Ok(role);
    }
    let lower = role.to_lowercase();
    let ours = ROLES.iter().find(|name| **name == lower).copied();
    let other = || OTHER_NAMES.iter().find(|(theirs, _)| *theirs == lower).map(|(_, ours)| *ours);
    match ours.or_else(other) {
        Some(ours) => Ok(ours.into()),
        None => Err(Fault::new(format!("a turn of `messages` has the unknown role `{role}`"))
            .hint(format!("rename it to one of {}", ROLES.join(", ")))),
    }
}

/// The text of a content: parts of text are joined; other parts cannot be given to a model of text.
fn content_text(json: &RawValue) -> Result<Option<Cow<'_, str>>, Fault> {
    match json.get().as_bytes().first() {
        Some(b'[') => {}
        Some(b'{') => {
            let message = "the `content` of a turn is a mapping, expected text or a list of parts";
            return Err(Fault::new(message));
        }
        _ => return text(json.get()).map(Some),
    }
    let parts: Vec<&RawValue> = serde_json::from_str(json.get()).map_err(bad_json)?;
    let mut joined = String::new();
    for part in parts {
        joined.push_str(&part_text(part)?);
    }
    Ok(Some(joined.into()))
}

fn part_text(json: &RawValue) -> Result<Cow<'_, str>, Fault> {
    #[derive(Deserialize)]
    struct Part<'a> {
        #[serde(rename = "type", borrow)]
        ty: Option<Cow<'a, str>>,
        #[serde(borrow)]
        text: Option<Cow<'a, str>>,
    }
    if !json.get().starts_with('{') {
        return text(json.get());
    }
    let part: Part<'_> = serde_json::from_str(json.get()).map_err(bad_json)?;
    match (part.ty.as_deref(), part.text) {
        (None | Some("text" | "input_text" | "output_text"), Some(text)) => Ok(text),
        (ty, _) => {
            let ty = ty.unwrap_or("without a type");
            Err(Fault::new(format!("the `content` of a turn of `messages` has a part `{ty}`"))
                .hint("only parts of type `text` can be given to a model of text"))
        }
    }
}

/// The text of a JSON value that is neither a list nor a mapping: of a number as it is written.
fn text(json: &str) -> Result<Cow<'_, str>, Fault> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    match json.as_bytes().first() {
        Some(b'"') => Ok(serde_json::from_str::<Text<'_>>(json).map_err(bad_json)?.0),
        Some(b'[' | b'{') => {
            let found = json_kind(json);
            Err(Fault::new(format!("a turn of `messages` holds {found}, expected text")))
        }
        _ => Ok(json.into()),
    }
}

/// The JSON mapping of a turn's further fields; `None` where there are none.
fn fields_text(entries: &[(Cow<'_, str>, &RawValue)]) -> Result<Option<String>, Fault> {
    if entries.is_empty() {
        return Ok(None);
    }
    let mut json = String::from("{");
    for (i, (key, value)) in entries.iter().enumerate() {
        let key = serde_json::to_string(key).map_err(bad_json)?;
        json.push_str(&format!("{}{key}:{}", if i > 0 { "," } else { "" }, value.get()));
    }
    json.push('}');
    Ok(Some(json))
}

/// The entries of a JSON mapping in their order, their values as they are written.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries<'de>, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    entries.push((key, value));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// A key of a JSON mapping, not copied where it can be borrowed.
#[derive(Deserialize)]
pub(super) struct Key<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Brings a column of JSON texts to `messages`; the fault comes with its row.
pub(super) fn from_json(
    texts: &StringArray,
    with_fields: bool,
) -> Result<ListArray, (usize, Fault)> {
    let mut lists = ListBuilder::new(StructBuilder::from_fields(turn_fields(with_fields), 0))
        .with_field(Field::new("item", DataType::Struct(turn_fields(with_fields)), true));
    for (row, json) in texts.iter().enumerate() {
        let turns = json.map_or(Ok(None), parse).map_err(|fault| (row, fault))?;
        for turn in turns.iter().flatten() {
            let fields = with_fields.then_some(turn.fields.as_deref());
            let values = [Some(&*turn.role), turn.content.as_deref()].into_iter().chain(fields);
            for (i, value) in values.enumerate() {
                let column = lists.values().field_builder::<StringBuilder>(i);
                column.expect("every field of a turn is text").append_option(value);
            }
            lists.values().append(true);
        }
        lists.append(turns.is_some());
    }
    Ok(lists.finish())
}

/// Writes each value of a column as JSON text, without what is null in mappings.
pub(super) fn to_json(array: &ArrayRef) -> Result<StringArray, ArrowError> {
    let batch = RecordBatch::try_from_iter([("v", array.clone())])?;
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(&batch)?;
    writer.finish()?;
    let lines = String::from_utf8(writer.into_inner())
        .map_err(|error| ArrowError::JsonError(error.to_string()))?;
    // Every row is a line `{"v":…}`, of a null `{}`.
    let values = lines.lines().map(|line| line.strip_prefix("{\"v\":")?.strip_suffix('}'));
    Ok(values.collect())
}

/// A conversation column without the last turn of those that end with the assistant's, and these
/// turns.
pub(super) struct Split {
    pub messages: ListArray,
    pub responses: StringArray,
    /// The further fields of the turns that became responses, where turns have such.
    pub fields: Option<StringArray>,
}

/// Takes a trailing assistant turn off each conversation.
pub(super) fn split_last_turn(messages: &ListArray) -> Split {
    let turns = messages.values().as_struct();
    let text = |i: usize| turns.column(i).as_string::<i32>();
    let (roles, contents) = (text(0), text(1));
    let fields = (turns.num_columns() > 2).then(|| text(2));
    let value =
        |column: &StringArray, at: usize| column.is_valid(at).then(|| column.value(at).to_string());

    let mut lengths = Vec::with_capacity(messages.len());
    let mut keep: Vec<u32> = Vec::new();
    let (mut responses, mut response_fields) = (StringBuilder::new(), StringBuilder::new());
    for row in 0..messages.len() {
        let (start, end) = (messages.value_offsets()[row], messages.value_offsets()[row + 1]);
        let last = (end - 1).max(0) as usize;
        let answered = end > start && roles.is_valid(last) && roles.value(last) == "assistant";
        let further = fields.filter(|_| answered).and_then(|fields| value(fields, last));
        // A turn that is a call of a tool alone has no text, but it is an answer.
        let alone = further.as_ref().map(|_| String::new());
        let content = answered.then(|| value(contents, last)).flatten();
        responses.append_option(content.or(alone));
        response_fields.append_option(further);
        let end = if answered { end - 1 } else { end };
        lengths.push((end - start) as usize);
        keep.extend(start as u32..end as u32);
    }

    let turns =
        take(turns, &UInt32Array::from(keep), None).expect("the indices are rows of the turns");
    let DataType::List(field) = messages.data_type() else {
        unreachable!("a list array has a list type")
    };
    let nulls = messages.nulls().cloned();
    let messages = ListArray::new(field.clone(), OffsetBuffer::from_lengths(lengths), turns, nulls);
    let with_fields = fields.is_some();
    Split {
        messages,
        responses: responses.finish(),
        fields: with_fields.then(|| response_fields.finish()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(json: &str) -> Result<(String, Option<String>, Option<String>), String> {
        let text = format!("[{json}]");
        let turns = parse(&text).map_err(|fault| fault.message)?.unwrap();
        let turn = &turns[0];
        let content = turn.content.as_deref().map(str::to_owned);
        Ok((turn.role.to_string(), content, turn.fields.clone()))
    }

    fn turn(
        role: &str,
        content: Option<&str>,
        fields: Option<&str>,
    ) -> Result<(String, Option<String>, Option<String>), String> {
        Ok((role.into(), content.map(Into::into), fields.map(Into::into)))
    }

    #[test]
    fn turns_of_every_maker_are_read() {
        let cases = [
            (r#"{"role": "user", "content": "a"}"#, turn("user", Some("a"), None)),
            (r#"{"from": "gpt", "value": "a\n"}"#, turn("assistant", Some("a\n"), None)),
            (r#"{"content": 3.10, "role": "Model"}"#, turn("assistant", Some("3.10"), None)),
            (
                r#"{"role": "user", "content": [{"type": "text", "text": "a"}, "b", {"text": "c", "type": "text"}]}"#,
                turn("user", Some("abc"), None),
            ),
            (
                r#"{"role": "assistant", "content": null, "name": null, "tool_calls": [{"id": 18446744073709551616}]}"#,
                turn("assistant", None, Some(r#"{"tool_calls":[{"id": 18446744073709551616}]}"#)),
            ),
            (
                r#"{"role": "user", "from": "x", "content": "a"}"#,
                turn("user", Some("a"), Some(r#"{"from":"x"}"#)),
            ),
            (
                r#"{"role": "user", "content": null, "fields": "{\"name\":\"x\"}"}"#,
                turn("user", None, Some(r#"{"name":"x"}"#)),
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(one(json), expected, "{json}");
        }
    }

    #[test]
    fn faults_name_what_is_wrong() {
        let cases = [
            (r#"{"content": "a"}"#, "has no `role`, nor `from`"),
            (r#"{"role": "narrator", "content": "a"}"#, "unknown role `narrator`"),
            (r#"{"role": ["user"], "content": "a"}"#, "holds a list, expected text"),
            (r#"{"role": "user", "content": {"text": "a"}}"#, "is a mapping, expected text"),
            (r#"{"role": "user", "content": [{"type": "image_url"}]}"#, "has a part `image_url`"),
            (r#""user: a""#, "a turn of `messages` is text, expected a mapping"),
        ];
        for (json, expected) in cases {
            let message = one(json).unwrap_err();
            assert!(message.contains(expected), "{json}: {message}");
        }
        assert!(parse("\"user: a\"").unwrap_err().message.contains("`messages` is text"));
    }
}
