//! Reads tables of cells between commas or tabs: the first row names the columns, whose types are
//! inferred from all rows. An empty cell is null.

mod builder;
mod records;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema};

use super::error::{Fault, left_out};
use super::json::columns::Role;
use super::json::json_field;
use super::json::shape::Shape;
use super::layout::{Found, MAX_COLUMNS};
use super::piece::{Numbers, Opened, Piece};
use super::text::{Boundary, Chunk, Parsed, Place, chunks, in_order, newlines};
use super::{BATCH_ROWS, HEAD_ROWS, SourceError, SourceSpec, messages};
use builder::CellBuilder;
use records::Records;

/// Cells that are held at once.
const BATCH_CELLS: usize = 1 << 21;

/// Tables of cells, and the columns that all of them have.
pub(super) struct Csv<'a> {
    spec: &'a SourceSpec,
    files: &'a [PathBuf],
    delimiter: u8,
    columns: Vec<(String, Role)>,
    /// Of each file the column that each of its cells belongs to.
    orders: Vec<Vec<usize>>,
}

/// The values of the columns so far.
struct Profile {
    shapes: Vec<Shape>,
    rows: u64,
    /// Whether turns of `messages` hold more than role and content.
    turn_fields: bool,
}

impl<'a> Csv<'a> {
    /// Reads the files' first rows.
    pub fn new(
        spec: &'a SourceSpec,
        files: &'a [PathBuf],
        delimiter: u8,
    ) -> Result<Csv<'a>, SourceError> {
        let mut csv = Csv { spec, files, delimiter, columns: Vec::new(), orders: Vec::new() };
        for file in 0..files.len() {
            let names = csv.header(file)?;
            if file == 0 {
                let column = |name: &String| (name.clone(), Role::of(name, spec));
                csv.columns = names.iter().map(column).collect();
            }
            csv.orders.push(csv.order(file, &names)?);
        }
        if let Some(name) = &spec.explode {
            let message = format!("cannot be exploded by `{name}`: its cells hold no lists");
            return Err(spec.option_error("explode", message, None));
        }
        let names: Vec<String> = csv.columns.iter().map(|(name, _)| name.clone()).collect();
        match spec.drop.iter().find(|name| !names.contains(name)) {
            Some(name) => Err(spec.nothing_to_drop(&names, name)),
            None => Ok(csv),
        }
    }

    fn boundary(&self) -> Boundary {
        Boundary::cells(self.delimiter)
    }

    /// Returns the names in a file's first row.
    fn header(&self, file: usize) -> Result<Vec<String>, SourceError> {
        let mut names: Option<Vec<String>> = None;
        for chunk in chunks(&self.files[file..=file], self.boundary(), 1) {
            let chunk = Chunk { is_first: false, ..chunk? };
            let mut named = Place { file, line: 1 };
            self.records(&chunk, |record, place| {
                // A name that is missing is made, as for the numbers of rows that some programs add.
                let name = |(i, name): (usize, &str)| match name {
                    "" => format!("column_{}", i + 1),
                    name => name.to_owned(),
                };
                if names.is_none() {
                    names = Some(record.iter().enumerate().map(name).collect());
                    named = Place { file, ..place };
                }
                Ok(())
            })?;
            let Some(names) = names.take() else { continue };
            if names.len() > MAX_COLUMNS {
                let message =
                    format!("the table has {} columns; the limit is {MAX_COLUMNS}", names.len());
                return Err(self.error(named, Fault::new(message)));
            }
            let mut sorted: Vec<&String> = names.iter().collect();
            sorted.sort_unstable();
            if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                let fault = Fault::new(format!("the column `{}` appears twice", twice[0]));
                return Err(self.error(named, fault));
            }
            return Ok(names);
        }
        Err(SourceError::empty(&self.files[file], "its first row must name the columns"))
    }

    /// Finds the column of each cell of a file.
    fn order(&self, file: usize, names: &[String]) -> Result<Vec<usize>, SourceError> {
        let place = |name: &String| self.columns.iter().position(|(column, _)| column == name);
        let order: Option<Vec<usize>> = names.iter().map(place).collect();
        order.filter(|order| order.len() == self.columns.len()).ok_or_else(|| {
            let columns: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            super::error::other_columns(&self.files[file], &names, &self.files[0], &columns)
        })
    }

    /// Returns the columns, as far as the first rows tell them.
    pub fn head(&self) -> Result<Found, SourceError> {
        let mut profile = self.profile();
        for chunk in chunks(self.files, self.boundary(), HEAD_ROWS) {
            self.scan_chunk(&chunk?, &mut profile)?;
            if profile.rows >= HEAD_ROWS as u64 {
                break;
            }
        }
        self.found(&profile)
    }

    /// Opens the files to read their rows.
    pub fn open(self) -> Result<Opened<'a>, SourceError> {
        let mut whole = self.profile();
        let parse = |chunk: Chunk| {
            let mut profile = self.profile();
            self.spec.guarded(|| self.scan_chunk(&chunk, &mut profile))?;
            Ok::<_, SourceError>(profile)
        };
        let mut all = chunks(self.files, self.boundary(), usize::MAX);
        in_order(&mut all, parse, |profile| {
            whole.merge(profile);
            Ok(())
        })?;
        drop(all);

        let found = self.found(&whole)?;
        let types: Vec<Option<DataType>> = self
            .columns
            .iter()
            .map(|(name, _)| found.schema.field_with_name(name).ok().map(|f| f.data_type().clone()))
            .collect();
        let max_rows = (BATCH_CELLS / self.columns.len().max(1)).clamp(1, BATCH_ROWS);
        let schema = found.schema.clone();
        let chunks = chunks(self.files, self.boundary(), max_rows);
        let parse = move |chunk: Chunk| self.spec.guarded(|| self.piece(&chunk, &types, &schema));
        let pieces = Parsed::new(chunks, parse);
        Ok(Opened { found, rows: whole.rows, has_lines: true, pieces: Box::new(pieces) })
    }

    fn profile(&self) -> Profile {
        let shapes = self.columns.iter().map(|_| Shape::default()).collect();
        Profile { shapes, rows: 0, turn_fields: false }
    }

    fn scan_chunk(&self, chunk: &Chunk, profile: &mut Profile) -> Result<(), SourceError> {
        self.records(chunk, |record, place| {
            let order = self.checked(record, place)?;
            for (cell, column) in record.iter().zip(order) {
                match self.columns[*column].1 {
                    Role::Dropped => {}
                    _ if cell.is_empty() => {}
                    Role::Messages => {
                        let turns = messages::parse(cell).map_err(|f| self.error(place, f))?;
                        profile.turn_fields |= turns.iter().flatten().any(|t| t.has_fields());
                    }
                    _ => profile.shapes[*column].add_cell(cell, place),
                }
            }
            profile.rows += 1;
            Ok(())
        })
    }

    /// Returns the columns of a row's cells.
    fn checked(&self, record: &csv::StringRecord, place: Place) -> Result<&[usize], SourceError> {
        let order = &self.orders[place.file];
        if record.len() == order.len() {
            return Ok(order);
        }
        let cells = |n: usize| if n == 1 { "1 cell".to_owned() } else { format!("{n} cells") };
        let message = format!("the row has {}, the first one {}", cells(record.len()), order.len());
        let hint = "a cell with a delimiter or a line break in it needs quotes around it";
        Err(self.error(place, Fault::new(message).hint(hint)))
    }

    fn found(&self, profile: &Profile) -> Result<Found, SourceError> {
        let mut fields = Vec::with_capacity(self.columns.len());
        for ((name, role), shape) in self.columns.iter().zip(&profile.shapes) {
            let field = match role {
                Role::Dropped => continue,
                Role::Messages => json_field(name),
                Role::Text | Role::Tools => Field::new(name, DataType::Utf8, true),
                Role::Plain => {
                    let ty = shape.data_type().map_err(|misfit| {
                        let message = misfit.message(name, self.files);
                        self.error(misfit.place, Fault::new(message).hint(left_out(name)))
                    });
                    Field::new(name, ty?, true)
                }
            };
            fields.push(field);
        }
        Ok(Found {
            schema: Arc::new(Schema::new(fields)),
            ranges: None,
            turn_fields: profile.turn_fields,
            is_parsed: true,
            of_elements: Vec::new(),
        })
    }

    fn error(&self, place: Place, Fault { message, hint }: Fault) -> SourceError {
        let (path, line) = (self.files[place.file].clone(), place.line as usize);
        SourceError::Line { path, line, column: 1, message, hint }
    }

    /// Calls `take` with each row of a chunk, the one with the names excepted.
    fn records(
        &self,
        chunk: &Chunk,
        mut take: impl FnMut(&csv::StringRecord, Place) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        let mut rows = Records::new(&chunk.bytes, self.delimiter);
        let mut cells = csv::ByteRecord::new();
        let mut place = chunk.place;
        let (mut seen, mut is_header) = (0, chunk.is_first);
        while let Some(begin) = rows.read(&mut cells) {
            place.line += newlines(&chunk.bytes[seen..begin]);
            seen = begin;
            let record = csv::StringRecord::from_byte_record(cells)
                .map_err(|_| self.error(place, Fault::new("this is not UTF-8")))?;
            if !std::mem::take(&mut is_header) {
                take(&record, place)?;
            }
            cells = record.into_byte_record();
        }
        Ok(())
    }

    /// Brings a chunk into columns.
    fn piece(
        &self,
        chunk: &Chunk,
        types: &[Option<DataType>],
        schema: &Arc<Schema>,
    ) -> Result<Piece, SourceError> {
        // A fair share to begin with: texts that grow from nothing are copied again and again.
        let texts = types.iter().filter(|ty| **ty == Some(DataType::Utf8)).count();
        let share = chunk.bytes.len() / texts.max(1);
        let new = |ty: &Option<DataType>| ty.as_ref().map(|ty| CellBuilder::new(ty, share));
        let mut builders: Vec<Option<CellBuilder>> = types.iter().map(new).collect();
        let mut lines = Vec::new();
        self.records(chunk, |record, place| {
            let order = self.checked(record, place)?;
            for (cell, column) in record.iter().zip(order) {
                if let Some(builder) = &mut builders[*column] {
                    builder.append(cell);
                }
            }
            lines.push(place.line);
            Ok(())
        })?;
        let columns: Vec<ArrayRef> =
            builders.into_iter().flatten().map(CellBuilder::finish).collect();
        let rows = RecordBatchOptions::new().with_row_count(Some(lines.len()));
        let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &rows);
        let file = chunk.place.file;
        let batch = batch.map_err(|e| SourceError::content(&self.files[file], e.to_string()))?;
        Ok(Piece { batch, file, numbers: Numbers::Listed(lines), elements: None })
    }
}

impl Profile {
    fn merge(&mut self, later: Profile) {
        for (shape, later) in self.shapes.iter_mut().zip(later.shapes) {
            // Cells are neither lists nor mappings, which alone do not fit together.
            let _ = shape.merge(later);
        }
        self.rows += later.rows;
        self.turn_fields |= later.turn_fields;
    }
}
