//! What is wrong with a workflow: a message, the place in the file, and what to do about it.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// A place in the workflow's text, in bytes.
pub type Span = Range<usize>;

/// The text of a workflow and where it came from.
#[derive(Debug, Clone, Default)]
pub struct SourceText {
    /// The path as the user gave it.
    pub path: PathBuf,
    /// The whole file.
    pub text: String,
}

impl SourceText {
    /// Line and column of a byte, both from 1; columns count characters.
    pub fn position(&self, byte: usize) -> (usize, usize) {
        let mut end = byte.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The folder that relative paths of the workflow start from; empty for the current one.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, as a lowercase fragment.
    pub message: String,
    /// Where, when it is a place in the workflow.
    pub span: Option<Span>,
    /// A word or two beside the place.
    pub label: Option<String>,
    /// What to do.
    pub hints: Vec<String>,
}

impl Diagnostic {
    /// A diagnostic at a place.
    pub fn at(span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { message: message.into(), span: Some(span), label: None, hints: Vec::new() }
    }

    /// A diagnostic of the workflow as a whole.
    pub fn general(message: impl Into<String>) -> Diagnostic {
        Diagnostic { message: message.into(), span: None, label: None, hints: Vec::new() }
    }

    /// Adds a word beside the place.
    pub fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = Some(label.into());
        self
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Diagnostic {
        self.hints.push(hint.into());
        self
    }

    /// Adds what to do, where something is known.
    pub fn maybe_hint(mut self, hint: Option<String>) -> Diagnostic {
        self.hints.extend(hint);
        self
    }
}

/// Everything that is wrong with a workflow, found in one go.
#[derive(Debug, Clone, Default, thiserror::Error)]
#[error("{} problem(s) in `{}`", .items.len(), .source_text.path.display())]
pub struct Diagnostics {
    /// The workflow.
    pub source_text: SourceText,
    /// What is wrong, in the order of the file.
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

/// `did you mean …`, or else the list of what there is; where nothing was given the list alone.
pub fn suggest<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
    what: &str,
) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    let comparable = |name: &str| name.len() <= MAX_COMPARED;
    let nearest = known
        .iter()
        .filter(|k| comparable(given) && comparable(k))
        .map(|k| (strsim::damerau_levenshtein(&given.to_lowercase(), &k.to_lowercase()), k))
        .filter(|(distance, k)| {
            let longest = k.chars().count().max(given.chars().count());
            *distance <= (longest / 3).max(1) && *distance < longest
        })
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((_, name)) => Some(format!("did you mean `{name}`?")),
        None if known.is_empty() => None,
        None => {
            let mut names: Vec<String> =
                known.iter().filter(|k| comparable(k)).take(30).map(|k| format!("`{k}`")).collect();
            if known.len() > names.len() {
                names.push("…".into());
            }
            Some(format!("{what} {}", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let text = SourceText { path: "w.yaml".into(), text: "a\nüb: c\n".into() };
        assert_eq!(text.position(0), (1, 1));
        assert_eq!(text.position(4), (2, 2));
        assert_eq!(text.position(99), (3, 1));
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
