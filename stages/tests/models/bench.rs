//! A bench for the kinds that use a model: a cache, inputs, and what comes out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, ListArray, RecordBatch, StringArray};
use arrow::datatypes::{Float32Type, Float64Type, Int32Type, SchemaRef};
use serde_json::Value;
use tracing::{Dispatch, Event, Subscriber, dispatcher, info_span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;

use refrain_cache::{Artifact, ArtifactKind, Cache, Digest, Manifest, TableReader};
use refrain_engine::kind::{
    Cancel, Check, Context, Input, Kind, MAIN, MetricContext, NodeResult, Problem, Progress,
    Resolved, Resources, StageError, coerce,
};
use refrain_engine::language::yaml;
use refrain_engine::run::event::Fields;
use refrain_stages::kinds;

/// The families of tiny models with references.
pub const FOLDERS: [&str; 5] = ["llama", "llama3-rope-tied", "mistral", "gemma2", "qwen2"];

/// A cache of its own.
pub struct Bench {
    pub cache: Cache,
    pub cancel: Cancel,
    pub threads: usize,
    pub batch: Option<usize>,
    /// Whether nothing is taken from the row memo, so that each run is a test of what computes.
    pub fresh: bool,
    /// Progress reports after which a run is cancelled.
    pub cancel_after: Option<usize>,
    heard: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        let cancel = Cancel::default();
        let heard = Arc::default();
        Bench {
            cache,
            cancel,
            threads: 1,
            batch: None,
            fresh: true,
            cancel_after: None,
            heard,
            _folder: folder,
        }
    }

    /// Stores a table.
    pub fn table(&self, batch: &RecordBatch) -> Input {
        let mut writer = self.cache.new_table(batch.schema()).unwrap();
        writer.write(batch).unwrap();
        self.input(self.cache.store_table(writer).unwrap())
    }

    /// A table or a whole model of this cache.
    pub fn input(&self, artifact: Artifact) -> Input {
        let path = self.cache.object_path(&artifact.digest);
        match artifact.kind {
            ArtifactKind::Table => Input::Table { path, artifact },
            ArtifactKind::Model => Input::Model {
                folder: path,
                adapters: Vec::new(),
                artifact,
                bases: Vec::new(),
                served: None,
            },
            ArtifactKind::File => Input::File { path, artifact },
            ArtifactKind::Folder => Input::Folder { path, artifact },
        }
    }

    /// An adapter of this cache on its base.
    pub fn adapted(&self, base: &Input, adapter: &Artifact) -> Input {
        let Input::Model { folder, adapters, artifact: own, bases, .. } = base.clone() else {
            panic!("no model")
        };
        let path = self.cache.object_path(&adapter.digest);
        let adapters = [adapters, vec![path]].concat();
        let bases = [vec![own.digest], bases].concat();
        Input::Model { folder, adapters, artifact: adapter.clone(), bases, served: None }
    }

    /// Runs a kind.
    pub fn run(
        &self,
        kind: &str,
        parameters: &str,
        inputs: &[(&str, &Input)],
    ) -> Result<NodeResult, StageError> {
        let kind = self::kind(kind);
        let typed = typed(&kind, parameters);
        let inputs: BTreeMap<String, Input> =
            inputs.iter().map(|(path, input)| (path.to_string(), (*input).clone())).collect();
        let given: Vec<&str> = inputs.keys().map(String::as_str).collect();
        let mut named: Vec<&str> =
            typed.references.iter().map(|reference| reference.path.as_str()).collect();
        named.sort_unstable();
        assert_eq!(given, named, "the inputs are those that the parameters name");
        let digests = inputs
            .iter()
            .map(|(path, input)| (path.clone(), input.artifact().digest.to_string().into()));
        let key = Manifest::new(kind.name)
            .section("parameters", Value::Object(typed.values.clone()))
            .section("inputs", Value::Object(digests.collect()))
            .key();
        let cancel =
            if self.cancel_after.is_some() { Cancel::default() } else { self.cancel.clone() };
        let left = AtomicUsize::new(self.cancel_after.unwrap_or(usize::MAX));
        let sink = Sink { cancel: cancel.clone(), left, heard: self.heard.clone() };
        let events = Dispatch::new(tracing_subscriber::registry().with(sink));
        let node = dispatcher::with_default(&events, || info_span!("node"));
        let outputs = (kind.run)(&Context {
            params: &typed.values,
            inputs: &inputs,
            cache: &self.cache,
            unfinished: self.cache.unfinished(&key),
            fresh: self.fresh,
            resources: Resources {
                threads: self.threads,
                batch: self.batch,
                requests: None,
                memory: None,
                memory_limit: u64::MAX,
            },
            progress: &Progress::new(node, Duration::ZERO),
            cancel: &cancel,
            environment: &|_| None,
            own_program: None,
            machine: refrain_engine::kind::machine::Machine::empty(),
            pins: &refrain_engine::kind::Pins::default(),
        })?;
        for declared in
            (kind.outputs)(&typed.values).iter().filter(|output| output.name != "metrics")
        {
            assert_eq!(outputs.artifacts[&declared.name].kind, declared.kind);
        }
        assert!(!outputs.metrics.is_empty() && outputs.profile.starts_with("native"));
        let given: Vec<String> = inputs.keys().cloned().collect();
        let mut declared =
            kind.metric_names(MetricContext { params: &typed.values, inputs: &given });
        let mut written: Vec<&str> =
            outputs.metrics.iter().map(|metric| metric.metric.as_str()).collect();
        // A table without a predicted token has no threshold.
        declared.retain(|name| name != "threshold" || written.contains(&name.as_str()));
        declared.sort_unstable();
        written.sort_unstable();
        assert_eq!(written, declared, "the metrics that it declares, and no others");
        Ok(outputs)
    }

    /// Runs a kind and reads its table, which must have the columns that the check promises.
    pub fn made(&self, kind: &str, parameters: &str, inputs: &[(&str, &Input)]) -> RecordBatch {
        let outputs = self.run(kind, parameters, inputs).unwrap();
        let reader =
            TableReader::open(&self.cache.object_path(&outputs.artifacts[MAIN].digest)).unwrap();
        let Input::Table { path, .. } = inputs.iter().find(|(path, _)| *path == "data").unwrap().1
        else {
            panic!()
        };
        let schema = TableReader::open(path).unwrap().schema().clone();
        let (problems, promised) = check(kind, parameters, &[("data", schema)]);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(promised.as_ref(), Some(reader.schema()), "the check promises other columns");
        reader.read_all(None).unwrap()
    }

    /// What the runs so far noted.
    pub fn notes(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// Reads a table of this cache.
    pub fn read(&self, artifact: &Artifact) -> RecordBatch {
        TableReader::open(&self.cache.object_path(&artifact.digest))
            .unwrap()
            .read_all(None)
            .unwrap()
    }
}

/// What the static check of a kind says, as `path: message`, and the columns that it promises.
pub fn check(
    name: &str,
    parameters: &str,
    schemas: &[(&str, SchemaRef)],
) -> (Vec<String>, Option<SchemaRef>) {
    let kind = kind(name);
    let typed = typed(&kind, parameters);
    let columns = |input: &str| {
        schemas.iter().find(|(path, _)| *path == input).map(|(_, schema)| schema.clone())
    };
    let inputs: Vec<String> =
        typed.references.iter().map(|reference| reference.path.clone()).collect();
    let mut problems: Vec<Problem> = Vec::new();
    let promised = (kind.check)(
        &Check {
            params: &typed.values,
            columns: &columns,
            inputs: &inputs,
            models: &|_| None,
            served: &|_| None,
        },
        &mut problems,
    );
    (
        problems
            .into_iter()
            .map(|problem| format!("{}: {}", problem.at, problem.message))
            .collect(),
        promised,
    )
}

fn kind(name: &str) -> Kind {
    *kinds().get(name).expect("the kind is registered")
}

/// The parameters with their types and defaults, as the engine makes them.
fn typed(kind: &Kind, parameters: &str) -> Resolved {
    let mut problems = Vec::new();
    let resolved = coerce(
        kind.params,
        &yaml::parse(&format!("{{ {parameters} }}")).unwrap(),
        "the kind",
        &mut problems,
    );
    assert!(problems.is_empty(), "{problems:?}");
    resolved
}

/// A model folder as a source.
pub fn model(folder: &Path) -> Input {
    let digest = Digest::of_bytes(folder.to_str().unwrap().as_bytes());
    let artifact = Artifact { kind: ArtifactKind::Model, digest, bytes: 0, rows: None, base: None };
    Input::Model {
        folder: folder.into(),
        adapters: Vec::new(),
        artifact,
        bases: Vec::new(),
        served: None,
    }
}

/// A file or folder of the reference data; `None`, with a remark, where it is not there.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(path);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// The JSON in a file.
pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A table of texts.
pub fn texts(columns: &[(&str, &[&str])]) -> RecordBatch {
    let columns = columns.iter().map(|(name, values)| {
        (*name, Arc::new(StringArray::from(values.to_vec())) as ArrayRef, true)
    });
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// The questions and answers of the training rows of a folder.
pub fn conversations(folder: &Path) -> (Vec<String>, Vec<String>) {
    let rows = json(&folder.join("training/rows.json"));
    let part = |text: &str| {
        let (question, answer) = text.split_once("<|assistant|>\n").unwrap();
        let question = question.trim_start_matches("<|bos|>").trim_start_matches("<|user|>\n");
        (
            question.trim_end_matches("<|eos|>\n").to_owned(),
            answer.trim_end_matches("<|eos|>").to_owned(),
        )
    };
    rows.as_array().unwrap().iter().map(|row| part(row["text"].as_str().unwrap())).unzip()
}

pub fn strings(batch: &RecordBatch, name: &str) -> Vec<String> {
    let column = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    column.as_string::<i32>().iter().map(|value| value.unwrap().to_owned()).collect()
}

pub fn int32(batch: &RecordBatch, name: &str) -> Vec<i32> {
    batch[name].as_primitive::<Int32Type>().values().to_vec()
}

pub fn float64(batch: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    batch[name].as_primitive::<Float64Type>().iter().collect()
}

pub fn int_lists(batch: &RecordBatch, name: &str) -> Vec<Vec<i64>> {
    let list = |row: ArrayRef| {
        row.as_primitive::<Int32Type>().values().iter().map(|id| i64::from(*id)).collect()
    };
    batch[name].as_list::<i32>().iter().map(|row| list(row.unwrap())).collect()
}

pub fn float_lists(batch: &RecordBatch, name: &str) -> Vec<Vec<Option<f32>>> {
    let lists: &ListArray = batch[name].as_list();
    lists.iter().map(|row| row.unwrap().as_primitive::<Float32Type>().iter().collect()).collect()
}

pub fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// The message of an error, which must not be one of ours.
pub fn message(result: Result<NodeResult, StageError>) -> String {
    match result.expect_err("it should have failed") {
        StageError::Failed { message, .. } => message,
        other => panic!("{other}"),
    }
}

/// Layer: keeps notes, and cancels a run after so many reports.
struct Sink {
    cancel: Cancel,
    left: AtomicUsize,
    heard: Arc<Mutex<Vec<String>>>,
}

impl<S: Subscriber> Layer<S> for Sink {
    fn on_event(&self, event: &Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        match event.metadata().name() {
            "progress" if self.left.fetch_sub(1, Ordering::Relaxed) == 1 => self.cancel.cancel(),
            "note" => {
                let text = Fields::of_event(event).text("message").unwrap().to_owned();
                self.heard.lock().unwrap().push(text);
            }
            _ => {}
        }
    }
}
