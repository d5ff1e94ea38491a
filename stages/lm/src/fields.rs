//! Reads the fields of a `config.json`, and refuses those that nothing has read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use refrain_cache::read_plain;

/// Largest size of any dimension; beyond it a configuration is nonsense or an attack.
pub(crate) const MAX_SIZE: u64 = 1 << 24;

/// Largest configuration or index, in bytes.
pub(crate) const MAX_BYTES: u64 = 64 << 20;

/// An error of reading a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read `{}`: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The file is not JSON.
    #[error("`{}` is not JSON: {error}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        error: serde_json::Error,
    },
    /// The architecture is not computed natively.
    #[error("model type `{family}` is not native; the native families are {native}")]
    Foreign {
        /// The architecture.
        family: String,
        /// The native ones.
        native: String,
    },
    /// A field asks for something that the native module does not compute.
    #[error("the model's configuration is not honoured: {0}")]
    Unsupported(String),
    /// A value is missing or out of range.
    #[error("the model's configuration is wrong: {0}")]
    Value(String),
}

/// Fields that describe a model without changing its logits.
const DESCRIPTIVE: [&str; 40] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "_sliding_window_pattern",
    "add_cross_attention",
    "architectures",
    "attn_implementation",
    "bad_words_ids",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "max_sequence_length",
    "model_max_length",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// Settings of generation that older versions of transformers wrote into `config.json`.
const GENERATION: [&str; 22] = [
    "begin_suppress_tokens",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "remove_invalid_values",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// The fields of a configuration; remembers which of them were read.
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// The path of the mapping within the file, such as `rope_scaling.`.
    within: &'static str,
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Fields<'a> {
    /// The fields of a whole file.
    pub fn new(json: &'a Value) -> Result<Fields<'a>, ConfigError> {
        let map =
            json.as_object().ok_or_else(|| ConfigError::Value("it is not an object".into()))?;
        Ok(Fields::of(map, ""))
    }

    fn of(map: &'a Map<String, Value>, within: &'static str) -> Fields<'a> {
        Fields { map, within, read: RefCell::default() }
    }

    /// Returns a field's value, `null` included; `None` where it is absent.
    pub fn written(&self, name: &'static str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(name);
        self.map.get(name)
    }

    /// Returns the value of a field that is present and not `null`.
    pub fn get(&self, name: &'static str) -> Option<&'a Value> {
        self.written(name).filter(|value| !value.is_null())
    }

    /// Whether a field was read.
    pub fn was_read(&self, name: &str) -> bool {
        self.read.borrow().contains(name)
    }

    /// Counts a field as read that means nothing beside the others.
    pub fn ignore(&self, name: &'static str) {
        self.written(name);
    }

    /// The fields of a mapping; `None` where it is absent, null or empty.
    pub fn object(
        &self,
        name: &'static str,
        within: &'static str,
    ) -> Result<Option<Fields<'a>>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(name, value, "a mapping"))?;
        Ok(Some(Fields::of(map, within)).filter(|_| !map.is_empty()))
    }

    /// A text.
    pub fn text(&self, name: &'static str) -> Result<Option<&'a str>, ConfigError> {
        let text =
            |value: &'a Value| value.as_str().ok_or_else(|| self.wrong(name, value, "a text"));
        self.get(name).map(text).transpose()
    }

    /// A number.
    pub fn number(&self, name: &'static str) -> Result<Option<f64>, ConfigError> {
        let number = |value: &Value| {
            let number = value.as_f64().filter(|number| number.is_finite());
            number.ok_or_else(|| self.wrong(name, value, "a number"))
        };
        self.get(name).map(number).transpose()
    }

    /// A list of numbers, which must be given.
    pub fn numbers(&self, name: &'static str) -> Result<Vec<f64>, ConfigError> {
        let missing = || ConfigError::Value(format!("`{}{name}` is missing", self.within));
        let value = self.get(name).ok_or_else(missing)?;
        let numbers: Option<Vec<f64>> = (value.as_array())
            .and_then(|items| items.iter().map(Value::as_f64).collect())
            .filter(|numbers: &Vec<f64>| numbers.iter().all(|number| number.is_finite()));
        numbers.ok_or_else(|| self.wrong(name, value, "a list of numbers"))
    }

    /// A number above zero; `default` where it is not given.
    pub fn positive(&self, name: &'static str, default: f64) -> Result<f64, ConfigError> {
        match self.number(name)? {
            Some(number) if number > 0.0 => Ok(number),
            Some(_) => Err(ConfigError::Value(format!(
                "`{}{name}` must be a positive number",
                self.within
            ))),
            None => Ok(default),
        }
    }

    /// A number above zero, or `null` for none; `default` where the field is absent.
    pub fn positive_or_null(
        &self,
        name: &'static str,
        default: f64,
    ) -> Result<Option<f64>, ConfigError> {
        match self.written(name) {
            Some(Value::Null) => Ok(None),
            _ => self.positive(name, default).map(Some),
        }
    }

    /// A flag; `default` where it is not given.
    pub fn flag(&self, name: &'static str, default: bool) -> Result<bool, ConfigError> {
        let flag =
            |value: &Value| value.as_bool().ok_or_else(|| self.wrong(name, value, "true or false"));
        self.get(name).map_or(Ok(default), flag)
    }

    /// A size, which must be given.
    pub fn size(&self, name: &'static str) -> Result<usize, ConfigError> {
        let missing = || ConfigError::Value(format!("`{}{name}` is missing", self.within));
        let value = self.get(name).ok_or_else(missing)?;
        match value.as_u64().filter(|n| (1..=MAX_SIZE).contains(n)) {
            Some(n) => Ok(n as usize),
            None => Err(self.wrong(name, value, &format!("a whole number from 1 to {MAX_SIZE}"))),
        }
    }

    /// A size; `default` where it is not given.
    pub fn size_or(&self, name: &'static str, default: usize) -> Result<usize, ConfigError> {
        if self.get(name).is_some() { self.size(name) } else { Ok(default) }
    }

    /// Refuses fields that nothing has read, unless they describe the model only or switch
    /// something off.
    pub fn finish(&self) -> Result<(), ConfigError> {
        let read = self.read.borrow();
        let unread = self.map.iter().find(|(name, value)| {
            let name = name.as_str();
            let plain = self.within.is_empty()
                && (DESCRIPTIVE.contains(&name) || GENERATION.contains(&name));
            !read.contains(name) && !plain && !is_off(value)
        });
        match unread {
            None => Ok(()),
            Some((name, value)) => Err(ConfigError::Unsupported(format!(
                "it sets `{}{}` to {}, which is not honoured; remove the field if it means nothing",
                self.within,
                name.escape_debug(),
                shortened(value)
            ))),
        }
    }

    fn wrong(&self, name: &str, value: &Value, expected: &str) -> ConfigError {
        let (within, value) = (self.within, shortened(value));
        ConfigError::Value(format!("`{within}{name}` is {value}, expected {expected}"))
    }
}

/// Whether a value switches off what its field is about.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
    }
}

/// A value as JSON, cut where it is long.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

/// Reads a file of JSON.
pub fn read_json(path: &Path) -> Result<Value, ConfigError> {
    let read = read_plain(path, MAX_BYTES);
    let bytes = read.map_err(|error| ConfigError::Io { path: path.into(), error })?;
    serde_json::from_slice(&bytes).map_err(|error| ConfigError::Json { path: path.into(), error })
}
