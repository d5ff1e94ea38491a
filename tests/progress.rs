//! The display of a run: plain lines without a terminal, bars on one, nothing when asked to be quiet.

mod screen;

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use regex::Regex;

use crate::space::{Space, small};
use screen::Screen;

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

/// Rows with responses and references.
const ROWS: &str = "{\"prompt\": \"a\", \"response\": \"b\", \"reference\": \"b\"}\n";

/// A stage per value of `x`, each of whose commands does `work`, and what judges it.
fn sweep(work: &str, values: &str) -> String {
    format!(
        "refrain: 1\ndata: {{ rows: {{ path: rows.jsonl }} }}\nstages:\n  made_with_a_name_of_its_own:\n    \
         run: {{ command: [sh, -c, '{work}; cp ${{in.t}} ${{out.t}}'], inputs: {{ t: rows }}, \
         outputs: {{ t: table }} }}\n  judged: {{ evaluate: {{ data: made_with_a_name_of_its_own, \
         task: exact_match }} }}\nsweep: {{ x: {values} }}\n"
    )
}

/// A command on a terminal of a size, made by `script`; nothing, with a remark, where that program
/// is absent.
fn terminal(
    space: &Space,
    arguments: &str,
    columns: usize,
    variables: &[(&str, &str)],
) -> Option<Command> {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: `script` cannot be started");
        return None;
    }
    let refrain = env!("CARGO_BIN_EXE_refrain");
    let line = format!("stty cols {columns} rows 30 && exec {refrain} {arguments}");
    let mut command = Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .current_dir(space.path(""))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    Some(command)
}

/// What a command prints to a terminal of 100 columns.
fn on_a_terminal(space: &Space, arguments: &str, variables: &[(&str, &str)]) -> Option<String> {
    let output = terminal(space, arguments, 100, variables)?.output().unwrap();
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_terminal_is_given_colour_unless_no_color_is_set() {
    let space = Space::new();
    space.write("wrong.yaml", "- refrain\n");
    let escape = '\u{1b}';
    let Some(said) = on_a_terminal(&space, "check wrong.yaml", &[]) else { return };
    assert!(said.contains(escape) && said.contains("a workflow is a mapping"), "{said:?}");
    let plain = on_a_terminal(&space, "check wrong.yaml", &[("NO_COLOR", "1")]).unwrap();
    assert!(!plain.contains(escape) && plain.contains("a workflow is a mapping"), "{plain:?}");
    let help = on_a_terminal(&space, "--help", &[("NO_COLOR", "1")]).unwrap();
    assert!(!help.contains(escape), "{help:?}");
}

#[test]
fn bars_are_as_wide_as_the_terminal_and_leave_nothing_behind() {
    let space = Space::new();
    space.write("rows.jsonl", ROWS);
    space.write("w.yaml", &sweep("sleep 2.5; : ${x}", "[a_long_value_of_the_axis, another_one]"));
    let Some(said) = on_a_terminal(&space, "run w.yaml --jobs 2", &[]) else { return };
    assert!(drives_a_terminal(&said), "{said:?}");

    // Under way: whole names, how long each has taken, and a line for all with the time left.
    let name = "made_with_a_name_of_its_own[x=a_long_value_of_the_axis] ";
    assert!(said.contains(name), "{said:?}");
    assert!(said.contains("1 of 5 nodes"), "{said:?}");

    // In the end: a line per node that was computed (the second `judged` has the key of the first),
    // the table, the summary, and nothing else.
    let lines = Screen::of(&said, 100).lines();
    let nodes = lines.iter().take_while(|line| line.starts_with(' ')).count();
    assert_eq!(nodes, 4, "{lines:#?}");
    assert_eq!(lines.len(), nodes + 1 + 2 + 1, "{lines:#?}");
    assert!(lines.last().unwrap().starts_with("4 nodes run, 1 cached, "), "{lines:#?}");

    // On a narrow terminal names are shortened, and no line is longer than it.
    let narrow = terminal(&space, "run w.yaml --force made_with_a_name_of_its_own", 50, &[]);
    let said = String::from_utf8(narrow.unwrap().output().unwrap().stdout).unwrap();
    assert!(!said.contains(name) && said.contains('…'), "{said:?}");
    let lines = Screen::of(&said, 50).lines();
    assert!(!lines.iter().any(|line| line.contains('…') || line.contains(" of ")), "{lines:#?}");
}

#[test]
fn a_run_of_more_nodes_than_rows_is_shown_by_stages() {
    let space = Space::new();
    space.write("rows.jsonl", ROWS);
    let values: Vec<String> = (0..36).map(|x| x.to_string()).collect();
    let work = "if [ ${x} = 7 ]; then exit 1; fi; sleep 0.2; echo ${x} > /dev/null";
    space.write("w.yaml", &sweep(work, &format!("[{}]", values.join(", "))));
    let run = "run w.yaml --jobs 2 --keep-going";
    let Some(said) = on_a_terminal(&space, run, &[]) else { return };

    // Under way: a line per stage with its nodes, in colours, and one for all.
    let green = Regex::new(r"\x1b\[32m\d+ run\x1b\[0m.* of 36").unwrap();
    assert!(green.is_match(&said), "{said:?}");
    let plain = Regex::new(r"\x1b\[[0-9;]*m").unwrap().replace_all(&said, "").into_owned();
    for words in [
        r"made_with_a_name_of_its_own \S+ +\d+ run, 1 failed, \d running of 36",
        r"judged +\S* +1 run, \d+ cached.* of 36",
        r"\d+ of 73 nodes, 1 failed, ",
    ] {
        assert!(Regex::new(words).unwrap().is_match(&plain), "no `{words}`: {plain}");
    }
    assert!(
        said.contains("\u{1b}[31m1 failed") && said.contains("\u{1b}[31m\u{1b}[1merror"),
        "{said:?}"
    );

    // In the end nothing of it is left.
    let lines = Screen::of(&said, 100).lines();
    assert!(!lines.iter().any(|line| line.contains('━') || line.contains(" of 36")), "{lines:#?}");
    assert!(lines.iter().filter(|line| line.starts_with("error:")).count() == 1, "{lines:#?}");

    // Without colour the words are the same.
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    let said = on_a_terminal(&space, run, &[("NO_COLOR", "1")]).unwrap();
    assert!(!Regex::new(r"\x1b\[[0-9;]*m").unwrap().is_match(&said), "{said:?}");
    assert!(Regex::new(r"\d+ run, 1 failed, \d running of 36").unwrap().is_match(&said), "{said}");
}

#[test]
fn a_dry_run_is_a_plan() {
    let space = Space::new();
    small(&space);
    let said = space.run(&["run", "-n", "w.yaml"]);
    assert_eq!((said.code, &said.stdout), (0, &space.run(&["plan", "w.yaml"]).stdout));
    assert!(said.stdout.contains("to run") && !space.path("w.lock").exists(), "{}", said.stdout);
    let json = |arguments: &[&str]| space.run(&[arguments, &["--format", "json"]].concat()).stdout;
    assert_eq!(
        json(&["run", "--dry-run", "w.yaml", "--jobs", "2"]),
        json(&["plan", "w.yaml", "--jobs", "2"])
    );
    let said = space.fails(&["run", "-n", "w.yaml", "--only", "base"]);
    assert!(said.contains("exit code 2") && said.contains("--only"), "{said}");
    // Beside a run that has nothing to do, the plan says so.
    space.report("w.yaml", &[]);
    let said = space.run(&["run", "-n", "w.yaml"]);
    assert!(said.stdout.contains(" cached, 0 to run, 0 waiting for inputs"), "{}", said.stdout);
}

#[test]
fn a_training_shows_its_rate_and_the_time_left() {
    let space = Space::new();
    small(&space);
    space.edit("w.yaml", "steps: 20", "steps: 3000");
    let Some(said) = on_a_terminal(&space, "run w.yaml --only base", &[]) else { return };
    assert!(said.contains(" of 3000 steps, ") && said.contains("/s, "), "{said:?}");
    assert!(said.contains(" left") && said.contains('━'), "{said:?}");
    let lines = Screen::of(&said, 100).lines();
    assert!(!lines.iter().any(|line| line.contains('━') || line.contains("steps,")), "{lines:#?}");
}

#[test]
fn an_interrupted_run_leaves_its_summary_and_every_finished_trial() {
    let space = Space::new();
    space.write("rows.jsonl", ROWS);
    let (new, pid) = (space.path("new"), space.path("pid"));
    let (new, pid) = (new.display(), pid.display());
    let work = format!("if [ ${{x}} = 2 ]; then echo $PPID > {new}; mv {new} {pid}; sleep 60; fi");
    space.write("w.yaml", &sweep(&work, "[1, 2, 4, 3]"));
    let first = space.run(&["run", "w.yaml", "--only", "judged[x=1]", "judged[x=3]"]);
    assert_eq!(first.code, 0, "{}", first.stderr);

    let Some(mut command) = terminal(&space, "run w.yaml --jobs 1", 100, &[]) else { return };
    let mut child = command.spawn().unwrap();
    let begin = Instant::now();
    while !space.path("pid").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "the command does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    // A bar is there by then.
    std::thread::sleep(Duration::from_millis(1200));
    let refrain = space.read("pid");
    let interrupt = ["-c", &format!("kill -INT {}", refrain.trim())];
    assert!(Command::new("sh").args(interrupt).status().unwrap().success());
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");

    let lines = Screen::of(&said, 100).lines();
    assert!(lines[0].starts_with("stopping; "), "{lines:#?}");
    assert!(lines.last().unwrap().contains(", interrupted, "), "{lines:#?}");
    // The heading, and a row for each finished trial.
    let rows: Vec<&str> = lines[1..lines.len() - 1].iter().map(|line| line.trim()).collect();
    let has = |x: &str| {
        rows.iter().any(|row| row.starts_with(x) && row.split_whitespace().nth(1) == Some("1"))
    };
    assert!(has("1") && has("3"), "{lines:#?}");
}
