//! The conditions: what was published, what was obtained, and whether it holds.

use refrain_engine::report::expect::Verdict;
use refrain_engine::report::page::{Claim, Page, Published};

use crate::escape::Html;
use crate::number::{number, signed};
use crate::picture;

use super::{figures, left_out, number_cell, table};

/// Conditions that are listed.
const ROWS: usize = 150;

/// Writes the section, where there are conditions.
pub fn section(page: &Page) -> Option<Html> {
    if page.claims.is_empty() {
        return None;
    }
    let mut html = Html::new();
    if let Some(picture) = picture::claims(page) {
        html.add(&figures(&[picture], "claims", None));
    }
    let headings = [
        ("condition", false),
        ("published", false),
        ("obtained", true),
        ("difference", true),
        ("outcome", false),
        ("source", false),
    ];
    table(&mut html, "Conditions with their outcomes", &headings, |html| {
        page.claims.iter().take(ROWS).for_each(|claim| row(claim, html));
    });
    left_out(&mut html, ROWS, page.claims.len(), "conditions", "`refrain verify` checks all");
    Some(html)
}

/// The metric or comparison that a condition is about.
pub(crate) fn subject(claim: &Claim) -> String {
    let text = claim.text.split_once(": ").map_or(claim.text.as_str(), |(subject, _)| subject);
    text.replace('`', "")
}

/// The published value or the bounds in words.
pub(crate) fn published(claim: &Claim) -> String {
    match claim.published {
        Published::Value { value, within } => format!("{} ± {}", number(value), number(within)),
        // In the words of the workflow.
        Published::Bounds { .. } | Published::Order => {
            let words = claim.text.split_once(": ").map_or("", |(_, words)| words);
            words.replace('`', "")
        }
    }
}

fn row(claim: &Claim, html: &mut Html) {
    html.element("tr", &[], |html| {
        html.leaf("th", &[("scope", &"row")], subject(claim));
        html.leaf("td", &[], published(claim));
        let obtained = claim.obtained.map_or("–".into(), number);
        html.element("td", &[("class", &"number")], |html| {
            html.text(obtained);
            if let Some(detail) = claim.detail.as_ref().or(claim.reason.as_ref()) {
                html.leaf("small", &[], format!(" {detail}"));
            }
        });
        let difference = match (claim.published, claim.obtained) {
            (Published::Value { value, .. }, Some(obtained)) => signed(obtained - value),
            _ => String::new(),
        };
        number_cell(html, &difference);
        let class = match claim.verdict {
            Verdict::Holds => "good",
            Verdict::Fails | Verdict::HoldsAfterAll => "bad",
            Verdict::NotShown => "plain",
        };
        html.element("td", &[], |html| {
            html.leaf("span", &[("class", &class)], claim.verdict.words());
        });
        html.leaf("td", &[], claim.source.as_deref().unwrap_or_default());
    });
}
