//! Turns the declaration of a source into its work: a table, a model or a file that is there.

use std::path::Path;

use serde_json::{Map, Value};

use crate::graph::{Edge, FetchedSource, NodeId, Work};
use crate::kind::{ArtifactKind, ModelFacts, Reference, ServedSpec};
use crate::language::diagnostic::Diagnostic;
use crate::language::workflow::SourceDecl;
use crate::language::yaml::Node;
use crate::source::fetched::Found;
use crate::source::model_folder::ModelFolder;
use crate::source::recorded::RecordedSource;
use crate::source::upstream::{self, Upstream};
use crate::source::{self, Located, OptionProblem, SourceSpec};

use super::template::Values;
use super::{Builder, Decl};

/// What was found of a source beside its work.
#[derive(Default)]
pub(super) struct FoundSource {
    /// Its record, where its files are absent.
    pub absent: Option<RecordedSource>,
    /// Its upstream, where it has one.
    pub fetched: Option<FetchedSource>,
}

impl Builder<'_> {
    /// Returns the work of a source and the kind of its artifact. The `path` of one that is fetched
    /// is set to where its files lie.
    pub(super) fn source_work(
        &self,
        source: &SourceDecl,
        name: &str,
        params: &mut Map<String, Value>,
        edges: &[Edge],
        values: &Values,
    ) -> Result<(FoundSource, Work, ArtifactKind), Diagnostic> {
        if let Some(edge) = edges.iter().find(|edge| !self.is_model_source(edge)) {
            return Err(self.not_a_model(edge, values));
        }
        let wrong = |problem: OptionProblem| wrong_option(problem, source, values);
        let mut found = FoundSource::default();
        let upstream = Upstream::of(source.model, params).map_err(wrong)?;
        let mut unfetched = None;
        match upstream {
            None => found.absent = self.absent(name, params, values),
            Some(upstream) => {
                let source_name = &source.name.text;
                let place = self.find.find(source_name, &upstream);
                if place.is_none() {
                    let is_pinned = self.find.is_pinned(source_name, &upstream);
                    found.absent = is_pinned.then(|| (self.recorded)(name)).flatten();
                    unfetched = Some(upstream::kind(source.model, params));
                }
                let path =
                    place.as_ref().map_or_else(|| upstream.placeholder(), |f| f.path.clone());
                params.insert("path".into(), path.to_string_lossy().into());
                let pin = place.and_then(|Found { pin, .. }| pin);
                found.fetched = Some(FetchedSource { upstream, pin });
            }
        }
        if let Some(recorded) = &found.absent {
            let (work, kind) = self.absent_work(recorded, params, values).map_err(wrong)?;
            return Ok((found, work, kind));
        }
        if let Some(kind) = unfetched {
            return Ok((found, Work::Unfetched(kind), kind));
        }

        let based = edges.iter().any(|edge| edge.path == "base");
        let located = source::locate(self.folder(values), source.model, params, based);
        let (work, kind) = match located.map_err(wrong)? {
            Located::Table(spec) => (Work::Source(spec.recognized()), ArtifactKind::Table),
            Located::Model(path) => (Work::Model(path), ArtifactKind::Model),
            Located::Served(spec) => (Work::Served(spec.into()), ArtifactKind::Model),
            Located::File(path) => (Work::File(path), ArtifactKind::File),
            Located::Folder(path) => (Work::Folder(path), ArtifactKind::Folder),
        };
        Ok((found, work, kind))
    }

    /// Returns the work of a source whose files are absent.
    fn absent_work(
        &self,
        recorded: &RecordedSource,
        params: &Map<String, Value>,
        values: &Values,
    ) -> Result<(Work, ArtifactKind), OptionProblem> {
        let kind = recorded.artifact.kind;
        if params.contains_key("server") {
            let spec = ServedSpec::recorded(self.folder(values), params)?;
            return Ok((Work::Served(spec.into()), kind));
        }
        let written = params.get("path").and_then(Value::as_str).unwrap_or_default();
        let path = self.folder(values).join(written);
        let work = match kind {
            ArtifactKind::Model => Work::Model(path),
            ArtifactKind::File => Work::File(path),
            ArtifactKind::Folder => Work::Folder(path),
            ArtifactKind::Table => Work::Source(SourceSpec::new(path, params)?.recorded(recorded)),
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
    fn absent(
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
        let work = &self.nodes[edge.node.index()].work;
        matches!(work, Work::Model(_) | Work::Unfetched(ArtifactKind::Model))
    }

    /// Refers an adapter that names no base to the one other model of the workflow, if there is one
    /// and its place is written out.
    pub(super) fn only_base(&self, decl: Decl, values: &Values) -> Option<Reference> {
        let source = self.workflow.sources.get(decl).filter(|source| source.model)?;
        let given = values.references().iter().any(|reference| reference.path == "base");
        if given || !self.is_adapter(source, &values.to_map(), self.folder(values)) {
            return None;
        }
        let scope = &self.workflow.scopes[source.node.scope.index()];
        let written = |other: &SourceDecl| -> Map<String, Value> {
            let text = |name: &str| Some(Value::from(&*other.node.get(name).and_then(Node::text)?));
            let names = ["path", "hub", "revision", "file"];
            names.into_iter().filter_map(|name| Some((name.to_owned(), text(name)?))).collect()
        };
        let is_base = |other: &&SourceDecl| {
            let values = written(other);
            other.model
                && other.node.scope == source.node.scope
                && (values.contains_key("path") || values.contains_key("hub"))
                && !self.is_adapter(other, &values, &scope.folder)
        };
        let others: Vec<&SourceDecl> = self.workflow.sources.iter().filter(is_base).collect();
        let [base] = others[..] else { return None };
        let is_computed = |value: &Value| value.as_str().is_some_and(|text| text.contains("${"));
        if written(base).values().any(is_computed) {
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
    fn is_adapter(&self, source: &SourceDecl, values: &Map<String, Value>, folder: &Path) -> bool {
        let name = &source.name.text;
        let path = match Upstream::of(true, values) {
            Ok(Some(upstream)) => self.find.find(name, &upstream).map(|found| found.path),
            _ => values.get("path").and_then(Value::as_str).map(|path| folder.join(path)),
        };
        match path.filter(|path| path.exists()) {
            Some(path) => ModelFolder::open(&path).is_ok_and(|folder| folder.is_adapter()),
            None => (self.recorded)(name).is_some_and(|model| model.artifact.base.is_some()),
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

/// The problem of an option of a source.
fn wrong_option(
    (at, message, hint): OptionProblem,
    source: &SourceDecl,
    values: &Values,
) -> Diagnostic {
    let place = [at, "path", "hub", "url"].into_iter().find_map(|name| values.place(name));
    Diagnostic::at(place.unwrap_or(source.name.span.clone()), message).maybe_hint(hint)
}
