//! The table of results: which figure stands in which row, and the forms in which it is printed.

use serde_json::Value;

use crate::space::Space;

/// Two arms and two seeds. What is made for the arm `b` fails where `broken` is there; `alone` depends on the seed only.
const WORKFLOW: &str = r#"refrain: 1
data: { rows: { path: rows.jsonl } }
stages:
  made:
    run:
      command: [sh, -c, 'test ${arm} = a -o ! -e ${flag} && cp "$0" "$1"', '${in.rows}', '${out.t}', '${seed}']
      inputs: { rows: rows }
      outputs: { t: table }
  judged: { evaluate: { data: made, task: exact_match } }
  copied:
    run: { command: [sh, -c, 'cp "$0" "$1"', '${in.rows}', '${out.t}', '${seed}'], inputs: { rows: rows }, outputs: { t: table } }
  alone: { evaluate: { data: copied, task: exact_match } }
params: { flag: FLAG }
sweep: { arm: [a, b], seed: [1, 2] }
results:
  columns: { judged: judged.accuracy, alone: alone.accuracy }
"#;

fn space() -> Space {
    let space = Space::new();
    let row = |id: &str, response: &str| {
        format!(
            "{{\"id\": \"{id}\", \"prompt\": \"p\", \"response\": \"{response}\", \"reference\": \"yes\"}}\n"
        )
    };
    space.write("rows.jsonl", &format!("{}{}", row("a", "yes"), row("b", "no")));
    let flag = space.path("broken").display().to_string();
    space.write("w.yaml", &WORKFLOW.replace("FLAG", &flag));
    space
}

fn rows(space: &Space, more: &[&str]) -> Vec<Value> {
    let said = space.run(&[&["results", "w.yaml", "--format", "json"], more].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    let document: Value = serde_json::from_str(&said.stdout).unwrap();
    document["rows"].as_array().unwrap().clone()
}

#[test]
fn a_trial_that_failed_has_a_row_and_no_figure() {
    let space = space();
    space.write("broken", "");
    let said = space.run(&["run", "w.yaml", "--keep-going"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    let table: Vec<Vec<&str>> =
        said.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(table[0], ["arm", "seed", "judged", "alone"]);
    assert_eq!(table[1..3], [["a", "1", "0.5000", "0.5000"], ["a", "2", "0.5000", "0.5000"]]);
    assert_eq!(table[3], ["b", "1", "not", "run", "0.5000"], "its input failed");
    assert_eq!(table.len(), 5, "{}", said.stdout);

    let rows = rows(&space, &[]);
    let arm_b = &rows[2];
    assert_eq!((&arm_b["point"]["arm"], &arm_b["status"]), (&"b".into(), &"missing".into()));
    let judged = &arm_b["figures"]["judged"];
    assert_eq!((&judged["value"], &judged["points"]), (&Value::Null, &0.into()));
    assert_eq!(judged["status"], "missing");
    assert_eq!(arm_b["figures"]["alone"]["points"], 1, "the figure of its own seed");
}

#[test]
fn means_are_over_the_trials_that_are_there() {
    let space = space();
    space.edit("w.yaml", "results:", "results:\n  mean_over: [seed]");
    space.edit("w.yaml", "test ${arm} = a", "test ${arm}${seed} != b2");
    space.write("broken", "");
    assert_eq!(space.run(&["run", "w.yaml", "--keep-going"]).code, 1);
    let judged = |row: &Value| row["figures"]["judged"].clone();
    let means = rows(&space, &[]);
    assert_eq!((judged(&means[0])["points"].clone(), means.len()), (2.into(), 2));
    let partial = judged(&means[1]);
    assert_eq!((&partial["points"], &partial["missing"]), (&1.into(), &1.into()));
    assert_eq!(partial["status"], "partial");
    let human = space.run(&["results", "w.yaml"]).stdout;
    assert!(human.contains("0.5000 (1 of 2)"), "{human}");
    assert_eq!(rows(&space, &["--each"]).len(), 4);

    let csv = space.run(&["results", "w.yaml", "--format", "csv"]).stdout;
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines,
        [
            "arm,judged,judged (sd),judged (n),alone,alone (sd),alone (n),status",
            "a,0.5,0,2,0.5,0,2,ok",
            "b,0.5,,1,0.5,0,2,partial",
        ]
    );
    let each = space.run(&["results", "w.yaml", "--format", "csv", "--each"]).stdout;
    assert_eq!(each.lines().next(), Some("arm,seed,judged,alone,status"));
    assert_eq!(each.lines().last(), Some("b,2,,0.5,missing"));
}

#[test]
fn rows_are_sorted_and_written_where_they_are_wanted() {
    let space = space();
    space.report("w.yaml", &[]);
    let nth = |n: usize, sort: &str| {
        let row = &rows(&space, &["--sort", sort])[n]["point"];
        format!("{}{}", row["arm"].as_str().unwrap(), row["seed"].as_str().unwrap())
    };
    assert_eq!((nth(0, "seed"), nth(1, "seed")), ("a1".into(), "b1".into()));
    assert_eq!((nth(0, "-seed"), nth(0, "-arm")), ("a2".into(), "b1".into()));
    let wrong = space.fails(&["results", "w.yaml", "--sort", "jugded"]);
    assert!(wrong.starts_with("exit code 2"), "{wrong}");
    assert!(wrong.contains("the table has no column `jugded`"), "{wrong}");
    assert!(wrong.contains("did you mean `judged`?"), "{wrong}");

    let printed = space.run(&["results", "w.yaml", "--format", "csv"]).stdout;
    let said = space.run(&["results", "w.yaml", "--format", "csv", "-o", "out.csv"]);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""));
    assert_eq!(space.read("out.csv"), printed);
}

#[test]
fn the_table_of_the_last_run_is_the_one_that_a_plan_gives() {
    let space = space();
    space.edit("w.yaml", "results:\n", "results:\n  mean_over: [seed]\n");
    // No report is kept that rests on a source younger than two seconds.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(space.run(&["run", "w.yaml"]).code, 0);
    let tables = || {
        let more: [&[&str]; 5] = [
            &["--format", "json"],
            &["--format", "csv"],
            &["--sort", "-arm"],
            &["--each"],
            &["--set", "seed=1"],
        ];
        more.map(|more| space.run(&[&["results", "w.yaml"], more].concat()).stdout)
    };
    let kept = tables();
    let plans = space.path(".refrain/plans");
    assert!(std::fs::read_dir(&plans).unwrap().next().is_some(), "the run kept its report");
    std::fs::remove_dir_all(plans).unwrap();
    assert_eq!(tables(), kept);
    assert_ne!(kept[2], kept[3], "`--each` has a row per seed");

    assert_eq!(space.run(&["run", "w.yaml"]).code, 0);
    space.write("rows.jsonl", &space.read("rows.jsonl").replace("\"no\"", "\"yes\""));
    assert_eq!(rows(&space, &[])[0]["figures"]["judged"]["status"], "missing", "other rows");
}

#[test]
fn without_a_cache_the_lock_has_the_figures_of_its_keys() {
    let space = space();
    space.report("w.yaml", &[]);
    let before = rows(&space, &[]);
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    assert_eq!(rows(&space, &[]), before);
    // An empty cache knows nothing and hides nothing.
    assert_eq!(space.run(&["plan", "w.yaml"]).code, 0);
    assert_eq!(rows(&space, &[]), before);
    space.edit(
        "w.yaml",
        "judged: { evaluate: { data: made,",
        "judged: { evaluate: { trim: false, data: made,",
    );
    let edited = rows(&space, &[]);
    assert_eq!(edited[0]["figures"]["judged"]["status"], "missing", "it is another key's figure");
    assert_eq!(edited[0]["figures"]["alone"]["value"], 0.5);
}

#[test]
fn a_metric_that_no_kind_has_is_found_before_anything_runs() {
    let space = space();
    space.edit("w.yaml", "alone.accuracy }", "alone.acuracy }");
    let expect = "expect:\n  - { stage: judged, metric: accurate, at_least: 0.5 }\n  - { stage: made, metric: accuracy, at_least: 0.5 }\n";
    space.edit("w.yaml", "results:", &format!("{expect}results:"));
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.starts_with("exit code 2"), "{said}");
    for words in [
        "stage `alone` has no metric `acuracy`",
        "did you mean `accuracy`?",
        "stage `judged` has no metric `accurate`",
        "stage `made` has no metrics",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}
