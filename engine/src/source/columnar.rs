//! Opens Parquet and Arrow files: what their types leave undecided, the values tell.

mod arrow_file;
mod explode;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use refrain_cache::{TableError, TableReader};

use crate::kind::same_type;

use super::layout::Found;
use super::numbers::{self, Ranges};
use super::piece::{Numbers, Opened, Piece};
use super::rows::Rows;
use super::{BATCH_ROWS, Format, HEAD_ROWS, SourceError, SourceSpec, messages};
use arrow_file::ArrowFile;

/// Files of columns.
#[derive(Clone, Copy)]
pub(super) struct Columnar<'a> {
    pub spec: &'a SourceSpec,
    pub files: &'a [PathBuf],
    pub format: Format,
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, SourceError>> + Send>;

enum ColumnFile {
    Parquet(TableReader),
    Arrow(ArrowFile),
}

impl ColumnFile {
    fn open(path: &Path, format: Format, dropped: &[&str]) -> Result<ColumnFile, SourceError> {
        if path.metadata().is_ok_and(|file| file.len() == 0) {
            return Err(SourceError::empty(path, "write or fetch it again"));
        }
        Ok(match format {
            Format::Parquet => ColumnFile::Parquet(TableReader::open_except(path, dropped)?),
            _ => ColumnFile::Arrow(ArrowFile::open(path, dropped)?),
        })
    }

    fn schema(&self) -> &SchemaRef {
        match self {
            ColumnFile::Parquet(file) => file.schema(),
            ColumnFile::Arrow(file) => &file.schema,
        }
    }

    /// Counts the rows. Where all of them are gone over before the first is used, they are read for it
    /// from Parquet: a header may promise billions.
    fn rows(&self, checked: bool) -> Result<u64, SourceError> {
        let file = match self {
            ColumnFile::Parquet(file) => file,
            ColumnFile::Arrow(file) => return Ok(file.rows),
        };
        if checked {
            let first = file.schema().fields().first().map(|field| field.name().as_str());
            for batch in file.batches(Some(&first.into_iter().collect::<Vec<_>>()), BATCH_ROWS)? {
                batch?;
            }
        }
        Ok(file.rows())
    }

    fn batches(&self, columns: Option<&[&str]>, rows: usize) -> Result<Batches, SourceError> {
        Ok(match self {
            ColumnFile::Parquet(file) => {
                let batches = file.batches(columns, rows)?;
                Box::new(batches.map(|batch| batch.map_err(SourceError::from)))
            }
            ColumnFile::Arrow(file) => Box::new(file.batches(columns, rows)?),
        })
    }
}

impl<'a> Columnar<'a> {
    /// Returns the columns, as far as the first rows tell them.
    pub fn head(self) -> Result<Found, SourceError> {
        let first = Columnar { files: &self.files[..1], ..self };
        first.found(&first.schema()?, HEAD_ROWS)
    }

    /// Opens the files to read their rows.
    pub fn open(self) -> Result<Opened<'a>, SourceError> {
        let schema = self.schema()?;
        let found = self.found(&schema, usize::MAX)?;
        let checked = matches!(self.spec.rows, Rows::Sample { .. });
        let mut rows = 0;
        for file in self.files {
            rows += self.file(file)?.rows(checked)?;
        }
        let target = found.schema.clone();
        let pieces = (0..self.files.len()).flat_map(move |number| {
            match self.pieces(number, &schema, &target) {
                Ok(pieces) => pieces,
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        });
        Ok(Opened { found, rows, has_lines: false, pieces: Box::new(pieces) })
    }

    fn file(self, path: &Path) -> Result<ColumnFile, SourceError> {
        Ok(self.file_without(path)?.0)
    }

    /// Opens a file without the columns that are left out, and returns those of them that it lacks:
    /// the elements of the list that is exploded may have them.
    fn file_without(self, path: &Path) -> Result<(ColumnFile, Vec<&'a str>), SourceError> {
        let spec: &'a SourceSpec = self.spec;
        let mut elsewhere: Vec<&'a str> = Vec::new();
        let mut dropped: Vec<&'a str> = spec.drop.iter().map(String::as_str).collect();
        loop {
            match ColumnFile::open(path, self.format, &dropped) {
                Err(SourceError::Table(TableError::Missing { column, .. }))
                    if spec.explode.is_some() =>
                {
                    elsewhere.extend(dropped.extract_if(.., |name| **name == column));
                }
                Err(SourceError::Table(TableError::Missing { column, there })) => {
                    return Err(spec.nothing_to_drop(&there, &column));
                }
                opened => return Ok((opened?, elsewhere)),
            }
        }
    }

    /// Returns the columns that all files have: the same ones, of the same types, in any order. A
    /// column without values has every type.
    fn schema(self) -> Result<SchemaRef, SourceError> {
        let mut schema = self.file(&self.files[0])?.schema().clone();
        for path in &self.files[1..] {
            let file = self.file(path)?;
            let (own, first) = (sorted_names(file.schema()), sorted_names(&schema));
            if own != first {
                return Err(super::error::other_columns(path, &own, &self.files[0], &first));
            }
            let mut fields: Vec<Arc<Field>> = Vec::with_capacity(schema.fields().len());
            for field in schema.fields() {
                let other = file.schema().field_with_name(field.name()).unwrap_or(field);
                let (ours, theirs) = (field.data_type(), other.data_type());
                if *ours == DataType::Null {
                    fields.push(Arc::new(other.clone()));
                } else if *theirs == DataType::Null || same_type(ours, theirs) {
                    fields.push(field.clone());
                } else {
                    return Err(other_type(path, &self.files[0], field.name(), theirs, ours));
                }
            }
            schema = Arc::new(Schema::new(fields));
        }
        Ok(schema)
    }

    /// Reads the columns whose types alone do not decide those of the table, up to `limit` rows of
    /// them.
    fn found(self, schema: &SchemaRef, limit: usize) -> Result<Found, SourceError> {
        let (whole, of_elements) = match &self.spec.explode {
            None => (schema.clone(), Vec::new()),
            Some(column) => {
                let (_, elsewhere) = self.file_without(&self.files[0])?;
                explode::exploded_schema(self.spec, schema, column, &elsewhere)?
            }
        };
        let is_messages = |name: &str| self.spec.becomes(name, "messages");
        let wanted = whole.fields().iter().filter(|field| {
            numbers::undecided(field.data_type())
                || is_messages(field.name()) && messages::may_have_fields(field.data_type())
        });
        let wanted: Vec<&str> = wanted.map(|field| field.name().as_str()).collect();
        // A column in our form keeps it, so that a table read again is the same table.
        let ours = messages::messages_type(true);
        let in_our_form =
            |field: &Arc<Field>| is_messages(field.name()) && same_type(field.data_type(), &ours);
        let mut turn_fields = whole.fields().iter().any(in_our_form);
        let mut ranges = vec![Ranges::default(); whole.fields().len()];
        if !wanted.is_empty() {
            let read = self.read_for(&wanted, &of_elements);
            let mut left = limit;
            'files: for path in self.files {
                for batch in self.file(path)?.batches(Some(&read), limit.min(BATCH_ROWS))? {
                    let batch = batch?;
                    left = left.saturating_sub(batch.num_rows());
                    let batch = match &self.spec.explode {
                        Some(column) if batch.schema_ref().index_of(column).is_ok() => {
                            explode::exploded(self.spec, &batch, column)?.0
                        }
                        _ => batch,
                    };
                    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                        let Ok(place) = whole.index_of(field.name()) else { continue };
                        ranges[place].add(column);
                        turn_fields |= is_messages(field.name()) && has_turn_fields(column);
                    }
                    if left == 0 {
                        break 'files;
                    }
                }
            }
        }
        let ranges = Some(ranges);
        Ok(Found { schema: whole, ranges, turn_fields, is_parsed: false, of_elements })
    }

    /// The columns of the files that the wanted ones are made of.
    fn read_for<'n>(self, wanted: &[&'n str], of_elements: &[String]) -> Vec<&'n str>
    where
        'a: 'n,
    {
        let is_own = |name: &&&str| !of_elements.iter().any(|element| element == **name);
        let mut read: Vec<&'n str> = wanted.iter().filter(is_own).copied().collect();
        let spec: &'a SourceSpec = self.spec;
        if let Some(column) = spec.explode.as_deref().filter(|_| read.len() < wanted.len()) {
            read.push(column);
        }
        read
    }

    /// The rows of a file, their columns in the order of `target`.
    fn pieces(
        self,
        number: usize,
        schema: &SchemaRef,
        target: &SchemaRef,
    ) -> Result<Box<dyn Iterator<Item = Result<Piece, SourceError>> + Send + 'a>, SourceError> {
        let batches = self.file(&self.files[number])?.batches(None, BATCH_ROWS)?;
        let (schema, target) = (schema.clone(), target.clone());
        let mut next = 0;
        Ok(Box::new(batches.map(move |batch| {
            let batch = aligned(&batch?, &schema)?;
            let first = next;
            next += batch.num_rows() as u64;
            let Some(column) = &self.spec.explode else {
                let numbers = Numbers::From(first);
                return Ok(Piece { batch, file: number, numbers, elements: None });
            };
            let (batch, elements) = explode::exploded(self.spec, &batch, column)?;
            let numbers = elements.iter().map(|element| first + u64::from(element.row)).collect();
            let batch = aligned(&batch, &target)?;
            let numbers = Numbers::Listed(numbers);
            Ok(Piece { batch, file: number, numbers, elements: Some(elements) })
        })))
    }
}

fn sorted_names(schema: &Schema) -> Vec<&str> {
    let mut names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    names.sort_unstable();
    names
}

/// Brings the columns of a batch into the order of a schema.
fn aligned(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, SourceError> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let column = |field: &Arc<Field>| -> Option<ArrayRef> {
        let column = batch.column_by_name(field.name())?;
        Some(match column.data_type() == field.data_type() {
            true => column.clone(),
            false => new_null_array(field.data_type(), column.len()),
        })
    };
    let columns = schema.fields().iter().filter_map(column).collect();
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &rows);
    Ok(batch.map_err(TableError::from)?)
}

fn other_type(
    path: &Path,
    first: &Path,
    name: &str,
    found: &DataType,
    expected: &DataType,
) -> SourceError {
    let (found, expected) = (crate::kind::type_name(found), crate::kind::type_name(expected));
    SourceError::Content {
        path: path.into(),
        message: format!("column `{name}` is {found}, but {expected} in `{}`", first.display()),
        hint: Some(super::error::left_out(name)),
    }
}

/// Whether some turn holds a value beside role and content.
fn has_turn_fields(messages: &dyn Array) -> bool {
    let turns = messages.as_list_opt::<i32>();
    let Some(turns) = turns.and_then(|turns| turns.values().as_struct_opt()) else { return false };
    let DataType::Struct(fields) = turns.data_type() else { return false };
    let further = fields.iter().enumerate().filter(|(i, _)| !messages::is_main(fields, *i));
    let mut filled = further.map(|(i, _)| turns.column(i).logical_null_count() < turns.len());
    filled.any(|filled| filled)
}
