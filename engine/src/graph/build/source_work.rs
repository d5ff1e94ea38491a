//! Turns the declaration of a source into its work: a table, a model or a file that is there.

use std::path::Path;

use serde_json::{Map, Value};

use crate::graph::{Edge, NodeId, Work};
use crate::kind::{ArtifactKind, ModelFacts, Reference, ServedSpec};
use crate::language::diagnostic::Diagnostic;
use crate::language::yaml::Node;
use crate::source::model_folder::ModelFolder;
use crate::source::recorded::RecordedSource;
use crate::source::{self, Located, SourceSpec};

use super::template::Values;
use super::{Builder, Decl};

impl Builder<'_> {
    /// Returns the work of a source and the kind of its artifact.
    pub(super) fn source_work(
        &self,
        model: bool,
        params: &Map<String, Value>,
        edges: &[Edge],
        values: &Values,
        absent: Option<&RecordedSource>,
    ) -> Result<(Work, ArtifactKind), Diagnostic> {
        if let Some(edge) = edges.iter().find(|edge| !self.is_model_source(edge)) {
            return Err(self.not_a_model(edge, values));
        }
        if let Some(recorded) = absent {
            return self.absent_work(recorded, params, values);
        }
        let based = edges.iter().any(|edge| edge.path == "base");
        let located = source::locate(self.folder(values), model, params, based);
        let located = located.map_err(|(at, message, hint)| {
            let span = values.place(at).or(values.place("path")).unwrap_or(0..0);
            Diagnostic::at(span, message).maybe_hint(hint)
        })?;
        Ok(match located {
            Located::Table(spec) => (Work::Source(spec.recognized()), ArtifactKind::Table),
            Located::Model(path) => (Work::Model(path), ArtifactKind::Model),
            Located::Served(spec) => (Work::Served(spec.into()), ArtifactKind::Model),
            Located::File(path) => (Work::File(path), ArtifactKind::File),
            Located::Folder(path) => (Work::Folder(path), ArtifactKind::Folder),
        })
    }

    /// Returns the work of a source whose files are absent.
    fn absent_work(
        &self,
        recorded: &RecordedSource,
        params: &Map<String, Value>,
        values: &Values,
    ) -> Result<(Work, ArtifactKind), Diagnostic> {
        let kind = recorded.artifact.kind;
        if params.contains_key("server") {
            let spec = ServedSpec::recorded(self.folder(values), params);
            let spec = spec.map_err(|(at, message, hint)| {
                let span = values.place(at).unwrap_or(0..0);
                Diagnostic::at(span, message).maybe_hint(hint)
            })?;
            return Ok((Work::Served(spec.into()), kind));
        }
        let written = params.get("path").and_then(Value::as_str).unwrap_or_default();
        let path = self.folder(values).join(written);
        let work = match kind {
            ArtifactKind::Model => Work::Model(path),
            ArtifactKind::File => Work::File(path),
            ArtifactKind::Folder => Work::Folder(path),
            ArtifactKind::Table => {
                let spec = SourceSpec::new(path, params).map_err(|(at, message, hint)| {
                    let span = values.place(at).unwrap_or(0..0);
                    Diagnostic::at(span, message).maybe_hint(hint)
                })?;
                Work::Source(spec.recorded(recorded))
            }
        };
        Ok((work, kind))
    }

    /// Returns the facts of a source model: from its files, or as they were recorded.
    pub(super) fn model_facts(&self, id: NodeId) -> ModelFacts {
        match self.absent.get(&id) {
            Some(recorded) => recorded.facts.clone(),
            None => self.nodes[id.index()].work.model_facts(&self.workflow.kinds),
        }
    }

    /// Returns what was recorded of a source whose file or folder is absent.
    pub(super) fn absent(
        &self,
        name: &str,
        params: &Map<String, Value>,
        values: &Values,
    ) -> Option<RecordedSource> {
        let name_of_path = if params.contains_key("server") { "tokenizer" } else { "path" };
        let path = params.get(name_of_path).and_then(Value::as_str)?;
        if source::exists(&self.folder(values).join(path)) {
            return None;
        }
        (self.recorded)(name)
    }

    /// Returns the folder of the file that names a source's path.
    fn folder(&self, values: &Values) -> &Path {
        &self.workflow.scopes[values.scope("path").index()].folder
    }

    fn is_model_source(&self, edge: &Edge) -> bool {
        matches!(self.nodes[edge.node.index()].work, Work::Model(_))
    }

    /// Refers an adapter that names no base to the one other model of the workflow, if there is one
    /// and its path is written out.
    pub(super) fn only_base(&self, decl: Decl, values: &Values) -> Option<Reference> {
        let source = self.workflow.sources.get(decl).filter(|source| source.model)?;
        let given = values.references().iter().any(|reference| reference.path == "base");
        let path = values.to_map().get("path")?.as_str()?.to_owned();
        if given || !self.is_adapter(&source.name.text, &self.folder(values).join(path)) {
            return None;
        }
        let scope = &self.workflow.scopes[source.node.scope.index()];
        let others = self.workflow.sources.iter().filter(|other| {
            let path = other.node.get("path").and_then(Node::text);
            let path = path.map(|path| scope.folder.join(&*path));
            other.model
                && other.node.scope == source.node.scope
                && path.is_some_and(|path| !self.is_adapter(&other.name.text, &path))
        });
        let [base] = others.collect::<Vec<_>>()[..] else { return None };
        if base.node.get("path")?.text()?.contains("${") {
            return None;
        }
        Some(Reference {
            path: "base".into(),
            name: base.name.text[scope.prefix.len()..].into(),
            span: source.name.span.clone(),
            scope: source.node.scope,
            kind: Some(ArtifactKind::Model),
            metric: None,
        })
    }

    /// Whether a model is an adapter, by its folder, or as it was recorded where the folder is absent.
    fn is_adapter(&self, name: &str, path: &Path) -> bool {
        match path.exists() {
            true => ModelFolder::open(path).is_ok_and(|folder| folder.is_adapter()),
            false => (self.recorded)(name).is_some_and(|model| model.artifact.base.is_some()),
        }
    }

    /// The problem of a model whose base is made by a stage.
    fn not_a_model(&self, edge: &Edge, values: &Values) -> Diagnostic {
        let base = &self.nodes[edge.node.index()].stage;
        let span = values.place(&edge.path).unwrap_or(0..0);
        if matches!(self.nodes[edge.node.index()].work, Work::Served(_)) {
            let message = format!("`base` needs weights, and a server holds those of `{base}`");
            return Diagnostic::at(span, message)
                .hint("name the folder of the model that the adapter was trained on");
        }
        let message = format!("`base` must be an entry of `models`, but `{base}` is a stage");
        Diagnostic::at(span, message)
            .hint("the adapter that a stage trains knows its base: use that stage as the model")
    }
}
