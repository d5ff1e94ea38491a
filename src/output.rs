//! Writes data to stdout and remarks to stderr. Nothing else writes to stdout.

use std::io::{self, Write};
use std::sync::OnceLock;

use unicode_width::UnicodeWidthStr;

use crate::escape::{escape_controls, is_terminal_control};

/// The error with which stdout refused data; nothing is written after it.
static REFUSED: OnceLock<io::Error> = OnceLock::new();

/// Writes a text as it is. Where stdout refuses it, [`lost`] says so.
pub fn text(text: &str) {
    if REFUSED.get().is_some() {
        return;
    }
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Only one thread prints data, so nobody else was faster.
        let _first = REFUSED.set(error);
    }
}

/// Returns the error with which stdout refused data that somebody waits for.
///
/// A reader that went away, as in `| head`, has what it wants.
pub fn lost() -> Option<&'static io::Error> {
    REFUSED.get().filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
}

/// Prints a line for people on stderr; control characters in it are shown, not obeyed.
pub fn remark(text: &str) {
    progress(&format!("{}\n", escape_controls(text)));
}

/// Writes to stderr as it is. A stderr that went away is no reason to end a command.
pub fn progress(text: &str) {
    let _unread = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes a line; control characters in it are shown, not obeyed.
pub fn line(text_: &str) {
    text(&format!("{}\n", escape_controls(text_)));
}

/// Writes a JSON document.
pub fn json(value: &serde_json::Value) {
    text(&json_text(value));
}

/// Formats a JSON document.
pub fn json_text(value: &serde_json::Value) -> String {
    escaped(&format!("{value:#}\n"))
}

/// JSON with every character escaped that would drive a terminal: JSON itself only wants it of some of them.
pub fn escaped(json: &str) -> String {
    if !json.contains(is_terminal_control) {
        return json.to_owned();
    }
    // None of them stands outside of a text, or needs more than four digits.
    let escape = |c: char| {
        if is_terminal_control(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }
    };
    json.chars().map(escape).collect()
}

/// Writes rows under headings, as [`table_text`] formats them.
pub fn table(headings: &[&str], rows: &[Vec<String>]) {
    text(&table_text(headings, rows));
}

/// Formats rows under headings, columns aligned; a column of numbers is aligned to the right.
pub fn table_text(headings: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let width = |c: usize| {
        let cells = rows.iter().map(|r| r.get(c).map_or(0, |t| escape_controls(t).width()));
        cells.chain([headings[c].width()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let numeric: Vec<bool> = (0..headings.len())
        .map(|c| {
            let begins = |t: &String| {
                t.is_empty() || t.starts_with(|ch: char| ch.is_ascii_digit() || ch == '-')
            };
            rows.iter().all(|r| r.get(c).is_none_or(begins))
        })
        .collect();
    let mut out = String::new();
    let mut push = |cells: &mut dyn Iterator<Item = String>| {
        let mut row = String::new();
        for (c, cell) in cells.enumerate() {
            let pad = " ".repeat(widths[c].saturating_sub(cell.width()));
            row.push_str(&if numeric[c] {
                format!("{pad}{cell}  ")
            } else {
                format!("{cell}{pad}  ")
            });
        }
        out.push_str(row.trim_end());
        out.push('\n');
    };
    push(&mut headings.iter().map(|h| h.to_string()));
    for row in rows {
        push(&mut row.iter().map(|t| escape_controls(t)));
    }
    out
}

/// `1 node`, `2 nodes`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `1 process is`, `2 processes are`.
pub fn process(n: usize) -> String {
    format!("{n} {}", if n == 1 { "process is" } else { "processes are" })
}
