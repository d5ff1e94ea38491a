//! Selects the rows of a source, and tells where in its file each of them stands.

use std::collections::BinaryHeap;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;

use refrain_cache::Digest;

/// The selected rows of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// A half-open range.
    Range(u64, u64),
    /// A seeded sample without replacement, in the order of the file.
    Sample {
        /// The number of rows.
        count: u64,
        /// Seed of the draw.
        seed: u64,
    },
}

impl Rows {
    /// Parses `START..END`, half open; either may be absent.
    pub(super) fn parse(text: &str) -> Option<Rows> {
        let (start, end) = text.split_once("..")?;
        let number = |text: &str, absent: u64| match text.trim() {
            "" => Some(absent),
            text => text.parse().ok(),
        };
        let (start, end) = (number(start, 0)?, number(end, u64::MAX)?);
        (start <= end).then_some(Rows::Range(start, end))
    }
}

/// The lines of the rows of a text file: a row stands in its own number's line, further down by the
/// blank lines before it.
#[derive(Debug, Default, Clone)]
pub(super) struct LineNumbers {
    /// The first row after each run of blank lines, and the blank lines before it in all.
    blank: Vec<(u64, u64)>,
}

impl LineNumbers {
    /// Notes a blank line after `rows` rows.
    pub fn skip(&mut self, rows: u64) {
        let before = self.blank.last().map_or(0, |(_, lines)| *lines);
        match self.blank.last_mut().filter(|(row, _)| *row == rows) {
            Some((_, lines)) => *lines += 1,
            None => self.blank.push((rows, before + 1)),
        }
    }

    /// Returns the line of a row, from 1.
    pub fn of(&self, row: u64) -> u64 {
        let runs = self.blank.partition_point(|(first, _)| *first <= row);
        row + 1 + runs.checked_sub(1).map_or(0, |last| self.blank[last].1)
    }
}

/// The rows of a batch that were selected, and their numbers in the file.
pub(super) struct Selected {
    pub batch: RecordBatch,
    numbers: Numbers,
}

enum Numbers {
    From(u64),
    Listed(Vec<u64>),
}

impl Selected {
    /// Returns the number in the file of a row of the batch.
    pub fn number(&self, row: usize) -> u64 {
        match &self.numbers {
            Numbers::From(first) => first + row as u64,
            Numbers::Listed(numbers) => numbers[row],
        }
    }
}

/// Goes over the batches of a file and picks the selected rows.
pub(super) struct RowCursor {
    selection: Selection,
    /// The number of the next batch's first row.
    at: u64,
}

enum Selection {
    Range { start: u64, end: u64 },
    Chosen { rows: Vec<u64>, next: usize },
}

impl RowCursor {
    pub fn new(rows: &Rows, total: u64) -> RowCursor {
        let selection = match rows {
            Rows::Range(start, end) => Selection::Range { start: *start, end: *end },
            Rows::Sample { count, .. } if *count >= total => {
                Selection::Range { start: 0, end: total }
            }
            Rows::Sample { count, seed } => {
                Selection::Chosen { rows: sample(*count, *seed, total), next: 0 }
            }
        };
        RowCursor { selection, at: 0 }
    }

    pub fn finished(&self) -> bool {
        match &self.selection {
            Selection::Range { end, .. } => self.at >= *end,
            Selection::Chosen { rows, next } => *next >= rows.len(),
        }
    }

    /// Returns the selected rows of the next batch, if there are any.
    pub fn take(&mut self, batch: RecordBatch) -> Option<Selected> {
        let (at, after) = (self.at, self.at + batch.num_rows() as u64);
        self.at = after;
        match &mut self.selection {
            Selection::Range { start, end } => {
                let (first, last) = ((*start).clamp(at, after), (*end).clamp(at, after));
                let picked = || batch.slice((first - at) as usize, (last - first) as usize);
                (last > first).then(|| Selected { batch: picked(), numbers: Numbers::From(first) })
            }
            Selection::Chosen { rows, next } => {
                let begin = *next;
                *next += rows[begin..].partition_point(|row| *row < after);
                let chosen = rows[begin..*next].to_vec();
                if chosen.is_empty() {
                    return None;
                }
                let places: UInt32Array = chosen.iter().map(|r| Some((r - at) as u32)).collect();
                let batch =
                    take_record_batch(&batch, &places).expect("the places are rows of the batch");
                Some(Selected { batch, numbers: Numbers::Listed(chosen) })
            }
        }
    }
}

/// Draws rows without replacement, ascending: those with the smallest digests of (seed, row).
fn sample(count: u64, seed: u64, total: u64) -> Vec<u64> {
    let mut drawn: BinaryHeap<(Digest, u64)> = BinaryHeap::new();
    for row in 0..total {
        drawn.push((Digest::of_bytes(format!("refrain sample 1 {seed} {row}").as_bytes()), row));
        if drawn.len() as u64 > count {
            drawn.pop();
        }
    }
    let mut rows: Vec<u64> = drawn.into_iter().map(|(_, row)| row).collect();
    rows.sort_unstable();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_move_the_rows_down() {
        let mut lines = LineNumbers::default();
        assert_eq!([lines.of(0), lines.of(7)], [1, 8]);
        // Line 1 is blank, rows 0 and 1, two blank lines, row 2.
        for rows in [0, 2, 2] {
            lines.skip(rows);
        }
        assert_eq!([lines.of(0), lines.of(1), lines.of(2), lines.of(3)], [2, 3, 6, 7]);
    }
}
