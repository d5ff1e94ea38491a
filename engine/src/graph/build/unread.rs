//! Finds axes, params and sources that nothing reads: a misspelt one changes nothing, and is found in no other way.

use crate::language::diagnostic::{Diagnostic, Span, similar};
use crate::language::workflow::Axis;

use super::Builder;

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
        let mut unread = Vec::new();
        for axis in &self.workflow.axes {
            unread.extend(self.unread_axis(axis));
        }
        let is_axis =
            |name: &str| self.workflow.axes.iter().any(|axis| !axis.points && axis.name == name);
        for (key, _) in &self.workflow.params {
            if !self.values.was_read(&key.text) && !is_axis(&key.text) {
                unread.push(self.unread_value("param", &key.text, key.span.clone()));
            }
        }
        for (decl, source) in self.workflow.sources.iter().enumerate() {
            if self.declared[decl].nodes.is_empty() {
                let what = if source.model { "model" } else { "source" };
                let name = &source.name.text;
                let message = format!("nothing reads the {what} `{name}`");
                let diagnostic = Diagnostic::at(source.name.span.clone(), message)
                    .hint(format!("remove it, or name it in a stage: `{name}`"));
                unread.push(Unread { diagnostic, set: false });
            }
        }
        unread
    }

    fn unread_axis(&self, axis: &Axis) -> Vec<Unread> {
        if !axis.points {
            let read = self.values.was_read(&axis.name);
            let unread = (!read).then(|| self.unread_value("axis", &axis.name, axis.span.clone()));
            return unread.into_iter().collect();
        }
        let mut unread: Vec<Unread> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for (key, _) in axis.values.iter().flat_map(|(_, point)| point.entries()) {
            let known = key.text == "name" || self.values.was_read(&key.text);
            if !known && seen.insert(key.text.as_str()) {
                let what = "entry of the sweep's points";
                unread.push(self.unread_value(what, &key.text, key.span.clone()));
            }
        }
        unread
    }

    fn unread_value(&self, what: &str, name: &str, span: Span) -> Unread {
        let params = self.workflow.params.iter().map(|(key, _)| key.text.as_str());
        let axes = self.workflow.axes.iter().map(|axis| axis.name.as_str());
        let read = params.chain(axes).filter(|known| *known != name && self.values.was_read(known));
        let hint = match self.workflow.source.text.contains(&format!("${name}")) {
            true => format!("`${name}` is text: write `${{{name}}}` for its value"),
            false => similar(name, read)
                .unwrap_or_else(|| format!("write `${{{name}}}` where it is wanted, or remove it")),
        };
        let message = format!("nothing reads the {what} `{name}`");
        let set = self.workflow.set.iter().any(|given| given == name);
        Unread { diagnostic: Diagnostic::at(span, message).hint(hint), set }
    }
}
