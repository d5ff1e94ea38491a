//! Reads JSON Lines: types are inferred from all rows, and every fault is named with line and
//! column.

mod columns;
mod json_text;
mod shape;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use serde_json::value::RawValue;

use refrain_cache::open_plain;

use super::error::Fault;
use super::import::{Batches, Opened};
use super::layout::Found;
use super::rows::LineNumbers;
use super::{BATCH_ROWS, HEAD_ROWS, SourceError, SourceSpec, convert};
use columns::Columns;
use json_text::JsonTexts;

/// The byte-order mark that some programs put before the first line.
const MARK: &[u8] = "\u{feff}".as_bytes();
/// Limit on the length of a line in bytes.
const MAX_LINE: usize = 64 << 20;

/// Bytes of text that are held at once.
const BATCH_BYTES: usize = 128 << 20;
/// Values that are held at once.
const BATCH_CELLS: usize = 1 << 21;

/// Returns the columns, as far as the first rows tell them.
pub(super) fn head(spec: &SourceSpec) -> Result<Found, SourceError> {
    Ok(scan(spec, &open(&spec.path)?, HEAD_ROWS)?.found)
}

/// Opens the file to read its rows. It is opened once, so that both passes over it see one file.
pub(super) fn rows(spec: &SourceSpec) -> Result<Opened<'static>, SourceError> {
    let file = open(&spec.path)?;
    let Scan { found, rows, longest, lines } = scan(spec, &file, usize::MAX)?;
    let columns: usize = found.schema.fields().iter().map(|f| convert::size(f.data_type()).0).sum();
    let cells = BATCH_CELLS / columns.max(1);
    let batch_rows = (BATCH_BYTES / longest.max(1)).min(cells).clamp(1, BATCH_ROWS);
    let batches = batches(&spec.path, file, &found.schema, batch_rows)?;
    Ok(Opened { found, rows, lines: Some(lines), batches })
}

/// The result of a pass over the lines of a file.
struct Scan {
    found: Found,
    rows: u64,
    /// Bytes of the longest line.
    longest: usize,
    lines: LineNumbers,
}

/// Goes over the lines, up to `limit` rows of them.
fn scan(spec: &SourceSpec, file: &File, limit: usize) -> Result<Scan, SourceError> {
    let mut lines = Lines::new(&spec.path, file)?;
    let mut columns = Columns::new(spec);
    let mut rows = 0;
    while rows < limit && lines.advance()? {
        let json = lines.object()?;
        let line = lines.line;
        columns.add(json, line).map_err(|(address, fault)| lines.fault_at(json, address, fault))?;
        rows += 1;
    }
    let whole = rows < limit;
    let missing = spec.drop.iter().find(|name| whole && !columns.has(name));
    let schema = columns.schema().map_err(|(name, misfit)| SourceError::Line {
        path: spec.path.clone(),
        line: misfit.line(),
        column: 1,
        message: misfit.message(&name),
        hint: Some(super::error::left_out(&name)),
    })?;
    if let Some(name) = missing {
        return Err(spec.nothing_to_drop(&columns.names(), name));
    }
    let found = Found { schema: Arc::new(schema), ranges: None, turn_fields: columns.turn_fields };
    Ok(Scan { found, rows: rows as u64, longest: lines.longest, lines: lines.numbers })
}

/// Reads the rows, some at a time.
fn batches(
    path: &Path,
    file: File,
    schema: &Arc<Schema>,
    rows: usize,
) -> Result<Batches<'static>, SourceError> {
    pass_mark(&file).map_err(|error| SourceError::Io { path: path.into(), error })?;
    let owned = path.to_path_buf();
    let reader = ReaderBuilder::new(schema.clone())
        .with_batch_size(rows)
        .with_coerce_primitive(true)
        .with_decoder_factory(Arc::new(JsonTexts))
        .build(BufReader::new(file))
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

fn open(path: &Path) -> Result<File, SourceError> {
    open_plain(path).map_err(|error| SourceError::Io { path: path.into(), error })
}

/// Goes to the start of a file, behind a byte-order mark.
fn pass_mark(mut file: &File) -> std::io::Result<()> {
    file.rewind()?;
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(MARK.len() as u64).read_to_end(&mut start)?;
    if start != MARK {
        file.rewind()?;
    }
    Ok(())
}

/// The lines of a file, counted; blank ones are passed over.
struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<&'a File>,
    buffer: Vec<u8>,
    line: usize,
    rows: u64,
    /// Bytes of the longest line so far.
    longest: usize,
    numbers: LineNumbers,
}

impl<'a> Lines<'a> {
    fn new(path: &'a Path, file: &'a File) -> Result<Lines<'a>, SourceError> {
        pass_mark(file).map_err(|error| SourceError::Io { path: path.into(), error })?;
        Ok(Lines {
            path,
            reader: BufReader::new(file),
            buffer: Vec::new(),
            line: 0,
            rows: 0,
            longest: 0,
            numbers: LineNumbers::default(),
        })
    }

    fn wrong(&self, column: usize, message: impl Into<String>) -> SourceError {
        SourceError::Line {
            path: self.path.into(),
            line: self.line,
            column,
            message: message.into(),
            hint: None,
        }
    }

    /// The error of a fault in the line at an address within its text.
    fn fault_at(&self, json: &str, address: usize, fault: Fault) -> SourceError {
        let before = address.saturating_sub(json.as_ptr() as usize).min(json.len());
        SourceError::Line {
            path: self.path.into(),
            line: self.line,
            column: before + 1,
            message: fault.message,
            hint: fault.hint,
        }
    }

    /// Reads the next line that is not blank; `false` at the end of the file.
    fn advance(&mut self) -> Result<bool, SourceError> {
        loop {
            self.buffer.clear();
            let mut line = (&mut self.reader).take(MAX_LINE as u64 + 1);
            let read = line.read_until(b'\n', &mut self.buffer);
            let read = read.map_err(|error| SourceError::Io { path: self.path.into(), error })?;
            if read == 0 {
                return Ok(false);
            }
            self.line += 1;
            if read > MAX_LINE {
                return Err(self.wrong(1, format!("the line is longer than {} MB", MAX_LINE >> 20)));
            }
            self.longest = self.longest.max(read);
            self.buffer.truncate(self.buffer.trim_ascii_end().len());
            if !self.buffer.is_empty() {
                self.rows += 1;
                return Ok(true);
            }
            self.numbers.skip(self.rows);
        }
    }

    /// Checks that the line is a JSON object, and returns its text.
    fn object(&self) -> Result<&str, SourceError> {
        let text = std::str::from_utf8(&self.buffer)
            .map_err(|error| self.wrong(error.valid_up_to() + 1, "this is not UTF-8"))?;
        serde_json::from_str::<&RawValue>(text).map_err(|e| {
            if e.is_eof() {
                return self
                    .wrong(text.len() + 1, "the line ends in the middle of its JSON object");
            }
            let reason = e.to_string();
            let reason = reason.split(" at line ").next().unwrap_or(&reason);
            self.wrong(e.column().max(1), format!("this is not JSON: {reason}"))
        })?;
        if !text.trim_ascii_start().starts_with('{') {
            return Err(self.wrong(1, "every line must be a JSON object, `{\"prompt\": …}`"));
        }
        Ok(text)
    }
}
