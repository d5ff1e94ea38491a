//! Workflows that include other files: names, parameters, folders, and where errors are.

use serde_json::Value;

use crate::space::{Space, names, set};

/// A file to include: it judges a table that it is given, and a table of its own.
const JUDGE: &str = r#"refrain: 1
params: { data: own, rounds: 10, fold: false }
data:
  own: { path: own.jsonl }
  train: { path: own.jsonl }
stages:
  judged: { evaluate: { data: "${data}", task: exact_match, bootstrap: "${rounds}" } }
  kept: { diversify: { data: judged, keep: { where: correct } } }
  mine: { diversify: { data: own, dedupe: exact } }
"#;

const WORKFLOW: &str = r#"refrain: 1
data:
  train: { path: rows.jsonl }
include:
  first: { file: parts/judge.yaml, with: { data: train } }
stages:
  all: { diversify: { data: first/kept, measure: [distinct_1] } }
"#;

fn row(id: &str, response: &str) -> String {
    format!(
        "{{\"id\": \"{id}\", \"prompt\": \"p {id}\", \"response\": \"{response}\", \"reference\": \"yes\"}}\n"
    )
}

fn space(workflow: &str) -> Space {
    let space = Space::new();
    space.write("rows.jsonl", &format!("{}{}", row("a", "yes"), row("b", "no")));
    space.write(
        "parts/own.jsonl",
        &format!("{}{}{}", row("c", "yes"), row("d", "yes"), row("e", "no")),
    );
    space.write("parts/judge.yaml", JUDGE);
    space.write("w.yaml", workflow);
    space
}

fn json(space: &Space, arguments: &[&str]) -> Value {
    let said = space.run(&[arguments, &["--format", "json"]].concat());
    assert_eq!(said.code, 0, "{arguments:?}: {}", said.stderr);
    serde_json::from_str(&said.stdout).unwrap()
}

fn lines(space: &Space) -> Vec<Value> {
    let lock = space.read("w.lock");
    lock.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn line(space: &Space, node: &str) -> Value {
    lines(space).into_iter().find(|line| line["node"] == node).unwrap()
}

#[test]
fn the_stages_of_a_file_are_brought_in_under_a_name() {
    let space = space(WORKFLOW);
    let ran = space.ran("w.yaml", &[]);
    let expected = ["train", "first/own", "first/judged", "first/kept", "first/mine", "all"];
    assert_eq!(ran, set(&expected));
    assert_eq!(line(&space, "first/judged")["outputs"]["main"]["rows"], 2, "the table handed in");
    assert_eq!(line(&space, "first/mine")["outputs"]["main"]["rows"], 3, "its own table");
    assert_eq!(line(&space, "all")["outputs"]["main"]["rows"], 1);
    assert_eq!(space.ran("w.yaml", &[]), set(&[]));
}

#[test]
fn a_key_knows_no_name_and_no_file() {
    let space = space(WORKFLOW);
    space.ran("w.yaml", &[]);
    let before = line(&space, "first/judged")["key"].clone();
    for (from, to) in [("first", "other"), ("first", "other")] {
        space.edit("w.yaml", from, to);
    }
    assert_eq!(space.ran("w.yaml", &[]), set(&[]), "another name of the include");
    assert_eq!(line(&space, "other/judged")["key"], before);

    // The same stages, written in one file.
    let flat = JUDGE.replace("data: own, rounds", "data: train, rounds");
    let flat = flat.replace("train: { path: own.jsonl }", "train: { path: rows.jsonl }");
    space.write(
        "flat.yaml",
        &flat.replace("own: { path: own.jsonl }", "own: { path: parts/own.jsonl }"),
    );
    assert_eq!(space.ran("flat.yaml", &[]), set(&[]), "no include at all");
}

#[test]
fn a_file_is_included_twice_with_other_parameters() {
    let text = "include:\n  first: { file: parts/judge.yaml, with: { data: train, rounds: 20 } }\n  \
                second: { file: ./parts/../parts/judge.yaml, with: { rounds: \"${n}\" } }\n";
    let space = space(&format!(
        "refrain: 1\ndata: {{ train: {{ path: rows.jsonl }} }}\nparams: {{ n: 5 }}\n{text}\
         sweep: {{ n: [30, 40] }}\nstages:\n  all: {{ diversify: {{ data: \"second/judged[*]\", measure: [distinct_1] }} }}\n"
    ));
    let ran = space.ran("w.yaml", &[]);
    for node in ["first/judged", "second/judged[n=30]", "second/judged[n=40]", "second/kept[n=30]"]
    {
        assert!(ran.contains(node), "`{node}` is not in {ran:?}");
    }
    let manifest = |node: &str| json(&space, &["explain", "w.yaml", node])["manifest"].clone();
    assert_eq!(manifest("first/judged")["parameters"]["bootstrap"], 20);
    assert_eq!(manifest("second/judged[n=40]")["parameters"]["bootstrap"], 40);
    assert_eq!(line(&space, "second/judged[n=30]")["outputs"]["main"]["rows"], 3);
    assert_eq!(line(&space, "all")["outputs"]["main"]["rows"], 6);
    // A value of an axis that reaches one of the two runs nothing of the other.
    space.edit("w.yaml", "[30, 40]", "[30, 50]");
    assert_eq!(
        space.ran("w.yaml", &[]),
        set(&["second/judged[n=50]", "second/judged[*]", "all"]),
        "the rows that are kept are the same ones"
    );
}

#[test]
fn paths_are_those_of_the_file_that_names_them() {
    let space = space(
        "refrain: 1\nparams: { here: own.jsonl }\ninclude:\n  \
         a: { file: parts/more/deep.yaml }\n  b: { file: parts/more/deep.yaml, with: { path: own.jsonl } }\n  \
         c: { file: parts/more/deep.yaml, with: { path: \"${here}\" } }\n  \
         d: { file: parts/more/deep.yaml, with: { folder: parts } }\n",
    );
    space.write(
        "parts/more/deep.yaml",
        "refrain: 1\nparams: { folder: .., path: \"${folder}/own.jsonl\" }\n\
         data: { rows: { path: \"${path}\" } }\nstages: { s: { diversify: { data: rows, dedupe: exact } } }\n",
    );
    space.write("own.jsonl", &row("z", "yes"));
    space.ran("w.yaml", &[]);
    for (node, rows) in [("a/s", 3), ("b/s", 1), ("c/s", 1), ("d/s", 3)] {
        assert_eq!(line(&space, node)["outputs"]["main"]["rows"], rows, "{node}");
    }
}

#[test]
fn every_command_takes_the_names() {
    let space = space(&format!(
        "{WORKFLOW}results: {{ columns: {{ right: first/judged.accuracy }} }}\n\
         expect: [{{ stage: first/judged, metric: accuracy, value: 0.5, within: 0 }}]\n"
    ));
    assert_eq!(space.run(&["check", "w.yaml"]).code, 0);
    assert_eq!(space.run(&["schema"]).code, 0);
    assert_eq!(
        space.ran("w.yaml", &["--only", "first/kept"]),
        set(&["train", "first/judged", "first/kept"])
    );
    assert_eq!(
        space.ran("w.yaml", &["--only", "first"]),
        set(&["first/own", "first/mine"]),
        "all of it"
    );
    let plan = json(&space, &["plan", "w.yaml"]);
    let step =
        plan["nodes"].as_array().unwrap().iter().find(|n| n["node"] == "first/kept").unwrap();
    assert_eq!(step["step"], "cached");
    let graph = space.run(&["graph", "w.yaml"]);
    assert!(graph.stdout.contains("first/judged"), "{}", graph.stdout);
    assert_eq!(names(&space.report("w.yaml", &[]), "ran"), set(&["all"]));
    let results = json(&space, &["results", "w.yaml"]);
    assert_eq!(results["rows"][0]["figures"]["right"]["value"], 0.5);
    assert_eq!(json(&space, &["explain", "w.yaml", "first/kept"])["cached"], true);
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 0);
    assert_eq!(space.run(&["show", "w.yaml", "first/judged.metrics"]).code, 0);
    assert_eq!(space.ran("w.yaml", &["--force", "first/kept"]), set(&["first/kept"]));

    let said = space.fails(&["run", "w.yaml", "--only", "first/kpet"]);
    assert!(said.contains("did you mean `first/kept`?"), "{said}");
}

#[test]
fn a_run_that_is_up_to_date_notices_an_edit_of_an_included_file() {
    let space = space(WORKFLOW);
    let ran = |space: &Space| {
        let said = space.run(&["run", "w.yaml"]);
        assert_eq!(said.code, 0, "{}", said.stderr);
        said.stderr.lines().last().unwrap().to_string()
    };
    // Files must be older than two seconds for a plan to be kept.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    for file in ["rows.jsonl", "parts/own.jsonl"] {
        let file = std::fs::File::options().write(true).open(space.path(file)).unwrap();
        file.set_modified(old).unwrap();
    }
    assert!(ran(&space).starts_with("6 nodes run"));
    for _ in 0..2 {
        assert!(ran(&space).starts_with("0 nodes run, 6 cached"));
    }
    space.edit("parts/judge.yaml", "rounds: 10", "rounds: 11");
    assert!(ran(&space).starts_with("1 node run"));
}

#[test]
fn an_included_file_sees_what_it_is_given_and_no_more() {
    // `train` of the includer is not that of the included file, and is not seen there by itself.
    let space = space(WORKFLOW);
    space.edit("parts/judge.yaml", "data: own, dedupe", "data: rows, dedupe");
    space.edit(
        "w.yaml",
        "train: { path: rows.jsonl }",
        "train: { path: rows.jsonl }\n  rows: { path: rows.jsonl }",
    );
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("there is no stage or source `rows`"), "{said}");
    assert!(said.contains("parts/judge.yaml:9:30"), "{said}");

    let other = self::space(&WORKFLOW.replace("data: train }", "data: own }"));
    let said = other.fails(&["check", "w.yaml"]);
    assert!(said.contains("there is no stage or source `own`"), "{said}");
    assert!(said.contains("included as `first` at w.yaml:5:3"), "{said}");
}

#[test]
fn errors_are_placed_in_the_file_that_is_wrong() {
    let space = space(WORKFLOW);
    space.write(
        "parts/outer.yaml",
        "refrain: 1\nparams: { n: 1 }\ninclude:\n  inner: { file: judge.yaml, with: { rounds: \"${n}\" } }\n",
    );
    space.edit("w.yaml", "parts/judge.yaml, with: { data: train }", "parts/outer.yaml");
    space.edit("w.yaml", "first/kept", "first/inner/kept");
    space.edit("parts/judge.yaml", "task: exact_match", "task: exact_mach, colour: red");
    insta::assert_snapshot!("error_in_an_included_file", space.fails(&["check", "w.yaml"]));

    let said = space.run(&["check", "w.yaml", "--format", "json"]);
    let errors: Value = serde_json::from_str(&said.stderr).unwrap();
    let error = &errors["errors"][0];
    assert_eq!((&error["file"], &error["line"]), (&"parts/judge.yaml".into(), &7.into()));
    let chain = error["included"].as_array().unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(
        (&chain[0]["name"], &chain[0]["file"]),
        (&"first/inner".into(), &"parts/outer.yaml".into())
    );
    assert_eq!(
        (&chain[1]["file"], &chain[1]["line"], &chain[1]["column"]),
        (&"w.yaml".into(), &5.into(), &3.into())
    );

    space.write("parts/judge.yaml", "refrain: 1\nstages: [\n");
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("parts/judge.yaml:2:10") && said.contains("not YAML"), "{said}");
}

#[test]
fn includes_that_are_wrong_are_refused() {
    let mut said = Vec::new();
    let mut refused = |name: &str, include: &str| {
        let space = space(&format!("refrain: 1\ninclude:\n  {include}\n"));
        space.write("parts/circle.yaml", "refrain: 1\ninclude: { again: { file: other.yaml } }\n");
        space.write("parts/other.yaml", "refrain: 1\ninclude: { back: { file: circle.yaml } }\n");
        for depth in 1..=9 {
            let next = format!("refrain: 1\ninclude: {{ d: {{ file: d{}.yaml }} }}\n", depth + 1);
            space.write(&format!("d{depth}.yaml"), &next);
        }
        space.write("list.yaml", "- a\n");
        space.write("empty.yaml", "refrain: 1\n");
        space.write("utf8.yaml", "");
        std::fs::write(space.path("utf8.yaml"), [0xff]).unwrap();
        said.push(format!("{name}\n{}", space.fails(&["check", "w.yaml"])));
    };
    refused("absent", "a: { file: nowhere.yaml }");
    refused("a folder", "a: { file: parts }");
    refused("itself", "a: { file: w.yaml }");
    refused("a circle", "a: { file: parts/circle.yaml }");
    refused("too deep", "a: { file: d1.yaml }");
    refused("a list", "a: { file: list.yaml }");
    refused("no stages", "a: { file: empty.yaml }");
    refused("not text", "a: { file: utf8.yaml }");
    refused("a param in the path", "a: { file: \"${x}.yaml\" }");
    refused("no file", "a: { with: { data: own } }");
    refused("a path alone", "a: parts/judge.yaml");
    refused("an undeclared param", "a: { file: parts/judge.yaml, with: { dta: own } }");
    refused("another type", "a: { file: parts/judge.yaml, with: { rounds: many, fold: 1 } }");
    refused("not a whole number", "a: { file: parts/judge.yaml, with: { rounds: 1.5 } }");
    refused(
        "a type behind a param",
        "a: { file: parts/judge.yaml, with: { rounds: \"${n}\" } }\nparams: { n: many }",
    );
    refused("a name twice", "a: { file: parts/judge.yaml }\ndata: { a: { path: rows.jsonl } }");
    refused("a value that nothing reads", "a: { file: parts/judge.yaml, with: { fold: true } }");
    insta::assert_snapshot!("wrong_includes", said.join("\n\n"));
}

#[test]
fn a_file_with_a_sweep_of_its_own_is_included_without_it() {
    let space = space(WORKFLOW);
    space.edit(
        "parts/judge.yaml",
        "stages:",
        "sweep: { rounds: [1, 2], t: [3] }\nexpect: [{ stage: x }]\nstages:",
    );
    assert_eq!(space.run(&["check", "w.yaml"]).code, 0);
    space.edit("parts/judge.yaml", "bootstrap: \"${rounds}\"", "bootstrap: \"${t}\"");
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("give `t` a default under `params`"), "{said}");
}

#[test]
fn a_thousand_includes_are_the_limit() {
    let space = space("refrain: 1\ninclude: { a: { file: m0.yaml } }\n");
    for level in 0..8 {
        let entries: Vec<String> =
            (0..8).map(|i| format!("n{i}: {{ file: m{}.yaml }}", level + 1)).collect();
        space.write(
            &format!("m{level}.yaml"),
            &format!("refrain: 1\ninclude: {{ {} }}\n", entries.join(", ")),
        );
    }
    let said = space.refuses(&["check", "w.yaml"]);
    assert!(said.contains("more than 1000 files are included"), "{said}");
}
