//! `run`: what a command sees, what becomes of its outputs, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::{Int32Array, RecordBatch, StringArray};
use refrain_cache::{Artifact, ArtifactKind, Cache, Digest, TableReader, TableWriter};
use refrain_engine::kind::{
    Cancel, Check, Context, Input, MAIN, NodeResult, Progress, Resources, StageError, coerce,
};
use refrain_engine::language::yaml::{self, Node, Yaml};
use refrain_stages::kinds;
use serde_json::{Map, Value};

use crate::bench::{array, batch};

/// A folder with a cache and inputs for commands.
struct Desk {
    folder: tempfile::TempDir,
    cache: Cache,
    inputs: BTreeMap<String, Input>,
    cancel: Cancel,
}

/// An artifact of which only the kind matters.
fn some(kind: ArtifactKind) -> Artifact {
    let digest = Digest::from(blake3::hash(b""));
    Artifact { kind, digest, bytes: 0, rows: None, base: None }
}

/// Texts with placeholders as they are once params are put in.
fn defer(node: &mut Node) {
    match &mut node.value {
        Yaml::List(nodes) => nodes.iter_mut().for_each(defer),
        Yaml::Map(entries) => entries.iter_mut().for_each(|(_, node)| defer(node)),
        Yaml::Text(text) if text.contains("${") => {
            node.value = Yaml::Deferred(std::mem::take(text))
        }
        _ => {}
    }
}

fn typed(parameters: &str) -> Map<String, Value> {
    let kinds = kinds();
    let mut problems = Vec::new();
    let mut node = yaml::parse(parameters).unwrap();
    defer(&mut node);
    let resolved = coerce(kinds.get("run").unwrap().params, &node, "`run`", &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    resolved.values
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        Desk { folder, cache, inputs: BTreeMap::new(), cancel: Cancel::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn table(&mut self, name: &str, table: &RecordBatch) {
        let path = self.path(name);
        let mut writer = TableWriter::create(&path, table.schema()).unwrap();
        writer.write(table).unwrap();
        writer.finish().unwrap();
        self.inputs.insert(
            format!("inputs.{name}"),
            Input::Table { path, artifact: some(ArtifactKind::Table) },
        );
    }

    fn file(&mut self, name: &str, content: &str) {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        self.inputs.insert(
            format!("inputs.{name}"),
            Input::File { path, artifact: some(ArtifactKind::File) },
        );
    }

    fn model(&mut self, name: &str, files: &[&str]) {
        let folder = self.path(name);
        fs::create_dir(&folder).unwrap();
        files.iter().for_each(|file| fs::write(folder.join(file), file).unwrap());
        let artifact = some(ArtifactKind::Model);
        let model = Input::Model {
            folder,
            adapters: Vec::new(),
            artifact,
            bases: Vec::new(),
            served: None,
        };
        self.inputs.insert(format!("inputs.{name}"), model);
    }

    fn run(&self, parameters: &str) -> Result<NodeResult, StageError> {
        self.run_typed(&typed(parameters))
    }

    fn run_typed(&self, params: &Map<String, Value>) -> Result<NodeResult, StageError> {
        let kinds = kinds();
        let kind = kinds.get("run").unwrap();
        let environment = |name: &str| match name {
            "PATH" => std::env::var("PATH").ok(),
            "HOME" => Some("/home/somebody".to_owned()),
            "TOKEN" => Some("hunter2".to_owned()),
            "HIDDEN" => Some("never passed on".to_owned()),
            _ => None,
        };
        let outputs = (kind.run)(&Context {
            params,
            inputs: &self.inputs,
            cache: &self.cache,
            unfinished: self.cache.unfinished(&refrain_cache::Manifest::new("test").key()),
            fresh: false,
            resources: Resources {
                threads: 1,
                batch: None,
                requests: None,
                memory: None,
                memory_limit: u64::MAX,
            },
            progress: &Progress::default(),
            cancel: &self.cancel,
            environment: &environment,
            own_program: None,
            machine: refrain_engine::kind::machine::Machine::empty(),
            pins: &refrain_engine::kind::Pins::default(),
        })?;
        let mut declared: Vec<_> =
            (kind.outputs)(params).into_iter().map(|out| (out.name, out.kind)).collect();
        // The engine stores the metrics.
        declared.retain(|(name, _)| name != "metrics" || outputs.metrics.is_empty());
        declared.sort();
        let made: Vec<_> =
            outputs.artifacts.iter().map(|(name, made)| (name.clone(), made.kind)).collect();
        assert_eq!(made, declared, "other outputs were declared than made");
        Ok(outputs)
    }

    fn message(&self, parameters: &str) -> String {
        self.run(parameters).expect_err("it should have failed").to_string()
    }

    fn object(&self, artifact: &Artifact) -> PathBuf {
        self.cache.verify(artifact).unwrap();
        self.cache.object_path(&artifact.digest)
    }
}

fn small() -> RecordBatch {
    batch([
        ("id", array(StringArray::from(vec!["a", "b"]))),
        ("x", array(Int32Array::from(vec![Some(1), None]))),
    ])
}

#[test]
fn an_only_output_is_the_main_one_and_a_table_is_written_anew() {
    let mut desk = Desk::new();
    desk.table("data", &small());
    let parameters = r#"{ command: [cp, "${in.data}", "${out.copy}"], inputs: { data: data }, outputs: { copy: table } }"#;
    let outputs = desk.run(parameters).unwrap();
    let main = &outputs.artifacts[MAIN];
    assert_eq!(main, &outputs.artifacts["copy"]);
    assert_eq!((main.kind, main.rows), (ArtifactKind::Table, Some(2)));
    let path = desk.object(main);
    assert_eq!(TableReader::open(&path).unwrap().read_all(None).unwrap(), small());
    // The same rows in our own form are the same bytes.
    assert_eq!(fs::read(&path).unwrap(), fs::read(desk.path("data")).unwrap());
}

#[test]
fn a_command_sees_its_inputs_and_declared_variables_and_nothing_else() {
    let mut desk = Desk::new();
    desk.file(
        "tool",
        "for f in $(find . -type f | sort); do echo $f; done; env | sort | grep -v ^PWD= | grep -v ^_=",
    );
    desk.file("notes", "x");
    desk.model("base", &["config.json", "model.safetensors", "README.md"]);
    let outputs = desk
        .run(
            r#"{ command: [sh, -c, "sh ${in.tool} > ${out.seen}; echo $${HOME} >> ${out.seen}"],
                 inputs: { tool: tool, notes: notes, base: base }, outputs: { seen: file },
                 environment: { LEVEL: 3, KEY: "Bearer ${env:TOKEN}" } }"#,
        )
        .unwrap();
    let seen = fs::read_to_string(desk.object(&outputs.artifacts["seen"])).unwrap();
    let path = std::env::var("PATH").unwrap();
    let expected = format!(
        "./in.base/config.json\n./in.base/model.safetensors\n./in.notes\n./in.tool\n./out.seen\n\
         HOME=/home/somebody\nKEY=Bearer hunter2\nLEVEL=3\nPATH={path}\n/home/somebody\n"
    );
    assert_eq!(
        seen.lines().filter(|line| !line.starts_with("SHLVL=")).collect::<Vec<_>>().join("\n")
            + "\n",
        expected
    );
}

#[test]
fn inputs_are_copies_that_a_command_may_spoil() {
    let mut desk = Desk::new();
    desk.file("notes", "precious");
    let parameters = r#"{ command: [sh, -c, "echo spoilt > ${in.notes}; mv ${in.notes} ${out.notes}"],
                          inputs: { notes: notes }, outputs: { notes: file } }"#;
    let outputs = desk.run(parameters).unwrap();
    assert_eq!(fs::read_to_string(desk.object(&outputs.artifacts[MAIN])).unwrap(), "spoilt\n");
    assert_eq!(fs::read_to_string(desk.path("notes")).unwrap(), "precious");
}

#[test]
fn of_a_model_what_determines_results_is_kept() {
    let desk = Desk::new();
    let script = "mkdir ${out.m}; cd ${out.m}; echo 1 > config.json; echo 2 > model.safetensors; echo 3 > log.txt";
    let outputs = desk
        .run(&format!(r#"{{ command: [sh, -c, "{script}"], outputs: {{ m: model, n: file }} }}"#))
        .unwrap_err();
    assert_eq!(outputs.to_string(), "the command ended without writing its output `n`");
    let script = format!("echo x > ${{out.n}}; {script}");
    let outputs = desk
        .run(&format!(r#"{{ command: [sh, -c, "{script}"], outputs: {{ m: model, n: file }} }}"#))
        .unwrap();
    assert!(!outputs.artifacts.contains_key(MAIN));
    let mut names: Vec<_> = fs::read_dir(desk.object(&outputs.artifacts["m"]))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"]);
}

#[test]
fn outputs_of_another_nature_are_refused() {
    let desk = Desk::new();
    let message = |script: &str, kind: &str| {
        desk.message(&format!(r#"{{ command: [sh, -c, "{script}"], outputs: {{ o: {kind} }} }}"#))
    };
    assert_eq!(message("mkdir ${out.o}", "file"), "the command's output `o` is not a file");
    assert_eq!(
        message("ln -s /etc/passwd ${out.o}", "file"),
        "the command's output `o` is not a file"
    );
    assert_eq!(message("echo x > ${out.o}", "model"), "the command's output `o` is not a folder");
    let table = message("echo x > ${out.o}", "table");
    assert!(
        table.starts_with("the command's output `o` is not a readable Parquet file: "),
        "{table}"
    );
    let no_model = "the command's output `o` is not a model: it holds no";
    assert_eq!(message("mkdir ${out.o}", "model"), format!("{no_model} weights"));
    let adapter =
        "mkdir ${out.o}; touch ${out.o}/adapter_config.json ${out.o}/adapter_model.safetensors";
    assert_eq!(message(adapter, "model"), format!("{no_model} `config.json`"));
    let linked =
        "mkdir ${out.o}; touch ${out.o}/config.json; ln -s /etc/passwd ${out.o}/a.safetensors";
    assert_eq!(
        message(linked, "model"),
        "`a.safetensors` in the command's output is not a regular file"
    );
}

#[test]
fn failures_show_how_and_the_end_of_the_output_without_secrets() {
    let desk = Desk::new();
    let message = desk.message(
        r#"{ command: [sh, -c, "echo my key is $KEY; exit 7"], outputs: { o: file },
             environment: { KEY: "k-${env:TOKEN}" } }"#,
    );
    assert_eq!(
        message,
        "`sh` ended with exit status 7; the end of what it printed:\nmy key is k-***"
    );
    assert_eq!(
        desk.message("{ command: [sh, -c, exit 1], outputs: { o: file } }"),
        "`sh` ended with exit status 1, and printed nothing"
    );
    assert_eq!(
        desk.message(
            r#"{ command: ["true"], outputs: { o: file }, environment: { KEY: "${env:ABSENT}" } }"#
        ),
        "`environment.KEY` needs `${env:ABSENT}`, which is not set"
    );
}

/// Runs a command that copies a file to its metrics; returns the metrics as text, or the message and the hint.
fn metrics_of(place: impl FnOnce(&mut Desk)) -> Result<String, String> {
    let mut desk = Desk::new();
    place(&mut desk);
    let name = desk.inputs.keys().next().unwrap().strip_prefix("inputs.").unwrap().to_owned();
    let parameters = format!(
        r#"{{ command: [cp, "${{in.{name}}}", "${{out.metrics}}"], inputs: {{ {name}: x }}, outputs: {{ metrics: metrics }} }}"#
    );
    match desk.run(&parameters) {
        Ok(outputs) => {
            let text = |m: &refrain_cache::Metric| {
                let end = |end: Option<f64>| end.map_or("".into(), |end| end.to_string());
                format!("{}={} n={} {}..{}", m.metric, m.value, m.n, end(m.low), end(m.high))
            };
            Ok(outputs.metrics.iter().map(text).collect::<Vec<_>>().join("; "))
        }
        Err(StageError::Failed { message, hint }) => {
            Err(format!("{message} ({})", hint.unwrap_or_default()))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn metrics_in(text: &str) -> Result<String, String> {
    metrics_of(|desk| desk.file("notes", text))
}

#[test]
fn metrics_are_read_from_json_lines_and_parquet() {
    let expected = Ok("b=0.5 n=1 ..; a-1=2 n=10 1..2.5".to_owned());
    let object = r#" {"b": 0.5, "a-1": {"value": 2, "n": 10.0, "low": 1, "high": 2.5}} "#;
    assert_eq!(metrics_in(object), expected);
    let lines = "{\"metric\": \"b\", \"value\": 0.5, \"n\": null}\n\n{\"value\": 2, \"n\": 10, \"low\": 1.0, \"high\": 2.5, \"metric\": \"a-1\"}\n";
    assert_eq!(metrics_in(lines), expected);
    // A metric may be called as the field is.
    assert_eq!(
        metrics_in(r#"{"metric": 3, "value": 4}"#),
        Ok("metric=3 n=1 ..; value=4 n=1 ..".into())
    );
    let table = metrics_of(|desk| {
        let floats = |values: Vec<Option<f64>>| array(arrow::array::Float64Array::from(values));
        let rows = batch([
            ("metric", array(StringArray::from(vec!["b", "a-1"]))),
            ("value", floats(vec![Some(0.5), Some(2.0)])),
            ("n", floats(vec![Some(f64::NAN), Some(10.0)])),
            ("low", array(Int32Array::from(vec![None, Some(1)]))),
            ("high", floats(vec![None, Some(2.5)])),
        ]);
        desk.table("rows", &rows);
    });
    assert_eq!(table, expected);
}

#[test]
fn wrong_metrics_are_refused_by_name() {
    let many: String = (0..10_001).map(|i| format!("\"m{i}\": 1,")).collect();
    let many = format!("{{{}}}", many.trim_end_matches(','));
    let large = format!("{{\"a\": 1{}}}", " ".repeat(5 << 20));
    let nested = format!("{{\"a\": {}1{}}}", "[".repeat(200), "]".repeat(200));
    for (text, words) in [
        ("", "has no metrics"),
        ("{}", "has no metrics"),
        ("[1]", "is not JSON with metrics: invalid type: sequence, expected an object"),
        ("{\"a\": NaN}", "JSON has no `NaN`"),
        ("{\"a\": 1e999}", "is not JSON with metrics: number out of range"),
        ("{\"a\": \"1\"}", "metric `a` is not a finite number"),
        ("{\"a\": null}", "metric `a` is not a finite number"),
        ("{\"a\": true}", "metric `a` is not a finite number"),
        ("{\"a\": {\"n\": 3}}", "metric `a` is not a finite number"),
        ("{\"a b\": 1}", "`a b` is not a name"),
        ("{\"a\": 1, \"b\": 2, \"a\": 3}", "metric `a` is written twice"),
        ("{\"a\": {\"value\": 1, \"value\": 2}}", "metric `a` has the field `value` twice"),
        (
            "{\"metric\": \"a\", \"value\": 1, \"value\": 2}",
            "metric `a` has the field `value` twice",
        ),
        (
            "{\"metric\": \"a\", \"metric\": \"b\", \"value\": 1}",
            "has an object with `metric` twice, first `a`",
        ),
        ("{\"a\": {\"value\": 1, \"hi\": 2}}", "metric `a` has a field `hi`"),
        ("{\"a\": {\"value\": 1, \"n\": -1}}", "metric `a` has the `n` -1"),
        ("{\"a\": {\"value\": 1, \"n\": 1.5}}", "metric `a` has the `n` 1.5"),
        (
            "{\"a\": {\"value\": 1, \"n\": \"9\"}}",
            "`n` of the command's metric `a` is not a number",
        ),
        ("{\"a\": {\"value\": 1, \"low\": 1.1}}", "metric `a` lies outside its interval"),
        ("{\"a\": {\"value\": 1, \"high\": 0.9}}", "metric `a` lies outside its interval"),
        ("{\"a\": 1} {\"b\": 1}", "has more than one JSON object"),
        (
            "{\"metric\": \"a\", \"value\": 1}\n{\"b\": 1}",
            "has an object without `metric` behind 1 metrics",
        ),
        (
            "{\"metric\": \"a\", \"value\": 1}\n{\"metric\": \"a\", \"value\": 1}",
            "metric `a` is written twice",
        ),
        (many.as_str(), "has more than 10000 metrics"),
        (large.as_str(), "is larger than 4 MB"),
        (nested.as_str(), "recursion limit exceeded"),
        ("PAR1 and nothing more", "is not a readable Parquet file"),
    ] {
        let said = metrics_in(text).expect_err(words);
        assert!(said.contains(words), "{words}: {said}");
    }

    let of_table = |columns: Vec<(&str, arrow::array::ArrayRef)>| {
        metrics_of(|desk| desk.table("rows", &RecordBatch::try_from_iter(columns).unwrap()))
    };
    let (names, ones) =
        (|| array(StringArray::from(vec!["a"])), || array(Int32Array::from(vec![1])));
    for (columns, words) in [
        (vec![("metric", names())], "has no column `value`"),
        (vec![("value", ones())], "has no column `metric`"),
        (
            vec![("metric", names()), ("value", ones()), ("lwo", ones())],
            "has a column `lwo` (did you mean `low`?)",
        ),
        (vec![("metric", ones()), ("value", ones())], "has a column `metric` that is not text"),
        (vec![("metric", names()), ("value", names())], "has a column `value` that is not numbers"),
    ] {
        let said = of_table(columns).expect_err(words);
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn an_only_output_beside_the_metrics_is_the_main_one() {
    let desk = Desk::new();
    let script = r#"{ command: [sh, -c, 'echo x > ${out.o}; echo "{\"a\": 1}" > ${out.metrics}'], outputs: { o: file, metrics: metrics } }"#;
    let outputs = desk.run(script).unwrap();
    assert_eq!(outputs.artifacts[MAIN], outputs.artifacts["o"]);
    assert_eq!(outputs.metrics.len(), 1);
}

#[test]
fn a_stop_ends_the_command_and_removes_its_folder() {
    let desk = Desk::new();
    let params = typed("{ command: [sleep, 60], outputs: { o: file } }");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| desk.run_typed(&params));
        std::thread::sleep(std::time::Duration::from_millis(200));
        desk.cancel.cancel();
        assert!(matches!(running.join().unwrap(), Err(StageError::Cancelled)));
    });
    assert_eq!(files_under(&desk.cache.root().join("tmp")), Vec::<PathBuf>::new());
}

/// All folders named `in` or `out` below a folder.
fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.ends_with("in") || path.ends_with("out") {
                found.push(path.clone());
            }
            found.extend(files_under(&path));
        }
    }
    found
}

#[test]
fn what_cannot_run_is_refused_before_anything_runs() {
    let kinds = kinds();
    let problems = |parameters: &str, inputs: &[String]| {
        let mut problems = Vec::new();
        let check = Check {
            params: &typed(parameters),
            columns: &|_| None,
            inputs,
            models: &|_| None,
            served: &|_| None,
        };
        (kinds.get("run").unwrap().check)(&check, &mut problems);
        let text =
            |problem: refrain_engine::kind::Problem| format!("{}: {}", problem.at, problem.message);
        problems.into_iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(
        problems("{ command: [], outputs: {} }", &[]),
        ["command: it names no program", "outputs: it declares no output"]
    );
    assert_eq!(
        problems(
            r#"{ command: [cp, "${in.data}", "${in.date}", "${out.o}", "${out.p}", "${in}"],
                 outputs: { o: table, metrics: table } }"#,
            &["inputs.data".to_owned()]
        ),
        [
            "outputs.metrics: the output `metrics` is of the type `metrics`",
            "command[2]: `${in.date}` is not declared in `inputs`",
            "command[4]: `${out.p}` is not declared in `outputs`",
            "command[5]: `${in}` names no input or output",
        ]
    );
}
