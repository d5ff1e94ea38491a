//! Replaces what matches a pattern in columns of text.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::datatypes::{DataType, Schema};
use regex::Regex;
use serde_json::{Map, Value, json};

use crate::kind::type_name;
use crate::language::diagnostic::suggest;

use super::OptionProblem;

/// A pattern in a column, and the text in its place.
#[derive(Debug, Clone)]
pub struct Replacement {
    column: String,
    pattern: Regex,
    by: String,
}

impl PartialEq for Replacement {
    fn eq(&self, other: &Replacement) -> bool {
        self.options() == other.options()
    }
}

impl Eq for Replacement {}

/// Reads the option `replace`.
pub(super) fn of_option(written: Option<&Value>) -> Result<Vec<Replacement>, OptionProblem> {
    let entries = written.and_then(Value::as_array).into_iter().flatten();
    entries.filter_map(Value::as_object).map(Replacement::new).collect()
}

impl Replacement {
    fn new(entry: &Map<String, Value>) -> Result<Replacement, OptionProblem> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let pattern = Regex::new(text("pattern")).map_err(|error| {
            let reason = match error {
                regex::Error::CompiledTooBig(_) => "it is too large when compiled".to_owned(),
                // The lines before the last one draw the place.
                other => other.to_string().lines().last().unwrap_or_default().trim().to_owned(),
            };
            let reason = reason.trim_start_matches("error: ");
            let message = format!("`{}` is not a regular expression: {reason}", text("pattern"));
            ("replace", message, None)
        })?;
        Ok(Replacement { column: text("column").to_owned(), pattern, by: text("by").to_owned() })
    }

    /// Returns the replacement as it enters the key.
    pub(super) fn options(&self) -> Value {
        json!({ "column": self.column, "pattern": self.pattern.as_str(), "by": self.by })
    }

    /// Returns the name of its column in the table.
    pub(super) fn column(&self) -> &str {
        &self.column
    }

    /// Checks that a table has the column, and that it is text; the error is the fault and the
    /// remedy.
    pub(super) fn check(&self, schema: &Schema) -> Result<(), (String, Option<String>)> {
        let name = &self.column;
        let Ok(field) = schema.field_with_name(name) else {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let hint = suggest(name, names, "its columns are");
            return Err((format!("has no column `{name}`, which `replace` names"), hint));
        };
        match field.data_type() {
            DataType::Utf8 => Ok(()),
            other => {
                let found = type_name(other);
                Err((format!("has a column `{name}` of {found}, and `replace` takes text"), None))
            }
        }
    }

    /// Replaces each match in the texts of a column.
    pub(super) fn apply(&self, column: &ArrayRef) -> ArrayRef {
        let Some(texts) = column.as_string_opt::<i32>() else { return column.clone() };
        let mut replaced = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
        for text in texts {
            let text = text.map(|text| self.pattern.replace_all(text, self.by.as_str()));
            replaced.append_option(text.as_ref().map(Cow::as_ref));
        }
        Arc::new(replaced.finish())
    }
}
