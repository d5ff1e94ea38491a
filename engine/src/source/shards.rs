//! Finds the files of a table source: one file, the shards of a folder or a glob, or a folder that
//! Hugging Face `datasets` saved.

use std::io;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use serde::Deserialize;

use refrain_cache::read_plain;

use super::format::Format;
use super::walk::{MAX_DEPTH, Walk};

/// Limit in bytes on the JSON files that describe a saved data set.
const MAX_JSON: u64 = 64 << 20;

/// The files that say how the shards of a saved data set belong together.
const STATE: &str = "state.json";
const SPLITS: &str = "dataset_dict.json";
/// JSON files of the hub and of `datasets` that hold no rows.
const ABOUT: [&str; 5] = [STATE, SPLITS, "dataset_info.json", "dataset_infos.json", "README.json"];

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// The files of a table source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shards {
    /// The files with rows, in their order.
    pub files: Vec<PathBuf>,
    /// Every file that determines the rows, with its name as it enters the digest.
    pub counted: Vec<(String, PathBuf)>,
    /// The folders whose change can change which files count.
    pub folders: Vec<PathBuf>,
    /// Whether the source is one file, whose digest is its own.
    pub is_file: bool,
    /// Whether `datasets` saved the folder.
    pub is_saved: bool,
}

/// Why the files of a source cannot be found.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ShardsError {
    /// The option at fault.
    pub option: &'static str,
    /// The fault.
    pub message: String,
    /// The remedy.
    pub hint: Option<String>,
}

pub(super) fn wrong(option: &'static str, message: impl Into<String>) -> ShardsError {
    ShardsError { option, message: message.into(), hint: None }
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> ShardsError {
    wrong("path", format!("cannot read `{}`: {error}", path.display()))
}

/// Whether a path that is not there itself is a pattern for files.
pub fn is_glob(path: &Path) -> bool {
    let is_pattern = |text: &str| text.contains(['*', '?', '[']) && Pattern::new(text).is_ok();
    path.to_str().is_some_and(is_pattern) && !path.exists()
}

/// Whether a source is there: its file or folder, or some file that matches.
pub fn exists(path: &Path) -> bool {
    path.exists() || is_glob(path) && Shards::find(path, None).is_ok()
}

/// The first characters of the names of files and folders that hold no rows.
const HIDDEN: &[char] = &['.', '_'];

impl Shards {
    fn of(walk: Walk) -> Shards {
        Shards {
            files: walk.files.iter().map(|(_, path)| path.clone()).collect(),
            counted: walk.files,
            folders: walk.folders,
            is_file: false,
            is_saved: false,
        }
    }

    /// Finds the files at a path.
    ///
    /// # Errors
    /// [`ShardsError`] where there are none, a split does not exist, or a folder cannot be read.
    pub fn find(path: &Path, split: Option<&str>) -> Result<Shards, ShardsError> {
        let not_saved = || match split {
            None => Ok(()),
            Some(split) => Err(ShardsError {
                hint: Some(
                    "name the split's files by a glob instead: `path: data/train-*.parquet`".into(),
                ),
                ..wrong(
                    "split",
                    format!(
                        "`{}` has no split `{split}`: it is not a folder that `datasets` saved",
                        path.display()
                    ),
                )
            }),
        };
        if path.is_dir() {
            if path.join(STATE).is_file() {
                not_saved()?;
                return saved(path, path);
            }
            if path.join(SPLITS).is_file() {
                return saved(path, &split_folder(path, split)?);
            }
            not_saved()?;
            return folder(path);
        }
        not_saved()?;
        if is_glob(path) {
            return matching(path);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Shards {
            files: vec![path.into()],
            counted: vec![(name, path.into())],
            folders: Vec::new(),
            is_file: true,
            is_saved: false,
        })
    }
}

#[derive(Deserialize)]
struct Splits {
    splits: Vec<String>,
}

#[derive(Deserialize)]
struct State {
    #[serde(rename = "_data_files")]
    data_files: Vec<DataFile>,
    /// Rows in another order than the files', which no shard tells.
    #[serde(rename = "_indices_data_files", default)]
    indices: Option<Vec<DataFile>>,
}

#[derive(Deserialize)]
struct DataFile {
    filename: String,
}

fn parsed<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, ShardsError> {
    let bytes = read_plain(path, MAX_JSON).map_err(|error| unreadable(path, &error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| wrong("path", format!("`{}` cannot be read: {error}", path.display())))
}

/// A name of another program's file as the name of an entry of a folder.
fn entry(name: &str) -> Option<&str> {
    let plain =
        !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != "..";
    plain.then_some(name)
}

/// The folder of a split of a saved data set.
fn split_folder(path: &Path, split: Option<&str>) -> Result<PathBuf, ShardsError> {
    let Splits { splits } = parsed(&path.join(SPLITS))?;
    let named = splits.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let only = match splits.as_slice() {
        [only] => Some(only.as_str()),
        _ => None,
    };
    let Some(split) = split.or(only) else {
        return Err(ShardsError {
            hint: Some(format!("add `split: {}`", splits.first().map_or("NAME", String::as_str))),
            ..wrong("path", format!("`{}` has the splits {named}", path.display()))
        });
    };
    if !splits.iter().any(|name| name == split) || entry(split).is_none() {
        return Err(ShardsError {
            hint: Some(format!("its splits are {named}")),
            ..wrong("split", format!("`{}` has no split `{split}`", path.display()))
        });
    }
    Ok(path.join(split))
}

/// The files of a data set, or of one split of it, in the order that its state says.
fn saved(root: &Path, folder: &Path) -> Result<Shards, ShardsError> {
    let state = folder.join(STATE);
    let State { data_files, indices } = parsed(&state)?;
    if indices.is_some_and(|files| !files.is_empty()) {
        return Err(ShardsError {
            hint: Some("save it again by `dataset.flatten_indices().save_to_disk(…)`".into()),
            ..wrong("path", format!("`{}` has its rows in an order of their own", folder.display()))
        });
    }
    let below = folder.strip_prefix(root).unwrap_or(Path::new(""));
    let named = |name: &str| below.join(name).to_string_lossy().into_owned();
    let mut shards = Shards {
        files: Vec::new(),
        counted: vec![(named(STATE), state.clone())],
        folders: vec![folder.into()],
        is_file: false,
        is_saved: true,
    };
    for DataFile { filename } in data_files {
        let Some(name) = entry(&filename) else {
            let message =
                format!("`{}` names `{filename}`, which is not in its folder", state.display());
            return Err(wrong("path", message));
        };
        let path = folder.join(name);
        shards.counted.push((named(name), path.clone()));
        shards.files.push(path);
    }
    if shards.files.is_empty() {
        return Err(wrong("path", format!("`{}` names no files with rows", state.display())));
    }
    Ok(shards)
}

/// The files of a folder whose names tell a format, sorted by path.
fn folder(root: &Path) -> Result<Shards, ShardsError> {
    let mut walk = Walk::of(root, MAX_DEPTH, HIDDEN)?;
    walk.check_depth(root)?;
    let about = |name: &str| ABOUT.iter().any(|about| name.rsplit('/').next() == Some(*about));
    walk.files.retain(|(name, path)| !about(name) && Format::of_name(path).is_some());
    let shards = Shards::of(walk);
    let Some(first) = shards.files.first() else {
        return Err(ShardsError {
            hint: Some(
                "it needs files named `*.jsonl`, `*.json`, `*.csv`, `*.tsv`, `*.parquet` or `*.arrow`"
                    .into(),
            ),
            ..wrong("path", format!("the folder `{}` holds no files of rows", root.display()))
        });
    };
    let format = Format::of_name(first);
    if let Some(other) = shards.files.iter().find(|path| Format::of_name(path) != format) {
        return Err(ShardsError {
            hint: Some("name the files that you mean by a glob: `path: data/*.jsonl`".into()),
            ..wrong(
                "path",
                format!(
                    "the folder holds files of two formats: `{}` and `{}`",
                    first.display(),
                    other.display()
                ),
            )
        });
    }
    Ok(shards)
}

/// The files that match a pattern, sorted by path.
fn matching(pattern: &Path) -> Result<Shards, ShardsError> {
    // Below the folders before the first part that is a pattern.
    let is_plain = |part: &std::path::Component<'_>| {
        !part.as_os_str().to_string_lossy().contains(['*', '?', '['])
    };
    let root: PathBuf = pattern.components().take_while(is_plain).collect();
    let rest: PathBuf = pattern.components().skip_while(is_plain).collect();
    let root = if root.as_os_str().is_empty() { PathBuf::from(".") } else { root };
    let rest = rest.to_string_lossy().into_owned();
    let parsed = Pattern::new(&rest).map_err(|error| {
        wrong("path", format!("`{}` is not a pattern: {}", pattern.display(), error.msg))
    })?;
    let depth = if rest.contains("**") { MAX_DEPTH } else { rest.matches('/').count() + 1 };

    let mut walk = match root.is_dir() {
        true => Walk::of(&root, depth, HIDDEN)?,
        false => Walk::default(),
    };
    if rest.contains("**") {
        walk.check_depth(&root)?;
    }
    walk.files.retain(|(name, _)| parsed.matches_with(name, OPTIONS));
    if walk.files.is_empty() {
        return Err(ShardsError {
            hint: Some("paths are relative to the workflow's own folder".into()),
            ..wrong("path", format!("no file matches `{}`", pattern.display()))
        });
    }
    Ok(Shards::of(walk))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn place(files: &[(&str, &str)]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        place
    }

    fn names(root: &Path, path: &str) -> Result<Vec<String>, String> {
        let shards = Shards::find(&root.join(path), None).map_err(|error| error.message)?;
        Ok(shards.counted.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn shards_are_sorted_by_path_and_nothing_else_counts() {
        let place = place(&[
            ("d/b.jsonl", ""),
            ("d/a.jsonl.gz", ""),
            ("d/c/a.jsonl", ""),
            ("d/README.md", ""),
            ("d/.hidden.jsonl", ""),
            ("d/_temp/x.jsonl", ""),
            ("d/dataset_info.json", ""),
        ]);
        let names = |path| names(place.path(), path);
        assert_eq!(names("d").unwrap(), ["a.jsonl.gz", "b.jsonl", "c/a.jsonl"]);
        assert_eq!(names("d/*.jsonl").unwrap(), ["b.jsonl"]);
        assert_eq!(names("d/**/*.jsonl").unwrap(), ["b.jsonl", "c/a.jsonl"]);
        assert_eq!(names("d/?/[ab].jsonl").unwrap(), ["c/a.jsonl"]);
        assert_eq!(names("*/b.jsonl").unwrap(), ["d/b.jsonl"]);
        assert!(names("d/*.csv").unwrap_err().contains("no file matches"));
        assert!(exists(&place.path().join("d/*.jsonl")) && !exists(&place.path().join("*.csv")));
        fs::write(place.path().join("d/x.csv"), "").unwrap();
        assert!(names("d").unwrap_err().contains("two formats"));
    }

    #[test]
    fn a_saved_data_set_names_its_shards() {
        let state = |names: &[&str]| {
            let files: Vec<_> =
                names.iter().map(|name| serde_json::json!({ "filename": name })).collect();
            serde_json::json!({ "_data_files": files, "_split": null }).to_string()
        };
        let place = place(&[
            ("s/dataset_dict.json", r#"{"splits": ["train", "test"]}"#),
            ("s/train/state.json", &state(&["b.arrow", "a.arrow"])),
            ("s/test/state.json", &state(&["../b.arrow"])),
        ]);
        let find = |split| Shards::find(&place.path().join("s"), split);
        let train = find(Some("train")).unwrap();
        assert!(train.is_saved && train.files[0].ends_with("train/b.arrow"), "{train:?}");
        assert_eq!(train.counted[0].0, "train/state.json");
        let error = find(None).unwrap_err();
        assert!(error.message.contains("has the splits `train`, `test`"), "{error}");
        assert_eq!(error.hint.as_deref(), Some("add `split: train`"));
        assert_eq!(find(Some("dev")).unwrap_err().option, "split");
        let error = find(Some("test")).unwrap_err();
        assert!(error.message.contains("`../b.arrow`, which is not in its folder"), "{error}");
    }
}
