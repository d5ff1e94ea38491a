//! Reads JSON Lines and lists of objects: types are inferred from all rows, and every fault is named
//! with line and column.

pub(super) mod columns;
mod decode;
mod explode;
mod json_text;
mod rows;
pub(super) mod shape;

use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use super::error::Fault;
use super::layout::Found;
use super::piece::{Element, Numbers, Opened, Piece};
use super::text::{Boundary, Chunk, Parsed, chunks, in_order};
use super::{BATCH_ROWS, HEAD_ROWS, SourceError, SourceSpec, convert};
use columns::Columns;
use decode::batch;
use rows::{Row, TextFault, rows};

pub(super) use json_text::field as json_field;

/// Values that are held at once.
const BATCH_CELLS: usize = 1 << 21;

/// The arrangement of the objects in their file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Layout {
    Lines,
    List,
}

impl Layout {
    fn boundary(self) -> Boundary {
        match self {
            Layout::Lines => Boundary::Lines,
            Layout::List => Boundary::items(),
        }
    }
}

/// JSON files of a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Json<'a> {
    pub spec: &'a SourceSpec,
    pub files: &'a [PathBuf],
    pub layout: Layout,
}

impl<'a> Json<'a> {
    /// Returns the columns, as far as the first rows tell them.
    pub fn head(self) -> Result<Found, SourceError> {
        let (columns, rows) = self.scan_in_order(HEAD_ROWS)?;
        self.found(&columns, (rows as usize) < HEAD_ROWS)
    }

    /// Opens the files to read their rows.
    pub fn open(self) -> Result<Opened<'a>, SourceError> {
        let (columns, rows) = match self.scan() {
            Some(scanned) => scanned,
            // In the order of the rows, so that the first fault is found, and its place.
            None => self.scan_in_order(usize::MAX)?,
        };
        let found = self.found(&columns, true)?;
        let single: usize =
            found.schema.fields().iter().map(|f| convert::size(f.data_type()).0).sum();
        let max_rows = (BATCH_CELLS / single.max(1)).clamp(1, BATCH_ROWS);
        let schema = found.schema.clone();
        let chunks = chunks(self.files, self.layout.boundary(), max_rows);
        let parse = move |chunk: Chunk| self.spec.guarded(|| self.piece(&chunk, &schema));
        let pieces = Parsed::new(chunks, parse);
        Ok(Opened { found, rows, has_lines: true, pieces: Box::new(pieces) })
    }

    /// Goes over all rows on all cores; `None` where something is wrong with one of them.
    fn scan(self) -> Option<(Columns<'a>, u64)> {
        struct Fails;
        impl From<SourceError> for Fails {
            fn from(_: SourceError) -> Fails {
                Fails
            }
        }
        let mut all = (Columns::new(self.spec, self.files), 0);
        let mut chunks = chunks(self.files, self.layout.boundary(), usize::MAX);
        let parse = |chunk: Chunk| {
            let mut columns = Columns::new(self.spec, self.files);
            let rows = rows(&chunk, self.layout).map_err(|_| Fails)?;
            for row in &rows {
                let is_object = row.json.trim_ascii_start().starts_with('{');
                let added = is_object.then(|| columns.add(row.json, row.place));
                added.ok_or(Fails)?.map_err(|_| Fails)?;
            }
            Ok((columns, rows.len() as u64))
        };
        let taken = in_order(&mut chunks, parse, |(columns, rows)| {
            all.1 += rows;
            all.0.merge(columns).ok_or(Fails)
        });
        taken.ok().map(|()| all)
    }

    /// Goes over the rows one after the other, up to `limit` of them.
    fn scan_in_order(self, limit: usize) -> Result<(Columns<'a>, u64), SourceError> {
        let mut columns = Columns::new(self.spec, self.files);
        let mut seen = 0;
        for chunk in chunks(self.files, self.layout.boundary(), limit) {
            let chunk = chunk?;
            for row in rows(&chunk, self.layout).map_err(|fault| self.error(fault))? {
                row.check(self.layout).map_err(|fault| self.error(fault))?;
                let added = columns.add(row.json, row.place);
                added.map_err(|(at, fault)| self.error(row.fault_at(at, fault)))?;
                seen += 1;
                if seen == limit {
                    return Ok((columns, seen as u64));
                }
            }
        }
        Ok((columns, seen as u64))
    }

    fn found(self, columns: &Columns<'_>, is_whole: bool) -> Result<Found, SourceError> {
        let found = columns.found()?;
        if is_whole {
            columns.check_named()?;
        }
        Ok(found)
    }

    fn error(self, fault: TextFault) -> SourceError {
        let TextFault { place, column, fault: Fault { message, hint } } = fault;
        let path = self.files[place.file].clone();
        SourceError::Line { path, line: place.line as usize, column: column + 1, message, hint }
    }

    /// Brings a chunk into columns.
    fn piece(self, chunk: &Chunk, schema: &SchemaRef) -> Result<Piece, SourceError> {
        let rows = rows(chunk, self.layout).map_err(|fault| self.error(fault))?;
        let file = chunk.place.file;
        let failed =
            |error: &ArrowError| SourceError::content(&self.files[file], arrow_message(error));
        let (batch, lines, elements) = match &self.spec.explode {
            None => {
                let texts: Vec<&str> = rows.iter().map(|row| row.json).collect();
                let batch = batch(schema, &texts).map_err(|error| failed(&error))?;
                (batch, rows.iter().map(|row| row.place.line).collect(), None)
            }
            Some(column) => {
                let exploded = self.exploded(&rows, column)?;
                let mut begin = 0;
                let ends = exploded.ends.iter();
                let text = |end: &usize| &exploded.text[std::mem::replace(&mut begin, *end)..*end];
                let texts: Vec<&str> = ends.map(text).collect();
                let batch = batch(schema, &texts).map_err(|error| failed(&error))?;
                (batch, exploded.lines, Some(exploded.elements))
            }
        };
        Ok(Piece { batch, file, numbers: Numbers::Listed(lines), elements })
    }

    fn exploded(self, rows: &[Row<'_>], column: &str) -> Result<ExplodedRows, SourceError> {
        let mut all = ExplodedRows::default();
        for (number, row) in rows.iter().enumerate() {
            let exploded = explode::exploded(row.json, column)
                .map_err(|(at, fault)| self.error(row.fault_at(at, fault)))?;
            let ends = explode::write(&exploded, column, &mut all.text);
            for at in 0..ends.len() {
                all.elements.push(Element { row: number as u32, at: at as i32 });
                all.lines.push(row.place.line);
            }
            all.ends.extend(ends);
        }
        Ok(all)
    }
}

/// The rows that elements of lists became.
#[derive(Default)]
struct ExplodedRows {
    text: String,
    ends: Vec<usize>,
    lines: Vec<u64>,
    elements: Vec<Element>,
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
