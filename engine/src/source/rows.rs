//! Selects the rows of a source by their position.

use std::collections::BinaryHeap;

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

    /// Returns the number of rows that are asked for; `None` of all to the end.
    pub(super) fn wanted(&self) -> Option<u64> {
        match self {
            Rows::Range(_, u64::MAX) => None,
            Rows::Range(start, end) => Some(end - start),
            Rows::Sample { count, .. } => Some(*count),
        }
    }
}

/// The selected rows of a piece.
#[derive(Debug, PartialEq)]
pub(super) enum Pick {
    None,
    /// A first one and a number of rows.
    Range(usize, usize),
    Places(Vec<u32>),
}

/// Goes over the pieces of a source and picks the selected rows.
pub(super) struct RowCursor {
    selection: Selection,
    /// The number of the next piece's first row.
    at: u64,
}

enum Selection {
    Range { start: u64, end: u64 },
    Chosen { rows: Vec<u64>, next: usize },
}

impl RowCursor {
    /// Begins at the first of `total` rows; a range needs no total.
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

    /// Picks of the next rows those that are selected.
    pub fn pick(&mut self, rows: usize) -> Pick {
        let (at, after) = (self.at, self.at + rows as u64);
        self.at = after;
        match &mut self.selection {
            Selection::Range { start, end } => {
                let (first, last) = ((*start).clamp(at, after), (*end).clamp(at, after));
                match last > first {
                    true => Pick::Range((first - at) as usize, (last - first) as usize),
                    false => Pick::None,
                }
            }
            Selection::Chosen { rows, next } => {
                let begin = *next;
                *next += rows[begin..].partition_point(|row| *row < after);
                let places = rows[begin..*next].iter().map(|row| (row - at) as u32);
                if begin == *next { Pick::None } else { Pick::Places(places.collect()) }
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
    fn rows_are_picked_piece_by_piece() {
        let mut range = RowCursor::new(&Rows::Range(1, 4), 0);
        assert_eq!(range.pick(1), Pick::None);
        assert_eq!(range.pick(2), Pick::Range(0, 2));
        assert!(!range.finished());
        assert_eq!(range.pick(5), Pick::Range(0, 1));
        assert!(range.finished());

        let rows = sample(3, 7, 10);
        let mut drawn = RowCursor::new(&Rows::Sample { count: 3, seed: 7 }, 10);
        let mut picked = Vec::new();
        for start in [0, 4, 8] {
            if let Pick::Places(places) = drawn.pick(4) {
                picked.extend(places.iter().map(|place| u64::from(*place) + start));
            }
        }
        assert_eq!(picked, rows);
    }
}
