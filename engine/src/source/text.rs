//! Cuts text files into chunks of whole rows, which are parsed on all cores.

use std::io::Read;
use std::path::{Path, PathBuf};

use memchr::{memchr, memchr_iter, memchr3};
use rayon::prelude::*;

use super::SourceError;
use super::format::{MARK, text_reader};
use super::piece::Piece;

/// Limit on the length of a row in bytes.
const MAX_ROW: usize = 64 << 20;
/// Bytes at which a chunk ends.
const CHUNK: usize = 2 << 20;
const READ: usize = 1 << 20;
/// Chunks that are held at once.
const WAVE: usize = 4;

/// A place in a text: the number of its file, and the line there, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub file: usize,
    pub line: u64,
}

/// Whole rows of a file.
pub(super) struct Chunk {
    pub bytes: Vec<u8>,
    /// The place of its first byte.
    pub place: Place,
    /// Bytes before it in its line.
    pub column: usize,
    /// Whether it is the start of the file, behind a byte-order mark.
    pub is_first: bool,
}

/// The way that rows are separated, and where in it the last byte was.
#[derive(Debug, Clone, Copy)]
pub(super) enum Boundary {
    /// A row per line.
    Lines,
    /// Cells between delimiters; a quoted one may hold line breaks.
    Cells { delimiter: u8, within: Cell },
    /// The items of one JSON list.
    Items { depth: usize, within: Item },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell {
    Start,
    Plain,
    Quoted,
    /// Behind a quote within a quoted cell: its end, or the first of two that stand for one.
    Quote,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Item {
    Value,
    Text,
    Escape,
}

impl Boundary {
    pub fn items() -> Boundary {
        Boundary::Items { depth: 0, within: Item::Value }
    }

    pub fn cells(delimiter: u8) -> Boundary {
        Boundary::Cells { delimiter, within: Cell::Start }
    }

    /// Returns the fault of a file that ends here, and begins anew; nothing is in a file that
    /// `is_empty`.
    fn check_end(&mut self, is_empty: bool) -> Option<&'static str> {
        let Boundary::Items { depth, .. } = self else { return None };
        match (is_empty, std::mem::take(depth)) {
            (true, _) => Some("the file is empty; an empty list is `[]`"),
            (false, 0) => None,
            (false, _) => Some("the file ends in the middle of the list"),
        }
    }

    /// Goes on to the end of the row; returns the number of bytes up to it, `None` where it is not
    /// among them.
    fn advance(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Boundary::Lines => memchr(b'\n', bytes).map(|at| at + 1),
            Boundary::Cells { delimiter, within } => cells(*delimiter, within, bytes),
            Boundary::Items { depth, within } => items(depth, within, bytes),
        }
    }
}

/// As the crate `csv` reads cells: a quote counts at the start of a cell alone.
fn cells(delimiter: u8, within: &mut Cell, bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        *within = match (*within, byte) {
            (Cell::Start, b'"') | (Cell::Quote, b'"') => Cell::Quoted,
            (Cell::Quoted, _) => match memchr(b'"', &bytes[at..]) {
                Some(quote) => {
                    at += quote;
                    Cell::Quote
                }
                None => return None,
            },
            (_, b'\n') => {
                *within = Cell::Start;
                return Some(at + 1);
            }
            (_, b'\r') => Cell::Start,
            (_, byte) if byte == delimiter => Cell::Start,
            _ => {
                *within = Cell::Plain;
                match memchr3(b'\n', b'\r', delimiter, &bytes[at..]) {
                    Some(end) => at += end,
                    None => return None,
                }
                continue;
            }
        };
        at += 1;
    }
    None
}

fn items(depth: &mut usize, within: &mut Item, bytes: &[u8]) -> Option<usize> {
    for (at, byte) in bytes.iter().enumerate() {
        match (*within, byte) {
            (Item::Value, b'"') => *within = Item::Text,
            (Item::Value, b'[' | b'{') => *depth += 1,
            (Item::Value, b']' | b'}') => *depth = depth.saturating_sub(1),
            (Item::Value, b',') if *depth == 1 => return Some(at + 1),
            (Item::Text, b'"') | (Item::Escape, _) => {
                *within = if *within == Item::Escape { Item::Text } else { Item::Value };
            }
            (Item::Text, b'\\') => *within = Item::Escape,
            _ => {}
        }
    }
    None
}

/// The chunks of a file.
pub(super) struct Chunks<'a> {
    path: &'a Path,
    reader: Box<dyn Read + Send>,
    boundary: Boundary,
    max_rows: usize,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are in earlier chunks.
    taken: usize,
    /// Bytes behind those that the boundary has seen.
    seen: usize,
    place: Place,
    column: usize,
    is_first: bool,
    ended: bool,
}

impl<'a> Chunks<'a> {
    pub fn open(
        path: &'a Path,
        file: usize,
        boundary: Boundary,
        max_rows: usize,
    ) -> Result<Chunks<'a>, SourceError> {
        let failed = |error| SourceError::Io { path: path.into(), error };
        let mut reader = text_reader(path).map_err(failed)?;
        let mut buffer = Vec::new();
        Read::by_ref(&mut reader)
            .take(MARK.len() as u64)
            .read_to_end(&mut buffer)
            .map_err(failed)?;
        if buffer == MARK {
            buffer.clear();
        }
        let place = Place { file, line: 1 };
        Ok(Chunks {
            path,
            reader,
            boundary,
            max_rows,
            buffer,
            taken: 0,
            seen: 0,
            place,
            column: 0,
            is_first: true,
            ended: false,
        })
    }

    fn read(&mut self) -> Result<(), SourceError> {
        // Only the start of a row is moved: all whole rows are taken before more is read.
        self.buffer.drain(..std::mem::take(&mut self.taken));
        self.buffer.reserve(READ);
        let before = self.buffer.len();
        let mut more = Read::by_ref(&mut self.reader).take(READ as u64);
        more.read_to_end(&mut self.buffer)
            .map_err(|error| SourceError::Io { path: self.path.into(), error })?;
        self.ended = self.buffer.len() == before;
        Ok(())
    }

    fn next_chunk(&mut self) -> Result<Option<Chunk>, SourceError> {
        let (mut rows, mut cut) = (0, 0);
        while rows < self.max_rows && cut < CHUNK {
            match self.boundary.advance(&self.buffer[self.taken + self.seen..]) {
                Some(bytes) => {
                    self.seen += bytes;
                    cut = self.seen;
                    rows += 1;
                }
                None => {
                    self.seen = self.rest().len();
                    if self.ended {
                        cut = self.seen;
                        break;
                    }
                    if self.seen - cut > MAX_ROW {
                        self.place.line += newlines(&self.rest()[..cut]);
                        let message = format!("the row is longer than {} MB", MAX_ROW >> 20);
                        return Err(self.wrong(message));
                    }
                    self.read()?;
                }
            }
        }
        if cut == 0 {
            let is_empty = std::mem::take(&mut self.is_first);
            let fault = self.boundary.check_end(is_empty);
            return fault.map_or(Ok(None), |message| Err(self.wrong(message)));
        }
        let bytes = self.rest()[..cut].to_vec();
        self.taken += cut;
        self.seen -= cut;

        let chunk =
            Chunk { place: self.place, column: self.column, is_first: self.is_first, bytes };
        self.is_first &= chunk.bytes.trim_ascii().is_empty();
        self.place.line += newlines(&chunk.bytes);
        self.column = match memchr::memrchr(b'\n', &chunk.bytes) {
            Some(last) => chunk.bytes.len() - last - 1,
            None => self.column + chunk.bytes.len(),
        };
        Ok(Some(chunk))
    }

    /// Returns the bytes that are in no chunk yet.
    fn rest(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    fn wrong(&self, message: impl Into<String>) -> SourceError {
        SourceError::Line {
            path: self.path.into(),
            line: self.place.line as usize,
            column: 1,
            message: message.into(),
            hint: None,
        }
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Chunk, SourceError>;

    fn next(&mut self) -> Option<Result<Chunk, SourceError>> {
        let chunk = self.next_chunk().transpose();
        if matches!(chunk, Some(Err(_))) {
            (self.ended, self.taken, self.seen) = (true, 0, 0);
            self.buffer.clear();
        }
        chunk
    }
}

pub(super) fn newlines(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64
}

/// The chunks of several files, one after the other.
pub(super) fn chunks(
    files: &[PathBuf],
    boundary: Boundary,
    max_rows: usize,
) -> impl Iterator<Item = Result<Chunk, SourceError>> + Send + '_ {
    files.iter().enumerate().flat_map(move |(file, path)| {
        let (chunks, error) = match Chunks::open(path, file, boundary, max_rows) {
            Ok(chunks) => (Some(chunks), None),
            Err(error) => (None, Some(Err(error))),
        };
        error.into_iter().chain(chunks.into_iter().flatten())
    })
}

/// Parses chunks on all cores and hands the results on in their order; ends with the first error of
/// either.
pub(super) fn in_order<T: Send, E: From<SourceError> + Send>(
    chunks: &mut (dyn Iterator<Item = Result<Chunk, SourceError>> + Send),
    parse: impl Fn(Chunk) -> Result<T, E> + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    loop {
        let wave: Vec<_> = chunks.take(WAVE).collect();
        if wave.is_empty() {
            return Ok(());
        }
        let parsed: Vec<Result<T, E>> = wave.into_par_iter().map(|chunk| parse(chunk?)).collect();
        parsed.into_iter().try_for_each(|result| take(result?))?;
    }
}

/// The pieces of chunks, parsed some at a time on all cores.
pub(super) struct Parsed<C, P> {
    chunks: C,
    parse: P,
    ready: std::vec::IntoIter<Result<Piece, SourceError>>,
}

impl<C, P> Parsed<C, P> {
    pub fn new(chunks: C, parse: P) -> Parsed<C, P> {
        Parsed { chunks, parse, ready: Vec::new().into_iter() }
    }
}

impl<C, P> Iterator for Parsed<C, P>
where
    C: Iterator<Item = Result<Chunk, SourceError>> + Send,
    P: Fn(Chunk) -> Result<Piece, SourceError> + Sync + Send,
{
    type Item = Result<Piece, SourceError>;

    fn next(&mut self) -> Option<Result<Piece, SourceError>> {
        if self.ready.len() == 0 {
            let wave: Vec<_> = Iterator::take(&mut self.chunks, WAVE).collect();
            let parse = &self.parse;
            let pieces: Vec<_> = wave.into_par_iter().map(|chunk| parse(chunk?)).collect();
            self.ready = pieces.into_iter();
        }
        self.ready.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chunks of a text, one row each.
    fn cut(text: &str, boundary: Boundary) -> Vec<(String, u64, usize)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, text).unwrap();
        let chunks = Chunks::open(&path, 0, boundary, 1).unwrap().map(|chunk| {
            let chunk = chunk.unwrap();
            (String::from_utf8(chunk.bytes).unwrap(), chunk.place.line, chunk.column)
        });
        chunks.collect()
    }

    #[test]
    fn rows_end_where_their_format_says() {
        let owned = |rows: &[(&str, u64, usize)]| {
            rows.iter().map(|(text, line, at)| (text.to_string(), *line, *at)).collect::<Vec<_>>()
        };
        assert_eq!(
            cut("\u{feff}a\n\nb", Boundary::Lines),
            owned(&[("a\n", 1, 0), ("\n", 2, 0), ("b", 3, 0)])
        );
        assert_eq!(
            cut("a,\"b\n\"\"\n\",c\nx\"y,z\n\"\"\n", Boundary::cells(b',')),
            owned(&[("a,\"b\n\"\"\n\",c\n", 1, 0), ("x\"y,z\n", 4, 0), ("\"\"\n", 5, 0)])
        );
        assert_eq!(
            cut("[{\"a\": [1, 2], \"b\": \"],\\\"\"},\n {}, {}\n]", Boundary::items()),
            owned(&[
                ("[{\"a\": [1, 2], \"b\": \"],\\\"\"},", 1, 0),
                ("\n {},", 1, 28),
                (" {}\n]", 2, 4),
            ])
        );
    }
}
