//! Checks the ids of a source's rows, or makes them from the rows' content.
//!
//! Of each row 64 bits are kept. Where those of two rows' own ids agree, the rows are gone over once
//! more with both ids written out, so that an error is true and names both.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringArray};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use rayon::prelude::*;

use refrain_cache::Digest;

use super::error::Fault;

/// The remedy for ids that are missing or not unique.
const OWN_IDS: &str = "to have ids made, rename the column: `columns: { old_id: id }`";
/// Rows whose content one thread hashes in a row.
const ROWS: usize = 256;

/// The ids of the rows so far.
#[derive(Default)]
pub(super) struct Ids {
    seen: HashSet<u64>,
    /// The ids, with sample, of which there may be two, and the place of the first.
    watched: HashMap<u64, HashMap<String, String>>,
    /// The number of repeats of each content that came before.
    repeats: HashMap<u64, u32>,
}

/// Why the ids are not taken as they are.
pub(super) enum Stop {
    /// A row's id may have come before: go over the rows again and watch for it.
    Suspect(u64),
    /// The row of the piece, and its fault.
    Fault(usize, Fault),
}

impl Ids {
    /// Begins with ids of which there may be two.
    pub fn watching(suspects: &[u64]) -> Ids {
        let watched = suspects.iter().map(|suspect| (*suspect, HashMap::new())).collect();
        Ids { watched, ..Ids::default() }
    }

    /// Checks the source's own ids, which are never null; (id, sample) is unique. `place` says where
    /// a row of the piece stands.
    pub fn check(
        &mut self,
        ids: &StringArray,
        samples: Option<&Int32Array>,
        place: impl Fn(usize) -> String,
    ) -> Result<(), Stop> {
        let mut unique = String::new();
        for row in 0..ids.len() {
            let fault = |fault| Err(Stop::Fault(row, fault));
            if ids.is_null(row) {
                return fault(Fault::new("the row has no `id`").hint(OWN_IDS));
            }
            let id = ids.value(row);
            unique.clear();
            match samples {
                None => unique.push_str(id),
                Some(samples) if samples.is_null(row) => {
                    return fault(Fault::new(format!("the row with id `{id}` has no `sample`")));
                }
                Some(samples) => {
                    let _ = write!(unique, "{} {id}", samples.value(row));
                }
            }

            let short = short(&Digest::of_bytes(unique.as_bytes()));
            if let Some(known) = self.watched.get_mut(&short) {
                if let Some(first) = known.get(&unique) {
                    let named = match samples {
                        None => format!("`{id}`"),
                        Some(samples) => format!("`{id}` with sample {}", samples.value(row)),
                    };
                    let message = format!("duplicate id {named}, the first in {first}");
                    return fault(Fault::new(message).hint(OWN_IDS));
                }
                known.insert(unique.clone(), place(row));
            } else if !self.seen.insert(short) {
                return Err(Stop::Suspect(short));
            }
        }
        Ok(())
    }

    /// Makes ids: the hex digest of the row's content; repeats are numbered.
    pub fn make(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Vec<String>, ArrowError> {
        let parts = rows.div_ceil(ROWS);
        let digests: Result<Vec<Vec<Digest>>, ArrowError> = (0..parts)
            .into_par_iter()
            .map(|part| digests(columns, part * ROWS..rows.min((part + 1) * ROWS)))
            .collect();
        let ids = digests?.into_iter().flatten().map(|digest| {
            let short = short(&digest);
            if self.seen.insert(short) {
                return digest.to_string();
            }
            let repeat = self.repeats.entry(short).and_modify(|n| *n += 1).or_insert(1);
            format!("{digest}-{repeat}")
        });
        Ok(ids.collect())
    }
}

fn short(digest: &Digest) -> u64 {
    let (first, _) = digest.as_bytes().split_at(8);
    first.iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// The digests of the content of some rows: of each value its length and its text.
fn digests(columns: &[ArrayRef], rows: std::ops::Range<usize>) -> Result<Vec<Digest>, ArrowError> {
    const NULL: &str = "\u{0}";
    enum Text<'a> {
        Plain(&'a StringArray),
        Other(ArrayFormatter<'a>),
    }
    let options = FormatOptions::default().with_null(NULL);
    let mut texts = Vec::with_capacity(columns.len());
    for column in columns {
        texts.push(match column.data_type() {
            DataType::Utf8 => Text::Plain(column.as_string()),
            _ => Text::Other(ArrayFormatter::try_new(column, &options)?),
        });
    }

    let mut content = String::new();
    Ok(rows
        .map(|row| {
            content.clear();
            for text in &texts {
                let (value, made);
                let value = match text {
                    Text::Plain(texts) if texts.is_null(row) => NULL,
                    Text::Plain(texts) => {
                        value = texts.value(row);
                        value
                    }
                    Text::Other(formatter) => {
                        made = formatter.value(row).to_string();
                        made.as_str()
                    }
                };
                let _ = write!(content, "{}:", value.len());
                content.push_str(value);
            }
            Digest::of_bytes(content.as_bytes())
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// The texts that earlier versions made, one by one, of Arrow's own spelling.
    #[test]
    fn contents_are_hashed_as_they_always_were() {
        let texts: ArrayRef =
            Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("a")]));
        let numbers: ArrayRef =
            Arc::new(arrow::array::Int64Array::from(vec![Some(1), Some(2), None, Some(1)]));
        let ids = Ids::default().make(&[texts, numbers], 4).unwrap();
        let expected: Vec<String> = ["1:a1:1", "1:\u{0}1:2", "0:1:\u{0}"]
            .iter()
            .map(|text| Digest::of_bytes(text.as_bytes()).to_string())
            .collect();
        assert_eq!(ids[..3], expected[..]);
        assert_eq!(ids[3], format!("{}-1", expected[0]));
    }
}
