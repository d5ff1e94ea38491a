//! Finds the file or folder that an entry of `models` or `data` names, and what it is.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::kind::ServedSpec;

use super::model_folder::ModelFolder;
use super::shards::{self, Shards};
use super::{OptionProblem, SourceSpec};

/// The referent of an entry of `models` or `data`.
#[derive(Debug)]
pub enum Located {
    /// A table, to be read.
    Table(SourceSpec),
    /// A model's folder, an adapter's, or a GGUF file.
    Model(PathBuf),
    /// A model that a server computes.
    Served(ServedSpec),
    /// A file that is passed on as it is.
    File(PathBuf),
    /// A folder that is passed on as it is.
    Folder(PathBuf),
}

/// Options that stand beside `server` alone.
const OF_SERVED: [&str; 4] = ["name", "tokenizer", "api", "key"];

/// Files that a model consists of.
const A_MODEL: &str = "a model is a folder with `config.json`, `*.safetensors` and `tokenizer.json`, \
                       or with a `*.gguf`, or such a file";

/// Resolves a checked entry, of `models` where `model` is set; its paths are relative to `folder`.
/// The `path` of a fetched one is where its files lie.
///
/// # Errors
/// A path that is absent or of the wrong kind, and options that do not fit together.
pub fn locate(
    folder: &Path,
    model: bool,
    values: &Map<String, Value>,
    based: bool,
) -> Result<Located, OptionProblem> {
    if values.contains_key("server") {
        return ServedSpec::new(folder, values).map(Located::Served);
    }
    if model && let Some(name) = OF_SERVED.iter().find(|name| values.contains_key(**name)) {
        let message = format!("`{name}` is for a model with `server`");
        return Err((name, message, Some("leave it out, or name the `server`".into())));
    }
    let Some(written) = values.get("path").and_then(Value::as_str) else {
        let (message, hint) = match model {
            true => (
                "a model needs `path`, `hub` or `server`",
                "`path` is its folder, `hub` its name on the Hugging Face hub, `server` the address \
                 of a server that computes it",
            ),
            false => (
                "a source needs `path`, `hub` or `url`",
                "`path` is its file or folder, `hub` a repository on the Hugging Face hub, `url` the \
                 address of a file on the web",
            ),
        };
        return Err(("path", message.into(), Some(hint.into())));
    };
    let path = folder.join(written);
    let wrong = |message: String, hint: Option<String>| Err(("path", message, hint));
    let ty = values.get("type").and_then(Value::as_str);
    let model = model || ty == Some("model");

    let is_table = !model && !matches!(ty, Some("file" | "folder"));
    let is_pattern = is_table && shards::is_glob(&path);
    if is_pattern && let Err(error) = Shards::find(&path, None) {
        return wrong(error.message, error.hint);
    }
    if !path.exists() && !is_pattern {
        let hint = match hub_id(written) {
            true => on_the_hub(written, model),
            false => "paths are relative to the workflow's own folder".into(),
        };
        return wrong(format!("there is no `{}`", path.display()), Some(hint));
    }
    if model {
        let folder = ModelFolder::open(&path);
        let Some(found) = folder.ok().filter(ModelFolder::is_model) else {
            let what =
                if path.is_dir() { "holds no `config.json`" } else { "is not a model's folder" };
            return wrong(format!("`{}` {what}", path.display()), Some(A_MODEL.into()));
        };
        if based && !found.is_adapter() {
            let message = format!(
                "`{}` has a `base`, but is not an adapter: it holds no `adapter_config.json`",
                path.display()
            );
            return Err(("base", message, Some("`base` is the model of an adapter".into())));
        }
        return Ok(Located::Model(path));
    }

    // Checked before anything is read: a pipe or a device may never end.
    if path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return wrong(format!("`{}` is a pipe or a device, not a file", path.display()), None);
    }
    match (ty, path.is_dir()) {
        (Some("file"), false) => Ok(Located::File(path)),
        (Some("folder"), true) => Ok(Located::Folder(path)),
        (Some("file"), true) => {
            let hint = "`type: folder` takes it as a whole";
            wrong(format!("`{}` is a folder, not a file", path.display()), Some(hint.into()))
        }
        (Some("folder"), false) => {
            wrong(format!("`{}` is a file, not a folder", path.display()), None)
        }
        _ => SourceSpec::new(path, values).map(Located::Table),
    }
}

/// Whether a path that is not there looks like a name of the Hugging Face hub, `org/name`.
fn hub_id(path: &str) -> bool {
    let part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(allowed)
    };
    let file =
        ["jsonl", "ndjson", "json", "parquet", "gguf", "csv", "tsv", "arrow", "txt", "gz", "zst"];
    let extension = Path::new(path).extension().and_then(|e| e.to_str()).unwrap_or_default();
    let (org, name) = path.split_once('/').unwrap_or_default();
    part(org) && part(name) && !file.contains(&extension)
}

fn on_the_hub(id: &str, model: bool) -> String {
    let file = if model { "" } else { ", file: FILE" };
    format!("is it a name of the Hugging Face hub? Then write `hub: {id}{file}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_files() {
        for id in ["Qwen/Qwen2.5-0.5B", "openai/gsm8k", "meta-llama/Llama-3.2-1B"] {
            assert!(hub_id(id), "{id}");
        }
        for path in ["rows.jsonl", "data/rows.jsonl", "../models/base", "a/b/c", "./base", "base/"]
        {
            assert!(!hub_id(path), "{path}");
        }
    }
}
