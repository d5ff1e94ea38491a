//! The manifest of a node's key: kind, versions, parameters, and the digests of its inputs.

use serde_json::{Map, Value, json};

use refrain_cache::{Artifact, Artifacts, Digest, Manifest};

use crate::graph::{Edge, Graph, Node, NodeId, Params, Work};
use crate::kind::{ArtifactKind, Kind};
use crate::source::TABLE_VERSION;

/// The digests that identify an artifact: its own and, for an adapter, those of what it is applied
/// to, the outermost first.
pub type Identity = Vec<Digest>;

/// Makes the manifest of a node whose inputs are done; `input` gives the identity of an input, `file`
/// is the digest of a source's file or folder.
pub fn manifest(
    node: &Node,
    input: impl Fn(&Edge) -> Option<Identity>,
    file: Option<Digest>,
) -> Option<Manifest> {
    build(node, |edge| Some(input_value(&input(edge)?)), file)
}

/// Makes a manifest as [`manifest`] does, with `unknown` in the place of inputs that are not done;
/// `None` for a source.
pub fn manifest_as_far(
    node: &Node,
    input: impl Fn(&Edge) -> Option<Identity>,
    unknown: impl Fn(&Edge) -> Value,
) -> Option<Manifest> {
    build(
        node,
        |edge| Some(input(edge).map_or_else(|| unknown(edge), |found| input_value(&found))),
        None,
    )
}

/// Finds the identity of the artifact that an edge refers to; `outputs` gives those of a node.
pub fn identity<'d>(
    graph: &Graph,
    edge: &Edge,
    outputs: &impl Fn(NodeId) -> Option<&'d Artifacts>,
) -> Option<Identity> {
    let mut edge = edge;
    let mut found = Vec::with_capacity(1);
    loop {
        let artifact = outputs(edge.node)?.get(&edge.output)?;
        if let Some(passed) = passed_edge(graph.node(edge.node), artifact, outputs) {
            edge = passed;
            continue;
        }
        found.push(artifact.digest);
        let Some(base) = artifact.base else { return Some(found) };
        match base_edge(graph.node(edge.node), &base, outputs) {
            Some(next) => edge = next,
            None => {
                found.push(base);
                return Some(found);
            }
        }
    }
}

/// Finds the edge by which a node reads the artifact that it passes on; `None` where it makes its
/// outputs itself.
pub fn passed_edge<'n, 'd>(
    node: &'n Node,
    artifact: &Artifact,
    outputs: &impl Fn(NodeId) -> Option<&'d Artifacts>,
) -> Option<&'n Edge> {
    let mut edges = node.inputs.iter().filter(|_| node.passes_on());
    edges.find(|edge| outputs(edge.node).and_then(|o| o.get(&edge.output)) == Some(artifact))
}

/// Finds the edge by which the node of an adapter reads the model that the adapter is applied to.
pub fn base_edge<'n, 'd>(
    node: &'n Node,
    base: &Digest,
    outputs: &impl Fn(NodeId) -> Option<&'d Artifacts>,
) -> Option<&'n Edge> {
    node.inputs.iter().find(|edge| {
        let artifact = outputs(edge.node).and_then(|outputs| outputs.get(&edge.output));
        artifact.is_some_and(|a| a.kind == ArtifactKind::Model && a.digest == *base)
    })
}

fn build(
    node: &Node,
    input: impl Fn(&Edge) -> Option<Value>,
    file: Option<Digest>,
) -> Option<Manifest> {
    let digest = file;
    let file = || digest.map(|d| Value::String(d.to_string()));
    Some(match &node.work {
        Work::Source(spec) => spec.manifest(&digest?),
        Work::Model(_) => {
            let mut inputs = inputs(node, input)?;
            inputs["folder"] = file()?;
            Manifest::new("model").section("inputs", inputs)
        }
        Work::Served(spec) if spec.tokenizer.is_some() => spec.manifest(Some(&digest?)),
        Work::Served(spec) => spec.manifest(None),
        Work::File(_) => Manifest::new("file").section("inputs", json!({ "file": file()? })),
        Work::Folder(_) => Manifest::new("folder").section("inputs", json!({ "folder": file()? })),
        Work::Unfetched(_) => return None,
        Work::Gather { axes, rows } => Manifest::new("gather")
            .section("versions", json!({ "gather": 1, "table": TABLE_VERSION }))
            .section("parameters", json!({ "axes": axes, "rows": rows }))
            .section("inputs", inputs(node, input)?),
        Work::Stage { kind, params } => Manifest::new(kind.name)
            .section("versions", versions(node, kind, params))
            .section("parameters", Value::Object(semantic(kind, params)))
            .section("inputs", inputs(node, input)?),
    })
}

fn versions(node: &Node, kind: &Kind, params: &Params) -> Value {
    let has = |path: &str| node.inputs.iter().any(|edge| edge.path == path);
    let own = kind.versions.and_then(|versions| versions(&params.to_map(), &has));
    Value::Object(own.unwrap_or_else(|| {
        kind.components.iter().map(|c| (c.name.to_string(), Value::from(c.version))).collect()
    }))
}

/// The parameters that can change a result.
fn semantic(kind: &Kind, params: &Params) -> Map<String, Value> {
    let knob = |name: &str| kind.params.iter().any(|p| p.name == name && !p.semantic);
    params.iter().filter(|(name, _)| !knob(name)).map(|(n, v)| (n.into(), v.clone())).collect()
}

fn inputs(node: &Node, input: impl Fn(&Edge) -> Option<Value>) -> Option<Value> {
    let mut digests = Map::new();
    for edge in &node.inputs {
        digests.insert(edge.path.clone(), input(edge)?);
    }
    Some(Value::Object(digests))
}

/// Writes an artifact's identity as it enters the key.
fn input_value(identity: &[Digest]) -> Value {
    match identity {
        [] => Value::Null,
        [digest] => Value::String(digest.to_string()),
        // An adapter is a model only together with its base.
        [adapter, base @ ..] => {
            json!({ "adapter": adapter.to_string(), "base": input_value(base) })
        }
    }
}
