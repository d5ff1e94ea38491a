//! Model folders: which files of one determine what the model computes, and what they make of it.
//!
//! Everything that hashes, copies, stores or shows a model folder asks a [`ModelFolder`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use refrain_cache::write::{copy_file, create_dir_all};

/// Files that count by their whole name.
const NAMES: [&str; 15] = [
    "config.json",
    "generation_config.json",
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    "sentence_bert_config.json",
];
/// Of those, the files that tokenizing and rendering read.
const TOKENIZER: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];
/// The file that says in which shard a tensor is.
const INDEX: &str = "model.safetensors.index.json";
/// Endings of the names of folders whose `config.json` says how an embedding model pools.
const POOLING: &str = "_Pooling";
/// Endings of the names of pickled weights.
const PICKLES: [&str; 3] = [".bin", ".pt", ".pth"];

/// The files of a model folder that determine what the model computes, or one GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    root: PathBuf,
    /// Sorted by name.
    files: Vec<ModelFile>,
    /// The subfolders that hold files that count.
    folders: Vec<PathBuf>,
    pickle: Option<PathBuf>,
}

/// A file of a model folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// Its path relative to the folder, with `/` between names.
    pub name: String,
    /// Its place; it may be a link.
    pub path: PathBuf,
    /// Whether it is a file, or a link to one; a name that counts may also be a folder or a broken
    /// link.
    is_file: bool,
}

/// An error of reading a model folder.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{}`: {error}", path.display())]
pub struct ModelFolderError {
    /// The file or folder.
    pub path: PathBuf,
    /// The error of the system.
    pub error: io::Error,
}

/// An error of copying a model folder.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The system refused.
    #[error("cannot copy `{}` to `{}`: {error}", from.display(), to.display())]
    Io {
        /// The file.
        from: PathBuf,
        /// Its copy.
        to: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// A file that counts is a link, a folder or a device.
    #[error("`{name}` is not a regular file")]
    NotRegular {
        /// Its name.
        name: String,
    },
}

impl ModelFolder {
    /// Lists the files that count of a folder, or a GGUF file alone.
    ///
    /// # Errors
    /// [`ModelFolderError`] where the folder cannot be listed.
    pub fn open(path: &Path) -> Result<ModelFolder, ModelFolderError> {
        let mut model =
            ModelFolder { root: path.into(), files: Vec::new(), folders: Vec::new(), pickle: None };
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            model.files.push(ModelFile { name, path: path.into(), is_file: true });
            return Ok(model);
        }

        let unreadable = |error| ModelFolderError { path: path.into(), error };
        for entry in fs::read_dir(path).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                model.add(name.to_owned(), path);
            }
        }
        model.files.sort_by(|a, b| a.name.cmp(&b.name));
        model.folders.sort();
        Ok(model)
    }

    /// Opens the tokenizer of a model folder: of its files only those that tokenizing reads.
    ///
    /// # Errors
    /// [`ModelFolderError`].
    pub fn open_tokenizer(path: &Path) -> Result<ModelFolder, ModelFolderError> {
        let mut model = ModelFolder::open(path)?;
        model.files.retain(|file| TOKENIZER.contains(&file.name.as_str()));
        model.folders.clear();
        model.pickle = None;
        Ok(model)
    }

    fn add(&mut self, name: String, path: PathBuf) {
        if is_pickle(&name) {
            self.pickle = Some(path);
            return;
        }
        let (name, path) = match name.ends_with(POOLING) && path.is_dir() {
            true => {
                let config = path.join("config.json");
                self.folders.push(path);
                (format!("{name}/config.json"), config)
            }
            false if counts(&name) => (name, path),
            false => return,
        };
        if path.symlink_metadata().is_ok() {
            let is_file = path.is_file();
            self.files.push(ModelFile { name, path, is_file });
        }
    }

    /// The files that count, sorted by name.
    pub fn files(&self) -> impl Iterator<Item = &ModelFile> {
        self.files.iter().filter(|file| file.is_file)
    }

    /// The folders whose change can change which files count.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        let folders = self.folders.iter().map(PathBuf::as_path);
        [self.root.as_path()].into_iter().chain(folders)
    }

    /// The GGUF files, sorted by name.
    pub fn gguf(&self) -> impl Iterator<Item = &Path> {
        self.files().filter(|file| file.is_gguf()).map(|file| file.path.as_path())
    }

    /// Whether there is a file of that name that counts.
    pub fn has(&self, name: &str) -> bool {
        self.files().any(|file| file.name == name && file.path != self.root)
    }

    /// Whether there are weights that are read: safetensors or GGUF.
    pub fn has_weights(&self) -> bool {
        self.files().any(|file| file.is_gguf() || file.name.ends_with(".safetensors"))
    }

    /// Whether this is an adapter, which is a model only together with its base.
    pub fn is_adapter(&self) -> bool {
        self.has("adapter_config.json") && !self.has("config.json")
    }

    /// Whether this is a model: GGUF, or a folder with the configuration of a model or an adapter.
    pub fn is_model(&self) -> bool {
        self.has("config.json") || self.is_adapter() || self.gguf().next().is_some()
    }

    /// The pickled weights of a folder that has no others: reading them would run code.
    pub fn only_pickle(&self) -> Option<&Path> {
        self.pickle.as_deref().filter(|_| !self.has_weights())
    }

    /// Copies the files that count into a folder, links followed.
    ///
    /// # Errors
    /// [`CopyError::Io`].
    pub fn copy_to(&self, folder: &Path) -> Result<(), CopyError> {
        self.files().try_for_each(|file| file.copy_to(folder))
    }

    /// Copies the files that count into a folder, where all of them are regular files.
    ///
    /// # Errors
    /// [`CopyError::NotRegular`] for a link, and [`CopyError::Io`].
    pub fn copy_regular_to(&self, folder: &Path) -> Result<(), CopyError> {
        for file in &self.files {
            if !file.is_regular(&self.root) {
                return Err(CopyError::NotRegular { name: file.name.clone() });
            }
            file.copy_to(folder)?;
        }
        Ok(())
    }
}

impl ModelFile {
    fn is_gguf(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "gguf")
    }

    /// Whether neither the file nor a folder between it and `root` is a link.
    fn is_regular(&self, root: &Path) -> bool {
        let is_link = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_symlink());
        let mut above = self.path.ancestors().take_while(|path| *path != root);
        self.is_file && !above.any(is_link)
    }

    fn copy_to(&self, folder: &Path) -> Result<(), CopyError> {
        let to = folder.join(&self.name);
        let copied = match to.parent() {
            Some(parent) if parent != folder => create_dir_all(parent),
            _ => Ok(()),
        };
        copied.and_then(|()| copy_file(&self.path, &to)).map(drop).map_err(|error| CopyError::Io {
            from: self.path.clone(),
            to,
            error,
        })
    }
}

/// Whether a file of a repository, by its path there, determines what the model in it computes.
pub fn counts_at(path: &str) -> bool {
    match path.split_once('/') {
        None => counts(path),
        Some((folder, name)) => folder.ends_with(POOLING) && name == "config.json",
    }
}

/// Whether a file has the name of pickled weights.
pub fn is_pickle(path: &str) -> bool {
    PICKLES.iter().any(|end| path.ends_with(end))
}

/// Whether a file directly in a model folder determines what the model computes.
fn counts(name: &str) -> bool {
    NAMES.contains(&name)
        || name.ends_with(".safetensors")
        || name.ends_with(".gguf")
        || name.starts_with("adapter_") && name.ends_with(".json")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        folder
    }

    fn names(path: &Path) -> Vec<String> {
        ModelFolder::open(path).unwrap().files().map(|file| file.name.clone()).collect()
    }

    #[test]
    fn what_determines_results_counts_and_nothing_else() {
        let folder = folder(&[
            "config.json",
            "model.safetensors",
            "README.md",
            "training_args.bin",
            "adapter_config.json",
            "1_Pooling/config.json",
            "1_Pooling/notes.txt",
            "2_Dense/config.json",
        ]);
        symlink("config.json", folder.path().join("tokenizer.json")).unwrap();
        symlink("nowhere", folder.path().join("vocab.json")).unwrap();
        let expected = [
            "1_Pooling/config.json",
            "adapter_config.json",
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        ];
        assert_eq!(names(folder.path()), expected);
        assert!(expected.iter().all(|name| counts_at(name)));
        let others =
            ["README.md", "x/config.json", "1_Pooling/notes.txt", "1_Pooling/a/config.json"];
        assert!(!others.iter().any(|name| counts_at(name)) && is_pickle("training_args.bin"));
        let model = ModelFolder::open(folder.path()).unwrap();
        assert!(model.is_model() && !model.is_adapter() && model.only_pickle().is_none());
        assert!(model.folders().any(|path| path.ends_with("1_Pooling")));
    }

    #[test]
    fn a_copy_counts_as_the_same_files() {
        let from = folder(&["config.json", "m.gguf", "1_Pooling/config.json", "notes"]);
        let to = tempfile::tempdir().unwrap();
        ModelFolder::open(from.path()).unwrap().copy_to(to.path()).unwrap();
        assert_eq!(names(to.path()), names(from.path()));
        assert!(!to.path().join("notes").exists());
    }

    #[test]
    fn a_link_is_not_stored_wherever_it_is() {
        let elsewhere = folder(&["config.json"]);
        for link in ["1_Pooling", "tokenizer.json"] {
            let from = folder(&["config.json"]);
            symlink(elsewhere.path(), from.path().join(link)).unwrap();
            let to = tempfile::tempdir().unwrap();
            let model = ModelFolder::open(from.path()).unwrap();
            let error = model.copy_regular_to(to.path()).unwrap_err().to_string();
            assert!(error.ends_with("is not a regular file"), "{error}");
        }
    }
}
