//! MLflow's database, `mlflow.db`.
//!
//! Versions since 2026 open a folder `mlruns` only where a variable allows it, and each version has
//! a schema of its own. A database of an early schema is brought to the present one by whichever
//! version opens it, so that is what is written.

use rusqlite::{Connection, params};

use refrain_engine::report::export::{Export, ExportedRun};

use super::names::safe_path;
use super::{ExportError, Put, database, figures, identity, settings, tags};

/// Characters of names of metrics, parameters and tags, beside letters and digits.
const NAMES: &str = "_-. :";
/// Bytes of the longest values that MLflow takes.
const PARAM: usize = 6000;
const TAG: usize = 5000;
/// The experiment of the workflow; 0 is the one that MLflow expects to be there.
const EXPERIMENT: i64 = 1;

/// The schema of revision 89d4b8295536, of 2019.
const SCHEMA: &str = "
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE experiments (
    experiment_id INTEGER NOT NULL,
    name VARCHAR(256) NOT NULL,
    artifact_location VARCHAR(256),
    lifecycle_stage VARCHAR(32),
    CONSTRAINT experiment_pk PRIMARY KEY (experiment_id),
    CONSTRAINT experiments_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')),
    UNIQUE (name)
);
CREATE TABLE experiment_tags (
    key VARCHAR(250) NOT NULL,
    value VARCHAR(5000),
    experiment_id INTEGER NOT NULL,
    CONSTRAINT experiment_tag_pk PRIMARY KEY (key, experiment_id),
    FOREIGN KEY (experiment_id) REFERENCES experiments (experiment_id)
);
CREATE TABLE runs (
    run_uuid VARCHAR(32) NOT NULL,
    name VARCHAR(250),
    source_type VARCHAR(20),
    source_name VARCHAR(500),
    entry_point_name VARCHAR(50),
    user_id VARCHAR(256),
    status VARCHAR(20),
    start_time BIGINT,
    end_time BIGINT,
    source_version VARCHAR(50),
    lifecycle_stage VARCHAR(20),
    artifact_uri VARCHAR(200),
    experiment_id INTEGER,
    CONSTRAINT run_pk PRIMARY KEY (run_uuid),
    CONSTRAINT source_type
        CHECK (source_type IN ('NOTEBOOK', 'JOB', 'LOCAL', 'UNKNOWN', 'PROJECT')),
    CONSTRAINT status CHECK (status IN ('SCHEDULED', 'FAILED', 'FINISHED', 'RUNNING')),
    CONSTRAINT runs_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')),
    FOREIGN KEY (experiment_id) REFERENCES experiments (experiment_id)
);
CREATE TABLE params (
    key VARCHAR(250) NOT NULL,
    value VARCHAR(250) NOT NULL,
    run_uuid VARCHAR(32) NOT NULL,
    CONSTRAINT param_pk PRIMARY KEY (key, run_uuid),
    FOREIGN KEY (run_uuid) REFERENCES runs (run_uuid)
);
CREATE TABLE tags (
    key VARCHAR(250) NOT NULL,
    value VARCHAR(5000),
    run_uuid VARCHAR(32) NOT NULL,
    CONSTRAINT tag_pk PRIMARY KEY (key, run_uuid),
    FOREIGN KEY (run_uuid) REFERENCES runs (run_uuid)
);
CREATE TABLE metrics (
    key VARCHAR(250) NOT NULL,
    value FLOAT NOT NULL,
    timestamp BIGINT NOT NULL,
    run_uuid VARCHAR(32) NOT NULL,
    step BIGINT DEFAULT '0' NOT NULL,
    is_nan BOOLEAN DEFAULT '0' NOT NULL,
    CONSTRAINT metric_pk PRIMARY KEY (key, timestamp, step, run_uuid, value, is_nan),
    FOREIGN KEY (run_uuid) REFERENCES runs (run_uuid)
);
CREATE TABLE latest_metrics (
    key VARCHAR(250) NOT NULL,
    value FLOAT NOT NULL,
    timestamp BIGINT,
    step BIGINT NOT NULL,
    is_nan BOOLEAN NOT NULL,
    run_uuid VARCHAR(32) NOT NULL,
    CONSTRAINT latest_metric_pk PRIMARY KEY (key, run_uuid),
    FOREIGN KEY (run_uuid) REFERENCES runs (run_uuid)
);
INSERT INTO alembic_version VALUES ('89d4b8295536');
INSERT INTO experiments VALUES (0, 'Default', './mlruns/0', 'active');
";

/// Writes the database.
pub fn write(export: &Export, put: &mut Put<'_>) -> Result<(), ExportError> {
    let database = database::bytes(SCHEMA, |database| {
        // `Default` is taken.
        let name = match export.name.as_str() {
            "Default" => "Default workflow",
            name => name,
        };
        database.execute(
            "INSERT INTO experiments VALUES (?1, ?2, './mlruns/1', 'active')",
            params![EXPERIMENT, name],
        )?;
        if let Some(description) = &export.description {
            database.execute(
                "INSERT INTO experiment_tags VALUES ('mlflow.note.content', ?1, ?2)",
                params![cut(description, TAG), EXPERIMENT],
            )?;
        }
        export.runs.iter().try_for_each(|run| add(database, export, run))
    })?;
    put("mlflow.db", &database)
}

fn add(database: &Connection, export: &Export, run: &ExportedRun) -> Result<(), ExportError> {
    let id = identity(export, run);
    // A run must have a begin there.
    let (begin, end) = (run.times.map_or(0, |times| times.begin), run.times.map(|times| times.end));
    database
        .prepare(
            "INSERT INTO runs VALUES (?1, ?2, 'UNKNOWN', '', '', '', 'FINISHED', ?3, ?4, ?5, \
             'active', ?6, ?7)",
        )?
        .execute(params![
            id,
            run.name,
            begin,
            end,
            export.version,
            format!("./mlruns/{EXPERIMENT}/{id}/artifacts"),
            EXPERIMENT,
        ])?;

    let mut param = database.prepare("INSERT OR IGNORE INTO params VALUES (?1, ?2, ?3)")?;
    for (name, value) in settings(run) {
        param.execute(params![safe_path(&name, NAMES), cut(value, PARAM), id])?;
    }
    let mut tag = database.prepare("INSERT OR IGNORE INTO tags VALUES (?1, ?2, ?3)")?;
    let note = run.description.clone().map(|note| ("mlflow.note.content".to_owned(), note));
    let named = ("mlflow.runName".to_owned(), run.name.clone());
    for (name, value) in tags(run).into_iter().chain([named]).chain(note) {
        tag.execute(params![safe_path(&name, NAMES), cut(&value, TAG), id])?;
    }

    let mut point =
        database.prepare("INSERT OR IGNORE INTO metrics VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let mut last =
        database.prepare("INSERT OR IGNORE INTO latest_metrics VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let time = end.unwrap_or(0);
    for figure in figures(run)? {
        let name = safe_path(&figure.name, NAMES);
        for (step, value) in &figure.points {
            let (number, is_nan) = finite(*value);
            point.execute(params![name, number, time, id, step, is_nan])?;
        }
        if let Some((step, value)) = figure.points.iter().max_by_key(|(step, _)| *step) {
            let (number, is_nan) = finite(*value);
            last.execute(params![name, number, time, step, is_nan, id])?;
        }
    }
    Ok(())
}

/// A number as MLflow keeps it: one that is undefined by a mark, an infinite one by the largest.
fn finite(value: f64) -> (f64, bool) {
    match value.is_nan() {
        true => (0.0, true),
        false => (value.clamp(f64::MIN, f64::MAX), false),
    }
}

/// Cuts a text to so many bytes.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_are_those_that_mlflow_takes() {
        assert_eq!(finite(f64::NAN), (0.0, true));
        assert_eq!(finite(f64::INFINITY), (f64::MAX, false));
        assert_eq!((cut("äöü", 3), cut("ab", 5)), ("ä", "ab"));
    }
}
