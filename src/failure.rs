//! Every way a command can end badly: its heading, its words, its exit code.

use std::io::IsTerminal;
use std::ops::Range;
use std::process::ExitCode;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::json;

use refrain_cache::gc::RemoveError;
use refrain_cache::{CacheError, ListingError, RecordError};
use refrain_engine::kind::StageError;
use refrain_engine::language::diagnostic::{Diagnostic, Diagnostics};
use refrain_engine::ledger::lock::LockError;
use refrain_engine::ledger::roots::RootsError;
use refrain_engine::plan::state::StateError;
use refrain_engine::run::NodeError;
use refrain_engine::source::SourceError;
use refrain_engine::source::seen::HashError;
use refrain_engine::store::StoreError;

use crate::cli::Format;
use crate::output;

/// Exit code: a stage failed, or an `expect` does not hold.
pub const STAGE: u8 = 1;
/// Exit code: the workflow, the command line or a source is wrong.
pub const INPUT: u8 = 2;
/// Exit code: `verify` or `--locked` found a difference.
pub const DIFFERENT: u8 = 3;
/// Exit code: the disk, the system or a missing backend.
pub const ENVIRONMENT: u8 = 4;
/// Exit code: interrupted.
pub const INTERRUPTED: u8 = 130;

/// Why a command ends.
#[derive(Debug)]
pub enum Failure {
    /// The workflow is wrong, here.
    Workflow(Box<Diagnostics>),
    /// Anything else.
    Plain {
        /// What happened.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// The exit code.
        code: u8,
    },
}

impl Failure {
    /// A failure with an exit code.
    pub fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure::Plain { message: message.into(), hint: None, code }
    }

    /// A failure with what to do about it.
    pub fn with_hint(code: u8, message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure::Plain { message: message.into(), hint: Some(hint.into()), code }
    }

    /// Prints it to stderr and gives its exit code.
    pub fn report(&self, format: Format) -> ExitCode {
        let code = self.code();
        if format == Format::Json {
            output::progress(&format!("{}\n", output::escaped(&self.json().to_string())));
        } else {
            output::progress(&format!("{}\n", self.text(colour())));
        }
        ExitCode::from(code)
    }

    fn code(&self) -> u8 {
        match self {
            Failure::Workflow(_) => INPUT,
            Failure::Plain { code, .. } => *code,
        }
    }

    fn text(&self, colour: bool) -> String {
        match self {
            Failure::Workflow(diagnostics) => diagnostics_text(diagnostics, colour),
            Failure::Plain { message, hint, .. } => {
                let hint = hint.as_ref().map(|h| format!("\n  = help: {h}")).unwrap_or_default();
                shown(&format!("error: {message}{hint}"))
            }
        }
    }

    fn json(&self) -> serde_json::Value {
        let errors: Vec<_> = match self {
            Failure::Workflow(d) => d.items.iter().map(|item| error_json(d, item)).collect(),
            Failure::Plain { message, hint, .. } => {
                let hints: Vec<&String> = hint.iter().collect();
                vec![
                    json!({ "message": message, "hints": hints, "file": null, "line": null, "column": null }),
                ]
            }
        };
        json!({ "refrain": 1, "exit_code": self.code(), "errors": errors })
    }
}

fn error_json(diagnostics: &Diagnostics, item: &Diagnostic) -> serde_json::Value {
    let source = &diagnostics.source_text;
    let place = item.span.as_ref().map(|span| source.position(span.start));
    json!({
        "message": item.message,
        "hints": item.hints,
        "file": source.path,
        "line": place.map(|(line, _)| line),
        "column": place.map(|(_, column)| column),
    })
}

/// Whether stderr takes colour.
pub fn colour() -> bool {
    std::io::stderr().is_terminal() && !no_color()
}

/// Whether NO_COLOR is set.
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Text for the terminal: what would drive it is shown, not obeyed.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match drives(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// Whether a terminal would do more with a character than show it: control characters, and those that turn the
/// direction of a text round, so that it reads as another.
pub fn drives(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() && c != '\n' && c != '\t' || turns
}

/// The line of a workflow in which a problem lies, each character of it that drives a terminal replaced by one of the
/// same length, so that places stay as they are.
fn shown_line(line: &str) -> String {
    let same_length = |c: char| match c.len_utf8() {
        1 => '?',
        2 => '\u{b7}',
        _ => '\u{fffd}',
    };
    line.chars().map(|c| if drives(c) { same_length(c) } else { c }).collect()
}

/// Most characters of a message about a workflow that are shown.
const MESSAGE: usize = 1000;
/// Most problems that are shown to people; JSON holds all.
const MOST_SHOWN: usize = 200;

fn diagnostics_text(diagnostics: &Diagnostics, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let source = &diagnostics.source_text;
    let path = shown(&source.path.display().to_string());
    let mut reports: Vec<String> = Vec::new();
    for item in diagnostics.items.iter().take(MOST_SHOWN) {
        // A name may hold a line break, too; a message is one line.
        let message = shortened(shown(&item.message).replace('\n', "\\n"));
        let label = item.label.as_deref().map(shown);
        let place = item.span.as_ref().map(|span| Place::new(&source.text, span));
        let mut group = Group::with_title(Level::ERROR.primary_title(message.as_str()));
        if let Some(place) = &place {
            let annotation =
                AnnotationKind::Primary.span(place.within.clone()).label(label.as_deref());
            let snippet =
                Snippet::source(place.text.as_str()).line_start(place.line).path(path.as_str());
            group = group.element(snippet.annotation(annotation));
        }
        for hint in &item.hints {
            group = group.element(Level::HELP.message(shown(hint)));
        }
        reports.push(renderer.render(&[group]).to_string());
    }
    let count = diagnostics.items.len();
    if count > MOST_SHOWN {
        reports.push(format!("{} more problems are not shown", count - MOST_SHOWN));
    }
    reports
        .push(format!("error: {count} problem{} in `{path}`", if count == 1 { "" } else { "s" }));
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
struct Place {
    text: String,
    /// Its number, from 1.
    line: usize,
    /// The problem's bytes in it.
    within: Range<usize>,
}

impl Place {
    fn new(source: &str, span: &Range<usize>) -> Place {
        let end = span.end.min(source.len());
        // What is missing at the end is missed behind the last line, not in the empty one that follows.
        let start =
            if span.start >= source.len() { source.trim_end().len() } else { span.start.min(end) };
        let line_start = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |at| start + at);
        let text = shown_line(source[line_start..line_end].trim_end_matches('\r'));
        let within =
            start - line_start..(end.min(line_end).max(start) - line_start).min(text.len());
        let line = source[..start].matches('\n').count() + 1;
        Place { text, line, within: within.start.min(within.end)..within.end }
    }
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Failure {
        Failure::Workflow(Box::new(diagnostics))
    }
}

/// What to do about pickled weights.
const UNPICKLE: &str = "convert the weights to safetensors";

impl From<StateError> for Failure {
    fn from(error: StateError) -> Failure {
        let code = match &error {
            StateError::Hash(HashError::Pickle { .. }) => INPUT,
            StateError::Hash(_) | StateError::Store(_) => ENVIRONMENT,
        };
        match &error {
            StateError::Hash(HashError::Pickle { .. }) => {
                Failure::with_hint(code, error.to_string(), UNPICKLE)
            }
            _ => Failure::new(code, error.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match &error {
            StoreError::Cache(CacheError::Io { .. }) => Failure::with_hint(
                ENVIRONMENT,
                error.to_string(),
                "`--cache DIR` or REFRAIN_CACHE name another folder for the cache",
            ),
            _ => Failure::new(ENVIRONMENT, error.to_string()),
        }
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Failure {
        StoreError::Cache(error).into()
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Failure {
        StoreError::Records(error).into()
    }
}

impl From<ListingError> for Failure {
    fn from(error: ListingError) -> Failure {
        match error {
            ListingError::Cache(error) => error.into(),
            ListingError::Records(error) => error.into(),
        }
    }
}

impl From<RemoveError> for Failure {
    fn from(error: RemoveError) -> Failure {
        match error {
            RemoveError::Cache(error) => error.into(),
            RemoveError::Records(error) => error.into(),
        }
    }
}

impl From<RootsError> for Failure {
    fn from(error: RootsError) -> Failure {
        match error {
            RootsError::Lock(error) => error.into(),
            RootsError::Runs { .. } => Failure::new(ENVIRONMENT, error.to_string()),
        }
    }
}

impl From<refrain_cache::TableError> for Failure {
    fn from(error: refrain_cache::TableError) -> Failure {
        Failure::new(ENVIRONMENT, error.to_string())
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Failure {
        let message = error.to_string();
        match error {
            LockError::Missing(_) => {
                Failure::with_hint(DIFFERENT, message, "`refrain run` writes it")
            }
            LockError::Io { .. } => Failure::new(ENVIRONMENT, message),
            LockError::Line { .. } => Failure::with_hint(
                INPUT,
                message,
                "after a merge conflict, remove the lock and run again",
            ),
            LockError::Version { .. } => Failure::with_hint(
                ENVIRONMENT,
                message,
                "use the Refrain that wrote it; to start anew with this one, remove the lock and run",
            ),
        }
    }
}

/// What to do about a file that changed during a run.
const CHANGED: &str = "run again: the file is then taken as it is now";

/// The exit code, words and hint of a failed node.
pub fn of_node(failure: &NodeError) -> (u8, String, Option<String>) {
    match failure {
        NodeError::Stage(StageError::Environment { message, hint }) => {
            (ENVIRONMENT, message.clone(), hint.clone())
        }
        NodeError::Stage(StageError::Failed { message, hint }) => {
            (STAGE, message.clone(), hint.clone())
        }
        NodeError::Stage(error) => (STAGE, error.to_string(), None),
        NodeError::Source(SourceError::Cache(error)) => (ENVIRONMENT, error.to_string(), None),
        NodeError::Source(error) => (INPUT, error.to_string(), error.hint()),
        NodeError::State(error @ StateError::Hash(HashError::Pickle { .. })) => {
            (INPUT, error.to_string(), Some(UNPICKLE.into()))
        }
        NodeError::State(error) => (ENVIRONMENT, error.to_string(), None),
        NodeError::Changed(_) => (INPUT, failure.to_string(), Some(CHANGED.into())),
    }
}
