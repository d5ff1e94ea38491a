//! Judges a query by its result: runs it and the reference's in SQLite and compares the rows.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{RecordBatch, StringArray};

use refrain_cache::columns::column;
use refrain_engine::kind::{Cancel, Context, File, Folder, StageError, parameters};
use refrain_engine::language::diagnostic::suggest;
use refrain_engine::source::Walk;

use super::extract::Extract;
use super::verdict::Verdict;
use crate::options::Options;
use crate::prompts::{cell, row_error};
use query::{Fault, Limits, Outcome};

mod query;

pub(super) use query::{ROWS, STEPS, profile};

parameters! {
    /// The databases of `task: sql`, by name.
    pub(super) struct Databases {
        /// The column that names a row's database
        column: String = "db_id",
        /// The files, by the names in that column
        files: Map<&File>,
        /// A folder with the file `NAME/NAME.sqlite` of each name in that column, as BIRD and
        /// Spider have it
        folder: Option<&Folder>,
    }
}

parameters! {
    /// Where a query of `task: sql` is stopped.
    pub(super) struct SqlLimits {
        /// Instructions of SQLite's machine, 30 to 130 million of which take a second
        #[range(1000..)]
        steps: Option<u64>,
        /// Rows of its result
        #[range(1..)]
        rows: Option<u64>,
    }
}

/// A way to judge queries.
pub(super) struct SqlRule {
    pub extract: Vec<Extract>,
    /// Whether equal rows count once.
    pub as_set: bool,
    limits: Limits,
    cancel: Cancel,
    databases: Files,
    /// The last reference's result: samples of one prompt follow each other.
    last: RefCell<Option<(PathBuf, String, Outcome)>>,
}

enum Files {
    One(PathBuf),
    Named { column: String, files: BTreeMap<String, PathBuf> },
}

impl SqlRule {
    pub fn new(
        ctx: &Context<'_>,
        extract: Vec<Extract>,
        as_set: bool,
        databases: Option<&Databases>,
        limits: Option<&SqlLimits>,
    ) -> Result<SqlRule, StageError> {
        let databases = match databases {
            Some(named) => Files::Named { column: named.column.clone(), files: named_files(ctx)? },
            None => Files::One(ctx.input("database")?.path().clone()),
        };
        let limits = Limits {
            steps: limits.and_then(|limits| limits.steps).unwrap_or(STEPS),
            rows: limits.and_then(|limits| limits.rows).unwrap_or(ROWS),
        };
        let cancel = ctx.cancel.clone();
        Ok(SqlRule { extract, as_set, limits, cancel, databases, last: RefCell::default() })
    }

    /// The verdicts on the rows of a batch.
    pub fn batch<'r>(
        &self,
        batch: &'r RecordBatch,
        first: u64,
    ) -> Result<Vec<Verdict<'r>>, StageError> {
        let responses = column::<StringArray>(batch, "response")?;
        let references = column::<StringArray>(batch, "reference")?;
        (0..batch.num_rows())
            .map(|row| {
                self.cancel.check()?;
                let fail = |what: &str| row_error(batch, row, first, what);
                let database = self.database(batch, row, first)?;
                let reference =
                    cell(references, row).ok_or_else(|| fail("it has no `reference`"))?;
                let wanted = self.wanted(database, reference).map_err(|fault| match fault {
                    Fault::Stopped => StageError::Cancelled,
                    fault => StageError::with_hint(
                        fail(&format!("its reference query fails: {}", fault.message()))
                            .to_string(),
                        "correct the reference, leave the row out, or raise `limits`",
                    ),
                })?;
                let found = cell(responses, row).and_then(|response| self.find(response));
                self.judge(database, found, &wanted)
            })
            .collect()
    }

    fn find<'t>(&self, text: &'t str) -> Option<Cow<'t, str>> {
        let found = self.extract.iter().find_map(|way| way.find(text, &Options::default()));
        found.filter(|query| !query.trim().is_empty())
    }

    fn judge<'r>(
        &self,
        database: &Path,
        query: Option<Cow<'r, str>>,
        wanted: &Outcome,
    ) -> Result<Verdict<'r>, StageError> {
        let wrong = |prediction, reason| Verdict { prediction, correct: Some(false), reason };
        let Some(query) = query else { return Ok(wrong(None, Fault::Nothing.reason())) };
        match query::run(database, &query, self.limits, &self.cancel) {
            Ok(found) if found.equals(wanted, self.as_set) => {
                Ok(Verdict { prediction: Some(query), correct: Some(true), reason: "equal" })
            }
            Ok(_) => Ok(wrong(Some(query), "different")),
            Err(Fault::Nothing) => Ok(wrong(None, Fault::Nothing.reason())),
            Err(Fault::Stopped) => Err(StageError::Cancelled),
            Err(Fault::Database(why)) => Err(StageError::failed(why)),
            Err(fault) => Ok(wrong(Some(query), fault.reason())),
        }
    }

    /// The result of a reference's query.
    fn wanted(&self, database: &Path, reference: &str) -> Result<Outcome, Fault> {
        let query = self.find(reference).unwrap_or(Cow::Borrowed(reference));
        if let Some((path, known, outcome)) = &*self.last.borrow()
            && path == database
            && *known == query
        {
            return Ok(outcome.clone());
        }
        let outcome = query::run(database, &query, self.limits, &self.cancel)?;
        self.last.replace(Some((database.to_owned(), query.into_owned(), outcome.clone())));
        Ok(outcome)
    }

    fn database(&self, batch: &RecordBatch, row: usize, first: u64) -> Result<&Path, StageError> {
        let (column_name, files) = match &self.databases {
            Files::One(path) => return Ok(path),
            Files::Named { column, files } => (column, files),
        };
        let named = cell(column::<StringArray>(batch, column_name)?, row);
        named.and_then(|name| files.get(name)).map(PathBuf::as_path).ok_or_else(|| {
            let what = match named {
                Some(name) => format!("there is no database `{name}`"),
                None => format!("`{column_name}` is missing"),
            };
            let names = files.keys().map(String::as_str);
            let hint = suggest(named.unwrap_or_default(), names, "there are");
            StageError::Failed { message: row_error(batch, row, first, &what).to_string(), hint }
        })
    }
}

/// The databases by their names: the files that are given one by one, and those of a folder.
fn named_files(ctx: &Context<'_>) -> Result<BTreeMap<String, PathBuf>, StageError> {
    let given = ctx.inputs.iter().filter_map(|(path, input)| {
        Some((path.strip_prefix("databases.files.")?.to_owned(), input.path().clone()))
    });
    let mut files: BTreeMap<String, PathBuf> = given.collect();
    let Some(folder) = ctx.inputs.get("databases.folder") else { return Ok(files) };
    // Of the files that the key is made of: a name in the data reaches no other.
    let listed =
        Walk::whole(folder.path()).map_err(|error| StageError::failed(error.to_string()))?;
    let database = |(name, path): (String, PathBuf)| {
        let (folder, file) = name.split_once('/')?;
        (file.strip_suffix(".sqlite")? == folder).then(|| (folder.to_owned(), path))
    };
    files.extend(listed.files.into_iter().filter_map(database));
    if files.is_empty() {
        return Err(StageError::with_hint(
            format!("the folder `{}` holds no databases", folder.path().display()),
            "that of `NAME` is `NAME/NAME.sqlite`",
        ));
    }
    Ok(files)
}
