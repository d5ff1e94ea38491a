//! The kind `run`: any command, in a scratch folder, from declared inputs to declared outputs.
//!
//! The command runs in a folder of its own that holds copies of its inputs, and writes its outputs
//! there. All lie side by side: folders that live for milliseconds cost a file system more than the
//! commands of many a sweep.
//!
//! | declared | where |
//! |---|---|
//! | table `NAME` | `in.NAME.parquet`, `out.NAME.parquet` |
//! | model `NAME` | the folder `in.NAME`, `out.NAME`; of an adapter its own files, its base is an input of its own |
//! | file `NAME` | `in.NAME`, `out.NAME` |
//! | folder `NAME` | the folder `in.NAME` |
//! | the metrics | `out.metrics` |
//!
//! `${in.NAME}` and `${out.NAME}` in the command become these paths. Output tables are read and
//! written anew, so that their bytes are those of every other table with the same rows. An only
//! output beside the metrics is the stage's main one too.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value};

use refrain_cache::write::{copy_file, create_dir_all};
use refrain_engine::kind::{
    Anything, Check, Columns, CommandText, Context, Input, Kind, MAIN, MetricContext, MetricDecl,
    NodeResult, OutputDecl, Parameters, Problem, SecretText, StageError, check_name, parameters,
    placeholders,
};
use refrain_engine::source::Walk;
use refrain_engine::source::model_folder::{CopyError, ModelFolder, ModelFolderError};

use crate::components;
use crate::process::{self, Ended, Ending, Job};

mod metrics;
mod outputs;

use outputs::{OutputType, output_path};

/// Variables of the environment that are passed on to the command; the last two name the graphics
/// cards that a scheduler gave this process.
const PASSED: [&str; 6] =
    ["PATH", "HOME", "LANG", "TMPDIR", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"];
/// Time within which a signal to this process is noticed that ended its command too.
const NOTICED: Duration = Duration::from_millis(50);
/// Names of outputs that other kinds have, which a command cannot name its own.
const TAKEN: [&str; 2] = [MAIN, "log"];
/// The name of the output that holds the metrics, and the only one of its type.
const METRICS: &str = "metrics";

/// The kind `run`.
pub const RUN: Kind = Kind {
    name: "run",
    about: "Runs any command",
    components: &[components::RUN, components::TABLE],
    versions: None,
    params: RunParams::PARAMS,
    adds: &[],
    outputs,
    metrics: &[MetricDecl::free(
        "NAME",
        "Each metric that the command writes to its output `metrics`",
        declared_metrics,
    )],
    check,
    expand: None,
    canonicalize: Some(|params, _| {
        // A set: another order is not another stage.
        if let Some(Value::Array(names)) = params.get_mut(METRICS) {
            names.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }),
    // Nobody knows what a command computes.
    close_elsewhere: false,
    retryable: true,
    tokens: None,
    over: None,
    served: &[],
    memory: None,
    run,
};

parameters! {
    /// The parameters of `run`.
    struct RunParams {
        /// The program and its arguments; no shell is involved
        command: Vec<CommandText>,
        /// Inputs of the command, as `${in.NAME}`
        inputs: Map<&Anything>,
        /// Outputs of the command, as `${out.NAME}`; one called `metrics`, of that type, holds the node's metrics
        outputs: BTreeMap<String, OutputType>,
        /// For each output that is an adapter, the input with the model that it belongs to
        bases: Option<BTreeMap<String, String>>,
        /// The metrics that the command must write, so that `check` knows them; else it may write any
        metrics: Option<Vec<String>>,
        /// Variables that the command sees
        environment: BTreeMap<String, SecretText> = {},
    }
}

fn outputs(params: &Map<String, Value>) -> Vec<OutputDecl> {
    let declared = declared_outputs(params);
    let main = only(&declared).map(|(_, ty)| OutputDecl { name: MAIN.into(), kind: ty.artifact() });
    let decl =
        |(name, ty): (&String, &OutputType)| OutputDecl { name: name.clone(), kind: ty.artifact() };
    main.into_iter().chain(declared.iter().map(decl)).collect()
}

fn declared_outputs(params: &Map<String, Value>) -> BTreeMap<String, OutputType> {
    let declared = params.get("outputs").map(|outputs| serde_json::from_value(outputs.clone()));
    declared.and_then(Result::ok).unwrap_or_default()
}

/// The metrics that the command must write; `None` where it may write any.
fn declared_metrics(context: MetricContext<'_>) -> Option<Vec<String>> {
    if !declared_outputs(context.params).contains_key(METRICS) {
        return Some(Vec::new());
    }
    let names = context.params.get(METRICS)?.as_array()?;
    Some(names.iter().filter_map(Value::as_str).map(String::from).collect())
}

/// The only output beside the metrics.
fn only<T>(outputs: &BTreeMap<String, T>) -> Option<(&String, &T)> {
    let mut others = outputs.iter().filter(|(name, _)| *name != METRICS);
    others.next().filter(|_| others.next().is_none())
}

fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    let texts = check.params.get("command").and_then(Value::as_array);
    let texts: Vec<&str> = texts.into_iter().flatten().filter_map(Value::as_str).collect();
    if texts.first().is_none_or(|program| program.is_empty()) {
        problems.push(
            Problem::at("command", "it names no program")
                .hint("for example `command: [python3, script.py]`"),
        );
    }
    let inputs: Vec<&str> =
        check.inputs.iter().filter_map(|path| path.strip_prefix("inputs.")).collect();
    let outputs = check.params.get("outputs").and_then(Value::as_object);
    let outputs: Vec<&str> = outputs.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    if outputs.is_empty() {
        problems.push(
            Problem::at("outputs", "it declares no output")
                .hint("for example `outputs: { result: table }`"),
        );
    }
    for name in outputs.iter().filter(|name| TAKEN.contains(name)) {
        let problem =
            Problem::at(format!("outputs.{name}"), format!("an output cannot be called `{name}`"));
        problems.push(problem.hint("every stage may have an output of that name"));
    }
    check_bases(check.params, &inputs, problems);
    check_metrics(check.params, problems);
    for (i, text) in texts.iter().enumerate() {
        for placeholder in placeholders(text) {
            check_placeholder(placeholder, &inputs, &outputs, &format!("command[{i}]"), problems);
        }
    }
    None
}

/// An adapter is a model, and its base an input.
fn check_bases(params: &Map<String, Value>, inputs: &[&str], problems: &mut Vec<Problem>) {
    let outputs = declared_outputs(params);
    let bases = params.get("bases").and_then(Value::as_object);
    for (name, base) in bases.into_iter().flatten() {
        let at = format!("bases.{name}");
        if outputs.get(name) != Some(&OutputType::Model) {
            let problem = Problem::at(at, format!("`{name}` is not an output of the type `model`"));
            problems.push(problem.hint("name an output that is an adapter"));
        } else if let Some(base) = base.as_str().filter(|base| !inputs.contains(base)) {
            let problem = Problem::at(at, format!("there is no input `{base}`"));
            problems.push(problem.hint("name the input with the model of the adapter"));
        }
    }
}

/// Metrics lie in the one output of their name and type, and have names, each once.
fn check_metrics(params: &Map<String, Value>, problems: &mut Vec<Problem>) {
    let outputs = declared_outputs(params);
    for (name, ty) in &outputs {
        let message = match (name.as_str(), ty) {
            (METRICS, OutputType::Metrics) => continue,
            (METRICS, _) => "the output `metrics` is of the type `metrics`",
            (_, OutputType::Metrics) => "an output of the type `metrics` is called `metrics`",
            _ => continue,
        };
        let problem = Problem::at(format!("outputs.{name}"), message);
        problems.push(problem.hint("write `metrics: metrics`, or choose another name"));
    }

    let Some(names) = params.get(METRICS).and_then(Value::as_array) else { return };
    if !outputs.contains_key(METRICS) {
        let problem =
            Problem::at(METRICS, "it names metrics, but the stage has no output for them");
        problems.push(problem.hint("add `metrics: metrics` to `outputs`"));
    }
    for (i, name) in names.iter().filter_map(Value::as_str).enumerate() {
        let at = format!("{METRICS}[{i}]");
        if let Err(message) = check_name(name) {
            problems.push(Problem::at(at, message));
        } else if names[..i].iter().any(|other| other == name) {
            problems.push(Problem::at(at, format!("`{name}` is named twice")));
        }
    }
}

/// A placeholder of the command must name a declared input or output.
fn check_placeholder(
    placeholder: &str,
    inputs: &[&str],
    outputs: &[&str],
    at: &str,
    problems: &mut Vec<Problem>,
) {
    let (what, known, name) = match placeholder.split_once('.') {
        Some(("in", name)) => ("inputs", inputs, name),
        Some(("out", name)) => ("outputs", outputs, name),
        _ => {
            let problem = Problem::at(at, format!("`${{{placeholder}}}` names no input or output"));
            problems.push(problem.hint("write `${in.NAME}` or `${out.NAME}`"));
            return;
        }
    };
    if !known.contains(&name) {
        let names: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
        let hint = match names.as_slice() {
            [] => format!("declare it: `{what}: {{ {name}: … }}`"),
            names => format!("declared: {}", names.join(", ")),
        };
        problems.push(
            Problem::at(at, format!("`${{{placeholder}}}` is not declared in `{what}`")).hint(hint),
        );
    }
}

fn run(ctx: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: RunParams = ctx.parameters()?;
    let scratch = ctx.cache.scratch_dir()?;
    let folder = scratch.path();
    let inputs = copy_inputs(ctx, folder)?;
    let place = |name: &str| match name.split_once('.') {
        Some(("in", name)) => inputs.get(name).cloned(),
        Some(("out", name)) => params.outputs.get(name).map(|kind| output_path(name, *kind)),
        _ => None,
    };
    let mut command = Vec::with_capacity(params.command.len());
    for CommandText(text) in &params.command {
        command.push(
            fill(text, place)
                .map_err(|name| StageError::bug(format!("`{name}` is not declared")))?,
        );
    }
    let (environment, secrets) = environment(ctx, &params.environment)?;
    let memory = ctx.resources.memory;
    let job = Job {
        command: &command,
        folder,
        environment: &environment,
        secrets: &secrets,
        memory,
        ending: Ending::Killed,
    };
    match process::run(&job, ctx.cancel)? {
        Ended::Success => {}
        Ended::Failure { how, tail } => {
            thread::sleep(NOTICED);
            check_not_stopped(ctx)?;
            return Err(failed(&command[0], &how, &tail, memory));
        }
    }
    let mut artifacts = BTreeMap::new();
    let mut metrics = Vec::new();
    for (name, ty) in &params.outputs {
        let path = outputs::written(folder, name, *ty)?;
        match ty {
            OutputType::Metrics => metrics = metrics::read(&path, params.metrics.as_deref())?,
            ty => {
                let base = params.bases.as_ref().and_then(|bases| bases.get(name));
                let artifact = match base {
                    Some(base) => outputs::store_adapter(ctx, name, base, &path)?,
                    None => outputs::store(ctx, name, *ty, &path)?,
                };
                artifacts.insert(name.clone(), artifact);
            }
        }
    }
    if let Some((_, artifact)) = only(&artifacts) {
        artifacts.insert(MAIN.into(), artifact.clone());
    }
    check_not_stopped(ctx)?;
    let profile = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    Ok(NodeResult { artifacts: artifacts.into(), metrics, profile })
}

/// Ends the stage where a stop was asked for: a scheduler or a service manager that ends this
/// process signals its commands too, and what they then made may be half of it.
fn check_not_stopped(ctx: &Context<'_>) -> Result<(), StageError> {
    if ctx.cancel.is_asked() { Err(StageError::Cancelled) } else { Ok(()) }
}

fn failed(program: &str, how: &str, tail: &str, memory: Option<u64>) -> StageError {
    let message = match tail.trim_end() {
        "" => format!("`{program}` {how}, and printed nothing"),
        tail => format!("`{program}` {how}; the end of what it printed:\n{tail}"),
    };
    let hint = memory.map(|bytes| {
        format!(
            "each of its processes was held to the declared `memory` of {:.3} GB",
            bytes as f64 / 1e9
        )
    });
    StageError::Failed { message, hint }
}

/// The text with its placeholders filled in and `$${` become `${`; the name of a placeholder that
/// `value` does not know.
pub(crate) fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let (mut filled, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        let Some(end) = rest[at..].find('}') else { break };
        let name = &rest[at + 2..at + end];
        filled.push_str(&rest[..at]);
        filled.push_str(&value(name).ok_or(name)?);
        rest = &rest[at + end + 1..];
    }
    filled.push_str(rest);
    Ok(filled)
}

type Variables = BTreeMap<String, String>;

/// The variables of the command, and the secret values among what they are made of.
fn environment(
    ctx: &Context<'_>,
    given: &BTreeMap<String, SecretText>,
) -> Result<(Variables, Vec<String>), StageError> {
    let passed =
        PASSED.iter().filter_map(|name| Some((name.to_string(), (ctx.environment)(name)?)));
    let mut variables: Variables = passed.collect();
    let secrets = std::cell::RefCell::new(Vec::new());
    for (name, SecretText(text)) in given {
        let resolve = |placeholder: &str| {
            let value = (ctx.environment)(placeholder.strip_prefix("env:")?)?;
            secrets.borrow_mut().push(value.clone());
            Some(value)
        };
        let value = fill(text, resolve).map_err(|missing| StageError::Environment {
            message: format!("`environment.{name}` needs `${{{missing}}}`, which is not set"),
            hint: Some("set the variable before starting refrain".into()),
        })?;
        variables.insert(name.clone(), value);
    }
    let mut secrets = secrets.into_inner();
    secrets.retain(|secret| !secret.is_empty());
    Ok((variables, secrets))
}

/// Copies all inputs; returns the relative path of each.
fn copy_inputs(ctx: &Context<'_>, folder: &Path) -> Result<BTreeMap<String, String>, StageError> {
    let mut paths = BTreeMap::new();
    for (path, input) in ctx.inputs {
        let Some(name) = path.strip_prefix("inputs.") else { continue };
        ctx.cancel.check()?;
        let relative = match input {
            Input::Table { .. } => format!("in.{name}.parquet"),
            Input::Model { .. } | Input::File { .. } | Input::Folder { .. } => {
                format!("in.{name}")
            }
        };
        let target = folder.join(&relative);
        match input {
            Input::Model { .. } => copy_model(input.path(), &target)?,
            Input::Folder { path, .. } => copy_folder(path, &target)?,
            Input::Table { .. } | Input::File { .. } => {
                copy_file(input.path(), &target)
                    .map_err(|error| disk(input.path(), &target, &error))?;
            }
        }
        paths.insert(name.to_owned(), relative);
    }
    Ok(paths)
}

/// Copies the files of a model that its key is made of.
fn copy_model(from: &Path, to: &Path) -> Result<(), StageError> {
    create_dir_all(to).map_err(|error| disk(from, to, &error))?;
    ModelFolder::open(from).map_err(unreadable)?.copy_to(to).map_err(not_copied)
}

/// Copies the files of a folder that its key is made of.
fn copy_folder(from: &Path, to: &Path) -> Result<(), StageError> {
    let listed = Walk::whole(from).map_err(|error| StageError::failed(error.to_string()))?;
    for (name, path) in &listed.files {
        let target = to.join(name);
        let copied =
            create_dir_all(target.parent().unwrap_or(to)).and_then(|()| copy_file(path, &target));
        copied.map_err(|error| disk(path, &target, &error))?;
    }
    Ok(())
}

fn unreadable(error: ModelFolderError) -> StageError {
    StageError::Environment { message: error.to_string(), hint: None }
}

fn not_copied(error: CopyError) -> StageError {
    StageError::Environment { message: error.to_string(), hint: None }
}

fn disk(from: &Path, to: &Path, error: &io::Error) -> StageError {
    StageError::Environment {
        message: format!("`{}` could not be copied to `{}`: {error}", from.display(), to.display()),
        hint: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_escapes_are_undone() {
        let value = |name: &str| (name == "in.a").then(|| "in.a.parquet".to_owned());
        assert_eq!(
            fill("x=${in.a}, $${in.a} $5 ${", value),
            Ok("x=in.a.parquet, ${in.a} $5 ${".into())
        );
        assert_eq!(fill("$$${in.a}", value), Ok("$${in.a}".into()));
        assert_eq!(fill("${in.b}", value), Err("in.b".into()));
    }
}
