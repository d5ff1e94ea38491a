//! The files of a repository at a commit, as the hub lists them, and which of them a source takes.

use std::collections::{BTreeMap, HashSet};

use glob::{MatchOptions, Pattern};
use serde::Deserialize;

use refrain_cache::is_inside;
use refrain_engine::language::diagnostic::suggest;
use refrain_engine::source::model_folder::{counts_at, is_pickle};
use refrain_engine::source::upstream::{HubSource, RepositoryKind, is_commit};

use crate::error::FetchError;
use crate::etag::Etag;

/// Limit on the files of a repository.
const MAX_FILES: usize = 100_000;
/// Limit on the bytes of a path, and on those of one of its parts.
const MAX_PATH: usize = 1024;
const MAX_PART: usize = 255;

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// The hub's answer of a revision.
#[derive(Debug, Deserialize)]
pub(crate) struct RepositoryInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: String,
    size: Option<u64>,
}

/// The files of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listing {
    pub commit: String,
    pub files: BTreeMap<String, ListedFile>,
}

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedFile {
    /// Its digest; `None` where the listing has none.
    pub etag: Option<Etag>,
    pub size: Option<u64>,
}

impl Listing {
    /// Reads the hub's answer, and refuses names that leave their folder.
    pub fn new(info: RepositoryInfo, what: &str) -> Result<Listing, FetchError> {
        let refused = |reason: String| FetchError::Listing { what: what.to_owned(), reason };
        if !is_commit(&info.sha) {
            return Err(refused(format!("`{}` is not a commit", info.sha)));
        }
        if info.siblings.len() > MAX_FILES {
            let files = info.siblings.len();
            return Err(refused(format!("it has {files} files; the limit is {MAX_FILES}")));
        }
        let mut files = BTreeMap::new();
        for Sibling { rfilename: name, size, blob_id, lfs } in info.siblings {
            check_name(&name).map_err(refused)?;
            let (digest, size) = match lfs {
                Some(lfs) => (Some(lfs.sha256), lfs.size.or(size)),
                None => (blob_id, size),
            };
            let etag = digest.as_deref().map(|digest| {
                let wrong = || refused(format!("the digest of `{name}` is `{digest}`"));
                Etag::parse(digest).ok_or_else(wrong)
            });
            let etag = etag.transpose()?;
            if files.insert(name.clone(), ListedFile { etag, size }).is_some() {
                return Err(refused(format!("`{name}` is in it twice")));
            }
        }
        Ok(Listing { commit: info.sha, files })
    }

    /// Names the files that a source takes.
    pub fn select(&self, source: &HubSource) -> Result<Vec<String>, FetchError> {
        let what = &source.repository;
        let Some(file) = &source.file else { return self.model(source) };
        let names = select(self.files.keys(), file);
        if names.is_empty() {
            let names = self.files.keys().map(String::as_str);
            let hint = suggest(file, names, "its files are");
            let revision = &source.revision;
            let message = format!("`{what}` has no file `{file}` at `{revision}`");
            return Err(FetchError::Absent { message, hint });
        }
        Ok(names)
    }

    /// Names the files of a model that count.
    fn model(&self, source: &HubSource) -> Result<Vec<String>, FetchError> {
        let what = source.repository.to_string();
        debug_assert_eq!(source.repository.kind, RepositoryKind::Model);
        let names: Vec<String> =
            self.files.keys().filter(|name| counts_at(name)).cloned().collect();
        let has = |end: &str| names.iter().any(|name| name.ends_with(end));
        let is_there = |name: &str| self.files.contains_key(name);
        let gguf: Vec<&String> = names.iter().filter(|name| name.ends_with(".gguf")).collect();
        if !has(".safetensors") && gguf.len() > 1 {
            let listed: Vec<String> =
                gguf.iter().take(20).map(|name| format!("`{name}`")).collect();
            return Err(FetchError::Absent {
                message: format!("`{what}` has {} models in GGUF", gguf.len()),
                hint: Some(format!("name one: `file: NAME`, of {}", listed.join(", "))),
            });
        }
        if !has(".safetensors") && gguf.is_empty() {
            if let Some(file) = self.files.keys().find(|name| is_pickle(name)) {
                return Err(FetchError::Pickle { what, file: file.clone() });
            }
            return Err(FetchError::Absent {
                message: format!("`{what}` holds no weights that are read"),
                hint: Some("a model has `*.safetensors` and `config.json`, or a `*.gguf`".into()),
            });
        }
        if gguf.is_empty() && !is_there("config.json") && !is_there("adapter_config.json") {
            return Err(FetchError::Absent {
                message: format!("`{what}` holds no `config.json`"),
                hint: Some("it is not a model, or the files of one are in a folder of it".into()),
            });
        }
        Ok(names)
    }
}

/// Selects the files that a path means: a file, the files of a folder, or those that match a
/// pattern.
pub(crate) fn select<'n>(names: impl Iterator<Item = &'n String>, file: &str) -> Vec<String> {
    let pattern = Pattern::new(file).ok().filter(|_| file.contains(['*', '?', '[']));
    let folder = format!("{}/", file.trim_end_matches('/'));
    let mut found = Vec::new();
    for name in names {
        if name == file {
            return vec![name.clone()];
        }
        let matches = |pattern: &Pattern| pattern.matches_with(name, OPTIONS);
        if name.starts_with(&folder) || pattern.as_ref().is_some_and(matches) {
            found.push(name.clone());
        }
    }
    found
}

/// Refuses a name that could leave its folder, or that no file system takes.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let is_plain =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= MAX_PART;
    if is_inside(name) && name.split('/').all(is_plain) && !name.contains('\\') {
        if name.len() > MAX_PATH || name.contains(char::is_control) {
            return Err(format!("it has the odd name `{name}`"));
        }
        return Ok(());
    }
    let short: String = name.chars().take(100).collect();
    Err(format!("it has the file `{short}`, a path that leaves its folder"))
}

/// The branches and tags of a repository.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct References {
    #[serde(default)]
    branches: Vec<Reference>,
    #[serde(default)]
    tags: Vec<Reference>,
}

#[derive(Debug, Deserialize)]
struct Reference {
    name: String,
}

impl References {
    /// Returns the hint at a revision that is not there.
    pub fn hint(&self, revision: &str) -> Option<String> {
        let names: HashSet<&str> =
            self.branches.iter().chain(&self.tags).map(|one| one.name.as_str()).collect();
        let mut names: Vec<&str> = names.into_iter().collect();
        names.sort_unstable();
        suggest(revision, names, "there are")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn listing(names: &[&str]) -> Result<Listing, String> {
        let siblings: Vec<_> = names.iter().map(|name| json!({ "rfilename": name })).collect();
        let info = json!({ "sha": COMMIT, "siblings": siblings });
        let info = serde_json::from_value(info).unwrap();
        Listing::new(info, "a/b").map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_that_leaves_its_folder_is_refused() {
        for name in ["../x", "/x", "a/../x", "a//b", "./a", "a/.", "a\\b", "", "a\0b", "a/", "a\nb"]
        {
            let error = listing(&["config.json", name]).unwrap_err();
            assert!(error.contains("is refused"), "{name}: {error}");
        }
        assert!(listing(&[&"x".repeat(256)]).is_err() && listing(&["a", "a"]).is_err());
        assert!(listing(&["..a", "a..b/c", "données/é.jsonl"]).is_ok());
    }

    #[test]
    fn files_are_selected_by_name_folder_or_pattern() {
        let names =
            ["data/a.parquet", "data/b.parquet", "data/c.csv", "data/x/d.parquet", "data.csv"];
        let names: Vec<String> = names.map(String::from).to_vec();
        let selected = |file: &str| select(names.iter(), file);
        assert_eq!(selected("data.csv"), ["data.csv"]);
        assert_eq!(selected("data/*.parquet"), ["data/a.parquet", "data/b.parquet"]);
        assert_eq!(selected("data").len(), 4);
        assert_eq!(selected("dat"), Vec::<String>::new());
    }

    #[test]
    fn of_a_model_only_what_counts_is_taken() {
        let of = |names: &[&str]| {
            let values = json!({ "hub": "a/b" });
            let upstream =
                refrain_engine::source::upstream::Upstream::of(true, values.as_object().unwrap());
            let Ok(Some(refrain_engine::source::upstream::Upstream::Hub(source))) = upstream else {
                panic!("no source");
            };
            listing(names).unwrap().select(&source).map_err(|error| error.to_string())
        };
        let model = [
            "README.md",
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/m.safetensors",
        ];
        assert_eq!(of(&model).unwrap(), ["config.json", "model.safetensors"]);
        assert!(of(&["config.json", "pytorch_model.bin"]).unwrap_err().contains("pickled"));
        assert!(of(&["a.gguf", "b.gguf"]).unwrap_err().contains("2 models in GGUF"));
        assert_eq!(of(&["a.gguf", "README.md"]).unwrap(), ["a.gguf"]);
        assert!(of(&["README.md"]).unwrap_err().contains("no weights"));
        assert!(of(&["x.safetensors"]).unwrap_err().contains("no `config.json`"));
    }
}
