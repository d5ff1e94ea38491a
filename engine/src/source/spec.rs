//! A table source as a workflow declares it, and how its options enter a key.

use std::path::PathBuf;

use arrow::datatypes::{DataType, SchemaRef};
use serde_json::{Map, Value, json};

use refrain_cache::{Digest, Manifest};

use super::filter::{self, Filter};
use super::format::{self, Format};
use super::recorded::RecordedSource;
use super::replace::{self, Replacement};
use super::rows::Rows;
use super::shards::{self, Shards, ShardsError, exists};
use super::{SourceError, TABLE_VERSION, VERSION, layout};

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
    /// Patterns in columns of text, and the texts in their places.
    pub replace: Vec<Replacement>,
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
            replace: replace::of_option(values.get("replace"))?,
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
    pub(super) fn shards(&self) -> Result<Shards, ShardsError> {
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
    pub(super) fn format_of(&self, shards: &Shards) -> Result<Format, SourceError> {
        if shards.is_saved {
            return Ok(Format::Arrow);
        }
        let first = &shards.files[0];
        let named = self.format.or_else(|| Format::of_name(first));
        let told = format::of_file(first, named);
        let told = told.map_err(|error| SourceError::Io { path: first.clone(), error })?;
        told.ok_or_else(|| SourceError::Found {
            option: "path",
            message: format!(
                "the format of `{}` cannot be told from its name, nor from its first bytes",
                first.display()
            ),
            hint: Some("give it, as in `format: csv`".into()),
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
        if !self.replace.is_empty() {
            options["replace"] = self.replace.iter().map(Replacement::options).collect();
        }
        if self.alpaca {
            options["alpaca"] = json!(true);
        }
        options
    }

    /// Returns the manifest of its key, given the digest of its files.
    pub fn manifest(&self, files: &Digest) -> Manifest {
        Manifest::new("source")
            .section("versions", json!({ "source": VERSION, "table": TABLE_VERSION }))
            .section("parameters", self.options())
            .section("inputs", json!({ "file": files.to_string() }))
    }

    /// Says where `rows` asks for more than there are.
    pub(crate) fn fewer_rows(&self, found: Option<u64>) -> Option<String> {
        let (found, wanted) = (found?, self.rows.wanted()?);
        (found < wanted).then(|| format!("`rows` asks for {wanted} rows, and there are {found}"))
    }

    /// Returns the source with the form of its rows, recognised from its files.
    pub fn recognized(self) -> SourceSpec {
        let made = ["prompt", "messages", "response"];
        let is_given = self.columns.iter().any(|(ours, _)| made.contains(&ours.as_str()));
        if self.explode.is_some() || is_given {
            return self;
        }
        // What else is asked of the columns may be about those that are made. A fault of the file
        // is told where its columns are asked for.
        let plain = SourceSpec { filter: Filter::default(), replace: Vec::new(), ..self.clone() };
        let alpaca = plain.schema().is_ok_and(|schema| {
            let is_text = |name: &str| {
                schema.field_with_name(name).is_ok_and(|field| *field.data_type() == DataType::Utf8)
            };
            is_text(layout::INSTRUCTION)
                && is_text(layout::OUTPUT)
                && made.iter().all(|name| schema.field_with_name(name).is_err())
        });
        SourceSpec { alpaca, ..self }
    }

    /// Returns the source with the form of its rows, as a lock records it whose files are absent.
    pub fn recorded(self, recorded: &RecordedSource) -> SourceSpec {
        let made = [layout::INSTRUCTION, layout::OUTPUT, "prompt", "response"];
        let has_all =
            |columns: &SchemaRef| made.iter().all(|name| columns.field_with_name(name).is_ok());
        // The columns alone do not tell it: files may bring by themselves what is made for others.
        let is_plain = self.manifest(&recorded.digest).key() == recorded.key;
        let alpaca = !is_plain && recorded.columns.as_ref().is_some_and(has_all);
        SourceSpec { alpaca, ..self }
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
                (None, None) if rows.get("where").is_some() => Ok(Rows::Range(0, u64::MAX)),
                _ => Err(("rows", "`rows` takes either `first` or `sample`".into(), None)),
            }
        }
    }
}
