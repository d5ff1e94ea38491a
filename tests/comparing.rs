//! Comparisons of arms: their numbers, their lines in the lock, and the claims on them.

mod expression;
mod kept;
mod refused;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::space::Space;

const WORKFLOW: &str = r#"refrain: 1
data: { rows: { path: "${arm}-${seed}.jsonl" } }
stages:
  judged: { evaluate: { data: rows, task: exact_match } }
sweep: { arm: [new, old], seed: [1, 2, 3, 4, 5] }
compare:
  better: { stage: judged, metric: accuracy, between: { arm: [new, old] }, over: seed }
expect:
  - { compare: better, above: 0, confidence: 0.95, source: a paper }
"#;

/// Ids of each table.
const IDS: u64 = 40;

/// Whether an arm is right about an id at a seed.
fn is_right(arm: &str, seed: u64, id: u64) -> bool {
    let number = (id * 7919 + seed * 104_729) % 97;
    if arm == "new" { number < 80 } else { number < 40 }
}

/// Writes a table; ids for which `is_in` is false are left out.
fn table(space: &Space, name: &str, is_in: impl Fn(u64) -> bool, is_right: impl Fn(u64) -> bool) {
    let row = |id: u64| {
        let response = if is_right(id) { "yes" } else { "no" };
        format!(
            "{{\"id\": \"r{id:02}\", \"prompt\": \"is it {id}?\", \"response\": \"{response}\", \"reference\": \"yes\"}}\n"
        )
    };
    let rows: String = (0..IDS).filter(|id| is_in(*id)).map(row).collect();
    space.write(name, &rows);
}

fn space() -> Space {
    let space = Space::new();
    space.write("w.yaml", WORKFLOW);
    for (arm, seed) in
        ["new", "old"].into_iter().flat_map(|arm| (1..=5).map(move |seed| (arm, seed)))
    {
        // One id is in one arm alone, at one seed.
        let is_in = |id| (arm, seed, id) != ("old", 3, 7);
        table(&space, &format!("{arm}-{seed}.jsonl"), is_in, |id| is_right(arm, seed, id));
    }
    space
}

fn json(space: &Space, arguments: &[&str], code: i32) -> Value {
    let said = space.run(&[arguments, &["--format", "json"]].concat());
    assert_eq!(said.code, code, "{}{}", said.stdout, said.stderr);
    serde_json::from_str(&said.stdout).unwrap()
}

/// The lock's line of a comparison.
fn line(space: &Space, name: &str) -> Value {
    let lock = space.read("w.lock");
    let begin = format!("{{\"compare\":\"{name}\",");
    let line = lock.lines().find(|line| line.starts_with(&begin));
    serde_json::from_str(line.unwrap_or_else(|| panic!("no line: {lock}"))).unwrap()
}

fn close(value: &Value, expected: f64) {
    let value = value.as_f64().unwrap();
    assert!((value - expected).abs() < 1e-12, "{value} is not {expected}");
}

/// The messages of verify's differences.
fn mismatches(document: &Value) -> Vec<String> {
    let found = document["mismatches"].as_array().unwrap().iter();
    found
        .map(|m| format!("{}: {}", m["what"].as_str().unwrap(), m["message"].as_str().unwrap()))
        .collect()
}

#[test]
fn a_comparison_counts_the_ids_of_both_arms() {
    let space = space();
    let report = space.report("w.yaml", &[]);
    assert_eq!(report["expects"][0]["verdict"], "holds", "{report:#}");
    let result = &line(&space, "better")["result"];
    assert_eq!((&result["ids"], &result["dropped"]), (&json!(39), &json!(1)));

    let ids = || (0..IDS).filter(|id| *id != 7);
    let mut sum = 0.0;
    for seed in 1..=5 {
        let only = |one: &str, other: &str| {
            ids().filter(|id| is_right(one, seed, *id) && !is_right(other, seed, *id)).count()
        };
        let test = &result["mcnemar"][seed as usize - 1];
        let (new, old) = (only("new", "old"), only("old", "new"));
        assert_eq!((&test["first"], &test["second"]), (&json!(new), &json!(old)));
        let difference = (new as f64 - old as f64) / 39.0;
        close(&result["differences"][seed as usize - 1], difference);
        sum += difference;
    }
    close(&result["estimate"], sum / 5.0);
    let arms = &result["arms"];
    let of_arms = arms[0]["value"].as_f64().unwrap() - arms[1]["value"].as_f64().unwrap();
    assert!((of_arms - sum / 5.0).abs() < 1e-12);
    assert_eq!(result["wilcoxon"], Value::Null, "that is for real values");
    assert_eq!(result["tests"][0]["by"], "sign_flip");
}

#[test]
fn the_line_is_the_same_at_any_number_of_threads_and_in_any_order_of_rows() {
    let space = space();
    space.report("w.yaml", &[]);
    let lines = line(&space, "better");
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    std::fs::remove_file(space.path("w.lock")).unwrap();
    let one = space.command(&["run", "w.yaml"]).env("RAYON_NUM_THREADS", "1").output().unwrap();
    assert!(one.status.success());
    assert_eq!(line(&space, "better"), lines);

    let reversed: Vec<String> =
        space.read("new-1.jsonl").lines().rev().map(|line| format!("{line}\n")).collect();
    space.write("new-1.jsonl", &reversed.concat());
    space.report("w.yaml", &[]);
    let again = line(&space, "better");
    assert_eq!(again["result"], lines["result"]);
    assert_ne!(again["inputs"], lines["inputs"], "the table has other bytes");
}

#[test]
fn a_comparison_is_verified_with_and_without_data() {
    let space = space();
    space.report("w.yaml", &[]);
    let whole = json(&space, &["verify", "w.yaml"], 0);
    assert_eq!(whole["comparisons"], json!({ "lines": 1, "computed": 1 }));
    let lock = space.read("w.lock");

    // A result that was written by hand is found where the tables are, a crude one by the line
    // itself.
    let estimate = line(&space, "better")["result"]["estimate"].to_string();
    space.edit("w.lock", &format!("\"estimate\":{estimate}"), "\"estimate\":0.9");
    let found = mismatches(&json(&space, &["verify", "w.yaml", "--no-data"], 3));
    assert_eq!(
        found,
        ["compare: its estimate is not the mean of the differences in the same line"]
    );
    space.write("w.lock", &lock);
    space.edit("w.lock", "\"dropped\":1", "\"dropped\":0");
    let found = mismatches(&json(&space, &["verify", "w.yaml"], 3));
    assert_eq!(found, ["compare: computed again, its result differs from its line"]);

    // Without tables the line is compared with the nodes' lines, and the claim with the line.
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    space.write("w.lock", &lock);
    let alone = json(&space, &["verify", "w.yaml", "--no-data"], 0);
    assert_eq!(alone["comparisons"], json!({ "lines": 1, "computed": 0 }));
    let inputs = line(&space, "better")["inputs"].as_str().unwrap().to_string();
    space.edit("w.lock", &inputs, &"0".repeat(64));
    let found = mismatches(&json(&space, &["verify", "w.yaml", "--no-data"], 3));
    assert!(found[0].starts_with("compare: its line was computed from other tables"), "{found:?}");

    space.write("w.lock", &lock);
    space.edit("w.yaml", "above: 0, confidence: 0.95", "above: 0.9, confidence: 0.99");
    let found = mismatches(&json(&space, &["verify", "w.yaml", "--no-data"], 3));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("lacks an interval or a test"), "{found:?}");
    assert!(found[1].starts_with("expect: "), "{found:?}");
    space.edit(
        "w.yaml",
        "  - { compare: better, above: 0.9, confidence: 0.99, source: a paper }\n",
        "",
    );
    space.edit("w.yaml", "  better:", "  worse:");
    let found = mismatches(&json(&space, &["verify", "w.yaml", "--no-data"], 3));
    assert_eq!(found.len(), 2, "one is missing, one is stale: {found:?}");
}

#[test]
fn a_locked_run_refuses_another_comparison() {
    let space = space();
    space.report("w.yaml", &[]);
    space.accepts(&["run", "w.yaml", "--locked"]);
    space.edit("w.yaml", "  better:", "  worse: { stage: judged, metric: accuracy, between: { arm: [old, new] } , over: seed }\n  better:");
    let refused = space.refuses(&["run", "w.yaml", "--locked"]);
    assert!(refused.starts_with("exit code 3") && refused.contains("`worse`"), "{refused}");
    space.report("w.yaml", &[]);
    assert_eq!(
        line(&space, "worse")["result"]["estimate"].as_f64().unwrap(),
        -line(&space, "better")["result"]["estimate"].as_f64().unwrap()
    );
}

#[test]
fn results_show_comparisons_behind_the_figures() {
    let space = space();
    space.accepts(&["run", "w.yaml"]);
    let human = space.accepts(&["results", "w.yaml"]).stdout;
    let row = human.lines().find(|line| line.starts_with("better")).unwrap();
    assert!(row.contains("new - old") && row.ends_with("holds"), "{human}");
    assert!(!human.contains("published"), "{human}");
    space.edit("w.yaml", "expect:", "expect:\n  - { compare: better, value: 0.4, within: 0.1 }");
    let human = space.accepts(&["results", "w.yaml"]).stdout;
    let row = human.lines().find(|line| line.starts_with("better")).unwrap();
    assert!(human.contains("published") && row.contains("+0.4000"), "{human}");
    let markdown = space.accepts(&["results", "w.yaml", "--format", "markdown"]).stdout;
    assert!(markdown.contains("| comparison | arms |"), "{markdown}");
    let csv = space.accepts(&["results", "w.yaml", "--format", "csv"]).stdout;
    assert!(!csv.contains("better"), "one table: {csv}");

    // The same from the lock alone, and from the cache alone.
    let document = json(&space, &["results", "w.yaml"], 0);
    std::fs::rename(space.path("w.lock"), space.path("other")).unwrap();
    assert_eq!(json(&space, &["results", "w.yaml"], 0)["comparisons"], document["comparisons"]);
    std::fs::rename(space.path("other"), space.path("w.lock")).unwrap();
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    assert_eq!(json(&space, &["results", "w.yaml"], 0)["comparisons"], document["comparisons"]);
}

#[test]
fn a_claim_that_is_not_shown_keeps_its_direction() {
    let space = space();
    space.edit("w.yaml", "between: { arm: [new, old] }", "between: { arm: [old, new] }");
    let failed = space.refuses(&["run", "w.yaml"]);
    assert!(failed.starts_with("exit code 1"), "{failed}");
    assert!(
        failed.contains("error: expected `better`: above 0 with confidence 0.95, got -0."),
        "{failed}"
    );

    space.edit("w.yaml", "confidence: 0.95", "confidence: 0.95, shown: false");
    let said = space.accepts(&["run", "w.yaml"]);
    assert!(said.stderr.contains(", not shown"), "{}", said.stderr);
    let human = space.accepts(&["results", "w.yaml"]).stdout;
    assert!(human.contains("not shown"), "{human}");
    space.accepts(&["verify", "w.yaml", "--no-data"]);

    // A claim that holds after all is no longer what the workflow says.
    space.edit("w.yaml", "between: { arm: [old, new] }", "between: { arm: [new, old] }");
    let failed = space.refuses(&["run", "w.yaml"]);
    assert!(
        failed.contains("holds after all") && failed.contains("remove `shown: false`"),
        "{failed}"
    );
    let verified = space.refuses(&["verify", "w.yaml", "--no-data"]);
    assert!(verified.contains("though it is marked `shown: false`"), "{verified}");
}

#[test]
fn a_margin_asks_for_non_inferiority() {
    let space = space();
    space.edit(
        "w.yaml",
        "over: seed }\nexpect:\n  - { compare: better, above: 0, confidence: 0.95,",
        "over: seed, margin: 0.9 }\nexpect:\n  - { compare: better, confidence: 0.95,",
    );
    space.edit("w.yaml", "arm: [new, old] }, over", "arm: [old, new] }, over");
    let said = space.accepts(&["run", "w.yaml"]);
    assert!(said.stderr.contains("`better`: above -0.9 with confidence 0.95"), "{}", said.stderr);
    assert_eq!(line(&space, "better")["result"]["tests"][0]["above"], -0.9);
    space.edit("w.yaml", "margin: 0.9", "margin: 0.01");
    let failed = space.refuses(&["run", "w.yaml"]);
    assert!(failed.contains("error: expected `better`: above -0.01"), "{failed}");
}

#[test]
fn p_values_of_a_group_are_corrected_together() {
    let space = space();
    let other = "  same: { stage: judged, metric: accuracy, between: { arm: [new, old] }, over: seed, group: all }\n";
    space.edit("w.yaml", "over: seed }\n", &format!("over: seed, group: all }}\n{other}"));
    let report = space.report("w.yaml", &[]);
    let p = report["comparisons"][0]["result"]["tests"][0]["p"].as_f64().unwrap();
    assert_eq!(report["comparisons"][0]["corrected"], json!([2.0 * p]));
    assert_eq!(report["comparisons"][1]["corrected"], json!([2.0 * p]));
}

#[test]
fn set_leaves_out_what_it_leaves_no_seeds_for() {
    let space = space();
    space.report("w.yaml", &[]);
    let lock = space.read("w.lock");
    let report = space.report("w.yaml", &["--set", "seed=2"]);
    assert_eq!(report["comparisons"][0]["seeds"], json!(["2"]));
    assert_eq!(report["expects"], json!([]), "one seed bears no confidence");
    let report = space.report("w.yaml", &["--set", "arm=new"]);
    assert_eq!(report["comparisons"], json!([]));
    assert_eq!(space.read("w.lock"), lock);
    space.accepts(&["verify", "w.yaml", "--set", "seed=2"]);
    space.accepts(&["run", "w.yaml", "--locked", "--set", "seed=2"]);
    // A part that lacks nodes of a comparison has no result of it.
    let part = space.report("w.yaml", &["--only", "judged[arm=new,seed=1]"]);
    assert_eq!(part["comparisons"][0]["result"], Value::Null);
    assert_eq!(space.read("w.lock"), lock);
}

#[test]
fn the_rows_behind_a_difference_are_shown() {
    let space = space();
    space.report("w.yaml", &[]);
    let said = space.accepts(&["compare", "w.yaml", "better", "--rows", "2"]).stdout;
    let flips: usize = (1..=5)
        .map(|seed| {
            let flips = |id: &u64| is_right("new", seed, *id) != is_right("old", seed, *id);
            (0..IDS).filter(|id| *id != 7 || seed != 3).filter(flips).count()
        })
        .sum();
    assert!(said.contains(&format!("{flips} rows differ, 2 shown")), "{said}");
    for words in [
        "new: 1, found `yes`, equal",
        "old: 0, found `no`, different",
        "prompt      is it ",
        "response  yes",
        "reference   yes",
        "two-way bootstrap",
        "sign flips",
        "McNemar p",
        "Wilson",
    ] {
        assert!(said.contains(words), "no `{words}`: {said}");
    }
    let document = json(&space, &["compare", "w.yaml", "better", "--rows", "3"], 0);
    assert_eq!(document["flipped"]["of"], flips);
    let shown = document["flipped"]["rows"].as_array().unwrap();
    let ids: BTreeSet<&str> = shown.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!((shown.len(), ids.len()), (3, 3), "first one row of each id: {shown:?}");
    let all = json(&space, &["compare", "w.yaml"], 0);
    assert_eq!(all["comparisons"][0], document["comparison"]);
    let wrong = space.refuses(&["compare", "w.yaml", "bettr"]);
    assert!(wrong.contains("did you mean `better`?"), "{wrong}");

    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    let said = space.accepts(&["compare", "w.yaml", "better"]).stdout;
    assert!(said.contains("no rows to show: "), "{said}");
}
