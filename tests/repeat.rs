//! Rounds that read what the round before made.

use serde_json::Value;

use crate::artifacts::{table, texts};
use crate::space::{Space, set};

/// Each round adds its number to every response of the round before.
const WORKFLOW: &str = r#"refrain: 1
params: { rounds: 3 }
data: { rows: { path: rows.jsonl } }
stages:
  base: { run: { command: [cp, "${in.rows}", "${out.t}"], inputs: { rows: rows }, outputs: { t: table } } }
  loop:
    repeat: { times: "${rounds}", carry: { base: made } }
    stages:
      made:
        run:
          command: [sh, -c, "cat \"$0\" > \"$1\"; : ${round}", "${in.base}", "${out.t}"]
          inputs: { base: base }
          outputs: { t: table }
      judged: { evaluate: { data: made, task: exact_match, bootstrap: 0 } }
      fixed: { diversify: { data: rows, measure: [distinct_1] } }
  final: { diversify: { data: loop/made, measure: [distinct_2] } }
  all: { diversify: { data: "loop/judged[*]", measure: [distinct_1] } }
results: { columns: { right: loop/judged.accuracy } }
"#;

fn space(workflow: &str) -> Space {
    let space = Space::new();
    space.write(
        "rows.jsonl",
        "{\"id\": \"a\", \"prompt\": \"p\", \"response\": \"yes\", \"reference\": \"yes\"}\n",
    );
    space.write("w.yaml", workflow);
    space
}

fn json(space: &Space, arguments: &[&str]) -> Value {
    let said = space.run(&[arguments, &["--format", "json"]].concat());
    assert_eq!(said.code, 0, "{arguments:?}: {}", said.stderr);
    serde_json::from_str(&said.stdout).unwrap()
}

/// The inputs of every node, as `graph` tells them.
fn inputs(space: &Space, node: &str) -> Vec<String> {
    let graph = json(space, &["graph", "w.yaml"]);
    let nodes = graph["nodes"].as_array().unwrap();
    let found = nodes.iter().find(|found| found["node"] == node);
    let found = found.unwrap_or_else(|| panic!("there is no `{node}`"));
    let inputs = found["inputs"].as_array().unwrap();
    inputs.iter().map(|input| input["node"].as_str().unwrap().to_string()).collect()
}

#[test]
fn a_round_reads_what_the_round_before_made() {
    let space = space(WORKFLOW);
    let nodes = space.digests("w.yaml", &[]);
    for node in [
        "loop/made[round=1]",
        "loop/made[round=3]",
        "loop/judged[round=2]",
        "loop/fixed",
        "final",
        "all",
    ] {
        assert!(nodes.contains_key(node), "`{node}` is not in {nodes:?}");
    }
    assert_eq!(inputs(&space, "loop/made[round=1]"), ["base"]);
    assert_eq!(inputs(&space, "loop/made[round=2]"), ["loop/made[round=1]"]);
    assert_eq!(inputs(&space, "loop/made[round=3]"), ["loop/made[round=2]"]);
    assert_eq!(inputs(&space, "final"), ["loop/made[round=3]"], "outside it is the last one");
    assert_eq!(inputs(&space, "all"), ["loop/judged[*]"]);
    let rounds = texts(&table(&space, "all"), "round");
    assert_eq!(rounds, ["1", "2", "3"].map(|round| Some(round.to_string())));

    let results = json(&space, &["results", "w.yaml"]);
    let rows = results["rows"].as_array().unwrap();
    let rounds: Vec<&str> =
        rows.iter().map(|row| row["point"]["round"].as_str().unwrap()).collect();
    assert_eq!(rounds, ["1", "2", "3"]);
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 0);
    assert_eq!(json(&space, &["explain", "w.yaml", "loop/made[round=2]"])["cached"], true);
    assert_eq!(space.ran("w.yaml", &["--only", "loop/made[round=2]"]), set(&[]));
}

#[test]
fn two_more_rounds_compute_two_rounds() {
    let space = space(WORKFLOW);
    space.ran("w.yaml", &[]);
    space.edit("w.yaml", "rounds: 3", "rounds: 5");
    let ran = space.ran("w.yaml", &[]);
    let expected = [
        "loop/made[round=4]",
        "loop/made[round=5]",
        "loop/judged[round=4]",
        "loop/judged[round=5]",
        "loop/judged[*]",
        "all",
    ];
    assert!(ran.is_subset(&set(&expected)), "{ran:?}");
    assert!(ran.contains("loop/made[round=4]") && ran.contains("loop/made[round=5]"), "{ran:?}");
    assert_eq!(space.ran("w.yaml", &["--set", "rounds=2"]), set(&["loop/judged[*]", "all"]));
    let plan = json(&space, &["plan", "w.yaml", "--set", "rounds=1"]);
    let names: Vec<&str> = plan["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["node"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"loop/made[round=1]") && !names.contains(&"loop/made[round=2]"),
        "{names:?}"
    );
}

#[test]
fn rounds_are_a_loop_for_every_point_of_the_sweep() {
    let text = WORKFLOW.replace("cat \\\"$0\\\"", "true ${seed}; cat \\\"$0\\\"");
    let space = space(&format!("{text}sweep: {{ seed: [7, 8] }}\n"));
    space.ran("w.yaml", &[]);
    assert_eq!(inputs(&space, "loop/made[seed=7,round=1]"), ["base"]);
    assert_eq!(inputs(&space, "loop/made[seed=8,round=3]"), ["loop/made[seed=8,round=2]"]);
    assert_eq!(inputs(&space, "final[seed=7]"), ["loop/made[seed=7,round=3]"]);
}

#[test]
fn two_loops_have_rounds_of_their_own() {
    let space = space(WORKFLOW);
    let second = "  again:\n    repeat: { times: 2, carry: { loop/made: more } }\n    stages:\n      \
                  more: { run: { command: [cp, \"${in.t}\", \"${out.t}\", \"-${x}\"], inputs: { t: loop/made }, outputs: { t: table } } }\n  final:";
    let second = second.replace(", \"-${x}\"", "");
    space.write("w.yaml", &WORKFLOW.replacen("  final:", &second, 1));
    let said = space.run(&["check", "w.yaml"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(inputs(&space, "again/more[round=1]"), ["loop/made[round=3]"]);
    assert_eq!(inputs(&space, "again/more[round=2]"), ["again/more[round=1]"]);
    let graph = json(&space, &["graph", "w.yaml"]);
    let all = graph["nodes"].as_array().unwrap().iter().map(|node| node["node"].as_str().unwrap());
    let more: Vec<&str> = all.filter(|node| node.starts_with("again/")).collect();
    assert_eq!(more, ["again/more[round=1]", "again/more[round=2]"]);
}

#[test]
fn a_loop_may_be_included() {
    let space = space(
        "refrain: 1\ndata: { mine: { path: rows.jsonl } }\ninclude:\n  \
         two: { file: part.yaml, with: { rows: mine, rounds: 2 } }\n  \
         one: { file: part.yaml, with: { rows: mine, rounds: 1 } }\n",
    );
    let part = WORKFLOW.replace("data: { rows: { path: rows.jsonl } }\n", "");
    let part = part
        .replace("rounds: 3", "rounds: 3, rows: null")
        .replace("{ rows: rows }", "{ rows: \"${rows}\" }");
    space.write("part.yaml", &part.replace("data: rows,", "data: \"${rows}\","));
    space.ran("w.yaml", &[]);
    assert_eq!(inputs(&space, "two/final"), ["two/loop/made[round=2]"]);
    assert_eq!(inputs(&space, "one/final"), ["one/loop/made[round=1]"]);
    assert_eq!(inputs(&space, "two/loop/made[round=1]"), ["two/base"]);
}

#[test]
fn the_best_round_can_be_chosen() {
    let space = space(WORKFLOW);
    space.edit("w.yaml", "  final:", "  best: { choose: { data: loop/made, over: round, highest: loop/judged.accuracy } }\n  final:");
    space.ran("w.yaml", &[]);
    let best = inputs(&space, "best");
    assert!(
        best.contains(&"loop/made[round=1]".into())
            && best.contains(&"loop/judged[round=3]".into()),
        "{best:?}"
    );
}

#[test]
fn wrong_loops_are_refused() {
    let mut said = Vec::new();
    for (from, to) in [
        ("times: \"${rounds}\"", "times: 0"),
        ("times: \"${rounds}\"", "times: \"${many}\""),
        ("rounds: 3", "rounds: many"),
        ("rounds: 3", "rounds: 1001"),
        ("times: \"${rounds}\"", "times: \"${seed}\""),
        ("carry: { base: made }", "carry: { base: mad }"),
        ("carry: { base: made }", "carry: { made: judged }"),
        (", carry: { base: made }", ""),
        ("carry: { base: made }", "carry: { nothing: made }"),
        ("inputs: { base: base }", "inputs: { base: \"base[*]\" }"),
        ("    repeat:", "    retry: 3\n    repeat:"),
        (
            "      fixed:",
            "      inner: { repeat: { times: 2, carry: {} }, stages: { a: { diversify: { data: rows, dedupe: exact } } } }\n      fixed:",
        ),
        ("data: { rows:", "data: { round: { path: rows.jsonl }, rows:"),
        ("data: loop/made", "data: made"),
        ("data: loop/made", "data: \"${round}\""),
        ("inputs: { base: base }", "inputs: { base: judged }"),
    ] {
        let space = space(&format!("{WORKFLOW}sweep: {{ seed: [1, 2] }}\n"));
        space.edit("w.yaml", "distinct_2]", "distinct_2], seed: \"${seed}\"");
        if to.contains("nothing") {
            space.edit("w.yaml", "inputs: { base: base }", "inputs: { base: nothing }");
        }
        space.edit("w.yaml", from, to);
        let text = space.fails(&["check", "w.yaml"]);
        let kept = text.lines().filter(|line| line.starts_with("error") || line.contains("help:"));
        said.push(format!("{to}\n{}", kept.collect::<Vec<_>>().join("\n")));
    }
    insta::assert_snapshot!("wrong_loops", said.join("\n\n"));
}
