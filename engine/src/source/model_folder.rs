//! The model folder: which of its files determine what the model computes, and their digest.

use std::path::{Path, PathBuf};

use refrain_cache::{Digest, FileDigests, digest_listing};

/// Why the files of a source could not be hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The system refused.
    #[error("cannot read `{}`: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A model folder holds weights in a format that runs code when it is read.
    #[error("`{}` is a pickle, which runs code when it is read", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
    },
}

/// The digest and size of what counts in a model folder, or of a GGUF file.
///
/// # Errors
/// [`HashError::Pickle`] where the only weights are pickles; those of reading the files.
pub fn hash_model(folder: &Path, digests: &FileDigests) -> Result<(Digest, u64), HashError> {
    let io = |error| HashError::Io { path: folder.into(), error };
    if folder.is_file() {
        return digests.get(folder).map_err(io);
    }
    let mut listing = Vec::new();
    let mut bytes = 0;
    let mut weights = false;
    let mut pickle = None;
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        if name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth") {
            pickle = Some(path.clone());
        }
        // The one file in a subfolder that counts: how an embedding model pools.
        let (name, path) = match name.ends_with("_Pooling") {
            true => (format!("{name}/config.json"), path.join("config.json")),
            false => (name.to_string(), path),
        };
        if counts(&name) && path.is_file() {
            weights |= name.ends_with(".safetensors") || name.ends_with(".gguf");
            let (digest, size) =
                digests.get(&path).map_err(|error| HashError::Io { path: path.clone(), error })?;
            listing.push((name, digest));
            bytes += size;
        }
    }
    match pickle {
        Some(path) if !weights => Err(HashError::Pickle { path }),
        _ => Ok((digest_listing(&listing), bytes)),
    }
}

/// The GGUF files of a model folder, sorted by name.
///
/// # Errors
/// Those of reading the folder.
pub fn gguf_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let paths: std::io::Result<Vec<PathBuf>> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    paths.retain(|path| is_gguf(path));
    paths.sort();
    Ok(paths)
}

/// Whether a path names a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf") && path.is_file()
}

/// Whether a file of a model folder determines what the model computes.
pub fn counts(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
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
    NAMES.contains(&name)
        || name.ends_with(".safetensors")
        || name.ends_with(".gguf")
        || name.starts_with("adapter_") && name.ends_with(".json")
        || name.ends_with("_Pooling/config.json")
}
