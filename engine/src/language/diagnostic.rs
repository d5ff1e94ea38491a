//! The problems of a workflow: a message, a place in the file, and hints.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// A place in the workflow's text, in bytes.
pub type Span = Range<usize>;

/// The text of a workflow and its path.
#[derive(Debug, Clone, Default)]
pub struct SourceText {
    /// The path as the user gave it.
    pub path: PathBuf,
    /// The whole file.
    pub text: String,
}

impl SourceText {
    /// Returns a cursor that finds the lines and columns of places.
    pub fn positions(&self) -> Positions<'_> {
        Positions { text: &self.text, byte: 0, line: 1, column: 1 }
    }

    /// Returns the folder that relative paths of the workflow start from; empty for the current one.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

/// A cursor over a text: places in the order of the text are found in one pass over it.
pub struct Positions<'a> {
    text: &'a str,
    byte: usize,
    line: usize,
    column: usize,
}

impl Positions<'_> {
    /// Returns the line and column of a byte, both from 1; columns count characters.
    pub fn of(&mut self, byte: usize) -> (usize, usize) {
        let mut end = byte.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        if end < self.byte {
            (self.byte, self.line, self.column) = (0, 1, 1);
        }

        let between = &self.text[self.byte..end];
        match between.rfind('\n') {
            None => self.column += between.chars().count(),
            Some(last) => {
                self.line += between.matches('\n').count();
                self.column = between[last + 1..].chars().count() + 1;
            }
        }
        self.byte = end;
        (self.line, self.column)
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
        let text = SourceText { path: "w.yaml".into(), text: "a\nüb: c\n".into() };
        let mut positions = text.positions();
        for (byte, place) in [(0, (1, 1)), (4, (2, 2)), (5, (2, 3)), (99, (3, 1)), (2, (2, 1))] {
            assert_eq!(positions.of(byte), place, "byte {byte}");
        }
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
