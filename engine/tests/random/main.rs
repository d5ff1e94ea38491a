//! Random workflows, edited at random: what an incremental run makes equals what a clean one makes, and only nodes whose
//! inputs are new have run.

// Helpers of tests may unwrap as the tests themselves do.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod dag;
#[path = "../common/kind.rs"]
mod kind;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use proptest::prelude::*;

use refrain_cache::Digest;
use refrain_engine::graph::{Graph, NodeId, Work};
use refrain_engine::kind::{Cancel, MAIN};
use refrain_engine::run::{Outcome, RunOptions, run};
use refrain_engine::store::Store;

use dag::{Dag, Edit, Identity};

/// A folder for a case, in memory where the system has such a place.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// A table that the cache holds, or held.
struct Table {
    digest: Digest,
    there: bool,
}

/// What a run did.
struct Ran {
    /// The nodes that were computed, with what they were computed from.
    computed: Vec<(String, Identity)>,
    /// All nodes that are done: what they are made from, and the digest of their table.
    done: BTreeMap<Identity, Digest>,
    /// The digest of each node's table, by name.
    digests: BTreeMap<String, Digest>,
    complete: bool,
}

fn options(jobs: usize, forced: &HashSet<NodeId>) -> RunOptions<'static> {
    RunOptions {
        jobs,
        threads: 2,
        memory: u64::MAX,
        gpus: 0,
        keep_going: false,
        only: None,
        force: forced.clone(),
        budget: None,
        environment: &|_| None,
        own_program: None,
        machine: refrain_engine::kind::machine::Machine::empty(),
        pins: Default::default(),
        executors: &[],
    }
}

fn run_in(dag: &Dag, graph: &Graph, cache: &Path, jobs: usize, forced: &HashSet<NodeId>) -> Ran {
    let store = Store::open(cache).unwrap();
    let report = run(graph, &store, &options(jobs, forced), &Cancel::default()).unwrap();
    let expected = dag.evaluate();
    let mut ran = Ran {
        computed: Vec::new(),
        done: BTreeMap::new(),
        digests: BTreeMap::new(),
        complete: report.is_complete(),
    };
    for id in graph.ids().filter(|id| !matches!(graph.node(*id).work, Work::Model(_))) {
        let name = graph.node(id).name.clone();
        let identity =
            || expected.get(&name).unwrap_or_else(|| panic!("`{name}` is not expected")).clone();
        match &report.outcomes[id.index()] {
            Outcome::Ran(_) => ran.computed.push((name.clone(), identity())),
            Outcome::Cached | Outcome::NotRun | Outcome::Skipped(_) => {}
            Outcome::Failed(failure) => {
                assert!(failure.to_string().contains("as it was told"), "{failure}")
            }
        }
        if let Some(done) = report.state.done(id) {
            let digest = done.result.artifacts.get(MAIN).unwrap().digest;
            ran.done.insert(identity(), digest);
            ran.digests.insert(name, digest);
        }
    }
    if ran.complete {
        assert_eq!(ran.digests.len(), expected.len(), "{expected:?}");
    }
    ran
}

/// Runs the workflow where others have run before, and compares with a run where none has.
fn check(
    dag: &Dag,
    place: &Path,
    jobs: usize,
    force: Option<usize>,
    seen: &mut BTreeMap<Identity, Table>,
    disturbed: &BTreeSet<Identity>,
) {
    let graph = dag.graph(place);
    let stages: Vec<NodeId> = graph.ids().filter(|id| !graph.node(*id).is_source()).collect();
    let forced: HashSet<NodeId> = match force {
        Some(n) if !stages.is_empty() => [stages[n % stages.len()]].into(),
        _ => HashSet::new(),
    };
    let ran = run_in(dag, &graph, &place.join("cache"), jobs, &forced);
    let lost = |identity: &Identity| seen.get(identity).is_some_and(|table| !table.there);
    let computed: BTreeSet<&Identity> = ran.computed.iter().map(|(_, identity)| identity).collect();
    let forced_names: BTreeSet<&str> =
        forced.iter().map(|id| graph.node(*id).name.as_str()).collect();
    for (name, identity) in &ran.computed {
        assert!(
            !seen.contains_key(identity) || lost(identity) || forced_names.contains(name.as_str()),
            "`{name}` ran although nothing of it is new\n{}",
            dag.yaml()
        );
    }
    for identity in ran.done.keys() {
        assert!(
            seen.contains_key(identity)
                || computed.contains(identity)
                || disturbed.contains(identity),
            "{identity:?} is done and never ran"
        );
    }
    if ran.complete {
        let ran_names: BTreeSet<&str> =
            ran.computed.iter().map(|(name, _)| name.as_str()).collect();
        assert!(forced_names.is_subset(&ran_names), "{forced_names:?} should have run again");
        let clean = folder();
        let other_jobs = 5 - jobs;
        let other = dag.reordered().graph(place);
        let clean = run_in(dag, &other, &clean.path().join("cache"), other_jobs, &HashSet::new());
        assert_eq!(clean.digests, ran.digests, "\n{}", dag.yaml());
    }
    let store = Store::open(&place.join("cache")).unwrap();
    for (identity, digest) in ran.done {
        assert!(
            store.object_path(&digest).exists(),
            "{identity:?} is done and its artifact is not there"
        );
        // Where two made the same table, either may have made it again.
        seen.values_mut()
            .filter(|table| table.digest == digest)
            .for_each(|table| table.there = true);
        seen.insert(identity, Table { digest, there: true });
    }
}

/// Removes a table from the cache: whatever made it must run again.
fn lose(place: &Path, which: usize, seen: &mut BTreeMap<Identity, Table>) {
    let tables: BTreeSet<Digest> =
        seen.values().filter(|table| table.there).map(|table| table.digest).collect();
    let lost = tables.into_iter().nth(which % seen.len().max(1));
    let Some(lost) = lost else { return };
    let path = Store::open(&place.join("cache")).unwrap().object_path(&lost);
    if path.is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else {
        std::fs::remove_file(path).unwrap();
    }
    seen.values_mut().filter(|table| table.digest == lost).for_each(|table| table.there = false);
}

/// Damages a byte of one of the logs: all may run again, and nothing may be wrong.
fn damage(place: &Path, file: usize, at: usize, seen: &mut BTreeMap<Identity, Table>) {
    let logs = std::fs::read_dir(place.join("cache/records")).unwrap();
    let mut logs: Vec<_> = logs.map(|log| log.unwrap().path()).collect();
    logs.sort();
    let log = &logs[file % logs.len()];
    let mut bytes = std::fs::read(log).unwrap();
    if bytes.is_empty() {
        return;
    }
    let at = at % bytes.len();
    bytes[at] ^= 1;
    std::fs::write(log, bytes).unwrap();
    seen.values_mut().for_each(|table| table.there = false);
}

/// Runs the workflow while a source changes into that of another one. What it makes may be of either.
fn disturb(
    dag: &Dag,
    edited: &Dag,
    source: usize,
    place: &Path,
    jobs: usize,
) -> BTreeSet<Identity> {
    edited.write_during(source, place);
    let (graph, store) = (dag.graph(place), Store::open(&place.join("cache")).unwrap());
    let options = options(jobs, &HashSet::new());
    let report = run(&graph, &store, &options, &Cancel::default()).unwrap();
    *dag::DURING.lock().unwrap() = None;

    for outcome in &report.outcomes {
        if let Outcome::Failed(failure) = outcome {
            assert!(failure.to_string().contains("changed"), "{failure}");
        }
    }
    [dag.evaluate(), edited.evaluate()].into_iter().flat_map(BTreeMap::into_values).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_incremental_run_equals_a_clean_one(
        mut dag in dag::any_dag(),
        jobs in 1usize..5,
        edits in prop::collection::vec(dag::any_edit(), 1..5),
    ) {
        let place = folder();
        let (mut seen, mut disturbed) = (BTreeMap::new(), BTreeSet::new());
        dag.write_sources(place.path());
        check(&dag, place.path(), jobs, None, &mut seen, &disturbed);
        for (edit, jobs) in edits {
            let mut force = None;
            match edit {
                Edit::Force(which) => force = Some(which),
                Edit::Lose(which) => lose(place.path(), which, &mut seen),
                Edit::Damage(file, at) => damage(place.path(), file, at, &mut seen),
                Edit::Break(which) => {
                    // A run that a failing stage ends, then one without it.
                    check(&dag.broken(which), place.path(), jobs, None, &mut seen, &disturbed);
                }
                Edit::Set(axis, i, value) => {
                    let set = dag.with_set(axis, i, value);
                    check(&set, place.path(), jobs, None, &mut seen, &disturbed);
                }
                Edit::During(source, ..) => {
                    let before = dag.clone();
                    dag.apply(&edit);
                    disturbed.extend(disturb(&before, &dag, source, place.path(), jobs));
                    dag.write_sources(place.path());
                }
                ref other => {
                    dag.apply(other);
                    dag.write_sources(place.path());
                }
            };
            check(&dag, place.path(), jobs, force, &mut seen, &disturbed);
        }
    }
}
