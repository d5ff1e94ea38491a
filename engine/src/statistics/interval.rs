//! Two-sided intervals: percentile, Student's, Wilson's and Newcombe's.

use super::distribution::{normal_quantile, student_quantile};
use super::{deviation, mean, quantile};

/// Both ends of an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Returns the distance of the ends.
    pub fn width(&self) -> f64 {
        self.high - self.low
    }
}

/// The percentile interval of draws (Efron 1979), interpolated linearly; `None` without draws.
/// Reorders them.
pub fn percentile(draws: &mut [f64], confidence: f64) -> Option<Interval> {
    let low = quantile(draws, (1.0 - confidence) / 2.0)?;
    let high = quantile(draws, 1.0 - (1.0 - confidence) / 2.0)?;
    Some(Interval { low, high })
}

/// Student's interval of the mean; `None` of fewer than two values.
pub fn student(values: &[f64], confidence: f64) -> Option<Interval> {
    let error = deviation(values)? / (values.len() as f64).sqrt();
    let half = student_quantile(confidence, values.len() as f64 - 1.0) * error;
    let mean = mean(values);
    Some(Interval { low: mean - half, high: mean + half })
}

/// The score interval of a share of `n` observations (Wilson 1927), which has a width at 0 and 1
/// too.
pub fn wilson(share: f64, n: f64, confidence: f64) -> Interval {
    let z = normal_quantile(1.0 - (1.0 - confidence) / 2.0);
    let square = z * z / n;
    let middle = (share + square / 2.0) / (1.0 + square);
    let half = z * (share * (1.0 - share) / n + square / (4.0 * n)).sqrt() / (1.0 + square);
    Interval { low: (middle - half).max(0.0), high: (middle + half).min(1.0) }
}

/// The interval of the difference of two shares of `n` observations each, from their score
/// intervals (Newcombe 1998).
pub fn newcombe([a, b]: [f64; 2], n: f64, confidence: f64) -> Interval {
    let (of_a, of_b) = (wilson(a, n, confidence), wilson(b, n, confidence));
    let root = |x: f64, y: f64| (x * x + y * y).sqrt();
    Interval {
        low: a - b - root(a - of_a.low, of_b.high - b),
        high: a - b + root(b - of_b.low, of_a.high - a),
    }
}
