//! The run log, log lines and traces: layers over the same spans and events.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::space::{Space, small};

/// The JSON values of a text, one per line.
fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

/// The lines of the last run log.
fn run_log(space: &Space) -> Vec<Value> {
    let runs = std::fs::read_dir(space.path(".refrain/runs")).unwrap();
    let last = runs.map(|entry| entry.unwrap().path()).max().unwrap();
    lines(&std::fs::read_to_string(last).unwrap())
}

fn of<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

#[test]
fn the_run_log_has_every_training_step_and_what_became_of_each_node() {
    let space = Space::new();
    small(&space);
    assert_eq!(space.run(&["run", "w.yaml", "--only", "scored", "--quiet"]).code, 0);
    let log = run_log(&space);
    let first = log.first().unwrap();
    assert!(first["event"] == "begin" && first["refrain"] == 1, "{first}");
    assert_eq!((log.last().unwrap()["event"].as_str(), log.len() > 30), (Some("end"), true));

    let steps = of(&log, "step");
    let numbers: Vec<u64> = steps.iter().map(|step| step["step"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..20).collect::<Vec<u64>>(), "each step once, in order");
    assert!(
        steps.iter().all(|step| step["node"] == "base" && step["loss"].as_f64().unwrap() > 0.0)
    );
    assert!(steps.iter().all(|step| step["learning_rate"].is_f64() && step["tokens"].is_u64()));

    let named = |event: &str| -> BTreeSet<&str> {
        of(&log, event).iter().map(|line| line["node"].as_str().unwrap()).collect()
    };
    let nodes = BTreeSet::from(["train", "base", "scored"]);
    for event in ["started", "recorded", "finished"] {
        assert_eq!(named(event), nodes, "{event}");
    }
    assert!(named("progress").contains("base"));
    assert_eq!(of(&log, "lock").len(), 1);

    // A report for programs looks every node up: what is cached is in the log with its key.
    assert_eq!(space.ran("w.yaml", &["--only", "scored"]), BTreeSet::new());
    let log = run_log(&space);
    let cached = of(&log, "cached");
    assert_eq!(cached.len(), 3);
    assert!(cached.iter().all(|line| line["key"].as_str().unwrap().len() == 64));
}

#[test]
fn a_trace_holds_the_spans_of_a_run() {
    let space = Space::new();
    small(&space);
    space.write("trace.json", "an older one");
    let said =
        space.run(&["run", "w.yaml", "--only", "scored", "answers", "--trace", "trace.json"]);
    assert_eq!(said.code, 0, "{}", said.stderr);

    let trace: Vec<Value> = serde_json::from_str(&space.read("trace.json")).unwrap();
    let spans: BTreeSet<&str> = trace
        .iter()
        .filter(|event| event["ph"] == "X" && event["dur"].as_f64().unwrap() >= 0.0)
        .map(|event| event["cat"].as_str().unwrap())
        .collect();
    for span in ["run", "node", "attempt", "import", "load", "batch", "step", "sync"] {
        assert!(spans.contains(span), "no `{span}` in {spans:?}");
    }
    let node = trace.iter().find(|event| event["cat"] == "node" && event["name"] == "base");
    let fields = &node.unwrap()["args"];
    assert!(
        fields["kind"] == "finetune" && fields["key"].as_str().unwrap().len() == 64,
        "{fields}"
    );

    let import = trace.iter().find(|event| event["cat"] == "import").unwrap();
    assert_eq!(import["args"]["rows"], 24);

    // Spans of one thread are nested or apart, as a viewer wants them.
    let threads: BTreeSet<u64> = trace.iter().filter_map(|event| event["tid"].as_u64()).collect();
    for thread in threads {
        let mut ends: Vec<f64> = Vec::new();
        let of_thread = |event: &&Value| event["ph"] == "X" && event["tid"] == thread;
        let mut spans: Vec<(f64, f64)> = trace
            .iter()
            .filter(of_thread)
            .map(|event| (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap()))
            .collect();
        spans.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        for (begin, length) in spans {
            ends.retain(|end| *end > begin);
            assert!(ends.iter().all(|end| begin + length <= end + 1.0), "thread {thread}");
            ends.push(begin + length);
        }
    }

    let said = space.run(&["run", "w.yaml", "--trace", "absent/trace.json"]);
    assert!(said.code == 4 && said.stderr.contains("cannot write the trace"), "{}", said.stderr);
}

#[test]
fn a_log_is_for_people_or_for_programs() {
    let space = Space::new();
    small(&space);
    let arguments = ["run", "w.yaml", "--only", "scored", "--format", "json"];
    let said = space.run(&[&arguments[..], &["--log", "debug", "--log-format", "json"]].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    let log = lines(&said.stderr);
    let events: Vec<&str> = log.iter().map(|line| line["event"].as_str().unwrap()).collect();
    for event in ["finished", "recorded", "step", "progress", "lock_written"] {
        assert!(events.contains(&event), "no `{event}` in {events:?}");
    }
    assert!(log.iter().all(|line| line["target"].as_str().unwrap().starts_with("refrain")));
    let step = log.iter().find(|line| line["event"] == "step").unwrap();
    assert!(step["node"] == "base" && step["step"] == 0 && step["level"] == "debug", "{step}");

    // From `info` on, and in place of the lines of progress.
    let said =
        space.run(&["run", "w.yaml", "--only", "scored", "--force", "scored", "--log", "info"]);
    let finished = said.stderr.lines().filter(|line| line.contains("finished")).count();
    assert_eq!(finished, 1, "{}", said.stderr);
    assert!(said.stderr.contains(" INFO ") && !said.stderr.contains("DEBUG"), "{}", said.stderr);
    let plain = said.stderr.lines().filter(|line| line.trim_start().starts_with(char::is_numeric));
    assert!(plain.filter(|line| line.ends_with("  scored")).count() == 0, "{}", said.stderr);

    let said = space.run(&["cache", "gc", "w.yaml", "--log", "trace"]);
    assert!(said.code == 0 && said.stderr.contains("gc"), "{}", said.stderr);
}
