//! The head of the page: the question, the answer in a line, and what the page lacks.

use refrain_engine::report::expect::Verdict;
use refrain_engine::report::page::{Page, StatusCounts};

use crate::escape::Html;
use crate::number::{count, time};
use crate::picture::counts;

/// Writes the head.
pub(crate) fn head(page: &Page, html: &mut Html) {
    html.element("header", &[("id", &"top")], |html| {
        html.leaf("p", &[("class", &"kicker")], "Report of a workflow");
        html.leaf("h1", &[], &page.name);
        if let Some(description) = &page.description {
            html.leaf("p", &[("class", &"question")], description.trim());
        }
        html.element("ul", &[("class", &"facts"), ("id", &"facts")], |html| {
            for (class, fact) in facts(page) {
                html.leaf("li", &[("class", &class)], fact);
            }
        });
        origin(page, html);
        if !page.absent.is_empty() {
            html.element(
                "div",
                &[("class", &"absent"), ("role", &"note"), ("id", &"absent")],
                |html| {
                    html.leaf("h2", &[], "Absent from this page");
                    html.element("ul", &[], |html| {
                        for absence in &page.absent {
                            html.element("li", &[], |html| {
                                html.leaf("b", &[], absence.parts);
                                html.text(format!(": {}; ", absence.because));
                                super::inline_code(html, absence.remedy);
                                html.text(".");
                            });
                        }
                    });
                },
            );
        }
    });
}

/// The state of the workflow in a few facts, each with the class of its colour.
pub(crate) fn facts(page: &Page) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let failing = page.claims.iter().filter(|claim| claim.verdict.is_failure()).count();
    if !page.claims.is_empty() {
        let all = page.claims.len();
        facts.push(match failing {
            0 => ("good", format!("{} as expected", count(all, "condition"))),
            failing => ("bad", format!("{failing} of {} not met", count(all, "condition"))),
        });
    }
    let not_shown = page.claims.iter().filter(|c| c.verdict == Verdict::NotShown).count();
    if not_shown > 0 {
        facts.push(("plain", format!("{not_shown} not shown, as the workflow says")));
    }
    let StatusCounts { ran, known, failed, skipped, running, missing } = counts(&page.stages);
    let mut push = |class, n: usize, words: &str| {
        if n > 0 {
            facts.push((class, format!("{} {words}", count(n, "node"))));
        }
    };
    push("good", ran + known, "with results");
    push("warn", running, "running");
    push("bad", failed, "failed");
    push("bad", skipped, "skipped");
    push("plain", missing, "not run");
    facts
}

/// The files and the run that the page is made from.
fn origin(page: &Page, html: &mut Html) {
    html.element("dl", &[("class", &"origin")], |html| {
        let mut entry = |name: &'static str, write: &dyn Fn(&mut Html)| {
            html.element("div", &[], |html| {
                html.leaf("dt", &[], name);
                html.element("dd", &[], write);
            });
        };
        entry("workflow", &|html| {
            html.leaf("code", &[], &page.file).text(" ");
            super::digest(html, &page.text_digest.to_string());
        });
        entry("lock", &|html| match &page.lock_digest {
            Some(digest) => super::digest(html, &digest.to_string()),
            None => {
                html.text("none");
            }
        });
        if !page.version.is_empty() {
            entry("written by", &|html| {
                html.text(format!("Refrain {}", page.version));
            });
        }
        if let Some(course) = &page.course {
            entry("run", &|html| {
                let took = match course.end {
                    Some((seconds, true)) => format!(", {}", time(seconds)),
                    Some((seconds, false)) => format!(", ended incomplete after {}", time(seconds)),
                    None => ", not ended".into(),
                };
                html.text(format!("{}{took}", course.began));
            });
        }
    });
}
