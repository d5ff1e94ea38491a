//! The table of comparisons, for people, for Markdown and for programs.

use serde_json::{Value, json};

use refrain_engine::ledger::lock::Compared;
use refrain_engine::report::comparison::{CONFIDENCE, ComparedRow};

use crate::cli::Format;
use crate::escape::escape_controls;
use crate::output;

/// The headings; the published difference has a column where a claim names one.
const HEADINGS: [&str; 9] = [
    "comparison",
    "arms",
    "published",
    "difference",
    "95 % interval",
    "corrected p",
    "ids",
    "seeds",
    "claim",
];
/// The number of the column of published differences.
const PUBLISHED: usize = 2;

/// Formats the table; empty where there are no comparisons. CSV has no place for a second table.
pub fn text(rows: &[ComparedRow], format: Format) -> String {
    if rows.is_empty() || matches!(format, Format::Csv | Format::Json) {
        return String::new();
    }
    let mut cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let mut headings = HEADINGS.to_vec();
    if rows.iter().all(|row| row.published.is_none()) {
        headings.remove(PUBLISHED);
        cells.iter_mut().for_each(|row| drop(row.remove(PUBLISHED)));
    }
    match format {
        Format::Markdown => {
            let mut text = format!("| {} |\n", headings.join(" | "));
            text.push_str(&format!("|{}\n", " --- |".repeat(headings.len())));
            for row in cells {
                text.push_str(&format!("| {} |\n", row.join(" | ").replace('\n', " ")));
            }
            escape_controls(&text)
        }
        _ => output::table_text(&headings, &cells),
    }
}

/// Says of each comparison without a result why it has none.
pub fn reasons(rows: &[ComparedRow]) {
    for row in rows {
        if let Some(reason) = row.reason.as_ref().filter(|_| row.is_wrong) {
            output::remark(&format!("error: comparison `{}` has no result: {reason}", row.name));
        }
    }
}

fn cells(row: &ComparedRow) -> Vec<String> {
    let [first, second] = &row.arms;
    let arms = format!("{first} - {second}");
    let mut claims: Vec<&str> = row.claims.iter().map(|claim| claim.words()).collect();
    claims.dedup();
    let claims = claims.join(", ");
    let published = row.published.map(signed).unwrap_or_default();
    let Some(result) = &row.result else {
        let missing = if row.is_wrong { "no result" } else { "not run" };
        let mut row = vec![row.name.clone(), arms, published, missing.into()];
        row.resize(HEADINGS.len() - 1, String::new());
        row.push(claims);
        return row;
    };

    let interval = result.interval(CONFIDENCE);
    let interval = interval.map(|i| format!("{} to {}", signed(i.low), signed(i.high)));
    let p = row.corrected.as_ref().and_then(|corrected| corrected.first());
    let ids = match (result.ids, result.dropped) {
        (0, _) => String::new(),
        (ids, 0) => ids.to_string(),
        (ids, dropped) => format!("{ids} ({dropped} dropped)"),
    };
    vec![
        row.name.clone(),
        arms,
        published,
        signed(result.estimate),
        interval.unwrap_or_default(),
        p.copied().map(p_value).unwrap_or_default(),
        ids,
        result.differences.len().to_string(),
        claims,
    ]
}

/// Formats a difference with its sign and four significant digits.
pub fn signed(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        value => format!("{value:+.*}", decimals(value)),
    }
}

/// Formats a value with four significant digits, a whole number as it is.
pub fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    format!("{value:.*}", decimals(value))
}

/// Decimals that leave four significant digits, and at most six.
fn decimals(value: f64) -> usize {
    let digits = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    (3 - digits).clamp(0, 6) as usize
}

/// Formats a p-value.
pub fn p_value(p: f64) -> String {
    if p < 0.0001 { "<0.0001".into() } else { format!("{p:.4}") }
}

/// The comparisons as docs/json.md describes them.
pub fn to_json(rows: &[ComparedRow]) -> Vec<Value> {
    rows.iter().map(row_json).collect()
}

/// A comparison as docs/json.md describes it.
pub fn row_json(row: &ComparedRow) -> Value {
    json!({
        "comparison": row.name,
        "of": row.of,
        "arms": row.arms,
        "seeds": row.seeds,
        "result": row.result.as_ref().map(result_json),
        "reason": row.reason,
        "published": row.published,
        "corrected": row.corrected,
        "claims": row.claims,
    })
}

fn result_json(result: &Compared) -> Value {
    serde_json::to_value(result).unwrap_or_default()
}
