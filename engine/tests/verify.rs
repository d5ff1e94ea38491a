//! A key that another version of a component made is explained by the record, and a lock that would change is listed.

// Helpers of tests may unwrap as the tests themselves do.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "common/kind.rs"]
mod kind;

use std::collections::HashSet;

use refrain_engine::graph::Graph;
use refrain_engine::kind::{Cancel, Component, Context, Kind, Kinds, NodeResult, StageError};
use refrain_engine::language::diagnostic::SourceText;
use refrain_engine::language::workflow::Workflow;
use refrain_engine::ledger::lock::Lock;
use refrain_engine::report::verify::{changes, verify};
use refrain_engine::run::{Report, RunOptions, run};
use refrain_engine::store::Store;

static OLD: [Component; 1] = [Component { name: "ink", version: 1 }];
static NEW: [Component; 1] = [Component { name: "ink", version: 2 }];

fn writes(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let scratch = context.cache.scratch_dir()?;
    let path = scratch.path().join("file");
    std::fs::write(&path, "x").unwrap();
    Ok(NodeResult::main(context.cache.store_file(&path)?))
}

/// One stage of a kind that is made of these components.
fn graph(components: &'static [Component]) -> Graph {
    let kind = Kind { components, ..kind::kind("writes", writes) };
    let source = SourceText::new("w.yaml", "refrain: 1\nstages: { a: { writes: {} } }\n");
    Graph::build(Workflow::parse(source, &Kinds::new(vec![kind]), &[]).unwrap()).unwrap()
}

fn report<'a>(graph: &'a Graph, store: &'a Store) -> Report<'a> {
    let options = RunOptions {
        jobs: 1,
        threads: 1,
        memory: u64::MAX,
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
    run(graph, store, &options, &Cancel::default()).unwrap()
}

#[test]
fn a_raised_version_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    let (old, new) = (graph(&OLD), graph(&NEW));
    let mut lock = Lock { version: "0.0.9".into(), ..Lock::default() };
    lock.update(&old, &report(&old, &store), &[], true);
    let check = |graph: &Graph| {
        verify(graph, &lock, Some(&store), &[], &Default::default(), Default::default())
    };
    assert!(check(&old).mismatches.is_empty());
    let found = check(&new).mismatches;
    assert_eq!(found.len(), 1, "{found:?}");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        found[0].message,
        format!(
            "its key changed: `versions.ink` changed from 1 to 2; Refrain {version} made it, this is {version}"
        )
    );
    let mut after = lock.clone();
    after.update(&new, &report(&new, &store), &[], true);
    let changed = changes(&new, &lock, &after, &store);
    assert_eq!((changed.len(), changed[0].what), (1, "key"));
    assert_eq!(changed[0].differences.len(), 1);
    assert!(changes(&new, &after, &after, &store).is_empty());
}
