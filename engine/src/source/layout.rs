//! Plans how the columns of a file become those of a table: renamed, left out, completed, in one
//! order.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use refrain_cache::normal_schema;

use super::error::left_out;
use super::numbers::Ranges;
use super::{SourceError, SourceSpec, convert, messages};

/// Our columns in their order; all others follow by name.
const FIRST: [&str; 7] =
    ["id", "sample", "prompt", "messages", "response", "response_fields", "reference"];

/// The columns of rows in the form of the Alpaca data, of which prompt and response are made.
pub(super) const INSTRUCTION: &str = "instruction";
pub(super) const INPUT: &str = "input";
pub(super) const OUTPUT: &str = "output";

/// Limit on the columns of a source, where a mapping counts as many as it has entries: each costs a
/// writer's buffers.
pub(super) const MAX_COLUMNS: usize = 10_000;
/// Limit on the nesting of a column.
pub(super) const MAX_DEPTH: usize = 64;

/// The columns of a file, those that are left out excepted.
#[derive(Debug)]
pub(super) struct Found {
    /// As the file's batches come.
    pub schema: SchemaRef,
    /// Of each column the ranges of numbers whose type the values decide.
    pub ranges: Option<Vec<Ranges>>,
    /// Whether turns of `messages` hold more than role and content.
    pub turn_fields: bool,
    /// Whether `messages` of text are JSON, of which every row has been looked at.
    pub is_parsed: bool,
    /// The columns that elements of the exploded list have.
    pub of_elements: Vec<String>,
}

/// Origin of a column of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Origin {
    /// The column of the file at that place.
    File(usize),
    /// Made for the table.
    Made,
}

/// The table's columns, each with its origin in the file.
#[derive(Debug)]
pub(super) struct Layout {
    pub schema: SchemaRef,
    /// The origin of each column of the table.
    pub origins: Vec<Origin>,
    /// Whether each column differs between the elements of an exploded list.
    of_elements: Vec<bool>,
    /// Whether trailing assistant turns become `response`.
    pub split: bool,
    /// Whether prompt and response are made of an instruction and its output.
    pub alpaca: bool,
}

impl Layout {
    pub fn new(found: &Found, spec: &SourceSpec) -> Result<Layout, SourceError> {
        check_size(&found.schema).map_err(|(message, column)| SourceError::Content {
            path: spec.path.clone(),
            message,
            hint: column.as_deref().map(left_out),
        })?;
        let named = names(&found.schema, spec)?;
        let has = |name: &str| named.iter().any(|(n, _)| n == name);
        let split = has("messages") && !has("response");
        let has_id = has("id");
        let mut made = Vec::new();
        if !has_id {
            made.push("id");
        }
        if spec.explode.is_some() && !has("sample") {
            made.push("sample");
        }
        let alpaca = spec.alpaca && has(INSTRUCTION) && has(OUTPUT);
        if alpaca {
            made.extend(["prompt", "response"]);
        }
        if split {
            made.push("response");
            if found.turn_fields {
                made.push("response_fields");
            }
        }

        let mut columns: Vec<(String, Origin)> =
            named.into_iter().map(|(name, place)| (name, Origin::File(place))).collect();
        if let Some(name) = made.iter().find(|name| columns.iter().any(|(n, _)| n == *name)) {
            return Err(spec.content(format!("column `{name}` has the name of one that is made")));
        }
        columns.extend(made.into_iter().map(|name| (name.to_string(), Origin::Made)));
        columns.sort_by_key(|(name, _)| {
            (FIRST.iter().position(|f| f == name).unwrap_or(FIRST.len()), name.clone())
        });

        let fields: Result<Vec<Field>, SourceError> = columns
            .iter()
            .map(|(name, origin)| {
                let ty = match origin {
                    Origin::File(place) => found.target(name, *place, spec)?,
                    Origin::Made if name == "sample" => DataType::Int32,
                    Origin::Made => DataType::Utf8,
                };
                Ok(Field::new(name, ty, name != "id"))
            })
            .collect();
        let origins: Vec<Origin> = columns.into_iter().map(|(_, origin)| origin).collect();
        let of_element = |origin: &Origin| match origin {
            Origin::File(place) => found.of_elements.contains(found.schema.field(*place).name()),
            Origin::Made => false,
        };
        let of_elements = origins.iter().map(of_element).collect();
        let schema = Arc::new(Schema::new(fields?));
        let conditioned = match has_id {
            true => schema.clone(),
            // An id that is made depends on which rows are kept.
            false => Arc::new(without_id(&schema)),
        };
        spec.filter.check(&conditioned).map_err(|(message, hint)| SourceError::Option {
            path: spec.path.clone(),
            option: "rows.where".into(),
            message: format!("cannot be filtered: {message}"),
            hint,
        })?;
        for replacement in &spec.replace {
            replacement
                .check(&conditioned)
                .map_err(|(message, hint)| spec.option_error("replace", message, hint))?;
        }
        Ok(Layout { schema, origins, of_elements, split, alpaca })
    }

    /// Whether a column is the row's own, the same for all elements of its list.
    pub fn is_own(&self, at: usize) -> bool {
        !self.of_elements[at]
    }

    /// Returns the place of a column.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.schema.index_of(name).ok()
    }
}

impl Found {
    /// The type that the column at a place has in the table under a name.
    fn target(&self, name: &str, place: usize, spec: &SourceSpec) -> Result<DataType, SourceError> {
        let found = self.schema.field(place).data_type();
        let wrong = |fault: super::error::Fault| SourceError::Content {
            path: spec.path.clone(),
            message: fault.message,
            hint: fault.hint,
        };
        if name == "messages" {
            // Text is JSON, of which every row has been looked at.
            if found.is_nested() {
                messages::check_type(found).map_err(wrong)?;
            } else if !matches!(found, DataType::Null | DataType::Utf8) || !self.is_parsed {
                return Err(wrong(messages::not_turns(&crate::kind::type_name(found))));
            }
            return Ok(messages::messages_type(self.turn_fields));
        }
        let ranges = self.ranges.as_ref().map(|ranges| &ranges[place]);
        let target = convert::target(name, found, &convert::general(found, ranges));
        if name == "id" && target != DataType::Utf8 {
            return Err(wrong(convert::not_text(name, found)));
        }
        Ok(target)
    }
}

/// The names of the table's columns that come from the file, and their places there.
fn names(found: &Schema, spec: &SourceSpec) -> Result<Vec<(String, usize)>, SourceError> {
    let mut named: Vec<(String, usize)> = Vec::new();
    for (ours, theirs) in &spec.columns {
        let place = found.index_of(theirs).map_err(|_| spec.no_column(found, ours, theirs))?;
        named.push((ours.clone(), place));
    }
    let renamed = named.len();
    for (place, field) in found.fields().iter().enumerate() {
        if named[..renamed].iter().any(|(_, p)| *p == place) {
            continue;
        }
        let taken = spec.columns.iter().find(|(ours, _)| ours == field.name());
        if let Some((ours, theirs)) = taken {
            return Err(SourceError::Option {
                path: spec.path.clone(),
                option: format!("columns.{ours}"),
                message: format!("has a column `{ours}` already, which `{theirs}` would replace"),
                hint: Some(format!(
                    "rename that one too, `columns: {{ {ours}: {theirs}, old_{ours}: {ours} }}`, or leave it \
                     out, `drop: [{ours}]`"
                )),
            });
        }
        named.push((field.name().clone(), place));
    }
    Ok(named)
}

/// Refuses a table with more columns, or deeper ones, than can be written in bounded memory; names
/// the column to leave out where it is one.
fn check_size(schema: &Schema) -> Result<(), (String, Option<String>)> {
    normal_schema(schema).map_err(|error| (error.to_string(), unsupported(&error)))?;
    let mut single = 0;
    for field in schema.fields() {
        let (columns, depth) = convert::size(field.data_type());
        single += columns;
        if depth > MAX_DEPTH {
            let name = field.name();
            let message = format!("the column `{name}` is nested deeper than {MAX_DEPTH} levels");
            return Err((message, Some(name.clone())));
        }
    }
    if single > MAX_COLUMNS {
        let message = format!(
            "the table has {single} columns, nested ones included; the limit is {MAX_COLUMNS}"
        );
        return Err((message, None));
    }
    Ok(())
}

fn without_id(schema: &Schema) -> Schema {
    let fields: Vec<_> = schema.fields().iter().filter(|f| f.name() != "id").cloned().collect();
    Schema::new(fields)
}

fn unsupported(error: &refrain_cache::TableError) -> Option<String> {
    match error {
        refrain_cache::TableError::Unsupported { column, .. } => Some(column.clone()),
        _ => None,
    }
}
