//! Writes data to stdout: lines, aligned tables, JSON.

use std::io::Write;

use unicode_width::UnicodeWidthStr;

use crate::failure::{drives, shown};

/// Writes a text as it is. A reader that went away, as in `| head`, is no error.
#[expect(clippy::exit, reason = "nobody reads any more, which is no error")]
pub fn text(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        // Nobody reads any more; what follows would be lost too.
        std::process::exit(0);
    }
}

/// Writes a line; control characters in it are shown, not obeyed.
pub fn line(text_: &str) {
    text(&format!("{}\n", shown(text_)));
}

/// Writes a JSON document.
pub fn json(value: &serde_json::Value) {
    text(&escaped(&format!("{value:#}\n")));
}

/// JSON with every character escaped that would drive a terminal: JSON itself only wants it of some of them.
pub fn escaped(json: &str) -> String {
    if !json.contains(drives) {
        return json.to_owned();
    }
    // None of them stands outside of a text, or needs more than four digits.
    let escape =
        |c: char| if drives(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    json.chars().map(escape).collect()
}

/// Writes rows under headings, columns aligned; a column of numbers is aligned to the right.
pub fn table(headings: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        return;
    }
    let width = |c: usize| {
        let cells = rows.iter().map(|r| r.get(c).map_or(0, |t| shown(t).width()));
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
        push(&mut row.iter().map(|t| shown(t)));
    }
    text(&out);
}

/// `1 node`, `2 nodes`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `1 process is`, `2 processes are`.
pub fn process(n: usize) -> String {
    format!("{n} {}", if n == 1 { "process is" } else { "processes are" })
}
