//! What a run prints on the way: plain lines without a terminal, nothing when asked to be quiet, colour only where wanted.

use std::process::Command;

use crate::space::{Space, small};

/// Bytes with which a terminal is driven.
fn drives_a_terminal(text: &str) -> bool {
    text.contains(['\u{1b}', '\r'])
}

#[test]
fn without_a_terminal_there_are_plain_lines() {
    let space = Space::new();
    small(&space);
    let said = space.run(&["run", "w.yaml", "--only", "scored"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(
        !drives_a_terminal(&said.stderr) && !drives_a_terminal(&said.stdout),
        "{:?}",
        said.stderr
    );
    let nodes: Vec<&str> =
        said.stderr.lines().filter_map(|l| l.split_whitespace().last()).collect();
    assert!(
        nodes.contains(&"train") && nodes.contains(&"base") && nodes.contains(&"scored"),
        "{nodes:?}"
    );
    assert!(said.stderr.lines().last().unwrap().starts_with("3 nodes run, 0 cached, "));
}

#[test]
fn quiet_leaves_the_summary_and_what_is_wrong() {
    let space = Space::new();
    small(&space);
    let said = space.run(&["run", "w.yaml", "--only", "scored", "--quiet"]);
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    let said = space.run(&["run", "w.yaml", "--only", "scored", "--quiet", "--format", "json"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "with JSON the summary is data");
    std::fs::remove_file(space.path("train.jsonl")).unwrap();
    assert!(space.run(&["run", "w.yaml", "--quiet"]).stderr.contains("there is no `train.jsonl`"));
}

/// What a command prints to a terminal, made by `script`; nothing, with a remark, where that program is absent.
fn on_a_terminal(space: &Space, arguments: &str, variables: &[(&str, &str)]) -> Option<String> {
    let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_refrain"));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(space.path(""));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TERM", "xterm")
        .envs(variables.iter().copied());
    match command.stdin(std::process::Stdio::null()).output() {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap()),
        Err(error) => {
            eprintln!("skipped: `script` cannot be started: {error}");
            None
        }
    }
}

#[test]
fn a_terminal_is_given_bars_and_colour_unless_no_color_is_set() {
    let space = Space::new();
    small(&space);
    space.write("wrong.yaml", "- refrain\n");
    let escape = '\u{1b}';
    let Some(said) = on_a_terminal(&space, "check wrong.yaml", &[]) else { return };
    assert!(said.contains(escape) && said.contains("a workflow is a mapping"), "{said:?}");
    let plain = on_a_terminal(&space, "check wrong.yaml", &[("NO_COLOR", "1")]).unwrap();
    assert!(!plain.contains(escape) && plain.contains("a workflow is a mapping"), "{plain:?}");
    let help = on_a_terminal(&space, "--help", &[("NO_COLOR", "1")]).unwrap();
    assert!(!help.contains(escape), "{help:?}");
    let bars = on_a_terminal(&space, "run w.yaml --only base", &[]).unwrap();
    assert!(bars.contains(escape) && bars.contains("steps"), "{bars:?}");
}
