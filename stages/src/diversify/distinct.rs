//! Distinct-n: different n-grams by all n-grams of a set of texts (Li and others 2016), n from 1 to
//! 4.
//!
//! N-grams stay inside one text.

use std::collections::HashSet;

use super::words::{LONGEST, Vocabulary, Words};

/// Counts n-grams text by text. Memory grows with the different n-grams only.
#[derive(Debug)]
pub(super) struct Distinct {
    words: Words,
    vocabulary: Vocabulary,
    orders: Vec<Order>,
    /// The words of the text at hand.
    text: Vec<u32>,
}

/// The n-grams of one length.
#[derive(Debug)]
struct Order {
    n: usize,
    /// N-grams as numbers of words, zeros behind the last.
    different: HashSet<[u32; LONGEST]>,
    all: u64,
}

impl Distinct {
    /// Counts n-grams of these lengths, each from 1 to 4; others are left out.
    pub(super) fn new(words: Words, lengths: impl IntoIterator<Item = usize>) -> Distinct {
        let lengths = lengths.into_iter().filter(|n| (1..=LONGEST).contains(n));
        let orders = lengths.map(|n| Order { n, different: HashSet::new(), all: 0 }).collect();
        Distinct { words, vocabulary: Vocabulary::default(), orders, text: Vec::new() }
    }

    /// Counts the n-grams of one more text.
    pub(super) fn add(&mut self, text: &str) {
        self.text.clear();
        let (numbers, vocabulary) = (&mut self.text, &mut self.vocabulary);
        self.words.split(text, |word| numbers.push(vocabulary.number(word)));
        for order in &mut self.orders {
            for words in self.text.windows(order.n) {
                let mut gram = [0; LONGEST];
                gram[..order.n].copy_from_slice(words);
                order.different.insert(gram);
                order.all += 1;
            }
        }
    }

    /// For each length, in the order given: the length, different and all n-grams so far.
    pub(super) fn counts(&self) -> impl Iterator<Item = (usize, u64, u64)> {
        self.orders.iter().map(|order| (order.n, order.different.len() as u64, order.all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_grams_stay_inside_one_text() {
        let mut distinct = Distinct::new(Words::Whitespace, [2, 1, 4]);
        ["a b\na  b", "b a", ""].iter().for_each(|text| distinct.add(text));
        assert_eq!(distinct.counts().collect::<Vec<_>>(), [(2, 2, 4), (1, 2, 6), (4, 1, 1)]);
    }
}
