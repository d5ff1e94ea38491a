//! Runs a job where its executor started it: computes its nodes one after the other, delivers their
//! records in groups, and reports at the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use refrain_cache::{
    Cache, CacheError, Digest, FileIdentity, Key, NodeResult, Record, RecordError, Records,
};

use crate::graph::{Edge, Node, NodeId, Params, Work};
use crate::kind::machine::Machine;
use crate::kind::{ArtifactKind, Cancel, Input, Kinds, Pins, StageError};
use crate::language::diagnostic::Span;
use crate::language::explain::{ErrorClass, Explain};
use crate::plan::node_manifest;
use crate::plan::state::{Inputs, PendingNode};
use crate::run::NodeError;
use crate::run::node::{self, NodeJob};
use crate::run::retry;

use super::job_file::{
    InputOrigin, JobFailure, JobFile, JobFileError, JobNode, JobNodeError, JobReport, STOP_FILE,
    remove_report, write_session,
};

/// The longest that a record waits for its delivery.
const DELIVER_EVERY: Duration = Duration::from_millis(200);

/// Time between two looks for the file that asks to stop.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The machine that runs a job, as the job uses it.
pub struct JobHost<'a> {
    /// The kinds of stages.
    pub kinds: &'a Kinds,
    /// Resolves `${env:NAME}`.
    pub environment: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// The program of this process, where it can be started anew.
    pub own_program: Option<&'a Path>,
    /// The programs and servers that the machine's configuration names.
    pub machine: &'a Machine,
    /// Bytes of memory that are free.
    pub memory: u64,
    /// Asks the job to stop.
    pub cancel: &'a Cancel,
}

/// Why a job did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Its file.
    #[error(transparent)]
    File(#[from] JobFileError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The records.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// A file in its folder.
    #[error("cannot write into `{}`: {error}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The error of the system.
        error: std::io::Error,
    },
    /// A node has another key here than where the job was made.
    #[error("`{name}` has the key {found} here and {expected} in the job file")]
    OtherKey {
        /// The node.
        name: String,
        /// The key here.
        found: Key,
        /// The key in the file.
        expected: Key,
    },
    /// A node's kind is not known here.
    #[error("there is no kind `{0}`")]
    NoKind(String),
    /// The job has no node with a key that was asked for.
    #[error("the job has no node with the key {0}")]
    NoKey(String),
}

impl Explain for JobError {
    fn class(&self) -> ErrorClass {
        match self {
            JobError::File(_) | JobError::NoKey(_) => ErrorClass::Input,
            JobError::Cache(_)
            | JobError::Records(_)
            | JobError::Folder { .. }
            | JobError::OtherKey { .. }
            | JobError::NoKind(_) => ErrorClass::Environment,
        }
    }

    fn hint(&self) -> Option<String> {
        let other = "the machines of jobs need the same build of Refrain as the run; `program` of \
                     the executor in the configuration names it";
        match self {
            JobError::File(JobFileError::OtherVersion { .. })
            | JobError::OtherKey { .. }
            | JobError::NoKind(_) => Some(other.into()),
            _ => None,
        }
    }
}

/// Computes the nodes of a job, all or those that begin with the given keys, and returns its report,
/// which is then in the folder of the job too.
///
/// # Errors
/// [`JobError`] where the job as a whole cannot run; errors of nodes are in the report.
pub fn run_job(
    path: &Path,
    cache: &Cache,
    file: &JobFile,
    keys: &[String],
    host: &JobHost<'_>,
) -> Result<JobReport, JobError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let folder_error = |error| JobError::Folder { folder: folder.into(), error };
    remove_report(folder).map_err(folder_error)?;
    write_session(folder, &cache.session_name()?).map_err(folder_error)?;

    let records = cache.records()?;
    let pins = Pins::new(file.pins.clone());
    let wanted = wanted(file, keys)?;
    let (sender, receiver) = mpsc::channel();
    let run = JobRun { cache, records, file, host, pins: &pins, sender };
    let (ran, delivered) = thread::scope(|scope| {
        let (ended, end) = mpsc::channel();
        scope.spawn(move || stop_when_asked(&folder.join(STOP_FILE), host.cancel, &end));
        let delivering = scope.spawn(move || deliver_in_groups(cache, &receiver));
        let ran = run.run(&wanted);
        drop((run, ended));
        (ran, delivering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    delivered?;
    let failures = ran?;

    let report = JobReport { failures, pins: pins.all(), interrupted: host.cancel.is_cancelled() };
    report.write(folder).map_err(folder_error)?;
    Ok(report)
}

/// Marks the nodes that are asked for, and those that read them.
fn wanted(file: &JobFile, keys: &[String]) -> Result<Vec<bool>, JobError> {
    let is_named = |node: &JobNode, key: &String| node.key.is_some_and(|k| k.to_string() == *key);
    let unknown = |key: &&String| !file.nodes.iter().any(|node| is_named(node, key));
    if let Some(key) = keys.iter().find(unknown) {
        return Err(JobError::NoKey(key.clone()));
    }
    let mut wanted = Vec::with_capacity(file.nodes.len());
    for node in &file.nodes {
        let reads = |input: &super::job_file::JobInput| match input.from {
            InputOrigin::Made { node, .. } => wanted[node],
            InputOrigin::There { .. } => false,
        };
        let is_wanted = keys.is_empty()
            || keys.iter().any(|key| is_named(node, key))
            || node.inputs.iter().any(reads);
        wanted.push(is_wanted);
    }
    Ok(wanted)
}

/// Cancels the job when the file that asks for it appears, until the job has ended.
fn stop_when_asked(file: &Path, cancel: &Cancel, end: &Receiver<()>) {
    while end.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        if file.exists() {
            return cancel.cancel();
        }
    }
}

/// Delivers records in groups until there are no more. A failed delivery ends the job: what it
/// computes further would be lost.
fn deliver_in_groups(cache: &Cache, records: &Receiver<Record>) -> Result<(), CacheError> {
    let mut group = Vec::new();
    let mut due = Instant::now();
    loop {
        let received = match group.is_empty() {
            true => records.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => records.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        if received.is_ok() && group.is_empty() {
            due = Instant::now() + DELIVER_EVERY;
        }
        let ended = received == Err(RecvTimeoutError::Disconnected);
        group.extend(received);
        if !group.is_empty() && (ended || Instant::now() >= due) {
            cache.deliver(&std::mem::take(&mut group))?;
        }
        if ended {
            return Ok(());
        }
    }
}

/// A job under way.
struct JobRun<'a> {
    cache: &'a Cache,
    /// The records as of when the job began.
    records: Records,
    file: &'a JobFile,
    host: &'a JobHost<'a>,
    pins: &'a Pins,
    sender: Sender<Record>,
}

impl JobRun<'_> {
    /// Computes the wanted nodes, and returns the failures.
    fn run(&self, wanted: &[bool]) -> Result<Vec<JobFailure>, JobError> {
        let nodes = &self.file.nodes;
        let mut made: Vec<Option<NodeResult>> = vec![None; nodes.len()];
        let mut failures = Vec::new();
        for (at, job_node) in nodes.iter().enumerate().filter(|(at, _)| wanted[*at]) {
            if self.host.cancel.is_cancelled() {
                break;
            }
            // Where a node failed, what reads it is left out.
            let Some(inputs) = self.inputs(job_node, &made) else { continue };
            let node = self.node(job_node)?;
            let identity = |edge: &Edge| inputs.identities.get(&edge.path).cloned();
            let Some(manifest) = node_manifest::manifest(&node, identity, None) else { continue };
            let key = manifest.key();
            if let Some(expected) = job_node.key.filter(|expected| *expected != key) {
                let name = job_node.name.clone();
                return Err(JobError::OtherKey { name, found: key, expected });
            }

            if let Some(result) = self.recorded(job_node, &key)? {
                made[at] = Some(result);
                continue;
            }
            let pending = PendingNode { key, manifest, seen: None, damaged: None };
            match self.compute(job_node, &node, inputs.by_path, &pending) {
                Ok(record) => {
                    made[at] = Some(record.result.clone());
                    // Where nothing can be delivered any more, nothing is worth computing.
                    if self.sender.send(record).is_err() {
                        break;
                    }
                }
                Err(NodeError::Stage(StageError::Cancelled)) => break,
                Err(error) => {
                    node::emit_failed(NodeId(job_node.id), &node, &error);
                    failures.push(JobFailure { node: at, error: JobNodeError::of(&error) });
                }
            }
        }
        Ok(failures)
    }

    /// Returns the result of a node that was recorded before the job began.
    fn recorded(&self, node: &JobNode, key: &Key) -> Result<Option<NodeResult>, RecordError> {
        if node.fresh {
            return Ok(None);
        }
        let summary = self.records.summary(key)?;
        let is_whole = |result: &NodeResult| {
            result.artifacts.values().all(|artifact| self.cache.contains(artifact))
        };
        Ok(summary.map(|summary| summary.result).filter(is_whole))
    }

    fn compute(
        &self,
        job_node: &JobNode,
        node: &Node,
        by_path: BTreeMap<String, Input>,
        pending: &PendingNode,
    ) -> Result<Record, NodeError> {
        let begin = Instant::now();
        let job = NodeJob {
            node,
            inputs: Inputs { by_path, seen: Vec::new() },
            cache: self.cache,
            threads: node.settings.threads.unwrap_or(self.file.threads).max(1),
            memory_limit: self.file.memory.unwrap_or(self.host.memory),
            fresh: job_node.fresh,
            cancel: self.host.cancel,
            environment: self.host.environment,
            own_program: self.host.own_program,
            machine: self.host.machine,
            pins: self.pins,
            span: node::span(NodeId(job_node.id), node, &pending.key),
        };
        let result = retry::attempts(&job, pending);
        if let Some(changed) = first_change(&job_node.files)
            && !self.host.cancel.is_cancelled()
        {
            return Err(NodeError::Changed(changed));
        }
        let done = result?;
        // Leftovers that cannot be removed are in nobody's way.
        let _left = self.cache.unfinished(&pending.key).remove();
        Ok(node::record(node, pending, &done, begin.elapsed()))
    }

    /// Makes the node that is computed.
    fn node(&self, job_node: &JobNode) -> Result<Node, JobError> {
        let kind = self.host.kinds.get(&job_node.kind);
        let kind = *kind.ok_or_else(|| JobError::NoKind(job_node.kind.clone()))?;
        let edge =
            |path: &String| Edge { path: path.clone(), node: NodeId(0), output: String::new() };
        Ok(Node {
            name: job_node.name.clone(),
            stage: job_node.name.clone(),
            point: Vec::new(),
            work: Work::Stage {
                kind: Arc::new(kind),
                params: Params::from(job_node.params.clone()),
            },
            inputs: job_node.inputs.iter().map(|input| edge(&input.path)).collect(),
            outputs: job_node.outputs.as_slice().into(),
            settings: Arc::new(job_node.settings.clone()),
            span: Span::default(),
        })
    }

    /// Resolves the inputs of a node; `None` where the job was to make one of them and did not.
    fn inputs(&self, node: &JobNode, made: &[Option<NodeResult>]) -> Option<JobInputs> {
        let mut inputs = JobInputs::default();
        for input in &node.inputs {
            let (identity, found) = match &input.from {
                InputOrigin::There { identity, input } => (identity.clone(), input.clone()),
                InputOrigin::Made { node, output } => {
                    let artifact = made[*node].as_ref()?.artifacts.get(output)?.clone();
                    let path = self.cache.object_path(&artifact.digest);
                    let identity = vec![artifact.digest];
                    let found = match artifact.kind {
                        ArtifactKind::Table => Input::Table { path, artifact },
                        ArtifactKind::File => Input::File { path, artifact },
                        ArtifactKind::Folder => Input::Folder { path, artifact },
                        // A model may have a base, which lies elsewhere: no job is made so.
                        ArtifactKind::Model => return None,
                    };
                    (identity, found)
                }
            };
            inputs.identities.insert(input.path.clone(), identity);
            inputs.by_path.insert(input.path.clone(), found);
        }
        Some(inputs)
    }
}

/// The inputs of a node, by the path of the parameter.
#[derive(Default)]
struct JobInputs {
    by_path: BTreeMap<String, Input>,
    identities: BTreeMap<String, Vec<Digest>>,
}

/// Returns the first file that is not as it was when it was hashed, maybe on another machine.
fn first_change(files: &[(PathBuf, FileIdentity)]) -> Option<PathBuf> {
    let is_same = |(path, identity): &&(PathBuf, FileIdentity)| {
        std::fs::metadata(path)
            .is_ok_and(|metadata| FileIdentity::of(&metadata).is_elsewhere(identity))
    };
    files.iter().find(|file| !is_same(file)).map(|(path, _)| path.clone())
}
