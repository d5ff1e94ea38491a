//! What `plan` and `explain` say before a run: what differs, through the stages above too, and what it would take.

use serde_json::Value;

use crate::space::{Space, small};

fn json(space: &Space, arguments: &[&str]) -> Value {
    let said = space.run(&[arguments, &["--format", "json"]].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    serde_json::from_str(&said.stdout).unwrap()
}

/// The node of a document by its name.
fn node<'v>(document: &'v Value, name: &str) -> &'v Value {
    let nodes = document["nodes"].as_array().unwrap();
    nodes
        .iter()
        .find(|n| n["node"] == name)
        .unwrap_or_else(|| panic!("no `{name}` in {document:#}"))
}

fn names(document: &Value) -> Vec<&str> {
    document["nodes"].as_array().unwrap().iter().map(|n| n["node"].as_str().unwrap()).collect()
}

/// The paths of a node's differences, each with the node that the input comes from.
fn differences(node: &Value) -> Vec<(&str, Option<&str>)> {
    let list = node["differences"].as_array().unwrap().iter();
    list.map(|d| (d["path"].as_str().unwrap(), d["from"].as_str())).collect()
}

#[test]
fn a_change_above_is_followed_down() {
    let space = Space::new();
    small(&space);
    space.report("w.yaml", &[]);
    let said = space.run(&["explain", "w.yaml"]);
    assert!(said.stdout.starts_with("nothing differs from the last run\n"), "{}", said.stdout);
    // A row of a source, and a parameter of a stage below what must run first.
    space.edit("train.jsonl", "it is 8.", "it is 9.");
    space.edit("w.yaml", "rank: 2, alpha: 4", "rank: 2, alpha: 8");
    let all = json(&space, &["explain", "w.yaml"]);
    assert_eq!(all["gone"], serde_json::json!([]));
    assert_eq!(names(&all).len(), 12, "everything reads the source");
    assert_eq!(differences(node(&all, "train")), [("inputs.file", None)]);
    let tuned = node(&all, "tuned[threshold=40]");
    assert_eq!(
        differences(tuned),
        [("parameters.lora.alpha", None)],
        "known though its inputs must run"
    );
    assert_eq!(tuned["waits"], serde_json::json!(["base", "masked[threshold=40]"]));
    let stage = json(&space, &["explain", "w.yaml", "tuned"]);
    assert_eq!(names(&stage), ["tuned[threshold=40]", "tuned[threshold=1000]"]);
    let plan = json(&space, &["plan", "w.yaml"]);
    let tuned = node(&plan, "tuned[threshold=40]");
    assert_eq!(tuned["step"], "depends");
    let why = "on `base`, `masked[threshold=40]`; `parameters.lora.alpha` changed from absent to 8";
    assert_eq!(tuned["why"], why, "{tuned:#}");
    // Where the source has run, what reads it differs by an input, which has a name.
    space.report("w.yaml", &["--only", "train"]);
    let scored = json(&space, &["explain", "w.yaml", "base"]);
    assert_eq!(differences(&scored), [("inputs.data", Some("train"))]);
    let said = space.run(&["explain", "w.yaml", "base"]);
    assert!(said.stdout.contains("(from `train`)"), "{}", said.stdout);
}

#[test]
fn what_is_gone_new_or_damaged_is_told_apart() {
    let space = Space::new();
    // Twice the same row: what is left of it is another table than the source.
    space.write("rows.jsonl", &"{\"prompt\": \"a\", \"response\": \"b\"}\n".repeat(2));
    let stage =
        |name: &str| format!("  {name}: {{ diversify: {{ data: rows, dedupe: exact }} }}\n");
    let head = "refrain: 1\ndata: { rows: { path: rows.jsonl } }\nstages:\n";
    space.write("w.yaml", &format!("{head}{}{}", stage("old"), stage("kept")));
    space.report("w.yaml", &[]);
    let path = space.run(&["show", "w.yaml", "old", "--path"]).stdout;
    space.write("w.yaml", &format!("{head}{}{}", stage("new"), stage("kept")));
    let all = json(&space, &["explain", "w.yaml"]);
    assert_eq!(all["gone"], serde_json::json!(["old"]));
    assert_eq!(
        names(&all),
        ["new"],
        "its result is in the cache, but the last run had no such node"
    );
    assert_eq!(
        (&node(&all, "new")["cached"], &node(&all, "new")["before"]),
        (&Value::Bool(true), &Value::Null)
    );
    std::fs::remove_file(path.trim()).unwrap();
    let kept = json(&space, &["explain", "w.yaml", "kept"]);
    assert_eq!((&kept["cached"], &kept["before"]), (&Value::Bool(false), &kept["now"]));
    assert!(kept["damaged"].as_str().unwrap().contains("main"), "{kept:#}");
}

#[test]
fn estimates_say_what_they_rest_on() {
    let space = Space::new();
    small(&space);
    let nothing = json(&space, &["plan", "w.yaml"]);
    assert_eq!(
        (&nothing["total"]["nodes"], &nothing["total"]["unknown"]),
        (&Value::from(12), &Value::from(12))
    );
    let said = space.run(&["plan", "w.yaml"]);
    assert!(said.stdout.contains("no estimate: nothing like it has run yet"), "{}", said.stdout);
    space.report("w.yaml", &[]);
    let done = json(&space, &["plan", "w.yaml"]);
    assert_eq!(
        (&done["total"]["nodes"], &done["total"]["seconds"]),
        (&Value::from(0), &Value::from(0.0))
    );
    // A seed: the node itself has run. A new point: its stage has. A new stage: its kind has, with the same model.
    space.edit("w.yaml", "max_new_tokens: 6, seed: 5", "max_new_tokens: 6, seed: 6");
    space.edit("w.yaml", "[40, 1000]", "[40, 1000, 20]");
    space.edit(
        "w.yaml",
        "sweep:",
        "  more: { score: { model: base, data: train, of: text } }\n  other: { mask: { data: more, below: 2 } }\nsweep:",
    );
    let plan = json(&space, &["plan", "w.yaml", "--jobs", "1"]);
    let estimate = |name: &str| node(&plan, name)["estimate"].clone();
    let basis = |name: &str| (estimate(name)["basis"].clone(), estimate(name)["records"].clone());
    assert_eq!(basis("answers"), (Value::from("own"), Value::from(1)));
    assert!(estimate("answers")["tokens"].as_f64().unwrap() > 0.0, "generate counts its tokens");
    assert_eq!(basis("tuned[threshold=20]"), (Value::from("stage"), Value::from(2)));
    assert!(estimate("tuned[threshold=20]")["tokens"].as_f64().unwrap() > 0.0, "finetune too");
    assert_eq!(basis("more"), (Value::from("kind"), Value::from(1)));
    assert!(estimate("more")["tokens"].as_f64().unwrap() > 0.0, "and score");
    assert_eq!(basis("other"), (Value::from("kind"), Value::from(2)));
    assert_eq!(estimate("scored"), Value::Null, "it does not run");
    // One after another the times add up; with many at once they do not.
    let nodes = plan["nodes"].as_array().unwrap().iter();
    let sum: f64 = nodes.filter_map(|n| n["estimate"]["seconds"].as_f64()).sum();
    let all = |plan: &Value| plan["total"]["seconds"].as_f64().unwrap();
    assert!((all(&plan) - sum).abs() < 1e-3, "{} and {sum}", all(&plan));
    assert!(all(&json(&space, &["plan", "w.yaml", "--jobs", "9"])) < sum);
}

#[test]
fn estimates_are_scaled_by_rows() {
    let space = Space::new();
    small(&space);
    space.report("w.yaml", &["--only", "scored"]);
    let rows = space.read("train.jsonl");
    space.write("train.jsonl", &format!("{rows}{}", rows.replace("\"r", "\"s")));
    space.report("w.yaml", &["--only", "train"]);
    // Half of the rows are new by now: the lock still has the node that was made of the old ones, but not its input.
    let plan = json(&space, &["plan", "w.yaml"]);
    assert_eq!(node(&plan, "scored")["estimate"]["basis"], "own");
    let text = space.read("w.yaml").replace(
        "  scored:",
        "  again:\n    score: { model: base, data: twice, of: text }\n  scored:",
    );
    space.write("train.jsonl", &rows);
    space.write("twice.jsonl", &format!("{rows}{}", rows.replace("\"r", "\"s")));
    space.write("w.yaml", &text.replace("data:\n", "data:\n  twice: { path: twice.jsonl }\n"));
    space.report("w.yaml", &["--only", "scored", "twice"]);
    let plan = json(&space, &["plan", "w.yaml"]);
    let (again, scored) = (node(&plan, "again"), node(&plan, "scored"));
    assert_eq!(
        (&again["estimate"]["basis"], &again["estimate"]["scaled"]),
        (&"kind".into(), &true.into())
    );
    let ratio =
        again["estimate"]["seconds"].as_f64().unwrap() / scored["seconds"].as_f64().unwrap();
    assert!((ratio - 2.0).abs() < 1e-6, "twice the rows: {ratio}");
}
