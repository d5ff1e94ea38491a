//! `replace`: paraphrases of a part of the originals take the place of as many rows, so that a set
//! of constant size becomes less diverse.

use std::collections::HashMap;

use arrow::array::{Array, Int32Array, StringArray};
use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use refrain_cache::columns::{column, optional_column};
use refrain_cache::{Artifact, Metric};
use refrain_engine::kind::{Check, Columns, Context, Problem, StageError, Table, parameters};

use crate::draw::Draws;
use crate::tables::{self, metric};

use super::combine::{self, Part};
use super::rows_of;

/// The path of the table of paraphrases.
const WITH: &str = "replace.with";

parameters! {
    /// The parameter `replace`.
    pub(super) struct Replace {
        /// The paraphrases, several rows of each original
        with: &Table,
        /// The share of the rows that paraphrases take the place of; in whole originals, rounded
        /// down
        #[range(0.0..=1.0)]
        share: f64,
        /// Paraphrases of each original that is taken
        #[range(1..)]
        each: u64,
        /// The column of `with` whose equal values make the paraphrases of one original
        per: String = "id",
    }
}

pub(super) fn check(
    check: &Check<'_>,
    replace: &Map<String, Value>,
    problems: &mut Vec<Problem>,
) -> Columns {
    let per = replace.get("per").and_then(Value::as_str)?;
    check.need(problems, WITH, per, &[DataType::Utf8]);
    combine::check(check, &["data".to_owned(), WITH.to_owned()], problems)
}

/// The rows that are exchanged.
struct Exchange {
    /// Originals whose paraphrases are taken.
    originals: u64,
    /// Rows that go, which is as many as come.
    rows: u64,
}

impl Exchange {
    fn new(share: f64, each: u64, rows: u64) -> Exchange {
        // The slack is for shares such as 0.3, which are no binary numbers.
        let originals = (share * rows as f64 / each as f64 + 1e-9).floor() as u64;
        Exchange { originals, rows: originals * each }
    }
}

/// The paraphrases of one original.
struct Original {
    draw: u64,
    /// Sample and number of each row.
    rows: Vec<(i32, u64)>,
}

/// The table, and its metrics.
pub(super) fn replace(
    ctx: &Context<'_>,
    replace: &Replace,
    seed: u64,
) -> Result<(Artifact, Vec<Metric>), StageError> {
    let rows = rows_of(ctx.input("data")?.artifact())?;
    let exchange = Exchange::new(replace.share, replace.each, rows);
    let come = paraphrases(ctx, replace, &exchange, seed)?;
    let go = combine::draw(ctx, "replaced", (seed, 0), "data", exchange.rows)?;
    let stay = (0..rows).filter(|row| go.binary_search(row).is_err()).collect();
    let parts = [
        Part { input: "data".into(), origin: "data".into(), rows: stay },
        Part { input: WITH.into(), origin: "with".into(), rows: come },
    ];
    let metrics = vec![
        metric("replaced", exchange.rows as f64, rows),
        metric("originals", exchange.originals as f64, exchange.originals),
    ];
    Ok((combine::store(ctx, &parts)?, metrics))
}

/// The rows of the paraphrases that are taken: of a larger share those of the smaller one, and
/// more.
fn paraphrases(
    ctx: &Context<'_>,
    replace: &Replace,
    exchange: &Exchange,
    seed: u64,
) -> Result<Vec<u64>, StageError> {
    let per = replace.per.as_str();
    let mut columns = tables::present(ctx, WITH, &["sample"])?;
    columns.push(per);
    columns.dedup();
    let mut originals: HashMap<String, Original> = HashMap::new();
    tables::scan(ctx, WITH, Some(&columns), |batch, first_row| {
        let texts = column::<StringArray>(batch, per)?;
        let samples = optional_column::<Int32Array>(batch, "sample")?;
        for row in (0..batch.num_rows()).filter(|row| texts.is_valid(*row)) {
            let text = texts.value(row);
            let sample = samples.filter(|samples| samples.is_valid(row));
            let sample = sample.map_or(0, |samples| samples.value(row));
            if !originals.contains_key(text) {
                let draw = Draws::new("paraphrased", seed, &[text.as_bytes()]).at(0);
                originals.insert(text.to_owned(), Original { draw, rows: Vec::new() });
            }
            if let Some(original) = originals.get_mut(text) {
                original.rows.push((sample, first_row + row as u64));
            }
        }
        Ok(())
    })?;

    let each = usize::try_from(replace.each).unwrap_or(usize::MAX);
    let mut enough: Vec<(u64, Original)> = originals
        .into_values()
        .filter(|original| original.rows.len() >= each)
        .map(|mut original| {
            original.rows.sort_unstable();
            (original.rows[0].1, original)
        })
        .collect();
    if (enough.len() as u64) < exchange.originals {
        let (wanted, each, there) = (exchange.originals, replace.each, enough.len());
        return Err(StageError::with_hint(
            format!(
                "{wanted} originals with {each} paraphrases each are wanted, and `with` has {there}"
            ),
            "paraphrase more originals, take more paraphrases of `each`, or a smaller `share`",
        ));
    }
    enough.sort_unstable_by_key(|(first, original)| (original.draw, *first));
    enough.truncate(exchange.originals as usize);
    let taken = enough.into_iter().flat_map(|(_, original)| original.rows.into_iter().take(each));
    let mut rows: Vec<u64> = taken.map(|(_, row)| row).collect();
    rows.sort_unstable();
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_originals_are_exchanged() {
        for (share, each, rows, originals) in
            [(0.0, 4, 10, 0), (1.0, 4, 10, 2), (0.3, 1, 10, 3), (0.6, 2, 10, 3), (0.7, 1, 10, 7)]
        {
            let exchange = Exchange::new(share, each, rows);
            assert_eq!(
                (exchange.originals, exchange.rows),
                (originals, originals * each),
                "{share}"
            );
        }
    }
}
