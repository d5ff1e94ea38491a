//! The command line of what plans, runs and verifies.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use refrain_engine::language::units;
use refrain_engine::report::verify::Sample;
use refrain_engine::run::budget::Limit;

use super::WorkflowArgs;

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
    /// Run nothing: show what would run and why, as `refrain plan` does
    #[arg(long, short = 'n', conflicts_with_all = ["only", "force", "locked", "remote", "budget", "update"])]
    pub dry_run: bool,
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
