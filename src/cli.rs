//! The command line.

mod cache;
mod run;
mod shown;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tracing::level_filters::LevelFilter;

pub use cache::{Cache, CacheFolderArgs, GcArgs, PushArgs, TransferArgs};
pub use run::{BudgetUnknown, ExplainArgs, FetchArgs, NodeArgs, PlanArgs, RunArgs, VerifyArgs};
pub use shown::{
    BundleArgs, CompareArgs, DiffArgs, Drawing, ExportArgs, GraphArgs, LogRunsArgs, ReportArgs,
    ResultsArgs, ShowArgs, Tracker, WatchArgs,
};

/// A declarative workflow engine for experiments on LLM-generated data and fine-tuning.
#[derive(Debug, Parser)]
#[command(name = "refrain", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Example:\n  refrain run examples/quickstart.yaml\n\n\
Exit codes: 0 success; 1 a stage failed or an `expect` does not hold; 2 the workflow, the command \
line or a source is wrong; 3 `verify` or `--locked` found a difference; 4 the environment failed; \
130 interrupted.")]
pub struct Arguments {
    /// Output format: data goes to stdout, everything else to stderr
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// Configuration of this machine [default: REFRAIN_CONFIG, or refrain/config.toml in the
    /// user's folder of configurations]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Human,
    /// For programs; documented in docs/json.md
    Json,
    /// Only for the tables of `results` and `run`
    Csv,
    /// Only for the tables of `results` and `run`, and the pages of `kind`
    Markdown,
}

impl Format {
    /// Whether only commands that print a table of results have it.
    pub fn is_of_tables(self) -> bool {
        matches!(self, Format::Csv | Format::Markdown)
    }
}

/// What is logged.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Print log lines of this level and above on stderr, in place of progress lines
    #[arg(long = "log", global = true, value_enum, value_name = "LEVEL")]
    pub level: Option<LogLevel>,
    /// Format of the log lines; `json` without `--log` logs from `info`
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    #[arg(default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
    /// Write a trace to this file, for Chrome's tracing page or Perfetto
    #[arg(long, global = true, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

impl LogArgs {
    /// Returns the level from which on lines are wanted.
    pub fn level(&self) -> LevelFilter {
        match self.level {
            Some(LogLevel::Error) => LevelFilter::ERROR,
            Some(LogLevel::Warn) => LevelFilter::WARN,
            Some(LogLevel::Info) => LevelFilter::INFO,
            Some(LogLevel::Debug) => LevelFilter::DEBUG,
            Some(LogLevel::Trace) => LevelFilter::TRACE,
            None if self.log_format == LogFormat::Json => LevelFilter::INFO,
            None => LevelFilter::OFF,
        }
    }
}

/// Level of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Failures
    Error,
    /// What deserves a look: retries, damaged results, results that are not reproducible
    Warn,
    /// Nodes that finish, remarks of stages
    Info,
    /// Cache hits, progress, training steps, hashing, imports
    Debug,
    /// Batches, syncs, and how long each span took
    Trace,
}

/// Format of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Human,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run what is missing, update the lock and print the results
    #[command(after_help = "Examples:\n  refrain run sweep.yaml\n  \
                            refrain run sweep.yaml --set threshold=2.5 --jobs 2\n  \
                            refrain run sweep.yaml --trace run.json")]
    Run(RunArgs),
    /// Show what a run would do with each node, and why
    #[command(after_help = "Example:\n  refrain plan sweep.yaml")]
    Plan(PlanArgs),
    /// Report every error in a workflow, without running anything
    #[command(after_help = "Example:\n  refrain check sweep.yaml")]
    Check(WorkflowArgs),
    /// Fetch the models and data of a workflow that lie on the hub or on the web, and pin them
    #[command(
        after_help = "Only this command and `run` use the network. Files from the hub go into \
                            Hugging Face's own cache; HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE \
                            mean what they mean elsewhere (docs/hub.md).\n\nExamples:\n  \
                            refrain fetch sweep.yaml\n  refrain fetch sweep.yaml --update base"
    )]
    Fetch(FetchArgs),
    /// Explain what changed since the last run and why nodes would run again
    #[command(after_help = "Examples:\n  refrain explain sweep.yaml\n  \
                            refrain explain sweep.yaml 'masked[threshold=2.5]'")]
    Explain(ExplainArgs),
    /// Show the first rows of a table, or describe a model
    #[command(after_help = "Examples:\n  refrain show sweep.yaml scored --rows 3\n  \
                            refrain show sweep.yaml tuned\n  refrain show ../models/base")]
    Show(ShowArgs),
    /// Print results: a row per sweep point, a column per `stage.metric`
    #[command(after_help = "Examples:\n  refrain results sweep.yaml --sort -target.accuracy\n  \
                            refrain results sweep.yaml --each --format csv -o sweep.csv")]
    Results(ResultsArgs),
    /// Print the comparisons of arms, or one with the rows that flipped
    #[command(after_help = "Examples:\n  refrain compare sweep.yaml\n  \
                            refrain compare sweep.yaml keeps --rows 5")]
    Compare(CompareArgs),
    /// Compare two workflows, locks or runs: what changed, and what that did to the metrics
    #[command(
        after_help = "Each side is a workflow, a lock, `REVISION:LOCK` of git, or the log of \
                            a run.\n\nExamples:\n  refrain diff HEAD~1:sweep.lock sweep.lock\n  \
                            refrain diff sweep.lock sweep.yaml"
    )]
    Diff(DiffArgs),
    /// Write a report: one page with results, comparisons, graph, run, curves, samples and
    /// provenance
    #[command(
        after_help = "It is made from lock, cache and run log alone; what they lack is named on the \
                            page. `--format markdown` has the same for a pull request.\n\nExamples:\n  \
                            refrain report sweep.yaml -o report.html\n  \
                            refrain report sweep.yaml --format markdown >> $GITHUB_STEP_SUMMARY\n  \
                            refrain report sweep.yaml --svg figures"
    )]
    Report(ReportArgs),
    /// Write a first workflow that runs, with data of its own
    #[command(after_help = "Examples:\n  refrain init\n  refrain init first --with mask")]
    Init(InitArgs),
    /// List the runs of a workflow, each with what changed since the one before
    #[command(after_help = "Example:\n  refrain log sweep.yaml")]
    Log(LogRunsArgs),
    /// Serve the report on this machine, live while a run is under way
    #[command(
        after_help = "The run may be that of another process. Only who knows the printed address \
                            can read the page.\n\nExample:\n  refrain watch sweep.yaml"
    )]
    Watch(WatchArgs),
    /// Draw the graph, as a Mermaid flowchart or for Graphviz
    #[command(after_help = "Example:\n  refrain graph sweep.yaml --as dot | dot -Tsvg > sweep.svg")]
    Graph(GraphArgs),
    /// Check the workflow, its sources, the cache and every `expect` against the lock
    #[command(after_help = "Nothing is computed without `--recompute`.\n\n\
                            Examples:\n  refrain verify sweep.yaml --no-data\n  \
                            refrain verify sweep.yaml --complete --recompute 5%")]
    Verify(VerifyArgs),
    /// Write what a reviewer needs into one file that `refrain verify` checks
    #[command(
        after_help = "The workflow, its lock, the tables that its figures are read from, and \
                            metadata as RO-Crate has them. Equal bytes from the same lock and \
                            cache.\n\nExample:\n  refrain bundle sweep.yaml -o sweep.zip && \
                            refrain verify sweep.zip"
    )]
    Bundle(BundleArgs),
    /// Write the figures for a tracker of experiments, from lock, cache and run log
    #[command(
        after_help = "A run for each node that has figures: parameters, metrics, training curves \
                            by step, key and digests. Nothing is sent anywhere.\n\nExamples:\n  \
                            refrain export sweep.yaml --to mlflow tracked\n  \
                            refrain export sweep.yaml --to tensorboard logs"
    )]
    Export(ExportArgs),
    /// Inspect, check and clean up the cache
    #[command(subcommand)]
    #[command(after_help = "Example:\n  refrain cache stat sweep.yaml")]
    Cache(Cache),
    /// List the kinds of stages, or print the parameters, columns and metrics of one
    #[command(after_help = "Examples:\n  refrain kind\n  refrain kind mask\n  \
                            refrain kind --all --format markdown > language.md")]
    Kind(KindArgs),
    /// Show what this machine offers: its configuration, Python, and the sandbox for model-written
    /// code
    #[command(after_help = "Example:\n  refrain doctor")]
    Doctor,
    /// Print the JSON Schema of the workflow language, for editors
    #[command(after_help = "Example:\n  refrain schema > refrain.schema.json")]
    Schema,
    /// Print the completion script of a shell
    #[command(after_help = "Example:\n  \
        refrain completions bash > ~/.local/share/bash-completion/completions/refrain")]
    Completions(CompletionsArgs),
    /// Print the manual page, or write a page for each command
    #[command(after_help = "Examples:\n  refrain man | man -l -\n  \
                            refrain man --dir /usr/local/share/man/man1")]
    Man(ManArgs),
    /// Compute the nodes of a job; executors start it, on whatever machine
    #[command(after_help = "Example:\n  refrain node .refrain/jobs/refrain-1f0c5a9b2e47/job.json")]
    Node(NodeArgs),
}

/// Arguments of `refrain kind`.
#[derive(Debug, Args)]
pub struct KindArgs {
    /// Name of a kind
    pub name: Option<String>,
    /// Print the whole reference of the language
    #[arg(long, conflicts_with = "name")]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this folder
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// The workflow that a command is about.
#[derive(Debug, Clone, Args)]
pub struct WorkflowArgs {
    /// The workflow, a YAML file
    pub workflow: PathBuf,
    /// Set a param, or keep one value of a sweep axis; repeatable
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Folder of the cache [default: REFRAIN_CACHE, or `.refrain` beside the workflow]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Sandbox for model-written code: `weaker` tolerates missing layers, and its results count
    /// only with this option
    #[arg(long, value_enum, value_name = "STRICTNESS", default_value_t = SandboxArg::Full)]
    pub sandbox: SandboxArg,
}

/// Whether layers of the sandbox may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SandboxArg {
    /// Every layer
    Full,
    /// The layers that this machine has
    Weaker,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder; made where it is not there
    #[arg(default_value = ".")]
    pub folder: PathBuf,
    /// Idea of the workflow
    #[arg(long = "with", value_enum, value_name = "IDEA", default_value_t = Template::Sweep)]
    pub template: Template,
}

/// Idea of a first workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// Settings of a training against each other
    Sweep,
    /// Surprising tokens left out of a training
    Mask,
    /// A model's own answers, chosen and measured
    Diversity,
    /// A figure guarded in CI
    Ci,
}
