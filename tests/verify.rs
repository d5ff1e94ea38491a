//! The lock against the workflow, the cache and a second computation.

use serde_json::Value;

use crate::space::{Space, small};

fn json(space: &Space, arguments: &[&str], code: i32) -> Value {
    let said = space.run(&[arguments, &["--format", "json"]].concat());
    assert_eq!(said.code, code, "{}{}", said.stdout, said.stderr);
    serde_json::from_str(&said.stdout).unwrap()
}

/// The differences of a document: node, what, message.
fn mismatches<'v>(document: &'v Value, field: &str) -> Vec<(&'v str, &'v str, &'v str)> {
    let text = |v: &'v Value| v.as_str().unwrap();
    let list = document[field].as_array().unwrap().iter();
    list.map(|m| (text(&m["node"]), text(&m["what"]), text(&m["message"]))).collect()
}

fn verdict<'v>(document: &'v Value, node: &str) -> &'v str {
    let nodes = document["recomputed"]["nodes"].as_array().unwrap();
    let node = nodes
        .iter()
        .find(|n| n["node"] == node)
        .unwrap_or_else(|| panic!("no `{node}`: {document:#}"));
    node["verdict"].as_str().unwrap()
}

#[test]
fn every_kind_gives_the_same_bytes_in_an_empty_cache() {
    let space = Space::new();
    small(&space);
    space.report("w.yaml", &[]);
    let all = json(&space, &["verify", "w.yaml", "--complete", "--recompute", "all"], 0);
    assert_eq!(all["recomputed"]["of"], 11, "everything but the source");
    let nodes = all["recomputed"]["nodes"].as_array().unwrap();
    assert!(nodes.len() == 11 && nodes.iter().all(|n| n["verdict"] == "equal"), "{all:#}");
    // Without a cache the inputs are made first.
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    let some = json(&space, &["verify", "w.yaml", "--recompute", "20%"], 0);
    let names = |document: &Value| document["recomputed"]["nodes"].to_string();
    assert_eq!(some["recomputed"]["nodes"].as_array().unwrap().len(), 3, "a fifth, rounded up");
    assert_eq!(
        names(&json(&space, &["verify", "w.yaml", "--recompute", "3"], 0)),
        names(&some),
        "by the lock"
    );
    let seeded = |seed: &str| {
        names(&json(&space, &["verify", "w.yaml", "--recompute", "3", "--seed", seed], 0))
    };
    assert_eq!(seeded("a"), seeded("a"));
    assert!(
        ["b", "c", "d", "e"].iter().any(|seed| seeded(seed) != seeded("a")),
        "the seed decides"
    );
    assert!(
        !space.path(".refrain/tmp").read_dir().unwrap().any(|e| e
            .unwrap()
            .path()
            .join("cache")
            .exists())
    );
}

/// A workflow whose commands copy what lies outside of it, which no key knows.
fn outside(space: &Space) {
    let rows = |b: &str| {
        let row = |id: &str, text: &str| {
            format!("{{\"id\": \"{id}\", \"prompt\": \"p\", \"response\": \"{text}\"}}\n")
        };
        format!("{}{}{}", row("a", "yes"), row("b", b), row("c", "no"))
    };
    space.write("one.jsonl", &rows("perhaps"));
    space.write("two.jsonl", &rows("never"));
    let folder = space.path(".").canonicalize().unwrap().display().to_string();
    space.write(
        "w.yaml",
        &format!(
            r#"refrain: 1
data: {{ one: {{ path: one.jsonl }}, two: {{ path: two.jsonl }} }}
stages:
  table: {{ run: {{ command: [cp, '{folder}/t.parquet', '${{out.t}}'], outputs: {{ t: table }} }} }}
  file: {{ run: {{ command: [cp, '{folder}/file', '${{out.f}}'], outputs: {{ f: file }} }} }}
  model: {{ run: {{ command: [cp, -r, '{folder}/model', '${{out.m}}'], outputs: {{ m: model }} }} }}
  reads: {{ diversify: {{ data: table, dedupe: exact }} }}
  copies: {{ run: {{ command: [cp, '${{in.f}}', '${{out.g}}'], inputs: {{ f: file }}, outputs: {{ g: file }} }} }}
  first: {{ diversify: {{ data: one, dedupe: exact }} }}
  second: {{ diversify: {{ data: two, dedupe: exact }} }}
"#
        ),
    );
    space.report("w.yaml", &["--only", "one", "two"]);
    copy(space, "one");
    space.write("file", "0123456789");
    space.write("model/config.json", "{}");
    space.write("model/tokenizer.json", "{}");
    safetensors(space, [1, 2, 3, 4, 5, 6, 7, 8]);
    space.report("w.yaml", &[]);
}

/// Puts a source's table where the command finds it.
fn copy(space: &Space, source: &str) {
    let path = space.run(&["show", "w.yaml", source, "--path"]).stdout;
    let bytes = std::fs::read(path.trim()).unwrap();
    std::fs::write(space.path("t.parquet"), bytes).unwrap();
}

/// Two tensors of four bytes each.
fn safetensors(space: &Space, data: [u8; 8]) {
    let header = r#"{"first":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"second":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    std::fs::write(space.path("model/model.safetensors"), bytes).unwrap();
}

#[test]
fn the_first_difference_is_named() {
    let space = Space::new();
    outside(&space);
    json(&space, &["verify", "w.yaml", "--recompute", "all"], 0);
    copy(&space, "two");
    space.write("file", "01234x6789");
    safetensors(&space, [1, 2, 3, 4, 5, 6, 9, 8]);
    let found = json(&space, &["verify", "w.yaml", "--recompute", "all"], 3);
    let words = |node: &str| -> Vec<String> {
        let found = mismatches(&found, "mismatches").into_iter();
        found
            .filter(|(n, what, _)| *n == node && *what == "recompute")
            .map(|(_, _, m)| m.to_string())
            .collect()
    };
    let row = "row 1 (`id` b), column `response`: was perhaps, is never";
    assert_eq!(words("table"), [format!("output `main`: {row}")]);
    assert_eq!(words("file")[0], "output `main`: byte 5 differs");
    let tensor = "output `main`: tensor `second` of file `model.safetensors` differs";
    assert_eq!(words("model")[0], tensor);
    assert!(words("reads").is_empty(), "its input is the lock's");
    assert_eq!((verdict(&found, "table"), verdict(&found, "reads")), ("different", "equal"));
    // What cannot be made again as the lock names it makes nothing comparable.
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    let found = json(&space, &["verify", "w.yaml", "--recompute", "all"], 3);
    let copies =
        mismatches(&found, "mismatches").into_iter().find(|(n, ..)| *n == "copies").unwrap();
    assert_eq!(copies.2, "the cache lacks its input `file` in the version that the lock names");
    std::fs::remove_file(space.path("file")).unwrap();
    let found = json(&space, &["verify", "w.yaml", "--recompute", "all"], 3);
    let file = mismatches(&found, "mismatches").into_iter().find(|(n, ..)| *n == "file").unwrap();
    assert!(file.2.starts_with("it failed: `cp` ended with exit status 1"), "{}", file.2);
}

#[test]
fn another_profile_is_compared_with_a_tolerance_where_that_means_something() {
    let space = Space::new();
    small(&space);
    space.report("w.yaml", &[]);
    let lock = space.read("w.lock");
    let elsewhere = lock.replace("\"profile\":\"native", "\"profile\":\"elsewhere");
    assert_ne!(elsewhere, lock);
    space.write("w.lock", &elsewhere);
    let found = json(&space, &["verify", "w.yaml", "--recompute", "all"], 0);
    for (node, expected) in [
        ("scored", "close"),
        ("base", "close"),
        ("answers", "not_comparable"),
        ("target/answers[threshold=40]", "not_comparable"),
        ("masked[threshold=40]", "equal"),
    ] {
        assert_eq!(verdict(&found, node), expected, "{node}");
    }
    // A figure that is off by more than the tolerance is a difference there too.
    let text = "\"metric\":\"perplexity\",\"value\":";
    let line = elsewhere.lines().find(|l| l.contains("\"node\":\"scored\"")).unwrap();
    assert!(line.contains(text), "{line}");
    space.write("w.lock", &elsewhere.replace(line, &line.replacen(text, &format!("{text}1"), 1)));
    let found = json(&space, &["verify", "w.yaml", "--recompute", "all"], 3);
    let found = mismatches(&found, "mismatches");
    assert!(
        found.iter().any(|(n, w, m)| *n == "scored"
            && *w == "recompute"
            && m.starts_with("figure `perplexity` was 1")),
        "{found:?}"
    );
}

#[test]
fn a_lock_of_another_version_is_explained() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\nstages:\n  kept: { diversify: { data: rows, dedupe: exact } }\n",
    );
    space.report("w.yaml", &[]);
    // The key that another version made: any other one.
    let lock = space.read("w.lock").replacen("\"version\":\"0.1.0\"", "\"version\":\"0.0.9\"", 1);
    let report = json(&space, &["verify", "w.yaml"], 0);
    assert_eq!(report["lock_version"], "0.1.0");
    let line = lock.lines().find(|l| l.contains("\"node\":\"kept\"")).unwrap();
    let key = line.split("\"key\":\"").nth(1).unwrap()[..64].to_string();
    let other = "0".repeat(64);
    space.write("w.lock", &lock.replace(&key, &other));
    let found = json(&space, &["verify", "w.yaml", "--no-data"], 3);
    assert_eq!(found["lock_version"], "0.0.9");
    let differs = &found["mismatches"][0];
    assert_eq!(
        (&differs["what"], &differs["before"], &differs["now"]),
        (&"key".into(), &other.into(), &key.into())
    );
    let message = differs["message"].as_str().unwrap();
    assert!(message.contains("Refrain 0.0.9 wrote the lock, this is 0.1.0"), "{message}");
    assert_eq!(differs["hint"], "to accept it: `refrain run w.yaml`, then commit `w.lock`");
    let said = space.run(&["verify", "w.yaml"]);
    assert!(said.stdout.contains("= help: to accept it: `refrain run w.yaml`"), "{}", said.stdout);
}

#[test]
fn a_locked_run_says_what_differs_and_writes_nothing() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"prompt\": \"a\", \"response\": \"b\", \"reference\": \"c\"}\n");
    let stages = "  judged: { evaluate: { data: rows, task: exact_match } }\n  old: { diversify: { data: rows, dedupe: exact } }\n";
    let text = format!("refrain: 1\ndata: {{ rows: {{ path: rows.jsonl }} }}\nstages:\n{stages}");
    space.write("w.yaml", &text);
    let absent = space.run(&["run", "w.yaml", "--locked"]);
    assert_eq!(absent.code, 3, "{}", absent.stderr);
    space.report("w.yaml", &[]);
    let lock = space.read("w.lock");
    assert_eq!(
        json(&space, &["run", "w.yaml", "--locked", "--quiet"], 0)["lock_changes"],
        serde_json::json!([])
    );
    space.edit("w.yaml", "task: exact_match", "task: exact_match, bootstrap: 10");
    space.edit("w.yaml", "  old:", "  new:");
    let report = json(&space, &["run", "w.yaml", "--locked", "--quiet"], 3);
    assert_eq!(
        mismatches(&report, "lock_changes"),
        [
            ("judged", "key", "its key changed: `parameters.bootstrap` changed from 1000 to 10"),
            ("new", "renamed", "the lock has it as `old`, under the same key: it was renamed"),
        ]
    );
    let said = space.run(&["run", "w.yaml", "--locked"]);
    assert_eq!(said.code, 3);
    let words = "error: the lock is out of date, and `--locked` forbids updating it: 2 differences\n  = help: to accept it: `refrain run w.yaml`, then commit `w.lock`";
    assert!(
        said.stderr.contains(words) && said.stderr.contains("from 1000 to 10"),
        "{}",
        said.stderr
    );
    assert_eq!(space.read("w.lock"), lock, "nothing is written");
    space.report("w.yaml", &[]);
    assert_eq!(space.run(&["run", "w.yaml", "--locked"]).code, 0, "accepted");
}

/// Two stages with figures, one of which reads what the other makes.
fn judged(space: &Space) {
    space.write(
        "rows.jsonl",
        "{\"id\": \"a\", \"prompt\": \"p\", \"response\": \"b\", \"reference\": \"b\"}\n",
    );
    space.write(
        "w.yaml",
        "refrain: 1
data: { rows: { path: rows.jsonl } }
stages:
  z_first: { evaluate: { data: rows, task: exact_match } }
  a_then: { evaluate: { data: z_first, task: exact_match, trim: \"${trim}\" } }
sweep: { trim: [true, false] }
expect: [{ stage: a_then, metric: accuracy, at_least: 0.5 }]
",
    );
    space.report("w.yaml", &[]);
}

#[test]
fn figures_edited_in_the_lock_are_found() {
    let space = Space::new();
    judged(&space);
    let sound = space.read("w.lock");
    assert_eq!(space.run(&["verify", "w.yaml", "--complete"]).code, 0);
    let edited = sound.replacen(
        "\"metric\":\"accuracy\",\"value\":1.0",
        "\"metric\":\"accuracy\",\"value\":0.9",
        1,
    );
    assert_ne!(edited, sound);
    space.write("w.lock", &edited);
    let found = json(&space, &["verify", "w.yaml"], 3);
    assert_eq!(
        mismatches(&found, "mismatches"),
        [("a_then[trim=false]", "metrics", "its metrics are not those that the cache recorded")]
    );
    // The lock alone is enough: the digest of the metrics' table is in the same line.
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    let found = json(&space, &["verify", "w.yaml", "--no-data"], 3);
    let message = "its metrics are not those of the metrics table in the same line";
    assert_eq!(mismatches(&found, "mismatches"), [("a_then[trim=false]", "metrics", message)]);
}

#[test]
fn a_complete_cache_has_the_tables_of_sources_too() {
    let space = Space::new();
    judged(&space);
    let table = space.run(&["show", "w.yaml", "rows", "--path"]).stdout;
    let table = table.trim();
    std::fs::remove_file(table).unwrap();
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 0);
    let found = json(&space, &["verify", "w.yaml", "--complete"], 3);
    let words = "the cache does not hold the output `main`";
    assert_eq!(mismatches(&found, "mismatches"), [("rows", "artifact", words)]);
}

#[test]
fn one_key_has_one_result() {
    let space = Space::new();
    judged(&space);
    let lock = space.read("w.lock");
    let line = lock.lines().find(|l| l.contains("\"node\":\"z_first\"")).unwrap();
    let other =
        line.replacen("z_first", "z_other", 1).replacen("\"digest\":\"", "\"digest\":\"0", 1);
    let digest = other.split("\"digest\":\"").nth(1).unwrap()[..65].to_string();
    let other = other.replacen(&digest, &digest[..64], 1);
    space.write("w.lock", &format!("{lock}{other}\n"));
    space.edit(
        "w.yaml",
        "stages:",
        "stages:\n  z_other: { evaluate: { data: rows, task: exact_match } }",
    );
    let found = json(&space, &["verify", "w.yaml"], 3);
    let found = mismatches(&found, "mismatches");
    let words = "it has the key of `z_first`, but other outputs";
    assert!(found.contains(&("z_other", "artifact", words)), "{found:?}");
}

#[test]
fn a_cause_comes_before_its_consequences() {
    let space = Space::new();
    judged(&space);
    space.edit("w.yaml", "data: rows,", "data: rows, bootstrap: 10,");
    space.edit("w.yaml", "at_least: 0.5", "at_least: 1.5");
    space.edit("w.yaml", "trim: [true, false]", "trim: [true]");
    space.edit("rows.jsonl", "\"p\"", "\"q\"");
    let found = json(&space, &["verify", "w.yaml"], 3);
    let order: Vec<_> = mismatches(&found, "mismatches").iter().map(|(n, w, _)| (*n, *w)).collect();
    assert_eq!(
        order,
        [
            ("rows", "source"),
            ("z_first", "key"),
            ("a_then[trim=false]", "stale"),
            ("a_then", "expect"),
        ]
        .map(|(n, w): (&str, &str)| (n, w))
    );
}

#[test]
fn one_point_alone_is_no_stale_lock() {
    let space = Space::new();
    judged(&space);
    // A condition on a point that is left out is left out too; one on a value that no axis has is wrong.
    let other = ", { stage: a_then, at: { trim: false }, metric: accuracy, at_most: 0 }]";
    space.edit("w.yaml", "at_least: 0.5 }]", &format!("at_least: 0.5 }}{other}"));
    assert_eq!(json(&space, &["verify", "w.yaml"], 3)["expects"], 2);
    let found = json(&space, &["verify", "w.yaml", "--set", "trim=true"], 0);
    assert_eq!((&found["keys"], &found["expects"]), (&3.into(), &1.into()));
    assert_eq!(space.run(&["run", "w.yaml", "--set", "trim=true", "--locked"]).code, 0);
    space.edit("w.yaml", "at: { trim: false }", "at: { trim: maybe }");
    assert_eq!(space.run(&["verify", "w.yaml", "--set", "trim=true"]).code, 2);
}

#[test]
fn a_locked_run_that_would_differ_runs_nothing() {
    let space = Space::new();
    judged(&space);
    space.edit("w.yaml", "data: rows,", "data: rows, bootstrap: 10,");
    let report = json(&space, &["run", "w.yaml", "--locked"], 3);
    let nodes = report["nodes"].as_array().unwrap();
    assert!(nodes.iter().all(|n| n["outcome"] == "not_run"), "{report:#}");
    assert_eq!(mismatches(&report, "lock_changes").len(), 1, "{report:#}");
    // A source that was edited is known before anything runs, too.
    space.edit("w.yaml", "bootstrap: 10,", "");
    space.edit("rows.jsonl", "\"p\"", "\"q\"");
    let report = json(&space, &["run", "w.yaml", "--locked"], 3);
    assert_eq!(mismatches(&report, "lock_changes")[0].1, "source");
    // What is not asked for need not be as the lock says.
    space.edit("rows.jsonl", "\"q\"", "\"p\"");
    space.edit("w.yaml", "trim: \"${trim}\"", "trim: \"${trim}\", bootstrap: 10");
    assert_eq!(space.run(&["run", "w.yaml", "--locked", "--only", "z_first"]).code, 0);
}

/// A clone that has the workflow and the lock alone: neither data, nor models, nor a cache.
#[test]
fn a_bare_clone_has_all_that_reading_commands_need() {
    let space = Space::new();
    space.write(
        "data/rows.jsonl",
        "{\"id\": \"a\", \"prompt\": \"p\", \"response\": \"b\", \"reference\": \"b\"}\n",
    );
    space.write("data/tool.txt", "x");
    space.write("data/model/config.json", "{}");
    space.write("data/model/model.safetensors", "x");
    space.write(
        "w.yaml",
        "refrain: 1
models: { m: { path: data/model } }
data: { rows: { path: data/rows.jsonl }, tool: { path: data/tool.txt, type: file } }
stages:
  judged: { evaluate: { data: rows, task: exact_match } }
  ran: { run: { command: [sh, -c, 'cat ${in.m}/config.json ${in.t} > ${out.x}'], inputs: { m: m, t: tool }, outputs: { x: file } } }
expect: [{ stage: judged, metric: accuracy, at_least: 0.5 }]
",
    );
    space.report("w.yaml", &[]);
    let before = space.run(&["results", "w.yaml", "--format", "csv"]).stdout;
    let clone = Space::new();
    clone.write("w.yaml", &space.read("w.yaml"));
    clone.write("w.lock", &space.read("w.lock"));

    let found = json(&clone, &["verify", "w.yaml", "--no-data"], 0);
    assert_eq!((&found["keys"], &found["sources"]["absent"]), (&5.into(), &3.into()));
    let found = json(&clone, &["verify", "w.yaml"], 3);
    let absent: Vec<_> =
        mismatches(&found, "mismatches").iter().map(|(node, what, _)| (*node, *what)).collect();
    assert_eq!(absent, [("rows", "source"), ("m", "source"), ("tool", "source")]);
    assert_eq!(clone.run(&["results", "w.yaml", "--format", "csv"]).stdout, before);
    for command in ["graph", "plan", "explain"] {
        let said = clone.run(&[command, "w.yaml"]);
        assert_eq!(said.code, 0, "{command}: {}{}", said.stdout, said.stderr);
    }
    assert!(
        clone.fails(&["show", "w.yaml", "judged"]).contains("the cache does not hold `judged`")
    );
    // The columns of the absent table are checked still.
    let masked = "  masked: { mask: { data: rows, above: 2 } }\n";
    clone.edit("w.yaml", "  ran:", &format!("{masked}  ran:"));
    let said = clone.fails(&["graph", "w.yaml"]);
    assert!(said.contains("stage `masked`: the table lacks the columns"), "{said}");

    // With the cache beside it, plan, explain and show know everything.
    clone.edit("w.yaml", masked, "");
    let cache = space.path(".refrain").display().to_string();
    let plan = json(&clone, &["plan", "w.yaml", "--cache", &cache], 0);
    let steps: Vec<&Value> = plan["nodes"].as_array().unwrap().iter().map(|n| &n["step"]).collect();
    assert!(steps.iter().all(|step| *step == "cached"), "{plan:#}");
    assert!(clone.run(&["show", "w.yaml", "rows", "--cache", &cache]).stdout.contains("1 rows"));
    // What runs needs its files.
    assert_eq!(clone.run(&["run", "w.yaml"]).code, 2);
}

/// `chat: true` is the default of a model with a chat template, which only its files say, or the lock.
#[test]
fn defaults_that_rest_on_an_absent_model_are_resolved_by_the_lock() {
    let space = Space::new();
    small(&space);
    space.report("w.yaml", &["--only", "base"]);
    let trained = space.run(&["show", "w.yaml", "base", "--path"]).stdout;
    std::fs::create_dir(space.path("model")).unwrap();
    for file in std::fs::read_dir(trained.trim()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), space.path("model").join(file.file_name())).unwrap();
    }
    let stage = "  scored: { score: { model: m, data: train, chat: true, backend: native } }\n";
    let head =
        "refrain: 1\nmodels: { m: { path: model } }\ndata: { train: { path: train.jsonl } }\n";
    space.write("s.yaml", &format!("{head}stages:\n{stage}"));
    space.report("s.yaml", &[]);
    let written = space.read("s.lock");
    assert!(written.contains("\"chat_template\":true"), "{written}");

    let clone = Space::new();
    clone.write("s.yaml", &space.read("s.yaml"));
    clone.write("s.lock", &written);
    json(&clone, &["verify", "s.yaml", "--no-data"], 0);
    // Written out or not, it is one key.
    clone.edit("s.yaml", "chat: true, backend: native", "chat: auto");
    json(&clone, &["verify", "s.yaml", "--no-data"], 0);
    clone.edit("s.yaml", "chat: auto", "chat: false");
    json(&clone, &["verify", "s.yaml", "--no-data"], 3);
}
