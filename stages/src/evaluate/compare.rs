//! Compares an answer with the reference.

use std::borrow::Cow;

use super::math;
use super::number::Number;

/// A way to compare an answer with the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// As text.
    Text,
    /// By exact value where both are numbers, else as text; currency and percent signs do not
    /// count.
    Number,
    /// By the normal form of the MATH data set.
    Math,
    /// As whole numbers, else as texts, without `,`, `$`, `%` and `g`: the rule of the evaluator of
    /// arXiv 2501.14315.
    Gsm8k,
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
            Compare::Math => match (math::normal_form(answer), math::normal_form(reference)) {
                (Some(answer), Some(reference)) => {
                    normal.apply(&answer) == normal.apply(&reference)
                }
                _ => normal.apply(answer) == normal.apply(reference),
            },
            Compare::Gsm8k => {
                let (answer, reference) = (without_units(answer), without_units(reference));
                match (whole_number(&answer), whole_number(&reference)) {
                    (Some(answer), Some(reference)) => answer == reference,
                    _ => normal.apply(&answer) == normal.apply(&reference),
                }
            }
        }
    }

    /// The form in which an answer is compared, where that is a text of its own.
    pub fn form(self, answer: Cow<'_, str>) -> Cow<'_, str> {
        match self {
            Compare::Text | Compare::Number => answer,
            Compare::Math => math::normal_form(&answer).map_or(answer, Cow::Owned),
            Compare::Gsm8k => without_units(&answer).into(),
        }
    }
}

impl Normalization {
    fn apply(self, text: &str) -> Cow<'_, str> {
        let text = if self.trim { text.trim() } else { text };
        if self.ignore_case { text.to_lowercase().into() } else { text.into() }
    }
}

fn without_units(answer: &str) -> String {
    answer.replace([',', '$', '%', 'g'], "").trim().to_owned()
}

/// The sign and the digits of a whole number.
fn whole_number(text: &str) -> Option<(bool, &str)> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let digits = digits.trim_start_matches('0');
    all.then_some((text.starts_with('-') && !digits.is_empty(), digits))
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

    #[test]
    fn the_authors_of_the_paper_compare_whole_numbers() {
        let equal = |a, b| Compare::Gsm8k.equal(a, b, PLAIN);
        assert!(equal("$1,800", "1800") && equal("007", "7") && equal("-0", "0"));
        assert!(equal("5 g", "5") && equal("50%", "50") && equal("1.50", "1.50"));
        assert!(!equal("1.5", "1.50") && !equal("-3", "3") && !equal("5 dollars", "5"));
    }

    #[test]
    fn malformed_answers_are_compared_as_they_are() {
        let equal = |a, b| Compare::Math.equal(a, b, PLAIN);
        assert!(equal(r"\tfrac12", r"\frac{1}{2}") && equal(r"\sqrt", r"\sqrt"));
        assert!(!equal(r"\sqrt", r"\sqrt{}"));
    }
}
