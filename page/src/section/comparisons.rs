//! Comparisons of arms: the difference, its interval, the test and the claim.

use refrain_engine::report::comparison::{CONFIDENCE, ComparedRow};
use refrain_engine::report::page::Page;

use crate::escape::Html;
use crate::number::{number, p_value, signed};
use crate::picture;

use super::{figures, left_out, number_cell, table};

/// Comparisons that are listed.
const ROWS: usize = 100;

/// Writes the section, where there are comparisons.
pub fn section(page: &Page) -> Option<Html> {
    if page.comparisons.is_empty() {
        return None;
    }
    let mut html = Html::new();
    if let Some(picture) = picture::comparisons(page) {
        let note = "A dot is the first arm minus the second, a line its 95 % interval; where the line \
                    does not reach 0 it is blue. ◇ is the published difference.";
        html.add(&figures(&[picture], "comparisons", Some(note)));
    }
    let headings = [
        ("comparison", false),
        ("arms", false),
        ("of", false),
        ("published", true),
        ("difference", true),
        ("95 % interval", true),
        ("corrected p", true),
        ("ids", true),
        ("seeds", true),
        ("detectable", true),
        ("claim", false),
    ];
    table(&mut html, "Table of comparisons", &headings, |html| {
        page.comparisons.iter().take(ROWS).for_each(|row| write_row(row, html));
    });
    left_out(
        &mut html,
        ROWS,
        page.comparisons.len(),
        "comparisons",
        "`refrain compare` prints all",
    );
    Some(html)
}

fn write_row(row: &ComparedRow, html: &mut Html) {
    html.element("tr", &[], |html| {
        html.leaf("th", &[("scope", &"row")], &row.name);
        html.leaf("td", &[], format!("{} − {}", row.arms[0], row.arms[1]));
        html.leaf("td", &[], &row.of);
        number_cell(html, &row.published.map(signed).unwrap_or_default());
        let Some(result) = &row.result else {
            let reason = row.reason.clone().unwrap_or_else(|| "not run".into());
            html.leaf(
                "td",
                &[("colspan", &"6")],
                format!("no result: {}", reason.replace('`', "")),
            );
            html.leaf("td", &[], claims(row));
            return;
        };
        number_cell(html, &signed(result.estimate));
        let interval = result.interval(CONFIDENCE);
        let interval = interval.map(|i| format!("{} to {}", signed(i.low), signed(i.high)));
        number_cell(html, &interval.unwrap_or_default());
        let p = row.corrected.as_ref().and_then(|corrected| corrected.first());
        number_cell(html, &p.copied().map(p_value).unwrap_or_default());
        let ids = if result.ids > 0 { result.ids.to_string() } else { String::new() };
        number_cell(html, &ids);
        number_cell(html, &result.differences.len().to_string());
        number_cell(html, &number(result.detectable));
        html.leaf("td", &[], claims(row));
    });
}

/// The outcomes of the claims on a comparison.
pub(crate) fn claims(row: &ComparedRow) -> String {
    let mut words: Vec<&str> = row.claims.iter().map(|claim| claim.words()).collect();
    words.dedup();
    words.join(", ")
}
