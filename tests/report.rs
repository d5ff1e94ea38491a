//! The report of a workflow: its parts, what it says is absent, text that was made to break it; and
//! the page that is served while a run is under way.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Value, json};

use crate::space::Space;

mod browser;
mod logged;
mod watch;

/// Two arms at two seeds, a condition, a comparison.
pub fn compared() -> Space {
    let space = Space::new();
    let mut rows = String::new();
    for arm in ["plain", "worked"] {
        for seed in 1..=5 {
            for n in 0..12 {
                let right = arm == "worked" || (n + seed) % 3 > 0;
                let row = json!({
                    "arm": arm, "seed": seed, "id": format!("q{n}"), "prompt": format!("{n} + 1 = ?"),
                    "response": format!("It is {}.", if right { n + 1 } else { 0 }),
                    "reference": (n + 1).to_string(),
                });
                rows.push_str(&format!("{row}\n"));
            }
        }
    }
    space.write("rows.jsonl", &rows);
    space.write(
        "w.yaml",
        "refrain: 1\nname: sums\ndescription: Does working help?\n\
         data:\n  rows: { path: rows.jsonl, rows: { where: { arm: \"${arm}\", seed: \"${seed}\" } } }\n\
         stages:\n  judged: { description: what it says, evaluate: { data: rows, task: number } }\n\
         sweep: { arm: [plain, worked], seed: [1, 2, 3, 4, 5] }\n\
         results: { mean_over: [seed], columns: { right: judged.accuracy } }\n\
         compare:\n  helps: { stage: judged, metric: accuracy, between: { arm: [worked, plain] }, over: seed }\n\
         expect:\n  - { stage: judged, at: { arm: worked }, metric: accuracy, value: 0.98, within: 0.05, source: a paper }\n",
    );
    space
}

/// The page, which must be one that links nowhere else and to nothing that it lacks.
pub fn page(space: &Space, more: &[&str]) -> String {
    let arguments = [&["report", "w.yaml", "-o", "report.html"], more].concat();
    let said = space.run(&arguments);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let page = space.read("report.html");

    let ids: Vec<&str> = captures(&page, r#"\sid="([^"]*)""#);
    let distinct: BTreeSet<&&str> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "an id stands twice");
    for to in captures(&page, r#"\shref="([^"]*)""#) {
        let is_here = to.strip_prefix('#').is_some_and(|id| ids.contains(&id));
        assert!(is_here || to == "data:,", "a link leads to `{to}`");
    }
    let foreign = captures(&page, r#"\s(src|style|on[a-z]+)=""#);
    assert!(foreign.is_empty(), "{foreign:?}");
    page
}

fn captures<'p>(page: &'p str, pattern: &str) -> Vec<&'p str> {
    let pattern = Regex::new(pattern).unwrap();
    pattern.captures_iter(page).map(|found| found.get(1).unwrap().as_str()).collect()
}

fn headings(page: &str) -> Vec<&str> {
    captures(page, r#"<h2 id="[a-z]*-title">([^<]*)</h2>"#)
}

#[test]
fn a_report_has_its_parts_and_the_same_bytes_each_time() {
    let space = compared();
    space.report("w.yaml", &[]);
    let page_ = page(&space, &[]);
    assert_eq!(
        headings(&page_),
        [
            "Published against obtained",
            "Comparisons",
            "Results",
            "Graph",
            "The run",
            "Distributions",
            "Samples",
            "Provenance"
        ]
    );
    let text = ["Does working help?", "what it says", "a paper", "arm 2 × seed 5", "evaluate ×10"];
    for words in text {
        assert!(page_.contains(words), "no `{words}`");
    }
    // Nothing is absent, so nothing is said to be.
    assert!(!page_.contains("id=\"absent\""));
    assert_eq!(page(&space, &[]), page_);

    // Digests of the file and of every node.
    let lock = space.read("w.lock");
    let entries = lock.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut digests = 0;
    for entry in entries.filter(|entry| entry["node"].is_string()) {
        let outputs = entry["outputs"].as_object().unwrap().values().map(|o| &o["digest"]);
        for digest in outputs.chain([&entry["key"]]) {
            assert!(page_.contains(digest.as_str().unwrap()), "no {digest}");
            digests += 1;
        }
    }
    assert!(digests >= 40, "{digests}");
}

#[test]
fn a_report_says_what_is_absent() {
    let space = compared();
    space.report("w.yaml", &[]);
    let whole = page(&space, &[]);
    assert!(whole.contains("Timeline of the run"));

    // After a pull: the cache without its logs.
    std::fs::remove_dir_all(space.path(".refrain/runs")).unwrap();
    let pulled = page(&space, &[]);
    assert!(pulled.contains("there is no log of a run here"));
    assert!(!pulled.contains("Timeline of the run") && headings(&pulled).contains(&"Samples"));

    // The lock alone: the figures stand, and nothing is made up for the rest.
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    let locked = page(&space, &[]);
    assert!(locked.contains("there is no cache here"), "{locked}");
    let parts = headings(&locked);
    assert!(parts.contains(&"Comparisons") && !parts.contains(&"Samples"), "{parts:?}");
    let difference = |page: &str| {
        let row = page.split("<th scope=\"row\">helps</th>").nth(1).unwrap().to_string();
        row.split("</tr>").next().unwrap().to_string()
    };
    assert_eq!(difference(&locked), difference(&whole));
    assert!(!std::fs::exists(space.path(".refrain")).unwrap(), "a report made a cache");

    // Nothing at all.
    std::fs::remove_file(space.path("w.lock")).unwrap();
    let empty = page(&space, &[]);
    assert!(empty.contains("there is no lock") && empty.contains("20 of 20 nodes have no result"));
}

#[test]
fn a_failed_node_is_shown_as_such() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"prompt\": \"p\", \"response\": \"r\", \"reference\": \"r\"}\n");
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\nstages:\n  \
         broken: { run: { inputs: { rows: rows }, command: [\"false\"], outputs: { made: table } } }\n  \
         after: { evaluate: { data: broken.made, task: exact_match } }\n",
    );
    assert_eq!(space.run(&["run", "w.yaml"]).code, 1);
    let page = page(&space, &[]);
    assert!(page.contains("Failed: broken"), "{page}");
    assert!(page.contains("1 node failed") && page.contains("1 node skipped"));
}

/// Text that was made to break a page: in a sample, in the label of an arm (which is in the names
/// of nodes), in the description, in the name of a file and in the source of a condition.
const HOSTILE: [&str; 6] = [
    "</script><script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "<svg onload=document.title='broken'><a href=javascript:alert(1)>",
    "\u{202e}desrever\u{2066}\u{200b}",
    "\"' onmouseover=document.title='broken' x='\"",
    "]]><!--<style>*{display:none}</style>",
];

pub fn hostile() -> Space {
    let space = Space::new();
    let rows = HOSTILE.map(|text| {
        let row = json!({ "prompt": text, "response": text, "reference": text, "note": text });
        format!("{row}\n")
    });
    space.write("rows <b>&amp;.jsonl", &rows.concat());
    let labels: Vec<String> = HOSTILE.iter().map(|text| json!(text).to_string()).collect();
    let quoted = |text: &str| json!(text).to_string();
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\nname: {name}\ndescription: {description}\n\
             data: {{ rows: {{ path: \"rows <b>&amp;.jsonl\" }} }}\n\
             stages:\n  judged: {{ description: {stage}, evaluate: {{ data: rows, task: exact_match, \
             ignore_case: \"${{fold.case}}\", bootstrap: \"${{fold.resamples}}\" }} }}\n\
             sweep:\n  fold:\n{points}\
             expect:\n  - {{ stage: judged, metric: accuracy, value: 1, within: 0.1, source: {source} }}\n",
            name = quoted(HOSTILE[0]),
            description = quoted(HOSTILE[1]),
            stage = quoted(HOSTILE[2]),
            source = quoted(HOSTILE[4]),
            points = labels
                .iter()
                .enumerate()
                .map(|(i, label)| format!("    - {{ name: {label}, case: {}, resamples: {i} }}\n", i % 2 == 0))
                .collect::<String>(),
        ),
    );
    space
}

#[test]
fn hostile_text_stays_text() {
    let space = hostile();
    space.report("w.yaml", &[]);
    let page = page(&space, &[]);
    for mark in
        ["<img", "<svg onload", "onmouseover=document", "<!--", "<style>*", "<b>&amp;.jsonl"]
    {
        let found = page.to_lowercase().matches(mark).count();
        // Text in quotes of an attribute is escaped as well, so that no mark can begin anywhere.
        let escaped = mark.contains("onmouseover");
        assert!(found == 0 || escaped, "`{mark}` stands {found} times");
    }
    assert_eq!(page.matches("<script>").count(), 1);
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(
        !page.contains(['\u{202e}', '\u{2066}', '\u{200b}']),
        "a hidden character is not shown"
    );
    assert!(page.contains("\\u{202e}desrever"));

    let said = space.run(&["report", "w.yaml", "--format", "markdown"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    for mark in ["<img", "<script", "<svg", "\u{202e}", "<!--"] {
        assert!(!said.stdout.contains(mark), "`{mark}` in {}", said.stdout);
    }

    assert_eq!(space.run(&["report", "w.yaml", "--svg", "figures"]).code, 0);
    for entry in std::fs::read_dir(space.path("figures")).unwrap() {
        let path = entry.unwrap().path();
        let picture = std::fs::read_to_string(&path).unwrap();
        for mark in ["<img", "<script", "<svg onload", "<a ", "\u{202e}", "var("] {
            assert!(!picture.contains(mark), "`{mark}` in {}", path.display());
        }
    }
}

#[test]
fn markdown_has_the_same_figures() {
    let space = compared();
    space.report("w.yaml", &[]);
    let said = space.run(&["report", "w.yaml", "--format", "markdown"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let text = &said.stdout;
    assert!(text.starts_with("# sums\n\nDoes working help?\n\n1 condition as expected"), "{text}");
    for part in [
        "## Published against obtained",
        "## Comparisons",
        "| helps | worked − plain |",
        "## Results",
        "| arm | right |",
        "```mermaid",
        "## Files that are read",
    ] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    // A table has as many cells in each row as headings.
    let mut columns = None;
    for line in text.lines() {
        let cells = line.starts_with('|').then(|| line.replace("\\|", "").matches('|').count());
        assert!(columns.is_none() || cells.is_none() || cells == columns, "{line}");
        columns = cells;
    }
}

#[test]
fn pictures_come_one_by_one() {
    let space = compared();
    space.report("w.yaml", &[]);
    let said = space.run(&["report", "w.yaml", "--svg", "out/figures", "--format", "json"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let document: Value = serde_json::from_str(&said.stdout).unwrap();
    let names: Vec<&str> =
        document["pictures"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "out/figures/claims.svg",
            "out/figures/comparisons.svg",
            "out/figures/results-right.svg",
            "out/figures/graph.svg",
            "out/figures/timeline.svg",
            "out/figures/length-rows.svg"
        ]
    );
    for name in names {
        let picture = space.read(name);
        assert!(picture.starts_with("<svg xmlns=") && picture.ends_with("</svg>\n"), "{picture}");
    }
    assert_eq!(document["output"], Value::Null);
    assert_eq!(document["absent"], json!([]));
}

#[test]
fn a_report_that_cannot_be_written_is_an_error() {
    let space = compared();
    let said = space.fails(&["report", "w.yaml", "-o", "missing/report.html"]);
    assert!(said.starts_with("exit code 4\nerror: cannot write `missing/report.html`"), "{said}");
}
