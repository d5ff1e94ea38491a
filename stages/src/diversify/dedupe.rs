//! `dedupe`: keeps the first, in the order of the table, of rows that are equal in some columns or
//! in meaning.

use std::collections::HashSet;

use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use serde_json::Value;

use refrain_engine::kind::{Check, Context, Problem, StageError, choices, one_of, parameters};

use crate::tables::{self, arrow_bug};

use super::embedded;

/// Columns that are compared when none are named, where the table has them.
const USUAL: [&str; 3] = ["prompt", "messages", "response"];

const NOTHING_USUAL: &str = "the table has neither `prompt`, `messages` nor `response`";

one_of! {
    /// The parameter `dedupe`: equal in prompt and response, or as the record says.
    pub(super) enum Dedupe {
        Usual(Exact),
        Named(DedupeBy),
    }
}

choices! {
    /// The word for prompt and response.
    pub(super) enum Exact {
        Exact = "exact",
    }
}

parameters! {
    /// A way in which rows are equal; exactly one of the two.
    pub(super) struct DedupeBy {
        /// The columns that are compared
        exact: Option<ColumnNames>,
        /// Responses are equal from this cosine of their embeddings on
        #[range(-1.0..=1.0)]
        semantic: Option<f64>,
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
    let ways = ["exact", "semantic"].map(|way| dedupe.get(way).is_some());
    if dedupe.is_object() && ways != [true, false] {
        match ways {
            [true, true] => problems
                .push(Problem::at("dedupe.semantic", "`semantic` cannot stand beside `exact`")),
            [false, true] => check.need(problems, "data", "response", &[DataType::Utf8]),
            _ => problems.push(
                Problem::at("dedupe", "it does not say what is compared")
                    .hint("give `exact` with columns, or `semantic` with a cosine"),
            ),
        }
        return;
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
pub(super) fn choose(ctx: &Context<'_>, dedupe: &Dedupe) -> Result<Vec<u64>, StageError> {
    if let Dedupe::Named(DedupeBy { semantic: Some(semantic), .. }) = dedupe {
        return embedded::unlike(ctx, *semantic);
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
