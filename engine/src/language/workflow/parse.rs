//! Reads the sections of a workflow into [`Workflow`] and checks their shape and names.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::kind::{Kind, Kinds, Taker};
use crate::language::diagnostic::{
    Diagnostic, Diagnostics, SourceText, Span, listed, similar, suggest,
};
use crate::language::scalar::check_name;
use crate::language::yaml::{self, Key, Node, ScopeId, Yaml};

use super::about::{self, About};
use super::include::Includer;
use super::repeat::{self, LoopDecl, ROUND};
use super::settings::{self, NAMES as SETTINGS};
use super::{Axis, NameScope, Override, ParamDecl, RESERVED, SourceDecl, Stage, Workflow};

const SECTIONS: [&str; 15] = [
    "refrain",
    "name",
    "description",
    "license",
    "authors",
    "date",
    "params",
    "models",
    "data",
    "include",
    "stages",
    "sweep",
    "compare",
    "expect",
    "results",
];

pub(super) fn workflow(
    source: SourceText,
    kinds: &Kinds,
    overrides: &[Override],
) -> Result<Workflow, Diagnostics> {
    // A source that was read before brings the files that it included then.
    let source = SourceText { included: Vec::new(), ..source };
    let root = match yaml::parse(&source.text) {
        Ok(root) => root,
        Err(problem) => return Err(Diagnostics::new(source, vec![problem])),
    };
    if !matches!(root.value, Yaml::Map(_)) {
        let problem = Diagnostic::at(root.span, "a workflow is a mapping")
            .hint("it begins with `refrain: 1`, a `name` and `stages`");
        return Err(Diagnostics::new(source, vec![problem]));
    }
    let mut reader = Reader::new(source.folder().to_path_buf(), source);
    let parts = reader.sections(&root, kinds);
    let source = std::mem::take(&mut reader.source);
    let FileParts {
        name,
        about,
        params,
        sources,
        stages,
        loops,
        axes,
        compare,
        expect,
        results,
        includes,
    } = parts;
    let folder = source.folder().to_path_buf();
    let scopes = vec![NameScope { params, folder, ..NameScope::default() }];
    let (set, rounds, kinds) = (Vec::new(), None, kinds.clone());
    let mut workflow = Workflow {
        source,
        name,
        about,
        scopes,
        sources,
        stages,
        axes,
        compare,
        rounds,
        expect,
        results,
        set,
        kinds,
    };
    let of_loops = repeat::add(&mut workflow, loops, ScopeId::ROOT);
    if !includes.is_empty() || !of_loops.is_empty() {
        let own = workflow.source.path.canonicalize();
        let chain = [own.unwrap_or_else(|_| workflow.source.path.clone())];
        let kinds = workflow.kinds.clone();
        let mut includer = Includer::new(&kinds, &workflow);
        includer.all(&mut workflow, &includes, ScopeId::ROOT, &chain);
        includer.all_of_loops(&mut workflow, &of_loops, &chain);
        reader.problems.append(&mut includer.problems);
    }
    if reader.problems.is_empty() {
        repeat::check_carried(&workflow, &mut reader.problems);
    }
    reader.overrides(&mut workflow, overrides);
    if let Some(first) = workflow.scopes.iter().find_map(|scope| scope.repeat.as_ref()) {
        let key = Key { text: ROUND.into(), span: first.span.clone() };
        reader.name(&key, "the axis of `repeat`");
        repeat::count_rounds(&mut workflow, &mut reader.problems);
    }
    if reader.problems.is_empty() {
        Ok(workflow)
    } else {
        Err(Diagnostics::new(workflow.source, reader.problems))
    }
}

/// The sections of one file.
pub(super) struct FileParts {
    pub name: String,
    pub about: About,
    pub params: Vec<ParamDecl>,
    pub sources: Vec<SourceDecl>,
    pub stages: Vec<Stage>,
    pub loops: Vec<LoopDecl>,
    pub axes: Vec<Axis>,
    pub compare: Vec<(Key, Node)>,
    pub expect: Vec<(Node, Span)>,
    pub results: Option<Node>,
    pub includes: Vec<(Key, Node)>,
}

/// Reads the sections of a file one by one and collects their problems.
#[derive(Default)]
pub(super) struct Reader {
    pub problems: Vec<Diagnostic>,
    /// The texts that the workflow consists of so far, to which the files that stages name are added.
    pub source: SourceText,
    /// The folder that paths start from.
    pub folder: PathBuf,
    /// Every name of the shared namespace, with its bearer.
    names: HashMap<String, (&'static str, Span)>,
}

impl Reader {
    pub(super) fn new(folder: PathBuf, source: SourceText) -> Reader {
        Reader { folder, source, ..Reader::default() }
    }

    pub(super) fn problem(&mut self, problem: Diagnostic) {
        self.problems.push(problem);
    }

    pub(super) fn sections(&mut self, root: &Node, kinds: &Kinds) -> FileParts {
        for (key, _) in root.entries() {
            if !SECTIONS.contains(&key.text.as_str()) {
                self.problem(
                    Diagnostic::at(
                        key.span.clone(),
                        format!("a workflow has no section `{}`", key.text),
                    )
                    .maybe_hint(suggest(
                        &key.text,
                        SECTIONS,
                        "its sections are",
                    )),
                );
            }
        }
        self.version(root);
        let name = match root.get("name").map(|n| (&n.value, n.span.clone())) {
            Some((Yaml::Text(name), _)) => name.clone(),
            Some((_, span)) => {
                self.problem(Diagnostic::at(span, "`name` must be text"));
                String::new()
            }
            None => "workflow".into(),
        };
        let about = about::read(root, self);
        let axes = self.sweep(root.get("sweep"));
        let params = self.section(root, "params").to_vec();
        for (key, _) in &params {
            if !axes.iter().any(|a| a.name == key.text) {
                self.name(key, "a param");
            }
        }
        let param = |(name, value)| ParamDecl { name, value, given: None };
        let params = params.into_iter().map(param).collect();
        let mut sources = Vec::new();
        for (section, model) in [("models", true), ("data", false)] {
            for (key, node) in self.section(root, section).to_vec() {
                self.name(&key, if model { "a model" } else { "a source" });
                sources.push(SourceDecl { name: key, node, model });
            }
        }
        let includes = self.section(root, "include").to_vec();
        includes.iter().for_each(|(key, _)| self.name(key, "an include"));
        let (stages, loops) = self.stages(root, !includes.is_empty(), kinds);
        let compare = self.comparisons(root);
        let expect = match root.get("expect").map(|n| (&n.value, &n.span)) {
            None | Some((Yaml::Null, _)) => Vec::new(),
            Some((Yaml::List(items), _)) => {
                items.iter().map(|n| (n.clone(), n.span.clone())).collect()
            }
            Some((_, span)) => {
                self.problem(Diagnostic::at(span.clone(), "`expect` must be a list"));
                Vec::new()
            }
        };
        let results = root.get("results").cloned();
        FileParts {
            name,
            about,
            params,
            sources,
            stages,
            loops,
            axes,
            compare,
            expect,
            results,
            includes,
        }
    }

    fn version(&mut self, root: &Node) {
        match root.get("refrain").map(|n| (&n.value, n.span.clone())) {
            Some((Yaml::Int(1, _), _)) => {}
            Some((Yaml::Int(v, _), span)) => self.problem(
                Diagnostic::at(
                    span,
                    format!("this build reads version 1 of the language, not {v}"),
                )
                .hint("a newer Refrain may read it"),
            ),
            Some((_, span)) => {
                self.problem(Diagnostic::at(span, "the language version must be `1`"))
            }
            None => self.problem(
                Diagnostic::at(root.span.start..root.span.start, "`refrain: 1` is missing").hint(
                    "the first line of a workflow is `refrain: 1`, the version of the language",
                ),
            ),
        }
    }

    /// The entries of `compare`, whose names are apart from all others.
    fn comparisons(&mut self, root: &Node) -> Vec<(Key, Node)> {
        let entries = self.section(root, "compare").to_vec();
        for (key, _) in &entries {
            if let Err(message) = check_name(&key.text) {
                self.problem(Diagnostic::at(key.span.clone(), message));
            }
        }
        entries
    }

    /// The entries of a section that is a mapping.
    pub(super) fn section<'n>(&mut self, root: &'n Node, name: &str) -> &'n [(Key, Node)] {
        match root.get(name).map(|n| (&n.value, &n.span)) {
            Some((Yaml::Map(entries), _)) => entries,
            None | Some((Yaml::Null, _)) => &[],
            Some((_, span)) => {
                self.problem(Diagnostic::at(span.clone(), format!("`{name}` must be a mapping")));
                &[]
            }
        }
    }

    /// Records a name of the shared namespace.
    pub(super) fn name(&mut self, key: &Key, what: &'static str) {
        if let Err(message) = check_name(&key.text) {
            self.problem(Diagnostic::at(key.span.clone(), message));
        } else if RESERVED.contains(&key.text.as_str()) {
            self.problem(
                Diagnostic::at(key.span.clone(), format!("the name `{}` is reserved", key.text))
                    .hint("`in`, `out` and `env` have a meaning inside `${…}`"),
            );
        } else if let Some((other, span)) =
            self.names.insert(key.text.clone(), (what, key.span.clone()))
        {
            self.names.insert(key.text.clone(), (other, span));
            self.problem(
                Diagnostic::at(
                    key.span.clone(),
                    format!("the name `{}` is already that of {other}", key.text),
                )
                .hint("stages, includes, sources, models, params and axes share one namespace"),
            );
        }
    }

    fn stages(
        &mut self,
        root: &Node,
        may_be_absent: bool,
        kinds: &Kinds,
    ) -> (Vec<Stage>, Vec<LoopDecl>) {
        let (mut stages, mut loops) = (Vec::new(), Vec::new());
        let entries = self.section(root, "stages").to_vec();
        if entries.is_empty() && !may_be_absent {
            self.problem(
                Diagnostic::at(root.span.start..root.span.start, "the workflow has no stages")
                    .hint("write them under `stages`, each with one kind as its key"),
            );
        }
        for (name, node) in entries {
            self.name(&name, "a stage");
            if repeat::is_loop(&node) {
                loops.extend(self.repeated(name, &node, kinds));
            } else {
                self.one_stage(name, &node, kinds, &mut stages);
            }
        }
        (stages, loops)
    }

    /// Adds a stage, or the stages that it is planned as.
    pub(super) fn one_stage(
        &mut self,
        name: Key,
        node: &Node,
        kinds: &Kinds,
        stages: &mut Vec<Stage>,
    ) {
        if let Some(stage) = self.stage(name, node, kinds) {
            expand(stage, kinds, stages);
        }
    }

    fn stage(&mut self, name: Key, node: &Node, kinds: &Kinds) -> Option<Stage> {
        let Yaml::Map(entries) = &node.value else {
            let message = format!("stage `{}` must be a mapping", name.text);
            let hint = format!("its one key is a kind: {}", kind_names(kinds));
            self.problem(Diagnostic::at(node.span.clone(), message).hint(hint));
            return None;
        };
        let settings = settings::read(entries, &mut self.problems);
        let (kind, params) = self.kind_of(&name, entries, kinds)?;

        if let Some((key, _)) = entries.iter().find(|(k, _)| k.text == "retry" && !kind.retryable) {
            let message = format!("`{}` cannot be retried: it would fail again", kind.name);
            let may = listed(kinds.iter().filter(|k| k.retryable).map(|k| k.name));
            self.problem(
                Diagnostic::at(key.span.clone(), message)
                    .hint(format!("remove `retry`; it is for {may}")),
            );
        }
        let mut params = params.clone();
        self.read_yaml_files(kind.params, &mut params);
        Some(Stage { name, kind, params, settings })
    }

    /// Finds the one key of a stage that is a kind.
    fn kind_of<'n>(
        &mut self,
        stage: &Key,
        entries: &'n [(Key, Node)],
        kinds: &Kinds,
    ) -> Option<(Kind, &'n Node)> {
        let others: Vec<_> =
            entries.iter().filter(|(k, _)| !SETTINGS.contains(&k.text.as_str())).collect();
        if others.is_empty() {
            let message = format!("stage `{}` has no kind", stage.text);
            let hint = format!("kinds are {}", kind_names(kinds));
            self.problem(Diagnostic::at(stage.span.clone(), message).hint(hint));
        }
        if let Some((key, kind)) = kind_as_value(entries, kinds) {
            let message = format!("the kind of a stage is a key, not the value of `{}`", key.text);
            let hint = format!("write `{}: {{ {}: {{ … }} }}`", stage.text, kind.name);
            self.problem(Diagnostic::at(key.span.clone(), message).hint(hint));
            return None;
        }

        let mut found: Option<(Kind, &Node)> = None;
        for (key, params) in others {
            let Some(kind) = kinds.get(&key.text) else {
                let known = kinds.iter().map(|k| k.name).chain(SETTINGS);
                let hint = similar(&key.text, known)
                    .unwrap_or_else(|| format!("kinds are {}", kind_names(kinds)));
                let message = format!("there is no kind `{}`", key.text);
                self.problem(Diagnostic::at(key.span.clone(), message).hint(hint));
                continue;
            };
            if let Some((other, _)) = &found {
                let two = format!("`{}` and `{}`", other.name, kind.name);
                let message = format!("stage `{}` has two kinds, {two}", stage.text);
                self.problem(
                    Diagnostic::at(key.span.clone(), message).hint("make two stages of it"),
                );
                continue;
            }
            found = Some((*kind, params));
        }
        found
    }
}

/// Lists the kinds for a hint.
fn kind_names(kinds: &Kinds) -> String {
    listed(kinds.iter().map(|kind| kind.name))
}

/// Finds a stage written as in other tools: `kind: score` beside its parameters.
fn kind_as_value<'n, 'k>(
    entries: &'n [(Key, Node)],
    kinds: &'k Kinds,
) -> Option<(&'n Key, &'k Kind)> {
    let named = ["kind", "type", "stage", "uses"];
    let (key, value) = entries.iter().find(|(key, _)| named.contains(&key.text.as_str()))?;
    Some((key, kinds.get(&value.text()?)?))
}

/// Adds a stage, or the stages that its kind says it is planned as.
fn expand(stage: Stage, kinds: &Kinds, stages: &mut Vec<Stage>) {
    let literal = match stage.params.to_json() {
        serde_json::Value::Object(map) => map,
        _ => serde_json::Map::new(),
    };
    let expansion = stage.kind.expand.and_then(|expand| expand(&literal));

    let Some((expansion, first_kind)) = expansion.and_then(|e| Some((e, kinds.get(e.kind)?)))
    else {
        stages.push(stage);
        return;
    };
    let (span, scope) = (stage.params.span.clone(), stage.params.scope);
    let node = |value| Node { span: span.clone(), scope, value };
    let (mut first, mut kept) = (Vec::new(), Vec::new());
    for (key, value) in stage.params.entries().iter().cloned() {
        let taker = (expansion.takes)(&key.text);
        match taker {
            Taker::FirstAs(name) => {
                first.push((Key { text: name.into(), ..key.clone() }, value.clone()));
            }
            _ if taker.is_first() => first.push((key.clone(), value.clone())),
            _ => {}
        }
        if matches!(taker, Taker::FirstEntries | Taker::BothEntries) {
            first.extend(value.entries().iter().cloned());
        }
        if matches!(taker, Taker::Second | Taker::Both | Taker::BothEntries) {
            kept.push((key, value));
        }
    }
    for (name, value) in expansion.written.map_or_else(Vec::new, |write| write(&literal)) {
        let value = Node::from_json(&value, &span, scope);
        match first.iter_mut().find(|(key, _)| key.text == name) {
            Some((_, given)) => given.value = value.value,
            None => first.push((Key { text: name.into(), span: span.clone() }, value)),
        }
    }

    let name = Key {
        text: format!("{}/{}", stage.name.text, expansion.suffix),
        span: stage.name.span.clone(),
    };
    let link = Key { text: expansion.link.into(), span: span.clone() };
    kept.push((link, node(Yaml::Text(name.text.clone()))));
    stages.push(Stage {
        name,
        kind: *first_kind,
        params: node(Yaml::Map(first)),
        settings: stage.settings.clone(),
    });
    let params = node(Yaml::Map(kept));
    expand(Stage { params, ..stage }, kinds, stages);
}
