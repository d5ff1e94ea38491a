//! The problems of a workflow: a message, a place in the file, and hints.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place in the workflow's text, in bytes.
pub type Span = Range<usize>;

/// The text of a workflow and its path, and the texts of the files that it includes.
///
/// The files lie one behind the other in one range of bytes, so that a [`Span`] tells its file too.
#[derive(Debug, Clone, Default)]
pub struct SourceText {
    /// The path as the user gave it.
    pub path: PathBuf,
    /// The whole file.
    pub text: String,
    /// The included files, each once for every time that it is included, in the order of their
    /// places.
    pub included: Vec<IncludedText>,
}

/// A file that a workflow includes.
#[derive(Debug, Clone)]
pub struct IncludedText {
    /// Its path, from the folder that the workflow's is given from.
    pub path: PathBuf,
    /// The whole file.
    pub text: Arc<str>,
    /// The place of its first byte among those of all files.
    pub start: usize,
    /// The name that it is included under.
    pub name: String,
    /// The place of that name in the file that includes it.
    pub from: Span,
}

/// One of the files of a workflow.
#[derive(Debug, Clone, Copy)]
pub struct FileText<'a> {
    /// Its path.
    pub path: &'a Path,
    /// The whole file.
    pub text: &'a str,
    /// The place of its first byte among those of all files.
    pub start: usize,
    /// The chain of includes that leads to it; `None` of the workflow itself.
    pub included: Option<&'a IncludedText>,
}

impl SourceText {
    /// The text of a workflow that includes nothing yet.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> SourceText {
        SourceText { path: path.into(), text: text.into(), included: Vec::new() }
    }

    /// Returns a cursor that finds the files, lines and columns of places.
    pub fn positions(&self) -> Positions<'_> {
        Positions { source: self, file: self.file(0), byte: 0, line: 1, column: 1 }
    }

    /// Returns the folder that relative paths of the workflow start from; empty for the current one.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Returns the place behind all files, where a further one may begin.
    pub fn end(&self) -> usize {
        // One byte between two files: the end of the one is not the beginning of the next.
        self.included.last().map_or(self.text.len(), |file| file.start + file.text.len()) + 1
    }

    /// Returns the file of a place.
    pub fn file(&self, byte: usize) -> FileText<'_> {
        let number = self.included.partition_point(|file| file.start <= byte);
        let own = FileText { path: &self.path, text: &self.text, start: 0, included: None };
        number.checked_sub(1).map_or(own, |number| {
            let file = &self.included[number];
            FileText { path: &file.path, text: &file.text, start: file.start, included: Some(file) }
        })
    }

    /// Lists how the file of a place came in: the nearest include first.
    pub fn chain(&self, byte: usize) -> Vec<&IncludedText> {
        let mut chain: Vec<&IncludedText> = Vec::new();
        let mut byte = byte;
        while let Some(included) = self.file(byte).included {
            chain.push(included);
            byte = included.from.start;
        }
        chain
    }
}

/// A place as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position<'a> {
    /// The file.
    pub path: &'a Path,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
}

/// A cursor over the texts: places in their order are found in one pass over each file.
pub struct Positions<'a> {
    source: &'a SourceText,
    file: FileText<'a>,
    byte: usize,
    line: usize,
    column: usize,
}

impl<'a> Positions<'a> {
    /// Returns the file, line and column of a byte.
    pub fn of(&mut self, byte: usize) -> Position<'a> {
        let file = self.source.file(byte);
        let mut end = (byte - file.start).min(file.text.len());
        while !file.text.is_char_boundary(end) {
            end -= 1;
        }
        if file.start != self.file.start || end < self.byte {
            (self.byte, self.line, self.column) = (0, 1, 1);
        }
        self.file = file;

        let between = &file.text[self.byte..end];
        match between.rfind('\n') {
            None => self.column += between.chars().count(),
            Some(last) => {
                self.line += between.matches('\n').count();
                self.column = between[last + 1..].chars().count() + 1;
            }
        }
        self.byte = end;
        Position { path: file.path, line: self.line, column: self.column }
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The fault, as a lowercase fragment.
    pub message: String,
    /// Its place in the workflow, where it has one.
    pub span: Option<Span>,
    /// A word or two beside the place.
    pub label: Option<String>,
    /// The ways to mend it.
    pub hints: Vec<String>,
}

impl Diagnostic {
    /// Creates a diagnostic at a place.
    pub fn at(span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { message: message.into(), span: Some(span), label: None, hints: Vec::new() }
    }

    /// Creates a diagnostic of the workflow as a whole.
    pub fn general(message: impl Into<String>) -> Diagnostic {
        Diagnostic { message: message.into(), span: None, label: None, hints: Vec::new() }
    }

    /// Adds a word beside the place.
    pub fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = Some(label.into());
        self
    }

    /// Adds a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Diagnostic {
        self.hints.push(hint.into());
        self
    }

    /// Adds a hint, if there is one.
    pub fn maybe_hint(mut self, hint: Option<String>) -> Diagnostic {
        self.hints.extend(hint);
        self
    }
}

/// All problems of a workflow, found in one go.
#[derive(Debug, Clone, Default, thiserror::Error)]
#[error("{} problem(s) in `{}`", .items.len(), .source_text.path.display())]
pub struct Diagnostics {
    /// The workflow.
    pub source_text: SourceText,
    /// The problems, in the order of the file.
    pub items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Sorts by place and drops repeats, which come from several points of a sweep.
    pub fn new(source_text: SourceText, mut items: Vec<Diagnostic>) -> Diagnostics {
        items.sort_by_key(|d| d.span.as_ref().map_or((0, 0), |s| (s.start, s.end)));
        let mut seen = std::collections::HashSet::new();
        items.retain(|d| seen.insert((d.span.clone(), d.message.clone())));
        Diagnostics { source_text, items }
    }
}

/// Longest name in bytes that is likened to another: the comparison takes the product of both lengths.
const MAX_COMPARED: usize = 200;

/// Names listed in one hint.
const MAX_LISTED: usize = 30;

/// Suggests the nearest of the known names; lists them where none is near or nothing was given.
pub fn suggest<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
    what: &str,
) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    similar(given, known.iter().copied())
        .or_else(|| (!known.is_empty()).then(|| format!("{what} {}", listed(known))))
}

/// Suggests the nearest of the known names: `did you mean …`.
pub fn similar<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    if given.len() > MAX_COMPARED {
        return None;
    }
    let (lower, length) = (given.to_lowercase(), given.chars().count());
    let nearest = known
        .into_iter()
        .filter(|k| k.len() <= MAX_COMPARED)
        .filter_map(|k| {
            let other = k.chars().count();
            let (longest, shortest) = (length.max(other), length.min(other));
            let most = (longest / 3).max(1).min(longest.saturating_sub(1));
            // A distance is never below the difference of the lengths, which costs nothing.
            let near = longest - shortest <= most;
            let distance = near.then(|| strsim::damerau_levenshtein(&lower, &k.to_lowercase()))?;
            (distance <= most).then_some((distance, k))
        })
        .min_by_key(|(distance, _)| *distance);
    nearest.map(|(_, name)| format!("did you mean `{name}`?"))
}

/// Lists names in backticks, as many as a reader takes in.
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<&str> = names.into_iter().collect();
    let short = all.iter().filter(|name| name.len() <= MAX_COMPARED);
    let mut names: Vec<String> = short.take(MAX_LISTED).map(|name| format!("`{name}`")).collect();
    if all.len() > names.len() {
        names.push("…".into());
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let text = SourceText::new("w.yaml", "a\nüb: c\n");
        let mut positions = text.positions();
        for (byte, place) in [(0, (1, 1)), (4, (2, 2)), (5, (2, 3)), (99, (3, 1)), (2, (2, 1))] {
            let found = positions.of(byte);
            assert_eq!((found.line, found.column), place, "byte {byte}");
        }
    }

    #[test]
    fn positions_are_those_of_the_included_file() {
        let mut source = SourceText::new("w.yaml", "a: b\n");
        let mut include = |name: &str, text: &str, from: Span| {
            let (path, start) = (format!("{name}.yaml").into(), source.end());
            let (name, text) = (name.to_string(), text.into());
            source.included.push(IncludedText { path, text, start, name, from });
            start
        };
        let first = include("x", "one\ntwo\n", 3..4);
        let second = include("y", "", first + 4..first + 7);

        let mut positions = source.positions();
        for (byte, place) in [
            (first + 4, ("x.yaml", 2, 1)),
            (3, ("w.yaml", 1, 4)),
            (second, ("y.yaml", 1, 1)),
            (first - 1, ("w.yaml", 2, 1)),
        ] {
            let found = positions.of(byte);
            let path = found.path.to_str().unwrap();
            assert_eq!((path, found.line, found.column), place, "byte {byte}");
        }
        let names: Vec<&str> = source.chain(second).iter().map(|file| &*file.name).collect();
        assert_eq!(names, ["y", "x"]);
    }

    #[test]
    fn suggestions_prefer_a_near_name() {
        assert_eq!(
            suggest("scord", ["scored", "mask"], "stages are").as_deref(),
            Some("did you mean `scored`?")
        );
        assert_eq!(
            suggest("xyz", ["scored", "mask"], "stages are").as_deref(),
            Some("stages are `scored`, `mask`")
        );
    }
}
