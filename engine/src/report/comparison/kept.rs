//! Keeps the results of comparisons in the cache, each under the digest of all that decides it.

use std::sync::Arc;

use refrain_cache::{Digest, Manifest, RowMemo};

use crate::ledger::lock::Compared;
use crate::store::Store;

use super::{Asked, Comparison, VERSION};

/// The results that earlier runs computed. What cannot be read or written is computed again.
pub(super) struct Kept {
    rows: Option<Arc<RowMemo>>,
}

impl Kept {
    /// Opens the results of the present version of the statistics.
    pub fn open(store: &Store) -> Kept {
        let function = Manifest::new("compare").section("version", VERSION.into());
        Kept { rows: store.cache().rows(&function.key()).ok() }
    }

    /// Returns a result.
    pub fn get(&self, place: &Digest) -> Option<Compared> {
        let bytes = self.rows.as_ref()?.get(place).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps results.
    pub fn put<'r>(&self, results: impl Iterator<Item = (Digest, &'r Compared)>) {
        let bytes = |(place, result)| Some((place, serde_json::to_vec(result).ok()?));
        let results: Vec<(Digest, Vec<u8>)> = results.filter_map(bytes).collect();
        if let Some(rows) = self.rows.as_ref().filter(|_| !results.is_empty()) {
            let _ = rows.put(&results);
        }
    }
}

/// Computes the place of a result: its inputs, and which intervals and tests it has. A result with
/// others is not in its place, so that a line of the lock does not depend on earlier runs.
pub(super) fn place(inputs: &Digest, comparison: &Comparison, asked: &Asked) -> Digest {
    let mut text = format!("{inputs}\n");
    let mut line = |name: &str, numbers: &[f64]| {
        let bits: Vec<String> =
            numbers.iter().map(|number| format!("{:016x}", number.to_bits())).collect();
        text.push_str(&format!("{name} {}\n", bits.join(" ")));
    };
    line("confidences", &asked.confidences());
    line("above", &asked.tests(comparison));
    Digest::of_bytes(text.as_bytes())
}
