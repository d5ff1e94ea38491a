//! Self-BLEU (Zhu and others 2018): the mean over texts of the BLEU of each against all others.
//!
//! Counts are clipped at the largest count in another text. For each n-gram the largest count, its
//! text and the next largest are kept, so that all others together cost as much as one.

use super::words::{Counts, Grams, LONGEST, Texts};

/// The treatment of an order in which no n-gram agrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Smoothing {
    /// One tenth in place of zero, and a denominator of 1 for an order without n-grams (Chen and
    /// Cherry 2014, method 1).
    Epsilon,
    /// One half, a quarter, and so on in place of zero; orders without n-grams are left out
    /// (sacreBLEU's `exp` with its effective order).
    Halves,
}

/// Agreements of each text with the others, n from 1 to 4.
pub(super) struct SelfBleu<'a> {
    texts: &'a Texts,
    /// For each text and order the n-grams that agree with another text.
    agreeing: Vec<[u64; LONGEST]>,
    /// The lengths of all texts in ascending order.
    lengths: Vec<usize>,
}

/// The largest counts of an n-gram.
#[derive(Clone, Copy, Default)]
struct Largest {
    count: u32,
    text: u32,
    next: u32,
}

impl<'a> SelfBleu<'a> {
    /// Compares the n-grams of all texts; `orders` are those of 1 to 4 words.
    pub(super) fn new(texts: &'a Texts, orders: &[Grams]) -> SelfBleu<'a> {
        let mut agreeing = vec![[0; LONGEST]; texts.count()];
        for (order, grams) in orders.iter().enumerate() {
            let counts = grams.counts();
            let largest = largest(&counts, grams.different, texts.count());
            for (text, agreeing) in agreeing.iter_mut().enumerate() {
                let of_others = |gram: u32| {
                    let largest = largest[gram as usize];
                    if largest.text as usize == text { largest.next } else { largest.count }
                };
                let pairs = counts.text(text).iter();
                agreeing[order] =
                    pairs.map(|(gram, count)| u64::from(*count.min(&of_others(*gram)))).sum();
            }
        }
        let mut lengths: Vec<usize> =
            (0..texts.count()).map(|text| texts.text(text).len()).collect();
        lengths.sort_unstable();
        SelfBleu { texts, agreeing, lengths }
    }

    /// The mean over all texts; NaN for fewer than two.
    pub(super) fn mean(&self, smoothing: Smoothing) -> f64 {
        let count = self.texts.count();
        if count < 2 {
            return f64::NAN;
        }
        (0..count).map(|text| self.of_text(text, smoothing)).sum::<f64>() / count as f64
    }

    /// The BLEU of a text against all others; 0 where no word agrees.
    pub(super) fn of_text(&self, text: usize, smoothing: Smoothing) -> f64 {
        let length = self.texts.text(text).len();
        let agreeing = &self.agreeing[text];
        if agreeing[0] == 0 {
            return 0.0;
        }
        let (mut sum, mut orders, mut halves) = (0.0, 0, 1.0);
        for (n, &agree) in (1..).zip(agreeing) {
            let all = (length + 1).saturating_sub(n) as f64;
            if all == 0.0 && smoothing == Smoothing::Halves {
                break;
            }
            let agree = match (agree, smoothing) {
                (0, Smoothing::Epsilon) => 0.1,
                (0, Smoothing::Halves) => {
                    halves /= 2.0;
                    halves
                }
                (agree, _) => agree as f64,
            };
            sum += libm::log(agree / all.max(1.0));
            orders += 1;
        }
        let reference = self.closest(length) as f64;
        let brevity = (1.0 - reference / length as f64).min(0.0);
        libm::exp(sum / f64::from(orders) + brevity)
    }

    /// The length of another text that is closest to this one; the shorter of two.
    fn closest(&self, length: usize) -> usize {
        let below = self.lengths.partition_point(|other| *other < length);
        let above = self.lengths.partition_point(|other| *other <= length);
        if above - below > 1 {
            return length;
        }
        let shorter = below.checked_sub(1).map(|place| self.lengths[place]);
        match (shorter, self.lengths.get(above).copied()) {
            (Some(shorter), Some(longer)) if length - shorter <= longer - length => shorter,
            (_, Some(longer)) => longer,
            (shorter, None) => shorter.unwrap_or(length),
        }
    }
}

fn largest(counts: &Counts, different: usize, texts: usize) -> Vec<Largest> {
    let mut all = vec![Largest::default(); different];
    for text in 0..texts {
        for &(gram, count) in counts.text(text) {
            let largest = &mut all[gram as usize];
            if count > largest.count {
                *largest = Largest { count, text: text as u32, next: largest.count };
            } else {
                largest.next = largest.next.max(count);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::words::Words;
    use super::*;

    fn of_texts(texts: &[&str]) -> (f64, f64, f64) {
        let texts = Texts::new(texts, Words::Whitespace);
        let bleu = SelfBleu::new(&texts, &Grams::up_to(&texts, LONGEST));
        let means = [Smoothing::Epsilon, Smoothing::Halves].map(|smoothing| bleu.mean(smoothing));
        let first = if texts.count() > 0 { bleu.of_text(0, Smoothing::Epsilon) } else { 0.0 };
        (means[0], means[1], first)
    }

    #[test]
    fn hand_computed_values() {
        // One word of two agrees, no pair does: (1/2 * 0.1/1 * 0.1/1 * 0.1/1)^(1/4).
        let (mean, _, first) = of_texts(&["a b", "a c"]);
        assert!((first - libm::pow(0.0005, 0.25)).abs() < 1e-15 && (mean - first).abs() < 1e-15);
        // (1/2 * (1/2)/1)^(1/2), both orders that there are.
        assert!((of_texts(&["a b", "a c"]).1 - 0.5).abs() < 1e-15);
        assert_eq!(of_texts(&["a b", "c d"]).0, 0.0);
        let long = "a b c d e";
        assert!((of_texts(&[long, long]).0 - 1.0).abs() < 1e-15);
        // A shorter text is punished by its own length: e^(1 - 5/4).
        let (_, _, first) = of_texts(&["a b c d", long]);
        assert!((first - libm::exp(-0.25)).abs() < 1e-15);
        assert!(of_texts(&["a"]).0.is_nan() && of_texts(&[]).0.is_nan());
    }

    #[test]
    fn the_closest_length_is_the_shorter_of_two() {
        let texts = Texts::new(&["a a", "a a a a", "a a a", "a a a a a a a"], Words::Whitespace);
        let bleu = SelfBleu::new(&texts, &Grams::up_to(&texts, LONGEST));
        assert_eq!([2, 3, 4, 7].map(|length| bleu.closest(length)), [3, 2, 3, 4]);
    }

    /// The published value of the first text alone.
    #[test]
    fn the_first_text_of_each_set_has_its_published_value() {
        let folder = std::path::Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../shared/data/diversity-lexical"
        ));
        let Ok(sets) = std::fs::read_to_string(folder.join("sets.jsonl")) else {
            return println!("skipped: {} is not there", folder.display());
        };
        let expected = std::fs::read(folder.join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        for line in sets.lines() {
            let set: serde_json::Value = serde_json::from_str(line).unwrap();
            let texts: Vec<&str> = set["texts"]
                .as_array()
                .unwrap()
                .iter()
                .map(|text| text.as_str().unwrap())
                .collect();
            for words in [Words::Whitespace, Words::LowerWords] {
                let expected = &expected["sets"][set["set"].as_str().unwrap()][words.word()];
                let Some(expected) = expected["self_bleu_4_first_text"].as_f64() else { continue };
                let texts = Texts::new(&texts, words);
                let bleu = SelfBleu::new(&texts, &Grams::up_to(&texts, LONGEST));
                let found = bleu.of_text(0, Smoothing::Epsilon);
                assert!((found - expected).abs() <= 1e-6 * expected, "{found}, not {expected}");
            }
        }
    }
}
