//! Checks the ids of a source's rows, or makes them from the rows' content.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::{Array, ArrayRef, Int32Array, StringArray};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use refrain_cache::Digest;

use super::error::Fault;

/// The remedy for ids that are missing or not unique.
const OWN_IDS: &str = "to have ids made, rename the column: `columns: { old_id: id }`";

/// The ids of the rows so far.
#[derive(Default)]
pub(super) struct Ids {
    /// The number in the file of the row with each id, or id and sample.
    given: HashMap<String, u64>,
    repeats: HashMap<Digest, u32>,
}

impl Ids {
    /// Checks the source's own ids, which are never null; (id, sample) is unique. `number` gives
    /// the number of a row in the file, `place` where such a number stands. The fault comes with
    /// its row in the batch.
    pub fn check(
        &mut self,
        ids: &StringArray,
        samples: Option<&Int32Array>,
        number: impl Fn(usize) -> u64,
        place: impl Fn(u64) -> String,
    ) -> Result<(), (usize, Fault)> {
        for row in 0..ids.len() {
            if ids.is_null(row) {
                return Err((row, Fault::new("the row has no `id`").hint(OWN_IDS)));
            }
            let id = ids.value(row);
            let (unique, named) = match samples {
                None => (id.to_string(), format!("`{id}`")),
                Some(samples) if samples.is_null(row) => {
                    return Err((
                        row,
                        Fault::new(format!("the row with id `{id}` has no `sample`")),
                    ));
                }
                Some(samples) => {
                    let sample = samples.value(row);
                    (format!("{sample} {id}"), format!("`{id}` with sample {sample}"))
                }
            };
            match self.given.entry(unique) {
                Entry::Vacant(entry) => {
                    entry.insert(number(row));
                }
                Entry::Occupied(first) => {
                    let first = place(*first.get());
                    let message = format!("duplicate id {named}, the first in {first}");
                    return Err((row, Fault::new(message).hint(OWN_IDS)));
                }
            }
        }
        Ok(())
    }

    /// Makes ids: the hex digest of the row's content; repeats are numbered.
    pub fn make(&mut self, columns: &[ArrayRef], rows: usize) -> Result<StringArray, ArrowError> {
        let options = FormatOptions::default().with_null("\u{0}");
        let formatters: Vec<ArrayFormatter> = columns
            .iter()
            .map(|c| ArrayFormatter::try_new(c, &options))
            .collect::<Result<_, _>>()?;
        let mut content = String::new();
        let ids = (0..rows).map(|row| {
            content.clear();
            for formatter in &formatters {
                let text = formatter.value(row).to_string();
                content.push_str(&format!("{}:{text}", text.len()));
            }
            let digest = Digest::of_bytes(content.as_bytes());
            let repeat = self.repeats.entry(digest).and_modify(|n| *n += 1).or_insert(0);
            if *repeat == 0 { digest.to_string() } else { format!("{digest}-{repeat}") }
        });
        Ok(StringArray::from_iter_values(ids))
    }
}
