//! Remembers that a workflow was complete, so that the next run of it need not even be planned.
//!
//! A kept plan holds nothing but what identifies every file that the plan rested on: the sources and models, the
//! artifacts, the records and the lock, each by device, inode, size and time as it was when it was hashed. It holds
//! for one text of the workflow, by digest. When any of it is not as it was, the plan is made anew; so what is kept
//! can save time and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use refrain_cache::write::{create_dir_all, write_atomic};
use refrain_cache::{Digest, FileIdentity, read_plain};

use crate::graph::Graph;
use crate::kind::MAIN;
use crate::language::diagnostic::IncludedText;
use crate::language::yaml::MAX_BYTES;
use crate::plan::state::{NodeState, State};
use crate::report::comparison::ComparedRow;
use crate::report::results::Results;
use crate::store::Store;

/// Version of the file's format.
const VERSION: u32 = 4;
/// Files that one thread looks at in a row.
const FILES: usize = 1024;

/// Everything beside files that decides what a run of a workflow would do.
pub struct Request<'a> {
    /// The workflow, its whole text.
    pub text: &'a [u8],
    /// Where it lies.
    pub path: &'a Path,
    /// The folder of the cache.
    pub cache: &'a Path,
    /// The values of `--set`.
    pub set: &'a [String],
    /// The identity of this build of Refrain: another may make other keys.
    pub build: &'a str,
    /// The lock that the run would write; `None` when it would not.
    pub lock: Option<&'a Path>,
}

/// The report of a run that finds everything up to date.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CachedReport {
    /// The number of nodes that are in the cache.
    pub cached: usize,
    /// The table of results.
    pub results: Results,
    /// The table of comparisons.
    pub comparisons: Vec<ComparedRow>,
    /// Every condition, and that it holds.
    pub expects: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct UpToDate<'a> {
    /// Read apart, like `request`: both come first.
    version: u32,
    request: [u8; 32],
    report: CachedReport,
    /// Absolute paths of the files that the workflow includes, with the digests of their texts.
    includes: Vec<(String, [u8; 32])>,
    /// Absolute paths, sorted.
    #[serde(borrow)]
    files: Vec<(&'a str, FileIdentity)>,
}

impl Request<'_> {
    fn digest(&self) -> [u8; 32] {
        let mut parts: Vec<&[u8]> =
            vec![self.build.as_bytes(), self.path.as_os_str().as_encoded_bytes()];
        parts.push(self.cache.as_os_str().as_encoded_bytes());
        parts.extend(self.set.iter().map(|set| set.as_bytes()));
        // The digest of each part, so that no two lists of parts look alike.
        let mut all: Vec<u8> =
            parts.iter().flat_map(|part| *Digest::of_bytes(part).as_bytes()).collect();
        all.extend(Digest::of_bytes(self.text).as_bytes());
        *Digest::of_bytes(&all).as_bytes()
    }

    /// One file for a workflow and what was set, whatever the workflow's text was.
    fn file(&self) -> PathBuf {
        self.cache.join("plans").join(name(self.path, self.set))
    }
}

/// The name of the plan of a workflow with what was set.
pub fn name(workflow: &Path, set: &[String]) -> String {
    Digest::of_bytes(format!("{}\0{}", workflow.display(), set.join("\0")).as_bytes()).to_string()
}

/// Returns the last complete run's report, if none of the files behind it has changed.
pub fn find(request: &Request<'_>) -> Option<CachedReport> {
    let bytes = fs::read(request.file()).ok()?;
    let (sum, bytes) = bytes.split_at_checked(32)?;
    // Of another request the report, which may have thousands of rows, is not read.
    let (head, _) = postcard::take_from_bytes::<(u32, [u8; 32])>(bytes).ok()?;
    if head != (VERSION, request.digest()) {
        return None;
    }
    if Digest::of_bytes(bytes).as_bytes() != sum {
        return None;
    }
    let kept: UpToDate<'_> = postcard::from_bytes(bytes).ok()?;
    let same = |(path, identity): &(&str, FileIdentity)| {
        fs::metadata(path).is_ok_and(|metadata| FileIdentity::of(&metadata) == *identity)
    };
    let unchanged = |(path, digest): &(String, [u8; 32])| {
        let text = read_plain(Path::new(path), MAX_BYTES as u64);
        text.is_ok_and(|text| Digest::of_bytes(&text).as_bytes() == digest)
    };
    let holds = kept.includes.iter().all(unchanged)
        && kept.files.par_chunks(FILES).all(|files| files.iter().all(same));
    holds.then_some(kept.report)
}

/// Keeps the report of a complete run of the whole workflow. Nothing is kept when a file was too young when it was hashed,
/// so that its digest is not remembered.
pub fn keep(
    request: &Request<'_>,
    graph: &Graph,
    store: &Store,
    state: &State<'_>,
    report: CachedReport,
) {
    let Some(files) = files(request, graph, store, state) else { return };
    let Some(includes) = includes(graph) else { return };
    let kept = UpToDate {
        version: VERSION,
        request: request.digest(),
        report,
        includes,
        files: files.iter().map(|(path, identity)| (path.as_str(), *identity)).collect(),
    };
    let Ok(bytes) = postcard::to_stdvec(&kept) else { return };
    let file = request.file();
    // A plan that cannot be kept is made again.
    let _ = create_dir_all(&request.cache.join("plans"));
    let _ = write_atomic(&file, &[Digest::of_bytes(&bytes).as_bytes(), &bytes[..]].concat());
}

/// The files that the workflow includes, as they were read.
fn includes(graph: &Graph) -> Option<Vec<(String, [u8; 32])>> {
    let file = |file: &IncludedText| {
        let path = std::path::absolute(&file.path).ok()?;
        Some((path.to_str()?.into(), *Digest::of_bytes(file.text.as_bytes()).as_bytes()))
    };
    graph.workflow.source.included.iter().map(file).collect()
}

type Files = BTreeMap<String, FileIdentity>;

fn files(request: &Request<'_>, graph: &Graph, store: &Store, state: &State<'_>) -> Option<Files> {
    let mut files = Files::new();
    let records = request.cache.join("records/records.log");
    for path in [Some(records.as_path()), request.lock].into_iter().flatten() {
        files.insert(path.to_str()?.to_string(), now(path)?);
    }
    for id in graph.ids() {
        let done = state.done(id)?;
        let node = graph.node(id);
        if node.is_source() {
            source(store, done, &mut files)?;
        }
        if node.is_read_in_place() {
            continue;
        }
        for (name, artifact) in &done.result.artifacts {
            // An artifact that is passed on is a file of the node that made it.
            if graph.node(id).passes_on() && name == MAIN {
                continue;
            }
            let path = store.object_path(&artifact.digest);
            match artifact.kind.is_folder() {
                false => hashed(store, &path, &mut files)?,
                true => folder(store, &path, &mut files)?,
            }
        }
    }
    Some(files)
}

fn now(path: &Path) -> Option<FileIdentity> {
    fs::metadata(path).ok().map(|metadata| FileIdentity::of(&metadata))
}

/// A file as it was when it was hashed.
fn hashed(store: &Store, path: &Path, files: &mut Files) -> Option<()> {
    let path = std::path::absolute(path).ok()?;
    let identity = store.digests().remembered(&path)?;
    files.insert(path.to_str()?.to_string(), identity);
    Some(())
}

/// A folder of the cache: it and all that is in it.
fn folder(store: &Store, path: &Path, files: &mut Files) -> Option<()> {
    // Looked at before it is listed: what comes later changes it.
    files.insert(path.to_str()?.to_string(), now(path)?);
    for entry in fs::read_dir(path).ok()? {
        let entry = entry.ok()?;
        match entry.file_type().ok()?.is_dir() {
            true => folder(store, &entry.path(), files)?,
            false => hashed(store, &entry.path(), files)?,
        }
    }
    Some(())
}

/// A source, which must still be what was seen when its key was made.
fn source(store: &Store, done: &NodeState, files: &mut Files) -> Option<()> {
    let seen = done.seen.as_ref()?;
    for (path, identity) in seen.files() {
        let path = std::path::absolute(path).ok()?;
        // A file that was too young when it was hashed is not remembered: its identity may not tell
        // a later change.
        if store.digests().remembered(&path)? != identity {
            return None;
        }
        files.insert(path.to_str()?.to_string(), identity);
    }
    // Looked at before the files are compared: a file that comes later changes its folder.
    for path in seen.place().folders().ok()? {
        let path = std::path::absolute(path).ok()?;
        files.insert(path.to_str()?.to_string(), now(&path)?);
    }
    seen.first_change().is_none().then_some(())
}
