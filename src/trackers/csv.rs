//! Tables for notebooks: a row per run, per metric, and per step of a training.

use std::collections::HashMap;

use refrain_engine::report::export::{Export, ExportedRun};

use super::{ExportError, Put, settings, tags};

/// Writes the tables.
pub fn write(export: &Export, put: &mut Put<'_>) -> Result<(), ExportError> {
    put("runs.csv", &runs(export)?)?;
    put("metrics.csv", &metrics(export)?)?;
    put("history.csv", &history(export)?)
}

/// A row per run, with columns named as those of `mlflow.search_runs()`.
fn runs(export: &Export) -> Result<Vec<u8>, ExportError> {
    let mut columns = Columns::default();
    let mut rows: Vec<Vec<(usize, String)>> = Vec::new();
    for run in &export.runs {
        let mut row = vec![(columns.place("run".into()), run.name.clone())];
        for (name, time) in [
            ("start_time", run.times.map(|times| times.begin)),
            ("end_time", run.times.map(|times| times.end)),
        ] {
            row.push((columns.place(name.into()), time.map_or(String::new(), |t| t.to_string())));
        }
        for (name, value) in settings(run) {
            row.push((columns.place(format!("params.{name}")), value.to_owned()));
        }
        for metric in &run.metrics {
            let place = columns.place(format!("metrics.{}", metric.metric));
            row.push((place, metric.value.to_string()));
        }
        for (name, value) in tags(run) {
            row.push((columns.place(format!("tags.{name}")), value));
        }
        rows.push(row);
    }

    // Columns of one sort together, each sort in the order in which its columns are first met.
    let sort = |name: &str| {
        ["params.", "metrics.", "tags."].iter().position(|sort| name.starts_with(sort))
    };
    let mut order: Vec<usize> = (0..columns.names.len()).collect();
    order.sort_by_key(|place| sort(&columns.names[*place]));
    let mut table = ::csv::Writer::from_writer(Vec::new());
    let line = |cells: &[String]| order.iter().map(|place| cells[*place].clone()).collect();
    let mut lines: Vec<Vec<String>> = vec![line(&columns.names)];
    for row in rows {
        let mut cells = vec![String::new(); columns.names.len()];
        row.into_iter().for_each(|(place, cell)| cells[place] = cell);
        lines.push(line(&cells));
    }
    for cells in lines {
        table.write_record(cells).map_err(std::io::Error::from)?;
    }
    finish(table)
}

/// The columns of a table, in the order in which they are first met.
#[derive(Default)]
struct Columns {
    names: Vec<String>,
    places: HashMap<String, usize>,
}

impl Columns {
    fn place(&mut self, name: String) -> usize {
        let next = self.names.len();
        let place = *self.places.entry(name.clone()).or_insert(next);
        if place == next {
            self.names.push(name);
        }
        place
    }
}

/// A row per metric, with its interval.
fn metrics(export: &Export) -> Result<Vec<u8>, ExportError> {
    let mut table = ::csv::Writer::from_writer(Vec::new());
    let mut line = |cells: [&str; 6]| table.write_record(cells).map_err(std::io::Error::from);
    line(["run", "metric", "value", "n", "low", "high"])?;
    let text = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for ExportedRun { name, metrics, .. } in &export.runs {
        for metric in metrics {
            let (value, n) = (metric.value.to_string(), metric.n.to_string());
            let (low, high) = (text(metric.low), text(metric.high));
            line([name, &metric.metric, &value, &n, &low, &high])?;
        }
    }
    finish(table)
}

/// A row per figure of a step.
fn history(export: &Export) -> Result<Vec<u8>, ExportError> {
    let mut table = ::csv::Writer::from_writer(Vec::new());
    let mut line = |cells: [&str; 4]| table.write_record(cells).map_err(std::io::Error::from);
    line(["run", "metric", "step", "value"])?;
    for run in &export.runs {
        for curve in run.curves()? {
            for (step, value) in &curve.points {
                line([&run.name, &curve.metric, &step.to_string(), &value.to_string()])?;
            }
        }
    }
    finish(table)
}

fn finish(table: ::csv::Writer<Vec<u8>>) -> Result<Vec<u8>, ExportError> {
    let bytes = table.into_inner().map_err(::csv::IntoInnerError::into_error)?;
    Ok(bytes)
}
