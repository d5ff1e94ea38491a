//! A workflow as written: sections, names and places, before any value is resolved.

mod about;
mod include;
mod parse;
mod repeat;
mod settings;
mod sweep;
mod yaml_file;

pub(crate) use include::{MAX_INCLUDE_DEPTH, MAX_INCLUDES, PARAMS as INCLUDE, misfit};
pub(crate) use repeat::PARAMS as REPEAT;
pub use repeat::ROUND;
pub(crate) use settings::{RESOURCES, RETRY};

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::kind::{Kind, Kinds};
use crate::language::diagnostic::{Diagnostics, SourceText, Span};
use crate::language::yaml::{Key, Node, ScopeId};

pub use about::About;
pub use settings::{Retry, Settings};

/// Names that mean something inside `${…}` and cannot be given to anything else.
pub const RESERVED: [&str; 3] = ["in", "out", "env"];

/// The hint at a name where the workflow has no params and no axes.
pub(crate) const NO_PARAMS: &str = "declare it under `params`, or as an axis under `sweep`";

/// A workflow whose sections are known, with its values as written.
#[derive(Debug, Clone)]
pub struct Workflow {
    /// Its text and path.
    pub source: SourceText,
    /// Its name, for people; in no key.
    pub name: String,
    /// Its question, licence, authors and date, for people; in no key.
    pub about: About,
    /// The scopes of names: that of its own file, then one for each file that it includes.
    pub scopes: Vec<NameScope>,
    /// The sources under `models` and `data`.
    pub sources: Vec<SourceDecl>,
    /// The stages in the order of the file, expanded where their kind says so.
    pub stages: Vec<Stage>,
    /// The axes of the sweep, in the order of the file; that of the rounds of loops comes last.
    pub axes: Vec<Axis>,
    /// The number of the axis of rounds, where there are loops.
    pub rounds: Option<usize>,
    /// The comparisons of arms, as written.
    pub compare: Vec<(Key, Node)>,
    /// The conditions that are checked after a run.
    pub expect: Vec<(Node, Span)>,
    /// The section `results`, as written.
    pub results: Option<Node>,
    /// The names that `--set` gave a value.
    pub set: Vec<String>,
    /// The kinds that its stages could choose from.
    pub kinds: Kinds,
}

/// The names and the folder of one file, or the names of a loop in it.
#[derive(Debug, Clone, Default)]
pub struct NameScope {
    /// The beginning of its stages' and sources' names: `gen/` in a file that is included as `gen`.
    pub prefix: String,
    /// The params in the order of the file, `--set` and `with` applied.
    pub params: Vec<ParamDecl>,
    /// The folder that its relative paths start from.
    pub folder: PathBuf,
    /// The axes of an included file, which are not brought in.
    pub left_out: Vec<String>,
    /// The scope whose names are valid here too.
    pub outer: Option<ScopeId>,
    /// The scope in which a file is included; its names are not valid here.
    pub included_in: Option<ScopeId>,
    /// The loop that its stages stand in.
    pub repeat: Option<Repeat>,
}

/// The repetition of the stages of a loop.
#[derive(Debug, Clone)]
pub struct Repeat {
    /// The number of rounds as written.
    pub times: Node,
    /// The number of rounds.
    pub rounds: u32,
    /// Names and the stages of the loop that they stand for in the round after.
    pub carry: Vec<(Key, Key)>,
    /// The place of `repeat`.
    pub span: Span,
}

/// A param.
#[derive(Debug, Clone)]
pub struct ParamDecl {
    /// Its name.
    pub name: Key,
    /// Its value.
    pub value: Node,
    /// The value that `with` gives in place of the default.
    pub given: Option<GivenParam>,
}

/// A value that an include hands to a param.
#[derive(Debug, Clone)]
pub struct GivenParam {
    /// The key of `with`.
    pub key: Key,
    /// The default that it replaces, which decides the type.
    pub default: Node,
}

/// A source: a table, a model or a file that the workflow reads but does not make.
#[derive(Debug, Clone)]
pub struct SourceDecl {
    /// Its name.
    pub name: Key,
    /// Its mapping.
    pub node: Node,
    /// Whether it stands under `models`.
    pub model: bool,
}

/// A stage.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Its name; an expanded one has a slash in it.
    pub name: Key,
    /// Its kind.
    pub kind: Kind,
    /// The mapping of its parameters.
    pub params: Node,
    /// Its resources, retries and time limit; they cannot change a result.
    pub settings: Settings,
}

/// One axis of the sweep.
#[derive(Debug, Clone)]
pub struct Axis {
    /// Its name; it replaces a param of the same name.
    pub name: String,
    /// Its place.
    pub span: Span,
    /// Its values with the label of each.
    pub values: Vec<(String, Node)>,
    /// Whether the values are mappings whose entries replace params (a sweep of named points).
    pub points: bool,
    /// The entries of all points as written, also of those that `--set` leaves out.
    pub fields: BTreeSet<String>,
}

impl Axis {
    /// Whether the axis is a sweep of named points of which one replaces the param of this name.
    pub fn has_field(&self, name: &str) -> bool {
        self.points && name != "name" && self.fields.contains(name)
    }
}

/// A value given on the command line in place of the workflow's.
#[derive(Debug, Clone)]
pub struct Override {
    /// Name of a param or an axis.
    pub name: String,
    /// The value as written.
    pub value: String,
}

impl Workflow {
    /// Reads the sections of a workflow.
    ///
    /// # Errors
    /// All problems of the sections together.
    pub fn parse(
        source: SourceText,
        kinds: &Kinds,
        overrides: &[Override],
    ) -> Result<Workflow, Diagnostics> {
        parse::workflow(source, kinds, overrides)
    }

    /// Returns the loop that a scope is, or in which its file is included.
    pub fn loop_of(&self, scope: ScopeId) -> Option<ScopeId> {
        let mut here = Some(scope);
        while let Some(scope) = here {
            let names = &self.scopes[scope.index()];
            if names.repeat.is_some() {
                return Some(scope);
            }
            here = names.included_in;
        }
        None
    }

    /// Iterates over all names that can be referred to as an artifact.
    pub fn artifact_names(&self) -> impl Iterator<Item = &str> {
        self.sources
            .iter()
            .map(|s| s.name.text.as_str())
            .chain(self.stages.iter().map(|s| s.name.text.as_str()))
    }
}
