//! Pooling of hidden states into a vector, by the files that sentence-transformers writes beside a
//! model.

use std::path::Path;

use serde_json::Value;

use crate::fields::{ConfigError, read_json};

use super::EmbedError;

/// Choice of the hidden states that become the vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooling {
    /// The first token's.
    First,
    /// The mean over all tokens.
    Mean,
}

/// Steps after the network.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    pub pooling: Pooling,
    /// Whether vectors are scaled to unit length.
    pub normalize: bool,
    /// Longest text, in tokens.
    pub max_tokens: Option<usize>,
}

impl Recipe {
    /// Reads `modules.json`, the configuration of its pooling, and `sentence_bert_config.json`,
    /// where they are.
    pub(super) fn load(folder: &Path) -> Result<Recipe, EmbedError> {
        let mut recipe = Recipe { pooling: Pooling::Mean, normalize: true, max_tokens: None };
        if let Some(settings) = optional(&folder.join("sentence_bert_config.json"))? {
            let most = settings.get("max_seq_length").and_then(Value::as_u64);
            recipe.max_tokens =
                most.and_then(|most| usize::try_from(most).ok()).filter(|most| *most > 0);
        }
        let path = folder.join("modules.json");
        let Some(modules) = optional(&path)? else { return Ok(recipe) };
        recipe.normalize = false;
        for module in modules.as_array().into_iter().flatten() {
            let text = |name: &str| module.get(name).and_then(Value::as_str).unwrap_or_default();
            match text("type").rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Pooling" => recipe.pooling = pooling(folder, text("path"))?,
                "Normalize" => recipe.normalize = true,
                other => {
                    return Err(EmbedError::Recipe {
                        path,
                        what: format!("the module `{other}`"),
                        known: "the native modules are Transformer, Pooling and Normalize",
                    });
                }
            }
        }
        Ok(recipe)
    }
}

fn pooling(folder: &Path, name: &str) -> Result<Pooling, EmbedError> {
    let wrong = |path: &Path, what: String| EmbedError::Recipe {
        path: path.to_owned(),
        what,
        known: "the native poolings are `cls_token` and `mean_tokens`, one of them",
    };
    // A name from a stranger's file must not lead out of the folder, and only folders of this name
    // are part of a model's digest.
    if Path::new(name).components().count() != 1 || !name.ends_with("_Pooling") {
        return Err(wrong(&folder.join("modules.json"), format!("a pooling at `{name}`")));
    }
    let path = folder.join(name).join("config.json");
    let settings = read_json(&path)?;
    let modes: Vec<&str> = settings
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| **value == Value::Bool(true))
        .filter_map(|(key, _)| key.strip_prefix("pooling_mode_"))
        .collect();
    match modes.as_slice() {
        ["cls_token"] => Ok(Pooling::First),
        ["mean_tokens"] => Ok(Pooling::Mean),
        others => Err(wrong(&path, format!("the pooling `{}`", others.join(", ")))),
    }
}

fn optional(path: &Path) -> Result<Option<Value>, ConfigError> {
    if path.exists() { read_json(path).map(Some) } else { Ok(None) }
}
