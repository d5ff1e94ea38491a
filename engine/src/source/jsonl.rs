//! Reads JSON Lines: types are inferred from all rows, and every complaint names line and column.

mod shape;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::infer_json_schema_from_iterator;
use serde_json::Value;

use refrain_cache::open_plain;

use super::{Batches, SourceError, normalize};
use shape::Shape;

/// What some programs put before the first line.
const MARK: &[u8] = "\u{feff}".as_bytes();
/// Longest line in bytes.
const MAX_LINE: usize = 64 << 20;

/// Rows from which the columns are told before anything runs.
const HEAD_ROWS: usize = 1000;

/// The columns, from the first rows.
pub(super) fn schema(path: &Path) -> Result<SchemaRef, SourceError> {
    infer(path, HEAD_ROWS).map(|scan| scan.schema)
}

/// What the rows of a file are like.
pub(super) struct Scan {
    pub schema: SchemaRef,
    pub rows: u64,
    /// Bytes of the longest line.
    pub longest: usize,
}

/// What all rows of the file are like.
pub(super) fn scan(path: &Path) -> Result<Scan, SourceError> {
    infer(path, usize::MAX)
}

fn infer(path: &Path, most: usize) -> Result<Scan, SourceError> {
    let mut lines = Lines::open(path)?;
    let mut failure = None;
    let mut rows = 0;
    let values = std::iter::from_fn(|| {
        if rows as usize >= most {
            return None;
        }
        match lines.next_object() {
            Ok(value) => {
                rows += u64::from(value.is_some());
                value.map(Ok)
            }
            Err(error) => {
                failure = Some(error);
                None
            }
        }
    });
    let schema = infer_json_schema_from_iterator(values);
    if let Some(failure) = failure {
        return Err(failure);
    }
    let schema = schema.map_err(|e| SourceError::content(path, arrow_message(&e)))?;
    let schema = if rows == 0 { Schema::empty() } else { schema };
    normalize::check_size(&schema).map_err(|message| SourceError::content(path, message))?;
    Ok(Scan { schema: Arc::new(schema), rows, longest: lines.longest })
}

/// The rows, some at a time.
pub(super) fn batches(
    path: &Path,
    schema: SchemaRef,
    rows: usize,
) -> Result<Batches<'static>, SourceError> {
    let owned = path.to_path_buf();
    let reader = ReaderBuilder::new(schema)
        .with_batch_size(rows)
        .with_coerce_primitive(true)
        .build(BufReader::new(open(path)?))
        .map_err(|e| SourceError::content(path, arrow_message(&e)))?;
    let batch = move |b: Result<RecordBatch, ArrowError>| {
        b.map_err(|e| SourceError::content(&owned, arrow_message(&e)))
    };
    Ok(Box::new(reader.map(batch)))
}

fn arrow_message(error: &ArrowError) -> String {
    let text = match error {
        ArrowError::JsonError(text)
        | ArrowError::SchemaError(text)
        | ArrowError::ParseError(text) => text.clone(),
        other => other.to_string(),
    };
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// The file, a mark of its byte order passed over.
fn open(path: &Path) -> Result<File, SourceError> {
    let open = || {
        let mut file = open_plain(path)?;
        let mut start = Vec::new();
        (&mut file).take(MARK.len() as u64).read_to_end(&mut start)?;
        if start != MARK {
            file.rewind()?;
        }
        Ok(file)
    };
    open().map_err(|error| SourceError::Io { path: path.into(), error })
}

/// The lines of a file, counted.
struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    buffer: Vec<u8>,
    line: usize,
    /// Bytes of the longest line so far.
    longest: usize,
    /// What the values of earlier lines were.
    shape: Shape,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path) -> Result<Lines<'a>, SourceError> {
        let reader = BufReader::new(open(path)?);
        Ok(Lines { path, reader, buffer: Vec::new(), line: 0, longest: 0, shape: Shape::default() })
    }

    fn wrong(&self, column: usize, message: impl Into<String>) -> SourceError {
        SourceError::Line {
            path: self.path.into(),
            line: self.line,
            column,
            message: message.into(),
        }
    }

    /// The next object; blank lines are passed over.
    fn next_object(&mut self) -> Result<Option<Value>, SourceError> {
        loop {
            self.buffer.clear();
            let mut line = (&mut self.reader).take(MAX_LINE as u64 + 1);
            let read = line.read_until(b'\n', &mut self.buffer);
            let read = read.map_err(|error| SourceError::Io { path: self.path.into(), error })?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            if read > MAX_LINE {
                return Err(self.wrong(1, format!("the line is longer than {} MB", MAX_LINE >> 20)));
            }
            self.longest = self.longest.max(read);
            self.buffer.truncate(self.buffer.trim_ascii_end().len());
            if self.buffer.is_empty() {
                continue;
            }
            if let Err(error) = std::str::from_utf8(&self.buffer) {
                return Err(self.wrong(error.valid_up_to() + 1, "this is not UTF-8"));
            }
            let value: Value = serde_json::from_slice(&self.buffer).map_err(|e| {
                if e.is_eof() {
                    return self.wrong(
                        self.buffer.len() + 1,
                        "the line ends in the middle of its JSON object",
                    );
                }
                let text = e.to_string();
                let message = text.split(" at line ").next().unwrap_or(&text);
                self.wrong(e.column().max(1), format!("this is not JSON: {message}"))
            })?;
            if !value.is_object() {
                return Err(self.wrong(1, "every line must be a JSON object, `{\"prompt\": …}`"));
            }
            if let Err(misfit) = self.shape.add(&value, self.line) {
                return Err(self.wrong(1, misfit.to_string()));
            }
            return Ok(Some(value));
        }
    }
}
