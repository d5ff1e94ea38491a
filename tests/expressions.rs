//! Expressions of metrics in `results` and `expect`: their points, their values, and what is refused.

use serde_json::Value;

use crate::space::{Space, shared};

/// Two stages on different axes, and one on none.
const WORKFLOW: &str = r#"refrain: 1
stages:
  left: { run: { command: [sh, -c, 'echo "{\"x\": $1}" > "$0"', '${out.metrics}', '${a}'], outputs: { metrics: metrics } } }
  right-hand: { run: { command: [sh, -c, 'echo "{\"x\": $1}" > "$0"', '${out.metrics}', '${b}'], outputs: { metrics: metrics } } }
  base: { run: { command: [sh, -c, 'echo "{\"x\": 3, \"y-1\": 7}" > "$0"', '${out.metrics}'], outputs: { metrics: metrics } } }
sweep: { a: [1, 2], b: [0, 4] }
results:
  columns:
    difference: "left.x - right-hand.x"
    whole: "1 / 2 * base.x"
"#;

fn space() -> Space {
    let space = Space::new();
    space.write("w.yaml", WORKFLOW);
    space
}

/// The value of a column in each row, as JSON gives it.
fn column(space: &Space, heading: &str, more: &[&str]) -> Vec<Value> {
    let said = space.run(&[&["results", "w.yaml", "--format", "json"], more].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    let document: Value = serde_json::from_str(&said.stdout).unwrap();
    let rows = document["rows"].as_array().unwrap().iter();
    rows.map(|row| row["figures"][heading].clone()).collect()
}

fn values(space: &Space, heading: &str, more: &[&str]) -> Vec<f64> {
    column(space, heading, more).iter().map(|cell| cell["value"].as_f64().unwrap()).collect()
}

/// The workflow of a replicator: a row per run, the mean over the tasks that it was not trained on.
fn forgetting(case: &Value) -> (String, String) {
    let target = case["target"].as_str().unwrap();
    let tasks: Vec<&String> = case["base"].as_object().unwrap().keys().collect();
    let mut rows = String::new();
    let mut add = |run: &str, scores: &Value| {
        for (task, score) in scores.as_object().unwrap() {
            rows.push_str(&format!(
                "{{\"run\":\"{run}\",\"task\":\"{task}\",\"score\":{score}}}\n"
            ));
        }
    };
    add("none", &case["base"]);

    let (mut names, mut expects) = (Vec::new(), String::new());
    for run in case["runs"].as_array().unwrap() {
        let name = run["name"].as_str().unwrap();
        add(name, &run["scores"]);
        names.push(name);
        let mut expect = |of: &str, published: &str| {
            let within = &case["tolerance_percentage_points"];
            expects.push_str(&format!(
                "  - {{ of: \"{of}\", at: {{ run: {name} }}, value: {}, within: {within} }}\n",
                run[published]
            ));
        };
        expect("100*(tuned.score/base.score - 1)", "published_forgetting_percent");
        expect("100 * (target.score / start.score - 1)", "published_improvement_percent");
    }
    let others: Vec<&str> =
        tasks.into_iter().map(String::as_str).filter(|task| *task != target).collect();
    let stage = |run: &str, task: &str| {
        let script = r#"sed -n "s/{\"run\":\"$2\",\"task\":\"$3\",\"score\":\(.*\)}/{\"score\": \1}/p" "$0" > "$1""#;
        format!(
            "{{ run: {{ command: [sh, -c, '{script}', '${{in.scores}}', '${{out.metrics}}', '{run}', '{task}'], \
             inputs: {{ scores: scores }}, outputs: {{ metrics: metrics }}, metrics: [score] }} }}"
        )
    };
    let workflow = format!(
        "refrain: 1
data: {{ scores: {{ path: scores.jsonl, type: file }} }}
stages:
  base: {}
  tuned: {}
  start: {}
  target: {}
sweep: {{ run: [{}], task: [{}] }}
results:
  columns:
    forgetting: \"100 * (tuned.score / base.score - 1)\"
    improvement: \"100 * (target.score / start.score - 1)\"
  mean_over: [task]
expect:
{expects}",
        stage("none", "${task}"),
        stage("${run}", "${task}"),
        stage("none", target),
        stage("${run}", target),
        names.join(", "),
        others.join(", "),
    );
    (workflow, rows)
}

#[test]
fn published_percentages_come_out_of_published_scores() {
    let Some(shared) = shared() else { return };
    let path = shared.join("data/forgetting-metric/cases.json");
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for case in cases["cases"].as_array().unwrap() {
        let space = Space::new();
        let (workflow, rows) = forgetting(case);
        space.write("w.yaml", &workflow);
        space.write("scores.jsonl", &rows);
        let said = space.run(&["run", "w.yaml"]);
        assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
        let runs = case["runs"].as_array().unwrap();
        assert_eq!(said.stderr.matches(", holds").count(), 2 * runs.len(), "{}", said.stderr);

        for (heading, points) in [("forgetting", 4), ("improvement", 1)] {
            let computed = format!("computed_{heading}_percent");
            let published = format!("published_{heading}_percent");
            for (cell, run) in column(&space, heading, &[]).iter().zip(runs) {
                let off = cell["value"].as_f64().unwrap() - run[&computed].as_f64().unwrap();
                assert!(off.abs() <= 1e-9, "{heading} of {}: {off:e}", run["name"]);
                assert_eq!(cell["points"], points);
                assert_eq!(cell["published"], run[&published], "whatever the spaces");
            }
        }

        // The lock alone decides the same.
        std::fs::remove_dir_all(space.path(".refrain")).unwrap();
        let verified = space.run(&["verify", "w.yaml", "--no-data"]);
        assert_eq!(verified.code, 0, "{}", verified.stderr);
        space.edit("w.yaml", "within: 0.011", "within: 0.0001");
        let wrong = space.fails(&["verify", "w.yaml", "--no-data"]);
        assert!(wrong.starts_with("exit code 3"), "{wrong}");
        assert!(wrong.contains("-9.05 ± 0.0001: obtained -9.050585"), "{wrong}");
    }
}

#[test]
fn an_expression_has_a_row_for_each_point_of_its_stages_together() {
    let space = space();
    space.report("w.yaml", &[]);
    assert_eq!(values(&space, "difference", &[]), [1.0, -3.0, 2.0, -2.0]);
    assert_eq!(values(&space, "whole", &[]), [1.5; 4], "no axis, one node, and no whole numbers");
    let human = space.run(&["results", "w.yaml"]).stdout;
    let first: Vec<&str> = human.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(first, ["1", "0", "1", "1.500"], "{human}");

    space.edit("w.yaml", "results:", "results:\n  mean_over: [a]");
    assert_eq!(values(&space, "difference", &[]), [1.5, -2.5]);
    assert_eq!(values(&space, "difference", &["--each"]).len(), 4);
    space.edit("w.yaml", "[a]", "[a, b]");
    assert_eq!(values(&space, "difference", &[]), [-0.5]);
    assert_eq!(column(&space, "difference", &[])[0]["points"], 4);
    let cell = &column(&space, "difference", &[])[0];
    assert_eq!((&cell["stage"], &cell["of"]), (&Value::Null, &"left.x - right-hand.x".into()));
}

#[test]
fn named_rows_and_functions_take_expressions() {
    let space = space();
    let columns = "    spread: \"max([left.x, right-hand.x]) - min(left.x, right-hand.x)\"
    root: \"sqrt(abs(-4 * base.x / 3)) + exp(log(base.x)) - mean(base.x, 1)\"
    dashed: base.y-1
  rows: { start: { spread: \"100 * base.x\" } }
";
    space.write("w.yaml", &format!("{WORKFLOW}{columns}"));
    space.report("w.yaml", &[]);
    assert_eq!(values(&space, "spread", &[]), [300.0, 1.0, 3.0, 2.0, 2.0]);
    let root = column(&space, "root", &[])[1]["value"].as_f64().unwrap();
    assert!((root - 3.0).abs() < 1e-12, "{root}");
    assert_eq!(column(&space, "dashed", &[])[1]["value"], 7.0);
}

#[test]
fn what_is_not_finite_or_not_there_has_a_reason() {
    let space = space();
    space.edit("w.yaml", "left.x - right-hand.x", "left.x / right-hand.x");
    space.edit("w.yaml", "1 / 2 * base.x", "base.z + 1");
    let expect = "expect:\n  - { of: \"1 / (1 / right-hand.x)\", at: { b: 0 }, at_most: 1 }\n  - { of: \"left.x / right-hand.x\", at: { b: 4, a: 2 }, value: 0.5, within: 0 }\n";
    space.edit("w.yaml", "results:", &format!("{expect}results:"));
    let said = space.run(&["run", "w.yaml"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    let reason = "`left.x / right-hand.x` is not finite: `left.x` is 1, `right-hand.x` is 0 (nodes `left[a=1]`, `right-hand[b=0]`)";
    for words in [
        format!("warning: `difference` has no value: {reason}; 1 more cells have no value"),
        "warning: `whole` has no value: `base` has no metric `z`".into(),
        "got no value: `the value in parentheses` is not finite: `right-hand.x` is 0".into(),
        "expect `left.x / right-hand.x [b=4,a=2]`: 0.5 ± 0: obtained 0.500000, holds".into(),
    ] {
        assert!(said.stderr.contains(&words), "{words}: {}", said.stderr);
    }

    let cells = column(&space, "difference", &[]);
    assert_eq!((&cells[0]["status"], &cells[0]["reason"]), (&"failed".into(), &reason.into()));
    assert_eq!((&cells[1]["value"], &cells[1]["reason"]), (&0.25.into(), &Value::Null));
    assert_eq!(column(&space, "whole", &[])[0]["status"], "missing");
    let verified = space.fails(&["verify", "w.yaml", "--no-data"]);
    assert!(verified.contains("obtained no value: `the value in parentheses`"), "{verified}");
}

#[test]
fn a_node_that_failed_leaves_the_points_without_it() {
    let space = space();
    space.edit(
        "w.yaml",
        "'echo \"{\\\"x\\\": $1}\" > \"$0\"'",
        "'test $1 = 1 && echo \"{\\\"x\\\": $1}\" > \"$0\"'",
    );
    assert_eq!(space.run(&["run", "w.yaml", "--keep-going"]).code, 1);
    let status = |more: &[&str]| {
        let cells = column(&space, "difference", more);
        cells.iter().map(|cell| cell["status"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(status(&[]), ["ok", "ok", "failed", "failed"]);
    space.edit("w.yaml", "results:", "results:\n  mean_over: [a]");
    assert_eq!(status(&[]), ["partial", "partial"]);
    assert_eq!(column(&space, "difference", &[])[0]["value"], 1.0, "of the point that is there");
}

#[test]
fn what_is_wrong_in_an_expression_is_found_in_its_place() {
    let wrong = |expression: &str| {
        let space = Space::new();
        let judged = "  judged: { evaluate: { data: rows, task: exact_match } }\n";
        let source = "data: { rows: { path: rows.jsonl } }\n";
        space.write(
            "rows.jsonl",
            "{\"prompt\": \"p\", \"response\": \"r\", \"reference\": \"r\"}\n",
        );
        let text = WORKFLOW.replace("sweep:", &format!("{judged}sweep:"));
        let text = text.replace("stages:", &format!("{source}stages:"));
        space.write("w.yaml", &text.replace("left.x - right-hand.x", expression));
        space.fails(&["check", "w.yaml"])
    };
    // The place is that of the word, behind `    difference: "`.
    for (expression, column, words) in [
        ("left.x - judged.acuracy", 10, "did you mean `accuracy`?"),
        ("left.x - judge.accuracy", 10, "there is no stage `judge`"),
        ("judged.accuracy-1", 1, "put a space before a minus"),
        ("judged.accuracy-left.x", 1, "put a space before a minus"),
        ("left.x + judged", 10, "name one of the stage's metrics: `judged.METRIC`"),
        ("left.x + a", 10, "`a` is not a metric"),
        ("maen(left.x)", 1, "did you mean `mean`?"),
        ("abs(left.x, 1)", 1, "`abs` takes one number"),
        ("left.x ** 2", 8, "there is no operator `**`"),
        ("left.x > 2", 8, "there is no operator `>`"),
        ("left.x | int", 8, "there is no operator `|`"),
        ("left.x + 'a'", 10, "expected a number or `stage.metric`, found `'`"),
        ("left.x 2", 8, "expected an operator, found `2`"),
        ("left.x, base.x", 7, "expected an operator, found `,`"),
        ("(left.x", 1, "`)` is missing"),
        ("left.x)", 7, "`)` closes nothing"),
        ("mean([left.x, 1)", 16, "found `)`"),
        ("mean([left.x], 1)", 14, "found `,`"),
        ("[left.x]", 1, "found `[`"),
        ("mean()", 6, "expected a number or `stage.metric`, found `)`"),
        ("left.x - - - 1", 12, "a sign cannot follow another"),
        ("1e999 * left.x", 1, "`1e999` is not a number"),
        ("left.x +", 1, "ends where a number"),
        ("2 + 3", 1, "names no metric"),
        (" ", 1, "the expression is empty"),
    ] {
        let said = wrong(expression);
        assert!(said.starts_with("exit code 2"), "{expression}: {said}");
        assert!(said.contains(words), "{expression}: {words}: {said}");
        let place = format!("w.yaml:11:{}", 17 + column);
        assert!(said.contains(&place), "{expression}: {place}: {said}");
    }
    let deep = format!("{}left.x{}", "(".repeat(60), ")".repeat(60));
    assert!(wrong(&deep).contains("nested more than 50 levels deep"));
    let long = "left.x".to_string() + &" + 1".repeat(600);
    assert!(wrong(&long).contains("more than 1000 names and signs"));
    assert!(wrong(&"left.x + 1 ".repeat(1000)).contains("longer than 10000 bytes"));
}

#[test]
fn an_expect_has_a_metric_or_an_expression() {
    let wrong = |expect: &str| {
        let space = space();
        space.edit(
            "w.yaml",
            "results:",
            &format!("expect: [ {{ {expect}, at_least: 0 }} ]\nresults:"),
        );
        let said = space.fails(&["check", "w.yaml"]);
        assert!(said.starts_with("exit code 2"), "{said}");
        said
    };
    let both = "`of` stands in place of `stage` and `metric`";
    assert!(wrong("of: left.x, stage: left").contains(both));
    assert!(wrong("of: left.x, metric: x").contains(both));
    assert!(wrong("stage: left").contains("`expect` needs `metric`"));
    assert!(wrong("metric: x").contains("`expect` needs `stage`"));
    assert!(wrong("of: lefd.x").contains("did you mean `left`?"));
}

#[test]
fn the_longest_and_deepest_expressions_are_computed() {
    let space = space();
    let long = format!("left.x{}", " + 1".repeat(499));
    let deep = format!("{}left.x{}", "abs(".repeat(50), ")".repeat(50));
    space.edit("w.yaml", "left.x - right-hand.x", &long);
    space.edit("w.yaml", "1 / 2 * base.x", &deep);
    space.accepts(&["run", "w.yaml"]);
    assert_eq!(values(&space, "difference", &[]), [500.0, 501.0]);
    assert_eq!(values(&space, "whole", &[]), [1.0, 2.0]);
}

#[test]
fn the_documented_examples_run() {
    let reference = include_str!("../docs/language.md");
    let example = |heading: &str| {
        let section =
            reference.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
        section.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap().to_string()
    };
    let space = Space::new();
    let stage = |value: &str| {
        format!(
            "{{ run: {{ command: [sh, -c, 'echo \"{{\\\"accuracy\\\": $1}}\" > \"$0\"', '${{out.metrics}}', {value}], \
             outputs: {{ metrics: metrics }} }} }}"
        )
    };
    let stages = format!(
        "refrain: 1\nstages:\n  base: {}\n  tuned: {}\nsweep: {{ arm: [masked, plain], task: [1, 2] }}\n",
        stage("'${task}'"),
        stage("0.5, '${task}', '${arm}'"),
    );
    space.write("w.yaml", &format!("{stages}{}", example("Expressions").replace("-2", "-62.5")));
    let said = space.run(&["run", "w.yaml"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains("at least -62.5: obtained -62.500000, holds"), "{}", said.stderr);

    space.write("c.yaml", &example("Metrics of a command"));
    space.write("rows.jsonl", "{}\n{}\n");
    let said = space.run(&["run", "c.yaml"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let words: Vec<&str> = said.stdout.split_whitespace().collect();
    assert_eq!(words, ["counted.lines", "2"]);
}
