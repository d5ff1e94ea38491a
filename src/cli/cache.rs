//! The command line of `refrain cache`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use refrain_engine::language::units;

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

/// The cache that a command looks after.
#[derive(Debug, Args)]
pub struct CacheFolderArgs {
    /// Workflows whose cache to use
    pub workflows: Vec<PathBuf>,
    /// Folder of the cache [default: REFRAIN_CACHE, or `.refrain` beside the workflow, or here]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
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
