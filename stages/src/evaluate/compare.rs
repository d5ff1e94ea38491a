//! Compares an answer with the reference.

use std::borrow::Cow;

/// How an answer is compared with the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// As text.
    Text,
    /// By value where both are decimal numbers, else as text; commas, `$` and `%` do not count.
    Number,
}

/// What does not count when texts are compared.
#[derive(Debug, Clone, Copy)]
pub struct Normal {
    /// White space around them.
    pub trim: bool,
    /// Upper and lower case.
    pub ignore_case: bool,
}

impl Compare {
    /// Whether the two are equal.
    pub fn equal(self, answer: &str, reference: &str, normal: Normal) -> bool {
        match self {
            Compare::Text => normal.apply(answer) == normal.apply(reference),
            Compare::Number => {
                let (answer, reference) = (without_signs(answer), without_signs(reference));
                match (Decimal::parse(&answer), Decimal::parse(&reference)) {
                    (Some(a), Some(b)) => a == b,
                    _ => normal.apply(&answer) == normal.apply(&reference),
                }
            }
        }
    }
}

impl Normal {
    fn apply(self, text: &str) -> Cow<'_, str> {
        let text = if self.trim { text.trim() } else { text };
        if self.ignore_case { text.to_lowercase().into() } else { text.into() }
    }
}

fn without_signs(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ',' | '$' | '%')).collect()
}

/// A decimal number as its digits, so that numbers of any length compare exactly.
#[derive(Debug, PartialEq, Eq)]
struct Decimal<'t> {
    negative: bool,
    /// Digits before the point without leading zeros.
    whole: &'t str,
    /// Digits behind the point without trailing zeros.
    fraction: &'t str,
}

impl Decimal<'_> {
    fn parse(text: &str) -> Option<Decimal<'_>> {
        let text = text.trim();
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let is_number = |c: char| c.is_ascii_digit();
        if whole.len() + fraction.len() == 0
            || !whole.chars().chain(fraction.chars()).all(is_number)
        {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let zero = whole.is_empty() && fraction.is_empty();
        Some(Decimal { negative: negative && !zero, whole, fraction })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Normal = Normal { trim: true, ignore_case: false };

    #[test]
    fn numbers_are_equal_by_value() {
        let equal = |a, b| Compare::Number.equal(a, b, PLAIN);
        for (a, b) in [
            ("1,800", "1800"),
            ("$26.00", "26"),
            ("5%", "5."),
            ("-0", "0"),
            (".5", "+0.50"),
            ("007", "7"),
        ] {
            assert!(equal(a, b), "{a} {b}");
        }
        // Beyond what f64 can tell apart.
        assert!(!equal("9007199254740993", "9007199254740992"));
        assert!(!equal("1", "-1"));
        assert!(!equal("1.5", "15"));
        assert!(equal(" blue ", "blue"));
        assert!(!equal("1e3", "1000"));
        assert!(!equal("1.2.3", "1.23"));
    }

    #[test]
    fn texts_are_equal_after_what_does_not_count() {
        assert!(Compare::Text.equal(" Paris\n", "Paris", PLAIN));
        assert!(!Compare::Text.equal("paris", "Paris", PLAIN));
        assert!(Compare::Text.equal("PARIS", "Paris", Normal { ignore_case: true, ..PLAIN }));
        assert!(!Compare::Text.equal("Paris ", "Paris", Normal { trim: false, ..PLAIN }));
    }
}
