//! The metrics that a command writes: a JSON object, JSON Lines or Parquet, checked before they count.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use arrow::array::{Array, Float64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use refrain_cache::{Metric, TableReader, read_plain};
use refrain_engine::kind::{StageError, check_name};
use refrain_engine::language::diagnostic::{listed, suggest};

use crate::tables::BATCH_ROWS;

/// The largest file.
const MAX_BYTES: u64 = 4 << 20;
/// The largest number of metrics.
const MAX_METRICS: usize = 10_000;
/// The first bytes of a Parquet file.
const PARQUET: [u8; 4] = *b"PAR1";
/// The fields of a metric beside its name.
const FIELDS: [&str; 4] = ["value", "n", "low", "high"];
/// The field of a row that holds the name.
const NAME: &str = "metric";
/// The largest number of observations: whole numbers up to it are exact in every format.
const MAX_N: f64 = 9_007_199_254_740_992.0;

/// Reads the metrics; those `declared` must be among them.
pub(super) fn read(path: &Path, declared: Option<&[String]>) -> Result<Vec<Metric>, StageError> {
    let mut checked = Checked::default();
    match is_parquet(path)? {
        true => table(path, &mut checked)?,
        false => json(&text(path)?, &mut checked)?,
    }

    let metrics = checked.metrics;
    let names = || listed(metrics.iter().map(|metric| metric.metric.as_str()));
    if metrics.is_empty() {
        return Err(wrong("has no metrics", "write at least one, or remove it from `outputs`"));
    }
    let is_written = |name: &&String| metrics.iter().any(|metric| metric.metric == **name);
    if let Some(missing) = declared.into_iter().flatten().find(|name| !is_written(name)) {
        let message = format!("the command did not write the metric `{missing}`");
        return Err(StageError::with_hint(message, format!("it wrote {}", names())));
    }
    Ok(metrics)
}

fn wrong(fault: &str, hint: &str) -> StageError {
    StageError::with_hint(format!("the command's output `metrics` {fault}"), hint)
}

fn is_parquet(path: &Path) -> Result<bool, StageError> {
    let mut begin = [0; 4];
    let mut file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.len() > MAX_BYTES {
        let fault = format!("is larger than {} MB, the limit", MAX_BYTES >> 20);
        return Err(wrong(&fault, "write rows to a table, and what sums them up to `metrics`"));
    }
    Ok(file.read_exact(&mut begin).is_ok() && begin == PARQUET)
}

fn text(path: &Path) -> Result<Vec<u8>, StageError> {
    read_plain(path, MAX_BYTES).map_err(unreadable)
}

fn unreadable(error: std::io::Error) -> StageError {
    let message = format!("the command's output `metrics` cannot be read: {error}");
    StageError::Environment { message, hint: None }
}

/// The metrics that are right so far.
#[derive(Default)]
struct Checked {
    metrics: Vec<Metric>,
    names: HashSet<String>,
}

/// A metric as it was written; a field is absent where its number is.
#[derive(Default)]
struct Written {
    value: Option<f64>,
    n: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
}

impl Checked {
    fn add(&mut self, name: &str, written: &Written) -> Result<(), StageError> {
        check_name(name).map_err(|message| wrong(&format!("is wrong: {message}"), "rename it"))?;
        let fault = |fault: &str, hint: &str| {
            StageError::with_hint(format!("the command's metric `{name}` {fault}"), hint)
        };
        if self.metrics.len() == MAX_METRICS {
            let hint = "write rows to a table, and what sums them up to `metrics`";
            return Err(wrong(&format!("has more than {MAX_METRICS} metrics"), hint));
        }
        if !self.names.insert(name.to_owned()) {
            return Err(fault("is written twice", "write each metric once"));
        }

        let finite = |number: f64| number.is_finite().then_some(number);
        let Some(value) = written.value.and_then(finite) else {
            return Err(fault("is not a finite number", "leave it out where it is not defined"));
        };
        let n = written.n.unwrap_or(1.0);
        if n.fract() != 0.0 || !(0.0..=MAX_N).contains(&n) {
            let hint = "`n` is the number of observations: a whole number of at least 0";
            return Err(fault(&format!("has the `n` {n}"), hint));
        }
        let is_within = |end: Option<f64>, holds: fn(f64, f64) -> bool| {
            end.is_none_or(|end| end.is_finite() && holds(end, value))
        };
        if !is_within(written.low, |low, value| low <= value)
            || !is_within(written.high, |high, value| high >= value)
        {
            let hint = "`low` and `high` are finite, and `low` ≤ `value` ≤ `high`";
            return Err(fault("lies outside its interval", hint));
        }
        let Written { low, high, .. } = *written;
        self.metrics.push(Metric { metric: name.to_owned(), value, n: n as u64, low, high });
        Ok(())
    }
}

/// The entries of a JSON object in their order, repeated ones too.
struct Entries(Vec<(String, Entry)>);

/// A value of such an object.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Object(Entries),
    Other(Value),
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// Reads one object with all metrics, or an object per metric that has a `metric`.
fn json(text: &[u8], checked: &mut Checked) -> Result<(), StageError> {
    let mut objects = serde_json::Deserializer::from_slice(text).into_iter::<Entries>();
    let mut next = || objects.next().transpose().map_err(|error| not_json(&error, text));
    let Some(first) = next()? else { return Ok(()) };
    let is_name = |(key, value): &(String, Entry)| {
        key == NAME && matches!(value, Entry::Other(Value::String(_)))
    };
    if first.0.iter().any(is_name) {
        row(first, checked)?;
        while let Some(object) = next()? {
            row(object, checked)?;
        }
        return Ok(());
    }

    for (name, value) in first.0 {
        let written = match value {
            Entry::Object(Entries(fields)) => of_fields(&name, fields)?,
            Entry::Other(value) => Written { value: value.as_f64(), ..Written::default() },
        };
        checked.add(&name, &written)?;
    }
    match next()? {
        None => Ok(()),
        Some(_) => Err(wrong(
            "has more than one JSON object",
            "write one object, or on each line `{\"metric\": NAME, \"value\": NUMBER}`",
        )),
    }
}

fn not_json(error: &serde_json::Error, text: &[u8]) -> StageError {
    let text = String::from_utf8_lossy(text);
    let hint = match text.contains("NaN") || text.contains("Infinity") {
        true => "JSON has no `NaN` and no `Infinity`: leave such a metric out",
        false => "for example `{\"accuracy\": 0.5}`, JSON Lines or Parquet",
    };
    wrong(&format!("is not JSON with metrics: {error}"), hint)
}

/// Reads an object of JSON Lines.
fn row(Entries(entries): Entries, checked: &mut Checked) -> Result<(), StageError> {
    let mut names = Vec::new();
    let mut fields = Vec::new();
    for (key, value) in entries {
        match value {
            Entry::Other(Value::String(text)) if key == NAME => names.push(text),
            value => fields.push((key, value)),
        }
    }
    let hint = "write on each line `{\"metric\": NAME, \"value\": NUMBER}`";
    let name = match names.as_slice() {
        [name] => name,
        [] => {
            let fault =
                format!("has an object without `{NAME}` behind {} metrics", checked.names.len());
            return Err(wrong(&fault, hint));
        }
        [first, ..] => {
            return Err(wrong(
                &format!("has an object with `{NAME}` twice, first `{first}`"),
                hint,
            ));
        }
    };
    let written = of_fields(name, fields)?;
    checked.add(name, &written)
}

fn of_fields(name: &str, fields: Vec<(String, Entry)>) -> Result<Written, StageError> {
    let mut written = Written::default();
    for (at, (field, value)) in fields.iter().enumerate() {
        if fields[..at].iter().any(|(before, _)| before == field) {
            let message = format!("the command's metric `{name}` has the field `{field}` twice");
            return Err(StageError::with_hint(message, "write each field once"));
        }
        let place = match field.as_str() {
            "value" => &mut written.value,
            "n" => &mut written.n,
            "low" => &mut written.low,
            "high" => &mut written.high,
            _ => {
                let message = format!("the command's metric `{name}` has a field `{field}`");
                let hint = suggest(field, FIELDS, "its fields are");
                return Err(StageError::Failed { message, hint });
            }
        };
        *place = match value {
            Entry::Other(value) => value.as_f64(),
            Entry::Object(_) => None,
        };
        if place.is_none() && !matches!(value, Entry::Other(Value::Null)) {
            let message = format!("`{field}` of the command's metric `{name}` is not a number");
            return Err(StageError::Failed { message, hint: None });
        }
    }
    Ok(written)
}

/// Reads a row per metric.
fn table(path: &Path, checked: &mut Checked) -> Result<(), StageError> {
    let unsound = |error: refrain_cache::TableError| {
        let reason = match error {
            refrain_cache::TableError::Unreadable { reason, .. } => reason,
            other => other.to_string(),
        };
        wrong(&format!("is not a readable Parquet file: {reason}"), "or write a JSON object")
    };
    let reader = TableReader::open(path).map_err(unsound)?;
    let columns: Vec<&str> = reader.schema().fields().iter().map(|f| f.name().as_str()).collect();
    let known = || [NAME].into_iter().chain(FIELDS);
    if let Some(unknown) = columns.iter().find(|column| !known().any(|name| name == **column)) {
        let hint = suggest(unknown, known(), "its columns are").unwrap_or_default();
        return Err(wrong(&format!("has a column `{unknown}`"), &hint));
    }
    if let Some(missing) = [NAME, "value"].into_iter().find(|name| !columns.contains(name)) {
        let hint = "its columns are `metric`, `value` and where they are known `n`, `low`, `high`";
        return Err(wrong(&format!("has no column `{missing}`"), hint));
    }

    for batch in reader.batches(None, BATCH_ROWS).map_err(unsound)? {
        rows(&batch.map_err(unsound)?, checked)?;
    }
    Ok(())
}

fn rows(batch: &RecordBatch, checked: &mut Checked) -> Result<(), StageError> {
    let typed = |name: &str, ty: &DataType, expected: &str| {
        let Some(column) = batch.column_by_name(name) else { return Ok(None) };
        let fault = || wrong(&format!("has a column `{name}` that is not {expected}"), "cast it");
        let fits = match ty {
            DataType::Utf8 => column.data_type() == ty,
            _ => column.data_type().is_numeric() || column.data_type().is_null(),
        };
        let column = fits.then(|| cast(column, ty).ok()).flatten();
        column.map(Some).ok_or_else(fault)
    };
    let names = typed(NAME, &DataType::Utf8, "text")?;
    let Some(names) = names.as_deref().and_then(|c| c.as_any().downcast_ref::<StringArray>())
    else {
        return Err(StageError::bug("a column of names was not text"));
    };
    let mut numbers = Vec::with_capacity(FIELDS.len());
    for field in FIELDS {
        numbers.push(typed(field, &DataType::Float64, "numbers")?);
    }
    let number = |field: usize, row: usize| {
        let column = numbers[field].as_deref()?.as_any().downcast_ref::<Float64Array>()?;
        column.is_valid(row).then(|| column.value(row))
    };

    for row in 0..batch.num_rows() {
        let name = if names.is_valid(row) { names.value(row) } else { "" };
        // pandas writes a number that is absent as NaN.
        let given = |field| number(field, row).filter(|number| !number.is_nan());
        let written = Written { value: number(0, row), n: given(1), low: given(2), high: given(3) };
        checked.add(name, &written)?;
    }
    Ok(())
}
