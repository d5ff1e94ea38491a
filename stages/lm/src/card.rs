//! Summarises a model folder: shape, size and tokenizer, without loading the weights.

use std::path::Path;

use serde_json::Value;

use refrain_cache::read_plain;

use crate::adapter::{Adapter, AdapterConfig, AdapterError};
use crate::config::{ConfigError, ModelConfig};
use crate::tokenizer::{MAX_BYTES, Tokenizer, TokenizerError};
use crate::weights::{Contents, Weights, WeightsError};

/// The facts of a model folder, or of an adapter's.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// The family as `config.json` spells it; `None` for an adapter, which is none without its
    /// base.
    pub family: Option<String>,
    /// The shape; `None` for an adapter and for a family that the native module does not compute.
    pub config: Option<ModelConfig>,
    /// Number and types of the stored values.
    pub weights: Contents,
    /// The tokenizer, where the folder has one.
    pub tokenizer: Option<TokenizerFacts>,
    /// The settings of an adapter; `None` for a whole model.
    pub adapter: Option<AdapterConfig>,
}

/// The facts of a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFacts {
    /// The algorithm as `tokenizer.json` names it, such as `BPE`.
    pub kind: String,
    /// One more than the largest token id.
    pub size: usize,
    /// Whether there is a chat template.
    pub chat_template: bool,
}

/// An error of summarising a folder.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
}

impl Card {
    /// Reads a folder: `adapter_config.json` makes it an adapter's where there is no `config.json`.
    ///
    /// # Errors
    /// A file that is absent or broken. A family that is not native is none.
    pub fn read(folder: &Path) -> Result<Card, CardError> {
        if folder.join("adapter_config.json").is_file() && !folder.join("config.json").is_file() {
            let adapter = Some(Adapter::load(folder)?.config);
            let weights = Weights::open_file(&folder.join("adapter_model.safetensors"))?.contents();
            return Ok(Card { family: None, config: None, weights, tokenizer: None, adapter });
        }
        let (family, config) = match ModelConfig::load(folder) {
            Ok(config) => (config.family.to_owned(), Some(config)),
            Err(ConfigError::Foreign { family, .. }) => (family, None),
            Err(error) => return Err(error.into()),
        };
        let weights = Weights::open(folder)?.contents();
        let tokenizer = tokenizer(folder)?;
        Ok(Card { family: Some(family), config, weights, tokenizer, adapter: None })
    }
}

fn tokenizer(folder: &Path) -> Result<Option<TokenizerFacts>, TokenizerError> {
    let path = folder.join("tokenizer.json");
    if !path.is_file() {
        return Ok(None);
    }
    let tokenizer = Tokenizer::load(folder)?;
    let bytes = read_plain(&path, MAX_BYTES)
        .map_err(|source| TokenizerError::Read { path: path.clone(), source })?;
    let json: Value = serde_json::from_slice(&bytes).map_err(|error| TokenizerError::Invalid {
        path,
        what: "tokenizer",
        detail: error.to_string(),
    })?;
    let kind = json["model"]["type"].as_str().unwrap_or("of an unnamed type").to_owned();
    let chat_template = tokenizer.chat_template().is_some();
    Ok(Some(TokenizerFacts { kind, size: tokenizer.vocab_size(), chat_template }))
}
