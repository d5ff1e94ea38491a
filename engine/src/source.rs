//! Imports tables that the workflow reads, and finds the models and files that it names.
//!
//! Every source becomes a Parquet table with `id`, and `prompt` or `messages` where it has them, so
//! that the stages see the same bytes whatever format the rows came in.

mod columnar;
mod convert;
mod csv;
mod error;
pub mod fetched;
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
mod params;
mod piece;
pub mod recorded;
mod replace;
mod rows;
pub mod seen;
pub mod served;
mod shards;
mod spec;
mod text;
pub mod upstream;
mod walk;

use std::path::PathBuf;

use arrow::datatypes::{Schema, SchemaRef};

use refrain_cache::{Artifact, Cache, FileIdentity, contained};

use crate::language::diagnostic::suggest;

use self::csv::Csv;
use columnar::Columnar;
use json::Json;
use layout::{Found, Layout};
use piece::Opened;
use shards::{Shards, ShardsError};

pub use error::SourceError;
pub use filter::Filter;
pub use format::Format;
pub use locate::{Located, locate};
pub use params::{MODEL_PARAMS, PARAMS};
pub use replace::Replacement;
pub use rows::Rows;
pub use shards::exists;
pub use spec::{OptionProblem, SourceSpec};
pub use walk::Walk;

/// Version of the rows that a source becomes: raised when they change for some file.
const VERSION: u32 = 2;
/// Version of the tables' bytes: schema conventions, codec, row groups.
pub(crate) const TABLE_VERSION: u32 = 1;

impl SourceSpec {
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

/// The files that count, as they are now.
fn identities(shards: &Shards) -> Result<Vec<FileIdentity>, SourceError> {
    let identity = |(_, path): &(String, PathBuf)| {
        let metadata = std::fs::metadata(path);
        let metadata = metadata.map_err(|error| SourceError::Io { path: path.clone(), error });
        Ok(FileIdentity::of(&metadata?))
    };
    shards.counted.iter().map(identity).collect()
}

/// Limit on the rows that are held at once while a source is read.
const BATCH_ROWS: usize = 4096;
/// Rows from which the columns are inferred before anything runs.
const HEAD_ROWS: usize = 1000;
