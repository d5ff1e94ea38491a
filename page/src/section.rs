//! The sections of the page.

mod claims;
pub(crate) mod comparisons;
mod head;
mod panels;
mod provenance;
pub(crate) mod results;
pub(crate) mod run;
mod samples;

use refrain_engine::report::page::Page;

use crate::escape::{Html, Named};
use crate::picture::{self, Picture};

pub(crate) use claims::{published, subject};
pub(crate) use head::{facts, head};

/// A section: the id of its element, its heading, its content.
pub(crate) struct Section {
    /// The id, by which links lead to it.
    pub id: &'static str,
    /// The heading.
    pub heading: &'static str,
    /// The content.
    pub content: Html,
}

/// The sections that a report has, in their order.
pub(crate) fn sections(page: &Page) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut add = |id, heading, content: Option<Html>| {
        sections.extend(content.map(|content| Section { id, heading, content }));
    };
    add("claims", "Published against obtained", claims::section(page));
    add("comparisons", "Comparisons", comparisons::section(page));
    add("results", "Results", results::section(page));
    add("graph", "Graph", Some(figures(&[picture::graph(page)], "graph", None)));
    add("run", "The run", Some(run::section(page)));
    add("training", "Training", panels::training(page));
    add("distributions", "Distributions", panels::distributions(page));
    add("diversity", "Diversity against accuracy", panels::tradeoffs(page));
    add("samples", "Samples", samples::section(page));
    add("provenance", "Provenance", Some(provenance::section(page)));
    sections
}

/// Pictures side by side where there is room.
fn figures(pictures: &[Picture], id: &str, note: Option<&str>) -> Html {
    let mut html = Html::new();
    if let Some(note) = note {
        html.leaf("p", &[("class", &"note")], note);
    }
    let class = if pictures.len() > 1 { "figures" } else { "figures one" };
    html.element("div", &[("class", &class)], |html| {
        for (i, picture) in pictures.iter().enumerate() {
            let title = format!("{id}-picture-{i}");
            html.element("figure", &[], |html| {
                scrolled(html, &picture.title, |html| picture.write(html, &title));
                html.element("figcaption", &[], |html| {
                    html.leaf("b", &[], &picture.title);
                    html.text(" ").leaf("span", &[], &picture.description);
                });
            });
        }
    });
    html
}

/// Content that may be wider than a phone: it is scrolled, by the keyboard too.
fn scrolled(html: &mut Html, label: &str, content: impl FnOnce(&mut Html)) {
    let attributes: [Named<'_>; 4] =
        [("class", &"scroll"), ("tabindex", &"0"), ("role", &"region"), ("aria-label", &label)];
    html.element("div", &attributes, content);
}

/// A table with headings; `numeric` says which columns are numbers.
fn table(html: &mut Html, label: &str, headings: &[(&str, bool)], rows: impl FnOnce(&mut Html)) {
    scrolled(html, label, |html| {
        html.element("table", &[], |html| {
            html.element("thead", &[], |html| {
                html.element("tr", &[], |html| {
                    for (heading, is_numeric) in headings {
                        let class = if *is_numeric { "number" } else { "words" };
                        html.leaf("th", &[("scope", &"col"), ("class", &class)], heading);
                    }
                });
            });
            html.element("tbody", &[], rows);
        });
    });
}

/// A cell of a number.
fn number_cell(html: &mut Html, text: &str) {
    html.leaf("td", &[("class", &"number")], text);
}

/// The first characters of a digest; the whole of it is shown when it is pointed at.
fn digest(html: &mut Html, digest: &str) {
    let short = digest.get(..12).unwrap_or(digest);
    html.leaf("code", &[("title", &digest)], short);
}

/// Says that rows are left out, and where they are.
fn left_out(html: &mut Html, shown: usize, all: usize, what: &str, remedy: &str) {
    if all > shown {
        let words = format!("{} of {all} {what} are shown; {remedy}", shown);
        html.element("p", &[("class", &"note")], |html| inline_code(html, &words));
    }
}

/// Writes words in which backquotes mark code.
fn inline_code(html: &mut Html, words: &str) {
    for (i, part) in words.split('`').enumerate() {
        match i % 2 {
            0 => {
                html.text(part);
            }
            _ => {
                html.leaf("code", &[], part);
            }
        }
    }
}
