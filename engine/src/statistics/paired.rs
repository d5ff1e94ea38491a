//! Tests of paired differences, all two-sided, and their correction for being many.

use rayon::prelude::*;

use super::distribution::{binomial_half_cdf, normal_cdf, student_outside};
use super::{Draws, deviation, mean};

/// The largest number of differences whose signs are all tried.
const ALL_SIGNS: usize = 13;
/// Random choices of signs where there are more.
const FLIPS: u64 = 10_000;
/// The largest number of differences of which Wilcoxon's distribution is computed exactly.
const EXACT_RANKS: usize = 50;
/// Share of the sum of all magnitudes by which equal sums may differ in their last bits.
const EQUAL: f64 = 1e-12;

/// The exact test of McNemar (1947), as a sign test of the pairs that differ: `first` in which the
/// first alone is right, `second` in which the second alone is.
pub fn mcnemar(first: u64, second: u64) -> f64 {
    (2.0 * binomial_half_cdf(first.min(second), first + second)).min(1.0)
}

/// The permutation test of the mean that flips signs (Fisher 1935): the share of choices of signs
/// under which the sum is as far from zero as it is. All choices are tried of up to 13 differences
/// that are not zero, else 10,000 drawn ones, and what was observed counts as one of those.
pub fn sign_flip(differences: &[f64]) -> f64 {
    let nonzero: Vec<f64> = differences.iter().copied().filter(|value| *value != 0.0).collect();
    let total: f64 = nonzero.iter().sum();
    let slack = EQUAL * nonzero.iter().map(|value| value.abs()).sum::<f64>();
    let observed = total.abs() - slack;
    if observed <= 0.0 {
        return 1.0;
    }

    let words = nonzero.len().div_ceil(64);
    let is_as_far = |bits: &dyn Fn(usize) -> u64| {
        let mut flipped = 0.0;
        for (i, value) in nonzero.iter().enumerate() {
            if bits(i / 64) >> (i % 64) & 1 == 1 {
                flipped += value;
            }
        }
        (total - 2.0 * flipped).abs() >= observed
    };
    if nonzero.len() <= ALL_SIGNS {
        let all = 1_u64 << nonzero.len();
        let count = (0..all).filter(|signs| is_as_far(&|_| *signs)).count();
        return count as f64 / all as f64;
    }

    let draws = Draws::new("compare signs", 0, &[]);
    let far = |flip: &u64| {
        let first = flip * words as u64;
        is_as_far(&|word| draws.at(first + word as u64))
    };
    let count = (0..FLIPS).into_par_iter().filter(far).count();
    (count + 1) as f64 / (FLIPS + 1) as f64
}

/// The outcome of Wilcoxon's test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wilcoxon {
    /// The smaller sum of ranks.
    pub statistic: f64,
    /// The probability of one as small.
    pub p: f64,
    /// Whether it is exact, not by the normal approximation.
    pub exact: bool,
}

/// The signed-rank test of Wilcoxon (1945). Zeros are dropped; up to 50 differences without ties it
/// is exact, else by the normal approximation without a correction for continuity. `None` where all
/// are zero.
pub fn wilcoxon(differences: &[f64]) -> Option<Wilcoxon> {
    let mut nonzero: Vec<f64> = differences.iter().copied().filter(|value| *value != 0.0).collect();
    if nonzero.is_empty() {
        return None;
    }
    nonzero.sort_unstable_by(|a, b| a.abs().total_cmp(&b.abs()));

    // Equal magnitudes share the mean of their ranks.
    let n = nonzero.len() as f64;
    let (mut positive, mut ties, mut rank) = (0.0, 0.0, 0.0);
    for equal in nonzero.chunk_by(|a, b| a.abs() == b.abs()) {
        let size = equal.len() as f64;
        let above = equal.iter().filter(|value| **value > 0.0).count();
        positive += above as f64 * (rank + (size + 1.0) / 2.0);
        ties += size * size * size - size;
        rank += size;
    }
    let statistic = positive.min(n * (n + 1.0) / 2.0 - positive);

    let exact = nonzero.len() <= EXACT_RANKS && ties == 0.0;
    let p = match exact {
        true => exact_ranks(nonzero.len(), statistic as usize),
        false => {
            let middle = n * (n + 1.0) / 4.0;
            let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
            2.0 * normal_cdf((statistic - middle) / variance.sqrt())
        }
    };
    Some(Wilcoxon { statistic, p: p.min(1.0), exact })
}

/// Twice the probability that the ranks of `n` with a random sign sum up to at most `sum`.
fn exact_ranks(n: usize, sum: usize) -> f64 {
    // The number of sets of the first ranks by their sum: below 2^50, and so exact.
    let mut sets = vec![0.0_f64; n * (n + 1) / 2 + 1];
    sets[0] = 1.0;
    for rank in 1..=n {
        for total in (rank..sets.len()).rev() {
            sets[total] += sets[total - rank];
        }
    }
    let below: f64 = sets.iter().take(sum + 1).sum();
    2.0 * below / libm::ldexp(1.0, n as i32)
}

/// Student's test of the mean of values against zero; `None` of fewer than two.
pub fn student_p(values: &[f64]) -> Option<f64> {
    let error = deviation(values)? / (values.len() as f64).sqrt();
    let mean = mean(values);
    Some(match () {
        () if mean == 0.0 => 1.0,
        () if error == 0.0 => 0.0,
        () => student_outside(mean / error, values.len() as f64 - 1.0),
    })
}

/// Corrects the p-values of tests that are made together (Holm 1979).
pub fn holm(ps: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ps.len()).collect();
    order.sort_by(|a, b| ps[*a].total_cmp(&ps[*b]));
    let mut corrected = vec![0.0; ps.len()];
    let mut least = 0.0_f64;
    for (i, test) in order.iter().enumerate() {
        least = least.max(ps[*test] * (ps.len() - i) as f64).min(1.0);
        corrected[*test] = least;
    }
    corrected
}
