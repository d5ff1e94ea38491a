//! Executors compute nodes elsewhere: a batch scheduler, or programs on other machines.
//!
//! A job is a file with the nodes to compute, and `refrain node FILE` computes it. An executor
//! starts such programs, says how they are, and ends them; it knows nothing of nodes. The proof that
//! a node ran is its record, which the job delivers into the shared cache, never a state or an exit
//! code.

mod adoption;
pub(super) mod dispatch;
mod ending;
mod events;
mod forming;
mod job;
mod job_file;
mod processes;
mod shell;
mod slurm;
mod watcher;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::graph::Node;
use crate::kind::machine::ExecutorConfig;
use crate::language::explain::{ErrorClass, Explain};

pub use events::JobEvents;
pub use job::{JobError, JobHost, run_job};
pub use job_file::{JobFile, JobFileError, JobReport};
pub use processes::Processes;
pub use slurm::Slurm;

/// The file in a job's folder that says what to compute.
pub const JOB_FILE: &str = "job.json";
/// The file in a job's folder to which it writes what it has to say.
pub const LOG_FILE: &str = "log";
/// The way to mend a job that an executor does not take as it is.
const OTHER_RESOURCES: &str =
    "change `resources` of the stage, or `options` of the executor in the configuration";

/// A job: its name, which no other has, and its folder, which its machine sees too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The name.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
}

/// The resources of a job on the machine on which it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobResources {
    /// Threads, at least 1.
    pub threads: usize,
    /// Bytes of memory; `None` where nothing says it.
    pub memory: Option<u64>,
    /// Graphics cards.
    pub gpus: usize,
    /// The longest that it may take; `None` where a stage in it may take any time.
    pub time: Option<Duration>,
}

/// The state of a job, as its executor knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// It has not begun.
    Waiting,
    /// It will never begin; the executor's words for why.
    Stuck(String),
    /// It runs.
    Running,
    /// It is over, in whatever way; the executor's words for it.
    Ended(String),
    /// The executor does not know it: it never did, or has forgotten it.
    Unknown,
}

/// An error of an executor.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// It does not answer, or takes no jobs for the moment. Nothing is known of any job.
    #[error("{0}")]
    Unreachable(String),
    /// It refuses the job, and would again.
    #[error("{message}")]
    Refused {
        /// Its words.
        message: String,
        /// The way to mend it.
        hint: Option<String>,
    },
}

impl Explain for ExecutorError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Environment
    }

    fn hint(&self) -> Option<String> {
        match self {
            ExecutorError::Unreachable(_) => None,
            ExecutorError::Refused { hint, .. } => hint.clone(),
        }
    }
}

/// Starts jobs, says how they are, and ends them.
pub trait Executor: Send + Sync {
    /// Starts a job: `command` with its job file as the last word, its output in [`LOG_FILE`].
    ///
    /// # Errors
    /// [`ExecutorError`]. A job of which an error is told may run all the same.
    fn submit(
        &self,
        job: &Job,
        command: &[OsString],
        resources: &JobResources,
    ) -> Result<(), ExecutorError>;

    /// Returns the states of jobs, in their order.
    ///
    /// # Errors
    /// [`ExecutorError::Unreachable`].
    fn states(&self, jobs: &[&Job]) -> Result<Vec<JobState>, ExecutorError>;

    /// Asks jobs to end; those that are over are passed over.
    ///
    /// # Errors
    /// [`ExecutorError::Unreachable`].
    fn cancel(&self, jobs: &[&Job]) -> Result<(), ExecutorError>;

    /// Returns the time between two questions for states: what the executor bears.
    fn poll_every(&self) -> Duration;
}

/// An executor with the nodes that it gets.
pub struct Placement {
    /// The executor.
    pub executor: Box<dyn Executor>,
    /// Its name in the configuration, or its kind.
    pub name: String,
    /// Its limits.
    pub config: ExecutorConfig,
    /// The words that a job's command begins with; the job file follows.
    pub command: Vec<OsString>,
    /// Whether a node goes there.
    pub takes: Box<dyn Fn(&Node) -> bool + Send + Sync>,
}
