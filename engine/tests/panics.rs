//! A panic in a stage becomes an error that asks for a report, and nothing else is lost.

// Helpers of tests may unwrap as the tests themselves do.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "common/kind.rs"]
mod kind;

use std::collections::HashSet;

use refrain_engine::graph::Graph;
use refrain_engine::kind::{Cancel, Context, Kinds, NodeResult, StageError};
use refrain_engine::language::diagnostic::SourceText;
use refrain_engine::language::workflow::Workflow;
use refrain_engine::run::{Outcome, RunOptions, run};
use refrain_engine::store::Store;

use kind::kind;

/// A stage that writes a small file.
fn writes(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let scratch = context.cache.scratch_dir()?;
    let path = scratch.path().join("file");
    std::fs::write(&path, "x").unwrap();
    Ok(NodeResult::main(context.cache.store_file(&path)?))
}

#[test]
fn a_panic_of_a_stage_is_its_failure_and_asks_for_a_report() {
    // The hook of the binary says where; here nobody reads it.
    std::panic::set_hook(Box::new(|_| {}));
    let kinds = Kinds::new(vec![
        kind("text", |_| panic!("index {} is out of bounds", 7)),
        kind("word", |_| panic!("a word")),
        kind("other", |_| std::panic::panic_any(7)),
        kind("writes", writes),
    ]);
    let text = "refrain: 1\nstages: { a: { text: {} }, b: { word: {} }, c: { other: {} }, d: { writes: {} } }\n";
    let source = SourceText::new("w.yaml", text);
    let graph = Graph::build(Workflow::parse(source, &kinds, &[]).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    let options = RunOptions {
        jobs: 2,
        threads: 2,
        memory: u64::MAX,
        gpus: 0,
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
    let report = run(&graph, &store, &options, &Cancel::default()).unwrap();
    let failure = |name: &str| match &report.outcomes[graph.find(name).unwrap().index()] {
        Outcome::Failed(failure) => failure.to_string(),
        other => panic!("`{name}`: {other:?}"),
    };
    for (name, words) in [("a", "index 7 is out of bounds"), ("b", "a word"), ("c", "no message")] {
        let said = failure(name);
        assert!(said.contains(words) && said.contains("please report"), "{said}");
    }
    assert!(matches!(report.outcomes[graph.find("d").unwrap().index()], Outcome::Ran(_)));
}

#[test]
fn a_panic_while_columns_are_checked_names_the_stage_and_asks_for_a_report() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut checked = kind("checked", writes);
    checked.check = |_, _| panic!("no such column");
    let kinds = Kinds::new(vec![checked, kind("writes", writes)]);
    let text = "refrain: 1\nstages: { a: { writes: {} }, b: { checked: {} } }\n";
    let source = SourceText::new("w.yaml", text);
    let problems = Graph::build(Workflow::parse(source, &kinds, &[]).unwrap()).err().unwrap().items;
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(problem.message.contains("internal error (no such column)"), "{}", problem.message);
    assert!(problem.message.contains("please report it") && problem.span.is_some());
}
