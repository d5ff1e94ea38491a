//! Draws rows by the seed where a set is too large for a measure that compares all pairs.

use std::cell::RefCell;
use std::path::Path;

use refrain_cache::TableReader;
use refrain_engine::kind::{Context, StageError};

use crate::draw::RowDraws;
use crate::tables;

/// Returns a random number of each row of a table.
pub(super) fn draws(
    ctx: &Context<'_>,
    table: &Path,
    purpose: &'static str,
    seed: u64,
) -> Result<Vec<u64>, StageError> {
    let reader = TableReader::open(table)?;
    let known = |name: &&str| reader.schema().field_with_name(name).is_ok();
    let mut wanted: Vec<&str> = ["id", "sample"].into_iter().filter(known).collect();
    let first = reader.schema().fields().first().map(|field| field.name().clone());
    if wanted.is_empty() {
        // Rows are counted by any column.
        wanted.extend(first.as_deref());
    }
    let mut draws = Vec::new();
    for batch in reader.batches(Some(&wanted), tables::BATCH_ROWS)? {
        ctx.cancel.check()?;
        let batch = batch?;
        let rows = RowDraws::new(purpose, seed, &batch, draws.len() as u64)?;
        draws.extend((0..batch.num_rows()).map(|row| rows.of(row).at(0)));
    }
    Ok(draws)
}

/// The places of the lowest draws, in ascending order; ties go to the first.
pub(super) fn lowest(draws: &[u64], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..draws.len()).collect();
    if count < places.len() {
        places.select_nth_unstable_by_key(count, |place| (draws[*place], *place));
        places.truncate(count);
        places.sort_unstable();
    }
    places
}

/// Draws from a set of rows.
pub(super) struct Sampler<'a> {
    /// A random number of each member of the set.
    draws: Vec<u64>,
    /// The number of rows to draw, in place of a measure's own limit.
    size: Option<usize>,
    /// Remarks on what was drawn, for people.
    notes: &'a RefCell<Vec<String>>,
}

impl<'a> Sampler<'a> {
    /// Draws from members with these random numbers.
    pub(super) fn new(
        draws: Vec<u64>,
        size: Option<usize>,
        notes: &'a RefCell<Vec<String>>,
    ) -> Sampler<'a> {
        Sampler { draws, size, notes }
    }

    /// Returns places in the set: all where there are no more than `limit`.
    pub(super) fn places(&self, limit: usize, measure: &str) -> Vec<usize> {
        let (count, all) = (self.size.unwrap_or(limit), self.draws.len());
        if count < all {
            self.note(format!("`{measure}` is of {count} rows, drawn by `seed` from {all}"));
        }
        lowest(&self.draws, count)
    }

    /// Adds a remark, once.
    pub(super) fn note(&self, note: String) {
        let mut notes = self.notes.borrow_mut();
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// Returns texts of the set.
    pub(super) fn texts<'t>(&self, texts: &[&'t str], limit: usize, measure: &str) -> Vec<&'t str> {
        self.places(limit, measure).into_iter().map(|place| texts[place]).collect()
    }
}
