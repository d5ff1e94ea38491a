//! Substitutes params and axis values for `${…}` and records the axes that the result depends on.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::language::workflow::{
    Axis as SweepAxis, NO_PARAMS, NameScope, ParamDecl, RESERVED, ROUND, Workflow, misfit,
};
use crate::language::yaml::{MAX_BYTES, Node, ScopeId, Yaml};

/// A point of the sweep: the index of the chosen value of each axis.
pub type Point = [u32];

/// The axes that something depends on, one bit each.
pub type AxisSet = u64;

/// The largest number of axes of one sweep.
pub const MAX_AXES: usize = 64;

/// The largest size of one mapping after substitution: the bytes of its texts and a fixed number per value.
pub const MAX_SIZE: usize = MAX_BYTES;

/// The deepest chain of params that refer to params.
const MAX_CHAIN: usize = 32;

/// Bytes that a value is counted as.
const VALUE: usize = 4;

/// Names among which one like a given one is looked for.
const MOST_COMPARED: usize = 2000;

/// Unknown names for which a similar one is looked for: who has more reads the first ones.
const MOST_HINTS: usize = 100;

/// The params and axes of a workflow by name, and which of them were read.
pub struct Names<'a> {
    scopes: &'a [NameScope],
    /// The params of each scope.
    params: Vec<HashMap<&'a str, &'a ParamDecl>>,
    axes: HashMap<&'a str, Axis<'a>>,
    axis_names: Vec<&'a str>,
    /// The axis of rounds, which loops alone see.
    rounds: Option<Axis<'a>>,
    /// The axis whose points replace params, if the sweep is a list of points.
    points: Option<(Axis<'a>, &'a SweepAxis)>,
    artifacts: HashSet<&'a str>,
    read: RefCell<HashMap<ScopeId, HashSet<String>>>,
    hints: Cell<usize>,
}

/// An axis: its place among the axes, and its values.
type Axis<'a> = (u32, &'a [(String, Node)]);

impl<'a> Names<'a> {
    /// Indexes the params and axes of a workflow.
    pub fn new(workflow: &'a Workflow) -> Names<'a> {
        let of = |scope: &'a NameScope| {
            scope.params.iter().map(|param| (param.name.text.as_str(), param)).collect()
        };
        let params = workflow.scopes.iter().map(of).collect();
        let (mut axes, mut rounds, mut points) = (HashMap::new(), None, None);
        for (i, axis) in workflow.axes.iter().enumerate() {
            let entry = (i as u32, axis.values.as_slice());
            match axis.points {
                true => points = Some((entry, axis)),
                false if Some(i) == workflow.rounds => rounds = Some(entry),
                false => _ = axes.insert(axis.name.as_str(), entry),
            }
        }

        Names {
            scopes: &workflow.scopes,
            params,
            axes,
            axis_names: workflow.axes.iter().map(|axis| axis.name.as_str()).collect(),
            rounds,
            points,
            artifacts: workflow.artifact_names().collect(),
            read: RefCell::default(),
            hints: Cell::new(0),
        }
    }

    /// Whether a param, an axis or an entry of the points was read under this name of a scope.
    pub fn was_read(&self, scope: ScopeId, name: &str) -> bool {
        self.read.borrow().get(&scope).is_some_and(|names| names.contains(name))
    }

    /// Returns the value of a name at a point, not yet substituted, and the param that it is of.
    fn value(
        &self,
        (scope, name): (ScopeId, &str),
        point: &Point,
        axes: &mut AxisSet,
    ) -> Option<(&'a Node, Option<&'a ParamDecl>)> {
        let (scope, in_loop) = self.file(scope);
        if in_loop && name == ROUND {
            return Some((self.chosen(self.rounds?, point, axes)?, None));
        }
        if !self.was_read(scope, name) {
            self.read.borrow_mut().entry(scope).or_default().insert(name.to_string());
        }

        if scope == ScopeId::ROOT
            && let Some(node) = self.swept(name, point, axes)
        {
            return Some((node, None));
        }
        let param = self.params[scope.index()].get(name)?;
        Some((&param.value, Some(param)))
    }

    /// Returns the value that an axis or a named point gives to a name of the workflow's own file.
    fn swept(&self, name: &str, point: &Point, axes: &mut AxisSet) -> Option<&'a Node> {
        if let Some(axis) = self.axes.get(name) {
            return self.chosen(*axis, point, axes);
        }
        let (axis, points) = self.points?;
        let chosen = points.fields.contains(name).then(|| self.chosen(axis, point, axes));
        chosen??.get(name)
    }

    /// Returns the value of an axis at a point.
    fn chosen(&self, axis: Axis<'a>, point: &Point, axes: &mut AxisSet) -> Option<&'a Node> {
        *axes |= 1 << axis.0;
        axis.1.get(point[axis.0 as usize] as usize).map(|(_, node)| node)
    }

    /// Returns the scope of the file that a scope is a part of, and whether that part is a loop.
    fn file(&self, scope: ScopeId) -> (ScopeId, bool) {
        let names = &self.scopes[scope.index()];
        (names.outer.unwrap_or(scope), names.repeat.is_some())
    }

    fn unknown(&self, scope: ScopeId, name: &str, span: &Span) -> Diagnostic {
        self.hints.set(self.hints.get() + 1);
        let (scope, in_loop) = self.file(scope);
        let NameScope { prefix, left_out, .. } = &self.scopes[scope.index()];
        let params = self.scopes[scope.index()].params.iter().map(|param| param.name.text.as_str());
        let axes = self.axis_names.iter().copied().filter(|_| scope == ScopeId::ROOT);
        let known = params.chain(axes).filter(|axis| in_loop || *axis != ROUND);
        let known = known.take(MOST_COMPARED);
        let hint = if self.artifacts.contains(format!("{prefix}{name}").as_str()) {
            format!("`{name}` is a stage or source: refer to it by its bare name, without `${{}}`")
        } else if left_out.iter().any(|axis| axis == name) {
            format!(
                "the axes of an included file are not brought in: give `{name}` a default under `params`"
            )
        } else if self.hints.get() > MOST_HINTS {
            NO_PARAMS.into()
        } else {
            suggest(name, known, "there are").unwrap_or(NO_PARAMS.into())
        };
        Diagnostic::at(span.clone(), format!("there is no param or axis `{name}`")).hint(hint)
    }
}

/// The values of params and axes at one point.
pub struct Scope<'a> {
    names: &'a Names<'a>,
    point: &'a Point,
    /// Values and bytes that may still be made: a param may hold another twice, that one a third twice, and so on.
    left: Cell<usize>,
}

/// A place in which a name stands, and how many params were followed to it.
#[derive(Clone, Copy)]
struct Use<'s> {
    span: &'s Span,
    scope: ScopeId,
    depth: usize,
}

impl<'a> Scope<'a> {
    /// The scope of a point, in which values of up to `left` bytes may be made.
    pub fn new(names: &'a Names<'a>, point: &'a Point, left: usize) -> Scope<'a> {
        Scope { names, point, left: Cell::new(left) }
    }

    /// Returns how many bytes may still be made.
    pub fn left(&self) -> usize {
        self.left.get()
    }

    /// Returns a value with everything substituted, and adds the axes that were read to `axes`.
    ///
    /// # Errors
    /// A name that is not declared, a chain of params without end, a result that is too large.
    pub fn resolve(&self, node: &Node, axes: &mut AxisSet) -> Result<Node, Diagnostic> {
        self.node(node, axes, 0)
    }

    fn spend(&self, size: usize, span: &Span) -> Result<(), Diagnostic> {
        let left = self.left.get().checked_sub(size).ok_or_else(|| too_large(span))?;
        self.left.set(left);
        Ok(())
    }

    fn node(&self, node: &Node, axes: &mut AxisSet, depth: usize) -> Result<Node, Diagnostic> {
        self.spend(VALUE, &node.span)?;
        let value = match &node.value {
            Yaml::Text(text) => return self.text(text, node, axes, depth),
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
        Ok(Node { span: node.span.clone(), scope: node.scope, value })
    }

    fn text(
        &self,
        text: &str,
        node: &Node,
        axes: &mut AxisSet,
        depth: usize,
    ) -> Result<Node, Diagnostic> {
        let span = &node.span;
        self.spend(text.len(), span)?;
        if !text.contains("${") {
            return Ok(node.clone());
        }
        let parts = split(text).map_err(|m| Diagnostic::at(span.clone(), m))?;
        let usage = Use { span, scope: node.scope, depth };
        if let [TextPart::Name(name)] = parts.as_slice()
            && !is_deferred(name)
        {
            let mut value = self.lookup(name, usage, axes)?;
            substitute(&mut value, span);
            return Ok(value);
        }

        let mut inserted = Vec::with_capacity(parts.len());
        for part in &parts {
            inserted.push(match part {
                TextPart::Name(name) if !is_deferred(name) => Some(self.insert(name, usage, axes)?),
                _ => None,
            });
        }
        // A name or path that begins with a param's value is one of the scope that the value is
        // from.
        let scope = inserted.first().and_then(Option::as_ref).map_or(node.scope, |node| node.scope);
        Ok(Node { span: span.clone(), scope, value: joined(&parts, &inserted) })
    }

    /// Looks up a name that stands inside a longer text, where it must be a scalar.
    fn insert(&self, name: &str, usage: Use<'_>, axes: &mut AxisSet) -> Result<Node, Diagnostic> {
        let value = self.lookup(name, usage, axes)?;
        let Some(text) = value.text() else {
            let message =
                format!("`{name}` is {} and cannot stand inside a text", value.type_name());
            return Err(Diagnostic::at(usage.span.clone(), message));
        };
        self.spend(text.len(), usage.span)?;
        Ok(value)
    }

    /// Looks up `name` or `name.field.field`.
    fn lookup(&self, path: &str, usage: Use<'_>, axes: &mut AxisSet) -> Result<Node, Diagnostic> {
        let mut fields = path.split('.');
        let name = fields.next().unwrap_or_default();
        let fields: Vec<&str> = fields.collect();
        self.follow(path, name, &fields, usage, axes)
    }

    /// Follows the fields of a name before anything is substituted, so that only the axes of that field are read.
    fn follow(
        &self,
        path: &str,
        name: &str,
        fields: &[&str],
        usage: Use<'_>,
        axes: &mut AxisSet,
    ) -> Result<Node, Diagnostic> {
        if usage.depth > MAX_CHAIN {
            let message = format!("`{path}` refers to itself, directly or through others");
            return Err(Diagnostic::at(usage.span.clone(), message));
        }
        let found = self.names.value((usage.scope, name), self.point, axes);
        let (mut node, param) =
            found.ok_or_else(|| self.names.unknown(usage.scope, name, usage.span))?;

        let mut rest = fields;
        while let [field, after @ ..] = rest {
            if let Some(found) = node.get(field) {
                (node, rest) = (found, after);
                continue;
            }
            let Some(other) = only_name(node) else {
                return Err(no_field(path, field, node, usage.span));
            };
            let chain: Vec<&str> = other.split('.').chain(rest.iter().copied()).collect();
            let deeper = Use { depth: usage.depth + 1, scope: node.scope, ..usage };
            return self.follow(path, chain[0], &chain[1..], deeper, axes);
        }

        let resolved = self.node(node, axes, usage.depth + 1);
        let resolved = resolved.map_err(|problem| match usage.depth {
            // A fault of a value that an include hands on is told where it is handed on.
            0 if node.scope == usage.scope => {
                Diagnostic { span: Some(usage.span.clone()), ..problem }
            }
            _ => problem,
        })?;
        match param.filter(|_| fields.is_empty()).and_then(|param| misfit(param, &resolved)) {
            Some(misfit) => Err(Diagnostic { span: Some(node.span.clone()), ..misfit }),
            None => Ok(resolved),
        }
    }
}

/// The problem of a mapping that substitution makes too large.
pub fn too_large(span: &Span) -> Diagnostic {
    let message = format!("larger than {} MB after params are substituted", MAX_SIZE >> 20);
    Diagnostic::at(span.clone(), message)
}

fn no_field(path: &str, field: &str, node: &Node, span: &Span) -> Diagnostic {
    let known: Vec<&str> = match &node.value {
        Yaml::Map(entries) => entries.iter().map(|(key, _)| key.text.as_str()).collect(),
        _ => Vec::new(),
    };
    Diagnostic::at(span.clone(), format!("`{path}`: there is no `{field}`")).maybe_hint(suggest(
        field,
        known,
        "there are",
    ))
}

/// Joins the parts of a text. Where a placeholder stays, also one that a param brought, all literal `${` are escaped.
fn joined(parts: &[TextPart], inserted: &[Option<Node>]) -> Yaml {
    let brought = |node: &Option<Node>| matches!(node, Some(Node { value: Yaml::Deferred(_), .. }));
    let stays = |part: &TextPart| matches!(part, TextPart::Name(name) if is_deferred(name));
    let deferred = parts.iter().any(stays) || inserted.iter().any(brought);

    let mut out = String::new();
    let push = |out: &mut String, text: &str| match deferred {
        true => out.push_str(&text.replace("${", "$${")),
        false => out.push_str(text),
    };
    for (part, value) in parts.iter().zip(inserted) {
        match (part, value) {
            (_, Some(Node { value: Yaml::Deferred(text), .. })) => out.push_str(text),
            (_, Some(node)) => push(&mut out, &node.text().unwrap_or_default()),
            (TextPart::Literal(text), None) => push(&mut out, text),
            (TextPart::Name(name), None) => out.push_str(&format!("${{{name}}}")),
        }
    }
    if deferred { Yaml::Deferred(out) } else { Yaml::Text(out) }
}

/// Whether a name stays as it is until the node runs.
fn is_deferred(name: &str) -> bool {
    let head = name.split(['.', ':']).next().unwrap_or_default();
    RESERVED.contains(&head)
}

/// Returns the name of a text that is exactly one `${…}`.
fn only_name(node: &Node) -> Option<String> {
    let Yaml::Text(text) = &node.value else { return None };
    let mut parts = split(text).ok()?;
    match (parts.pop()?, parts.is_empty()) {
        (TextPart::Name(name), true) if !is_deferred(&name) => Some(name),
        _ => None,
    }
}

/// Gives a value the place of the `${…}` that it stands for, and makes its nulls absent.
fn substitute(node: &mut Node, span: &Span) {
    node.span = span.clone();
    match &mut node.value {
        Yaml::Null => node.value = Yaml::Absent,
        Yaml::List(items) => items.iter_mut().for_each(|n| substitute(n, span)),
        Yaml::Map(entries) => entries.iter_mut().for_each(|(k, n)| {
            k.span = span.clone();
            substitute(n, span);
        }),
        _ => {}
    }
}

/// A part of a text with `${…}` in it.
#[derive(Debug, PartialEq)]
enum TextPart {
    Literal(String),
    Name(String),
}

/// Splits a text at its `${…}`; `$${` is a literal `${`.
fn split(text: &str) -> Result<Vec<TextPart>, String> {
    let mut parts = Vec::new();
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
            parts.push(TextPart::Literal(std::mem::take(&mut literal)));
        }
        parts.push(TextPart::Name(name.to_string()));
        rest = &after[end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(TextPart::Literal(literal));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_split_at_its_names() {
        let name = |n: &str| TextPart::Name(n.into());
        let lit = |n: &str| TextPart::Literal(n.into());
        assert_eq!(split("a${b}c").unwrap(), [lit("a"), name("b"), lit("c")]);
        assert_eq!(split("$${b} ${ c.d }").unwrap(), [lit("${b} "), name("c.d")]);
        assert!(split("${open").is_err() && split("${a b}").is_err() && split("${}").is_err());
    }
}
