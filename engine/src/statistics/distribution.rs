//! The normal, Student's and the symmetric binomial distribution.

use std::f64::consts::{LN_2, PI, SQRT_2};

/// Halvings of a bracket: after so many its ends are neighbours.
const HALVINGS: usize = 200;
/// Terms of the continued fraction; it converges within a few dozen where it is used.
const TERMS: usize = 10_000;

/// Returns the probability that a standard normal number is at most `x`.
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x / SQRT_2)
}

/// Returns the number that a standard normal one is below with probability `p`, which lies between
/// 0 and 1.
pub fn normal_quantile(p: f64) -> f64 {
    // The upper half is the lower one's mirror image, where small probabilities keep their digits.
    if p > 0.5 {
        return -normal_quantile(1.0 - p);
    }
    bisect(-40.0, 0.0, |x| normal_cdf(x) < p)
}

/// Returns the number `t` that Student's t with so many degrees of freedom lies within, `-t` to
/// `t`, with a probability between 0 and 1.
pub fn student_quantile(within: f64, freedom: f64) -> f64 {
    let outside = 1.0 - within;
    let mut high = 1.0;
    while student_outside(high, freedom) > outside && high < f64::MAX / 2.0 {
        high *= 2.0;
    }
    bisect(0.0, high, |t| student_outside(t, freedom) > outside)
}

/// Returns the probability that Student's t lies outside of `-t` to `t`.
pub(super) fn student_outside(t: f64, freedom: f64) -> f64 {
    incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t))
}

/// Returns the probability of at most `k` heads in `n` tosses of a fair coin.
pub fn binomial_half_cdf(k: u64, n: u64) -> f64 {
    if k >= n {
        return 1.0;
    }
    // Each term from the one above it, down to those that no longer count; the larger half by its
    // mirror image.
    if k > n / 2 {
        return 1.0 - binomial_half_cdf(n - k - 1, n);
    }
    let log = |x: u64| libm::lgamma(x as f64 + 1.0);
    let mut term = libm::exp(log(n) - log(k) - log(n - k) - n as f64 * LN_2);
    let mut sum = term;
    for j in (1..=k).rev() {
        term *= j as f64 / (n - j + 1) as f64;
        sum += term;
        if term < sum * 1e-18 {
            break;
        }
    }
    sum.min(1.0)
}

/// Finds the point where `is_below` turns from true to false.
fn bisect(mut low: f64, mut high: f64, is_below: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..HALVINGS {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        match is_below(middle) {
            true => low = middle,
            false => high = middle,
        }
    }
    low + (high - low) / 2.0
}

/// The regularized incomplete beta function, by its continued fraction.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front = libm::exp(log_gamma_ratio(a, b) + a * libm::log(x) + b * libm::log1p(-x));
    front * fraction(a, b, x) / a
}

/// The logarithm of `gamma(a + b) / (gamma(a) gamma(b))`.
fn log_gamma_ratio(a: f64, b: f64) -> f64 {
    // The half is that of Student's distribution, and its gamma function is the root of pi.
    let of_b = if b == 0.5 { libm::log(PI) / 2.0 } else { libm::lgamma(b) };
    let of_a = if a == 0.5 { libm::log(PI) / 2.0 } else { libm::lgamma(a) };
    libm::lgamma(a + b) - of_a - of_b
}

/// The continued fraction of the incomplete beta function, evaluated from the front (Lentz 1976).
fn fraction(a: f64, b: f64, x: f64) -> f64 {
    let nonzero = |x: f64| if x.abs() < 1e-300 { 1e-300 } else { x };
    let mut c = 1.0;
    let mut d = 1.0 / nonzero(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for m in 1..TERMS {
        let m = m as f64;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / nonzero(1.0 + even * d);
        c = nonzero(1.0 + even / c);
        value *= d * c;

        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / nonzero(1.0 + odd * d);
        c = nonzero(1.0 + odd / c);
        value *= d * c;
        if (d * c - 1.0).abs() < 1e-16 {
            break;
        }
    }
    value
}
