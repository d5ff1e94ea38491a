//! A bench for one kind: its parameters as YAML, its inputs as batches, and what comes out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde_json::{Map, Value};

use refrain_cache::{Cache, Manifest, Metric, TableReader};
use refrain_engine::kind::{
    Cancel, Check, Context, Input, Kind, MAIN, MetricContext, Problem, Progress, Resources,
    StageError, coerce,
};
use refrain_engine::language::yaml;
use refrain_stages::kinds;

/// A kind with a cache of its own.
pub struct Bench {
    kind: Kind,
    cache: Cache,
    _folder: tempfile::TempDir,
}

/// What a run made.
#[derive(Debug)]
pub struct Made {
    /// The rows of the main table.
    pub table: RecordBatch,
    /// The digest of its file.
    pub digest: String,
    metrics: Vec<Metric>,
}

impl Made {
    /// The value of a figure.
    pub fn figure(&self, name: &str) -> f64 {
        self.metric(name).value
    }

    /// A figure with its interval.
    pub fn metric(&self, name: &str) -> &Metric {
        self.metrics
            .iter()
            .find(|m| m.metric == name)
            .unwrap_or_else(|| panic!("there is no `{name}`"))
    }

    /// The names of all figures.
    pub fn figures(&self) -> Vec<&str> {
        self.metrics.iter().map(|m| m.metric.as_str()).collect()
    }
}

impl Bench {
    /// The kind of that name.
    pub fn new(kind: &str) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        Bench { kind: *kinds().get(kind).expect("the kind is registered"), cache, _folder: folder }
    }

    /// Checks the parameters against a table's columns; the messages, and the columns of what would be made.
    pub fn check(&self, parameters: &str, schema: &SchemaRef) -> (Vec<String>, Option<SchemaRef>) {
        let mut problems: Vec<Problem> = Vec::new();
        let columns = |input: &str| (input == "data").then(|| schema.clone());
        let check = Check {
            params: &self.typed(parameters),
            columns: &columns,
            inputs: &["data".to_owned()],
            models: &|_| None,
            served: &|_| None,
        };
        let made = (self.kind.check)(&check, &mut problems);
        (
            problems
                .into_iter()
                .map(|problem| format!("{}: {}", problem.at, problem.message))
                .collect(),
            made,
        )
    }

    /// Runs the kind on a table.
    pub fn run(&self, parameters: &str, table: &RecordBatch) -> Result<Made, StageError> {
        self.run_until(parameters, table, &Cancel::default())
    }

    /// Runs the kind on a table; it must stop when it is cancelled.
    pub fn run_until(
        &self,
        parameters: &str,
        table: &RecordBatch,
        cancel: &Cancel,
    ) -> Result<Made, StageError> {
        let mut writer = self.cache.new_table(table.schema()).unwrap();
        writer.write(table).unwrap();
        let artifact = self.cache.store_table(writer).unwrap();
        let path = self.cache.object_path(&artifact.digest);
        let inputs = BTreeMap::from([("data".to_owned(), Input::Table { path, artifact })]);
        let outputs = (self.kind.run)(&Context {
            params: &self.typed(parameters),
            inputs: &inputs,
            cache: &self.cache,
            unfinished: self.cache.unfinished(&Manifest::new("test").key()),
            fresh: false,
            resources: Resources {
                threads: 1,
                batch: None,
                requests: None,
                memory: None,
                memory_limit: u64::MAX,
            },
            progress: &Progress::default(),
            cancel,
            environment: &|_| None,
            own_program: None,
            machine: refrain_engine::kind::machine::Machine::empty(),
            pins: &refrain_engine::kind::Pins::default(),
        })?;
        let context =
            MetricContext { params: &self.typed(parameters), inputs: &["data".to_owned()] };
        let mut declared = self.kind.metric_names(context);
        let mut written: Vec<&str> =
            outputs.metrics.iter().map(|metric| metric.metric.as_str()).collect();
        // A table without a predicted token has no threshold.
        declared.retain(|name| name != "threshold" || written.contains(&name.as_str()));
        declared.sort_unstable();
        written.sort_unstable();
        assert_eq!(written, declared, "the metrics that it declares, and no others");
        let main = &outputs.artifacts[MAIN];
        let reader = TableReader::open(&self.cache.object_path(&main.digest)).unwrap();
        assert_eq!(main.rows, Some(reader.rows()));
        let (_, promised) = self.check(parameters, &table.schema());
        assert_eq!(promised.as_ref(), Some(reader.schema()), "the check promises other columns");
        Ok(Made {
            table: reader.read_all(None).unwrap(),
            digest: main.digest.to_string(),
            metrics: outputs.metrics,
        })
    }

    /// The parameters with their types and defaults, as the engine makes them.
    fn typed(&self, parameters: &str) -> Map<String, Value> {
        let node = yaml::parse(&format!("{{ data: table, {parameters} }}")).unwrap();
        let mut problems = Vec::new();
        let resolved = coerce(self.kind.params, &node, "the kind", &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        resolved.values
    }
}

/// The message of an error, which must not be one of ours.
pub fn message(result: Result<Made, StageError>) -> String {
    match result.expect_err("it should have failed") {
        StageError::Failed { message, .. } => message,
        other => panic!("{other}"),
    }
}

/// A batch of these columns.
pub fn batch<const N: usize>(columns: [(&str, arrow::array::ArrayRef); N]) -> RecordBatch {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)))
            .unwrap();
    refrain_cache::normal_batch(&batch).unwrap()
}

/// A file of the reference data; `None`, with a remark, where they are not there.
pub fn reference(path: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")).join(path);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// The JSON in a file of the reference data.
pub fn reference_json(path: &str) -> Option<Value> {
    Some(serde_json::from_slice(&std::fs::read(reference(path)?).unwrap()).unwrap())
}

/// The lines of a JSONL file of the reference data.
pub fn reference_lines(path: &str) -> Option<Vec<Value>> {
    let text = std::fs::read_to_string(reference(path)?).unwrap();
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// An array behind a pointer, as batches hold it.
pub fn array(array: impl arrow::array::Array + 'static) -> arrow::array::ArrayRef {
    Arc::new(array)
}
