//! What each node's key is made of: kind, versions, parameters, and the digests of its inputs.

use std::path::Path;

use serde_json::{Map, Value, json};

use refrain_cache::{Artifacts, Digest, FileDigests, Manifest};

use crate::graph::{Node, Work};
use crate::kind::{ArtifactKind, Kind};
use crate::source;
use crate::source::model_folder::{HashError, hash_model};

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

fn build(
    node: &Node,
    input: impl Fn(usize) -> Option<Value>,
    file: Option<Digest>,
) -> Option<Manifest> {
    let file = || file.map(|d| Value::String(d.to_string()));
    Some(match &node.work {
        Work::Source(spec) => Manifest::new("source")
            .section("versions", json!({ "source": source::VERSION, "table": TABLE_VERSION }))
            .section("parameters", spec.options())
            .section("inputs", json!({ "file": file()? })),
        Work::Model(_) => {
            // The base of an adapter, where there is one.
            let Value::Object(mut digests) = inputs(node, input)? else { return None };
            digests.insert("folder".into(), file()?);
            Manifest::new("model").section("inputs", Value::Object(digests))
        }
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
    Value::Object(
        kind.components.iter().map(|c| (c.name.to_string(), Value::from(c.version))).collect(),
    )
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

/// The digest and size of a source's file, or of what counts in a model's folder.
pub fn hash_source(
    work: &Work,
    digests: &FileDigests,
) -> Result<Option<(Digest, u64, ArtifactKind)>, HashError> {
    let file =
        |path: &Path| digests.get(path).map_err(|error| HashError::Io { path: path.into(), error });
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
