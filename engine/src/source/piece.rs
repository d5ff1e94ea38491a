//! Rows of a source on their way from its files to its table, each with its place.

use std::path::PathBuf;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;

use super::SourceError;
use super::error::Fault;
use super::layout::Found;

/// The pieces of a source, as they come from its files.
pub(super) type Pieces<'a> = Box<dyn Iterator<Item = Result<Piece, SourceError>> + Send + 'a>;

/// A source that is ready to be read: its columns, its number of rows, and its pieces.
pub(super) struct Opened<'a> {
    pub found: Found,
    pub rows: u64,
    /// Whether rows are counted by the lines in which they begin.
    pub has_lines: bool,
    pub pieces: Pieces<'a>,
}

/// Some rows of one file.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub batch: RecordBatch,
    /// The number of their file.
    pub file: usize,
    pub numbers: Numbers,
    /// Of each row the element that it was made of, where a list was exploded.
    pub elements: Option<Vec<Element>>,
}

/// Begin of rows in their file: lines from 1, or numbers of rows from 0.
#[derive(Debug, Clone)]
pub(super) enum Numbers {
    From(u64),
    Listed(Vec<u64>),
}

/// The element of a list that became a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Element {
    /// The row with the list, within its piece.
    pub row: u32,
    /// The element's place in the list.
    pub at: i32,
}

impl Piece {
    /// Returns the number of a row in its file.
    pub fn number(&self, row: usize) -> u64 {
        match &self.numbers {
            Numbers::From(first) => first + row as u64,
            Numbers::Listed(numbers) => numbers[row],
        }
    }

    /// Keeps a range of the rows.
    pub fn slice(&self, start: usize, rows: usize) -> Piece {
        Piece {
            batch: self.batch.slice(start, rows),
            file: self.file,
            numbers: match &self.numbers {
                Numbers::From(first) => Numbers::From(first + start as u64),
                Numbers::Listed(numbers) => Numbers::Listed(numbers[start..start + rows].into()),
            },
            elements: self.elements.as_ref().map(|all| all[start..start + rows].into()),
        }
    }

    /// Keeps the rows at some places.
    pub fn take(&self, places: &UInt32Array) -> Result<Piece, ArrowError> {
        let rows = || places.values().iter().map(|row| *row as usize);
        Ok(Piece {
            batch: take_record_batch(&self.batch, places)?,
            file: self.file,
            numbers: Numbers::Listed(rows().map(|row| self.number(row)).collect()),
            elements: self.elements.as_ref().map(|all| rows().map(|row| all[row]).collect()),
        })
    }
}

/// The files of a source, to say where a row stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    pub files: &'a [PathBuf],
    pub has_lines: bool,
}

impl Places<'_> {
    /// The error of a row of a piece.
    pub fn at(self, piece: &Piece, row: usize, fault: Fault) -> SourceError {
        let (path, Fault { message, hint }) = (self.files[piece.file].clone(), fault);
        let number = piece.number(row);
        match self.has_lines {
            true => SourceError::Line { path, line: number as usize, column: 1, message, hint },
            false => SourceError::Row { path, row: number, message, hint },
        }
    }

    /// Names the place of a row, for an error of another one.
    pub fn name(self, piece: &Piece, row: usize) -> String {
        let number = piece.number(row);
        let place = if self.has_lines { format!("line {number}") } else { format!("row {number}") };
        match self.files.len() {
            1 => place,
            _ => format!("{place} of `{}`", self.files[piece.file].display()),
        }
    }
}
