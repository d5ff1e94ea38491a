//! Finds axes, params and sources that nothing reads: a misspelt one changes nothing, and is found in no other way.

use std::collections::HashSet;

use crate::language::diagnostic::{Diagnostic, Span, similar};
use crate::language::interpolate::{MAX_SIZE, Scope};
use crate::language::workflow::{Axis, GivenParam, ParamDecl};
use crate::language::yaml::ScopeId;

use super::Builder;

/// After this many unread names no similar one is suggested.
const MAX_HINTS: usize = 100;

/// A declaration that nothing reads.
pub(super) struct Unread {
    pub diagnostic: Diagnostic,
    /// Whether the command line gives it a value.
    pub set: bool,
}

impl Builder<'_> {
    /// Lists the axes, params and sources that no stage reads; only where there are no other problems.
    pub(super) fn unread(&self) -> Vec<Unread> {
        if !self.problems.is_empty() {
            return Vec::new();
        }
        self.read_rounds();
        let dollars = dollar_names(&self.workflow.source.text);
        let mut unread = Vec::new();
        for (number, axis) in self.workflow.axes.iter().enumerate() {
            if Some(number) == self.workflow.rounds {
                continue;
            }
            self.unread_axis(axis, &dollars, &mut unread);
        }
        let is_axis =
            |name: &str| self.workflow.axes.iter().any(|axis| !axis.points && axis.name == name);
        for ParamDecl { name, .. } in &self.workflow.scopes[0].params {
            if !self.was_read(&name.text) && !is_axis(&name.text) {
                self.unread_value("param", &name.text, &name.span, &dollars, &mut unread);
            }
        }
        self.unread_with(&mut unread);
        for (decl, source) in self.workflow.sources.iter().enumerate() {
            // An included file may have sources that it is not given.
            let own = source.node.scope == ScopeId::ROOT;
            if own && self.declared[decl].nodes.is_empty() {
                let what = if source.model { "model" } else { "source" };
                let name = &source.name.text;
                let message = format!("nothing reads the {what} `{name}`");
                let diagnostic = Diagnostic::at(source.name.span.clone(), message)
                    .hint(format!("remove it, or name it in a stage: `{name}`"));
                unread.push(Unread { diagnostic, set: false });
            }
        }
        // Names that only left-out points of a sweep read are no slips.
        if self.workflow.axes.iter().any(|axis| self.is_reduced(axis)) {
            unread.retain(|one| one.set);
        }
        unread
    }

    /// Whether the command line leaves only a part of an axis.
    fn is_reduced(&self, axis: &Axis) -> bool {
        let is_set = |name: &str| self.workflow.set.iter().any(|given| given == name);
        let mut points = axis.values.iter().flat_map(|(_, point)| point.entries());
        is_set(&axis.name) || axis.points && points.any(|(key, _)| is_set(&key.text))
    }

    /// Reads the numbers of rounds again, whose params are read before the graph is built.
    fn read_rounds(&self) {
        let point = vec![0; self.sizes.len()];
        for repeat in self.workflow.scopes.iter().filter_map(|scope| scope.repeat.as_ref()) {
            let scope = Scope::new(&self.values, &point, MAX_SIZE);
            // It was resolved without a problem before.
            let _rounds = scope.resolve(&repeat.times, &mut 0);
        }
    }

    /// Lists the values that includes hand to params that nothing reads.
    fn unread_with(&self, unread: &mut Vec<Unread>) {
        for (number, scope) in self.workflow.scopes.iter().enumerate() {
            let scope_id = ScopeId(number as u32);
            for ParamDecl { name, given, .. } in &scope.params {
                let Some(GivenParam { key, .. }) = given else { continue };
                if !self.values.was_read(scope_id, &name.text) {
                    let include = scope.prefix.trim_end_matches('/');
                    let message = format!("nothing in `{include}` reads the param `{}`", name.text);
                    let diagnostic = Diagnostic::at(key.span.clone(), message).hint("remove it");
                    unread.push(Unread { diagnostic, set: false });
                }
            }
        }
    }

    /// Whether a name of the workflow's own file was read.
    fn was_read(&self, name: &str) -> bool {
        self.values.was_read(ScopeId::ROOT, name)
    }

    fn unread_axis(&self, axis: &Axis, dollars: &HashSet<&str>, unread: &mut Vec<Unread>) {
        if !axis.points {
            if !self.was_read(&axis.name) {
                self.unread_value("axis", &axis.name, &axis.span, dollars, unread);
            }
            return;
        }
        let mut seen = HashSet::new();
        for (key, _) in axis.values.iter().flat_map(|(_, point)| point.entries()) {
            let known = key.text == "name" || self.was_read(&key.text);
            if !known && seen.insert(key.text.as_str()) {
                let what = "entry of the sweep's points";
                self.unread_value(what, &key.text, &key.span, dollars, unread);
            }
        }
    }

    fn unread_value(
        &self,
        what: &str,
        name: &str,
        span: &Span,
        dollars: &HashSet<&str>,
        unread: &mut Vec<Unread>,
    ) {
        let params = self.workflow.scopes[0].params.iter().map(|param| param.name.text.as_str());
        let axes = self.workflow.axes.iter().map(|axis| axis.name.as_str());
        let read = params.chain(axes).filter(|known| *known != name && self.was_read(known));
        let near = if unread.len() < MAX_HINTS { similar(name, read) } else { None };
        let hint = match dollars.contains(name) {
            true => format!("`${name}` is text: write `${{{name}}}` for its value"),
            false => near
                .unwrap_or_else(|| format!("write `${{{name}}}` where it is wanted, or remove it")),
        };
        let message = format!("nothing reads the {what} `{name}`");
        let set = self.workflow.set.iter().any(|given| given == name);
        unread.push(Unread { diagnostic: Diagnostic::at(span.clone(), message).hint(hint), set });
    }
}

/// Collects the names that follow a bare `$` in a text.
fn dollar_names(text: &str) -> HashSet<&str> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let rests = text.match_indices('$').map(|(at, _)| &text[at + 1..]);
    rests.map(|rest| &rest[..rest.find(|c| !in_name(c)).unwrap_or(rest.len())]).collect()
}
