//! Compares an answer with the reference.

use std::borrow::Cow;

use super::number::Number;

/// A way to compare an answer with the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// As text.
    Text,
    /// By exact value where both are numbers, else as text; currency and percent signs do not
    /// count.
    Number,
}

/// Differences between texts that do not count.
#[derive(Debug, Clone, Copy)]
pub struct Normalization {
    /// White space around them.
    pub trim: bool,
    /// Upper and lower case.
    pub ignore_case: bool,
}

impl Compare {
    /// Whether the two are equal.
    pub fn equal(self, answer: &str, reference: &str, normal: Normalization) -> bool {
        match self {
            Compare::Text => normal.apply(answer) == normal.apply(reference),
            Compare::Number => match (Number::parse(answer), Number::parse(reference)) {
                (Some(answer), Some(reference)) => answer == reference,
                _ => normal.apply(answer) == normal.apply(reference),
            },
        }
    }
}

impl Normalization {
    fn apply(self, text: &str) -> Cow<'_, str> {
        let text = if self.trim { text.trim() } else { text };
        if self.ignore_case { text.to_lowercase().into() } else { text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Normalization = Normalization { trim: true, ignore_case: false };

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
        assert!(!equal("1", "-1"));
        assert!(!equal("1.2.3", "1.23"));
        assert!(!equal("3,5", "35"));
        assert!(equal(" blue ", "blue"));
    }

    #[test]
    fn texts_are_equal_after_what_does_not_count() {
        assert!(Compare::Text.equal(" Paris\n", "Paris", PLAIN));
        assert!(!Compare::Text.equal("paris", "Paris", PLAIN));
        assert!(Compare::Text.equal(
            "PARIS",
            "Paris",
            Normalization { ignore_case: true, ..PLAIN }
        ));
        assert!(!Compare::Text.equal("Paris ", "Paris", Normalization { trim: false, ..PLAIN }));
    }
}
