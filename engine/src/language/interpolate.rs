//! Puts params and axis values in place of `${…}`, and notes on which axes the result depends.

use std::cell::Cell;

use crate::kind::canonical;
use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::language::workflow::{RESERVED, Workflow};
use crate::language::yaml::{Node, Yaml};

/// A point of the sweep: the index of the chosen value of each axis.
pub type Point = [u32];

/// The axes that something depends on, one bit each.
pub type AxisSet = u64;

/// Most axes of one sweep.
pub const MAX_AXES: usize = 64;

/// Deepest chain of params that refer to params.
const MAX_CHAIN: usize = 32;

/// Most bytes that one mapping may become, its texts as they are and each value as [`VALUE`].
const MAX_SIZE: usize = crate::language::yaml::MAX_BYTES;
/// Bytes that a value is counted as.
const VALUE: usize = 4;

/// Names among which one like a given one is looked for.
const MOST_COMPARED: usize = 2000;

/// What to do about a name where the workflow has no params and no axes.
pub(crate) const NO_PARAMS: &str = "declare it under `params`, or as an axis under `sweep`";

/// The values of params and axes at one point.
pub struct Scope<'a> {
    workflow: &'a Workflow,
    point: &'a Point,
    /// Values and bytes that may still be made: a param may hold another twice, that one a third twice, and so on.
    left: Cell<usize>,
}

impl<'a> Scope<'a> {
    /// The scope of a point.
    pub fn new(workflow: &'a Workflow, point: &'a Point) -> Scope<'a> {
        Scope { workflow, point, left: Cell::new(MAX_SIZE) }
    }

    /// A value with everything put in; axes that were read are added to `axes`.
    pub fn resolve(&self, node: &Node, axes: &mut AxisSet) -> Result<Node, Diagnostic> {
        self.node(node, axes, 0)
    }

    fn spend(&self, size: usize, span: &Span) -> Result<(), Diagnostic> {
        let left = self.left.get().checked_sub(size).ok_or_else(|| {
            let message =
                format!("with the params put in, this is larger than {} MB", MAX_SIZE >> 20);
            Diagnostic::at(span.clone(), message)
        })?;
        self.left.set(left);
        Ok(())
    }

    fn node(&self, node: &Node, axes: &mut AxisSet, depth: usize) -> Result<Node, Diagnostic> {
        self.spend(VALUE, &node.span)?;
        let value = match &node.value {
            Yaml::Text(text) => return self.text(text, &node.span, axes, depth),
            Yaml::List(items) => Yaml::List(
                items.iter().map(|n| self.node(n, axes, depth)).collect::<Result<_, _>>()?,
            ),
            Yaml::Map(entries) => Yaml::Map(
                entries
                    .iter()
                    .map(|(k, v)| Ok((k.clone(), self.node(v, axes, depth)?)))
                    .collect::<Result<_, Diagnostic>>()?,
            ),
            other => other.clone(),
        };
        Ok(Node { span: node.span.clone(), value })
    }

    fn text(
        &self,
        text: &str,
        span: &Span,
        axes: &mut AxisSet,
        depth: usize,
    ) -> Result<Node, Diagnostic> {
        self.spend(text.len(), span)?;
        if !text.contains("${") {
            return Ok(Node { span: span.clone(), value: Yaml::Text(text.to_string()) });
        }
        let pieces = split(text).map_err(|m| Diagnostic::at(span.clone(), m))?;
        if let [Piece::Name(name)] = pieces.as_slice()
            && !deferred(name)
        {
            let mut value = self.lookup(name, span, axes, depth)?;
            place(&mut value, span);
            return Ok(value);
        }
        let keep = pieces.iter().any(|p| matches!(p, Piece::Name(name) if deferred(name)));
        let mut out = String::new();
        for piece in &pieces {
            match piece {
                // Where placeholders stay, a literal `${` must stay told apart from them.
                Piece::Literal(text) if keep => out.push_str(&text.replace("${", "$${")),
                Piece::Literal(text) => out.push_str(text),
                Piece::Name(name) if deferred(name) => out.push_str(&format!("${{{name}}}")),
                Piece::Name(name) => {
                    let value = self.lookup(name, span, axes, depth)?;
                    if matches!(value.value, Yaml::List(_) | Yaml::Map(_) | Yaml::Null) {
                        return Err(Diagnostic::at(
                            span.clone(),
                            format!(
                                "`{name}` is {} and cannot stand inside a text",
                                value.type_name()
                            ),
                        ));
                    }
                    let value = canonical(&value.to_json());
                    self.spend(value.len(), span)?;
                    out.push_str(&if keep { value.replace("${", "$${") } else { value });
                }
            }
        }
        let value = if keep { Yaml::Deferred(out) } else { Yaml::Text(out) };
        Ok(Node { span: span.clone(), value })
    }

    /// The value of `name` or `name.field.field`.
    fn lookup(
        &self,
        path: &str,
        span: &Span,
        axes: &mut AxisSet,
        depth: usize,
    ) -> Result<Node, Diagnostic> {
        if depth > MAX_CHAIN {
            return Err(Diagnostic::at(
                span.clone(),
                format!("`{path}` refers to itself, directly or through others"),
            ));
        }
        let mut parts = path.split('.');
        let name = parts.next().unwrap_or_default();
        let Some(node) = self.base(name, axes) else {
            let known: Vec<&str> = self.names();
            let hint = if self.workflow.artifact_names().any(|n| n == name) {
                Some(format!(
                    "`{name}` is a stage or source: refer to it by its bare name, without `${{}}`"
                ))
            } else {
                suggest(name, known, "there are").or(Some(NO_PARAMS.into()))
            };
            return Err(Diagnostic::at(
                span.clone(),
                format!("there is no param or axis `{name}`"),
            )
            .maybe_hint(hint));
        };
        let mut node = self.node(node, axes, depth + 1).map_err(|d| {
            if depth == 0 { Diagnostic { span: Some(span.clone()), ..d } } else { d }
        })?;
        for part in parts {
            let known: Vec<String> = match &node.value {
                Yaml::Map(entries) => entries.iter().map(|(k, _)| k.text.clone()).collect(),
                _ => Vec::new(),
            };
            node = match node.get(part) {
                Some(found) => found.clone(),
                None => {
                    return Err(Diagnostic::at(
                        span.clone(),
                        format!("`{path}`: there is no `{part}`"),
                    )
                    .maybe_hint(suggest(
                        part,
                        known.iter().map(String::as_str),
                        "there are",
                    )));
                }
            };
        }
        Ok(node)
    }

    fn base(&self, name: &str, axes: &mut AxisSet) -> Option<&'a Node> {
        for (i, axis) in self.workflow.axes.iter().enumerate() {
            let value = || axis.values.get(self.point[i] as usize).map(|(_, node)| node);
            if !axis.points && axis.name == name {
                *axes |= 1 << i;
                return value();
            }
            if axis.points && axis.values.iter().any(|(_, node)| node.get(name).is_some()) {
                *axes |= 1 << i;
                if let Some(node) = value().and_then(|v| v.get(name)) {
                    return Some(node);
                }
            }
        }
        self.workflow.params.iter().find(|(k, _)| k.text == name).map(|(_, node)| node)
    }

    fn names(&self) -> Vec<&'a str> {
        let params = self.workflow.params.iter().map(|(k, _)| k.text.as_str());
        params
            .chain(self.workflow.axes.iter().map(|a| a.name.as_str()))
            .take(MOST_COMPARED)
            .collect()
    }
}

fn deferred(name: &str) -> bool {
    let head = name.split(['.', ':']).next().unwrap_or_default();
    RESERVED.contains(&head)
}

fn place(node: &mut Node, span: &Span) {
    node.span = span.clone();
    match &mut node.value {
        Yaml::List(items) => items.iter_mut().for_each(|n| place(n, span)),
        Yaml::Map(entries) => entries.iter_mut().for_each(|(k, n)| {
            k.span = span.clone();
            place(n, span);
        }),
        _ => {}
    }
}

#[derive(Debug, PartialEq)]
enum Piece {
    Literal(String),
    Name(String),
}

/// Splits a text at its `${…}`; `$${` is a literal `${`.
fn split(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            literal.push_str(&rest[..at - 1]);
            literal.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        literal.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        let end =
            after.find('}').ok_or("a `${` is not closed by `}`; write `$${` for a literal `${`")?;
        let name = after[..end].trim();
        let fine = |c: char| c.is_ascii_alphanumeric() || "._-:/".contains(c);
        if name.is_empty() || !name.chars().all(fine) {
            return Err(format!("`${{{name}}}` is not a name; write `$${{` for a literal `${{`"));
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Name(name.to_string()));
        rest = &after[end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_split_at_its_names() {
        let name = |n: &str| Piece::Name(n.into());
        let lit = |n: &str| Piece::Literal(n.into());
        assert_eq!(split("a${b}c").unwrap(), [lit("a"), name("b"), lit("c")]);
        assert_eq!(split("$${b} ${ c.d }").unwrap(), [lit("${b} "), name("c.d")]);
        assert!(split("${open").is_err() && split("${a b}").is_err() && split("${}").is_err());
    }
}
