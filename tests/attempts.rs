//! Retries, time limits and memory of commands, and what is said of settings that are wrong.

use crate::space::{Space, set};

/// A workflow with one command and settings beside it.
fn command(space: &Space, script: &str, settings: &str) {
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\nstages:\n  s:\n    run:\n      command: [sh, -c, {script:?}]\n      outputs: {{ o: file }}\n{settings}"
        ),
    );
}

#[test]
fn a_command_is_tried_again_and_the_settings_stay_out_of_the_key() {
    let space = Space::new();
    let tries = space.path("tries").display().to_string();
    let script = format!(
        "echo x >> {tries}; [ $(wc -l < {tries}) = 3 ] || {{ echo busy; exit 7; }}; echo y > $${{out.o}}"
    );
    let script = script.replace("$${", "${");
    command(&space, &script, "    retry: { times: 3, wait: 5ms }\n    timeout: 10m\n");
    let said = space.run(&["run", "w.yaml"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(space.read("tries"), "x\nx\nx\n");
    let note =
        "note: `s`: attempt 1 of 4 failed; the next begins in 5ms: `sh` ended with exit status 7";
    assert!(
        said.stderr.contains(note) && said.stderr.contains("attempt 2 of 4"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("busy") && !said.stderr.contains("attempt 3"), "{}", said.stderr);
    command(&space, &script, "    resources: { memory: 4GB, gpus: 1, threads: 1 }\n");
    assert_eq!(space.ran("w.yaml", &[]), set(&[]), "no setting is in the key");
}

#[test]
fn a_command_that_takes_too_long_is_stopped_with_what_it_started() {
    let space = Space::new();
    let late = space.path("late").display().to_string();
    let script = format!("(sleep 3; echo late > {late}) & echo at work; sleep 600");
    command(&space, &script, "    timeout: 300ms\n");
    let said = space.run(&["run", "w.yaml"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    for words in [
        "stage `s` failed: it was stopped after its `timeout` of 300ms: `sh` was ended by signal 15",
        "at work",
        "help: raise `timeout`, or reduce the work",
    ] {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(!space.path("late").exists(), "what it started still works");
}

#[test]
fn a_command_is_held_to_its_memory() {
    let space = Space::new();
    let script = "x=$(head -c 130000000 /dev/zero | tr '\\0' x); echo ok > ${out.o}";
    command(&space, script, "    resources: { memory: 64MB }\n");
    let said = space.run(&["run", "w.yaml"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(said.stderr.contains("held to the declared `memory` of 0.064 GB"), "{}", said.stderr);
    command(&space, script, "    resources: { memory: 2GB }\n");
    assert_eq!(
        space.ran("w.yaml", &["--memory", "1GB"]),
        set(&["s"]),
        "more than there is, so it runs alone"
    );
}

#[test]
fn settings_that_are_wrong() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    let stage = |settings: &str| {
        format!(
            "refrain: 1\ndata: {{ rows: {{ path: rows.jsonl }} }}\nstages:\n  s:\n    diversify: {{ data: rows, dedupe: exact }}\n{settings}"
        )
    };
    let mut said = Vec::new();
    for settings in [
        "    retry: 3\n",
        "    timeout: 90\n",
        "    timeout: 1.5h\n",
        "    timeout: 3 weeks\n",
        "    timeout: [1h]\n",
        "    resources: { memory: 4 }\n",
        "    resources: { memory: 4gb, gpus: 0 }\n",
    ] {
        space.write("w.yaml", &stage(settings));
        said.push(space.fails(&["check", "w.yaml"]));
    }
    for retry in ["0", "soon", "{ wait: 1s }", "{ times: 2, wait: 2 }", "{ times: 2, factor: 0.5 }"]
    {
        command(&space, "true", &format!("    retry: {retry}\n"));
        said.push(space.fails(&["check", "w.yaml"]));
    }
    said.push(space.fails(&["run", "w.yaml", "--memory", "8"]));
    insta::assert_snapshot!("settings", said.join("\n----\n"));
}
