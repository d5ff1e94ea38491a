//! Metrics that a command writes: where they arrive, and what is refused.

use serde_json::Value;

use crate::space::{Space, names, set};

const WORKFLOW: &str = r#"refrain: 1
data: { rows: { path: rows.jsonl, type: file } }
stages:
  counted:
    run:
      command: [sh, -c, 'n=$(wc -l < "$0"); echo "{\"rows\": $n, \"share\": {\"value\": 0.5, \"n\": $n, \"low\": 0.25, \"high\": 0.75}}" > "$1"', '${in.rows}', '${out.metrics}']
      inputs: { rows: rows }
      outputs: { metrics: metrics }
      metrics: [rows, share]
  listed: { run: { command: [cp, '${in.table}', '${out.copy}'], inputs: { table: counted.metrics }, outputs: { copy: table } } }
results: { columns: { rows: counted.rows, share: counted.share } }
expect:
  - { stage: counted, metric: rows, value: 2, within: 0 }
"#;

fn space() -> Space {
    let space = Space::new();
    space.write("w.yaml", WORKFLOW);
    space.write("rows.jsonl", "{}\n{}\n");
    space
}

#[test]
fn metrics_of_a_command_reach_results_expect_lock_and_stages() {
    let space = space();
    let report = space.report("w.yaml", &[]);
    let node = |name: &str| {
        let nodes = report["nodes"].as_array().unwrap();
        nodes.iter().find(|node| node["node"] == name).unwrap().clone()
    };
    let metrics: Value = serde_json::json!([
        { "metric": "rows", "value": 2.0, "n": 1, "low": null, "high": null },
        { "metric": "share", "value": 0.5, "n": 2, "low": 0.25, "high": 0.75 },
    ]);
    assert_eq!(node("counted")["metrics"], metrics);
    assert_eq!(node("counted")["outputs"]["metrics"]["rows"], 2);
    assert_eq!(node("counted")["outputs"]["main"], Value::Null, "it has no main output");
    // The table that a stage reads is the one that every kind would write.
    assert_eq!(node("listed")["outputs"]["main"], node("counted")["outputs"]["metrics"]);
    assert_eq!(report["expects"][0]["holds"], true);

    let lock = space.read("w.lock");
    assert!(lock.contains(r#""metric":"share""#), "{lock}");
    assert_eq!(space.run(&["verify", "w.yaml", "--recompute", "all"]).code, 0);
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    let table = space.run(&["results", "w.yaml"]).stdout;
    assert!(table.contains("0.5000"), "{table}");
    assert_eq!(space.run(&["verify", "w.yaml", "--no-data"]).code, 0);
    space.edit("w.lock", "\"value\":0.5", "\"value\":0.6");
    let forged = space.fails(&["verify", "w.yaml", "--no-data"]);
    assert!(forged.contains("not those of the metrics table in the same line"), "{forged}");
}

#[test]
fn names_are_checked_where_they_are_declared() {
    let space = space();
    space.edit("w.yaml", "share: counted.share", "share: counted.shre");
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("stage `counted` has no metric `shre`"), "{said}");
    assert!(said.contains("did you mean `share`?"), "{said}");

    space.edit("w.yaml", "      metrics: [rows, share]\n", "");
    assert_eq!(space.run(&["check", "w.yaml"]).code, 0, "it may write any");
    let ran = space.run(&["run", "w.yaml"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);

    space.edit("w.yaml", "counted.shre", "counted.share");
    space.edit(
        "w.yaml",
        "      outputs: { metrics: metrics }",
        "      outputs: { metrics: metrics }\n      metrics: [recall, rows]",
    );
    space.edit("w.yaml", "results: { columns: { rows: counted.rows, share: counted.share } }", "");
    let said = space.fails(&["run", "w.yaml"]);
    assert!(said.starts_with("exit code 1"), "{said}");
    assert!(said.contains("the command did not write the metric `recall`"), "{said}");
    assert!(said.contains("it wrote `rows`, `share`"), "{said}");
}

#[test]
fn what_is_declared_wrongly_is_found_by_check() {
    for (from, to, words) in [
        (
            "outputs: { metrics: metrics }",
            "outputs: { metrics: table }",
            "the output `metrics` is of the type `metrics`",
        ),
        (
            "outputs: { metrics: metrics }",
            "outputs: { o: metrics }",
            "an output of the type `metrics` is called `metrics`",
        ),
        (
            "outputs: { metrics: metrics }",
            "outputs: { o: file }",
            "the stage has no output for them",
        ),
        ("[rows, share]", "[rows, rows]", "`rows` is named twice"),
        ("[rows, share]", "[rows, \"a b\"]", "`a b` is not a name"),
    ] {
        let space = space();
        let alone = WORKFLOW.split("  listed").next().unwrap();
        space.write("w.yaml", &alone.replace(from, to));
        let said = space.fails(&["check", "w.yaml"]);
        assert!(said.starts_with("exit code 2") && said.contains(words), "{words}: {said}");
    }
}

#[test]
fn the_order_of_declared_names_is_in_no_key() {
    let space = space();
    space.report("w.yaml", &[]);
    space.edit("w.yaml", "[rows, share]", "[share, rows]");
    assert_eq!(space.ran("w.yaml", &[]), set(&[]));
    space.edit("w.yaml", "      metrics: [share, rows]\n", "");
    let report = space.report("w.yaml", &[]);
    assert_eq!(names(&report, "ran"), set(&["counted"]), "the same metrics: nothing below it runs");
}
