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

/// A file for every round: it copies the table that it is handed.
const ROUND: &str = r#"refrain: 1
params: { before: null, number: 0 }
data: { own: { path: own.jsonl } }
stages:
  made:
    run:
      command: [sh, -c, "cp \"$0\" \"$1\"; : ${number}", "${in.before}", "${out.t}"]
      inputs: { before: "${before}" }
      outputs: { t: table }
  kept: { diversify: { data: made, dedupe: exact } }
  other: { diversify: { data: own, dedupe: exact } }
"#;

const INCLUDING: &str = r#"refrain: 1
params: { rounds: 3 }
data: { rows: { path: rows.jsonl } }
stages:
  loop:
    repeat: { times: "${rounds}", carry: { rows: part/kept.main } }
    stages:
      judged: { evaluate: { data: part/kept, task: exact_match, bootstrap: 0 } }
    include:
      part: { file: parts/round.yaml, with: { before: rows, number: "${round}" } }
  final: { diversify: { data: loop/part/kept, measure: [distinct_2] } }
  all: { diversify: { data: "loop/part/made[*]", measure: [distinct_1] } }
  own: { diversify: { data: loop/part/own, measure: [distinct_1] } }
"#;

fn including(round: &str) -> Space {
    let space = space(INCLUDING);
    space.write("parts/round.yaml", round);
    space.write("parts/own.jsonl", &space.read("rows.jsonl"));
    space
}

#[test]
fn a_file_may_be_included_in_every_round() {
    let space = including(ROUND);
    let nodes = space.digests("w.yaml", &[]);
    for node in ["loop/part/made[round=1]", "loop/judged[round=3]", "loop/part/other", "own"] {
        assert!(nodes.contains_key(node), "`{node}` is not in {nodes:?}");
    }
    assert_eq!(inputs(&space, "loop/part/made[round=1]"), ["rows"]);
    assert_eq!(inputs(&space, "loop/part/made[round=3]"), ["loop/part/kept[round=2]"]);
    assert_eq!(inputs(&space, "loop/part/kept[round=2]"), ["loop/part/made[round=2]"]);
    assert_eq!(inputs(&space, "final"), ["loop/part/kept[round=3]"], "outside it is the last one");
    assert_eq!(inputs(&space, "loop/part/other"), ["loop/part/own"]);
    let rounds = texts(&table(&space, "all"), "round");
    assert_eq!(rounds, ["1", "2", "3"].map(|round| Some(round.to_string())));

    let ran = space.ran("w.yaml", &["--set", "rounds=4", "--only", "loop/part"]);
    let expected = ["loop/part/made[round=4]", "loop/part/made[*]"];
    assert_eq!(ran, set(&expected), "what is kept of the same bytes is known");
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 0);

    // Written in one file, the same stages have the same keys.
    let flat = INCLUDING.replace("    include:\n      part: { file: parts/round.yaml, with: { before: rows, number: \"${round}\" } }\n", "");
    let stages = ROUND.split("stages:\n").nth(1).unwrap().replace("\n  ", "\n      ");
    let stages =
        format!("      {}", stages.trim_start().trim_end().replace("${number}", "${round}"));
    let stages = stages.replace("\"${before}\"", "rows").replace("data: own", "data: rows");
    let flat = flat.replace("    stages:\n", &format!("    stages:\n{stages}\n"));
    let flat = flat.replace("part/", "").replace("data: loop/own", "data: rows");
    space.write("flat.yaml", &flat);
    assert_eq!(space.ran("flat.yaml", &["--only", "loop"]), set(&[]));
}

#[test]
fn errors_of_an_included_round_are_placed_in_its_file() {
    let cases = [
        (ROUND.replace("data: made", "data: mad"), "parts/round.yaml:10:30", "there is no stage or source `mad`"),
        (ROUND.replace("${number}", "${round}"), "parts/round.yaml:7:25", "there is no param or axis `round`"),
        (ROUND.replace("  other:", "  made: { diversify: { data: own, dedupe: exact } }\n  other:"), "parts/round.yaml:11:3", "`made`"),
        (
            ROUND.replace("  other:", "  inner: { repeat: { times: 2, carry: {} }, stages: { a: { diversify: { data: own, dedupe: exact } } } }\n  other:"),
            "parts/round.yaml:11:3",
            "a loop inside a loop: another one includes this file",
        ),
    ];
    for (round, place, words) in cases {
        let space = including(&round);
        let said = space.refuses(&["check", "w.yaml"]);
        assert!(said.contains(place) && said.contains(words), "no `{words}` at {place}: {said}");
    }
    let edits = [
        ("part/kept.main", "part/kep", "w.yaml:6:50", "the loop has no stage `part/kep`"),
        ("part/kept.main", "prt/kept", "w.yaml:6:50", "the loop has no stage `prt/kept`"),
        ("number:", "numbr:", "w.yaml:10:61", "has no param `numbr`"),
        ("judged:", "part:", "w.yaml:8:7", "the name `part` is already that of an include"),
        ("parts/round.yaml", "parts/none.yaml", "w.yaml:10:21", "there is no `"),
        ("parts/round.yaml", "w.yaml", "w.yaml:10:21", "include each other in a circle"),
        ("part: {", "p/q: {", "w.yaml:10:7", "name"),
    ];
    for (from, to, place, words) in edits {
        let space = including(ROUND);
        space.edit("w.yaml", from, to);
        let said = space.refuses(&["check", "w.yaml"]);
        assert!(said.contains(place) && said.contains(words), "no `{words}` at {place}: {said}");
    }
}
