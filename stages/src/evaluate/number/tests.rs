//! One table of spellings: the number that each text holds, and the decimal that it equals.

use super::{Number, numbers};

fn found(text: &str) -> Vec<&str> {
    numbers(text).map(|found| found.text).collect()
}

/// A text, its last number as written, and a plain spelling of the same value; `None` where it
/// equals no number.
const CASES: &[(&str, &str, Option<&str>)] = &[
    // Signs and currencies.
    ("it is -5", "-5", Some("-5")),
    ("it is \u{2212}5.", "\u{2212}5", Some("-5")),
    ("it is -$5", "-$5", Some("-5")),
    ("it is -£5", "-£5", Some("-5")),
    ("it is -\\$5", "-\\$5", Some("-5")),
    ("it is \u{2212}\\$1,234.50", "\u{2212}\\$1,234.50", Some("-1234.5")),
    ("it is -€ 5", "-€ 5", Some("-5")),
    ("it is $-5", "-5", Some("-5")),
    ("it is (-6)", "-6", Some("-6")),
    ("x = - 5", "- 5", Some("-5")),
    ("x=-7", "-7", Some("-7")),
    ("it is 10 -5", "-5", Some("-5")),
    ("$26.00 in all", "26.00", Some("26")),
    ("it is 5%", "5", Some("5")),
    ("- 5 apples", "5", Some("5")),
    // Groups of three.
    ("it is 1,234,567", "1,234,567", Some("1234567")),
    ("it is 1 000", "1 000", Some("1000")),
    ("it is 1'000", "1'000", Some("1000")),
    ("it is 1\u{2019}000", "1\u{2019}000", Some("1000")),
    ("it is 1\u{a0}234\u{a0}567", "1\u{a0}234\u{a0}567", Some("1234567")),
    ("it is 1\u{202f}234.5", "1\u{202f}234.5", Some("1234.5")),
    ("it is 1_000", "1_000", Some("1000")),
    ("it is 1{,}000", "1{,}000", Some("1000")),
    ("it is 1\\,000", "1\\,000", Some("1000")),
    ("it is 1, 000", "000", Some("0")),
    ("in 2020 100 came", "100", Some("100")),
    ("a 0 100", "100", Some("100")),
    // Powers of ten.
    ("it is 1e6.", "1e6", Some("1000000")),
    ("it is 1.5e3", "1.5e3", Some("1500")),
    ("it is 2.5E-3", "2.5E-3", Some("0.0025")),
    ("it is 1e+21", "1e+21", Some("1000000000000000000000")),
    ("it is 1.5 × 10^3", "1.5 × 10^3", Some("1500")),
    ("it is 1.5 \\times 10^{-3}", "1.5 \\times 10^{-3}", Some("0.0015")),
    ("it is 1e99999999999", "1e99999999999", None),
    // Fractions.
    ("it is 1/2.", "1/2", Some("0.5")),
    ("it is 3 / 4", "3 / 4", Some("0.75")),
    ("it is -1/2", "-1/2", Some("-0.5")),
    ("it is 2/6", "2/6", Some("1/3")),
    ("it is 1.5/3", "1.5/3", Some("0.5")),
    ("3 1/2 cups", "3 1/2", Some("3.5")),
    ("3½ cups", "3½", Some("3.5")),
    ("it is ½", "½", Some("0.5")),
    ("it is 1\u{2044}2", "1\u{2044}2", Some("0.5")),
    ("it is \\frac{1}{2}", "\\frac{1}{2}", Some("0.5")),
    ("it is -3\\frac12", "-3\\frac12", Some("-3.5")),
    ("it is 4/1", "4/1", Some("4")),
    ("it is 1/0", "1/0", None),
    // Expressions are found whole, and are no number.
    ("it is 2:3.", "2:3", None),
    ("it is 10-5", "10-5", None),
    ("it is 5 - 3", "5 - 3", None),
    ("it is 2^5", "2^5", None),
    ("it is 2 * 3", "2 * 3", None),
    ("it is 3x4", "3x4", None),
    ("it is 1/2/3", "1/2/3", None),
    ("at 3:30", "3:30", None),
    ("on 2024-01-05", "2024-01-05", None),
    ("it is 3.14.15", "3.14.15", None),
    ("it is 1,23", "1,23", None),
    ("it is 5'10", "5'10", None),
    ("50%-60%", "50%-60", None),
    // The last of several.
    ("16-3=<<16-3=13>>13", "13", Some("13")),
    ("5+3=8", "8", Some("8")),
    ("Step 2: 3", "3", Some("3")),
    ("it is 1, 2 and 5", "5", Some("5")),
    ("größe7 ٣", "7", Some("7")),
    ("it is .5", ".5", Some("0.5")),
    ("it is -.25", "-.25", Some("-0.25")),
    ("it is 007", "007", Some("7")),
    ("it is -0", "-0", Some("0")),
    ("it is **8**.", "8", Some("8")),
    ("\\boxed{72}", "72", Some("72")),
];

#[test]
fn every_spelling_is_found_whole_and_has_its_value() {
    for (text, written, plain) in CASES {
        assert_eq!(found(text).last(), Some(written), "{text}");
        let number = Number::parse(written);
        assert_eq!(number, plain.map(|plain| Number::parse(plain).unwrap()), "{written}");
    }
    assert!(found("none").is_empty());
}

#[test]
fn half_of_an_answer_never_passes() {
    for (text, half) in [
        ("it is 1/2.", "2"),
        ("3/4", "4"),
        ("3 1/2 cups", "2"),
        ("1e6", "6"),
        ("2:3", "3"),
        ("-£5", "5"),
        ("1 000", "0"),
    ] {
        let last = found(text).last().and_then(|written| Number::parse(written));
        assert!(last.is_none_or(|number| Some(number) != Number::parse(half)), "{text}");
    }
}

#[test]
fn numbers_of_a_text_come_in_their_order() {
    assert_eq!(found("$1,234.50 and 2."), ["1,234.50", "2"]);
    assert_eq!(found("16-3=<<16-3=13>>13"), ["16-3", "16-3", "13", "13"]);
    assert_eq!(found("-5, (-6) x=-7 -$8 .5 -.25"), ["-5", "-6", "-7", "-$8", ".5", "-.25"]);
    assert_eq!(found("1,23 12,345,678 1234,567"), ["1,23", "12,345,678", "1234,567"]);
}

#[test]
fn values_are_exact() {
    let number = |text| Number::parse(text).unwrap();
    // Beyond what f64 can tell apart.
    assert_ne!(number("9007199254740993"), number("9007199254740992"));
    assert_ne!(number("0.1"), number("0.1000000000000000055511151231257827"));
    assert_eq!(number("1/3"), number("0.5/1.5"));
    assert_ne!(number("1/3"), number("0.3333333333333333"));
    let long = format!("1{}", "0".repeat(400));
    assert_eq!(number("1e400"), number(&long));
    assert_ne!(number("1e400"), number("1e401"));
    assert_eq!(number("5."), number("5%"));
    assert_eq!(number("5 €"), number("$5"));
    let digits = "7".repeat(100_000);
    assert_eq!(number(&digits), number(&digits));
    assert!(Number::parse(&format!("{digits}/2")).is_none());
    assert!(
        ["", "-", "1.2.3", "5 dollars", "x", "1/", "e5"]
            .iter()
            .all(|text| Number::parse(text).is_none())
    );
}
