//! Similarities of texts by the n-grams and words that they share.

use rayon::prelude::*;

use super::spectrum::Spectrum;
use super::words::{Counts, Grams, Texts};

/// The lengths of the count vectors of texts, and who has an n-gram.
struct Sparse {
    counts: Counts,
    /// For each text the length of its vector of counts.
    lengths: Vec<f64>,
}

impl Sparse {
    fn new(grams: &Grams, texts: usize) -> Sparse {
        let counts = grams.counts();
        let length = |text: usize| {
            let squares = counts.text(text).iter().map(|(_, count)| u64::from(*count).pow(2));
            (squares.sum::<u64>() as f64).sqrt()
        };
        Sparse { lengths: (0..texts).map(length).collect(), counts }
    }
}

/// The spectrum of the similarities of texts: the mean over the orders of the cosines of their
/// vectors of counts. A text without n-grams of an order is similar to nothing there.
pub(super) fn spectrum(orders: &[Grams], texts: usize) -> Spectrum {
    let mut matrix = vec![0.0; texts * texts];
    for grams in orders {
        let sparse = Sparse::new(grams, texts);
        let postings = postings(&sparse.counts, grams.different, texts);
        let share = 1.0 / orders.len() as f64;
        matrix.par_chunks_exact_mut(texts.max(1)).enumerate().for_each(|(text, row)| {
            let mut products = vec![0_u64; text + 1];
            for &(gram, count) in sparse.counts.text(text) {
                for &(other, of_other) in postings.of(gram) {
                    if other as usize > text {
                        break;
                    }
                    products[other as usize] += u64::from(count) * u64::from(of_other);
                }
            }
            let own = sparse.lengths[text];
            for (other, product) in products.into_iter().enumerate() {
                if product > 0 {
                    row[other] += share * (product as f64 / (own * sparse.lengths[other]));
                }
            }
        });
    }
    Spectrum::of(matrix, texts, texts)
}

/// 1 less the mean of those similarities over two different texts; NaN for fewer than two.
///
/// The sum over all pairs is the square of the sum of all vectors of length 1.
pub(super) fn ngram_distance(orders: &[Grams], texts: usize) -> f64 {
    if texts < 2 {
        return f64::NAN;
    }
    let pairs = texts as f64 * (texts - 1) as f64;
    let similarity = |grams: &Grams| {
        let sparse = Sparse::new(grams, texts);
        let (mut sums, mut own) = (vec![0.0; grams.different], 0.0);
        for (text, length) in sparse.lengths.iter().enumerate() {
            own += if *length > 0.0 { 1.0 } else { 0.0 };
            for &(gram, count) in sparse.counts.text(text) {
                sums[gram as usize] += f64::from(count) / length;
            }
        }
        (sums.iter().map(|sum| sum * sum).sum::<f64>() - own) / pairs
    };
    1.0 - orders.iter().map(similarity).sum::<f64>() / orders.len() as f64
}

/// The mean over two different texts of 1 less the share of their words that both have (Jaccard
/// 1912); NaN for fewer than two. Two texts without words are alike.
pub(super) fn jaccard_distance(texts: &Texts) -> f64 {
    let count = texts.count();
    if count < 2 {
        return f64::NAN;
    }
    let words = Grams::words(texts);
    let counts = words.counts();
    let postings = postings(&counts, words.different, count);
    let rows = (0..count).into_par_iter().map(|text| {
        let mut shared = vec![0_u32; text];
        let own = counts.text(text);
        for &(word, _) in own {
            let others = postings.of(word).iter().take_while(|(other, _)| (*other as usize) < text);
            others.for_each(|(other, _)| shared[*other as usize] += 1);
        }
        let distance = |(other, shared): (usize, u32)| {
            let all = own.len() + counts.text(other).len() - shared as usize;
            if all == 0 { 0.0 } else { 1.0 - f64::from(shared) / all as f64 }
        };
        shared.into_iter().enumerate().map(distance).sum::<f64>()
    });
    let rows: Vec<f64> = rows.collect();
    rows.iter().sum::<f64>() / (count as f64 * (count - 1) as f64 / 2.0)
}

/// For each n-gram the texts that have it, in their order, with its counts there.
struct Postings {
    texts: Vec<(u32, u32)>,
    starts: Vec<usize>,
}

impl Postings {
    fn of(&self, gram: u32) -> &[(u32, u32)] {
        &self.texts[self.starts[gram as usize]..self.starts[gram as usize + 1]]
    }
}

fn postings(counts: &Counts, different: usize, texts: usize) -> Postings {
    let mut starts = vec![0; different + 1];
    for text in 0..texts {
        counts.text(text).iter().for_each(|(gram, _)| starts[*gram as usize + 1] += 1);
    }
    for gram in 0..different {
        starts[gram + 1] += starts[gram];
    }
    let mut next = starts.clone();
    let mut all = vec![(0, 0); starts[different]];
    for text in 0..texts {
        for (gram, count) in counts.text(text) {
            all[next[*gram as usize]] = (text as u32, *count);
            next[*gram as usize] += 1;
        }
    }
    Postings { texts: all, starts }
}
