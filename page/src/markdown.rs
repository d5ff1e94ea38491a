//! The report as Markdown, for a pull request.

use std::fmt::Write;

use refrain_engine::report::comparison::CONFIDENCE;
use refrain_engine::report::page::Page;

use crate::escape::is_hidden;
use crate::number::{number, p_value, signed, time};
use crate::section::{comparisons, facts, published, results, run, subject};

/// Rows of a table that are listed.
const ROWS: usize = 60;

/// Writes the report.
pub fn markdown(page: &Page) -> String {
    let mut text = format!("# {}\n", plain(&page.name));
    if let Some(description) = &page.description {
        let _ = write!(text, "\n{}\n", plain(description.trim()));
    }
    let facts: Vec<String> = facts(page).into_iter().map(|(_, fact)| fact).collect();
    let _ = write!(text, "\n{}\n", plain(&facts.join(" · ")));
    for absence in &page.absent {
        let because = plain(&absence.because);
        let _ = write!(text, "\n> Absent: {} ({because}; {}).\n", absence.parts, absence.remedy);
    }
    claims(page, &mut text);
    compared(page, &mut text);
    figures(page, &mut text);
    graph(page, &mut text);
    stages(page, &mut text);
    sources(page, &mut text);
    text
}

/// Writes a table, where it has rows.
fn table(text: &mut String, heading: &str, columns: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let all = rows.len();
    let columns: Vec<String> = columns.iter().map(|column| plain(column)).collect();
    let _ = write!(text, "\n## {heading}\n\n| {} |\n", columns.join(" | "));
    let _ = writeln!(text, "|{}", " --- |".repeat(columns.len()));
    for row in rows.into_iter().take(ROWS) {
        let cells: Vec<String> = row.iter().map(|cell| plain(cell)).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    if all > ROWS {
        let _ = writeln!(text, "\n{ROWS} of {all} rows.");
    }
}

fn claims(page: &Page, text: &mut String) {
    let row = |claim: &refrain_engine::report::page::Claim| {
        vec![
            subject(claim),
            published(claim),
            claim.obtained.map_or("–".into(), number),
            claim.verdict.words().to_owned(),
            claim.source.clone().unwrap_or_default(),
        ]
    };
    let columns = ["condition", "published", "obtained", "outcome", "source"];
    let rows = page.claims.iter().map(row).collect();
    table(text, "Published against obtained", &columns, rows);
}

fn compared(page: &Page, text: &mut String) {
    let row = |row: &refrain_engine::report::comparison::ComparedRow| {
        let arms = format!("{} − {}", row.arms[0], row.arms[1]);
        let result = row.result.as_ref();
        let interval = result.and_then(|result| result.interval(CONFIDENCE));
        let p = row.corrected.as_ref().and_then(|corrected| corrected.first());
        vec![
            row.name.clone(),
            arms,
            row.published.map(signed).unwrap_or_default(),
            result.map_or("no result".into(), |result| signed(result.estimate)),
            interval
                .map(|i| format!("{} to {}", signed(i.low), signed(i.high)))
                .unwrap_or_default(),
            p.copied().map(p_value).unwrap_or_default(),
            comparisons::claims(row),
        ]
    };
    let columns =
        ["comparison", "arms", "published", "difference", "95 % interval", "corrected p", "claim"];
    table(text, "Comparisons", &columns, page.comparisons.iter().map(row).collect());
}

fn figures(page: &Page, text: &mut String) {
    let axes = results::axes(page);
    let headings = page.results.columns.iter().map(|column| column.heading.clone());
    let columns: Vec<String> = axes.into_iter().chain(headings).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let row = |row: &refrain_engine::report::results::Row| {
        let cells = row.cells.iter().map(|cell| match cell {
            None => String::new(),
            Some(cell) => match cell.published {
                None => results::cell_text(cell),
                Some(value) => {
                    format!("{} (published {})", results::cell_text(cell), number(value))
                }
            },
        });
        results::labels(page, row).into_iter().chain(cells).collect()
    };
    table(text, "Results", &columns, page.results.rows.iter().map(row).collect());
}

/// The graph as Mermaid, which code hosts draw.
fn graph(page: &Page, text: &mut String) {
    if page.stages.len() > ROWS {
        let _ = write!(text, "\n{} stages and sources.\n", page.stages.len());
        return;
    }
    text.push_str("\n## Graph\n\n```mermaid\nflowchart LR\n");
    for (i, stage) in page.stages.iter().enumerate() {
        let (open, close) = if stage.is_source { ("([", "])") } else { ("[", "]") };
        let times =
            if stage.nodes.len() > 1 { format!(" ×{}", stage.nodes.len()) } else { String::new() };
        let name = quoted(&stage.name);
        let _ = writeln!(
            text,
            "    n{i}{open}\"{name}<br/><small>{}{times}</small>\"{close}",
            stage.kind
        );
    }
    for edge in &page.edges {
        let arms = edge.arms.as_ref().map(|arms| format!("|\"{}\"|", quoted(arms)));
        let _ = writeln!(text, "    n{} -->{} n{}", edge.from, arms.unwrap_or_default(), edge.to);
    }
    text.push_str("```\n");
}

fn stages(page: &Page, text: &mut String) {
    let row = |stage: &refrain_engine::report::page::PageStage| {
        let states: Vec<String> = run::states(&stage.counts).into_iter().map(|(_, s)| s).collect();
        vec![
            stage.name.clone(),
            stage.kind.to_owned(),
            stage.nodes.len().to_string(),
            states.join(", "),
            run::whys(stage),
            if stage.seconds > 0.0 { time(stage.seconds) } else { String::new() },
            stage.profiles.join(", "),
        ]
    };
    let columns = ["stage", "kind", "nodes", "state", "why it ran", "time", "on"];
    table(text, "The run", &columns, page.stages.iter().map(row).collect());
}

fn sources(page: &Page, text: &mut String) {
    let row = |source: &refrain_engine::report::page::SourceFile| {
        let name = page.nodes[source.node as usize].name.clone();
        let file = source.file.map(|file| file.to_string()).unwrap_or_default();
        vec![
            name,
            source.path.clone(),
            file,
            source.rows.map(|n| n.to_string()).unwrap_or_default(),
        ]
    };
    let columns = ["source", "file", "BLAKE3", "rows"];
    table(text, "Files that are read", &columns, page.sources.iter().map(row).collect());
    let lock = page.lock_digest.map(|digest| digest.to_string());
    let _ = write!(
        text,
        "\nWorkflow `{}`, lock {}. Every node's key and digests stand in the lock.\n",
        page.text_digest,
        lock.map_or("absent".into(), |digest| format!("`{digest}`")),
    );
}

/// A text in which nothing is markup, a link, a mention or a reference to an issue.
fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(' '),
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '@' => shown.push_str("&#64;"),
            '#' => shown.push_str("&#35;"),
            ':' if shown.ends_with("http") || shown.ends_with("https") => shown.push_str("&#58;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' | '!' => {
                shown.push('\\');
                shown.push(c);
            }
            c if is_hidden(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// A text in the quotes of a Mermaid label.
fn quoted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.' | '/' | ',' | '=') => {
                shown.push(c);
            }
            '\n' | '\t' => shown.push(' '),
            c if is_hidden(c) => shown.extend(c.escape_unicode().filter(|c| c.is_alphanumeric())),
            c => {
                let _ = write!(shown, "#{};", u32::from(c));
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_markup_and_no_mention() {
        let hostile = "</td>|@team #12 `x` [a](https://b) ![i](j) \u{202e}<img onerror=x>\n# h";
        let shown = plain(hostile);
        for mark in ["<", "@", "https://", " #", "\n", "\u{202e}"] {
            assert!(!shown.contains(mark), "`{mark}` in {shown}");
        }
        assert!(shown.contains("\\|") && shown.contains("\\[a\\](https&#58;//b)"), "{shown}");
        assert_eq!(quoted("a\"]<b>"), "a#34;#93;#60;b#62;");
    }
}
