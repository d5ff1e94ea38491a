//! The files of a job: what it is to compute, with every input resolved, and its report.
//!
//! A job file holds no secret: `${env:NAME}` stands in it as written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use refrain_cache::write::{remove_file, write_atomic};
use refrain_cache::{Digest, FileIdentity, Key};

use crate::kind::{Input, OutputDecl, Pinned, StageError};
use crate::language::explain::ErrorClass;
use crate::language::workflow::Settings;
use crate::run::NodeError;

use super::JOB_FILE;

/// Version of the two formats.
const FORMAT: u32 = 1;
/// The file in a job's folder with its report.
const REPORT_FILE: &str = "report.json";
/// The file in a job's folder with the name of its session at the cache.
const SESSION_FILE: &str = "session";
/// The file in a job's folder that asks it to stop.
pub(super) const STOP_FILE: &str = "stop";

/// The work of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobFile {
    /// Version of the format.
    format: u32,
    /// The version of Refrain that wrote it; another one would make other keys.
    pub version: String,
    /// The session of the run that wrote it.
    pub owner: String,
    /// The cache, as an absolute path on all machines.
    pub cache: PathBuf,
    /// Threads of the job.
    pub threads: usize,
    /// Bytes of memory that the job may take, where it was given any number.
    pub memory: Option<u64>,
    /// Facts about models that are known.
    pub pins: Pinned,
    /// The nodes, inputs before their readers.
    pub nodes: Vec<JobNode>,
}

/// A node of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobNode {
    /// Its number in the graph of the run, for its events.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The kind of its stage.
    pub kind: String,
    /// The parameters of the kind.
    pub params: Map<String, Value>,
    /// Its inputs.
    pub inputs: Vec<JobInput>,
    /// Files that it reads in their own place, as they were when they were hashed.
    pub files: Vec<(PathBuf, FileIdentity)>,
    /// Its outputs.
    pub outputs: Vec<OutputDecl>,
    /// The settings of its stage.
    pub settings: Settings,
    /// Its key; `None` where the job makes an input of it.
    pub key: Option<Key>,
    /// Whether it is computed although its result may be there.
    pub fresh: bool,
}

/// An input of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobInput {
    /// The path of the parameter.
    pub path: String,
    /// Its origin.
    pub from: InputOrigin,
}

/// The origin of an input.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputOrigin {
    /// It is there.
    There {
        /// The digests as they enter the key.
        identity: Vec<Digest>,
        /// The artifact and its place.
        input: Input,
    },
    /// An earlier node of the job makes it.
    Made {
        /// The position of the node in the job.
        node: usize,
        /// The name of the output.
        output: String,
    },
}

/// Why a job file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JobFileError {
    /// It cannot be read.
    #[error("cannot read the job file `{}`: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// It is no job file.
    #[error("`{}` is no job file: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The fault.
        message: String,
    },
    /// Another version of Refrain wrote it.
    #[error("`{}` is of refrain {found}, this is {}", path.display(), env!("CARGO_PKG_VERSION"))]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// That version.
        found: String,
    },
}

impl JobFile {
    /// A job without nodes.
    pub(super) fn new(owner: String, cache: PathBuf, pins: Pinned) -> JobFile {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let (threads, memory, nodes) = (1, None, Vec::new());
        JobFile { format: FORMAT, version, owner, cache, threads, memory, pins, nodes }
    }

    /// Reads the job file at a path.
    ///
    /// # Errors
    /// [`JobFileError`].
    pub fn read(path: &Path) -> Result<JobFile, JobFileError> {
        let text = fs::read(path).map_err(|error| JobFileError::Io { path: path.into(), error })?;
        let malformed = |message: String| JobFileError::Malformed { path: path.into(), message };
        let file: JobFile =
            serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        if file.format != FORMAT {
            return Err(malformed(format!("its format is {}, not {FORMAT}", file.format)));
        }
        if file.version != env!("CARGO_PKG_VERSION") {
            return Err(JobFileError::OtherVersion { path: path.into(), found: file.version });
        }
        let earlier = |at: usize, input: &JobInput| match input.from {
            InputOrigin::Made { node, .. } => node < at,
            InputOrigin::There { .. } => true,
        };
        let is_ordered =
            |(at, node): (usize, &JobNode)| node.inputs.iter().all(|input| earlier(at, input));
        if !file.nodes.iter().enumerate().all(is_ordered) {
            return Err(malformed("a node reads a later one".into()));
        }
        Ok(file)
    }

    /// Writes the file of a job into its folder.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let json = serde_json::to_vec(self).map_err(io::Error::other)?;
        write_atomic(&folder.join(JOB_FILE), &json).map(drop)
    }
}

/// The report of a job, at its end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobReport {
    /// The nodes that failed.
    pub failures: Vec<JobFailure>,
    /// Facts about models that are known by now.
    pub pins: Pinned,
    /// Whether it was asked to stop before its end.
    pub interrupted: bool,
}

/// A node of a job that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobFailure {
    /// Its position in the job.
    pub node: usize,
    /// The error.
    pub error: JobNodeError,
}

/// The error of a node, as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobNodeError {
    /// The data or the model is wrong.
    Failed { message: String, hint: Option<String> },
    /// The machine.
    Environment { message: String, hint: Option<String> },
    /// A bug in Refrain.
    Bug { message: String },
    /// A file that it read changed.
    Changed { path: PathBuf },
}

impl JobNodeError {
    pub(super) fn of(error: &NodeError) -> JobNodeError {
        use crate::language::explain::Explain;
        match error {
            NodeError::Changed(path) => JobNodeError::Changed { path: path.clone() },
            NodeError::Stage(StageError::Bug(message)) => {
                JobNodeError::Bug { message: message.clone() }
            }
            NodeError::Stage(stage) if stage.class() == ErrorClass::Environment => {
                JobNodeError::Environment { message: error.to_string(), hint: error.hint() }
            }
            NodeError::Stage(_) | NodeError::Source(_) => {
                JobNodeError::Failed { message: error.to_string(), hint: error.hint() }
            }
            NodeError::State(_) | NodeError::Unfetched => {
                JobNodeError::Environment { message: error.to_string(), hint: error.hint() }
            }
        }
    }
}

impl From<JobNodeError> for NodeError {
    fn from(error: JobNodeError) -> NodeError {
        match error {
            JobNodeError::Failed { message, hint } => StageError::Failed { message, hint }.into(),
            JobNodeError::Environment { message, hint } => {
                StageError::Environment { message, hint }.into()
            }
            JobNodeError::Bug { message } => StageError::Bug(message).into(),
            JobNodeError::Changed { path } => NodeError::Changed(path),
        }
    }
}

impl JobReport {
    /// Reads the report in a job's folder; `None` where the job has not come to its end.
    pub(super) fn read(folder: &Path) -> Option<JobReport> {
        let text = fs::read(folder.join(REPORT_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes the report into the folder of its job.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let json = serde_json::to_vec(self).map_err(io::Error::other)?;
        write_atomic(&folder.join(REPORT_FILE), &json).map(drop)
    }
}

/// Writes the name of the session of a job into its folder.
pub(super) fn write_session(folder: &Path, session: &str) -> io::Result<()> {
    write_atomic(&folder.join(SESSION_FILE), session.as_bytes()).map(drop)
}

/// Reads the name of the session of a job; `None` where it has not begun.
pub(super) fn read_session(folder: &Path) -> Option<String> {
    fs::read_to_string(folder.join(SESSION_FILE)).ok().filter(|name| !name.is_empty())
}

/// Removes what an earlier start of the job left in its folder.
pub(super) fn remove_report(folder: &Path) -> io::Result<()> {
    match remove_file(&folder.join(REPORT_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
