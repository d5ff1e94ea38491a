//! What each node's key is made of: kind, versions, parameters, and the digests of its inputs.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use refrain_cache::{Artifacts, Digest, FileDigests, Manifest, digest_listing};

use crate::graph::{Node, Work};
use crate::kind::{ArtifactKind, Kind};
use crate::source;

/// Version of the tables' bytes: schema conventions, codec, row groups.
const TABLE_VERSION: u32 = 1;

/// The manifest of a node whose inputs are done; `input` has the outputs of the node that an input reads, `file` is the
/// digest of a source's file or folder.
pub fn manifest<'d>(
    node: &Node,
    input: impl Fn(usize) -> Option<&'d Artifacts>,
    file: Option<Digest>,
) -> Option<Manifest> {
    build(node, |i| input_value(node, i, input(i)), file)
}

/// As [`manifest`], with `unknown` in the place of inputs that are not done; `None` for a source.
pub fn manifest_as_far<'d>(
    node: &Node,
    input: impl Fn(usize) -> Option<&'d Artifacts>,
    unknown: impl Fn(usize) -> Value,
) -> Option<Manifest> {
    build(node, |i| Some(input_value(node, i, input(i)).unwrap_or_else(|| unknown(i))), None)
}

fn build(node: &Node, input: impl Fn(usize) -> Option<Value>, file: Option<Digest>) -> Option<Manifest> {
    let file = || file.map(|d| Value::String(d.to_string()));
    Some(match &node.work {
        Work::Source(spec) => Manifest::new("source")
            .section("versions", json!({ "source": source::VERSION, "table": TABLE_VERSION }))
            .section("parameters", spec.options())
            .section("inputs", json!({ "file": file()? })),
        Work::Model(_) => Manifest::new("model").section("inputs", json!({ "folder": file()? })),
        Work::File(_) => Manifest::new("file").section("inputs", json!({ "file": file()? })),
        Work::Gather { axes, rows } => Manifest::new("gather")
            .section("versions", json!({ "gather": 1, "table": TABLE_VERSION }))
            .section("parameters", json!({ "axes": axes, "rows": rows }))
            .section("inputs", inputs(node, input)?),
        Work::Stage { kind, params } => Manifest::new(kind.name)
            .section("versions", versions(kind))
            .section("parameters", Value::Object(semantic(kind, params)))
            .section("inputs", inputs(node, input)?),
    })
}

fn versions(kind: &Kind) -> Value {
    Value::Object(kind.components.iter().map(|c| (c.name.to_string(), Value::from(c.version))).collect())
}

/// The parameters that can change a result.
fn semantic(kind: &Kind, params: &Map<String, Value>) -> Map<String, Value> {
    let knob = |name: &str| kind.params.iter().any(|p| p.name == name && !p.semantic);
    params.iter().filter(|(name, _)| !knob(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

fn inputs(node: &Node, input: impl Fn(usize) -> Option<Value>) -> Option<Value> {
    let mut digests = Map::new();
    for (i, edge) in node.inputs.iter().enumerate() {
        digests.insert(edge.path.clone(), input(i)?);
    }
    Some(Value::Object(digests))
}

/// An input of a node as it enters the key, when the outputs of the node that it comes from are known.
fn input_value(node: &Node, i: usize, outputs: Option<&Artifacts>) -> Option<Value> {
    let artifact = outputs?.get(&node.inputs[i].output)?;
    // An adapter is a model only together with its base.
    Some(match artifact.base {
        Some(base) => json!({ "adapter": artifact.digest.to_string(), "base": base.to_string() }),
        None => Value::String(artifact.digest.to_string()),
    })
}

/// Why the files of a source could not be hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The system refused.
    #[error("cannot read `{}`: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A model folder holds weights in a format that runs code when it is read.
    #[error("`{}` is a pickle, which runs code when it is read", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
    },
}

/// The digest and size of a source's file, or of what counts in a model's folder.
pub fn hash_source(
    work: &Work,
    digests: &FileDigests,
) -> Result<Option<(Digest, u64, ArtifactKind)>, HashError> {
    let file = |path: &Path| digests.get(path).map_err(|error| HashError::Io { path: path.into(), error });
    Ok(match work {
        Work::Source(spec) => file(&spec.path).map(|(d, n)| Some((d, n, ArtifactKind::Table)))?,
        Work::File(path) => file(path).map(|(d, n)| Some((d, n, ArtifactKind::File)))?,
        Work::Model(path) => {
            let (digest, bytes) = hash_model(path, digests)?;
            Some((digest, bytes, ArtifactKind::Model))
        }
        Work::Gather { .. } | Work::Stage { .. } => None,
    })
}

fn hash_model(folder: &Path, digests: &FileDigests) -> Result<(Digest, u64), HashError> {
    let io = |error| HashError::Io { path: folder.into(), error };
    if folder.is_file() {
        return digests.get(folder).map_err(io);
    }
    let mut listing = Vec::new();
    let mut bytes = 0;
    let mut weights = false;
    let mut pickle = None;
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        if name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth") {
            pickle = Some(path.clone());
        }
        // The one file in a subfolder that counts: how an embedding model pools.
        let (name, path) = match name.ends_with("_Pooling") {
            true => (format!("{name}/config.json"), path.join("config.json")),
            false => (name.to_string(), path),
        };
        if counts(&name) && path.is_file() {
            weights |= name.ends_with(".safetensors") || name.ends_with(".gguf");
            let (digest, size) =
                digests.get(&path).map_err(|error| HashError::Io { path: path.clone(), error })?;
            listing.push((name, digest));
            bytes += size;
        }
    }
    match pickle {
        Some(path) if !weights => Err(HashError::Pickle { path }),
        _ => Ok((digest_listing(&listing), bytes)),
    }
}

/// The GGUF files of a model folder, sorted by name.
///
/// # Errors
/// Those of reading the folder.
pub fn gguf_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let paths: std::io::Result<Vec<PathBuf>> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    paths.retain(|path| is_gguf(path));
    paths.sort();
    Ok(paths)
}

/// Whether a path names a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf") && path.is_file()
}

/// Whether a file of a model folder determines what the model computes.
pub fn counts(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "chat_template.jinja",
        "chat_template.json",
        "modules.json",
        "sentence_bert_config.json",
    ];
    NAMES.contains(&name)
        || name.ends_with(".safetensors")
        || name.ends_with(".gguf")
        || name.starts_with("adapter_") && name.ends_with(".json")
        || name.ends_with("_Pooling/config.json")
}
