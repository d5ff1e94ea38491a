//! Imports tables that the workflow reads, and finds the models and files that it names.
//!
//! Every source becomes a Parquet table with `id`, and `prompt` or `messages` where it has them, so
//! that the stages see the same bytes whatever format the rows came in.

mod columnar;
mod convert;
mod csv;
mod error;
mod filter;
mod format;
mod ids;
mod import;
mod json;
mod layout;
mod locate;
mod messages;
pub mod model_folder;
mod numbers;
mod piece;
pub mod recorded;
mod rows;
pub mod seen;
mod shards;
mod text;

use std::path::PathBuf;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use serde_json::{Map, Value, json};

use refrain_cache::{Artifact, Cache, FileIdentity, contained};

use crate::kind::{ArtifactKind, Param, Type};
use crate::language::diagnostic::suggest;

use self::csv::Csv;
use columnar::Columnar;
use filter::Filter;
use json::Json;
use layout::{Found, Layout};
use piece::Opened;
use shards::{Shards, ShardsError};

pub use error::SourceError;
pub use format::Format;
pub use locate::{Located, locate};
pub use rows::Rows;
pub use shards::exists;

/// Version of the rows that a source becomes: raised when they change for some file.
pub const VERSION: u32 = 2;

/// The parameters of an entry of `models`.
pub static MODEL_PARAMS: &[Param] = &[
    Param::required("path", Type::Text, "a file or folder, relative to the workflow"),
    Param::optional(
        "base",
        Type::Reference(Some(ArtifactKind::Model)),
        "the model that an adapter was trained on, by its name in `models`",
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
    Param::optional(
        "where",
        Type::OneOf(&[Type::Text, Type::Map(&Type::Any)]),
        "keeps, before the others count, the rows in which a column is true, or each column is as \
         given: a value, `not_null`, `null`, or a mapping of `=`, `!=`, `>`, `>=`, `<`, `<=` and `in`",
    ),
];

/// The parameters of an entry of `data`.
pub static PARAMS: &[Param] = &[
    Param::required(
        "path",
        Type::Text,
        "a file, a folder of files, a pattern such as `data/*.jsonl`, or a folder that Hugging Face \
         `datasets` saved, relative to the workflow",
    ),
    Param::optional(
        "type",
        Type::Choice(&["table", "model", "file"]),
        "what it is; `table` by default",
    ),
    Param::optional(
        "format",
        Type::Choice(format::WORDS),
        "told from the file's name and first bytes by default",
    ),
    Param::optional("split", Type::Text, "the split of a folder that `datasets` saved"),
    Param::optional(
        "explode",
        Type::Text,
        "a column of lists, by its name in the file, of whose elements each becomes a row",
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

/// A table source with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// The file or folder, or a pattern.
    pub path: PathBuf,
    /// The split of a saved data set.
    pub split: Option<String>,
    /// The format that the workflow or the name says.
    pub format: Option<Format>,
    /// The column of lists that is exploded, by the file's name.
    pub explode: Option<String>,
    /// Renamed columns: the new name and the file's.
    pub columns: Vec<(String, String)>,
    /// Columns of the file that are left out, sorted.
    pub drop: Vec<String>,
    /// The conditions of rows.
    pub filter: Filter,
    /// The rows that are selected of those.
    pub rows: Rows,
    /// Whether its rows are instructions with outputs, of which prompt and response are made.
    pub alpaca: bool,
}

/// A problem with an option: its path, the fault, the remedy.
pub type OptionProblem = (&'static str, String, Option<String>);

impl SourceSpec {
    /// Makes the source that a checked mapping describes; its files may be absent.
    ///
    /// # Errors
    /// A format that cannot be told, a split that does not exist, a range or a selection that is
    /// malformed, a column both renamed and left out.
    pub fn new(path: PathBuf, values: &Map<String, Value>) -> Result<SourceSpec, OptionProblem> {
        let text = |name: &str| values.get(name).and_then(Value::as_str).map(str::to_owned);
        let given = text("format").as_deref().and_then(Format::of_word);
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
        let filter = filter::of_rows(values.get("rows"));
        let spec = SourceSpec {
            format: given.or_else(|| Format::of_name(&path)),
            path,
            split: text("split"),
            explode: text("explode"),
            columns,
            drop,
            filter: filter.map_err(|(message, hint)| ("rows", message, hint))?,
            rows: selected(values.get("rows"))?,
            alpaca: false,
        };
        if spec.path.exists() || shards::is_glob(&spec.path) && exists(&spec.path) {
            let shards =
                spec.shards().map_err(|error| (error.option, error.message, error.hint))?;
            spec.format_of(&shards).map_err(|error| ("path", error.to_string(), error.hint()))?;
        }
        Ok(spec)
    }

    /// Finds the files.
    fn shards(&self) -> Result<Shards, ShardsError> {
        let shards = Shards::find(&self.path, self.split.as_deref())?;
        if self.format == Some(Format::Hf) && !shards.is_saved {
            return Err(ShardsError {
                option: "format",
                message: format!(
                    "`{}` is not a folder that `datasets` saved: it has no `state.json`",
                    self.path.display()
                ),
                hint: Some("`dataset.save_to_disk(…)` writes such a folder".into()),
            });
        }
        Ok(shards)
    }

    /// Tells the format of the files.
    fn format_of(&self, shards: &Shards) -> Result<Format, SourceError> {
        if shards.is_saved {
            return Ok(Format::Arrow);
        }
        let first = &shards.files[0];
        let named = self.format.or_else(|| Format::of_name(first));
        let told = format::of_file(first, named);
        let told = told.map_err(|error| SourceError::Io { path: first.clone(), error })?;
        told.ok_or_else(|| SourceError::Content {
            path: first.clone(),
            message: "its format cannot be told from its name, nor from its first bytes".into(),
            hint: Some("give it: `format: csv`, or another one".into()),
        })
    }

    /// Returns the options as they enter the key; the path does not.
    pub fn options(&self) -> Value {
        // Where neither the workflow nor the name says it, the file's bytes do, which the key holds.
        let format = self.format.map_or("auto", Format::word);
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
        // Added later, so that each enters only where it is given.
        if !self.drop.is_empty() {
            options["drop"] = json!(self.drop);
        }
        if let Some(split) = &self.split {
            options["split"] = json!(split);
        }
        if let Some(column) = &self.explode {
            options["explode"] = json!(column);
        }
        if !self.filter.is_empty() {
            options["where"] = self.filter.options();
        }
        if self.alpaca {
            options["alpaca"] = json!(true);
        }
        options
    }

    /// The source with the form of its rows recognised: from its files, or from the columns of the
    /// table that it became where the files are absent.
    pub fn recognized(mut self, recorded: Option<&Schema>) -> SourceSpec {
        let made = ["prompt", "messages", "response"];
        let is_given = self.columns.iter().any(|(ours, _)| made.contains(&ours.as_str()));
        if self.explode.is_some() || is_given {
            return self;
        }
        let is_text = |schema: &Schema, name: &str| {
            schema.field_with_name(name).is_ok_and(|field| *field.data_type() == DataType::Utf8)
        };
        let instructions = |schema: &Schema| {
            is_text(schema, layout::INSTRUCTION) && is_text(schema, layout::OUTPUT)
        };
        self.alpaca = match recorded {
            Some(schema) => {
                instructions(schema) && is_text(schema, "prompt") && is_text(schema, "response")
            }
            // What is wrong with the file is told where its columns are asked for.
            None => self.schema().is_ok_and(|schema| {
                instructions(&schema)
                    && made.iter().all(|name| schema.field_with_name(name).is_err())
            }),
        };
        self
    }

    /// Returns the columns of the table that it becomes, from the file's header or first rows.
    ///
    /// # Errors
    /// A file that cannot be read, and columns that no table can hold.
    pub fn schema(&self) -> Result<SchemaRef, SourceError> {
        self.guarded(|| {
            let shards = self.found_shards()?;
            let found = self.head(&shards)?;
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
            let shards = self.found_shards()?;
            let before = identities(&shards)?;
            let artifact = import::import(self, &shards.files, cache)?;
            let after = identities(&shards)?;
            match before.iter().zip(&after).position(|(before, after)| before != after) {
                None => Ok(artifact),
                Some(changed) => {
                    Err(SourceError::Changed { path: shards.counted[changed].1.clone() })
                }
            }
        })
    }

    fn found_shards(&self) -> Result<Shards, SourceError> {
        self.shards().map_err(|ShardsError { option, message, hint }| SourceError::Found {
            option,
            message,
            hint,
        })
    }

    /// Returns the columns of the files, as far as the first rows tell them.
    fn head(&self, shards: &Shards) -> Result<Found, SourceError> {
        let files = shards.files.as_slice();
        match self.format_of(shards)? {
            Format::Jsonl => Json { spec: self, files, layout: json::Layout::Lines }.head(),
            Format::Json => Json { spec: self, files, layout: json::Layout::List }.head(),
            Format::Csv => Csv::new(self, files, b',')?.head(),
            Format::Tsv => Csv::new(self, files, b'\t')?.head(),
            format => Columnar { spec: self, files, format }.head(),
        }
    }

    /// Opens the files to read their rows.
    fn open<'a>(&'a self, files: &'a [PathBuf]) -> Result<Opened<'a>, SourceError> {
        let shards = self.found_shards()?;
        match self.format_of(&shards)? {
            Format::Jsonl => Json { spec: self, files, layout: json::Layout::Lines }.open(),
            Format::Json => Json { spec: self, files, layout: json::Layout::List }.open(),
            Format::Csv => Csv::new(self, files, b',')?.open(),
            Format::Tsv => Csv::new(self, files, b'\t')?.open(),
            format => Columnar { spec: self, files, format }.open(),
        }
    }

    /// Turns a panic of a library on a stranger's file into an error that names the file.
    fn guarded<T>(&self, read: impl FnOnce() -> Result<T, SourceError>) -> Result<T, SourceError> {
        contained(read).unwrap_or_else(|panic| Err(self.internal(panic)))
    }

    fn internal(&self, panic: String) -> SourceError {
        SourceError::Internal { path: self.path.clone(), panic }
    }

    /// Whether other rows come out than the files have.
    fn is_reshaped(&self) -> bool {
        self.explode.is_some() || !self.filter.is_empty()
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
        let hint = suggest(theirs, names, "its columns are");
        self.option_error(&format!("columns.{ours}"), format!("has no column `{theirs}`"), hint)
    }

    fn option_error(
        &self,
        option: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> SourceError {
        let (path, option, message) = (self.path.clone(), option.into(), message.into());
        SourceError::Option { path, option, message, hint }
    }

    /// The error of a column to explode that the file lacks.
    fn nothing_to_explode(&self, found: &[String], name: &str) -> SourceError {
        let names = found.iter().map(String::as_str);
        let hint = suggest(name, names, "its columns are");
        self.option_error("explode", format!("has no column `{name}`, which `explode` names"), hint)
    }

    /// The error of a column to leave out that the file lacks.
    fn nothing_to_drop(&self, found: &[String], name: &str) -> SourceError {
        let hint = suggest(name, found.iter().map(String::as_str), "its columns are");
        self.option_error("drop", format!("has no column `{name}`, which `drop` leaves out"), hint)
    }
}

/// What the files that count are now.
fn identities(shards: &Shards) -> Result<Vec<FileIdentity>, SourceError> {
    let identity = |(_, path): &(String, PathBuf)| {
        let metadata = std::fs::metadata(path);
        let metadata = metadata.map_err(|error| SourceError::Io { path: path.clone(), error });
        Ok(FileIdentity::of(&metadata?))
    };
    shards.counted.iter().map(identity).collect()
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
                (None, None) if rows.get("where").is_some() => Ok(Rows::Range(0, u64::MAX)),
                _ => Err(("rows", "`rows` takes either `first` or `sample`".into(), None)),
            }
        }
    }
}

/// Limit on the rows that are held at once while a source is read.
const BATCH_ROWS: usize = 4096;
/// Rows from which the columns are inferred before anything runs.
const HEAD_ROWS: usize = 1000;
