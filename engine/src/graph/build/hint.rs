//! What to write in place of a name that refers to nothing, or to another kind of artifact.

use serde_json::Map;

use crate::kind::{ArtifactKind, MAIN};
use crate::language::diagnostic::suggest;

use super::{Builder, Decl};

/// Problems for which a name like the given one is looked for.
const MOST_COMPARED: usize = 100;

impl<'a> Builder<'a> {
    /// What to write in place of a name that does not fit: one like it, or all that there are, or where to declare one.
    pub(super) fn hint(&self, name: &str, kind: Option<ArtifactKind>) -> String {
        let declare = match kind {
            Some(ArtifactKind::Model) => "declare one under `models`: `NAME: { path: FOLDER }`",
            Some(ArtifactKind::File) => {
                "declare one under `data`: `NAME: { path: FILE, type: file }`"
            }
            _ => "declare one under `data`: `NAME: { path: FILE }`",
        };
        // Names are compared with all others. Who has so many problems reads the first ones.
        if self.problems.len() >= MOST_COMPARED {
            return declare.into();
        }
        suggest(name, self.names_for(kind), "there are").unwrap_or(declare.into())
    }

    /// The names that may stand where an artifact of a kind is wanted.
    fn names_for(&self, kind: Option<ArtifactKind>) -> Vec<&'a str> {
        let fits = |decl: Decl| match (self.workflow.sources.get(decl), kind) {
            // What is being evaluated would refer to itself.
            _ if self.known[decl].under_way => false,
            (_, None) => true,
            (Some(source), Some(ArtifactKind::Model)) => source.model,
            (Some(source), Some(_)) => !source.model,
            (None, Some(kind)) => self.main_output(decl) == Some(kind),
        };
        let mut names: Vec<&str> =
            self.names.iter().filter(|(_, d)| fits(**d)).map(|(n, _)| *n).collect();
        names.sort_unstable();
        names
    }

    /// What a stage makes, as far as the values that it is given as they are written tell.
    fn main_output(&self, decl: Decl) -> Option<ArtifactKind> {
        let stage = &self.workflow.stages[decl - self.workflow.sources.len()];
        let params = stage.params.to_json();
        let outputs = (stage.kind.outputs)(params.as_object().unwrap_or(&Map::new()));
        outputs.into_iter().find(|output| output.name == MAIN).map(|output| output.kind)
    }
}
