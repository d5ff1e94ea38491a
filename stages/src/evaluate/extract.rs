//! Finds the answer in a text.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::boxed::last_boxed;
use super::choice;
use super::number::numbers;
use crate::options::Options;

/// A way to find the answer in a text.
#[derive(Debug, Clone)]
pub enum Extract {
    /// The whole text, unless it is white space alone.
    Whole {
        /// Removes white space around it.
        trim: bool,
    },
    /// The last number.
    LastNumber,
    /// The number directly behind the last `####` that has one, as GSM8K marks its answers (Cobbe
    /// and others 2021); without such a mark the last number. A heading (`#### Step 2`) is not a
    /// mark.
    Marked,
    /// The last line behind the last `####`, where any `#### ` is, as the evaluator of arXiv
    /// 2501.14315 takes it.
    LastLineMarked,
    /// The content of the last `\boxed{…}`.
    Boxed,
    /// The content of the last fenced block of Markdown, without the name of its language.
    CodeBlock,
    /// The label of an option.
    Choice,
    /// The first word behind `Answer:`, as the evaluator of arXiv 2501.14315 takes it.
    Arc,
    /// The text behind the last occurrence of a mark, up to the end of its line.
    After(String),
    /// The first group of the first match, or the whole match of a pattern without groups. It may
    /// be empty.
    Regex {
        /// The pattern.
        pattern: Regex,
        /// Removes white space around what is found.
        trim: bool,
    },
}

impl Extract {
    /// Finds the answer; `None` when there is none.
    pub(super) fn find<'t>(&self, text: &'t str, options: &Options<'t>) -> Option<Cow<'t, str>> {
        let found = match self {
            Extract::Whole { trim } => {
                let trimmed = text.trim();
                let whole = if *trim { trimmed } else { text };
                Some(whole).filter(|_| !trimmed.is_empty())
            }
            Extract::LastNumber => last_number(text),
            Extract::Marked => {
                let mut lines =
                    text.rmatch_indices("####").map(|(at, mark)| &text[at + mark.len()..]);
                lines.find_map(|rest| marked_number(first_line(rest))).or_else(|| last_number(text))
            }
            Extract::LastLineMarked => last_line_marked(text),
            Extract::Boxed => last_boxed(text),
            Extract::CodeBlock => code_block(text),
            Extract::Choice => return choice::find(text, options),
            Extract::Arc => return choice::find_as_arc(text).map(Cow::Owned),
            Extract::After(mark) => rest_of_line(text, mark).filter(|rest| !rest.is_empty()),
            Extract::Regex { pattern, trim } => {
                let found = pattern.captures(text)?;
                let group = if pattern.captures_len() > 1 { found.get(1) } else { found.get(0) };
                group.map(|group| if *trim { group.as_str().trim() } else { group.as_str() })
            }
        };
        found.map(Cow::Borrowed)
    }
}

fn last_line_marked(text: &str) -> Option<&str> {
    let at = text.rfind("####").filter(|_| text.contains("#### "))?;
    text[at + "####".len()..].trim().lines().next_back()
}

static FENCED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?s)```(?:[\w+-]*[ \t]*\r?\n|[a-zA-Z]+[ \t])?(.*?)(?:```|$)").ok()
});

fn code_block(text: &str) -> Option<&str> {
    let last = FENCED.as_ref()?.captures_iter(text).last()?;
    last.get(1).map(|block| block.as_str().trim()).filter(|block| !block.is_empty())
}

fn rest_of_line<'t>(text: &'t str, mark: &str) -> Option<&'t str> {
    text.rfind(mark).map(|at| first_line(&text[at + mark.len()..]))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("").trim()
}

fn last_number(text: &str) -> Option<&str> {
    numbers(text).last().map(|found| found.text)
}

/// Finds the number with which a line begins, be it behind markup, a colon or an equals sign. A
/// list of numbers is an answer as a whole.
fn marked_number(line: &str) -> Option<&str> {
    let mut found = numbers(line);
    let mut number = found.next()?;
    let before = line[..number.start]
        .trim_end_matches(|c: char| c.is_whitespace() || "*_`~({[\\$".contains(c));
    let direct = ["", "\\boxed", "\\text"].contains(&before) || before.ends_with(['=', ':']);
    if !direct {
        return None;
    }

    // Of `5 + 3 = 8` the answer is behind the equals sign.
    while line[number.end()..].trim_start().starts_with('=')
        && let Some(next) = found.next()
    {
        number = next;
    }

    let after = line[number.end()..].trim_start();
    let is_heading = after.strip_prefix(['.', ')', ':']).is_some_and(|title| {
        title.starts_with(char::is_whitespace)
            && title.trim_start().starts_with(char::is_alphabetic)
    });
    let listed = after.strip_prefix(',').is_some_and(|next| {
        found.next().is_some_and(|next_number| next.trim_start().starts_with(next_number.text))
    });
    match (is_heading, listed) {
        (true, _) => None,
        (false, true) => Some(line),
        (false, false) => Some(number.text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'t>(extract: &Extract, text: &'t str) -> Option<Cow<'t, str>> {
        extract.find(text, &Options::default())
    }

    #[test]
    fn the_number_behind_the_mark_goes_before_the_last_number() {
        for (text, answer) in [
            ("9 x 2 = #### 18 dollars\nQ: 5 apples", Some("18")),
            ("#### 1 #### blue \n7", Some("1")),
            ("so 7 or 8.", Some("8")),
            ("#### 1/2", Some("1/2")),
            ("#### 3, 4", Some("3, 4")),
            ("#### x = $1,800, no less", Some("1,800")),
            ("#### 5 + 3 = 8", Some("8")),
            ("#### **72**\nThat is 1 more.", Some("72")),
            ("#### \\boxed{72} of 80", Some("72")),
            ("#### Answer: -$4.50 of 80", Some("-$4.50")),
            ("#### 1 000", Some("1 000")),
            // Headings, and marks with nothing behind them.
            ("So 8 + 64 = 72.\n#### Final Answer\nThe answer is 72.", Some("72")),
            ("#### Step 1\nHe has 5.\n#### Step 2\n5+3=8\n\nThe answer is **8**.", Some("8")),
            ("#### 1. Count\n5\n#### 2. Add\nThe answer is 8.", Some("8")),
            ("The answer is 72\n#### ", Some("72")),
            ("#### 72\n#### Explanation of 5 steps", Some("72")),
            ("#### blue", None),
            ("####", None),
            ("no idea", None),
        ] {
            assert_eq!(find(&Extract::Marked, text).as_deref(), answer, "{text}");
        }
    }

    #[test]
    fn after_takes_the_last_mark_to_the_end_of_its_line() {
        let after = Extract::After("A: ".into());
        assert_eq!(find(&after, "A: 1\nA:  2 \nB: 3").as_deref(), Some("2"));
        assert_eq!(find(&after, "B: 3"), None);
        assert_eq!(find(&after, "A: "), None);
    }

    #[test]
    fn a_regex_gives_its_first_group_as_it_is() {
        let found = |pattern, trim, text| {
            let regex = Extract::Regex { pattern: Regex::new(pattern).unwrap(), trim };
            find(&regex, text).map(Cow::into_owned)
        };
        assert_eq!(found(r"is (\w+)", false, "it is red, it is blue").as_deref(), Some("red"));
        assert_eq!(found(r"\d+", false, "a 12 b 13").as_deref(), Some("12"));
        assert_eq!(found(r"x(y)?", false, "x"), None);
        assert_eq!(found(r"x(.*)", false, "x").as_deref(), Some(""));
        assert_eq!(found(r"x(.*)", false, "x y ").as_deref(), Some(" y "));
        assert_eq!(found(r"x(.*)", true, "x y ").as_deref(), Some("y"));
    }

    #[test]
    fn the_last_block_is_found_without_its_language() {
        for (text, block) in [
            ("```sql\nSELECT 1\n```\nor\n```SQL\nSELECT 2;\n```\ndone", Some("SELECT 2;")),
            ("So:\n```\nSELECT 1", Some("SELECT 1")),
            ("```sql SELECT 1```", Some("SELECT 1")),
            ("```\n```", None),
            ("SELECT 1", None),
        ] {
            assert_eq!(find(&Extract::CodeBlock, text).as_deref(), block, "{text}");
        }
    }

    #[test]
    fn the_authors_of_the_paper_take_the_last_line_behind_the_last_mark() {
        for (text, answer) in [
            ("so #### 18", Some("18")),
            ("#### 1\n#### 2,000 g\n", Some("2,000 g")),
            ("#### 18\nThat is all.", Some("That is all.")),
            ("#### 5 ####7", Some("7")),
            ("####18", None),
            ("18", None),
        ] {
            assert_eq!(find(&Extract::LastLineMarked, text).as_deref(), answer, "{text}");
        }
    }
}
