//! Every JSON output against docs/json.md: the documented examples and what the commands print have the same fields.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::hub::World;
use crate::space::{Space, small};

const DOCUMENT: &str = "docs/json.md";

/// The documented example under a heading.
fn documented(heading: &str) -> Value {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT)).unwrap();
    let section = text.split("\n## ").find(|section| section.lines().next() == Some(heading));
    let section = section.unwrap_or_else(|| panic!("`{DOCUMENT}` has no section `{heading}`"));
    let example = section.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
    let example = example.unwrap_or_else(|| panic!("the section `{heading}` has no example"));
    serde_json::from_str(example).unwrap_or_else(|e| panic!("`{heading}`: {e}"))
}

/// Mappings whose keys are the workflow's or the data's own, not the format's.
const FREE: [&str; 6] = ["outputs", "point", "figures", "head", "manifest", "columns"];

/// The paths of all fields with what stands there; elements of a list are taken together. A null says nothing.
fn fields(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Null => drop(into.insert(path.to_string())),
        Value::Object(map) => {
            into.insert(path.to_string());
            let last = path.trim_end_matches("[]").rsplit('.').next().unwrap_or_default();
            if !FREE.contains(&last) {
                map.iter().for_each(|(name, value)| fields(value, &format!("{path}.{name}"), into));
            }
        }
        Value::Array(items) => {
            into.insert(path.to_string());
            items.iter().for_each(|item| fields(item, &format!("{path}[]"), into));
        }
        _ => drop(into.insert(path.to_string())),
    }
}

fn compare(heading: &str, printed: &str) {
    let printed: Value =
        serde_json::from_str(printed).unwrap_or_else(|e| panic!("{heading}: {e}: {printed}"));
    assert_eq!(printed["refrain"], 1, "{heading}: the version");
    let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
    fields(&printed, "", &mut ours);
    fields(&documented(heading), "", &mut theirs);
    let undocumented: Vec<&String> = ours.difference(&theirs).collect();
    let gone: Vec<&String> = theirs.difference(&ours).collect();
    assert!(
        undocumented.is_empty() && gone.is_empty(),
        "{heading}: not documented {undocumented:?}, not printed {gone:?}"
    );
}

/// The workflow of the document.
const WORKFLOW: &str = "refrain: 1
license: MIT
date: 2026
data: { rows: { path: rows.jsonl } }
stages:
  judged: { evaluate: { data: rows, task: exact_match, ignore_case: \"${fold}\" } }
  listed: { run: { command: [sh, -c, 'ls > ${out.names}'], outputs: { names: file } } }
sweep: { fold: [false, true] }
compare:
  folds: { stage: judged, metric: accuracy, between: { fold: [true, false] } }
expect:
  - { compare: folds, at_least: 0.5 }
  - { stage: judged, at: { fold: true }, metric: accuracy, value: 1.0, within: 0.1, source: a paper }
";

#[test]
fn a_fetch_prints_what_is_documented() {
    let world = World::new(
        "refrain: 1
data: { rows: { hub: org/set, file: rows.jsonl } }
stages: { judged: { evaluate: { data: rows, task: exact_match } } }
",
    );
    compare("fetch", &world.ok(&["fetch", "w.yaml", "--format", "json"]).stdout);
}

fn space() -> Space {
    let space = Space::new();
    space.write("w.yaml", WORKFLOW);
    space.write(
        "rows.jsonl",
        "{\"id\": \"a\", \"prompt\": \"p\", \"response\": \"Yes\", \"reference\": \"yes\"}\n{\"id\": \"b\", \"prompt\": \"p\", \"response\": \"no\", \"reference\": \"no\"}\n",
    );
    space
}

#[test]
fn every_command_prints_what_is_documented() {
    let space = space();
    let json = |arguments: &[&str]| space.run(&[arguments, &["--format", "json"]].concat());
    compare("kind", &json(&["kind"]).stdout);
    compare("kind NAME", &json(&["kind", "evaluate"]).stdout);
    compare("check", &json(&["check", "w.yaml"]).stdout);
    compare("graph", &json(&["graph", "w.yaml"]).stdout);
    let run = json(&["run", "w.yaml"]);
    compare("run", &run.stdout);
    compare("results", &json(&["results", "w.yaml"]).stdout);
    compare("compare", &json(&["compare", "w.yaml"]).stdout);
    compare("compare NAME", &json(&["compare", "w.yaml", "folds"]).stdout);
    compare("init", &json(&["init", "first"]).stdout);
    compare("log", &json(&["log", "w.yaml"]).stdout);
    std::fs::copy(space.path("w.lock"), space.path("old.lock")).unwrap();
    compare("show a table", &json(&["show", "w.yaml", "judged[fold=true]"]).stdout);
    compare("show a file", &json(&["show", "w.yaml", "listed"]).stdout);
    compare("export", &json(&["export", "w.yaml", "--to", "csv", "tables"]).stdout);
    compare("bundle", &json(&["bundle", "w.yaml", "-o", "w.zip"]).stdout);
    std::fs::create_dir(space.path("shared")).unwrap();
    compare("cache push", &json(&["cache", "push", "w.yaml", "--remote", "shared"]).stdout);
    forge(&space.path("shared/v1/pages"));
    let pull = ["cache", "pull", "w.yaml", "--remote", "shared", "--cache", "other"];
    compare("cache pull", &json(&pull).stdout);
    space.edit("w.yaml", "task: exact_match", "task: exact_match, bootstrap: 10");
    compare("plan", &json(&["plan", "w.yaml"]).stdout);
    compare("explain", &json(&["explain", "w.yaml", "judged[fold=true]"]).stdout);
    compare("explain several", &json(&["explain", "w.yaml"]).stdout);
    other(&space);
    compare("diff", &json(&["diff", "old.lock", "other.yaml"]).stdout);
    let verify = json(&["verify", "w.yaml", "--recompute", "all", "--remote", "shared"]);
    assert_eq!(verify.code, 3);
    compare("verify", &verify.stdout);
    std::fs::remove_dir_all(space.path(".refrain/runs")).unwrap();
    let pictures = ["report", "w.yaml", "-o", "report.html", "--svg", "figures"];
    compare("report", &json(&pictures).stdout);
    compare("cache stat", &json(&["cache", "stat", "w.yaml"]).stdout);
    space.write(".refrain/tmp/corrupt/old", "");
    compare("cache gc", &json(&["cache", "gc", "w.yaml", "--dry-run"]).stdout);
    damage(&space.path(".refrain/objects"));
    compare("cache verify", &json(&["cache", "verify", "w.yaml"]).stdout);
    compare("completions", &json(&["completions", "bash"]).stdout);
    compare("doctor", &json(&["doctor"]).stdout);
    compare("man", &json(&["man"]).stdout);
    compare("man --dir", &json(&["man", "--dir", "pages"]).stdout);
    space.edit("w.yaml", "task: exact_match", "taks: exact_match");
    let wrong = json(&["check", "w.yaml"]);
    assert_eq!((wrong.code, wrong.stdout.as_str()), (2, ""), "errors go to stderr");
    compare("errors", &wrong.stderr);
}

/// Drops a record of a remote cache, and changes another.
fn forge(pages: &std::path::Path) {
    for folder in std::fs::read_dir(pages).unwrap() {
        for page in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let page = page.unwrap().path();
            let text = std::fs::read_to_string(&page).unwrap();
            let mut changed = String::new();
            for line in text.lines() {
                let mut record: Value = serde_json::from_str(line).unwrap();
                if record["kind"] == "evaluate" {
                    record["profile"] = Value::from("another");
                }
                if record["kind"] != "run" {
                    changed.push_str(&format!("{record}\n"));
                }
            }
            std::fs::write(page, changed).unwrap();
        }
    }
}

/// Runs a workflow like the documented one, with another parameter and another table.
fn other(space: &Space) {
    let text = space.read("w.yaml").replace("  - { compare: folds, at_least: 0.5 }\n", "");
    let text = text.replace("data: rows", "data: others");
    space.write(
        "other.yaml",
        &text.replace("rows: { path: rows.jsonl }", "others: { path: others.jsonl }"),
    );
    space.write("others.jsonl", &space.read("rows.jsonl").replace("Yes", "perhaps"));
    space.run(&["run", "other.yaml"]);
}

/// Damages the first object.
fn damage(objects: &Path) {
    let within = std::fs::read_dir(objects).unwrap().next().unwrap().unwrap().path();
    let object = std::fs::read_dir(within).unwrap().next().unwrap().unwrap().path();
    std::fs::rename(&object, object.with_extension("sound")).unwrap();
    std::fs::write(object, "damaged").unwrap();
}

#[test]
fn a_model_is_shown_as_documented() {
    let space = Space::new();
    small(&space);
    space.report("w.yaml", &["--only", "tuned[threshold=40]"]);
    let said = space.run(&["show", "w.yaml", "tuned[threshold=40]", "--format", "json"]);
    compare("show a model", &said.stdout);
}
