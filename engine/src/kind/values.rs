//! Checks the values of a workflow against a kind's table: types, ranges, unknown keys, defaults, references.

use serde_json::{Map, Number, Value};

use refrain_cache::ArtifactKind;

use super::placeholders::check_placeholders;
use super::{Default, Param, Type, describe, metrics_table};
use crate::language::diagnostic::{Diagnostic, Span, similar, suggest};
use crate::language::scalar::{check_name, label};
use crate::language::yaml::{Key, Node, ScopeId, Yaml};

/// Problems that get a hint at a similar name: who has more reads the first ones.
const MOST_HINTS: usize = 1000;

/// A name that a parameter gives where an artifact is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Path of the parameter, for example `mix[0].data`.
    pub path: String,
    /// The name as written.
    pub name: String,
    /// Its place.
    pub span: Span,
    /// The scope in which the name stands for something.
    pub scope: ScopeId,
    /// The kind of artifact that it must name; `None` = any kind.
    pub kind: Option<ArtifactKind>,
    /// The metric that is read of the stage, where it is one.
    pub metric: Option<String>,
}

/// The values of one mapping after the check.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    /// Values by name, typed, with defaults, references removed.
    pub values: Map<String, Value>,
    /// The references that were removed.
    pub references: Vec<Reference>,
    /// Places of the values that the workflow gives, by path.
    pub places: Vec<(String, Span)>,
}

impl Resolved {
    /// Returns the place of a path, or of the nearest part of it that the workflow gives.
    pub fn place(&self, path: &str) -> Option<Span> {
        let mut path = path;
        loop {
            if let Some((_, span)) = self.places.iter().find(|(p, _)| p == path) {
                return Some(span.clone());
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

/// Checks a mapping against a table of parameters; `owner` names what it belongs to (`` `generate` ``).
///
/// All problems are collected; where there are some the values are incomplete.
pub fn coerce(
    params: &[Param],
    node: &Node,
    owner: &str,
    problems: &mut Vec<Diagnostic>,
) -> Resolved {
    let mut walk = Walk { resolved: Resolved::default(), problems };
    walk.resolved.values = walk.record(params, node, "", owner);
    walk.resolved
}

/// Checks one parameter of a mapping; `written` is its value, if the mapping has one, and `mapping` its place.
pub fn coerce_param(
    param: &Param,
    written: Option<&Node>,
    mapping: &Span,
    owner: &str,
    problems: &mut Vec<Diagnostic>,
) -> Resolved {
    let mut walk = Walk { resolved: Resolved::default(), problems };
    let value = walk.param(param, written, mapping, "", owner);
    walk.resolved.values = value.map(|value| (param.name.to_owned(), value)).into_iter().collect();
    walk.resolved
}

/// Checks that a mapping has no keys but the parameters of a table.
pub fn check_keys(
    params: &[Param],
    entries: &[(Key, Node)],
    owner: &str,
    problems: &mut Vec<Diagnostic>,
) {
    for (key, value) in entries {
        if !params.iter().any(|p| p.name == key.text) {
            let message = format!("{owner} has no parameter `{}`", key.text);
            let hint = (problems.len() < MOST_HINTS).then(|| {
                alias(params, &key.text, value).or_else(|| {
                    suggest(&key.text, params.iter().map(|p| p.name), "its parameters are")
                })
            });
            let hint = hint.flatten();
            problems.push(Diagnostic::at(key.span.clone(), message).maybe_hint(hint));
        }
    }
}

/// Returns the hint at a name that a parameter, here or in a record below, has in other tools.
fn alias(params: &[Param], given: &str, value: &Node) -> Option<String> {
    let value = value.text().unwrap_or("…".into());
    params
        .iter()
        .find_map(|param| path_of_alias(param, given, &value))
        .map(|here| format!("write `{here}`: what other tools call `{given}`"))
}

/// Returns how a parameter with that alias is written here: `rank: 16`, or `lora: { rank: 16 }` around it.
fn path_of_alias(param: &Param, given: &str, value: &str) -> Option<String> {
    if param.aliases.contains(&given) {
        return Some(format!("{}: {value}", param.name));
    }
    let inner = records(&param.ty)
        .find_map(|params| params.iter().find_map(|param| path_of_alias(param, given, value)))?;
    Some(format!("{}: {{ {inner} }}", param.name))
}

/// Iterates over the records that a value of a type may be.
fn records(ty: &Type) -> impl Iterator<Item = &'static [Param]> {
    let types: &[Type] = match ty {
        Type::OneOf(types) => types,
        ty => std::slice::from_ref(ty),
    };
    types.iter().filter_map(|ty| match ty {
        Type::Record(params) => Some(*params),
        _ => None,
    })
}

struct Walk<'a> {
    resolved: Resolved,
    problems: &'a mut Vec<Diagnostic>,
}

impl Walk<'_> {
    fn record(
        &mut self,
        params: &[Param],
        node: &Node,
        path: &str,
        owner: &str,
    ) -> Map<String, Value> {
        let entries: &[_] = match &node.value {
            Yaml::Map(entries) => entries,
            Yaml::Null | Yaml::Absent if path.is_empty() => &[],
            _ => {
                let message = format!("expected a mapping, found {}", node.type_name());
                self.problems.push(Diagnostic::at(node.span.clone(), message));
                return Map::new();
            }
        };
        check_keys(params, entries, owner, self.problems);

        let mut values = Vec::with_capacity(params.len());
        for param in params {
            let written = entries.iter().find(|(k, _)| k.text == param.name).map(|(_, v)| v);
            let value = self.param(param, written, &node.span, path, owner);
            values.extend(value.map(|value| (param.name.to_owned(), value)));
        }
        exact(values)
    }

    /// Checks a parameter of the mapping at `path`. A value that a param or an axis leaves out counts as not written.
    fn param(
        &mut self,
        param: &Param,
        written: Option<&Node>,
        mapping: &Span,
        path: &str,
        owner: &str,
    ) -> Option<Value> {
        let path = join(path, param.name);
        let written = written.filter(|node| node.value != Yaml::Absent);
        match (written, param.default) {
            (Some(node), _) => {
                self.resolved.places.push((path.clone(), node.span.clone()));
                let value = self.value(&param.ty, node, &path);
                value.unwrap_or_else(|problem| {
                    self.problems.push(problem);
                    None
                })
            }
            (None, Default::Required) => {
                let message = format!("{owner} needs `{}`", param.name);
                let hint = format!("`{}`: {}", param.name, param.about);
                self.problems.push(Diagnostic::at(mapping.clone(), message).hint(hint));
                None
            }
            (None, Default::Absent) => None,
            (None, Default::Json(text)) => {
                Some(serde_json::from_str(text).expect("a default of a kind's table is JSON"))
            }
        }
    }

    /// Returns the typed value; `None` for a reference, which is noted instead.
    fn value(&mut self, ty: &Type, node: &Node, path: &str) -> Result<Option<Value>, Diagnostic> {
        match (ty, &node.value) {
            (Type::Bool, Yaml::Bool(b, _)) => Ok(Some(Value::Bool(*b))),
            (Type::Int { .. } | Type::Float { .. }, Yaml::Int(..) | Yaml::Float(..)) => {
                number(ty, &node.value).map(Some).ok_or_else(|| {
                    // Behind a `${…}` the value is not to be seen in the line.
                    misfit(ty, node, path).label(format!("this is {}", label(&node.to_json())))
                })
            }
            (
                Type::Text | Type::Command | Type::Secret,
                Yaml::Text(_)
                | Yaml::Deferred(_)
                | Yaml::Int(..)
                | Yaml::Float(..)
                | Yaml::Bool(..),
            ) => text(ty, node, path).map(Some),
            (Type::Choice(words), Yaml::Text(word)) if words.contains(&word.as_str()) => {
                Ok(Some(Value::String(word.clone())))
            }
            (Type::Choice(words), Yaml::Text(word)) => {
                let hint = written_as_placeholder(word)
                    .or_else(|| suggest(word, words.iter().copied(), "it is one of"));
                let message = format!("`{path}` cannot be `{word}`");
                Err(Diagnostic::at(node.span.clone(), message).maybe_hint(hint))
            }
            (Type::Reference(kind), Yaml::Text(name)) => {
                let (path, name, span) = (path.to_string(), name.clone(), node.span.clone());
                let (scope, kind) = (node.scope, *kind);
                let reference = Reference { path, name, span, scope, kind, metric: None };
                self.resolved.references.push(reference);
                Ok(None)
            }
            (Type::Metric, Yaml::Text(written)) => self.metric(written, node, path).map(Some),
            (Type::List(item), Yaml::List(nodes)) => self.list(item, nodes, path).map(Some),
            (Type::Record(params), Yaml::Map(_)) => {
                let owner = format!("`{path}`");
                Ok(Some(Value::Object(self.record(params, node, path, &owner))))
            }
            (Type::Map(item), Yaml::Map(entries)) => self.map(item, entries, path).map(Some),
            (Type::OneOf(types), _) => self.one_of(types, node, path, ty),
            (Type::YamlFile { params, refused }, Yaml::Map(entries)) => {
                let known = self.without_refused(refused, entries);
                let known = Node { value: Yaml::Map(known), ..node.clone() };
                Ok(Some(Value::Object(self.record(params, &known, path, "the file"))))
            }
            (Type::YamlFile { .. }, Yaml::Text(_)) => {
                let message = format!("`{path}` must stand in the stage itself");
                Err(Diagnostic::at(node.span.clone(), message)
                    .hint("the file is read before the values of params and axes are known"))
            }
            (Type::Any, Yaml::Deferred(_)) => Err(placeholder_outside(node, path)),
            (Type::Any, _) => Ok(Some(node.to_json())),
            _ => {
                let problem = misfit(ty, node, path);
                Err(problem.label(format!("this is {}", node.type_name())))
            }
        }
    }

    /// Returns the entries of another tool's file without those that are refused by name.
    fn without_refused(
        &mut self,
        refused: &[(&str, &str)],
        entries: &[(Key, Node)],
    ) -> Vec<(Key, Node)> {
        let mut known = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            match refused.iter().find(|(name, _)| *name == key.text) {
                None => known.push((key.clone(), value.clone())),
                Some((_, hint)) => {
                    let message = format!("`{}` is not supported here", key.text);
                    self.problems.push(Diagnostic::at(key.span.clone(), message).hint(*hint));
                }
            }
        }
        known
    }

    /// Notes the stage of a metric as a reference, and returns the metric's name.
    fn metric(&mut self, written: &str, node: &Node, path: &str) -> Result<Value, Diagnostic> {
        let Some((stage, metric)) = written.rsplit_once('.').filter(|(stage, _)| !stage.is_empty())
        else {
            return Err(misfit(&Type::Metric, node, path)
                .hint("name a stage and one of its metrics, for example `validated.accuracy`"));
        };
        self.resolved.references.push(Reference {
            path: path.to_string(),
            name: format!("{stage}.{}", metrics_table::OUTPUT),
            span: node.span.clone(),
            scope: node.scope,
            kind: Some(ArtifactKind::Table),
            metric: Some(metric.to_string()),
        });
        Ok(Value::String(metric.to_string()))
    }

    fn list(&mut self, item: &Type, nodes: &[Node], path: &str) -> Result<Value, Diagnostic> {
        let mut values = Vec::with_capacity(nodes.len());
        for (i, node) in nodes.iter().enumerate() {
            let path = format!("{path}[{i}]");
            self.resolved.places.push((path.clone(), node.span.clone()));
            values.extend(self.value(item, node, &path)?);
        }
        Ok(Value::Array(values))
    }

    fn map(
        &mut self,
        item: &Type,
        entries: &[(Key, Node)],
        path: &str,
    ) -> Result<Value, Diagnostic> {
        let mut values = Vec::with_capacity(entries.len());
        for (key, value) in entries.iter().filter(|(_, node)| node.value != Yaml::Absent) {
            check_name(&key.text).map_err(|m| Diagnostic::at(key.span.clone(), m))?;
            let path = join(path, &key.text);
            self.resolved.places.push((path.clone(), value.span.clone()));
            if let Some(value) = self.value(item, value, &path)? {
                values.push((key.text.clone(), value));
            }
        }
        Ok(Value::Object(exact(values)))
    }

    /// Takes the first type that fits; when none does, the problem is that of the only one of the value's shape.
    fn one_of(
        &mut self,
        types: &[Type],
        node: &Node,
        path: &str,
        all: &Type,
    ) -> Result<Option<Value>, Diagnostic> {
        let mut alike = Vec::new();
        for ty in types.iter().filter(|ty| same_shape(ty, node)) {
            let mut problems = Vec::new();
            let mut trial = Walk { resolved: Resolved::default(), problems: &mut problems };
            match trial.value(ty, node, path) {
                Ok(value) if trial.problems.is_empty() => {
                    let trial = trial.resolved;
                    self.resolved.references.extend(trial.references);
                    self.resolved.places.extend(trial.places);
                    return Ok(value);
                }
                Ok(_) => alike.push((ty, problems)),
                Err(misfit) => {
                    problems.push(misfit);
                    alike.push((ty, problems));
                }
            }
        }

        // Of a word that is like none of the words, or beside other words and numbers, all that may
        // stand there is of interest.
        let is_word = |ty: &Type| {
            matches!(ty, Type::Choice(_) | Type::List(_) | Type::Record(_) | Type::YamlFile { .. })
        };
        let is_meant = |ty: &Type| match (ty, &node.value) {
            (Type::Choice(words), Yaml::Text(word)) => {
                types.iter().all(is_word) && similar(word, words.iter().copied()).is_some()
            }
            _ => true,
        };
        if alike.len() == 1 && is_meant(alike[0].0) {
            let (_, mut problems) = alike.remove(0);
            let last = problems.pop().expect("a type that does not fit has a problem");
            self.problems.extend(problems);
            return Err(last);
        }
        Err(misfit(all, node, path).label(format!("this is {}", node.type_name())))
    }
}

/// The problem of a value whose type is another, with a hint where its spelling tells what was meant.
fn misfit(ty: &Type, node: &Node, path: &str) -> Diagnostic {
    let word = match &node.value {
        Yaml::Text(word) => Some(word.as_str()),
        _ => None,
    };
    let near = |word| match ty {
        Type::OneOf(types) => types.iter().find_map(|ty| match ty {
            Type::Choice(words) => similar(word, words.iter().copied()),
            _ => None,
        }),
        _ => None,
    };
    let hint = word.and_then(|word| {
        let truth = truth_value(word).filter(|_| takes_bool(ty));
        truth
            .map(|b| format!("write `{b}`: in YAML 1.2 `{word}` is text"))
            .or_else(|| written_as_placeholder(word))
            .or_else(|| near(word))
    });
    let message = format!("`{path}` must be {}", describe(ty));
    Diagnostic::at(node.span.clone(), message).maybe_hint(hint)
}

/// Returns the truth value that a word has in YAML 1.1.
fn truth_value(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "yes" | "y" | "on" => Some(true),
        "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

fn takes_bool(ty: &Type) -> bool {
    match ty {
        Type::Bool => true,
        Type::OneOf(types) => types.iter().any(takes_bool),
        _ => false,
    }
}

/// The hint at a text such as `$threshold`.
pub(crate) fn written_as_placeholder(text: &str) -> Option<String> {
    let name = text.strip_prefix('$')?;
    let name = name.strip_prefix('{').and_then(|n| n.strip_suffix('}')).unwrap_or(name);
    check_name(name.split('.').next()?).ok()?;
    Some(format!("write `${{{name}}}` for the value of a param or an axis"))
}

/// Returns the text of a scalar as it was written, checked for what may stand in a parameter of that type.
fn text(ty: &Type, node: &Node, path: &str) -> Result<Value, Diagnostic> {
    let written = node.text().unwrap_or_default();
    match (ty, &node.value) {
        (Type::Text, Yaml::Deferred(_)) => Err(placeholder_outside(node, path)),
        (Type::Text, _) => Ok(Value::String(written.into_owned())),
        (_, Yaml::Deferred(text)) => {
            check_placeholders(ty, text, node, path)?;
            Ok(Value::String(written.into_owned()))
        }
        _ => Ok(Value::String(written.replace("${", "$${"))),
    }
}

fn placeholder_outside(node: &Node, path: &str) -> Diagnostic {
    let message = format!("`{path}` may not hold `${{in.…}}`, `${{out.…}}` or `${{env:…}}`");
    Diagnostic::at(node.span.clone(), message).hint(
        "they stand in the command and environment of `run` only; write `$${` for a literal `${`",
    )
}

/// Returns a number as the type has it; `None` outside of its range.
fn number(ty: &Type, value: &Yaml) -> Option<Value> {
    match (ty, value) {
        (Type::Int { min, max }, Yaml::Int(i, _)) => {
            (min..=max).contains(&i).then(|| Value::from(*i))
        }
        (Type::Int { min, max }, Yaml::Float(f, _)) => {
            let whole = *f as i64;
            let is_whole = f.fract() == 0.0 && f.abs() < 9e15;
            (is_whole && (*min..=*max).contains(&whole)).then(|| Value::from(whole))
        }
        (Type::Float { .. }, Yaml::Int(i, _)) => float(ty, *i as f64),
        (Type::Float { .. }, Yaml::Float(f, _)) => float(ty, *f),
        _ => None,
    }
}

/// A mapping without room for more: the nodes of a large sweep hold hundreds of thousands.
fn exact(values: Vec<(String, Value)>) -> Map<String, Value> {
    values.into_iter().collect()
}

fn float(ty: &Type, value: f64) -> Option<Value> {
    let Type::Float { min, max, open } = ty else { return None };
    let inside = value >= *min && value <= *max && !(*open && value == *min);
    if inside { Number::from_f64(value).map(Value::Number) } else { None }
}

fn same_shape(ty: &Type, node: &Node) -> bool {
    match ty {
        Type::Bool => matches!(node.value, Yaml::Bool(..)),
        Type::Int { .. } | Type::Float { .. } => {
            matches!(node.value, Yaml::Int(..) | Yaml::Float(..))
        }
        Type::Text
        | Type::Command
        | Type::Secret
        | Type::Choice(_)
        | Type::Reference(_)
        | Type::Metric => matches!(node.value, Yaml::Text(_) | Yaml::Deferred(_)),
        Type::List(_) => matches!(node.value, Yaml::List(_)),
        Type::Record(_) | Type::Map(_) | Type::YamlFile { .. } => {
            matches!(node.value, Yaml::Map(_))
        }
        Type::OneOf(types) => types.iter().any(|ty| same_shape(ty, node)),
        Type::Any => true,
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::yaml;

    static KEEP: &[Param] = &[
        Param::required("per", Type::Text, "the column"),
        Param::default("count", Type::Int { min: 1, max: 9 }, "1", "how many"),
    ];
    static TABLE: &[Param] = &[
        Param::required("data", Type::Reference(Some(ArtifactKind::Table)), "the table"),
        Param::default("rate", Type::Float { min: 0.0, max: 1.0, open: true }, "0.5", "a rate"),
        Param::optional("keep", Type::Record(KEEP), "what to keep"),
        Param::optional(
            "warmup",
            Type::OneOf(&[
                Type::Int { min: 0, max: 10 },
                Type::Float { min: 0.0, max: 1.0, open: false },
            ]),
            "steps or share",
        ),
    ];

    fn run(text: &str) -> (Resolved, Vec<String>) {
        let mut problems = Vec::new();
        let resolved = coerce(TABLE, &yaml::parse(text).unwrap(), "`kind`", &mut problems);
        (resolved, problems.into_iter().map(|d| d.message).collect())
    }

    #[test]
    fn defaults_and_numbers() {
        let (resolved, problems) = run("{ data: train, rate: 1, keep: { per: id }, warmup: 0.1 }");
        assert!(problems.is_empty(), "{problems:?}");
        let expected =
            serde_json::json!({"rate": 1.0, "keep": {"per": "id", "count": 1}, "warmup": 0.1});
        assert_eq!(Value::Object(resolved.values.clone()), expected);
        assert_eq!(resolved.references[0].name, "train");
        assert!(
            resolved.place("keep.per").is_some()
                && resolved.place("keep.count") == resolved.place("keep")
        );
    }

    #[test]
    fn every_problem_is_found_in_one_go() {
        let (_, problems) = run("{ rate: 0, keep: { par: id }, warmup: 11, bogus: 1 }");
        assert_eq!(
            problems,
            [
                "`kind` has no parameter `bogus`",
                "`kind` needs `data`",
                "`rate` must be a number above 0 and at most 1",
                "`keep` has no parameter `par`",
                "`keep` needs `per`",
                "`warmup` must be a whole number from 0 to 10, or a number from 0 to 1",
            ]
        );
    }
}
