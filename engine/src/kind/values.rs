//! Checks the values of a workflow against a kind's table: types, ranges, unknown keys, defaults, references.

use serde_json::{Map, Number, Value};

use refrain_cache::ArtifactKind;

use super::{Default, Param, Type};
use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::language::yaml::{Node, Yaml};

/// A name that a parameter gives where an artifact is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Path of the parameter, for example `mix[0].data`.
    pub path: String,
    /// What is written there.
    pub name: String,
    /// Where.
    pub span: Span,
    /// What it must be; `None` = any kind.
    pub kind: Option<ArtifactKind>,
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
    /// The place of a path, or of the nearest part of it that the workflow gives.
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
    let mut walk = Walk { resolved: Resolved::default(), problems, owner };
    walk.resolved.values = walk.record(params, node, "");
    walk.resolved
}

struct Walk<'a> {
    resolved: Resolved,
    problems: &'a mut Vec<Diagnostic>,
    owner: &'a str,
}

/// Why a value does not fit its type.
type Misfit = Diagnostic;

impl Walk<'_> {
    fn record(&mut self, params: &[Param], node: &Node, path: &str) -> Map<String, Value> {
        let mut values = Vec::with_capacity(params.len());
        let entries: &[_] = match &node.value {
            Yaml::Map(entries) => entries,
            Yaml::Null if path.is_empty() => &[],
            _ => {
                self.problems.push(Diagnostic::at(
                    node.span.clone(),
                    format!("expected a mapping, found {}", node.type_name()),
                ));
                return Map::new();
            }
        };
        let shown = if path.is_empty() { self.owner.to_string() } else { format!("`{path}`") };
        for (key, _) in entries {
            if !params.iter().any(|p| p.name == key.text) {
                let known = params.iter().map(|p| p.name);
                self.problems.push(
                    Diagnostic::at(
                        key.span.clone(),
                        format!("{shown} has no parameter `{}`", key.text),
                    )
                    .maybe_hint(suggest(
                        &key.text,
                        known,
                        "its parameters are",
                    )),
                );
            }
        }
        for param in params {
            let path = join(path, param.name);
            match (entries.iter().find(|(k, _)| k.text == param.name), param.default) {
                (Some((_, value)), _) => {
                    self.resolved.places.push((path.clone(), value.span.clone()));
                    match self.value(&param.ty, value, &path) {
                        Ok(Some(value)) => values.push((param.name.to_owned(), value)),
                        Ok(None) => {}
                        Err(misfit) => self.problems.push(misfit),
                    }
                }
                (None, Default::Required) => {
                    self.problems.push(
                        Diagnostic::at(
                            node.span.clone(),
                            format!("{shown} needs `{}`", param.name),
                        )
                        .hint(format!("`{}`: {}", param.name, param.about)),
                    );
                }
                (None, Default::Absent) => {}
                (None, Default::Json(text)) => {
                    let value =
                        serde_json::from_str(text).expect("a default of a kind's table is JSON");
                    values.push((param.name.to_owned(), value));
                }
            }
        }
        exact(values)
    }

    /// The typed value; `None` for a reference, which is noted instead.
    fn value(&mut self, ty: &Type, node: &Node, path: &str) -> Result<Option<Value>, Misfit> {
        let misfit =
            || Diagnostic::at(node.span.clone(), format!("`{path}` must be {}", describe(ty)));
        let found = || misfit().label(format!("this is {}", node.type_name()));
        // Behind a `${…}` the value is not to be seen in the line.
        let outside = || misfit().label(format!("this is {}", canonical(&node.to_json())));
        match (ty, &node.value) {
            (Type::Text, Yaml::Deferred(_)) => Err(Diagnostic::at(
                node.span.clone(),
                format!("`{path}` may not hold `${{in.…}}`, `${{out.…}}` or `${{env:…}}`"),
            )
            .hint("they stand in the command and environment of `run` only; write `$${` for a literal `${`")),
            (Type::Bool, Yaml::Bool(b)) => Ok(Some(Value::Bool(*b))),
            (Type::Int { min, max }, Yaml::Int(i)) if (min..=max).contains(&i) => Ok(Some(Value::from(*i))),
            (Type::Int { .. }, Yaml::Int(_)) => Err(outside()),
            (Type::Int { min, max }, Yaml::Float(f)) if f.fract() == 0.0 && f.abs() < 9e15 => {
                let whole = *f as i64;
                if (*min..=*max).contains(&whole) { Ok(Some(Value::from(whole))) } else { Err(outside()) }
            }
            (Type::Int { .. }, Yaml::Float(_)) => Err(outside()),
            (Type::Float { .. }, Yaml::Int(i)) => float(ty, *i as f64).ok_or_else(outside).map(Some),
            (Type::Float { .. }, Yaml::Float(f)) => float(ty, *f).ok_or_else(outside).map(Some),
            (Type::Text, Yaml::Text(t)) => Ok(Some(Value::String(t.clone()))),
            (Type::Text, Yaml::Int(_) | Yaml::Float(_) | Yaml::Bool(_)) => {
                Ok(Some(Value::String(canonical(&node.to_json()))))
            }
            (Type::Command | Type::Secret, Yaml::Deferred(t)) => {
                check_placeholders(ty, t, node, path)?;
                Ok(Some(Value::String(t.clone())))
            }
            (Type::Command | Type::Secret, Yaml::Text(_) | Yaml::Int(_) | Yaml::Float(_) | Yaml::Bool(_)) => {
                Ok(Some(Value::String(canonical(&node.to_json()).replace("${", "$${"))))
            }
            (Type::Choice(words), Yaml::Text(t)) => {
                if words.contains(&t.as_str()) {
                    Ok(Some(Value::String(t.clone())))
                } else {
                    Err(Diagnostic::at(node.span.clone(), format!("`{path}` cannot be `{t}`"))
                        .maybe_hint(suggest(t, words.iter().copied(), "it is one of")))
                }
            }
            (Type::Reference(kind), Yaml::Text(name)) => {
                let (path, name, span) = (path.to_string(), name.clone(), node.span.clone());
                self.resolved.references.push(Reference { path, name, span, kind: *kind });
                Ok(None)
            }
            (Type::List(item), Yaml::List(nodes)) => self.list(item, nodes, path).map(Some),
            (Type::Record(params), Yaml::Map(_)) => Ok(Some(Value::Object(self.record(params, node, path)))),
            (Type::Map(item), Yaml::Map(entries)) => {
                let mut values = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    check_name(&key.text).map_err(|m| Diagnostic::at(key.span.clone(), m))?;
                    let path = join(path, &key.text);
                    self.resolved.places.push((path.clone(), value.span.clone()));
                    if let Some(value) = self.value(item, value, &path)? {
                        values.push((key.text.clone(), value));
                    }
                }
                Ok(Some(Value::Object(exact(values))))
            }
            (Type::OneOf(types), _) => self.one_of(types, node, path, ty),
            (Type::Any, _) => Ok(Some(node.to_json())),
            _ => Err(found()),
        }
    }

    fn list(&mut self, item: &Type, nodes: &[Node], path: &str) -> Result<Value, Misfit> {
        let mut values = Vec::with_capacity(nodes.len());
        for (i, node) in nodes.iter().enumerate() {
            let path = format!("{path}[{i}]");
            self.resolved.places.push((path.clone(), node.span.clone()));
            values.extend(self.value(item, node, &path)?);
        }
        Ok(Value::Array(values))
    }

    /// The first type that fits; when none does, the complaint of the only one of the value's shape.
    fn one_of(
        &mut self,
        types: &[Type],
        node: &Node,
        path: &str,
        all: &Type,
    ) -> Result<Option<Value>, Misfit> {
        let mut alike = Vec::new();
        for ty in types.iter().filter(|ty| same_shape(ty, node)) {
            let mut problems = Vec::new();
            let mut trial =
                Walk { resolved: Resolved::default(), problems: &mut problems, owner: self.owner };
            match trial.value(ty, node, path) {
                Ok(value) if trial.problems.is_empty() => {
                    let trial = trial.resolved;
                    self.resolved.references.extend(trial.references);
                    self.resolved.places.extend(trial.places);
                    return Ok(value);
                }
                Ok(_) => alike.push(problems),
                Err(misfit) => {
                    problems.push(misfit);
                    alike.push(problems);
                }
            }
        }
        if alike.len() == 1 {
            let mut problems = alike.remove(0);
            let last = problems.pop().expect("a type that does not fit has a problem");
            self.problems.extend(problems);
            return Err(last);
        }
        Err(Diagnostic::at(node.span.clone(), format!("`{path}` must be {}", describe(all)))
            .label(format!("this is {}", node.type_name())))
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
        Type::Bool => matches!(node.value, Yaml::Bool(_)),
        Type::Int { .. } | Type::Float { .. } => {
            matches!(node.value, Yaml::Int(_) | Yaml::Float(_))
        }
        Type::Text | Type::Command | Type::Secret | Type::Choice(_) | Type::Reference(_) => {
            matches!(node.value, Yaml::Text(_) | Yaml::Deferred(_))
        }
        Type::List(_) => matches!(node.value, Yaml::List(_)),
        Type::Record(_) | Type::Map(_) => matches!(node.value, Yaml::Map(_)),
        Type::OneOf(types) => types.iter().any(|ty| same_shape(ty, node)),
        Type::Any => true,
    }
}

/// The placeholders that stay in a text until its node runs.
pub fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let at = rest.find("${")?;
            let escaped = rest[..at].ends_with('$');
            let after = &rest[at + 2..];
            let Some(end) = after.find('}') else {
                rest = "";
                return None;
            };
            rest = &after[end + 1..];
            if !escaped {
                return Some(&after[..end]);
            }
        }
    })
}

fn check_placeholders(ty: &Type, text: &str, node: &Node, path: &str) -> Result<(), Misfit> {
    for name in placeholders(text) {
        let secret = name.starts_with("env:");
        if secret != matches!(ty, Type::Secret) {
            let hint = if secret {
                "secrets may stand in `environment` only, so that they never reach a key or a log"
            } else {
                "`${in.…}` and `${out.…}` may stand in `command` only"
            };
            return Err(Diagnostic::at(
                node.span.clone(),
                format!("`{path}` may not hold `${{{name}}}`"),
            )
            .hint(hint));
        }
    }
    Ok(())
}

/// Whether a free name may be used in references, paths and columns.
pub fn check_name(name: &str) -> Result<(), String> {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if first
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        && name.len() <= 100
    {
        Ok(())
    } else {
        Err(format!(
            "`{name}` is not a name: letters, digits, `_` and `-`, beginning with a letter"
        ))
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}

/// The one text of a scalar: `1`, `1.0` and `1e0` are all `1`.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (None, Some(f)) if f.fract() == 0.0 && f.abs() < 9e15 => format!("{}", f as i64),
            _ => n.to_string(),
        },
        other => other.to_string(),
    }
}

/// What a type admits, for people.
pub fn describe(ty: &Type) -> String {
    let list =
        |words: &[&str]| words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
    match ty {
        Type::Bool => "`true` or `false`".into(),
        Type::Int { min, max: i64::MAX } => format!("a whole number of at least {min}"),
        Type::Int { min: i64::MIN, max } => format!("a whole number of at most {max}"),
        Type::Int { min, max } => format!("a whole number from {min} to {max}"),
        Type::Float { min, max, open } => match (min.is_finite(), max.is_finite(), open) {
            (true, true, true) => format!("a number above {min} and at most {max}"),
            (true, true, false) => format!("a number from {min} to {max}"),
            (true, false, true) => format!("a number above {min}"),
            (true, false, false) => format!("a number of at least {min}"),
            (false, true, _) => format!("a number of at most {max}"),
            (false, false, _) => "a number".into(),
        },
        Type::Text | Type::Command | Type::Secret => "text".into(),
        Type::Choice(words) => format!("one of {}", list(words)),
        Type::Reference(Some(ArtifactKind::Table)) => "the name of a table".into(),
        Type::Reference(Some(ArtifactKind::Model)) => "the name of a model".into(),
        Type::Reference(Some(ArtifactKind::File)) => "the name of a file".into(),
        Type::Reference(None) => "the name of a stage or source".into(),
        Type::List(item) => format!("a list (each {})", describe(item)),
        Type::Record(params) => {
            let names: Vec<_> = params.iter().map(|p| p.name).collect();
            format!("a mapping with {}", list(&names))
        }
        Type::Map(item) => format!("a mapping (each value {})", describe(item)),
        Type::OneOf(types) => types.iter().map(describe).collect::<Vec<_>>().join(", or "),
        Type::Any => "any value".into(),
    }
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
