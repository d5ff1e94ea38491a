//! The lock beside a workflow: per source, model and node its key, outputs and metrics, per
//! comparison its result, per fetched source its commit and files, one line each.
//!
//! A lock is JSON Lines, sorted by name, so that it diffs and merges by line. What this version does not know, fields
//! and whole lines, is kept as it stands. Format 1, which had no columns, is read and written again as format 2.

mod columns;
mod compared;
mod entry;
mod file;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use refrain_cache::{Key, TableReader};

use crate::graph::{Edge, Graph, Node, NodeId, Work};
use crate::kind::{ArtifactKind, Input, MAIN, Pinned, pin_name};
use crate::language::explain::{ErrorClass, Explain};
use crate::run::{Outcome, Report};
use crate::source::fetched::{Pin, PinKey};

pub use columns::SourceColumns;
pub use compared::{
    Compared, ComparedArm, ComparedInterval, ComparedTest, ComparisonEntry, IntervalMethod,
    McNemar, SignedRank, TestMethod,
};
pub use entry::{LockEntry, PinnedFact};

/// Version of the lock's lines.
pub const VERSION: u32 = 2;

/// Lines that one thread reads or writes in a row.
const LINES: usize = 256;

/// The first line: what wrote the lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Header {
    refrain_lock: u32,
    version: String,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// A lock.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lock {
    /// The entries by node name.
    pub entries: BTreeMap<String, LockEntry>,
    /// The version of Refrain that wrote it.
    pub version: String,
    /// Unknown fields of the first line.
    pub header: Map<String, Value>,
    /// The comparisons by name.
    pub comparisons: BTreeMap<String, ComparisonEntry>,
    /// The sources from the hub and from the web.
    pub fetched: BTreeMap<PinKey, Pin>,
    /// Lines that are about neither, sorted: a later version's.
    pub others: Vec<String>,
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
        /// The system's reason.
        error: std::io::Error,
    },
    /// A line is not one of a lock.
    #[error("`{}:{line}` is not a line of a lock: {message}", path.display())]
    Line {
        /// The lock.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The reason.
        message: String,
    },
    /// A newer version wrote it.
    #[error("Refrain {version} wrote `{}` in format {found}; this build reads formats up to {VERSION}", path.display())]
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

/// Enters what a run made into the lock at a path; returns whether the file changed.
///
/// The lock is read again and written while no other process does so: of two runs that end together neither loses the
/// other's lines. See [`Lock::update`] for `whole`.
///
/// # Errors
/// [`LockError`] for a lock that cannot be read or written.
pub fn record(
    path: &Path,
    graph: &Graph,
    report: &Report<'_>,
    comparisons: &[ComparisonEntry],
    whole: bool,
) -> Result<bool, LockError> {
    let _alone = file::hold(path);

    let mut lock = match Lock::read(path) {
        Err(LockError::Missing(_)) => Lock::default(),
        lock => lock?,
    };
    lock.update(graph, report, comparisons, whole);
    lock.write(path)
}

/// Enters fetched sources into the lock at a path, before anything is run with them; returns whether
/// the file changed.
///
/// # Errors
/// [`LockError`] for a lock that cannot be read or written.
pub fn pin(path: &Path, pins: &[Pin]) -> Result<bool, LockError> {
    let _alone = file::hold(path);

    let mut lock = match Lock::read(path) {
        Err(LockError::Missing(_)) => Lock::default(),
        lock => lock?,
    };
    let before = lock.fetched.clone();
    lock.pin(pins.iter());
    if lock.fetched == before { Ok(false) } else { lock.write(path) }
}

impl Lock {
    /// Reads a lock.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn read(path: &Path) -> Result<Lock, LockError> {
        Lock::parse(path, &file::read(path)?)
    }

    /// Reads the text of a lock; `path` is where it lies, for errors.
    ///
    /// # Errors
    /// [`LockError::Line`] and [`LockError::Version`].
    pub fn parse(path: &Path, text: &str) -> Result<Lock, LockError> {
        let (mut version, mut header) = (String::new(), Map::new());
        let mut lines: Vec<(usize, &str)> = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            if !line.starts_with("{\"refrain_lock\"") {
                lines.push((i, line));
                continue;
            }
            let found: Header =
                serde_json::from_str(line).map_err(|e| wrong_line(path, i, line, e))?;
            if found.refrain_lock > VERSION {
                let (path, version) = (path.into(), found.version);
                return Err(LockError::Version { path, found: found.refrain_lock, version });
            }
            version = found.version;
            header.extend(found.other);
        }

        let lines: Vec<Result<Parsed, LockError>> = lines
            .par_iter()
            .with_min_len(LINES)
            .map(|&(i, line)| parse(line).map_err(|e| wrong_line(path, i, line, e)))
            .collect();

        // The first wrong line is named, whichever was met first; of two lines of one node the later counts.
        let mut lock = Lock { version, header, ..Lock::default() };
        for line in lines {
            match line? {
                Parsed::Entry(entry) => drop(lock.entries.insert(entry.node.clone(), *entry)),
                Parsed::Comparison(entry) => {
                    drop(lock.comparisons.insert(entry.compare.clone(), *entry));
                }
                Parsed::Pin(pin) => drop(lock.fetched.insert(pin.key(), *pin)),
                Parsed::Other(line) => lock.others.push(line),
            }
        }
        lock.others.sort();
        lock.others.dedup();
        Ok(lock)
    }

    /// Writes the lock when its bytes change; returns whether they did.
    ///
    /// # Errors
    /// [`LockError::Io`].
    pub fn write(&self, path: &Path) -> Result<bool, LockError> {
        let header = Header {
            refrain_lock: VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            other: self.header.clone(),
        };
        let mut text = serde_json::to_vec(&header).expect("a header is JSON");
        text.push(b'\n');

        for entry in self.comparisons.values() {
            serde_json::to_writer(&mut text, entry).expect("an entry is JSON");
            text.push(b'\n');
        }
        for pin in self.fetched.values() {
            serde_json::to_writer(&mut text, pin).expect("a pin is JSON");
            text.push(b'\n');
        }
        let entries: Vec<&LockEntry> = self.entries.values().collect();
        let written = |entries: &[&LockEntry]| {
            let mut text = Vec::new();
            for entry in entries {
                serde_json::to_writer(&mut text, entry).expect("an entry is JSON");
                text.push(b'\n');
            }
            text
        };
        text.append(&mut entries.par_chunks(LINES).map(written).collect::<Vec<_>>().concat());

        for line in &self.others {
            text.extend(line.as_bytes());
            text.push(b'\n');
        }
        file::write(path, &text)
    }

    /// Takes over what a run made; returns whether any entry changed. A complete run of the whole graph also drops
    /// the entries of nodes and comparisons that it lacks.
    pub fn update(
        &mut self,
        graph: &Graph,
        report: &Report<'_>,
        comparisons: &[ComparisonEntry],
        whole: bool,
    ) -> bool {
        let mut changed = false;
        let mut ended: HashSet<&str> = HashSet::new();
        for id in graph.ids() {
            let is_done = matches!(report.outcomes[id.index()], Outcome::Cached | Outcome::Ran(_));
            let Some(done) = report.state.done(id).filter(|_| is_done) else { continue };
            let node = graph.node(id);
            ended.insert(&node.name);

            let entry = self.entries.get(&node.name);
            let same = entry.is_some_and(|entry| entry.says(node.kind_name(), done));
            // The first format had neither columns nor facts.
            let lacks = |entry: &LockEntry| match &node.work {
                Work::Source(_) => entry.columns.is_none(),
                Work::Model(_) | Work::Served(_) => entry.facts.is_empty(),
                _ => false,
            };
            let pinned = pinned(report, node, id);
            let same_pin = pinned.is_none() || entry.is_some_and(|entry| entry.pinned == pinned);
            if same && same_pin && !entry.is_some_and(lacks) {
                continue;
            }
            changed |= !same;
            let mut new = LockEntry::new(&node.name, node.kind_name(), done);
            match &node.work {
                Work::Source(_) => new.columns = source_columns(report, id),
                Work::Model(_) | Work::Served(_) => {
                    new.facts = node.work.model_facts(&graph.workflow.kinds);
                }
                _ => {}
            }
            new.pinned = pinned;
            new.other = entry.map(|entry| entry.other.clone()).unwrap_or_default();
            self.entries.insert(node.name.clone(), new);
        }

        if whole && report.is_complete() && self.entries.len() > ended.len() {
            changed = true;
            self.entries.retain(|name, _| ended.contains(name.as_str()));
        }
        changed |= self.update_pins(graph, whole && report.is_complete());
        self.update_comparisons(comparisons, whole && report.is_complete()) || changed
    }

    /// Takes over the pins of the fetched sources of a graph; `whole` says that there are no others.
    /// Returns whether any changed.
    fn update_pins(&mut self, graph: &Graph, whole: bool) -> bool {
        let before = self.fetched.clone();
        let pins = || graph.fetched.values().filter_map(|source| source.pin.as_ref());
        self.pin(pins());
        if whole {
            let keys: HashSet<PinKey> = pins().map(Pin::key).collect();
            self.fetched.retain(|key, _| keys.contains(key));
        }
        self.fetched != before
    }

    /// Enters pins; fields of a later version are kept.
    fn pin<'p>(&mut self, pins: impl Iterator<Item = &'p Pin>) {
        for pin in pins {
            let old = self.fetched.get(&pin.key());
            if !old.is_some_and(|old| old.says(pin)) {
                self.fetched.insert(pin.key(), pin.clone());
            }
        }
    }

    /// Takes over comparisons; `whole` says that there are no others. Returns whether any changed.
    fn update_comparisons(&mut self, comparisons: &[ComparisonEntry], whole: bool) -> bool {
        let mut changed = false;
        for new in comparisons {
            let old = self.comparisons.get(&new.compare);
            if old.is_some_and(|old| old.inputs == new.inputs && old.result == new.result) {
                continue;
            }
            changed = true;
            let other = old.map(|old| old.other.clone()).unwrap_or_default();
            self.comparisons.insert(new.compare.clone(), ComparisonEntry { other, ..new.clone() });
        }

        let before = self.comparisons.len();
        if whole {
            let names: HashSet<&str> = comparisons.iter().map(|new| new.compare.as_str()).collect();
            self.comparisons.retain(|name, _| names.contains(name.as_str()));
        }
        changed || self.comparisons.len() < before
    }

    /// The pinned facts about models.
    pub fn pins(&self) -> Pinned {
        let pinned = self.entries.values().filter_map(|entry| entry.pinned.as_ref());
        pinned.map(|pinned| (pinned.model.clone(), pinned.fact.clone())).collect()
    }

    /// The nodes' keys.
    pub fn keys(&self) -> BTreeMap<String, Key> {
        self.entries.iter().map(|(name, entry)| (name.clone(), entry.key)).collect()
    }
}

/// The columns of a source's table, read from its header.
fn source_columns(report: &Report<'_>, id: NodeId) -> Option<SourceColumns> {
    let Some(Input::Table { path, .. }) = report.state.output(id, MAIN) else { return None };
    TableReader::open(&path).ok().map(|table| SourceColumns::new(table.schema()))
}

/// Returns the pinned fact about the model that a node names or makes.
fn pinned(report: &Report<'_>, node: &Node, id: NodeId) -> Option<PinnedFact> {
    if report.pins.is_empty() || node.output_kind(MAIN) != Some(ArtifactKind::Model) {
        return None;
    }
    let edge = Edge { path: String::new(), node: id, output: MAIN.into() };
    let model = pin_name(&report.state.identity(&edge)?);
    let fact = report.pins.get(&model)?.clone();
    Some(PinnedFact { model, fact })
}

enum Parsed {
    Entry(Box<LockEntry>),
    Comparison(Box<ComparisonEntry>),
    Pin(Box<Pin>),
    Other(String),
}

/// Parses a line: an entry of a node or a comparison, or a JSON object that names neither and is
/// kept as it stands.
fn parse(line: &str) -> Result<Parsed, serde_json::Error> {
    if line.starts_with("{\"compare\"") {
        return serde_json::from_str(line).map(|entry| Parsed::Comparison(Box::new(entry)));
    }
    if line.starts_with("{\"fetched\"")
        && let Ok(pin) = serde_json::from_str(line)
    {
        return Ok(Parsed::Pin(Box::new(pin)));
    }
    let error = match serde_json::from_str(line) {
        Ok(entry) => return Ok(Parsed::Entry(Box::new(entry))),
        Err(error) => error,
    };
    match serde_json::from_str::<Map<String, Value>>(line) {
        Ok(map) if !map.is_empty() && !map.contains_key("node") => Ok(Parsed::Other(line.into())),
        _ => Err(error),
    }
}

fn wrong_line(path: &Path, i: usize, line: &str, error: serde_json::Error) -> LockError {
    let is_conflict = ["<<<<<<<", "=======", ">>>>>>>"].iter().any(|mark| line.starts_with(mark));
    let reason = error.to_string();
    let message = match (is_conflict, reason.split_once(" at line ")) {
        (true, _) => "it is the mark of a merge conflict".into(),
        (false, Some((reason, _))) => reason.into(),
        (false, None) => reason,
    };
    LockError::Line { path: path.into(), line: i + 1, message }
}

impl Explain for LockError {
    fn class(&self) -> ErrorClass {
        match self {
            LockError::Missing(_) => ErrorClass::Difference,
            LockError::Line { .. } => ErrorClass::Input,
            LockError::Io { .. } | LockError::Version { .. } => ErrorClass::Environment,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            LockError::Missing(_) => "`refrain run` writes it",
            LockError::Line { .. } => "after a merge conflict, remove the lock and run again",
            LockError::Version { .. } => {
                "use the Refrain that wrote it; to start anew with this one, remove the lock and run"
            }
            LockError::Io { .. } => return None,
        };
        Some(hint.into())
    }
}

#[cfg(test)]
mod tests;
