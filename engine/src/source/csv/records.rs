//! Cuts a text into rows of cells, as the crate `csv` does, but a run of bytes at a time.

use csv::ByteRecord;
use memchr::{memchr, memchr3};

/// The rows of a text. A quote counts at the start of a cell alone; empty lines are not rows.
pub(super) struct Records<'a> {
    bytes: &'a [u8],
    delimiter: u8,
    /// Bytes that are in earlier rows.
    at: usize,
    /// A quoted cell without its quotes.
    unquoted: Vec<u8>,
}

impl<'a> Records<'a> {
    pub fn new(bytes: &'a [u8], delimiter: u8) -> Records<'a> {
        Records { bytes, delimiter, at: 0, unquoted: Vec::new() }
    }

    /// Reads the next row into `record`; returns where it begins, `None` at the end of the text.
    pub fn read(&mut self, record: &mut ByteRecord) -> Option<usize> {
        let breaks = self.rest().iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
        self.at += breaks.count();
        if self.rest().is_empty() {
            return None;
        }
        let begin = self.at;
        record.clear();
        loop {
            self.read_cell(record);
            let end = self.rest().first().copied();
            self.at += usize::from(end.is_some());
            if end != Some(self.delimiter) {
                return Some(begin);
            }
        }
    }

    /// Reads a cell up to the delimiter or line break that ends it.
    fn read_cell(&mut self, record: &mut ByteRecord) {
        let rest = self.rest();
        if rest.first() != Some(&b'"') {
            let end = self.cell_end(rest);
            record.push_field(&rest[..end]);
            self.at += end;
            return;
        }

        let mut unquoted = std::mem::take(&mut self.unquoted);
        unquoted.clear();
        let mut at = 1;
        let end = loop {
            let Some(quote) = memchr(b'"', &rest[at..]) else { break rest.len() };
            unquoted.extend_from_slice(&rest[at..at + quote]);
            at += quote + 1;
            if rest.get(at) != Some(&b'"') {
                // Behind its closing quote a cell goes on as it is written.
                break at + self.cell_end(&rest[at..]);
            }
            // Two quotes stand for one.
            unquoted.push(b'"');
            at += 1;
        };
        unquoted.extend_from_slice(&rest[at..end]);
        record.push_field(&unquoted);
        self.at += end;
        self.unquoted = unquoted;
    }

    /// Returns the bytes before the next delimiter or line break.
    fn cell_end(&self, bytes: &[u8]) -> usize {
        memchr3(self.delimiter, b'\n', b'\r', bytes).unwrap_or(bytes.len())
    }

    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(text: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let (mut records, mut record) = (Records::new(text, b','), ByteRecord::new());
        let mut rows = Vec::new();
        while records.read(&mut record).is_some() {
            rows.push(record.iter().map(<[u8]>::to_vec).collect());
        }
        rows
    }

    fn theirs(text: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
        let cells = |row: ByteRecord| row.iter().map(<[u8]>::to_vec).collect();
        reader.into_byte_records().map(|row| cells(row.unwrap())).collect()
    }

    /// All texts of up to seven bytes of those that mean something.
    #[test]
    fn rows_are_those_of_the_crate_csv() {
        const BYTES: [u8; 5] = *b"a,\"\n\r";
        for length in 0..=7 {
            for number in 0..BYTES.len().pow(length) {
                let byte = |place| BYTES[number / BYTES.len().pow(place) % BYTES.len()];
                let text: Vec<u8> = (0..length).map(byte).collect();
                assert_eq!(ours(&text), theirs(&text), "{:?}", String::from_utf8_lossy(&text));
            }
        }
    }

    #[test]
    fn a_row_begins_behind_empty_lines() {
        let (mut records, mut record) =
            (Records::new(b"\r\n\na,b\r\n\"c\nd\"\n\n", b','), ByteRecord::new());
        let mut begins = Vec::new();
        while let Some(begin) = records.read(&mut record) {
            begins.push(begin);
        }
        assert_eq!(begins, [3, 8]);
    }
}
