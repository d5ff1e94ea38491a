//! Infers the columns of JSON files, row by row.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use serde::de::Deserializer;

use super::explode::{entries, exploded};
use super::json_text;
use super::shape::{Misfit, Parts, Shape};
use crate::source::error::{Fault, left_out};
use crate::source::layout::{Found, MAX_COLUMNS, MAX_DEPTH};
use crate::source::text::Place;
use crate::source::{SourceError, SourceSpec, convert, messages};

/// The columns of the rows so far.
pub(in crate::source) struct Columns<'a> {
    spec: &'a SourceSpec,
    files: &'a [PathBuf],
    columns: Vec<Column>,
    places: HashMap<String, usize>,
    /// Whether turns of `messages` hold more than role and content.
    turn_fields: bool,
    /// Whether some row has the column that is exploded.
    has_list: bool,
}

struct Column {
    name: String,
    role: Role,
    shape: Shape,
    /// Whether some element of a list that is exploded has it.
    of_element: bool,
}

/// The use of a column, which decides how it is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::source) enum Role {
    Plain,
    /// Text, whatever it is in the file, so that it is read as it is written.
    Text,
    Messages,
    Tools,
    /// Left out.
    Dropped,
}

impl Role {
    /// Returns the role of a column of the file.
    pub fn of(name: &str, spec: &SourceSpec) -> Role {
        match spec {
            spec if spec.drop.iter().any(|dropped| dropped == name) => Role::Dropped,
            spec if spec.becomes(name, "messages") => Role::Messages,
            spec if spec.becomes(name, "tools") => Role::Tools,
            spec if spec.ours(name).all(convert::is_text) => Role::Text,
            _ => Role::Plain,
        }
    }
}

/// A fault of a row, with the address of the byte where it begins.
pub(super) type RowFault = (usize, Fault);

impl<'a> Columns<'a> {
    pub fn new(spec: &'a SourceSpec, files: &'a [PathBuf]) -> Columns<'a> {
        Columns {
            spec,
            files,
            columns: Vec::new(),
            places: HashMap::new(),
            turn_fields: false,
            has_list: false,
        }
    }

    /// Takes in a row, the text of a JSON object.
    pub fn add(&mut self, json: &str, place: Place) -> Result<(), RowFault> {
        if let Some(column) = &self.spec.explode {
            return self.add_exploded(json, column, place);
        }
        let mut fault = None;
        let mut entry = |name: Option<&str>, value: &str| {
            if fault.is_none() {
                fault = self.add_value(name.unwrap_or_default(), value, place, false).err();
            }
        };
        let mut parser = serde_json::Deserializer::from_str(json);
        let parsed = parser.deserialize_any(Parts(&mut entry)).and_then(|()| parser.end());
        match fault {
            Some(fault) => Err(fault),
            None => parsed.map_err(|error| (json.as_ptr() as usize, Fault::new(error.to_string()))),
        }
    }

    fn add_exploded(&mut self, json: &str, column: &str, place: Place) -> Result<(), RowFault> {
        let row = exploded(json, column)?;
        self.has_list |= row.elements.is_some();
        for (name, value) in &row.entries {
            self.add_value(name, value, place, false)?;
        }
        for element in row.elements.into_iter().flatten() {
            if !element.starts_with('{') {
                self.add_value(column, element, place, true)?;
                continue;
            }
            for (name, value) in entries(element) {
                self.add_value(&name, value, place, true)?;
            }
        }
        Ok(())
    }

    fn add_value(
        &mut self,
        name: &str,
        json: &str,
        place: Place,
        of_element: bool,
    ) -> Result<(), RowFault> {
        let address = json.as_ptr() as usize;
        let at = match self.places.get(name) {
            Some(at) => *at,
            None => self.new_column(name).map_err(|fault| (address, fault))?,
        };
        let column = &mut self.columns[at];
        column.of_element |= of_element;
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
        column.shape.add(json, place).map_err(|misfit| {
            (misfit.address, Fault::new(misfit.message(name, self.files)).hint(left_out(name)))
        })
    }

    fn new_column(&mut self, name: &str) -> Result<usize, Fault> {
        if self.columns.len() == MAX_COLUMNS {
            let message =
                format!("the table has more than {MAX_COLUMNS} columns, which is the limit");
            return Err(Fault::new(message));
        }
        let role = Role::of(name, self.spec);
        let shape = Shape::default();
        self.columns.push(Column { name: name.into(), role, shape, of_element: false });
        self.places.insert(name.into(), self.columns.len() - 1);
        Ok(self.columns.len() - 1)
    }

    /// Adds the columns of later rows; `None` where they do not fit to these.
    pub fn merge(&mut self, later: Columns<'_>) -> Option<()> {
        self.turn_fields |= later.turn_fields;
        self.has_list |= later.has_list;
        for Column { name, shape, of_element, .. } in later.columns {
            let at = match self.places.get(&name) {
                Some(at) => *at,
                None => self.new_column(&name).ok()?,
            };
            self.columns[at].of_element |= of_element;
            self.columns[at].shape.merge(shape)?;
        }
        Some(())
    }

    /// Checks that the columns that the source's options name are there.
    pub fn check_named(&self) -> Result<(), SourceError> {
        let names: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
        if let Some(name) = self.spec.explode.as_ref().filter(|_| !self.has_list) {
            return Err(self.spec.nothing_to_explode(&names, name));
        }
        match self.spec.drop.iter().find(|name| !self.places.contains_key(*name)) {
            Some(name) => Err(self.spec.nothing_to_drop(&names, name)),
            None => Ok(()),
        }
    }

    /// Returns the columns to read the files with, without those that are left out; the error is a
    /// number that no type holds.
    pub fn found(&self) -> Result<Found, SourceError> {
        let kept = || self.columns.iter().filter(|column| column.role != Role::Dropped);
        let field = |column: &Column| column.field().map_err(|misfit| self.error(column, &misfit));
        let fields: Vec<Field> = kept().map(field).collect::<Result<_, _>>()?;
        let of_elements = kept().filter(|column| column.of_element);
        Ok(Found {
            schema: Arc::new(Schema::new(fields)),
            ranges: None,
            turn_fields: self.turn_fields,
            is_parsed: true,
            of_elements: of_elements.map(|column| column.name.clone()).collect(),
        })
    }

    fn error(&self, column: &Column, misfit: &Misfit) -> SourceError {
        SourceError::Line {
            path: self.files[misfit.place.file].clone(),
            line: misfit.place.line as usize,
            column: 1,
            message: misfit.message(&column.name, self.files),
            hint: Some(left_out(&column.name)),
        }
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
