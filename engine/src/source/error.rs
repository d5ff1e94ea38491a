//! Errors of reading a source, with their remedies.

use std::path::{Path, PathBuf};

use refrain_cache::{CacheError, TableError};

use crate::language::explain::{ErrorClass, Explain};

/// An error of reading a source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be opened or read.
    #[error("cannot read `{}`: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// A line of a text file is wrong.
    #[error("`{}:{line}:{column}`: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The fault.
        message: String,
        /// The remedy.
        hint: Option<String>,
    },
    /// A row of a file without lines is wrong.
    #[error("`{}`: row {row}: {message}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Row, from 0.
        row: u64,
        /// The fault.
        message: String,
        /// The remedy.
        hint: Option<String>,
    },
    /// The content does not fit.
    #[error("`{}`: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The fault.
        message: String,
        /// The remedy.
        hint: Option<String>,
    },
    /// An option of the source does not fit the file.
    #[error("`{}` {message}", path.display())]
    Option {
        /// The file.
        path: PathBuf,
        /// The option's path, for example `columns.prompt`.
        option: String,
        /// The fault, to be read after the file's name.
        message: String,
        /// The remedy.
        hint: Option<String>,
    },
    /// The files cannot be found.
    #[error("{message}")]
    Found {
        /// The option at fault.
        option: &'static str,
        /// The fault.
        message: String,
        /// The remedy.
        hint: Option<String>,
    },
    /// The file was written to while it was read.
    #[error("`{}` changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A library panicked.
    #[error("internal error while reading `{}` ({panic})", path.display())]
    Internal {
        /// The file.
        path: PathBuf,
        /// The panic's message.
        panic: String,
    },
    /// The file is not a table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The artifact cannot be written.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl SourceError {
    /// Returns the remedy, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            SourceError::Line { hint, .. }
            | SourceError::Row { hint, .. }
            | SourceError::Content { hint, .. }
            | SourceError::Found { hint, .. }
            | SourceError::Option { hint, .. } => hint.clone(),
            SourceError::Changed { .. } => Some("run again when nothing writes to it".into()),
            SourceError::Internal { .. } => Some("please report it, with the file".into()),
            SourceError::Table(TableError::Unreadable { .. }) => Some(
                "the file is cut off or of another format: fetch it again, or give its `format`"
                    .into(),
            ),
            SourceError::Table(
                TableError::Unsupported { column, .. } | TableError::Duplicate { column },
            ) => Some(left_out(column)),
            _ => None,
        }
    }

    /// Returns the path of the source's option that is at fault.
    pub(crate) fn option(&self) -> &str {
        match self {
            SourceError::Option { option, .. } => option,
            SourceError::Found { option, .. } => option,
            SourceError::Table(TableError::Missing { .. }) => "drop",
            _ => "path",
        }
    }

    pub(crate) fn content(path: &Path, message: impl Into<String>) -> SourceError {
        SourceError::Content { path: path.into(), message: message.into(), hint: None }
    }

    pub(crate) fn empty(path: &Path, hint: &str) -> SourceError {
        let message = "the file is empty".into();
        SourceError::Content { path: path.into(), message, hint: Some(hint.into()) }
    }
}

/// The error of a file whose columns are not those of the source's first file.
pub(super) fn other_columns(
    path: &Path,
    own: &[&str],
    first: &Path,
    of_first: &[&str],
) -> SourceError {
    let lacks = of_first.iter().find(|name| !own.contains(name));
    let more = own.iter().find(|name| !of_first.contains(name));
    let message = match (lacks, more) {
        (Some(name), _) => format!("has no column `{name}`, which `{}` has", first.display()),
        (None, Some(name)) => {
            format!("has a column `{name}`, which `{}` lacks", first.display())
        }
        (None, None) => format!("has other columns than `{}`", first.display()),
    };
    SourceError::Option {
        path: path.into(),
        option: "path".into(),
        message,
        hint: Some("the files of one source have the same columns: name those by a glob".into()),
    }
}

/// The remedy for a column that no table can hold.
pub(super) fn left_out(column: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !column.is_empty() && column.chars().all(plain) {
        return format!("leave the column out: `drop: [{column}]`");
    }
    // Quoted as JSON, which YAML reads too.
    format!("leave the column out: `drop: [{}]`", serde_json::Value::from(column))
}

/// The fault of a part of a row, whose place the caller knows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    pub message: String,
    pub hint: Option<String>,
}

impl Fault {
    pub fn new(message: impl Into<String>) -> Fault {
        Fault { message: message.into(), hint: None }
    }

    pub fn hint(self, hint: impl Into<String>) -> Fault {
        Fault { hint: Some(hint.into()), ..self }
    }
}

impl Explain for SourceError {
    fn class(&self) -> ErrorClass {
        match self {
            SourceError::Cache(_) => ErrorClass::Environment,
            _ => ErrorClass::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        SourceError::hint(self)
    }
}
