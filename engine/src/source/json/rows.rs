//! The rows of a chunk of JSON: its lines, or the items of a list, each an object.

use serde_json::value::RawValue;

use super::Layout;
use crate::source::error::Fault;
use crate::source::text::{Chunk, Place, newlines};

/// An object in its chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub json: &'a str,
    /// The place of its first byte.
    pub place: Place,
    /// Bytes before it in its line.
    pub column: usize,
}

/// A fault at a place of a chunk, with the number of bytes before it in its line.
#[derive(Debug)]
pub(super) struct TextFault {
    pub place: Place,
    pub column: usize,
    pub fault: Fault,
}

impl Row<'_> {
    /// The fault of the row at an address within its text.
    pub fn fault_at(&self, address: usize, fault: Fault) -> TextFault {
        let at = address.saturating_sub(self.json.as_ptr() as usize).min(self.json.len());
        self.fault(at, fault)
    }

    fn fault(&self, at: usize, fault: Fault) -> TextFault {
        let (place, column) = self.place_at(at);
        TextFault { place, column, fault }
    }

    /// Returns the place of a byte of the text, and the number of bytes before it in its line.
    fn place_at(&self, at: usize) -> (Place, usize) {
        let before = &self.json.as_bytes()[..at];
        let column = match memchr::memrchr(b'\n', before) {
            Some(last) => at - last - 1,
            None => self.column + at,
        };
        (Place { line: self.place.line + newlines(before), ..self.place }, column)
    }

    /// Checks that the row is JSON, and an object.
    pub fn check(&self, layout: Layout) -> Result<(), TextFault> {
        let text = self.json;
        serde_json::from_str::<&RawValue>(text).map_err(|error| {
            if error.is_eof() {
                let message = match layout {
                    Layout::Lines => "the line ends in the middle of its JSON object",
                    Layout::List => "the list ends in the middle of an object",
                };
                return self.fault(text.len(), Fault::new(message));
            }
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or(&reason).to_owned();
            self.fault(offset(text, &error), Fault::new(format!("this is not JSON: {reason}")))
        })?;
        if text.trim_ascii_start().starts_with('{') {
            return Ok(());
        }
        let message = match layout {
            Layout::Lines => "every line must be a JSON object, `{\"prompt\": …}`",
            Layout::List => "every item of the list must be an object, `{\"prompt\": …}`",
        };
        Err(self.fault(0, Fault::new(message)))
    }
}

/// The bytes before the place of an error.
fn offset(text: &str, error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let before: usize = lines.map(str::len).sum();
    (before + error.column().saturating_sub(1)).min(text.len())
}

/// Returns the rows of a chunk; they are not parsed yet.
pub(super) fn rows(chunk: &Chunk, layout: Layout) -> Result<Vec<Row<'_>>, TextFault> {
    let text = std::str::from_utf8(&chunk.bytes).map_err(|error| {
        let valid = std::str::from_utf8(&chunk.bytes[..error.valid_up_to()]).unwrap_or_default();
        let whole = Row { json: valid, place: chunk.place, column: chunk.column };
        whole.fault(valid.len(), Fault::new("this is not UTF-8"))
    })?;
    match layout {
        Layout::Lines => Ok(lines(chunk, text)),
        Layout::List => items(chunk, text),
    }
}

fn lines<'a>(chunk: &Chunk, text: &'a str) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    let mut begin = 0;
    let mut place = chunk.place;
    while begin < text.len() {
        let end = memchr::memchr(b'\n', &text.as_bytes()[begin..]).map(|at| begin + at);
        let line = text[begin..end.unwrap_or(text.len())].trim_ascii_end();
        if !line.is_empty() {
            rows.push(Row { json: line, place, column: 0 });
        }
        place.line += 1;
        begin = end.map_or(text.len(), |end| end + 1);
    }
    rows
}

/// The items of a part of a list. It ends behind a comma, or at the end of the file.
fn items<'a>(chunk: &Chunk, text: &'a str) -> Result<Vec<Row<'a>>, TextFault> {
    let whole = Row { json: text, place: chunk.place, column: chunk.column };
    let wrong = |at: usize, message: &str| whole.fault(at, Fault::new(message));
    let mut rows = Vec::new();
    // The row before, from which the place of the next one is counted.
    let (mut before, mut seen) = (whole, 0);
    let blank = |from: usize| from + (text.len() - from - text[from..].trim_ascii_start().len());

    let mut at = blank(0);
    // Whether an item may come, and whether the list may end.
    let (mut item, mut end) = (true, false);
    if chunk.is_first {
        if !text[at..].starts_with('[') {
            return Err(wrong(at, "expected a list of objects, `[{\"prompt\": …}]`"));
        }
        at = blank(at + 1);
        end = true;
    }
    while at < text.len() {
        match text.as_bytes()[at] {
            b']' if end => {
                at = blank(at + 1);
                if at < text.len() {
                    return Err(wrong(at, "there is something behind the list"));
                }
                return Ok(rows);
            }
            b',' if !item => {
                (item, end) = (true, false);
                at = blank(at + 1);
            }
            _ if item => {
                let mut values =
                    serde_json::Deserializer::from_str(&text[at..]).into_iter::<&RawValue>();
                let parsed = matches!(values.next(), Some(Ok(_)));
                let length = if parsed { values.byte_offset() } else { text.len() - at };
                let (place, column) = Row { json: &text[seen..], ..before }.place_at(at - seen);
                (before, seen) = (Row { json: text, place, column }, at);
                rows.push(Row { json: text[at..at + length].trim_ascii_end(), place, column });
                if !parsed {
                    // Its fault is found when it is checked.
                    return Ok(rows);
                }
                (item, end) = (false, true);
                at = blank(at + length);
            }
            _ => return Err(wrong(at, "expected a comma or the end of the list")),
        }
    }
    // A part that is not the last one ends behind a comma.
    if item && !rows.is_empty() {
        return Ok(rows);
    }
    Err(wrong(text.len(), "the file ends in the middle of the list"))
}
