//! The conversations of rows: `messages`, and what a chat template takes beside it as JSON.

use arrow::array::{Array, AsArray, ListArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use serde_json::Value;

use refrain_cache::columns::column;
use refrain_engine::kind::StageError;
use refrain_lm::chat::Message;

use crate::tables::list_of;

use super::{cell, row_error};

/// Returns the types of `messages`: turns with role and content, and perhaps what else they hold as
/// JSON.
pub(crate) fn messages_types() -> [DataType; 2] {
    [&["role", "content"][..], &["role", "content", "fields"]].map(|names| {
        let text = |name: &&str| Field::new(*name, DataType::Utf8, true);
        list_of(DataType::Struct(names.iter().map(text).collect()))
    })
}

/// The conversation of a row; the error is the fault.
pub(super) fn turns(messages: &ListArray, row: usize) -> Result<Vec<Message>, String> {
    let nothing = || "`messages` holds no turn, or one without role or content".to_owned();
    if messages.is_null(row) {
        return Err(nothing());
    }
    let row = messages.value(row);
    let turns = row.as_struct_opt().ok_or_else(nothing)?;
    let column = |name: &str| turns.column_by_name(name)?.as_string_opt::<i32>();
    let (Some(roles), Some(contents)) = (column("role"), column("content")) else {
        return Err(nothing());
    };
    let further = column("fields");
    let turn = |at: usize| -> Result<Message, String> {
        let fields = further.and_then(|fields| cell(fields, at));
        let (Some(role), content) = (cell(roles, at), cell(contents, at)) else {
            return Err(nothing());
        };
        if content.is_none() && fields.is_none() {
            return Err(nothing());
        }
        let mut turn = Message::new();
        turn.insert("role".into(), role.into());
        turn.insert("content".into(), content.into());
        if let Some(fields) = fields {
            let fields: Message = serde_json::from_str(fields)
                .map_err(|_| "`fields` of a turn of `messages` is not a JSON mapping".to_owned())?;
            turn.extend(fields);
        }
        Ok(turn)
    };
    if turns.is_empty() { Err(nothing()) } else { (0..turns.len()).map(turn).collect() }
}

/// The JSON values of a column of JSON texts; nothing where there is no such column.
pub(super) fn json_column(
    batch: &RecordBatch,
    first: u64,
    name: &str,
) -> Result<Vec<Option<Value>>, StageError> {
    let texts = match batch.column_by_name(name).map(|column| column.data_type()) {
        Some(DataType::Utf8) => column::<StringArray>(batch, name)?,
        _ => return Ok(vec![None; batch.num_rows()]),
    };
    let value = |row: usize| -> Result<Option<Value>, StageError> {
        let Some(text) = cell(texts, row) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|_| {
            let error = row_error(batch, row, first, &format!("`{name}` is not JSON"));
            let hint = format!("give that column another name: `columns: {{ other: {name} }}`");
            StageError::with_hint(error.to_string(), hint)
        })
    };
    (0..batch.num_rows()).map(value).collect()
}
