//! Comparisons of expressions, and of metrics without rows.

use serde_json::{Value, json};

use super::{IDS, close, is_right, table};
use crate::space::Space;

/// Two tasks as two values of an axis, with an expression over both.
const TASKS: &str = r#"refrain: 1
data:
  rows: { path: "${task}-${arm}-${seed}.jsonl" }
  before: { path: "${task}-base.jsonl" }
stages:
  judged: { evaluate: { data: rows, task: exact_match } }
  base: { evaluate: { data: before, task: exact_match } }
sweep: { task: [x, y], arm: [new, old], seed: [1, 2, 3, 4, 5] }
compare:
  forgets:
    of: "mean(100 * (a / a0 - 1), 100 * (b / b0 - 1))"
    figures:
      a: { stage: judged, metric: accuracy, at: { task: x } }
      a0: { stage: base, metric: accuracy, at: { task: x } }
      b: { stage: judged, metric: accuracy, at: { task: y } }
      b0: { stage: base, metric: accuracy, at: { task: y } }
    between: { arm: [new, old] }
    over: seed
  one: { of: "100 * judged.accuracy", at: { task: x }, between: { arm: [new, old] }, over: seed }
"#;

#[test]
fn an_expression_is_computed_from_bound_figures() {
    let space = Space::new();
    space.write("w.yaml", TASKS);
    let mut shares = Vec::new();
    for (t, task) in ["x", "y"].into_iter().enumerate() {
        table(&space, &format!("{task}-base.jsonl"), |_| true, |id| id % 4 != t as u64);
        for (arm, seed) in
            ["new", "old"].into_iter().flat_map(|arm| (1..=5).map(move |seed| (arm, seed)))
        {
            let right = |id: u64| is_right(arm, seed + 10 * t as u64, id);
            table(&space, &format!("{task}-{arm}-{seed}.jsonl"), |_| true, right);
            shares.push((task, arm, (0..IDS).filter(|id| right(*id)).count() as f64 / IDS as f64));
        }
    }
    let report = space.report("w.yaml", &[]);
    let mean = |task: &str, arm: &str| {
        let of = shares.iter().filter(|(t, a, _)| (*t, *a) == (task, arm)).map(|(.., share)| share);
        of.sum::<f64>() / 5.0
    };
    // Both bases are right in three quarters.
    let change = |task| 100.0 * (mean(task, "new") - mean(task, "old")) / 0.75;
    let result = &report["comparisons"][0]["result"];
    let off = result["estimate"].as_f64().unwrap() - (change("x") + change("y")) / 2.0;
    assert!(off.abs() < 1e-9, "{off:e}");
    assert_eq!((&result["ids"], &result["tests"][0]["by"]), (&json!(160), &json!("bootstrap")));
    let bounds = &result["intervals"][0];
    let estimate = result["estimate"].as_f64().unwrap();
    assert!(
        bounds["low"].as_f64().unwrap() < estimate && estimate < bounds["high"].as_f64().unwrap()
    );
    assert_eq!(report["comparisons"][1]["result"]["ids"], 40);

    // A comparison without a value has a reason.
    table(&space, "y-base.jsonl", |_| true, |_| false);
    let failed = space.refuses(&["run", "w.yaml"]);
    assert!(failed.starts_with("exit code 1"), "{failed}");
    assert!(failed.contains("error: comparison `forgets` has no result: "), "{failed}");
}

#[test]
fn metrics_of_one_source_are_of_one_task() {
    let space = Space::new();
    let row = |sample: usize, run: &str, id: u64, right: bool| {
        let response = if right { "yes" } else { "no" };
        format!(
            "{{\"id\": \"r{id:02}\", \"sample\": {sample}, \"run\": \"{run}\", \"prompt\": \"p{id}\", \"response\": \"{response}\", \"reference\": \"yes\"}}\n"
        )
    };
    let mut rows: String = (0..IDS).map(|id| row(0, "base", id, id % 4 != 0)).collect();
    for (i, arm) in ["new", "old"].into_iter().enumerate() {
        rows.extend((0..IDS).map(|id| row(i + 1, arm, id, is_right(arm, 1, id))));
    }
    space.write("all.jsonl", &rows);
    space.write(
        "w.yaml",
        r#"refrain: 1
data: { all: { path: all.jsonl } }
stages:
  picked: { diversify: { data: all, keep: { where: { run: "${arm}" } } } }
  first: { diversify: { data: all, keep: { where: { run: base } } } }
  judged: { evaluate: { data: picked, task: exact_match } }
  base: { evaluate: { data: first, task: exact_match } }
sweep: { arm: [new, old] }
compare:
  gain: { of: "judged.accuracy / base.accuracy", between: { arm: [new, old] } }
"#,
    );
    let report = space.report("w.yaml", &[]);
    let result = &report["comparisons"][0]["result"];
    assert_eq!(result["ids"], 40, "the rows of both are drawn together");
    let share = |arm| (0..IDS).filter(|id| is_right(arm, 1, *id)).count() as f64 / IDS as f64;
    close(&result["estimate"], share("new") / 0.75 - share("old") / 0.75);
}

#[test]
fn a_metric_without_rows_is_compared_by_seeds() {
    let space = Space::new();
    space.write("w.yaml", r#"refrain: 1
stages:
  made: { run: { command: [sh, -c, 'echo "{\"x\": $1.$2}" > "$0"', '${out.metrics}', '${arm}', '${seed}'], outputs: { metrics: metrics } } }
sweep: { arm: [3, 1], seed: [1, 2, 3, 4, 5, 6] }
compare:
  x: { stage: made, metric: x, between: { arm: [3, 1] }, over: seed }
  y: { of: "made.x * made.x", between: { arm: [3, 1] }, over: seed }
expect:
  - { compare: x, above: 1.9, confidence: 0.99 }
  - { compare: x, value: 2, within: 0.001 }
  - { compare: x, at_least: 1.5, at_most: 2.5 }
"#);
    let report = space.report("w.yaml", &[]);
    let result = &report["comparisons"][0]["result"];
    assert_eq!((&result["ids"], &result["tests"][0]["by"]), (&json!(0), &json!("student")));
    assert!((result["estimate"].as_f64().unwrap() - 2.0).abs() < 1e-9);
    let verdicts: Vec<&Value> =
        report["expects"].as_array().unwrap().iter().map(|e| &e["verdict"]).collect();
    assert_eq!(verdicts, ["holds"; 3]);
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    space.accepts(&["verify", "w.yaml", "--no-data"]);
}
