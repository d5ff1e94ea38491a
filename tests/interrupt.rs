//! Ctrl-C: what runs stops at once, what is finished is kept.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::space::{Space, set};

/// A run whose command is at work, and that command's process id.
struct Working {
    refrain: Child,
    command: String,
}

impl Drop for Working {
    /// What a failed test leaves behind.
    fn drop(&mut self) {
        let _ended = self.refrain.kill();
        let _reaped = self.refrain.wait();
        signal("-KILL", &self.command);
    }
}

impl Working {
    fn start(space: &Space) -> Working {
        space.write("rows.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
        let pid = space.path("pid");
        // The command first tells its number, then works for longer than any test waits.
        let script = format!(
            "echo $$ > {0}.new; mv {0}.new {0}; sleep 60; cp in/t.parquet out/t.parquet",
            pid.display()
        );
        space.write(
            "w.yaml",
            &format!(
                "refrain: 1\ndata: {{ rows: {{ path: rows.jsonl }} }}\nstages:\n  first: {{ diversify: {{ data: rows, dedupe: exact }} }}\n  long: {{ run: {{ command: [sh, -c, '{script}'], inputs: {{ t: first }}, outputs: {{ t: table }} }} }}\n"
            ),
        );
        let mut command = space.command(&["run", "w.yaml"]);
        let refrain = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begin = Instant::now();
        while !pid.exists() {
            assert!(begin.elapsed() < Duration::from_secs(60), "the command does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Working { refrain, command: space.read("pid").trim().to_string() }
    }

    fn interrupt(&self) {
        signal("-INT", &self.refrain.id().to_string());
    }

    /// Waits for the end: exit code 130 soon, and the command gone.
    fn ends(mut self) {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.refrain.try_wait().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < Duration::from_secs(5), "it does not stop");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(130));
        assert!(!signal("-0", &self.command), "the command {} is still at work", self.command);
    }
}

/// Sends a signal; whether the process was there to receive it.
fn signal(signal: &str, process: &str) -> bool {
    let mut kill = std::process::Command::new("sh");
    kill.args(["-c", &format!("kill {signal} {process}")])
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

#[test]
fn an_interrupted_run_stops_its_command_and_keeps_what_is_finished() {
    let space = Space::new();
    let working = Working::start(&space);
    working.interrupt();
    working.ends();
    let report = space.report("w.yaml", &["--only", "first"]);
    assert_eq!(crate::space::names(&report, "cached"), set(&["rows", "first"]));
    assert!(space.read("w.lock").contains("\"first\""), "the lock names what was finished");
}

#[test]
fn a_second_interruption_ends_the_run_too() {
    let space = Space::new();
    let working = Working::start(&space);
    working.interrupt();
    working.interrupt();
    working.interrupt();
    working.ends();
    assert_eq!(space.ran("w.yaml", &["--only", "first"]), set(&[]));
}
