//! `refrain show`: the head of a table, what a model is, or where an artifact lies.

mod model;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use refrain_cache::{Artifact, TableReader, contained};
use refrain_engine::kind::{Input, ServedSpec};
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::plan;

use crate::cli::{self, Format};
use crate::command_error::CommandError;
use crate::output;
use crate::session::Session;

/// Characters of the longest name to which the cells are aligned.
const NAME: usize = 40;
/// Characters of one cell that are shown to people.
const CELL: usize = 60;

/// Shows an output of a node, or the card of a model's folder.
pub fn show(arguments: &cli::ShowArgs, format: Format) -> Result<ExitCode, CommandError> {
    let path = &arguments.workflow.workflow;
    match &arguments.node {
        Some(name) => guarded(name, || node(arguments, name, format)),
        None if path.is_dir() => {
            guarded(&path.display().to_string(), || folder(path, arguments.path, format))
        }
        None => Err(CommandError::with_hint(
            ErrorClass::Input,
            format!("`{}` is no model's folder, and no node of it is named", path.display()),
            "write `refrain show WORKFLOW NODE` or `refrain show FOLDER`",
        )),
    }
}

/// A panic of a library on what is shown becomes an error that names it.
fn guarded(
    name: &str,
    show: impl FnOnce() -> Result<ExitCode, CommandError>,
) -> Result<ExitCode, CommandError> {
    contained(show).unwrap_or_else(|panic| {
        let message = format!("a part of Refrain gave up on `{name}` ({panic})");
        Err(CommandError::with_hint(
            ErrorClass::Environment,
            message,
            "please report this, with what was to be shown",
        ))
    })
}

fn folder(path: &Path, only_path: bool, format: Format) -> Result<ExitCode, CommandError> {
    if only_path {
        output::text(&format!("{}\n", path.display()));
    } else {
        model::show(&model::Shown::folder(path)?, format)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn node(arguments: &cli::ShowArgs, name: &str, format: Format) -> Result<ExitCode, CommandError> {
    let session = Session::open(&arguments.workflow)?;
    let store = session.store()?;
    let (id, output_name) = find(&session, name)?;
    let plan = plan::look_up(&session.graph, &store)?;
    let (Some(done), Some(input)) = (plan.state.done(id), plan.state.output(id, &output_name))
    else {
        let message = format!("the cache does not hold `{name}`");
        return Err(CommandError::with_hint(ErrorClass::Input, message, "`refrain run` makes it"));
    };
    let path = input.path();
    if arguments.path {
        output::text(&format!("{}\n", path.display()));
        return Ok(ExitCode::SUCCESS);
    }
    match &input {
        Input::Table { path, .. } => table(path, arguments.rows, format)?,
        Input::Model { served: Some(spec), artifact, .. } => served(spec, artifact, format),
        Input::Model { folder, adapters, artifact, .. } => {
            let node = session.graph.node(id);
            let record = store.record(&done.key)?;
            let made = record.map(|record| model::Made { node: &node.name, record });
            let adapter = adapters.last().map(PathBuf::as_path);
            let base = plan.state.base(id, &output_name).map(|id| session.graph.node(id));
            let base = base.map(|base| if base.is_source() { &base.stage } else { &base.name });
            let shown = model::Shown {
                folder,
                adapter,
                base: base.map(String::as_str),
                digest: artifact.digest,
                bytes: artifact.bytes,
                made,
            };
            model::show(&shown, format)?;
        }
        Input::File { path, artifact } => place("file", path, artifact, format),
        Input::Folder { path, artifact } => place("folder", path, artifact, format),
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what identifies a served model, and where it is asked.
fn served(spec: &ServedSpec, artifact: &Artifact, format: Format) {
    let ServedSpec { address, name, revision, tokenizer, api, key: _ } = spec;
    if format == Format::Json {
        return output::json(&json!({ "refrain": 1, "served": {
            "name": name,
            "revision": revision,
            "api": api.word(),
            "tokenizer": tokenizer,
            "server": address,
            "digest": artifact.digest,
        } }));
    }
    let tokenizer = tokenizer.as_ref().map_or("the server's".into(), |t| t.display().to_string());
    for (what, value) in [
        ("name", name),
        ("revision", revision),
        ("api", &api.word().to_owned()),
        ("tokenizer", &tokenizer),
        ("server", address),
        ("digest", &artifact.digest.to_string()),
    ] {
        output::line(&format!("{what:10}  {value}"));
    }
}

fn place(kind: &str, path: &Path, artifact: &Artifact, format: Format) {
    if format == Format::Json {
        let place = json!({ "path": path, "bytes": artifact.bytes, "digest": artifact.digest });
        return output::json(&json!({ "refrain": 1, kind: place }));
    }
    output::line(&format!("path    {}", path.display()));
    output::line(&format!("bytes   {}", artifact.bytes));
    output::line(&format!("digest  {}", artifact.digest));
}

/// The node and output that `NODE` or `NODE.OUTPUT` means.
fn find(
    session: &Session,
    name: &str,
) -> Result<(refrain_engine::graph::NodeId, String), CommandError> {
    let whole = session.node(name);
    if whole.is_err()
        && let Some((node, output)) = name.rsplit_once('.')
        && let Ok(id) = session.node(node)
    {
        return Ok((id, output.to_string()));
    }
    Ok((whole?, refrain_engine::kind::MAIN.to_string()))
}

fn table(path: &Path, rows: usize, format: Format) -> Result<(), CommandError> {
    let reader = TableReader::open(path)?;
    let schema = reader.schema();
    let total = reader.rows();
    let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
    let mut shown: Vec<Value> = Vec::new();
    for batch in reader.batches(None, rows.max(1))? {
        if shown.len() >= rows {
            break;
        }
        let batch = batch?;
        let batch = batch.slice(0, batch.num_rows().min(rows - shown.len()));
        let mut writer = arrow::json::writer::ArrayWriter::new(Vec::new());
        let text =
            writer.write(&batch).and_then(|()| writer.finish()).map(|()| writer.into_inner());
        let text = text.map_err(|e| CommandError::new(ErrorClass::Input, e.to_string()))?;
        let batch: Vec<Value> = serde_json::from_slice(&text).unwrap_or_default();
        shown.extend(batch);
    }
    if format == Format::Json {
        output::json(&json!({ "refrain": 1, "rows": total, "columns": names, "head": shown }));
        return Ok(());
    }
    let width = names.iter().map(String::len).max().unwrap_or(0).min(NAME);
    output::line(&format!("{total} rows, {} columns", names.len()));
    for (i, row) in shown.iter().enumerate() {
        output::line(&format!("row {i}"));
        for name in &names {
            let cell = match &row[name] {
                Value::Null => "null".to_string(),
                Value::String(text) => text.replace('\n', "\\n"),
                other => other.to_string(),
            };
            let cut: String = cell.chars().take(CELL).collect();
            let more = if cut.len() < cell.len() { "…" } else { "" };
            output::line(&format!("  {name:width$}  {cut}{more}"));
        }
    }
    Ok(())
}
