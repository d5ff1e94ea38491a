//! Programs of a model: the shared cases, and what the sandbox and the interpreter need.

use arrow::array::{AsArray, RecordBatch};
use serde_json::Value;

use crate::artifacts::{lines, shown, truths};
use crate::space::{Space, shared};

/// The word for `--sandbox` here: that every layer is needed, or that those here must do. `None`,
/// with a printed reason, where nothing can be run.
pub fn sandbox() -> Option<&'static str> {
    let said = Space::new().run(&["doctor", "--format", "json"]);
    let offered: Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {}", said.stderr));
    if !offered["python"]["missing"].is_null() {
        println!("skipped: {}", offered["python"]["missing"]);
        return None;
    }
    if offered["sandbox"]["complete"] == true {
        return Some("full");
    }
    println!("not with every layer: {}", offered["sandbox"]["layers"]);
    Some("weaker")
}

fn table(space: &Space, node: &str, sandbox: &str) -> RecordBatch {
    shown(space, &["w.yaml", node, "--sandbox", sandbox])
}

fn text<'t>(table: &'t RecordBatch, name: &str, row: usize) -> &'t str {
    table.column_by_name(name).unwrap().as_string::<i32>().value(row)
}

const MBPP: &str = r#"
refrain: 1
data:
  samples: { path: SHARED/eval-mbpp/samples.jsonl, columns: { response: generation, recorded: passed } }
  logged: { path: SHARED/eval-mbpp/logged_test.jsonl, columns: { response: generation } }
stages:
  judged: { evaluate: { data: samples, task: code } }
  cleaned:
    evaluate: { data: samples, task: code, extract: { regex: '(?s)```(?:python)?\s+(?:python.)?(.*?)\s*``' } }
  visible: { evaluate: { data: logged, task: code, tests: prompt_tests } }
expect:
  - { stage: judged, metric: correct, value: 330, within: 0 }
  - { stage: judged, metric: no_answer, value: 0, within: 0 }
  - { stage: cleaned, metric: correct, value: 347, within: 0 }
  - { stage: visible, metric: correct, value: 39, within: 0 }
"#;

#[test]
fn samples_of_mbpp_get_their_recorded_verdicts() {
    let (Some(shared), Some(sandbox)) = (shared(), sandbox()) else { return };
    let space = Space::new();
    space.write("w.yaml", &MBPP.replace("SHARED", &shared.join("data").display().to_string()));
    let said = space.run(&["run", "w.yaml", "--sandbox", sandbox]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let cases = [
        ("judged", "eval-mbpp/samples.jsonl", "passed", true),
        ("cleaned", "eval-mbpp/samples.jsonl", "passes_after_cleanup", false),
        ("visible", "eval-mbpp/logged_test.jsonl", "passes_prompt_tests", false),
    ];
    for (stage, file, recorded, extracted) in cases {
        let (table, rows) = (table(&space, stage, sandbox), lines(file));
        let correct = truths(&table, "correct");
        assert_eq!(correct.len(), rows.len());
        for (row, (line, correct)) in rows.iter().zip(correct).enumerate() {
            let reason = text(&table, "reason", row);
            assert_eq!(line[recorded], correct, "{stage}, row {row}: {reason}");
            assert_ne!(reason, "suspicious", "{stage}, row {row}");
            if extracted {
                assert_eq!(line["code"], text(&table, "prediction", row), "{stage}, row {row}");
            }
        }
    }
    let lock = space.read("w.lock");
    assert!(lock.contains("\"CPython 3."), "the interpreter is in the profile: {lock}");
}

const ROWS: &str = r#"
refrain: 1
data: { rows: { path: rows.jsonl } }
stages:
  judged: { evaluate: { data: rows, task: code, time_limit: 2 } }
"#;

/// Rows with one test each.
fn rows(space: &Space, responses: &[&str]) {
    let row = |response: &&str| {
        serde_json::json!({ "response": response, "tests": ["assert f(1) == 2", "assert f(2) == 3"] })
            .to_string()
    };
    space.write("rows.jsonl", &responses.iter().map(row).collect::<Vec<_>>().join("\n"));
}

#[test]
fn each_row_says_why_its_program_is_right_or_wrong() {
    let Some(sandbox) = sandbox() else { return };
    let space = Space::new();
    let programs = [
        ("I cannot do that.", "no code"),
        ("```python\ndef f(x): return x + 1\n```", "passed"),
        ("So:\n```\ndef f(x):\n    return x + 1\n``", "passed"),
        (
            "```python\ndef f(x): return x\n```\n```python\ndef f(x): return x + 1\n```",
            "wrong answer",
        ),
        ("``` python\ndef f(x): return x + 1\n```", "exception: NameError"),
        ("```py\ndef f(x): return x + 1\n```", "no code"),
        ("```python\ndef f(x) return x\n```", "syntax error"),
        ("```python\ndef f(x):\n    while True: pass\n```", "time-out"),
        ("```python\ndef f(x): return [x] * 10**10\n```", "memory"),
        ("```python\nimport os\nos._exit(0)\n```", "ended early"),
        ("```python\nclass Own(Exception): pass\ndef f(x): raise Own\n```", "exception"),
        (
            "```python\nclass All:\n    def __eq__(self, other): return True\ndef f(x): return All()\n```",
            "suspicious",
        ),
    ];
    rows(&space, &programs.map(|(response, _)| response));
    space.write("w.yaml", ROWS);
    let said = space.run(&["run", "w.yaml", "--sandbox", sandbox]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let table = table(&space, "judged", sandbox);
    for (row, (response, reason)) in programs.iter().enumerate() {
        assert_eq!(text(&table, "reason", row), *reason, "{response}");
    }
    let right = programs.map(|(_, reason)| matches!(reason, "passed" | "suspicious"));
    assert_eq!(
        truths(&table, "correct"),
        right,
        "a suspicious program passes by the data's own rule"
    );
}

#[test]
fn programs_of_humaneval_begin_with_their_prompt_and_are_checked_by_their_entry_point() {
    let Some(sandbox) = sandbox() else { return };
    let space = Space::new();
    let row = |completion: &str| {
        serde_json::json!({
            "prompt": "import math\n\ndef root(x):\n    \"\"\"The root.\"\"\"\n",
            "response": completion,
            "test": "def check(candidate):\n    assert candidate(4) == 2\n    assert math.isclose(candidate(2), 1.41421356, abs_tol=1e-6)",
            "entry_point": "root",
        })
        .to_string()
    };
    space
        .write("rows.jsonl", &[row("    return math.sqrt(x)"), row("    return x / 2")].join("\n"));
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\nstages:\n  judged:\n    evaluate: { data: rows, task: \
         code, extract: whole, trim: false, prefix: prompt, tests: test, entry_point: entry_point }\n",
    );
    let said = space.run(&["run", "w.yaml", "--sandbox", sandbox]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let table = table(&space, "judged", sandbox);
    assert_eq!(truths(&table, "correct"), [true, false]);
    assert_eq!(text(&table, "reason", 0), "passed");
}

#[test]
fn what_a_weaker_sandbox_computed_is_not_adopted_without_it() {
    if sandbox() != Some("full") {
        println!("skipped: it needs every layer");
        return;
    }
    let space = Space::new();
    rows(&space, &["```python\ndef f(x): return x + 1\n```"]);
    space.write("w.yaml", ROWS);
    let run = |arguments: &[&str]| {
        let said = space.run(&[&["run", "w.yaml", "--format", "json"], arguments].concat());
        assert_eq!(said.code, 0, "{}", said.stderr);
        let report: Value = serde_json::from_str(&said.stdout).unwrap();
        let nodes = report["nodes"].as_array().unwrap().clone();
        nodes.into_iter().find(|node| node["node"] == "judged").unwrap()
    };
    assert_eq!(run(&["--sandbox", "weaker"])["outcome"], "ran");
    assert!(space.read("w.lock").contains("weaker sandbox"), "it is in the profile");
    assert_eq!(run(&["--sandbox=weaker"])["outcome"], "cached");
    assert_eq!(space.run(&["run", "w.yaml", "--sandbox=weaker", "--quiet"]).code, 0);
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 3, "its lock holds only with the option");
    assert_eq!(space.run(&["verify", "w.yaml", "--sandbox=weaker"]).code, 0);
    assert_eq!(run(&[])["outcome"], "ran");
    assert!(!space.read("w.lock").contains("weaker sandbox"));
    assert_eq!(run(&[])["outcome"], "cached");
}

#[test]
fn a_machine_without_an_interpreter_is_told_so() {
    let space = Space::new();
    rows(&space, &["```python\nf = 1\n```"]);
    space.write("w.yaml", ROWS);
    let mut command = space.command(&["run", "w.yaml"]);
    let output = command.env("PATH", space.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("there is no `python3` on PATH"), "{said}");
    assert!(said.contains("help: `task: code` runs Python"), "{said}");
}

#[test]
fn wrong_workflows_and_tests_of_programs_are_refused() {
    let space = Space::new();
    rows(&space, &["```python\nf = 1\n```"]);
    let refused = |task: &str, words: &str| {
        let workflow = ROWS.replace("task: code, time_limit: 2", task);
        space.write("w.yaml", &workflow);
        let said = space.fails(&["check", "w.yaml"]);
        assert!(said.contains(words), "{task}: {said}");
    };
    refused(
        "task: number, time_limit: 2",
        "`task: number` takes no `time_limit`: it runs no programs",
    );
    refused("task: code, compare: text", "`task: code` takes no `compare`: it runs tests");
    refused("task: code, tests: asserts", "`asserts`");
    refused("task: code, sandbox: weaker", "`sandbox`");
    if let Some(sandbox) = sandbox() {
        space.write(
            "rows.jsonl",
            r#"{"id": "a", "response": "```\nf = 1\n```", "tests": ["assert ("]}"#,
        );
        space.write("w.yaml", ROWS);
        let said = space.run(&["run", "w.yaml", "--sandbox", sandbox]);
        assert_eq!(said.code, 1, "{}", said.stderr);
        assert!(said.stderr.contains("row 0 (`a`): the tests are not Python"), "{}", said.stderr);
    }
}

#[test]
fn an_interrupted_stage_leaves_no_process() {
    let Some(sandbox) = sandbox() else { return };
    let space = Space::new();
    rows(&space, &["```python\nimport time\ntime.sleep(999)\n```"; 4]);
    space.write("w.yaml", &ROWS.replace("time_limit: 2", "time_limit: 600"));
    let mut command = space.command(&["run", "w.yaml", "--sandbox", sandbox]);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let ours = child.id();
    let begin = std::time::Instant::now();
    while children(ours).is_empty() && begin.elapsed().as_secs() < 120 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    let inside = children(ours);
    assert!(!inside.is_empty(), "no sandbox was started");
    // A killed run cannot clean up after itself.
    child.kill().unwrap();
    child.wait().unwrap();
    let begin = std::time::Instant::now();
    let mut left = inside;
    while !left.is_empty() && begin.elapsed().as_secs() < 30 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        left.retain(|id| is_alive(*id));
    }
    assert!(left.is_empty(), "these processes are left: {left:?}");
}

/// The processes below a process.
fn children(process: u32) -> Vec<u32> {
    let parents = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent: u32 = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        Some((id, parent))
    });
    let parents: Vec<(u32, u32)> = parents.collect();
    let mut found = vec![process];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, above)| *above == parent).map(|(id, _)| id));
        at += 1;
    }
    found.split_off(1)
}

fn is_alive(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}
