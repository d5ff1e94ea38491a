//! The parameters of a declaration as written, and their values at each point of the sweep.
//!
//! Every parameter is resolved once for all points that agree on the axes that it reads, and its value is shared.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::graph::params::Params;
use crate::kind::{Param, Reference, Resolved, check_keys, coerce, coerce_param};
use crate::language::diagnostic::{Diagnostic, Span};
use crate::language::interpolate::{AxisSet, MAX_SIZE, Names, Point, Scope, too_large};
use crate::language::yaml::{Node, ScopeId, Yaml};

use super::by_axes::ByAxes;

/// The parameters of a stage or source as the workflow gives them.
pub(super) struct Template<'a> {
    /// Those that are written, in the order of the table.
    written: Vec<ParamTemplate<'a>>,
    table: &'static [Param],
    node: &'a Node,
    /// The owner of the parameters in messages: `` `generate` ``.
    owner: String,
    keys_checked: bool,
}

struct ParamTemplate<'a> {
    param: &'static Param,
    node: &'a Node,
    values: ByAxes<Arc<Entry>>,
}

/// One parameter at a point.
struct Entry {
    name: Arc<str>,
    /// Its value; `None` where it is absent or a reference.
    value: Option<Arc<Value>>,
    references: Vec<Reference>,
    places: Vec<(String, Span)>,
    /// Where its value was written: paths start from that file.
    scope: ScopeId,
    axes: AxisSet,
    /// Its share of [`MAX_SIZE`].
    size: usize,
}

/// The entries of parameters that are not written, shared by all declarations: a kind has dozens.
#[derive(Default)]
pub(super) struct Defaults(HashMap<*const Param, Arc<Entry>>);

/// The parameters of a declaration at a point.
#[derive(Default)]
pub(super) struct Values {
    entries: Vec<Arc<Entry>>,
    /// The axes that they depend on.
    pub axes: AxisSet,
}

impl<'a> Template<'a> {
    pub fn new(table: &'static [Param], node: &'a Node, owner: String) -> Template<'a> {
        let written = table.iter().filter_map(|param| {
            let node = node.get(param.name)?;
            Some(ParamTemplate { param, node, values: ByAxes::default() })
        });
        Template { written: written.collect(), table, node, owner, keys_checked: false }
    }

    /// Resolves the parameters at a point; where there are problems, some values are missing.
    pub fn at(
        &mut self,
        names: &Names<'_>,
        point: &Point,
        defaults: &mut Defaults,
        problems: &mut Vec<Diagnostic>,
    ) -> Values {
        let Yaml::Map(entries) = &self.node.value else {
            return self.whole(names, point, problems);
        };
        if !std::mem::replace(&mut self.keys_checked, true) {
            check_keys(self.table, entries, &self.owner, problems);
        }

        let mut values = Values::default();
        let mut left = MAX_SIZE;
        let mut written = self.written.iter_mut().peekable();
        for param in self.table {
            let template = written.next_if(|template| std::ptr::eq(template.param, param));
            let place = template.as_ref().map_or(&self.node.span, |template| &template.node.span);
            let entry = match template {
                Some(template) => {
                    template.at(names, point, left, &self.node.span, &self.owner, problems)
                }
                None => defaults.of(param, &self.node.span, &self.owner, problems),
            };
            let Some(entry) = entry else { continue };
            let Some(rest) = left.checked_sub(entry.size) else {
                problems.push(too_large(place));
                break;
            };
            left = rest;
            values.axes |= entry.axes;
            values.entries.push(entry);
        }
        values
    }

    /// Resolves parameters that are not a mapping but `${…}`, or nothing.
    fn whole(&self, names: &Names<'_>, point: &Point, problems: &mut Vec<Diagnostic>) -> Values {
        let mut axes = 0;
        let node = match Scope::new(names, point, MAX_SIZE).resolve(self.node, &mut axes) {
            Ok(node) => node,
            Err(problem) => {
                problems.push(problem);
                return Values::default();
            }
        };
        let Yaml::Map(entries) = &node.value else {
            let resolved = coerce(self.table, &node, &self.owner, problems);
            let entries = resolved.values.into_iter().map(|(name, value)| {
                Arc::new(Entry {
                    name: name.into(),
                    value: Some(Arc::new(value)),
                    references: Vec::new(),
                    places: Vec::new(),
                    scope: node.scope,
                    axes,
                    size: 0,
                })
            });
            return Values { entries: entries.collect(), axes };
        };

        check_keys(self.table, entries, &self.owner, problems);
        let entries = self.table.iter().map(|param| {
            let written = node.get(param.name);
            let resolved = coerce_param(param, written, &node.span, &self.owner, problems);
            let scope = written.unwrap_or(&node).scope;
            Arc::new(Entry::new(param.name, resolved, scope, axes, 0))
        });
        Values { entries: entries.collect(), axes }
    }
}

impl ParamTemplate<'_> {
    /// Returns the parameter at a point, resolved once; `None` where it has a problem.
    fn at(
        &mut self,
        names: &Names<'_>,
        point: &Point,
        left: usize,
        mapping: &Span,
        owner: &str,
        problems: &mut Vec<Diagnostic>,
    ) -> Option<Arc<Entry>> {
        if let Some(known) = self.values.get(point) {
            return Some(known.clone());
        }
        let before = problems.len();
        let mut axes = 0;
        let scope = Scope::new(names, point, left);
        let node =
            scope.resolve(self.node, &mut axes).map_err(|problem| problems.push(problem)).ok()?;
        let resolved = coerce_param(self.param, Some(&node), mapping, owner, problems);
        if problems.len() > before {
            return None;
        }

        let size = left - scope.left();
        let entry = Arc::new(Entry::new(self.param.name, resolved, node.scope, axes, size));
        self.values.insert(axes, point, entry.clone());
        Some(entry)
    }
}

impl Defaults {
    /// Returns a parameter that is not written; `None` where it has to be.
    fn of(
        &mut self,
        param: &'static Param,
        mapping: &Span,
        owner: &str,
        problems: &mut Vec<Diagnostic>,
    ) -> Option<Arc<Entry>> {
        if let Some(known) = self.0.get(&std::ptr::from_ref(param)) {
            return Some(known.clone());
        }
        let before = problems.len();
        let resolved = coerce_param(param, None, mapping, owner, problems);
        if problems.len() > before {
            return None;
        }
        let entry = Arc::new(Entry::new(param.name, resolved, ScopeId::ROOT, 0, 0));
        self.0.insert(param, entry.clone());
        Some(entry)
    }
}

impl Entry {
    fn new(name: &str, resolved: Resolved, scope: ScopeId, axes: AxisSet, size: usize) -> Entry {
        let Resolved { mut values, references, places } = resolved;
        let value = values.remove(name).map(Arc::new);
        Entry { name: name.into(), value, references, places, scope, axes, size }
    }
}

impl Values {
    /// Returns the references among the values.
    pub fn references(&self) -> Vec<Reference> {
        self.entries.iter().flat_map(|entry| entry.references.iter().cloned()).collect()
    }

    /// Returns the place of a path, or of the nearest part of it that the workflow gives.
    pub fn place(&self, path: &str) -> Option<Span> {
        let name = path.split(['.', '[']).next().unwrap_or_default();
        let entry = self.entries.iter().find(|entry| *entry.name == *name)?;
        let mut path = path;
        loop {
            if let Some((_, span)) = entry.places.iter().find(|(p, _)| p == path) {
                return Some(span.clone());
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// Returns the scope in which a parameter's value was written.
    pub fn scope(&self, name: &str) -> ScopeId {
        let entry = self.entries.iter().find(|entry| *entry.name == *name);
        entry.map_or(ScopeId::ROOT, |entry| entry.scope)
    }

    /// Copies the values into a mapping.
    pub fn to_map(&self) -> Map<String, Value> {
        let values = self.entries.iter();
        values
            .filter_map(|entry| Some((entry.name.to_string(), Value::clone(entry.value.as_ref()?))))
            .collect()
    }

    /// Copies the values into a mapping, with the names of the artifacts that they refer to.
    pub fn with_references(&self) -> Map<String, Value> {
        let mut map = self.to_map();
        for reference in self.references() {
            map.entry(reference.path).or_insert_with(|| reference.name.into());
        }
        map
    }

    /// Returns the name of the first parameter whose value is not the same in another mapping;
    /// references are no values.
    pub fn first_difference(&self, other: &Values) -> Option<String> {
        let (here, there) = (self.to_map(), other.to_map());
        let differs = |name: &&String| here.get(*name) != there.get(*name);
        here.keys().chain(there.keys()).find(differs).cloned()
    }

    /// Returns the parameters of `map`, each shared with the entry that it was copied from and still equals.
    pub fn shared(&self, map: &Map<String, Value>) -> Params {
        let share = |(name, value): (&String, &Value)| {
            let entry = self.entries.iter().find(|entry| *entry.name == **name);
            let known = entry.and_then(|entry| entry.value.as_ref());
            let name = entry.map_or_else(|| name.as_str().into(), |entry| entry.name.clone());
            match known {
                Some(known) if **known == *value => (name, known.clone()),
                _ => (name, Arc::new(value.clone())),
            }
        };
        map.iter().map(share).collect()
    }
}
