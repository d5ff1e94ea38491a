//! Hugging Face's cache folder: where files lie in it, and whether those of a source are there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Map;

use refrain_cache::read_plain;
use refrain_engine::source::fetched::{Found, HubPin, Pin, WebPin};
use refrain_engine::source::model_folder::{ModelFolder, counts_at};
use refrain_engine::source::upstream::{
    HubSource, Repository, RepositoryKind, Upstream, WebSource, is_commit,
};

use crate::etag::Etag;
use crate::listing::{check_name, select};

/// Limit on the bytes of a reference.
const MAX_REFERENCE: u64 = 256;
/// Limit on the bytes of a kept list of files.
const MAX_TREE: u64 = 64 << 20;
/// Format of kept lists of files.
const TREE: u32 = 1;

/// The folders for fetched files.
#[derive(Debug, Clone)]
pub struct Places {
    /// Hugging Face's cache of repositories.
    pub hub: PathBuf,
    /// Hugging Face's folder for files that other libraries keep.
    pub assets: PathBuf,
}

/// How files are looked for.
#[derive(Debug, Clone, Copy)]
pub enum Lookup<'a> {
    /// Those of a pin alone.
    Pinned(&'a HubPin),
    /// Those of the commit of a pin that was made for other files of the repository.
    AtCommit(&'a str),
    /// Whatever the cache holds of the revision.
    AsCached,
}

/// The folder of a repository in the cache.
pub(crate) struct RepositoryFolder {
    root: PathBuf,
    locks: PathBuf,
}

impl Places {
    pub(crate) fn repository(&self, repository: &Repository) -> RepositoryFolder {
        let kind = match repository.kind {
            RepositoryKind::Model => "models",
            RepositoryKind::Dataset => "datasets",
        };
        let name = format!("{kind}--{}", repository.name.replace('/', "--"));
        RepositoryFolder { root: self.hub.join(&name), locks: self.hub.join(".locks").join(name) }
    }

    /// Returns the place of a file of the web.
    pub(crate) fn web(&self, web: &WebSource) -> PathBuf {
        let digest = web.digest.to_string().replace(':', "-");
        self.assets.join("refrain/web").join(digest).join(web.file_name())
    }

    /// Finds the files of a source that was fetched; `name` is the source's.
    pub fn find(&self, name: &str, upstream: &Upstream, lookup: Lookup<'_>) -> Option<Found> {
        match upstream {
            Upstream::Web(web) => {
                let path = self.web(web);
                path.is_file().then(|| Found { path, pin: Some(web_pin(name, web)) })
            }
            Upstream::Hub(source) => self.find_hub(name, source, lookup),
        }
    }

    fn find_hub(&self, name: &str, source: &HubSource, lookup: Lookup<'_>) -> Option<Found> {
        let folder = self.repository(&source.repository);
        if let Lookup::Pinned(pin) = lookup {
            let is_there = |(file, etag): (&String, &String)| {
                check_name(file).is_ok()
                    && Etag::parse(etag).is_some_and(|etag| folder.has(&pin.commit, file, &etag))
            };
            return (is_commit(&pin.commit) && pin.files.iter().all(is_there)).then(|| Found {
                path: folder.path(&pin.commit, source),
                pin: Some(Pin::Hub(pin.clone())),
            });
        }

        let commit = match lookup {
            Lookup::AtCommit(commit) => commit.to_owned(),
            _ if source.is_commit() => source.revision.clone(),
            _ => folder.commit(&source.revision)?,
        };
        let path = folder.path(&commit, source);
        let names = match (folder.listed(&commit, source), lookup) {
            (Some(names), _) => names,
            // Without a list nobody knows whether all files are there.
            (None, Lookup::AsCached) => folder.guessed(&commit, source)?,
            (None, _) => return None,
        };
        let mut files = Some(BTreeMap::new());
        for name in names {
            let path = folder.snapshot(&commit).join(&name);
            if !path.is_file() {
                return None;
            }
            match (folder.etag(&path), &mut files) {
                (Some(etag), Some(files)) => drop(files.insert(name, etag.to_string())),
                // A copy does not say which blob it is of.
                _ => files = None,
            }
        }
        let pin = files.map(|files| Pin::Hub(hub_pin(name, source, &commit, files)));
        Some(Found { path, pin })
    }
}

/// Makes the pin of a source from the hub.
pub(crate) fn hub_pin(
    name: &str,
    source: &HubSource,
    commit: &str,
    files: BTreeMap<String, String>,
) -> HubPin {
    HubPin {
        fetched: name.into(),
        hub: source.repository.name.clone(),
        kind: source.repository.kind,
        revision: source.revision.clone(),
        file: source.file.clone(),
        commit: commit.into(),
        files,
        other: Map::new(),
    }
}

/// Makes the pin of a source from the web.
pub(crate) fn web_pin(name: &str, web: &WebSource) -> Pin {
    Pin::Web(WebPin { fetched: name.into(), digest: web.digest.to_string(), other: Map::new() })
}

/// A kept list of the files of a commit.
#[derive(Deserialize)]
struct Tree {
    format_version: u32,
    files: BTreeMap<String, serde::de::IgnoredAny>,
}

/// The index of a model's shards.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl RepositoryFolder {
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn blob(&self, etag: &Etag) -> PathBuf {
        self.root.join("blobs").join(etag.as_str())
    }

    pub fn partial(&self, etag: &Etag) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    pub fn lock(&self, etag: &Etag) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub fn reference(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }

    /// Returns the place of a source at a commit.
    pub fn path(&self, commit: &str, source: &HubSource) -> PathBuf {
        let snapshot = self.snapshot(commit);
        source.file.as_ref().map_or(snapshot.clone(), |file| snapshot.join(file))
    }

    /// Whether a file of a commit is there: a link to the blob of that digest, or a copy.
    pub fn has(&self, commit: &str, name: &str, etag: &Etag) -> bool {
        let path = self.snapshot(commit).join(name);
        let is_link = path.symlink_metadata().is_ok_and(|found| found.is_symlink());
        path.is_file() && (!is_link || self.etag(&path).as_ref() == Some(etag))
    }

    /// Returns the digest of a file, which the link to its blob has.
    fn etag(&self, path: &Path) -> Option<Etag> {
        Etag::parse(fs::read_link(path).ok()?.file_name()?.to_str()?)
    }

    /// Returns the commit that a branch or tag meant when it was looked at last.
    fn commit(&self, revision: &str) -> Option<String> {
        let text = read_plain(&self.reference(revision), MAX_REFERENCE).ok()?;
        let text = String::from_utf8(text).ok()?.trim().to_owned();
        is_commit(&text).then_some(text)
    }

    /// Names the files of a source by the kept list of the commit.
    fn listed(&self, commit: &str, source: &HubSource) -> Option<Vec<String>> {
        let path = self.root.join("trees").join(format!("{commit}.json"));
        let tree: Tree = serde_json::from_slice(&read_plain(&path, MAX_TREE).ok()?).ok()?;
        if tree.format_version != TREE || tree.files.keys().any(|name| check_name(name).is_err()) {
            return None;
        }
        let names: Vec<String> = match &source.file {
            Some(file) => select(tree.files.keys(), file),
            None => tree.files.into_keys().filter(|name| counts_at(name)).collect(),
        };
        (!names.is_empty()).then_some(names)
    }

    /// Names the files of a source that are there, where they seem to be all.
    fn guessed(&self, commit: &str, source: &HubSource) -> Option<Vec<String>> {
        let snapshot = self.snapshot(commit);
        let Some(file) = &source.file else {
            let model = ModelFolder::open(&snapshot).ok()?;
            let names: Vec<String> = model.files().map(|file| file.name.clone()).collect();
            let has = |name: &String| names.contains(name);
            let is_whole =
                model.is_model() && model.has_weights() && shards(&snapshot)?.iter().all(has);
            return is_whole.then_some(names);
        };
        let names = walk(&snapshot);
        let names = select(names.iter(), file);
        (!names.is_empty()).then_some(names)
    }
}

/// Names the shards that the index of a model has; `None` where the index cannot be read.
fn shards(snapshot: &Path) -> Option<Vec<String>> {
    let path = snapshot.join("model.safetensors.index.json");
    if !path.exists() {
        return Some(Vec::new());
    }
    let index: Index = serde_json::from_slice(&read_plain(&path, MAX_TREE).ok()?).ok()?;
    Some(index.weight_map.into_values().collect())
}

/// Names the files below a snapshot, with `/` between folders.
fn walk(snapshot: &Path) -> Vec<String> {
    refrain_engine::source::Walk::whole(snapshot)
        .map(|walk| walk.files.into_iter().map(|(name, _)| name).collect())
        .unwrap_or_default()
}
