//! The lock: its format, and what other writers of it may rely on.

use std::time::Duration;

use serde_json::Value;

use crate::space::Space;

const WORKFLOW: &str = "refrain: 1
data: { rows: { path: rows.jsonl } }
stages:
  first: { run: { command: [sh, -c, 'echo 1 > ${out.x}'], outputs: { x: file } } }
  second: { run: { command: [sh, -c, 'echo 2 > ${out.x}'], outputs: { x: file } } }
  read: { diversify: { data: rows, dedupe: exact } }
";

fn space() -> Space {
    let space = Space::new();
    space.write("w.yaml", WORKFLOW);
    space.write(
        "rows.jsonl",
        "{\"id\": \"a\", \"messages\": [{\"role\": \"user\", \"content\": \"p\"}], \"n\": 1}\n",
    );
    space
}

fn entries(space: &Space) -> Vec<Value> {
    let text = space.read("w.lock");
    text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn nodes(space: &Space) -> Vec<String> {
    entries(space).iter().map(|entry| entry["node"].as_str().unwrap().to_string()).collect()
}

#[test]
fn it_is_of_the_second_format_with_the_columns_of_sources() {
    let space = space();
    space.report("w.yaml", &[]);
    assert!(space.read("w.lock").starts_with("{\"refrain_lock\":2,"), "{}", space.read("w.lock"));
    assert_eq!(nodes(&space), ["first", "read", "rows", "second"]);
    let columns = entries(&space)[2]["columns"].to_string();
    let message = "{\"role\":\"Utf8\",\"content\":\"Utf8\"}";
    assert!(columns.contains(&format!("\"messages\":[{message}]")), "{columns}");
    assert!(columns.contains("\"n\":\"Int64\""), "{columns}");

    // The first format had no columns; the next run adds them, whatever else it does.
    let second = space.read("w.lock");
    let first = second.replacen("\"refrain_lock\":2", "\"refrain_lock\":1", 1);
    space.write("w.lock", &first.replacen(&format!("\"columns\":{columns},"), "", 1));
    assert_eq!(space.run(&["verify", "w.yaml", "--complete"]).code, 0);
    assert_eq!(space.run(&["run", "w.yaml", "--locked"]).code, 0);
    space.report("w.yaml", &["--only", "read"]);
    assert_eq!(space.read("w.lock"), second);
}

#[test]
fn a_newer_format_is_refused_before_anything_runs() {
    let space = space();
    space.report("w.yaml", &[]);
    let newer = space.read("w.lock").replacen("\"refrain_lock\":2", "\"refrain_lock\":3", 1);
    space.write("w.lock", &newer);
    space.edit("w.yaml", "echo 1", "touch ../ran; echo 3");
    let said = space.run(&["run", "w.yaml"]);
    assert_eq!(said.code, 4, "{}", said.stderr);
    assert!(
        said.stderr.contains("in format 3; this build reads formats up to 2"),
        "{}",
        said.stderr
    );
    assert!(!said.stderr.contains("nodes run"), "{}", said.stderr);
    assert_eq!(space.read("w.lock"), newer, "and left as it is");
}

#[test]
fn unknown_fields_and_lines_survive_a_run() {
    let space = space();
    space.report("w.yaml", &[]);
    let text = space.read("w.lock").replacen(
        "\"node\":\"first\"",
        "\"pin\":{\"z\":1},\"node\":\"first\"",
        1,
    );
    space.write("w.lock", &format!("{text}{{\"comparison\":\"c\",\"value\":0.5}}\n"));
    space.edit("w.yaml", "echo 1", "echo 5");
    space.report("w.yaml", &[]);
    assert_eq!(entries(&space)[0]["pin"]["z"], 1);
    assert!(space.read("w.lock").ends_with("{\"comparison\":\"c\",\"value\":0.5}\n"));
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link() {
    let space = space();
    space.write("locks/real.lock", "{\"refrain_lock\":1,\"version\":\"0.1.0\"}\n");
    std::os::unix::fs::symlink("locks/real.lock", space.path("w.lock")).unwrap();
    space.report("w.yaml", &[]);
    assert!(space.path("w.lock").is_symlink());
    assert_eq!(space.read("locks/real.lock").lines().count(), 5);
}

/// Another process adds a line while a run waits to write its own.
#[cfg(unix)]
#[test]
fn two_writers_lose_no_line() {
    let space = space();
    space.report("w.yaml", &["--only", "second"]);
    let second = space.read("w.lock");
    std::fs::remove_file(space.path("w.lock")).unwrap();

    let folder = std::fs::File::open(space.path(".")).unwrap();
    folder.lock().unwrap();
    let mut run = space.command(&["run", "w.yaml", "--only", "first", "--quiet"]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(run.try_wait().unwrap().is_none(), "it waits for its turn");
    assert!(!space.path("w.lock").exists());
    space.write("w.lock", &second);
    folder.unlock().unwrap();
    assert!(run.wait().unwrap().success());
    assert_eq!(nodes(&space), ["first", "second"]);
}
