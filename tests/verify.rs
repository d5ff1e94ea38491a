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
    assert_eq!(copies.2, "its input `file` cannot be had with the bytes that the lock names");
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
            (
                "judged",
                "key",
                "the workflow now gives another key: `parameters.bootstrap` was 1000, is 10"
            ),
            ("new", "missing", "the lock has no line for it"),
            ("old", "stale", "the lock has a line for it, but the workflow has no such node"),
        ]
    );
    let said = space.run(&["run", "w.yaml", "--locked"]);
    assert_eq!(said.code, 3);
    let words = "error: the lock is out of date, and `--locked` forbids updating it: 3 differences\n  = help: to accept it: `refrain run w.yaml`, then commit `w.lock`";
    assert!(
        said.stderr.contains(words) && said.stderr.contains("was 1000, is 10"),
        "{}",
        said.stderr
    );
    assert_eq!(space.read("w.lock"), lock, "nothing is written");
    space.report("w.yaml", &[]);
    assert_eq!(space.run(&["run", "w.yaml", "--locked"]).code, 0, "accepted");
}
