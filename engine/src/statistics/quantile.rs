//! Quantiles as numpy computes them by default.

/// The `q`-quantile of values without NaN, interpolated linearly between the two nearest, as
/// numpy's default does it: at position `q * (n - 1)` of the sorted values. `None` when there are
/// no values. Reorders them.
pub fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let position = q * last as f64;
    let (below, part) = ((position.floor() as usize).min(last), position.fract());
    let (_, low, above) = values.select_nth_unstable_by(below, f64::total_cmp);
    let low = *low;
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    Some(match () {
        // Also where both are infinite, and their difference is not a number.
        () if low == high || part == 0.0 => low,
        // numpy counts from the nearer end, which makes a difference in the last bit.
        () if part >= 0.5 => high - (high - low) * (1.0 - part),
        () => low + (high - low) * part,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.quantile([4, 1, 3, 2], …)
        for (q, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 2.5), (0.9, 3.7), (1.0, 4.0)] {
            assert_eq!(quantile(&mut [4.0, 1.0, 3.0, 2.0], q), Some(expected));
        }
        assert_eq!(quantile(&mut [1.0, f64::INFINITY, f64::INFINITY], 0.75), Some(f64::INFINITY));
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
