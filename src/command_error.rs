//! The error of a command: its words, its hint, its exit code.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use refrain_cache::gc::RemoveError;
use refrain_cache::{CacheError, ListingError, RecordError, TableError};
use refrain_engine::language::diagnostic::{
    Diagnostic, Diagnostics, IncludedText, Position, Positions,
};
use refrain_engine::language::explain::{ErrorClass, Explain};
use refrain_engine::ledger::lock::LockError;
use refrain_engine::ledger::roots::RootsError;
use refrain_engine::plan::state::StateError;
use refrain_engine::run::executor::JobError;
use refrain_engine::store::StoreError;

use crate::cli::Format;
use crate::escape::{colour, escape_controls};
use crate::output;
use crate::snippet::{Severity, diagnostics_text};

/// Returns the exit code of a command: its own, unless it succeeded and its data were lost.
pub fn exit_code(own: ExitCode, format: Format) -> ExitCode {
    let Some(error) = output::lost() else { return own };
    let message = format!("cannot write to stdout: {error}");
    let lost = CommandError::new(ErrorClass::Environment, message).report(format);
    if own == ExitCode::SUCCESS { lost } else { own }
}

/// Why a command ends.
#[derive(Debug)]
pub enum CommandError {
    /// The workflow is wrong, here.
    Workflow(Box<Diagnostics>),
    /// Anything else.
    Plain {
        /// The error in words.
        message: String,
        /// The remedy.
        hint: Option<String>,
        /// The class, which decides the exit code.
        class: ErrorClass,
    },
}

impl CommandError {
    /// An error with its class.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> CommandError {
        CommandError::Plain { message: message.into(), hint: None, class }
    }

    /// An error with a hint.
    pub fn with_hint(
        class: ErrorClass,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> CommandError {
        CommandError::Plain { message: message.into(), hint: Some(hint.into()), class }
    }

    /// The error of a file that cannot be written.
    pub fn cannot_write(path: &Path, error: &std::io::Error) -> CommandError {
        let message = format!("cannot write `{}`: {error}", path.display());
        CommandError::new(ErrorClass::Environment, message)
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
            CommandError::Workflow(_) => ErrorClass::Input.exit_code(),
            CommandError::Plain { class, .. } => class.exit_code(),
        }
    }

    fn text(&self, colour: bool) -> String {
        match self {
            CommandError::Workflow(diagnostics) => {
                let count = diagnostics.items.len();
                let path = escape_controls(&diagnostics.source_text.path.display().to_string());
                let plural = if count == 1 { "" } else { "s" };
                let total = format!("error: {count} problem{plural} in `{path}`");
                format!("{}\n\n{total}", diagnostics_text(diagnostics, Severity::Error, colour))
            }
            CommandError::Plain { message, hint, .. } => {
                let hint = hint.as_ref().map(|h| format!("\n  = help: {h}")).unwrap_or_default();
                escape_controls(&format!("error: {message}{hint}"))
            }
        }
    }

    fn json(&self) -> serde_json::Value {
        let errors: Vec<_> = match self {
            CommandError::Workflow(d) => {
                let mut positions = d.source_text.positions();
                d.items.iter().map(|item| error_json(d, item, &mut positions)).collect()
            }
            CommandError::Plain { message, hint, .. } => {
                let hints: Vec<&String> = hint.iter().collect();
                vec![
                    json!({ "message": message, "hints": hints, "file": null, "line": null, "column": null }),
                ]
            }
        };
        json!({ "refrain": 1, "exit_code": self.code(), "errors": errors })
    }
}

/// Prints problems that do not stop a command to stderr.
pub fn warn(diagnostics: &Diagnostics, format: Format) {
    if format != Format::Json && !diagnostics.items.is_empty() {
        let text = diagnostics_text(diagnostics, Severity::Warning, colour());
        output::progress(&format!("{text}\n\n"));
    }
}

fn error_json(
    diagnostics: &Diagnostics,
    item: &Diagnostic,
    positions: &mut Positions<'_>,
) -> serde_json::Value {
    let source = &diagnostics.source_text;
    let place = item.span.as_ref().map(|span| positions.of(span.start));
    let mut error = json!({
        "message": item.message,
        "hints": item.hints,
        "file": place.map_or(source.path.as_path(), |place| place.path),
        "line": place.map(|place| place.line),
        "column": place.map(|place| place.column),
    });
    let chain: Vec<_> = item.span.iter().flat_map(|span| source.chain(span.start)).collect();
    if !chain.is_empty() {
        let included = |file: &&IncludedText| {
            let Position { path, line, column } = source.positions().of(file.from.start);
            json!({ "name": file.name, "file": path, "line": line, "column": column })
        };
        error["included"] = chain.iter().map(included).collect();
    }
    error
}

impl From<Diagnostics> for CommandError {
    fn from(diagnostics: Diagnostics) -> CommandError {
        CommandError::Workflow(Box::new(diagnostics))
    }
}

/// An error that explains itself is the command's.
fn explained(error: &impl Explain) -> CommandError {
    let (message, hint, class) = (error.to_string(), error.hint(), error.class());
    CommandError::Plain { message, hint, class }
}

impl From<StateError> for CommandError {
    fn from(error: StateError) -> CommandError {
        explained(&error)
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> CommandError {
        explained(&error)
    }
}

impl From<JobError> for CommandError {
    fn from(error: JobError) -> CommandError {
        explained(&error)
    }
}

impl From<LockError> for CommandError {
    fn from(error: LockError) -> CommandError {
        explained(&error)
    }
}

impl From<RootsError> for CommandError {
    fn from(error: RootsError) -> CommandError {
        explained(&error)
    }
}

impl From<CacheError> for CommandError {
    fn from(error: CacheError) -> CommandError {
        StoreError::Cache(error).into()
    }
}

impl From<RecordError> for CommandError {
    fn from(error: RecordError) -> CommandError {
        StoreError::Records(error).into()
    }
}

impl From<ListingError> for CommandError {
    fn from(error: ListingError) -> CommandError {
        match error {
            ListingError::Cache(error) => error.into(),
            ListingError::Records(error) => error.into(),
        }
    }
}

impl From<RemoveError> for CommandError {
    fn from(error: RemoveError) -> CommandError {
        match error {
            RemoveError::Cache(error) => error.into(),
            RemoveError::Records(error) => error.into(),
        }
    }
}

impl From<TableError> for CommandError {
    fn from(error: TableError) -> CommandError {
        CommandError::new(ErrorClass::Environment, error.to_string())
    }
}
