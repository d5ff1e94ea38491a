//! Comparisons that are refused, or that have no result.

use super::{space, table};
use crate::space::Space;

#[test]
fn an_axis_that_is_free_is_named() {
    let space = space();
    space.edit("w.yaml", ", over: seed }", " }");
    space.edit("w.yaml", ", confidence: 0.95", "");
    let said = space.refuses(&["check", "w.yaml"]);
    assert!(
        said.contains("w.yaml:7:3") && said.contains("stage `judged` has 5 nodes of arm `new`"),
        "{said}"
    );
    assert!(
        said.contains("name the value of `seed` in `at`, or the axis of the seeds in `over`"),
        "{said}"
    );
}

/// The problems that `check` finds in a comparison, or in a claim on it.
fn refused(from: &str, to: &str) -> String {
    let space = space();
    space.edit("w.yaml", from, to);
    space.refuses(&["check", "w.yaml"])
}

#[test]
fn wrong_comparisons_are_refused_with_their_place() {
    let better = "{ stage: judged, metric: accuracy, between: { arm: [new, old] }, over: seed }";
    let to = |text: &str| refused(better, text);
    let cases = [
        (
            to("{ stage: judgd, metric: accuracy, between: { arm: [new, old] } }"),
            "w.yaml:7:20",
            "there is no stage `judgd`",
        ),
        (
            to("{ stage: judged, metric: acuracy, between: { arm: [new, old] }, over: seed }"),
            "w.yaml:7:36",
            "no metric `acuracy`",
        ),
        (
            to("{ stage: judged, metric: accuracy, between: { arm: [new] } }"),
            "w.yaml:7:62",
            "`between` names two values",
        ),
        (
            to("{ stage: judged, metric: accuracy, between: { arm: [new, odl] } }"),
            "w.yaml:7:",
            "axis `arm` has no value `odl`",
        ),
        (
            to("{ stage: judged, metric: accuracy, between: { arm: [new, new] } }"),
            "w.yaml:7:62",
            "both arms are `new`",
        ),
        (
            to("{ stage: judged, metric: accuracy, between: { army: [new, old] } }"),
            "w.yaml:7:63",
            "there is no axis `army`",
        ),
        (
            to("{ stage: judged, metric: accuracy, between: { arm: [new, old] }, over: sed }"),
            "w.yaml:7:82",
            "there is no axis `sed`",
        ),
        (
            to("{ stage: judged, metric: accuracy, between: { arm: [new, old] }, over: arm }"),
            "w.yaml:7:82",
            "axis `arm` is that of the arms",
        ),
        (
            to(
                "{ stage: judged, metric: accuracy, between: { arm: [new, old] }, over: seed, at: { seed: 1 } }",
            ),
            "w.yaml:7:100",
            "axis `seed` is given twice",
        ),
        (
            to("{ stage: judged, between: { arm: [new, old] }, over: seed }"),
            "w.yaml:7:",
            "a comparison needs `metric`",
        ),
        (
            to(
                "{ stage: judged, metric: accuracy, of: judged.accuracy, between: { arm: [new, old] }, over: seed }",
            ),
            "w.yaml:7:",
            "`of` stands in place of",
        ),
        (
            to(
                "{ of: \"a + 1\", figures: { a: judged.accuracy, b: judged.accuracy }, between: { arm: [new, old] }, over: seed }",
            ),
            "w.yaml:7:60",
            "`of` does not use `b`",
        ),
        (
            to(
                "{ of: \"a / c\", figures: { a: judged.accuracy }, between: { arm: [new, old] }, over: seed }",
            ),
            "w.yaml:7:22",
            "`c` is not a metric",
        ),
        (
            to(
                "{ stage: judged, metric: accuracy, margin: -1, between: { arm: [new, old] }, over: seed }",
            ),
            "w.yaml:7:",
            "`margin`",
        ),
        (to("{ stage: judged, metric: accuracy, over: seed }"), "w.yaml:7:", "needs `between`"),
        (
            refused("compare: better", "compare: beter"),
            "w.yaml:9:",
            "there is no comparison `beter`",
        ),
        (refused("above: 0,", "stage: judged,"), "w.yaml:9:", "a comparison has no `stage`"),
        (
            refused("above: 0,", "above: { arm: old },"),
            "w.yaml:9:",
            "`above` of a comparison is a number",
        ),
        (
            refused("compare: better, above: 0", "stage: judged, metric: accuracy, at_least: 0"),
            "w.yaml:9:",
            "`confidence` is asked of a comparison",
        ),
        (refused("confidence: 0.95", "confidence: 1.5"), "w.yaml:9:", "confidence"),
        (
            refused("[1, 2, 3, 4, 5]", "[1, 2, 3, 4]"),
            "w.yaml:9:",
            "needs 5 seeds, and `better` has 4 seeds",
        ),
    ];
    for (said, place, words) in &cases {
        assert!(said.starts_with("exit code 2"), "{said}");
        assert!(said.contains(place) && said.contains(words), "no `{words}` at {place}: {said}");
    }
}

#[test]
fn an_arm_needs_its_partner() {
    let space = Space::new();
    table(&space, "a.jsonl", |_| true, |_| true);
    space.write(
        "w.yaml",
        r#"refrain: 1
data: { rows: { path: a.jsonl } }
stages:
  judged: { evaluate: { data: rows, task: exact_match, ignore_case: "${fold}" } }
sweep: { fold: [true, false], other: [1, 2] }
compare:
  c: { stage: judged, metric: accuracy, between: { other: [1, 2] } }
"#,
    );
    let said = space.refuses(&["run", "w.yaml"]);
    assert!(said.contains("stage `judged` has 2 nodes of arm `1`"), "{said}");
    space.edit("w.yaml", "{ other: [1, 2] } }\n", "{ other: [1, 2] }, at: { fold: true } }\n");
    let said = space.refuses(&["run", "w.yaml"]);
    assert!(said.contains("does not depend on axis `other`: both arms are one"), "{said}");
    space.edit(
        "w.yaml",
        "between: { other: [1, 2] }, at: { fold: true }",
        "between: { fold: [true, false] }, over: other",
    );
    let said = space.refuses(&["run", "w.yaml"]);
    assert!(said.contains("does not depend on axis `other`"), "{said}");

    // All are right: the interval of no draw's difference is not of width zero.
    space.edit("w.yaml", ", over: other", "");
    let report = space.report("w.yaml", &[]);
    let interval = &report["comparisons"][0]["result"]["intervals"][0];
    assert_eq!(interval["by"], "newcombe");
    assert!(interval["low"].as_f64().unwrap() < -0.05 && interval["high"].as_f64().unwrap() > 0.05);
    let arm = &report["comparisons"][0]["result"]["arms"][0];
    assert!(arm["low"].as_f64().unwrap() < 0.95, "{arm}");
}

#[test]
fn tables_without_a_common_id_cannot_be_compared() {
    let space = space();
    for seed in 1..=5 {
        let rows = space.read(&format!("old-{seed}.jsonl")).replace("\"id\": \"r", "\"id\": \"s");
        space.write(&format!("old-{seed}.jsonl"), &rows);
    }
    let said = space.refuses(&["run", "w.yaml"]);
    assert!(
        said.contains(
            "error: comparison `better` has no result: no id is in all of the tables of "
        ),
        "{said}"
    );
    assert!(said.starts_with("exit code 1"), "{said}");
}
