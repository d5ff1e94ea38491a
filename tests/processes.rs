//! Several processes on one cache: every node is computed once, and one that dies or sleeps is not waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use refrain_cache::AppendLog;

use crate::space::{Space, names, set};

/// The longest that anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `refrain run`, in a folder of its own with the workflow, on the cache of all.
struct Process {
    folder: String,
    child: Child,
}

impl Process {
    fn start(
        space: &Space,
        folder: &str,
        workflow: &str,
        arguments: &[&str],
        rules: &[(&str, &str)],
    ) -> Process {
        space.write(&format!("{folder}/rows.jsonl"), ROWS);
        space.write(&format!("{folder}/w.yaml"), workflow);
        let mut command =
            space.command(&["run", "w.yaml", "--cache", "../cache", "--format", "json"]);
        command.args(arguments).envs(rules.iter().copied()).current_dir(space.path(folder));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Process { folder: folder.into(), child }
    }

    /// Waits until it says that it waits for another process.
    fn waits(&mut self) {
        let lines = BufReader::new(self.child.stderr.as_mut().unwrap()).lines();
        let waits = lines
            .map_while(Result::ok)
            .any(|line| line.contains("another process is computing it"));
        assert!(waits, "`{}` does not wait", self.folder);
    }

    fn signal(&self, signal: &str) {
        let mut kill = Command::new("sh");
        let kill =
            kill.args(["-c", &format!("kill {signal} {}", self.child.id())]).status().unwrap();
        assert!(kill.success(), "`{}` has ended", self.folder);
    }

    /// Its exit code, its report, and what it said of it.
    fn ends(self) -> (i32, Value, String) {
        let output = self.child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code().unwrap_or(-1), report, stderr)
    }

    fn succeeds(self) -> (Value, String) {
        let folder = self.folder.clone();
        let (code, report, stderr) = self.ends();
        assert_eq!(code, 0, "`{folder}`: {stderr}");
        (report, stderr)
    }
}

const ROWS: &str = "{\"prompt\": \"a\", \"response\": \"b c\", \"reference\": \"b c\"}\n{\"prompt\": \"d\", \"response\": \"e\", \"reference\": \"f\"}\n";

/// Waits until something is so.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "{what}: it takes too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The lines of a file outside the cache to which commands append.
fn side(space: &Space) -> Vec<String> {
    let text = std::fs::read_to_string(space.path("side")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn sweep(space: &Space, points: &str) -> String {
    let side = space.path("side").display().to_string();
    format!(
        "refrain: 1
data: {{ rows: {{ path: rows.jsonl }} }}
stages:
  unique: {{ diversify: {{ data: rows, dedupe: exact }} }}
  first: {{ run: {{ command: [sh, -c, 'echo first ${{x}} >> {side}; cp ${{in.t}} ${{out.t}}'], inputs: {{ t: unique }}, outputs: {{ t: table }} }} }}
  second: {{ run: {{ command: [sh, -c, 'echo second ${{x}} >> {side}; cp ${{in.t}} ${{out.t}}; echo ${{x}} > ${{out.f}}'], inputs: {{ t: first }}, outputs: {{ t: table, f: file }} }} }}
  judged: {{ evaluate: {{ data: second.t, task: exact_match, bootstrap: '${{x}}' }} }}
sweep: {{ x: [{points}] }}
"
    )
}

/// A round: some processes started together, of which every second one may have a smaller sweep.
fn round(count: usize, overlapping: bool, rules: &[(&str, &str)]) {
    let space = Space::new();
    let points =
        |process: usize| if overlapping && process % 2 == 1 { "20, 30" } else { "10, 20, 30, 40" };
    let processes: Vec<Process> = (0..count)
        .map(|i| {
            Process::start(&space, &format!("p{i}"), &sweep(&space, points(i)), &["--quiet"], rules)
        })
        .collect();
    let reports: Vec<(Value, String)> = processes.into_iter().map(Process::succeeds).collect();

    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    for (report, _) in &reports {
        assert_eq!(report["computed_twice"], 0);
        names(report, "ran").into_iter().for_each(|name| *ran.entry(name).or_default() += 1);
    }
    assert!(ran.len() == 14 && ran.values().all(|times| *times == 1), "{count} processes: {ran:?}");
    let (lines, distinct) = (side(&space), side(&space).into_iter().collect::<BTreeSet<_>>());
    assert_eq!((lines.len(), distinct.len()), (8, 8), "{lines:?}");
    let locks: BTreeSet<String> = (0..count)
        .filter(|i| points(*i) == points(0))
        .map(|i| space.read(&format!("p{i}/w.lock")))
        .collect();
    assert_eq!(locks.len(), 1, "the locks differ");
    for log in ["records", "files", "claims"] {
        let (_, torn) = AppendLog::read(&space.path(&format!("cache/records/{log}.log"))).unwrap();
        assert_eq!(torn, 0, "{log}.log");
    }
    assert_eq!(
        std::fs::read_dir(space.path("cache/tmp")).unwrap().count(),
        0,
        "every session is removed"
    );
}

#[test]
fn two_to_eight_processes_compute_every_node_once() {
    for i in 0..40 {
        round(2 + i % 7, i % 2 == 1, &[]);
    }
}

#[test]
fn without_file_locks_every_node_is_computed_once_too() {
    for i in 0..10 {
        round(2 + i % 7, false, &[("REFRAIN_TEST_NO_LOCKS", "1")]);
    }
}

/// A workflow whose first stage says that it began, waits until `go` is there, and makes something else each time.
fn long(space: &Space) -> String {
    let (side, go) =
        (space.path("side").display().to_string(), space.path("go").display().to_string());
    format!(
        "refrain: 1
data: {{ rows: {{ path: rows.jsonl }} }}
stages:
  long: {{ run: {{ command: [sh, -c, 'echo $$ >> {side}; while [ ! -e {go} ]; do sleep 0.02; done; echo $$ > ${{out.f}}'], inputs: {{ t: rows }}, outputs: {{ f: file }} }} }}
  after: {{ run: {{ command: [cp, '${{in.f}}', '${{out.f}}'], inputs: {{ f: long.f }}, outputs: {{ f: file }} }} }}
  other: {{ run: {{ command: [sh, -c, 'echo other >> {side}; echo > ${{out.f}}'], inputs: {{ t: rows }}, outputs: {{ f: file }} }} }}
"
    )
}

/// A process whose command is at work, and another one that waits for it.
fn one_waits(space: &Space, more: &[&str], rules: &[(&str, &str)]) -> (Process, Process) {
    let first = Process::start(space, "first", &long(space), &["--only", "long"], rules);
    until("the command begins", || side(space).len() == 1);
    let mut second =
        Process::start(space, "second", &long(space), &[&["--jobs", "1"], more].concat(), rules);
    second.waits();
    assert_eq!(side(space)[1..], ["other"], "a waiting process does what it can, in its only slot");
    (first, second)
}

/// Kills a process and, since it cannot do so itself any more, its command.
fn kill(space: &Space, mut process: Process) {
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    let kill = Command::new("sh").args(["-c", &format!("kill -KILL {}", side(space)[0])]).status();
    assert!(kill.unwrap().success());
}

fn taken_over(rules: &[(&str, &str)]) {
    let space = Space::new();
    let (first, second) = one_waits(&space, &[], rules);
    kill(&space, first);
    until("the other process takes over", || side(&space).len() == 3);
    space.write("go", "");
    let (report, _) = second.succeeds();
    assert!(names(&report, "ran").contains("long") && report["computed_twice"] == 0, "{report}");
}

/// With a lease that no test waits for.
#[test]
fn a_killed_process_is_taken_over_at_once_where_there_are_locks() {
    taken_over(&[("REFRAIN_TEST_LEASE_MS", "600000")]);
}

/// That the second process waits for a second shows that the first one's lease is renewed.
#[test]
fn a_killed_process_is_taken_over_after_its_lease_where_there_are_no_locks() {
    taken_over(&[("REFRAIN_TEST_LEASE_MS", "800"), ("REFRAIN_TEST_NO_LOCKS", "1")]);
}

#[test]
fn a_process_that_slept_past_its_lease_adopts_what_was_made_meanwhile() {
    let space = Space::new();
    let (first, second) = one_waits(&space, &[], &[("REFRAIN_TEST_LEASE_MS", "1500")]);
    first.signal("-STOP");
    until("the other process takes over", || side(&space).len() == 3);
    space.write("go", "");
    second.succeeds();
    first.signal("-CONT");
    let (report, stderr) = first.succeeds();
    assert_eq!(report["computed_twice"], 1);
    assert!(stderr.contains("`long` is not reproducible"), "{stderr}");
    let line = |folder: &str| {
        let lock = space.read(&format!("{folder}/w.lock"));
        lock.lines().find(|line| line.contains("\"long\"")).map(str::to_owned)
    };
    assert!(line("first").is_some());
    assert_eq!(line("first"), line("second"), "both hold what was recorded first");
}

#[test]
fn the_lock_keeps_what_another_process_wrote_meanwhile() {
    let space = Space::new();
    let start = |only: &str| Process::start(&space, "both", &long(&space), &["--only", only], &[]);
    let first = start("long");
    until("the command begins", || side(&space).len() == 1);
    start("other").succeeds();
    space.write("go", "");
    first.succeeds();
    let lock = space.read("both/w.lock");
    assert!(lock.contains("\"long\"") && lock.contains("\"other\""), "{lock}");
}

#[test]
fn a_waiting_process_can_be_interrupted() {
    let space = Space::new();
    let (first, second) = one_waits(&space, &[], &[]);
    second.signal("-INT");
    let (code, report, stderr) = second.ends();
    assert_eq!(code, 130, "{stderr}");
    assert!(names(&report, "not_run").contains("long"));
    space.write("go", "");
    first.succeeds();
}

#[test]
fn what_is_forced_is_computed_after_the_process_that_computes_it() {
    let space = Space::new();
    let (first, second) = one_waits(&space, &["--force", "long"], &[]);
    space.write("go", "");
    first.succeeds();
    let (report, _) = second.succeeds();
    assert!(names(&report, "ran").contains("long"));
    assert_eq!(side(&space).len(), 3);
}

#[test]
fn a_failed_node_is_tried_by_the_process_that_waited_for_it() {
    let space = Space::new();
    let (first, second) = one_waits(&space, &[], &[]);
    let kill = Command::new("sh").args(["-c", &format!("kill -KILL {}", side(&space)[0])]).status();
    assert!(kill.unwrap().success());
    assert_eq!(first.ends().0, 1);
    space.write("go", "");
    let (report, _) = second.succeeds();
    assert!(names(&report, "ran").contains("long"));
}

#[test]
fn two_nodes_of_one_key_are_computed_once() {
    let space = Space::new();
    let stage = format!(
        "{{ run: {{ command: [sh, -c, 'echo once >> {}; echo > ${{out.f}}'], outputs: {{ f: file }} }} }}",
        space.path("side").display()
    );
    space.write("w.yaml", &format!("refrain: 1\nstages:\n  one: {stage}\n  two: {stage}\n"));
    let report = space.report("w.yaml", &["--jobs", "2"]);
    assert_eq!((names(&report, "ran"), names(&report, "cached")), (set(&["one"]), set(&["two"])));
    assert_eq!(side(&space), ["once"]);
}

#[test]
fn claims_cost_nothing_where_nothing_runs_and_keep_nobody_from_running() {
    let space = Space::new();
    space.write("rows.jsonl", ROWS);
    space.write("w.yaml", &sweep(&space, "10"));
    let log = space.path(".refrain/records/claims.log");
    space.report("w.yaml", &[]);
    std::fs::remove_file(&log).unwrap();
    assert_eq!(names(&space.report("w.yaml", &[]), "ran"), set(&[]));
    assert!(!log.exists());
    // A log that cannot be written.
    std::fs::create_dir(&log).unwrap();
    space.write("w.yaml", &sweep(&space, "20"));
    assert_eq!(names(&space.report("w.yaml", &[]), "ran").len(), 3);
}
