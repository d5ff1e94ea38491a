//! Checks of scores, which another program may have made.

/// Tolerance for log-probabilities that rounding carries above zero.
const ROUNDING: f64 = 1e-3;

/// Checks a log-probability.
///
/// # Errors
/// What is wrong with it, as a fragment: it is not finite, or it is above zero.
pub(crate) fn check_logprob(value: f64) -> Result<(), String> {
    match value {
        value if !value.is_finite() => Err(format!("a log-probability is {value}")),
        value if value > ROUNDING => Err(format!("a log-probability is {value}, which is above 0")),
        _ => Ok(()),
    }
}

/// Checks a perplexity.
///
/// # Errors
/// What is wrong with it, as a fragment: it is not finite, or it is below one.
pub(crate) fn check_perplexity(value: f64) -> Result<(), String> {
    match value {
        value if !value.is_finite() => Err(format!("a perplexity is {value}")),
        value if value < 1.0 - ROUNDING => {
            Err(format!("a perplexity is {value}, which is below 1"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_outside_their_range_are_refused() {
        for value in [0.0, -0.0, 1e-6, -745.0] {
            assert!(check_logprob(value).is_ok(), "{value}");
        }
        for value in [1.0, 0.01, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(check_logprob(value).is_err(), "{value}");
        }
        for value in [1.0, 0.9999, 1e300] {
            assert!(check_perplexity(value).is_ok(), "{value}");
        }
        for value in [0.0, -1.0, 0.5, f64::NAN, f64::INFINITY] {
            assert!(check_perplexity(value).is_err(), "{value}");
        }
    }
}
