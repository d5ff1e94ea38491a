//! Problems of a workflow with the line in which each begins.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use refrain_engine::language::diagnostic::{Diagnostics, FileText, Position};

use crate::escape::{escape_controls, masked_line};

/// Most characters of a message about a workflow that are shown.
const MESSAGE: usize = 1000;
/// Most problems that are shown to people; JSON holds all.
const MOST_SHOWN: usize = 200;

/// Whether problems stop a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// They do.
    Error,
    /// They do not.
    Warning,
}

/// Formats the problems of a workflow for people.
pub fn diagnostics_text(diagnostics: &Diagnostics, severity: Severity, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let source = &diagnostics.source_text;
    let mut positions = source.positions();
    let mut reports: Vec<String> = Vec::new();
    for item in diagnostics.items.iter().take(MOST_SHOWN) {
        // A name may hold a line break, too; a message is one line.
        let message = shortened(escape_controls(&item.message).replace('\n', "\\n"));
        let label = item.label.as_deref().map(escape_controls);
        let place = item.span.as_ref().map(|span| SourceLine::new(source.file(span.start), span));
        let level = if severity == Severity::Error { Level::ERROR } else { Level::WARNING };
        let mut group = Group::with_title(level.primary_title(message.as_str()));
        if let Some(place) = &place {
            let annotation =
                AnnotationKind::Primary.span(place.within.clone()).label(label.as_deref());
            let snippet = Snippet::source(place.text.as_str())
                .line_start(place.line)
                .path(place.path.as_str());
            group = group.element(snippet.annotation(annotation));
        }
        for hint in &item.hints {
            group = group.element(Level::HELP.message(escape_controls(hint)));
        }
        for included in item.span.iter().flat_map(|span| source.chain(span.start)) {
            let Position { path, line, column } = positions.of(included.from.start);
            let words =
                format!("included as `{}` at {}:{line}:{column}", included.name, path.display());
            group = group.element(Level::NOTE.message(escape_controls(&words)));
        }
        reports.push(renderer.render(&[group]).to_string());
    }
    let count = diagnostics.items.len();
    if count > MOST_SHOWN {
        reports.push(format!("{} more problems are not shown", count - MOST_SHOWN));
    }
    reports.join("\n\n")
}

/// A message of at most [`MESSAGE`] characters: it may hold a name of any length.
fn shortened(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MESSAGE) {
        message.truncate(end);
        message.push('…');
    }
    message
}

/// The line in which a problem begins. One line is enough to find the place; a whole block would bury the message.
struct SourceLine {
    path: String,
    text: String,
    /// Its number, from 1.
    line: usize,
    /// The problem's bytes in it.
    within: Range<usize>,
}

impl SourceLine {
    fn new(file: FileText<'_>, span: &Range<usize>) -> SourceLine {
        let source = file.text;
        let span = span.start - file.start..span.end.saturating_sub(file.start);
        let end = span.end.min(source.len());
        // What is missing at the end is missed behind the last line, not in the empty one that follows.
        let start =
            if span.start >= source.len() { source.trim_end().len() } else { span.start.min(end) };
        let line_start = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |at| start + at);
        let text = masked_line(source[line_start..line_end].trim_end_matches('\r'));
        let within =
            start - line_start..(end.min(line_end).max(start) - line_start).min(text.len());
        let line = source[..start].matches('\n').count() + 1;
        let path = escape_controls(&file.path.display().to_string());
        SourceLine { path, text, line, within: within.start.min(within.end)..within.end }
    }
}
