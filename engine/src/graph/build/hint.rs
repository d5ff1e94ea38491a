//! Hints at references to nothing, or to another kind of artifact.

use serde_json::Map;

use crate::kind::{ArtifactKind, MAIN};
use crate::language::diagnostic::suggest;
use crate::language::yaml::{ScopeId, Yaml};

use super::{Builder, Decl};

/// After this many problems no similar name is suggested.
const MOST_COMPARED: usize = 100;

impl<'a> Builder<'a> {
    /// Adds the hint at a source that is written as its path alone: `mine: ./llama`.
    pub(super) fn hint_at_path(&mut self, decl: Decl, problem: usize) {
        let Some(source) = self.workflow.sources.get(decl) else { return };
        if let Yaml::Text(path) = &source.node.value {
            let name = source.name.text.rsplit('/').next().unwrap_or_default();
            let hint = format!("write `{name}: {{ path: {path} }}`");
            self.problems[problem].hints.push(hint);
        }
    }

    /// Returns the hint at a name that does not fit: one like it, or all that there are, or where to declare one.
    pub(super) fn hint(&self, name: &str, scope: ScopeId, kind: Option<ArtifactKind>) -> String {
        let declare = match kind {
            Some(ArtifactKind::Model) => "declare one under `models`: `NAME: { path: FOLDER }`",
            Some(ArtifactKind::File) => {
                "declare one under `data`: `NAME: { path: FILE, type: file }`"
            }
            Some(ArtifactKind::Folder) => {
                "declare one under `data`: `NAME: { path: FOLDER, type: folder }`"
            }
            _ => "declare one under `data`: `NAME: { path: FILE }`",
        };
        // Names are compared with all others. Who has so many problems reads the first ones.
        if self.problems.len() >= MOST_COMPARED {
            return declare.into();
        }
        let all = self.names_for(kind);
        let mut names = Vec::new();
        let mut scope = Some(scope);
        while let Some(here) = scope {
            let scope_names = &self.workflow.scopes[here.index()];
            names.extend(all.iter().filter_map(|name| name.strip_prefix(&*scope_names.prefix)));
            scope = scope_names.outer;
        }
        suggest(name, names, "there are").unwrap_or(declare.into())
    }

    /// Lists the names that may stand where an artifact of a kind is wanted.
    fn names_for(&self, kind: Option<ArtifactKind>) -> Vec<&'a str> {
        let fits = |decl: Decl| match (self.workflow.sources.get(decl), kind) {
            // A stage under evaluation would refer to itself.
            _ if !self.declared[decl].under_way.is_empty() => false,
            (_, None) => true,
            (Some(source), Some(ArtifactKind::Model)) => source.model,
            (Some(source), Some(_)) => !source.model,
            (None, Some(kind)) => {
                let output = &self.declared[decl].main_output;
                *output.get_or_init(|| self.main_output(decl)) == Some(kind)
            }
        };
        let sorted = self.sorted.get_or_init(|| {
            let mut sorted: Vec<_> = self.names.iter().map(|(name, decl)| (*name, *decl)).collect();
            sorted.sort_unstable();
            sorted
        });
        sorted.iter().filter(|(_, decl)| fits(*decl)).map(|(name, _)| *name).collect()
    }

    /// Returns the kind of a stage's main output, judged by its unresolved parameters.
    fn main_output(&self, decl: Decl) -> Option<ArtifactKind> {
        let stage = &self.workflow.stages[decl - self.workflow.sources.len()];
        let params = stage.params.to_json();
        let outputs = (stage.kind.outputs)(params.as_object().unwrap_or(&Map::new()));
        outputs.into_iter().find(|output| output.name == MAIN).map(|output| output.kind)
    }
}
