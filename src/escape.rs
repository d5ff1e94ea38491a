//! Text for the terminal: colours, and characters that would drive it.

use std::io::IsTerminal;

/// Whether stderr takes colour.
pub fn colour() -> bool {
    std::io::stderr().is_terminal() && !no_color()
}

/// Whether NO_COLOR is set.
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Text for the terminal: what would drive it is shown, not obeyed.
pub fn escape_controls(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match is_terminal_control(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// Whether a terminal would do more with a character than show it: control characters, and those that turn the
/// direction of a text round, so that it reads as another.
pub fn is_terminal_control(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() && c != '\n' && c != '\t' || turns
}

/// The line of a workflow in which a problem lies, each character of it that drives a terminal replaced by one of the
/// same length, so that places stay as they are.
pub fn masked_line(line: &str) -> String {
    let same_length = |c: char| match c.len_utf8() {
        1 => '?',
        2 => '\u{b7}',
        _ => '\u{fffd}',
    };
    line.chars().map(|c| if is_terminal_control(c) { same_length(c) } else { c }).collect()
}
