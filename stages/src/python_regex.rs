//! Patterns of Python's `re`, in the dialect of our engine: no look-around, no references to groups.

use std::borrow::Cow;

use regex::{Captures, Regex};

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct PythonRegex {
    regex: Regex,
    /// Whether it has a `$`, which matches before a line feed at the end of a text too.
    has_end: bool,
}

impl PythonRegex {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it, as a fragment.
    pub fn new(pattern: &str) -> Result<PythonRegex, String> {
        let (translated, has_end) = translate(pattern);
        match Regex::new(&translated) {
            Ok(regex) => Ok(PythonRegex { regex, has_end }),
            Err(regex::Error::CompiledTooBig(_)) => Err("it is too large when compiled".into()),
            Err(error) => {
                // The last line of a syntax error is what is wrong; those before it draw the place.
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default().trim();
                Err(last.trim_start_matches("error: ").to_owned())
            }
        }
    }

    /// Finds what `findall` does: of each match the only group, of several groups the first that is
    /// not empty (`None` where all are), without groups the whole.
    pub fn find_all<'t>(&self, text: &'t str) -> Vec<Option<&'t str>> {
        let (text, _) = self.split(text);
        let found = |captures: Captures<'t>| {
            let group = |number: usize| captures.get(number).map_or("", |group| group.as_str());
            match captures.len() {
                1 => Some(group(0)),
                2 => Some(group(1)),
                count => (1..count).map(group).find(|group| !group.is_empty()),
            }
        };
        self.regex.captures_iter(text).map(found).collect()
    }

    /// Replaces the first `count` matches, or all where it is 0, by `new` as Python's `re.sub`
    /// reads it.
    pub fn replace<'t>(&self, text: &'t str, new: &str, count: usize) -> Cow<'t, str> {
        let (body, end) = self.split(text);
        match self.regex.replacen(body, count, replacement(new).as_str()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(body) => Cow::Owned(body + end),
        }
    }

    /// Takes a line feed at the end off, where a `$` shall match before it.
    fn split<'t>(&self, text: &'t str) -> (&'t str, &'t str) {
        match text.strip_suffix('\n').filter(|_| self.has_end) {
            Some(body) => (body, "\n"),
            None => (text, ""),
        }
    }
}

/// A replacement in the dialect of our engine: `\1` and `\g<name>` are groups, `$` is no sign.
fn replacement(new: &str) -> String {
    let mut out = String::new();
    let mut rest = new;
    while let Some(at) = rest.find(['\\', '$']) {
        out.push_str(&rest[..at]);
        let sign = &rest[at..];
        rest = &sign[1..];
        if sign.starts_with('$') {
            out.push_str("$$");
        } else if let Some((name, behind)) =
            rest.strip_prefix("g<").and_then(|rest| rest.split_once('>'))
        {
            out.push_str(&format!("${{{name}}}"));
            rest = behind;
        } else if let Some(digit) = rest.chars().next().filter(char::is_ascii_digit) {
            out.push_str(&format!("${{{digit}}}"));
            rest = &rest[1..];
        } else if let Some(behind) = rest.strip_prefix('n') {
            out.push('\n');
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix('\\') {
            out.push('\\');
            rest = behind;
        } else {
            out.push('\\');
        }
    }
    out + rest
}

/// Brings a pattern into our dialect, and says whether it has a `$`.
fn translate(pattern: &str) -> (String, bool) {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut has_end = false;
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        let mut length = first.len_utf8();
        match first {
            '\\' => {
                length += rest[1..].chars().next().map_or(0, char::len_utf8);
                out.push_str(match &rest[..length] {
                    "\\Z" => "\\z",
                    "\\<" => "<",
                    "\\>" => ">",
                    escape => escape,
                });
            }
            '[' => {
                length = class(rest, &mut out);
            }
            '{' => match quantifier(rest) {
                Some(end) => {
                    out.push_str(if rest.starts_with("{,") { "{0" } else { "{" });
                    out.push_str(&rest[1..end]);
                    length = end;
                }
                None => out.push_str("\\{"),
            },
            '$' => {
                has_end = true;
                out.push('$');
            }
            _ => out.push(first),
        }
        rest = &rest[length..];
    }
    (out, has_end)
}

/// Length of a quantifier such as `{2,3}`; other brackets are text.
fn quantifier(rest: &str) -> Option<usize> {
    let end = rest.find('}')?;
    let numbers = &rest[1..end];
    let (low, high) = numbers.split_once(',').unwrap_or((numbers, "0"));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(low) && digits(high) && !numbers.is_empty() && numbers != ",").then_some(end + 1)
}

/// Writes a class of characters, in which our dialect gives `[`, `&`, `~` and `--` a meaning;
/// returns its length.
fn class(rest: &str, out: &mut String) -> usize {
    let mut at = 1;
    out.push('[');
    if rest[at..].starts_with('^') {
        out.push('^');
        at += 1;
    }
    if rest[at..].starts_with(']') {
        out.push_str("\\]");
        at += 1;
    }
    while let Some(next) = rest[at..].chars().next() {
        let mut length = next.len_utf8();
        match next {
            ']' => {
                out.push(']');
                return at + 1;
            }
            '\\' => {
                length += rest[at + 1..].chars().next().map_or(0, char::len_utf8);
                out.push_str(&rest[at..at + length]);
            }
            '[' | '&' | '~' => {
                out.push('\\');
                out.push(next);
            }
            '-' if rest[at + 1..].starts_with('-') => out.push_str("\\-"),
            _ => out.push(next),
        }
        at += length;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'t>(pattern: &str, text: &'t str) -> Vec<Option<&'t str>> {
        PythonRegex::new(pattern).unwrap().find_all(text)
    }

    /// As Python 3.11 says.
    #[test]
    fn matches_are_those_of_python() {
        let strict = r"#### (\-?[0-9\.\,]+)";
        assert_eq!(found(strict, "a #### -1,200.5\n#### 7"), [Some("-1,200.5"), Some("7")]);
        let flexible = r"(-?[$0-9.,]{2,})|(-?[0-9]+)";
        assert_eq!(found(flexible, "so 7, or $18."), [Some("7,"), Some("$18.")]);
        assert_eq!(found(flexible, "7 8"), [Some("7"), Some("8")]);
        assert_eq!(found(r"(a)?(b)?c", "c bc"), [None, Some("b")]);
        assert_eq!(found(r"[[a-b]+", "x[a]"), [Some("[a")]);
        assert_eq!(found(r"[a&&b]+", "x&b&"), [Some("&b&")]);
        assert_eq!(found(r"[]x]+", "a]x"), [Some("]x")]);
        assert_eq!(found(r"\boxed{(\d{,3})}", "boxed oxed{12}"), [Some("12")]);
        assert_eq!(found(r"\w+$", "one two\n"), [Some("two")]);
        assert_eq!(found(r"\w+\Z", "one two\n"), [] as [Option<&str>; 0]);
    }

    #[test]
    fn replacements_are_those_of_python() {
        let replaced = |pattern: &str, text: &str, new: &str, count| {
            PythonRegex::new(pattern).unwrap().replace(text, new, count).into_owned()
        };
        assert_eq!(replaced(r"\.$", "1.2.\n", "", 0), "1.2\n");
        assert_eq!(replaced(r"(?s).*#### ", "a\nb #### 7", "", 0), "7");
        assert_eq!(replaced(r"(\w)(\w)", "ab cd", r"\2\g<1>$", 1), "ba$ cd");
    }

    #[test]
    fn what_our_engine_lacks_is_an_error() {
        for pattern in ["(?=a)", r"(a)\1", "(", "[a"] {
            assert!(PythonRegex::new(pattern).is_err(), "{pattern}");
        }
    }
}
