//! Texts as numbers of words and of n-grams, in flat arrays.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

use regex::Regex;

use refrain_engine::kind::choices;

/// The longest n-gram.
pub(super) const LONGEST: usize = 4;

/// The number of a position at which no n-gram begins.
const NONE: u32 = u32::MAX;

choices! {
    /// The words of a text.
    pub(super) enum Words {
        /// Split at Unicode white space, case kept.
        Whitespace = "whitespace",
        /// Lower case; runs of letters, digits and underscores, and single other characters.
        LowerWords = "lower_words",
    }
}

/// Letters, numbers and the underscore, which is Python's `\w`; or one character of another kind.
static LOWER_WORDS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s]").ok());

impl Words {
    /// Calls `each` with every word of a text.
    pub(super) fn split(self, text: &str, mut each: impl FnMut(&str)) {
        match (self, &*LOWER_WORDS) {
            (Words::LowerWords, Some(words)) => {
                let lower = text.to_lowercase();
                words.find_iter(&lower).for_each(|word| each(word.as_str()));
            }
            _ => text.split_whitespace().for_each(each),
        }
    }
}

/// The different words met so far, numbered in the order of their first places.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    numbers: HashMap<Box<str>, u32>,
}

impl Vocabulary {
    /// Returns the number of a word.
    pub(super) fn number(&mut self, word: &str) -> u32 {
        let next = self.numbers.len() as u32;
        match self.numbers.get(word) {
            Some(number) => *number,
            None => *self.numbers.entry(word.into()).or_insert(next),
        }
    }

    /// The number of different words.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}

/// Texts as numbers of words, one after another.
#[derive(Debug)]
pub(super) struct Texts {
    words: Vec<u32>,
    /// Where each text begins, and where the last one ends.
    starts: Vec<usize>,
    /// The number of different words.
    different: usize,
}

impl Texts {
    /// Splits texts into words.
    pub(super) fn new(texts: &[&str], words: Words) -> Texts {
        Texts::of(texts, words, &mut Vocabulary::default())
    }

    /// Splits texts into words, which get the numbers of a vocabulary.
    pub(super) fn of(texts: &[&str], words: Words, vocabulary: &mut Vocabulary) -> Texts {
        let (mut numbers, mut starts) = (Vec::new(), vec![0]);
        for text in texts {
            words.split(text, |word| numbers.push(vocabulary.number(word)));
            starts.push(numbers.len());
        }
        Texts { words: numbers, starts, different: vocabulary.len() }
    }

    /// One text of words that are split already.
    pub(super) fn of_words<'w>(words: impl Iterator<Item = &'w str>) -> Texts {
        let mut vocabulary = Vocabulary::default();
        let words: Vec<u32> = words.map(|word| vocabulary.number(word)).collect();
        Texts { starts: vec![0, words.len()], words, different: vocabulary.len() }
    }

    /// The number of texts.
    pub(super) fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// The words of a text.
    pub(super) fn text(&self, text: usize) -> &[u32] {
        &self.words[self.starts[text]..self.starts[text + 1]]
    }

    /// All words.
    pub(super) fn words(&self) -> &[u32] {
        &self.words
    }
}

/// The n-grams of one length of some texts.
#[derive(Debug)]
pub(super) struct Grams {
    /// For each word the number of the n-gram that begins there; n-grams stay inside one text.
    numbers: Vec<u32>,
    starts: Vec<usize>,
    n: usize,
    /// The number of different n-grams.
    pub different: usize,
    /// The number of all n-grams.
    pub all: u64,
}

impl Grams {
    /// The words of texts as n-grams of length 1.
    pub(super) fn words(texts: &Texts) -> Grams {
        Grams {
            numbers: texts.words.clone(),
            starts: texts.starts.clone(),
            n: 1,
            different: texts.different,
            all: texts.words.len() as u64,
        }
    }

    /// The n-grams that are one word longer: each is a shorter one and the word behind it.
    fn longer(&self, texts: &Texts) -> Grams {
        let n = self.n + 1;
        // There are hardly fewer of the longer ones.
        let hasher = BuildHasherDefault::<PairHasher>::default();
        let mut pairs = HashMap::with_capacity_and_hasher(self.different, hasher);
        let (mut numbers, mut all) = (vec![NONE; texts.words.len()], 0);
        for text in texts.starts.windows(2) {
            let of_text = text[0]..text[1];
            // The last word of each: the zip ends where no n-gram begins any more.
            let words = texts.words[of_text.clone()].iter().skip(n - 1);
            let shorter = &self.numbers[of_text.clone()];
            for ((number, shorter), word) in numbers[of_text].iter_mut().zip(shorter).zip(words) {
                let pair = u64::from(*shorter) << 32 | u64::from(*word);
                let next = pairs.len() as u32;
                *number = *pairs.entry(pair).or_insert(next);
                all += 1;
            }
        }
        let different = pairs.len();
        Grams { numbers, starts: self.starts.clone(), n, different, all }
    }

    /// The n-grams of all lengths up to `longest`.
    pub(super) fn up_to(texts: &Texts, longest: usize) -> Vec<Grams> {
        let mut orders = vec![Grams::words(texts)];
        while orders.len() < longest {
            orders.extend(orders.last().map(|last| last.longer(texts)));
        }
        orders
    }

    /// The n-grams of a text in their order.
    pub(super) fn text(&self, text: usize) -> &[u32] {
        let (start, end) = (self.starts[text], self.starts[text + 1]);
        &self.numbers[start..(end + 1).saturating_sub(self.n).max(start)]
    }

    /// The different n-grams of each text with their counts, one text after another.
    pub(super) fn counts(&self) -> Counts {
        let mut of_text = vec![0_u32; self.different];
        let mut counts = Counts { pairs: Vec::new(), starts: vec![0] };
        for text in 0..self.starts.len() - 1 {
            let first = counts.pairs.len();
            for gram in self.text(text) {
                let count = &mut of_text[*gram as usize];
                if *count == 0 {
                    counts.pairs.push((*gram, 0));
                }
                *count += 1;
            }
            for (gram, count) in &mut counts.pairs[first..] {
                *count = std::mem::take(&mut of_text[*gram as usize]);
            }
            counts.starts.push(counts.pairs.len());
        }
        counts
    }
}

/// N-grams of texts with their counts.
#[derive(Debug)]
pub(super) struct Counts {
    pairs: Vec<(u32, u32)>,
    starts: Vec<usize>,
}

impl Counts {
    /// The different n-grams of a text, each with its count there.
    pub(super) fn text(&self, text: usize) -> &[(u32, u32)] {
        &self.pairs[self.starts[text]..self.starts[text + 1]]
    }
}

/// Hashes pairs of numbers by one product: they are ours, so that nobody can choose them to
/// collide.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value ^ 0x9e37_79b9_7f4a_7c15) * 0xd1b5_4a32_d192_ed03;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_their_definitions() {
        let split = |words: Words, text: &str| {
            let mut all = Vec::new();
            words.split(text, |word| all.push(word.to_owned()));
            all
        };
        assert_eq!(split(Words::Whitespace, " A b\u{a0}c\n"), ["A", "b", "c"]);
        assert_eq!(split(Words::LowerWords, "A_1 b,ć — D²"), ["a_1", "b", ",", "ć", "—", "d²"]);
    }

    #[test]
    fn n_grams_stay_inside_one_text() {
        let texts = Texts::new(&["a b a b", "b a", "", "b a b a"], Words::Whitespace);
        let orders = Grams::up_to(&texts, LONGEST);
        let sizes: Vec<(usize, u64)> =
            orders.iter().map(|grams| (grams.different, grams.all)).collect();
        assert_eq!(sizes, [(2, 10), (2, 7), (2, 4), (2, 2)]);
        assert_eq!((orders[1].text(0), orders[1].text(1)), (&[0, 1, 0][..], &[1][..]));
        assert_eq!((orders[2].text(1).len(), orders[3].text(2).len()), (0, 0));
        assert_eq!(orders[1].counts().text(0), [(0, 2), (1, 1)]);
    }
}
