//! Byte-level BPE tokenizers trained on given texts, as files of a model folder.

use std::collections::HashSet;

use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::{AddedToken, Tokenizer as Inner};
use tokenizers::{ModelWrapper, models::TrainerWrapper};

use crate::save::json_file;

/// The first special tokens of every trained tokenizer, ids from 0. `<|bos|>` is put before a text;
/// `<|eos|>` ends a text or a turn.
pub const SPECIAL_TOKENS: [&str; 6] =
    ["<|bos|>", "<|eos|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"];

/// The chat template of a trained tokenizer where none is given.
pub const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}\n\
    {{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}";

/// Settings of a new tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerSettings {
    /// The number of tokens: [`SPECIAL_TOKENS`], `special_tokens`, 256 bytes, merges. Texts with
    /// little variety give fewer merges.
    pub vocab_size: usize,
    /// More special tokens, such as those that `chat_template` writes.
    pub special_tokens: Vec<String>,
    /// The chat template; [`CHAT_TEMPLATE`] where none is given.
    pub chat_template: Option<String>,
}

/// The files of a trained tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// The bytes of `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// The bytes of `tokenizer_config.json`.
    pub config: Vec<u8>,
}

/// An error of training a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerTrainingError {
    /// The vocabulary has no room for the bytes and the special tokens.
    #[error("`vocab_size` is {given}, but 256 bytes and {special} special tokens need at least {}", 256 + special)]
    TooSmall {
        /// The size given.
        given: usize,
        /// The number of special tokens.
        special: usize,
    },
    /// A special token is empty.
    #[error("a special token is empty; give each at least one character")]
    EmptySpecial,
    /// The trainer fails.
    #[error("cannot train the tokenizer: {0}")]
    Failed(String),
}

/// Trains a tokenizer. The order of the texts, the number of threads and the run do not change the
/// bytes.
///
/// # Errors
/// A vocabulary that is too small, an empty special token.
pub fn train_tokenizer<T: AsRef<str> + Send>(
    texts: impl Iterator<Item = T> + Send,
    settings: &TokenizerSettings,
) -> Result<TokenizerFiles, TokenizerTrainingError> {
    let special = special_tokens(settings)?;
    let mut trainer = TrainerWrapper::BpeTrainer(
        BpeTrainerBuilder::new()
            .show_progress(false)
            .vocab_size(settings.vocab_size)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
            .special_tokens(
                special.iter().map(|token| AddedToken::from(token.as_str(), true)).collect(),
            )
            .build(),
    );
    let failed = |error: &dyn std::fmt::Display| TokenizerTrainingError::Failed(error.to_string());
    let mut tokenizer = Inner::new(ModelWrapper::BPE(BPE::default()));
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.train(&mut trainer, texts).map_err(|error| failed(&error))?;
    let bos = TemplateProcessing::builder()
        .try_single("<|bos|> $A")
        .map_err(|error| failed(&error))?
        .special_tokens(vec![("<|bos|>", 0)])
        .build()
        .map_err(|error| failed(&error))?;
    tokenizer.with_post_processor(Some(bos));
    let json = tokenizer.to_string(true).map_err(|error| failed(&error))?;
    Ok(TokenizerFiles {
        tokenizer: format!("{json}\n").into_bytes(),
        config: config_file(settings),
    })
}

/// All special tokens in the order of their ids, each once.
fn special_tokens(settings: &TokenizerSettings) -> Result<Vec<String>, TokenizerTrainingError> {
    let mut special: Vec<String> = SPECIAL_TOKENS.iter().map(|&token| token.to_owned()).collect();
    for token in &settings.special_tokens {
        if token.is_empty() {
            return Err(TokenizerTrainingError::EmptySpecial);
        }
        if !special.contains(token) {
            special.push(token.clone());
        }
    }
    if settings.vocab_size < 256 + special.len() {
        return Err(TokenizerTrainingError::TooSmall {
            given: settings.vocab_size,
            special: special.len(),
        });
    }
    Ok(special)
}

fn config_file(settings: &TokenizerSettings) -> Vec<u8> {
    json_file(&json!({
        "bos_token": SPECIAL_TOKENS[0],
        "chat_template": settings.chat_template.as_deref().unwrap_or(CHAT_TEMPLATE),
        "clean_up_tokenization_spaces": false,
        "eos_token": SPECIAL_TOKENS[1],
        "pad_token": SPECIAL_TOKENS[2],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }))
}
