//! `dedupe: minhash`: keeps the first of rows whose responses share most of their shingles.
//!
//! MinHash (Broder 1997) with bands finds the pairs that may be alike; each is then compared
//! exactly.

use std::collections::{HashMap, HashSet};

use arrow::array::StringArray;
use rayon::prelude::*;

use refrain_cache::columns::column;
use refrain_engine::kind::{Context, StageError};

use crate::draw::Draws;
use crate::models;
use crate::tables;

use super::words::{Vocabulary, Words};

/// Hash functions.
const HASHES: usize = 128;
/// The chance with which a pair just alike enough is found.
const FOUND: f64 = 0.999;
/// The end of a list of rows.
const END: u32 = u32::MAX;

/// Keeps rows that are unlike all that were kept before.
struct Unlike {
    /// Share of shingles, of those that either has, from which on two rows are alike.
    threshold: f64,
    /// Words of a shingle.
    shingle: usize,
    factors: Vec<u64>,
    /// Hashes of a band.
    band: usize,
    /// For each band the last kept row with a value.
    last: Vec<HashMap<u64, u32>>,
    /// For each kept row and band the kept row before it with the same value.
    before: Vec<u32>,
    /// The words of the kept rows, one after another.
    words: Vec<u32>,
    starts: Vec<usize>,
}

/// The numbers of the rows to keep; those without a response are kept.
pub(super) fn unlike(
    ctx: &Context<'_>,
    threshold: f64,
    shingle: usize,
    words: Words,
) -> Result<Vec<u64>, StageError> {
    let mut unlike = Unlike::new(threshold, shingle);
    let (mut vocabulary, mut kept) = (Vocabulary::default(), Vec::new());
    models::on_threads(ctx.resources.threads, || {
        tables::scan(ctx, "data", Some(&["response"]), |batch, first_row| {
            let responses = column::<StringArray>(batch, "response")?;
            let mut texts: Vec<Option<Vec<u32>>> = Vec::with_capacity(batch.num_rows());
            for text in responses {
                texts.push(text.map(|text| {
                    let mut numbers = Vec::new();
                    words.split(text, |word| numbers.push(vocabulary.number(word)));
                    numbers
                }));
            }
            let sketches: Vec<Option<Vec<u64>>> = texts
                .par_iter()
                .map(|text| text.as_deref().map(|text| unlike.sketch(text)))
                .collect();
            for ((row, text), sketch) in (first_row..).zip(texts).zip(sketches) {
                if text.zip(sketch).is_none_or(|(text, sketch)| unlike.add(&text, &sketch)) {
                    kept.push(row);
                }
            }
            ctx.progress.set(first_row + batch.num_rows() as u64, None, "rows");
            Ok(())
        })
    })?;
    Ok(kept)
}

impl Unlike {
    fn new(threshold: f64, shingle: usize) -> Unlike {
        let band = band(threshold);
        let draws = Draws::new("minhash", 0, &[]);
        Unlike {
            threshold,
            shingle,
            factors: (0..HASHES as u64).map(|i| draws.at(i) | 1).collect(),
            band,
            last: vec![HashMap::new(); HASHES / band],
            before: Vec::new(),
            words: Vec::new(),
            starts: vec![0],
        }
    }

    /// The shingles of a text: its runs of some words, or all words of a shorter one.
    fn shingles<'t>(&self, text: &'t [u32]) -> Vec<&'t [u32]> {
        let mut shingles: Vec<&[u32]> = text.windows(self.shingle.min(text.len()).max(1)).collect();
        shingles.sort_unstable();
        shingles.dedup();
        shingles
    }

    /// The value of each band: rows that share most shingles agree in one of them.
    fn sketch(&self, text: &[u32]) -> Vec<u64> {
        let mut least = [u32::MAX; HASHES];
        for shingle in text.windows(self.shingle.min(text.len()).max(1)) {
            let hash = shingle.iter().fold(0, |hash, word| mixed(hash ^ u64::from(*word)));
            for (least, factor) in least.iter_mut().zip(&self.factors) {
                *least = (*least).min((factor.wrapping_mul(hash) >> 32) as u32);
            }
        }
        let bands = least.chunks_exact(self.band);
        bands.map(|band| band.iter().fold(0, |hash, v| mixed(hash ^ u64::from(*v)))).collect()
    }

    /// Keeps a row unless it is alike to one that was kept; says whether it was kept.
    fn add(&mut self, text: &[u32], sketch: &[u64]) -> bool {
        let bands = self.last.len();
        let shingles = self.shingles(text);
        let mut seen = HashSet::new();
        for (band, value) in sketch.iter().enumerate() {
            let mut row = self.last[band].get(value).copied().unwrap_or(END);
            while row != END {
                if seen.insert(row) && self.alike(&shingles, row as usize) {
                    return false;
                }
                row = self.before[row as usize * bands + band];
            }
        }
        let row = (self.starts.len() - 1) as u32;
        for (band, value) in sketch.iter().enumerate() {
            self.before.push(self.last[band].insert(*value, row).unwrap_or(END));
        }
        self.words.extend_from_slice(text);
        self.starts.push(self.words.len());
        true
    }

    /// Whether a kept row shares enough shingles with those of another text.
    fn alike(&self, shingles: &[&[u32]], row: usize) -> bool {
        let others = self.shingles(&self.words[self.starts[row]..self.starts[row + 1]]);
        let (mut shared, mut i, mut j) = (0, 0, 0);
        while i < shingles.len() && j < others.len() {
            let order = shingles[i].cmp(others[j]);
            shared += usize::from(order.is_eq());
            i += usize::from(order.is_le());
            j += usize::from(order.is_ge());
        }
        let all = shingles.len() + others.len() - shared;
        // Two texts without words are equal.
        all == 0 || shared as f64 / all as f64 >= self.threshold
    }
}

/// Hashes of a band: the most with which a pair at the threshold is found. Longer bands agree by
/// chance less often.
fn band(threshold: f64) -> usize {
    let found = |band: usize| {
        let missed = 1.0 - libm::pow(threshold, band as f64);
        1.0 - libm::pow(missed, (HASHES / band) as f64)
    };
    (1..=16).rev().find(|band| found(*band) >= FOUND).unwrap_or(1)
}

/// Mixes the bits of a number, as the output function of SplitMix64 does.
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_grow_with_the_threshold() {
        assert_eq!([0.3, 0.5, 0.8, 0.9, 1.0].map(band), [1, 2, 5, 8, 16]);
    }

    /// Pairs at a Jaccard similarity near 0.8: each second text has a few words replaced.
    #[test]
    fn near_duplicates_are_found_and_no_others() {
        let draws = Draws::new("test", 1, &[]);
        let (pairs, length) = (400, 100);
        let mut unlike = Unlike::new(0.8, 5);
        let (mut alike, mut missed, mut wrong) = (0, 0, 0);
        for pair in 0..pairs {
            let word = |i: usize| draws.below((pair * length + i) as u64, 20_000) as u32;
            let first: Vec<u32> = (0..length).map(word).collect();
            let mut second = first.clone();
            for change in 0..2 + pair % 2 {
                second[10 + change * 30] = 20_000 + change as u32;
            }
            let (a, b) = (unlike.shingles(&first), unlike.shingles(&second));
            let shared = a.iter().filter(|shingle| b.contains(shingle)).count();
            let similarity = shared as f64 / (a.len() + b.len() - shared) as f64;
            assert!(unlike.add(&first, &unlike.sketch(&first)));
            let kept = unlike.add(&second, &unlike.sketch(&second));
            alike += usize::from(similarity >= 0.8);
            missed += usize::from(similarity >= 0.8 && kept);
            wrong += usize::from(similarity < 0.8 && !kept);
        }
        assert!(alike > pairs / 3 && alike < pairs, "{alike}");
        assert!(missed * 100 <= alike && wrong == 0, "{missed} of {alike}, {wrong}");
    }

    #[test]
    fn short_texts_are_compared_whole() {
        let mut unlike = Unlike::new(1.0, 5);
        let mut add = |text: &[u32]| {
            let sketch = unlike.sketch(text);
            unlike.add(text, &sketch)
        };
        assert!(add(&[1, 2]) && !add(&[1, 2]) && add(&[2, 1]) && add(&[1, 2, 3]));
        assert!(add(&[]) && !add(&[]));
        assert!(add(&[1, 2, 3, 4, 5, 6]) && !add(&[1, 2, 3, 4, 5, 6]));
    }
}
