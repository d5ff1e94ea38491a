//! Intervals by resampling prompts, and the unbiased estimator of pass@k.

use rayon::prelude::*;

use refrain_engine::kind::{Cancel, StageError};

use crate::draw::Draws;
use crate::quantile::quantile;

/// The 95 % percentile interval (Efron 1979) of `sum of values / sum of weights` over prompts, each
/// given as value and weight: prompts are drawn with replacement, as many as there are, `resamples`
/// times.
///
/// The samples of one prompt depend on each other, so it is prompts that are drawn and not rows.
/// The draws depend on nothing but `resamples` and the number of prompts, and each sum is added in
/// the order of its draws. `None` without resamples or prompts.
///
/// # Errors
/// [`StageError::Cancelled`] when a stop is asked for.
pub fn interval(
    prompts: &[(f64, f64)],
    resamples: u64,
    cancel: &Cancel,
) -> Result<Option<(f64, f64)>, StageError> {
    if resamples == 0 || prompts.is_empty() {
        return Ok(None);
    }
    let count = prompts.len() as u64;
    let ratio = |resample| {
        cancel.check()?;
        let draws = Draws::new("bootstrap", resample, &[]);
        let (mut values, mut weights) = (0.0, 0.0);
        for i in 0..count {
            let (value, weight) = prompts[draws.below(i, count) as usize];
            values += value;
            weights += weight;
        }
        Ok(values / weights)
    };
    let ratios: Result<Vec<f64>, StageError> = (0..resamples).into_par_iter().map(ratio).collect();
    let mut ratios = ratios?;
    // Prompts without weight, such as empty responses, may be all that a resample drew.
    ratios.retain(|ratio| !ratio.is_nan());
    Ok(quantile(&mut ratios, 0.025).zip(quantile(&mut ratios, 0.975)))
}

/// The probability that one of `k` samples is correct, estimated without bias from `correct` of
/// `samples`, `k` of them at most: `1 - C(n - c, k) / C(n, k)`, as a product (Chen and others
/// 2021).
pub fn pass_at(k: u64, samples: u64, correct: u64) -> f64 {
    if samples - correct < k {
        return 1.0;
    }
    let miss: f64 = (samples - correct + 1..=samples).map(|i| 1.0 - k as f64 / i as f64).product();
    1.0 - miss
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(prompts: &[(f64, f64)], resamples: u64) -> Option<(f64, f64)> {
        super::interval(prompts, resamples, &Cancel::default()).unwrap()
    }

    #[test]
    fn the_interval_of_a_share_is_near_the_normal_one() {
        let prompts: Vec<_> = (0..1000).map(|i| (f64::from(u8::from(i % 4 == 0)), 1.0)).collect();
        let (low, high) = interval(&prompts, 2000).unwrap();
        let half = 1.96 * (0.25_f64 * 0.75 / 1000.0).sqrt();
        assert!(
            (low - (0.25 - half)).abs() < 0.003 && (high - (0.25 + half)).abs() < 0.003,
            "{low} {high}"
        );
        assert_eq!(interval(&prompts, 2000), Some((low, high)));
        assert_eq!(interval(&prompts, 0), None);
        assert_eq!(interval(&[], 10), None);
    }

    /// Four equal samples a prompt say no more than one: the interval must not shrink.
    #[test]
    fn prompts_are_drawn_and_not_rows() {
        let single: Vec<_> = (0..100).map(|i| (f64::from(u8::from(i % 2 == 0)), 1.0)).collect();
        let fourfold: Vec<_> = single.iter().map(|(value, _)| (value * 4.0, 4.0)).collect();
        assert_eq!(interval(&single, 500), interval(&fourfold, 500));
    }

    #[test]
    fn pass_at_one_is_the_share_and_pass_at_all_is_any() {
        assert!((pass_at(1, 8, 2) - 0.25).abs() < 1e-15);
        assert_eq!(pass_at(8, 8, 1), 1.0);
        assert_eq!(pass_at(8, 8, 0), 0.0);
        // 1 - C(3, 2) / C(5, 2)
        assert!((pass_at(2, 5, 2) - 0.7).abs() < 1e-15);
    }
}
