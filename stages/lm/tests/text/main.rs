//! The text side of the crate (sampling, tokenizers, chat templates, rendering, adapters) against
//! Hugging Face.

// Clippy allows these in test functions, not in the helpers that they share.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr)]

mod adapter;
mod card;
mod chat;
mod embed;
mod gguf;
mod render;
mod sampling;
mod tokenizer;
mod training;

use std::path::PathBuf;

/// The folders of tiny models with references, or none (said on stderr) where the reference data is
/// absent.
fn parity_folders() -> Vec<PathBuf> {
    let root = shared("parity");
    ["llama", "llama3-rope-tied", "mistral", "gemma2", "qwen2"]
        .iter()
        .map(|name| root.join(name))
        .filter(|folder| {
            let present = folder.is_dir();
            if !present {
                eprintln!("not tested: `{}` is absent", folder.display());
            }
            present
        })
        .collect()
}

/// A folder or file of the reference data that lies beside the repository.
fn shared(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).join(path)
}

fn read_json(path: &std::path::Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}
