//! Sources and models that change, that are alike, or that are large, with kinds made for the purpose.

// Helpers of tests may unwrap as the tests themselves do.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "common/kind.rs"]
mod kind;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use refrain_cache::ArtifactKind;
use refrain_engine::graph::Graph;
use refrain_engine::kind::{
    Cancel, Context, Input, Kind, Kinds, MAIN, NodeResult, OutputDecl, Param, StageError, Type,
};
use refrain_engine::language::diagnostic::SourceText;
use refrain_engine::language::workflow::Workflow;
use refrain_engine::run::{Outcome, Report, RunOptions, run};
use refrain_engine::store::Store;

use kind::kind;

static ANY: &[Param] = &[
    Param::required("data", Type::Reference(None), "Anything"),
    Param::optional("edit", Type::Text, "A file that is edited while the stage runs"),
];
static MODEL: &[Param] =
    &[Param::required("model", Type::Reference(Some(ArtifactKind::Model)), "A model")];

fn kinds() -> Kinds {
    let model = |_: &_| vec![OutputDecl { name: MAIN.into(), kind: ArtifactKind::Model }];
    Kinds::new(vec![
        Kind { params: ANY, ..kind("copies", copies) },
        Kind { params: MODEL, outputs: model, ..kind("adapts", adapts) },
        Kind { params: MODEL, ..kind("describes", describes) },
        kind("stops", stops),
    ])
}

/// Makes a file of a text.
fn file(context: &Context<'_>, text: &str) -> Result<NodeResult, StageError> {
    let scratch = context.cache.scratch_dir()?;
    let path = scratch.path().join("file");
    fs::write(&path, text).unwrap();
    Ok(NodeResult::main(context.cache.store_file(&path)?))
}

/// Copies a file, and then edits one.
fn copies(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let text = match context.input("data")? {
        Input::Model { folder, .. } => fs::read_to_string(folder.join("config.json")),
        other => fs::read_to_string(other.path()),
    };
    if let Some(path) = context.params.get("edit").and_then(|path| path.as_str()) {
        fs::write(path, "edited").unwrap();
    }
    file(context, &text.unwrap_or_default())
}

/// Makes an adapter, the same for every model.
fn adapts(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let folder = context.cache.new_folder()?;
    folder.write("adapter_config.json", b"{}").unwrap();
    folder.write("adapter_model.safetensors", b"weights").unwrap();
    let base = context.input("model")?.artifact().digest;
    Ok(NodeResult::main(context.cache.store_folder(folder, ArtifactKind::Model, Some(base))?))
}

/// Writes what a model is made of.
fn describes(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let Input::Model { folder, adapters, bases, .. } = context.input("model")? else { panic!() };
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    assert_eq!(adapters.len(), bases.len());
    file(context, &format!("{config} with {}", adapters.len()))
}

/// Waits a little, and interrupts the run.
fn stops(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let made = file(context, "made");
    std::thread::sleep(Duration::from_millis(200));
    context.cancel.cancel();
    made
}

struct Place {
    folder: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        Place { folder, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn graph(&self, yaml: &str) -> Graph {
        let text = format!("refrain: 1\n{yaml}");
        let source = SourceText::new(self.path("w.yaml"), text);
        let workflow = Workflow::parse(source, &kinds(), &[]).unwrap();
        Graph::build(workflow).unwrap()
    }

    fn run<'a>(&'a self, graph: &'a Graph) -> Report<'a> {
        let options = RunOptions {
            jobs: 4,
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
        run(graph, &self.store, &options, &Cancel::default()).unwrap()
    }

    /// Runs a workflow; the error of each node that failed, by name.
    fn failures(&self, yaml: &str) -> BTreeMap<String, String> {
        let graph = self.graph(yaml);
        let report = self.run(&graph);
        let failure = |(node, outcome): (&refrain_engine::graph::Node, &Outcome)| match outcome {
            Outcome::Failed(error) => Some((node.name.clone(), error.to_string())),
            _ => None,
        };
        graph.nodes.iter().zip(&report.outcomes).filter_map(failure).collect()
    }

    /// Runs a workflow that must succeed; the text of each node's file, by name.
    fn texts(&self, yaml: &str) -> BTreeMap<String, String> {
        let graph = self.graph(yaml);
        let report = self.run(&graph);
        assert!(report.is_complete(), "{:?}", report.outcomes);
        let text = |id| {
            let Some(Input::File { path, .. }) = report.state.output(id, MAIN) else { return None };
            Some((graph.node(id).name.clone(), fs::read_to_string(path).unwrap()))
        };
        graph.ids().filter_map(text).collect()
    }
}

fn model(place: &Place, name: &str, config: &str) {
    place.write(&format!("{name}/config.json"), config);
    place.write(&format!("{name}/model.safetensors"), "weights");
}

/// Whatever is read in its own place, and whatever of it changes: the result is not recorded, and the
/// next run takes the file as it is then.
#[test]
fn a_source_that_changes_during_a_run_is_not_recorded_under_its_old_key() {
    for (sources, changed) in [
        ("data: { d: { path: script.py, type: file } }", "script.py"),
        ("models: { d: { path: model } }", "model/config.json"),
        ("models: { d: { path: model } }", "model/chat_template.jinja"),
        ("models: { d: { path: pooled } }", "pooled/1_Pooling/config.json"),
    ] {
        let place = Place::new();
        place.write("script.py", "before");
        model(&place, "model", "before");
        model(&place, "pooled", "before");
        place.write("pooled/1_Pooling/config.json", "before");
        let yaml =
            |edit: &str| format!("{sources}\nstages:\n  s: {{ copies: {{ data: d{edit} }} }}\n");
        let path = place.path(changed);
        let failures = place.failures(&yaml(&format!(", edit: {}", path.display())));
        let message = format!("`{}` changed during the run", path.display());
        assert!(failures["s"].starts_with(&message), "{changed}: {failures:?}");
        assert_eq!(failures.len(), 1, "{changed}");

        // The other stage's key has the old bytes in it, if the edit went unnoticed.
        let text = &place.texts(&yaml(""))["s"];
        let expected = if changed.ends_with("l/config.json") || changed == "script.py" {
            "edited"
        } else {
            "before"
        };
        assert_eq!(text, expected, "{changed}");
    }
}

/// What does not determine a model's results may change.
#[test]
fn a_file_that_does_not_count_may_change_during_a_run() {
    let place = Place::new();
    model(&place, "model", "config");
    let edit = place.path("model/README.md");
    let yaml = format!(
        "models: {{ d: {{ path: model }} }}\nstages:\n  s: {{ copies: {{ data: d, edit: {} }} }}\n",
        edit.display()
    );
    assert_eq!(place.failures(&yaml), BTreeMap::new());
}

/// Equal adapters of two models that go by one name, at two points of a sweep.
#[test]
fn an_adapter_is_applied_to_the_model_that_it_was_trained_on() {
    let place = Place::new();
    model(&place, "one", "one");
    model(&place, "other", "other");
    let yaml = "models: { base: { path: \"${m}\" } }\nstages:\n  \
        tuned: { adapts: { model: base } }\n  \
        again: { adapts: { model: tuned } }\n  \
        once: { describes: { model: tuned } }\n  \
        twice: { describes: { model: again } }\n\
        sweep: { m: [one, other] }\n";
    // What the first run computes, the second one finds.
    for _ in 0..2 {
        let texts = place.texts(yaml);
        for m in ["one", "other"] {
            assert_eq!(texts[&format!("once[m={m}]")], format!("{m} with 1"));
            assert_eq!(texts[&format!("twice[m={m}]")], format!("{m} with 2"));
        }
    }
}

/// Two byte-equal models in two places: each node reads the one that its workflow names.
#[test]
fn of_two_equal_models_each_is_read_in_its_own_place() {
    let place = Place::new();
    model(&place, "one", "same");
    model(&place, "other", "same");
    let graph = place.graph(
        "models: { a: { path: one }, b: { path: other } }\nstages:\n  \
         s: { describes: { model: a } }\n  t: { describes: { model: b } }\n",
    );
    let report = place.run(&graph);
    for (name, folder) in [("a", "one"), ("b", "other")] {
        let input = report.state.output(graph.find(name).unwrap(), MAIN).unwrap();
        assert_eq!(input.path(), &place.path(folder));
    }
}

/// A file that takes minutes to hash holds up neither the other nodes nor an interruption.
#[test]
fn a_large_source_holds_nothing_up() {
    let place = Place::new();
    place.write("small", "small");
    let large = fs::File::create(place.path("large")).unwrap();
    large.set_len(256 << 30).unwrap();
    let graph = place.graph(
        "data: { large: { path: large, type: file }, small: { path: small, type: file } }\n\
         stages:\n  a: { copies: { data: large } }\n  b: { copies: { data: small } }\n  \
         c: { stops: {} }\n",
    );
    let begin = Instant::now();
    let report = place.run(&graph);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert!(report.interrupted);
    let outcome = |name: &str| &report.outcomes[graph.find(name).unwrap().index()];
    assert!(matches!(outcome("b"), Outcome::Ran(_)), "{:?}", report.outcomes);
    assert!(matches!(outcome("a"), Outcome::NotRun), "{:?}", report.outcomes);
    let key = report.state.done(graph.find("b").unwrap()).unwrap().key;
    assert!(place.store.record(&key).unwrap().is_some());
}

/// The same of an artifact of the cache, which another process may have put there.
#[test]
fn a_large_artifact_is_hashed_by_a_worker_and_trusted_then() {
    let place = Place::new();
    place.write("text", &"x".repeat(3 << 20));
    let yaml = "data: { d: { path: text, type: file } }\nstages:\n  s: { copies: { data: d } }\n";
    let texts = place.texts(yaml);
    // Another process: nothing is remembered of what this one stored.
    let other = Store::open(&place.path("cache")).unwrap();
    let place = Place { store: other, ..place };
    let graph = place.graph(yaml);
    let report = place.run(&graph);
    assert!(matches!(report.outcomes[1], Outcome::Cached), "{:?}", report.outcomes);
    assert_eq!(texts["s"].len(), 3 << 20);

    // One that is damaged is set aside and computed again.
    let path = report.state.output(graph.find("s").unwrap(), MAIN).unwrap().path().clone();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "y".repeat(3 << 20)).unwrap();
    let report = place.run(&graph);
    assert!(matches!(report.outcomes[1], Outcome::Ran(_)), "{:?}", report.outcomes);
    assert_eq!(fs::read_to_string(&path).unwrap(), texts["s"]);
}
