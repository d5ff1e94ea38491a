//! `refrain show`: the head of a table, what a model is, or where an artifact lies.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use refrain_cache::{ArtifactKind, TableReader};
use refrain_engine::plan;

use crate::cli::{self, Format};
use crate::failure::{Failure, INPUT};
use crate::output;
use crate::session::Session;

/// Characters of one cell that are shown to people.
const CELL: usize = 60;

/// Shows an output of a node.
pub fn show(arguments: &cli::Show, format: Format) -> Result<ExitCode, Failure> {
    let session = Session::open(&arguments.node.workflow)?;
    let store = session.store()?;
    let (id, output_name) = find(&session, &arguments.node.node)?;
    let node = session.graph.node(id);
    let plan = plan::plan(&session.graph, &store, &session.lock()?.keys())?;
    let artifact = plan.state.done(id).and_then(|d| d.artifacts.get(&output_name));
    let path = plan.state.output_path(id, &output_name);
    let (Some(artifact), Some(path)) = (artifact, path) else {
        let message = format!("the cache does not hold `{}`", arguments.node.node);
        return Err(Failure::with_hint(INPUT, message, "`refrain run` makes it"));
    };
    if arguments.path {
        output::text(&format!("{}\n", path.display()));
        return Ok(ExitCode::SUCCESS);
    }
    match artifact.kind {
        ArtifactKind::Table => table(&path, arguments.rows, format)?,
        ArtifactKind::Model => model(&path, &node.name, artifact, format),
        ArtifactKind::File => {
            let card =
                json!({ "refrain": 1, "path": path, "bytes": artifact.bytes, "digest": artifact.digest });
            print_card(&card, format);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The node and output that `NODE` or `NODE.OUTPUT` means.
fn find(session: &Session, name: &str) -> Result<(refrain_engine::graph::NodeId, String), Failure> {
    let whole = session.node(name);
    if whole.is_err()
        && let Some((node, output)) = name.rsplit_once('.')
        && let Ok(id) = session.node(node)
    {
        return Ok((id, output.to_string()));
    }
    Ok((whole?, refrain_engine::kind::MAIN.to_string()))
}

fn table(path: &Path, rows: usize, format: Format) -> Result<(), Failure> {
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
        let text = writer.write(&batch).and_then(|()| writer.finish()).map(|()| writer.into_inner());
        let text = text.map_err(|e| Failure::new(INPUT, e.to_string()))?;
        let batch: Vec<Value> = serde_json::from_slice(&text).unwrap_or_default();
        shown.extend(batch);
    }
    if format == Format::Json {
        output::json(&json!({ "refrain": 1, "rows": total, "columns": names, "head": shown }));
        return Ok(());
    }
    let width = names.iter().map(String::len).max().unwrap_or(0);
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

fn model(path: &Path, name: &str, artifact: &refrain_cache::Artifact, format: Format) {
    let read =
        |file: &str| -> Option<Value> { serde_json::from_slice(&std::fs::read(path.join(file)).ok()?).ok() };
    let config = read("config.json").unwrap_or(Value::Null);
    let adapter = read("adapter_config.json").unwrap_or(Value::Null);
    let card = json!({
        "refrain": 1,
        "name": name,
        "path": path,
        "digest": artifact.digest,
        "bytes": artifact.bytes,
        "base": artifact.base,
        "family": config["model_type"],
        "hidden_size": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "vocabulary": config["vocab_size"],
        "context": config["max_position_embeddings"],
        "adapter_rank": adapter["r"],
        "adapter_alpha": adapter["lora_alpha"],
        "adapter_targets": adapter["target_modules"],
    });
    print_card(&card, format);
}

fn print_card(card: &Value, format: Format) {
    if format == Format::Json {
        return output::json(card);
    }
    let Value::Object(fields) = card else { return };
    for (name, value) in fields.iter().filter(|(n, v)| *n != "refrain" && !v.is_null()) {
        let text = value.as_str().map_or_else(|| value.to_string(), String::from);
        output::line(&format!("{name:16} {text}"));
    }
}
