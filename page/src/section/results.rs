//! The table of results, and its columns as dots.

use refrain_engine::report::page::Page;
use refrain_engine::report::results::{Cell, Row};

use crate::escape::Html;
use crate::number::{number, with_deviation};
use crate::picture;

use super::{figures, left_out, table};

/// Rows and columns that are listed.
const ROWS: usize = 150;
const COLUMNS: usize = 24;

/// Writes the section, where there are results.
pub fn section(page: &Page) -> Option<Html> {
    let results = &page.results;
    if results.rows.is_empty() || results.columns.is_empty() {
        return None;
    }
    let mut html = Html::new();
    let pictures = picture::spreads(page);
    let means =
        results.rows.iter().flat_map(|row| row.cells.iter().flatten()).any(|c| c.points > 1);
    if !pictures.is_empty() {
        let note = "A full dot is the mean, a line one standard deviation to either side, a faint dot \
                    one of the points averaged. ◇ is the published value.";
        html.add(&figures(&pictures, "results", means.then_some(note)));
    }
    let shown = results.columns.len().min(COLUMNS);
    let axes = axes(page);
    let mut headings: Vec<(&str, bool)> = axes.iter().map(|axis| (axis.as_str(), false)).collect();
    headings.extend(results.columns[..shown].iter().map(|column| (column.heading.as_str(), true)));
    table(&mut html, "Table of results", &headings, |html| {
        for row in results.rows.iter().take(ROWS) {
            html.element("tr", &[], |html| {
                for label in labels(page, row) {
                    html.leaf("th", &[("scope", &"row")], label);
                }
                for (c, cell) in row.cells[..shown].iter().enumerate() {
                    html.element("td", &[("class", &"number")], |html| {
                        let Some(cell) = cell else { return };
                        let to = format!("#figure-{c}");
                        html.leaf("a", &[("href", &to), ("class", &"quiet")], cell_text(cell));
                        if let Some(published) = cell.published {
                            html.leaf("small", &[], format!(" published {}", number(published)));
                        }
                    });
                }
            });
        }
    });
    let remedy = "`refrain results --format csv` has all";
    left_out(&mut html, ROWS, results.rows.len(), "rows", remedy);
    left_out(&mut html, COLUMNS, results.columns.len(), "columns", remedy);
    if means {
        let over =
            "± is the standard deviation over the points averaged. A figure leads to its origin.";
        html.leaf("p", &[("class", &"note")], over);
    }
    Some(html)
}

/// The headings of the labels.
pub(crate) fn axes(page: &Page) -> Vec<String> {
    let named = page.results.rows.iter().any(|row| row.name.is_some());
    match page.results.axes.is_empty() && named {
        true => vec!["row".into()],
        false => page.results.axes.clone(),
    }
}

/// The labels of a row, its name in the place of the first.
pub(crate) fn labels(page: &Page, row: &Row) -> Vec<String> {
    let mut labels = row.labels.clone();
    labels.resize(axes(page).len(), String::new());
    if let (Some(name), Some(first)) = (&row.name, labels.first_mut()) {
        first.clone_from(name);
    }
    labels
}

/// A cell in words.
pub(crate) fn cell_text(cell: &Cell) -> String {
    let Some(value) = cell.value else {
        return if cell.failed > 0 { "failed".into() } else { "not run".into() };
    };
    let text = with_deviation(value, cell.deviation);
    match cell.failed + cell.missing {
        0 => text,
        without => format!("{text} ({} of {})", cell.points, cell.points + without),
    }
}
