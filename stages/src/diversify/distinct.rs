//! Distinct-n: different n-grams by all n-grams of a set of texts (Li and others 2016), n from 1 to
//! 4.
//!
//! Texts are split at Unicode white space, case kept. N-grams stay inside one text.

use std::collections::{HashMap, HashSet};

/// The longest n-gram.
const LONGEST: usize = 4;

/// Counts n-grams text by text. Memory grows with the different n-grams only.
#[derive(Debug)]
pub struct Distinct {
    words: HashMap<Box<str>, u32>,
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
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Distinct {
        let lengths = lengths.into_iter().filter(|n| (1..=LONGEST).contains(n));
        let orders = lengths.map(|n| Order { n, different: HashSet::new(), all: 0 }).collect();
        Distinct { words: HashMap::new(), orders, text: Vec::new() }
    }

    /// Counts the n-grams of one more text.
    pub fn add(&mut self, text: &str) {
        self.text.clear();
        for word in text.split_whitespace() {
            let next = self.words.len() as u32;
            let number = match self.words.get(word) {
                Some(number) => *number,
                None => *self.words.entry(word.into()).or_insert(next),
            };
            self.text.push(number);
        }
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
    pub fn counts(&self) -> impl Iterator<Item = (usize, u64, u64)> {
        self.orders.iter().map(|order| (order.n, order.different.len() as u64, order.all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_grams_stay_inside_one_text() {
        let mut distinct = Distinct::new([2, 1, 4]);
        ["a b\na  b", "b a", ""].iter().for_each(|text| distinct.add(text));
        assert_eq!(distinct.counts().collect::<Vec<_>>(), [(2, 2, 4), (1, 2, 6), (4, 1, 1)]);
    }
}
