//! Finds the answer in a text.

use regex::Regex;

/// A way to find the answer in a text.
#[derive(Debug, Clone)]
pub enum Extract {
    /// The whole text; one of white space alone is no answer.
    Whole,
    /// The last number.
    LastNumber,
    /// What follows the last `####` on its line: the first number there, or else that text; without `####` the last
    /// number of the text. GSM8K marks its answers so (Cobbe and others 2021).
    Marked,
    /// What follows the last occurrence of a text, up to the end of its line.
    After(String),
    /// The first group of the first match, or the whole match of a pattern without groups.
    Regex(Regex),
}

impl Extract {
    /// The answer, white space around it removed unless it is the whole; `None` when there is none.
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Extract::Whole => Some(text).filter(|text| !text.trim().is_empty()),
            Extract::LastNumber => numbers(text).last(),
            Extract::Marked => match rest_of_line(text, "####") {
                Some(rest) => {
                    Some(lone_number(rest).unwrap_or(rest)).filter(|rest| !rest.is_empty())
                }
                None => numbers(text).last(),
            },
            Extract::After(mark) => rest_of_line(text, mark).filter(|rest| !rest.is_empty()),
            Extract::Regex(pattern) => {
                let found = pattern.captures(text)?;
                let group = if pattern.captures_len() > 1 { found.get(1) } else { found.get(0) };
                group.map(|group| group.as_str().trim()).filter(|group| !group.is_empty())
            }
        }
    }
}

fn rest_of_line<'t>(text: &'t str, mark: &str) -> Option<&'t str> {
    let rest = &text[text.rfind(mark)? + mark.len()..];
    Some(rest.lines().next().unwrap_or("").trim())
}

/// The first number of a text, unless it goes on to another as `1/2`, `3:30`, `1, 2` and `2^5` do: half of such an answer
/// must not pass for the whole.
fn lone_number(text: &str) -> Option<&str> {
    let number = numbers(text).next()?;
    let (_, after) = text.split_once(number)?;
    let joint = after.trim_start().strip_prefix(['/', ':', ',', '^', '*', '+', '-', '=']);
    let goes_on =
        joint.is_some_and(|rest| rest.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    (!goes_on).then_some(number)
}

/// The numbers of a text: digits, commas between groups of three, one point; a minus sign belongs to a number that no
/// word, number or bracket precedes, so that `10-5` is 10 and 5.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(|c: char| c.is_ascii_digit())?;
        let end = end_of_number(text.as_bytes(), start);
        at = end;
        Some(&text[start_with_sign(text, start)..end])
    })
}

fn end_of_number(bytes: &[u8], start: usize) -> usize {
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = start + digits(start);
    let grouped = end - start <= 3;
    while grouped && bytes.get(end) == Some(&b',') && digits(end + 1) == 3 {
        end += 4;
    }
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        end += if fraction > 0 { fraction + 1 } else { 0 };
    }
    end
}

/// Where a number starts with its point (`.5`), currency sign and minus sign.
fn start_with_sign(text: &str, digits: usize) -> usize {
    let before = |at: usize| text[..at].chars().next_back();
    let joined =
        |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || matches!(c, ')' | ']' | '}'));
    let mut start = digits;
    if before(start) == Some('.') && !joined(before(start - 1)) {
        start -= 1;
    }
    let unsigned = start;
    if before(start) == Some('$') {
        start -= 1;
    }
    if before(start) == Some('-') && !joined(before(start - 1)) { start - 1 } else { unsigned }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_text() {
        let of = |text| numbers(text).collect::<Vec<_>>();
        assert_eq!(of("$1,234.50 and 2."), ["1,234.50", "2"]);
        assert_eq!(of("16-3=<<16-3=13>>13"), ["16", "3", "16", "3", "13", "13"]);
        assert_eq!(of("-5, (-6) x=-7 -$8 .5 -.25"), ["-5", "-6", "-7", "-$8", ".5", "-.25"]);
        assert_eq!(of("1,23 12,345,678 1234,567"), ["1", "23", "12,345,678", "1234", "567"]);
        assert_eq!(of("3.14.15 größe7 ٣"), ["3.14", "15", "7"]);
        assert!(of("none").is_empty());
    }

    #[test]
    fn the_answer_behind_the_mark_goes_before_the_last_number() {
        let find = |text| Extract::Marked.find(text);
        assert_eq!(find("9 x 2 = #### 18 dollars\nQ: 5 apples"), Some("18"));
        assert_eq!(find("#### 1 #### blue \n7"), Some("blue"));
        assert_eq!(find("so 7 or 8."), Some("8"));
        assert_eq!(find("#### 1/2"), Some("1/2"));
        assert_eq!(find("#### 3, 4"), Some("3, 4"));
        assert_eq!(find("#### x = $1,800, no less"), Some("1,800"));
        assert_eq!(find("####"), None);
        assert_eq!(find("no idea"), None);
    }

    #[test]
    fn after_takes_the_last_mark_to_the_end_of_its_line() {
        let after = Extract::After("A: ".into());
        assert_eq!(after.find("A: 1\nA:  2 \nB: 3"), Some("2"));
        assert_eq!(after.find("B: 3"), None);
        assert_eq!(after.find("A: "), None);
    }

    #[test]
    fn a_regex_gives_its_first_group() {
        let regex = |pattern| Extract::Regex(Regex::new(pattern).unwrap());
        assert_eq!(regex(r"is (\w+)").find("it is red, it is blue"), Some("red"));
        assert_eq!(regex(r"\d+").find("a 12 b 13"), Some("12"));
        assert_eq!(regex(r"x(y)?").find("x"), None);
        assert_eq!(regex(r"x(.*)").find("x "), None);
    }
}
