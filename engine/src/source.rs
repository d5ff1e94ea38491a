//! Sources: tables that the workflow reads, brought into the one form that stages work on.
//!
//! Every source ends as a Parquet table with `id`, and `prompt` or `messages` where it has them, so that what
//! is below sees the same bytes whatever format the rows came in.

mod convert;
mod jsonl;
pub mod model_folder;
mod normalize;
pub mod seen;

use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde_json::{Map, Value, json};

use refrain_cache::{Artifact, Cache, CacheError, TableError, TableReader, contained};

use crate::kind::{Param, Type};

/// Raised when the rows of a source change for some file.
pub const VERSION: u32 = 1;

const PATH: Param =
    Param::required("path", Type::Text, "a file or folder, relative to the workflow");

/// The parameters of an entry of `models`.
pub static MODEL_PARAMS: &[Param] = &[PATH];

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
        "what it is, `table` unless given",
    ),
    Param::optional(
        "format",
        Type::Choice(&["jsonl", "parquet"]),
        "found out from the name where it can be",
    ),
    Param::optional("columns", Type::Map(&Type::Text), "our name of a column: theirs"),
    Param::optional(
        "rows",
        Type::OneOf(&[Type::Text, Type::Record(ROWS)]),
        "`0..2000`, half open, or a mapping",
    ),
];

/// The format of a source's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// Which rows of a source are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// A half-open range.
    Range(u64, u64),
    /// A seeded sample without replacement, in the order of the file.
    Sample {
        /// How many.
        count: u64,
        /// Seed of the draw.
        seed: u64,
    },
}

/// A table source with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Our names of columns, and theirs.
    pub columns: Vec<(String, String)>,
    /// Which rows.
    pub rows: Rows,
}

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be opened.
    #[error("cannot read `{}`: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A place in a text file is wrong.
    #[error("`{}:{line}:{column}`: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// The content does not fit.
    #[error("`{}`: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The file lacks a column that the source renames.
    #[error("`{}` has no column `{theirs}`", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// Our name of the column.
        ours: String,
        /// The name that the file should have it under.
        theirs: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A library panicked.
    #[error("a part of Refrain gave up on `{}` ({panic}); please report this, with the file", path.display())]
    GaveUp {
        /// The file.
        path: PathBuf,
        /// Its last words.
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
    /// What to do about it, where something is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            SourceError::Content { hint, .. } | SourceError::Column { hint, .. } => hint.clone(),
            SourceError::Table(TableError::Unreadable { .. }) => Some(
                "the file is cut off or of another format: fetch it again, or give its `format`"
                    .into(),
            ),
            _ => None,
        }
    }

    /// The path of the source's option that is at fault.
    pub(crate) fn option(&self) -> String {
        match self {
            SourceError::Column { ours, .. } => format!("columns.{ours}"),
            _ => "path".into(),
        }
    }

    pub(crate) fn content(path: &Path, message: impl Into<String>) -> SourceError {
        SourceError::Content { path: path.into(), message: message.into(), hint: None }
    }
}

/// A problem with an option: its path, what is wrong, what to do.
type OptionProblem = (&'static str, String, Option<String>);

impl SourceSpec {
    /// The source that a checked mapping describes.
    pub fn new(path: PathBuf, values: &Map<String, Value>) -> Result<SourceSpec, OptionProblem> {
        let text = |name: &str| values.get(name).and_then(Value::as_str);
        let format = match (text("format"), path.extension().and_then(|e| e.to_str())) {
            (Some("jsonl"), _) | (None, Some("jsonl" | "ndjson")) => Format::Jsonl,
            (Some("parquet"), _) | (None, Some("parquet")) => Format::Parquet,
            _ => {
                let message =
                    format!("the format of `{}` cannot be told from its name", path.display());
                return Err((
                    "path",
                    message,
                    Some("give `format: jsonl` or `format: parquet`".into()),
                ));
            }
        };
        if path.is_dir() {
            return Err(("path", format!("`{}` is a folder, not a file", path.display()), None));
        }
        let columns = match values.get("columns") {
            Some(Value::Object(map)) => map
                .iter()
                .map(|(ours, theirs)| (ours.clone(), theirs.as_str().unwrap_or_default().into()))
                .collect(),
            _ => Vec::new(),
        };
        let rows = match values.get("rows") {
            None => Rows::Range(0, u64::MAX),
            Some(Value::String(text)) => parse_range(text).ok_or_else(|| {
                (
                    "rows",
                    format!("`{text}` is not a range"),
                    Some("write `0..2000` (half open), or `{ first: 200 }`".into()),
                )
            })?,
            Some(rows) => {
                let number = |name: &str| rows.get(name).and_then(Value::as_u64);
                match (number("first"), number("sample")) {
                    (Some(n), None) => Rows::Range(0, n),
                    (None, Some(count)) => {
                        Rows::Sample { count, seed: number("seed").unwrap_or(0) }
                    }
                    _ => {
                        return Err((
                            "rows",
                            "`rows` takes either `first` or `sample`".into(),
                            None,
                        ));
                    }
                }
            }
        };
        Ok(SourceSpec { path, format, columns, rows })
    }

    /// The options as they enter the key; the path does not.
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
        json!({ "format": format, "columns": columns, "rows": rows })
    }

    /// The columns of the table that it becomes, from the file's header or first rows.
    pub fn schema(&self) -> Result<SchemaRef, SourceError> {
        self.guarded(|| self.read_schema())
    }

    /// Reads the rows and writes them as a table of the cache.
    pub fn import(&self, cache: &Cache) -> Result<Artifact, SourceError> {
        self.guarded(|| self.read_rows(cache))
    }

    /// A panic of a library on a stranger's file becomes an error that names the file.
    fn guarded<T>(&self, read: impl FnOnce() -> Result<T, SourceError>) -> Result<T, SourceError> {
        contained(read)
            .unwrap_or_else(|panic| Err(SourceError::GaveUp { path: self.path.clone(), panic }))
    }

    fn read_schema(&self) -> Result<SchemaRef, SourceError> {
        let found = match self.format {
            Format::Parquet => TableReader::open(&self.path)?.schema().clone(),
            Format::Jsonl => jsonl::schema(&self.path)?,
        };
        normalize::schema(&found, self)
    }

    /// The number of rows of a Parquet file. A draw goes over all of them before the first is read, so that they are
    /// counted for it: the header may promise billions.
    fn rows_of(&self, reader: &TableReader) -> Result<u64, SourceError> {
        if matches!(self.rows, Rows::Range(..)) {
            return Ok(reader.rows());
        }
        let first = reader.schema().fields().first().map(|field| field.name().as_str());
        for batch in reader.batches(Some(&first.into_iter().collect::<Vec<_>>()), BATCH_ROWS)? {
            batch?;
        }
        Ok(reader.rows())
    }

    fn read_rows(&self, cache: &Cache) -> Result<Artifact, SourceError> {
        match self.format {
            Format::Parquet => {
                let reader = TableReader::open(&self.path)?;
                let schema = reader.schema().clone();
                let rows = self.rows_of(&reader)?;
                let batches = reader.batches(None, BATCH_ROWS)?;
                normalize::import(
                    self,
                    cache,
                    schema,
                    rows,
                    batches.map(|b| b.map_err(SourceError::from)),
                )
            }
            Format::Jsonl => {
                let jsonl::Scan { schema, rows, longest } = jsonl::scan(&self.path)?;
                let columns: usize =
                    schema.fields().iter().map(|f| convert::size(f.data_type()).0).sum();
                let cells = BATCH_CELLS / columns.max(1);
                let batch_rows = (BATCH_BYTES / longest.max(1)).min(cells).clamp(1, BATCH_ROWS);
                let batches = jsonl::batches(&self.path, schema.clone(), batch_rows)?;
                normalize::import(self, cache, schema, rows, batches)
            }
        }
    }
}

/// Most rows that are held at once while a source is read.
const BATCH_ROWS: usize = 4096;
/// Bytes of text that they may have, where this is known.
const BATCH_BYTES: usize = 128 << 20;
/// Values that they may have.
const BATCH_CELLS: usize = 1 << 21;

fn parse_range(text: &str) -> Option<Rows> {
    let (start, end) = text.split_once("..")?;
    let number = |t: &str, absent: u64| {
        if t.trim().is_empty() { Some(absent) } else { t.trim().parse().ok() }
    };
    let (start, end) = (number(start, 0)?, number(end, u64::MAX)?);
    (start <= end).then_some(Rows::Range(start, end))
}

/// The batches of a source as they come from its file.
pub(crate) type Batches<'a> = Box<dyn Iterator<Item = Result<RecordBatch, SourceError>> + 'a>;
