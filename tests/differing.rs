//! `refrain diff`: two workflows, locks, revisions or runs, what changed and what that did to the
//! metrics.

use std::process::Command;

use serde_json::{Value, json};

use crate::space::Space;

const WORKFLOW: &str = r#"refrain: 1
data:
  rows: { path: rows.jsonl }
  others: { path: others.jsonl }
stages:
  judged: { evaluate: { data: rows, task: exact_match, ignore_case: false } }
  again: { evaluate: { data: judged, task: given } }
  apart: { evaluate: { data: others, task: exact_match } }
"#;

fn space() -> Space {
    let space = Space::new();
    space.write("w.yaml", WORKFLOW);
    for (name, response) in [("rows", "Yes"), ("others", "no")] {
        let row = format!(
            "{{\"id\": \"a\", \"prompt\": \"p\", \"response\": \"{response}\", \"reference\": \"yes\"}}\n"
        );
        space.write(&format!("{name}.jsonl"), &row);
    }
    space.report("w.yaml", &[]);
    std::fs::copy(space.path("w.lock"), space.path("old.lock")).unwrap();
    space
}

fn json(space: &Space, arguments: &[&str]) -> Value {
    let said = space.accepts(&[arguments, &["--format", "json"]].concat());
    serde_json::from_str(&said.stdout).unwrap()
}

/// The nodes of a difference, each with its sort.
fn nodes(document: &Value) -> Vec<(&str, &str)> {
    let nodes = document["nodes"].as_array().unwrap().iter();
    nodes.map(|node| (node["node"].as_str().unwrap(), node["what"].as_str().unwrap())).collect()
}

#[test]
fn a_changed_parameter_is_told_from_what_follows() {
    let space = space();
    space.edit("w.yaml", "ignore_case: false", "ignore_case: true");
    let before = json(&space, &["diff", "old.lock", "w.yaml"]);
    assert_eq!(nodes(&before), [("judged", "changed")], "nothing has run");
    space.report("w.yaml", &[]);
    for later in ["w.lock", "w.yaml"] {
        let found = json(&space, &["diff", "old.lock", later]);
        assert_eq!(nodes(&found), [("judged", "changed"), ("again", "follows")], "{later}");
        let difference =
            json!([{ "path": "parameters.ignore_case", "before": false, "after": true }]);
        assert_eq!(found["nodes"][0]["differences"], difference);
        let metric = json!({ "node": "again", "metric": "accuracy", "before": 0.0, "after": 1.0 });
        assert_eq!(found["metrics"][0], metric);
    }
    let human = space.accepts(&["diff", "old.lock", "w.lock"]).stdout;
    assert!(human.contains("`parameters.ignore_case` changed from false to true"), "{human}");
    assert!(human.contains("1 node follows from what they read: `again`"), "{human}");
    assert_eq!(space.accepts(&["diff", "w.lock", "w.lock"]).stdout, "nothing differs\n");

    // Without a cache a lock does not say what a key was made of.
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    let found = json(&space, &["diff", "old.lock", "w.lock"]);
    assert_eq!(nodes(&found), [("again", "unknown"), ("judged", "unknown")]);
}

#[test]
fn inputs_sources_and_names_are_told() {
    let space = space();
    space.edit("w.yaml", "apart: { evaluate: { data: others", "else: { evaluate: { data: others");
    space.edit("w.yaml", "judged: { evaluate: { data: rows", "judged: { evaluate: { data: others");
    let row = space.read("rows.jsonl").replace("Yes", "yes");
    space.write("rows.jsonl", &row);
    space.edit(
        "w.yaml",
        "task: given }",
        "task: given } }\n  new: { evaluate: { data: rows, task: exact_match }",
    );
    space.report("w.yaml", &[]);
    let found = json(&space, &["diff", "old.lock", "w.lock"]);
    let expected = [
        ("judged", "changed"),
        ("rows", "changed"),
        ("new", "new"),
        ("else", "renamed"),
        ("again", "follows"),
    ];
    assert_eq!(nodes(&found), expected);
    assert_eq!(
        found["nodes"][0]["inputs"],
        json!([{ "path": "data", "before": "rows", "after": "others" }])
    );
    assert_eq!(found["nodes"][1]["differences"][0]["path"], "inputs.file");
    let human = space.accepts(&["diff", "old.lock", "w.lock"]).stdout;
    assert!(human.contains("`data` comes from `others`, before from `rows`"), "{human}");
    assert!(human.contains("`else` was called `apart`"), "{human}");
}

#[test]
fn runs_and_revisions_are_compared() {
    let space = space();
    space.edit("w.yaml", "ignore_case: false", "ignore_case: true");
    space.report("w.yaml", &[]);
    let mut runs: Vec<String> = std::fs::read_dir(space.path(".refrain/runs"))
        .unwrap()
        .map(|entry| format!(".refrain/runs/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    runs.sort();
    let found = json(&space, &["diff", &runs[0], &runs[1]]);
    assert_eq!(nodes(&found), [("judged", "changed"), ("again", "follows")]);

    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@example.org"]).args(arguments);
        git.current_dir(space.path(".")).output().is_ok_and(|output| output.status.success())
    };
    if !git(&["init", "-q"]) {
        eprintln!("skipped: git is absent");
        return;
    }
    std::fs::copy(space.path("w.lock"), space.path("new.lock")).unwrap();
    std::fs::copy(space.path("old.lock"), space.path("w.lock")).unwrap();
    assert!(git(&["add", "w.lock"]) && git(&["commit", "-q", "-m", "first"]));
    for revision in ["HEAD:w.lock", "HEAD:w.yaml"] {
        let found = json(&space, &["diff", revision, "new.lock"]);
        assert_eq!(nodes(&found), [("judged", "changed"), ("again", "follows")], "{revision}");
    }
    for (wrong, words) in [
        ("HEAD:absent.lock", "cannot read `absent.lock` of revision `HEAD`"),
        ("--output=x:w.lock", "unexpected argument"),
        ("absent", "there is no `absent`"),
        ("HEAD:", "there is no `HEAD:`"),
    ] {
        let said = space.refuses(&["diff", wrong, "new.lock"]);
        assert!(said.starts_with("exit code 2") && said.contains(words), "{said}");
    }
    let said = space.refuses(&["diff", "--", "-x:w.lock", "new.lock"]);
    assert!(said.contains("a revision does not begin with `-`"), "{said}");
}
