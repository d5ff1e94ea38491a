//! Imports tables that the workflow reads, and finds the models and files that it names.
//!
//! Every source becomes a Parquet table with `id`, and `prompt` or `messages` where it has them, so
//! that the stages see the same bytes whatever format the rows came in.

mod convert;
mod error;
mod ids;
mod import;
mod jsonl;
mod layout;
mod locate;
mod messages;
pub mod model_folder;
mod numbers;
mod parquet;
pub mod recorded;
mod rows;
pub mod seen;

use std::path::PathBuf;

use arrow::datatypes::{Schema, SchemaRef};
use serde_json::{Map, Value, json};

use refrain_cache::{Artifact, Cache, FileIdentity, contained};

use crate::kind::{ArtifactKind, Param, Type};
use crate::language::diagnostic::suggest;

use layout::Layout;

pub use error::SourceError;
pub use locate::{Located, locate};
pub use rows::Rows;

/// Version of the rows that a source becomes: raised when they change for some file.
pub const VERSION: u32 = 2;

const PATH: Param =
    Param::required("path", Type::Text, "a file or folder, relative to the workflow");

/// The parameters of an entry of `models`.
pub static MODEL_PARAMS: &[Param] = &[
    PATH,
    Param::optional(
        "base",
        Type::Reference(Some(ArtifactKind::Model)),
        "the model that an adapter was trained on, by its name in `models`; where there is one other \
         model, that one",
    ),
];

static ROWS: &[Param] = &[
    Param::optional("first", Type::Int { min: 0, max: i64::MAX }, "that many rows from the start"),
    Param::optional(
        "sample",
        Type::Int { min: 0, max: i64::MAX },
        "that many rows drawn at random, in order",
    ),
    Param::default("seed", Type::Int { min: 0, max: i64::MAX }, "0", "seed of the draw"),
];

/// The parameters of an entry of `data`.
pub static PARAMS: &[Param] = &[
    PATH,
    Param::optional(
        "type",
        Type::Choice(&["table", "model", "file"]),
        "what it is; `table` by default",
    ),
    Param::optional(
        "format",
        Type::Choice(&["jsonl", "parquet"]),
        "inferred from the file's name by default",
    ),
    Param::optional("columns", Type::Map(&Type::Text), "renames columns: `new: old`"),
    Param::optional(
        "drop",
        Type::List(&Type::Text),
        "leaves out columns, by their names in the file",
    ),
    Param::optional(
        "rows",
        Type::OneOf(&[Type::Text, Type::Record(ROWS)]),
        "`0..2000`, half open, or a mapping",
    ),
];

/// The format of a source's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// A table source with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Renamed columns: the new name and the file's.
    pub columns: Vec<(String, String)>,
    /// Columns of the file that are left out, sorted.
    pub drop: Vec<String>,
    /// The selected rows.
    pub rows: Rows,
}

/// A problem with an option: its path, the fault, the remedy.
pub type OptionProblem = (&'static str, String, Option<String>);

impl SourceSpec {
    /// Makes the source that a checked mapping describes.
    ///
    /// # Errors
    /// A format that cannot be told, a range or a selection that is malformed, a column both
    /// renamed and left out.
    pub fn new(path: PathBuf, values: &Map<String, Value>) -> Result<SourceSpec, OptionProblem> {
        let text = |name: &str| values.get(name).and_then(Value::as_str);
        let format = match (text("format"), path.extension().and_then(|e| e.to_str())) {
            (Some("jsonl"), _) | (None, Some("jsonl" | "ndjson")) => Format::Jsonl,
            (Some("parquet"), _) | (None, Some("parquet")) => Format::Parquet,
            _ => {
                let message =
                    format!("the format of `{}` cannot be told from its name", path.display());
                let hint = "give `format: jsonl` or `format: parquet`";
                return Err(("path", message, Some(hint.into())));
            }
        };
        if path.is_dir() {
            return Err(("path", format!("`{}` is a folder, not a file", path.display()), None));
        }

        let columns: Vec<(String, String)> = match values.get("columns") {
            Some(Value::Object(map)) => map
                .iter()
                .map(|(ours, theirs)| (ours.clone(), theirs.as_str().unwrap_or_default().into()))
                .collect(),
            _ => Vec::new(),
        };
        let names = values.get("drop").and_then(Value::as_array).into_iter().flatten();
        let mut drop: Vec<String> = names.filter_map(Value::as_str).map(Into::into).collect();
        drop.sort_unstable();
        drop.dedup();
        if let Some((ours, theirs)) = columns.iter().find(|(_, theirs)| drop.contains(theirs)) {
            let message = format!("column `{theirs}` is left out, but renamed to `{ours}` too");
            return Err(("drop", message, None));
        }
        Ok(SourceSpec { path, format, columns, drop, rows: selected(values.get("rows"))? })
    }

    /// Returns the options as they enter the key; the path does not.
    pub fn options(&self) -> Value {
        let format = match self.format {
            Format::Jsonl => "jsonl",
            Format::Parquet => "parquet",
        };
        let rows = match &self.rows {
            Rows::Range(0, u64::MAX) => Value::Null,
            Rows::Range(start, end) => json!({ "start": start, "end": end }),
            Rows::Sample { count, seed } => json!({ "sample": count, "seed": seed }),
        };
        let columns: Map<String, Value> = self
            .columns
            .iter()
            .map(|(ours, theirs)| (ours.clone(), Value::from(theirs.as_str())))
            .collect();
        let mut options = json!({ "format": format, "columns": columns, "rows": rows });
        // Added later, so that it enters only where it is given.
        if !self.drop.is_empty() {
            options["drop"] = json!(self.drop);
        }
        options
    }

    /// Returns the columns of the table that it becomes, from the file's header or first rows.
    ///
    /// # Errors
    /// A file that cannot be read, and columns that no table can hold.
    pub fn schema(&self) -> Result<SchemaRef, SourceError> {
        self.guarded(|| {
            let found = match self.format {
                Format::Parquet => parquet::head(self)?,
                Format::Jsonl => jsonl::head(self)?,
            };
            Ok(Layout::new(&found, self)?.schema)
        })
    }

    /// Reads the rows and writes them as a table of the cache.
    ///
    /// # Errors
    /// A file that cannot be read or changes meanwhile, rows that are wrong, a cache that cannot be
    /// written.
    pub fn import(&self, cache: &Cache) -> Result<Artifact, SourceError> {
        self.guarded(|| {
            let before = self.identity()?;
            let opened = match self.format {
                Format::Parquet => parquet::rows(self)?,
                Format::Jsonl => jsonl::rows(self)?,
            };
            let artifact = import::import(self, cache, opened)?;
            match self.identity()? == before {
                true => Ok(artifact),
                false => Err(SourceError::Changed { path: self.path.clone() }),
            }
        })
    }

    fn identity(&self) -> Result<FileIdentity, SourceError> {
        let metadata = std::fs::metadata(&self.path);
        let metadata = metadata.map_err(|error| SourceError::Io { path: self.path.clone(), error });
        Ok(FileIdentity::of(&metadata?))
    }

    /// Turns a panic of a library on a stranger's file into an error that names the file.
    fn guarded<T>(&self, read: impl FnOnce() -> Result<T, SourceError>) -> Result<T, SourceError> {
        contained(read)
            .unwrap_or_else(|panic| Err(SourceError::Internal { path: self.path.clone(), panic }))
    }

    fn is_jsonl(&self) -> bool {
        self.format == Format::Jsonl
    }

    /// Whether a column of the file becomes the one of that name.
    fn becomes(&self, theirs: &str, ours: &str) -> bool {
        self.ours(theirs).any(|name| name == ours)
    }

    /// Returns our names of a column, given the file's.
    fn ours<'s>(&'s self, theirs: &'s str) -> impl Iterator<Item = &'s str> {
        let renamed = self.columns.iter().filter(move |(_, name)| name == theirs);
        let mut renamed = renamed.map(|(ours, _)| ours.as_str()).peekable();
        let own = renamed.peek().is_none().then_some(theirs);
        renamed.chain(own)
    }

    fn content(&self, message: impl Into<String>) -> SourceError {
        SourceError::content(&self.path, message)
    }

    /// The error of a renamed column that the file lacks.
    fn no_column(&self, found: &Schema, ours: &str, theirs: &str) -> SourceError {
        let names = found.fields().iter().map(|field| field.name().as_str());
        SourceError::Option {
            path: self.path.clone(),
            option: format!("columns.{ours}"),
            message: format!("has no column `{theirs}`"),
            hint: suggest(theirs, names, "its columns are"),
        }
    }

    /// The error of a column to leave out that the file lacks.
    fn nothing_to_drop(&self, found: &[String], name: &str) -> SourceError {
        SourceError::Option {
            path: self.path.clone(),
            option: "drop".into(),
            message: format!("has no column `{name}`, which `drop` leaves out"),
            hint: suggest(name, found.iter().map(String::as_str), "its columns are"),
        }
    }
}

/// The rows that the option `rows` selects.
fn selected(rows: Option<&Value>) -> Result<Rows, OptionProblem> {
    match rows {
        None => Ok(Rows::Range(0, u64::MAX)),
        Some(Value::String(text)) => Rows::parse(text).ok_or_else(|| {
            let hint = "write `0..2000` (half open), or `{ first: 200 }`";
            ("rows", format!("`{text}` is not a range"), Some(hint.into()))
        }),
        Some(rows) => {
            let number = |name: &str| rows.get(name).and_then(Value::as_u64);
            match (number("first"), number("sample")) {
                (Some(n), None) => Ok(Rows::Range(0, n)),
                (None, Some(count)) => {
                    Ok(Rows::Sample { count, seed: number("seed").unwrap_or(0) })
                }
                _ => Err(("rows", "`rows` takes either `first` or `sample`".into(), None)),
            }
        }
    }
}

/// Limit on the rows that are held at once while a source is read.
const BATCH_ROWS: usize = 4096;
/// Rows from which the columns are inferred before anything runs.
const HEAD_ROWS: usize = 1000;
