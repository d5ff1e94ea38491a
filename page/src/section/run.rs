//! The run: its timeline, and of each stage what ran, why, how long and on what.

use refrain_engine::ledger::run_log::NodeProgress;
use refrain_engine::report::page::{Page, PageStage, Status, StatusCounts};

use crate::escape::{Html, Named};
use crate::number::time;
use crate::picture;

use super::{figures, left_out, number_cell, table};

/// Stages that are listed.
const ROWS: usize = 400;
/// Nodes under way that are listed.
const RUNNING: usize = 40;
/// Reasons of a stage that are listed.
const WHYS: usize = 3;

/// Writes the section.
pub fn section(page: &Page) -> Html {
    let mut html = Html::new();
    if let Some(picture) = picture::timeline(page) {
        html.add(&figures(&[picture], "timeline", None));
    }
    running(page, &mut html);
    failures(page, &mut html);
    let headings = [
        ("stage", false),
        ("kind", false),
        ("nodes", true),
        ("state", false),
        ("why it ran", false),
        ("time", true),
        ("on", false),
        ("parameters", false),
    ];
    table(&mut html, "Stages", &headings, |html| {
        for (i, stage) in page.stages.iter().enumerate().take(ROWS) {
            write_stage(i, stage, html);
        }
    });
    left_out(&mut html, ROWS, page.stages.len(), "stages", "`refrain plan` lists all");
    let note = "Time is that of computing, summed over nodes, as the cache's records say; nodes may \
                have been computed by earlier runs.";
    html.leaf("p", &[("class", &"note")], note);
    html
}

/// The nodes under way, with their progress.
fn running(page: &Page, html: &mut Html) {
    let nodes = page.nodes.iter().filter_map(|node| match &node.status {
        Status::Running { progress } => Some((node, progress)),
        _ => None,
    });
    let nodes: Vec<_> = nodes.collect();
    if nodes.is_empty() {
        return;
    }
    html.element("ul", &[("class", &"running")], |html| {
        for (node, progress) in nodes.iter().take(RUNNING) {
            html.element("li", &[], |html| {
                html.leaf("b", &[], &node.name).text(" ");
                let Some(NodeProgress { done, total, unit }) = progress else { return };
                let words = match total {
                    Some(total) => format!("{done} of {total} {unit}"),
                    None => format!("{done} {unit}"),
                };
                if let Some(total) = total {
                    let (done, total) = (done.to_string(), total.max(&1).to_string());
                    let attributes: [Named<'_>; 3] =
                        [("value", &done), ("max", &total), ("aria-label", &node.name)];
                    html.leaf("progress", &attributes, &words).text(" ");
                }
                html.leaf("span", &[("class", &"soft")], words);
            });
        }
    });
    left_out(html, RUNNING, nodes.len(), "nodes under way", "the search below has all");
}

/// The nodes that failed, and those that were skipped for it.
fn failures(page: &Page, html: &mut Html) {
    let failed: Vec<&str> = page
        .nodes
        .iter()
        .filter(|node| node.status == Status::Failed)
        .map(|node| node.name.as_str())
        .collect();
    if !failed.is_empty() {
        html.element("p", &[("class", &"bad")], |html| {
            html.text(format!("Failed: {}", failed[..failed.len().min(12)].join(", ")));
            if failed.len() > 12 {
                html.text(format!(" and {} more", failed.len() - 12));
            }
        });
    }
}

fn write_stage(i: usize, stage: &PageStage, html: &mut Html) {
    let id = format!("stage-{i}");
    html.element("tr", &[("id", &id)], |html| {
        html.element("th", &[("scope", &"row")], |html| {
            html.text(&stage.name);
            if let Some(description) = &stage.description {
                html.leaf("small", &[], format!(" {description}"));
            }
        });
        html.leaf("td", &[], stage.kind);
        number_cell(html, &stage.nodes.len().to_string());
        html.element("td", &[], |html| state(&stage.counts, html));
        html.leaf("td", &[("class", &"prose")], whys(stage));
        number_cell(html, &if stage.seconds > 0.0 { time(stage.seconds) } else { String::new() });
        html.leaf("td", &[("class", &"on")], stage.profiles.join(", "));
        let params = stage.params.iter().map(|(name, value)| format!("{name}: {value}"));
        html.element("td", &[("class", &"params")], |html| {
            let params: Vec<String> = params.collect();
            if !params.is_empty() {
                html.element("details", &[], |html| {
                    html.leaf("summary", &[], params.len().to_string());
                    html.leaf("div", &[], params.join("\n"));
                });
            }
        });
    });
}

/// The reasons of a stage in words.
pub(crate) fn whys(stage: &PageStage) -> String {
    let words = |(why, count): &(String, usize)| match (count, stage.nodes.len()) {
        (_, 1) => why.replace('`', ""),
        (count, _) => format!("{} (×{count})", why.replace('`', "")),
    };
    let mut all: Vec<String> = stage.whys.iter().take(WHYS).map(words).collect();
    if stage.whys.len() > WHYS {
        all.push(format!("and {} more reasons", stage.whys.len() - WHYS));
    }
    all.join("; ")
}

/// The statuses of a stage's nodes.
fn state(counts: &StatusCounts, html: &mut Html) {
    let mut is_first = true;
    for (class, words) in states(counts) {
        if !std::mem::take(&mut is_first) {
            html.text(" ");
        }
        html.leaf("span", &[("class", &class)], words);
    }
}

/// The statuses in words, each with the class of its colour.
pub(crate) fn states(counts: &StatusCounts) -> Vec<(&'static str, String)> {
    let StatusCounts { ran, known, failed, skipped, running, missing } = *counts;
    let all = ran + known + failed + skipped + running + missing;
    let parts = [
        ("accent", ran, "ran"),
        ("good", known, "cached"),
        ("warn", running, "running"),
        ("bad", failed, "failed"),
        ("bad", skipped, "skipped"),
        ("plain", missing, "not run"),
    ];
    let there = parts.into_iter().filter(|(_, count, _)| *count > 0);
    there
        .map(|(class, count, word)| match count == all {
            true => (class, word.to_owned()),
            false => (class, format!("{count} {word}")),
        })
        .collect()
}
