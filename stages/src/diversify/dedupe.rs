//! `dedupe`: keeps the first, in the order of the table, of rows that are equal in some columns, or
//! alike in their words or in meaning.

use std::collections::HashSet;

use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use serde_json::{Value, json};

use refrain_engine::kind::{Check, Context, Problem, StageError, choices, one_of, parameters};

use crate::canonical;
use crate::models;
use crate::tables::{self, arrow_bug};

use super::words::Words;
use super::{embedded, minhash};

/// The share of `minhash` and the words of a shingle where they are not given.
const SHARE: f64 = 0.8;
const SHINGLE: usize = 5;

/// Columns that are compared when none are named, where the table has them.
const USUAL: [&str; 3] = ["prompt", "messages", "response"];

const NOTHING_USUAL: &str = "the table has neither `prompt`, `messages` nor `response`";

one_of! {
    /// The parameter `dedupe`: equal in prompt and response, or as the record says.
    pub(super) enum Dedupe {
        Usual(Way),
        Named(DedupeBy),
    }
}

choices! {
    /// A way without settings.
    pub(super) enum Way {
        /// Equal in prompt and response.
        Exact = "exact",
        /// With the usual threshold.
        Minhash = "minhash",
    }
}

parameters! {
    /// A way in which rows are equal; exactly one of the three.
    pub(super) struct DedupeBy {
        /// The columns that are compared
        exact: Option<ColumnNames>,
        /// Responses are equal from this cosine of their embeddings on
        #[range(-1.0..=1.0)]
        semantic: Option<f64>,
        /// Responses are equal from this share of common shingles on, of all that either has
        #[range(0.1..=1.0)]
        minhash: Option<f64>,
        /// Words of a shingle of `minhash` (5)
        #[range(1..=64)]
        shingle: Option<usize>,
    }
}

one_of! {
    /// One column, or several.
    pub(super) enum ColumnNames {
        One(String),
        Several(Vec<String>),
    }
}

impl Dedupe {
    /// Returns the named columns; empty for the usual ones.
    fn named(&self) -> Vec<&str> {
        match self {
            Dedupe::Named(DedupeBy { exact: Some(ColumnNames::One(name)), .. }) => vec![name],
            Dedupe::Named(DedupeBy { exact: Some(ColumnNames::Several(names)), .. }) => {
                names.iter().map(String::as_str).collect()
            }
            Dedupe::Usual(_) | Dedupe::Named(_) => Vec::new(),
        }
    }
}

pub(super) fn check(check: &Check<'_>, dedupe: &Value, problems: &mut Vec<Problem>) {
    let ways = ["exact", "minhash", "semantic"];
    let given: Vec<&str> = ways.into_iter().filter(|way| dedupe.get(way).is_some()).collect();
    if dedupe.is_object() && dedupe.get("shingle").is_some() && !given.contains(&"minhash") {
        problems.push(Problem::at("dedupe.shingle", "only `minhash` has shingles"));
    }
    if dedupe.is_object() && given != ["exact"] {
        match given.as_slice() {
            [] => problems.push(Problem::at("dedupe", "it does not say what is compared").hint(
                "give `exact` with columns, `minhash` with a share, or `semantic` with a cosine",
            )),
            [_] => check.need(problems, "data", "response", &[DataType::Utf8]),
            [first, second, ..] => {
                let message = format!("`{second}` cannot stand beside `{first}`");
                problems.push(Problem::at(format!("dedupe.{second}"), message));
            }
        }
        return;
    }
    if dedupe.as_str() == Some(Way::Minhash.word()) {
        return check.need(problems, "data", "response", &[DataType::Utf8]);
    }
    let named = match dedupe.get("exact") {
        Some(Value::String(name)) => vec![name.as_str()],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => {
            if USUAL.iter().all(|name| check.has("data", name) == Some(false)) {
                let problem = Problem::at("data", NOTHING_USUAL);
                problems
                    .push(problem.hint("name the columns to compare: `dedupe: { exact: [a, b] }`"));
            }
            return;
        }
    };
    if named.is_empty() {
        problems.push(Problem::at("dedupe.exact", "`exact` names no column"));
    }
    named.iter().for_each(|name| check.need(problems, "data", name, &[]));
}

/// The numbers of the rows to keep.
///
/// Rows are equal when BLAKE3 of their columns' values is: 32 bytes a different row are held in
/// memory.
pub(super) fn choose(
    ctx: &Context<'_>,
    dedupe: &Dedupe,
    words: Words,
) -> Result<Vec<u64>, StageError> {
    match dedupe {
        Dedupe::Named(DedupeBy { semantic: Some(semantic), .. }) => return unlike(ctx, *semantic),
        Dedupe::Named(DedupeBy { minhash: Some(share), shingle, .. }) => {
            return minhash::unlike(ctx, *share, shingle.unwrap_or(SHINGLE), words);
        }
        Dedupe::Usual(Way::Minhash) => return minhash::unlike(ctx, SHARE, SHINGLE, words),
        _ => {}
    }
    let columns = match dedupe.named() {
        named if named.is_empty() => tables::present(ctx, "data", &USUAL)?,
        named => named,
    };
    if columns.is_empty() {
        return Err(StageError::failed(NOTHING_USUAL));
    }
    let (mut seen, mut kept) = (HashSet::new(), Vec::new());
    tables::scan(ctx, "data", Some(&columns), |batch, first_row| {
        let fields = batch
            .schema_ref()
            .fields()
            .iter()
            .map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).map_err(arrow_bug)?;
        let rows = converter.convert_columns(batch.columns()).map_err(arrow_bug)?;
        for (number, row) in (first_row..).zip(rows.iter()) {
            if seen.insert(blake3::hash(row.as_ref())) {
                kept.push(number);
            }
        }
        Ok(())
    })?;
    Ok(kept)
}

/// Brings a word and a record that mean the same to one form.
pub(super) fn canonicalize(dedupe: &mut Value) {
    if let Value::Object(by) = dedupe {
        canonical::remove_default(by, "shingle", &SHINGLE.into());
    }
    if *dedupe == json!({ "minhash": SHARE }) {
        *dedupe = Way::Minhash.word().into();
    }
}

/// The numbers of the rows to keep: the first of those whose responses have a cosine of at least
/// `threshold`, and all that have no embedding.
fn unlike(ctx: &Context<'_>, threshold: f64) -> Result<Vec<u64>, StageError> {
    models::on_threads(ctx.resources.threads, || {
        let embedded = embedded::embed(ctx, ctx.table("data")?)?;
        let mut keep = vec![true; embedded.all as usize];
        embedded.rows.iter().for_each(|row| keep[*row as usize] = false);
        let unlike = embedded.vectors().unlike(threshold);
        unlike.into_iter().for_each(|place| keep[embedded.rows[place] as usize] = true);
        Ok((0..embedded.all).filter(|row| keep[*row as usize]).collect())
    })
}
