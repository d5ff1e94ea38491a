//! The label that a response to a multiple-choice question chooses.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::boxed::last_boxed;
use crate::options::Options;

/// Letters that stand for the first options in other scripts: Arabic, and the two customs of
/// Bengali.
const ELSEWHERE: [&[char]; 4] =
    [&['أ', 'ا', 'অ', 'ক'], &['ب', 'ব', 'খ'], &['ج', 'ড', 'গ'], &['د', 'ঢ', 'ঘ']];

/// Words behind which `A` is a label and not the article.
const AFTER_LABEL: [&str; 6] = ["because", "since", "as", "is", "and", "which"];

/// The last words before an answer that is stated, with the markup behind them.
static STATED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let mark = r"\b(?:answer|choice|option)\b[*_]*(?:\s+(?:choice|option|letter))?[\s*_]*";
    let verb = r"(?:(?:is|was|would be|should be)\b|=|:|：)[\s*_:]*";
    let noun = r"(?:(?:the|option|choice|letter)\s+)*";
    Regex::new(&format!("(?i){mark}{verb}{noun}")).ok()
});

/// The markup around a label, or around text in a formula.
static WRAPPED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#"^(?:\\(?:boxed|text|textbf|mathrm|mathbf|bf)\b|\\?[({\[]|[\s*_`$"'“‘])+"#).ok()
});

/// Finds the label that a response chooses: behind the last statement of an answer, in the last box,
/// at the beginning or alone on the last line, or as the text of an option.
pub(super) fn find<'t>(text: &'t str, options: &Options<'t>) -> Option<Cow<'t, str>> {
    stated(text, options)
        .or_else(|| last_boxed(text).and_then(|inner| label_alone(inner, options)))
        .or_else(|| label_first(text, options))
        .or_else(|| label_alone(text.trim_end().lines().next_back()?, options))
        .or_else(|| options.label_of_text(text))
}

fn stated<'t>(text: &'t str, options: &Options<'t>) -> Option<Cow<'t, str>> {
    let ends: Vec<usize> = STATED.as_ref()?.find_iter(text).map(|found| found.end()).collect();
    ends.iter().rev().find_map(|&end| {
        let rest = unwrapped(&text[end..]);
        let line = rest.lines().next().unwrap_or_default();
        label_at(rest, options).map(|(label, _)| label).or_else(|| options.label_of_text(line))
    })
}

/// A label alone on the first line, or before the text of an option that is all of the response.
fn label_first<'t>(text: &'t str, options: &Options<'t>) -> Option<Cow<'t, str>> {
    let mut lines = text.trim().lines();
    let first = lines.next()?;
    if let Some(label) = label_alone(first, options) {
        return Some(label);
    }
    let (label, after) = label_at(unwrapped(first), options)?;
    let ends =
        after.trim_start_matches(['*', '_', '$', '}', '`']).starts_with(['.', ')', ']', ':']);
    (ends && lines.next().is_none()).then_some(label)
}

/// A label with nothing but markup around it.
fn label_alone<'t>(text: &'t str, options: &Options<'t>) -> Option<Cow<'t, str>> {
    let (label, after) = label_at(unwrapped(text), options)?;
    let markup = |c: char| c.is_whitespace() || "*_$})].`\"'”’\\".contains(c);
    after.chars().all(markup).then_some(label)
}

fn unwrapped(text: &str) -> &str {
    let end =
        WRAPPED.as_ref().and_then(|pattern| pattern.find(text)).map_or(0, |found| found.end());
    &text[end..]
}

/// The label with which a text begins, and what is behind it.
fn label_at<'t>(text: &'t str, options: &Options<'t>) -> Option<(Cow<'t, str>, &'t str)> {
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    if word.is_empty() || is_article(word, after) {
        return None;
    }
    if let Some(label) = options.label(word) {
        return Some((label, after));
    }

    let mut letters = word.chars();
    let (letter, None) = (letters.next()?, letters.next()) else { return None };
    let written = |at: &u32| char::from_u32(*at).filter(char::is_ascii_alphanumeric);
    // Full-width forms lie at a fixed distance from ASCII.
    let plain = (letter as u32).checked_sub(0xFEE0).as_ref().and_then(written).unwrap_or(letter);
    let delimited = after.is_empty() || after.starts_with(|c| ".)]}:,*$`\"\n\r\\".contains(c));
    let number = match plain {
        'A'..='Z' => plain as usize - 'A' as usize,
        // A small letter in a sentence is a word.
        'a'..='z' if delimited => plain as usize - 'a' as usize,
        '1'..='9' => plain as usize - '1' as usize,
        _ => ELSEWHERE.iter().position(|letters| letters.contains(&plain))?,
    };
    Some((options.label_number(number, plain.is_ascii_digit())?, after))
}

/// Whether `A` or `I` begins a sentence of its own.
fn is_article(word: &str, after: &str) -> bool {
    let next = after.split_whitespace().next().unwrap_or_default();
    ["A", "I", "a", "i"].contains(&word)
        && after.starts_with(' ')
        && next.starts_with(char::is_lowercase)
        && !AFTER_LABEL.contains(&next.trim_end_matches(|c: char| c.is_ascii_punctuation()))
}

/// The marks that the evaluator of arXiv 2501.14315 removes before it looks for the answer.
const ARC_REMOVED: [&str; 13] = [
    "**",
    "$\\boxed{",
    "}$",
    "\\$",
    "$\\text{",
    "$",
    "\\mathrm{",
    "\\{",
    "\\text",
    "\\(",
    "\\mathbf{",
    "{",
    "\\boxed",
];

/// The characters that it takes for the letters A to D.
const ARC_LETTERS: [(&str, &str); 12] = [
    ("أ", " A"),
    ("ب", " B"),
    ("ج", " C"),
    ("د", " D"),
    ("অ", " A"),
    ("ব", " B"),
    ("ড", " C"),
    ("ঢ", " D"),
    ("Ａ", " A"),
    ("Ｂ", " B"),
    ("Ｃ", " C"),
    ("Ｄ", " D"),
];

static ARC: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"Answer\s*:\s*(\w+)").ok());

/// The first word behind `Answer:`, as the evaluator of arXiv 2501.14315 takes it.
pub(super) fn find_as_arc(text: &str) -> Option<String> {
    let text = text.trim();
    let mark = if text.contains("Answer: ") { "" } else { "Answer: " };
    let removed = |text: String, what: &&str| text.replace(what, "");
    let text = ARC_REMOVED.iter().fold(format!("{mark}{text}"), removed);
    let word = ARC.as_ref()?.captures(&text)?.get(1)?.as_str();
    let mapped = |word: String, (letter, ours): &(&str, &str)| word.replace(letter, ours);
    Some(ARC_LETTERS.iter().fold(word.to_owned(), mapped).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters() -> Options<'static> {
        Options::new(
            ["A", "B", "C", "D"].map(Cow::Borrowed).into(),
            vec!["iron", "a good conductor", "salt water", "air"],
        )
    }

    fn found(text: &str, options: &Options<'static>) -> Option<String> {
        find(text, options).map(Cow::into_owned)
    }

    #[test]
    fn the_stated_label_is_found() {
        for (text, label) in [
            ("D", "D"),
            ("(b)", "B"),
            ("**Answer: C**", "C"),
            ("answer: B", "B"),
            ("Answer:\nD", "D"),
            ("Answer: (D)", "D"),
            ("Answer: $\\boxed{\\text{B}}$.", "B"),
            ("The best choice is A.", "A"),
            ("The answer is A because iron rusts.", "A"),
            ("The correct answer is option C, not B.", "C"),
            // The last statement counts.
            ("Some steps. Answer: B\nAnswer: A", "A"),
            ("I thought the answer is B.\nNo: so \\boxed{C}", "B"),
            ("Hence \\(\\boxed{\\mathrm{C}}\\) holds.", "C"),
            ("D. air", "D"),
            ("It conducts.\n\nB", "B"),
            ("B\n\nIt conducts.", "B"),
            ("1. Rust is red.\n2. Salt is not.\n\nThe answer isn't B. So the answer is C", "C"),
            ("The answer is a good conductor.", "B"),
            ("Salt water.", "C"),
            // By number, and in other scripts.
            ("Answer: 3", "C"),
            ("الإجابة\nAnswer: ب", "B"),
            ("Answer: ক", "A"),
            ("Answer: ঢ", "D"),
            ("Answer: Ｃ", "C"),
            ("Ｄ", "D"),
        ] {
            assert_eq!(found(text, &letters()).as_deref(), Some(label), "{text}");
        }
        for text in ["", "no idea", "A good idea would be to wait.", "Answer: 42", "Answer: E"] {
            assert_eq!(found(text, &letters()), None, "{text}");
        }
    }

    #[test]
    fn the_labels_are_those_of_the_row() {
        let numerals = Options::new(["1", "2", "3"].map(Cow::Borrowed).into(), vec!["a", "b", "c"]);
        for (text, label) in [("Answer: 2", "2"), ("Answer: B", "2"), ("3) c", "3")] {
            assert_eq!(found(text, &numerals).as_deref(), Some(label), "{text}");
        }
        assert_eq!(found("Answer: 4", &numerals), None);
        // Without options a letter is its own label.
        assert_eq!(found("Answer: E", &Options::default()).as_deref(), Some("E"));
        assert_eq!(found("Answer: 4", &Options::default()).as_deref(), Some("4"));
    }

    #[test]
    fn the_authors_rule_takes_the_first_word() {
        for (text, word) in [
            ("D", "D"),
            ("Answer:\nD", "Answer"),
            ("**Answer: C**", "C"),
            ("answer: B", "answer"),
            ("Answer: $\\boxed{B}$", "B"),
            ("Some steps. Answer: B\nAnswer: A", "B"),
            ("The best choice is A.", "The"),
            ("Answer: ঢ", "D"),
            ("Answer: Ｃ", "C"),
        ] {
            assert_eq!(find_as_arc(text).as_deref(), Some(word), "{text}");
        }
        assert_eq!(find_as_arc("Answer: (D)"), None);
    }
}
