//! Measures of a set of texts by their words and bytes.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::tables::share;

use super::bleu::{SelfBleu, Smoothing};
use super::distinct::Distinct;
use super::measure::{Figure, Measure, Measures};
use super::overlap::{self, jaccard_distance, ngram_distance};
use super::sample::Sampler;
use super::spectrum::Order;
use super::words::{Grams, LONGEST, Texts};

/// Texts whose similarities by n-grams are compared at once: their eigenvalues take the cube of it.
const SPECTRUM_ROWS: usize = 4000;
/// Texts that are compared in pairs.
const PAIR_ROWS: usize = 20_000;

/// The figures of a set of texts, in the order of the measures.
pub(super) fn figures(texts: &[&str], measures: &Measures, sampler: &Sampler<'_>) -> Vec<Figure> {
    let mut all = vec![None; measures.of_texts.len()];
    let count = texts.len() as u64;
    let mut set = |measure: Measure, value: f64, n: u64| {
        if let Some(place) = measures.of_texts.iter().position(|known| *known == measure) {
            all[place] = Some(Figure { name: measure.word(), value, n });
        }
    };
    let wants = |wanted: &[Measure]| wanted.iter().any(|one| measures.of_texts.contains(one));

    let lengths: Vec<usize> =
        measures.of_texts.iter().filter_map(|measure| measure.length()).collect();
    if !lengths.is_empty() {
        let mut distinct = Distinct::new(measures.words, lengths);
        texts.iter().for_each(|text| distinct.add(text));
        for measure in &measures.of_texts {
            if let Some((_, different, of_all)) =
                distinct.counts().find(|(n, ..)| Some(*n) == measure.length())
            {
                set(*measure, share(different, of_all), of_all);
            }
        }
    }
    if wants(&[Measure::SelfBleu4, Measure::SelfBleu4Exp, Measure::NgramDistance]) {
        let split = Texts::new(texts, measures.words);
        let orders = Grams::up_to(&split, LONGEST);
        if wants(&[Measure::SelfBleu4, Measure::SelfBleu4Exp]) {
            let bleu = SelfBleu::new(&split, &orders);
            set(Measure::SelfBleu4, bleu.mean(Smoothing::Epsilon), count);
            set(Measure::SelfBleu4Exp, bleu.mean(Smoothing::Halves), count);
        }
        if wants(&[Measure::NgramDistance]) {
            set(Measure::NgramDistance, ngram_distance(&orders, texts.len()), count);
        }
    }
    if wants(&[Measure::JaccardDistance]) {
        let some = sampler.texts(texts, PAIR_ROWS, Measure::JaccardDistance.word());
        let value = jaccard_distance(&Texts::new(&some, measures.words));
        set(Measure::JaccardDistance, value, some.len() as u64);
    }
    spectra(texts, measures, sampler, &mut set);
    if wants(&[Measure::NgramDiversity]) {
        set(Measure::NgramDiversity, ngram_diversity(texts), count);
    }
    if wants(&[Measure::CompressionRatio]) {
        set(Measure::CompressionRatio, compression_ratio(texts), count);
    }
    all.into_iter().flatten().collect()
}

/// Vendi scores by n-grams: of all lengths together, and of words.
fn spectra(
    texts: &[&str],
    measures: &Measures,
    sampler: &Sampler<'_>,
    set: &mut impl FnMut(Measure, f64, u64),
) {
    let of_all = [
        (Measure::VendiNgram, Order::One),
        (Measure::VendiNgramQ2, Order::Two),
        (Measure::VendiNgramQinf, Order::Infinite),
    ];
    for (wanted, longest) in [(&of_all[..], LONGEST), (&[(Measure::VendiUnigram, Order::One)], 1)] {
        let Some((first, _)) = wanted.iter().find(|(one, _)| measures.of_texts.contains(one))
        else {
            continue;
        };
        let some = sampler.texts(texts, SPECTRUM_ROWS, first.word());
        let split = Texts::new(&some, measures.words);
        let spectrum = overlap::spectrum(&Grams::up_to(&split, longest), some.len());
        for (measure, order) in wanted {
            set(*measure, spectrum.vendi(*order), some.len() as u64);
        }
    }
}

/// The sum over n from 1 to 4 of different n-grams by all n-grams of the texts joined by blanks and
/// split at every single blank (Shaib and others 2024), to three digits as their package gives it.
fn ngram_diversity(texts: &[&str]) -> f64 {
    let joined = texts.join(" ");
    // Words are told apart by their text alone: a blank is a separator, anything else is part of
    // one.
    let split = Texts::of_words(joined.split(' '));
    let orders = Grams::up_to(&split, LONGEST);
    let shares = orders.iter().filter(|grams| grams.all > 0);
    let sum: f64 = shares.map(|grams| share(grams.different as u64, grams.all)).sum();
    (sum * 1000.0).round_ties_even() / 1000.0
}

/// The bytes of the texts, joined by line feeds, by those of their gzip at level 9; NaN for no
/// texts.
fn compression_ratio(texts: &[&str]) -> f64 {
    if texts.is_empty() {
        return f64::NAN;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let mut bytes = 0;
    for (number, text) in texts.iter().enumerate() {
        let separator: &[u8] = if number == 0 { b"" } else { b"\n" };
        bytes += separator.len() + text.len();
        // Memory takes all that is written.
        let _ = encoder.write_all(separator).and_then(|()| encoder.write_all(text.as_bytes()));
    }
    encoder.finish().map_or(f64::NAN, |gzip| bytes as f64 / gzip.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_blanks_split_and_empty_words_count() {
        // a, "", b, a: three different of four words, pairs and triples all differ.
        assert_eq!(ngram_diversity(&["a  b", "a"]), 0.75 + 1.0 + 1.0 + 1.0);
        assert_eq!(ngram_diversity(&["a\nb a\nb"]), 0.5 + 1.0);
        assert!(compression_ratio(&[]).is_nan());
        assert!(compression_ratio(&["a".repeat(1000).as_str(); 3]) > 50.0);
    }
}
