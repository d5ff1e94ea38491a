//! Statistics of paired comparisons: draws, intervals and tests, as pure functions over slices.
//!
//! Everything here has the same bits on every machine and at any number of threads: random numbers
//! are functions of their place, sums have one order, and transcendental functions come from
//! `libm`.

mod bootstrap;
mod distribution;
mod draws;
mod interval;
mod paired;
mod quantile;

pub use bootstrap::{Draw, Population, two_way};
pub use distribution::{binomial_half_cdf, normal_cdf, normal_quantile, student_quantile};
pub use draws::Draws;
pub use interval::{Interval, newcombe, percentile, student, wilson};
pub use paired::{Wilcoxon, holm, mcnemar, sign_flip, student_p, wilcoxon};
pub use quantile::quantile;

/// Returns the mean; of no values it is not a number.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Returns the sample standard deviation (n - 1); `None` of fewer than two values.
pub fn deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}
