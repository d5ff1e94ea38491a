//! The command line of what shows or writes results.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::WorkflowArgs;

#[derive(Debug, Args)]
pub struct ResultsArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// Sort by an axis or a column; a `-` before it reverses the order
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    pub sort: Option<String>,
    /// Print every sweep point, also those that `mean_over` averages
    #[arg(long)]
    pub each: bool,
    /// Write the table to a file
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CompareArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// A comparison, of which all is shown
    pub name: Option<String>,
    /// Number of rows to show in which the arms differ
    #[arg(long, default_value_t = 10)]
    pub rows: usize,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The earlier state
    pub before: String,
    /// The later state
    pub after: String,
    /// Folder of the cache [default: REFRAIN_CACHE, or `.refrain` beside each]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// Write the report to a file [default: stdout, unless `--svg` is given]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write each picture into this folder as SVG, in the colours of paper
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// Port on 127.0.0.1 [default: a free one]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
}

#[derive(Debug, Args)]
pub struct LogRunsArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// Number of runs to list, the last ones
    #[arg(long, default_value_t = 20)]
    pub runs: usize,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// A node or one of its outputs, such as `tuned.log`; without it, WORKFLOW is a model's folder
    pub node: Option<String>,
    /// Number of rows to show
    #[arg(long, default_value_t = 5)]
    pub rows: usize,
    /// Print only the path of the artifact
    #[arg(long)]
    pub path: bool,
}

#[derive(Debug, Args)]
pub struct GraphArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// Language of the drawing
    #[arg(long = "as", value_enum, default_value_t = Drawing::Mermaid)]
    pub drawing: Drawing,
}

/// Language of a drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Drawing {
    /// A Mermaid flowchart
    Mermaid,
    /// For Graphviz
    Dot,
}

#[derive(Debug, Args)]
pub struct BundleArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// File to write
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Include the sources: data and models
    #[arg(long)]
    pub with_sources: bool,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// The tracker
    #[arg(long, value_enum, value_name = "TRACKER")]
    pub to: Tracker,
    /// Folder to write, which must be empty or absent
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// A tracker of experiments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tracker {
    /// MLflow's database
    Mlflow,
    /// Trackio's database
    Trackio,
    /// TensorBoard's event files
    Tensorboard,
    /// Tables for notebooks
    Csv,
}
