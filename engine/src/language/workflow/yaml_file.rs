//! Reads the YAML files of other tools that stages name: their content takes the place of the path.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use refrain_cache::read_plain;

use crate::kind::{Param, Type};
use crate::language::diagnostic::{Diagnostic, IncludedText, Span};
use crate::language::yaml::{self, Key, MAX_BYTES, Node, Yaml};

use super::include::MAX_INCLUDES;
use super::parse::Reader;

/// The key under which such a file names others, whose entries count where it has none of its own.
const INCLUDE: &str = "include";

/// A file under way: its path, and the files that led to it.
struct Chain<'c> {
    /// Its path without links.
    path: PathBuf,
    /// Its path as messages show it.
    shown: PathBuf,
    outer: Option<&'c Chain<'c>>,
}

impl Chain<'_> {
    /// The file names from the outermost file that is this one, if any is.
    fn circle_to(&self, path: &Path) -> Option<Vec<String>> {
        let name = |path: &Path| path.file_name().map(|name| name.display().to_string());
        let mut names: Vec<String> = name(path).into_iter().collect();
        let mut chain = Some(self);
        while let Some(file) = chain {
            names.extend(name(&file.path));
            if file.path == path {
                names.reverse();
                return Some(names);
            }
            chain = file.outer;
        }
        None
    }
}

impl Reader {
    /// Puts the contents of the files that parameters name in the place of their paths.
    pub(super) fn read_yaml_files(&mut self, params: &[Param], node: &mut Node) {
        let Yaml::Map(entries) = &mut node.value else { return };
        for (key, value) in entries {
            if let Some(param) = params.iter().find(|param| param.name == key.text) {
                self.read_yaml_file(&param.ty, value);
            }
        }
    }

    fn read_yaml_file(&mut self, ty: &Type, node: &mut Node) {
        match ty {
            Type::Record(params) => self.read_yaml_files(params, node),
            Type::OneOf(types) => types.iter().for_each(|ty| self.read_yaml_file(ty, node)),
            Type::YamlFile { .. } => {
                let Some(written) = node.text().map(|text| text.into_owned()) else { return };
                // A value is missing in any case, so that nothing further is said of it.
                let content = match written.contains("${") {
                    false => self.content(&self.folder.join(&written), &written, &node.span, None),
                    true => {
                        let message = "the path may not hold `${…}`: the file decides what the stage is planned as";
                        let problem = Diagnostic::at(node.span.clone(), message);
                        self.problem(problem.hint("write a stage for each file"));
                        None
                    }
                };
                node.value = content.map_or(Yaml::Absent, |mut content| {
                    set_scope(&mut content, node);
                    content.value
                });
            }
            _ => {}
        }
    }

    /// Reads a file with those that it includes; `from` is the place that names it.
    fn content(
        &mut self,
        path: &Path,
        written: &str,
        from: &Span,
        outer: Option<&Chain<'_>>,
    ) -> Option<Node> {
        let text = match self.text_of(path) {
            Ok(text) => text,
            Err(message) => {
                self.problem(Diagnostic::at(from.clone(), message));
                return None;
            }
        };
        let start = self.source.end();
        let (name, from, path) = (written.to_owned(), from.clone(), path.to_path_buf());
        self.source.included.push(IncludedText {
            path: path.clone(),
            text: text.clone(),
            start,
            name,
            from,
        });
        let mut root = match yaml::parse(&text) {
            Ok(root) => root,
            Err(problem) => {
                let span = problem.span.clone().unwrap_or(0..0);
                let span = Some(span.start + start..span.end + start);
                self.problem(Diagnostic { span, ..problem });
                return None;
            }
        };
        root.moved(start, root.scope);
        escape(&mut root);
        let Yaml::Map(entries) = root.value else {
            self.problem(Diagnostic::at(root.span, "the file is not a mapping"));
            return None;
        };
        let canonical = path.canonicalize().unwrap_or_else(|_| path.clone());
        let chain = Chain { path: canonical, shown: path, outer };
        let entries = self.with_included(entries, &chain)?;
        Some(Node { value: Yaml::Map(entries), ..root })
    }

    /// Adds the entries of the files that a file includes. The later of two that have an entry
    /// counts, and the file's own before both.
    fn with_included(
        &mut self,
        mut own: Vec<(Key, Node)>,
        chain: &Chain<'_>,
    ) -> Option<Vec<(Key, Node)>> {
        let Some(at) = own.iter().position(|(key, _)| key.text == INCLUDE) else {
            return Some(own);
        };
        let (_, named) = own.remove(at);
        let names = match &named.value {
            Yaml::List(items) => items.as_slice(),
            _ => std::slice::from_ref(&named),
        };
        let mut all: Vec<(Key, Node)> = Vec::new();
        for name in names {
            let included = self.included(name, chain)?;
            all.retain(|(key, _)| included.iter().all(|(newer, _)| newer.text != key.text));
            all.extend(included);
        }
        all.retain(|(key, _)| own.iter().all(|(newer, _)| newer.text != key.text));
        all.extend(own);
        Some(all)
    }

    fn included(&mut self, name: &Node, chain: &Chain<'_>) -> Option<Vec<(Key, Node)>> {
        let mut problem = |message: String, hint: Option<&str>| {
            let problem = Diagnostic::at(name.span.clone(), message);
            self.problems.push(problem.maybe_hint(hint.map(Into::into)));
            None
        };
        let Some(written) = name.text() else {
            return problem("`include` must be the name of a file".into(), None);
        };
        let folder = chain.path.parent().unwrap_or(Path::new(""));
        let Ok(path) = folder.join(&*written).canonicalize() else {
            return problem(format!("there is no `{written}` beside the file"), None);
        };
        // Behind links too: what a file takes in lies where it lies.
        if path.parent() != Some(folder) {
            let message = format!("`{written}` is in another folder");
            return problem(message, Some("put it beside the file that includes it"));
        }
        if let Some(circle) = chain.circle_to(&path) {
            let message =
                format!("the files include each other in a circle: {}", circle.join(" -> "));
            return problem(message, Some("remove one of these includes"));
        }
        let shown = chain.shown.with_file_name(path.file_name().unwrap_or_default());
        match self.content(&shown, &written, &name.span, Some(chain))?.value {
            Yaml::Map(entries) => Some(entries),
            _ => None,
        }
    }

    fn text_of(&self, path: &Path) -> Result<Arc<str>, String> {
        if self.source.included.len() >= MAX_INCLUDES {
            return Err(format!("more than {MAX_INCLUDES} files are included"));
        }
        let left = MAX_BYTES.saturating_sub(self.source.end());
        let bytes = read_plain(path, left as u64)
            .map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            format!("`{}` is not UTF-8: byte {at} is wrong", path.display())
        })?;
        Ok(text.into())
    }
}

/// Keeps `${` in a file of another tool from being a placeholder, and takes `null` under a key for
/// the key's absence.
fn escape(node: &mut Node) {
    match &mut node.value {
        Yaml::Text(text) if text.contains("${") => *text = text.replace("${", "$${"),
        Yaml::List(items) => items.iter_mut().for_each(escape),
        Yaml::Map(entries) => entries.iter_mut().for_each(|(_, value)| match value.value {
            Yaml::Null => value.value = Yaml::Absent,
            _ => escape(value),
        }),
        _ => {}
    }
}

fn set_scope(content: &mut Node, like: &Node) {
    content.moved(0, like.scope);
}
