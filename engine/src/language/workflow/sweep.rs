//! Reads the axes of a sweep, and the values that `--set` gives in place of the workflow's.

use std::collections::{BTreeSet, HashSet};

use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::language::scalar::label;
use crate::language::yaml::{self, Node, Yaml};

use super::parse::Reader;
use super::{Axis, NO_PARAMS, Override, ParamDecl, Workflow};

impl Reader {
    /// Reads the section `sweep`: lists of values, or a list of named points.
    pub(super) fn sweep(&mut self, node: Option<&Node>) -> Vec<Axis> {
        let Some(node) = node else { return Vec::new() };
        match &node.value {
            Yaml::Null => Vec::new(),
            Yaml::Map(entries) => {
                let mut axes = Vec::new();
                for (key, values) in entries {
                    self.name(key, "an axis");
                    if let Yaml::List(values) = &values.value {
                        let values = self.axis(&key.text, values, &key.span);
                        let (name, span) = (key.text.clone(), key.span.clone());
                        let fields = BTreeSet::new();
                        axes.push(Axis { name, span, values, points: false, fields });
                    } else {
                        let message = format!("axis `{}` must be a list", key.text);
                        let hint = format!("write `{}: [first, second]`", key.text);
                        self.problem(Diagnostic::at(values.span.clone(), message).hint(hint));
                    }
                }
                axes
            }
            Yaml::List(points) => {
                let values = self.axis("point", points, &node.span);
                let not_a_map = |(_, v): &&(String, Node)| !matches!(v.value, Yaml::Map(_));
                if let Some((_, bad)) = values.iter().find(not_a_map) {
                    let message = "a sweep of points is a list of mappings";
                    self.problem(Diagnostic::at(bad.span.clone(), message));
                    return Vec::new();
                }
                let entries = values.iter().flat_map(|(_, point)| point.entries());
                let fields = entries.map(|(key, _)| key.text.clone()).collect();
                let (name, span) = ("point".into(), node.span.clone());
                vec![Axis { name, span, values, points: true, fields }]
            }
            _ => {
                let message = "`sweep` must be a mapping of lists, or a list of mappings";
                self.problem(
                    Diagnostic::at(node.span.clone(), message)
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
            let Some(label) = label_of(node) else {
                let message = format!("a mapping on axis `{name}` needs a `name`");
                self.problem(
                    Diagnostic::at(node.span.clone(), message)
                        .hint("the name appears in the nodes' names and in the results"),
                );
                continue;
            };
            if !seen.insert(label.clone()) {
                let message = format!("axis `{name}` has the value `{label}` twice");
                let twice = Diagnostic::at(node.span.clone(), message);
                let number = matches!(node.value, Yaml::Int(..) | Yaml::Float(..));
                let hint =
                    "numbers are compared by value; put them between quotes if they are text";
                self.problem(twice.maybe_hint(number.then(|| hint.into())));
            }
            values.push((label, node.clone()));
        }
        values
    }

    /// Applies the values that `--set` gives.
    pub(super) fn overrides(&mut self, workflow: &mut Workflow, overrides: &[Override]) {
        for given in overrides {
            workflow.set.push(given.name.clone());
            if let Err(problem) = apply(workflow, given) {
                let set = format!("`--set {}={}`", given.name, given.value);
                let message = format!("{set}: {}", problem.message);
                self.problem(Diagnostic { message, span: None, label: None, ..problem });
            }
        }
    }
}

/// Returns the label of an axis value; `None` for a mapping without a `name`.
fn label_of(node: &Node) -> Option<String> {
    match &node.value {
        Yaml::Map(_) => {
            let name = node.get("name")?.to_json();
            (!name.is_array() && !name.is_object()).then(|| label(&name))
        }
        _ => Some(label(&node.to_json())),
    }
}

/// Applies one `--set`: an axis is reduced to the value, points to those that have it, a param is replaced.
fn apply(workflow: &mut Workflow, given: &Override) -> Result<(), Diagnostic> {
    let Override { name, value } = given;
    let parsed = yaml::parse_value(value);
    // On an axis a text is also recognised as it is, though it may not be YAML.
    let wanted = |found: &Node, named: &str| {
        let same = |node: &Node| Some(named) == label_of(node).as_deref();
        named == value
            || found.text().is_some_and(|t| *t == **value)
            || parsed.as_ref().is_ok_and(same)
    };

    if let Some(axis) = workflow.axes.iter_mut().find(|a| a.name == *name) {
        return reduce(axis, "the axis has no such value", |label, node| {
            let shown = node.get("name").unwrap_or(node);
            (wanted(shown, label), label.to_string())
        });
    }

    let param = workflow.scopes[0].params.iter_mut().find(|param| param.name.text == *name);
    let points = workflow.axes.iter_mut().find(|axis| axis.has_field(name));
    if let Some(points) = points {
        let default = param.map(|param| &param.value);
        return reduce(points, "no point of the sweep has this value", |_, point| {
            let field = point.get(name).or(default);
            let label = field.and_then(label_of).unwrap_or_else(|| "null".into());
            (field.is_some_and(|node| wanted(node, &label)), label)
        });
    }
    if let Some(ParamDecl { value, .. }) = param {
        let span = value.span.clone();
        *value = Node { span, ..parsed? };
        return Ok(());
    }

    let known = workflow.scopes[0].params.iter().map(|param| param.name.text.as_str());
    let known: Vec<_> = known.chain(workflow.axes.iter().map(|a| a.name.as_str())).collect();
    let hint = suggest(name, known, "there are").unwrap_or(NO_PARAMS.into());
    Err(Diagnostic::general(format!("there is no param or axis `{name}`")).hint(hint))
}

/// Keeps the values of an axis that `wanted` accepts; it returns what they are known by as well.
fn reduce(
    axis: &mut Axis,
    none: &str,
    wanted: impl Fn(&str, &Node) -> (bool, String),
) -> Result<(), Diagnostic> {
    let mut known: Vec<String> = Vec::new();
    axis.values.retain(|(label, node)| {
        let (keep, shown) = wanted(label, node);
        known.push(format!("`{shown}`"));
        keep
    });
    if !axis.values.is_empty() {
        return Ok(());
    }

    let mut seen = HashSet::new();
    known.retain(|shown| seen.insert(shown.clone()));
    Err(Diagnostic::general(none).hint(format!("its values are {}", known.join(", "))))
}
