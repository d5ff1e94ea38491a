//! Reads the files that a workflow includes: `include: { NAME: { file, with: { PARAM: VALUE } } }`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use refrain_cache::read_plain;

use crate::kind::{Kinds, Param, Type, coerce};
use crate::language::diagnostic::{Diagnostic, IncludedText, suggest};
use crate::language::yaml::{self, Key, MAX_BYTES, MAX_NODES, Node, ScopeId, Yaml};

use super::parse::{FileParts, Reader};
use super::repeat::{self, LoopIncludes};
use super::{GivenParam, NameScope, ParamDecl, Workflow};

/// The parameters of an entry of `include`.
pub(crate) static PARAMS: &[Param] = &[
    Param::required("file", Type::Text, "the file, whose stages are then called `NAME/STAGE`"),
    Param::optional(
        "with",
        Type::Map(&Type::Any),
        "values of its params, in place of their defaults",
    ),
];

/// The deepest chain of files that include each other.
pub(crate) const MAX_INCLUDE_DEPTH: usize = 8;

/// The largest number of files, each counted as often as it is included.
pub(crate) const MAX_INCLUDES: usize = 1000;

/// Reads included files one after the other and collects their problems.
pub(super) struct Includer<'k> {
    kinds: &'k Kinds,
    pub problems: Vec<Diagnostic>,
    /// Bytes and values of all files so far.
    bytes: usize,
    nodes: usize,
}

/// An entry of `include` that is read.
struct Entry<'n> {
    name: &'n Key,
    file: &'n Node,
    path: PathBuf,
    /// The path without links and `..`, by which a circle is found.
    canonical: PathBuf,
    with: &'n [(Key, Node)],
}

impl<'k> Includer<'k> {
    pub fn new(kinds: &'k Kinds, workflow: &Workflow) -> Includer<'k> {
        Includer { kinds, problems: Vec::new(), bytes: workflow.source.text.len(), nodes: 0 }
    }

    /// Adds the stages and sources of the files that `entries` of a scope name, and of those that
    /// these include. `chain` has the files from the workflow to the one with the entries.
    pub fn all(
        &mut self,
        workflow: &mut Workflow,
        entries: &[(Key, Node)],
        scope: ScopeId,
        chain: &[PathBuf],
    ) {
        for (name, node) in entries {
            let folder = workflow.scopes[scope.index()].folder.clone();
            if let Some(entry) = self.entry(name, node, &folder, chain) {
                self.file(workflow, &entry, scope, chain);
            }
        }
    }

    fn entry<'n>(
        &mut self,
        name: &'n Key,
        node: &'n Node,
        folder: &Path,
        chain: &[PathBuf],
    ) -> Option<Entry<'n>> {
        let before = self.problems.len();
        coerce(PARAMS, node, "`include`", &mut self.problems);
        let file = node.get("file").filter(|_| self.problems.len() == before)?;
        let written = file.text()?;
        let mut problem = |message: String, hint: Option<&str>| {
            let problem = Diagnostic::at(file.span.clone(), message);
            self.problems.push(problem.maybe_hint(hint.map(Into::into)));
            None
        };
        if written.contains("${") {
            return problem("`file` may not hold `${…}`".into(), None);
        }

        let path = folder.join(&*written);
        let Ok(canonical) = path.canonicalize() else {
            return problem(format!("there is no `{}`", path.display()), None);
        };
        if let Some(at) = chain.iter().position(|file| *file == canonical) {
            let names: Vec<String> =
                chain[at..].iter().chain([&canonical]).map(|path| file_name(path)).collect();
            let message =
                format!("the files include each other in a circle: {}", names.join(" -> "));
            return problem(message, Some("remove one of these includes"));
        }
        if chain.len() > MAX_INCLUDE_DEPTH {
            let message = format!("files are included more than {MAX_INCLUDE_DEPTH} levels deep");
            return problem(
                message,
                Some("include the file from one that is nearer to the workflow"),
            );
        }
        let with = node.get("with").map_or(&[][..], Node::entries);
        Some(Entry { name, file, path, canonical, with })
    }

    /// Adds a file, and those that it includes.
    fn file(
        &mut self,
        workflow: &mut Workflow,
        entry: &Entry<'_>,
        parent: ScopeId,
        chain: &[PathBuf],
    ) {
        let Some(text) = self.text(entry, workflow.source.included.len()) else { return };
        let (start, scope) = (workflow.source.end(), ScopeId(workflow.scopes.len() as u32));
        let prefix = format!("{}{}/", workflow.scopes[parent.index()].prefix, entry.name.text);
        workflow.source.included.push(IncludedText {
            path: entry.path.clone(),
            text: text.clone(),
            start,
            name: prefix.trim_end_matches('/').into(),
            from: entry.name.span.clone(),
        });
        let Some(root) = self.root(&text, start, scope) else { return };

        let folder = entry.path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        let mut reader = Reader::new(folder.clone(), std::mem::take(&mut workflow.source));
        let FileParts { params, mut sources, mut stages, loops, includes, axes, .. } =
            reader.sections(&root, self.kinds);
        workflow.source = std::mem::take(&mut reader.source);
        if workflow.loop_of(parent).is_some() {
            loops.iter().for_each(|inner| reader.problem(inner.nested()));
        }
        self.problems.append(&mut reader.problems);
        let params = self.params(entry, params);
        sources.iter_mut().for_each(|source| source.name.text.insert_str(0, &prefix));
        stages.iter_mut().for_each(|stage| stage.name.text.insert_str(0, &prefix));

        let left_out = axes.into_iter().map(|axis| axis.name).collect();
        let included_in = Some(parent);
        let scope_names =
            NameScope { prefix, params, folder, left_out, included_in, ..NameScope::default() };
        workflow.scopes.push(scope_names);
        workflow.sources.append(&mut sources);
        workflow.stages.append(&mut stages);
        let of_loops = repeat::add(workflow, loops, scope);
        let chain = [chain, std::slice::from_ref(&entry.canonical)].concat();
        self.all(workflow, &includes, scope, &chain);
        self.all_of_loops(workflow, &of_loops, &chain);
    }

    /// Adds the files that loops include.
    pub fn all_of_loops(
        &mut self,
        workflow: &mut Workflow,
        loops: &[LoopIncludes],
        chain: &[PathBuf],
    ) {
        for LoopIncludes { scope, entries } in loops {
            self.all(workflow, entries, *scope, chain);
        }
    }

    /// Reads the text of a file.
    fn text(&mut self, entry: &Entry<'_>, files: usize) -> Option<Arc<str>> {
        let mut problem = |message: String| {
            self.problems.push(Diagnostic::at(entry.file.span.clone(), message));
            None
        };
        if files >= MAX_INCLUDES {
            return problem(format!("more than {MAX_INCLUDES} files are included"));
        }
        let bytes = match read_plain(&entry.path, MAX_BYTES as u64) {
            Ok(bytes) => bytes,
            Err(error) => {
                return problem(format!("cannot read `{}`: {error}", entry.path.display()));
            }
        };
        self.bytes += bytes.len();
        if self.bytes > MAX_BYTES {
            let message =
                format!("the workflow and what it includes are larger than {} MB", MAX_BYTES >> 20);
            return problem(message);
        }
        match String::from_utf8(bytes) {
            Ok(text) => Some(text.into()),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                problem(format!("`{}` is not UTF-8: byte {at} is wrong", entry.path.display()))
            }
        }
    }

    /// Parses the text of a file, whose first byte has the place `start`.
    fn root(&mut self, text: &str, start: usize, scope: ScopeId) -> Option<Node> {
        let placed = |problem: Diagnostic| {
            let span = problem.span.unwrap_or(0..0);
            Diagnostic { span: Some(span.start + start..span.end + start), ..problem }
        };
        let mut root = match yaml::parse(text) {
            Ok(root) => root,
            Err(problem) => {
                self.problems.push(placed(problem));
                return None;
            }
        };
        self.nodes += root.size();
        if self.nodes > MAX_NODES {
            let message = format!("the included files have more than {MAX_NODES} values");
            self.problems.push(placed(Diagnostic::at(0..0, message)));
            return None;
        }
        root.moved(start, scope);
        if !matches!(root.value, Yaml::Map(_)) {
            let problem = Diagnostic::at(root.span, "an included file is a workflow, a mapping");
            self.problems.push(problem.hint("it begins with `refrain: 1` and has `stages`"));
            return None;
        }
        Some(root)
    }

    /// Puts the values of `with` in the place of defaults.
    fn params(&mut self, entry: &Entry<'_>, mut params: Vec<ParamDecl>) -> Vec<ParamDecl> {
        for (key, value) in entry.with {
            let Some(param) = params.iter_mut().find(|param| param.name.text == key.text) else {
                let path = entry.path.display();
                let message = format!("`{path}` has no param `{}`", key.text);
                let known = params.iter().map(|param| param.name.text.as_str());
                let hint = suggest(&key.text, known, "its params are")
                    .unwrap_or_else(|| "declare it there under `params`, with a default".into());
                self.problems.push(Diagnostic::at(key.span.clone(), message).hint(hint));
                continue;
            };
            let default = std::mem::replace(&mut param.value, value.clone());
            param.given = Some(GivenParam { key: key.clone(), default });
            let is_written_out = |text: &str| !text.contains("${");
            if value.text().is_none_or(|text| is_written_out(&text)) {
                self.problems.extend(misfit(param, value));
            }
        }
        params
    }
}

/// The problem of a value of `with` whose type is not that of the param's default.
pub(crate) fn misfit(param: &ParamDecl, value: &Node) -> Option<Diagnostic> {
    let GivenParam { default, .. } = param.given.as_ref()?;
    let wanted = match (&default.value, &value.value) {
        (Yaml::Null | Yaml::Absent, _) | (_, Yaml::Null | Yaml::Absent) => return None,
        (Yaml::Bool(..), Yaml::Bool(..))
        | (Yaml::Int(..), Yaml::Int(..))
        | (Yaml::Float(..), Yaml::Int(..) | Yaml::Float(..))
        | (Yaml::List(_), Yaml::List(_))
        | (Yaml::Map(_), Yaml::Map(_)) => return None,
        (Yaml::Int(..), Yaml::Float(number, _)) if number.fract() == 0.0 => return None,
        // The type of what stands behind `${…}` is not known here.
        (Yaml::Text(text), _) if text.contains("${") => return None,
        (Yaml::Text(_) | Yaml::Deferred(_), _) if value.text().is_some() => return None,
        (Yaml::Bool(..), _) => "true or false",
        (Yaml::Int(..), _) => "a whole number",
        (Yaml::Float(..), _) => "a number",
        (Yaml::Text(_) | Yaml::Deferred(_), _) => "text",
        (Yaml::List(_), _) => "a list",
        (Yaml::Map(_), _) => "a mapping",
    };
    let message = format!("the param `{}` must be {wanted}, as its default is", param.name.text);
    let problem =
        Diagnostic::at(value.span.clone(), message).label(format!("this is {}", value.type_name()));
    Some(match wanted {
        "a whole number" => {
            problem.hint("where any number fits, write the default with a point: `1.0`")
        }
        _ => problem,
    })
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.display().to_string())
}
