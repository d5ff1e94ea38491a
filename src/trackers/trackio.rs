//! Trackio's database, a file per project: a row per step, and one with the settings of a run.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde_json::{Map, Value, json};

use refrain_engine::report::export::{Export, ExportedRun, utc};

use super::{ExportError, Put, database, figures, identity, settings, tags};

/// The schema in which runs have ids; what later versions add, they add when they open it.
const SCHEMA: &str = "
CREATE TABLE metrics (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    timestamp TEXT NOT NULL,
    run_name TEXT NOT NULL,
    step INTEGER NOT NULL,
    metrics TEXT NOT NULL
);
CREATE TABLE configs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    run_name TEXT NOT NULL,
    config TEXT NOT NULL,
    created_at TEXT NOT NULL,
    UNIQUE(run_id)
);
CREATE INDEX idx_metrics_run_step ON metrics(run_id, step);
CREATE INDEX idx_metrics_run_timestamp ON metrics(run_id, timestamp);
CREATE INDEX idx_configs_run_name ON configs(run_name);
";

/// Writes the database.
pub fn write(export: &Export, put: &mut Put<'_>) -> Result<(), ExportError> {
    let database = database::bytes(SCHEMA, |database| {
        export.runs.iter().try_for_each(|run| add(database, export, run))
    })?;
    put(&format!("{}.db", project(&export.name)), &database)
}

/// The name of a project's file: Trackio keeps letters, digits, `-` and `_`, and has files of its own
/// that begin or end in certain words.
fn project(name: &str) -> String {
    let mut kept: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
    let last = kept.rfind('_').map(|place| (place, &kept[place + 1..]));
    if let Some((place, word)) = last
        && ["system", "configs", "traces", "artifacts", "versions", "aliases", "links"]
            .contains(&word)
    {
        kept.replace_range(place..=place, "-");
    }
    match kept.as_str() {
        "" => "default".into(),
        name if name.starts_with("registry-") => format!("workflow-{name}"),
        _ => kept,
    }
}

fn add(database: &Connection, export: &Export, run: &ExportedRun) -> Result<(), ExportError> {
    let id = identity(export, run);
    let begin = utc(run.times.map_or(0, |times| times.begin));
    let end = utc(run.times.map_or(0, |times| times.end));

    let mut config: Map<String, Value> = settings(run)
        .map(|(name, value)| {
            // A number or truth value where it reads as one.
            let read = serde_json::from_str::<Value>(value).ok();
            (name, read.unwrap_or_else(|| value.into()))
        })
        .collect();
    config.extend(tags(run).into_iter().map(|(name, value)| (name, value.into())));
    config.insert("_Group".into(), run.stage.as_str().into());
    config.insert("_Created".into(), begin.as_str().into());
    database
        .prepare(
            "INSERT INTO configs (run_id, run_name, config, created_at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![id, run.name, Value::Object(config).to_string(), begin])?;

    let mut rows: BTreeMap<i64, Map<String, Value>> = BTreeMap::new();
    for figure in figures(run)? {
        for (step, value) in figure.points {
            rows.entry(step).or_default().insert(figure.name.clone(), number(value));
        }
    }
    let mut row = database.prepare(
        "INSERT INTO metrics (run_id, timestamp, run_name, step, metrics) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (step, figures) in rows {
        row.execute(params![id, end, run.name, step, Value::Object(figures).to_string()])?;
    }
    Ok(())
}

/// A number in JSON; one that JSON lacks as the text that Trackio has for it.
fn number(value: f64) -> Value {
    match value {
        value if value.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        value => json!(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_trackio() {
        let projects = ["my_sweep", "a.b c", "../x", "é", "my_system", "registry-a"].map(project);
        assert_eq!(
            projects,
            ["my_sweep", "abc", "x", "default", "my-system", "workflow-registry-a"]
        );
        assert_eq!(number(f64::NAN), json!("NaN"));
        assert_eq!(number(f64::NEG_INFINITY), json!("-Infinity"));
        assert_eq!(number(0.5), json!(0.5));
    }
}
