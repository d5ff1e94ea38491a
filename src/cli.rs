//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use refrain_engine::language::units;
use refrain_engine::report::verify::Sample;

/// A declarative workflow engine for experiments on LLM-generated data and fine-tuning.
#[derive(Debug, Parser)]
#[command(name = "refrain", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Example:\n  refrain run examples/quickstart.yaml\n\n\
Exit codes: 0 success; 1 a stage failed or an `expect` does not hold; 2 the workflow, the command line or a \
source is wrong; 3 `verify` or `--locked` found a difference; 4 the environment failed; 130 interrupted.")]
pub struct Arguments {
    /// Form of the output: data on stdout, everything else on stderr
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    #[command(subcommand)]
    pub command: Command,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Human,
    /// For programs; documented in docs/json.md
    Json,
    /// `results` only
    Csv,
    /// `results` only
    Markdown,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compute what is missing, show progress, write the lock and print the results
    #[command(after_help = "Example:\n  refrain run sweep.yaml --set threshold=2.5 --jobs 2")]
    Run(Run),
    /// Say what a run would do with every node, and why
    #[command(after_help = "Example:\n  refrain plan sweep.yaml")]
    Plan(Plan),
    /// Report everything that is wrong with a workflow, and run nothing
    #[command(after_help = "Example:\n  refrain check sweep.yaml")]
    Check(Workflow),
    /// Say what differs between nodes of the last run and of now
    #[command(
        after_help = "Example:\n  refrain explain sweep.yaml\n  refrain explain sweep.yaml 'masked[threshold=2.5]'"
    )]
    Explain(Explain),
    /// Show the head of a table, or what a model is
    #[command(
        after_help = "Example:\n  refrain show sweep.yaml scored --rows 3\n  refrain show sweep.yaml tuned\n  \
                      refrain show ../models/base"
    )]
    Show(Show),
    /// Print one row a point of the sweep, one column `stage.metric`
    #[command(after_help = "Example:\n  refrain results sweep.yaml --format csv")]
    Results(Workflow),
    /// Print the graph as a Mermaid flowchart or for Graphviz
    #[command(after_help = "Example:\n  refrain graph sweep.yaml --as dot | dot -Tsvg > sweep.svg")]
    Graph(Graph),
    /// Check the workflow, its sources, the cache and every `expect` against the lock; computes nothing unless asked to
    #[command(
        after_help = "Example:\n  refrain verify sweep.yaml --no-data\n  refrain verify sweep.yaml --complete --recompute 5%"
    )]
    Verify(Verify),
    /// Look after the cache
    #[command(subcommand)]
    Cache(Cache),
    /// Print the JSON Schema of the language, for editors
    #[command(after_help = "Example:\n  refrain schema > refrain.schema.json")]
    Schema,
    /// Print the completions for a shell
    #[command(
        after_help = "Example:\n  refrain completions bash > ~/.local/share/bash-completion/completions/refrain"
    )]
    Completions(Completions),
    /// Print the manual page, or write one for each command
    #[command(
        after_help = "Example:\n  refrain man | man -l -\n  refrain man --dir /usr/local/share/man/man1"
    )]
    Man(Man),
}

#[derive(Debug, Subcommand)]
pub enum Cache {
    /// Say what the cache holds
    #[command(after_help = "Example:\n  refrain cache stat sweep.yaml")]
    Stat(CacheFolder),
    /// Hash every artifact, and set aside those whose bytes are not what their name says
    #[command(
        after_help = "Example:\n  refrain cache verify --cache /data/refrain\n\nWhat was set aside is made again by \
                      the next run that needs it. Exit code 3 when anything is damaged."
    )]
    Verify(CacheFolder),
    /// Remove what no lock and no logged run names
    #[command(
        after_help = "Example:\n  refrain cache gc sweep.yaml --older-than 30d --max-size 50GB --dry-run\n\n\
                      What the lock of a workflow names is never removed: the lock of every workflow that was run with \
                      this cache, and of those named here. Of the rest, without limits, what none of the last 100 runs \
                      used goes; with `--older-than` what was not used for so long; with `--max-size` the longest unused \
                      first, until the cache is no larger. While another process works with the cache, artifacts stay."
    )]
    Gc(Gc),
}

/// Which cache.
#[derive(Debug, Args)]
pub struct CacheFolder {
    /// Workflows, for the cache beside them
    pub workflows: Vec<PathBuf>,
    /// Folder of the cache [default: REFRAIN_CACHE; or `.refrain` beside the workflow, or here]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Gc {
    #[command(flatten)]
    pub folder: CacheFolder,
    /// Remove what was last used longer ago, such as `12h`, `30d` or `8w`, and nothing that was used since
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub older_than: Option<Duration>,
    /// Remove the longest unused until the cache is no larger, such as `500MB` or `2TB`
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub max_size: Option<u64>,
    /// Say what would go and why the rest stays, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Graph {
    #[command(flatten)]
    pub workflow: Workflow,
    /// The language of the drawing
    #[arg(long = "as", value_enum, default_value_t = Drawing::Mermaid)]
    pub drawing: Drawing,
}

/// The language of a drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Drawing {
    /// A Mermaid flowchart
    Mermaid,
    /// For Graphviz
    Dot,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct Man {
    /// Write a page for each command into this folder
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct Workflow {
    /// The workflow, a YAML file
    pub workflow: PathBuf,
    /// Give a param another value, or reduce an axis to one; repeatable
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Folder of the cache [default: `.refrain` beside the workflow; or REFRAIN_CACHE]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub workflow: Workflow,
    /// Run only these stages or nodes and what they are made from
    #[arg(long, value_name = "STAGE", num_args = 1..)]
    pub only: Vec<String>,
    /// Compute these stages or nodes again though the cache has them
    #[arg(long, value_name = "STAGE", num_args = 1..)]
    pub force: Vec<String>,
    /// Most nodes at once [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub jobs: Option<u32>,
    /// Memory that the running stages may declare together, such as `8GB` [default: the machine's]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub memory: Option<u64>,
    /// After a failure go on with what does not depend on it
    #[arg(long)]
    pub keep_going: bool,
    /// Fail when the lock would change, and do not write it
    #[arg(long)]
    pub locked: bool,
    /// Print no progress
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    pub workflow: Workflow,
    /// Count the nodes of each stage in place of listing them
    #[arg(long)]
    pub summary: bool,
    /// Most nodes at once, for the time in all [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub jobs: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    pub workflow: Workflow,
    /// A node, for example `masked[threshold=2.5]`, or a stage; without it all nodes that differ
    pub node: Option<String>,
}

#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    pub workflow: Workflow,
    /// A node or one of its outputs, for example `tuned.log`; without it WORKFLOW is a model's folder
    pub node: Option<String>,
    /// Rows of the table
    #[arg(long, default_value_t = 5)]
    pub rows: usize,
    /// Print only the path of the artifact
    #[arg(long)]
    pub path: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    pub workflow: Workflow,
    /// Pass over sources that are not there
    #[arg(long)]
    pub no_data: bool,
    /// Fail when the cache does not hold every artifact
    #[arg(long)]
    pub complete: bool,
    /// Compute nodes once more in an empty cache and compare: `all`, a share such as `5%`, or so many
    #[arg(long, value_name = "SAMPLE")]
    pub recompute: Option<Sample>,
    /// What decides which nodes are computed again [default: the digest of the lock]
    #[arg(long, value_name = "TEXT", requires = "recompute")]
    pub seed: Option<String>,
}
