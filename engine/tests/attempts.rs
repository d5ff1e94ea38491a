//! Retries, time limits and resources of stages, with kinds made for the purpose.

// Helpers of tests may unwrap as the tests themselves do.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "common/kind.rs"]
mod kind;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;

use refrain_engine::graph::Graph;
use refrain_engine::kind::{Cancel, Context, Kind, Kinds, NodeResult, Param, StageError, Type};
use refrain_engine::language::diagnostic::SourceText;
use refrain_engine::language::workflow::Workflow;
use refrain_engine::plan::{Step, plan};
use refrain_engine::run::event::Fields;
use refrain_engine::run::{Outcome, RunOptions, run};
use refrain_engine::store::Store;

/// Makes two nodes of one kind two nodes.
static PARAMS: &[Param] = &[Param::optional("n", Type::Int { min: 0, max: 99 }, "a number")];

/// A kind whose stages may be tried again, and may be told apart.
fn kind(name: &'static str, run: fn(&Context<'_>) -> Result<NodeResult, StageError>) -> Kind {
    Kind { params: PARAMS, retryable: true, ..kind::kind(name, run) }
}

fn writes(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let scratch = context.cache.scratch_dir()?;
    let path = scratch.path().join("file");
    std::fs::write(&path, format!("{:?}", context.params)).unwrap();
    Ok(NodeResult::main(context.cache.store_file(&path)?))
}

/// What a run of stages of one kind came to: a word for each node, and the notes.
struct Came {
    outcomes: Vec<String>,
    notes: Vec<String>,
    interrupted: bool,
}

/// Layer: keeps what is said of nodes; what `stop` knows interrupts.
struct Notes {
    kept: Arc<Mutex<Vec<String>>>,
    stop: fn(&str) -> bool,
    cancel: Cancel,
}

impl<S: Subscriber> Layer<S> for Notes {
    fn on_event(&self, event: &Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if !["note", "retry"].contains(&event.metadata().name()) {
            return;
        }
        let text = Fields::of_event(event).text("message").unwrap().to_owned();
        if (self.stop)(&text) {
            self.cancel.cancel();
        }
        self.kept.lock().unwrap().push(text);
    }
}

/// Runs the stages; a note that `stop` knows interrupts.
fn come(kind: Kind, stages: &str, stop: fn(&str) -> bool) -> Came {
    let source = SourceText::new("w.yaml", format!("refrain: 1\nstages:\n{stages}"));
    let workflow = Workflow::parse(source, &Kinds::new(vec![kind]), &[]).unwrap();
    let graph = Graph::build(workflow).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    let options = RunOptions {
        jobs: 8,
        threads: 4,
        memory: 8_000_000_000,
        gpus: 1,
        keep_going: true,
        only: None,
        force: HashSet::new(),
        budget: None,
        environment: &|_| None,
        own_program: None,
        machine: refrain_engine::kind::machine::Machine::empty(),
        pins: Default::default(),
        executors: &[],
    };
    let cancel = Cancel::default();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let notes = Notes { kept: kept.clone(), stop, cancel: cancel.clone() };
    let events = tracing_subscriber::registry().with(notes);
    let report = tracing::subscriber::with_default(events, || {
        run(&graph, &store, &options, &cancel).unwrap()
    });
    let notes = kept.lock().unwrap().clone();
    let word = |outcome: &Outcome| match outcome {
        Outcome::Ran(_) => "ran".to_string(),
        Outcome::Failed(failure) => failure.to_string(),
        other => format!("{other:?}"),
    };
    let outcomes = report.outcomes.iter().map(word).collect();
    Came { outcomes, notes, interrupted: report.interrupted }
}

fn never(_: &str) -> bool {
    false
}

/// Fails at every attempt but the third.
fn third(context: &Context<'_>) -> Result<NodeResult, StageError> {
    static ATTEMPTS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
    let n = context.params.get("n").and_then(|n| n.as_u64()).unwrap() as usize;
    match ATTEMPTS[n].fetch_add(1, Ordering::SeqCst) {
        2 => writes(context),
        attempt => Err(StageError::failed(format!("no luck at {}", attempt + 1))),
    }
}

#[test]
fn a_failed_stage_is_tried_as_often_as_it_says() {
    let enough = come(
        kind("third", third),
        "  a: { third: { n: 0 }, retry: { times: 2, wait: 1ms } }\n",
        never,
    );
    assert_eq!(enough.outcomes, ["ran"]);
    let notes = [
        "attempt 1 of 3 failed; the next begins in 1ms: no luck at 1",
        "attempt 2 of 3 failed; the next begins in 2ms: no luck at 2",
    ];
    assert_eq!(enough.notes, notes);
    let too_few = come(
        kind("third", third),
        "  a: { third: { n: 1 }, retry: { times: 1, wait: 1ms } }\n",
        never,
    );
    assert_eq!((too_few.outcomes, too_few.notes.len()), (vec!["no luck at 2".to_string()], 1));
}

#[test]
fn a_wait_is_interrupted() {
    let fails = kind("fails", |_| Err(StageError::failed("no luck")));
    let came = come(fails, "  a: { fails: {}, retry: { times: 3, wait: 365d } }\n", |note| {
        note.contains("attempt 1")
    });
    assert!(came.interrupted);
    assert_eq!((came.outcomes, came.notes.len()), (vec!["NotRun".to_string()], 1));
}

#[test]
fn what_is_wrong_with_the_machine_is_not_tried_again() {
    let lacks =
        kind("lacks", |_| Err(StageError::Environment { message: "no disk".into(), hint: None }));
    let came = come(lacks, "  a: { lacks: {}, retry: { times: 3, wait: 365d } }\n", never);
    assert_eq!((came.outcomes, came.notes), (vec!["no disk".to_string()], vec![]));
}

/// Works until it is asked to stop.
fn endless(context: &Context<'_>) -> Result<NodeResult, StageError> {
    loop {
        context.cancel.check()?;
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_stage_that_takes_too_long_fails_each_attempt_for_itself() {
    let stages = "  a: { endless: {}, timeout: 20ms, retry: { times: 1, wait: 1ms } }\n";
    let came = come(kind("endless", endless), stages, never);
    assert!(!came.interrupted, "the time limit of a stage stops that stage alone");
    assert_eq!(came.outcomes, ["it was stopped after its `timeout` of 20ms"]);
    assert_eq!(came.notes.len(), 1, "{:?}", came.notes);
    let in_time = come(kind("writes", writes), "  a: { writes: {}, timeout: 1h }\n", never);
    assert_eq!(in_time.outcomes, ["ran"]);
}

#[test]
fn an_interruption_is_no_timeout() {
    fn notes(context: &Context<'_>) -> Result<NodeResult, StageError> {
        context.progress.note("stop");
        endless(context)
    }
    let came =
        come(kind("notes", notes), "  a: { notes: {}, timeout: 365d }\n", |note| note == "stop");
    assert!(came.interrupted);
    assert_eq!(came.outcomes, ["NotRun"]);
}

/// Nodes that work now, and the most that ever did at once.
static BUSY: [(AtomicUsize, AtomicUsize); 5] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; 5];

/// Works for a while in the group of the tens of its number; in group 4 until two work at once.
fn busy(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let group = context.params.get("n").and_then(|n| n.as_u64()).unwrap() as usize / 10;
    let (now, most) = &BUSY[group];
    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    for _ in 0..if group == 4 { 10_000 } else { 60 } {
        if group == 4 && most.load(Ordering::SeqCst) > 1 {
            break;
        }
        sleep(Duration::from_millis(1));
    }
    now.fetch_sub(1, Ordering::SeqCst);
    writes(context)
}

#[test]
fn running_stages_share_what_they_declare() {
    let groups = [
        "memory: 5GB",
        "threads: 3",
        "gpus: 1",
        "memory: 9GB, threads: 1",
        "memory: 4GB, threads: 2",
    ];
    for (group, declared) in groups.iter().enumerate() {
        let stage = |i| {
            let n = 10 * group + i;
            format!("  s{i}: {{ busy: {{ n: {n} }}, resources: {{ {declared} }} }}\n")
        };
        let came = come(kind("busy", busy), &(0..4).map(stage).collect::<String>(), never);
        assert_eq!(came.outcomes, ["ran"; 4], "{declared}");
        let most = BUSY[group].1.load(Ordering::SeqCst);
        assert_eq!(most, if group == 4 { 2 } else { 1 }, "{declared}");
    }
}

/// Two stages that together take more than there is: while another process computes one, the other runs, and what the
/// first would have taken is not lost.
#[test]
fn what_another_process_computes_takes_nothing() {
    let stages = "  a: { writes: { n: 0 }, resources: { memory: 5GB } }\n  b: { writes: { n: 1 }, resources: { memory: 5GB } }\n";
    let source = SourceText::new("w.yaml", format!("refrain: 1\nstages:\n{stages}"));
    let kinds = Kinds::new(vec![kind("writes", writes)]);
    let graph = Graph::build(Workflow::parse(source, &kinds, &[]).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(&folder.path().join("cache")).unwrap();
    let (here, elsewhere) = (open(), open());
    let Step::Run { key, .. } = plan(&graph, &here, &BTreeMap::new()).unwrap().steps[0] else {
        panic!()
    };
    elsewhere.cache().claim(&key).unwrap();
    let options = RunOptions {
        jobs: 8,
        threads: 4,
        memory: 8_000_000_000,
        gpus: 0,
        keep_going: false,
        only: None,
        force: HashSet::new(),
        budget: None,
        environment: &|_| None,
        own_program: None,
        machine: refrain_engine::kind::machine::Machine::empty(),
        pins: Default::default(),
        executors: &[],
    };
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            sleep(Duration::from_millis(300));
            elsewhere.cache().release(&key);
            elsewhere.cache().flush_claims();
        });
        run(&graph, &here, &options, &Cancel::default()).unwrap()
    });
    assert!(report.outcomes.iter().all(|o| matches!(o, Outcome::Ran(_))), "{:?}", report.outcomes);
}
