//! The files of a model: those of a Hugging Face folder, or the parts of a GGUF file.

use std::path::{Path, PathBuf};

use refrain_engine::source::model_folder::{ModelFolder, ModelFolderError};
use refrain_lm::weights::{WeightsError, weight_files};

/// An error of finding a model's files.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The path cannot be read.
    #[error("cannot read the model `{}`: {error}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// A folder holds several models.
    #[error("`{}` holds several GGUF files; give the path of one of them", .0.display())]
    Several(PathBuf),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// The files of a model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// Safetensors in a folder with `config.json` and `tokenizer.json`.
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The safetensors.
        weights: Vec<PathBuf>,
    },
    /// GGUF.
    Gguf {
        /// The file, or its parts in order.
        parts: Vec<PathBuf>,
        /// The folder of a `tokenizer.json` that stands in for the tokenizer in the file.
        tokenizer: Option<PathBuf>,
    },
}

impl Files {
    /// Finds the files of a model: a `.gguf` file alone, or a folder.
    ///
    /// Beside a file given alone nothing else is looked at, as nothing else is in its digest.
    pub fn find(path: &Path) -> Result<Files, FilesError> {
        if path.is_file() {
            return Ok(Files::Gguf { parts: vec![path.to_owned()], tokenizer: None });
        }
        let model = ModelFolder::open(path)
            .map_err(|ModelFolderError { path, error }| FilesError::Io { path, error })?;
        let gguf: Vec<PathBuf> = model.gguf().map(Path::to_owned).collect();
        if gguf.is_empty() {
            return Ok(Files::Folder { folder: path.to_owned(), weights: weight_files(path)? });
        }
        let names: Vec<Option<&str>> = gguf.iter().map(|file| part_of(file)).collect();
        if gguf.len() > 1 && (names[0].is_none() || names.iter().any(|name| *name != names[0])) {
            return Err(FilesError::Several(path.to_owned()));
        }
        let tokenizer = path.join("tokenizer.json").is_file().then(|| path.to_owned());
        Ok(Files::Gguf { parts: gguf, tokenizer })
    }
}

/// Returns the common name of the parts of one file: `NAME` of `NAME-00001-of-00003.gguf`.
fn part_of(file: &Path) -> Option<&str> {
    let (name, all) = file.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (name, part) = name.rsplit_once('-')?;
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (number(part) && number(all)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_one_file_belong_together_and_others_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(name), "").unwrap();
        write("m-00002-of-00002.gguf");
        write("m-00001-of-00002.gguf");
        let parts =
            ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"].map(|name| folder.path().join(name));
        let found = Files::find(folder.path()).unwrap();
        assert_eq!(found, Files::Gguf { parts: parts.into(), tokenizer: None });
        write("q4.gguf");
        let error = Files::find(folder.path()).unwrap_err().to_string();
        assert!(error.contains("several GGUF files"), "{error}");
    }
}
