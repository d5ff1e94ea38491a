//! The lock beside a workflow: for every source, model and node its key, outputs and figures, a line each.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use refrain_cache::write::write_atomic;
use refrain_cache::{Artifacts, Digest, Key, Metric, read_plain};

use crate::graph::Graph;
use crate::plan::state::Done;
use crate::run::{Outcome, Report};

/// Version of the lock's lines.
pub const VERSION: u32 = 1;

/// Lines that one thread reads or writes in a row.
const LINES: usize = 256;
/// Largest lock that is read in bytes: that of a million nodes.
const MAX_BYTES: u64 = 1 << 30;

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
    pub outputs: Artifacts,
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
        let text = read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => LockError::Missing(path.into()),
            _ => LockError::Io { path: path.into(), error },
        })?;
        let conflict = |line: &str| {
            ["<<<<<<<", "=======", ">>>>>>>"].iter().any(|mark| line.starts_with(mark))
        };
        let wrong = |i: usize, line: &str, e: serde_json::Error| {
            let reason = e.to_string();
            let message = match (conflict(line), reason.split_once(" at line ")) {
                (true, _) => "it is the mark of a merge conflict".into(),
                (false, Some((reason, _))) => reason.into(),
                (false, None) => reason,
            };
            LockError::Line { path: path.into(), line: i + 1, message }
        };
        let mut version = String::new();
        let mut lines: Vec<(usize, &str)> = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            if !line.starts_with("{\"refrain_lock\"") {
                lines.push((i, line));
                continue;
            }
            let header: Header = serde_json::from_str(line).map_err(|e| wrong(i, line, e))?;
            if header.refrain_lock != VERSION {
                let (path, version) = (path.into(), header.version);
                return Err(LockError::Version { path, found: header.refrain_lock, version });
            }
            version = header.version;
        }
        let read = |&(i, line): &(usize, &str)| -> Result<(String, Line), LockError> {
            let line: Line = serde_json::from_str(line).map_err(|e| wrong(i, line, e))?;
            Ok((line.node.clone(), line))
        };
        let lines: Vec<_> = lines.par_iter().with_min_len(LINES).map(read).collect();
        // The first wrong line is named, whichever was met first; of two lines of one node the later counts.
        let lines = lines.into_iter().collect::<Result<_, _>>()?;
        Ok(Lock { lines, version })
    }

    /// Writes the lock when its bytes change; says whether they did.
    pub fn write(&self, path: &Path) -> Result<bool, LockError> {
        let header = Header { refrain_lock: VERSION, version: env!("CARGO_PKG_VERSION").into() };
        let mut text = serde_json::to_vec(&header).expect("a header is JSON");
        text.push(b'\n');
        let lines: Vec<&Line> = self.lines.values().collect();
        let written = |lines: &[&Line]| {
            let mut text = Vec::new();
            for line in lines {
                serde_json::to_writer(&mut text, line).expect("a line is JSON");
                text.push(b'\n');
            }
            text
        };
        text.append(&mut lines.par_chunks(LINES).map(written).collect::<Vec<_>>().concat());
        write_atomic(path, &text).map_err(|error| LockError::Io { path: path.into(), error })
    }

    /// Takes over what a run made; says whether any line changed. A complete run of the whole graph also drops lines of
    /// nodes that are no more.
    pub fn update(&mut self, graph: &Graph, report: &Report<'_>, whole: bool) -> bool {
        let mut changed = false;
        let mut kept: HashSet<&str> = HashSet::new();
        for id in graph.ids() {
            if matches!(report.outcomes[id.index()], Outcome::Cached | Outcome::Ran(_))
                && let Some(done) = report.state.done(id)
            {
                let node = graph.node(id);
                kept.insert(&node.name);
                if !self.lines.get(&node.name).is_some_and(|line| line.says(node.kind_name(), done))
                {
                    changed = true;
                    self.lines.insert(node.name.clone(), line(&node.name, node.kind_name(), done));
                }
            }
        }
        if whole && report.is_complete() && self.lines.len() > kept.len() {
            changed = true;
            self.lines.retain(|name, _| kept.contains(name.as_str()));
        }
        changed
    }

    /// The nodes' keys.
    pub fn keys(&self) -> BTreeMap<String, Key> {
        self.lines.iter().map(|(name, line)| (name.clone(), line.key)).collect()
    }
}

/// Whether figures are the same; one that is not defined is the same as itself.
fn same(a: &[Metric], b: &[Metric]) -> bool {
    let undefined = |a: &Metric, b: &Metric| {
        a.value.is_nan()
            && b.value.is_nan()
            && Metric { value: 0.0, ..a.clone() } == Metric { value: 0.0, ..b.clone() }
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || undefined(a, b))
}

fn read(path: &Path) -> io::Result<String> {
    let bytes = read_plain(path, MAX_BYTES)?;
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
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
    /// Whether it is the line of a node of this kind with these outputs.
    pub(crate) fn says(&self, kind: &str, done: &Done) -> bool {
        let Done { key, artifacts, metrics, profile, file } = done;
        self.key == *key
            && self.kind == kind
            && self.file == *file
            && self.outputs == *artifacts
            && same(&self.metrics, metrics)
            && self.profile == *profile
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

#[cfg(test)]
mod tests {
    use refrain_cache::{Artifact, ArtifactKind, Manifest};

    use super::*;
    use crate::kind::MAIN;

    fn lock(nodes: usize) -> Lock {
        let line = |i: usize| {
            let node = format!("n[i={i:04}]");
            let key = Manifest::new(&node).key();
            let digest = Digest::of_bytes(node.as_bytes());
            let artifact =
                Artifact { kind: ArtifactKind::File, digest, bytes: 9, rows: None, base: None };
            let outputs =
                [("y".to_string(), artifact.clone()), (MAIN.to_string(), artifact)].into();
            let value = if i.is_multiple_of(2) { f64::NAN } else { 0.5 };
            let metrics = vec![Metric { metric: "m".into(), value, n: 1, low: None, high: None }];
            (
                node.clone(),
                Line {
                    node,
                    kind: "run".into(),
                    key,
                    file: None,
                    outputs,
                    metrics,
                    profile: String::new(),
                },
            )
        };
        Lock { lines: (0..nodes).map(line).collect(), version: env!("CARGO_PKG_VERSION").into() }
    }

    /// More lines than one thread takes at once.
    const NODES: usize = 3 * LINES + 7;

    #[test]
    fn a_large_lock_comes_back_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.lock");
        let lock = lock(NODES);
        assert!(lock.write(&path).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), NODES + 1);
        assert!(text.lines().skip(1).is_sorted() && text.ends_with("}\n"), "{}", &text[..300]);
        let read = Lock::read(&path).unwrap();
        assert_eq!(read.version, lock.version);
        let same = |(a, b): (&Line, &Line)| a.says(&b.kind, &b.to_done());
        assert_eq!(read.lines.len(), NODES);
        assert!(
            read.lines.values().zip(lock.lines.values()).all(same),
            "figures that are not defined among them"
        );
        assert!(!read.write(&path).unwrap(), "the same bytes are not written again");
    }

    #[test]
    fn of_many_wrong_lines_the_first_is_named_and_of_two_of_a_node_the_later_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.lock");
        lock(NODES).write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let later = text.lines().nth(5).unwrap().replace("\"run\"", "\"mask\"");
        std::fs::write(&path, format!("{text}{later}\n")).unwrap();
        let read = Lock::read(&path).unwrap();
        assert_eq!((read.lines.len(), read.lines["n[i=0004]"].kind.as_str()), (NODES, "mask"));
        let mut lines: Vec<&str> = text.lines().collect();
        (lines[300], lines[700]) = ("<<<<<<< ours", "{}");
        std::fs::write(&path, lines.join("\n")).unwrap();
        let error = Lock::read(&path).unwrap_err().to_string();
        assert!(
            error.contains(
                "w.lock:301` is not a line of a lock: it is the mark of a merge conflict"
            ),
            "{error}"
        );
    }
}
