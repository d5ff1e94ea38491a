//! Infers the type of a JSON Lines column from its values, and finds the first value that does not
//! fit.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::source::messages::Key;
use crate::source::numbers::Range;
use crate::source::text::Place;

/// The values at one place of all rows so far.
#[derive(Debug, Default)]
pub(in crate::source) struct Shape {
    /// The kind of the first value that is not null, and its place.
    first: Option<(&'static str, Place)>,
    truths: bool,
    texts: bool,
    floats: bool,
    whole: Option<Range>,
    /// Whether some whole number is not a 64-bit float.
    inexact: bool,
    /// The first number that is too large for a 64-bit float.
    too_large: Option<Misfit>,
    /// The entries of mappings, in the order in which they came first.
    entries: Vec<(String, Shape)>,
    places: HashMap<String, usize>,
    items: Option<Box<Shape>>,
}

/// A value that does not fit.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::source) struct Misfit {
    /// Its path in its column: `.a[].b`.
    path: String,
    /// The fault, to be read after the path.
    message: String,
    /// The kind and place of the first value, where that is what it does not fit.
    first: Option<(&'static str, Place)>,
    /// The value's row, and the address of its first byte.
    pub place: Place,
    pub address: usize,
}

impl Misfit {
    /// Describes the misfit, given the column that it is in and the files of the source.
    pub fn message(&self, column: &str, files: &[PathBuf]) -> String {
        let Misfit { path, message, first, place, .. } = self;
        let first = first.map_or(String::new(), |(kind, at)| match at.file == place.file {
            true => format!(", but {kind} in line {}", at.line),
            false => {
                format!(", but {kind} in line {} of `{}`", at.line, files[at.file].display())
            }
        });
        format!("`{column}{path}` {message}{first}")
    }

    fn within(self, name: &str) -> Misfit {
        Misfit { path: format!("{name}{}", self.path), ..self }
    }
}

impl Shape {
    /// Notes a value. A misfit is a mapping, a list or a single value where an earlier line has
    /// another of these; single values of different types make a column of text, or of floats.
    pub fn add(&mut self, json: &str, place: Place) -> Result<(), Misfit> {
        let misfit = |message: String| Misfit {
            path: String::new(),
            message,
            first: None,
            place,
            address: json.as_ptr() as usize,
        };
        let kind = match json.as_bytes().first() {
            Some(b'n') => return Ok(()),
            Some(b't' | b'f') => "true or false",
            Some(b'"') => "text",
            Some(b'[') => "a list",
            Some(b'{') => "a mapping",
            _ => "a number",
        };
        let first = *self.first.get_or_insert((kind, place));
        if !is_alike(first.0, kind) {
            return Err(Misfit { first: Some(first), ..misfit(format!("is {kind} here")) });
        }
        match kind {
            "true or false" => self.truths = true,
            "text" => {
                self.texts = true;
                // The rest of a text has been checked with its row.
                if json.contains("\\u") && serde_json::from_str::<String>(json).is_err() {
                    return Err(misfit("holds an escape that stands for no character".into()));
                }
            }
            "a number" => self.add_number(json, misfit),
            _ => return self.add_parts(json, place),
        }
        Ok(())
    }

    /// Notes the text of a cell, which has no type of its own: a number as JSON writes it, a truth, or
    /// text.
    pub fn add_cell(&mut self, cell: &str, place: Place) {
        let kind = if truth(cell).is_some() {
            self.truths = true;
            "true or false"
        } else if is_number(cell) {
            self.add_number(cell, |message| Misfit {
                path: String::new(),
                message,
                first: None,
                place,
                address: cell.as_ptr() as usize,
            });
            "a number"
        } else {
            self.texts = true;
            "text"
        };
        self.first.get_or_insert((kind, place));
    }

    /// Adds the values of later rows; `None` where they do not fit to these.
    pub fn merge(&mut self, later: Shape) -> Option<()> {
        self.first = match (self.first, later.first) {
            (Some(first), Some(other)) => is_alike(first.0, other.0).then_some(Some(first))?,
            (first, other) => first.or(other),
        };
        self.truths |= later.truths;
        self.texts |= later.texts;
        self.floats |= later.floats;
        self.inexact |= later.inexact;
        if let Some(whole) = later.whole {
            self.whole.get_or_insert_default().merge(&whole);
        }
        self.too_large = self.too_large.take().or(later.too_large);
        for (name, shape) in later.entries {
            self.entry(&name).merge(shape)?;
        }
        if let Some(items) = later.items {
            self.items.get_or_insert_default().merge(*items)?;
        }
        Some(())
    }

    fn add_number(&mut self, json: &str, misfit: impl Fn(String) -> Misfit) {
        let float: f64 = json.parse().unwrap_or(f64::INFINITY);
        if json.contains(['.', 'e', 'E']) {
            self.floats = true;
            if float.is_infinite() && self.too_large.is_none() {
                let message = format!("is {json}, which is too large for a 64-bit float");
                self.too_large = Some(misfit(message));
            }
            return;
        }
        let whole: Option<i128> = json.parse().ok();
        self.inexact |= whole.is_none_or(|whole| float as i128 != whole);
        self.whole.get_or_insert_default().add(whole);
    }

    fn add_parts(&mut self, json: &str, place: Place) -> Result<(), Misfit> {
        let mut misfit = None;
        let mut part = |name: Option<&str>, value: &str| {
            if misfit.is_some() {
                return;
            }
            let (shape, path) = match name {
                Some(name) => (self.entry(name), format!(".{name}")),
                None => (&mut **self.items.get_or_insert_default(), "[]".into()),
            };
            misfit = shape.add(value, place).err().map(|misfit| misfit.within(&path));
        };
        // The line has been parsed, so that this cannot fail.
        let _ = serde_json::Deserializer::from_str(json).deserialize_any(Parts(&mut part));
        misfit.map_or(Ok(()), Err)
    }

    fn entry(&mut self, name: &str) -> &mut Shape {
        // Looked up before it is put in, so that a known name is not copied.
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => {
                self.entries.push((name.to_string(), Shape::default()));
                self.places.insert(name.to_string(), self.entries.len() - 1);
                self.entries.len() - 1
            }
        };
        &mut self.entries[place].1
    }

    /// Returns the type of the column; the misfit is a number that no type holds.
    pub fn data_type(&self) -> Result<DataType, Misfit> {
        if let Some(items) = &self.items {
            let item = items.data_type().map_err(|misfit| misfit.within("[]"))?;
            return Ok(DataType::List(Arc::new(Field::new_list_field(item, true))));
        }
        if self.first.is_some_and(|(kind, _)| kind == "a list") {
            return Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Null, true))));
        }
        if self.first.is_some_and(|(kind, _)| kind == "a mapping") {
            let field = |(name, shape): &(String, Shape)| {
                let ty = shape.data_type().map_err(|misfit| misfit.within(&format!(".{name}")))?;
                Ok(Field::new(name, ty, true))
            };
            return Ok(DataType::Struct(self.entries.iter().map(field).collect::<Result<_, _>>()?));
        }
        let numbers = self.floats || self.whole.is_some();
        let text = self.texts || self.truths && numbers || self.floats && self.inexact;
        match (text, &self.too_large) {
            (true, _) => Ok(DataType::Utf8),
            (false, Some(misfit)) => Err(misfit.clone()),
            (false, None) if self.floats => Ok(DataType::Float64),
            (false, None) if self.truths => Ok(DataType::Boolean),
            (false, None) => Ok(self.whole.as_ref().map_or(DataType::Null, Range::data_type)),
        }
    }

    /// Whether all values are single ones, so that the column can be read as their texts.
    pub fn is_single(&self) -> bool {
        !self.first.is_some_and(|(kind, _)| matches!(kind, "a list" | "a mapping"))
    }

    /// Whether all values are lists of mappings.
    pub fn is_list_of_mappings(&self) -> bool {
        let items = self.items.as_ref().and_then(|items| items.first);
        items.is_some_and(|(kind, _)| kind == "a mapping")
    }
}

/// Whether values of two kinds fit into one column.
fn is_alike(a: &str, b: &str) -> bool {
    let single = |kind: &str| !matches!(kind, "a list" | "a mapping");
    a == b || single(a) && single(b)
}

/// The truth that a cell holds, as JSON, Python and spreadsheets write it.
pub(in crate::source) fn truth(cell: &str) -> Option<bool> {
    match cell {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Whether a cell is a number as JSON writes it: `007` and `+1` are text.
fn is_number(cell: &str) -> bool {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let rest = cell.strip_prefix('-').unwrap_or(cell);
    let whole = digits(rest);
    if whole == 0 || whole > 1 && rest.starts_with('0') {
        return false;
    }
    let mut rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = &fraction[count..];
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let count = digits(exponent);
        if count == 0 {
            return false;
        }
        rest = &exponent[count..];
    }
    rest.is_empty()
}

/// Hands on the entries of a mapping, or the items of a list, as they are written.
pub(in crate::source) struct Parts<F>(pub F);

impl<'de, F: FnMut(Option<&str>, &'de str)> Visitor<'de> for Parts<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping or a list")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((Key(name), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
            self.0(Some(&name), value.get());
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<&'de RawValue>()? {
            self.0(None, item.get());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misfit(lines: &[&str]) -> Option<String> {
        let mut shape = Shape::default();
        let add = |(i, line): (usize, &&str)| shape.add(line, line_of(i)).err();
        lines.iter().enumerate().find_map(add).map(|misfit| misfit.message("x", &[]))
    }

    fn line_of(row: usize) -> Place {
        Place { file: 0, line: row as u64 + 1 }
    }

    #[test]
    fn the_first_value_that_differs_is_named() {
        let two = |a, b| misfit(&[a, b]);
        assert_eq!(two("1", "\"1\""), None);
        assert_eq!(two("null", "[null, 1]"), None);
        assert_eq!(
            two("1", "{\"y\": 1}").unwrap(),
            "`x` is a mapping here, but a number in line 1"
        );
        assert_eq!(
            two(r#"[{"role": "a"}]"#, r#"[{"role": ["a"]}]"#).unwrap(),
            "`x[].role` is a list here, but text in line 1"
        );
        assert_eq!(two("[1, [2]]", "[]").unwrap(), "`x[]` is a list here, but a number in line 1");
        assert_eq!(
            two("\"a\"", r#""\ud800""#).unwrap(),
            "`x` holds an escape that stands for no character"
        );
    }

    fn inferred(values: &[&str]) -> String {
        let mut shape = Shape::default();
        for (i, value) in values.iter().enumerate() {
            shape.add(value, line_of(i)).unwrap();
        }
        match shape.data_type() {
            Ok(ty) => crate::kind::type_name(&ty),
            Err(misfit) => misfit.message("x", &[]),
        }
    }

    #[test]
    fn numbers_have_the_narrowest_type_that_holds_them() {
        let cases: [(&[&str], &str); 13] = [
            (&["1", "-9223372036854775808"], "int64"),
            (&["1", "9223372036854775808"], "uint64"),
            (&["-1", "9223372036854775808"], "text"),
            (&["18446744073709551616"], "text"),
            (&["1", "2.5"], "float64"),
            // 2^53 + 1 is not a float.
            (&["9007199254740993", "2.5"], "text"),
            (&["9007199254740992", "2.5"], "float64"),
            (&["true", "1"], "text"),
            (&["true", "null"], "bool"),
            (&["1e999"], "`x` is 1e999, which is too large for a 64-bit float"),
            (&["1e999", "\"a\""], "text"),
            (&["[1]", "[2.5]"], "list of float64"),
            (&["{\"a\": [1e999]}"], "`x.a[]` is 1e999, which is too large for a 64-bit float"),
        ];
        for (values, expected) in cases {
            assert_eq!(inferred(values), expected, "{values:?}");
        }
    }

    #[test]
    fn rows_in_parts_have_the_type_of_all() {
        let values = ["null", "1", "{\"a\": 1}", "[1]", "2.5", "true", "\"x\"", "{\"b\": [1e999]}"];
        let shape = |values: &[&str]| {
            let mut shape = Shape::default();
            let add = |(i, value): (usize, &&str)| shape.add(value, line_of(i)).ok();
            values.iter().enumerate().try_for_each(add).map(|()| shape)
        };
        let ty = |shape: Shape| shape.data_type().map_err(|misfit| misfit.message("x", &[]));
        for a in values {
            for b in values {
                let whole = shape(&[a, b]).map(ty);
                let merged = shape(&[a]).and_then(|mut first| {
                    first.merge(shape(&[b])?)?;
                    Some(ty(first))
                });
                assert_eq!(whole, merged, "{a} {b}");
            }
        }
    }

    #[test]
    fn cells_are_numbers_only_as_json_writes_them() {
        for number in ["0", "-1", "10.50", "1e5", "-0.1E+7"] {
            assert!(is_number(number), "{number}");
        }
        for text in ["", "-", "007", "+1", ".5", "1.", "1e", "0x1", "nan", "1 ", "1,0"] {
            assert!(!is_number(text), "{text}");
        }
    }
}
