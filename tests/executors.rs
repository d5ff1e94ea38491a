//! Executors: whatever computes the nodes, and whatever dies meanwhile, the results are those of a
//! run on this machine, and nothing that was recorded is computed again.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::secrets::{clean, clean_folder};
use crate::space::{Space, names, set, small};

mod slurm;

/// The longest that anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// An executor under test.
struct Site {
    /// The entry of the configuration.
    config: &'static str,
    /// Variables that its commands need.
    variables: Vec<(&'static str, String)>,
}

/// Programs on this machine.
fn programs() -> Site {
    Site { config: "kind = \"ssh\"\npoll = \"100ms\"\nsilence = \"3s\"\n", variables: Vec::new() }
}

impl Site {
    /// Writes the configuration, with more lines for the executor.
    fn configure(&self, space: &Space, more: &str) {
        space.write("refrain.toml", &format!("[executors.site]\n{}{more}", self.config));
    }

    fn command(&self, space: &Space, arguments: &[&str]) -> Command {
        let mut command = space.command(&["--config", "refrain.toml"]);
        command.args(arguments).args(["--executor", "site"]);
        command.env("REFRAIN_TEST_LEASE_MS", "1500");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a run in the background.
    fn start(&self, space: &Space, more: &[&str]) -> Child {
        let mut command = self.command(space, &["run", "w.yaml", "--quiet", "--format", "json"]);
        command.args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs to the end; the exit code, the report, and what was said.
    fn run(&self, space: &Space, more: &[&str]) -> (i32, Value, String) {
        ends(self.start(space, more))
    }
}

fn ends(child: Child) -> (i32, Value, String) {
    ends_while(child, || {})
}

/// Waits for the end of a run, and does something every second meanwhile.
fn ends_while(child: Child, mut meanwhile: impl FnMut()) -> (i32, Value, String) {
    let process = child.id();
    let waiting = std::thread::spawn(|| child.wait_with_output().unwrap());
    let begin = Instant::now();
    while !waiting.is_finished() {
        if begin.elapsed() > 2 * PATIENCE {
            signal(process, "KILL");
            panic!("the run does not end");
        }
        std::thread::sleep(Duration::from_millis(100));
        if begin.elapsed().subsec_millis() < 100 {
            meanwhile();
        }
    }
    let output = waiting.join().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap_or(-1), report, stderr)
}

/// Waits until something is so.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "{what}: it takes too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(process: u32, signal: &str) {
    let text = format!("kill -{signal} {process}");
    let _gone = Command::new("sh").args(["-c", &text]).stderr(Stdio::null()).status().unwrap();
}

/// The lines of a file that commands append to; none where it is not there.
fn lines(space: &Space, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(space.path(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn outputs(report: &Value) -> BTreeMap<String, Value> {
    let nodes = report["nodes"].as_array().unwrap().iter();
    nodes.map(|node| (node["node"].as_str().unwrap().into(), node["outputs"].clone())).collect()
}

/// `count` commands that say that they began, wait until `go` is there, and make a file; after each
/// another one.
fn waiting(space: &Space, count: usize) {
    let points: Vec<String> = (0..count).map(|point| point.to_string()).collect();
    let (side, go) = (space.path("side"), space.path("go"));
    let text = format!(
        "refrain: 1
sweep: {{ i: [{}] }}
stages:
  long: {{ run: {{ command: [sh, -c, 'echo long ${{i}} $$ >> {side}; while [ ! -e {go} ]; do sleep 0.05; done; echo ${{i}} > ${{out.f}}'], outputs: {{ f: file }} }} }}
  after: {{ run: {{ command: [sh, -c, 'echo after ${{i}} $$ >> {side}; cp ${{in.f}} ${{out.f}}'], inputs: {{ f: long.f }}, outputs: {{ f: file }} }} }}
",
        points.join(", "),
        side = side.display(),
        go = go.display(),
    );
    space.write("w.yaml", &text);
}

/// The number of times that each command began.
fn begun(space: &Space) -> BTreeMap<String, usize> {
    let mut begun = BTreeMap::new();
    for line in lines(space, "side") {
        let name = line.rsplit_once(' ').unwrap().0.to_owned();
        *begun.entry(name).or_insert(0) += 1;
    }
    begun
}

/// All kinds that a small workflow has, models among them, and a sweep of commands.
fn results_are_those_of_a_local_run(site: &Site) {
    let (here, there) = (Space::new(), Space::new());
    for space in [&here, &there] {
        small(space);
        site.configure(space, "");
    }
    let local = here.digests("w.yaml", &[]);
    let (code, report, said) = site.run(&there, &[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(outputs(&report), local);
    assert_eq!(there.read("w.lock"), here.read("w.lock"));
    // Nothing is left of the jobs, and a run here has nothing to do.
    for folder in ["jobs", "deliveries"] {
        let left = std::fs::read_dir(there.path(".refrain").join(folder)).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert!(there.ran("w.yaml", &[]).is_empty());
    there.accepts(&["verify", "w.yaml", "--complete"]);
}

fn a_failure_says_what_it_would_say_here(site: &Site) {
    let space = Space::new();
    site.configure(&space, "");
    space.write(
        "w.yaml",
        "refrain: 1
sweep: { i: [0, 1, 2] }
stages:
  a: { run: { command: [sh, -c, 'echo no luck >&2; test ${i} != 1 && echo ${i} > ${out.f}'], outputs: { f: file } }, retry: { times: 1, wait: 1ms } }
  b: { run: { command: [cp, '${in.f}', '${out.f}'], inputs: { f: a.f }, outputs: { f: file } } }
",
    );
    let (code, report, said) = site.run(&space, &["--keep-going"]);
    assert_eq!(code, 1, "{said}");
    assert_eq!(names(&report, "failed"), set(&["a[i=1]"]));
    assert_eq!(names(&report, "skipped"), set(&["b[i=1]"]));
    assert_eq!(names(&report, "ran"), set(&["a[i=0]", "a[i=2]", "b[i=0]", "b[i=2]"]));
    let here = space.run(&["run", "w.yaml", "--keep-going", "--quiet"]);
    let message = here.stderr.lines().find(|line| line.starts_with("error")).unwrap();
    assert!(said.contains(message), "{said}\n{message}");
}

/// The run is killed while its jobs work; the next one finds them.
fn a_run_that_dies_is_taken_up(site: &Site) {
    let space = Space::new();
    site.configure(&space, "");
    waiting(&space, 4);
    let mut first = site.start(&space, &[]);
    until("all commands begin", || begun(&space).len() == 4);
    first.kill().unwrap();
    first.wait().unwrap();

    let second = site.start(&space, &[]);
    std::thread::sleep(Duration::from_millis(2500));
    space.write("go", "");
    let (code, report, said) = ends(second);
    assert_eq!(code, 0, "{said}");
    assert_eq!(names(&report, "ran").len() + names(&report, "cached").len(), 8);
    let begun = begun(&space);
    assert_eq!(begun.len(), 8);
    assert!(begun.values().all(|times| *times == 1), "{begun:?}");
}

/// The run is killed, its jobs end, and a run here uses what they delivered.
fn what_a_dead_run_s_jobs_delivered_is_used(site: &Site) {
    let space = Space::new();
    site.configure(&space, "");
    waiting(&space, 3);
    let mut first = site.start(&space, &[]);
    until("all commands begin", || begun(&space).len() == 3);
    first.kill().unwrap();
    first.wait().unwrap();
    space.write("go", "");
    until("the jobs end", || {
        let jobs = std::fs::read_dir(space.path(".refrain/jobs")).unwrap();
        jobs.flatten().all(|job| job.path().join("report.json").exists())
    });
    assert!(space.ran("w.yaml", &[]).is_empty());
    assert_eq!(begun(&space).len(), 6);
}

/// The program of a job is killed without a word.
fn a_job_that_dies_is_made_again(site: &Site) {
    let space = Space::new();
    site.configure(&space, "");
    waiting(&space, 2);
    let run = site.start(&space, &[]);
    until("both commands begin", || begun(&space).len() == 2);
    let jobs: Vec<u32> = sessions(&space);
    assert_eq!(jobs.len(), 2);
    signal(jobs[0], "KILL");
    until("it is made again", || lines(&space, "side").len() == 3);
    // Its command lives on until then; what it makes goes nowhere.
    space.write("go", "");
    let (code, report, said) = ends(run);
    assert_eq!(code, 0, "{said}");
    assert_eq!(names(&report, "ran").len(), 4);
}

/// The processes that compute jobs of a space.
fn sessions(space: &Space) -> Vec<u32> {
    let jobs = space.path(".refrain/jobs").display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(process) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        let program = words.split('\0').next().unwrap_or_default();
        if words.contains(&jobs) && program.ends_with("refrain") {
            found.push(process);
        }
    }
    found
}

fn an_interrupted_run_ends_its_jobs(site: &Site) {
    let space = Space::new();
    site.configure(&space, "");
    waiting(&space, 3);
    let run = site.start(&space, &[]);
    until("all commands begin", || begun(&space).len() == 3);
    signal(run.id(), "INT");
    let (code, _, said) = ends(run);
    assert_eq!(code, 130, "{said}");
    until("the jobs end", || sessions(&space).is_empty());
}

/// While the run is stopped, its jobs deliver; no file that others append to changes.
fn a_job_appends_to_no_shared_log(site: &Site) {
    let space = Space::new();
    site.configure(&space, "");
    waiting(&space, 3);
    let run = site.start(&space, &[]);
    until("all commands begin", || begun(&space).len() == 3);
    signal(run.id(), "STOP");
    let shared = || -> Vec<Vec<u8>> {
        let names = ["records.log", "files.log", "claims.log"];
        let read = |name| std::fs::read(space.path(".refrain/records").join(name));
        names.map(|name| read(name).unwrap_or_default()).into()
    };
    let before = shared();
    space.write("go", "");
    until("the jobs deliver", || {
        let deliveries = std::fs::read_dir(space.path(".refrain/deliveries")).unwrap();
        deliveries.count() >= 3 && sessions(&space).is_empty()
    });
    assert_eq!(shared(), before);
    signal(run.id(), "CONT");
    let (code, report, said) = ends(run);
    assert_eq!(code, 0, "{said}");
    assert_eq!(names(&report, "ran").len(), 6);
}

/// Two runs of one workflow at one cache: each node is computed once.
fn two_runs_share_their_jobs(site: &Site) {
    let space = Space::new();
    site.configure(&space, "");
    waiting(&space, 3);
    let first = site.start(&space, &[]);
    until("all commands begin", || begun(&space).len() == 3);
    let second = site.start(&space, &[]);
    std::thread::sleep(Duration::from_millis(800));
    space.write("go", "");
    for run in [first, second] {
        let (code, _, said) = ends(run);
        assert_eq!(code, 0, "{said}");
    }
    let begun = begun(&space);
    assert!(begun.len() == 6 && begun.values().all(|times| *times == 1), "{begun:?}");
}

/// A value of `${env:NAME}` reaches the command by its own file, and nothing that is written.
fn a_secret_stays_in_its_file(site: &Site, seen: &[&Path]) {
    let space = Space::new();
    let secrets = Space::new();
    secrets.write("secrets", "# of a test\nTOKEN=hunter2-hunter2\n");
    let path = secrets.path("secrets").display().to_string();
    let more = format!("environment_file = \"{path}\"\n");
    site.configure(&space, &more);
    space.write(
        "w.yaml",
        "refrain: 1
stages:
  a: { run: { command: [sh, -c, 'printf %s \"$KEY\" | wc -c > ${out.f}; env'], environment: { KEY: '${env:TOKEN}' }, outputs: { f: file } } }
",
    );
    let set_mode = |mode: &str| {
        assert!(Command::new("chmod").args([mode, &path]).status().unwrap().success());
    };
    set_mode("640");
    let (code, _, said) = site.run(&space, &[]);
    assert_eq!(code, 4, "others may read it: {said}");
    assert!(said.contains("holds secrets, and others may read it"), "{said}");
    set_mode("600");
    let (code, report, said) = site.run(&space, &[]);
    assert_eq!(code, 0, "{said}");
    clean("what is said", said.as_bytes());
    let digest = outputs(&report)["a"]["f"]["digest"].as_str().unwrap_or_default().to_owned();
    let object = space.path(".refrain/objects").join(&digest[..2]).join(&digest[2..]);
    assert_eq!(std::fs::read_to_string(object).unwrap().trim(), "15", "it reached the command");
    clean_folder(&space.path("."));
    seen.iter().for_each(|folder| clean_folder(folder));
}

#[test]
fn programs_results_are_those_of_a_local_run() {
    results_are_those_of_a_local_run(&programs());
}

#[test]
fn programs_a_failure_says_what_it_would_say_here() {
    a_failure_says_what_it_would_say_here(&programs());
}

#[test]
fn programs_a_run_that_dies_is_taken_up() {
    a_run_that_dies_is_taken_up(&programs());
}

#[test]
fn programs_what_a_dead_run_s_jobs_delivered_is_used() {
    what_a_dead_run_s_jobs_delivered_is_used(&programs());
}

#[test]
fn programs_a_job_that_dies_is_made_again() {
    a_job_that_dies_is_made_again(&programs());
}

#[test]
fn programs_an_interrupted_run_ends_its_jobs() {
    an_interrupted_run_ends_its_jobs(&programs());
}

#[test]
fn programs_a_job_appends_to_no_shared_log() {
    a_job_appends_to_no_shared_log(&programs());
}

#[test]
fn programs_two_runs_share_their_jobs() {
    two_runs_share_their_jobs(&programs());
}

#[test]
fn programs_a_secret_stays_in_its_file() {
    a_secret_stays_in_its_file(&programs(), &[]);
}

/// Remarks and progress of a stage reach the run, whichever process computes it.
#[test]
fn remarks_and_steps_of_a_job_are_those_of_the_run() {
    let site = programs();
    let space = Space::new();
    site.configure(&space, "");
    small(&space);
    let mut command = site.command(&space, &["run", "w.yaml", "--log", "debug"]);
    let output = command.args(["--log-format", "json"]).output().unwrap();
    let lines = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{lines}");
    let events: Vec<Value> =
        lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |event: &str| -> Vec<&Value> {
        events.iter().filter(|line| line["event"] == event).collect()
    };
    assert!(of("step").len() > 1, "{lines}");
    let is_trained = |line: &&Value| {
        let node = line["node"].as_str().unwrap();
        node == "base" || node.starts_with("tuned[")
    };
    assert!(of("step").iter().all(is_trained), "{lines}");
    assert!(!of("progress").is_empty() && !of("note").is_empty(), "{lines}");
}

/// A run whose jobs are refused says so once, and not for each of them.
#[test]
fn a_refusal_is_told_once() {
    let space = Space::new();
    space.write("refrain.toml", "[executors.site]\nkind = \"slurm\"\n");
    waiting(&space, 20);
    let arguments = ["--config", "refrain.toml", "run", "w.yaml", "--executor", "site"];
    let mut command = space.command(&arguments);
    let output = command.env("PATH", "/nonexistent").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert_eq!(said.matches("cannot start `sbatch`").count(), 1, "{said}");
    assert!(said.contains("run this where Slurm's commands are in PATH"), "{said}");
}
