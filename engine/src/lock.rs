//! The lock beside a workflow: for every source, model and node its key, outputs and figures, a line each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refrain_cache::write::write_atomic;
use refrain_cache::{Artifact, Digest, Key, Metric};

use crate::graph::Graph;
use crate::run::{Outcome, Report};
use crate::state::Done;

/// Version of the lock's lines.
pub const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The node's name.
    pub node: String,
    /// Its kind.
    pub kind: String,
    /// Its key.
    pub key: Key,
    /// For a source the digest of its file or folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Digest>,
    /// Its outputs.
    pub outputs: BTreeMap<String, Artifact>,
    /// Its figures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// What could move the last bits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub profile: String,
}

/// The first line: what wrote the lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Header {
    refrain_lock: u32,
    version: String,
}

/// A lock.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lock {
    /// The lines by node name.
    pub lines: BTreeMap<String, Line>,
    /// The version of Refrain that wrote it.
    pub version: String,
}

/// Why a lock cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It is not there.
    #[error("there is no lock `{}`", .0.display())]
    Missing(PathBuf),
    /// The system refused.
    #[error("cannot read or write `{}`: {error}", path.display())]
    Io {
        /// The lock.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A line is not one of a lock.
    #[error("`{}:{line}` is not a line of a lock: {message}", path.display())]
    Line {
        /// The lock.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Another version wrote it.
    #[error("Refrain {version} wrote `{}` in format {found}; this build reads format {VERSION}", path.display())]
    Version {
        /// The lock.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The version of Refrain that wrote it.
        version: String,
    },
}

/// The lock's path: `NAME.lock` beside `NAME.yaml`.
pub fn path_of(workflow: &Path) -> PathBuf {
    workflow.with_extension("lock")
}

impl Lock {
    /// Reads a lock.
    pub fn read(path: &Path) -> Result<Lock, LockError> {
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => LockError::Missing(path.into()),
            _ => LockError::Io { path: path.into(), error },
        })?;
        let conflict =
            |line: &str| ["<<<<<<<", "=======", ">>>>>>>"].iter().any(|mark| line.starts_with(mark));
        let wrong = |i: usize, line: &str, e: serde_json::Error| {
            let reason = e.to_string();
            let message = match (conflict(line), reason.split_once(" at line ")) {
                (true, _) => "it is the mark of a merge conflict".into(),
                (false, Some((reason, _))) => reason.into(),
                (false, None) => reason,
            };
            LockError::Line { path: path.into(), line: i + 1, message }
        };
        let mut lock = Lock::default();
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            if line.starts_with("{\"refrain_lock\"") {
                let header: Header = serde_json::from_str(line).map_err(|e| wrong(i, line, e))?;
                if header.refrain_lock != VERSION {
                    let (path, version) = (path.into(), header.version);
                    return Err(LockError::Version { path, found: header.refrain_lock, version });
                }
                lock.version = header.version;
                continue;
            }
            let line: Line = serde_json::from_str(line).map_err(|e| wrong(i, line, e))?;
            lock.lines.insert(line.node.clone(), line);
        }
        Ok(lock)
    }

    /// Writes the lock when its bytes change; says whether they did.
    pub fn write(&self, path: &Path) -> Result<bool, LockError> {
        let header = Header { refrain_lock: VERSION, version: env!("CARGO_PKG_VERSION").into() };
        let mut text = serde_json::to_string(&header).expect("a header is JSON");
        for line in self.lines.values() {
            text.push('\n');
            text.push_str(&line.to_text());
        }
        text.push('\n');
        write_atomic(path, text.as_bytes()).map_err(|error| LockError::Io { path: path.into(), error })
    }

    /// Takes over what a run made. A complete run of the whole graph also drops lines of nodes that are no more.
    pub fn update(&mut self, graph: &Graph, report: &Report<'_>, whole: bool) {
        if whole && report.is_complete() {
            self.lines.clear();
        }
        for id in graph.ids() {
            if matches!(report.outcomes[id.index()], Outcome::Cached | Outcome::Ran(_))
                && let Some(done) = report.state.done(id)
            {
                let node = graph.node(id);
                self.lines.insert(node.name.clone(), line(&node.name, node.kind_name(), done));
            }
        }
    }

    /// The nodes' keys.
    pub fn keys(&self) -> BTreeMap<String, Key> {
        self.lines.iter().map(|(name, line)| (name.clone(), line.key)).collect()
    }
}

fn line(name: &str, kind: &str, done: &Done) -> Line {
    Line {
        node: name.to_string(),
        kind: kind.to_string(),
        key: done.key,
        file: done.file,
        outputs: done.artifacts.clone(),
        metrics: done.metrics.clone(),
        profile: done.profile.clone(),
    }
}

impl Line {
    /// The line as it stands in the lock.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a line is JSON")
    }

    /// The line as what a run would have made.
    pub fn to_done(&self) -> Done {
        Done {
            key: self.key,
            artifacts: self.outputs.clone(),
            metrics: self.metrics.clone(),
            profile: self.profile.clone(),
            file: self.file,
        }
    }
}
