//! Data that stdout refuses, and readers that leave.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::space::Space;

const FAILS: &str = "refrain: 1\nstages:\n  bad: { run: { command: [sh, -c, 'exit 3'], \
                     outputs: { o: file } } }\n";
const WORKS: &str = "refrain: 1\nstages:\n  good: { run: { command: [sh, -c, 'echo > ${out.o}'], \
                     outputs: { o: file } } }\n";

/// A space with a workflow that works and was run, and one that fails.
fn world() -> Space {
    let space = Space::new();
    space.write("good.yaml", WORKS);
    space.write("bad.yaml", FAILS);
    assert_eq!(space.run(&["run", "good.yaml"]).code, 0);
    space
}

/// Runs a command whose stdout is a full disk; its exit code and stderr.
fn on_a_full_disk(space: &Space, arguments: &[&str]) -> (Option<i32>, String) {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = space.command(arguments).stdout(full).stderr(Stdio::piped()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// Runs a command whose stdout nobody reads; its exit code and stderr.
fn without_a_reader(mut command: Command) -> (Option<i32>, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_full_disk_is_an_error_of_every_command_that_prints() {
    let space = world();
    for arguments in [
        &["plan", "good.yaml"][..],
        &["check", "good.yaml", "--format", "json"],
        &["explain", "good.yaml"],
        &["results", "good.yaml"],
        &["graph", "good.yaml"],
        &["show", "good.yaml", "good", "--path"],
        &["verify", "good.yaml"],
        &["cache", "stat", "good.yaml"],
        &["run", "good.yaml", "--format", "json"],
        &["schema"],
        &["doctor"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
        &["run", "--help"],
        &["--version"],
    ] {
        let (code, said) = on_a_full_disk(&space, arguments);
        assert_eq!(code, Some(4), "{arguments:?}: {said}");
        assert!(said.contains("cannot write to stdout: No space left"), "{arguments:?}: {said}");
    }
    let (_, said) = on_a_full_disk(&space, &["plan", "good.yaml", "--format", "json"]);
    let error: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(error["exit_code"], 4, "{error}");
}

#[test]
fn a_reader_that_left_changes_no_exit_code() {
    let space = world();
    let ended = |arguments: &[&str]| without_a_reader(space.command(arguments));
    assert_eq!(ended(&["plan", "good.yaml"]), (Some(0), String::new()));
    assert_eq!(ended(&["--help"]), (Some(0), String::new()));

    let (code, said) = ended(&["run", "bad.yaml", "--format", "json"]);
    assert_eq!(code, Some(1), "a failed stage stays one: {said}");
    assert!(!said.contains("stdout"), "{said}");
}

#[test]
fn a_stderr_that_left_stops_nothing() {
    let space = world();
    let mut command = space.command(&["run", "bad.yaml"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
