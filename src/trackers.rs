//! The stores of trackers of experiments, written from a workflow's figures: one module per tracker.

pub mod csv;
mod database;
pub mod mlflow;
mod names;
mod protobuf;
pub mod tensorboard;
pub mod trackio;

use std::io;

use refrain_cache::{Digest, TableError};
use refrain_engine::report::export::{Export, ExportedRun};

/// Takes the files of a store: their names, with `/` between folders, and bytes.
pub type Put<'a> = dyn FnMut(&str, &[u8]) -> Result<(), ExportError> + 'a;

/// A store that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A table of the cache is damaged.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A file cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A database cannot be made.
    #[error("the database cannot be made: {0}")]
    Database(#[from] rusqlite::Error),
}

/// A figure of a run, at a step.
struct Figure {
    name: String,
    points: Vec<(i64, f64)>,
}

/// The figures of a run: its metrics with their intervals, then `train/NAME` by step.
fn figures(run: &ExportedRun) -> Result<Vec<Figure>, ExportError> {
    let mut figures = Vec::new();
    for metric in &run.metrics {
        let ends = [("", Some(metric.value)), (".low", metric.low), (".high", metric.high)];
        for (end, value) in ends {
            let name = format!("{}{end}", metric.metric);
            figures.extend(value.map(|value| Figure { name, points: vec![(0, value)] }));
        }
    }
    for curve in run.curves()? {
        figures.push(Figure { name: format!("train/{}", curve.metric), points: curve.points });
    }
    Ok(figures)
}

/// The settings of a run: its point as `sweep.AXIS`, then its parameters.
fn settings(run: &ExportedRun) -> impl Iterator<Item = (String, &str)> {
    let axes = run.point.iter().map(|(axis, label)| (format!("sweep.{axis}"), label.as_str()));
    axes.chain(run.params.iter().map(|(name, value)| (name.clone(), value.as_str())))
}

/// What identifies a run: stage, key, digests.
fn tags(run: &ExportedRun) -> Vec<(String, String)> {
    let mut tags = vec![
        ("refrain.stage".to_owned(), run.stage.clone()),
        ("refrain.kind".to_owned(), run.kind.to_owned()),
        ("refrain.key".to_owned(), run.key.to_string()),
        ("refrain.profile".to_owned(), run.profile.clone()),
    ];
    for (output, digest) in &run.outputs {
        tags.push((format!("refrain.output.{output}"), digest.to_string()));
    }
    for (parameter, node, digest) in &run.inputs {
        tags.push((format!("refrain.input.{parameter}"), format!("{node} {digest}")));
    }
    tags
}

/// The identity of a run: one for each workflow, node and key.
fn identity(export: &Export, run: &ExportedRun) -> String {
    let of = format!("{}\0{}\0{}", export.name, run.name, run.key);
    let mut digest = Digest::of_bytes(of.as_bytes()).to_string();
    digest.truncate(32);
    digest
}
