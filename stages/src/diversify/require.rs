//! `require`: bounds of metrics, with the rows that pull a metric below or above them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use arrow::array::{AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use serde_json::Value;

use refrain_cache::columns::column;
use refrain_cache::{Metric, TableReader};
use refrain_engine::kind::{Bounds, Check, Context, Problem, StageError, parameters};

use crate::tables::{self, arrow_bug, row_name};

use super::column_statistics::ColumnMeasure;
use super::embedded;
use super::measure::Measure;
use super::words::{Grams, LONGEST, Texts, Words};

/// Rows that are named.
const NAMED: usize = 5;

/// Any number.
const ANY: Bounds<f64> = Bounds { min: f64::NEG_INFINITY, max: f64::INFINITY, open: false };

parameters! {
    /// The bounds of a metric.
    pub(super) struct MetricBounds {
        /// The least value
        #[range(ANY)]
        min: Option<f64>,
        /// The largest value
        #[range(ANY)]
        max: Option<f64>,
    }
}

pub(super) fn check(check: &Check<'_>, names: &[String], problems: &mut Vec<Problem>) {
    let require = check.params.get("require").and_then(Value::as_object);
    for (name, bounds) in require.into_iter().flatten() {
        let at = format!("require.{name}");
        if !names.contains(name) {
            let known: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            let problem = Problem::at(&at, format!("the stage has no metric `{name}`"));
            problems.push(problem.hint(format!("its metrics are {}", known.join(", "))));
        }
        let bound = |name: &str| bounds.get(name).and_then(Value::as_f64);
        match (bound("min"), bound("max")) {
            (None, None) => {
                let problem = Problem::at(&at, "it gives no bound");
                problems.push(problem.hint("give `min`, `max` or both"));
            }
            (Some(min), Some(max)) if min > max => {
                problems.push(Problem::at(&at, "`min` is above `max`"));
            }
            _ => {}
        }
    }
}

/// The setting under which rows are looked for.
pub(super) struct Search<'a> {
    pub table: &'a Path,
    pub words: Words,
    pub columns: &'a [ColumnMeasure],
}

/// Fails where a metric is outside its bounds, or is not defined.
pub(super) fn hold(
    ctx: &Context<'_>,
    bounds: &BTreeMap<String, MetricBounds>,
    metrics: &[Metric],
    search: &Search<'_>,
) -> Result<(), StageError> {
    let mut faults = Vec::new();
    for (name, bounds) in bounds {
        let Some(metric) = metrics.iter().find(|metric| metric.metric == *name) else { continue };
        let value = metric.value;
        let (side, low) = match (bounds.min, bounds.max) {
            (Some(min), _) if value < min => (format!("below the minimum {min}"), true),
            (_, Some(max)) if value > max => (format!("above the maximum {max}"), false),
            _ if value.is_nan() => ("not defined here, and has bounds".to_owned(), true),
            _ => continue,
        };
        let rows = match value.is_nan() {
            true => String::new(),
            false => culprits(ctx, name, low, search)?,
        };
        let value = if value.is_nan() { String::new() } else { format!("{value:.6}, ") };
        faults.push(format!("`{name}` is {value}{side}{rows}"));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(StageError::with_hint(
        format!("`require` does not hold: {}", faults.join("; and ")),
        "leave such rows out or generate others, or change the bounds",
    ))
}

/// Rows with what they contribute, and how that is said.
type Weights = (Vec<(u64, f64)>, fn(f64) -> String);

/// Describes the rows that pull a metric to one side.
fn culprits(
    ctx: &Context<'_>,
    name: &str,
    low: bool,
    search: &Search<'_>,
) -> Result<String, StageError> {
    let of_column =
        search.columns.iter().find(|column| column.metric_names().any(|known| known == name));
    let measure = serde_json::from_value::<Measure>(Value::from(name)).ok();
    let (mut weights, words): Weights = match (of_column, measure) {
        (Some(measured), _) => {
            let sign = if low { -1.0 } else { 1.0 };
            let values = column_values(ctx, search.table, &measured.column)?;
            let weights = values.into_iter().map(|(row, value)| (row, sign * value)).collect();
            (weights, if low { |w| format!("{}", -w) } else { |w| format!("{w}") })
        }
        (None, Some(measure)) if measure.is_embedded() => {
            let embedded = embedded::embed(ctx, search.table)?;
            let means = embedded.vectors().mean_cosines();
            let weights = embedded.rows.iter().copied().zip(means).collect();
            (weights, |w| format!("mean cosine {w:.3} with the others"))
        }
        (None, Some(measure)) => {
            let weights = shared_grams(ctx, search, measure.length().unwrap_or(2))?;
            (weights, |w| format!("{:.0} % of its n-grams are in other rows too", 100.0 * w))
        }
        (None, None) => return Ok(String::new()),
    };
    weights.retain(|(_, weight)| !weight.is_nan());
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    weights.truncate(NAMED);
    let names = names(ctx, search.table, &weights)?;
    let rows = weights.iter().map(|(row, weight)| format!("{} ({})", names[row], words(*weight)));
    let rows: Vec<String> = rows.collect();
    Ok(if rows.is_empty() { String::new() } else { format!("; most by {}", rows.join(", ")) })
}

fn column_values(
    ctx: &Context<'_>,
    table: &Path,
    name: &str,
) -> Result<Vec<(u64, f64)>, StageError> {
    let mut values = Vec::new();
    let mut first = 0;
    for batch in TableReader::open(table)?.batches(Some(&[name]), tables::BATCH_ROWS)? {
        ctx.cancel.check()?;
        let batch = batch?;
        let column = cast(batch.column(0), &DataType::Float64).map_err(arrow_bug)?;
        let rows = (first..).zip(column.as_primitive::<Float64Type>().iter());
        values.extend(rows.filter_map(|(row, value)| Some((row, value?))));
        first += batch.num_rows() as u64;
    }
    Ok(values)
}

/// For each row the share of its n-grams that another row has too.
fn shared_grams(
    ctx: &Context<'_>,
    search: &Search<'_>,
    n: usize,
) -> Result<Vec<(u64, f64)>, StageError> {
    let (mut rows, mut texts) = (Vec::new(), Vec::new());
    let mut first = 0;
    for batch in
        TableReader::open(search.table)?.batches(Some(&["response"]), tables::BATCH_ROWS)?
    {
        ctx.cancel.check()?;
        let batch = batch?;
        let responses = column::<StringArray>(&batch, "response")?;
        let present = (first..).zip(responses).filter_map(|(row, text)| Some((row, text?)));
        present.for_each(|(row, text)| {
            rows.push(row);
            texts.push(text.to_owned());
        });
        first += batch.num_rows() as u64;
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let split = Texts::new(&texts, search.words);
    let orders = Grams::up_to(&split, n.clamp(1, LONGEST));
    let Some(grams) = orders.last() else { return Ok(Vec::new()) };
    let counts = grams.counts();
    let mut texts_with = vec![0_u32; grams.different];
    for text in 0..split.count() {
        counts.text(text).iter().for_each(|(gram, _)| texts_with[*gram as usize] += 1);
    }
    let share = |text: usize| {
        let (mut shared, mut all) = (0, 0);
        for (gram, count) in counts.text(text) {
            all += count;
            shared += if texts_with[*gram as usize] > 1 { *count } else { 0 };
        }
        f64::from(shared) / f64::from(all)
    };
    Ok(rows.into_iter().enumerate().map(|(text, row)| (row, share(text))).collect())
}

/// The names of some rows.
fn names(
    ctx: &Context<'_>,
    table: &Path,
    rows: &[(u64, f64)],
) -> Result<HashMap<u64, String>, StageError> {
    let reader = TableReader::open(table)?;
    let wanted = match reader.schema().field_with_name("id") {
        Ok(_) => "id".to_owned(),
        Err(_) => reader.schema().field(0).name().clone(),
    };
    let (mut names, mut first) = (HashMap::new(), 0);
    for batch in reader.batches(Some(&[wanted.as_str()]), tables::BATCH_ROWS)? {
        ctx.cancel.check()?;
        let batch = batch?;
        let end = first + batch.num_rows() as u64;
        for (row, _) in rows.iter().filter(|(row, _)| (first..end).contains(row)) {
            names.insert(*row, row_name(&batch, first, (row - first) as usize));
        }
        first = end;
    }
    Ok(names)
}
