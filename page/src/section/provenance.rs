//! Provenance: the files that are read, what each figure rests on, and every node with its key and
//! digests.

use refrain_engine::report::page::{Page, PageNode};
use serde_json::{Value, json};

use crate::escape::{Html, Named, visible};
use crate::number::{number, size};

use super::{digest, inline_code, left_out, number_cell, table};

/// Sources and figures that are listed.
const SOURCES: usize = 150;
const FIGURES: usize = 100;
/// Stages of a figure that are listed.
const STAGES: usize = 40;

/// Writes the section.
pub fn section(page: &Page) -> Html {
    let mut html = Html::new();
    sources(page, &mut html);
    lineages(page, &mut html);
    explorer(page, &mut html);
    html
}

fn sources(page: &Page, html: &mut Html) {
    if page.sources.is_empty() {
        return;
    }
    html.leaf("h3", &[], "Files that are read");
    let headings =
        [("source", false), ("file", false), ("BLAKE3", false), ("rows", true), ("key", false)];
    table(html, "Sources", &headings, |html| {
        for source in page.sources.iter().take(SOURCES) {
            let node = &page.nodes[source.node as usize];
            html.element("tr", &[], |html| {
                html.leaf("th", &[("scope", &"row")], &node.name);
                html.leaf("td", &[], &source.path);
                html.element("td", &[("class", &"digest")], |html| match &source.file {
                    Some(file) => {
                        html.leaf("code", &[], file.to_string());
                    }
                    None => {
                        html.text("not known");
                    }
                });
                number_cell(html, &source.rows.map(|n| number(n as f64)).unwrap_or_default());
                html.element("td", &[], |html| {
                    if let Some(key) = &node.key {
                        digest(html, &key.to_string());
                    }
                });
            });
        }
    });
    left_out(html, SOURCES, page.sources.len(), "sources", "the nodes below have all");
}

fn lineages(page: &Page, html: &mut Html) {
    if page.lineages.is_empty() {
        return;
    }
    html.leaf("h3", &[], "What each figure rests on");
    let headings =
        [("figure", false), ("read from", false), ("made by way of", false), ("files", false)];
    table(html, "What each figure rests on", &headings, |html| {
        for (i, lineage) in page.lineages.iter().enumerate().take(FIGURES) {
            let id = format!("figure-{i}");
            html.element("tr", &[("id", &id)], |html| {
                html.leaf("th", &[("scope", &"row")], &lineage.figure);
                for stages in [&lineage.of, &lineage.through, &lineage.sources] {
                    html.element("td", &[("class", &"prose")], |html| links(page, stages, html));
                }
            });
        }
    });
}

/// Links to stages.
fn links(page: &Page, stages: &[usize], html: &mut Html) {
    for (i, stage) in stages.iter().take(STAGES).enumerate() {
        if i > 0 {
            html.text(", ");
        }
        let name = &page.stages[*stage].name;
        let to = format!("#stage-{stage}");
        // Stages beyond those that are listed have no row to lead to.
        match *stage < 400 {
            true => {
                html.leaf("a", &[("href", &to)], name);
            }
            false => {
                html.text(name);
            }
        }
    }
    if stages.len() > STAGES {
        html.text(format!(" and {} more", stages.len() - STAGES));
    }
}

/// The search for nodes; without scripts it says so.
fn explorer(page: &Page, html: &mut Html) {
    html.leaf("h3", &[("id", &"nodes")], "Nodes");
    let words = "The data of all nodes are in this page: kind, key, inputs, outputs with their digests, \
                 metrics, time. A digest is what b3sum prints of the file.";
    html.leaf("p", &[("class", &"note")], words);
    html.element("noscript", &[], |html| {
        let words =
            "The search needs scripts; `refrain graph --format json` and the lock have the same.";
        html.element("p", &[("class", &"note")], |html| inline_code(html, words));
    });
    html.element("div", &[("class", &"explorer"), ("hidden", &""), ("id", &"explorer")], |html| {
        html.leaf("label", &[("for", &"find")], "Find a node");
        let attributes: [Named<'_>; 5] = [
            ("id", &"find"),
            ("type", &"search"),
            ("autocomplete", &"off"),
            ("spellcheck", &"false"),
            ("placeholder", &"stage, axis=label, key or digest"),
        ];
        html.empty("input", &attributes);
        html.leaf("p", &[("id", &"found-count"), ("class", &"note"), ("role", &"status")], "");
        html.element("div", &[("class", &"columns-2")], |html| {
            let list: [Named<'_>; 2] = [("id", &"found"), ("aria-label", &"Nodes found")];
            html.element("ul", &list, |_| ());
            let detail: [Named<'_>; 5] = [
                ("id", &"detail"),
                ("tabindex", &"0"),
                ("role", &"region"),
                ("aria-label", &"The chosen node"),
                ("aria-live", &"polite"),
            ];
            html.element("div", &detail, |_| ());
        });
    });
    html.data("node-data", &explorer_data(page));
}

/// The data of all nodes, for the script.
fn explorer_data(page: &Page) -> Value {
    let stages: Vec<Value> =
        page.stages.iter().map(|stage| json!([visible(&stage.name), stage.kind])).collect();
    let nodes: Vec<Value> = page.nodes.iter().map(node).collect();
    json!({ "stages": stages, "nodes": nodes })
}

fn node(node: &PageNode) -> Value {
    let outputs: Vec<Value> = node
        .outputs
        .iter()
        .map(|(name, output)| {
            json!([name, output.kind, output.digest, size(output.bytes), output.rows])
        })
        .collect();
    let inputs: Vec<Value> = node
        .inputs
        .iter()
        .map(|(path, node, output)| json!([visible(path), node, output]))
        .collect();
    let metrics: Vec<Value> = node
        .metrics
        .iter()
        .map(|m| {
            let interval =
                m.low.zip(m.high).map(|(low, high)| format!("{} to {}", number(low), number(high)));
            json!([visible(&m.metric), m.value.to_string(), m.n, interval])
        })
        .collect();
    json!([
        node.stage,
        visible(&node.name),
        node.status.word(),
        node.key,
        node.file,
        outputs,
        inputs,
        metrics,
        node.seconds,
        visible(&node.profile),
        node.why.as_deref().map(visible),
    ])
}
