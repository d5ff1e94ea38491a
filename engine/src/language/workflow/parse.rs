//! Reads the sections of a workflow into [`Workflow`] and checks their shape and names.

use std::collections::{HashMap, HashSet};

use crate::kind::{Kinds, canonical, check_name};
use crate::language::diagnostic::{Diagnostic, Diagnostics, SourceText, Span, suggest};
use crate::language::interpolate::NO_PARAMS;
use crate::language::yaml::{self, Key, Node, Yaml};

use super::settings::{self, NAMES as SETTINGS};
use super::{Axis, Override, RESERVED, SourceDecl, Stage, Workflow};

const SECTIONS: [&str; 10] = [
    "refrain",
    "name",
    "description",
    "params",
    "models",
    "data",
    "stages",
    "sweep",
    "expect",
    "results",
];

pub(super) fn workflow(
    source: SourceText,
    kinds: &Kinds,
    overrides: &[Override],
) -> Result<Workflow, Diagnostics> {
    let root = match yaml::parse(&source.text) {
        Ok(root) => root,
        Err(problem) => return Err(Diagnostics::new(source, vec![problem])),
    };
    if !matches!(root.value, Yaml::Map(_)) {
        let problem = Diagnostic::at(root.span, "a workflow is a mapping")
            .hint("it begins with `refrain: 1`, a `name` and `stages`");
        return Err(Diagnostics::new(source, vec![problem]));
    }
    let mut reader = Reader { problems: Vec::new(), names: HashMap::new() };
    let mut workflow = reader.sections(&root, kinds);
    workflow.source = source;
    reader.overrides(&mut workflow, overrides);
    if reader.problems.is_empty() {
        Ok(workflow)
    } else {
        Err(Diagnostics::new(workflow.source, reader.problems))
    }
}

struct Reader {
    problems: Vec<Diagnostic>,
    /// Every name of the shared namespace and what bears it.
    names: HashMap<String, (&'static str, Span)>,
}

impl Reader {
    fn problem(&mut self, problem: Diagnostic) {
        self.problems.push(problem);
    }

    fn sections(&mut self, root: &Node, kinds: &Kinds) -> Workflow {
        for (key, _) in entries(root) {
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
        let axes = self.sweep(root.get("sweep"));
        let params = self.section(root, "params").to_vec();
        for (key, _) in &params {
            if !axes.iter().any(|a| a.name == key.text) {
                self.name(key, "a param");
            }
        }
        let mut sources = Vec::new();
        for (section, model) in [("models", true), ("data", false)] {
            for (key, node) in self.section(root, section).to_vec() {
                self.name(&key, if model { "a model" } else { "a source" });
                sources.push(SourceDecl { name: key, node, model });
            }
        }
        let stages = self.stages(root, kinds);
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
        let (source, kinds) = (SourceText::default(), kinds.clone());
        Workflow { source, name, params, sources, stages, axes, expect, results, kinds }
    }

    fn version(&mut self, root: &Node) {
        match root.get("refrain").map(|n| (&n.value, n.span.clone())) {
            Some((Yaml::Int(1), _)) => {}
            Some((Yaml::Int(v), span)) => self.problem(
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

    /// The entries of a section that is a mapping.
    fn section<'n>(&mut self, root: &'n Node, name: &str) -> &'n [(Key, Node)] {
        match root.get(name).map(|n| (&n.value, &n.span)) {
            Some((Yaml::Map(entries), _)) => entries,
            None | Some((Yaml::Null, _)) => &[],
            Some((_, span)) => {
                self.problem(Diagnostic::at(span.clone(), format!("`{name}` must be a mapping")));
                &[]
            }
        }
    }

    /// Notes a name of the shared namespace.
    fn name(&mut self, key: &Key, what: &'static str) {
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
                .hint("stages, sources, models, params and axes share one namespace"),
            );
        }
    }

    fn stages(&mut self, root: &Node, kinds: &Kinds) -> Vec<Stage> {
        let mut stages = Vec::new();
        let entries = self.section(root, "stages").to_vec();
        if entries.is_empty() {
            self.problem(
                Diagnostic::at(root.span.start..root.span.start, "the workflow has no stages")
                    .hint("write them under `stages`, each with one kind as its key"),
            );
        }
        for (name, node) in entries {
            self.name(&name, "a stage");
            if let Some(stage) = self.stage(name, &node, kinds) {
                expand(stage, kinds, &mut stages);
            }
        }
        stages
    }

    fn stage(&mut self, name: Key, node: &Node, kinds: &Kinds) -> Option<Stage> {
        let names = kinds.iter().map(|k| k.name).collect::<Vec<_>>();
        let Yaml::Map(entries) = &node.value else {
            self.problem(
                Diagnostic::at(
                    node.span.clone(),
                    format!("stage `{}` must be a mapping", name.text),
                )
                .maybe_hint(suggest("", names, "its one key is a kind:")),
            );
            return None;
        };
        let settings = settings::read(entries, &mut self.problems);
        let others: Vec<_> =
            entries.iter().filter(|(k, _)| !SETTINGS.contains(&k.text.as_str())).collect();
        let mut found = None;
        for (key, params) in &others {
            let Some(kind) = kinds.get(&key.text) else {
                let known = names.iter().copied().chain(SETTINGS);
                self.problem(
                    Diagnostic::at(key.span.clone(), format!("there is no kind `{}`", key.text))
                        .maybe_hint(suggest(&key.text, known, "kinds are")),
                );
                continue;
            };
            if let Some((other, _)) = &found {
                let other: &crate::kind::Kind = other;
                self.problem(
                    Diagnostic::at(
                        key.span.clone(),
                        format!(
                            "stage `{}` has two kinds, `{}` and `{}`",
                            name.text, other.name, kind.name
                        ),
                    )
                    .hint("make two stages of it"),
                );
                continue;
            }
            found = Some((*kind, params));
        }
        if others.is_empty() {
            self.problem(
                Diagnostic::at(name.span.clone(), format!("stage `{}` has no kind", name.text))
                    .maybe_hint(suggest("", names, "kinds are")),
            );
        }
        let (kind, params) = found?;
        if let Some((key, _)) = entries.iter().find(|(k, _)| k.text == "retry" && !kind.retryable) {
            let may = kinds.iter().filter(|k| k.retryable).map(|k| format!("`{}`", k.name));
            self.problem(
                Diagnostic::at(
                    key.span.clone(),
                    format!("`{}` cannot be retried: it would fail again", kind.name),
                )
                .hint(format!("remove `retry`; it is for {}", may.collect::<Vec<_>>().join(", "))),
            );
        }
        Some(Stage { name, kind, params: params.clone(), settings })
    }

    fn sweep(&mut self, node: Option<&Node>) -> Vec<Axis> {
        let Some(node) = node else { return Vec::new() };
        match &node.value {
            Yaml::Null => Vec::new(),
            Yaml::Map(entries) => {
                let mut axes = Vec::new();
                for (key, values) in entries {
                    self.name(key, "an axis");
                    if let Yaml::List(values) = &values.value {
                        let values = self.axis(&key.text, values, &key.span);
                        axes.push(Axis { name: key.text.clone(), values, points: false });
                    } else {
                        self.problem(
                            Diagnostic::at(
                                values.span.clone(),
                                format!("axis `{}` must be a list", key.text),
                            )
                            .hint(format!("write `{}: [first, second]`", key.text)),
                        );
                    }
                }
                axes
            }
            Yaml::List(points) => {
                let values = self.axis("point", points, &node.span);
                if let Some((_, bad)) =
                    values.iter().find(|(_, v)| !matches!(v.value, Yaml::Map(_)))
                {
                    self.problem(Diagnostic::at(
                        bad.span.clone(),
                        "a sweep of points is a list of mappings",
                    ));
                    return Vec::new();
                }
                vec![Axis { name: "point".into(), values, points: true }]
            }
            _ => {
                self.problem(
                    Diagnostic::at(
                        node.span.clone(),
                        "`sweep` must be a mapping of lists, or a list of mappings",
                    )
                    .hint("for example `sweep: { threshold: [2, 2.5] }`"),
                );
                Vec::new()
            }
        }
    }

    fn axis(&mut self, name: &str, nodes: &[Node], span: &Span) -> Vec<(String, Node)> {
        if nodes.is_empty() {
            self.problem(Diagnostic::at(span.clone(), format!("axis `{name}` has no values")));
        }
        let mut values: Vec<(String, Node)> = Vec::with_capacity(nodes.len());
        let mut seen: HashSet<String> = HashSet::with_capacity(nodes.len());
        for node in nodes {
            let label = match &node.value {
                Yaml::Map(_) => match node.get("name").map(|n| n.to_json()) {
                    Some(name) if !name.is_array() && !name.is_object() => canonical(&name),
                    _ => {
                        self.problem(
                            Diagnostic::at(
                                node.span.clone(),
                                format!("a mapping on axis `{name}` needs a `name`"),
                            )
                            .hint("the name stands in the nodes' names and in the results"),
                        );
                        continue;
                    }
                },
                _ => canonical(&node.to_json()),
            };
            if label.contains([',', '[', ']', '=']) && !matches!(node.value, Yaml::List(_)) {
                self.problem(Diagnostic::at(
                    node.span.clone(),
                    format!("`{label}` on axis `{name}` may not hold `,`, `=`, `[` or `]`"),
                ));
            }
            if !seen.insert(label.clone()) {
                self.problem(Diagnostic::at(
                    node.span.clone(),
                    format!("axis `{name}` has the value `{label}` twice"),
                ));
            }
            values.push((label, node.clone()));
        }
        values
    }

    fn overrides(&mut self, workflow: &mut Workflow, overrides: &[Override]) {
        for Override { name, value } in overrides {
            let node = match yaml::parse_value(value) {
                Ok(node) => node,
                Err(problem) => {
                    self.problem(Diagnostic::general(format!(
                        "`--set {name}={value}`: {}",
                        problem.message
                    )));
                    continue;
                }
            };
            if let Some(axis) = workflow.axes.iter_mut().find(|a| a.name == *name) {
                let label = canonical(&node.to_json());
                let labels: Vec<String> =
                    axis.values.iter().map(|(l, _)| format!("`{l}`")).collect();
                axis.values.retain(|(l, _)| *l == label);
                if axis.values.is_empty() {
                    self.problem(
                        Diagnostic::general(format!(
                            "`--set {name}={value}`: the axis has no such value"
                        ))
                        .hint(format!("its values are {}", labels.join(", "))),
                    );
                }
            } else if let Some((_, param)) =
                workflow.params.iter_mut().find(|(k, _)| k.text == *name)
            {
                let span = param.span.clone();
                *param = Node { span, ..node };
            } else {
                let known = workflow.params.iter().map(|(k, _)| k.text.as_str());
                let known: Vec<_> =
                    known.chain(workflow.axes.iter().map(|a| a.name.as_str())).collect();
                let hint = suggest(name, known, "there are").unwrap_or(NO_PARAMS.into());
                self.problem(
                    Diagnostic::general(format!(
                        "`--set {name}={value}`: there is no param or axis `{name}`"
                    ))
                    .hint(hint),
                );
            }
        }
    }
}

fn entries(node: &Node) -> &[(Key, Node)] {
    match &node.value {
        Yaml::Map(entries) => entries,
        _ => &[],
    }
}

/// Adds a stage, or the two stages that its kind says it is planned as.
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
    let (moved, mut kept): (Vec<_>, Vec<_>) =
        entries(&stage.params).iter().cloned().partition(|(key, _)| (expansion.moved)(&key.text));
    let name = Key {
        text: format!("{}/{}", stage.name.text, expansion.suffix),
        span: stage.name.span.clone(),
    };
    let span = stage.params.span.clone();
    let link = Key { text: expansion.link.into(), span: span.clone() };
    kept.push((link, Node { span: span.clone(), value: Yaml::Text(name.text.clone()) }));
    stages.push(Stage {
        name,
        kind: *first_kind,
        params: Node { span: span.clone(), value: Yaml::Map(moved) },
        settings: stage.settings.clone(),
    });
    stages.push(Stage { params: Node { span, value: Yaml::Map(kept) }, ..stage });
}
