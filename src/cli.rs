//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tracing::level_filters::LevelFilter;

use refrain_engine::language::units;
use refrain_engine::report::verify::Sample;
use refrain_engine::run::budget::Limit;

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

/// Arguments of `refrain node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Job file, in the folder of its job
    #[arg(value_name = "JOBFILE")]
    pub job: PathBuf,
    /// Keys of the nodes to compute, and what reads them [default: all]
    #[arg(value_name = "KEY")]
    pub keys: Vec<String>,
    /// File with the values of `${env:NAME}`, `NAME=VALUE` a line, which only its owner can read
    #[arg(long, value_name = "FILE")]
    pub environment: Option<PathBuf>,
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

#[derive(Debug, Subcommand)]
pub enum Cache {
    /// Show what the cache holds
    #[command(after_help = "Example:\n  refrain cache stat sweep.yaml")]
    Stat(CacheFolderArgs),
    /// Hash every artifact and set aside those that do not match their digest
    #[command(after_help = "Example:\n  refrain cache verify --cache /data/refrain\n\n\
        A run that needs an artifact that was set aside recomputes it. Exit code 3 if anything is \
        damaged.")]
    Verify(CacheFolderArgs),
    /// Remove results that no lock and no recent run uses
    #[command(after_help = "Example:\n  \
        refrain cache gc sweep.yaml --older-than 30d --max-size 50GB --dry-run\n\n\
        Results named in a lock are always kept: the locks of all workflows that were run with \
        this cache, and of those named here. Without limits, results that none of the last 100 \
        runs used are removed; with `--older-than`, those not used for that long; with \
        `--max-size`, the least recently used first, until the cache fits. While another process \
        uses the cache, nothing is removed.")]
    Gc(GcArgs),
    /// Send what locks name to a remote cache
    #[command(after_help = "Example:\n  \
        refrain cache push sweep.yaml --remote s3://lab/refrain\n\n\
        Credentials are read from the variables of the service's own programs, such as \
        AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL. What is there is not sent again.")]
    Push(PushArgs),
    /// Receive what locks name from a remote cache
    #[command(after_help = "Example:\n  \
        refrain cache pull sweep.yaml --remote s3://lab/refrain\n\n\
        Only what a lock names is taken, and only with its digests. Exit code 3 if anything at \
        the remote is not as the lock says.")]
    Pull(TransferArgs),
}

/// The results that are sent or received.
#[derive(Debug, Args)]
pub struct TransferArgs {
    /// Workflows whose locks name the results
    #[arg(required = true)]
    pub workflows: Vec<PathBuf>,
    /// Address of the remote cache: `s3://…`, `gs://…`, `az://…`, `https://…`, or a folder
    #[arg(long, value_name = "URL")]
    pub remote: String,
    /// Folder of the cache [default: REFRAIN_CACHE, or `.refrain` beside the first workflow]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PushArgs {
    #[command(flatten)]
    pub transfer: TransferArgs,
    /// Look for every object, also of results whose records are there
    #[arg(long)]
    pub again: bool,
}

/// The cache that a command looks after.
#[derive(Debug, Args)]
pub struct CacheFolderArgs {
    /// Workflows whose cache to use
    pub workflows: Vec<PathBuf>,
    /// Folder of the cache [default: REFRAIN_CACHE, or `.refrain` beside the workflow, or here]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct GcArgs {
    #[command(flatten)]
    pub folder: CacheFolderArgs,
    /// Remove results not used for this long, such as `12h`, `30d` or `8w`
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub older_than: Option<Duration>,
    /// Remove the least recently used until the cache is no larger, such as `500MB` or `2TB`
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub max_size: Option<u64>,
    /// Let go of the results of a workflow that is gone for good; repeatable
    #[arg(long, value_name = "WORKFLOW")]
    pub forget: Vec<PathBuf>,
    /// Show what would be removed and why the rest is kept, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
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

#[derive(Debug, Args)]
pub struct LogRunsArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// Number of runs to list, the last ones
    #[arg(long, default_value_t = 20)]
    pub runs: usize,
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
pub struct RunArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// Run only these stages or nodes, and what they are made from
    #[arg(long, value_name = "STAGE", num_args = 1..)]
    pub only: Vec<String>,
    /// Recompute these stages or nodes even if the cache has them
    #[arg(long, value_name = "STAGE", num_args = 1..)]
    pub force: Vec<String>,
    /// Run at most N nodes at once [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub jobs: Option<u32>,
    /// Memory that running stages may need together, such as `8GB` [default: what is free]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub memory: Option<u64>,
    /// Keep running nodes that do not depend on a failed one
    #[arg(long)]
    pub keep_going: bool,
    /// Stop before the next node that would pass a limit of money or time, such as `20USD` or `3h`
    #[arg(long, value_name = "LIMIT", value_parser = Limit::from_str)]
    pub budget: Option<Limit>,
    /// What becomes of nodes of which no earlier run tells the cost
    #[arg(long, value_enum, default_value_t = BudgetUnknown::Over, requires = "budget")]
    pub budget_unknown: BudgetUnknown,
    /// Fail if the lock is out of date, and leave it as it is
    #[arg(long)]
    pub locked: bool,
    /// Compute elsewhere: `slurm`, `ssh`, or the name of an executor in the configuration; `local`
    /// for all here
    #[arg(long, value_name = "NAME")]
    pub executor: Option<String>,
    /// Take what the cache lacks and the lock names from this remote cache, before anything runs
    #[arg(long, value_name = "URL")]
    pub remote: Option<String>,
    /// Move these sources from the hub to the commit that their revision means now
    #[arg(long, value_name = "NAME", num_args = 1.., conflicts_with = "locked")]
    pub update: Vec<String>,
    /// Print no progress
    #[arg(long, short)]
    pub quiet: bool,
}

/// The fate, under a budget, of nodes whose cost is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BudgetUnknown {
    /// They pass the limit
    Over,
    /// They run
    Allow,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// Count the nodes of each stage instead of listing them
    #[arg(long)]
    pub summary: bool,
    /// Assume N nodes at once in the estimate [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub jobs: Option<u32>,
}

#[derive(Debug, Args)]
pub struct FetchArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// Move these sources to the commit that their revision means now
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub update: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// A node, such as `masked[threshold=2.5]`, or a stage [default: every node that changed]
    pub node: Option<String>,
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

#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// Skip missing sources
    #[arg(long)]
    pub no_data: bool,
    /// Fail if the cache lacks any artifact
    #[arg(long)]
    pub complete: bool,
    /// Check that this remote cache has what the lock names, a twentieth of it by its bytes
    #[arg(long, value_name = "URL")]
    pub remote: Option<String>,
    /// Recompute a sample and compare: `all`, `5%`, or a number of nodes
    #[arg(long, value_name = "SAMPLE")]
    pub recompute: Option<Sample>,
    /// Seed of the sample [default: the digest of the lock]
    #[arg(long, value_name = "TEXT", requires = "recompute")]
    pub seed: Option<String>,
}
