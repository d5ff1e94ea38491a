//! Remembers what the values of a JSON Lines file are, to find the first line that differs: a column has one type.

use std::collections::HashMap;

use serde_json::Value;

/// What the values at one place of all rows so far are.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// What the first of them is that is not null, and its line, from 1.
    first: Option<(&'static str, usize)>,
    fields: HashMap<String, Shape>,
    items: Option<Box<Shape>>,
}

/// A value that differs from an earlier one of its column.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("`{path}` is {found} here, but {before} in line {line}")]
pub(super) struct Misfit {
    path: String,
    found: &'static str,
    before: &'static str,
    line: usize,
}

impl Shape {
    /// Notes a value; the misfit is the first part of it that is a mapping, a list or a single value where an earlier
    /// line has another of these. Single values of different types make a column of text, or of floats.
    pub fn add(&mut self, value: &Value, line: usize) -> Result<(), Misfit> {
        let found = match value {
            Value::Null => return Ok(()),
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a mapping",
        };
        let (before, first_line) = *self.first.get_or_insert((found, line));
        let single = |what: &str| !matches!(what, "a list" | "a mapping");
        if before != found && !(single(before) && single(found)) {
            return Err(Misfit { path: String::new(), found, before, line: first_line });
        }
        match value {
            Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
                // Looked up before it is put in, so that a known name is not copied.
                if !self.fields.contains_key(name) {
                    self.fields.insert(name.clone(), Shape::default());
                }
                let field = self.fields.get_mut(name).expect("the field was put in");
                field.add(value, line).map_err(|misfit| misfit.within(name))
            }),
            Value::Array(items) => {
                let shape = self.items.get_or_insert_default();
                items
                    .iter()
                    .try_for_each(|item| shape.add(item, line))
                    .map_err(|misfit| misfit.within("[]"))
            }
            _ => Ok(()),
        }
    }
}

impl Misfit {
    fn within(self, name: &str) -> Misfit {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        Misfit { path: format!("{name}{dot}{}", self.path), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misfit(lines: &[&str]) -> Option<String> {
        let mut shape = Shape::default();
        let add = |(i, line): (usize, &&str)| {
            shape.add(&serde_json::from_str(line).unwrap(), i + 1).err()
        };
        lines.iter().enumerate().find_map(add).map(|m| m.to_string())
    }

    #[test]
    fn the_first_value_that_differs_is_named() {
        let two = |a, b| misfit(&[a, b]);
        assert_eq!(two(r#"{"x": 1}"#, r#"{"x": "1", "y": null}"#), None);
        assert_eq!(two(r#"{"x": null}"#, r#"{"x": [null, 1]}"#), None);
        assert_eq!(
            two(r#"{"x": 1}"#, r#"{"x": {"y": 1}}"#).unwrap(),
            "`x` is a mapping here, but a number in line 1"
        );
        assert_eq!(
            two(r#"{"m": [{"role": "a"}]}"#, r#"{"m": [{"role": ["a"]}]}"#).unwrap(),
            "`m[].role` is a list here, but text in line 1"
        );
        assert_eq!(
            two(r#"{"m": [1, [2]]}"#, "{}").unwrap(),
            "`m[]` is a list here, but a number in line 1"
        );
    }
}
