//! The commands that look after the cache, and the logs of runs that they go by.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::space::{Said, Space, set};

const WORKFLOW: &str = "refrain: 1
params: { word: red }
stages:
  first: { run: { command: [sh, -c, 'echo ${word} > ${out.text}'], outputs: { text: file } } }
  second:
    run:
      command: [sh, -c, 'cat ${in.text} ${in.text} > ${out.text}']
      inputs: { text: first }
      outputs: { text: file }
";

fn space() -> Space {
    let space = Space::new();
    space.write("w.yaml", WORKFLOW);
    space
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}{}", said.stdout, said.stderr))
}

fn gc(space: &Space, more: &[&str]) -> Value {
    let said = space.run(&[&["cache", "gc", "w.yaml", "--format", "json"], more].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    json(&said)
}

/// How many things of a kind a report names.
fn removed(report: &Value, what: &str) -> usize {
    report["removals"].as_array().unwrap().iter().filter(|removal| removal["what"] == what).count()
}

fn logs(space: &Space) -> Vec<PathBuf> {
    let mut logs: Vec<PathBuf> = fs::read_dir(space.path(".refrain/runs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    logs.sort();
    logs
}

/// The events of a log.
fn events(log: &Path) -> Vec<Value> {
    fs::read_to_string(log)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn what_a_lock_or_a_logged_run_names_survives_a_collection() {
    let space = space();
    space.ran("w.yaml", &[]);
    space.edit("w.yaml", "word: red", "word: blue");
    space.ran("w.yaml", &[]);
    assert_eq!(removed(&gc(&space, &[]), "artifact"), 0, "two runs used all that there is");
    let dry = gc(&space, &["--older-than", "1ms", "--dry-run"]);
    assert_eq!((removed(&dry, "artifact"), removed(&dry, "record")), (2, 2));
    space.edit("w.yaml", "word: blue", "word: red");
    assert_eq!(space.ran("w.yaml", &[]), set(&[]), "a dry run removes nothing");
    let report = gc(&space, &["--older-than", "1ms"]);
    assert_eq!((removed(&report, "artifact"), removed(&report, "record")), (2, 2));
    assert_eq!(space.ran("w.yaml", &[]), set(&[]), "the lock names these");
    space.edit("w.yaml", "word: red", "word: blue");
    assert_eq!(space.ran("w.yaml", &[]), set(&["first", "second"]));
    assert_eq!(space.run(&["cache", "verify", "w.yaml"]).code, 0);
}

#[test]
fn the_locks_of_all_workflows_that_share_a_cache_are_kept() {
    let space = Space::new();
    for (name, word) in [("a", "red"), ("b", "blue")] {
        space.write(&format!("{name}/w.yaml"), &WORKFLOW.replace("red", word));
        space.ran(&format!("{name}/w.yaml"), &["--cache", "shared"]);
    }
    let said = space.run(&[
        "cache",
        "gc",
        "a/w.yaml",
        "--cache",
        "shared",
        "--older-than",
        "1ms",
        "--format",
        "json",
    ]);
    let report = json(&said);
    assert_eq!((removed(&report, "artifact"), report["locks"].as_array().unwrap().len()), (0, 2));
    assert_eq!(space.ran("b/w.yaml", &["--cache", "shared"]), set(&[]));
    // The other's lock goes: so do its results, now that its run is old enough.
    fs::remove_file(space.path("b/w.lock")).unwrap();
    let report = json(&space.run(&[
        "cache",
        "gc",
        "--cache",
        "shared",
        "--max-size",
        "1B",
        "--format",
        "json",
    ]));
    assert_eq!((removed(&report, "artifact"), removed(&report, "record")), (2, 2));
    assert_eq!(space.ran("a/w.yaml", &["--cache", "shared"]), set(&[]));
    assert_eq!(space.ran("b/w.yaml", &["--cache", "shared"]), set(&["first", "second"]));
}

#[test]
fn the_results_of_a_moved_project_stay() {
    let space = Space::new();
    space.write("old/flows/w.yaml", WORKFLOW);
    space.ran("old/flows/w.yaml", &["--cache", "old/cache"]);
    let gc = |cache: &str, more: &[&str]| {
        let limits = ["cache", "gc", "--cache", cache, "--max-size", "1B", "--format", "json"];
        json(&space.run(&[&limits, more].concat()))
    };
    // Moved without its cache: where to is not known, so that its results stay.
    fs::rename(space.path("old/flows"), space.path("flows")).unwrap();
    let report = gc("old/cache", &[]);
    assert_eq!((removed(&report, "artifact"), report["gone"].as_array().unwrap().len()), (0, 1));
    // Moved together with it.
    fs::rename(space.path("flows"), space.path("old/flows")).unwrap();
    fs::rename(space.path("old"), space.path("new")).unwrap();
    let report = gc("new/cache", &[]);
    assert_eq!((removed(&report, "artifact"), report["locks"].as_array().unwrap().len()), (0, 1));
    assert_eq!(space.ran("new/flows/w.yaml", &["--cache", "new/cache"]), set(&[]));
    // Gone for good.
    fs::remove_dir_all(space.path("new/flows")).unwrap();
    assert_eq!(removed(&gc("new/cache", &[]), "artifact"), 0);
    let gone = ["--forget", "new/flows/w.yaml", "--forget", "old/flows/w.yaml"];
    assert_eq!(removed(&gc("new/cache", &gone), "artifact"), 2);
}

/// What `--force` replaced does not come back when a damaged log is rewritten.
#[test]
fn a_replaced_record_stays_replaced_when_the_log_is_repaired() {
    let space = Space::new();
    space.write(
        "w.yaml",
        "refrain: 1\nstages:\n  t: { run: { command: [sh, -c, 'cat /proc/sys/kernel/random/uuid > ${out.x}'], outputs: { x: file } } }\n  u: { run: { command: [sh, -c, 'echo u > ${out.x}'], outputs: { x: file } } }\n",
    );
    space.ran("w.yaml", &[]);
    let first = space.read("w.lock");
    space.ran("w.yaml", &["--force", "t"]);
    let second = space.read("w.lock");
    assert_ne!(first, second);

    let log = space.path(".refrain/records/records.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes.extend(b"cut off");
    fs::write(&log, bytes).unwrap();
    assert_eq!(space.run(&["cache", "verify", "w.yaml"]).code, 3);
    fs::remove_dir_all(space.path(".refrain/plans")).unwrap();
    assert_eq!(space.ran("w.yaml", &[]), set(&[]));
    assert_eq!(space.read("w.lock"), second);
}

#[test]
fn a_cache_of_which_nothing_is_known_is_left_alone() {
    let space = space();
    space.ran("w.yaml", &["--set", "word=green", "--cache", "shared"]);
    fs::remove_dir_all(space.path("shared/runs")).unwrap();
    let said = space.fails(&["cache", "gc", "--cache", "shared"]);
    assert!(
        said.starts_with(
            "exit code 2\nerror: refusing to empty this cache: no lock or run log says what to keep"
        ),
        "{said}"
    );
    let said = space.fails(&["cache", "stat", "--cache", "nowhere"]);
    assert!(said.contains("there is no cache in `FOLDER/nowhere`"), "{said}");
    let said = space.fails(&["cache", "gc", "v.yaml"]);
    assert!(said.contains("there is no workflow `v.yaml`"), "{said}");
    space.write("w.lock", "<<<<<<< ours\n");
    let said = space.fails(&["cache", "gc", "w.yaml", "--cache", "shared"]);
    assert!(said.contains("it is the mark of a merge conflict"), "{said}");
    let said = space.fails(&["cache", "gc", "--older-than", "30", "--cache", "shared"]);
    assert!(said.contains("it has no unit"), "{said}");
}

#[test]
fn a_damaged_artifact_is_named_set_aside_and_made_again() {
    let space = space();
    let digests = space.digests("w.yaml", &[]);
    assert_eq!(space.run(&["cache", "verify", "w.yaml"]).code, 0);
    let digest = digests["first"]["main"]["digest"].as_str().unwrap();
    let object = format!("objects/{}/{}", &digest[..2], &digest[2..]);
    let path = space.path(".refrain").join(&object);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    // As many bytes, and the same time: only reading it shows the damage.
    let modified = path.metadata().unwrap().modified().unwrap();
    fs::write(&path, "rot\n").unwrap();
    fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
    let said = space.run(&["cache", "verify", "w.yaml"]);
    assert_eq!(said.code, 3);
    assert!(
        said.stdout.starts_with(&format!("damaged  `{object}` has the digest ")),
        "{}",
        said.stdout
    );
    assert!(
        said.stdout.contains(&format!("set aside as `tmp/corrupt/{digest}-1`")),
        "{}",
        said.stdout
    );
    let again = space.run(&["cache", "verify", "w.yaml"]);
    assert_eq!(again.code, 0);
    assert!(again.stdout.starts_with("missing  1 artifact that records name"), "{}", again.stdout);
    assert_eq!(space.ran("w.yaml", &[]), set(&["first"]));
    assert_eq!(space.digests("w.yaml", &[]), digests);
    assert_eq!(removed(&gc(&space, &[]), "corrupt"), 1);
    assert_eq!(
        json(&space.run(&["cache", "stat", "w.yaml", "--format", "json"]))["corrupt"]["count"],
        0
    );
}

#[test]
fn a_run_writes_what_became_of_every_node() {
    let space = space();
    space.report("w.yaml", &[]);
    space.edit("w.yaml", "cat ${in.text} ${in.text}", "false ${in.text}");
    assert_eq!(space.run(&["run", "w.yaml"]).code, 1);
    let logs = logs(&space);
    let words = |log: &Path| -> Vec<String> {
        let word = |event: &Value| {
            let node = event["node"].as_str().map(|node| format!(" {node}")).unwrap_or_default();
            format!("{}{node}", event["event"].as_str().unwrap())
        };
        events(log).iter().map(word).collect()
    };
    let first = [
        "begin",
        "started first",
        "recorded first",
        "finished first",
        "started second",
        "recorded second",
        "finished second",
        "lock",
        "why first",
        "why second",
        "end",
    ];
    assert_eq!(words(&logs[0]), first);
    assert_eq!(
        words(&logs[1]),
        ["begin", "cached first", "started second", "failed second", "lock", "end"]
    );
    let events = events(&logs[0]);
    assert_eq!(events[0]["workflow"], space.path("w.yaml").to_str().unwrap());
    assert_eq!(events[1]["key"].as_str().unwrap().len(), 64);
    assert_eq!(events.last().unwrap()["complete"], true);
}

#[test]
fn a_run_that_does_nothing_touches_the_log_of_the_last_one() {
    let space = space();
    space.run(&["run", "w.yaml"]);
    space.edit("w.yaml", "word: red", "word: blue");
    space.run(&["run", "w.yaml"]);
    let before = logs(&space);
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    before.iter().for_each(|log| fs::File::open(log).unwrap().set_modified(long_ago).unwrap());
    let said = space.run(&["run", "w.yaml"]);
    assert!(said.stderr.starts_with("0 nodes run, 2 cached"), "{}", said.stderr);
    assert_eq!(logs(&space), before);
    let touched = |log: &PathBuf| log.metadata().unwrap().modified().unwrap() > long_ago;
    assert_eq!(before.iter().map(touched).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn the_last_hundred_logs_are_kept_and_the_last_of_each_workflow() {
    let space = space();
    space.report("w.yaml", &[]);
    let own = logs(&space).remove(0);
    let runs = space.path(".refrain/runs");
    for second in 0..150 {
        let log = runs.join(format!("20200101T000{:03}000Z-aaaaaaaa00000000-1.jsonl", second));
        fs::copy(&own, log).unwrap();
    }
    fs::write(runs.join("20190101T000000000Z-bbbbbbbb00000000-1.jsonl"), "").unwrap();
    space.report("w.yaml", &[]);
    let kept = logs(&space);
    assert_eq!(kept.len(), 101, "a hundred and the last of a workflow that was not run since");
    assert!(kept[0].to_str().unwrap().contains("bbbbbbbb") && kept.contains(&own));
    assert!(kept[1].to_str().unwrap().contains("T000052000Z"), "{}", kept[1].display());
}

#[test]
fn no_secret_is_in_a_log() {
    let space = Space::new();
    space.write(
        "w.yaml",
        "refrain: 1\nstages:\n  told: { run: { command: [sh, -c, 'echo $TOKEN >&2; exit 1'], \
         environment: { TOKEN: '${env:TOKEN}' }, outputs: { text: file } } }\n",
    );
    let output = space.command(&["run", "w.yaml"]).env("TOKEN", "swordfish").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = fs::read_to_string(&logs(&space)[0]).unwrap();
    assert!(log.contains("\"failed\"") && !log.contains("swordfish"), "{log}");
}
