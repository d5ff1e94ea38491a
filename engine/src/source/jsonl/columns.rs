//! Infers the columns of a JSON Lines file, line by line.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field, Schema};
use serde::de::Deserializer;

use super::json_text;
use super::shape::{Misfit, Parts, Shape};
use crate::source::error::{Fault, left_out};
use crate::source::layout::{MAX_COLUMNS, MAX_DEPTH};
use crate::source::{SourceSpec, convert, messages};

/// The columns of the lines so far.
pub(super) struct Columns<'a> {
    spec: &'a SourceSpec,
    columns: Vec<Column>,
    places: HashMap<String, usize>,
    /// Whether turns of `messages` hold more than role and content.
    pub turn_fields: bool,
}

struct Column {
    name: String,
    role: Role,
    shape: Shape,
}

/// The use of a column, which decides how it is read.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Plain,
    /// Text, whatever it is in the file, so that it is read as it is written.
    Text,
    Messages,
    Tools,
    /// Left out.
    Dropped,
}

/// A fault of a line, with the address of the byte where it begins.
pub(super) type LineFault = (usize, Fault);

impl<'a> Columns<'a> {
    pub fn new(spec: &'a SourceSpec) -> Columns<'a> {
        Columns { spec, columns: Vec::new(), places: HashMap::new(), turn_fields: false }
    }

    /// Takes in a line, which holds a JSON mapping.
    pub fn add(&mut self, json: &str, line: usize) -> Result<(), LineFault> {
        let mut fault = None;
        let mut entry = |name: Option<&str>, value: &str| {
            if fault.is_none() {
                fault = self.add_value(name.unwrap_or_default(), value, line).err();
            }
        };
        // The line has been parsed, so that this cannot fail.
        let _ = serde_json::Deserializer::from_str(json).deserialize_any(Parts(&mut entry));
        fault.map_or(Ok(()), Err)
    }

    fn add_value(&mut self, name: &str, json: &str, line: usize) -> Result<(), LineFault> {
        let address = json.as_ptr() as usize;
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => self.new_column(name).map_err(|fault| (address, fault))?,
        };
        let column = &mut self.columns[place];
        if column.role == Role::Dropped {
            return Ok(());
        }
        if nesting(json) > MAX_DEPTH {
            let message = format!("the column `{name}` is nested deeper than {MAX_DEPTH} levels");
            return Err((address, Fault::new(message).hint(left_out(name))));
        }
        if column.role == Role::Messages {
            let turns = messages::parse(json).map_err(|fault| (address, fault))?;
            self.turn_fields |= turns.iter().flatten().any(|turn| turn.has_fields());
            return Ok(());
        }
        column.shape.add(json, line).map_err(|misfit| {
            (misfit.address, Fault::new(misfit.message(name)).hint(left_out(name)))
        })
    }

    fn new_column(&mut self, name: &str) -> Result<usize, Fault> {
        if self.columns.len() == MAX_COLUMNS {
            let message =
                format!("the table has more than {MAX_COLUMNS} columns, which is the limit");
            return Err(Fault::new(message));
        }
        let role = match self.spec {
            spec if spec.drop.iter().any(|dropped| dropped == name) => Role::Dropped,
            spec if spec.becomes(name, "messages") => Role::Messages,
            spec if spec.becomes(name, "tools") => Role::Tools,
            spec if spec.ours(name).all(convert::is_text) => Role::Text,
            _ => Role::Plain,
        };
        self.columns.push(Column { name: name.into(), role, shape: Shape::default() });
        self.places.insert(name.into(), self.columns.len() - 1);
        Ok(self.columns.len() - 1)
    }

    /// Whether the file has a column of that name.
    pub fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Returns the names of all columns.
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.name.clone()).collect()
    }

    /// Returns the schema to read the file with, without the columns that are left out; the misfit,
    /// with its column's name, is a number that no type holds.
    pub fn schema(&self) -> Result<Schema, (String, Misfit)> {
        let kept = self.columns.iter().filter(|column| column.role != Role::Dropped);
        let fields: Result<Vec<Field>, _> = kept
            .map(|column| column.field().map_err(|misfit| (column.name.clone(), misfit)))
            .collect();
        Ok(Schema::new(fields?))
    }
}

impl Column {
    fn field(&self) -> Result<Field, Misfit> {
        let json = match self.role {
            Role::Messages => true,
            Role::Tools => self.shape.is_list_of_mappings(),
            _ => false,
        };
        if json {
            return Ok(json_text::field(&self.name));
        }
        let ty = match self.role {
            Role::Text if self.shape.is_single() => DataType::Utf8,
            _ => self.shape.data_type()?,
        };
        Ok(Field::new(&self.name, ty, true))
    }
}

/// The depth of a JSON value, 0 for one that is neither a list nor a mapping.
fn nesting(json: &str) -> usize {
    if !json.starts_with(['[', '{']) {
        return 0;
    }
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut within_text, mut escaped) = (false, false);
    for byte in json.bytes() {
        if within_text {
            (within_text, escaped) = (byte != b'"' || escaped, byte == b'\\' && !escaped);
            continue;
        }
        match byte {
            b'"' => within_text = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
